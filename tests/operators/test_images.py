"""Measurements of images: linear, with their adjoints, keyed by seed and index, and refused where they do not fit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Quantized
from scoresde.noise import NoiseSource
from scoresde.operators import JPEG, BoxInpainting, Grayscale, LinearOperator, PixelInpainting, SuperResolution

F64 = torch.float64
LINEAR = [
    (SuperResolution(2), (3, 8, 6)),
    (SuperResolution(4), (1, 8)),
    (SuperResolution(3), (2, 3, 6, 9)),
    (BoxInpainting(), (3, 8, 6)),
    (BoxInpainting(0.3), (1, 12)),
    (BoxInpainting(0.5), (2, 4, 6, 4)),
    (PixelInpainting(0.3), (3, 8, 6)),
    (PixelInpainting(), (2, 5)),
    (Grayscale(), (3, 4, 5)),
    (Grayscale((0.5, 0.25)), (2, 7)),
]
KINDS = [*LINEAR, (JPEG(20), (1, 16, 8)), (JPEG(50), (3, 8, 8))]


def normal(shape, purpose="x", count=5):
    return NoiseSource.of(1, count).normal(tuple(shape), step=0, purpose=purpose, dtype=F64)


@pytest.mark.parametrize(("operator", "shape"), LINEAR, ids=str)
def test_the_adjoint_passes_the_dot_test(operator, shape):
    """<A x, y> = <x, A^T y>, and A is linear."""
    assert isinstance(operator, LinearOperator)
    noise, x, z = NoiseSource.of(3, 5), normal(shape), normal(shape, "z")
    y = normal(operator.apply(x, noise).shape[1:], "y")
    left, right = operator.apply(x, noise) * y, x * operator.adjoint(y, noise)
    assert operator.adjoint(y, noise).shape == x.shape
    assert torch.allclose(left.flatten(1).sum(1), right.flatten(1).sum(1), rtol=1e-12)
    both = operator.apply(2.0 * x - z, noise)
    assert torch.allclose(both, 2.0 * operator.apply(x, noise) - operator.apply(z, noise), atol=1e-12)


def test_a_wrong_adjoint_fails_the_dot_test():
    operator, x = SuperResolution(2), normal((3, 8, 6))
    y = normal((3, 4, 3), "y")
    left = (operator.apply(x) * y).sum()
    assert torch.allclose(left, (x * operator.adjoint(y)).sum())
    assert not torch.allclose(left, (x * operator.image(y)).sum())


@pytest.mark.parametrize(("operator", "shape"), KINDS, ids=str)
def test_images_have_the_size_of_the_event(operator, shape):
    x, noise = normal(shape).clamp(-1.0, 1.0).float(), NoiseSource.of(3, 5)
    image = operator.image(operator.apply(x, noise), noise)
    assert image.shape == (5, operator.channels(shape), *shape[1:]) and image.dtype == x.dtype
    assert eval(repr(operator)) == operator
    one = NoiseSource(3, torch.tensor([3]))
    assert torch.equal(operator.image(operator.apply(x[3:4], one), one), image[3:4]), "an image alone, and in a batch"


def test_super_resolution_averages_blocks():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = SuperResolution(2).apply(x)
    assert y.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert SuperResolution(2).image(y)[0, 0, :2].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2


@pytest.mark.parametrize("operator", [BoxInpainting(0.5), PixelInpainting(0.25)], ids=str)
def test_masks(operator):
    noise = NoiseSource.of(0, 400)
    mask = operator.mask((8, 6), noise)
    assert mask.shape == (400, 1, 8, 6) and set(mask.unique().tolist()) == {0.0, 1.0}
    x = torch.full((400, 3, 8, 6), 0.5)
    y = operator.apply(x, noise)
    image = operator.image(y, noise)
    assert torch.equal(y, x * mask) and torch.equal(image[:, :3], y) and torch.equal(image[:, 3:], mask)
    share = float(mask.mean())
    if isinstance(operator, PixelInpainting):
        assert abs(share - 0.75) < 5 * (0.1875 / mask.numel()) ** 0.5
    else:
        assert share == 0.75 and all(one.sum() == 36 for one in mask[:20]), "a box of 4 x 3 pixels"
        corners = {tuple((one[0] == 0).nonzero()[0].tolist()) for one in mask}
        assert corners == {(a, b) for a in range(5) for b in range(4)}
    assert not torch.equal(mask, operator.mask((8, 6), NoiseSource.of(1, 400)))


def test_grayscale_is_the_luminance():
    x = torch.tensor([1.0, 0.5, -1.0]).reshape(1, 3, 1, 1)
    assert float(Grayscale().apply(x)) == pytest.approx(0.299 + 0.2935 - 0.114)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels):
    levels = NoiseSource.of(0, 2).integers(256, (channels, 16, 8), step=0, purpose="pixels")
    x = Quantized(256).encode(levels, None, dtype=torch.float32)
    found = Quantized(256).decode(JPEG(30).apply(x))
    for k, one in enumerate(levels):
        file = io.BytesIO()
        pixels = one.to(torch.uint8).movedim(0, -1).squeeze(-1).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=30)
        wanted = np.array(Image.open(file)).reshape(16, 8, channels)
        assert np.array_equal(found[k].movedim(0, -1).numpy(), wanted)
    assert float((JPEG(95).apply(x) - x).abs().mean()) < float((JPEG(5).apply(x) - x).abs().mean())
    shifted = JPEG(30, low=0.0, high=1.0).apply((x + 1.0) / 2.0)
    assert torch.allclose(2.0 * shifted - 1.0, JPEG(30).apply(x), atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "shape", "message"),
    [
        (
            SuperResolution(3),
            (1, 8, 8),
            r"factor=3 does not divide the side 8 of events \(1, 8, 8\): give a divisor of 8",
        ),
        (SuperResolution(2), (1, 9, 8), "factor=2 does not divide the side 9 .*: no factor divides all sides"),
        (SuperResolution(2), (8,), r"SuperResolution does not take events \(8,\): give images \(C, \*sides\)"),
        (BoxInpainting(0.1), (1, 4, 8), "fraction=0.1 of the side 4 .* is 0 pixels: give one that is at least 1"),
        (BoxInpainting(0.9), (1, 4), "fraction=0.9 of the side 4 .* is 4 pixels"),
        (PixelInpainting(), (4,), "PixelInpainting does not take events"),
        (
            Grayscale(),
            (1, 8, 8),
            r"is not allowed for events \(1, 8, 8\): give a number for each of 1 channels, two or more",
        ),
        (JPEG(), (2, 8, 8), r"JPEG does not take events \(2, 8, 8\): give gray or color images"),
        (JPEG(), (3, 8), "JPEG does not take events"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(operator, shape, message):
    with pytest.raises(ValueError, match=message):
        operator.check(shape)
    with pytest.raises(ValueError, match=message):
        operator.apply(torch.zeros(2, *shape), NoiseSource.of(0, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperResolution(1), "factor=1 is not allowed: give a whole number >= 2"),
        (lambda: BoxInpainting(1.0), "fraction=1.0 is not allowed"),
        (lambda: PixelInpainting(0.0), "missing=0.0 is not allowed"),
        (lambda: Grayscale((1.0,)), r"weights=\(1.0,\) is not allowed: give a number for each of two or more channels"),
        (lambda: JPEG(96), "quality=96 is not allowed: give a whole number from 1 to 95"),
        (lambda: JPEG(0), "quality=0 is not allowed"),
        (lambda: JPEG(5, low=1.0), "high=1.0 is not allowed"),
        (
            lambda: BoxInpainting().apply(torch.zeros(1, 1, 4, 4)),
            "BoxInpainting is random: give noise, e.g. NoiseSource.of",
        ),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
