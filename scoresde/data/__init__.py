"""Data sets and the transforms that make tensors of them."""

from scoresde.data.dataset import Dataset, permutation
from scoresde.data.sources import Arrays, Digits, Splits
from scoresde.data.transforms import Affine, Quantized, Transform

__all__ = ["Affine", "Arrays", "Dataset", "Digits", "Quantized", "Splits", "Transform", "permutation"]
