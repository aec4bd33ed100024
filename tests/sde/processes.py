"""VP, sub-VP and VE with usual and unusual parameters, times and samples."""

from __future__ import annotations

import mpmath as mp
import torch
from hypothesis import settings
from hypothesis import strategies as st

from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, SubVPSDE
from tests.params import examples

F32, F64 = torch.float32, torch.float64


DEFAULTS = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE()}


LIGHT = settings(max_examples=examples(150), deadline=None, derandomize=True)


@st.composite
def processes(draw):
    """A process of one of the three kinds with parameters of any reasonable size."""
    kind = draw(st.sampled_from([VPSDE, SubVPSDE, VESDE]))
    if kind is VESDE:
        low = draw(st.floats(1e-4, 1.0))
        return VESDE(low, low * draw(st.floats(1.5, 1e5)))
    return kind(draw(st.floats(0.01, 10.0)), draw(st.floats(0.01, 50.0)))


@st.composite
def events(draw):
    """(B, *event) with events of rank 0 to 4."""
    return (draw(st.integers(1, 5)), *draw(st.lists(st.integers(1, 3), max_size=4)))


def scalar(value, dtype=F64):
    return torch.tensor(value, dtype=dtype)


def normal(shape, purpose="x", dtype=F64):
    return NoiseSource.of(7, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=dtype)


def uniform_times(count, low=1e-3, dtype=F64):
    u = NoiseSource.of(7, count).uniform((), step=0, purpose="t", dtype=dtype)
    return low + (1 - low) * u


def near(found, wanted, rtol):
    """|found - wanted| <= rtol |wanted|, without an absolute tolerance."""
    return torch.allclose(found.double(), wanted.double(), rtol=rtol, atol=0.0)


def relative(found, wanted):
    return float(abs(mp.mpf(float(found)) / wanted - 1))


def derivative(f, t):
    t = t.clone().requires_grad_()
    return torch.autograd.grad(f(t).sum(), t)[0]


def composed(chain):
    """alpha and sigma after every step, by the recursion x_i = A_i x_(i-1) + L_i z from x_(-1) = x_0."""
    kernel = chain.step(chain.time(torch.arange(chain.steps)))
    alpha, variance, found = scalar(1.0), scalar(0.0), []
    for a, std in zip(kernel.a.expand(chain.steps), kernel.std, strict=True):
        alpha, variance = a * alpha, a**2 * variance + std**2
        found.append((alpha, variance.sqrt()))
    return tuple(torch.stack(v) for v in zip(*found, strict=True))
