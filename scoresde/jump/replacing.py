r"""Jump processes that replace a token by a random one, or by a mask: uniform, absorbing, and mask-and-replace.

A jump replaces the token by a uniformly drawn one with the probability r, and by the mask with the probability 1 - r.
The mask does not jump. With b the integral of beta, a coordinate is

.. math::
    \text{kept: } a = e^{-b}, \qquad
    \text{replaced by each of the } K \text{ tokens: } u = e^{-(1 - r) b} \frac{1 - e^{-r b}}{K}, \qquad
    \text{masked: } m = 1 - e^{-(1 - r) b}

so that exp(b R)[x, y] = a [x = y] + u for tokens x, y, and m for y = mask. No K x K matrix is needed.

References:
    Sohl-Dickstein et al. 2015, arXiv:1503.03585 (bits). Austin et al. 2021, arXiv:2107.03006. Gu et al. 2021,
    VQ-Diffusion, arXiv:2111.14822.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_count, check_number, expand
from scoresde.jump.base import JumpProcess
from scoresde.jump.forward import with_infinity
from scoresde.jump.keep import KeepSchedule, PolynomialKeep
from scoresde.jump.ratio_sums import RatioSums
from scoresde.jump.states import (
    LOG_ZERO,
    check_logits,
    cross_entropy,
    draw_states,
    log_odds_of_others,
    quantiles,
    whole_states,
)
from scoresde.noise import NoiseSource
from scoresde.sde import ScalarSDE


class _Replacing(JumpProcess):
    """A process with the coefficients a, u and m. The mask is the state ``tokens``, if the process has one."""

    def __init__(self, tokens: int, replace: float, schedule: KeepSchedule | ScalarSDE) -> None:
        check_count("tokens", tokens, least=2)
        super().__init__(tokens, tokens + (replace < 1.0), schedule)
        self._share = float(replace)

    @property
    def mask(self) -> int | None:
        return self.tokens if self.states > self.tokens else None

    @property
    def carries_over(self) -> bool:
        return self._share == 0.0

    def coefficients(self, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln a, ln u and ln m.

        Args:
            b: Integrals of beta, of any shape.

        Returns:
            The logarithms, each in the shape of b. The logarithm of 0 is ``LOG_ZERO``.
        """
        replaced = self._share * b if self._share > 0.0 else torch.zeros_like(b)
        masked = (1.0 - self._share) * b if self._share < 1.0 else torch.zeros_like(b)
        ones = torch.log(-torch.expm1(-replaced)) - masked - math.log(self.tokens)
        return tuple(v.clamp(min=LOG_ZERO) for v in (-b, ones, torch.log(-torch.expm1(-masked))))  # type: ignore[return-value]

    def rows(self, x: Tensor, b: Tensor) -> Tensor:
        a, u, m = self.coefficients(b)
        hidden, zero = x >= self.tokens, torch.full((), LOG_ZERO, dtype=torch.float64, device=x.device)
        found = torch.where(hidden, zero, u)[..., None].expand(*x.shape, self.states).clone()
        if self.mask is not None:
            found[..., self.mask] = torch.where(hidden, 0.0, m)
        kept = torch.where(hidden, 0.0, torch.logaddexp(a, u))
        return found.scatter_(-1, x[..., None], kept[..., None])

    def columns(self, x: Tensor, b: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        a, u, m = (v.to(dtype) for v in self.coefficients(b))
        hidden = x >= self.tokens
        found = torch.where(hidden, m, u)[..., None].expand(*x.shape, self.states).clone()
        if self.mask is not None:
            found[..., self.mask] = LOG_ZERO
        kept = torch.where(hidden, 0.0, torch.logaddexp(a, u))
        return found.scatter_(-1, x[..., None], kept[..., None])

    def push(self, log_w: Tensor, b: Tensor) -> Tensor:
        a, u, m = (v.to(log_w.dtype)[..., None] for v in self.coefficients(b))
        total = torch.logsumexp(log_w, -1, keepdim=True)
        kept = log_w + a
        found = kept if self._share == 0.0 else torch.logaddexp(kept, u + total)
        return found if self.mask is None else torch.cat((found, m + total), -1)

    def pull(self, log_r: Tensor, b: Tensor) -> Tensor:
        a, u, _ = (v.to(log_r.dtype)[..., None] for v in self.coefficients(b))
        tokens = log_r[..., : self.tokens]
        if self._share == 0.0:
            return (tokens - a).clamp(min=LOG_ZERO)
        # the tokens' sum is (a + K u) times the sum of w
        total = torch.logsumexp(tokens, -1, keepdim=True) - torch.logaddexp(a, u + math.log(self.tokens))
        left = -torch.expm1((u + total - tokens).clamp(max=0.0))
        return (tokens + torch.where(left > 0, left, 1.0).log() - a).masked_fill(left <= 0, LOG_ZERO)

    def transition_sample(
        self, x_s: Tensor, s: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0, purpose: str = "forward"
    ) -> Tensor:
        x_s = whole_states("x_s", x_s, self.states)
        a, _, m = self.coefficients(self._between(s, t, x_s))
        u = noise.uniform(x_s.shape[1:], step=step, purpose=purpose, dtype=torch.float64)
        masked = m.exp()
        x = x_s if self.mask is None else torch.where(u < masked, self.mask, x_s)
        if self.carries_over:
            return x
        other = noise.integers(self.tokens, x_s.shape[1:], step=step, purpose=f"{purpose} other")
        return torch.where((u >= masked) & (u < -torch.expm1(a)) & ~self.masked(x_s), other, x)

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
        """Draw x_s from p(x_s | x_t) of each coordinate: x_0 from p(x_0 | x_t), then x_s from q(x_s | x_t, x_0).

        x_s is x_t, x_0 or a uniform token. x_0 is drawn only where it has an effect. No tensor of the logits' size is made.
        """
        x_t = whole_states("x_t", x_t, self.states)
        check_logits("logits", logits, x_t, self.tokens)
        a, u, m = self.coefficients(self._from_start(s, x_t))
        kept, moved, hidden = self.coefficients(self._between(s, t, x_t))
        masked, event = self.masked(x_t), x_t.shape[1:]
        v = noise.uniform(event, step=step, purpose=f"{purpose} data", dtype=torch.float64)
        x0 = x_t if self.carries_over else torch.where(masked, x_t, quantiles(logits, v, at=~masked))
        arrive = torch.where(masked, hidden, moved)  # ln q(x_t | x_s) for another token x_s
        stay = torch.where(masked, m, kept + torch.where(x0 == x_t, torch.logaddexp(a, u), u))
        choices = torch.stack((stay, arrive + a, arrive + u + math.log(self.tokens)), -1)
        choice = draw_states(choices, noise, step=step, purpose=purpose)
        x0 = torch.where(masked, quantiles(logits, v, at=masked & (choice == 1)), x0)
        x_s = torch.where(choice == 1, x0, x_t)
        if self.carries_over:
            return x_s
        other = noise.integers(self.tokens, event, step=step, purpose=f"{purpose} other")
        return torch.where(choice == 2, other, x_s)

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
        """Draw the states after a duration with constant reverse rates. No tensor of the logits' size is made.

        A jump goes to another token x_0, drawn from the model, or to a uniformly drawn other one.
        """
        x = whole_states("x", x, self.states)
        check_logits("logits", logits, x, self.tokens)
        a, u, m = self.coefficients(self._from_start(t, x))
        masked, count = self.masked(x), self.tokens
        to_data, to_any, others = a - m, u - m + math.log(count), torch.where(masked, count, count - 1)
        if not self.carries_over:
            odds = log_odds_of_others(logits, x, at=~masked)
            own, rest = -nnf.softplus(odds), -nnf.softplus(-odds)  # ln p(x_0 = x | x) and its complement
            any_other = torch.logaddexp(rest, own + u - torch.logaddexp(a, u)) + math.log(count - 1)
            to_data, to_any = torch.where(masked, to_data, rest + a - u), torch.where(masked, to_any, any_other)
        rate = self._beta(t, x) * self._out(masked)
        total = torch.logaddexp(to_data, to_any)
        jumps = -torch.expm1(-expand(duration.to(x.device), x) * rate * total.exp())
        v, w = noise.uniform((2, *x.shape[1:]), step=step, purpose=purpose, dtype=torch.float64).unbind(1)
        data = v < jumps * (to_data - total).exp()
        target = (w * others).long()
        target = torch.where(~masked & (target >= x), target + 1, target)
        target = torch.where(data & masked, quantiles(logits, w, at=data & masked), target)
        target = torch.where(data & ~masked, quantiles(logits, w, at=data & ~masked, without=x), target)
        return torch.where(v < jumps, target, x)

    def prior_divergence(self, x0: Tensor) -> Tensor:
        x0 = whole_states("x0", x0, self.states, self.tokens)
        a, u, _ = (v.exp() for v in self.coefficients(-self.schedule.log_alpha(torch.tensor(self.T))))
        prior = a / self.tokens + u  # that of the mask does not depend on x_0
        own, other = a + u, u
        each = torch.special.xlogy(own, own / prior) + (self.tokens - 1) * torch.special.xlogy(other, other / prior)
        return torch.where(prior > 0, each, 0.0).expand(x0.shape).to(x0.device)

    def equal_ratios(self, x: Tensor, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        x = whole_states("x", x, self.states)
        a, u, m = self.coefficients(self._from_start(t, x))
        start = torch.where(self.masked(x), m, torch.logaddexp(a - math.log(self.tokens), u))  # ln p_t(x)
        tokens = (torch.logaddexp(a - math.log(self.tokens), u) - start).to(dtype)[..., None]
        tokens = tokens.expand(*x.shape, self.tokens)
        log_r = tokens if self.mask is None else torch.cat((tokens, (m - start).to(dtype)[..., None]), -1)
        return with_infinity(log_r.scatter(-1, x[..., None], 0.0))

    def ratio_divergence(self, x_t: Tensor, x0: Tensor, ratios: Tensor, t: Tensor) -> Tensor:
        x_t, x0 = whole_states("x_t", x_t, self.states), whole_states("x0", x0, self.states, self.tokens)
        check_logits("ratios", ratios, x_t, self.states)
        masked, log_r = self.masked(x_t), ratios[..., : self.tokens]
        own = torch.where(masked, 0, x_t)[..., None]
        log_r = log_r.scatter(-1, own, torch.where(masked[..., None], log_r.gather(-1, own), 0.0))
        at_data = log_r.gather(-1, x0[..., None])[..., 0]
        total = log_r.exp().sum(-1) - torch.where(masked, 0.0, 1.0).to(ratios.dtype)
        logs = log_r.sum(-1) if self._share > 0.0 else torch.zeros_like(total)
        return self._poisson(x_t, x0, t, total, logs, at_data)

    def rate_divergence(self, x_t: Tensor, x0: Tensor, logits: Tensor, t: Tensor) -> Tensor:
        x_t, x0 = whole_states("x_t", x_t, self.states), whole_states("x0", x0, self.states, self.tokens)
        check_logits("logits", logits, x_t, self.tokens)
        a, u, m = (v.exp() for v in self.coefficients(self._from_start(t, x_t)))
        masked = self.masked(x_t)
        if self.carries_over:
            return self._beta(t, x_t).mul(a / m).to(logits.dtype) * cross_entropy(logits, x0, masked)
        flat = logits.to(torch.promote_types(logits.dtype, torch.float32)).reshape(-1, self.tokens)
        scale, offset, weight = (
            v.expand(x_t.shape).reshape(-1).to(flat.dtype) for v in (a / torch.where(masked, m, u), u / m, u / (a + u))
        )
        x, hidden = torch.where(masked, 0, x_t).reshape(-1), masked.reshape(-1)
        sums = RatioSums.apply(flat, scale, offset, weight, x, hidden, x0.reshape(-1))  # type: ignore[no-untyped-call]
        total, logs, at_data = (v.reshape(x_t.shape) for v in sums)
        return self._poisson(x_t, x0, t, total, logs, at_data).to(logits.dtype)

    def step_divergence(self, x_t: Tensor, x0: Tensor, logits: Tensor, s: Tensor, t: Tensor) -> Tensor:
        if not self.carries_over:
            return super().step_divergence(x_t, x0, logits, s, t)
        x_t, x0 = whole_states("x_t", x_t, self.states), whole_states("x0", x0, self.states, self.tokens)
        check_logits("logits", logits, x_t, self.tokens)
        a, _, _ = self.coefficients(self._from_start(s, x_t))
        _, _, hidden = self.coefficients(self._between(s, t, x_t))
        _, _, m = self.coefficients(self._from_start(t, x_t))
        share = (a + hidden - m).exp().to(logits.dtype)  # of the masked coordinates that the step unmasks
        return share * cross_entropy(logits, x0, self.masked(x_t))

    def _out(self, masked: Tensor) -> Tensor:
        """The rate of the jumps of R from a token to the mask (where x_t is ``masked``), or to a given other token, float64."""
        share = torch.tensor([self._share / self.tokens, 1.0 - self._share], dtype=torch.float64, device=masked.device)
        return share[masked.long()]

    def _poisson(self, x: Tensor, x0: Tensor, t: Tensor, total: Tensor, logs: Tensor, at_data: Tensor) -> Tensor:
        """The score entropy from sums over tokens y other than x: of r_y (``total``), of ln r_y (``logs``), and ln r at x_0."""
        a, u, m = (v.exp() for v in self.coefficients(self._from_start(t, x)))
        masked, same, count = self.masked(x), x0 == x, self.tokens
        start = torch.where(masked, m, torch.where(same, a + u, u))  # q(x_t | x_0)
        start = torch.where(start > 0, start, 1.0)  # the mask process has no jumps there
        c, data = u / start, torch.where(same, 0.0, (a + u) / start)
        others = torch.where(masked | same, count - 1, count - 2)
        known = torch.special.xlogy(c, c) * others + torch.special.xlogy(data, data) - c * others - data
        rate = self._beta(t, x) * self._out(masked)
        c, more, known, rate = (v.to(total.dtype) for v in (c, torch.where(same, 0.0, data - c), known, rate))
        return torch.where(rate > 0, rate, 0.0) * torch.where(rate > 0, total + known - c * logs - more * at_data, 0.0)

    def generator_rows(self, x: Tensor) -> Tensor:
        hidden = (x >= self.tokens)[..., None]
        found = torch.full((*x.shape, self.states), self._share / self.tokens, dtype=torch.float64, device=x.device)
        if self.mask is not None:
            found[..., self.mask] = 1.0 - self._share
        found.scatter_add_(-1, x[..., None], torch.full_like(found[..., :1], -1.0))
        return torch.where(hidden, 0.0, found)

    def generator_columns(self, x: Tensor) -> Tensor:
        hidden = (x >= self.tokens)[..., None]
        found = torch.full((*x.shape, self.states), self._share / self.tokens, dtype=torch.float64, device=x.device)
        found.masked_fill_(hidden, 1.0 - self._share)
        if self.mask is not None:
            found[..., self.mask] = 0.0
        return found.scatter_add_(-1, x[..., None], torch.where(hidden, 0.0, -1.0).to(torch.float64))


class Uniform(_Replacing):
    r"""Uniform process: a jump replaces the token by a uniformly drawn one.

    .. math::
        q(x_t = y \mid x_0 = x) = \alpha(t)\, [x = y] + \frac{1 - \alpha(t)}{K}

    The prior is uniform. With K = 2 it is the binomial process of bits of Sohl-Dickstein et al.

    Args:
        tokens: Number of values K, >= 2.
        schedule: alpha(t), the probability of being kept: a schedule, or an SDE that has it.

    References:
        Sohl-Dickstein et al. 2015, arXiv:1503.03585. Austin et al. 2021, arXiv:2107.03006, appendix A.2.1.

    Example:
        >>> import torch
        >>> from scoresde.jump import Uniform
        >>> Uniform(2).marginal(torch.tensor([[0, 1]]), torch.tensor(0.5)).exp()
        tensor([[[0.7500, 0.2500],
                 [0.2500, 0.7500]]], dtype=torch.float64)
    """

    def __init__(self, tokens: int, schedule: KeepSchedule | ScalarSDE = PolynomialKeep()) -> None:  # noqa: B008  (frozen)
        super().__init__(tokens, 1.0, schedule)


class Absorbing(_Replacing):
    r"""Absorbing process: a jump replaces the token by the mask, which is the state K.

    .. math::
        q(x_t = x_0) = \alpha(t), \qquad q(x_t = \text{mask}) = 1 - \alpha(t)

    In reverse, a masked token is drawn once and kept. The prior is the mask alone if alpha(T) = 0. For a schedule with
    alpha(T) > 0, such as that of ``VPSDE``, it gives each token the probability alpha(T) / K.

    Args:
        tokens: Number of values K of the data, >= 2. The mask is not counted.
        schedule: alpha(t), the probability of being kept: a schedule, or an SDE that has it.

    References:
        Austin et al. 2021, arXiv:2107.03006, appendix A.2.2. Sahoo et al. 2024, MDLM, arXiv:2406.07524. Shi et al.
        2024, MD4, arXiv:2406.04329.

    Example:
        >>> import torch
        >>> from scoresde.jump import Absorbing
        >>> process = Absorbing(2)
        >>> process.mask, process.marginal(torch.tensor([[0, 1]]), torch.tensor(0.25)).exp()
        (2, tensor([[[0.7500, 0.0000, 0.2500],
                 [0.0000, 0.7500, 0.2500]]], dtype=torch.float64))
    """

    def __init__(self, tokens: int, schedule: KeepSchedule | ScalarSDE = PolynomialKeep()) -> None:  # noqa: B008  (frozen)
        super().__init__(tokens, 0.0, schedule)


class MaskAndReplace(_Replacing):
    r"""Mask-and-replace process: a jump masks the token, or with the probability ``replace`` draws a uniform one.

    .. math::
        q(x_t = y \mid x_0 = x) = \alpha(t)\, [x = y] + \frac{\alpha(t)^{1 - r} - \alpha(t)}{K}, \qquad
        q(x_t = \text{mask}) = 1 - \alpha(t)^{1 - r}

    Args:
        tokens: Number of values K of the data, >= 2. The mask is not counted.
        replace: The share r of jumps to a uniform token, in (0, 1).
        schedule: alpha(t), the probability of being kept: a schedule, or an SDE that has it.

    References:
        Gu et al. 2021, VQ-Diffusion, arXiv:2111.14822, eq. 7 and 8.
    """

    def __init__(
        self,
        tokens: int,
        replace: float = 0.1,
        schedule: KeepSchedule | ScalarSDE = PolynomialKeep(),  # noqa: B008  (frozen)
    ) -> None:
        check_number("replace", replace, above=0.0, below=1.0)
        super().__init__(tokens, replace, schedule)
        self.replace = float(replace)
