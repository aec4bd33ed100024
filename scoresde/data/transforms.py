"""How raw data became the tensors that a model sees: declared once, used in both directions.

    Quantized    integers k in 0 .. K-1  ->  x = low + (high - low) (k + u) / K,   u ~ U(0, 1) the dequantisation
    Affine       reals r                 ->  x = (r - shift) / scale

The same object undoes the map for samples and pays for it in a density (`log_volume`), so that bits/dim can neither
forget an offset nor apply one to data that never was discrete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class Quantized:
    """Discrete data of ``levels`` equal steps, dequantised uniformly and mapped to [low, high].

    levels: number of values that a coordinate takes, e.g. 256 for 8-bit images, 17 for scikit-learn's digits.
    low, high: the range of x.

    The reference implementation's convention for 8-bit images, (255 r + u) / 256 on r = k / 255, is Quantized(256, 0, 1),
    or Quantized(256, -1, 1) where it centres.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("levels", self.levels, least=2)
        check_number("low", self.low)
        check_number("high", self.high, above=self.low)

    @property
    def discrete(self) -> bool:
        """True: bits/dim means something."""
        return True

    @property
    def width(self) -> float:
        """The width of one level's box in x."""
        return (self.high - self.low) / self.levels

    def edges(self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        """The levels + 1 edges of the boxes."""
        return torch.linspace(self.low, self.high, self.levels + 1, dtype=dtype, device=device)

    def check(self, raw: Tensor) -> None:
        """Raise ValueError for integers outside 0 .. levels - 1."""
        low, high = int(raw.min()), int(raw.max())
        if low < 0 or high >= self.levels:
            raise ValueError(
                f"raw data holds values from {low} to {high}: levels={self.levels} allows 0 .. {self.levels - 1}"
            )

    def encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """Integers (B, *event) to x (B, *event). Without ``noise`` u = 1/2, the middle of the box.

        Raises ValueError for values outside 0 .. levels - 1.
        """
        u = torch.full((), 0.5, dtype=torch.float64, device=raw.device)
        if noise is not None:
            u = noise.uniform(raw.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        return self.place(raw, u, dtype=dtype)

    def place(self, raw: Tensor, u: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Integers (B, *event) and places u in their boxes, (B, *event) or (), in [0, 1], to x (B, *event).

        Raises ValueError for values outside 0 .. levels - 1.
        """
        self.check(raw)
        k = raw.to(torch.float64)
        x = (self.low + self.width * (k + u)).to(dtype)
        # the last bit of a rounding must not put x into the next box: stay strictly inside
        first, last = (self.low + self.width * k).to(dtype), (self.low + self.width * (k + 1.0)).to(dtype)
        up, down = torch.full_like(first, math.inf), torch.full_like(last, -math.inf)
        return x.clamp(torch.nextafter(first, up), torch.nextafter(last, down))

    def decode(self, x: Tensor) -> Tensor:
        """x to the level (int64) in whose box it lies; outside [low, high] the nearest level."""
        return ((x.to(torch.float64) - self.low) / self.width).floor().clamp(0, self.levels - 1).long()

    def log_volume(self, dimensions: int) -> float:
        """ln |d x / d(k + u)|: what turns log p(x) into the log-density of k + u, in nats."""
        return dimensions * math.log(self.width)


@dataclass(frozen=True)
class Affine:
    """Real data, x = (r - shift) / scale. Densities of it are in nats; bits/dim are refused.

    shift, scale: real numbers, scale > 0.
    """

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("shift", self.shift)
        check_number("scale", self.scale, above=0.0)

    @property
    def discrete(self) -> bool:
        """False: a density of real data has no bits/dim."""
        return False

    def encode(self, raw: Tensor, noise: NoiseSource | None = None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """(raw - shift) / scale; ``noise`` is not needed."""
        return ((raw.to(torch.float64) - self.shift) / self.scale).to(dtype)

    def decode(self, x: Tensor) -> Tensor:
        """x * scale + shift."""
        return x * self.scale + self.shift

    def log_volume(self, dimensions: int) -> float:
        """ln |d x / d r| = -dimensions ln scale, in nats."""
        return -dimensions * math.log(self.scale)


Transform = Quantized | Affine
