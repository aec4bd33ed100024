"""The probability of discrete data under a density: bounds by dequantisation.

Levels k stand for boxes, P(k) = int_[0,1]^d p(k + u) du, and for any density q(u | k) on the box

    log P(k) >= L_K = E log (1/K) sum_j w_j,        w_j = p(k + u_j) / q(u_j | k),   u_j ~ q

(K = 1: Theis et al. 2016, arXiv:1511.01844 for uniform q, Ho et al. 2019, arXiv:1902.00275 for a flow; any K: Burda et
al. 2016,
arXiv:1509.00519). L_K grows with K towards log P(k). L_1 falls short of it by KL(q || p(u | k)): by nothing where q is p's own
distribution in the box. The estimate's spread is about sd(w) / (mean(w) sqrt K), its shortfall half the square of that.
The jackknife
K L_K - (K - 1) L_(K-1), averaged over the draw left out, removes the shortfall to first order, and with it the side.

p must be computed, not estimated: exp of an unbiased estimate of log p is too large in the mean, and L_K then no bound.
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
        """u (B, *event) in (0, 1), drawn by (noise, step), and log q(u | k) (B,) in nats, for integers k (B, *event)."""


class UniformDequantizer(Dequantizer):
    """q = 1."""

    def sample(self, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> tuple[Tensor, Tensor]:
        u = noise.uniform(levels.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        return u, u.new_zeros(len(u))


class FlowDequantizer(Dequantizer, nn.Module):
    """A flow, trainable and with an exact density: uniform u to logits, affine maps that know k, and back to the box.

        y = logit(v),  v uniform        y_i <- m_i + y_i e^(s_i)        u = sigmoid(y)

    (m, s) = network(k, y_kept). The first map moves all coordinates and sees k alone; the others move every second coordinate,
    odd and even in turn, and see the rest of y too (Dinh et al. 2017, arXiv:1605.08803). Each map is multiplied in by a
    gate that
    starts at 0: an untrained flow is the uniform distribution, and its draws are those of `Quantized.encode`.

    transform: of the data.
    event_shape: of one example.
    layers: number of maps, >= 1; with 1 the coordinates are independent given k.
    width: of the networks' two hidden layers.
    network: makes a network (B, 2, *event) -> (B, 2, *event) for a map, from k on [-1, 1] and the kept half of y to m and s;
        a perceptron unless given.

    |s| <= 3 in every map.
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
            raise TypeError(f"network={shown(network)} makes a {type(made[0]).__name__}: it must return an nn.Module")
        self.networks = nn.ModuleList(made)
        self.gates = nn.Parameter(torch.zeros(layers, 2))
        place = torch.arange(size).reshape(self.event_shape)
        kept = [torch.zeros_like(place, dtype=torch.bool)] + [(place + k) % 2 == 0 for k in range(1, layers)]
        self.register_buffer("kept", torch.stack(kept), persistent=False)

    def sample(self, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> tuple[Tensor, Tensor]:
        """Differentiable in the flow's parameters: u is a function of them and of a uniform draw."""
        v = noise.uniform(levels.shape[1:], step=step, purpose="dequantize", dtype=torch.float64)
        start = y = torch.logit(v)
        log_q = v.new_zeros(len(v))
        for k in range(len(self.networks)):
            shift, scale = self._map(k, levels, y)
            y, log_q = shift + y * scale.exp(), log_q - _sum(scale)
        return torch.sigmoid(y), log_q + _sum(_log_logistic(start) - _log_logistic(y))

    def log_prob(self, u: Tensor, levels: Tensor) -> Tensor:
        """log q(u | k) (B,) in nats, for u (B, *event) in (0, 1): the flow run backwards."""
        y = end = torch.logit(u.to(torch.float64))
        log_q = y.new_zeros(len(y))
        for k in reversed(range(len(self.networks))):
            shift, scale = self._map(k, levels, y)
            y, log_q = (y - shift) * (-scale).exp(), log_q - _sum(scale)
        return log_q + _sum(_log_logistic(y) - _log_logistic(end))

    def loss(self, log_prob: LogProb, levels: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """-L_1, (B,) nats: an upper bound of -log P(k) in the mean, to be minimised in the flow (and the density).

        step: key of the draws; a loop counts it up.
        """
        return -_weights(log_prob, levels, self.transform, self, noise, step, self.gates.dtype)

    def _map(self, k: int, levels: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """m and s of map k, 0 where y is kept; float64."""
        if tuple(levels.shape[1:]) != self.event_shape:
            raise ValueError(
                f"levels has event shape {tuple(levels.shape[1:])}: this flow was made for {self.event_shape}"
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

    log_prob: (B,) nats, float64; L_K, a lower bound of log P(k) in the mean.
    standard_error: (B,) nats, of it, by the spread of the weights: an underestimate where one weight outweighs the
    rest; NaN for
        one draw.
    single: (B,) nats, the mean of L_1 over the draws: what one draw would give.
    jackknife: (B,) nats, an estimate of log P(k) itself: log_prob with the shortfall removed to first order, no bound; NaN for
        one draw, infinite where one weight is all there is. jackknife - log_prob says how much more draws would bring.
    effective_draws: (B,) in [1, K], (sum w)^2 / sum w^2.
    calls: evaluations of log p for the whole batch.
    settings: how it was computed.
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
    """The importance-weighted bound L_K of log P(k) in nats; bits/dim are -log_prob / (d ln 2).

    log_prob: x -> log p(x) (B,), exact for x: ``lambda x: log_likelihood(sde, score, x, divergence=Exact()).log_prob``.
    levels: (B, *event) integers.
    transform: a `Quantized`; what makes x of k + u.
    draws: K.
    dequantizer: q; uniform unless given.
    dtype: of x.
    seed, first: key of the draws: sample i of the batch has the number first + i. ``noise`` replaces both.

    Raises ValueError for data that is not discrete, levels out of range, and a log_prob that is not finite or of wrong shape.
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
        raise ValueError(f"levels of shape {tuple(levels.shape)}, {levels.dtype}: give integers (B, *event)")
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
    return value.to(torch.float64) + transform.log_volume(levels[0].numel()) - log_q


def _discrete(transform: Transform) -> Quantized:
    if not isinstance(transform, Quantized):
        raise ValueError(
            f"transform={transform!r} is of real numbers: only discrete data is dequantised, give a Quantized"
        )
    return transform


def _perceptron(event_shape: tuple[int, ...], width: int) -> nn.Module:
    """(B, 2, *event) to (B, 2, *event)."""
    size = 2 * math.prod(event_shape)
    hidden = [nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Unflatten(1, (2, *event_shape)))


def _log_logistic(y: Tensor) -> Tensor:
    """ln of the logistic density e^-y / (1 + e^-y)^2, also ln d sigmoid / dy."""
    return F.logsigmoid(y) + F.logsigmoid(-y)


def _sum(v: Tensor) -> Tensor:
    """Over all but the first dimension."""
    return v.reshape(len(v), -1).sum(1)
