r"""The forward process of jump processes: prior, marginals, transitions, posteriors given the data, and rates.

All coordinates jump independently with the rates R(t) = beta(t) R. Row x of R has the rates of the jumps from x, and
sums to 0:

.. math::
    q(x_t = y \mid x_s = x) = \left[e^{b R}\right]_{xy}, \qquad b = \int_s^t \beta(u)\, du

Data has the values 0, ..., tokens - 1. A process may have more states, such as a mask.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_count, expand
from scoresde.jump.keep import KeepSchedule, keep_schedule
from scoresde.jump.states import LOG_ZERO, draw_equal, draw_states, whole_states
from scoresde.noise import NoiseSource
from scoresde.samplers.arguments import whole_shape
from scoresde.sde import ScalarSDE


class ForwardProcess(ABC):
    """The part of a ``JumpProcess`` that has no model.

    Args:
        tokens: Number of values of the data, >= 2.
        states: Number of states, >= tokens.
        schedule: beta(t) and its integral.
    """

    ordered = False
    """Whether the difference of two states has a meaning. Then several jumps of a coordinate can be added."""

    def __init__(self, tokens: int, states: int, schedule: KeepSchedule | ScalarSDE) -> None:
        check_count("tokens", tokens, least=2)
        check_count("states", states, least=tokens)
        self.tokens, self.states, self.schedule = int(tokens), int(states), keep_schedule(schedule)

    @property
    def T(self) -> float:
        """The last time."""
        return self.schedule.T

    @property
    def mask(self) -> int | None:
        """The state that hides the data, or None if the process has no mask."""
        return None

    @property
    def carries_over(self) -> bool:
        """Whether a state that is a token equals x_0 at all times."""
        return False

    def masked(self, x: Tensor) -> Tensor:
        """Which states are the mask.

        Args:
            x: States, of any shape.

        Returns:
            True for the mask, in the shape of x.
        """
        return torch.zeros_like(x, dtype=torch.bool) if self.mask is None else torch.eq(x, self.mask)

    @abstractmethod
    def rows(self, x: Tensor, b: Tensor) -> Tensor:
        """Rows of ln exp(b R).

        Args:
            x: States, ``(B, *event)``.
            b: Integrals of beta, >= 0 or infinite, which broadcast against x, float64.

        Returns:
            ln exp(b R)[x, :], ``(B, *event, states)`` float64. The logarithm of 0 is <= ``LOG_ZERO``.
        """

    @abstractmethod
    def columns(self, x: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Columns of ln exp(b R).

        Args:
            x: States, ``(B, *event)``.
            b: Integrals of beta, >= 0 or infinite, which broadcast against x, float64.
            dtype: dtype of the result.

        Returns:
            ln exp(b R)[:, x], ``(B, *event, states)``. The logarithm of 0 is <= ``LOG_ZERO``.
        """

    @abstractmethod
    def push(self, log_w: Tensor, b: Tensor) -> Tensor:
        """Sums over tokens of weights times rows of exp(b R).

        Args:
            log_w: Logarithms of the weights, ``(B, *event, tokens)``.
            b: Integrals of beta, >= 0 or infinite, ``()`` or ``(B, 1, ..., 1)`` with as many dimensions as x, float64.

        Returns:
            ln sum_k w_k exp(b R)[k, :], ``(B, *event, states)`` in the dtype of ``log_w``.
        """

    @abstractmethod
    def generator_rows(self, x: Tensor) -> Tensor:
        """Rows of R.

        Args:
            x: States, ``(B, *event)``.

        Returns:
            R[x, :], ``(B, *event, states)`` float64. The rows sum to 0.
        """

    @abstractmethod
    def generator_columns(self, x: Tensor) -> Tensor:
        """Columns of R.

        Args:
            x: States, ``(B, *event)``.

        Returns:
            R[:, x], ``(B, *event, states)`` float64.
        """

    def prior_log_probs(self) -> Tensor:
        """ln of the prior of a coordinate: q(x_T | x_0), averaged over all x_0 with equal probabilities.

        It is the exact distribution of x_T if alpha(T) = 0.

        Returns:
            The logarithms, ``(states,)`` float64.
        """
        end = self.schedule.between(*torch.tensor([0.0, self.T], dtype=torch.float64))
        equal = torch.full((1, self.tokens), -math.log(self.tokens), dtype=torch.float64)
        return with_infinity(self.push(equal, end)[0])

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw samples from the prior.

        Args:
            shape: ``(B, *event)``.
            noise: Source of the random numbers. It replaces ``seed`` and ``device``.
            seed: Sample i depends only on (seed, i).
            device: Device of the samples.

        Returns:
            The states, ``(B, *event)`` int64.
        """
        shape = whole_shape(shape)
        noise = NoiseSource.for_batch(noise, shape[0], seed, 0, device)
        u = noise.uniform(shape[1:], step=0, purpose="prior", dtype=torch.float64)
        return draw_equal(self.prior_log_probs().to(u.device), u)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of the prior.

        Args:
            x: States, ``(B, *event)``.

        Returns:
            The log-probability in nats, ``(B,)`` float64.
        """
        x = whole_states("x", x, self.states)
        return self.prior_log_probs().to(x.device)[x].reshape(len(x), -1).sum(1)

    def marginal(self, x0: Tensor, t: Tensor) -> Tensor:
        """ln q(x_t | x_0).

        Args:
            x0: Data, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms for all values of x_t, ``(B, *event, states)`` float64.
        """
        x0 = whole_states("x0", x0, self.states, self.tokens)
        return with_infinity(self.rows(x0, self._from_start(t, x0)))

    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """Draw x_t from q(x_t | x_0).

        Args:
            x0: Data, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.

        Returns:
            The states, ``(B, *event)`` int64.
        """
        x0 = whole_states("x0", x0, self.states, self.tokens)
        return self.transition_sample(x0, torch.zeros_like(t), t, noise, step=step, purpose="perturb")

    def transition(self, x_s: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """ln q(x_t | x_s).

        Args:
            x_s: States at s, ``(B, *event)``.
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Later times in [s, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms for all values of x_t, ``(B, *event, states)`` float64.
        """
        x_s = whole_states("x_s", x_s, self.states)
        return with_infinity(self.rows(x_s, self._between(s, t, x_s)))

    def transition_sample(
        self, x_s: Tensor, s: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0, purpose: str = "forward"
    ) -> Tensor:
        """Draw x_t from q(x_t | x_s).

        Args:
            x_s: States at s, ``(B, *event)``.
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Later times in [s, T], ``()`` or ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.

        Returns:
            The states at t, ``(B, *event)`` int64.
        """
        x_s = whole_states("x_s", x_s, self.states)
        return draw_states(self.rows(x_s, self._between(s, t, x_s)), noise, step=step, purpose=purpose)

    def likelihood(self, x_t: Tensor, t: Tensor) -> Tensor:
        """ln q(x_t | x_0) as a function of x_0.

        Args:
            x_t: States at t, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms for all values of x_0, ``(B, *event, tokens)`` float64.
        """
        x_t = whole_states("x_t", x_t, self.states)
        return with_infinity(self.columns(x_t, self._from_start(t, x_t))[..., : self.tokens])

    def posterior(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """ln q(x_s | x_t, x_0) = ln q(x_t | x_s) + ln q(x_s | x_0) - ln q(x_t | x_0).

        Args:
            x_t: States at t, ``(B, *event)``.
            x0: Data, ``(B, *event)``, that can lead to x_t.
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Later times in [s, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms for all values of x_s, ``(B, *event, states)`` float64.
        """
        x0 = whole_states("x0", x0, self.states, self.tokens)
        x_t = whole_states("x_t", x_t, self.states)
        joint = self.columns(x_t, self._between(s, t, x_t)) + self.rows(x0, self._from_start(s, x0))
        return with_infinity(joint - torch.logsumexp(joint, -1, keepdim=True))

    def rates(self, x: Tensor, t: Tensor) -> Tensor:
        """Forward rates R(t)[x, y].

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The rates of the jumps to all y, ``(B, *event, states)`` float64. The entry of x is minus the sum of the
            others.
        """
        x = whole_states("x", x, self.states)
        return _scaled(self.generator_rows(x), self._beta(t, x))

    def _from_start(self, t: Tensor, x: Tensor) -> Tensor:
        """The integral of beta from 0 to t, broadcast against x."""
        self.schedule.check_time(t, batch=len(x))
        return expand(-self.schedule.log_alpha(t).to(x.device), x)

    def _between(self, s: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """The integral of beta from s to t, broadcast against x."""
        self.schedule.check_time(s, "s", batch=len(x))
        self.schedule.check_time(t, batch=len(x))
        return expand(self.schedule.between(s, t).to(x.device), x)

    def _beta(self, t: Tensor, x: Tensor) -> Tensor:
        """beta(t), broadcast against x."""
        self.schedule.check_time(t, batch=len(x))
        return expand(self.schedule.rate(t).to(x.device), x)


def with_infinity(log_p: Tensor) -> Tensor:
    """Logarithms with -infinity in place of ``LOG_ZERO``.

    Args:
        log_p: Logarithms of probabilities.

    Returns:
        The logarithms.
    """
    return log_p.masked_fill(log_p < 0.5 * LOG_ZERO, -math.inf)


def _scaled(rates: Tensor, beta: Tensor) -> Tensor:
    """beta R, where 0 times infinity is 0."""
    return torch.where(rates == 0.0, 0.0, rates * beta[..., None])
