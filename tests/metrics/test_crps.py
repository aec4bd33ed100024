"""CRPS against the normal distribution's closed form, the definition, and few samples."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.metrics import crps, fair_crps
from tests.metrics.common import normals


def of_normal(y):
    """CRPS of N(0, 1): y (2 Phi(y) - 1) + 2 phi(y) - 1 / pi^(1/2) (Gneiting and Raftery 2007, eq. 21)."""
    phi = torch.exp(-y.square() / 2) / math.sqrt(2 * math.pi)
    return y * torch.erf(y / math.sqrt(2)) + 2 * phi - 1 / math.sqrt(math.pi)


def test_normal_samples():
    """Within 1 % for 40,000 samples, whose error is about 0.5 % of it."""
    y = torch.tensor([[-2.0, 0.0], [0.5, 3.0]], dtype=torch.float64)
    samples = normals(40000, 1, 0).reshape(-1, 1, 1).expand(-1, 2, 2)
    assert torch.allclose(crps(samples, y), of_normal(y), rtol=0.01)
    assert torch.allclose(fair_crps(samples, y), of_normal(y), rtol=0.01)


def test_the_definition():
    x, y = normals(7, 3, 1), normals(1, 3, 2)[0]
    spread = (x[:, None] - x[None]).abs()
    assert torch.allclose(crps(x, y), (x - y).abs().mean(0) - spread.mean((0, 1)) / 2)
    assert torch.allclose(fair_crps(x, y), (x - y).abs().mean(0) - spread.sum((0, 1)) / (7 * 6) / 2)
    assert torch.equal(crps(x[:1], y), (x[0] - y).abs())


def test_the_fair_score_is_unbiased_for_few_samples():
    """3 samples, 20,000 times: within five standard errors of the distribution's score; the plain one is too large by 1
    / (3 pi^(1/2))."""
    samples = normals(3, 20000, 3)
    y = torch.full((20000,), 0.4, dtype=torch.float64)
    truth = float(of_normal(y[:1]))
    fair, plain = fair_crps(samples, y), crps(samples, y)
    error = float(fair.std()) / math.sqrt(20000)
    assert abs(float(fair.mean()) - truth) < 5 * error
    assert float(plain.mean()) - truth == pytest.approx(1 / (3 * math.sqrt(math.pi)), abs=5 * error)


def test_refusals():
    x = normals(4, 3, 0)
    for samples, y, score in ((x, x, crps), (x[:0], x[0], crps), (x[:1], x[0], fair_crps), (x[0, 0], x[0, 0], crps)):
        with pytest.raises(ValueError, match=r"give \(m, \*shape\)"):
            score(samples, y)
    with pytest.raises(ValueError, match="observed holds non-finite"):
        crps(x, x[0] / 0.0)
