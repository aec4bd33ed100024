"""log p along the probability flow on a fixed grid: one evaluation for each node, with new probes at each node.

Let w be the whitened state and u the clock (``sde/gaussian_flow.py``), f = dw/du the residual slope and g the residual
divergence::

    log p(x_0) = log p_T(x_T) + ln |det R_n / det R_0| + int g du

1. At node i, the polynomial through the last slopes (Adams-Bashforth) predicts w_i from w_(i-1). f_i and g_i are evaluated
   there once, and f_i corrects w_i (Adams-Moulton).
2. The integral of g is a quadrature of all its values, by cubics through the four nodes around each interval. g does not
   have to be smooth: every node has its own unbiased probes, whose errors do not add up as those of one fixed probe do.
3. Between the points where f was evaluated, the exact flow rises by int f du. The same quadrature approximates this integral
   better than step 1 does. The difference d_i is a jump of the path at node i, and a jump changes log p by its product with
   the score. Therefore ::

       log p = the above + sum_i (R_i^T score_i) . d_i

   removes the leading error at no cost. ``tests/likelihood/test_multistep_order.py`` measures the order with and without it.

   At T the score would be that of p_T, but the prior takes its place. So the sum of all jumps is moved to T, and the prior
   is evaluated at x_T plus this sum.

   Where there is hardly any noise, the score of a network may be far from the gradient of log p of its own flow. For a
   density, E |score|^2 = -E div score (Fisher), and this is at least the value of a Gaussian as wide as the data. If the
   square of the score exceeds ten times the sum of both, the correction is reduced in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number, times_checked
from scoresde.conditions import given, rows_of
from scoresde.likelihood.divergence import Hutchinson
from scoresde.likelihood.engine import Engine, FlowProblem, FlowSolution, check_t_min, warn_caller
from scoresde.likelihood.estimate import probe_variances, quadrature_square, trace_error
from scoresde.likelihood.grid import FlowGrid, grid_from, mean_and_spread, standard_grid
from scoresde.likelihood.path import POINTS, Path, node_times
from scoresde.noise import NoiseSource
from scoresde.sde import SDE, LinearSDE, check_same_process
from scoresde.sde.base import check_gaussian
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.solvers import SolverError
from scoresde.solvers.quadrature import Increments

DEFAULT_TOLERANCE = 0.02
"""Tolerance in bits/dim of the default solver: the few samples for which 64 nodes do not suffice get more nodes."""


@dataclass(frozen=True)
class Multistep(Engine):
    """Fixed-grid solver for log-likelihoods under any linear process.

    Args:
        nodes: Evaluations of the score, at least 4.
        grid: The density of the nodes. ``fit_grid`` makes one for a model. The default is ``standard_grid``.
        tolerance: Largest estimated integration error of a sample in bits/dim. A sample above it is computed again with
            twice the nodes, up to ``max_nodes``. With None, every sample uses ``nodes`` nodes.
        max_nodes: Largest number of nodes.

    The error estimate (``scoresde.likelihood.estimate``) uses the values at the nodes only. On a coarse grid it is about as
    large as the error, on a fine grid several times larger (docs/likelihood_figures.md, "Is the stated error honest on any
    data and grid?").
    """

    nodes: int = 64
    grid: FlowGrid | None = None
    tolerance: float | None = None
    max_nodes: int = 1024

    def __post_init__(self) -> None:
        check_count("nodes", self.nodes, least=4)
        check_count("max_nodes", self.max_nodes, least=self.nodes)
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, above=0.0)

    @property
    def summary(self) -> str:
        grid = "None" if self.grid is None else self.grid.summary
        return repr(replace(self, grid=None)).replace("grid=None", f"grid={grid}")

    def check_process(self, sde: SDE) -> None:
        _linear(sde)

    def solve(self, problem: FlowProblem, x: Tensor) -> FlowSolution:
        sde = _linear(problem.sde)
        grid = self.grid or standard_grid(sde, problem.t_min)
        grid.check_fits(sde, problem.t_min)
        (answer, first_failure), nodes = _solve_once(problem, sde, grid, x, self.nodes), self.nodes
        while self.tolerance is not None and 2 * nodes <= self.max_nodes:
            coarse = (answer.solver_error > self.tolerance * x[0].numel() * math.log(2.0)).nonzero().flatten()
            if not len(coarse):
                break
            nodes *= 2
            part = replace(
                problem,
                score=rows_of(problem.score, coarse),
                noise=replace(problem.noise, indices=problem.noise.indices[coarse]),
            )
            again, when = _solve_once(part, sde, grid, x[coarse], nodes)
            answer, first_failure = _replace_rows(answer, coarse, again), first_failure.index_copy(0, coarse, when)
        _report(answer.failed, first_failure)
        return answer


def _linear(sde: SDE) -> LinearSDE:
    """``sde``, if it is linear and so has closed-form kernels."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde={sde!r} has no closed-form kernel: give solver=ScipyODE(), Multistep needs kernels")
    return sde


