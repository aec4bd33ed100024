r"""The variational bound of a model by a chain that is fitted to it: times, variance, and which steps are evaluated.

`variational_bound` takes the chain as it is given. `ChainBound` describes how it is found from examples of the data::

    times           equal steps in ln(sigma / alpha), any other grid, or those with the smallest bound
    variance        that of the score itself, the measured error of x_0 (Bao et al. 2022), or any function of sigma / alpha
    probabilities   of the steps that are drawn

The bound of a batch costs K + 1 evaluations for each event, or ``draws`` + 1. Let a step be

.. math::
    \frac12 \sum_j \ln(1 + \Delta V) + \frac12 \frac{\Delta}{1 + \Delta V} \sum_j (e_j^2 - V).

The first part is computed for all steps. The second part has the mean (E e_j^2 - V) d, and the standard deviation S d over events
and noise, without the part from the length of the noise, which has a known mean. `denoising_errors` measures both. The
probabilities with the smallest error are

.. math::
    p \propto \frac{\Delta}{1 + \Delta V} \sqrt{(E e_j^2 - V)^2 + S^2}.

References:
    Bao, Li, Zhu, Zhang 2022, arXiv:2201.06503. Nichol, Dhariwal 2021, arXiv:2102.09672, section 3.3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._representation import text_of
from scoresde._validation import check_count, shown
from scoresde.data import Quantized
from scoresde.likelihood import VariationalBound, variational_bound
from scoresde.noise import NoiseSource
from scoresde.samplers.discretization import Grid, plain_steps, takes_t_min
from scoresde.samplers.grids import log_noise
from scoresde.schedules.costs import bound_costs, decoder_costs
from scoresde.schedules.dynamic_programming import optimal_grids
from scoresde.score.data_variance import MODEL, AnalyticVariance, DataVariance, check_variance, has_variance
from scoresde.score.denoising import DenoisingErrors, ascending_times, denoising_errors
from scoresde.sde import SDE, ScalarSDE
from scoresde.sde.scalar import Chain

INSTANTS = 100
"""Number of times at which a model is measured, at most. Times with the smallest bound are some of them."""
MEASURED = "measured"
"""In place of a variance: the error of x_0 that is measured on examples."""
FLOOR = 1e-3
"""Smallest probability of a step, in units of the mean one."""


@dataclass(frozen=True)
class ChainBound:
    """How the variational bound of a model is computed.

    Args:
        steps: Number of steps K, without the decoder, or K + 1 descending times that begin at T. None for all steps of a chain,
            and for 1000 of a process in continuous time.
        grid: A function ``(sde, K, t_min)`` of descending times, such as ``log_noise`` or ``uniform``. None finds the times with
            the smallest bound among 100, for K <= 99. For a chain, the instants nearest to the times are used, each once.
        variance: The variance V of x_0 given x_t: a function of sigma / alpha, "measured", or "model" for that of the score
            itself. None for "model" if the score has a variance, else for "measured".
        decoder: The variance of the decoder, as for ``variational_bound``.
        draws: Number of steps that are evaluated for an event, below K. None for all.
        replicates: Number of repetitions of the whole estimate. Two or more give a standard error for each event.
        events: Number of events that a job measures the model on.

    References:
        Ho, Jain, Abbeel 2020, arXiv:2006.11239. Bao et al. 2022, arXiv:2201.06503.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> sde, data = VPSDE(), GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.3)
        >>> method = ChainBound(steps=100, draws=10)
        >>> bound = method.fit(sde, data.score(sde), data.sample(64))
        >>> bound(sde, data.score(sde), data.sample(4, seed=1)).nfe
        11
    """

    steps: int | Sequence[float] | Tensor | np.ndarray | None = None
    grid: Grid | None = log_noise
    variance: DataVariance | str | None = None
    decoder: DataVariance | None = None
    draws: int | None = None
    replicates: int = 1
    events: int = 128

    def __post_init__(self) -> None:
        steps = None if self.steps is None else plain_steps(self.steps)
        if not isinstance(steps, int | tuple | None):
            raise ValueError(f"steps={shown(self.steps)} is not allowed: give a whole number >= 1, or descending times")
        object.__setattr__(self, "steps", steps)
        if not callable(self.variance) and self.variance not in (None, MODEL, MEASURED):
            raise ValueError(
                f"variance={shown(self.variance)} is not allowed: give {MODEL!r}, {MEASURED!r}, or a function of sigma / alpha, "
                "such as GaussianVariance(1.0)"
            )
        check_count("replicates", self.replicates)
        check_count("events", self.events, least=2)
        if self.draws is not None:
            check_count("draws", self.draws)
            if steps is not None and self.draws >= self.count:
                raise ValueError(
                    f"draws={self.draws!r} is not allowed with {self.count} steps: give fewer, or None for all steps"
                )
        if steps is None and self.grid is None:
            raise ValueError(
                f"steps=None is not allowed with grid=None: give the number of steps, at most {INSTANTS - 1}"
            )
        if isinstance(steps, int) and self.grid is None and steps >= INSTANTS:
            raise ValueError(
                f"steps={steps!r} is not allowed with grid=None, which chooses among {INSTANTS} times: give at most "
                f"{INSTANTS - 1}, or a grid such as log_noise"
            )

    @property
    def count(self) -> int:
        """Number of steps K. Raises ValueError if it depends on the process, see ``of``."""
        if self.steps is None:
            raise ValueError("steps=None has no number of steps without a process: call of(sde) first")
        return self.steps if isinstance(self.steps, int) else len(self.steps) - 1

    def of(self, sde: SDE) -> ChainBound:
        """The same with the number of steps for a process, if ``steps`` is None.

        Args:
            sde: The process of the score, or a chain of it.

        Returns:
            The method.
        """
        if self.steps is not None:
            return self
        return replace(self, steps=len(_noisy_instants(sde)) - 1 if isinstance(sde, Chain) else 1000)

    def check(self, sde: SDE, t_min: float = 1e-5) -> None:
        """Check that a process has such a chain.

        Args:
            sde: The process of the score, or a chain of it.
            t_min: First time of the chain, for a number of steps.

        Raises:
            TypeError: The process does not have scalar coefficients.
            ValueError: The process does not have the times.
        """
        if not isinstance(sde, ScalarSDE):
            raise TypeError(
                f"sde={sde!r} does not have scalar coefficients, which the bound of a chain needs: give a ScalarSDE, such as "
                "VPSDE(), or a chain"
            )
        if self.steps is None:
            self.of(sde).check(sde, t_min)
        elif isinstance(self.steps, int) and self.grid is None:
            instants = self._instants(sde, t_min)
            if len(instants) <= self.count:
                raise ValueError(
                    f"steps={self.count!r} is not allowed: {_kind(sde)} has {len(instants)} times with noise, "
                    f"give at most {len(instants) - 1}"
                )
        else:
            self._given_times(sde, t_min)

    @torch.no_grad()
    def fit(
        self,
        sde: ScalarSDE,
        score: Callable[..., Tensor],
        x: Tensor,
        *,
        t_min: float = 1e-5,
        seed: int = 0,
        noise: NoiseSource | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> FittedBound:
        """Measure a score on examples and find the chain.

        Args:
            sde: The process of the score, or a chain of it.
            score: The score, (x, t) -> a tensor with the shape of x.
            x: Examples of the data, (B, *event), at least two. Do not use the events that the bound is computed for.
            t_min: First time of the chain, for a number of steps. A chain has its own first instant.
            seed: Seed of the noise.
            noise: Replaces ``seed``.
            condition: Conditions of the score by name, with one row for each sample.

        Returns:
            The bound as a function of data.

        Raises:
            TypeError: The process does not have scalar coefficients.
            ValueError: An argument is not allowed, or the score is not finite.
        """
        if self.steps is None:
            return self.of(sde).fit(sde, score, x, t_min=t_min, seed=seed, noise=noise, condition=condition)
        self.check(sde, t_min)
        measured = isinstance(self.steps, int) and self.grid is None
        own = self.variance == MODEL or (self.variance is None and has_variance(score))
        errors, kept = None, self.variance if callable(self.variance) else None
        if measured or self.draws is not None or kept is None:
            times = self._instants(sde, t_min, None if measured else self._given_times(sde, t_min))
            errors = denoising_errors(sde, score, x, times, seed=seed, noise=noise, condition=condition)
        if measured:
            assert errors is not None
            costs, ends = bound_costs(sde, errors), decoder_costs(sde, errors)
            chosen = optimal_grids(errors.times, costs, self.count + 1, decoder=ends).grid(self.count + 1).flip(0)
        else:
            chosen = self._given_times(sde, t_min)
        if kept is None:
            assert errors is not None
            kept = AnalyticVariance.of(sde, errors)
        p = None if self.draws is None or errors is None else _probabilities(sde, errors, chosen, kept)
        return FittedBound(self, chosen, MODEL if own else kept, p, kept if own else None)

    def _given_times(self, sde: ScalarSDE, t_min: float) -> Tensor:
        """The ascending times of the grid, those of instants for a chain."""
        if not isinstance(self.steps, int):
            assert isinstance(self.steps, tuple)  # the constructor has converted them
            times = torch.tensor(self.steps, dtype=torch.float64)
            end, name = float(times[0]), f"steps={shown(list(self.steps))}"
            if abs(end - sde.T) > 1e-6 * sde.T or float(times[-1]) < 0.0:
                raise ValueError(f"{name} is not allowed: {_kind(sde)} has times from 0 to T={sde.T:g}, begin at T")
        else:
            assert self.grid is not None
            name = f"steps={self.count!r}"
            start = {"t_min": max(t_min, _first(sde))} if takes_t_min(self.grid) else {}
            times = torch.as_tensor(self.grid(sde, self.count, **start)).to(torch.float64)
        times = times.flip(0)
        if isinstance(sde, Chain):
            index = (times / sde.T * (sde.steps - 1)).round().long()
            if isinstance(self.steps, int) and len(index) <= len(_noisy_instants(sde)):
                index = _distinct(index, sde.steps)
            if len(index.unique()) < len(index):
                raise ValueError(
                    f"{name} is not allowed: two of the times are nearest to one of the {sde.steps} instants of the chain; give "
                    f"fewer steps, None for all {len(_noisy_instants(sde)) - 1} steps of the chain, or another grid"
                )
            if not isinstance(self.steps, int) and float((sde.time(index) - times).abs().max()) > 1e-4 / sde.steps:
                off = float(times[(sde.time(index) - times).abs().argmax()])
                raise ValueError(
                    f"{name} is not allowed: t={off:g} is not one of the {sde.steps} instants of the chain, multiples of "
                    f"{sde.T / (sde.steps - 1):g}"
                )
            times = sde.time(index)
        if not bool((sde.sigma(times) > 0).all()):
            raise ValueError(f"{name} is not allowed: {_kind(sde)} has no noise at t={float(times[0]):g}, end above it")
        return times

    @staticmethod
    def _instants(sde: ScalarSDE, t_min: float, between: Tensor | None = None) -> Tensor:
        """At most `INSTANTS` ascending times from the first to the last, for measurements."""
        first = t_min if between is None else float(between[0])
        if not isinstance(sde, Chain):
            return log_noise(sde, INSTANTS - 1, first).flip(0)
        every = sde.time(torch.arange(sde.steps))
        every = every[(sde.sigma(every) > 0) & (every >= first if between is not None else every >= 0.0)]
        levels = sde.log_noise(every)
        places = torch.searchsorted(
            levels, torch.linspace(float(levels[0]), float(levels[-1]), INSTANTS, dtype=torch.float64)
        )
        return every[places.clamp(max=len(every) - 1).unique()]


@dataclass(frozen=True, eq=False)
class FittedBound:
    """The variational bound by a chain that was fitted to a score, as a function of data.

    Args:
        method: The method that was fitted.
        times: Ascending times, (K + 1,).
        variance: The variance of x_0 given x_t, or "model".
        probabilities: Probabilities of the steps, (K,), if only some are drawn.
        control: The measured variance, for the variance "model", see ``variational_bound``.
    """

    method: ChainBound
    times: Tensor
    variance: DataVariance | str
    probabilities: Tensor | None = None
    control: DataVariance | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", ascending_times("times", self.times))
        check_variance("variance", self.variance)
        count = self.method.count
        if len(self.times) != count + 1:
            raise ValueError(f"times has {len(self.times)} numbers: give {count + 1}, for {count} steps")
        p = self.probabilities
        if p is not None and (p.shape != (count,) or not bool((p.isfinite() & (p > 0)).all())):
            raise ValueError(f"probabilities={shown(p)} is not allowed: give {count} positive numbers, or None")

    def __call__(
        self,
        sde: ScalarSDE,
        score: Callable[..., Tensor],
        x: Tensor,
        *,
        transform: Quantized | None = None,
        seed: int = 0,
        noise: NoiseSource | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> VariationalBound:
        """Lower bounds of log p(x).

        Args:
            sde: The process of the score, or a chain of it.
            score: The score that the bound was fitted to.
            x: Finite data, (B, *event).
            transform: The transform of discrete data, for a model of the middles of the intervals. None for a density.
            seed: Seed of the draws.
            noise: Replaces ``seed``.
            condition: Conditions of the score by name, with one row for each sample.

        Returns:
            The bounds in nats, as of ``variational_bound``.

        Raises:
            TypeError: The process does not have scalar coefficients.
            ValueError: An argument is not allowed, or the score is not finite.
        """
        return variational_bound(
            sde, score, x, self.times, variance=self.variance, decoder=self.method.decoder, transform=transform,
            control=self.control, replicates=self.method.replicates, draws=self.method.draws, seed=seed,
            probabilities=self.probabilities, noise=noise, condition=condition,
        )  # fmt: skip

    @property
    def summary(self) -> str:
        """The chain in a few words."""
        method = self.method
        kind = (
            "given times" if not isinstance(method.steps, int) else _name(method.grid) if method.grid else "best times"
        )
        if isinstance(self.variance, AnalyticVariance) and not callable(method.variance):
            variance = f"measured variance ({method.events} events)"
        else:
            variance = f"variance {text_of(self.variance)}"
        decoder = "" if method.decoder is None else f", decoder {text_of(method.decoder)}"
        drawn = "" if method.draws is None else f", {method.draws} of them drawn for an event"
        again = "" if method.replicates == 1 else f", {method.replicates} replicates"
        return f"{method.count} steps{drawn}{again}, {kind} from t={float(self.times[0]):g}, {variance}{decoder}"

    def to_json(self) -> str:
        """What was fitted as JSON text.

        Returns:
            The text, which ``from_json`` reads.
        """
        found: dict[str, Any] = {"times": self.times.tolist()}
        if self.probabilities is not None:
            found["probabilities"] = self.probabilities.tolist()
        if self.variance == MODEL:
            found["variance"] = MODEL
        measured = self.control or (None if callable(self.method.variance) else self.variance)
        if isinstance(measured, AnalyticVariance):
            found |= {"levels": measured.levels.tolist(), "shares": measured.shares.tolist()}
            found["origin"] = list(measured.origin)
        return json.dumps(found)

    @classmethod
    def from_json(cls, text: str, method: ChainBound) -> FittedBound:
        """Reads what was fitted.

        Args:
            text: The text of ``to_json``.
            method: The method that was fitted.

        Returns:
            The bound.

        Raises:
            ValueError: The text is not that of a fit of this method.
        """
        try:
            found = json.loads(text)
            p = torch.tensor(found["probabilities"], dtype=torch.float64) if "probabilities" in found else None
            variance: Any = method.variance if callable(method.variance) else None
            control = None
            if "levels" in found:
                levels, shares = (torch.tensor(found[name], dtype=torch.float64) for name in ("levels", "shares"))
                variance = AnalyticVariance(levels, shares, tuple(found["origin"]))
            if "variance" in found:
                variance, control = MODEL, variance
            times = torch.tensor(found["times"], dtype=torch.float64)
            if method.steps is None:
                method = replace(method, steps=len(times) - 1)
            if len(times) != method.count + 1 or variance is None or (p is None) != (method.draws is None):
                raise ValueError(f"it is not a fit of {method!r}")
            return cls(method, times, variance, p, control)
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"text does not describe a FittedBound: {problem}") from problem


def _first(sde: ScalarSDE) -> float:
    """The first instant of a chain that has noise. 0 for a process in continuous time."""
    if not isinstance(sde, Chain):
        return 0.0
    return float(_noisy_instants(sde)[0])


def _distinct(index: Tensor, count: int) -> Tensor:
    """Ascending instants below ``count``, each once: one that is taken is replaced by the next free one, or by one before."""
    places = torch.arange(len(index))
    up = (index - places).cummax(0).values + places
    return torch.minimum(up, count - len(index) + places)


def _noisy_instants(sde: Chain) -> Tensor:
    """The ascending instants of a chain that have noise."""
    times = sde.time(torch.arange(sde.steps))
    return times[sde.sigma(times) > 0]


def _probabilities(sde: ScalarSDE, errors: DenoisingErrors, times: Tensor, variance: DataVariance) -> Tensor:
    """Probabilities of the steps between ascending times, (K,), as in the module's docstring."""
    level = sde.sigma(times) / sde.alpha(times)
    known = (sde.sigma(errors.times) / sde.alpha(errors.times)).log().numpy()

    def at(values: Tensor) -> Tensor:
        """Values at the measured times, in units of (sigma / alpha)^2, at the ends of the steps."""
        shares = (values / torch.from_numpy(known).exp() ** 2).numpy()
        return torch.from_numpy(np.interp(level[1:].log().numpy(), known, shares)) * level[1:] ** 2

    assert errors.data_spread is not None
    error, spread, delta = at(errors.data_error), at(errors.data_spread), -(level**-2).diff()
    v = variance(level)[1:]
    factor = 0.5 * delta / (1.0 + delta * v)
    rest = factor * (error - v)
    wanted = (rest**2 + (factor * spread) ** 2).sqrt()
    wanted = wanted.clamp(min=FLOOR * float(wanted.mean())) if bool(wanted.max() > 0) else torch.ones_like(wanted)
    return wanted / wanted.sum()


def _kind(sde: ScalarSDE) -> str:
    return f"the chain of {sde.steps} instants" if isinstance(sde, Chain) else repr(sde)


def _name(grid: Grid) -> str:
    function = grid.func if isinstance(grid, partial) else grid
    return str(getattr(function, "__name__", type(function).__name__))
