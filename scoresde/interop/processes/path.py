r"""Processes of libraries for flow matching, which give a conditional path and its velocity, and no SDE.

The path from noise to data x_t | x_0 ~ N(alpha x_0, sigma^2 I) and its conditional velocity, written in the time of
scoresde (0 is data, T is noise)::

    u(x, t | x_0) = alpha' x_0 + (sigma' / sigma) (x - alpha x_0)

belong to the SDE with::

    F = alpha' / alpha        g^2 = 2 sigma sigma' - 2 F sigma^2

An adapter takes alpha' and sigma' from the velocity of the library, not from its alpha and sigma. ``check`` then compares
the two: the path that the library draws its samples from, and the velocity that its networks are trained with.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.sde import ScalarSDE


class Path(NamedTuple):
    """Coefficients of a path and of its velocity, each in the shape of t and in float64.

    Attributes:
        alpha: Coefficient of the data.
        sigma: Standard deviation given the data.
        alpha_slope: Time derivative of alpha, from the velocity.
        sigma_slope: Time derivative of sigma, from the velocity.
    """

    alpha: Tensor
    sigma: Tensor
    alpha_slope: Tensor
    sigma_slope: Tensor


class PathSDE(ScalarSDE):
    r"""Base class of the processes of conditional paths.

    .. math::
        F = \frac{\dot\alpha}{\alpha}, \qquad g^2 = 2 \sigma \dot\sigma - 2 F \sigma^2

    A subclass implements ``path``. The prior is :math:`N(0, I)`, the source distribution of flow matching.

    Args:
        epsilon: 1 - T, in (0, 1/2]. At t = 1 the path does not contain the data, so F has a pole there.
    """

    def __init__(self, epsilon: float) -> None:
        check_number("epsilon", epsilon, above=0.0, most=0.5)
        super().__init__(1.0 - epsilon)
        self.epsilon = epsilon

    @abstractmethod
    def path(self, t: Tensor) -> Path:
        """Coefficients of the path and of its velocity.

        Args:
            t: Times in [0, T] in float64, ``()`` or ``(B,)``; 0 is data.

        Returns:
            The coefficients, each in the shape of t. The slopes are derivatives in the time of scoresde.
        """

    def _path(self, t: Tensor) -> Path:
        self.check_time(t)
        return Path(*(value.to(t.dtype) for value in self.path(t.to(torch.float64).clamp(0.0, self.T))))

    def alpha(self, t: Tensor) -> Tensor:
        return self._path(t).alpha

    def sigma(self, t: Tensor) -> Tensor:
        return self._path(t).sigma

    def drift_coefficient(self, t: Tensor) -> Tensor:
        path = self._path(t)
        return path.alpha_slope / path.alpha

    def diffusion(self, t: Tensor) -> Tensor:
        alpha, sigma, alpha_slope, sigma_slope = self._path(t)
        square = 2.0 * sigma * sigma_slope - 2.0 * alpha_slope / alpha * sigma**2
        return square.clamp(min=0.0).sqrt()

    def prior_std(self) -> float:
        """1: the source distribution."""
        return 1.0
