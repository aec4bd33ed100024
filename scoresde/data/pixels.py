"""Pixels of an image file or a PIL image, by the same rules for every source.

    colors or gray       8 bits a channel: palettes, CMYK, YCbCr, HSV and LAB become RGB; one bit becomes 0 and 255
    more than 8 bits     gray images keep their values; colors raise an error, because Pillow keeps only 8 bits of them
    orientation          applied as the camera recorded it (EXIF)
    transparency         an opaque alpha channel is dropped; otherwise an error, because the colors of clear pixels are undefined
    several frames       an error; of a camera's multi-picture file (MPO) the main picture is used

The depth is that of the file, not that of the decoded image.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

GRAY = ("1", "L", "LA", "La")
DEEP_GRAY = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of gray images with more than 8 bits."""
ORIENTATION, SIDEWAYS = 274, (5, 6, 7, 8)
"""The tag of the EXIF orientation, and its values for which width and height are exchanged."""
_CUT = re.compile(r"(?<!BGR);16")
"""Raw modes with 16 bits per channel; BGR;16 has 16 bits per pixel."""


def eight_bits(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied, in mode "L" or "RGB".

    Raises:
        ValueError: For more than 8 bits per channel, transparent pixels, several frames, and modes that Pillow cannot convert.
    """
    check_frames(image)
    check_depth(image)
    image = upright(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").tobytes().strip(b"\xff"):
        raise ValueError("it is transparent in places: paste it on a background first (PIL.Image.alpha_composite)")
    return image.convert("L" if image.mode in GRAY else "RGB")


def numbers(image: Image.Image) -> np.ndarray:
    """The image as an array (1 or 3, height, width) of bytes, or (1, height, width) with the values of a deep gray image.

    Raises ValueError as `eight_bits`.
    """
    if image.mode in DEEP_GRAY:
        check_frames(image)
        return np.array(upright(image))[None]
    pixels = np.array(eight_bits(image))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def is_lossy(file: Path) -> bool:
    """Whether a file is a JPEG or a lossy WebP image, by its content."""
    with open(file, "rb") as content:
        head = content.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WEBP":
            return head[:2] == b"\xff\xd8"
        while len(chunk := content.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name in (b"VP8 ", b"VP8L"):
                return bool(name == b"VP8 ")
            content.seek(size + size % 2, os.SEEK_CUR)
    return False


def upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied."""
    from PIL import ImageOps

    turned = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of the image with its EXIF orientation applied, from its header."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION) in SIDEWAYS else (width, height)


def check_frames(image: Image.Image) -> None:
    """Raise ValueError for an image of several frames, unless it is a camera's multi-picture file."""
    if getattr(image, "is_animated", False) and image.format != "MPO" and image.tell() == 0:
        raise ValueError(f"it has {getattr(image, 'n_frames', 'several')} frames: save each frame as a separate image")


def check_depth(image: Image.Image) -> None:
    """Raise ValueError for an image with more than 8 bits per channel."""
    if image.mode in DEEP_GRAY or _cut(image):
        raise ValueError(
            f"its pixels have mode {image.mode!r}, with more than 8 bits per channel: save it with 8 bits, or as "
            "an array; for gray images, ImageFolder also has levels=65536"
        )


def _cut(image: Image.Image) -> bool:
    """Whether the file has more bits per channel than the decoded image."""
    for codec, _, _, arguments in _tiles(image):
        deepest = arguments[-1] if codec.startswith("ppm") and isinstance(arguments, tuple) else 0
        if _CUT.search(str(arguments)) or (isinstance(deepest, int) and deepest > 255):
            return True
    return False


def _tiles(image: Image.Image) -> list[Any]:
    """Pillow's description of the stored pixels. A loaded image has none, so its file is opened again."""
    tiles = list(getattr(image, "tile", []))
    name = getattr(image, "filename", "")
    if tiles or not name or not os.path.isfile(name):
        return tiles
    from PIL import Image

    with Image.open(name) as again:
        return list(again.tile)
