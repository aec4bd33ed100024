"""One pass through data that checks whether its values are allowed and whether float32 can represent them.

Training and sampling compute in float32, which has 24 bits. If the offset of the data is large compared with its spread,
rounding x loses information: for values of 1e8 with a standard deviation of 1, neighboring numbers of float32 differ by 8.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.data.columns import Columns, RealColumn
from scoresde.data.rows import Rows, chunks
from scoresde.data.tokens import Tokens
from scoresde.data.transforms import Affine, Quantized, Transform
from scoresde.data.values import named

MAX_ROUNDING = 0.01
"""Largest root mean square of the rounding error, in units of the standard deviation."""
CONSTANT = 1e-12
"""Standard deviation relative to the largest value below which a coordinate counts as constant (rounding of float64)."""


def check_all(name: str, raw: Tensor | Rows, transform: Transform) -> str:
    """Check all events (n, *event).

    Returns:
        The reason why float32 cannot represent x, or "".

    Raises:
        ValueError: For NaN and infinities, with the indices of the events, and for values that a `Quantized` transform or
            `Tokens` do not allow.
    """
    if isinstance(transform, Quantized):
        for part in _finite(name, raw):
            transform.check(part, name)
        return ""
    if isinstance(transform, Tokens):
        first = 0
        for part in _finite(name, raw):
            transform.check(part, name, torch.arange(first, first + len(part)))
            first += len(part)
        return ""
    if isinstance(transform, Columns):
        real = {
            k: _Rounding(Affine(column.shift, column.scale))
            for k, column in enumerate(transform.columns)
            if isinstance(column, RealColumn)
        }
        for part in _finite(name, raw):
            transform.check(part, name)
            for k, column in real.items():
                column.add(part[:, k : k + 1])
        found = (column.verdict(f"{name}, column {transform.names[k]!r}") for k, column in real.items())
        return next((fault for fault in found if fault), "")
    seen = _Rounding(transform)
    for part in _finite(name, raw):
        seen.add(part)
    return seen.verdict(name)


def _finite(name: str, raw: Tensor | Rows) -> Iterator[Tensor]:
    """Iterate over the events up to the first that is not finite, then raise an error with the indices of all such events."""
    bad: list[int] = []
    first = 0
    for part in chunks(raw):
        good = torch.isfinite(part).flatten(1).all(1)
        bad += (first + torch.nonzero(~good).flatten()).tolist()
        first += len(part)
        if not bad:
            yield part
    if bad:
        raise ValueError(f"{name} holds non-finite values in {len(bad)} of {len(raw)} samples: index {named(bad)}")


class _Rounding:
    """Moments of every coordinate about its first value, and of its rounding error, in units of the largest value."""

    def __init__(self, transform: Affine) -> None:
        self.transform, self.unit, self.count = transform, 0.0, 0
        self.low, self.high, self.single = math.inf, -math.inf, True

    def add(self, raw: Tensor) -> None:
        """Add finite events (B, *event)."""
        self.single = self.single and raw.dtype == torch.float32
        raw = raw.to(torch.float64)
        low, high = (float(value) for value in torch.aminmax(raw))
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self.count:
            self.unit = max(abs(low), abs(high)) or 1.0
            self.origin = raw[0].clone()
            self.sum = self.square = self.lost = torch.zeros_like(self.origin)
            self.pooled = torch.zeros(2, dtype=torch.float64)
        x = (raw - self.transform.shift) / self.transform.scale
        lost = (x - x.to(torch.float32).to(torch.float64)) * (self.transform.scale / self.unit)
        moved = (raw - self.origin) / self.unit
        about = (raw - self.origin.flatten()[0]) / self.unit
        self.sum, self.square = self.sum + moved.sum(0), self.square + moved.square().sum(0)
        self.lost = self.lost + lost.square().sum(0)
        self.pooled = self.pooled + torch.stack([about.sum(), about.square().sum()])
        self.count += len(raw)

    def verdict(self, name: str) -> str:
        """The reason why float32 cannot represent the data, or ""."""
        ends = [(value - self.transform.shift) / self.transform.scale for value in (self.low, self.high)]
        said = f"{name} from {self.low:.9g} to {self.high:.9g} is mapped to x from {ends[0]:.9g} to {ends[1]:.9g}"
        said += f" by {self.transform!r}"
        largest = max(map(abs, ends))
        if not largest <= torch.finfo(torch.float32).max:
            return f"{said}: beyond float32, {self._advice()}"
        std = (self.square / self.count - (self.sum / self.count).square()).clamp(min=0.0).sqrt()
        error = (self.lost / self.count).sqrt()
        varies = std > CONSTANT * max(abs(self.low), abs(self.high)) / self.unit
        coarse = varies & ~(error <= MAX_ROUNDING * std)
        if bool(coarse.any()):
            return (
                f"{said}: float32 rounds away more than {MAX_ROUNDING:.0%} of the spread of {int(coarse.sum())} "
                f"of {coarse.numel()} coordinates; {self._advice()}"
            )
        step = largest * torch.finfo(torch.float32).eps * self.transform.scale / self.unit
        if self.single and self._std() > 0.0 and step / math.sqrt(12.0) > MAX_ROUNDING * self._std():
            return f"{said}: float32, in which it is stored, is too coarse for its spread; subtract its mean in float64"
        return ""

    def _std(self) -> float:
        mean, square = (self.pooled / (self.count * self.origin.numel())).tolist()
        return math.sqrt(max(0.0, square - mean**2))

    def _advice(self) -> str:
        mean = float(self.origin.flatten()[0]) + self.unit * float(self.pooled[0]) / (self.count * self.origin.numel())
        better = Affine.standard(mean, self.unit * self._std())
        return f"give shift={better.shift}, scale={better.scale} (scoresde inspect chooses them), and coordinates of one scale"
