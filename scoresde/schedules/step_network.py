r"""A grid from a network that chooses the next step (bilateral denoising diffusion models, BDDM).

Let x be the state divided by (alpha_t^2 + sigma_t^2)^(1/2), so that every process has the form of VP, with abar = alpha^2 /
(alpha^2 + sigma^2), delta^2 = 1 - abar and the noise eps. For a frozen model eps_hat, a network phi in (0, 1) gives the ratio r =
beta / delta^2 of the forward variance of the next step. For D coordinates it minimizes::

    C = ||eps - r eps_hat||^2 / (2 (1 - r)) - ln(r) / 4 + D (r - 1) / 2

A step may not be larger than the step before, beta_next::

    beta = min(beta_next, delta^2 phi(x, delta))

The paper has beta = min(beta_next, delta^2) phi(x). Where beta_next >= delta^2 the two are equal. Below, its best phi is
min(1, delta^2 r / beta_next), a function of beta_next too, and gives the beta above.

The grid is made from the largest noise to the smallest: the reverse chain goes one step with the present beta, abar becomes
abar / (1 - beta), and phi is evaluated at the new state.

References:
    Lam, Wang, Su, Yu 2022, "BDDM: bilateral denoising diffusion models for fast and high-quality speech synthesis",
    arXiv:2203.13508.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from scoresde._arguments import checked_arguments
from scoresde._validation import (
    check_batch,
    check_count,
    check_counts,
    check_number,
    check_seed,
    expand,
)
from scoresde.noise import NoiseSource
from scoresde.samplers.fitted.fingerprint import check_fingerprint, fingerprint
from scoresde.samplers.fitted.small_network import check_training, minimize, row_means
from scoresde.samplers.grids import end_time
from scoresde.schedules.costs import bound_costs
from scoresde.schedules.dynamic_programming import grid_cost
from scoresde.score.denoising import check_scalar, denoising_errors
from scoresde.sde import LinearSDE, ScalarSDE, Score
from scoresde.sde.scores import evaluation_mode, in_evaluation_mode

__all__ = ["NetworkGrid", "StepNetwork", "fit_step_network", "network_grid"]

_FIRST_STEPS = 0.7 ** torch.arange(1.0, 13.0, dtype=torch.float64)
"""The first steps that ``network_grid`` tries, as shares of the range of ln(sigma / alpha)."""
_NUMBERS = 3
"""Count of the numbers of the score in the fingerprint of a ``StepNetwork``."""


@dataclass(frozen=True)
class NetworkGrid:
    """A grid function with the times that a network chose, for example ``DDIM(grid.steps, grid=grid)``.

    :func:`network_grid` returns it.

    Args:
        given: The descending times, (K + 1,).
        process: ``repr`` of the process of the grid.
        event_shape: Shape of the events.
        fingerprint: The process's ``fingerprint``. The grid raises a ValueError for another process.
    """

    begins_at_end: ClassVar[bool] = True  # see ``Discretization.start_time``

    given: tuple[float, ...]
    process: str
    event_shape: tuple[int, ...]
    fingerprint: tuple[float, ...] = field(repr=False)

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


class StepNetwork:
    """A network phi(x, delta) that was trained for one model. :func:`fit_step_network` returns it.

    Args:
        network: The network. It is called as ``network(x, label)`` with x of the scale of VP and the labels ln(sigma / alpha),
            (B,). The mean of its output over all dimensions but the first is the logit of phi.
        process: ``repr`` of the process.
        event_shape: Shape of the events.
        fingerprint: The process's ``fingerprint``, followed by numbers of the score.
    """

    def __init__(
        self, network: nn.Module, process: str, event_shape: Sequence[int], fingerprint: Sequence[float]
    ) -> None:
        check_counts("event_shape", event_shape)
        if len(fingerprint) <= _NUMBERS:
            raise ValueError(
                f"fingerprint={fingerprint!r} is not allowed: give the numbers of the process and of the score"
            )
        self.network, self.process = network, process
        self.event_shape, self.fingerprint = tuple(event_shape), tuple(fingerprint)

    def __repr__(self) -> str:
        return f"StepNetwork(of {self.process}, events of shape {self.event_shape})"

    def ratio(self, sde: ScalarSDE, x: Tensor, t: Tensor) -> Tensor:
        """phi, the ratio beta / delta^2 of the next step if the step before was not smaller.

        Args:
            sde: The process.
            x: States, (B, \\*event).
            t: Their times, (B,).

        Returns:
            Numbers in (0, 1), (B,).

        Raises:
            ValueError: If the network returns no row for each state.
        """
        alpha, sigma = sde.alpha(t.double()), sde.sigma(t.double())
        scaled = x / expand((alpha.square() + sigma.square()).sqrt().to(x), x)
        return row_means(self.network(scaled, (sigma / alpha).log().to(x)), len(x)).sigmoid()

    def check_model(self, sde: ScalarSDE, score: Score) -> None:
        """Check that the network was trained for a model.

        Args:
            sde: The process.
            score: The score.

        Raises:
            ValueError: If it was trained for another process or another score.
        """
        split = len(self.fingerprint) - _NUMBERS
        check_fingerprint(
            sde.continuous, self.event_shape, self.fingerprint[:split], f"network={self!r} was trained for"
        )
        found = torch.tensor(_score_numbers(sde, score, self.event_shape))
        wanted = torch.tensor(self.fingerprint[split:])
        if not torch.allclose(found, wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max())):
            raise ValueError(
                f"network={self!r} was trained for another score: give the model of the training, or train it again for score"
            )


@torch.no_grad()
def _score_numbers(sde: ScalarSDE, score: Score, event_shape: Sequence[int]) -> list[float]:
    """Weighted means of the score of a fixed state at three times."""
    place = torch.arange(float(torch.Size(event_shape).numel())).reshape(1, *event_shape)
    t = torch.tensor([0.1, 0.5, 0.9]) * sde.T
    with evaluation_mode(score):
        value = score((place + 1.0).cos().expand(_NUMBERS, *event_shape).contiguous(), t)
    return [float(v) for v in (value * (1.0 + place.sqrt()).sin()).reshape(_NUMBERS, -1).mean(1)]


@checked_arguments
@in_evaluation_mode("score")
def fit_step_network(
    sde: ScalarSDE,
    score: Score,
    x: Tensor,
    network: nn.Module,
    *,
    updates: int = 500,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    t_min: float | None = None,
    seed: int = 0,
) -> StepNetwork:
    """Train a network that chooses steps, for a frozen score.

    Args:
        sde: Process of the score, with scalar coefficients.
        score: (x, t) -> score, without conditions of single samples.
        x: Data, (n, \\*event).
        network: A network (x, label) whose output has one row for each state, such as ``MLP(event, width=64, depth=1)``.
            It is trained in place.
        updates: Number of updates by Adam, with a step size that falls to 0.
        batch_size: Number of states in an update.
        learning_rate: The first step size.
        t_min: Smallest time. None: the process's own ``t_min`` if it has one, else 1e-3.
        seed: Seed of times, noise and choice of data.

    Returns:
        The trained network with the model that it belongs to.

    Raises:
        TypeError: If the process does not have scalar coefficients.
        ValueError: If an argument is out of range.
        FloatingPointError: If the loss is not finite.

    References:
        Lam et al. 2022, arXiv:2203.13508.

    Example:
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.networks import MLP
        >>> mixture = GaussianMixture([[0.0]], 0.5)
        >>> score = mixture.score(VPSDE())
        >>> phi = fit_step_network(VPSDE(), score, mixture.sample(100), MLP((1,), width=8, depth=1), updates=5)
        >>> network_grid(VPSDE(), score, phi, mixture.sample(100), 4).steps
        4
    """
    check_scalar(sde)
    check_training(x, updates, batch_size, learning_rate, seed)
    least, event = max(end_time(sde, t_min), 1e-6 * sde.T), tuple(x.shape[1:])
    numbers = [*fingerprint(sde.continuous, event), *_score_numbers(sde, score, event)]
    made = StepNetwork(network, repr(sde.continuous), event, numbers)

    def loss(noise: NoiseSource) -> Tensor:
        u = noise.uniform((2,), step=0, purpose="step network", dtype=torch.float64)
        t = _times(sde, least, u[:, 0]).to(x)
        z = noise.normal(event, step=0, purpose="step network noise", dtype=x.dtype)
        noisy = sde.perturb(x[(u[:, 1] * len(x)).long()], t, z)
        with torch.no_grad():
            guess = -expand(sde.sigma(t), noisy) * score(noisy, t)
        ratio = made.ratio(sde, noisy, t)
        # the weight depends on the network's input alone, so the best ratio stays; it bounds the noise near r = 1
        return ((1.0 - ratio.detach()) * step_loss(ratio, z, guess)).mean()

    minimize(
        network, loss, updates=updates, batch_size=batch_size, learning_rate=learning_rate, seed=seed, device=x.device
    )
    return made


def _times(sde: ScalarSDE, least: float, u: Tensor) -> Tensor:
    """Times (B,) for u (B,) in (0, 1).

    One half has equal density in delta^2, the other in ln(sigma / alpha), the label of the network.
    """
    ends = sde.log_noise(torch.tensor([least, sde.T], dtype=torch.float64))
    half = len(u) // 2
    low, high = (2.0 * ends).sigmoid()
    levels = low + (high - low) * u[:half]
    return sde.time_of_log_noise(torch.cat((levels.logit() / 2.0, ends[0] + (ends[1] - ends[0]) * u[half:])))


def step_loss(ratio: Tensor, noise: Tensor, guess: Tensor) -> Tensor:
    """C = ||eps - r eps_hat||^2 / (2 (1 - r)) - ln(r) / 4 + D (r - 1) / 2.

    Args:
        ratio: r, (B,).
        noise: eps, (B, \\*event).
        guess: eps_hat, (B, \\*event).

    Returns:
        (B,), up to a constant of r.
    """
    r = ratio.clamp(1e-6, 1.0 - 1e-6)
    error = (noise - expand(r, noise) * guess).flatten(1).square().sum(1)
    return error / (2.0 * (1.0 - r)) - 0.25 * r.log() + 0.5 * noise[0].numel() * (r - 1.0)


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
        score: (x, t) -> score.
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
    return NetworkGrid(tuple(best[1].tolist()), repr(sde.continuous), network.event_shape, numbers)


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
