"""Data sources. Each class has a training and a test set, which share one transform and no event."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_choice, check_number, check_seed, shown
from scoresde.conditions import Classes, ConditionKind, Image
from scoresde.data.arrays import IN_MEMORY, read_array
from scoresde.data.condition_rows import class_kinds
from scoresde.data.dataset import Dataset, permutation
from scoresde.data.rows import CHANNELS, Rows, channels_first
from scoresde.data.transforms import Quantized, Transform, declared


class Splits:
    """A training and a test set, whose x can be represented in float32.

    Args:
        train: The training set.
        test: The test set, with the event shape and the transform of ``train``.

    Raises:
        ValueError: If event shapes, transforms or kinds of conditions differ, or float32 cannot represent x.
    """

    def __init__(self, train: Dataset, test: Dataset) -> None:
        if train.event_shape != test.event_shape:
            raise ValueError(
                f"train has events of shape {train.event_shape}, and test of shape {test.event_shape}: they must be equal"
            )
        if train.transform != test.transform:
            raise ValueError(f"train has {train.transform!r}, test {test.transform!r}: they must share one transform")
        if train.kinds != test.kinds:
            raise ValueError(f"train has the conditions {train.kinds}, test {test.kinds}: they must be equal")
        for data in (train, test):
            data.check_dtype(torch.float32)
        self.train, self.test = train, test

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.train.event_shape

    @property
    def transform(self) -> Transform:
        """The transform of both sets."""
        return self.train.transform

    @property
    def kinds(self) -> dict[str, ConditionKind]:
        """Kinds of the conditions of both sets, by name."""
        return self.train.kinds

    @property
    def vocabulary_digest(self) -> str:
        """16 hex digits of the vocabulary of a text, which a config may only name by its file. "" for other data."""
        return ""

    def condition_row(self, name: str, value: Any) -> Tensor:
        """One row of a condition from a plain value, as in a config or on the command line.

        Args:
            name: The name of the condition.
            value: A number, nested lists of numbers, or the name of a class, in the units of the data.

        Returns:
            The row, without the dimension of the batch.

        Raises:
            ValueError: If the condition does not allow the value.
        """
        kind = self.kinds[name]
        row = kind.parse(f"condition.{name}", value)
        if isinstance(kind, Image) and row.shape[1:] != self.event_shape[1:]:
            raise ValueError(
                f"condition.{name} has shape {tuple(row.shape)}, which is not allowed: give {kind.allowed}, "
                f"{(kind.channels, *self.event_shape[1:])}"
            )
        return row

    def texts(self, raw: Tensor) -> list[str] | None:
        """Events as text to read, for files and reports.

        Args:
            raw: Decoded events of shape (B, *event).

        Returns:
            B texts. None for data that is not text.
        """
        return None

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes] | None:
        """Samples in the file format of the data.

        Args:
            raw: Decoded samples of shape (B, *event).
            condition: The conditions of the samples by name, each with B rows. None or empty if they have none.

        Returns:
            The ending of the file's name and its content, or None if .npz is the format to use.
        """
        return None


class LazySplits(Splits, ABC):
    """Base class of splits whose files are read on first use.

    Sampling needs only the event shape and the transform, so it does not read the data. A subclass implements ``read``.

    Args:
        event_shape: The shape of one event.
        transform: The transform of both sets.
        kinds: Kinds of the conditions of both sets, by name.
    """

    def __init__(
        self, event_shape: tuple[int, ...], transform: Transform, kinds: Mapping[str, ConditionKind] | None = None
    ) -> None:
        self._event_shape, self._transform, self._kinds = event_shape, transform, dict(kinds or {})

    @abstractmethod
    def read(self) -> tuple[Dataset, Dataset]:
        """Read the training and the test set.

        Returns:
            The training and the test set.

        Raises:
            FileNotFoundError: If a file is missing. The message names the files.
            ValueError: If a file is damaged.
        """

    @cached_property
    def _read(self) -> Splits:
        return Splits(*self.read())

    @property
    def train(self) -> Dataset:  # type: ignore[override]
        """The training set."""
        return self._read.train

    @property
    def test(self) -> Dataset:  # type: ignore[override]
        """The test set."""
        return self._read.test

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self._event_shape

    @property
    def transform(self) -> Transform:
        return self._transform

    @property
    def kinds(self) -> dict[str, ConditionKind]:
        return self._kinds


def check_split(test_fraction: float, split_seed: int) -> None:
    """Raise ValueError unless these arguments define a random split."""
    check_number("test_fraction", test_fraction, above=0.0, below=1.0)
    check_seed("split_seed", split_seed)


def split_indices(n: int, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the test set, from a random permutation that depends only on ``seed``."""
    check_split(test_fraction, seed)
    count = round(n * test_fraction)
    if not 0 < count < n:
        raise ValueError(f"test_fraction={test_fraction} leaves {count} of {n} for the test set: 0 < fraction < 1")
    order = permutation(n, seed, 0)
    return order[count:], order[:count]


