"""Transforms between raw data and the tensors x of a model, used in both directions.

    Quantized    integers k in 0 .. K-1  ->  x = low + (high - low) (k + u) / K,   u ~ U(0, 1), the dequantization
    Affine       reals r                 ->  x = (r - shift) / scale
    Columns      rows of a table         ->  each column with its own shift and scale (``columns.py``)
    Tokens       tokens k in 0 .. K-1    ->  x = k (``tokens.py``)

Both directions compute in float64. x is rounded once, to the requested dtype. Decoded data is not rounded. Both directions accept
tensors, numpy arrays and lists (`as_tensor`), and raise a ValueError for NaN, infinities, empty batches, and values that
the dtype cannot represent.

The same object decodes samples and gives the change of volume of a density (``log_volume``). Bits/dim therefore always
include the correct offset, and are not computed for data that is not discrete.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, check_number, check_rising
from scoresde.data.columns import Columns
from scoresde.data.tokens import Tokens
from scoresde.data.values import as_tensor, check_event
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class Quantized:
    """Discrete data with ``levels`` values, dequantized uniformly and mapped to [low, high].

    The convention of the reference implementation for 8-bit images, (255 r + u) / 256 with r = k / 255, is
    ``Quantized(256, 0, 1)``, or ``Quantized(256, -1, 1)`` for centered data.

    Args:
        levels: Number of values of a coordinate: 256 for 8-bit images, 17 for scikit-learn's digits.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
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
        """True: the data is discrete, so bits/dim are defined."""
        return True

    @property
    def dequantized(self) -> bool:
        """True: u is random, so the mean of the log-density over u is a lower bound."""
        return True

    @property
    def width(self) -> float:
        """The width of the interval of one level in x."""
        return (self.high - self.low) / self.levels

    def edges(self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        """The edges of the intervals of all levels.

        Args:
            dtype: The dtype of the result.
            device: The device of the result.

        Returns:
            A tensor of shape (levels + 1,).
        """
        return torch.linspace(self.low, self.high, self.levels + 1, dtype=dtype, device=device)

    def check(self, raw: Any, name: str = "raw data") -> Tensor:
        """Check raw data.

        Args:
            raw: Levels of shape (B, *event); whole numbers, which may be stored as floats.
            name: The name of the data in messages.

        Returns:
            The levels as a tensor of integers.

        Raises:
            ValueError: For fractions, NaN, empty data, or numbers outside 0 .. levels - 1.
        """
        raw = check_event(name, as_tensor(name, raw))
        if raw.is_floating_point():
            check_finite(name, raw.reshape(len(raw) if raw.ndim else 1, -1))
            if bool((odd := raw != raw.round()).any()):
                raise ValueError(
                    f"{name} holds fractions, such as {float(raw[odd][0]):g}, and {self!r} needs whole numbers: use Affine, "
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
        """Check that x of a dtype can distinguish neighboring levels.

        Args:
            dtype: A floating-point dtype.

        Raises:
            ValueError: If it cannot.
        """
        largest = max(abs(self.low), abs(self.high))
        if not self.width >= 4.0 * torch.finfo(dtype).eps * largest or largest > torch.finfo(dtype).max:
            raise ValueError(
                f"levels={self.levels} between low={self.low:g} and high={self.high:g} are too fine for {dtype}: "
                f"give {_most_levels(largest, self.high - self.low, dtype)} levels at most, or another dtype"
            )

    def encode(self, raw: Any, noise: NoiseSource | None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """Map levels to x.

        Args:
            raw: Levels of shape (B, *event).
            noise: The source of u, keyed by event. None sets u = 1/2, the middle of the interval.
            step: The step that keys the draw of u.
            dtype: The dtype of x.

        Returns:
            x of shape (B, *event).

        Raises:
            ValueError: As `check` and `check_dtype`.
        """
        self.check_dtype(dtype)
        return self._encode(self.check(raw), noise, step=step, dtype=dtype)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        """`encode` for data that was already checked, for example by a data set."""
        u = torch.full((), 0.5, dtype=torch.float64, device=raw.device)
        if noise is not None:
            u = noise.uniform(raw.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        return self._place(raw, u, dtype=dtype)

    def place(self, raw: Any, u: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Map levels and given positions within their intervals to x.

        Args:
            raw: Levels of shape (B, *event).
            u: Positions in [0, 1], of shape (B, *event) or ().
            dtype: The dtype of x.

        Returns:
            x of shape (B, *event).

        Raises:
            ValueError: As `check` and `check_dtype`, and for u outside [0, 1].
        """
        self.check_dtype(dtype)
        raw = self.check(raw)
        if not bool(((u >= 0.0) & (u <= 1.0)).all()):
            raise ValueError(f"u holds values from {float(u.min()):g} to {float(u.max()):g}: allowed is [0, 1]")
        return self._place(raw, u, dtype=dtype)

    def _place(self, raw: Tensor, u: Tensor, *, dtype: torch.dtype) -> Tensor:
        k = raw.to(torch.float64)
        x = (self.low + self.width * (k + u)).to(dtype)
        # rounding must not move x into the next interval, so x stays strictly inside
        first, last = (self.low + self.width * k).to(dtype), (self.low + self.width * (k + 1.0)).to(dtype)
        up, down = torch.full_like(first, math.inf), torch.full_like(last, -math.inf)
        return x.clamp(torch.nextafter(first, up), torch.nextafter(last, down))

    def decode(self, x: Any) -> Tensor:
        """Map x to levels.

        Args:
            x: A tensor of shape (B, *event).

        Returns:
            The level (int64) whose interval contains x. Outside [low, high] it is the nearest level.

        Raises:
            ValueError: For NaN, infinities, and an empty x.
        """
        x = _finite("x", x)
        out: Tensor = ((x - self.low) / self.width).floor().clamp(0, self.levels - 1).long()
        return out

    def spread(self, std: float) -> float:
        """The standard deviation of x, including that of the dequantization.

        Args:
            std: The standard deviation of the levels.

        Returns:
            The standard deviation of x.
        """
        return self.width * math.sqrt(std**2 + 1.0 / 12.0)

    def log_volume(self, dimensions: int) -> float:
        """The logarithm of the change of volume, ln |d x / d(k + u)|.

        Args:
            dimensions: The number of coordinates of an event.

        Returns:
            The term that turns log p(x) into the log-density of k + u, in nats.
        """
        return dimensions * math.log(self.width)


@dataclass(frozen=True)
class Affine:
    """Real data with x = (r - shift) / scale.

    Densities of real data are in nats. Bits/dim are not defined and raise an error.

    Args:
        shift: A real number.
        scale: A real number above 0.
    """

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("shift", self.shift)
        check_number("scale", self.scale, above=0.0)

    @classmethod
    def standard(cls, mean: float, std: float) -> Affine:
        """The map to mean 0 and standard deviation 1, rounded.

        Args:
            mean: The mean of the data.
            std: The standard deviation of the data.

        Returns:
            A map whose scale has four digits and whose shift is rounded to a thousandth of the scale.
        """
        scale = float(f"{std:.4g}")
        if not scale > 0.0:
            return cls(mean)
        return cls(round(mean, 3 - math.floor(math.log10(scale))), scale)

    @property
    def discrete(self) -> bool:
        """False: bits/dim are not defined for real data."""
        return False

    @property
    def dequantized(self) -> bool:
        """False: nothing is added to real data."""
        return False

    def encode(self, raw: Any, noise: NoiseSource | None = None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """Map raw data to x = (raw - shift) / scale.

        Args:
            raw: Real numbers of shape (B, *event).
            noise: Not used.
            step: Not used.
            dtype: The dtype of x.

        Returns:
            x of shape (B, *event).

        Raises:
            ValueError: For NaN, infinities, an empty batch, and values beyond the range of ``dtype``.
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
        """Map x to raw data, x * scale + shift.

        Args:
            x: A tensor of shape (B, *event).

        Returns:
            Raw data of shape (B, *event) in float64.

        Raises:
            ValueError: For NaN, infinities, an empty x, and results beyond the range of float64.
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
        """The standard deviation of x.

        Args:
            std: The standard deviation of the raw data.

        Returns:
            ``std / scale``.
        """
        return std / self.scale

    def log_volume(self, dimensions: int) -> float:
        """The logarithm of the change of volume, ln |d x / d r|.

        Args:
            dimensions: The number of coordinates of an event.

        Returns:
            ``-dimensions * ln(scale)``, in nats.
        """
        return -dimensions * math.log(self.scale)


def _finite(name: str, x: Any) -> Tensor:
    """x in float64. Raises ValueError for NaN, infinities and empty data."""
    x = check_event(name, as_tensor(name, x))
    check_finite(name, x.reshape(len(x) if x.ndim else 1, -1))
    out: Tensor = x.to(torch.float64)
    return out


def _most_levels(largest: float, width: float, dtype: torch.dtype) -> int:
    return max(2, math.floor(width / (4.0 * torch.finfo(dtype).eps * largest)))


Transform = Quantized | Affine | Columns | Tokens


def level_count(transform: Transform) -> int:
    """The number of values of a coordinate, levels or tokens. 0 for real numbers and tables."""
    if isinstance(transform, Tokens):
        return transform.tokens
    return transform.levels if isinstance(transform, Quantized) else 0


def declared(levels: int, low: float, high: float, shift: float, scale: float) -> Transform:
    """`Quantized` with ``levels`` levels, or `Affine` if ``levels`` is 0.

    Raises ValueError for an argument of the other transform that is not the default, because it would have no effect.
    """
    if levels and (shift, scale) != (0.0, 1.0):
        raise ValueError(
            f"shift={shift!r}, scale={scale!r} with levels={levels!r}: they are only for real-valued data: give levels=0"
        )
    if not levels and (low, high) != (-1.0, 1.0):
        raise ValueError(
            f"low={low!r}, high={high!r} with levels={levels!r}: they are only for data with levels: give shift and scale"
        )
    return Quantized(levels, low, high) if levels else Affine(shift, scale)
