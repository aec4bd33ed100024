"""Bounds by chains that are fitted to a score: times, variances, probabilities, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from scoresde import GaussianMixture
from scoresde.likelihood import variational_bound
from scoresde.samplers.grids import log_noise, uniform
from scoresde.schedules import ChainBound, FittedBound
from scoresde.score import AnalyticVariance, GaussianVariance
from scoresde.sde import VESDE, VPSDE, CosineVPSDE, CriticallyDampedLangevin, SubVPSDE

F64 = torch.float64
STD = 0.5
GAUSSIAN = GaussianMixture(torch.zeros(1, 2, dtype=F64), STD)
MIXTURE = GaussianMixture(torch.tensor([[-1.0] * 4, [1.0] * 4], dtype=F64), 0.2)


def score_of(data, sde):
    """The exact score, without the variance that a mixture's score also has."""
    exact = data.score(sde)
    return lambda x, t: exact(x, t)


@pytest.mark.parametrize(
    "sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 20.0), VPSDE().discretize(60)], ids=lambda s: str(s)[:12]
)
@pytest.mark.parametrize("method", [ChainBound(20, uniform), ChainBound(20, None), ChainBound(30, uniform, draws=5)])
def test_every_process_and_grid(sde, method):
    score, x = score_of(MIXTURE, sde), MIXTURE.sample(200, seed=1)
    bound = method.fit(sde, score, MIXTURE.sample(200), t_min=1e-4)
    found = bound(sde, score, x)
    gap = (MIXTURE.log_prob(x) - found.log_prob).double()
    error = float(gap.std()) / math.sqrt(len(x))
    assert -3.0 * error < float(gap.mean()) < 0.6 + 3.0 * error
    assert found.nfe == 1 + (method.draws or method.count) and len(found.times) == method.count + 1


def test_the_measured_variance_of_gaussian_data_gives_the_entropy():
    sde, score, x = VPSDE(), score_of(GAUSSIAN, VPSDE()), GAUSSIAN.sample(4000, seed=1)
    bound = ChainBound(5, uniform).fit(sde, score, GAUSSIAN.sample(4000))
    gap = GAUSSIAN.log_prob(x) - bound(sde, score, x).log_prob
    assert abs(float(gap.mean())) < 4.0 * float(gap.std()) / math.sqrt(len(x)) + 2e-3


def test_the_best_times_are_the_best():
    sde, score, x = VPSDE(), score_of(MIXTURE, VPSDE()), MIXTURE.sample(1000, seed=1)
    mean = {
        grid: float(ChainBound(8, grid).fit(sde, score, MIXTURE.sample(500))(sde, score, x).log_prob.mean())
        for grid in (None, uniform, log_noise)
    }
    assert mean[None] > max(mean[uniform], mean[log_noise]) + 0.05


def test_the_probabilities_reduce_the_error_of_drawn_steps():
    """A tenth of the steps has a smaller error than with equal probabilities, and the mean of all steps."""
    sde, score, x = VPSDE(), score_of(MIXTURE, VPSDE()), MIXTURE.sample(300, seed=1)
    bound = ChainBound(200, uniform, draws=20, replicates=4).fit(sde, score, MIXTURE.sample(500))
    drawn = bound(sde, score, x)
    options = {"variance": bound.variance, "replicates": 4}
    equal = variational_bound(sde, score, x, bound.times, draws=20, **options)
    whole = variational_bound(sde, score, x, bound.times, variance=bound.variance, replicates=1, seed=1)
    off = (drawn.log_prob - whole.log_prob).double()
    assert abs(float(off.mean())) < 3.5 * float(off.std()) / math.sqrt(len(x))
    assert float(drawn.standard_error.square().mean()) < 0.5 * float(equal.standard_error.square().mean())


def test_probabilities_of_gaussian_data_with_a_wrong_variance():
    """p ~ Delta / (1 + Delta V) sqrt((E e^2 - V)^2 + S^2) with the closed forms of both."""
    sde, v = VPSDE(), GaussianVariance(1.0)
    bound = ChainBound(40, variance=v, draws=4).fit(sde, score_of(GAUSSIAN, sde), GAUSSIAN.sample(2000))
    level = sde.sigma(bound.times) / sde.alpha(bound.times)
    delta, r = -(level**-2).diff(), level[1:]
    k = STD**2 / (STD**2 + r**2)
    spread = ((2 * (1 - k) ** 4 * STD**4 + 4 * (k * (1 - k) * r * STD) ** 2) / 2).sqrt()
    wanted = delta / (1 + delta * v(r)) * ((k * r**2 - v(r)) ** 2 + spread**2).sqrt()
    wanted = (wanted / wanted.sum()).clamp(min=1e-3 / 40)
    torch.testing.assert_close(bound.probabilities, wanted / wanted.sum(), rtol=0.1, atol=0.01)  # the largest is 0.08
    assert float(wanted.max()) > 0.05


def test_a_score_with_a_variance_is_used_with_it():
    sde, x = VPSDE(), MIXTURE.sample(50)
    method = ChainBound(10)
    bound = method.fit(sde, MIXTURE.score(sde), x)
    assert bound.variance == "model" and "variance 'model'" in bound.summary
    assert FittedBound.from_json(bound.to_json(), method).variance == "model"
    assert isinstance(method.fit(sde, score_of(MIXTURE, sde), x).variance, AnalyticVariance)
    assert isinstance(ChainBound(10, variance="measured").fit(sde, MIXTURE.score(sde), x).variance, AnalyticVariance)


