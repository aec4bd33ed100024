r"""Thresholds: scores whose prediction of the data stays in the range of the data.

.. math::
    \hat x = E[x_0 \mid x_t] = \frac{x + \sigma^2 s(x, t)}{\alpha}, \qquad
    \tilde s(x, t) = s(x, t) + \frac{\alpha}{\sigma^2} \, [\, c(\hat x) - \hat x \,] = \frac{\alpha \, c(\hat x) - x}{\sigma^2}

The exact score never predicts data outside of the convex hull of the data, so a threshold changes nothing. A trained score, and
above all one that is guided with a large weight, does predict such data. Samplers then leave the range, and the network is
evaluated at states that it was not trained on. The threshold prevents this. Where it changes the score, the result is the score
of no known density, and samplers draw from another distribution: a share of the coordinates has a value at the end of the range.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._validation import check_number, check_rising, expand, shown
from scoresde.guidance.base import Guidance
from scoresde.sde import LinearSDE


class Threshold(Guidance):
    """Base class of thresholds of the predicted data. A subclass is a frozen dataclass and implements ``clipped``."""

    weight: ClassVar[float] = 1.0  # type: ignore[misc]  # not a field

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sde, LinearSDE):
            raise TypeError(
                f"score={shown(self.score)} has the process {self.sde!r}, which does not define E[x_0 | x_t]: give the score of "
                "a process with a closed-form kernel, such as VPSDE()"
            )

    @abstractmethod
    def clipped(self, data: Tensor) -> Tensor:
        """The data in the range.

        Args:
            data: Predictions of the data, (B, *event).

        Returns:
            The predictions in the range, with the shape of ``data``.
        """

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        score = self.score(x, t)
        return score + w * self._change(x, t, score)

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        return self._change(x, t, self.score(x, t))

    def _change(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """The score of the clipped prediction minus that of the prediction. It is 0 where nothing is clipped."""
        sde = self.sde
        assert isinstance(sde, LinearSDE)  # checked at the start
        kernel = sde.kernel(t)
        data = sde.extract_data(kernel.data_from_score(x, score))
        found = self.clipped(data)
        if found.shape != data.shape:
            raise ValueError(f"clipped returned shape {tuple(found.shape)}: return {tuple(data.shape)}")
        change = sde.embed_data(found) - sde.embed_data(data)
        return kernel.centered.score_from_data(torch.zeros_like(x), change)


@dataclass(frozen=True)
class StaticThreshold(Threshold):
    """The predicted data is clipped to [low, high].

    Args:
        score: The score, for example a ``ClassifierFree`` with a large weight.
        low: Lowest value of the data, as the model sees it.
        high: Highest value.
        interval: Lowest and highest noise level sigma / alpha with a threshold, or None for all.

    Raises:
        TypeError: If the process of the score is not a ``LinearSDE``.
        ValueError: If low is not below high.

    References:
        Ho, Jain, Abbeel 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239, code.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> score = StaticThreshold(GaussianMixture([[2.0, 0.0]], 0.1).score(VPSDE()), -1.0, 1.0)
        >>> x, t = torch.zeros(1, 2), torch.full((1,), 0.1)
        >>> VPSDE().data_from_score(x, t, score(x, t)).round(decimals=3).abs().tolist()
        [[1.0, 0.0]]
    """

    score: Callable[..., Tensor]
    low: float = -1.0
    high: float = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rising("low", self.low, "high", self.high)

    def clipped(self, data: Tensor) -> Tensor:
        return data.clamp(self.low, self.high)


@dataclass(frozen=True)
class DynamicThreshold(Threshold):
    r"""The predicted data is clipped to a wider range that depends on the sample, and scaled back to [low, high].

    With the middle m and half the width h of the range, and r the given quantile of \|x^ - m\| / h over the coordinates of a
    sample, but at least 1,

    .. math::
        c(\hat x) = m + \mathrm{clip}(\hat x - m, \, -r h, \, r h) / r

    So fewer coordinates have a value at the end of the range than with a ``StaticThreshold``.

    Args:
        score: The score, for example a ``ClassifierFree`` with a large weight.
        quantile: Share of the coordinates of a sample that are not clipped, in (0, 1].
        low: Lowest value of the data, as the model sees it.
        high: Highest value.
        interval: Lowest and highest noise level sigma / alpha with a threshold, or None for all.

    Raises:
        TypeError: If the process of the score is not a ``LinearSDE``.
        ValueError: If the quantile is not in (0, 1], or low is not below high.

    References:
        Saharia et al. 2022, "Photorealistic text-to-image diffusion models with deep language understanding", arXiv:2205.11487,
        section 2.3.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> score = DynamicThreshold(GaussianMixture([[2.0, 0.5]], 0.1).score(VPSDE()), quantile=1.0)
        >>> score.clipped(torch.tensor([[2.0, 0.5], [0.3, -0.9]])).tolist()[0]
        [1.0, 0.25]
    """

    score: Callable[..., Tensor]
    quantile: float = 0.995
    low: float = -1.0
    high: float = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("quantile", self.quantile, above=0.0, most=1.0)
        check_rising("low", self.low, "high", self.high)

    def clipped(self, data: Tensor) -> Tensor:
        middle, half = (self.high + self.low) / 2.0, (self.high - self.low) / 2.0
        size = (data - middle).reshape(len(data), -1).abs()
        largest = size.kthvalue(max(1, math.ceil(self.quantile * size.shape[1])), dim=1).values
        ratio = expand(largest / half, data)
        scaled = middle + ((data - middle) / ratio).clamp(-half, half)
        return torch.where(ratio > 1.0, scaled, data.clamp(self.low, self.high))