def split(
    raw: Tensor | Rows,
    transform: Transform,
    test_fraction: float,
    seed: int,
    name: str,
    flip: bool = False,
    condition: Mapping[str, Any] | None = None,
    kinds: Mapping[str, ConditionKind] | None = None,
) -> tuple[Dataset, Dataset]:
    """Split ``raw`` and its conditions at random. A large array is not copied.

    Raises ValueError for events that are not allowed, with their indices in ``raw``.
    """
    if isinstance(raw, Tensor) and raw.nbytes > IN_MEMORY:
        raw = Rows(raw)
    whole = Dataset(raw, transform, name, condition=condition, kinds=kinds)
    train, test = split_indices(len(whole), test_fraction, seed)
    return whole.part(train, f"{name}/train", flip), whole.part(test, f"{name}/test")


class Digits(Splits):
    """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels with 17 gray levels 0 .. 16.

    Nothing is downloaded. Events have the shape (1, 8, 8).

    Args:
        test_fraction: Fraction of the images that is held out.
        split_seed: Seed of the random split.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
        labels: Whether the digit 0 .. 9 is a condition, with the name ``label``.
    """

    def __init__(
        self,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        low: float = -1.0,
        high: float = 1.0,
        *,
        labels: bool = False,
    ) -> None:
        check_choice("labels", labels, (False, True))
        raw, target = _digits()
        condition, kinds = ({"label": target}, {"label": Classes(10)}) if labels else (None, None)
        transform = Quantized(17, low, high)
        super().__init__(*split(raw, transform, test_fraction, split_seed, "digits", condition=condition, kinds=kinds))


@functools.cache
def _digits() -> tuple[Tensor, np.ndarray]:
    """The images (1797, 1, 8, 8) and their classes (1797,), read once in a process: their file is text."""
    from sklearn.datasets import load_digits  # takes as long to import as all the rest of scoresde

    digits = load_digits()
    return torch.from_numpy(digits.images).long()[:, None], digits.target


class Arrays(Splits):
    """Arrays in .npy or .npz files.

    An .npy file above 64 MiB is not read into memory; rows are read for each batch. The dtype of the file is kept. Arrays
    of objects, which contain pickles, and complex numbers raise a ValueError.

    Args:
        train: The file of an array (n, *event). For an .npz file give ``file.npz:key``.
        test: The same for the test set. If empty, ``test_fraction`` of ``train`` is held out at random.
        levels: For discrete data, the number of levels 0 .. levels - 1, which are mapped to [low, high]. 0 for real data,
            which is mapped to (r - shift) / scale.
        low: Lower end of the range of x for discrete data.
        high: Upper end of the range of x for discrete data.
        shift: Shift of real data.
        scale: Scale of real data.
        test_fraction: Fraction of ``train`` that is held out if there is no ``test``.
        split_seed: Seed of this random split.
        flip: Mirror images at random in training.
        channels: The axis of the arrays with the channels. "first" is (n, channels, *sides) and any other array, whose events are
            not changed. "last" is (n, *sides, channels). "none" is (n, *sides), which is read as one channel. Events and samples
            have the shape (channels, *sides).
        condition: Files of conditions by name, with one row for each event of ``train``: {"label": "file.npz:y"}. Whole numbers
            (n,) are classes, (n, k) vectors, (n, c, *sides) images, and other (n, L, k) tokens.
        test_condition: The same for ``test``.
        classes: Number of classes, or a list of their names, by name of the condition: {"label": 10}. By default one more than
            the largest class in ``train``.
    """

    def __init__(
        self,
        train: str,
        test: str = "",
        *,
        levels: int = 0,
        low: float = -1.0,
        high: float = 1.0,
        shift: float = 0.0,
        scale: float = 1.0,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flip: bool = False,
        channels: str = "first",
        condition: Mapping[str, str] | None = None,
        test_condition: Mapping[str, str] | None = None,
        classes: Mapping[str, int | Sequence[str]] | None = None,
    ) -> None:
        transform = declared(levels, low, high, shift, scale)
        check_split(test_fraction, split_seed)
        check_choice("channels", channels, CHANNELS)
        if not train:
            raise ValueError("train='' is not allowed: give the file of an array")
        raw, given = channels_first(train, read_array(train), channels), _read_all("condition", condition)
        other = _read_all("test_condition", test_condition)
        kinds = class_kinds(classes, given)
        if test_condition and not test:
            raise ValueError("test_condition is given without test: give the file of the test events")
        if test:
            first = Dataset(raw, transform, train, flip=flip, condition=given, kinds=kinds)
            held_out = channels_first(test, read_array(test), channels)
            super().__init__(
                first, Dataset(held_out, transform, test, condition=other, kinds=first.kinds if other else None)
            )
        else:
            super().__init__(
                *split(raw, transform, test_fraction, split_seed, train, flip, condition=given, kinds=kinds)
            )


def _read_all(name: str, files: Mapping[str, str] | None) -> dict[str, Tensor | Rows]:
    """The arrays of several files by name."""
    files = {} if files is None else files
    if not (isinstance(files, Mapping) and all(isinstance(file, str) for file in files.values())):
        raise TypeError(f"{name}={shown(files)} is not allowed: give a dictionary, e.g. {{'label': 'file.npz:y'}}")
    return {key: read_array(file) for key, file in files.items()}
