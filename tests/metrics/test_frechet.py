"""The Fréchet distance against closed forms, scipy's matrix square root, and rank-deficient covariances."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from scoresde.metrics import Moments, frechet_distance
from tests.metrics.common import normals


def random_covariance(d, seed, rank=None):
    factor = normals(d, rank or d, seed)
    return factor @ factor.T / d


def test_gaussians_with_commuting_covariances():
    """One basis for both: ||mu - mu'||^2 + sum (s_i - s'_i)^2, some of them 0."""
    basis = torch.linalg.qr(normals(20, 20, 0)).Q
    a, b = normals(20, 2, 1).abs().T
    for zeros in (0, 5, 15):
        a[:zeros] = 0.0
        b[zeros // 2 :][:zeros] = 0.0
        mean = normals(2, 20, 2)
        one = Moments(mean[0], basis @ torch.diag(a.square()) @ basis.T)
        other = Moments(mean[1], basis @ torch.diag(b.square()) @ basis.T)
        expected = float((mean[0] - mean[1]).square().sum() + (a - b).square().sum())
        assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
        assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-6)


def test_scipys_square_root_where_that_works():
    one, other = random_covariance(30, 1), random_covariance(30, 2)
    mean = normals(2, 30, 3)
    root = scipy.linalg.sqrtm((one @ other).numpy())
    expected = float((mean[0] - mean[1]).square().sum() + one.trace() + other.trace()) - 2 * np.trace(root).real
    assert frechet_distance(Moments(mean[0], one), Moments(mean[1], other)) == pytest.approx(expected, rel=1e-9)


def test_rank_deficient_features():
    """10 and 12 vectors of 64 numbers: the nonzero eigenvalues of a product are those of a small matrix, X X'^T X' X^T."""
    x, y = normals(10, 64, 4), normals(12, 64, 5) + 0.3
    one, other = Moments.of(x), Moments.of(y)
    cross = ((x - one.mean) @ (y - other.mean).T) / (9 * 11) ** 0.5
    overlap = float(torch.linalg.svdvals(cross).sum())
    expected = float((one.mean - other.mean).square().sum() + one.covariance.trace() + other.covariance.trace())
    assert frechet_distance(one, other) == pytest.approx(expected - 2 * overlap, rel=1e-6)
    # planted: without its factor 2
    assert abs(frechet_distance(one, other) / (expected - overlap) - 1) > 1e-3


def test_it_is_zero_for_equal_moments_and_never_negative():
    for rank in (1, 3, 30):
        moments = Moments(torch.zeros(30), random_covariance(30, 6, rank))
        assert 0.0 <= frechet_distance(moments, moments) < 1e-12
    nothing = Moments(torch.zeros(3), torch.zeros(3, 3))
    assert frechet_distance(nothing, nothing) == 0.0
    assert frechet_distance(nothing, Moments(torch.ones(3), 4.0 * torch.eye(3))) == pytest.approx(3.0 + 12.0)


def test_few_samples_are_biased_upwards():
    """Two sets of one distribution, d = 8: 20 of each are farther apart than 2000 of each, in all of 10 pairs."""
    few, many = (
        [frechet_distance(Moments.of(normals(n, 8, s)), Moments.of(normals(n, 8, s + 100))) for s in range(10)]
        for n in (20, 2000)
    )
    assert min(few) > max(many)


def test_another_extractor_is_refused():
    with pytest.raises(ValueError, match="a has 2 features, b 3"):
        frechet_distance(Moments.of(torch.zeros(2, 2)), Moments.of(torch.zeros(2, 3)))
