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

from scoresde._validation import check_number
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import CountedModel, ancestral_step, noise_of_rows
from scoresde.jump.known import KnownTokens, following
from scoresde.jump.sampler import Callback, JumpSampler, check_mask
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
        check_mask(self, process, "Uniformization()")

    def run(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        noise: NoiseSource,
        callback: Callback,
        known: KnownTokens | None,
    ) -> tuple[Tensor, Tensor]:
        shape, x = x.shape, x.reshape(len(x), -1)
        masked = process.masked(x)
        u = noise.uniform(x.shape[1:], step=0, purpose="hitting times", dtype=torch.float64)
        kept = process.schedule.alpha(torch.tensor(process.T, dtype=torch.float64, device=x.device))
        times = process.schedule.time_of_log_alpha(torch.log1p(-u * (1.0 - kept)))
        times, order = torch.where(masked, times, -1.0).sort(1, descending=True)
        count = masked.sum(1)
        for k in range(int(count.max())):
            rows = (count > k).nonzero().flatten()
            place, t = order[rows, k], times[:, k].clamp(min=0.0)
            every = torch.arange(len(rows), device=x.device)
            here = model(x.reshape(shape), t, rows).reshape(len(rows), -1, process.tokens)[every, place]
            x = x.index_put((rows, place), draw_states(here, noise_of_rows(noise, rows), step=k, purpose="hitting"))
            callback(k + 1, t, x.reshape(shape))
        return x.reshape(shape), torch.empty(0, dtype=torch.float64)


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
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        noise: NoiseSource,
        callback: Callback,
        known: KnownTokens | None,
    ) -> tuple[Tensor, Tensor]:
        schedule, n, first = process.schedule, 0, torch.tensor(process.T, dtype=torch.float64)
        end = -float(schedule.log_alpha(first))
        points = self._points(end)
        times = schedule.time_of_log_alpha(-torch.tensor(points, dtype=torch.float64))
        at = first.expand(len(x)).to(x.device)
        if points[0] < end:
            new = ancestral_step(process, model, x, first, times[0], noise, step=1, purpose="end")
            x, at = following(known, process, x, new, first, times[0], noise, 0), times[0].expand(len(x)).to(x.device)
        for j, (high, low) in enumerate(itertools.pairwise(points)):
            bound = x[0].numel() * rate_bound(process, (low, 0.5 * (low + high), high))
            b = torch.full((len(x),), high, dtype=torch.float64, device=x.device)
            for k in range(j * _STEPS + 1, (j + 1) * _STEPS):
                b = b + noise.uniform((), step=k, purpose="waiting time", dtype=torch.float64).log() / bound
                rows = (b > low).nonzero().flatten()
                if len(rows) == 0:
                    break
                t = torch.where(b > low, schedule.time_of_log_alpha(-b.clamp(min=low)), at)
                new = self._jump(process, model, x, t, rows, bound, noise, k)
                x, at, n = following(known, process, x, new, at, t, noise, k), t, n + 1
                callback(n, t, x)
        x = following(known, process, x, x, at, times[-1], noise, len(points) * _STEPS)
        new = ancestral_step(process, model, x, times[-1], torch.zeros_like(first), noise, step=0, purpose="end")
        x = following(known, process, x, new, times[-1], torch.zeros_like(first), noise, len(points) * _STEPS + 1)
        return x, torch.empty(0, dtype=torch.float64)

    def _points(self, end: float) -> list[float]:
        """The ends of the intervals, descending."""
        first = min(end, -math.log(self.ends))
        count = max(1, math.ceil(math.log2(first / self.ends)))
        return [first * (self.ends / first) ** (k / count) for k in range(count + 1)]

    def _jump(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        t: Tensor,
        rows: Tensor,
        bound: float,
        noise: NoiseSource,
        number: int,
    ) -> Tensor:
        """The states after a possible jump of the samples ``rows`` at t, (B,)."""
        at, flat = x[rows], x.reshape(len(x), -1)
        ratios = process.ratios(at, model(x, t, rows), t[rows]).to(torch.float64)
        rates = (process.generator_columns(at) * ratios.exp()).scatter(-1, at[..., None], 0.0)
        share = rates.reshape(len(rows), -1) / bound
        total = share.sum(1, keepdim=True)
        if bool((total > 1.0 + 1e-6).any()):
            raise RuntimeError(f"the reverse rates exceed their bound {bound:g} by the factor {float(total.max()):g}")
        log_p = log_or_zero(torch.cat((share, (1.0 - total).clamp(min=0.0)), 1))
        chosen = draw_states(log_p, noise_of_rows(noise, rows), step=number, purpose="jump")
        place, state = chosen.div(process.states, rounding_mode="floor"), chosen % process.states
        jumps = chosen < share.shape[1]
        return flat.index_put((rows[jumps], place[jumps]), state[jumps]).reshape(x.shape)


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
