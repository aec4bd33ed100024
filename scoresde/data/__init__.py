"""Data sets and the transforms that make tensors of them."""

from scoresde.data.transforms import Affine, Quantized, Transform

__all__ = ["Affine", "Quantized", "Transform"]
