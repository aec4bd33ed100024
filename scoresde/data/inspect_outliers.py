"""Values far from the bulk of data, coordinate by coordinate.

A value v of coordinate j is an outlier if

    |v - median_j| > `FAR` s_j,    s_j = (75 % quantile - 25 % quantile) / 1.349

where s_j is the standard deviation of a normal distribution with these quartiles. Neither the median nor s_j changes if
less than a quarter of the events is replaced by arbitrary values. The probability of an outlier is 6e-89 for a normal
distribution, 1e-9 for a two-sided exponential one, and 2 % for a Cauchy distribution.

If the quartiles are equal, as in a coordinate that is mostly zero, s_j is (99 % quantile - 1 % quantile) / 4.653, of this
coordinate or of all values, whichever is larger. The latter is also the least s_j of images, series and long vectors, whose
coordinates are of one kind: a pixel that is dark in most images is no outlier where it is bright.

Medians and quantiles come from a random subset that is the same on every call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 20.0
"""Distance of an outlier from the median, in robust standard deviations."""
LEAST_EVENTS = 20
"""Least number of events whose quantiles are compared."""
FEW_COLUMNS = 64
"""Largest number of coordinates of a vector whose coordinates have scales of their own."""
SAMPLED, SAMPLED_NUMBERS = 10_000, 2**22
"""Largest number of events from which quantiles are computed, and largest number of values in them."""
LEVELS = (0.001, 0.01, 0.5, 0.99, 0.999)
"""The quantiles that are reported."""
_MOST_SORTED = 2**20


@dataclass(frozen=True)
class Outliers:
    """Events with values far from the bulk.

    Attributes:
        names: Names of the events, the first eight.
        count: Number of events.
        worst: Name of the event with the farthest value.
        value: This value.
        coordinate: Its index in the event.
        inner: Quantiles of 1 % and 99 % of this coordinate.
        std: Standard deviation of the other events.
        column_stds: Standard deviation of this coordinate, of all events and of the others.
    """

    names: tuple[str, ...]
    count: int
    worst: str
    value: float
    coordinate: tuple[int, ...]
    inner: tuple[float, float]
    std: float
    column_stds: tuple[float, float]


class Bulk:
    """Quantiles of a sample of events.

    Args:
        x: Finite events (B, *event) in float64.
    """

    def __init__(self, x: Tensor) -> None:
        self.count = len(x)
        quantiles = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=torch.float64)
        index = (quantiles * (len(x) - 1)).round().long()
        low, first, self.median, third, high = x.sort(0).values[index]
        self.inner = torch.stack([low, high])
        values = x.flatten()
        step = max(1, math.ceil(len(values) / _MOST_SORTED))
        self.levels = torch.quantile(values[::step], torch.tensor(LEVELS, dtype=torch.float64)).tolist()
        together = (self.levels[3] - self.levels[1]) / 4.653
        self.scale = (third - first) / 1.349
        if x.ndim > 2 or x[0].numel() > FEW_COLUMNS:
            self.scale = self.scale.clamp(min=together)
        else:
            self.scale = torch.where(self.scale > 0, self.scale, ((high - low) / 4.653).clamp(min=together))

    def distance(self, x: Tensor) -> Tensor:
        """Distances from the median in robust standard deviations, (B, *event). Zero where s_j is zero."""
        d = (x - self.median).abs() / self.scale
        return torch.where(self.scale > 0, d, torch.zeros_like(d))


class OutlierSearch:
    """Collects the outliers of all events, and the moments of the others.

    Args:
        bulk: Quantiles of the events.
    """

    def __init__(self, bulk: Bulk) -> None:
        self.bulk, self.index = bulk, list[int]()
        self.worst: tuple[float, int, float, int] = (0.0, 0, 0.0, 0)
        self.all, self.others = _Moments(bulk.median), _Moments(bulk.median)

    def add(self, numbers: Tensor, x: Tensor) -> None:
        """Add finite events (B, *event) in float64, with these indices."""
        distance = self.bulk.distance(x).flatten(1)
        far, at = distance.max(1)
        out = far > FAR
        self.index += numbers[out].tolist()
        k = int(far.argmax())
        if float(far[k]) > self.worst[0]:
            j = int(at[k])
            self.worst = (float(far[k]), int(numbers[k]), float(x[k].flatten()[j]), j)
        self.all.add(x)
        self.others.add(x[~out])

    def std(self) -> float:
        """Standard deviation of the values of all events that are not outliers."""
        return self.others.std()

    def column_stds(self) -> tuple[float, float]:
        """Standard deviations of the coordinate of the worst outlier, of all events and of those that are not outliers."""
        return self.all.std(self.worst[3]), self.others.std(self.worst[3])

    def inner(self) -> tuple[float, float]:
        """Quantiles of 1 % and 99 % of the coordinate of the worst outlier."""
        low, high = self.bulk.inner.flatten(1)[:, self.worst[3]].tolist()
        return low, high


class _Moments:
    """Moments of every coordinate about ``origin``, in units of the largest value seen."""

    def __init__(self, origin: Tensor) -> None:
        self.origin, self.unit, self.count = origin, 0.0, 0
        self.sum, self.square = torch.zeros_like(origin), torch.zeros_like(origin)

    def add(self, x: Tensor) -> None:
        if not len(x):
            return
        d = x - self.origin
        unit = max(self.unit, float(d.abs().max())) or 1.0
        share = self.unit / unit
        self.sum, self.square = (
            self.sum * share + (d / unit).sum(0),
            self.square * share**2 + (d / unit).square().sum(0),
        )
        self.unit, self.count = unit, self.count + len(x)

    def std(self, coordinate: int | None = None) -> float:
        """The standard deviation of a coordinate, or of all values."""
        mean, square = self.sum.flatten() / max(1, self.count), self.square.flatten() / max(1, self.count)
        if coordinate is not None:
            mean, square = mean[coordinate], square[coordinate]
            return self.unit * math.sqrt(max(0.0, float(square - mean**2)))
        about = self.origin.flatten() / (self.unit or 1.0) + mean
        within = (square - mean.square()).clamp(min=0.0)
        return self.unit * math.sqrt(float((within + (about - about.mean()).square()).mean()))
