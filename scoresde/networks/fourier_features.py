r"""Fourier features of a network's input (Kingma et al. 2021, arXiv:2107.00630, appendix C).

.. math:: x \mapsto \big( x,\ \sin(2^n \pi x),\ \cos(2^n \pi x) \big)_{n \in \mathrm{exponents}}

They let a network resolve differences of x that are small compared with its range, on which the likelihood of discrete data
depends. The period of exponent n is 2^(1-n), and levels of an interval [low, high] are (high - low) / levels apart:

    256 levels in [-1, 1]    2^-7 apart    n = 7 has a period of two levels, n = 8 of one    the paper
     17 levels in [-1, 1]    0.118 apart   n = 3 has a period of 0.25, n = 4 of 0.125        near two levels and one

The products 2^n x and their remainders modulo 2 are exact in floating point, so the features have the precision of x. For x
in half precision they are computed in float32, and x itself is too coarse for large n: bfloat16 near 1 has steps of 2^-8.
Training with ``precision="bfloat16"`` passes x in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from scoresde._validation import shown

LARGEST = 20
"""Largest exponent: 2^20 periods in [-1, 1] use up the precision of float32."""


@dataclass(frozen=True)
class FourierFeatures:
    """Appends sines and cosines of the input to its channels, for the argument ``input_features`` of a network.

    The features are appended along the first axis of an event: the channels of images and series, the coordinates of vectors. An
    `MLP` flattens its input first, so that all coordinates are alike. There are no parameters.

    Args:
        exponents: Different whole numbers n from 0 to 20, the exponents of the frequencies 2^n / 2.

    References:
        Kingma et al. 2021, Variational diffusion models, arXiv:2107.00630, appendix C.

    Example:
        >>> import torch
        >>> from scoresde.networks import FourierFeatures, SmallUNet
        >>> features = FourierFeatures((3, 4))
        >>> features(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 5, 8, 8])
        >>> SmallUNet((1, 8, 8), channels=8, input_features=features).first.in_channels
        5
    """

    exponents: Sequence[int] = (7, 8)

    def __post_init__(self) -> None:
        numbers = tuple(self.exponents) if isinstance(self.exponents, Sequence) else ()
        whole = all(isinstance(n, Integral) and not isinstance(n, bool) and 0 <= n <= LARGEST for n in numbers)
        if not numbers or not whole or len(set(numbers)) < len(numbers):
            raise ValueError(
                f"exponents={shown(self.exponents)} is not allowed: give different whole numbers from 0 to "
                f"{LARGEST}, such as (7, 8)"
            )
        object.__setattr__(self, "exponents", numbers)

    def channels(self, count: int) -> int:
        """Number of channels after the features are appended.

        Args:
            count: Number of channels of the input.

        Returns:
            ``count (1 + 2 len(exponents))``.
        """
        return count * (1 + 2 * len(self.exponents))

    def __call__(self, x: Tensor) -> Tensor:
        """Appends the features.

        Args:
            x: Inputs of shape (B, C, ...).

        Returns:
            A tensor of shape (B, channels(C), ...) in the dtype of x: x, then sine and cosine of every exponent.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        phases = [math.pi * (wide * 2.0**n).remainder(2.0) for n in self.exponents]
        return torch.cat([x, *(wave.to(x.dtype) for phase in phases for wave in (phase.sin(), phase.cos()))], dim=1)


def with_features(x: Tensor, features: FourierFeatures | None) -> Tensor:
    """x with its features, or x itself."""
    return x if features is None else features(x)


def feature_channels(count: int, features: FourierFeatures | None) -> int:
    """Number of channels of `with_features`. Raises TypeError for anything but features or None."""
    if features is None:
        return count
    if not isinstance(features, FourierFeatures):
        raise TypeError(f"input_features={shown(features)} is not allowed: give FourierFeatures(exponents) or None")
    return features.channels(count)
