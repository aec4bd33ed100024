"""Coordinates in which the flow of Gaussian data is constant, and the time variable log_spread.

The reference is the probability flow, solved by SciPy with a score from dense matrices.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from scoresde.sde import (
    VESDE,
    VPSDE,
    BlurringSDE,
    CriticallyDampedLangevin,
    LinearInterpolantSDE,
    MatrixSDE,
    Shifted,
    SubVPSDE,
)
from scoresde.sde.gaussian_flow import white_points
from scoresde.solvers import ScipyODE
from tests.params import some_long
from tests.sde.schedules import ALL as SCHEDULES
from tests.sde.test_matrix import PROCESSES as MATRICES

F64 = torch.float64
MU = torch.tensor([1.0, -2.0], dtype=F64)
PROCESSES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.01, 30.0),
    "interpolant": LinearInterpolantSDE(),
    "shifted": Shifted(VPSDE(), MU),
    "moving": Shifted(VPSDE(), lambda t: torch.stack((t, 1.0 - t**2), -1)),
    "blur": BlurringSDE((2,), blur=1.0),
    "cld": CriticallyDampedLangevin(),
    "cld shifted": Shifted(CriticallyDampedLangevin(), MU),
} | {f"matrix {i}": sde for i, (sde, shape) in enumerate(MATRICES) if shape == (2,)}
EVENT = (2,)


def distribution_at(sde, t, data_std):
    """m, S and G of the state of data N(0, data_std^2 I), dense, in float64."""
    t = torch.tensor(t, dtype=F64)
    shape, kernel = sde.state_shape(EVENT), sde.kernel(t)
    d = math.prod(shape)
    eye = torch.eye(d, dtype=F64).reshape(d, *shape)
    zero = torch.zeros(1, *shape, dtype=F64)
    mean = kernel.mean(zero)
    a = (kernel.mean(eye) - mean).reshape(d, d).mT
    noise = kernel.covariance(eye).reshape(d, d)
    g = sde.diffusion_map(t)(eye).reshape(d, d).mT
    return mean, data_std**2 * a @ a.mT + noise, g


def gaussian_flow(sde, data_std):
    def velocity(t, x):
        mean, covariance, _ = distribution_at(sde, t, data_std)
        score = -torch.linalg.solve(covariance, (x - mean).flatten(1).mT).mT.reshape(x.shape)
        return sde.flow_drift(x, torch.full((len(x),), t, dtype=F64), score)

    return velocity


@pytest.mark.parametrize("name", some_long(PROCESSES, lambda name: name not in ("moving", "blur", "cld")))
def test_the_flow_of_gaussian_data_is_constant(name, worst):
    """x = m + R w solves the flow, from the mean and from d points around it, and ln |det R| its divergence."""
    sde, data_std, times = PROCESSES[name], 0.7, [0.02, 0.2, PROCESSES[name].T]
    points = white_points(sde, torch.tensor(times, dtype=F64), data_std)
    shape = sde.state_shape(EVENT)
    d = math.prod(shape)
    w = torch.cat((torch.zeros(1, d, dtype=F64), torch.eye(d, dtype=F64))).reshape(d + 1, *shape)
    mean, covariance, _ = distribution_at(sde, times[0], data_std)
    x = start = mean + points[0].root(w)
    assert torch.allclose(points[0].unroot(start - mean), w, atol=1e-9)
    flow = gaussian_flow(sde, data_std)
    for k, t in enumerate(times[1:]):
        x = ScipyODE("DOP853", 1e-9, 1e-9).solve(flow, x, times[k], t).y
        mean, covariance, g = distribution_at(sde, t, data_std)
        point = points[k + 1]
        error = float((x - mean - point.root(w)).abs().max())
        worst("whitened state of Gaussian data along its flow", error)
        assert error < 1e-6
        moved, before = ((x[1:] - x[:1]).reshape(d, d), (start[1:] - start[:1]).reshape(d, d))
        ratio = (torch.linalg.slogdet(moved)[1] - torch.linalg.slogdet(before)[1]) / d
        assert float(point.log_det - points[0].log_det - ratio) == pytest.approx(0.0, abs=1e-6)
        # the maps of a step
        root = point.root(w[1:]).reshape(d, d).mT
        b = point.spread(w[1:]).reshape(d, d).mT
        slope = float(sde.log_spread_slope(torch.tensor(t, dtype=F64)))
        assert torch.allclose(2.0 * slope * b @ b.mT, g @ g.mT, atol=1e-9)
        assert torch.allclose(root @ point.push(w[1:]).reshape(d, d).mT, b, atol=1e-8)
        pull = b.mT @ torch.linalg.solve(covariance, root)
        assert torch.allclose(point.pull(w[1:]).reshape(d, d).mT, pull, atol=1e-8)
        trace = float((b.mT @ torch.linalg.solve(covariance, b)).trace()) / d
        assert float(point.gaussian_trace) == pytest.approx(trace, rel=1e-7)


def test_another_standard_deviation_is_not_constant():
    """The same coordinates for data of half the standard deviation: the test above would detect a wrong S."""
    sde = VPSDE()
    first, last = white_points(sde, torch.tensor([0.02, 1.0], dtype=F64), 0.7)
    x = torch.ones(1, 2, dtype=F64)
    moved = ScipyODE("DOP853", 1e-9, 1e-9).solve(gaussian_flow(sde, 0.35), x, 0.02, 1.0).y
    assert float((last.unroot(moved) - first.unroot(x)).abs().min()) > 0.1


def test_points_follow_dtype():
    point = white_points(CriticallyDampedLangevin(), torch.tensor([0.1, 1.0], dtype=F64), 0.5)[0]
    narrow = point.to(torch.zeros((), dtype=torch.float32))
    x = torch.ones(3, 2, 4)
    assert narrow.root(x).dtype == torch.float32
    assert narrow.log_det.dtype == torch.float32
    assert torch.allclose(narrow.push(x).double(), point.push(x.double()), rtol=1e-5)
    assert replace(point) == point


def test_small_steps_of_blocks_one_at_a_time_or_together(monkeypatch):
    times = torch.tensor([0.1, 0.3, 1.0], dtype=F64)
    together = white_points(CriticallyDampedLangevin(), times, 0.5)
    monkeypatch.setattr("scoresde.sde.gaussian_flow._AT_ONCE", 256)
    for one, other in zip(white_points(CriticallyDampedLangevin(), times, 0.5), together, strict=True):
        assert torch.allclose(one.root.m, other.root.m, rtol=1e-12, atol=1e-14)


CLOCKS = PROCESSES | {f"schedule {name}": sde for name, sde in SCHEDULES.items()}
CLOCKS |= {f"matrix {i}": sde for i, (sde, _) in enumerate(MATRICES)}


@pytest.mark.parametrize("name", CLOCKS)
def test_the_derivative_of_log_spread(name):
    """By central differences of 1e-5 t, accurate to 1e-8 of the derivative and the rounding of log_spread."""
    sde = CLOCKS[name]
    t = torch.logspace(-3, math.log10(0.999), 25, dtype=F64) * sde.T
    with torch.no_grad():
        u, slope = sde.log_spread(t), sde.log_spread_slope(t)
        h = 1e-5 * t
        difference = (sde.log_spread(t + h) - sde.log_spread(t - h)) / (2 * h)
    assert bool((u.diff() > 0).all())
    assert bool((slope > 0).all())
    assert torch.allclose(slope, difference, rtol=1e-5), (slope / difference - 1).abs().max()


@pytest.mark.parametrize("name", some_long(CLOCKS, lambda name: name.startswith("matrix") and name != "matrix 4"))
def test_the_inverse_of_log_spread(name):
    sde = CLOCKS[name]
    t = torch.linspace(0.01, 1.0, 12, dtype=F64) * sde.T
    with torch.no_grad():
        found = sde.time_of_log_spread(sde.log_spread(t))
        assert torch.allclose(found, t, rtol=1e-8)
        ends = sde.time_of_log_spread(torch.tensor([-1e4, 1e4], dtype=F64))
    assert ends.tolist() == pytest.approx([0.0, sde.T], abs=1e-12)


def test_log_spread_equals_log_noise_for_scalar_coefficients():
    """u = ln(sigma / alpha) for scalar processes; a k x k matrix c I has the same."""
    t = torch.linspace(0.01, 1.0, 7, dtype=F64)
    assert torch.allclose(VPSDE().log_spread(t), VPSDE().log_noise(t))
    assert isinstance(MATRICES[0][0], MatrixSDE)
    assert torch.allclose(MATRICES[0][0].log_spread(t), VPSDE().log_spread(t), atol=1e-6)
