"""Discrete data without dequantization: every level is the middle of its interval.

A model of dequantized data has a density. A model of the middles has probabilities: a decoder p(k | x_t) at a small time t
maps the noisy state to a level (DDPM, variational diffusion models). Samples are decoded to the level whose interval contains
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.data.dataset import Dataset
from scoresde.data.sources import LazySplits, Splits
from scoresde.data.transforms import Quantized
from scoresde.noise import NoiseSource


@dataclass(frozen=True)
class LevelMiddles(Quantized):
    """Discrete data with ``levels`` values, each mapped to the middle of its interval in [low, high].

    .. math:: x = low + (high - low) (k + 1/2) / levels

    The data is not dequantized, so a model has probabilities of the levels and no density. ``log_volume`` is 0:
    ``bits_per_dim`` takes log-probabilities.

    Args:
        levels: Number of values of a coordinate: 256 for 8-bit images, 17 for scikit-learn's digits.
        low: Lower end of the range of x.
        high: Upper end of the range of x.

    References:
        Ho, Jain, Abbeel 2020, arXiv:2006.11239. Kingma et al. 2021, Variational diffusion models, arXiv:2107.00630, appendix B.

    Example:
        >>> import torch
        >>> from scoresde.data import LevelMiddles
        >>> LevelMiddles(4).encode(torch.tensor([[0, 3]]), None, dtype=torch.float32)
        tensor([[-0.7500,  0.7500]])
    """

    @property
    def dequantized(self) -> bool:
        """False: nothing is added to the levels."""
        return False

    def middles(self, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
        """The middles of the intervals of all levels.

        Args:
            dtype: The dtype of the result.
            device: The device of the result.

        Returns:
            A tensor of shape (levels,).
        """
        return (self.edges(torch.float64, device)[:-1] + 0.5 * self.width).to(dtype)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        return super()._encode(raw, None, step=step, dtype=dtype)

    def spread(self, std: float) -> float:
        """The standard deviation of x.

        Args:
            std: The standard deviation of the levels.

        Returns:
            The standard deviation of x.
        """
        return self.width * std

    def log_volume(self, dimensions: int) -> float:
        """0: a model of the middles has probabilities, which no change of volume affects.

        Args:
            dimensions: The number of coordinates of an event.

        Returns:
            0.
        """
        return 0.0


class WithoutDequantization(LazySplits):
    """Discrete data of another source at the middles of the intervals of its levels, without dequantization.

    Args:
        data: The source, with a ``Quantized`` transform. Its conditions are kept.

    Raises:
        ValueError: If ``data`` is not discrete, or is not dequantized.

    Example:
        >>> from scoresde.data import Digits, WithoutDequantization
        >>> WithoutDequantization(Digits()).transform
        LevelMiddles(levels=17, low=-1.0, high=1.0)
    """

    def __init__(self, data: Splits) -> None:
        transform = data.transform
        if not isinstance(transform, Quantized):
            raise ValueError(
                f"data has the transform {transform!r}, which has no levels: give data with a Quantized transform, "
                "such as Digits()"
            )
        if not transform.dequantized:
            raise ValueError(f"data has the transform {transform!r}, which does not dequantize: use data itself")
        super().__init__(data.event_shape, LevelMiddles(transform.levels, transform.low, transform.high), data.kinds)
        self.data = data

    def read(self) -> tuple[Dataset, Dataset]:
        return self.data.train.with_transform(self.transform), self.data.test.with_transform(self.transform)

    def condition_row(self, name: str, value: Any) -> Tensor:
        return self.data.condition_row(name, value)

    def sample_file(self, raw: Tensor, condition: Mapping[str, Tensor] | None = None) -> tuple[str, bytes] | None:
        return self.data.sample_file(raw, condition)
