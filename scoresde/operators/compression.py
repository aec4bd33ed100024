"""Compression of images by JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_count, check_rising
from scoresde.noise import NoiseSource
from scoresde.operators.base import Operator


@dataclass(frozen=True)
class JPEG(Operator):
    """Gray or color images after compression by JPEG with 8 bits, as Pillow does it. It is not linear.

    Pixels of the range [low, high] become the nearest of 256 levels, k + 1/2 in units of (high - low) / 256.

    Args:
        quality: Quality of the file, from 1 to 95.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
    """

    quality: int = 10
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("quality", self.quality)
        if self.quality > 95:
            raise ValueError(f"quality={self.quality!r} is not allowed: give a whole number from 1 to 95")
        check_rising("low", self.low, "high", self.high)

    def check(self, event_shape: Sequence[int]) -> None:
        if len(event_shape) != 3 or event_shape[0] not in (1, 3):
            raise ValueError(
                f"JPEG does not take events {tuple(event_shape)}: give gray or color images (1 or 3, height, width)"
            )

    def channels(self, event_shape: Sequence[int]) -> int:
        return event_shape[0]

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        unit = (self.high - self.low) / 256.0
        levels = ((self._checked(x).detach().cpu().double() - self.low) / unit - 0.5).round().clamp(0.0, 255.0)
        found = torch.stack([self._compressed(one) for one in levels.to(torch.uint8)])
        return (self.low + unit * (found.double() + 0.5)).to(x)

    def _compressed(self, levels: Tensor) -> Tensor:
        """An image (C, height, width) of bytes, after it was saved and read."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(levels.movedim(0, -1).squeeze(-1).numpy()).save(file, "JPEG", quality=self.quality)
        pixels = np.array(Image.open(file))
        return torch.from_numpy(pixels.reshape(*levels.shape[1:], -1)).movedim(-1, 0)
