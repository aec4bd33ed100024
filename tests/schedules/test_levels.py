"""NCSNv2's techniques 1, 2 and 4: the configurations of the paper, brute force, and samples of the noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from scoresde import VESDE
from scoresde.data import largest_distance
from scoresde.experiment.config.loader import load_config
from scoresde.schedules import langevin_step_size, level_ratio, noise_levels

# data, largest level, dimension, steps at a level; published number of levels and step size
PUBLISHED = [
    ("CIFAR-10", 50.0, 3 * 32**2, 5, 232, 6.2e-6),
    ("CelebA", 90.0, 3 * 64**2, 5, 500, 3.3e-6),
    ("church", 140.0, 3 * 96**2, 5, 788, None),  # the published step size, 4.9e-6, does not follow from technique 4
    ("bedroom", 190.0, 3 * 128**2, 3, 1086, 1.8e-6),
    ("FFHQ", 348.0, 3 * 256**2, 3, 2311, 9e-7),
]


@pytest.mark.parametrize(("name", "largest", "dimension", "steps", "count", "size"), PUBLISHED, ids=lambda v: str(v))
def test_configurations_of_the_paper(name, largest, dimension, steps, count, size):
    levels = noise_levels(largest, 0.01, dimension)
    assert abs(len(levels) - count) <= 1
    if size is not None:
        found = langevin_step_size(float(levels[0] / levels[1]), steps, smallest=0.01)
        assert found == pytest.approx(size, rel=0.03)


@pytest.mark.parametrize(("name", "largest", "dimension"), [("cifar10", 50.0, 3072), ("bedroom", 190.0, 3 * 128**2)])
def test_configs_of_this_repository_have_these_steps(name, largest, dimension):
    """The corrector's snr is that of the step size: e = 2 (snr sigma)^2."""
    config = load_config(f"configs/ve/ncsnv2/{name}.py")
    corrector = config.samplers["annealed-langevin"].corrector
    levels = noise_levels(largest, 0.01, dimension)
    size = langevin_step_size(float(levels[0] / levels[1]), corrector.steps, smallest=0.01)
    assert math.sqrt(size / 2.0) / 0.01 == pytest.approx(corrector.snr, rel=0.02)
    assert abs(config.model.steps - len(levels)) <= 1


@pytest.mark.parametrize("dimension", [5, 64, 3072, 10**7])
@pytest.mark.parametrize("overlap", [0.05, 0.5, 0.9])
def test_the_ratio_has_the_overlap(dimension, overlap):
    gamma = level_ratio(dimension, overlap=overlap)
    root = math.sqrt(2.0 * dimension)
    found = norm.cdf(root * (gamma - 1) + 3 * gamma) - norm.cdf(root * (gamma - 1) - 3 * gamma)
    assert gamma > 1.0 and found == pytest.approx(overlap, abs=1e-6)


def test_the_overlap_is_that_of_lengths_of_noise():
    """Lengths at one level within three standard deviations of the mean length at the next: 2e4 draws, D = 256."""
    dimension, overlap = 256, 0.5665
    gamma = level_ratio(dimension, overlap=overlap)
    lengths = torch.randn(20_000, dimension, generator=torch.Generator().manual_seed(0)).norm(dim=1)
    middle, width = gamma * dimension**0.5, 3.0 * gamma / math.sqrt(2.0)
    inside = float((abs(lengths - middle) < width).double().mean())
    assert inside == pytest.approx(overlap, abs=0.03)  # the formula's approximation of the lengths; 4 errors are 0.014


def test_levels_are_geometric_and_those_of_a_chain():
    levels = noise_levels(50.0, 0.01, 3072)
    assert float(levels[0]) == 50.0 and float(levels[-1]) == 0.01
    ratios = levels[:-1] / levels[1:]
    assert float(ratios.max()) <= level_ratio(3072) + 1e-12
    assert float(ratios.max() - ratios.min()) < 1e-12
    chain = VESDE(sigma_min=0.01, sigma_max=50.0).discretize(len(levels))
    found = chain.sigma(chain.time(torch.arange(len(levels)))).flip(0)
    torch.testing.assert_close(found, levels, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("ratio", [1.004, 1.04, 1.5, 6.0])
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_the_step_size_is_the_best_of_a_fine_grid(ratio, steps):
    e = np.exp(np.linspace(math.log(1e-9), 0.0, 200_001))
    q = 2.0 * e / (1.0 - (1.0 - e) ** 2)
    found = np.abs((1.0 - e) ** (2 * steps) * (ratio**2 - q) + q - 1.0)
    assert langevin_step_size(ratio, steps) == pytest.approx(e[found.argmin()], rel=1e-3)


def test_step_sizes_are_in_units_of_the_smallest_variance():
    assert langevin_step_size(1.04, 5, smallest=0.01) == pytest.approx(1e-4 * langevin_step_size(1.04, 5), rel=1e-12)


def test_largest_distance():
    x = torch.randn(300, 2, 3, generator=torch.Generator().manual_seed(0))
    pairs = torch.pdist(x.flatten(1)).sort().values
    assert largest_distance(x) == pytest.approx(float(pairs[-1]), rel=1e-5)
    for quantile in (1e-9, 0.5, 0.99, 0.99999):
        found = largest_distance(x, quantile=quantile)
        assert found == pytest.approx(float(np.quantile(pairs.numpy(), quantile, method="inverted_cdf")), rel=1e-5)
    some = largest_distance(x, most=50)
    assert some == largest_distance(x, most=50) <= largest_distance(x)
    assert largest_distance(torch.tensor([1.0, 4.0])) == 3.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: level_ratio(4), "dimension=4 is not allowed: give a whole number >= 5"),
        (lambda: level_ratio(64, overlap=1.0), "overlap=1.0"),
        (lambda: noise_levels(0.01, 50.0, 64), r"largest=0\.01 .* > 50\.0 \(smallest\)"),
        (lambda: noise_levels(1.0, 0.0, 64), "smallest=0.0"),
        (lambda: langevin_step_size(1.0, 5), "ratio=1.0"),
        (lambda: langevin_step_size(1.1, 0), "steps=0"),
        (lambda: langevin_step_size(1.1, 5, smallest=-1.0), "smallest=-1.0"),
        (lambda: largest_distance(torch.zeros(1, 2)), "at least two events"),
        (lambda: largest_distance(torch.zeros(2, 2), quantile=0.0), "quantile=0.0"),
        (lambda: largest_distance(torch.tensor([[0.0], [torch.nan]])), "non-finite"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()
