"""The kernel distance: its definition, its mean and its standard error."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

from scoresde.metrics import kernel, kernel_distance, pairs
from tests.metrics.common import normals


def by_definition(x, y):
    n, m, d = len(x), len(y), x.shape[1]

    def k(a, b):
        return float((a @ b / d + 1.0) ** 3)

    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("block", [3, 1024])
def test_the_definition(monkeypatch, block):
    monkeypatch.setattr(pairs, "BLOCK", block)
    x, y = normals(7, 3, 0), normals(9, 3, 1) + 0.5
    assert kernel_distance(x, y).value == pytest.approx(by_definition(x, y), rel=1e-12)


def test_the_jackknife_leaves_out_each_vector():
    x, y = normals(6, 3, 0), normals(8, 3, 1)
    sums = kernel._Sums.of(x, x, same=True), kernel._Sums.of(x, y, same=False)
    without = torch.tensor([by_definition(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(6)], dtype=x.dtype)
    expected = 5 / 6 * float((without - without.mean()).square().sum())
    assert kernel._jackknife(sums[0].rows, sums[1].rows, 8) == pytest.approx(expected, rel=1e-9)


@cache
def repeated(shift, scale, seeds=400, n=40, m=60):
    found = [kernel_distance(normals(n, 32, s), normals(m, 32, s + seeds, scale) + shift) for s in range(seeds)]
    return torch.tensor([f.value for f in found]), torch.tensor([f.standard_error for f in found])


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), pytest.param(0.1, 1.0, marks=pytest.mark.long), (0.7, 1.3)])
def test_the_standard_error_is_right(shift, scale):
    """Root mean square of 400 standard errors against the spread of 400 values, known to 800^(-1/2): within four of that."""
    values, errors = repeated(shift, scale)
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1.0, abs=4 / 800**0.5)


def test_the_jackknife_alone_would_be_too_large(monkeypatch):
    """Planted: pairs counted twice, of equal distributions."""
    monkeypatch.setattr(kernel._Sums, "centered_square", lambda sums: 0.0)
    values, errors = repeated.__wrapped__(0.0, 1.0)
    assert float(errors.square().mean().sqrt() / values.std()) > 1.3


def test_halves_of_one_sample_are_zero_apart_on_average():
    """Of 400 pairs of halves, within two standard errors: 5 % by chance, for seeds that are fixed."""
    values, _ = repeated(0.0, 1.0)
    assert abs(float(values.mean())) < 2 * float(values.std()) / math.sqrt(len(values))
    # planted: the diagonal left in, as in the biased estimate, adds (E k(x, x) - E k(x, x')) (1/n + 1/m) > 0
    one, two = normals(40, 32, 0), normals(60, 32, 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "fill_diagonal_", lambda kernel, value: kernel)
        biased = kernel_distance(one, two).value
    assert biased > kernel_distance(one, two).value + 10 * float(values.std()) / math.sqrt(len(values))


def test_refusals():
    x = normals(5, 3, 0)
    for bad in (x[:1], x[:, :0], x[0]):
        with pytest.raises(ValueError, match="n >= 2, d >= 1"):
            kernel_distance(x, bad)
    with pytest.raises(ValueError, match="x has 3 features, y 2"):
        kernel_distance(x, x[:, :2])
    with pytest.raises(ValueError, match="non-finite"):
        kernel_distance(x, x / 0.0)
    assert math.isnan(kernel_distance(x[:3], x).standard_error)
