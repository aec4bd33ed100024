"""How raw data became the tensors that a model sees: declared once, used in both directions.

    Quantized    integers k in 0 .. K-1  ->  x = low + (high - low) (k + u) / K,   u ~ U(0, 1) the dequantisation
    Affine       reals r                 ->  x = (r - shift) / scale

Both directions compute in float64. x is rounded once, to the dtype asked for; what is decoded is not rounded. Tensors, numpy
arrays and lists are taken alike (`as_tensor`). NaN, infinities and empty batches are refused in both directions, and so are
values that the dtype cannot hold.

The same object undoes the map for samples and pays for it in a density (`log_volume`), so that bits/dim can neither
forget an offset nor apply one to data that never was discrete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, check_number, check_rising
from scoresde.data.values import as_tensor, check_event
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
        check_rising("low", self.low, "high", self.high)

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

    def check(self, raw: Any, name: str = "raw data") -> Tensor:
        """The levels of ``raw``, as a tensor of whole numbers; they may be stored as floats.

        Raises:
            ValueError: for fractions, NaN, nothing at all, or numbers outside 0 .. levels - 1. ``name`` begins the message.
        """
        raw = check_event(name, as_tensor(name, raw))
        if raw.is_floating_point():
            check_finite(name, raw.reshape(len(raw) if raw.ndim else 1, -1))
            if bool((odd := raw != raw.round()).any()):
                raise ValueError(
                    f"{name} holds fractions, such as {float(raw[odd][0]):g}, and {self!r} takes whole levels: use Affine, "
                    "or give the whole numbers, such as the bytes of an image"
                )
        low, high = (int(value) for value in torch.aminmax(raw))
        if low < 0 or high >= self.levels:
            raise ValueError(
                f"{name} holds values from {low} to {high}: levels={self.levels} allows 0 .. {self.levels - 1}"
            )
        out: Tensor = raw.long() if raw.is_floating_point() else raw
        return out

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raise ValueError where x of this dtype cannot tell neighbouring levels apart."""
        largest = max(abs(self.low), abs(self.high))
        if not self.width >= 4.0 * torch.finfo(dtype).eps * largest or largest > torch.finfo(dtype).max:
            raise ValueError(
                f"levels={self.levels} between low={self.low:g} and high={self.high:g} are too fine for {dtype}: "
                f"give {_most_levels(largest, self.high - self.low, dtype)} levels at most, or another dtype"
            )

    def encode(self, raw: Any, noise: NoiseSource | None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """Whole numbers (B, *event) to x (B, *event). Without ``noise`` u = 1/2, the middle of the box.

        Raises ValueError as `check` and `check_dtype` do.
        """
        self.check_dtype(dtype)
        return self._encode(self.check(raw), noise, step=step, dtype=dtype)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        """`encode` of what was checked already, as a data set does when it takes the data in."""
        u = torch.full((), 0.5, dtype=torch.float64, device=raw.device)
        if noise is not None:
            u = noise.uniform(raw.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        return self._place(raw, u, dtype=dtype)

    def place(self, raw: Any, u: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Whole numbers (B, *event) and places u in their boxes, (B, *event) or (), in [0, 1], to x (B, *event).

        Raises ValueError as `check` and `check_dtype` do, and for u outside [0, 1].
        """
        self.check_dtype(dtype)
        raw = self.check(raw)
        if not bool(((u >= 0.0) & (u <= 1.0)).all()):
            raise ValueError(f"u holds values from {float(u.min()):g} to {float(u.max()):g}: allowed is [0, 1]")
        return self._place(raw, u, dtype=dtype)

    def _place(self, raw: Tensor, u: Tensor, *, dtype: torch.dtype) -> Tensor:
        k = raw.to(torch.float64)
        x = (self.low + self.width * (k + u)).to(dtype)
        # the last bit of a rounding must not put x into the next box: stay strictly inside
        first, last = (self.low + self.width * k).to(dtype), (self.low + self.width * (k + 1.0)).to(dtype)
        up, down = torch.full_like(first, math.inf), torch.full_like(last, -math.inf)
        return x.clamp(torch.nextafter(first, up), torch.nextafter(last, down))

    def decode(self, x: Any) -> Tensor:
        """x (B, *event) to the level (int64) in whose box it lies; outside [low, high] the nearest level.

        Raises ValueError for NaN and infinities, which lie in no box, and for an empty x.
        """
        x = _finite("x", x)
        out: Tensor = ((x - self.low) / self.width).floor().clamp(0, self.levels - 1).long()
        return out

    def spread(self, std: float) -> float:
        """The standard deviation of x, where levels have the standard deviation ``std``: dequantisation adds a box's."""
        return self.width * math.sqrt(std**2 + 1.0 / 12.0)

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

    @classmethod
    def standard(cls, mean: float, std: float) -> Affine:
        """The map to mean 0 and standard deviation 1: scale to four digits, shift to a thousandth of the scale."""
        scale = float(f"{std:.4g}")
        if not scale > 0.0:
            return cls(mean)
        return cls(round(mean, 3 - math.floor(math.log10(scale))), scale)

    @property
    def discrete(self) -> bool:
        """False: a density of real data has no bits/dim."""
        return False

    def encode(self, raw: Any, noise: NoiseSource | None = None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """(raw - shift) / scale, (B, *event); ``noise`` is not needed.

        Raises ValueError for NaN, infinities, an empty batch, and values beyond the range of ``dtype``.
        """
        return self._encode(_finite("raw data", raw), noise, step=step, dtype=dtype)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        x = ((raw.to(torch.float64) - self.shift) / self.scale).to(dtype)
        if not bool(torch.isfinite(x).all()):
            low, high = (float(value) for value in torch.aminmax(raw))
            raise ValueError(
                f"raw data from {low:g} to {high:g} is beyond {dtype} after {self!r}: give a shift and a scale that bring it "
                "to mean 0 and standard deviation 1"
            )
        return x

    def decode(self, x: Any) -> Tensor:
        """x * scale + shift, (B, *event) in float64.

        Raises ValueError for NaN, infinities, an empty x, and where the result is beyond float64.
        """
        x = _finite("x", x)
        raw: Tensor = x * self.scale + self.shift
        if not bool(torch.isfinite(raw).all()):
            raise ValueError(
                f"x up to {float(x.detach().abs().max()):g} is beyond float64 after {self!r} is undone: "
                "give a smaller scale, and data in smaller units"
            )
        return raw

    def spread(self, std: float) -> float:
        """The standard deviation of x, where raw data has the standard deviation ``std``."""
        return std / self.scale

    def log_volume(self, dimensions: int) -> float:
        """ln |d x / d r| = -dimensions ln scale, in nats."""
        return -dimensions * math.log(self.scale)


def _finite(name: str, x: Any) -> Tensor:
    """x in float64. Raises ValueError for NaN, infinities and nothing at all."""
    x = check_event(name, as_tensor(name, x))
    check_finite(name, x.reshape(len(x) if x.ndim else 1, -1))
    out: Tensor = x.to(torch.float64)
    return out


def _most_levels(largest: float, width: float, dtype: torch.dtype) -> int:
    return max(2, math.floor(width / (4.0 * torch.finfo(dtype).eps * largest)))


Transform = Quantized | Affine


def declared(levels: int, low: float, high: float, shift: float, scale: float) -> Transform:
    """`Quantized` of ``levels``, or where these are 0 `Affine`.

    Raises ValueError for what belongs to the other, where it is not its default: it would change nothing.
    """
    if levels and (shift, scale) != (0.0, 1.0):
        raise ValueError(
            f"shift={shift!r}, scale={scale!r} with levels={levels!r}: these are for real data, give levels=0"
        )
    if not levels and (low, high) != (-1.0, 1.0):
        raise ValueError(
            f"low={low!r}, high={high!r} with levels={levels!r}: these are for levels, give shift and scale"
        )
    return Quantized(levels, low, high) if levels else Affine(shift, scale)
