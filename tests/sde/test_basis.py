"""The real Fourier basis is orthonormal, agrees with its definition, and diagonalizes symmetric circular convolutions."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.sde import ModewiseSDE, check
from scoresde.sde.linalg.basis import Fourier, fourier
from scoresde.sde.linalg.maps import DiagonalMap

F64 = torch.float64
SHAPES = [
    ((1,), (0,)), ((5,), (0,)), ((6,), (0,)), ((4, 5), (0, 1)), ((3, 4, 4), (1, 2)), ((3, 4, 5), (2, 0)), ((2, 3, 2), (0, 1, 2)),
]  # fmt: skip


def matrix(basis):
    d = math.prod(basis.event_shape)
    return basis.forward(torch.eye(d, dtype=F64).reshape(d, *basis.event_shape)).reshape(d, d).mT


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_it_is_orthonormal(shape, axes):
    basis = Fourier(shape, axes)
    u = matrix(basis)
    assert float((u @ u.mT - torch.eye(len(u))).abs().max()) < 1e-12
    x = torch.linspace(-1.0, 2.0, 3 * len(u), dtype=F64).reshape(3, *shape)
    assert float((basis.inverse(basis.forward(x)) - x).abs().max()) < 1e-12
    assert float((basis.inverse(x).reshape(3, -1) - x.reshape(3, -1) @ u).abs().max()) < 1e-12
    assert basis.forward(x.float()).dtype == basis.inverse(x.float()).dtype == torch.float32


@pytest.mark.parametrize("n", [5, 6])
def test_its_modes_are_cosines_and_sines(n):
    basis = fourier((n,))
    u, k, place = matrix(basis), basis.frequencies()[0], torch.arange(n, dtype=F64)
    for row, frequency in zip(u, k, strict=True):
        angle = 2.0 * math.pi * frequency * place / n
        wave = torch.cos(angle) if frequency >= 0 or 2 * frequency == -n else torch.sin(-angle)
        assert torch.allclose(row, wave / wave.square().sum().sqrt(), atol=1e-14)


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_a_symmetric_convolution_is_diagonal(shape, axes):
    basis, x = Fourier(shape, axes), torch.linspace(-1.0, 2.0, math.prod(shape), dtype=F64).sin().reshape(1, *shape)
    kernel = DiagonalMap(torch.exp(-basis.frequencies().square().sum(0)), basis)
    shifts = tuple(range(1, len(axes) + 1))
    dims = tuple(k + 1 for k in axes)
    assert torch.allclose(kernel(x.roll(shifts, dims)), kernel(x).roll(shifts, dims), atol=1e-13)


def test_a_diagonal_map_that_is_not_symmetric_does_not_commute():
    basis, x = fourier((6,)), torch.linspace(-1.0, 2.0, 6, dtype=F64).sin()[None]
    lopsided = DiagonalMap(torch.exp(basis.frequencies()[0]), basis)
    assert not torch.allclose(lopsided(x.roll(1, 1)), lopsided(x).roll(1, 1), atol=1e-3)


class Diffusing(ModewiseSDE):
    """The heat equation on a torus, with noise."""

    def __init__(self, event_shape):
        self.basis = fourier(event_shape)
        self.rates = 3.0 + self.basis.frequencies().square().sum(0)

    def alphas(self, t):
        return torch.exp(-self.rates.to(t) * t.reshape(*t.shape, *(1,) * len(self.basis.event_shape)))

    def sigmas(self, t):
        return (1.0 - self.alphas(t) ** 2).clamp(min=0.0).sqrt()

    def prior_root(self):
        return DiagonalMap(torch.ones(self.basis.event_shape, dtype=F64), self.basis)


@pytest.mark.long
def test_a_process_on_a_torus_passes_the_self_check():
    report = check(Diffusing((3,)), (3,))
    assert report.passed, f"\n{report}"


def test_a_process_on_a_torus_commutes_with_shifts():
    sde = Diffusing((4, 3))
    x, t = torch.linspace(-1.0, 2.0, 12, dtype=F64).sin().reshape(1, 4, 3), torch.tensor([0.2], dtype=F64)
    for f in (
        lambda v: sde.drift(v, t),
        sde.kernel(t).mean,
        sde.kernel(t).covariance,
        sde.transition(0.5 * t, t).solve,
    ):
        assert torch.allclose(f(x.roll((1, 2), (1, 2))), f(x).roll((1, 2), (1, 2)), atol=1e-11)


@pytest.mark.parametrize("axes", [(), (0, 0), (2,), (-1,)])
def test_axes_that_do_not_fit_are_named(axes):
    with pytest.raises(ValueError, match="axes="):
        Fourier((4, 5), axes)


def test_events_of_another_shape_are_refused():
    for call in (fourier((4,)).forward, fourier((4,)).inverse):
        with pytest.raises(ValueError, match="basis is of"):
            call(torch.zeros(2, 5))
