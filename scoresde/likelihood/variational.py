r"""Lower bound of log p(x) for a reverse chain with K steps (Ho et al. 2020; Kingma et al. 2021).

The model draws x_T from the prior, takes the steps p(x_s | x_t) of q(x_s | x_t, x_0) with a Gaussian of mean x_hat(x_t) and
variance V in place of x_0, and decodes x_0 at the first time:

.. math::
    \log p(x_0) \ge E[\log p(x_0 \mid x_{t_0})] - \sum_{i=1}^K E\, KL(q(x_{t_{i-1}} \mid x_{t_i}, x_0) \,\|\, p) -
    KL(q(x_T \mid x_0) \,\|\, \pi)

For scalar coefficients a step depends on them only through the difference of the signal-to-noise ratios (alpha / sigma)^2. With
Delta = SNR_s - SNR_t and e = x_0 - x_hat, a step costs

.. math::
    KL = \frac12 \sum_{j=1}^d \left[ \ln(1 + \Delta V) + \frac{\Delta (e_j^2 - V)}{1 + \Delta V} \right]

nats. It is smallest for V = E e_j^2, and then it is ln(1 + Delta V) / 2 for each coordinate on average. For V = 0 it is the loss
of Kingma et al., Delta e^2 / 2. For Gaussian data with the covariance s^2 I and its own V, all K give the entropy.

The decoder is the same step to the data, a Gaussian N(x_hat, V). For discrete data it is the probability that it gives to the
interval of the level of x_0, where the first and the last interval have no end (Ho et al. 2020, eq. 13). Use it for models that
were trained on the levels themselves. A model of dequantized data spends nats on the place within an interval where the noise is
smaller than the interval: bound the density of the dequantized data instead, and convert it by ``bits_per_dim``.

Estimate. Each term is averaged over draws of the noise of x_t. A replicate draws a noise for each step and evaluates all K steps,
or ``draws`` of them, step i with the given probability p_i and the weight 1 / p_i. The standard error is that of the replicates.

Variance reduction. The part ln(1 + Delta V) / 2 of a step does not depend on the score and is computed for all steps. Only the
rest is drawn. For a measured V its mean over the data is 0, so the choice of the steps adds little to the error of the sum. In
the rest, and in the Gaussian decoder, e_j^2 is replaced by e_j^2 - (V / r)^2 (z_j^2 - 1) with r = sigma / alpha, which has the
same mean. Where the noise is small compared with the detail of the data, e = -r z and V = r^2, and nothing random is left.
A variance V of the score itself depends on x_t, so its mean is not known. Then ``control`` gives the V of these known parts.

References:
    Ho, Jain, Abbeel 2020, "Denoising diffusion probabilistic models", arXiv:2006.11239.
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672.
    Kingma, Salimans, Poole, Ho 2021, "Variational diffusion models", arXiv:2107.00630.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, expand, shown
from scoresde.conditions import given
from scoresde.data import Quantized
from scoresde.likelihood.engine import warn_caller
from scoresde.noise import NoiseSource
from scoresde.score.data_variance import (
    MODEL,
    DataVariance,
    GaussianVariance,
    OwnVariance,
    check_variance,
    variance_method,
    with_variance,
)
from scoresde.score.denoising import check_scalar, noisy_times
from scoresde.score.origin import check_origin
from scoresde.score.step_terms import decoder_log_prob, middles_of, prior_divergence, step_divergence
from scoresde.sde import ScalarSDE, check_same_process
from scoresde.sde.base import check_gaussian
from scoresde.sde.scalar import Chain
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide
from scoresde.solvers import SolverError


@dataclass(frozen=True)
class VariationalBound:
    """Lower bounds of log p(x) for a batch, for a chain with K steps.

    Attributes:
        log_prob: Unbiased estimate of the bound, reconstruction - sum of steps - prior, (B,) nats, float64. For discrete data it
            bounds the log-probability, else the log-density.
        standard_error: Standard error of ``log_prob`` given x, (B,) nats, from the replicates. NaN for one replicate.
        reconstruction: E log p(x_0 | x) at the first time, (B,) nats.
        steps: The KL divergences of the steps, (K, B) nats, in the order of the times. Steps of which none was drawn have
            ln(1 + Delta V) / 2 for each coordinate.
        prior: KL(q(x_T | x_0) || pi), (B,) nats.
        bits_per_dim: -log_prob / (d ln 2), (B,). None for data that is not discrete.
        nfe: Evaluations of the score for the whole batch.
        times: The ascending times, (K + 1,). The decoder is at the first one.
        failed: Samples for which the score or the variance is not finite, (B,) bool. Their ``log_prob`` is NaN.
    """

    log_prob: Tensor
    standard_error: Tensor
    reconstruction: Tensor
    steps: Tensor
    prior: Tensor
    bits_per_dim: Tensor | None
    nfe: int
    times: Tensor
    failed: Tensor

    def __repr__(self) -> str:
        bits = "" if self.bits_per_dim is None else f", {float(self.bits_per_dim.mean()):.4f} bits/dim"
        mean, size = float(self.log_prob.mean()), f"{len(self.log_prob)}, {len(self.steps)} steps"
        return f"VariationalBound(mean log_prob>={mean:.4f} nats{bits} over {size}, nfe={self.nfe})"


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def variational_bound(
    sde: ScalarSDE,
    score: Callable[..., Tensor],
    x: Tensor,
    times: Tensor | None = None,
    *,
    variance: DataVariance | str = GaussianVariance(1.0),  # noqa: B008  (frozen)
    decoder: DataVariance | None = None,
    control: DataVariance | None = None,
    transform: Quantized | None = None,
    replicates: int = 2,
    draws: int | None = None,
    probabilities: Tensor | None = None,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    condition: Mapping[str, Any] | None = None,
) -> VariationalBound:
    """Lower bound of log p(x) in nats for a reverse chain with K steps.

    Args:
        sde: The process of the score, or a chain of it.
        score: The score, (x, t) -> a tensor with the shape of x.
        x: Finite data, (B, *event). With ``transform`` each value is moved to the middle of the interval of its level.
        times: K + 1 ascending times with sigma > 0. The last one is T. None for all instants of a chain.
        variance: The variance V of x_0 given x_t in the steps: a function of sigma / alpha, such as ``AnalyticVariance``, or
            "model" for the variance of each coordinate that the score itself has, as a ``LearnedVarianceModel`` and the score of
            a ``GaussianMixture``.
        decoder: The variance of the decoder, a function of sigma / alpha. None for ``variance``, or sigma / alpha squared where
            that is 0.
        control: For the variance "model": a function of sigma / alpha that is close to its mean, such as the measured one. The
            result has the same mean and a smaller error, most of all if steps are drawn.
        transform: The transform of discrete data, for a model of the middles of the intervals. The result is then a
            log-probability. None for a log-density.
        replicates: Independent repetitions of the whole estimate.
        draws: Number of steps that a replicate evaluates. None for all.
        probabilities: Probability of each step to be drawn, (K,), > 0, up to a factor. Best proportional to the root mean square
            of the step. None for equal ones.
        seed: Seed of the random draws.
        first: Index of the first sample: sample i of the batch uses the draws with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.
        condition: Conditions c of the score by name, with one row for each sample. The result then bounds log p(x | c).

    Returns:
        The bounds, their standard errors and their terms. The score is evaluated replicates (K + 1) times, or replicates
        (draws + 1).

    Raises:
        TypeError: The process does not have scalar coefficients, or ``variance`` is "model" for a score without a variance.
        ValueError: An argument is not allowed.
        SolverError: The score or the variance is not finite for any sample. For some of them, their ``log_prob`` is NaN, and a
            RuntimeWarning is issued.

    References:
        Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 5 to 13. Kingma et al. 2021, arXiv:2107.00630.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, GaussianMixture
        >>> from scoresde.score.data_variance import GaussianVariance
        >>> sde, data = VPSDE(), GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5]))
        >>> times = torch.linspace(0.01, 1.0, 11)
        >>> bound = variational_bound(sde, data.score(sde), data.sample(4), times, variance=GaussianVariance(0.5))
        >>> bound.log_prob.shape, bound.steps.shape
        (torch.Size([4]), torch.Size([10, 4]))
    """
    for name, value in (("variance", variance), ("decoder", decoder), ("control", control)):
        check_origin(name, value, sde, score)
    score = given(score, condition)
    check_variance("variance", variance)
    if control is not None and variance != MODEL:
        raise ValueError(f"control={shown(control)} is not allowed with a variance that is a function: leave it out")
    own = variance_method(score) if variance == MODEL else None
    times = _checked_times(sde, times)
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    check_gaussian(sde, "the variational bound")
    check_count("replicates", replicates)
    weights = _Drawn.of(draws, probabilities, len(times) - 1)
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    checked, x = CheckedScore(score, len(x), x.dtype), wide(x)
    x0 = x.to(torch.float64) if transform is None else _middles(x, transform)
    steps = _Steps.of(sde, times.to(x.device), variance, decoder, control)
    evaluations = 1 + (draws or len(times) - 1)
    failed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    chain = _Terms(checked, x, x0, steps, transform, own, decoder is None, failed)
    known = _Known.of(steps, x[0].numel(), transform)
    rows, parts = [], []
    for r in range(replicates):
        repeated = noise.again(r)
        normals = repeated.normals(x.shape[1:], steps=range(evaluations), purpose="bound noise", dtype=torch.float64)
        z = next(normals)
        reconstruction = chain.reconstruction(z) - known.decoder(z)
        costs = known.expected[:, None].repeat(1, len(x))
        for index, weight in weights.draw(repeated, len(x)):
            z = next(normals)
            costs.scatter_add_(0, index[None], (weight * (chain.step(index, z) - known.step(index, z)))[None])
        rows.append(torch.cat((reconstruction[None], costs)))
        parts.append(reconstruction - costs.sum(0))
    terms, bounds, prior = torch.stack(rows).mean(0), torch.stack(parts), _prior(sde, x0)
    log_prob = (bounds.mean(0) - prior).masked_fill(failed, math.nan)
    _report(failed)
    spread = bounds.std(0) / math.sqrt(replicates) if replicates > 1 else torch.full_like(log_prob, math.nan)
    bits = None if transform is None else -log_prob / (x[0].numel() * math.log(2.0))
    return VariationalBound(log_prob, spread, terms[0], terms[1:], prior, bits, replicates * evaluations, times, failed)


def _checked_times(sde: ScalarSDE, times: Tensor | None) -> Tensor:
    """The ascending times. Raises ValueError unless they end at T and have noise."""
    check_scalar(sde)
    if times is None:
        if not isinstance(sde, Chain):
            raise ValueError(
                f"times is missing, and {sde!r} is not a chain: give ascending times that end at {sde.T:g}"
            )
        times = sde.time(torch.arange(sde.steps))
    times = noisy_times(sde, times)
    if len(times) < 2 or abs(float(times[-1]) - sde.T) > 1e-6 * sde.T:
        raise ValueError(f"times={shown(times)} is not allowed: give two or more times, the last of them T={sde.T:g}")
    if isinstance(sde, Chain) and len(sde.index(times).unique()) < len(times):
        raise ValueError(f"times={shown(times)} has two times of one instant of {sde!r}: give each instant once")
    return times


@dataclass(frozen=True)
class _Steps:
    """Coefficients at the K + 1 times, each (K + 1,) float64. V and delta of step i are at i; at 0 they are the decoder's.

    V is NaN where the score has it. ``known`` is the V of the parts whose mean is known.
    """

    times: Tensor
    alpha: Tensor
    sigma: Tensor
    variance: Tensor
    delta: Tensor
    known: Tensor

    @classmethod
    def of(
        cls,
        sde: ScalarSDE,
        times: Tensor,
        variance: DataVariance | str,
        decoder: DataVariance | None,
        control: DataVariance | None,
    ) -> _Steps:
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        level = sigma / alpha
        found = (
            torch.full_like(level, math.nan) if isinstance(variance, str) else _variance("variance", variance, level)
        )
        at = found[:1] if decoder is None else _variance("decoder", decoder, level[:1])
        if decoder is None and bool(at == 0):
            at = level[:1] ** 2
        if bool(at == 0):
            raise ValueError(f"decoder={shown(decoder)} is 0 at the first time: give a variance above 0")
        snr = level**-2
        v, delta = torch.cat((at, found[1:])), torch.cat((torch.full_like(at, math.inf), -snr.diff()))
        known = v if control is None else torch.where(v.isnan(), _variance("control", control, level), v)
        return cls(times, alpha, sigma, v, delta, known)


def _variance(name: str, function: DataVariance, level: Tensor) -> Tensor:
    """V at the levels. Raises ValueError unless it is finite and not negative."""
    value = function(level)
    if not isinstance(value, Tensor) or value.shape != level.shape or not bool((value.isfinite() & (value >= 0)).all()):
        raise ValueError(
            f"{name} returned {shown(value)} for {len(level)} levels: return finite numbers >= 0 of this shape"
        )
    return value


@dataclass(frozen=True)
class _Drawn:
    """Which steps a replicate evaluates, and with which weights."""

    draws: int | None
    probabilities: Tensor

    @classmethod
    def of(cls, draws: int | None, probabilities: Tensor | None, count: int) -> _Drawn:
        if draws is None:
            if probabilities is not None:
                raise ValueError("probabilities is given without draws: give draws, or leave both out for all steps")
        else:
            check_count("draws", draws)
        p = torch.ones(count, dtype=torch.float64) if probabilities is None else probabilities.detach().double().cpu()
        if p.shape != (count,) or not bool((p.isfinite() & (p > 0)).all()):
            raise ValueError(f"probabilities={shown(probabilities)} is not allowed: give {count} positive numbers")
        return cls(draws, p / p.sum())

    def draw(self, noise: NoiseSource, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The numbers 0, ..., K - 1 of steps, (B,), and their weights, (B,).

        Drawn steps are evenly spaced in the distribution function.
        """
        device = noise.indices.device
        p = self.probabilities.to(device)
        if self.draws is None:
            for i in range(len(p)):
                yield torch.full((batch,), i, device=device), torch.ones(batch, dtype=torch.float64, device=device)
            return
        v = noise.uniform((), step=0, purpose="bound steps", dtype=torch.float64)
        ends = p.cumsum(0)
        for m in range(self.draws):
            index = torch.searchsorted(ends, (m + v) / self.draws).clamp(max=len(p) - 1)
            yield index, 1.0 / (self.draws * p[index])


