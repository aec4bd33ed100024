"""Relative distances: closed forms, equal sizes, and the same ratio in any units."""

from __future__ import annotations

import pytest
import torch

from scoresde.metrics import Moments, RelativeDistance, frechet_distance, halves, kernel_distance, relative_distance
from scoresde.noise import NoiseSource


def normal(seed, count, d=3):
    return NoiseSource.of(seed, count).normal((d,), step=0, purpose="data", dtype=torch.float64)


def frechet(x, y):
    return frechet_distance(Moments.of(x), Moments.of(y))


def test_halves_are_disjoint_and_complete():
    for count in (2, 3, 10, 101):
        one, other = halves(count)
        assert (len(one), len(other)) == (count // 2, count - count // 2)
        assert torch.cat([one, other]).sort().values.tolist() == list(range(count))
    assert halves(101)[0].tolist() == halves(101)[0].tolist() != halves(101, seed=1)[0].tolist()


@pytest.mark.parametrize(("count", "k"), [(50, 50), (200, 100), (100, 100)])
def test_both_distances_are_of_equal_numbers(count, k):
    """A distance that returns the sizes: those of samples and data agree, and no event is on both sides."""
    seen, data = [], normal(0, 201)

    def sizes(x, y):
        seen.append((x, y))
        return float(len(x))

    found = relative_distance(normal(1, count), data, sizes, halvings=2)
    assert (found.count, found.reference_count, found.value, found.yardstick, found.ratio) == (k, 101, k, k, 1.0)
    for (_, half), (other, same) in (seen[:2], seen[2:]):
        assert torch.equal(half, same) and not (other[:, None] == half[None]).all(2).any()
    assert found.halvings == 2 and not torch.equal(seen[0][1], seen[2][1])


def test_samples_of_the_same_distribution_have_ratio_one():
    """On average over 20 pairs. Planted: at unequal sizes, the bias of the smaller set makes the ratio twice as large."""
    ratios, unequal = [], []
    for seed in range(20):
        samples, data = normal(2 * seed, 100), normal(2 * seed + 1, 2000)
        ratios.append(relative_distance(samples, data, frechet, halvings=2).ratio)
        unequal.append(frechet(samples, data[:1000]) / frechet(data[:1000], data[1000:]))
    assert sum(ratios) / 20 == pytest.approx(1.0, abs=0.25)
    assert sum(unequal) / 20 > 2.0


def test_the_ratio_has_no_units():
    samples, data = normal(0, 100) + 0.5, normal(1, 1000)
    one, other = (relative_distance(c * samples, c * data, frechet) for c in (1.0, 1000.0))
    assert other.ratio == pytest.approx(one.ratio, rel=1e-6) and other.value == pytest.approx(1e6 * one.value, rel=1e-6)
    assert one.ratio > 10.0


def test_without_a_yardstick_there_is_no_ratio():
    assert RelativeDistance(1.0, 0.0, 5, 5, 1).ratio is None
    assert relative_distance(normal(0, 4), torch.zeros(8, 3), frechet).ratio is None


def test_the_kernel_distance_over_all_pairs_is_that_of_the_kernel_matrix():
    """MMD^2 = mean K_xx + mean K_yy - 2 mean K_xy, with all pairs; 0 for equal sets."""
    x, y = normal(0, 7), normal(1, 5) + 1.0
    kernel = [((a @ b.T / 3 + 1) ** 3).mean() for a, b in ((x, x), (y, y), (x, y))]
    assert kernel_distance(x, y).biased == pytest.approx(float(kernel[0] + kernel[1] - 2 * kernel[2]), rel=1e-12)
    assert kernel_distance(x, x).biased == pytest.approx(0.0, abs=1e-12) and kernel_distance(x, x).value < 0.0
    assert kernel_distance(x[:2], y).biased > 0.0


def test_refusals():
    with pytest.raises(ValueError, match="data has 3 events: two halves need 4"):
        relative_distance(normal(0, 4), normal(1, 3), frechet)
    with pytest.raises(ValueError, match="samples has 2 features, data 3"):
        relative_distance(normal(0, 4, d=2), normal(1, 8), frechet)
    with pytest.raises(ValueError, match="halvings=0"):
        relative_distance(normal(0, 4), normal(1, 8), frechet, halvings=0)
    with pytest.raises(ValueError, match="count=1"):
        halves(1)
