"""Noise levels that a network estimates, and the sampler that follows them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from scoresde.data import Digits
from scoresde.distributions import GaussianMixture
from scoresde.metrics import sliced_wasserstein
from scoresde.networks import MLP
from scoresde.samplers import DDIM, ReferenceDiscretization, grids
from scoresde.samplers.fitted import LevelAdjustedDDIM, LevelNetwork, fit_level_network
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin

SDE = VESDE(0.01, 10.0)
DATA = GaussianMixture(torch.randn(4, 48, generator=torch.Generator().manual_seed(0)), 0.1)
SCORE = DATA.score(SDE)


@pytest.fixture(scope="module")
def levels():
    torch.manual_seed(0)
    return fit_level_network(SDE, DATA.sample(4000), MLP((48,), width=64, depth=1), updates=300, learning_rate=5e-3)


class Constant(LevelNetwork):
    """The level of every state is the same."""

    def __init__(self, made, level):
        super().__init__(made.network, made.lowest, made.highest, made.process, made.event_shape, made.fingerprint)
        self.level = level

    def log_noise(self, x):
        return torch.full((len(x),), self.level, dtype=torch.float64)


def times_from(sigma, steps=10):
    ends = torch.tensor([sigma, 0.02], dtype=torch.float64).log()
    return tuple(SDE.time_of_log_noise(torch.linspace(*ends.tolist(), steps + 1, dtype=torch.float64)).tolist())


@pytest.mark.parametrize("sigma", [0.2, 0.5, 2.0])
def test_the_estimate_is_near_the_level(levels, sigma):
    noise = torch.randn(500, 48, generator=torch.Generator().manual_seed(1))
    found = levels.log_noise(DATA.sample(500, seed=1) + sigma * noise)
    assert found.shape == (500,) and found.dtype == torch.float64
    assert float((found - torch.tensor(sigma).log()).square().mean().sqrt()) < 0.4


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
@pytest.mark.parametrize("sigma", [0.3, 0.5])
def test_a_start_of_another_level_costs_less_than_half_as_much(levels, sigma, factor):
    clean, noise = DATA.sample(1000, seed=5), torch.randn(1000, 48, generator=torch.Generator().manual_seed(2))
    start, times = clean + factor * sigma * noise, times_from(sigma)
    plain = DDIM(times)(SDE, SCORE, start.shape, start=start).samples
    followed = LevelAdjustedDDIM(levels, times)(SDE, SCORE, start.shape, start=start).samples
    assert sliced_wasserstein(followed, clean) < 0.5 * sliced_wasserstein(plain, clean)


def test_one_step_is_the_equation_and_known_levels_give_ddim(levels):
    """From the level u of the estimate the first of 4 steps goes to u_end + (u - u_end) 3 / 4."""
    x, states = torch.randn(3, 48, generator=torch.Generator().manual_seed(3)), []
    hook_times = []

    def keep(moment):
        hook_times.append(moment.t)
        return moment.x

    LevelAdjustedDDIM(Constant(levels, -1.0), 4, t_min=0.1)(
        SDE, SCORE, x.shape, start=x.double(), callback=lambda k, t, x: states.append(x),
        hooks=[keep],
    )  # fmt: skip
    end = SDE.log_noise(torch.tensor(0.1, dtype=torch.float64))
    t, s = SDE.time_of_log_noise(torch.tensor([-1.0, float(end + 0.75 * (-1.0 - end))], dtype=torch.float64))
    wanted = DDIM((float(t), float(s)), denoise=False)(SDE, SCORE, x.shape, start=x.double()).samples
    torch.testing.assert_close(states[1], wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(hook_times[1], s.expand(3))
    # one step, whose level the network knows
    known = Constant(levels, float(SDE.log_noise(torch.tensor(SDE.T, dtype=torch.float64))))
    one = LevelAdjustedDDIM(known, 1, denoise=False)(SDE, SCORE, (5, 48), seed=4)
    torch.testing.assert_close(
        one.samples, DDIM(1, grid=grids.log_noise, denoise=False)(SDE, SCORE, (5, 48), seed=4).samples
    )
    assert one.nfe == 1 and LevelAdjustedDDIM(known, 1)(SDE, SCORE, (5, 48)).nfe == 2


def test_a_sample_does_not_depend_on_its_batch(levels):
    sampler = LevelAdjustedDDIM(levels, 3)
    whole, part = sampler(SDE, SCORE, (4, 48), seed=1).samples, sampler(SDE, SCORE, (2, 48), seed=1, first=2).samples
    torch.testing.assert_close(whole[2:], part, rtol=1e-4, atol=1e-4)


def test_any_event_shape_and_a_chain():
    data = GaussianMixture(torch.zeros(1, 2, 3), 0.5)
    sde = VPSDE()
    levels = fit_level_network(sde, data.sample(64), MLP((2, 3), width=8, depth=1), updates=2, batch_size=16)
    for process in (sde, sde.discretize(100)):
        found = LevelAdjustedDDIM(levels, 3, t_min=0.02)(process, data.score(process), (4, 2, 3))
        assert found.samples.shape == (4, 2, 3) and len(found.times) == 4
    assert repr(LevelAdjustedDDIM(levels, 3)) == f"LevelAdjustedDDIM({levels!r}, steps=3)"


@pytest.mark.long
def test_digits():
    sde, digits = VPSDE(), Digits()
    x, y = (part.encode(slice(None), seed=0) for part in (digits.train, digits.test))
    torch.manual_seed(0)
    levels = fit_level_network(sde, x, MLP((1, 8, 8), width=64, depth=1), updates=2000)
    generator = torch.Generator().manual_seed(0)
    for t, largest in ((0.1, 0.5), (0.5, 0.25), (0.7, 0.25), (0.9, 0.25)):
        times = torch.full((len(y),), t)
        noisy = sde.perturb(y, times, torch.randn(y.shape, generator=generator))
        error = logsigmoid(2 * levels.log_noise(noisy)) - logsigmoid(2 * sde.log_noise(times.double()))
        assert float(error.square().mean().sqrt()) < largest


def test_another_process_or_shape_is_refused(levels):
    other = VESDE(0.01, 20.0)
    with pytest.raises(ValueError, match=r"is not what network=LevelNetwork.* was trained for"):
        LevelAdjustedDDIM(levels, 3)(other, DATA.score(other), (2, 48))
    with pytest.raises(ValueError, match=r"x has events of shape \(2,\): network=LevelNetwork"):
        LevelAdjustedDDIM(levels, 3)(SDE, SCORE, (2, 2))
    with pytest.raises(TypeError, match="sde=Critically"):
        LevelAdjustedDDIM(levels, 3)(CriticallyDampedLangevin(), lambda x, t: -x, (2, 48))


def test_wrong_arguments_are_refused(levels):
    x = DATA.sample(20)
    with pytest.raises(ValueError, match="steps=0"):
        LevelAdjustedDDIM(levels, 0)
    with pytest.raises(TypeError, match="steps=ReferenceDiscretization"):
        LevelAdjustedDDIM(levels, ReferenceDiscretization(10))
    with pytest.raises(ValueError, match=r"steps=\(1.0, 0.0\) is not allowed: the last time"):
        LevelAdjustedDDIM(levels, (1.0, 0.0))(SDE, SCORE, (2, 48))
    with pytest.raises(TypeError, match="network="):
        LevelAdjustedDDIM(nn.Identity(), 3)
    with pytest.raises(ValueError, match="updates=0"):
        fit_level_network(SDE, x, levels.network, updates=0)
    with pytest.raises(ValueError, match="t_min"):
        fit_level_network(SDE, x, levels.network, t_min=2.0)
    with pytest.raises(TypeError, match="sde=Critically"):
        fit_level_network(CriticallyDampedLangevin(), x, levels.network)
    with pytest.raises(ValueError, match=r"network returned .* it must return \(16, \.\.\.\)"):
        fit_level_network(SDE, x, Short((48,), width=8), updates=1, batch_size=16)


class Short(MLP):
    def forward(self, x, label):
        return super().forward(x, label)[:3]