@dataclass(frozen=True)
class _Known:
    """The parts of the terms that do not depend on the score, float64: their mean is known.

    Args:
        expected: ln(1 + Delta V) / 2 of each step for all coordinates, (K,) nats.
        factors: Factors of the sum of z_j^2 - 1 in each step, (K,).
        factor: The factor in the decoder.
    """

    expected: Tensor
    factors: Tensor
    factor: Tensor

    @classmethod
    def of(cls, steps: _Steps, dimension: int, transform: Quantized | None) -> _Known:
        level, v, delta = steps.sigma / steps.alpha, steps.known, steps.delta[1:]
        square = (v / level).clamp(max=level) ** 2
        factors = 0.5 * delta / (1.0 + delta * v[1:]) * square[1:]
        factor = -0.5 * square[0] / v[0] if transform is None else torch.zeros_like(v[0])
        parts = (0.5 * dimension * (delta * v[1:]).log1p(), factors, factor)
        return cls(*(part.nan_to_num() for part in parts))  # 0 where V is not known

    def step(self, index: Tensor, z: Tensor) -> Tensor:
        """The known part of the steps with the numbers ``index`` (B,), (B,)."""
        return self.expected[index] + self.factors[index] * _chi_square(z)

    def decoder(self, z: Tensor) -> Tensor:
        """The known part of the Gaussian decoder, (B,), with the mean 0."""
        return self.factor * _chi_square(z)