def test_a_variance_of_the_score_has_the_measured_one_as_its_control():
    """Few drawn steps have the same mean with and without it, and less than half of the squared error with it."""
    sde, score, x = VPSDE(), MIXTURE.score(VPSDE()), MIXTURE.sample(300, seed=1)
    method = ChainBound(200, draws=10, replicates=4)
    bound = method.fit(sde, score, MIXTURE.sample(300))
    assert bound.variance == "model" and isinstance(bound.control, AnalyticVariance)
    read = FittedBound.from_json(bound.to_json(), method)
    assert read.variance == "model" and torch.equal(read.control.shares, bound.control.shares)
    found, plain = bound(sde, score, x), dataclasses.replace(bound, control=None)(sde, score, x, seed=1)
    off = (found.log_prob - plain.log_prob).double()
    assert abs(float(off.mean())) < 3.5 * float(off.std()) / math.sqrt(len(x))
    assert float(found.standard_error.square().mean()) < 0.5 * float(plain.standard_error.square().mean())
    with pytest.raises(
        ValueError, match=r"control=GaussianVariance.* is not allowed with a variance that is a function"
    ):
        variational_bound(sde, score, x, bound.times, control=GaussianVariance(1.0))


@pytest.mark.parametrize(
    "method", [ChainBound(12, None), ChainBound(20, draws=3), ChainBound(4, variance=GaussianVariance(0.3))]
)
def test_a_fit_can_be_saved(method):
    sde, score, x = VPSDE(), score_of(MIXTURE, VPSDE()), MIXTURE.sample(8, seed=1)
    bound = method.fit(sde, score, MIXTURE.sample(64))
    again = FittedBound.from_json(bound.to_json(), method)
    assert bound(sde, score, x).log_prob.equal(again(sde, score, x).log_prob) and again.summary == bound.summary
    for text in ("{", "[]", "{}", bound.to_json().replace("times", "instants")):
        with pytest.raises(ValueError, match="does not describe a FittedBound"):
            FittedBound.from_json(text, method)
    with pytest.raises(ValueError, match="does not describe a FittedBound: it is not a fit of"):
        FittedBound.from_json(bound.to_json(), ChainBound(7, draws=2))


CHAIN = VPSDE().discretize(50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"steps": 2.5}, "steps=2.5 is not allowed"),
        ({"steps": (0.1, 1.0)}, "do not decrease"),
        ({"steps": 100, "grid": None}, "steps=100 is not allowed with grid=None.* at most 99"),
        ({"steps": 1000, "draws": 1000}, "draws=1000 is not allowed with 1000 steps: give fewer, or None"),
        ({"grid": None}, "steps=None is not allowed with grid=None"),
        ({"draws": 0}, "draws=0"),
        ({"replicates": 0}, "replicates=0"),
        ({"events": 1}, "events=1"),
        ({"variance": "upper"}, "variance='upper' is not allowed: give 'model', 'measured', or a function"),
    ],
)
def test_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        ChainBound(**arguments)


@pytest.mark.parametrize(
    ("sde", "method", "error", "message"),
    [
        (CriticallyDampedLangevin(), ChainBound(5), TypeError, "does not have scalar coefficients"),
        (
            CHAIN,
            ChainBound(60, uniform),
            ValueError,
            "steps=60 .* one of the 50 instants of the chain; give fewer steps, None for all 49 steps",
        ),
        (
            CHAIN,
            ChainBound(60, None),
            ValueError,
            "steps=60 is not allowed: the chain of 50 instants has .* times with noise",
        ),
        (CHAIN, ChainBound((1.0, 0.51, 0.0)), ValueError, "t=0.51 is not one of the 50 instants of the chain"),
        (VPSDE(), ChainBound((1.5, 0.5)), ValueError, "begin at T"),
        (VPSDE(), ChainBound((0.9, 0.5)), ValueError, "begin at T"),
        (VPSDE(), ChainBound((1.0, 0.5, 0.0)), ValueError, "has no noise at t=0"),
    ],
)
def test_refused_for_a_process(sde, method, error, message):
    with pytest.raises(error, match=message):
        method.check(sde)
    with pytest.raises(error, match=message):
        method.fit(sde, lambda x, t: -x, torch.zeros(2, 1))


def test_all_steps_of_a_chain():
    """None is all of them, as is their number with any grid; a process in continuous time has 1000."""
    score = GaussianMixture(torch.zeros(1, 1), 1.0).score(CHAIN)
    x = torch.linspace(-1.0, 1.0, 8)[:, None]
    for steps, grid in ((None, log_noise), (49, log_noise), (49, uniform)):
        found = ChainBound(steps, grid).fit(CHAIN, score, x)
        assert torch.equal(found.times, CHAIN.time(torch.arange(50)))
        assert torch.equal(FittedBound.from_json(found.to_json(), ChainBound(steps, grid)).times, found.times)
    assert ChainBound().of(VPSDE()).count == 1000
    with pytest.raises(ValueError, match="draws=49 is not allowed with 49 steps"):
        ChainBound(draws=49).check(CHAIN)


@pytest.mark.parametrize("steps", [2, 5, 10, 20, 50, 200, 998])
def test_any_number_of_steps_of_a_chain(steps):
    """The times of a grid are closer than the instants of a cosine chain at one of its ends."""
    chain = CosineVPSDE().discretize(1000)
    times = ChainBound(steps, variance=GaussianVariance(1.0)).fit(chain, lambda x, t: -x, torch.zeros(2, 1)).times
    index = chain.index(times)
    assert len(times) == steps + 1 and bool((index.diff() > 0).all()) and int(index[-1]) == 999
    assert torch.allclose(times, chain.time(index))
