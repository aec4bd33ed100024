"""Measured errors of denoisers against the closed forms of Gaussian data, and against the identity of exact scores."""

from __future__ import annotations

import pytest
import torch

from scoresde import VESDE, VPSDE, GaussianMixture
from scoresde.conditions import Vector
from scoresde.networks import MLP
from scoresde.score import DenoisingErrors, ScoreModel, denoising_errors
from scoresde.sde import CriticallyDampedLangevin

TIMES = torch.tensor([0.001, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
STD = 0.5
GAUSSIAN = GaussianMixture(torch.zeros(1, 3), torch.tensor([STD]))
MIXTURE = GaussianMixture(torch.tensor([[-1.0, 0.5], [2.0, 0.0]]), torch.tensor([0.3, 0.6]))
MANY = 20_000
LIMIT = 4.5  # standard errors: 20 comparisons raise a false alarm with a probability of 1.4e-4


def measure(sde, data=GAUSSIAN, count=MANY, factor=1.0, **options):
    exact, times = data.score(sde), options.pop("times", TIMES)
    x = data.sample(count, dtype=options.pop("dtype", torch.float32))
    return denoising_errors(sde, lambda x, t: factor * exact(x, t), x, times, **options)


def deviation(found, wanted):
    """Largest distances in standard errors, of the data's error and of the noise's square."""
    data = (found.data_error - wanted.data_error).abs() / found.data_standard_error
    noise = (found.noise_square - wanted.noise_square).abs() / found.noise_standard_error
    return float(data.max()), float(noise.max())


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), VPSDE().discretize(100)], ids=lambda sde: type(sde).__name__)
def test_gaussian_data_has_the_closed_form(sde):
    wanted = DenoisingErrors.of_gaussian(sde, TIMES, std=STD)
    assert max(deviation(measure(sde), wanted)) < LIMIT
    assert min(deviation(measure(sde, factor=1.1), wanted)) > LIMIT  # another score is seen


def test_closed_form_of_gaussian_data():
    found = DenoisingErrors.of_gaussian(VESDE(sigma_min=0.01, sigma_max=2.0), torch.tensor([1.0]), std=1.0)
    assert float(found.data_error) == pytest.approx(0.8, abs=1e-12)  # 1 - 1/(1 + 4)
    assert float(found.noise_square) == pytest.approx(0.8, abs=1e-12)  # 4/(1 + 4)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_noise_is_measured_well_where_it_is_close_to_one(shift):
    """At T, 1 - Gamma is 4.5e-5 times the variance of the data, and the plain mean has a standard error of 3e-3."""
    data = GaussianMixture(torch.tensor([[-1.0, 0.5], [2.0, 0.0]]) + shift, torch.tensor(0.3))
    found = measure(VPSDE(), data, times=TIMES[-1:], dtype=torch.float64)
    sigma, alpha = (f(TIMES[-1:]) for f in (VPSDE().sigma, VPSDE().alpha))
    left = (alpha / sigma) ** 2 * found.data_error
    torch.testing.assert_close(1.0 - found.noise_square, left, rtol=0.05, atol=0.0)
    assert float(found.noise_standard_error) < 0.02 * float(left)


def test_an_exact_score_has_one_error():
    """data_error = (sigma / alpha)^2 (1 - noise_square); a score with an error has a larger one."""
    sde = VPSDE()
    scale = (sde.sigma(TIMES) / sde.alpha(TIMES)) ** 2
    for factor, agrees in ((1.0, True), (0.8, False)):
        found = measure(sde, MIXTURE, factor=factor)
        apart = (found.data_error - scale * (1.0 - found.noise_square)).abs()
        error = found.data_standard_error + scale * found.noise_standard_error
        assert bool((apart < LIMIT * error).all()) == agrees


