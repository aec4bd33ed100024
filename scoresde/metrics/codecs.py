"""Bits per dimension of 8-bit images in lossless image files, as a yardstick for the likelihood of a model.

A codec knows nothing of the training set. A likelihood in bits/dim is the length of a code for the image, so both are comparable:
a model that needs more bits than PNG has learned little. A file also has a header, which matters for small images. So there
are two figures:

    one file for each image     the mean size of the files, headers included
    tiled                       the size of one file with all images side by side: headers vanish, and the codec can use
                                what the images have in common

The settings are those that make the smallest files: PNG with ``optimize``, WebP lossless with ``quality=100`` and ``method=6``.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_choice
from scoresde.metrics.baselines import Baseline

CODECS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}
"""Formats of Pillow with the arguments that save without loss."""


@checked_arguments
def codec_bits_per_dim(images: Tensor, codec: str = "PNG", tiled: bool = False) -> Baseline:
    """Bits per dimension of images in lossless files.

    Args:
        images: Images (n, 1, H, W) or (n, 3, H, W), whole numbers 0 .. 255.
        codec: "PNG" or "WebP".
        tiled: Whether all images are in one file, about as wide as high. Empty tiles in its last row are black.

    Returns:
        Bits per dimension, with the standard error over images if each has its own file. It is NaN for ``tiled``.

    Raises:
        ValueError: For another shape, other values, or an image that is too large for the codec.

    Example:
        >>> import torch
        >>> from scoresde.metrics import codec_bits_per_dim
        >>> images = torch.arange(256).repeat(2, 3, 16, 1)
        >>> 0.0 < codec_bits_per_dim(images, "PNG", tiled=True).bits_per_dim < 1.0
        True
    """
    check_choice("codec", codec, CODECS)
    shape = tuple(images.shape)
    if images.is_floating_point() or len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ValueError(f"images has shape {shape} and dtype {images.dtype}: give whole numbers (n, 1 or 3, H, W)")
    low, high = (int(end) for end in images.aminmax())
    if low < 0 or high > 255:
        raise ValueError(f"images holds values from {low} to {high}: allowed are 0 .. 255")
    pixels = images.to(torch.uint8).movedim(1, -1).numpy()
    if tiled:
        bits = torch.tensor([8.0 * _size(_tiled(pixels), codec) / pixels.size], dtype=torch.float64)
    else:
        bits = torch.tensor([8.0 * _size(one, codec) / one.size for one in pixels], dtype=torch.float64)
    error = float(bits.std()) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
    return Baseline(
        f"{codec}, {'one file of all images' if tiled else 'a file for each image'}", float(bits.mean()), error
    )


def _tiled(pixels: np.ndarray) -> np.ndarray:
    """Images (n, H, W, C) as one image, row by row."""
    count, height, width, channels = pixels.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    filled = np.zeros((rows * columns, height, width, channels), np.uint8)
    filled[:count] = pixels
    grid = filled.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def _size(pixels: np.ndarray, codec: str) -> int:
    """Bytes of an image (H, W, C) in a file."""
    return len(encoded(pixels, codec))


def encoded(pixels: np.ndarray, codec: str) -> bytes:
    """The file of an image (H, W, C) of bytes, with one or three channels. Raises ValueError if it is too large."""
    from PIL import Image

    file = io.BytesIO()
    try:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, codec, **CODECS[codec])
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"{codec} cannot store an image of {pixels.shape[1]} x {pixels.shape[0]}: {problem}"
        ) from problem
    return file.getvalue()
