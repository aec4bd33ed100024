"""Bits per dimension of lossless image files: the size of real files, no loss, and what the codecs cannot compress."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.metrics import CODECS, codec_bits_per_dim
from scoresde.metrics.codecs import _tiled, encoded
from scoresde.noise import NoiseSource


def pictures(n=5, channels=3, height=12, width=9):
    """Smooth pictures with some noise."""
    noise = NoiseSource.of(0, n).integers(6, (channels, height, width), step=0, purpose="noise")
    ramp = 3 * torch.arange(height)[:, None] + 5 * torch.arange(width)
    return (ramp + 20 * torch.arange(n)[:, None, None, None] + noise).to(torch.uint8)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_the_pictures_without_loss(tmp_path, codec, channels):
    """The figure is the mean size of files that Pillow reads back to the same pixels."""
    images, bits = pictures(channels=channels), []
    for k, image in enumerate(images):
        file = tmp_path / f"{k}.{codec}"
        file.write_bytes(encoded(image.movedim(0, -1).numpy(), codec))
        with Image.open(file) as found:
            assert found.format == codec.upper()
            pixels = np.asarray(found.convert("L" if channels == 1 else "RGB")).reshape(12, 9, channels)
        assert np.array_equal(pixels, image.movedim(0, -1).numpy())
        bits.append(8.0 * file.stat().st_size / image.numel())
    found = codec_bits_per_dim(images, codec)
    assert found.bits_per_dim == pytest.approx(np.mean(bits))
    assert found.standard_error == pytest.approx(np.std(bits, ddof=1) / math.sqrt(5))


@pytest.mark.parametrize("codec", CODECS)
def test_one_file_of_all_pictures(codec):
    """The file contains every picture once, and its size is divided by the pixels of the pictures, not of empty tiles."""
    images = pictures(7)
    pixels = images.movedim(1, -1).numpy()
    content = encoded(_tiled(pixels), codec)
    with Image.open(io.BytesIO(content)) as found:
        grid = np.asarray(found.convert("RGB"))
    # sqrt(7 * 12 / 9) rounded up: 4 columns of 9 pixels, and 2 rows of 12
    assert grid.shape == (2 * 12, 4 * 9, 3)
    for k in range(7):
        y, x = 12 * (k // 4), 9 * (k % 4)
        assert np.array_equal(grid[y : y + 12, x : x + 9], pixels[k])
    assert not grid[12:, 27:].any()
    tiled = codec_bits_per_dim(images, codec, tiled=True)
    assert tiled.bits_per_dim == 8.0 * len(content) / images.numel() and math.isnan(tiled.standard_error)


def test_noise_is_not_compressed_and_constants_are():
    noise = NoiseSource.of(1, 4).integers(256, (3, 64, 64), step=0, purpose="noise")
    flat = torch.full((4, 3, 64, 64), 7)
    for codec in CODECS:
        assert 8.0 < codec_bits_per_dim(noise, codec).bits_per_dim < 8.2
        assert codec_bits_per_dim(flat, codec).bits_per_dim < 0.1
        # headers vanish in one file
        assert (
            codec_bits_per_dim(pictures(64), codec, True).bits_per_dim
            < codec_bits_per_dim(pictures(64), codec).bits_per_dim
        )


def test_what_is_refused():
    for images, said in (
        (torch.zeros(2, 4, 8, 8, dtype=torch.uint8), r"shape \(2, 4, 8, 8\)"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), r"shape \(2, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8), "torch.float32"),
        (torch.full((2, 1, 8, 8), 256), "values from 256 to 256"),
    ):
        with pytest.raises(ValueError, match=said):
            codec_bits_per_dim(images)
    with pytest.raises(ValueError, match="codec='GIF' is not known"):
        codec_bits_per_dim(pictures(), "GIF")
    with pytest.raises(ValueError, match="WebP cannot store an image of 20000 x 1"):
        codec_bits_per_dim(torch.zeros(1, 1, 1, 20000, dtype=torch.uint8), "WebP")
