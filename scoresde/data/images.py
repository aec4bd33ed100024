"""Images from files: CIFAR-10, MNIST and its family, folders of images, torch data sets. Nothing is downloaded.

The first three are `LazySplits`: what they declare, event shape, levels and range, is known at once, and files are read when
their events are first asked for. 8-bit images are kept in bytes; folders and torch data sets are read batch by batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count
from scoresde.data.dataset import Dataset
from scoresde.data.formats import read_cifar_binary, read_cifar_python, read_idx
from scoresde.data.sources import LazySplits, Splits, check_split, split_indices
from scoresde.data.stored import ImageFiles, Items, MapStyle
from scoresde.data.transforms import Quantized, declared

_SUFFIXES = {".png", ".jpg", ".jpeg"}


class CIFAR10(LazySplits):
    """CIFAR-10, 50000 and 10000 images (3, 32, 32) of 256 levels, from either of the archives that its makers offer.

    folder: what holds ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, or is one of them.
    low, high: range of x. flip: mirror images at random in training.
    images_per_file: how many each of the six files must hold.
    """

    def __init__(
        self,
        folder: str = "data/cifar10",
        low: float = -1.0,
        high: float = 1.0,
        *,
        flip: bool = False,
        images_per_file: int = 10_000,
    ) -> None:
        super().__init__((3, 32, 32), Quantized(256, low, high))
        check_count("images_per_file", images_per_file)
        self.folder, self.flip, self.images_per_file = Path(folder), flip, images_per_file

    def read(self) -> tuple[Dataset, Dataset]:
        names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
        for suffix, reader in (("", read_cifar_python), (".bin", read_cifar_binary)):
            for place in (self.folder, self.folder / ("cifar-10-batches-bin" if suffix else "cifar-10-batches-py")):
                files = [place / (name + suffix) for name in names]
                if all(file.is_file() for file in files):
                    return self._sets([reader(file) for file in files], files)
        raise FileNotFoundError(
            f"CIFAR-10 is not in {str(self.folder)!r}: unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz of "
            "https://www.cs.toronto.edu/~kriz/cifar.html there (data_batch_1 to data_batch_5 and test_batch, or the same "
            "with .bin), or give its place: data.folder"
        )

    def _sets(self, parts: Sequence[Tensor], files: Sequence[Path]) -> tuple[Dataset, Dataset]:
        for part, file in zip(parts, files, strict=True):
            if len(part) != self.images_per_file:
                raise ValueError(f"{file} holds {len(part)} images: {self.images_per_file} are wanted")
        train = Dataset(torch.cat(list(parts[:5])), self.transform, "CIFAR-10/train", flip=self.flip)
        return train, Dataset(parts[5], self.transform, "CIFAR-10/test")


class MNIST(LazySplits):
    """MNIST, Fashion-MNIST, KMNIST and others of their format: grey images (1, 28, 28) of 256 levels, in idx files.

    folder: holds ``*train-images*idx3-ubyte`` and ``*t10k-images*idx3-ubyte`` (or ``*test-images*``), gzipped or not, one each.
    side: images are set in the middle of a black square of this side, >= 28; networks that halve thrice take 32.
    low, high: range of x. flip: mirror images at random in training.
    """

    def __init__(
        self, folder: str = "data/mnist", side: int = 28, low: float = -1.0, high: float = 1.0, *, flip: bool = False
    ) -> None:
        check_count("side", side, least=28)
        super().__init__((1, side, side), Quantized(256, low, high))
        self.folder, self.side, self.flip = Path(folder), side, flip

    def read(self) -> tuple[Dataset, Dataset]:
        train, test = self._images("train"), self._images("t10k", "test")
        name = self.folder.name
        return Dataset(train, self.transform, f"{name}/train", flip=self.flip), Dataset(
            test, self.transform, f"{name}/test"
        )

    def _images(self, *kinds: str) -> Tensor:
        files = sorted(
            f for f in self.folder.glob("*") if "idx3" in f.name and any(f"{k}-images" in f.name for k in kinds)
        )
        if len(files) != 1:
            raise FileNotFoundError(
                f"{str(self.folder)!r} must hold one file {kinds[0]}-images-idx3-ubyte or the same with .gz, and holds "
                f"{[f.name for f in files] or 'none'}: put the four files of MNIST (or of another set of its format) "
                "there, or give their place: data.folder"
            )
        raw = read_idx(files[0])
        if raw.ndim != 3 or raw.shape[1:] != (28, 28) or raw.dtype != torch.uint8:
            raise ValueError(f"{files[0]} has shape {tuple(raw.shape)} of {raw.dtype}: (n, 28, 28) of bytes is wanted")
        left = (self.side - 28) // 2
        right = self.side - 28 - left
        return torch.nn.functional.pad(raw, (left, right, left, right))[:, None]


class ImageFolder(LazySplits):
    """The PNG and JPEG files below a folder: the largest square of their middle, shrunk to ``side``, 256 levels.

    folder: looked through with all folders in it.
    test: a folder of test images, not trained on where it lies in ``folder``; where empty, ``test_fraction`` of the images is cut
        off by ``split_seed``.
    side, channels: of the events (channels, side, side); 3 channels for colours, 1 for grey.
    low, high: range of x. flip: mirror images at random in training.

    Images are decoded when a batch asks for them, so the folder may be larger than memory. Those with more than 8 bits a channel,
    transparent pixels or several frames are refused, see `scoresde.data.pixels`.
    """

    def __init__(
        self,
        folder: str,
        side: int,
        low: float = -1.0,
        high: float = 1.0,
        *,
        flip: bool = False,
        channels: int = 3,
        test: str = "",
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        check_count("side", side)
        check_choice("channels", channels, (1, 3))
        check_split(test_fraction, split_seed)
        super().__init__((channels, side, side), Quantized(256, low, high))
        self.folder, self.side, self.flip, self.channels = Path(folder), side, flip, channels
        self.test_folder, self.test_fraction, self.split_seed = Path(test) if test else None, test_fraction, split_seed

    def read(self) -> tuple[Dataset, Dataset]:
        files = self._files(self.folder)
        if self.test_folder is not None:
            test = self._files(self.test_folder)
            if self.folder.resolve() in self.test_folder.resolve().parents:
                held_out = {file.resolve() for file in test}
                files = [file for file in files if file.resolve() not in held_out]
            return self._set(self.folder, files, "train"), self._set(self.test_folder, test, "test")
        train, test = (
            [files[k] for k in index.tolist()]
            for index in split_indices(len(files), self.test_fraction, self.split_seed)
        )
        return self._set(self.folder, train, "train"), self._set(self.folder, test, "test")

    def _files(self, folder: Path) -> list[Path]:
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file())
        if not files:
            raise FileNotFoundError(
                f"{str(folder)!r} holds no images: put PNG or JPEG files there, of {self.side} x {self.side} pixels or "
                "larger, or give their place: data.folder"
            )
        return files

    def _set(self, folder: Path, files: Sequence[Path], split: str) -> Dataset:
        stored = ImageFiles(folder, files, self.side, self.channels)
        return Dataset(stored, self.transform, f"{folder.name}/{split}", flip=self.flip and split == "train")


class TorchDataset(Splits):
    """Any map-style torch data set, such as torchvision's, read item by item.

    train: its items are events, or tuples that begin with one; tensors, arrays or PIL images, which are read as those of an
        `ImageFolder` are (`scoresde.data.pixels`).
    test: the same for the test set; where None, ``test_fraction`` of ``train`` is cut off by ``split_seed``.
    levels: for discrete data, integers 0 .. levels - 1, mapped to [low, high]; 0 for real data, mapped to (r - shift) / scale.
    flip: mirror images at random in training.
    """

    def __init__(
        self,
        train: MapStyle,
        test: MapStyle | None = None,
        *,
        levels: int = 256,
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
        first, second = Items(train, name="train"), None if test is None else Items(test, name="test")
        if second is None:
            kept, held_out = split_indices(len(first), test_fraction, split_seed)
            first, second = Items(train, kept, "train"), Items(train, held_out, "train")
        name = type(train).__name__
        super().__init__(
            Dataset(first, transform, f"{name}/train", flip=flip), Dataset(second, transform, f"{name}/test")
        )
