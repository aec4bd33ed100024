"""``check`` for processes without a closed-form kernel: correct ones pass, and each planted error fails its own row."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from configs.nonlinear.quartic import Stationary, diffusion, drift
from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.sde import SDE, VPSDE, NonlinearSDE, check
from scoresde.sde.checks.endpoints import end_points
from tests.sde.nonlinear import per_event

QUARTIC = NonlinearSDE(drift, diffusion, prior=Stationary((2,)), steps=60, T=1.5)


class Reverting(SDE):
    """dx = -x dt + h(t) dw with h^2 = 1 + t, and x_t in closed form: the variance is (t + 1/2) / 2 - exp(-2t) / 4."""

    T = 3.0
    slope, level, scale, shift = 1.0, 1.0, 1.0, 0.0

    def drift(self, x, t):
        self.check_time(t, len(x))
        return -self.slope * x

    def diffusion(self, t):
        self.check_time(t)
        return self.level * (1.0 + t).sqrt()

    def variance(self, t):
        return 0.5 * (t + 0.5) - 0.25 * torch.exp(-2.0 * t)

    def marginal_sample(self, x0, t, noise, *, step=0):
        t = per_event(t.expand(len(x0)), x0)
        z = noise.normal(x0.shape[1:], step=step, purpose="perturb", dtype=x0.dtype)
        return torch.exp(-t) * x0 + self.variance(t).sqrt() * z

    def _std(self):
        return float(self.variance(torch.tensor(self.T, dtype=torch.float64)).sqrt())

    def prior_sample(self, shape, *, noise=None, seed=0, dtype=torch.float32, device=None):
        noise = noise or NoiseSource.of(seed, shape[0], device=device)
        return self.shift + self._std() * noise.normal(tuple(shape[1:]), step=0, purpose="prior", dtype=dtype)

    def prior_log_prob(self, x):
        std = self.scale * self._std()
        z = ((x - self.shift) / std).reshape(len(x), -1)
        return (-0.5 * z**2 - math.log(std) - 0.5 * math.log(2 * math.pi)).sum(1)


def failed(sde, shape=(2,), **more):
    return [row.name for row in check(sde, shape, **more).rows if not row.passed]


@pytest.mark.parametrize("shape", [(2,), (1, 2), ()])
def test_a_process_of_the_user_passes(shape):
    report = check(Reverting(), shape)
    assert report.passed, str(report)


def test_a_simulated_process_passes():
    assert check(QUARTIC).passed


def test_a_diffusion_that_depends_on_the_state():
    """g_i = .5 (1 + .2 sin x_i): D_i = .1 g_i cos x_i 2; only its prior, N(0, 1), is not the distribution at T."""
    given = {"f": lambda x, t: -x, "g": lambda x, t: 0.5 * (1 + 0.2 * x.sin()), "steps": 60}
    right = NonlinearSDE(**given, divergence=lambda x, t: 0.1 * x.cos() * (1 + 0.2 * x.sin()), T=3.0)
    assert failed(right) == ["prior, nats per coordinate"]
    wrong = replace(right, divergence=lambda x, t: 0.11 * x.cos() * (1 + 0.2 * x.sin()))
    assert failed(wrong)[:2] == ["drift of the reverse SDE", "drift of the probability flow"]


class NoReverse(Reverting):
    def reverse_drift(self, x, t, score):
        return self.flow_drift(x, t, score)


class Squared(Reverting):
    def apply_diffusion_matrix(self, v, t, x=None):
        return self.apply_diffusion(v, t, x)


class OneSample(Reverting):
    def prior_log_prob(self, x):
        return super().prior_log_prob(x).sum()


class AnyTime(Reverting):
    def drift(self, x, t):
        return -x


PLANTED = {
    "a drift of 1.1": (type("Fast", (Reverting,), {"slope": 1.1}), "spread of x_t from the SDE"),
    "noise of 1.05": (type("Loud", (Reverting,), {"level": 1.05}), "spread of x_t from the SDE"),
    "no drift": (type("Still", (Reverting,), {"slope": 0.0}), "spread of x_t from the SDE"),
    "a density that is wider": (type("Wide", (Reverting,), {"scale": 1.1}), "density of the prior, std. errors"),
    "a prior elsewhere": (type("Off", (Reverting,), {"shift": 1.0}), "prior, nats per coordinate"),
    "too early an end": (type("Short", (Reverting,), {"T": 0.3}), "prior, nats per coordinate"),
    "the flow's drift": (NoReverse, "drift of the reverse SDE"),
    "g for g^2": (Squared, "diffusion matrix is g g^T"),
    "one density": (OneSample, "shapes and types"),
    "any time": (AnyTime, "edge times"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_fails_its_row(name):
    planted, row = PLANTED[name]
    assert row in failed(planted())


def test_a_mean_that_does_not_follow_the_drift():
    class Pushed(Reverting):
        def drift(self, x, t):
            return super().drift(x, t) + 0.3

    assert "mean of x_t from the drift" in failed(Pushed())


def test_paths_that_leave_the_numbers_are_a_row():
    report = check(replace(QUARTIC, steps=10, T=30.0))
    assert not report.passed and "give more" in str(report)


def test_end_points_of_a_linear_process():
    """VPSDE for data of std 3 at T = .4: mean 0, variance 1 + 8 alpha^2, against N(0, 1)."""
    sde = VPSDE(T=0.4)
    data = GaussianMixture([[0.0, 0.0]], 3.0).sample(4000, seed=1, dtype=torch.float64)
    found = end_points(sde, data)
    v = 1.0 + 8.0 * float(sde.alpha(torch.tensor(0.4, dtype=torch.float64))) ** 2
    assert found.mismatch == pytest.approx(0.5 * (v - 1.0 - math.log(v)), rel=0.1)
    assert found.std == pytest.approx(math.sqrt(v), rel=0.03) and found.prior_std == pytest.approx(1.0, rel=0.02)
    assert abs(end_points(VPSDE(), data).mismatch) < 2e-3
