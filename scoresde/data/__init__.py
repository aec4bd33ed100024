"""Data sets, and the transforms between raw data and the tensors of a model."""

from scoresde._arguments import check_constructors
from scoresde.data.as_tokens import AsTokens
from scoresde.data.chorales import BachChorales
from scoresde.data.columns import CategoryColumn, Columns, RealColumn, WholeColumn
from scoresde.data.dataset import Dataset, permutation
from scoresde.data.degraded import Degraded
from scoresde.data.distances import largest_distance
from scoresde.data.images import CIFAR10, MNIST, ImageFolder
from scoresde.data.middles import LevelMiddles, WithoutDequantization
from scoresde.data.mixed_columns import MixedColumns, MixedTable
from scoresde.data.packaged import MlxtendMNIST, PhotoPatches
from scoresde.data.sources import Arrays, Digits, LazySplits, Splits
from scoresde.data.stored import Stored
from scoresde.data.table import Table, measure_columns
from scoresde.data.text import Enwik8, PythonTopics, Text8, TextFile
from scoresde.data.tokens import Tokens
from scoresde.data.torch_data import TorchDataset
from scoresde.data.transforms import Affine, Quantized, Transform
from scoresde.data.vocabularies import Bytes, Characters, TokenizerFile, Vocabulary

__all__ = [
    "CIFAR10",
    "MNIST",
    "Affine",
    "Arrays",
    "AsTokens",
    "BachChorales",
    "Bytes",
    "CategoryColumn",
    "Characters",
    "Columns",
    "Dataset",
    "Degraded",
    "Digits",
    "Enwik8",
    "ImageFolder",
    "LazySplits",
    "LevelMiddles",
    "MixedColumns",
    "MixedTable",
    "MlxtendMNIST",
    "PhotoPatches",
    "PythonTopics",
    "RealColumn",
    "Quantized",
    "Splits",
    "Stored",
    "Table",
    "Text8",
    "TextFile",
    "TokenizerFile",
    "Tokens",
    "TorchDataset",
    "Transform",
    "Vocabulary",
    "WholeColumn",
    "WithoutDequantization",
    "largest_distance",
    "measure_columns",
    "permutation",
]

check_constructors(globals(), wide=("shift", "scale", "low", "high"))  # in units of the data
