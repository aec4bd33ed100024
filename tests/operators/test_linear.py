"""Linear operators: adjoints, pseudo-inverses, and comparisons with SciPy and with dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from scoresde.noise import NoiseSource
from scoresde.operators import (
    Blur,
    BoxInpainting,
    FourierMask,
    Grayscale,
    LinearFunction,
    LinearOperator,
    Mask,
    MatrixOperator,
    PixelInpainting,
    SuperResolution,
)

F32, F64 = torch.float32, torch.float64
COUNT = 3


def normal(shape, purpose="x", count=COUNT):
    return NoiseSource.of(1, count).normal(tuple(shape), step=0, purpose=purpose, dtype=F64)


def bits(shape, purpose="mask"):
    """A random mask with at least one known entry."""
    mask = normal(shape, purpose, 1)[0] > 0
    mask.view(-1)[0] = True
    return mask


def operator_of(kind, sides, channels):
    """An operator of a kind for images (channels, *sides), and the shape of the events."""
    image = (channels, *sides)
    if kind == "super-resolution":
        return SuperResolution(2), (channels, *(2 * side for side in sides))
    if kind == "gray":
        return Grayscale(tuple(0.1 + 0.3 * k for k in range(channels + 1))), (channels + 1, *sides)
    if kind == "box":
        return BoxInpainting(0.5), (channels, *(side + 1 for side in sides))
    if kind == "pixels":
        return PixelInpainting(0.4), image
    if kind == "mask":
        return Mask(bits(image)), image
    if kind == "mask of the sides":
        return Mask(bits(sides)), image
    if kind == "fourier":
        return FourierMask(bits(sides)), image
    if kind == "matrix":
        return MatrixOperator(normal((4, math.prod(image)), "A", 1)[0], image), image
    if kind == "function":
        return LinearFunction(lambda x: x.cumsum(-1).movedim(1, -1), image), image
    if kind == "blur, reflected":
        return Blur(0.7), image
    if kind == "blur, periodic":
        return Blur(0.7, periodic=True), image
    kernel = normal((3,) * len(sides), "kernel", 1)[0]
    return Blur(kernel=kernel, periodic=kind == "kernel, periodic"), image


KINDS = [
    "super-resolution", "gray", "box", "pixels", "mask", "mask of the sides", "fourier", "matrix", "function",
    "blur, reflected", "blur, periodic", "kernel, reflected", "kernel, periodic",
]  # fmt: skip
SHAPES = {"sides": st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), "channels": st.integers(1, 2)}


@pytest.mark.parametrize("kind", KINDS)
@given(**SHAPES)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_adjoint_and_pseudo_inverse(kind, sides, channels):
    """The dot test <A x, y> = <x, A^T y>, and the four Moore-Penrose conditions."""
    operator, shape = operator_of(kind, sides, channels)
    assert isinstance(operator, LinearOperator)
    noise, x = NoiseSource.of(3, COUNT), normal(shape)
    ax = operator.apply(x, noise)
    y = normal(ax.shape[1:], "y")

    def dot(a, b):
        return (a * b).flatten(1).sum(1)

    def forward(v):
        return operator.apply(v, noise)

    def inverse(v):
        return operator.pseudo_inverse(v, noise)

    back = operator.adjoint(y, noise)
    assert back.shape == x.shape and torch.allclose(dot(ax, y), dot(x, back), rtol=1e-10, atol=1e-10)
    assert torch.allclose(forward(inverse(ax)), ax, rtol=1e-5, atol=1e-6)
    short = inverse(y)
    scale = max(1.0, float(short.abs().max()))  # a nearly singular operator has a large pseudo-inverse
    assert torch.allclose(inverse(forward(short)), short, rtol=1e-5, atol=1e-5 * scale)
    x2, y2 = normal(shape, "x2"), normal(ax.shape[1:], "y2")
    slack = 1e-5 * (1.0 + dot(x, x).sqrt() * dot(y, y).sqrt())
    assert bool(((dot(inverse(ax), x2) - dot(x, inverse(forward(x2)))).abs() < slack).all())
    assert bool(((dot(forward(inverse(y)), y2) - dot(y, forward(inverse(y2)))).abs() < scale * slack).all())


def test_a_wrong_pseudo_inverse_is_seen():
    """The adjoint of a mean of blocks is not its pseudo-inverse."""
    operator, x = SuperResolution(2), normal((1, 4, 4))
    y = operator(x)
    assert torch.allclose(operator(operator.pseudo_inverse(y)), y)
    assert not torch.allclose(operator(operator.adjoint(y)), y, atol=0.1)


@pytest.mark.parametrize(
    "kind", ["matrix", "function", "blur, reflected", "kernel, reflected", "kernel, periodic", "fourier"]
)
def test_pseudo_inverses_of_dense_matrices(kind):
    operator, shape = operator_of(kind, (4, 3), 1)
    unit = torch.eye(math.prod(shape), dtype=F64).reshape(-1, *shape)
    matrix = operator(unit).flatten(1).mT
    y = normal(operator(unit).shape[1:], "y")
    wanted = y.flatten(1) @ torch.linalg.pinv(matrix, rtol=1e-12).mT
    assert torch.allclose(operator.pseudo_inverse(y).flatten(1), wanted, rtol=1e-6, atol=1e-8)
    assert torch.allclose(operator.adjoint(y).flatten(1), y.flatten(1) @ matrix)


class TestBlur:
    @pytest.mark.parametrize("shape", [(1, 7), (2, 8, 5), (1, 4, 3, 5)], ids=str)
    @pytest.mark.parametrize(("periodic", "mode"), [(False, "reflect"), (True, "wrap")])
    @pytest.mark.parametrize("std", [0.6, 2.5])
    def test_a_gaussian_is_that_of_scipy(self, shape, periodic, mode, std):
        """The kernel may be larger than the image."""
        x = normal(shape)
        wanted = [[ndimage.gaussian_filter(channel.numpy(), std, mode=mode) for channel in image] for image in x]
        assert np.allclose(Blur(std, periodic=periodic)(x).numpy(), wanted, atol=1e-12)

    @pytest.mark.parametrize(("periodic", "mode"), [(False, "reflect"), (True, "wrap")])
    @pytest.mark.parametrize("size", [(3, 3), (5, 1), (1, 7)])
    def test_a_kernel_is_that_of_scipy(self, periodic, mode, size):
        x, kernel = normal((1, 6, 5)), normal(size, "kernel", 1)[0]
        wanted = [[ndimage.convolve(image[0].numpy(), kernel.numpy(), mode=mode)] for image in x]
        assert np.allclose(Blur(kernel=kernel, periodic=periodic)(x).numpy(), wanted, atol=1e-12)

    def test_results_have_the_dtype_of_x(self):
        x = normal((1, 6, 5)).float()
        for found in (Blur(1.0)(x), Blur(1.0).adjoint(x), Blur(1.0).pseudo_inverse(x)):
            assert found.dtype == F32 and bool(found.isfinite().all())

    def test_a_constant_image_is_unchanged(self):
        x = torch.full((1, 1, 5, 4), 2.0)
        assert torch.allclose(Blur(1.3)(x), x) and torch.allclose(Blur(1.3, periodic=True)(x), x)


class TestFourier:
    def test_all_frequencies(self):
        x, operator = normal((2, 4, 3)), FourierMask(torch.ones(4, 3))
        y = operator(x)
        assert y.shape == (COUNT, 2, 4, 3, 2) and torch.allclose(y.square().sum(), x.square().sum())
        assert torch.allclose(operator.pseudo_inverse(y), x) and torch.allclose(operator.adjoint(y), x)

    def test_one_of_two_opposite_frequencies_is_enough(self):
        half = torch.fft.fftfreq(5) >= 0
        x, operator = normal((1, 5)), FourierMask(half)
        assert torch.allclose(operator.pseudo_inverse(operator(x)), x)
        assert not torch.allclose(operator.adjoint(operator(x)), x, atol=0.1)


class TestFunctions:
    def test_a_matrix_of_any_event(self):
        matrix = normal((2, 6), "A", 1)[0]
        x = normal((1, 2, 3))
        y = MatrixOperator(matrix, (1, 2, 3))(x)
        assert torch.allclose(y, x.flatten(1) @ matrix.mT)
        assert MatrixOperator(matrix.tolist()).event_shape == (6,)
        assert MatrixOperator(matrix)(normal((6,)).float()).dtype == F32

    @pytest.mark.parametrize("dtype", [F32, F64])
    def test_a_function_with_parameters_of_one_dtype(self, dtype):
        matrix = normal((2, 3), "A", 1)[0].to(dtype)
        operator = LinearFunction(lambda x: x @ matrix.mT, (3,))
        y = normal((2,), "y").to(dtype)
        assert torch.allclose(operator.adjoint(y), y @ matrix)
        wanted = y.double() @ torch.linalg.pinv(matrix.double()).mT
        assert torch.allclose(operator.pseudo_inverse(y).double(), wanted, atol=1e-3 if dtype == F32 else 1e-9)

    def test_the_adjoint_is_differentiable(self):
        operator, y = LinearFunction(lambda x: x.cumsum(1), (3,)), normal((3,), "y").requires_grad_(True)
        (slope,) = torch.autograd.grad(operator.adjoint(y).square().sum(), y)
        assert torch.allclose(slope, 2.0 * operator(operator.adjoint(y)))


def test_digests_differ_where_operators_do():
    """Masks of more than 100 entries print their shape only."""
    first, second = torch.ones(12, 12), torch.ones(12, 12)
    second[3, 4] = 0
    assert repr(Mask(first)) == repr(Mask(second))
    operators = [
        Mask(first), Mask(second), FourierMask(first), FourierMask(second), SuperResolution(2), SuperResolution(3),
        Blur(1.0), Blur(1.0, periodic=True), LinearFunction(lambda x: x, (2,)), LinearFunction(lambda x: 2 * x, (2,)),
    ]  # fmt: skip
    assert len({operator.digest() for operator in operators}) == len(operators)
    assert Mask(first).digest() == Mask(first.bool()).digest()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask([0, 2]), "known=.* give a tensor of 1 .* and 0"),
        (lambda: Mask([0, 0]), "at least one entry must be known"),
        (lambda: Mask([[1], [0, 1]]), "known=.* rows of equal length"),
        (lambda: Mask([1, 0])(torch.zeros(1, 3)), r"known has shape \(2,\), and events have shape \(3,\)"),
        (lambda: Mask([[1, 0]])(torch.zeros(1, 2)), r"known has shape \(1, 2\), and events have shape \(2,\)"),
        (lambda: FourierMask([1, 0])(torch.zeros(1, 1, 3)), r"known has shape \(2,\), and events have shape \(1, 3\)"),
        (lambda: FourierMask([1, 0]).adjoint(torch.zeros(1, 2)), r"y has shape \(1, 2\)"),
        (lambda: Blur(), "give one of std and kernel"),
        (lambda: Blur(1.0, [1.0]), "give one of std and kernel"),
        (lambda: Blur(0.0), "std=0.0 is not allowed"),
        (lambda: Blur(kernel=[1.0, 1.0]), "kernel has shape .* odd number of entries"),
        (lambda: Blur(kernel=[[1.0]])(torch.zeros(1, 1, 3)), "kernel has 2 dimensions, and events .* have 1 sides"),
        (lambda: Blur(1.0)(torch.zeros(1, 3)), "Blur does not take events"),
        (lambda: MatrixOperator([1.0]), r"matrix has shape \(1,\): give \(m, d\)"),
        (lambda: MatrixOperator([[1.0, 2.0]], (3,)), r"event_shape=\(3,\) has 3 numbers: give one column for each"),
        (
            lambda: MatrixOperator([[1.0, 2.0]])(torch.zeros(1, 3)),
            r"is for events \(2,\) \(event_shape\), and not for \(3,\)",
        ),
        (lambda: MatrixOperator([[1.0, 2.0]]).adjoint(torch.zeros(1, 3)), r"y has shape \(1, 3\): .* \(B, 1\)"),
        (lambda: MatrixOperator([[1.0, 2.0]]).pseudo_inverse(torch.zeros(1, 3)), r"y has shape \(1, 3\)"),
        (lambda: LinearFunction(torch.square, (3,)), "function=.* is not linear"),
        (lambda: LinearFunction(lambda x: x + 1, (3,)), "function=.* is not linear"),
        (lambda: LinearFunction(lambda x: x @ torch.eye(2), (3,)), r"fails for x of shape \(4, 3\)"),
        (lambda: LinearFunction(lambda x: x.sum(), (3,)), "function returned .* return 4 rows"),
        (lambda: LinearFunction(lambda x: x.detach(), (3,)).adjoint(torch.zeros(1, 3)), "function has no graph to x"),
        (lambda: LinearFunction(torch.neg, (3,)).adjoint(torch.zeros(1, 2)), r"y has shape \(1, 2\)"),
        (lambda: Grayscale().adjoint(torch.zeros(1, 2, 3)), r"y has shape \(1, 2, 3\)"),
        (lambda: BoxInpainting()(torch.zeros(1, 1, 4)), "BoxInpainting is random"),
    ],
)
def test_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
