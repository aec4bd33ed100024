"""Simulated forward paths, reverse processes and flows of VP, sub-VP and VE."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, SubVPSDE
from tests.sde.processes import F64, LIGHT, derivative, events, normal, processes, scalar, uniform_times


def gaussian_score(sde, c):
    """The exact score of data N(0, c^2)."""

    def score(x, t):
        return -x / (sde.alpha(t) ** 2 * c**2 + sde.sigma(t) ** 2).reshape(-1, *[1] * (x.ndim - 1))

    return score


@LIGHT
@given(sde=processes(), shape=events(), c=st.floats(0.1, 3.0))
def test_reverse_drift_and_flow(sde, shape, c):
    x, t = normal(shape), uniform_times(shape[0])
    score = gaussian_score(sde, c)
    f, here = sde.drift(x, t), score(x, t)
    reverse, flow = sde.reverse_drift(x, t, here), sde.flow_drift(x, t, here)
    g = sde.diffusion(t).reshape(-1, *[1] * (len(shape) - 1))
    assert f.shape == reverse.shape == flow.shape == shape
    assert torch.allclose(reverse, f - g**2 * here, rtol=1e-13, atol=1e-13)
    assert torch.allclose(flow, f - g**2 * here / 2, rtol=1e-12, atol=1e-12)
    assert torch.equal(sde.apply_diffusion(x, t), g * x)


@LIGHT
@given(sde=processes(), t=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=4), c=st.floats(0.1, 3.0))
def test_reverse_and_flow_keep_the_marginals(sde, t, c):
    """Data N(0, c^2) has variance v = alpha^2 c^2 + sigma^2 at t. With drift b x, v' = 2 b v for the flow, and v' = 2 b v - g^2
    for the reverse process, whose noise is added as t decreases."""
    t = scalar(t)
    v = sde.alpha(t) ** 2 * c**2 + sde.sigma(t) ** 2
    slope = derivative(lambda t: sde.alpha(t) ** 2 * c**2 + sde.sigma(t) ** 2, t)
    one, score = torch.ones_like(t), gaussian_score(sde, c)(torch.ones_like(t), t)
    size = 2 * sde.drift_coefficient(t).abs() * v + sde.diffusion(t) ** 2
    flow = 2 * sde.flow_drift(one, t, score) * v
    assert ((flow - slope).abs() <= 1e-12 * size).all()
    reverse = 2 * sde.reverse_drift(one, t, score) * v - sde.diffusion(t) ** 2
    assert ((reverse - slope).abs() <= 1e-12 * size).all()


PATHS, STEPS, END = 20000, 200, 0.5


def simulate(sde, x0, g_factor=1.0):
    """Euler-Maruyama with drift and diffusion at the middle of the step, for one coordinate."""
    x, h = torch.full((PATHS,), x0, dtype=F64), END / STEPS
    source = NoiseSource.of(5, PATHS)
    for k in range(STEPS // 2):
        pair = source.normal((2,), step=k, purpose="path", dtype=F64)
        for j in (0, 1):
            t = scalar((2 * k + j + 0.5) * h)
            x = x + sde.drift(x, t) * h + (g_factor * h) ** 0.5 * sde.apply_diffusion(pair[:, j], t)
    return x


def moments_off(x, mean, std):
    """Deviation of the sample mean and variance from those of N(mean, std^2), in standard errors."""
    x = (x - mean) / std
    return abs(float(x.mean())) * PATHS**0.5, abs(float(x.square().mean()) - 1) * (PATHS / 2) ** 0.5


# the error of the integrator is below 0.3 of these units; another seed exceeds 5.2 with probability 5e-7
THRESHOLD = 5.5


@pytest.mark.parametrize("sde", [VPSDE(0.1, 6.0), SubVPSDE(0.1, 6.0), VESDE(0.1, 5.0)], ids=repr)
def test_simulated_paths_have_the_moments_of_the_kernel(sde):
    """From x_0 = 1.5 to t = 1/2. Twice the g^2 must be detected."""
    kernel = sde.transition(scalar(0.0), scalar(END))
    mean, std = 1.5 * kernel.a, kernel.std
    off_mean, off_variance = moments_off(simulate(sde, 1.5), mean, std)
    assert off_mean < THRESHOLD and off_variance < THRESHOLD
    assert moments_off(simulate(sde, 1.5, g_factor=2.0), mean, std)[1] > 10 * THRESHOLD
