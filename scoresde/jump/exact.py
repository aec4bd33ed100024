r"""Samplers of jump processes whose only error is that of the model: first-hitting sampling and uniformization.

**First-hitting.** Under ``Absorbing`` a masked coordinate is unmasked at a time tau with 1 - alpha(tau) = U (1 -
alpha(T)), U uniform, independently of everything else. All times are drawn first. At each of them one coordinate is
drawn from p(x_0^i | x_tau), so that no two coordinates are drawn together.

**Uniformization.** The reverse process has the rates R[y, x] p_t(y) / p_t(x) per unit of b = -ln alpha. A sum over
tokens bounds their sum for every model:

.. math::
    \sum_{y \ne x} R_{yx} \frac{p_t(y)}{p_t(x)} \le \max_{x_0} \sum_{y \ne x} R_{yx} \frac{q(y \mid x_0)}{q(x \mid x_0)}

With a bound M of the sum over all coordinates, the times of possible jumps are a Poisson process with the rate M. At
each of them the model is evaluated, and one coordinate jumps with the probability (sum of rates) / M. The bound grows
like 1 / b, so that the range of b is divided into intervals whose ends have the ratio 2, each with its bound. The range
is [e, -ln e] for a small e: before and after it one ancestral step is taken, in which two coordinates change with a
probability of order e^2.

References:
    Zheng et al. 2024, "Masked diffusion models are secretly time-agnostic masked models", arXiv:2409.02908
    (first-hitting). Chen, Ying 2024, "Convergence analysis of discrete diffusion model: exact implementation through
    uniformization", arXiv:2402.08095.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number, expand
from scoresde.jump.base import JumpProcess
from scoresde.jump.sampler import Callback, CountedModel, JumpSampler
from scoresde.jump.states import draw_states, log_or_zero
from scoresde.noise import NoiseSource

_LARGEST = 4096
"""Largest number of states for which the bound of the rates is computed."""
_STEPS = 2**20
"""Numbers of the draws of an interval."""


@dataclass(frozen=True)
class FirstHitting(JumpSampler):
    """First-hitting sampling for ``Absorbing``: exact, with one evaluation for each masked coordinate.

    References:
        Zheng et al. 2024, arXiv:2409.02908. Hoogeboom et al. 2021, "Autoregressive diffusion models", arXiv:2110.02037.

    Example:
        >>> from scoresde.jump import Absorbing, FirstHitting, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> FirstHitting()(process, chain.model(process), (4, 8)).nfe
        8
    """

    def check_process(self, process: JumpProcess) -> None:
        if not process.carries_over:
            raise TypeError(
                f"FirstHitting does not support {process!r}: give an Absorbing process, or use Uniformization()"
            )

    def run(
        self, process: JumpProcess, model: CountedModel, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        shape, x = x.shape, x.reshape(len(x), -1)
        masked = process.masked(x)
        u = noise.uniform(x.shape[1:], step=0, purpose="hitting times", dtype=torch.float64)
        kept = process.schedule.alpha(torch.tensor(process.T, dtype=torch.float64, device=x.device))
        times = process.schedule.time_of_log_alpha(torch.log1p(-u * (1.0 - kept)))
        times, order = torch.where(masked, times, -1.0).sort(1, descending=True)
        count = masked.sum(1)
        for k in range(int(count.max())):
            t, place, active = times[:, k].clamp(min=0.0), order[:, k], k < count
            logits = model(x.reshape(shape), t).reshape(*x.shape, process.tokens)
            here = logits[torch.arange(len(x), device=x.device), place]
            drawn = draw_states(here, noise, step=k, purpose="hitting")
            old = x.gather(1, place[:, None])
            x = x.scatter(1, place[:, None], torch.where(active[:, None], drawn[:, None], old))
            callback(k + 1, t, x.reshape(shape))
        return x.reshape(shape), torch.empty(0, dtype=torch.float64), count


@dataclass(frozen=True)
class Uniformization(JumpSampler):
    """Uniformization: the reverse process in continuous time, without discretization error, for any jump process.

    The number of evaluations is proportional to the number of coordinates.

    Args:
        ends: The value e that bounds the range of b, in (0, 0.1]. The error is of order e^2.

    References:
        Chen, Ying 2024, arXiv:2402.08095. Van Dijk 1990, doi:10.1016/0166-218X(90)90073-I.
    """

    ends: float = 1e-3

    def __post_init__(self) -> None:
        check_number("ends", self.ends, above=0.0, most=0.1)

    def check_process(self, process: JumpProcess) -> None:
        if process.states > _LARGEST:
            raise TypeError(
                f"Uniformization supports at most {_LARGEST} states, and {process!r} has {process.states}: use "
                "FirstHitting() for Absorbing, or AncestralSampler(steps)"
            )

    def run(
        self, process: JumpProcess, model: CountedModel, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        schedule, n = process.schedule, 0
        end = -float(schedule.log_alpha(torch.tensor(process.T, dtype=torch.float64)))
        points = self._points(end)
        if points[0] < end:
            x = self._ancestral(process, model, x, torch.tensor(process.T, dtype=torch.float64), points[0], noise)
        for j, (high, low) in enumerate(itertools.pairwise(points)):
            bound = x[0].numel() * rate_bound(process, (low, 0.5 * (low + high), high))
            b = torch.full((len(x),), high, dtype=torch.float64, device=x.device)
            for k in range(_STEPS):
                u = noise.uniform((), step=j * _STEPS + k, purpose="waiting time", dtype=torch.float64)
                b = b + u.log() / bound
                active = b > low
                if not bool(active.any()):
                    break
                t = schedule.time_of_log_alpha(-b.clamp(min=low))
                x = torch.where(expand(active, x), self._jump(process, model, x, t, bound, noise, j * _STEPS + k), x)
                n += 1
                callback(n, t, x)
        last = schedule.time_of_log_alpha(torch.tensor(-points[-1], dtype=torch.float64))
        return self._ancestral(process, model, x, last, 0.0, noise), torch.empty(0, dtype=torch.float64), None

    def _points(self, end: float) -> list[float]:
        """The ends of the intervals, descending."""
        first = min(end, -math.log(self.ends))
        count = max(1, math.ceil(math.log2(first / self.ends)))
        return [first * (self.ends / first) ** (k / count) for k in range(count + 1)]

    def _ancestral(
        self, process: JumpProcess, model: CountedModel, x: Tensor, t: Tensor, b: float, noise: NoiseSource
    ) -> Tensor:
        """An ancestral step from t to the time of b."""
        s = (
            process.schedule.time_of_log_alpha(torch.tensor(-b, dtype=torch.float64))
            if b > 0.0
            else torch.zeros_like(t)
        )
        return process.reverse_sample(x, model(x, t), s, t, noise, step=int(b > 0.0), purpose="end")

    def _jump(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        t: Tensor,
        bound: float,
        noise: NoiseSource,
        number: int,
    ) -> Tensor:
        """The states after a possible jump at t, (B,)."""
        ratios = process.ratios(x, model(x, t), t).to(torch.float64)
        rates = (process.generator_columns(x) * ratios.exp()).scatter(-1, x[..., None], 0.0)
        share = rates.reshape(len(x), -1) / bound
        total = share.sum(1, keepdim=True)
        if bool((total > 1.0 + 1e-6).any()):
            raise RuntimeError(f"the reverse rates exceed their bound {bound:g} by the factor {float(total.max()):g}")
        log_p = log_or_zero(torch.cat((share, (1.0 - total).clamp(min=0.0)), 1))
        chosen = draw_states(log_p, noise, step=number, purpose="jump")
        place, state = chosen.div(process.states, rounding_mode="floor"), chosen % process.states
        flat, jumps = x.reshape(len(x), -1), chosen < share.shape[1]
        place, state = torch.where(jumps, place, 0), torch.where(jumps, state, flat[:, 0])
        return flat.scatter(1, place[:, None], state[:, None]).reshape(x.shape)


def rate_bound(process: JumpProcess, points: tuple[float, ...]) -> float:
    """The largest sum of reverse rates of a coordinate per unit of b, for any model.

    Args:
        process: The process.
        points: Values of b at which it is computed.

    Returns:
        The maximum over states, data and ``points``.
    """
    states, tokens = torch.arange(process.states), torch.arange(process.tokens)
    columns = process.generator_columns(states).scatter(1, states[:, None], 0.0)
    largest = 0.0
    for b in points:
        log_q = process.rows(tokens, torch.tensor(b, dtype=torch.float64))
        possible = log_q > -1e29
        rates = (log_q.exp() @ columns.mT) / torch.where(possible, log_q, 0.0).exp()
        largest = max(largest, float(rates[possible].max()))
    return largest