def test_parts_of_the_data_give_the_same_as_the_whole():
    sde, x = VPSDE(), MIXTURE.sample(24)
    whole = denoising_errors(sde, MIXTURE.score(sde), x, TIMES)
    for size in (5, 16):
        part = denoising_errors(sde, MIXTURE.score(sde), x, TIMES, batch_size=size)
        torch.testing.assert_close(part.data_error, whole.data_error, rtol=1e-6, atol=0.0)
    shards = [denoising_errors(sde, MIXTURE.score(sde), x[i : i + 12], TIMES, first=i) for i in (0, 12)]
    mean = 0.5 * (shards[0].noise_square + shards[1].noise_square)
    torch.testing.assert_close(mean, whole.noise_square, rtol=0.05, atol=0.0)  # of two control variates
    mean = 0.5 * (shards[0].data_error + shards[1].data_error)
    torch.testing.assert_close(mean, whole.data_error, rtol=1e-6, atol=0.0)
    alone = denoising_errors(sde, MIXTURE.score(sde), x, TIMES[2:3])
    torch.testing.assert_close(alone.data_error, whole.data_error[2:3], rtol=1e-6, atol=0.0)


def test_the_spread_of_the_error_for_gaussian_data():
    """e^2 - (V / r)^2 (z^2 - 1) has the variance 2 (1-k)^4 s^4 + 4 k^2 (1-k)^2 r^2 s^2 for each coordinate, k = V / r^2."""
    sde, std, d = VPSDE(), 0.5, 4
    data = GaussianMixture(torch.zeros(1, d, dtype=torch.float64), std)
    found = denoising_errors(sde, data.score(sde), data.sample(4000, seed=3), TIMES)
    r = sde.sigma(found.times) / sde.alpha(found.times)
    k = std**2 / (std**2 + r**2)
    wanted = ((2 * (1 - k) ** 4 * std**4 + 4 * (k * (1 - k) * r * std) ** 2) / d).sqrt()
    torch.testing.assert_close(found.data_spread, wanted, rtol=0.1, atol=1e-5)


def test_conditions_go_with_their_samples():
    sde = VPSDE()
    model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"c": Vector(1)}), sde)
    x, c = MIXTURE.sample(6), torch.arange(6.0)[:, None]
    whole = denoising_errors(sde, model, x, TIMES, condition={"c": c})
    parts = denoising_errors(sde, model, x, TIMES, condition={"c": c}, batch_size=4)
    torch.testing.assert_close(parts.data_error, whole.data_error, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)])
def test_events_of_any_shape(event, dtype):
    sde, x = VPSDE(), torch.linspace(-1.0, 1.0, 4, dtype=dtype).reshape(4, *(1,) * len(event)).expand(4, *event)
    found = denoising_errors(sde, lambda x, t: -x, x, TIMES)
    assert found.times.dtype == found.data_error.dtype == torch.float64 and found.samples == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"times": torch.tensor([0.0, 0.5])}, "sigma > 0"),
        ({"times": torch.tensor([0.5, 0.1])}, "ascend"),
        ({"times": torch.tensor([0.5, 0.5])}, "ascend"),
        ({"times": torch.tensor([0.5, 1.5])}, "times has times from 0.5 to 1.5"),
        ({"times": torch.tensor(0.5)}, "shape"),
        ({"x": torch.zeros(1, 2)}, "two samples"),
        ({"x": torch.full((2, 2), torch.nan)}, "non-finite"),
        ({"score": lambda x, t: x * torch.nan}, "score holds non-finite values .* at t=0.001"),
        ({"score": MIXTURE.score(VESDE())}, "VESDE"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_refusals(change, words):
    arguments = {"score": MIXTURE.score(VPSDE()), "x": MIXTURE.sample(4), "times": TIMES}
    with pytest.raises(ValueError, match=words):
        denoising_errors(VPSDE(), **{**arguments, **change})


def test_a_process_of_matrices_is_refused():
    sde = CriticallyDampedLangevin()
    with pytest.raises(TypeError, match="scalar coefficients"):
        denoising_errors(sde, lambda x, t: x, torch.zeros(2, 2), TIMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_error": torch.ones(2)}, r"data_error has shape \(2,\): give \(3,\)"),
        ({"noise_square": torch.tensor([1.0, torch.nan, 1.0])}, "noise_square"),
        ({"noise_square": -torch.ones(3)}, "noise_square"),
        ({"samples": -1}, "samples=-1"),
    ],
)
def test_values_of_a_record(change, words):
    values = {"times": torch.tensor([0.1, 0.2, 0.3]), "data_error": torch.ones(3), "noise_square": torch.ones(3)}
    with pytest.raises(ValueError, match=words):
        DenoisingErrors(**{**values, **change})
