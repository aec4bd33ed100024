"""How a network is told a number.

    RadialEmbedding        exp(-((l - c_j) / h)^2 / 2)              Gaussian bumps
    SinusoidalEmbedding    [sin(w_j l), cos(w_j l)]                 w_j from 1 down to 1/10000 (Vaswani et al. 2017; DDPM)
    FourierEmbedding       [sin(2 pi w_j l), cos(2 pi w_j l)]       w_j drawn once from N(0, scale^2) (Tancik et al. 2020; NCSN++)

The second suits labels that run to hundreds, such as `TimeLabel(999.0)`; the others suit ln(sigma / alpha).

Phases of waves run to hundreds, where float32 leaves an error of 1e-5 in a feature: they are computed in float64 whatever the
network's dtype, which takes the features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scoresde._validation import check_count, check_number, check_rising

MARGIN = 3.0
"""Spacings outside the range at which the nearest feature has fallen to exp(-4.5) = 0.01."""


class Embedding(nn.Module):
    """Labels (B,) to (B, features)."""

    features: int


class RadialEmbedding(Embedding):
    """Gaussian bumps: feature j of a label l is exp(-((l - c_j) / h)^2 / 2), centres c_j equally spaced, h their distance.

    count: number of features, at least 2.
    low, high: range of the labels, low < high; the default suits ln(sigma / alpha): -13.8 for sub-VP at t = 1e-5, 5 for VP at 1.

    Raises ValueError for a label further than `MARGIN` spacings outside the range, where all features are nearly zero and the
    network is blind to time (seen on the CPU only; elsewhere the look would stop the stream of work).
    """

    centres: Tensor

    def __init__(self, count: int = 48, low: float = -15.0, high: float = 8.0) -> None:
        super().__init__()
        check_count("count", count, least=2)
        check_rising("low", low, "high", high)
        self.features = count
        self.low, self.high, self.spacing = low, high, (high - low) / (count - 1)
        self.register_buffer("centres", torch.linspace(low, high, count))

    def forward(self, label: Tensor) -> Tensor:
        """(B,) to (B, count)."""
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            slack = MARGIN * self.spacing
            if label.numel() and not bool(((label > self.low - slack) & (label < self.high + slack)).all()):
                raise ValueError(
                    f"labels from {float(label.min()):g} to {float(label.max()):g} do not suit an embedding made for "
                    f"[{self.low:g}, {self.high:g}]: give the network an embedding with another range, or the model another label"
                )
        return torch.exp(-0.5 * ((label[:, None] - self.centres) / self.spacing) ** 2)


class SinusoidalEmbedding(Embedding):
    """Waves of lengths in geometric progression: w_j = 10000^(-j / (h - 1)), j = 0 .. h - 1, h = size // 2.

    size: number of features, at least 4; where it is odd the last one is zero.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        check_count("size", size, least=4)
        self.features = size

    def forward(self, label: Tensor) -> Tensor:
        """(B,) to (B, size)."""
        half = self.features // 2
        j = torch.arange(half, dtype=torch.float64, device=label.device)
        phase = label[:, None] * torch.exp(j * (-math.log(10_000.0) / (half - 1)))
        waves = torch.cat((phase.sin(), phase.cos()), dim=1).to(label.dtype)
        return nn.functional.pad(waves, (0, self.features % 2))


class FourierEmbedding(Embedding):
    """Waves of random lengths: frequencies drawn from N(0, scale^2) at the start and never trained.

    count: number of frequencies; there are twice as many features.
    scale: standard deviation of the frequencies, > 0.
    """

    frequencies: Tensor

    def __init__(self, count: int = 128, scale: float = 16.0) -> None:
        super().__init__()
        check_count("count", count)
        check_number("scale", scale, above=0.0)
        self.features, self.scale = 2 * count, scale
        self.register_buffer("frequencies", scale * torch.randn(count))

    def forward(self, label: Tensor) -> Tensor:
        """(B,), also in float64, to (B, 2 count) in the frequencies' dtype."""
        phase = label.to(torch.float64)[:, None] * self.frequencies * (2.0 * math.pi)
        return torch.cat((phase.sin(), phase.cos()), dim=1).to(self.frequencies.dtype)
