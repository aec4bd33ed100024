"""Pictures of single events: image files as events, and events as PNG files.

    256 levels                       the numbers in the file, 8 bits a channel
    an `ImageFolder` with others     the numbers in the file too, by its rules
    other data with K levels         black is level 0, white is level K - 1, and other grays are the nearest level

A picture that is read and written again keeps its values. Transparent pixels are missing ones.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scoresde.data.image_rules import BYTE, ImageRules
from scoresde.data.pixels import check_depth, check_frames, eight_bits, upright
from scoresde.data.sources import Splits
from scoresde.data.stored import unreadable
from scoresde.data.transforms import level_count

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class PictureFormat:
    """How image files stand for events (channels, height, width) with whole numbers 0 .. levels - 1.

    Args:
        channels: 1 for gray, 3 for colors.
        levels: Number of levels.
        rules: The rules of an `ImageFolder`, whose files hold the levels themselves. None for other data.
    """

    channels: int
    levels: int
    rules: ImageRules | None = None

    def read(self, file: Path) -> tuple[Tensor, Tensor | None]:
        """Read a picture of any size.

        Args:
            file: An image file.

        Returns:
            The levels, (channels, height, width), and which pixels are known, a tensor of bool (1, height, width). The latter
            is None if all are. Levels of missing pixels are 0.

        Raises:
            ValueError: If the file is not an image, or has half-transparent pixels, several frames or other levels.
        """
        from PIL import Image

        try:
            with Image.open(file) as image:
                known = _opaque(image)
                pixels = self._levels(image if known is None else _without_alpha(image))
        except unreadable() as problem:
            raise ValueError(f"{file} cannot be read as a picture: {problem}") from problem
        raw = torch.from_numpy(np.ascontiguousarray(pixels).astype(np.int64))
        if int(raw.max()) >= self.levels or int(raw.min()) < 0:
            raise ValueError(
                f"{file} holds values from {int(raw.min())} to {int(raw.max())}: allowed are 0 .. {self.levels - 1}"
            )
        return (raw, None) if known is None else (raw * known, known)

    def _levels(self, image: Image.Image) -> np.ndarray:
        """The levels of an image, (channels, height, width)."""
        if self.rules is not None:
            pixels = self.rules.values(image)
        else:
            pixels = np.asarray(eight_bits(image).convert("RGB" if self.channels == 3 else "L"))
            if self.levels != BYTE:
                pixels = np.rint(pixels.astype(np.float64) * (self.levels - 1) / (BYTE - 1))
        return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)

    def png(self, raw: Tensor) -> bytes:
        """Write an event.

        Args:
            raw: The levels, (channels, height, width).

        Returns:
            A PNG file, which `read` reads as the same levels; with 8 bits a channel, or 16 bits of gray for more than 256 levels
            of an `ImageFolder`.
        """
        values = raw.double()
        if self.rules is None and self.levels != BYTE:
            values = values * (BYTE - 1) / (self.levels - 1)
        deep = self.rules is not None and self.levels > BYTE
        return png_bytes(values.round().numpy().astype(np.uint16 if deep else np.uint8))

    def shown(self, values: Tensor) -> np.ndarray:
        """Values as a picture to look at, from black for level 0 to white for the highest level.

        Args:
            values: Numbers in units of the data, (channels, height, width) or (height, width). They need not be whole.

        Returns:
            Bytes, (channels, height, width).
        """
        picture = values[None] if values.ndim == 2 else values
        scaled = picture.double() / (self.levels - 1) * (BYTE - 1)
        return scaled.round().clamp(0, BYTE - 1).to(torch.uint8).numpy()


def picture_format(data: Splits) -> PictureFormat | None:
    """How pictures stand for the events of data.

    Args:
        data: The data.

    Returns:
        The format. None if the events are not pictures with levels or tokens: (1, H, W), (3, H, W) or (H, W).
    """
    shape, transform = data.event_shape, data.transform
    picture = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
    if not level_count(transform) or not picture:
        return None
    rules = getattr(data, "rules", None)
    own = isinstance(rules, ImageRules) and (rules.levels, rules.palette) != (BYTE, "colors")
    return PictureFormat(shape[0] if len(shape) == 3 else 1, level_count(transform), rules if own else None)


def read_mask(file: Path, sides: Sequence[int]) -> Tensor:
    """Read which pixels are known.

    Args:
        file: An image file that is white where pixels are known and black where they are missing.
        sides: (height, width).

    Returns:
        A tensor of bool, (1, height, width).

    Raises:
        ValueError: If the file is not an image, has another size, other grays, or no pixel of one of the two.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.asarray(eight_bits(image).convert("L"))
    except unreadable() as problem:
        raise ValueError(f"{file} cannot be read as a mask: {problem}") from problem
    if pixels.shape != tuple(sides):
        raise ValueError(
            f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels: a mask for these pictures has {sides[1]} x {sides[0]}"
        )
    if other := sorted(set(np.unique(pixels).tolist()) - {0, BYTE - 1}):
        raise ValueError(
            f"{file} has the gray {other[0]}: a mask is white (255) where pixels are known and black (0) where they are missing"
        )
    return torch.from_numpy(pixels[None] > 0)


def png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG file.

    Args:
        pixels: (1 or 3, height, width) of uint8, or (1, height, width) of uint16.

    Returns:
        The content of the file.
    """
    from PIL import Image

    file, rows = io.BytesIO(), pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(rows)).save(file, "PNG")
    return file.getvalue()


def _opaque(image: Image.Image) -> Tensor | None:
    """Which pixels are opaque, (1, height, width). None if all are. Raises ValueError for half-transparent ones."""
    if not image.has_transparency_data:
        return None
    alpha = np.asarray(upright(image).convert("RGBA").getchannel("A"))
    if (alpha == BYTE - 1).all():
        return None
    if other := sorted(set(np.unique(alpha).tolist()) - {0, BYTE - 1}):
        raise ValueError(
            f"it has pixels with the opacity {other[0]} of 255: make them opaque, or fully transparent where they are missing"
        )
    return torch.from_numpy(alpha[None] > 0)


def _without_alpha(image: Image.Image) -> Image.Image:
    """An image of colors or grays without its transparency."""
    check_frames(image)
    check_depth(image)
    gray = image.mode in ("LA", "La", "L", "1")
    return upright(image).convert("RGBA").convert("RGB").convert("L" if gray else "RGB")
