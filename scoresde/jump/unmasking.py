r"""Samplers for ``Absorbing`` that choose which tokens to unmask, or that mask tokens again.

**Confidence.** In each step the tokens with the greatest confidence are unmasked. If one token is unmasked in each step,
and the choice depends on p(x_0 | x_t) alone, every step draws from p(x_0^i | visible tokens), and the samples of an exact
model are exact: the order of the chain rule may depend on the tokens that are visible. If the choice depends on the drawn
tokens, as in MaskGIT, likely tokens are preferred, and samples have less diversity than the data.

**Remasking.** With 0 <= sigma <= min(1, (1 - alpha_s) / alpha_t), the transition

.. math::
    q_\sigma(x_s \mid x_t, x_0) = \begin{cases}
        (1 - \sigma)\, [x_s = x_t] + \sigma\, [x_s = \text{mask}] & x_t \text{ is a token} \\
        \frac{\alpha_s - (1 - \sigma) \alpha_t}{1 - \alpha_t} [x_s = x_0]
            + \frac{1 - \alpha_s - \sigma \alpha_t}{1 - \alpha_t} [x_s = \text{mask}] & x_t \text{ is the mask}
    \end{cases}

has the marginals q(x_t | x_0) of the process for every sigma. sigma = 0 is ancestral sampling. With sigma > 0, tokens that
do not fit the others are drawn again.

References:
    Chang et al. 2022, MaskGIT, arXiv:2202.04200. Kim et al. 2025, "Train for the worst, plan for the best", arXiv:2502.06768
    (the margin). Wang et al. 2025, ReMDM, arXiv:2503.00307, eq. 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde._validation import check_number, expand, shown
from scoresde.jump import confidences, grids
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import CountedModel, noise_of_rows
from scoresde.jump.known import KnownTokens
from scoresde.jump.sampler import Callback, GridJumpSampler, TimedJumpSampler, check_mask
from scoresde.jump.states import AT_ONCE, quantiles
from scoresde.noise import NoiseSource


class ConfidenceUnmasking(TimedJumpSampler):
    r"""Unmasks the tokens with the greatest confidence.

    All masked tokens are drawn, each on its own from p(x_0^i | x_t). After the step from t to s the share (1 - alpha_s)
    of the tokens stays masked, those with the least

    .. math::
        \text{confidence} + \tau (1 - \alpha_s)\, G, \qquad G \text{ Gumbel noise}

    A sample is evaluated only in steps in which it unmasks a token: at most once for each token.

    With a confidence that does not depend on the drawn tokens, and one token in each step, samples of an exact model are
    exact. Temperature and top-p are those of the model, :class:`~scoresde.jump.Sharpened`.

    Args:
        steps: Number of steps N, or N + 1 descending times that end at 0.
        grid: Function of ``scoresde.jump.grids`` that makes the times of N steps.
        confidence: Function of ``scoresde.jump.confidences``.
        randomness: Scale tau of the noise of the order, >= 0.

    References:
        Chang et al. 2022, arXiv:2202.04200, section 3.2.

    Example:
        >>> from scoresde.jump import Absorbing, ConfidenceUnmasking, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> ConfidenceUnmasking(steps=1000)(process, chain.model(process), (4, 8)).nfe
        8
    """

    def __init__(
        self,
        steps: int | Sequence[float] | Tensor = 100,
        grid: Callable[[JumpProcess, int], Tensor] = grids.equal_alpha,
        *,
        confidence: Callable[[Tensor, Tensor], Tensor] = confidences.drawn_probability,
        randomness: float = 0.0,
    ) -> None:
        super().__init__(steps, grid)
        check_number("randomness", randomness, least=0.0)
        self.confidence, self.randomness = confidence, float(randomness)

    def check_process(self, process: JumpProcess) -> None:
        check_mask(self, process, "AncestralSampler(steps)")

    def run(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        noise: NoiseSource,
        callback: Callback,
        known: KnownTokens | None,
    ) -> tuple[Tensor, Tensor]:
        times = self.times(process)
        hidden = 1.0 - process.schedule.alpha(times)
        count = process.masked(x).reshape(len(x), -1).sum(1)
        left = (count[:, None] * (hidden / hidden[0]).to(x.device) + 1e-9).long()  # after each step, (B, N + 1)
        for k in range(len(times) - 1):
            rows = (left[:, k + 1] < left[:, k]).nonzero().flatten()
            if len(rows):
                now, own, share = x[rows], noise_of_rows(noise, rows), float(hidden[k + 1])
                new = self._unmask(process, model(x, times[k], rows), now, left[rows, k + 1], share, own, k)
                x = x.index_put((rows,), new)
            callback(k + 1, times[k + 1], x)
        return x, times

    def _unmask(
        self, process: JumpProcess, logits: Tensor, x: Tensor, left: Tensor, hidden: float, noise: NoiseSource, k: int
    ) -> Tensor:
        """The states with ``left`` masked tokens, (n, *event)."""
        masked = process.masked(x)
        u = noise.uniform(x.shape[1:], step=k, purpose="confidence tokens", dtype=torch.float64)
        drawn = quantiles(logits, u, at=masked)
        score = self._confidences(logits, drawn, masked)
        if self.randomness > 0.0:
            u = noise.uniform(x.shape[1:], step=k, purpose="confidence order", dtype=torch.float64)
            score = score - self.randomness * hidden * (-u.log()).log()
        rank = score.reshape(len(x), -1).argsort(dim=1, descending=True, stable=True).argsort(1).reshape(x.shape)
        count = masked.reshape(len(x), -1).sum(1)
        return torch.where(masked & (rank < expand(count - left, x)), drawn, x)

    def _confidences(self, logits: Tensor, drawn: Tensor, masked: Tensor) -> Tensor:
        """The confidences of the masked coordinates, some at a time, and -infinity for the others. (n, *event) float64."""
        flat, tokens = logits.reshape(-1, logits.shape[-1]), drawn.reshape(-1)
        found = torch.full(tokens.shape, -torch.inf, dtype=torch.float64, device=drawn.device)
        for part in masked.reshape(-1).nonzero()[:, 0].split(max(1, AT_ONCE // flat.shape[1])):
            score = self.confidence(flat[part].log_softmax(-1), tokens[part])
            if not isinstance(score, Tensor) or score.shape != part.shape or bool(score.isnan().any()):
                raise ValueError(
                    f"confidence returned {shown(score)} for {len(part)} tokens: return a number for each of them"
                )
            found[part] = score.to(torch.float64)
        return found.reshape(drawn.shape)


class Remasking(GridJumpSampler):
    r"""ReMDM: ancestral sampling that masks tokens again, with the probability sigma.

    .. math::
        \sigma = \min\left(\text{cap},\ \eta \min\left(1, \frac{1 - \alpha_s}{\alpha_t}\right)\right)

    The marginals q(x_t | x_0) are those of the process. eta = 0 is ancestral sampling. The last step masks no token. For an
    exact model the error is of order 1 / steps if cap is of order 1 / steps, and of order steps^(-1/2) if eta and cap are
    fixed.

    Args:
        steps: Number of steps N, or N + 1 descending times that end at 0.
        grid: Function of ``scoresde.jump.grids`` that makes the times of N steps.
        eta: Share of the largest sigma, in [0, 1]. Less than 1 is ReMDM-rescale.
        cap: Upper bound of sigma, in [0, 1]. Less than 1 is ReMDM-cap.

    References:
        Wang et al. 2025, arXiv:2503.00307, section 4.
    """

    def __init__(
        self,
        steps: int | Sequence[float] | Tensor = 100,
        grid: Callable[[JumpProcess, int], Tensor] = grids.equal_times,
        *,
        eta: float = 1.0,
        cap: float = 0.05,
    ) -> None:
        super().__init__(steps, grid)
        check_number("eta", eta, least=0.0, most=1.0)
        check_number("cap", cap, least=0.0, most=1.0)
        self.eta, self.cap = float(eta), float(cap)

    def check_process(self, process: JumpProcess) -> None:
        check_mask(self, process, "AncestralSampler(steps)")

    def sigma(self, process: JumpProcess, s: Tensor, t: Tensor) -> Tensor:
        """The probability that a token is masked again.

        Args:
            process: An ``Absorbing`` process.
            s: Time, ``()``.
            t: Later time, ``()``.

        Returns:
            The probability, ``()`` float64.
        """
        hidden = 1.0 - process.schedule.alpha(s)
        largest = torch.where(hidden > 0.0, hidden / process.schedule.alpha(t), 0.0)
        return (self.eta * largest.clamp(max=1.0)).clamp(max=self.cap)

    def step(
        self,
        process: JumpProcess,
        model: CountedModel,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        noise: NoiseSource,
        number: int,
    ) -> Tensor:
        a_s, a_t, sigma = process.schedule.alpha(s), process.schedule.alpha(t), self.sigma(process, s, t)
        masked = process.masked(x)
        u = noise.uniform(x.shape[1:], step=number, purpose="remasking places", dtype=torch.float64)
        unmasked = masked & (u < (a_s - (1.0 - sigma) * a_t) / (1.0 - a_t))
        new = model.draw(x, t, unmasked, noise, number, "remasking")
        return torch.where(~masked & (u < sigma), x.new_full((), process.tokens), new)
