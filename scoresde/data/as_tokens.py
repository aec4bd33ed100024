"""Data with levels as tokens: digits, pictures and arrays for jump processes, with all of their levels or as two colors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count
from scoresde.data.dataset import Dataset
from scoresde.data.sources import LazySplits, Splits
from scoresde.data.stored import Stored
from scoresde.data.tokens import Tokens
from scoresde.data.transforms import Quantized


class AsTokens(LazySplits):
    """Discrete data of another source as tokens: token k is level k, or whether the level is at least ``threshold``.

    Args:
        data: The source, with a ``Quantized`` transform. Its conditions are kept.
        threshold: The smallest level that is token 1 of two, 1 .. levels - 1: 128 makes black and white pictures of bytes, as in
            binarized MNIST. None keeps all levels.

    Raises:
        ValueError: If ``data`` has no levels, or ``threshold`` is not one of 1 .. levels - 1.

    Example:
        >>> from scoresde.data import AsTokens, Digits
        >>> AsTokens(Digits()).transform
        Tokens(tokens=17, names=())
        >>> data = AsTokens(Digits(), threshold=8)
        >>> data.train.batch(0, 4, seed=0).x.unique()
        tensor([0, 1])
    """

    def __init__(self, data: Splits, threshold: int | None = None) -> None:
        transform = data.transform
        if not isinstance(transform, Quantized):
            raise ValueError(
                f"data has the transform {transform!r}, which has no levels: give data with a Quantized transform, "
                "such as Digits()"
            )
        levels = transform.levels
        if threshold is not None:
            check_count("threshold", threshold)
            if threshold >= levels:
                raise ValueError(
                    f"threshold={threshold} is not allowed: give 1 .. {levels - 1}, one of {levels} levels"
                )
        super().__init__(data.event_shape, Tokens(levels if threshold is None else 2), data.kinds)
        self.data, self.threshold = data, threshold

    def read(self) -> tuple[Dataset, Dataset]:
        return self._tokens(self.data.train), self._tokens(self.data.test)

    def _tokens(self, data: Dataset) -> Dataset:
        if self.threshold is None:
            return data.with_transform(self.transform)
        made = copy.copy(data)
        if isinstance(data.raw, Tensor):
            made.raw = (data.raw >= self.threshold).to(torch.uint8)
        else:
            made.raw = Binarized(data, self.threshold)
        made.name = f"{data.name}, at least {self.threshold}"
        return made.with_transform(self.transform)

    def condition_row(self, name: str, value: Any) -> Tensor:
        return self.data.condition_row(name, value)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes] | None:
        return self.data.sample_file(raw, condition) if self.threshold is None else None


class Binarized(Stored):
    """Events that are read on demand, as 1 where they are at least a threshold and 0 elsewhere.

    Args:
        data: The events with levels.
        threshold: The smallest level that becomes 1.
    """

    def __init__(self, data: Dataset, threshold: int) -> None:
        self.data, self.threshold, self.event_shape = data, threshold, data.event_shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        index = torch.arange(len(self))[index] if isinstance(index, slice) else index
        return (self.data.events(index) >= self.threshold).to(torch.uint8)

    def read(self, index: int) -> Tensor:
        return self[torch.tensor([index])][0]

    def digest(self) -> str:
        held = self.data.raw.digest() if isinstance(self.data.raw, Stored) else self.data.digest()
        return hashlib.sha256(f"{held} at least {self.threshold}".encode()).hexdigest()[:16]
