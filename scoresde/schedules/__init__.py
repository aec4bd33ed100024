"""Time grids and noise levels that are found for a model or a data set.

- :func:`optimal_grids`: the grids with the smallest sum of any costs of steps, by dynamic programming.
- :func:`bound_costs`, :func:`decoder_costs`: the terms of the variational bound, from the errors of a model
  (:func:`~scoresde.score.denoising_errors`).
- :func:`analytic_costs`, :func:`analytic_grids`: the cost and the grids of Analytic-DPM.
- :class:`ChainBound`: the variational bound of a model by a chain that is fitted to it.
- :func:`fit_step_network`, :func:`network_grid`: a network that chooses steps (BDDM), and its grid.
- :class:`BDDM`: a sampler for configs that trains this network.
- :func:`level_ratio`, :func:`noise_levels`, :func:`langevin_step_size`: the techniques of NCSNv2.

A grid is a tensor of descending times, which every sampler takes as its ``steps``. ``scoresde.samplers.grids`` has the grids
that need no model.
"""

from scoresde._arguments import check_constructors
from scoresde.schedules.bddm import BDDM
from scoresde.schedules.chain_bound import ChainBound, FittedBound
from scoresde.schedules.costs import analytic_costs, analytic_grids, bound_costs, decoder_costs
from scoresde.schedules.dynamic_programming import OptimalGrids, grid_cost, optimal_grids
from scoresde.schedules.levels import langevin_step_size, level_ratio, noise_levels
from scoresde.schedules.step_grid import NetworkGrid, network_grid
from scoresde.schedules.step_network import StepNetwork, fit_step_network

__all__ = [
    "BDDM",
    "ChainBound",
    "FittedBound",
    "NetworkGrid",
    "OptimalGrids",
    "StepNetwork",
    "analytic_costs",
    "analytic_grids",
    "bound_costs",
    "decoder_costs",
    "fit_step_network",
    "grid_cost",
    "langevin_step_size",
    "level_ratio",
    "network_grid",
    "noise_levels",
    "optimal_grids",
]

check_constructors(globals(), records=(OptimalGrids,), own_repr=(BDDM, StepNetwork))
