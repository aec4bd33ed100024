r"""The variational bound of a chain as an objective, and its mixture with the simple loss (Nichol & Dhariwal 2021).

One instant i of the chain is drawn for each example. With r = sigma / alpha, Delta = r_(i-1)^-2 - r_i^-2, e = x_0 - x_hat =
r (z_hat - z) and the variance V of x_0 given x_i, its term of the bound is, in nats,

.. math::
    L_i = \frac12 \sum_j \left[ \ln(1 + \Delta V_j) + \frac{\Delta (e_j^2 - V_j)}{1 + \Delta V_j} \right], \; i \ge 1,
    \qquad L_0 = -\ln p(x_0 \mid x_{(0)})

where L_0 is that of the decoder N(x_hat, V), for discrete data its probability of the interval of the level. The losses are

.. math::
    L_{vlb} = \frac{1}{d \ln 2} \sum_i L_i, \qquad
    L_{hybrid} = E_i \frac{1}{d} \|z - \hat z\|^2 + w L_{vlb}

The term KL(q(x_T | x_0) || prior) of the bound has no parameters and is left out. In L_hybrid the mean x_hat of L_vlb is a
constant, so that L_vlb trains the variance alone. L_vlb is the whole sum over the N instants in bits per coordinate. In these
units the paper's w is .001.

An instant is drawn with the probability p_i, and its loss is weighted by 1 / (N p_i). So every distribution of the instants has
the same mean. `ImportanceTimes` has the p_i of the paper.

References:
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, sections 3.1 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_finite, check_number, expand, shown, times_checked
from scoresde.data import Quantized, Transform
from scoresde.losses.noisy import Draw, NoisyDataObjective
from scoresde.losses.times import TimeDistribution
from scoresde.score import LearnedVarianceModel, ScoreModel
from scoresde.score.data_variance import MODEL, DataVariance, check_variance, variance_method
from scoresde.score.step_terms import decoder_log_prob, middles_of, step_divergence
from scoresde.sde import SDE, Chain, check_same_process
from scoresde.sde.base import check_gaussian

UNITS = {"bits": math.log(2.0), "nats": 1.0}


class VariationalLoss(NoisyDataObjective):
    """L_vlb, the variational bound of a chain: ``loss(model, x0)`` is N times the term of one drawn step, (B,).

    Its mean is the bound of -log p(x_0) without the divergence of x_T from the prior, divided by the number of coordinates.

    Args:
        sde: The chain of N instants, such as ``CosineVPSDE().discretize(1000)``.
        transform: The transform of the data. If it is a ``Quantized``, the data is moved to the middles of the intervals of its
            levels, and the bound is that of their probability. Else it is that of the density.
        variance: The variance V of x_0 given x_t: "model" for that of the model, a ``LearnedVarianceModel``, or a function of
            sigma / alpha, such as ``GaussianVariance(1.0)`` for DDPM's beta_t.
        unit: "bits" or "nats" per coordinate.
        times: The distribution of the instants: by default ``ChainTimes()``, or ``ImportanceTimes()``.
        seed: Seed of the random draws. Call k without ``step`` uses step k.

    Raises:
        TypeError: The process is not a chain.
        ValueError: The chain has no noise at its first instant.

    References:
        Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5 to 13. Nichol, Dhariwal 2021, arXiv:2102.09672.

    Example:
        >>> import torch
        >>> from scoresde.networks import MLP
        >>> from scoresde.score import LearnedVarianceModel
        >>> from scoresde.sde import CosineVPSDE
        >>> chain = CosineVPSDE().discretize(100)
        >>> model = LearnedVarianceModel(MLP((2,), outputs=2), chain)
        >>> VariationalLoss(chain)(model, torch.zeros(8, 2)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        sde: SDE,
        transform: Transform | None = None,
        *,
        variance: DataVariance | str = MODEL,
        unit: str = "bits",
        times: TimeDistribution | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(sde, Chain):
            raise TypeError(
                f"sde={shown(sde)} is not a chain, whose steps the bound has: give sde.discretize(1000); in a config, model.steps"
            )
        check_gaussian(sde, "the bound")
        check_choice("unit", unit, tuple(UNITS))
        check_variance("variance", variance)
        super().__init__(sde, times, seed)
        self.transform, self.variance, self.unit = transform, variance, unit
        instants = sde.time(torch.arange(sde.steps))
        level = sde.sigma(instants) / sde.alpha(instants)
        if not bool(level[0] > 0):
            raise ValueError(
                f"sde={sde!r} has no noise at its first instant: give a chain with sigma > 0 at all instants"
            )
        self._levels, self._gains = level, torch.cat((torch.ones(1, dtype=level.dtype), -level.pow(-2).diff()))
        self._fixed = None if isinstance(variance, str) else self._fixed_variance(variance)

    def _fixed_variance(self, variance: DataVariance) -> Tensor:
        """V at all instants, (N,), that of the decoder (sigma / alpha)^2 if it is 0."""
        found = variance(self._levels)
        check_finite("variance", found[:, None])
        return torch.cat((found[:1] if bool(found[0] > 0) else self._levels[:1] ** 2, found[1:]))

    @property
    def quantized(self) -> Quantized | None:
        """The transform of discrete data, or None for a density."""
        return self.transform if isinstance(self.transform, Quantized) else None

    def check_model(self, model: Callable[..., Tensor]) -> None:
        """Checks that the model has what the objective trains.

        Args:
            model: The model.

        Raises:
            TypeError: If it is no score, or ``variance`` is "model" and it has no variance.
        """
        super().check_model(model)
        if self._fixed is None:
            variance_method(model)

    def draw(
        self,
        x0: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
    ) -> Draw:
        """Draws instants, noise and noisy data for a batch.

        Args:
            x0: The data, (B, *event).
            t: Times of instants, (B,); drawn by default.
            noise: Noise z, (B, *state); drawn by default.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.

        Returns:
            The draws. The noisy data is that of the middles, if the data is discrete.

        Raises:
            ValueError: Discrete data is outside of the levels. It is checked on the CPU only.
        """
        middles = x0 if self.quantized is None else middles_of("x0", x0, self.quantized)
        return super().draw(middles, t=t, noise=noise, step=step, indices=indices)

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The model, a ``LearnedVarianceModel`` unless the variance is a function of the noise level.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example in the unit per coordinate, (B,).
        """
        with times_checked():  # ``draw`` has checked them
            loss = self._bound(*self._noise_and_variance(model, draw, condition), draw)
            return loss / self.times.density(self.sde, draw.t).to(loss.dtype)

    def _noise_and_variance(
        self, model: Callable[..., Tensor], draw: Draw, condition: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """E[z | x_t], the shape of x, and V, (B,) or the shape of x, by one evaluation of the model."""
        check_same_process(self.sde, model)
        self.check_model(model)
        if self._fixed is not None:
            variance = self._at(self._fixed, draw)
            if isinstance(model, ScoreModel):
                return model.noise(draw.x_t, draw.t, kernel=draw.kernel, **condition), variance
            return draw.kernel.noise_from_score(self._score(model, draw.x_t, draw.t, condition)), variance
        index, gains = self._index(draw), self._at(self._gains, draw)
        delta = torch.where(index == 0, math.inf, gains)
        if isinstance(model, LearnedVarianceModel):
            return model.noise_and_variance(draw.x_t, draw.t, delta, kernel=draw.kernel, **condition)
        score, variance = variance_method(model)(draw.x_t, draw.t, delta)
        return draw.kernel.noise_from_score(score), variance

    def _bound(self, noise: Tensor, variance: Tensor, draw: Draw) -> Tensor:
        """N times the term of the drawn step in the unit per coordinate, (B,)."""
        first, variance = self._index(draw) == 0, expand(variance, noise)
        error = expand(self._at(self._levels, draw), noise) * (noise - draw.noise)
        at_first = expand(first, noise)
        # the other rows get values whose terms and derivatives are finite
        decoder = -decoder_log_prob(
            self._data((draw.x_t - expand(draw.kernel.level(), noise) * draw.noise) / expand(draw.kernel.signal(), noise)),
            torch.where(at_first, error, 0.0), torch.where(at_first, variance, 1.0), self.quantized,
        )  # fmt: skip
        step = step_divergence(
            torch.where(at_first, 0.0, error), torch.where(at_first, 0.0, variance), self._at(self._gains, draw)
        )
        steps = len(self._levels)
        return torch.where(first, decoder, step) * (steps / (UNITS[self.unit] * noise[0].numel()))

    def _index(self, draw: Draw) -> Tensor:
        """The drawn instants, (B,)."""
        assert isinstance(self.sde, Chain)
        return self.sde.index(draw.t)

    def _at(self, table: Tensor, draw: Draw) -> Tensor:
        """The entries of a table (N,) at the drawn instants, (B,), in the dtype of the times."""
        return table.to(draw.t.device)[self._index(draw)].to(draw.t.dtype)

    def _data(self, x: Tensor) -> Tensor:
        """Discrete data that was computed from x_t, with its rounding removed, or the data itself."""
        transform = self.quantized
        return x if transform is None else transform.encode(transform.decode(x), None, dtype=x.dtype)


class HybridLoss(VariationalLoss):
    """L_hybrid = L_simple + weight L_vlb, which trains the mean by the simple loss and the variance by the bound.

    L_simple is the mean over coordinates of (z - z_hat)^2, that of ``DenoisingScoreMatching(chain)``. L_vlb is that of
    ``VariationalLoss`` in bits per coordinate, with the mean as a constant.

    Args:
        sde: The chain of N instants, such as ``CosineVPSDE().discretize(1000)``.
        transform: The transform of the data, see ``VariationalLoss``.
        weight: Weight of L_vlb in bits per coordinate, > 0. The paper's is .001.
        times: The distribution of the instants: by default ``ChainTimes()``, or ``ImportanceTimes()``.
        seed: Seed of the random draws. Call k without ``step`` uses step k.

    Raises:
        TypeError: The process is not a chain.
        ValueError: The chain has no noise at its first instant.

    References:
        Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, eq. 16.

    Example:
        >>> import torch
        >>> from scoresde.networks import MLP
        >>> from scoresde.score import LearnedVarianceModel
        >>> from scoresde.sde import CosineVPSDE
        >>> chain = CosineVPSDE().discretize(100)
        >>> model = LearnedVarianceModel(MLP((2,), outputs=2), chain)
        >>> HybridLoss(chain)(model, torch.zeros(8, 2)).shape
        torch.Size([8])
    """

    def __init__(
        self,
        sde: SDE,
        transform: Transform | None = None,
        *,
        weight: float = 0.001,
        times: TimeDistribution | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(sde, transform, times=times, seed=seed)
        check_number("weight", weight, above=0.0)
        self.weight = weight

    def evaluate(self, model: Callable[..., Tensor], draw: Draw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The model, a ``LearnedVarianceModel``.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """
        with times_checked():  # ``draw`` has checked them
            noise, variance = self._noise_and_variance(model, draw, condition)
            simple = (draw.noise - noise).reshape(len(noise), -1).square().mean(1)
            loss = simple + self.weight * self._bound(noise.detach(), variance, draw)
            return loss / self.times.density(self.sde, draw.t).to(loss.dtype)
