"""Bounds of the log-probability of discrete data under a density, by dequantization.

A level k stands for a box: P(k) = int_[0,1]^d p(k + u) du. For any density q(u | k) on the box ::

    log P(k) >= L_K = E log (1/K) sum_j w_j,        w_j = p(k + u_j) / q(u_j | k),   u_j ~ q

K = 1 with uniform q is the bound of Theis et al. 2016, with a flow that of Ho et al. 2019. Any K: Burda et al. 2016. L_K
increases with K towards log P(k). The gap of L_1 is KL(q || p(u | k)). It is zero if q is the distribution of p within the
box. The standard deviation of the estimate is about sd(w) / (mean(w) sqrt K), and its gap is half the square of that. The
jackknife K L_K - (K - 1) L_(K-1), averaged over the draw that is left out, removes the gap to first order. It is no longer a
bound.

p must be computed and not estimated at random: the exponential of an unbiased estimate of log p is too large on average, and
then L_K is not a bound.

References:
    Theis, van den Oord, Bethge 2016, "A note on the evaluation of generative models", arXiv:1511.01844.
    Ho, Chen, Srinivas, Duan, Abbeel 2019, "Flow++", arXiv:1902.00275.
    Burda, Grosse, Salakhutdinov 2016, "Importance weighted autoencoders", arXiv:1509.00519.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_counts, check_finite, shown
from scoresde.data.transforms import Quantized, Transform
from scoresde.noise import NoiseSource
from scoresde.sde.scores import in_evaluation_mode

LogProb = Callable[[Tensor], Tensor]
"""x (B, *event) -> log p(x) (B,) in nats, in the units of x."""


class Dequantizer(ABC):
    """A density q(u | k) on the box (0, 1)^event."""

    @abstractmethod
    def sample(self, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """Draws u from q(u | k).

        Args:
            levels: The integers k, (B, *event).
            noise: Keys of the random draws of the B samples.
            step: Number of the draw, part of the key.

        Returns:
            u (B, *event) in (0, 1), and log q(u | k) (B,) in nats.
        """


class UniformDequantizer(Dequantizer):
    """The uniform density, q = 1."""

    def sample(self, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> tuple[Tensor, Tensor]:
        u = noise.uniform(levels.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        return u, u.new_zeros(len(u))


class FlowDequantizer(Dequantizer, nn.Module):
    """A trainable flow with an exact density.

    It maps uniform noise to logits, applies affine maps that depend on k, and maps back to the box::

        y = logit(v),  v uniform        y_i <- m_i + y_i e^(s_i)        u = sigmoid(y)

    with (m, s) = network(k, y_kept). The first map changes all coordinates and depends on k alone. The other maps change
    every second coordinate, alternately the odd and the even ones, and also depend on the rest of y (Dinh et al. 2017). A
    gate that starts at 0 multiplies each map: an untrained flow is the uniform distribution, and its draws are those of
    ``Quantized.encode``. In every map |s| <= 3.

    Args:
        transform: The transform of the data, a ``Quantized``.
        event_shape: Shape of one example.
        layers: Number of maps, >= 1. With 1 the coordinates are independent given k.
        width: Width of the two hidden layers of the default networks.
        network: Returns a new network for a map, (B, 2, *event) -> (B, 2, *event). Its inputs are k on [-1, 1] and the
            unchanged half of y, its outputs m and s. The default is a multilayer perceptron.

    References:
        Dinh, Sohl-Dickstein, Bengio 2017, "Density estimation using Real NVP", arXiv:1605.08803.
    """

    kept: Tensor

    def __init__(
        self,
        transform: Transform,
        event_shape: Sequence[int],
        *,
        layers: int = 3,
        width: int = 64,
        network: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        check_count("layers", layers)
        check_count("width", width)
        self.transform, self.event_shape = _discrete(transform), tuple(event_shape)
        check_counts("event_shape", event_shape)
        size = math.prod(event_shape)
        made = [network() if network else _perceptron(self.event_shape, width) for _ in range(layers)]
        if not all(isinstance(one, nn.Module) for one in made):
            raise TypeError(f"network={shown(network)} returns a {type(made[0]).__name__}: it must return an nn.Module")
        self.networks = nn.ModuleList(made)
        self.gates = nn.Parameter(torch.zeros(layers, 2))
        place = torch.arange(size).reshape(self.event_shape)
        kept = [torch.zeros_like(place, dtype=torch.bool)] + [(place + k) % 2 == 0 for k in range(1, layers)]
        self.register_buffer("kept", torch.stack(kept), persistent=False)

    def sample(self, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """Draws u from q(u | k); differentiable in the parameters of the flow.

        u is a function of the parameters and of a uniform draw (reparameterization).

        Args:
            levels: The integers k, (B, *event).
            noise: Keys of the random draws of the B samples.
            step: Number of the draw, part of the key.

        Returns:
            u (B, *event) in (0, 1), and log q(u | k) (B,) in nats.
        """
        v = noise.uniform(levels.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        start = y = torch.logit(v)
        log_q = v.new_zeros(len(v))
        for k in range(len(self.networks)):
            shift, scale = self._map(k, levels, y)
            y, log_q = shift + y * scale.exp(), log_q - _sum(scale)
        return torch.sigmoid(y), log_q + _sum(_log_logistic(start) - _log_logistic(y))

    def log_prob(self, u: Tensor, levels: Tensor) -> Tensor:
        """Computes log q(u | k) by the inverse of the flow.

        Args:
            u: Points of the box, (B, *event) in (0, 1).
            levels: The integers k, (B, *event).

        Returns:
            log q(u | k) in nats, (B,).
        """
        y = end = torch.logit(u.to(torch.float64))
        log_q = y.new_zeros(len(y))
        for k in reversed(range(len(self.networks))):
            shift, scale = self._map(k, levels, y)
            y, log_q = (y - shift) * (-scale).exp(), log_q - _sum(scale)
        return log_q + _sum(_log_logistic(y) - _log_logistic(end))

    def loss(self, log_prob: LogProb, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """Computes -L_1, an upper bound of -log P(k) on average.

        Minimize it with respect to the flow, or with respect to the flow and the density.

        Args:
            log_prob: Exact log p(x), x (B, *event) -> (B,) nats.
            levels: The integers k, (B, *event).
            noise: Keys of the random draws of the B samples.
            step: Number of the draw, part of the key. Increase it in each step of a training loop.

        Returns:
            The loss of each sample, (B,) nats.
        """
        return -_weights(log_prob, levels, self.transform, self, noise, step, self.gates.dtype)

    def _map(self, k: int, levels: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """m and s of map k, float64. They are 0 for the coordinates that the map does not change."""
        if tuple(levels.shape[1:]) != self.event_shape:
            raise ValueError(
                f"levels has event shape {tuple(levels.shape[1:])}: give {self.event_shape}, the event shape of this flow"
            )
        kept = self.kept[k]
        middle = (2.0 * levels.to(torch.float64) + 1.0) / self.transform.levels - 1.0
        out = self.networks[k](torch.stack((middle, torch.where(kept, y, 0.0)), dim=1).to(self.gates.dtype))
        if out.shape != (len(y), 2, *self.event_shape):
            raise ValueError(f"network returned shape {tuple(out.shape)}: give {(len(y), 2, *self.event_shape)}")
        shift, scale = (self.gates[k, i] * out[:, i].to(torch.float64) for i in (0, 1))
        return torch.where(kept, 0.0, shift), torch.where(kept, 0.0, 3.0 * torch.tanh(scale / 3.0))


@dataclass(frozen=True)
class DequantizedResult:
    """Bounds of the log-probability of a batch of discrete data.

    Attributes:
        log_prob: L_K, on average a lower bound of log P(k), (B,) nats, float64.
        standard_error: Standard error of ``log_prob`` from the spread of the weights, (B,) nats. It is too small if one
            weight dominates, and NaN for one draw.
        single: The mean of L_1 over the draws, (B,) nats: the expected bound with one draw.
        jackknife: Estimate of log P(k) itself, (B,) nats: ``log_prob`` with the gap removed to first order. It is not a
            bound. It is NaN for one draw, and infinite if all the weight is on one draw. jackknife - log_prob is an estimate
            of what more draws would gain.
        effective_draws: (sum w)^2 / sum w^2, (B,) in [1, K].
        calls: Evaluations of log p for the whole batch.
        settings: The settings of the computation.
    """

    log_prob: Tensor
    standard_error: Tensor
    single: Tensor
    jackknife: Tensor
    effective_draws: Tensor
    calls: int
    settings: dict[str, str]

    def __repr__(self) -> str:
        mean = float(self.log_prob.mean())
        return f"DequantizedResult(mean log_prob>={mean:.4f} nats over {len(self.log_prob)}, {self.settings})"


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("log_prob", "dequantizer")
def importance_weighted_bound(
    log_prob: LogProb,
    levels: Tensor,
    transform: Transform,
    *,
    draws: int = 16,
    dequantizer: Dequantizer | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
) -> DequantizedResult:
    """Importance-weighted bound L_K of log P(k) in nats.

    Bits per dimension are -log_prob / (d ln 2), without a further term of the transform.

    Args:
        log_prob: x -> log p(x) (B,), without random error, e.g.
            ``lambda x: log_likelihood(sde, score, x, divergence=Exact()).log_prob``.
        levels: The data k, (B, *event) integers.
        transform: A ``Quantized``, which maps k + u to x.
        draws: The number of draws K.
        dequantizer: The density q. The default is the uniform density.
        dtype: dtype of x.
        seed: Seed of the random draws.
        first: Index of the first sample: sample i of the batch uses the draws with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.

    Returns:
        The bound, its standard error and the jackknife estimate for each sample.

    Raises:
        ValueError: The data is not discrete, a level is out of range, or ``log_prob`` returns a value that is not finite or
            has the wrong shape.

    References:
        Burda, Grosse, Salakhutdinov 2016, arXiv:1509.00519.
    """
    check_count("draws", draws)
    if levels.ndim < 1:
        raise ValueError("levels has shape (): give integers (B, *event)")
    noise = NoiseSource.for_batch(noise, len(levels), seed, first, levels.device)
    dequantizer = dequantizer or UniformDequantizer()
    kind = _discrete(transform)
    log_w = torch.stack([_weights(log_prob, levels, kind, dequantizer, noise, j, dtype) for j in range(draws)])
    bound = log_w.logsumexp(0) - math.log(draws)
    share = log_w.softmax(0)
    nan = torch.full_like(bound, math.nan)
    error, jackknife = nan, nan
    if draws > 1:
        error = (share.var(0) * draws).sqrt()
        without = bound + (torch.log1p(-share) - math.log1p(-1.0 / draws))
        jackknife = draws * bound - (draws - 1) * without.mean(0)
    return DequantizedResult(
        log_prob=bound,
        standard_error=error,
        single=log_w.mean(0),
        jackknife=jackknife,
        effective_draws=1.0 / (share**2).sum(0),
        calls=draws,
        settings={"draws": str(draws), "dequantizer": type(dequantizer).__name__, "seed": str(noise.seed)},
    )


def _weights(
    log_prob: LogProb,
    levels: Tensor,
    transform: Quantized,
    dequantizer: Dequantizer,
    noise: NoiseSource,
    step: int,
    dtype: torch.dtype,
) -> Tensor:
    """log w of one draw, (B,) float64."""
    if levels.is_floating_point() or levels.ndim < 1 or levels.numel() == 0:
        raise ValueError(f"levels has shape {tuple(levels.shape)} and dtype {levels.dtype}: give integers (B, *event)")
    u, log_q = dequantizer.sample(levels, noise, step=step)
    if u.shape != levels.shape or log_q.shape != (len(levels),):
        raise ValueError(
            f"dequantizer returned u of shape {tuple(u.shape)} and log_q of shape {tuple(log_q.shape)}: give "
            f"{tuple(levels.shape)} and ({len(levels)},)"
        )
    value = log_prob(transform.place(levels, u, dtype=dtype))
    if value.shape != (len(levels),):
        raise ValueError(f"log_prob returned shape {tuple(value.shape)}: give ({len(levels)},)")
    check_finite("log_prob", value.detach(), f" at draw {step}")
    return value.to(torch.float64) + levels[0].numel() * math.log(transform.width) - log_q


def _discrete(transform: Transform) -> Quantized:
    if not isinstance(transform, Quantized):
        raise ValueError(
            f"transform={transform!r} is for real numbers: give a Quantized, only discrete data can be dequantized"
        )
    return transform


def _perceptron(event_shape: tuple[int, ...], width: int) -> nn.Module:
    """A multilayer perceptron, (B, 2, *event) -> (B, 2, *event)."""
    size = 2 * math.prod(event_shape)
    hidden = [nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Unflatten(1, (2, *event_shape)))


def _log_logistic(y: Tensor) -> Tensor:
    """ln of the logistic density e^-y / (1 + e^-y)^2, which is also ln d sigmoid / dy."""
    return F.logsigmoid(y) + F.logsigmoid(-y)


def _sum(v: Tensor) -> Tensor:
    """The sum over all dimensions but the first."""
    return v.reshape(len(v), -1).sum(1)