def _chi_square(z: Tensor) -> Tensor:
    """The sum of z_j^2 - 1, (B,)."""
    return (z.square() - 1.0).reshape(len(z), -1).sum(1)


@dataclass(frozen=True)
class _Terms:
    """The terms of the bound for one draw of the noise, (B,) nats each."""

    score: CheckedScore
    x: Tensor
    x0: Tensor
    steps: _Steps
    transform: Quantized | None
    own: OwnVariance | None
    own_decoder: bool
    failed: Tensor  # (B,) bool, which the terms set

    def step(self, index: Tensor, z: Tensor) -> Tensor:
        """KL of the steps with the numbers ``index`` (B,), from time index + 1 to time index."""
        return step_divergence(*self._evaluated(index + 1, z, self.own), self.steps.delta[index + 1])

    def reconstruction(self, z: Tensor) -> Tensor:
        """log p(x_0 | x) at the first time."""
        first = torch.zeros(len(self.x), dtype=torch.long, device=self.x.device)
        error, variance = self._evaluated(first, z, self.own if self.own_decoder else None)
        return decoder_log_prob(self.x0, error, variance, self.transform)

    def _evaluated(self, place: Tensor, z: Tensor, own: OwnVariance | None) -> tuple[Tensor, Tensor]:
        """x_0 - x_hat at the times with the numbers ``place`` (B,), and V, (B,) or (B, *event), in float64.

        V is that of ``own``, the score's own method, unless it is None."""
        alpha, sigma = expand(self.steps.alpha[place], z), expand(self.steps.sigma[place], z)
        x_t, t = (alpha * self.x0 + sigma * z).to(self.x.dtype), self.steps.times[place]
        variance = self.steps.variance[place]
        if own is None:
            value = self.score(x_t, t.to(self.x.dtype))
        else:
            value, variance = with_variance(
                lambda score: self.score.checked(score, x_t, t.to(self.x.dtype)), own, self.steps.delta[place]
            )
            variance = variance.to(torch.float64)
            self.failed.logical_or_(~variance.isfinite().reshape(len(z), -1).all(1))
        self.failed.logical_or_(~value.isfinite().reshape(len(z), -1).all(1))
        return -(sigma * z + sigma**2 * value.to(torch.float64)) / alpha, variance


def _report(failed: Tensor) -> None:
    """Warn about samples that failed. Raise SolverError if all failed."""
    if not bool(failed.any()):
        return
    where = failed.nonzero().flatten().tolist()
    message = f"the score or its variance is not finite for batch positions {where[:8]}"
    if bool(failed.all()):
        raise SolverError(message)
    warn_caller(f"{message}: their log_prob is NaN")


def _prior(sde: ScalarSDE, x0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) || N(0, prior_std^2 I)), (B,) nats."""
    end = torch.tensor(sde.T, dtype=torch.float64)
    return prior_divergence(x0, float(sde.alpha(end)), float(sde.sigma(end)), sde.prior_std())


def _middles(x: Tensor, transform: Quantized) -> Tensor:
    """The middles of the intervals of the levels of x, in float64. Raises ValueError if a value is outside of all."""
    if not isinstance(transform, Quantized):
        raise TypeError(
            f"transform={shown(transform)} is not for discrete data: give a Quantized, or None for a density"
        )
    return middles_of("x", x.double(), transform)
