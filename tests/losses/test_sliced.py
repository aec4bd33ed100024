"""Sliced score matching against closed forms and against the denoising loss.

For Gaussian data and a score b - A x everything is known: with x_t ~ N(m, C) the expected loss is

    -tr A + E ||b - A x||^2 / 2        smallest at A = C^-1, b = C^-1 m.

Expectations over x_t are computed by Gauss quadrature, and over directions by all 2^d signs, without statistical errors.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.losses import (
    ChainTimes,
    DenoisingScoreMatching,
    SlicedDraw,
    SlicedScoreMatching,
    TimeDistribution,
    UniformTime,
)
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, NonlinearSDE
from tests.losses.common import F32, F64, SDES, normal

CUBIC = NonlinearSDE(lambda x, t: -(x**3), lambda t: torch.ones_like(t), steps=40)


# --- expectations by quadrature ----------------------------------------------------------------------------------

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(4))


WEIGHTS = WEIGHTS / WEIGHTS.sum()


SIGNS = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=F64)


PLANE = torch.cartesian_prod(torch.arange(4), torch.arange(4))


"""Nodes of a standard normal of two coordinates."""


STANDARD, MASS = NODES[PLANE], WEIGHTS[PLANE].prod(1)


MEAN = torch.tensor([0.4, -0.7], dtype=F64)


COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=F64)


def distribution(sde, t):
    """Mean and covariance of x_t for data N(MEAN, COVARIANCE)."""
    return sde.alpha(t) * MEAN, sde.alpha(t) ** 2 * COVARIANCE + sde.sigma(t) ** 2 * torch.eye(2, dtype=F64)


def expected(loss, model, sde, t):
    """E over x_t and v, exact for a score that is linear in x."""
    mean, covariance = distribution(sde, t)
    x = mean + STANDARD @ torch.linalg.cholesky(covariance).T
    draw = SlicedDraw(t.expand(16), x, SIGNS[:, None].expand(4, 16, 2))
    return (MASS * loss.evaluate(model, draw)).sum()


def affine(a, b):
    return lambda x, t: b - x @ a.T


A, B = torch.tensor([[1.1, 0.3], [-0.4, 0.6]], dtype=F64), torch.tensor([0.2, 0.5], dtype=F64)


@pytest.mark.parametrize("variance_reduced", [True, False])
@pytest.mark.parametrize("weighting", ["uniform", "likelihood", "variance"])
@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_expected_loss(sde, weighting, variance_reduced):
    """lambda (-tr A + E ||b - A x||^2 / 2), which exceeds its minimum, at the true score, by half the squared error."""
    t = torch.tensor(0.3, dtype=F64)
    mean, covariance = distribution(sde, t)
    given = (lambda t: sde.sigma(t) ** 2) if weighting == "variance" else weighting
    weight = {"uniform": 1.0, "likelihood": float(sde.diffusion(t) ** 2), "variance": float(sde.sigma(t) ** 2)}[
        weighting
    ]
    loss = SlicedScoreMatching(sde, variance_reduced=variance_reduced, weighting=given)

    def value(a, b):
        return float(expected(loss, affine(a, b), sde, t).detach())

    residual = B - A @ mean
    square = residual @ residual + (A @ covariance @ A.T).trace()
    wanted = weight * float(0.5 * square - A.trace())
    assert value(A, B) == pytest.approx(wanted, rel=1e-11)

    exact = torch.linalg.inv(covariance)
    least = value(exact, exact @ mean)
    assert least == pytest.approx(-0.5 * weight * float(exact.trace()), rel=1e-11)
    difference = A - exact
    offset = B - exact @ mean - difference @ mean
    error = offset @ offset + (difference @ covariance @ difference.T).trace()
    assert wanted - least == pytest.approx(0.5 * weight * float(error), rel=1e-9)


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_the_true_score_is_the_minimiser(variance_reduced):
    """The gradient in A and b is zero there. It is far from zero for twice the score, the result of a loss without its half."""
    sde, t = VPSDE(), torch.tensor(0.3, dtype=F64)
    mean, covariance = distribution(sde, t)
    exact = torch.linalg.inv(covariance)
    for factor in (1.0, 2.0, 0.5):
        a, b = (factor * v for v in (exact, exact @ mean))
        a, b = a.requires_grad_(True), b.requires_grad_(True)
        loss = SlicedScoreMatching(sde, variance_reduced=variance_reduced)
        slopes = torch.autograd.grad(expected(loss, affine(a, b), sde, t), (a, b))
        largest = max(float(s.abs().max()) for s in slopes)
        assert largest < 1e-12 if factor == 1.0 else largest > 0.3


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_gradient_is_the_denoising_loss_s(sde):
    """The expected gradients in A and b agree with those of the denoising loss.

    Both are W (A C - I + (A m - b) m^T) and W (b - A m) with W = sigma^2, and not with another W.
    """
    t = torch.tensor(0.3, dtype=F64)
    mean, covariance = distribution(sde, t)
    a, b = A.clone().requires_grad_(True), B.clone().requires_grad_(True)
    by_a = A @ covariance - torch.eye(2, dtype=F64) + torch.outer(A @ mean - B, mean)
    wanted = [sde.sigma(t) ** 2 * slope for slope in (by_a, B - A @ mean)]

    # x_0 and z are four coordinates: nodes of each pair
    i, j = (k.flatten() for k in torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij"))
    x0, noise = (MEAN + STANDARD @ torch.linalg.cholesky(COVARIANCE).T)[i], STANDARD[j]
    denoising = DenoisingScoreMatching(sde, reduction="half_sum")
    value = (MASS[i] * MASS[j] * denoising(affine(a, b), x0, t=t.expand(256), noise=noise)).sum()
    for found, slope in zip(torch.autograd.grad(value, (a, b)), wanted, strict=True):
        assert torch.allclose(found, slope, rtol=1e-8, atol=1e-10)

    for power, equal in ((2, True), (1, False)):
        sliced = SlicedScoreMatching(sde, weighting=lambda t, power=power: sde.sigma(t) ** power)
        slopes = torch.autograd.grad(expected(sliced, affine(a, b), sde, t), (a, b))
        for found, slope in zip(slopes, wanted, strict=True):
            assert torch.allclose(found, slope, rtol=1e-8) == equal


@pytest.mark.parametrize("variance_reduced", [True, False])
@pytest.mark.parametrize("sde", [CriticallyDampedLangevin(), BlurringSDE((2,))], ids=["velocities", "modes"])
def test_likelihood_weighting_with_a_matrix(sde, variance_reduced):
    """-tr(G G^T A) + E ||G^T (b - A x)||^2 / 2 for noise on the velocity alone, and for noise by frequency."""
    square = sde.apply_diffusion_matrix(torch.eye(2, dtype=F64), torch.full((2,), 0.3, dtype=F64))
    assert not torch.allclose(square, square[0, 0] * torch.eye(2, dtype=F64))
    x = MEAN + STANDARD @ torch.linalg.cholesky(COVARIANCE).T
    draw = SlicedDraw(torch.full((16,), 0.3, dtype=F64), x, SIGNS[:, None].expand(4, 16, 2))
    loss = SlicedScoreMatching(sde, variance_reduced=variance_reduced, weighting="likelihood")
    found = float((MASS * loss.evaluate(affine(A, B), draw)).sum().detach())
    offset = B - A @ MEAN
    second = torch.outer(offset, offset) + A @ COVARIANCE @ A.T
    assert found == pytest.approx(float((square * (0.5 * second - A.T)).sum()), rel=1e-11)
    sampled = loss.draw(normal((4,) if isinstance(sde, CriticallyDampedLangevin) else (4, 2)), step=0)
    assert sampled.x_t.shape == (4, 2) and sampled.directions.shape == (1, 4, 2)


def test_likelihood_weighting_with_a_diffusion_of_x():
    """dx = m x dt + n x dw from a log-normal distribution.

    E[g^2 score^2] = n^2 (1 + 1 / v), so that c times the score costs (c^2 / 2 - c) n^2 (1 + 1 / v), smallest at c = 1. With
    g outside the derivative the minimum would be elsewhere.
    """
    n, m, v = 0.5, 0.2, 0.4
    sde = NonlinearSDE(lambda x, t: 0.3 * x, lambda x, t: n * x)
    nodes, weights = (torch.from_numpy(k) for k in np.polynomial.hermite_e.hermegauss(8))
    x = (m + math.sqrt(v) * nodes).exp()[:, None]
    draw = SlicedDraw(torch.full((8,), 0.5, dtype=F64), x, torch.ones(1, 8, 1, dtype=F64))

    def value(loss, c):
        found = loss.evaluate(lambda x, t: -c * (1 + (x.log() - m) / v) / x, draw)
        return float((weights / weights.sum() * found).sum().detach())

    for variance_reduced in (True, False):
        loss = SlicedScoreMatching(sde, variance_reduced=variance_reduced, weighting="likelihood")
        for c in (0.5, 1.0, 1.5):
            assert value(loss, c) == pytest.approx((0.5 * c**2 - c) * n**2 * (1 + 1 / v), rel=1e-12)

    class Outside(SlicedScoreMatching):
        def _weighted(self, score, t, x):
            return self.sde.apply_diffusion_matrix(score, t, x.detach())

    planted = Outside(sde, weighting="likelihood")
    assert value(planted, 1.0) != pytest.approx(-0.5 * n**2 * (1 + 1 / v), rel=0.1)


# --- derivatives and directions ----------------------------------------------------------------------------------


def network(seed=0, d=3, dtype=F64):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(d, 8), torch.nn.Tanh(), torch.nn.Linear(8, d)).to(dtype)
    return net, lambda x, t: net(x) + t[:, None]


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_gradients_reach_the_parameters(variance_reduced):
    """Against central differences, through the second derivative."""
    net, model = network()
    loss = SlicedScoreMatching(VPSDE(), 2, variance_reduced=variance_reduced)
    x0 = normal((6, 3))
    loss(model, x0, step=0).mean().backward()
    for p in list(net.parameters())[:3]:
        assert torch.isfinite(p.grad).all() and float(p.grad.abs().max()) > 0
        h, v = 1e-5, normal(tuple(p.shape), "v")
        ends = []
        with torch.no_grad():
            for k in (1, -2, 1):  # there, back beyond, and home
                p.add_(k * h * v)
                ends.append(float(loss(model, x0, step=0).mean()))
        assert float((p.grad * v).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_no_graph_where_gradients_are_off():
    _, model = network()
    loss, x0 = SlicedScoreMatching(VPSDE()), normal((6, 3))
    value = loss(model, x0, step=0)
    with torch.no_grad():
        bare = loss(model, x0, step=0)
    assert value.requires_grad and not bare.requires_grad
    assert torch.allclose(bare, value.detach(), rtol=1e-14)


@pytest.mark.parametrize("variance_reduced", [True, False])
@pytest.mark.parametrize("event", [(), (3,), (1, 2, 3)])
def test_the_loss_is_its_formula(event, variance_reduced):
    """Computed from the full Jacobian, for several directions and any event shape."""
    x0, d = normal((4, *event)), math.prod(event)
    matrix = normal((d, d), "matrix")

    def model(x, t):
        flat = x.reshape(len(x), -1)
        return ((flat @ matrix).sin() * t[:, None]).reshape(x.shape)

    loss = SlicedScoreMatching(VPSDE(), 3, variance_reduced=variance_reduced)
    draw = loss.draw(x0, step=0)
    found = loss.evaluate(model, draw)
    assert found.shape == (4,) and draw.directions.shape == (3, *x0.shape)
    assert set(draw.directions.unique().tolist()) == {-1.0, 1.0}
    for i in range(4):
        x, t = draw.x_t[i : i + 1], draw.t[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda y, t=t: model(y, t), x).reshape(d, d)
        s, vs = model(x, t).flatten(), draw.directions[:, i].reshape(3, d)
        square = s @ s if variance_reduced else torch.stack([(v @ s) ** 2 for v in vs]).mean()
        wanted = torch.stack([v @ jacobian @ v for v in vs]).mean() + 0.5 * square
        assert float(found[i].detach()) == pytest.approx(float(wanted), rel=1e-11)


def test_a_model_that_does_not_depend_on_x():
    """Its derivative is zero, with parameters or without."""
    bias = torch.ones(2, dtype=F64, requires_grad=True)
    loss, x0 = SlicedScoreMatching(VPSDE()), normal((3, 2))
    assert torch.allclose(loss(lambda x, t: torch.ones_like(x), x0), torch.ones(3, dtype=F64))
    found = loss(lambda x, t: bias.expand(x.shape), x0).sum()
    (slope,) = torch.autograd.grad(found, bias)
    assert float(found.detach()) == pytest.approx(3.0) and torch.allclose(slope, torch.full_like(slope, 3.0))


# --- keyed draws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [VPSDE(), CUBIC], ids=["linear", "non-linear"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_draw_of_an_example_depends_only_on_its_key(dtype, sde):
    """Alone, in a batch, and in another order: noisy data agrees to rounding, times and directions bitwise."""
    loss = SlicedScoreMatching(sde, 2, seed=4)
    x0, order = normal((7, 2, 3), dtype=dtype), torch.tensor([6, 2, 0, 5, 1, 3, 4])
    whole = loss.draw(x0, step=3, indices=torch.arange(100, 107))
    assert whole.t.dtype == whole.x_t.dtype == whole.directions.dtype == dtype
    for rows in (torch.tensor([5]), torch.tensor([2, 3, 4]), order):
        part = loss.draw(x0[rows], step=3, indices=rows + 100)
        assert torch.equal(part.t, whole.t[rows]) and torch.equal(part.directions, whole.directions[:, rows])
        tolerance = 50 * torch.finfo(dtype).eps
        assert torch.allclose(part.x_t, whole.x_t[rows], rtol=tolerance, atol=tolerance)
    next_one = loss.draw(x0, step=4, indices=torch.arange(100, 107))
    assert not torch.equal(next_one.directions, whole.directions) and not (next_one.x_t == whole.x_t).any()
    assert torch.equal(whole.x_t, sde.marginal_sample(x0, whole.t, NoiseSource(4, torch.arange(100, 107)), step=3))


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_a_linear_process_s_draws_are_the_denoising_loss_s(sde):
    x0 = normal((5, 2))
    sliced, denoising = (kind(sde, seed=6).draw(x0, step=2) for kind in (SlicedScoreMatching, DenoisingScoreMatching))
    assert torch.equal(sliced.t, denoising.t) and torch.equal(sliced.x_t, denoising.x_t)


@pytest.mark.parametrize("sde", [VPSDE(), CUBIC], ids=["linear", "non-linear"])
def test_calls_count_as_steps(sde):
    """Calls without a step have new draws, as steps 0, 1, ... An explicit step repeats its draws and is not counted."""
    loss, x0, model = SlicedScoreMatching(sde), normal((5, 2)), network(d=2)[1]
    first = loss(model, x0)
    again = loss(model, x0, step=0)
    second = loss(model, x0)
    assert torch.equal(first, again) and not (first == second).any()
    assert torch.equal(second, loss(model, x0, step=1))
    assert not (SlicedScoreMatching(sde, seed=1)(model, x0, step=0) == first).any()


def test_a_time_may_be_given():
    loss, x0, t = SlicedScoreMatching(VPSDE()), normal((5, 2)), torch.linspace(0.1, 1, 5, dtype=F64)
    free, given = loss.draw(x0, step=0), loss.draw(x0, step=0, t=t)
    assert torch.equal(given.t, t) and torch.equal(given.directions, free.directions)


def test_a_condition_reaches_the_model():
    def model(x, t, *, wanted):
        assert wanted == 3
        return -x

    SlicedScoreMatching(VPSDE())(model, normal((5, 2)), wanted=3)


def test_a_chain_uses_its_instants():
    chain = VPSDE().discretize(100)
    loss = SlicedScoreMatching(chain)
    assert loss.times == ChainTimes()
    draw = loss.draw(normal((50, 2)), step=0)
    assert torch.allclose(draw.t, chain.time(chain.index(draw.t)))


@dataclass(frozen=True)
class Late(TimeDistribution):
    """r = (t - t_min) / (T - t_min) with density (1 + 2 r) / 2; the planted error omits the density."""

    t_min: float = 0.01
    forgets: bool = False

    def times(self, sde, u):
        return self.t_min + (sde.T - self.t_min) * 0.5 * ((1 + 8 * u).sqrt() - 1)

    def density(self, sde, t):
        return torch.ones_like(t) if self.forgets else 0.5 + (t - self.t_min) / (sde.T - self.t_min)


def test_the_distributions_of_time_estimate_the_same_integral():
    """Two means of 20000 losses differ by less than 5 standard errors of their difference (by chance 6e-7)."""
    x0 = normal((20000, 1), "x_0")

    def estimate(times, seed):
        loss = SlicedScoreMatching(VPSDE(), times=times, weighting=lambda t: t, seed=seed)
        found = loss(lambda x, t: -0.8 * x, x0, step=0).detach()
        return float(found.mean()), float(found.std()) / len(found) ** 0.5

    distributions = (UniformTime(0.01), Late(), Late(forgets=True))
    (a, error_a), (b, error_b), (c, error_c) = (estimate(times, k) for k, times in enumerate(distributions))
    assert abs(a - b) < 5 * math.hypot(error_a, error_b)
    assert abs(a - c) > 5 * math.hypot(error_a, error_c)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="projections=0"):
        SlicedScoreMatching(VPSDE(), 0)
    with pytest.raises(ValueError, match=r"weighting='likelyhood' is not known.*did you mean 'likelihood'"):
        SlicedScoreMatching(VPSDE(), weighting="likelyhood")
    with pytest.raises(ValueError, match=r"weighting returned shape \(\)"):
        SlicedScoreMatching(VPSDE(), weighting=lambda t: t.sum())(lambda x, t: -x, normal((3, 2)))
    with pytest.raises(ValueError, match=r"model returned shape \(3,\)"):
        SlicedScoreMatching(VPSDE())(lambda x, t: t, normal((3, 2)))
    with pytest.raises(ValueError, match="was made for"):
        data = GaussianMixture(torch.zeros(1, 2), 1.0)
        SlicedScoreMatching(VPSDE())(data.score(VESDE()), normal((3, 2)))
    with pytest.raises(TypeError, match="x0 has dtype"):
        SlicedScoreMatching(VPSDE())(lambda x, t: -x, torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize("sde", [VPSDE(), CUBIC], ids=["linear", "non-linear"])
def test_times_out_of_range_are_refused(sde):
    loss = SlicedScoreMatching(sde)
    with pytest.raises(ValueError, match="give times in"):
        loss(lambda x, t: -x, normal((2, 1)), t=torch.tensor([0.5, 1.5], dtype=F64))
    with pytest.raises(ValueError, match="give shape"):
        loss(lambda x, t: -x, normal((2, 1)), t=torch.tensor([0.5], dtype=F64))


def test_the_global_dtype_does_not_matter():
    def everything():
        return [
            SlicedScoreMatching(sde, 2, variance_reduced=reduced, weighting="likelihood")(
                lambda x, t: -x, normal((4, 2), dtype=dtype), step=0
            )
            for sde in (*SDES, CUBIC)
            for reduced in (True, False)
            for dtype in (F32, F64)
        ]

    found = everything()
    torch.set_default_dtype(F64)
    try:
        again = everything()
    finally:
        torch.set_default_dtype(F32)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, again, strict=True))
