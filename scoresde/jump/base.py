r"""Jump processes: Markov processes in continuous time whose coordinates are categories.

All coordinates jump independently with the rates R(t) = beta(t) R. Row x of R has the rates of the jumps from x, and
sums to 0:

.. math::
    q(x_t = y \mid x_s = x) = \left[e^{b R}\right]_{xy}, \qquad b = \int_s^t \beta(u)\, du

A model gives p(x_0 | x_t) for each coordinate, as logits. All quantities of the reverse process follow from it. With
the weights w(x_0) = p(x_0 | x_t) / q(x_t | x_0),

.. math::
    p(x_s \mid x_t) = \sum_{x_0} q(x_s \mid x_t, x_0)\, p(x_0 \mid x_t) = q(x_t \mid x_s) \sum_{x_0} q(x_s \mid x_0)\, w(x_0)

.. math::
    \frac{p_t(y)}{p_t(x)} = \sum_{x_0} q(x_t = y \mid x_0)\, w(x_0), \qquad
    \hat R(x \to y) = \beta(t)\, R_{yx}\, \frac{p_t(y)}{p_t(x)}

Here y differs from x in one coordinate. x_0 that cannot lead to x_t have the weight 0, whatever the model says. A
process therefore needs only rows and columns of exp(b R), and sums over x_0 of weights times rows. The largest tensors
have the size (B, *event, states).

Data has the values 0, ..., tokens - 1. A process may have more states, such as a mask.

References:
    Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", arXiv:2107.03006.
    Campbell et al. 2022, "A continuous time framework for discrete denoising models", arXiv:2205.14987.
    Lou et al. 2023, "Discrete diffusion modeling by estimating the ratios of the data distribution", arXiv:2310.16834.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_count, expand
from scoresde.jump.keep import KeepSchedule, keep_schedule
from scoresde.jump.states import LOG_ZERO, check_logits, draw_equal, draw_states, log_or_zero, whole_states
from scoresde.noise import NoiseSource
from scoresde.samplers.arguments import whole_shape
from scoresde.sde import ScalarSDE


class JumpProcess(ABC):
    """Base class of jump processes with the rate matrix R(t) = beta(t) R for each coordinate.

    A subclass implements ``rows``, ``columns``, ``push``, ``generator_rows`` and ``generator_columns``.

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

    # the forward process

    def prior_log_probs(self) -> Tensor:
        """ln of the prior of a coordinate: q(x_T | x_0), averaged over all x_0 with equal probabilities.

        It is the exact distribution of x_T if alpha(T) = 0.

        Returns:
            The logarithms, ``(states,)`` float64.
        """
        end = self.schedule.between(*torch.tensor([0.0, self.T], dtype=torch.float64))
        equal = torch.full((1, self.tokens), -math.log(self.tokens), dtype=torch.float64)
        return _public(self.push(equal, end)[0])

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
        return _public(self.rows(x0, self._from_start(t, x0)))

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
        return _public(self.rows(x_s, self._between(s, t, x_s)))

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
        return _public(self.columns(x_t, self._from_start(t, x_t))[..., : self.tokens])

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
        return _public(joint - torch.logsumexp(joint, -1, keepdim=True))

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

    # the reverse process of a model

    def reverse_transition(self, x_t: Tensor, logits: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """ln p(x_s | x_t) of each coordinate: q(x_s | x_t, x_0), averaged over p(x_0 | x_t).

        Args:
            x_t: States at t, ``(B, *event)``.
            logits: Logits of p(x_0 | x_t), ``(B, *event, tokens)``.
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Later times in (s, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms for all values of x_s, ``(B, *event, states)`` in the dtype of the logits.
        """
        x_t = whole_states("x_t", x_t, self.states)
        log_w = self._weights(x_t, logits, t)
        joint = self.push(log_w, self._from_start(s, x_t)) + self.columns(x_t, self._between(s, t, x_t), log_w.dtype)
        return _public(joint - torch.logsumexp(joint, -1, keepdim=True))

    def reverse_sample(
        self,
        x_t: Tensor,
        logits: Tensor,
        s: Tensor,
        t: Tensor,
        noise: NoiseSource,
        *,
        step: int,
        purpose: str = "reverse",
    ) -> Tensor:
        """Draw x_s from p(x_s | x_t) of each coordinate.

        Args:
            x_t: States at t, ``(B, *event)``.
            logits: Logits of p(x_0 | x_t), ``(B, *event, tokens)``.
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Later times in (s, T], ``()`` or ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.

        Returns:
            The states at s, ``(B, *event)`` int64.
        """
        return draw_states(self.reverse_transition(x_t, logits, s, t), noise, step=step, purpose=purpose)

    def reverse_leap(
        self,
        x: Tensor,
        logits: Tensor,
        t: Tensor,
        duration: Tensor,
        noise: NoiseSource,
        *,
        step: int,
        purpose: str = "leap",
    ) -> Tensor:
        """Draw the states after a duration with constant reverse rates, with at most one jump of each coordinate.

        Args:
            x: States, ``(B, *event)``.
            logits: Logits of p(x_0 | x), ``(B, *event, tokens)``.
            t: Times in (0, T] of the rates, ``()`` or ``(B,)``.
            duration: The duration, > 0, ``()`` or ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the step, part of the key.
            purpose: Name of the use, part of the key.

        Returns:
            The states, ``(B, *event)`` int64. A coordinate jumps with the probability 1 - exp(-duration rate).
        """
        x = whole_states("x", x, self.states)
        rates = self.reverse_rates(x, logits, t).scatter(-1, x[..., None], 0.0)
        means = expand(duration.to(x.device), rates) * rates
        total = means.sum(-1, keepdim=True)
        jump = log_or_zero(means / torch.where(total > 0, total, 1.0)) + log_or_zero(-torch.expm1(-total))
        return draw_states(jump.scatter(-1, x[..., None], -total), noise, step=step, purpose=purpose)

    def ratios(self, x: Tensor, logits: Tensor, t: Tensor) -> Tensor:
        """ln p_t(y) / p_t(x) for all y that differ from x in one coordinate, the discrete counterpart of the score.

        Args:
            x: States at t, ``(B, *event)``.
            logits: Logits of p(x_0 | x_t), ``(B, *event, tokens)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms for all values of each coordinate, ``(B, *event, states)`` in the dtype of the logits. The
            entry of x is 0.
        """
        x = whole_states("x", x, self.states)
        return _public(self.push(self._weights(x, logits, t), self._from_start(t, x)))

    def equal_ratios(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The ratios of data whose tokens are independent and equally probable.

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in (0, T], ``()`` or ``(B,)``.
            dtype: dtype of the result.

        Returns:
            ln p_t(y) / p_t(x) for all values of each coordinate, ``(B, *event, states)``. The entry of x is 0.
        """
        x = whole_states("x", x, self.states)
        log_p = self._from_start(t, x).reshape(-1, 1)
        equal = torch.full((len(log_p), 1, self.tokens), -math.log(self.tokens), dtype=torch.float64, device=x.device)
        at_t = self.push(equal, log_p)[:, 0].reshape(-1, *[1] * (x.ndim - 1), self.states).expand(*x.shape, -1)
        return _public((at_t - at_t.gather(-1, x[..., None])).to(dtype))

    def logits_from_ratios(self, x: Tensor, ratios: Tensor, t: Tensor) -> Tensor:
        """ln p(x_0 | x_t), the inverse of ``ratios``.

        For ordinal processes with many levels it amplifies errors of the ratios, the more the larger t is, because nearly all
        differences between levels have decayed.

        Args:
            x: States at t, ``(B, *event)``.
            ratios: ln p_t(y) / p_t(x), ``(B, *event, states)``.
            t: Times in (0, T), ``()`` or ``(B,)``, with alpha(t) > 0.

        Returns:
            The logarithms, ``(B, *event, tokens)`` in the dtype of the ratios. Probabilities that would be negative are
            0.
        """
        x = whole_states("x", x, self.states)
        check_logits("ratios", ratios, x, self.states)
        log_w = self.pull(ratios, self._from_start(t, x))
        joint = log_w + self.columns(x, self._from_start(t, x), ratios.dtype)[..., : self.tokens]
        return _public(nnf.log_softmax(joint, -1))

    @abstractmethod
    def pull(self, log_r: Tensor, b: Tensor) -> Tensor:
        """The weights whose ``push`` is r.

        Args:
            log_r: Logarithms, ``(B, *event, states)``.
            b: Integrals of beta, finite, ``()`` or ``(B, 1, ..., 1)``, float64.

        Returns:
            ln w, ``(B, *event, tokens)`` in the dtype of ``log_r``. Negative weights become 0.
        """

    def reverse_rates(self, x: Tensor, logits: Tensor, t: Tensor) -> Tensor:
        """Rates of the reverse process, beta(t) R[y, x] p_t(y) / p_t(x).

        Args:
            x: States at t, ``(B, *event)``.
            logits: Logits of p(x_0 | x_t), ``(B, *event, tokens)``.
            t: Times in (0, T], ``()`` or ``(B,)``.

        Returns:
            The rates of the jumps to all y, ``(B, *event, states)`` in the dtype of the logits. The entry of x is minus
            the sum of the others.
        """
        x = whole_states("x", x, self.states)
        ratios = self.push(self._weights(x, logits, t), self._from_start(t, x))
        return self.rates_from_ratios(x, ratios, t)

    def rates_from_ratios(self, x: Tensor, ratios: Tensor, t: Tensor) -> Tensor:
        """Rates of the reverse process, from ln p_t(y) / p_t(x).

        Args:
            x: States at t, ``(B, *event)``.
            ratios: The logarithms, ``(B, *event, states)``.
            t: Times in (0, T], ``()`` or ``(B,)``.

        Returns:
            The rates of the jumps to all y, ``(B, *event, states)`` in the dtype of the ratios. The entry of x is minus
            the sum of the others.
        """
        x = whole_states("x", x, self.states)
        check_logits("ratios", ratios, x, self.states)
        log_rate = log_or_zero(self.generator_columns(x).clamp(min=0.0)) + self._beta(t, x).log()[..., None]
        rates = (ratios + log_rate.to(ratios.dtype)).exp().scatter(-1, x[..., None], 0.0)
        return rates.scatter(-1, x[..., None], -rates.sum(-1, keepdim=True))

    # terms of the bounds

    def prior_divergence(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || prior) of each coordinate.

        Args:
            x0: Data, ``(B, *event)``.

        Returns:
            The divergences in nats, ``(B, *event)`` float64.
        """
        end = torch.tensor(self.T, dtype=torch.float64, device=x0.device)
        return divergence(self.marginal(x0, end), self.prior_log_probs().to(x0.device))

    def ratio_divergence(self, x_t: Tensor, x0: Tensor, ratios: Tensor, t: Tensor) -> Tensor:
        r"""The integrand of the continuous bound for each coordinate, from the ratios of a model. It is the score entropy.

        .. math::
            \sum_{y \ne x_t} \beta(t)\, R_{y x_t} \left[ r_y - c_y + c_y \ln \frac{c_y}{r_y} \right]

        Args:
            x_t: States at t, ``(B, *event)``.
            x0: Data, ``(B, *event)``.
            ratios: ln r_y of the model, ``(B, *event, states)``.
            t: Times in (0, T), ``()`` or ``(B,)``.

        Returns:
            The integrand in nats per unit of t, ``(B, *event)`` in the dtype of the ratios.
        """
        x_t = whole_states("x_t", x_t, self.states)
        check_logits("ratios", ratios, x_t, self.states)
        x0 = whole_states("x0", x0, self.states, self.tokens)
        rows = self.rows(x0, self._from_start(t, x0))
        data = (rows - rows.gather(-1, x_t[..., None])).to(ratios.dtype)
        c = data.exp()
        terms = ratios.exp() - c + c * torch.where(c > 0, data - ratios, 0.0)
        rates = self.generator_columns(x_t).to(terms.dtype).scatter(-1, x_t[..., None], 0.0)
        total = torch.where(rates > 0, rates * terms, 0.0).sum(-1)
        return self._beta(t, x_t).to(total.dtype) * total

    def rate_divergence(self, x_t: Tensor, x0: Tensor, logits: Tensor, t: Tensor) -> Tensor:
        """``ratio_divergence`` for the ratios of p(x_0 | x_t).

        Args:
            x_t: States at t, ``(B, *event)``.
            x0: Data, ``(B, *event)``.
            logits: Logits of p(x_0 | x_t), ``(B, *event, tokens)``.
            t: Times in (0, T), ``()`` or ``(B,)``.

        Returns:
            The integrand in nats per unit of t, ``(B, *event)`` in the dtype of the logits.
        """
        return self.ratio_divergence(x_t, x0, self.ratios(x_t, logits, t), t)

    def step_divergence(self, x_t: Tensor, x0: Tensor, logits: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of each coordinate. For s = 0 it is -ln p(x_0 | x_t).

        Args:
            x_t: States at t, ``(B, *event)``.
            x0: Data, ``(B, *event)``.
            logits: Logits of p(x_0 | x_t), ``(B, *event, tokens)``.
            s: Times in [0, T], ``()`` or ``(B,)``.
            t: Later times in (s, T], ``()`` or ``(B,)``.

        Returns:
            The divergences in nats, ``(B, *event)`` in the dtype of the logits.
        """
        given_data = self.posterior(x_t, x0, s, t)
        reverse = self.reverse_transition(x_t, logits, s, t)
        return divergence(given_data.to(reverse.dtype), reverse)

    def _weights(self, x: Tensor, logits: Tensor, t: Tensor) -> Tensor:
        """ln w(x_0) = ln p(x_0 | x_t) - ln q(x_t | x_0), normalized over the x_0 that can lead to x, (B, *event, tokens)."""
        check_logits("logits", logits, x, self.tokens)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).clamp(min=LOG_ZERO)
        column = self.columns(x, self._from_start(t, x), logits.dtype)[..., : self.tokens]
        possible = column > 0.5 * LOG_ZERO
        log_p = nnf.log_softmax(torch.where(possible, logits, LOG_ZERO), -1)
        return torch.where(possible & (log_p > 0.5 * LOG_ZERO), log_p - column, LOG_ZERO)

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


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """Sum of q ln(q / p) along the last dimension, where q = 0 gives 0.

    Args:
        log_q: ln q.
        log_p: ln p, which broadcasts against ``log_q``.

    Returns:
        The divergence in nats, without the last dimension.
    """
    possible = log_q > -math.inf
    gap = torch.where(possible, log_q, 0.0) - torch.where(possible, log_p, 0.0)
    return (log_q.exp() * gap).sum(-1)


def _public(log_p: Tensor) -> Tensor:
    """Logarithms with -infinity in place of ``LOG_ZERO``."""
    return log_p.masked_fill(log_p < 0.5 * LOG_ZERO, -math.inf)


def _scaled(rates: Tensor, beta: Tensor) -> Tensor:
    """beta R, where 0 times infinity is 0."""
    return torch.where(rates == 0.0, 0.0, rates * beta[..., None])
