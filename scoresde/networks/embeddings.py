"""How a network is told a number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scoresde._validation import check_count, check_number

REACH = 3.0
"""Spacings outside the range at which the nearest feature has fallen to exp(-4.5) = 0.01."""


class RadialEmbedding(nn.Module):
    """Gaussian bumps: feature j of a label l is exp(-((l - c_j) / h)^2 / 2), centres c_j equally spaced, h their distance.

    count: number of features, at least 2.
    low, high: range of the labels, low < high; the default suits ln(sigma / alpha): -13.8 for sub-VP at t = 1e-5, 5 for VP at 1.

    Raises ValueError for a label further than `REACH` spacings outside the range, where all features are nearly zero and the
    network is blind to time (seen on the CPU only; elsewhere the look would stop the stream of work).
    """

    centres: Tensor

    def __init__(self, count: int = 48, low: float = -15.0, high: float = 8.0) -> None:
        super().__init__()
        check_count("count", count, least=2)
        check_number("low", low)
        check_number("high", high, above=low)
        self.low, self.high, self.spacing = low, high, (high - low) / (count - 1)
        self.register_buffer("centres", torch.linspace(low, high, count))

    def forward(self, label: Tensor) -> Tensor:
        """(B,) to (B, count)."""
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            slack = REACH * self.spacing
            if label.numel() and not bool(((label > self.low - slack) & (label < self.high + slack)).all()):
                raise ValueError(
                    f"labels from {float(label.min()):g} to {float(label.max()):g} do not suit an embedding made for "
                    f"[{self.low:g}, {self.high:g}]: give the network an embedding with another range, or the model another label"
                )
        return torch.exp(-0.5 * ((label[:, None] - self.centres) / self.spacing) ** 2)
