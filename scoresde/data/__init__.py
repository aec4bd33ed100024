"""Data sets, and the transforms between raw data and the tensors of a model."""

from scoresde._arguments import check_constructors
from scoresde.data.as_tokens import AsTokens
from scoresde.data.columns import CategoryColumn, Columns, RealColumn, WholeColumn
from scoresde.data.dataset import Dataset, permutation
from scoresde.data.degraded import Degraded
from scoresde.data.distances import largest_distance
from scoresde.data.images import CIFAR10, MNIST, ImageFolder
from scoresde.data.middles import LevelMiddles, WithoutDequantization
from scoresde.data.packaged import MlxtendMNIST, PhotoPatches
from scoresde.data.sources import Arrays, Digits, LazySplits, Splits
from scoresde.data.stored import Stored
from scoresde.data.table import Table, measure_columns
from scoresde.data.tokens import Tokens
from scoresde.data.torch_data import TorchDataset
from scoresde.data.transforms import Affine, Quantized, Transform

__all__ = [
    "CIFAR10",
    "MNIST",
    "Affine",
    "Arrays",
    "AsTokens",
    "CategoryColumn",
    "Columns",
    "Dataset",
    "Degraded",
    "Digits",
    "ImageFolder",
    "LazySplits",
    "LevelMiddles",
    "MlxtendMNIST",
    "PhotoPatches",
    "RealColumn",
    "Quantized",
    "Splits",
    "Stored",
    "Table",
    "Tokens",
    "TorchDataset",
    "Transform",
    "WholeColumn",
    "WithoutDequantization",
    "largest_distance",
    "measure_columns",
    "permutation",
]

check_constructors(globals(), wide=("shift", "scale", "low", "high"))  # in units of the data
