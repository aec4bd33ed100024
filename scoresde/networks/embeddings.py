"""Embeddings of a scalar label, such as the time or the log noise level.

    RadialEmbedding        exp(-((l - c_j) / h)^2 / 2)              Gaussian bumps
    SinusoidalEmbedding    [sin(w_j l), cos(w_j l)]                 w_j from 1 down to 1/10000 (Vaswani et al. 2017; DDPM)
    FourierEmbedding       [sin(2 pi w_j l), cos(2 pi w_j l)]       w_j drawn once from N(0, scale^2) (Tancik et al. 2020; NCSN++)

Sinusoidal embeddings are for labels up to hundreds, such as ``TimeLabel(999.0)``. The others are for ln(sigma / alpha).

Phases of waves reach hundreds, where float32 leaves an error of 1e-5 in a feature. Phases are therefore computed in
float64, and the features are converted to the dtype of the network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scoresde._validation import check_count, check_number, check_rising

MARGIN = 3.0
"""Distance from the range, in spacings, at which the nearest feature is exp(-4.5) = 0.01."""


class Embedding(nn.Module):
    """Base class of embeddings: modules from labels (B,) to features (B, features).

    A subclass sets ``features`` and implements ``forward``.
    """

    features: int


class RadialEmbedding(Embedding):
    """Gaussian radial basis functions of the label.

    Feature j of a label l is exp(-((l - c_j) / h)^2 / 2). The centers c_j are equally spaced with distance h.

    Args:
        count: Number of features, at least 2.
        low: Lower end of the labels' range. The default range is for ln(sigma / alpha), which is -13.8 for sub-VP at t = 1e-5.
        high: Upper end, above ``low``; ln(sigma / alpha) is 5 for VP at t = 1.
    """

    centers: Tensor

    def __init__(self, count: int = 48, low: float = -15.0, high: float = 8.0) -> None:
        super().__init__()
        check_count("count", count, least=2)
        check_rising("low", low, "high", high)
        self.features = count
        self.low, self.high, self.spacing = low, high, (high - low) / (count - 1)
        self.register_buffer("centers", torch.linspace(low, high, count))

    def forward(self, label: Tensor) -> Tensor:
        """Compute the features.

        Args:
            label: Labels of shape (B,).

        Returns:
            Features of shape (B, count).

        Raises:
            ValueError: If a label is more than ``MARGIN`` spacings outside the range, where all features are nearly zero and do
                not depend on time. Labels are checked on the CPU only; elsewhere the check would synchronize the device.
        """
        if label.device.type == "cpu" and not torch.compiler.is_compiling():
            slack = MARGIN * self.spacing
            if label.numel() and not bool(((label > self.low - slack) & (label < self.high + slack)).all()):
                raise ValueError(
                    f"labels from {float(label.min()):g} to {float(label.max()):g} do not suit an embedding made for "
                    f"[{self.low:g}, {self.high:g}]: give the network an embedding with another range, or the model another label"
                )
        return torch.exp(-0.5 * ((label[:, None] - self.centers) / self.spacing) ** 2)


class SinusoidalEmbedding(Embedding):
    """Sines and cosines with frequencies in geometric progression.

    The frequencies are w_j = 10000^(-j / (h - 1)) for j = 0 .. h - 1, with h = size // 2.

    Args:
        size: Number of features, at least 4. If it is odd, the last feature is zero.

    References:
        Vaswani et al. 2017, Attention is all you need; Ho et al. 2020, Denoising diffusion probabilistic models.
    """

    def __init__(self, size: int = 128) -> None:
        super().__init__()
        check_count("size", size, least=4)
        self.features = size

    def forward(self, label: Tensor) -> Tensor:
        """Compute the features.

        Args:
            label: Labels of shape (B,).

        Returns:
            Features of shape (B, size).
        """
        half = self.features // 2
        j = torch.arange(half, dtype=torch.float64, device=label.device)
        phase = label[:, None] * torch.exp(j * (-math.log(10_000.0) / (half - 1)))
        waves = torch.cat((phase.sin(), phase.cos()), dim=1).to(label.dtype)
        return nn.functional.pad(waves, (0, self.features % 2))


class FourierEmbedding(Embedding):
    """Sines and cosines with random frequencies.

    The frequencies are drawn once from N(0, scale^2) and are not trained.

    Args:
        count: Number of frequencies. There are twice as many features.
        scale: Standard deviation of the frequencies, above 0.

    References:
        Tancik et al. 2020, Fourier features let networks learn high frequency functions; Song et al. 2021 (NCSN++).
    """

    frequencies: Tensor

    def __init__(self, count: int = 128, scale: float = 16.0) -> None:
        super().__init__()
        check_count("count", count)
        check_number("scale", scale, above=0.0)
        self.features, self.scale = 2 * count, scale
        self.register_buffer("frequencies", scale * torch.randn(count))

    def forward(self, label: Tensor) -> Tensor:
        """Compute the features.

        Args:
            label: Labels of shape (B,), also in float64.

        Returns:
            Features of shape (B, 2 count), in the dtype of the frequencies.
        """
        phase = label.to(torch.float64)[:, None] * self.frequencies * (2.0 * math.pi)
        return torch.cat((phase.sin(), phase.cos()), dim=1).to(self.frequencies.dtype)
