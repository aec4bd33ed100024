"""Pairs of images and their measurements, for networks that learn p(image | measurement)."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_seed
from scoresde.conditions import Image, check_name
from scoresde.data.columns import Columns
from scoresde.data.dataset import Dataset
from scoresde.data.items import Items
from scoresde.data.rows import Rows
from scoresde.data.sources import LazySplits, Splits
from scoresde.data.stored import Stored
from scoresde.data.tokens import Tokens
from scoresde.data.transforms import Quantized
from scoresde.noise import NoiseSource
from scoresde.operators import JPEG, Operator


class Degraded(LazySplits):
    r"""Images of another source, with a measurement of each as a condition.

    .. math:: (x_0, y), \quad y = A(x_0)

    The measurement y is an `Image` of the size of the event in the units of x, as ``operator.image`` describes it. Levels are
    taken at the middle of their intervals, so y does not depend on the dequantization. What is random in the operator depends
    only on the seed, the split and the index of the event. It is the same in every epoch.

    Args:
        data: The source of the images. Its own conditions are kept.
        operator: The operator.
        seed: Seed of what is random in the operator.
        measurement: Name of the condition.

    Raises:
        ValueError: If the operator does not fit the images, or ``data`` has a condition of this name.

    Example:
        >>> from scoresde.data import Degraded, Digits
        >>> from scoresde.operators import SuperResolution
        >>> Degraded(Digits(), SuperResolution(2)).kinds
        {'measurement': Image(channels=1)}
    """

    def __init__(self, data: Splits, operator: Operator, *, seed: int = 0, measurement: str = "measurement") -> None:
        check_seed("seed", seed)
        check_name("measurement", measurement)
        if measurement in data.kinds:
            raise ValueError(
                f"measurement={measurement!r} is not allowed: the data has a condition of this name already"
            )
        if isinstance(data.transform, Columns):
            raise ValueError(f"operator={operator!r} is for images, and the data is a table")
        if isinstance(data.transform, Tokens):
            raise ValueError(
                f"operator={operator!r} is for numbers, and the data has tokens: give AsTokens(Degraded(...))"
            )
        operator.check(data.event_shape)
        if isinstance(operator, JPEG):
            _check_range(operator, data)
        kind = Image(operator.channels(data.event_shape))
        super().__init__(data.event_shape, data.transform, {**data.kinds, measurement: kind})
        self.data, self.operator, self.seed, self.measurement = data, operator, seed, measurement

    def read(self) -> tuple[Dataset, Dataset]:
        return self._with_measurement(self.data.train, 0), self._with_measurement(self.data.test, 1)

    def condition_row(self, name: str, value: Any) -> Tensor:
        own = name == self.measurement
        return super().condition_row(name, value) if own else self.data.condition_row(name, value)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes] | None:
        given = {name: rows for name, rows in (condition or {}).items() if name != self.measurement}
        return self.data.sample_file(raw, given)

    def _with_measurement(self, data: Dataset, split: int) -> Dataset:
        source = copy.copy(data)
        if not isinstance(data.raw, Tensor | Rows | Items):  # they are in memory, or kept
            source.raw = Recent(data.raw)
        source.name = f"{data.name}, {self.operator!r}"
        rows = Measurements(source, self.operator, self.seed, split)
        return source.with_condition(self.measurement, rows, self.kinds[self.measurement])


class Measurements(Stored):
    """The measurements of the events of a data set.

    Args:
        data: The data set.
        operator: The operator.
        seed: Seed of what is random in the operator.
        split: Number of the split, part of the key of the draws.
    """

    def __init__(self, data: Dataset, operator: Operator, seed: int, split: int) -> None:
        self.data, self.operator, self.seed, self.split = data, operator, seed, split
        self.event_shape = (operator.channels(data.event_shape), *data.event_shape[1:])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        index = torch.arange(len(self))[index] if isinstance(index, slice) else index
        x = self.data.transform._encode(self.data.events(index), None, step=0, dtype=torch.float32)
        noise = NoiseSource(self.seed, index).again(self.split)
        return self.operator.image(self.operator.apply(x, noise), noise)

    def read(self, index: int) -> Tensor:
        return self[torch.tensor([index])][0]

    def digest(self) -> str:
        text = f"{self.data.digest()} {self.operator.digest()} {self.seed} {self.split}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Recent(Stored):
    """Events that are read on demand. Those that were read last are kept, because their conditions are computed from them.

    Args:
        events: The events.
    """

    def __init__(self, events: Stored) -> None:
        self.events, self.event_shape = events, events.event_shape
        self._last: tuple[list[int], list[Tensor]] = ([], [])

    def __len__(self) -> int:
        return len(self.events)

    def read(self, index: int) -> Tensor:
        return self.events.read(index)

    def read_all(self, numbers: list[int]) -> list[Tensor]:
        known, found = self._last
        if known != numbers:
            found = self.events.read_all(numbers)
            self._last = list(numbers), found
        return found

    def digest(self) -> str:
        return self.events.digest()


def _check_range(operator: JPEG, data: Splits) -> None:
    """Raise ValueError unless the images have the range of the operator."""
    transform = data.transform
    if not isinstance(transform, Quantized):
        raise ValueError(f"operator={operator!r} needs images with levels, and the data has {transform!r}")
    if (transform.low, transform.high) != (operator.low, operator.high):
        raise ValueError(
            f"operator={operator!r} does not fit the range of the data, {transform.low:g} to {transform.high:g}: give "
            f"low={transform.low:g}, high={transform.high:g}"
        )
