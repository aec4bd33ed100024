r"""The grid of a network that chooses the next step (BDDM), see ``step_network.py``.

The grid is made from the largest noise to the smallest: the reverse chain goes one step with the present beta, abar becomes
abar / (1 - beta), and phi is evaluated at the new state.

References:
    Lam, Wang, Su, Yu 2022, "BDDM: bilateral denoising diffusion models for fast and high-quality speech synthesis",
    arXiv:2203.13508.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_counts, check_number, check_seed
from scoresde.conditions import rows_of
from scoresde.noise import NoiseSource
from scoresde.samplers.fitted.fingerprint import check_fingerprint, fingerprint
from scoresde.samplers.grids import end_time
from scoresde.schedules.costs import bound_costs
from scoresde.schedules.dynamic_programming import grid_cost
from scoresde.schedules.step_network import StepNetwork
from scoresde.score.denoising import check_scalar, denoising_errors
from scoresde.sde import LinearSDE, ScalarSDE, Score
from scoresde.sde.scores import in_evaluation_mode

__all__ = ["NetworkGrid", "network_grid"]

_FIRST_STEPS = 0.7 ** torch.arange(1.0, 13.0, dtype=torch.float64)
"""The first steps that ``network_grid`` tries, as shares of the range of ln(sigma / alpha)."""


@dataclass(frozen=True)
class NetworkGrid:
    """A grid function with the times that a network chose, for example ``DDIM(grid.steps, grid=grid)``.

    :func:`network_grid` returns it.

    Args:
        given: The descending times, (K + 1,).
        process: ``repr`` of the process of the grid.
        event_shape: Shape of the events.
        fingerprint: The process's ``fingerprint``. The grid raises a ValueError for another process.
        weights: A digest of the weights of the score's networks, by which samplers refuse another score. Empty if it has none.
    """

    begins_at_end: ClassVar[bool] = True  # see ``Discretization.start_time``

    given: tuple[float, ...]
    process: str
    event_shape: tuple[int, ...]
    fingerprint: tuple[float, ...] = field(repr=False)
    weights: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if len(self.given) < 2 or any(a <= b for a, b in zip(self.given, self.given[1:], strict=False)):
            raise ValueError(f"given={self.given!r} is not allowed: give two or more descending times")
        check_counts("event_shape", self.event_shape)
        if not self.fingerprint:
            raise ValueError("fingerprint=() is not allowed: give the numbers of the process")

    @property
    def steps(self) -> int:
        """Number of steps K."""
        return len(self.given) - 1

    def __call__(self, sde: LinearSDE, steps: int) -> Tensor:
        """The times.

        Args:
            sde: The process.
            steps: Number of steps, which must be K.

        Returns:
            (K + 1,) descending times, float64.

        Raises:
            ValueError: If the process is not that of the grid, or ``steps`` is not K.
        """
        check_count("steps", steps)
        if steps != self.steps:
            raise ValueError(f"steps={steps} is not allowed: this grid has {self.steps} steps")
        wanted = f"this grid was made for, {self.process}"
        check_fingerprint(sde.continuous, self.event_shape, self.fingerprint, wanted)
        return torch.tensor(self.given, dtype=torch.float64)


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def network_grid(
    sde: ScalarSDE,
    score: Score,
    network: StepNetwork,
    x: Tensor,
    steps: int,
    *,
    batch_size: int = 64,
    t_min: float | None = None,
    seed: int = 0,
) -> NetworkGrid:
    """The grid of K steps that a network chooses.

    The first step is free. Twelve first steps are tried, and the grid with the smallest sum of ``bound_costs`` with the forward
    variances ("upper") on ``x`` is returned. Ratios are means over a batch. The last step goes to ``t_min``.

    Args:
        sde: Process of the score.
        score: (x, t) -> score. Conditions have one row for each event of ``x``.
        network: The network, trained for this model.
        x: Data on which the costs of the grids are measured, (n, \\*event).
        steps: Number of steps K, at least 2.
        batch_size: Number of samples of the reverse chain.
        t_min: Last time. None: the process's own ``t_min`` if it has one, else 1e-3.
        seed: Seed of the reverse chain.

    Returns:
        The grid.

    Raises:
        TypeError: If the process does not have scalar coefficients.
        ValueError: If the network was trained for another model, or no first step gives a grid of K steps.

    References:
        Lam et al. 2022, arXiv:2203.13508.

    Example:
        >>> grid = network_grid(sde, score, network, x, 10)  # doctest: +SKIP
        >>> samples = DDIM(grid.steps, grid=grid)(sde, score, (100, 2)).samples  # doctest: +SKIP
    """
    check_scalar(sde)
    check_batch("x", x)
    check_count("steps", steps, least=2)
    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    end = end_time(sde, t_min)
    check_number("t_min", end, above=0.0, below=sde.T)
    if tuple(x.shape[1:]) != network.event_shape:
        raise ValueError(
            f"x has events of shape {tuple(x.shape[1:])}: network={network!r} was trained for {network.event_shape}"
        )
    network.check_model(sde, score)
    top, low = (float(sde.log_noise(torch.tensor([t], dtype=torch.float64))) for t in (sde.T, end))
    best: tuple[float, Tensor] | None = None
    for u in top + (low - top) * _FIRST_STEPS:
        times = _chain(sde, score, network, float(sde.time_of_log_noise(u[None])), end, steps, x, batch_size, seed)
        if len(times) != steps + 1:
            continue
        errors = denoising_errors(sde, score, x, times.flip(0), seed=seed)
        cost = grid_cost(errors.times, bound_costs(sde, errors, variance="upper"), times)
        if best is None or cost < best[0]:
            best = cost, times
    if best is None:
        raise ValueError(f"steps={steps} is not allowed: the network reaches t={end:g} with fewer steps, give fewer")
    numbers = tuple(fingerprint(sde.continuous, network.event_shape))
    return NetworkGrid(tuple(best[1].tolist()), repr(sde.continuous), network.event_shape, numbers, network.weights)


def _chain(
    sde: ScalarSDE,
    score: Score,
    network: StepNetwork,
    second: float,
    end: float,
    steps: int,
    x: Tensor,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Times (at most steps + 1,) from T to ``end``, by the reverse chain whose first step goes to ``second``."""
    noise, event = NoiseSource.of(seed, batch_size, device=x.device), tuple(x.shape[1:])
    state = sde.prior_sample((batch_size, *event), noise=noise, dtype=x.dtype, device=x.device)
    times = [torch.tensor(t, dtype=torch.float64) for t in (sde.T, second)]
    last = _level(sde, torch.tensor(end, dtype=torch.float64))
    score = rows_of(score, torch.arange(batch_size, device=x.device) % len(x))
    while True:
        t, s = (time.to(x) for time in times[-2:])
        guess = sde.data_from_score(state, t, score(state, t.expand(batch_size)))
        mean, std = sde.posterior(state, guess, s, t)
        state = mean + std * noise.normal(event, step=len(times), purpose="reverse chain", dtype=x.dtype)
        if len(times) == steps:
            break
        signal, before = 1.0 - _level(sde, times[-1]), 1.0 - _level(sde, times[-2])
        ratio = float(network.ratio(sde, state, s.expand(batch_size)).mean())
        beta = min(1.0 - before / signal, (1.0 - signal) * ratio)
        level = 1.0 - signal / (1.0 - beta)
        if level <= 1.01 * last:
            break
        u = torch.tensor([level / (1.0 - level)], dtype=torch.float64).log() / 2.0
        times.append(sde.time_of_log_noise(u)[0])
    return torch.stack([*times, torch.tensor(end, dtype=torch.float64)])


def _level(sde: ScalarSDE, t: Tensor) -> float:
    """delta^2 = sigma^2 / (alpha^2 + sigma^2)."""
    return float((2.0 * sde.log_noise(t[None])).sigmoid())
