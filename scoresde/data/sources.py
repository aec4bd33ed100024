"""Where data comes from: each class gives a `train` and a `test` data set that share one transform and no event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from scoresde._validation import check_number, check_seed
from scoresde.data.arrays import IN_MEMORY, read_array
from scoresde.data.dataset import Dataset, permutation
from scoresde.data.rows import Rows
from scoresde.data.transforms import Quantized, Transform, declared


class Splits:
    """A training and a test set, whose x fits float32."""

    def __init__(self, train: Dataset, test: Dataset) -> None:
        if train.event_shape != test.event_shape:
            raise ValueError(f"train has events {train.event_shape}, test {test.event_shape}: they must be alike")
        if train.transform != test.transform:
            raise ValueError(f"train has {train.transform!r}, test {test.transform!r}: they must share one transform")
        for data in (train, test):
            data.check_dtype(torch.float32)
        self.train, self.test = train, test

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self.train.event_shape

    @property
    def transform(self) -> Transform:
        """The declaration that both share."""
        return self.train.transform


class LazySplits(Splits, ABC):
    """Splits whose files are read when a set is first asked for: to draw samples takes the declaration alone.

    A subclass gives `read`.
    """

    def __init__(self, event_shape: tuple[int, ...], transform: Transform) -> None:
        self._event_shape, self._transform = event_shape, transform

    @abstractmethod
    def read(self) -> tuple[Dataset, Dataset]:
        """The training and the test set. Raises FileNotFoundError naming the files wanted, ValueError for broken ones."""

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


def check_split(test_fraction: float, split_seed: int) -> None:
    """Raise ValueError unless a part of a set can be cut off by these."""
    check_number("test_fraction", test_fraction, above=0.0, below=1.0)
    check_seed("split_seed", split_seed)


def split_indices(n: int, test_fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the test set, at random by a permutation that depends on ``seed`` alone."""
    check_split(test_fraction, seed)
    count = round(n * test_fraction)
    if not 0 < count < n:
        raise ValueError(f"test_fraction={test_fraction} leaves {count} of {n} for the test set: 0 < fraction < 1")
    order = permutation(n, seed, 0)
    return order[count:], order[:count]


def split(
    raw: Tensor | Rows, transform: Transform, test_fraction: float, seed: int, name: str, flip: bool = False
) -> tuple[Dataset, Dataset]:
    """Cut ``raw`` at random; of a large array nothing is copied.

    Raises ValueError for events that are wrong, by their numbers in ``raw``.
    """
    if isinstance(raw, Tensor) and raw.nbytes > IN_MEMORY:
        raw = Rows(raw)
    whole = Dataset(raw, transform, name)
    train, test = split_indices(len(whole), test_fraction, seed)
    return whole.part(train, f"{name}/train", flip), whole.part(test, f"{name}/test")


class Digits(Splits):
    """scikit-learn's 1797 handwritten digits, 8 x 8 pixels of 17 grey levels 0 .. 16; no download.

    test_fraction: share of the images that training never sees.
    split_seed: of the cut.
    low, high: range of x.

    Events are (1, 8, 8).
    """

    def __init__(self, test_fraction: float = 0.2, split_seed: int = 0, low: float = -1.0, high: float = 1.0) -> None:
        from sklearn.datasets import load_digits  # takes as long to import as all the rest of scoresde

        raw = torch.from_numpy(load_digits().images).long()[:, None]
        super().__init__(*split(raw, Quantized(17, low, high), test_fraction, split_seed, "digits"))


class Arrays(Splits):
    """Arrays in .npy files, or one in an .npz. Those of an .npy above 64 MiB stay in the file, and rows are read for each batch.

    train: file of an array (n, *event); .npz files are given as ``file.npz:key``.
    test: the same for the test set; where empty, ``test_fraction`` of ``train`` is cut off by ``split_seed``.
    levels: for discrete data, integers 0 .. levels - 1, mapped to [low, high]; 0 for real data, mapped to (r - shift) / scale.
    flip: mirror images at random in training.

    The file's dtype is kept. Object arrays, which hold pickles, are refused; so are complex numbers.
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
    ) -> None:
        transform = declared(levels, low, high, shift, scale)
        check_split(test_fraction, split_seed)
        if not train:
            raise ValueError("train='' is not allowed: give the file of an array")
        raw = read_array(train)
        if test:
            super().__init__(Dataset(raw, transform, train, flip=flip), Dataset(read_array(test), transform, test))
        else:
            super().__init__(*split(raw, transform, test_fraction, split_seed, train, flip))
