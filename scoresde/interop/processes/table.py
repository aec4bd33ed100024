"""Monotone cubic interpolation of a table (Fritsch and Carlson 1980), with its derivative, in torch."""

from __future__ import annotations

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor


class Table:
    """Function through given values, monotone between them, with a continuous slope.

    Args:
        times: The times of the values, increasing, ``(N,)``.
        values: The values, ``(N,)``.
    """

    def __init__(self, times: Tensor, values: Tensor) -> None:
        self.times = times.to(torch.float64)
        self.cubics = torch.from_numpy(PchipInterpolator(times.numpy(), values.to(torch.float64).numpy()).c)

    def _cubic(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients (4, ...) of the cubic at t, highest order first, and the position of t in its interval."""
        times, t = self.times.to(t.device), t.to(torch.float64)
        k = (torch.searchsorted(times, t.contiguous(), right=True) - 1).clamp(0, len(times) - 2)
        return self.cubics.to(t.device)[:, k], t - times[k]

    def value(self, t: Tensor) -> Tensor:
        """The function.

        Args:
            t: Times between the first and the last one of the table.

        Returns:
            The values in float64, in the shape of t.
        """
        (a, b, c, d), u = self._cubic(t)
        out: Tensor = ((a * u + b) * u + c) * u + d
        return out

    def slope(self, t: Tensor) -> Tensor:
        """The derivative of the function.

        Args:
            t: Times between the first and the last one of the table.

        Returns:
            The derivatives in float64, in the shape of t.
        """
        (a, b, c, _), u = self._cubic(t)
        out: Tensor = (3.0 * a * u + 2.0 * b) * u + c
        return out
