r"""The variational bound of discrete data as an objective (variational diffusion models; Kingma et al. 2021, arXiv:2107.00630).

.. math::
    -\ln P(k) \le \underbrace{KL\big( q(x_{t_1} \mid x_0) \,\|\, \pi \big)}_{prior}
        + \underbrace{\tfrac12 \int_{t_0}^{t_1} \frac{g^2}{\sigma^2} E\| z - \hat z(x_t, t) \|^2 dt}_{diffusion}
        + \underbrace{E[-\ln p(k \mid x_{t_0})]}_{reconstruction}

x_0 are the middles of the levels k, without dequantization. The times t_0 and t_1 are the ends of the distribution of t. The
decoder p(k | x_t0) is `level_log_prob`, which has no network. Divided by d ln 2 the bound is in bits/dim.

With gamma = ln(sigma^2 / alpha^2) the diffusion term is an integral over gamma between its end points. Prior, reconstruction and
the limits of the integral depend on the end points, so that a learned process has gradients of the whole bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import shown
from scoresde.data.middles import LevelMiddles
from scoresde.data.transforms import Transform
from scoresde.losses.denoising import DenoisingScoreMatching
from scoresde.losses.noisy import Draw
from scoresde.losses.times import LowDiscrepancy, TimeDistribution, UniformLogNoise, UniformTime, distribution_of
from scoresde.score.level_decoder import check_middles, level_log_prob
from scoresde.score.step_terms import prior_divergence
from scoresde.sde import Chain, GaussianKernel, LinearSDE, ScalarSDE  # noqa: F401  (a field of VariationalDraw)


@dataclass(frozen=True)
class VariationalDraw(Draw):
    """Random draws of a variational bound for a batch.

    Attributes:
        x0: Middles of the levels, (B, *event).
        decoder_noise: Noise of the state that the decoder sees, (B, *event).
    """

    x0: Tensor
    decoder_noise: Tensor


@dataclass(frozen=True)
class VariationalTerms:
    """Terms of a variational bound, each (B,) bits/dim. Their sum is an upper bound of -log P on average.

    Attributes:
        prior: KL divergence of the state at the last time from the prior.
        diffusion: Error of the model, as an estimate of the integral over time from one time.
        reconstruction: -log-probability of the decoder at the first time.
    """

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, (B,)."""
        return self.prior + self.diffusion + self.reconstruction


