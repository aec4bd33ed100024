"""How an image of any size becomes an event (channels, height, width) with whole numbers 0 .. levels - 1.

    values       as `scoresde.data.pixels` reads them; with ``levels`` other than 256, the numbers in the file, which are checked
    crop         the largest centered rectangle with the event's ratio of height to width
    shrink       to the event's height and width: bicubic interpolation for intensities, the nearest pixel for labels

Images are never enlarged. The rules for the values are:

    levels=256                  8 bits per channel; a palette gives its colors; one bit gives 0 and 255
    levels below 256            gray or RGB with 8 bits, or gray with more; one bit gives 0 and 1 for levels=2
    levels above 256            gray with more than 8 bits per pixel, such as 16-bit PNG and TIFF
    palette="indices"           a palette gives its indices, one bit gives 0 and 1: label maps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scoresde._validation import check_choice, check_count, check_counts
from scoresde.data.pixels import DEEP_GRAY, check_frames, eight_bits, upright

if TYPE_CHECKING:
    from PIL import Image

RESAMPLINGS = ("bicubic", "nearest")
PALETTES = ("colors", "indices")
BYTE = 256
"""Number of levels of 8 bits."""


@dataclass(frozen=True)
class ImageRules:
    """The rules for all images of a folder.

    Args:
        side: Side of a square event, or (height, width).
        channels: 3 for colors, 1 for gray images and label maps.
        levels: Number of levels of the values.
        resampling: "bicubic" or "nearest". None for "bicubic" with 256 levels; other numbers of levels require a choice.
        palette: "colors" or "indices": what an image with a palette means.
    """

    side: int | Sequence[int]
    channels: int = 3
    levels: int = BYTE
    resampling: str | None = None
    palette: str = "colors"

    def __post_init__(self) -> None:
        sides_of(self.side)
        check_choice("channels", self.channels, (1, 3))
        check_count("levels", self.levels, least=2)
        check_choice("palette", self.palette, PALETTES)
        if self.resampling is None and (self.levels != BYTE or self.palette == "indices"):
            raise ValueError(
                f"resampling=None with levels={self.levels}, palette={self.palette!r} is not allowed: give 'nearest' for "
                "labels, which must not be interpolated, or 'bicubic' for intensities"
            )
        if self.resampling is not None:
            check_choice("resampling", self.resampling, RESAMPLINGS)
        if self.palette == "indices" and (self.channels, self.resampling) != (1, "nearest"):
            raise ValueError(
                f"palette='indices' with channels={self.channels}, resampling={self.resampling!r} is not allowed: indices are "
                "labels, give channels=1 and resampling='nearest'"
            )

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, *sides_of(self.side))

    @property
    def changed(self) -> str:
        """The rules for values and resampling that are not the default ones, as text; empty if all are."""
        usual = (self.levels, self.resampling or "bicubic", self.palette) == (BYTE, "bicubic", "colors")
        return "" if usual else f"levels={self.levels} resampling={self.resampling} palette={self.palette}"

    def event(self, image: Image.Image) -> np.ndarray:
        """The event of an image.

        Args:
            image: An image of Pillow.

        Returns:
            An array of shape ``event_shape``: uint8 for up to 256 levels, int32 for more.

        Raises:
            ValueError: If the image is smaller than the event, or its values or its kind do not fit the rules.
        """
        pixels = self.values(image)
        if int(pixels.max()) >= self.levels or int(pixels.min()) < 0:
            raise ValueError(
                f"it holds values from {int(pixels.min())} to {int(pixels.max())}: levels={self.levels} allows "
                f"0 .. {self.levels - 1}"
            )
        shrunk = self._shrink(pixels).clip(0, self.levels - 1)
        return (
            shrunk.reshape(*shrunk.shape[:2], -1)
            .transpose(2, 0, 1)
            .astype(np.uint8 if self.levels <= BYTE else np.int32)
        )

    def values(self, image: Image.Image) -> np.ndarray:
        """The values of an image of any size, as the rules read them.

        Args:
            image: An image of Pillow.

        Returns:
            The values of the upright image, (height, width) or (height, width, 3).

        Raises:
            ValueError: If its kind does not fit the rules.
        """
        labels = self.palette == "indices"
        if self.levels == BYTE and not labels:
            return np.asarray(eight_bits(image).convert("RGB" if self.channels == 3 else "L"))
        check_frames(image)
        if image.mode in DEEP_GRAY:
            found = np.asarray(upright(image))
            if image.mode == "F":
                raise ValueError("its pixels are real numbers: save them as an array, for levels=0")
            return found.astype(np.int64)
        if self.levels > BYTE:
            raise ValueError(
                f"its pixels have mode {image.mode!r} with at most 8 bits, and levels={self.levels}: save all images with "
                "16 bits of gray"
            )
        if image.mode == "1":
            if not labels and self.levels != 2:
                raise ValueError(
                    f"it has one bit per pixel: levels={self.levels!r} must be 2 or 256, or save it with 8 bits"
                )
            return np.asarray(upright(image)).astype(np.uint8)
        if image.mode == "P":
            if not labels:
                raise ValueError(
                    f"it has a palette, whose colors have 256 levels and not levels={self.levels}: for labels, give "
                    "palette='indices'"
                )
            return np.asarray(upright(image))
        found = np.asarray(eight_bits(image))
        if found.ndim == 3 and self.channels == 1:
            raise ValueError(
                f"it has colors (mode {image.mode!r}), and channels=1: with levels={self.levels} only 3 is allowed"
            )
        return np.stack([found] * 3, axis=-1) if found.ndim == 2 and self.channels == 3 else found

    def _shrink(self, pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        _, height, width = self.event_shape
        size = (pixels.shape[1], pixels.shape[0])
        if size[0] < width or size[1] < height:
            raise ValueError(f"it has only {size[0]} x {size[1]} pixels, and images are not enlarged")
        left, top, right, bottom = crop_box(size, self.side)
        pixels = pixels[top:bottom, left:right]
        if pixels.shape[:2] == (height, width):
            return pixels
        if self.resampling == "nearest":
            rows, columns = (
                ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip((height, width), pixels.shape, strict=False)
            )
            nearest: np.ndarray = pixels[rows][:, columns]
            return nearest
        deep = pixels.dtype != np.uint8
        image = Image.fromarray(pixels.astype(np.float32) if deep else np.ascontiguousarray(pixels))
        out = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        return np.rint(out) if deep else out


def sides_of(side: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of ``side``, a whole number or a pair. Raises ValueError for anything else."""
    if isinstance(side, Sequence) and not isinstance(side, str):
        check_counts("side", side)
        if len(side) != 2:
            raise ValueError(f"side={tuple(side)} is not allowed: give a whole number, or (height, width)")
        return int(side[0]), int(side[1])
    check_count("side", side)
    return side, side


