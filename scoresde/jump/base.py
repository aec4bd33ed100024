r"""Jump processes: Markov processes in continuous time whose coordinates are categories.

A model gives p(x_0 | x_t) for each coordinate, as logits. All quantities of the reverse process follow from it and from the
forward process q (``forward.py``). With the weights w(x_0) = p(x_0 | x_t) / q(x_t | x_0),

.. math::
    p(x_s \mid x_t) = \sum_{x_0} q(x_s \mid x_t, x_0)\, p(x_0 \mid x_t) = q(x_t \mid x_s) \sum_{x_0} q(x_s \mid x_0)\, w(x_0)

.. math::
    \frac{p_t(y)}{p_t(x)} = \sum_{x_0} q(x_t = y \mid x_0)\, w(x_0), \qquad
    \hat R(x \to y) = \beta(t)\, R_{yx}\, \frac{p_t(y)}{p_t(x)}

Here y differs from x in one coordinate. x_0 that cannot lead to x_t have the weight 0, whatever the model says. A
process therefore needs only rows and columns of exp(b R), and sums over x_0 of weights times rows. The largest tensors
have the size (B, *event, states).

References:
    Austin et al. 2021, "Structured denoising diffusion models in discrete state-spaces", arXiv:2107.03006.
    Campbell et al. 2022, "A continuous time framework for discrete denoising models", arXiv:2205.14987.
    Lou et al. 2023, "Discrete diffusion modeling by estimating the ratios of the data distribution", arXiv:2310.16834.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import expand
from scoresde.jump.forward import ForwardProcess, with_infinity
from scoresde.jump.states import LOG_ZERO, check_logits, draw_states, log_or_zero, whole_states
from scoresde.noise import NoiseSource


class JumpProcess(ForwardProcess):
    """Base class of jump processes with the rate matrix R(t) = beta(t) R for each coordinate.

    A subclass implements ``rows``, ``columns``, ``push``, ``pull``, ``generator_rows`` and ``generator_columns``.

    Args:
        tokens: Number of values of the data, >= 2.
        states: Number of states, >= tokens.
        schedule: beta(t) and its integral.
    """

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
        return with_infinity(joint - torch.logsumexp(joint, -1, keepdim=True))

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
        return with_infinity(self.push(self._weights(x, logits, t), self._from_start(t, x)))

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
        return with_infinity((at_t - at_t.gather(-1, x[..., None])).to(dtype))

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
        return with_infinity(nnf.log_softmax(joint, -1))

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
