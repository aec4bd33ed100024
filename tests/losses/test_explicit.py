"""Explicit score matching against closed forms, and as the mean of the sliced loss over its directions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.losses import ExplicitScoreMatching, SlicedDraw, SlicedScoreMatching, UniformTime
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, NonlinearSDE
from tests.losses.common import F64, SDES, gaussian_score, normal

CUBIC = NonlinearSDE(lambda x, t: -(x**3), lambda t: torch.ones_like(t), steps=40)
FOUR = GaussianMixture(
    torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]]), 0.3, torch.tensor([0.1, 0.2, 0.3, 0.4])
)


def swirl(x, t):
    """A score with a full Jacobian."""
    flat = x.reshape(len(x), -1)
    matrix = normal((flat.shape[1], flat.shape[1]), "matrix")
    return ((flat @ matrix).sin() * t[:, None]).reshape(x.shape)


def at_the_true_score(factor: float) -> tuple[float, float]:
    """The loss at ``factor`` times the exact score, and -E ||score||^2 / 2, for sigma = 0.5 and 2e5 draws."""
    sde, t = VESDE(0.01, 5.0), math.log(50.0) / math.log(500.0)
    x0, score = FOUR.sample(200_000, seed=3, dtype=F64), FOUR.score(sde)
    times = torch.full((len(x0),), t, dtype=F64)
    loss = ExplicitScoreMatching(sde)
    draw = loss.draw(x0, t=times, step=0)
    with torch.no_grad():
        value = loss.evaluate(lambda x, t: factor * score(x, t), draw).mean()
    return float(value), -0.5 * float((score(draw.x_t, times) ** 2).sum(1).mean())


def test_the_value_at_the_true_score():
    """-E ||score||^2 / 2 within 1 %. Twice the score costs 0 on average, and so would a loss without its factor 1/2."""
    found, wanted = at_the_true_score(1.0)
    assert found == pytest.approx(wanted, rel=0.01) and wanted < -2.8
    assert at_the_true_score(2.0)[0] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("event", [(), (3,), (1, 2, 3)])
def test_the_loss_is_its_formula(event):
    """The trace of the full Jacobian and half of the squared norm, for any event shape."""
    x0, d = normal((4, *event)), math.prod(event)
    loss = ExplicitScoreMatching(VPSDE())
    draw = loss.draw(x0, step=0)
    found = loss.evaluate(swirl, draw).detach()
    assert found.shape == (4,) and draw.directions.shape == (d, *x0.shape)
    for i in range(4):
        x, t = draw.x_t[i : i + 1], draw.t[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda y, t=t: swirl(y, t), x).reshape(d, d)
        s = swirl(x, t).flatten()
        assert float(found[i]) == pytest.approx(float(jacobian.trace() + 0.5 * s @ s), rel=1e-11)


@pytest.mark.parametrize("weighting", ["uniform", "likelihood"])
@pytest.mark.parametrize("sde", [*SDES, CriticallyDampedLangevin(), CUBIC], ids=lambda sde: type(sde).__name__)
def test_it_is_the_mean_of_the_sliced_loss_over_all_signs(sde, weighting):
    """The same times and states, and the directions (+-1, ..., +-1) instead of unit vectors."""
    x0 = normal((5,) if isinstance(sde, CriticallyDampedLangevin) else (5, 2))
    explicit, sliced = (kind(sde, weighting=weighting, seed=4) for kind in (ExplicitScoreMatching, SlicedScoreMatching))
    draw, other = explicit.draw(x0, step=2), sliced.draw(x0, step=2)
    assert torch.equal(draw.x_t, other.x_t) and torch.equal(draw.t, other.t)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=F64)[:, None].expand(4, 5, 2)
    wanted = sliced.evaluate(swirl, SlicedDraw(other.t, other.x_t, signs))
    assert torch.allclose(explicit.evaluate(swirl, draw), wanted, rtol=1e-11)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_gradients_vanish_at_the_true_score(sde):
    """The mean over many states is smallest at the factor 1 of a Gaussian score, where the minimum is -d / (2 variance)."""
    t = torch.full((20_000,), 0.4, dtype=F64)
    source = NoiseSource.of(5, len(t))
    std = (sde.alpha(t) ** 2 * 0.36 + sde.sigma(t) ** 2).sqrt()[:, None]
    z = source.normal((2,), step=0, purpose="x", dtype=F64)
    z = torch.cat((z, -z))
    z = z / (z**2).mean().sqrt()  # the second moment is exact
    t, std = torch.cat((t, t)), torch.cat((std, std))
    loss, factor = ExplicitScoreMatching(sde), torch.tensor(1.0, dtype=F64, requires_grad=True)
    directions = loss.draw(z, t=t, step=0).directions
    value = loss.evaluate(lambda x, t: factor * gaussian_score(sde)(x, t), SlicedDraw(t, std * z, directions)).mean()
    (slope,) = torch.autograd.grad(value, factor)
    assert float(value.detach()) == pytest.approx(-1.0 / float(std[0] ** 2), rel=1e-10)
    assert abs(float(slope)) < 1e-9 / float(std[0] ** 2)


def test_it_prints_the_call_that_makes_it():
    loss = ExplicitScoreMatching(VPSDE(), weighting="likelihood", seed=3)
    names = {"ExplicitScoreMatching": ExplicitScoreMatching, "VPSDE": VPSDE, "UniformTime": UniformTime}
    again = eval(repr(loss), names)
    assert repr(again) == repr(loss) and again.seed == 3 and again.weighting == "likelihood"