def crop_box(size: tuple[int, int], side: int | Sequence[int]) -> tuple[int, int, int, int]:
    """The rectangle that is kept of an image, before it is shrunk.

    Args:
        size: (width, height) of the upright image in pixels, as in Pillow.
        side: Side of a square event, or (height, width).

    Returns:
        (left, top, right, bottom) in pixels: the largest centered rectangle with the ratio of the event, to the nearest pixel.

    Example:
        >>> from scoresde.data.image_rules import crop_box
        >>> crop_box((100, 60), 32), crop_box((100, 60), (12, 20))
        ((20, 0, 80, 60), (0, 0, 100, 60))
    """
    (width, height), (rows, columns) = size, sides_of(side)
    if width * rows >= height * columns:
        wide, high = (2 * height * columns + rows) // (2 * rows), height
    else:
        wide, high = width, (2 * width * rows + columns) // (2 * columns)
    wide, high = max(1, min(wide, width)), max(1, min(high, height))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def kept_fraction(size: tuple[int, int], side: int | Sequence[int]) -> float:
    """The fraction of the pixels of an image that its crop keeps, in (0, 1].

    Args:
        size: (width, height) of the upright image in pixels, as in Pillow.
        side: Side of a square event, or (height, width).

    Returns:
        The area of `crop_box`, divided by that of the image.

    Example:
        >>> from scoresde.data.image_rules import kept_fraction
        >>> kept_fraction((100, 60), 32), kept_fraction((100, 60), (12, 20))
        (0.6, 1.0)
    """
    left, top, right, bottom = crop_box(size, side)
    return (right - left) * (bottom - top) / (size[0] * size[1])
