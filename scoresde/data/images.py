"""Images from files: CIFAR-10, MNIST and its family, folders of images. Nothing is downloaded.

They are `LazySplits`: event shape, levels and range are available at once, and files are read on first use. 8-bit images are
stored as bytes. Folders are read batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count
from scoresde.conditions import Classes
from scoresde.data.condition_rows import class_kind
from scoresde.data.dataset import Dataset
from scoresde.data.formats import read_cifar_binary, read_cifar_python, read_idx
from scoresde.data.image_rules import ImageRules
from scoresde.data.sources import LazySplits, check_split, split_indices
from scoresde.data.stored import ImageFiles
from scoresde.data.transforms import Quantized

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
"""Endings of the image files of a folder; other files are left out."""


class CIFAR10(LazySplits):
    """CIFAR-10: 50,000 training and 10,000 test images (3, 32, 32) with 256 levels.

    It reads the files of the Python archive or of the binary archive.

    Args:
        folder: The folder ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, or a folder that contains one of them.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
        flip: Mirror images at random in training.
        images_per_file: Number of images that each of the six files must contain.
        labels: Whether the class is a condition, with the name ``label``.
    """

    def __init__(
        self,
        folder: str = "data/cifar10",
        low: float = -1.0,
        high: float = 1.0,
        *,
        flip: bool = False,
        images_per_file: int = 10_000,
        labels: bool = False,
    ) -> None:
        check_choice("labels", labels, (False, True))
        super().__init__((3, 32, 32), Quantized(256, low, high), {"label": Classes(10)} if labels else None)
        check_count("images_per_file", images_per_file)
        self.folder, self.flip, self.images_per_file = Path(folder), flip, images_per_file

    def read(self) -> tuple[Dataset, Dataset]:
        names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
        readers: dict[str, Callable[[Path], tuple[Tensor, Tensor | None]]]
        readers = {"": read_cifar_python, ".bin": read_cifar_binary}
        for suffix, reader in readers.items():
            for place in (self.folder, self.folder / ("cifar-10-batches-bin" if suffix else "cifar-10-batches-py")):
                files = [place / (name + suffix) for name in names]
                if all(file.is_file() for file in files):
                    return self._sets([reader(file) for file in files], files)
        raise FileNotFoundError(
            f"CIFAR-10 is not in {str(self.folder)!r}: unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz of "
            "https://www.cs.toronto.edu/~kriz/cifar.html there (data_batch_1 to data_batch_5 and test_batch, or the same "
            "with .bin), or give its place: data.folder"
        )

    def _sets(self, batches: Sequence[tuple[Tensor, Tensor | None]], files: Sequence[Path]) -> tuple[Dataset, Dataset]:
        for (images, labels), file in zip(batches, files, strict=True):
            if len(images) != self.images_per_file:
                raise ValueError(f"{file} contains {len(images)} images: it must contain {self.images_per_file}")
            if self.kinds and labels is None:
                raise ValueError(f"{file} contains no labels: give labels=False")

        def made(some: slice, name: str, flip: bool) -> Dataset:
            labels = [labels for _, labels in batches[some] if labels is not None]
            condition = {key: torch.cat(labels) for key in self.kinds}
            images = torch.cat([images for images, _ in batches[some]])
            return Dataset(images, self.transform, name, flip=flip, condition=condition, kinds=self.kinds)

        return made(slice(5), "CIFAR-10/train", self.flip), made(slice(5, 6), "CIFAR-10/test", False)


class MNIST(LazySplits):
    """MNIST, Fashion-MNIST, KMNIST and other data in their format: gray images (1, 28, 28) with 256 levels in idx files.

    Args:
        folder: A folder with one file ``*train-images*idx3-ubyte`` and one file ``*t10k-images*idx3-ubyte`` or ``*test-images*``,
            gzipped or not.
        side: Side of the events, at least 28. Images are padded with black.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
        flip: Mirror images at random in training.
        classes: Number of classes. If it is not 0, the class is a condition with the name ``label``, from the files
            ``*train-labels*idx1-ubyte`` and ``*t10k-labels*idx1-ubyte`` or ``*test-labels*``.
    """

    def __init__(
        self,
        folder: str = "data/mnist",
        side: int = 28,
        low: float = -1.0,
        high: float = 1.0,
        *,
        flip: bool = False,
        classes: int = 0,
    ) -> None:
        check_count("side", side, least=28)
        check_count("classes", classes, least=0)
        super().__init__((1, side, side), Quantized(256, low, high), {"label": Classes(classes)} if classes else None)
        self.folder, self.side, self.flip = Path(folder), side, flip

    def read(self) -> tuple[Dataset, Dataset]:
        return self._set("train", "train", flip=self.flip), self._set("test", "t10k", "test")

    def _set(self, split: str, *names: str, flip: bool = False) -> Dataset:
        condition = {name: read_idx(self._file("labels", "idx1", *names)).long() for name in self.kinds}
        name = f"{self.folder.name}/{split}"
        return Dataset(self._images(*names), self.transform, name, flip=flip, condition=condition, kinds=self.kinds)

    def _file(self, what: str, form: str, *names: str) -> Path:
        files = sorted(
            f for f in self.folder.glob("*") if form in f.name and any(f"{k}-{what}" in f.name for k in names)
        )
        if len(files) != 1:
            raise FileNotFoundError(
                f"{str(self.folder)!r} must hold one file {names[0]}-{what}-{form}-ubyte or the same with .gz, and holds "
                f"{[f.name for f in files] or 'none'}: put the four files of MNIST (or of another set of its format) "
                "there, or give their place: data.folder"
            )
        return files[0]

    def _images(self, *names: str) -> Tensor:
        file = self._file("images", "idx3", *names)
        raw = read_idx(file)
        if raw.ndim != 3 or raw.shape[1:] != (28, 28) or raw.dtype != torch.uint8:
            raise ValueError(f"{file} has shape {tuple(raw.shape)} of {raw.dtype}: (n, 28, 28) of bytes is wanted")
        left = (self.side - 28) // 2
        right = self.side - 28 - left
        return torch.nn.functional.pad(raw, (left, right, left, right))[:, None]


class ImageFolder(LazySplits):
    """The PNG, JPEG, WebP, BMP and TIFF files in a folder.

    Each image is cropped to the largest centered rectangle with the event's ratio of height to width, and shrunk to the event's
    height and width. Images are never enlarged. They are decoded batch by batch, so the folder may be larger than memory.
    Transparent pixels and several frames raise a ValueError, as do values that do not fit ``levels``
    (``scoresde.data.image_rules``).

    With 256 levels, images have 8 bits per channel, and palettes give their colors. With other numbers of levels the values are
    the numbers in the files: gray images with 16 bits for ``levels=65536``, label maps with one number for each class.

    Args:
        folder: The folder, searched recursively.
        side: Side of square events (channels, side, side), or (height, width).
        low: Lower end of the range of x.
        high: Upper end of the range of x.
        levels: Number of levels. Values must be in 0 .. levels - 1.
        resampling: How larger images are shrunk: "bicubic" interpolation for intensities, "nearest" for labels, which are never
            interpolated. None for "bicubic" with 256 levels; other numbers of levels require a choice.
        palette: "colors" or "indices": what an image with a palette means. Indices are labels; they need ``channels=1`` and
            ``resampling="nearest"``.
        flip: Mirror images at random in training.
        channels: 3 for colors, 1 for gray images and label maps.
        test: A folder of test images. If it is inside ``folder``, its images are not used for training. If empty,
            ``test_fraction`` of the images is held out at random.
        test_fraction: Fraction of the images that is held out if there is no ``test``.
        split_seed: Seed of this random split.
        classes: Number of classes, or a list of their names. Each image is then in a subfolder of ``folder`` (and of ``test``)
            for its class, which is a condition with the name ``label``. A list names the subfolders, and class i is subfolder i
            of the list. With a number, class i is subfolder i in alphabetical order. 0 for no condition.
    """

    def __init__(
        self,
        folder: str,
        side: int | Sequence[int],
        low: float = -1.0,
        high: float = 1.0,
        *,
        levels: int = 256,
        resampling: str | None = None,
        palette: str = "colors",
        flip: bool = False,
        channels: int = 3,
        test: str = "",
        test_fraction: float = 0.1,
        split_seed: int = 0,
        classes: int | Sequence[str] = 0,
    ) -> None:
        self.rules = ImageRules(side, channels, levels, resampling, palette)
        check_split(test_fraction, split_seed)
        kinds = None if classes == 0 else {"label": class_kind("classes", classes)}
        super().__init__(self.rules.event_shape, Quantized(levels, low, high), kinds)
        self.folder, self.flip = Path(folder), flip
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
        files = image_files(folder)
        if not files:
            _, height, width = self.event_shape
            raise FileNotFoundError(
                f"{str(folder)!r} holds no images: put PNG, JPEG, WebP, BMP or TIFF files there, of {width} x {height} pixels "
                "or larger, or give their place: data.folder"
            )
        return files

    def files(self, folder: Path, files: Sequence[Path]) -> ImageFiles:
        """Image files that are read by the rules of this data set.

        Args:
            folder: A folder.
            files: Paths in this folder.

        Returns:
            The events of these files.
        """
        rules = self.rules
        return ImageFiles(
            folder,
            files,
            rules.side,
            rules.channels,
            levels=rules.levels,
            resampling=rules.resampling,
            palette=rules.palette,
        )

    def _set(self, folder: Path, files: Sequence[Path], split: str) -> Dataset:
        condition = {name: self._labels(folder, files) for name in self.kinds}
        flip, name = self.flip and split == "train", f"{folder.name}/{split}"
        stored = self.files(folder, files)
        return Dataset(stored, self.transform, name, flip=flip, condition=condition, kinds=self.kinds)

    def _labels(self, folder: Path, files: Sequence[Path]) -> Tensor:
        """The number of each file's subfolder. Raises ValueError unless there is one subfolder for each class."""
        names = self._class_names()
        found = [file.relative_to(folder).parts for file in files]
        for file, parts in zip(files, found, strict=True):
            if len(parts) < 2 or parts[0] not in names:
                raise ValueError(f"{file} is not in the subfolder of a class: {', '.join(names[:5])}")
        return torch.tensor([names.index(parts[0]) for parts in found])

    def _class_names(self) -> list[str]:
        """The subfolders of the classes."""
        files = image_files(self.folder)
        if self.test_folder is not None:
            held_out = self.test_folder.resolve()
            files = [file for file in files if held_out not in file.resolve().parents]
        places = [file.relative_to(self.folder).parts for file in files]
        names = sorted({parts[0] for parts in places if len(parts) > 1})
        kind = self.kinds["label"]
        assert isinstance(kind, Classes)
        if kind.names and set(kind.names) != set(names):
            raise ValueError(
                f"{str(self.folder)!r} has images in the subfolders {', '.join(names[:8]) or 'none'}: classes names "
                f"{', '.join(kind.names[:8])}"
            )
        if kind.names:
            return list(kind.names)
        if kind.count != len(names):
            raise ValueError(
                f"{str(self.folder)!r} has images in {len(names)} subfolders ({', '.join(names[:5]) or 'none'}): {kind!r} needs "
                "one for each class"
            )
        return names


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, in the order of their paths."""
    return sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