@times_checked()  # the times of the nodes are in [t_min, T]
def _solve_once(
    problem: FlowProblem, sde: LinearSDE, grid: FlowGrid, x: Tensor, nodes: int
) -> tuple[FlowSolution, Tensor]:
    """log p with a given number of nodes, and the first time (B,) at which the score was not finite, T if there is none."""
    times, u = node_times(sde, grid, grid.nodes(nodes))
    weights = Increments.of(u, POINTS).total()
    divergence = problem.divergence
    products = divergence.products
    probe_counts = (
        grid.probe_counts(u.detach(), weights.detach(), products) if divergence.divisible else [products] * nodes
    )
    path = Path.along(problem, sde, grid, times, u, x, probe_counts)
    d, points, means = x[0].numel(), path.points, path.estimates.means()
    noisy = not (divergence.exact or divergence.fixed)
    noise = probe_variances(divergence, path.estimates, u.detach().to(means), d) if noisy else None
    g = means - d * points.gaussian_trace[:, None]
    weights = weights.to(means)
    prior = sde.prior_log_prob(path.latent)
    log_prob = prior + d * (points.log_det[-1] - points.log_det[0]) + weights @ g + path.jumps
    failed = ~torch.isfinite(log_prob)
    first_failure = torch.where(torch.isfinite(g), sde.T, points.t[:, None])
    unresolved = quadrature_square(u.detach(), POINTS, g.detach(), None if noise is None else noise.detach())
    answer = FlowSolution(
        log_prob=torch.where(failed, torch.nan, log_prob),
        trace_error=trace_error(divergence, path.estimates, weights, noise, d),
        solver_error=(path.error_square + unresolved).sqrt(),
        latent=path.latent.to(x.dtype),
        prior_log_prob=prior,
        nfe=nodes,
        vjps=sum(path.products),
        failed=failed,
    )
    return answer, first_failure.amin(0)


def _report(failed: Tensor, first_failure: Tensor) -> None:
    """Warn about samples that failed; raise SolverError if all failed."""
    if not bool(failed.any()):
        return
    where = failed.nonzero().flatten().tolist()
    message = f"the score is not finite at t={float(first_failure.min()):g} for batch positions {where[:8]}"
    if bool(failed.all()):
        raise SolverError(message)
    warn_caller(f"{message}: their log_prob is NaN")


def _replace_rows(answer: FlowSolution, rows: Tensor, new: FlowSolution) -> FlowSolution:
    """The answer with some samples replaced, and the work of both answers together."""
    names = ("log_prob", "trace_error", "solver_error", "latent", "prior_log_prob", "failed")
    merged = {name: getattr(answer, name).index_copy(0, rows, getattr(new, name)) for name in names}
    return FlowSolution(**merged, nfe=answer.nfe + new.nfe, vjps=answer.vjps + new.vjps)


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def fit_grid(
    sde: LinearSDE,
    score: Callable[..., Tensor],
    x: Tensor,
    *,
    t_min: float = 1e-5,
    fine: int = 200,
    floor: float = 0.5,
    seed: int = 0,
    condition: Mapping[str, Any] | None = None,
) -> FlowGrid:
    """Fits a grid to a model from a few examples.

    It runs a pilot of ``fine`` evaluations with two products each. Fit it once and use it for all data.

    Args:
        sde: The process of the score.
        score: The score, (x, t) -> a tensor with the shape of x.
        x: Examples, (B, *event), 16 to 96 of them. Take them from the training set, so that the evaluated data does not
            choose its own nodes.
        t_min: Start of the flow.
        fine: Nodes of the pilot, at least 40.
        floor: Fraction of the mean that is added to the density. It protects against what the pilot did not observe.
        seed: Seed of the probes.
        condition: Conditions of the score by name, with one row for each example.

    Returns:
        The grid.

    Raises:
        ValueError: An argument is not allowed.
        SolverError: The score is not finite for one of the examples.
    """
    check_batch("x", x)
    check_finite("x", x)
    score = given(score, condition)
    check_same_process(sde, score)
    check_gaussian(sde, "the probability flow")
    check_count("fine", fine, least=40)
    check_number("floor", floor, above=0.0)
    check_t_min(sde, t_min)
    noise = NoiseSource.of(seed, len(x), device=x.device)
    checked = CheckedScore(score, len(x), x.dtype)
    x = wide(x)
    center, data_std = mean_and_spread(x)
    x, _ = sde.sample_auxiliary(x, noise)
    start = standard_grid(sde, t_min, data_std, center)
    u = torch.linspace(start.u[0], start.u[-1], fine, dtype=torch.float64)
    problem = FlowProblem(sde, checked, t_min, Hutchinson(count=2, fixed=True), noise)
    with times_checked():
        path = Path.along(problem, sde, start, *node_times(sde, start, u), x, [2] * fine, keep=True)
    d, h = x[0].numel(), float(u[1] - u[0])
    estimates = path.estimates.stacked().cpu()  # (2, fine, B)
    if not bool(torch.isfinite(estimates).all()):
        raise SolverError("the score is not finite along the path of these examples: no grid can be made")
    slopes, traces = torch.stack(path.slopes).cpu(), estimates.mean(0) / d
    pulls = torch.stack(path.pulls).cpu()[1:-1]
    bend = (pulls * _second(slopes, h)).square().flatten(1).mean(1) + _second(traces, h).square().mean(1)
    return grid_from(t_min, u, bend, estimates.var(0).mean(1).sqrt(), data_std, floor, center)


def _second(values: Tensor, h: float) -> Tensor:
    """Second differences."""
    return (values[2:] - 2.0 * values[1:-1] + values[:-2]) / h**2
