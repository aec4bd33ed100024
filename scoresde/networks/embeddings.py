"""How a network is told a number."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RadialEmbedding(nn.Module):
    """Gaussian bumps: feature j of a label l is exp(-((l - c_j) / h)^2 / 2), centres c_j equally spaced, h their distance.

    count: number of features.
    low, high: range of the labels; the default suits ln(sigma / alpha).

    Raises ValueError for a label far outside the range, where all features would be nearly zero and the network blind to
    time (seen on the CPU only; elsewhere the look would stop the stream of work).
    """

    centres: Tensor

    def __init__(self, count: int = 32, low: float = -8.0, high: float = 6.0) -> None:
        super().__init__()
        self.low, self.high, self.spacing = low, high, (high - low) / (count - 1)
        self.register_buffer("centres", torch.linspace(low, high, count))

    def forward(self, label: Tensor) -> Tensor:
        """(B,) to (B, count)."""
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            slack = 0.5 * (self.high - self.low)
            if label.numel() and not bool(((label > self.low - slack) & (label < self.high + slack)).all()):
                raise ValueError(
                    f"labels from {float(label.min()):g} to {float(label.max()):g} do not suit an embedding made for "
                    f"[{self.low:g}, {self.high:g}]: give the network's low and high, or the ScoreModel's label"
                )
        return torch.exp(-0.5 * ((label[:, None] - self.centres) / self.spacing) ** 2)
