"""Grids from a network that chooses the next step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde.distributions import GaussianMixture
from scoresde.networks import MLP
from scoresde.samplers import DDIM, grids
from scoresde.schedules import NetworkGrid, bound_costs, fit_step_network, grid_cost, network_grid
from scoresde.schedules.step_network import step_loss
from scoresde.score import DenoisingErrors
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin

SDE = VPSDE()
DATA = GaussianMixture([[0.0]], 0.5)
SCORE = DATA.score(SDE)
BEST = {0.1: 0.257, 0.5: 0.500, 0.9: 0.789}
"""delta^2 -> the ratio that minimizes C for N(0, 1/4) and does not depend on x."""


class LevelOnly(nn.Module):
    """A network that does not see x."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x, label):
        return self.layers(label[:, None])


def trained(network):
    options = {"updates": 300, "batch_size": 2048, "learning_rate": 1e-2}
    return fit_step_network(SDE, SCORE, DATA.sample(20_000), network, **options)


@pytest.fixture(scope="module")
def level_only():
    torch.manual_seed(0)
    return trained(LevelOnly())


def time_at(square):
    return SDE.time_of_log_noise(torch.tensor([square / (1 - square)], dtype=torch.float64).log() / 2).float()


@pytest.mark.parametrize("square", BEST)
def test_the_minimum_of_the_loss_is_the_known_one(square):
    """By quadrature over eps and x_0, which are Gaussian."""
    share = square / (0.25 * (1 - square) + square)  # E[eps_hat^2]
    r = torch.linspace(0.01, 0.99, 981, dtype=torch.float64)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guess = share**0.5 * z[:, :1]
    noise = guess + (1 - share) ** 0.5 * z[:, 1:]
    noise, guess = (torch.cat((v, v, -v, -v)) for v in (noise, guess))
    values = torch.stack([step_loss(one.expand(len(noise)), noise, guess).mean() for one in r])
    exact = (1 - 2 * r * share + r**2 * share) / (2 * (1 - r)) - r.log() / 4 + (r - 1) / 2
    assert abs(float(r[exact.argmin()]) - BEST[square]) < 1e-3
    assert abs(float(r[values.argmin()]) - BEST[square]) < 0.02


@pytest.mark.parametrize("square", BEST)
def test_the_trained_network_has_the_best_ratio(level_only, square):
    found = level_only.ratio(SDE, torch.zeros(1, 1), time_at(square)).detach()
    assert abs(float(found) - BEST[square]) < 0.02


@pytest.mark.parametrize("steps", [3, 5, 10])
def test_the_bound_of_the_grid_is_smaller_than_that_of_a_uniform_grid(level_only, steps):
    grid = network_grid(SDE, SCORE, level_only, DATA.sample(300, seed=2), steps)
    costs = []
    for times in (grid(SDE, steps), grids.uniform(SDE, steps), grids.log_noise(SDE, steps)):
        errors = DenoisingErrors.of_gaussian(SDE, times.flip(0), std=0.5)
        costs.append(grid_cost(errors.times, bound_costs(SDE, errors, variance="upper"), times))
    assert costs[0] < min(costs[1:])
    assert DDIM(steps, grid=grid)(SDE, SCORE, (3, 1)).nfe == steps


@pytest.mark.long
def test_a_network_of_x_has_the_best_ratio_of_each_x():
    torch.manual_seed(0)
    phi = trained(MLP((1,), width=32, depth=1))
    x, r = torch.linspace(-1.0, 1.0, 5), torch.linspace(0.001, 0.999, 5000)
    for square in BEST:
        variance = 0.25 * (1 - square) + square
        guess = square**0.5 * x / variance
        error = (1 - square / variance) + ((1 - r)[:, None] * guess) ** 2
        best = r[(error / (2 * (1 - r))[:, None] - r.log()[:, None] / 4 + r[:, None] / 2).argmin(0)]
        found = phi.ratio(SDE, x[:, None], time_at(square).expand(5)).detach()
        assert float((found - best).abs().max()) < 0.03


def test_any_event_shape_and_process():
    data = GaussianMixture(torch.zeros(1, 2, 3), 0.5)
    sde = VESDE(0.01, 10.0)
    score = data.score(sde)
    phi = fit_step_network(sde, score, data.sample(64), MLP((2, 3), width=8, depth=1), updates=2, batch_size=16)
    grid = network_grid(sde, score, phi, data.sample(32, seed=1), 3, batch_size=8, t_min=0.01)
    assert grid.steps == 3 and grid.event_shape == (2, 3) and "StepNetwork(of VESDE" in repr(phi)
    assert grid(sde, 3).tolist() == list(grid.given)


def test_another_model_is_refused(level_only):
    x, other = DATA.sample(50), VPSDE(beta_max=10.0)
    with pytest.raises(ValueError, match=r"network=StepNetwork.* was trained for another score"):
        network_grid(SDE, GaussianMixture([[1.0]], 0.5).score(SDE), level_only, x, 3)
    with pytest.raises(ValueError, match=r"is not what network=StepNetwork.* was trained for"):
        network_grid(other, DATA.score(other), level_only, x, 3)
    with pytest.raises(ValueError, match=r"x has events of shape \(2,\): network="):
        network_grid(SDE, SCORE, level_only, torch.zeros(5, 2), 3)
    grid = network_grid(SDE, SCORE, level_only, x, 3)
    with pytest.raises(ValueError, match="is not what this grid was made for, VPSDE"):
        DDIM(3, grid=grid)(other, DATA.score(other), (2, 1))
    with pytest.raises(ValueError, match="steps=4 is not allowed: this grid has 3 steps"):
        DDIM(4, grid=grid)(SDE, SCORE, (2, 1))


def test_wrong_arguments_are_refused(level_only):
    x = DATA.sample(20)
    with pytest.raises(ValueError, match="steps=0"):
        network_grid(SDE, SCORE, level_only, x, 0)
    with pytest.raises(ValueError, match="updates=0"):
        fit_step_network(SDE, SCORE, x, LevelOnly(), updates=0)
    with pytest.raises(TypeError, match="sde=Critically"):
        fit_step_network(CriticallyDampedLangevin(), SCORE, x, LevelOnly())
    with pytest.raises(ValueError, match=r"network returned .* it must return \(16, \.\.\.\)"):
        fit_step_network(SDE, SCORE, x, Short(), updates=1, batch_size=16)
    with pytest.raises(ValueError, match=r"given=.* descending"):
        NetworkGrid((0.1, 0.5), "VPSDE()", (1,), (1.0,))


class Short(LevelOnly):
    def forward(self, x, label):
        return super().forward(x, label)[:3]
