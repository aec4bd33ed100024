"""Weights on nonuniform grids: exact for polynomials, Adams' weights on uniform grids, and the stated order."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde.solvers.quadrature import Increments, adams, lagrange_integrals
from tests.params import examples

F64 = torch.float64
LIGHT = settings(max_examples=examples(60), deadline=None, derandomize=True)


@st.composite
def grids(draw, least=2, most=9):
    """Increasing nodes whose steps differ by up to a factor of ten, anywhere on the line."""
    steps = draw(st.lists(st.floats(0.1, 1.0), min_size=least - 1, max_size=most - 1))
    return draw(st.floats(-20.0, 20.0)) + torch.tensor([0.0, *steps], dtype=F64).cumsum(0)


def power(u, degree, origin):
    return ((u - origin) / 5.0) ** degree


def integral(a, b, degree, origin):
    return 5.0 * (power(b, degree + 1, origin) - power(a, degree + 1, origin)) / (degree + 1)


@LIGHT
@given(grids(most=5), st.floats(-1.0, 2.0), st.floats(-1.0, 2.0))
def test_lagrange_integrals_are_exact_up_to_their_degree(nodes, start, width):
    """Intervals inside and outside the nodes, in either direction."""
    span = nodes[-1] - nodes[0]
    a = nodes[0] + start * span
    b = a + width * span + 0.05
    weights = lagrange_integrals(nodes, a, b)
    size = float(weights.abs().sum())
    for degree in range(len(nodes)):
        found = weights @ power(nodes, degree, nodes[0])
        assert abs(float(found - integral(a, b, degree, nodes[0]))) < 1e-9 * (1.0 + size)


@LIGHT
@given(grids(), st.integers(2, 5))
def test_increments_are_exact_up_to_their_degree(u, points):
    found = Increments.of(u, points)
    assert found.points == min(points, len(u))
    for degree in range(found.points):
        values = power(u, degree, u[0])
        for i, first in enumerate(found.first):
            rise = found.weights[i] @ values[first : first + found.points]
            assert abs(float(rise - integral(u[i], u[i + 1], degree, u[0]))) < 1e-9
            assert first <= i < i + 1 < first + found.points, "an interval lies inside its stencil"
        assert abs(float(found.total() @ values - integral(u[0], u[-1], degree, u[0]))) < 1e-9


@pytest.mark.parametrize("points", [2, 3, 4])
def test_one_degree_more_is_not_exact(points):
    u = torch.tensor([0.0, 0.3, 1.0, 1.2, 2.0], dtype=F64)
    miss = Increments.of(u, points).total() @ power(u, points, 0.0) - integral(u[0], u[-1], points, 0.0)
    assert abs(float(miss)) > 1e-6


def test_adams_on_a_uniform_grid():
    """The tables of Adams-Bashforth and Adams-Moulton, with starts of lower order."""
    for order, bashforth, moulton in (
        (1, [1], [1 / 2, 1 / 2]),
        (2, [-1 / 2, 3 / 2], [-1 / 12, 8 / 12, 5 / 12]),
        (3, [5 / 12, -16 / 12, 23 / 12], [1 / 24, -5 / 24, 19 / 24, 9 / 24]),
    ):
        h = 0.25
        predictors, correctors = adams(h * torch.arange(7.0, dtype=F64), order)
        assert len(predictors) == len(correctors) == 6
        assert [len(w) for w in predictors[:order]] == list(range(1, order + 1))
        assert torch.allclose(predictors[-1], h * torch.tensor(bashforth, dtype=F64), atol=1e-14)
        assert torch.allclose(correctors[-1], h * torch.tensor(moulton, dtype=F64), atol=1e-14)
        assert torch.allclose(correctors[0], h * torch.tensor([0.5, 0.5], dtype=F64), atol=1e-14)


@pytest.mark.parametrize(("points", "order"), [(2, 2), (3, 3), (4, 4)])
def test_order_on_a_nonuniform_grid(points, order):
    """int_0^2 e^sin u du on u = s + s^2 / 2: from 80 to 320 steps the error decreases with the order, within 0.2."""

    def error(n):
        s = torch.linspace(0.0, math.sqrt(5.0) - 1.0, n + 1, dtype=F64)
        u = s + s**2 / 2
        fine = torch.linspace(0.0, 2.0, 20001, dtype=F64)
        exact = Increments.of(fine, 4).total() @ fine.sin().exp()
        return abs(float(Increments.of(u, points).total() @ u.sin().exp() - exact))

    errors = [error(n) for n in (80, 160, 320)]
    slope = math.log2(errors[0] / errors[-1]) / 2
    assert slope == pytest.approx(order, abs=0.2), errors
