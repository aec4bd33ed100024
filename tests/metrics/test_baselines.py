"""Baselines: a histogram computed by hand, and mixtures on Gaussian data with known density."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.data import Quantized
from scoresde.distributions import GaussianMixture
from scoresde.likelihood import bits_per_dim
from scoresde.metrics import Baseline, gaussian_log_prob, gaussian_mixtures, pixel_histogram
from scoresde.noise import NoiseSource


def test_histogram_by_hand():
    """Two pixels of three levels, four training events, pseudocount 1/2.

    Pixel 0 takes 0, 0, 1, 1: (2.5, 2.5, 0.5) / 5.5. Pixel 1 takes 2, 2, 2, 0: (1.5, 0.5, 3.5) / 5.5.
    """
    train = torch.tensor([[0, 2], [0, 2], [1, 2], [1, 0]])
    test = torch.tensor([[0, 2], [2, 1], [1, 0]])
    p = [[2.5 / 5.5, 3.5 / 5.5], [0.5 / 5.5, 0.5 / 5.5], [2.5 / 5.5, 1.5 / 5.5]]
    bits = [-(math.log2(a) + math.log2(b)) / 2 for a, b in p]
    mean = sum(bits) / 3
    error = math.sqrt(sum((b - mean) ** 2 for b in bits) / 2 / 3)
    found = pixel_histogram(train, test, 3, pseudocount=0.5)
    assert isinstance(found, Baseline) and "histogram" in found.name
    assert found.bits_per_dim == pytest.approx(mean, rel=1e-12)
    assert found.standard_error == pytest.approx(error, rel=1e-12)


def test_histogram_takes_any_event_shape():
    train, test = (NoiseSource.of(s, 50).integers(5, (1, 2, 3), step=0, purpose="raw") for s in (0, 1))
    flat = pixel_histogram(train.flatten(1), test.flatten(1), 5)
    assert pixel_histogram(train, test, 5) == flat


def test_histogram_of_uniform_levels_costs_their_logarithm():
    """16 uniform levels have 4 bits, plus the error of 20000 counts, 15 / (2 ln 2 20000) = 5e-4."""
    train, test = (NoiseSource.of(s, 20000).integers(16, (2,), step=0, purpose="raw") for s in (0, 1))
    found = pixel_histogram(train, test, 16)
    assert found.bits_per_dim == pytest.approx(4.0, abs=3e-3)
    assert found.standard_error < 1e-3


def test_an_unseen_level_costs_but_not_infinitely():
    train, test = torch.zeros(10, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.int64)
    found = pixel_histogram(train, test, 2, pseudocount=0.1)
    assert found.bits_per_dim == pytest.approx(-math.log2(0.1 / 10.2), rel=1e-12)


def test_mixtures_find_a_gaussian():
    """Gaussian data: the fit agrees with the bits per dimension of the exact density up to 20 / n nats."""
    transform = Quantized(64, -4.0, 4.0)
    covariance = torch.tensor([[[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.25]]])
    distribution = GaussianMixture(torch.zeros(1, 3), covariances=covariance)
    train, test = distribution.sample(4000, seed=0), distribution.sample(2000, seed=1)
    truth = bits_per_dim(distribution.log_prob(test), (3,), transform)
    found = gaussian_mixtures(train, test, transform.width, candidates=((1, "full", 1e-6),))
    assert found.bits_per_dim == pytest.approx(float(truth.mean()), abs=5e-3)
    assert found.standard_error == pytest.approx(float(truth.std()) / 2000**0.5, rel=0.02)
    # planted: another width is another unit
    doubled = gaussian_mixtures(train, test, 2 * transform.width, candidates=((1, "full", 1e-6),))
    assert doubled.bits_per_dim == pytest.approx(found.bits_per_dim - 1.0, rel=1e-12)


def test_the_best_candidate_is_named_and_kept():
    """Correlated data: the full covariance wins, in any place; two clusters: two components."""
    covariance = torch.tensor([[[1.0, 0.95], [0.95, 1.0]]])
    distribution = GaussianMixture(torch.zeros(1, 2), covariances=covariance)
    train, test = distribution.sample(500, seed=0), distribution.sample(500, seed=1)
    for candidates in (((1, "full", 1e-6), (1, "diag", 1e-6)), ((1, "diag", 1e-6), (1, "full", 1e-6))):
        found = gaussian_mixtures(train, test, 1.0, candidates)
        assert "1 full" in found.name
        alone = gaussian_mixtures(train, test, 1.0, (candidates[0],))
        assert found.bits_per_dim <= alone.bits_per_dim
    clusters = GaussianMixture(torch.tensor([[-3.0, 0.0], [3.0, 0.0]]), 0.3)
    train, test = clusters.sample(500, seed=0), clusters.sample(500, seed=1)
    assert "2 diag" in gaussian_mixtures(train, test, 1.0, ((1, "full", 1e-6), (2, "diag", 1e-6))).name


def test_mixtures_take_any_event_shape():
    distribution = GaussianMixture(torch.zeros(1, 1, 2, 2), 1.0)
    train, test = distribution.sample(200, seed=0), distribution.sample(100, seed=1)
    candidates = ((1, "diag", 1e-6),)
    shaped = gaussian_mixtures(train, test, 0.1, candidates)
    assert shaped == gaussian_mixtures(train.flatten(1), test.flatten(1), 0.1, candidates)


def test_histogram_of_many_levels_fits_in_memory(monkeypatch):
    """65536 levels of 2000 events of 64 numbers: one number for each level of each event would take 67 GB."""
    train, test = (NoiseSource.of(s, 2000).integers(65536, (64,), step=0, purpose="raw") for s in (0, 1))
    assert 16.0 < pixel_histogram(train, test, 65536).bits_per_dim < 20.0
    whole = pixel_histogram(train % 5, test % 5, 5)
    monkeypatch.setattr("scoresde.metrics.baselines.AT_ONCE", 1000)
    assert pixel_histogram(train % 5, test % 5, 5) == whole


def test_more_components_than_events_are_refused():
    events = torch.zeros(9, 2)
    with pytest.raises(ValueError, match="9 training events: 10 components"):
        gaussian_mixtures(events, events, 1.0, ((10, "full", 1e-3),))


def test_a_gaussian_finds_a_gaussian():
    """The mean log-density of 2000 events agrees with that of the exact density up to the error of 4000 events."""
    covariance = torch.tensor([[[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.25]]])
    distribution = GaussianMixture(torch.zeros(1, 3), covariances=covariance)
    train, test = distribution.sample(4000, seed=0), distribution.sample(2000, seed=1)
    found = gaussian_log_prob(train, test)
    assert found.shape == (2000,) and float(found.mean() - distribution.log_prob(test).mean()) == pytest.approx(
        0.0, abs=5e-3
    )
    # the shape of an event does not matter
    assert torch.equal(gaussian_log_prob(train[:, None], test[:, None]), found)


def test_a_gaussian_of_fewer_events_than_coordinates_has_a_density():
    data = NoiseSource.of(0, 5).normal((20,), step=0, purpose="data", dtype=torch.float64)
    assert bool(torch.isfinite(gaussian_log_prob(data, data)).all())
    for few in (data[:1], data[:1].expand(5, -1)):
        with pytest.raises(ValueError, match="two different events at least"):
            gaussian_log_prob(few, data)
