"""Invalid arguments of noise distributions raise errors that name the argument."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.noise_distributions import (
    CenteredGamma,
    Gaussian,
    GeneralizedNormal,
    NormalMixture,
    overlapping_scales,
)
from tests.noise_distributions_common import HEAVY, SKEWED, draw

# invalid arguments


@pytest.mark.parametrize(
    "bad", [{"beta": 0.0}, {"smallest": 0.0}, {"largest": 0.01}, {"overlap": 1.0}, {"overlap": 0.0}], ids=repr
)
def test_bad_levels(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name}="):
        overlapping_scales(**({"beta": 1.0, "largest": 10.0, "smallest": 0.01, "event_shape": (2,)} | bad))


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1", None, True, torch.zeros(2), torch.ones(2, 2)])
def test_bad_scales(value):
    for name, make in (("std", Gaussian), ("std", lambda v: GeneralizedNormal(1.0, v)), ("k", CenteredGamma.standard)):
        with pytest.raises(ValueError, match=f"{name}="):
            make(value)
    with pytest.raises(ValueError, match="theta="):
        CenteredGamma(1.0, value)


@pytest.mark.parametrize("beta", [0.0, -1.0, 0.01, 101.0, math.nan, "2", None, torch.tensor(2.0)])
def test_bad_powers(beta):
    with pytest.raises(ValueError, match="beta="):
        GeneralizedNormal(beta)


@pytest.mark.parametrize(
    ("weights", "means", "stds", "message"),
    [
        ([0.5, 0.5], [0.0, 1.0], [1.0, 1.0], "mean 0.5"),
        ([0.5, 0.5], [-1.0, 1.0], [1.0, 1.0], "variance 2"),
        ([0.5, -0.5], [0.0, 0.0], [1.0, 1.0], "weights="),
        ([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], "weights="),
        ([0.5, math.nan], [0.0, 0.0], [1.0, 1.0], "weights="),
        ([1.0], [math.inf], [1.0], "means="),
        ([1.0], [0.0], [0.0], "stds="),
        ([0.5, 0.5], [0.0], [1.0, 1.0], "means has shape"),
        ([0.5, 0.5], [0.0, 0.0], [[1.0], [1.0]], "stds has shape"),
        ([], [], [], "weights has shape"),
    ],
)
def test_bad_mixtures(weights, means, stds, message):
    with pytest.raises(ValueError, match=message):
        NormalMixture(weights, means, stds)


def test_mixtures_store_python_numbers():
    noise = NormalMixture(torch.tensor([1.0, 3.0]), [0.0, 0.0], [1.0, 1.0])
    assert noise.weights == (0.25, 0.75) and noise == NormalMixture([1, 3], [0, 0], [1, 1])
    assert repr(noise) == "NormalMixture(weights=(0.25, 0.75), means=(0.0, 0.0), stds=(1.0, 1.0))"
    assert float(SKEWED.variance) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "b", [[1.0], 1.0, torch.tensor(1.0), torch.ones(0), torch.ones(1, 1, 1), torch.tensor([1.0, -1.0]), torch.zeros(2),
          torch.tensor([math.nan]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])],
)  # fmt: skip
@pytest.mark.parametrize("noise", [Gaussian(), GeneralizedNormal(1.0), CenteredGamma(1.0, 1.0), HEAVY])
def test_bad_weights(noise, b):
    with pytest.raises(ValueError, match=r"^b"):
        noise.sum_of_steps(b)


@pytest.mark.parametrize("noise", [Gaussian(), GeneralizedNormal(1.0), CenteredGamma(1.0, 1.0), HEAVY])
def test_bad_events(noise):
    for evaluate in (noise.log_prob, noise.score):
        with pytest.raises(TypeError, match="z has dtype"):
            evaluate(torch.ones(3, dtype=torch.int64))
        with pytest.raises(ValueError, match="z has shape"):
            evaluate(torch.ones(0, 2))


def test_a_parameter_for_another_batch_is_refused():
    for noise in (Gaussian(torch.ones(3)), GeneralizedNormal(1.0, torch.ones(3)), CenteredGamma(torch.ones(3), 1.0)):
        for use in (lambda noise: draw(noise, 4, (2,)), lambda noise: noise.log_prob(torch.ones(4, 2))):
            with pytest.raises(ValueError, match=r"\(3,\): give shape \(\) or \(4,\)"):
                use(noise)
    with pytest.raises(ValueError, match=r"\(3,\): give shape \(\) or \(4,\)"):
        draw(HEAVY.sum_of_steps(torch.ones(3, 2)), 4, (2,))