class VariationalDiffusionLoss(DenoisingScoreMatching):
    """The variational bound of -log P of discrete data: ``loss(model, x0)`` is an unbiased estimate in bits/dim, (B,).

    Args:
        sde: A process with scalar coefficients, in continuous time.
        transform: The transform of the data, a ``LevelMiddles``. A config takes it from its data, ``WithoutDequantization``.
        times: The distribution of t, ``LowDiscrepancy(UniformTime())`` by default. Its ends are the limits of the integral.
        seed: Seed of the random draws. Call k without ``step`` uses step k.

    Raises:
        TypeError: The process is a chain or does not have scalar coefficients.
        ValueError: The data is dequantized or not discrete.

    References:
        Kingma et al. 2021, "Variational diffusion models", arXiv:2107.00630, sections 3 to 5.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel
        >>> from scoresde.data import LevelMiddles
        >>> from scoresde.losses import VariationalDiffusionLoss
        >>> from scoresde.networks import MLP
        >>> from scoresde.sde import LogSNRLinearSDE
        >>> sde, transform = LogSNRLinearSDE(), LevelMiddles(17)
        >>> x0 = transform.encode(torch.zeros(8, 2), None, dtype=torch.float32)
        >>> VariationalDiffusionLoss(sde, transform)(ScoreModel(MLP((2,)), sde), x0).shape
        torch.Size([8])
    """

    def __init__(
        self, sde: LinearSDE, transform: Transform, *, times: TimeDistribution | None = None, seed: int = 0
    ) -> None:
        if isinstance(sde, Chain) or not isinstance(sde, ScalarSDE):
            raise TypeError(
                f"sde={shown(sde)} is not allowed: the decoder of the levels needs a process with scalar coefficients in "
                "continuous time, such as LearnedSNRSDE()"
            )
        if not isinstance(transform, LevelMiddles):
            raise ValueError(
                f"transform={transform!r} is not allowed: the decoder needs levels without dequantization; give "
                "LevelMiddles(levels), in a config config.data={'name': 'WithoutDequantization', 'data': {...}}"
            )
        times = times or LowDiscrepancy()
        if not isinstance(distribution_of(times), UniformTime | UniformLogNoise):
            raise ValueError(
                f"times={times!r} is not allowed: give UniformTime(t_min) or UniformLogNoise(low, high), also with LowDiscrepancy"
            )
        super().__init__(sde, "likelihood", times=times, reduction="half_sum", seed=seed)
        self.transform = transform

    def draw(
        self,
        x0: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
    ) -> VariationalDraw:
        """Draws times, noise, noisy data, and the noise of the decoder for a batch.

        Args:
            x0: The data, (B, *event), at the middles of the levels.
            t: Times, (B,); drawn by default.
            noise: Noise z, (B, *event); drawn by default.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.

        Returns:
            The draws.

        Raises:
            ValueError: The data is not at the middles of the levels. It is checked on the CPU only.
        """
        source, step = self._keyed(x0, t, step, indices)
        if x0.device.type == "cpu":  # elsewhere the check would synchronize the device
            check_middles("x0", x0, self.transform)
        found = super().draw(x0, t=t, noise=noise, step=step, indices=indices)
        decoder_noise = source.normal(x0.shape[1:], step=step, purpose="decoder", dtype=x0.dtype)
        return VariationalDraw(found.t, found.noise, found.x_t, found.kernel, x0, decoder_noise)

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """Computes the bound of each example for given draws.

        Args:
            model: The score, (x, t, **condition) -> a tensor with the shape of x.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The bound, (B,) bits/dim.
        """
        return self.terms(model, draw, **condition).total

    def terms(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> VariationalTerms:
        """Computes the terms of the bound of each example for given draws.

        Args:
            model: The score, (x, t, **condition) -> a tensor with the shape of x.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The terms.
        """
        assert isinstance(draw, VariationalDraw)
        diffusion = self._span() * super().evaluate(model, draw, **condition)
        start, end = (self.sde.kernel(t) for t in self._ends(draw.t.device))
        alpha, sigma, std = end.signal(), end.level(), start.level() / start.signal()
        assert isinstance(self.sde, ScalarSDE)
        prior = prior_divergence(draw.x0, alpha, sigma, self.sde.prior_std())
        reconstruction = self._reconstruction(draw, std)
        bits, kind = self._bits(draw.x0), diffusion.dtype
        return VariationalTerms((prior * bits).to(kind), diffusion * bits, (reconstruction * bits).to(kind))

    def _ends(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The first and the last time, () each, in float64."""
        first, last = self.times.times(self.sde, torch.tensor([0.0, 1.0], dtype=torch.float64, device=device))
        return first, last

    def _span(self) -> float:
        """T - t_min, by which the mean loss over t is multiplied to give the integral."""
        times = distribution_of(self.times)
        assert isinstance(times, UniformTime | UniformLogNoise)
        return self.sde.T - times.t_min

    def _bits(self, x0: Tensor) -> float:
        """The factor from nats to bits/dim."""
        return 1.0 / (x0[0].numel() * math.log(2.0))

    def _reconstruction(self, draw: VariationalDraw, std: Tensor) -> Tensor:
        """-ln p(k | x) of the decoder for x / alpha = x_0 + std z, (B,) nats."""
        y = draw.x0 + std * draw.decoder_noise
        return -level_log_prob(draw.x0, y, std, self.transform).reshape(len(y), -1).sum(1)
