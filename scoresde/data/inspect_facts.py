"""Statistics of data before training: a pass over all events in bounded memory, and distances on a subset.

A second pass names the outliers, if there are any.

The largest noise level of a variance-exploding process should be the largest distance between two events, so that a sampler
can reach any event from any other (Song and Ermon 2020, arXiv:2006.09011, technique 1).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.data.dataset import permutation
from scoresde.data.distances import largest_distance
from scoresde.data.inspect_columns import MOST_COLUMNS, Column, ColumnValues, Grid
from scoresde.data.inspect_outliers import (
    FAR,
    LEAST_EVENTS,
    SAMPLED,
    SAMPLED_NUMBERS,
    Bulk,
    Outliers,
    OutlierSearch,
)
from scoresde.data.inspect_source import Source
from scoresde.data.stored import Stored
from scoresde.data.transforms import Transform
from scoresde.noise import NoiseSource

AT_ONCE = 2**22
"""Number of values in memory during the pass."""
PAIRED, PAIRED_NUMBERS = 2000, 2**25
"""Largest number of events between which distances are computed, and largest number of values in them."""
MOST_LEVELS = 65536


@dataclass(frozen=True)
class Facts:
    """Statistics of the data.

    Attributes:
        count: Number of events that can be read.
        shape: Shape of an event.
        dtype: The dtype of the stored data.
        low: Smallest finite value.
        high: Largest finite value.
        mean: Mean over all finite values.
        std: Standard deviation over all finite values.
        spread: Ratio of the largest to the smallest standard deviation of a coordinate, without constant coordinates.
        constant: Number of constant coordinates.
        whole: Whether all values are whole numbers.
        distinct: Number of different values; 0 for more than 65536.
        smooth: Correlation of neighbors along the last axis.
        broken: Names of events that cannot be read.
        unfinite: Names of events with values that are not finite.
        duplicates: Pairs of names of equal events, the first occurrence first.
        twins: Number of all duplicates.
        columns: The coordinates, of vectors with at most `MOST_COLUMNS`.
        grid: Equidistant values that the data takes, unless they are whole numbers.
        quantiles: The quantiles ``LEVELS`` of all values, of a random subset; empty for bytes and few events.
        sampled: Number of events of this subset.
        outliers: Events with values far from the bulk; None if there are none.
        tokens: Number of tokens, where events are tokens; 0 for numbers.
    """

    count: int
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    mean: float
    std: float
    spread: float
    constant: int
    whole: bool
    distinct: int
    smooth: float
    broken: tuple[str, ...]
    unfinite: tuple[str, ...]
    duplicates: tuple[tuple[str, str], ...]
    twins: int
    columns: tuple[Column, ...] = ()
    grid: Grid | None = None
    quantiles: tuple[float, ...] = ()
    sampled: int = 0
    outliers: Outliers | None = None
    tokens: int = 0

    @property
    def levels(self) -> int:
        """The number of levels that the values suggest; 0 for real data.

        It is 256 if the largest value is in 128 .. 255, otherwise the largest value plus 1. The config can use another
        number. For images from files, the number of bits of a pixel determines the levels.
        """
        if not self.whole or self.low < 0 or self.high >= MOST_LEVELS or self.high < 1:
            return 0
        return 256 if 128 <= self.high < 256 else int(self.high) + 1


def survey(source: Source) -> Facts:
    """Compute statistics of all events. Raises ValueError if no event can be read."""
    seen = _Seen(source)
    if not len(source.events):
        raise ValueError(f"{source.what} is empty: it has no events")
    with tqdm(total=len(source.events), desc="inspect", unit="event", dynamic_ncols=True) as bar:
        for numbers, events in _chunks(source.events, seen.broken, source.name):
            seen.add(numbers, events)
            bar.update(len(numbers))
    if not seen.count:
        raise ValueError(f"no event of {source.what} can be read: {'; '.join(seen.broken[:3])}")
    return seen.facts(_outliers(source, seen))


def _outliers(source: Source, seen: _Seen) -> Outliers | None:
    """The outliers, from a second pass if there are any."""
    if source.tokens or seen.bulk is None or not seen.has_outliers():
        return None
    found = OutlierSearch(seen.bulk)
    for numbers, events in _chunks(source.events, [], source.name):
        x = events.double()
        finite = torch.isfinite(x).flatten(1).all(1)
        if bool(finite.any()):
            found.add(torch.tensor(numbers)[finite], x[finite])
    _, worst, value, place = found.worst
    shape = tuple(source.events.shape[1:])
    at = tuple(int(k) for k in torch.unravel_index(torch.tensor(place), shape))
    names = tuple(source.name(k) for k in found.index[:8])
    return Outliers(
        names, len(found.index), source.name(worst), value, at, found.inner(), found.std(), found.column_stds()
    )


def farthest(source: Source, transform: Transform) -> tuple[float, int]:
    """The largest distance between two transformed events, and the number of events compared.

    If there are more than ``PAIRED`` events, it uses a random subset that is the same on every call.
    """
    n = len(source.events)
    size = math.prod(source.events.shape[1:])
    chosen = permutation(n, 0, 0)[: max(2, min(PAIRED, PAIRED_NUMBERS // size))].sort().values
    if len(chosen) < 2:
        return 0.0, len(chosen)
    raw = source.events[chosen]
    x = transform.encode(raw, NoiseSource(0, chosen), dtype=torch.float32).flatten(1)
    return largest_distance(x, most=len(x)), len(chosen)


def _chunks(
    events: Tensor | Stored, broken: list[str], name: Callable[[int], str]
) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, events) in order. Events that cannot be read are added to ``broken`` and skipped."""
    size = max(1, AT_ONCE // max(1, math.prod(events.shape[1:])))
    for first in range(0, len(events), size):
        numbers = list(range(first, min(first + size, len(events))))
        try:
            yield numbers, events[first : first + size]
        except Exception:  # third-party data sets may raise any exception: find the event
            whole = []
            for k in numbers:
                try:
                    whole.append((k, events[k : k + 1]))
                except Exception as problem:
                    said = str(problem)
                    broken.append(said if said.startswith(name(k)) else f"{name(k)}: {said}")
            if whole:
                yield [k for k, _ in whole], torch.cat([event for _, event in whole])


def _distinct(events: Tensor) -> Tensor:
    """The different values in float64. Bytes are counted, not sorted."""
    if events.dtype == torch.uint8:
        return torch.bincount(events.flatten(), minlength=256).nonzero().flatten().double()
    out: Tensor = events.unique().double()
    return out


class _Seen:
    """Sums over the events that were read."""

    def __init__(self, source: Source) -> None:
        self.source, self.count, self.dtype = source, 0, ""
        self.broken: list[str] = []
        self.unfinite: list[str] = []
        self.first: dict[bytes, int] = {}
        self.twins: list[tuple[int, int]] = []
        self.low, self.high, self.whole = math.inf, -math.inf, True
        self.values: Tensor | None = torch.empty(0, dtype=torch.float64)
        # relative to the first event and in units of its largest value, to prevent cancellation and overflow
        self.origin: Tensor | None = None
        self.unit = 1.0
        self.sum, self.square = torch.zeros(()), torch.zeros(())
        self.along = torch.zeros(2, dtype=torch.float64)
        shape = tuple(source.events.shape)
        size = math.prod(shape[1:])
        self.columns = ColumnValues(size) if len(shape) == 2 and size <= MOST_COLUMNS else None
        most = max(LEAST_EVENTS, min(SAMPLED, SAMPLED_NUMBERS // max(1, size)))
        self.chosen = torch.zeros(shape[0], dtype=torch.bool)
        self.chosen[permutation(shape[0], 0, 1)[:most]] = True
        self.sample: list[Tensor] = []
        self.ends: Tensor | None = None

    def add(self, numbers: list[int], events: Tensor) -> None:
        """Add events (B, *event) with these indices."""
        self.dtype = str(events.dtype).removeprefix("torch.")
        for k, event in zip(numbers, events, strict=True):
            digest = hashlib.sha256(event.contiguous().numpy().tobytes()).digest()[:16]
            if self.first.setdefault(digest, k) != k:
                self.twins.append((self.first[digest], k))
        x = events.double()
        finite = torch.isfinite(x).flatten(1).all(1)
        self.unfinite += [self.source.name(k) for k, good in zip(numbers, finite.tolist(), strict=True) if not good]
        self.count += len(x)
        x = x[finite]
        if not len(x):
            return
        if events.dtype != torch.uint8:
            self.sample.append(x[self.chosen[numbers][finite]])
            ends = torch.stack(torch.aminmax(x, dim=0))
            if self.ends is not None:
                ends = torch.stack([torch.minimum(ends[0], self.ends[0]), torch.maximum(ends[1], self.ends[1])])
            self.ends = ends
        if self.columns is not None:
            self.columns.add(x)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.whole = self.whole and bool((x == x.round()).all())
        if self.values is not None:
            values = torch.cat([self.values, _distinct(events[finite])]).unique()
            self.values = values if len(values) <= MOST_LEVELS else None
        if self.origin is None:
            self.origin, self.unit = x[0].clone(), float(x[0].abs().max()) or 1.0
        d = (x - self.origin) / self.unit
        self.sum, self.square = self.sum + d.sum(0), self.square + d.square().sum(0)
        if x.shape[-1] > 1:
            d = (x - x.mean()) / self.unit
            self.along += torch.stack([(d[..., 1:] * d[..., :-1]).mean(), d.square().mean()]) * len(x)

    @cached_property
    def bulk(self) -> Bulk | None:
        """Quantiles of the sample; None for bytes and few events."""
        x = torch.cat(self.sample) if self.sample else torch.empty(0)
        return Bulk(x) if len(x) >= LEAST_EVENTS else None

    def has_outliers(self) -> bool:
        """Whether the smallest or largest value of a coordinate is far from the bulk."""
        return self.bulk is not None and self.ends is not None and bool((self.bulk.distance(self.ends) > FAR).any())

    def facts(self, outliers: Outliers | None = None) -> Facts:
        """The statistics of all events."""
        n = max(1, self.count - len(self.unfinite))
        origin = torch.zeros(()) if self.origin is None else self.origin
        mean = origin / self.unit + self.sum / n
        variance = (self.square / n - (self.sum / n).square()).clamp(min=0.0)
        total = float((variance + (mean - mean.mean()).square()).mean())
        moving = variance[variance > 0].sqrt()
        name = self.source.name
        return Facts(
            self.count, tuple(self.source.events.shape[1:]), self.dtype, self.low, self.high,
            self.unit * float(mean.mean()), self.unit * math.sqrt(total),
            float(moving.max() / moving.min()) if len(moving) else 1.0,
            int((variance == 0).sum()), self.whole, 0 if self.values is None else len(self.values),
            float(self.along[0] / self.along[1]) if self.along[1] > 0 else 0.0, tuple(self.broken), tuple(self.unfinite),
            tuple((name(a), name(b)) for a, b in self.twins[:8]), len(self.twins),
            columns=() if self.columns is None else self.columns.columns(self.source.columns),
            grid=None if self.whole or self.values is None else Grid.of(self.values),
            quantiles=() if self.bulk is None else tuple(self.bulk.levels),
            sampled=0 if self.bulk is None else self.bulk.count, outliers=outliers, tokens=self.source.tokens,
        )  # fmt: skip
