r"""Guidance of jump models: by a classifier of x_t, and by a sharper p(x_0 | x_t).

Members take a model and are models, callables (x, t) that return logits of x_0, so that they work with every sampler.
Classifier-free guidance needs no class of its own, because it is linear in logits as it is in scores:
:class:`scoresde.guidance.ClassifierFree` of a jump model has the logits of

.. math::
    p_w(x_0^i \mid x_t) \propto p(x_0^i \mid x_t, c)^{1 + w}\, p(x_0^i \mid x_t)^{-w}

For a single coordinate, or independent ones, this is the exact posterior of p(x | c)^(1 + w) p(x)^(-w) under every process.
For several coordinates each factor is normalized on its own. Under ``Absorbing`` with one token in each step, the samples
have the distribution of the product of these factors, averaged over the orders, and not the normalized p(x | c)^(1 + w)
p(x)^(-w).

References:
    Schiff et al. 2024, "Simple guidance mechanisms for discrete diffusion models", arXiv:2412.10193. Nisonoff et al. 2024,
    "Unlocking guidance for discrete state-space diffusion and flow models", arXiv:2406.01572.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from scoresde._validation import check_count, check_number, expand, shown
from scoresde.conditions import select
from scoresde.guidance import ClassifierGuidance, Guidance
from scoresde.guidance.base import Weight
from scoresde.guidance.likelihoods import check_log_likelihood, gradient
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import process_of_model
from scoresde.jump.states import AT_ONCE


@dataclass(frozen=True)
class JumpClassifierGuidance(ClassifierGuidance):
    r"""Guidance by a classifier of x_t, whose ratios multiply those of the model.

    .. math::
        \frac{p_t(y \mid c)}{p_t(x \mid c)} = \frac{p_t(y)}{p_t(x)}\, \left(\frac{p_t(c \mid y)}{p_t(c \mid x)}\right)^w

    Here y differs from x in one coordinate. For w = 1 and exact models it is the model of p(x | c). Under ``Absorbing`` the
    logits of a masked coordinate get w ln p_t(c | y), where y has the token in place of the mask. For other processes the
    ratios are converted into logits. At a time with alpha(t) = 0, x_t is independent of x_0, and there is no guidance.

    Args:
        score: The model that is guided, with a process.
        classifier: An object with a method ``log_prob(x, t, target)`` -> (B,) in nats, for states x ``(B, *event)`` int64. If
            ``first_order``, x has the probabilities of the states, ``(B, *event, states)``.
        weight: The weight w: a number, or a function of t.
        interval: Not for jump models: None.
        target: The target c: a value for all samples, or a tensor with one row for each. None if the condition ``name`` of the
            sampler gives it.
        name: Name of the condition that is the target. Other conditions are those of the model.
        first_order: Approximate ln p_t(c | y) - ln p_t(c | x) by the gradient in the probabilities of the states, by one
            evaluation of the classifier. If False, it is evaluated for each y.
        evaluations: Number of states y that the classifier gets at once.

    References:
        Nisonoff et al. 2024, arXiv:2406.01572, eq. 2 and 4. Schiff et al. 2024, arXiv:2412.10193, section 3.2.
    """

    score: Callable[..., Tensor]
    classifier: Any
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None
    target: Tensor | float | None = None
    name: str = "label"
    first_order: bool = field(default=False, kw_only=True)
    evaluations: int = field(default=4096, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("evaluations", self.evaluations)
        if process_of_model(self.score) is None:
            raise TypeError(f"score={shown(self.score)} has no process: give a CategoricalModel, or a RatioModel")

    @property
    def process(self) -> JumpProcess:
        """The process of the model."""
        process = process_of_model(self.score)
        assert process is not None  # checked at the start
        return process

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        process, logits = self.process, self.score(x, t)
        tilt = w[..., None] * self.direction(x, t).to(logits.dtype)
        if process.carries_over:
            return logits + tilt[..., : process.tokens]
        informed = expand(process.schedule.alpha(t) > 0.0, x)[..., None]
        within = torch.where(informed.flatten(), t, 0.5 * process.T)
        ratios = process.ratios(x, logits, within) + tilt
        return torch.where(informed, process.logits_from_ratios(x, ratios, within), logits)

    def _value_and_gradient(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """ln p_t(c | x), and ln p_t(c | y) - ln p_t(c | x) for all y, (B, *event, states)."""
        self._check_target()
        if self.first_order:
            at = nnf.one_hot(x, self.process.states).to(torch.get_default_dtype())
            value, slope = gradient(lambda v: self.classifier.log_prob(v, t, self.target), at)
            return value, slope - slope.gather(-1, x[..., None])
        value = self.classifier.log_prob(x, t, self.target)
        check_log_likelihood(value, x)
        return value, self._differences(x, t, value)

    def _differences(self, x: Tensor, t: Tensor, value: Tensor) -> Tensor:
        """ln p_t(c | y) - ln p_t(c | x), by evaluations of all y. 0 for coordinates that cannot jump."""
        process = self.process
        flat, states = x.reshape(len(x), -1), torch.arange(process.states, device=x.device)
        free = process.masked(flat) if process.carries_over else torch.ones_like(flat, dtype=torch.bool)
        found = value.new_zeros(*flat.shape, process.states)
        for part in free.nonzero().split(max(1, self.evaluations // process.states)):
            row, place = part.repeat_interleave(process.states, 0).unbind(1)
            state = states.repeat(len(part))
            y = flat[row].scatter(1, place[:, None], state[:, None]).reshape(-1, *x.shape[1:])
            target = select({"target": self.target}, row)["target"]
            log_p = self._classifier_of(row).log_prob(y, t[row], target)
            found[row, place, state] = log_p - value[row]
        return found.reshape(*x.shape, process.states)


@dataclass(frozen=True)
class Sharpened(Guidance):
    r"""A model with a temperature, and without unlikely tokens: top-p, or nucleus sampling.

    .. math::
        p_\tau(x_0^i \mid x_t) \propto p(x_0^i \mid x_t)^{1 / \tau}

    Of the tokens in the order of these probabilities, the first whose sum reaches ``top_p`` stay. For temperature 1 and top_p 1
    it is the model itself. Samplers draw from no known joint distribution, but from one with less diversity.

    Args:
        score: The model.
        temperature: The temperature tau, > 0.
        top_p: Probability of the tokens that stay, in (0, 1].

    References:
        Holtzman et al. 2019, "The curious case of neural text degeneration", arXiv:1904.09751 (top-p).

    Example:
        >>> import torch
        >>> from scoresde.jump import Sharpened
        >>> model = Sharpened(lambda x, t: torch.tensor([0.5, 0.3, 0.2]).log().expand(*x.shape, 3), top_p=0.7)
        >>> model(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1)).softmax(-1)
        tensor([[[0.6250, 0.3750, 0.0000]]])
    """

    score: Callable[..., Tensor]
    temperature: float = 1.0
    top_p: float = 1.0

    weight: ClassVar[float] = 1.0  # type: ignore[misc]  # not a field
    interval: ClassVar[None] = None  # type: ignore[misc]  # not a field

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sde is not None:
            raise TypeError(
                f"score={shown(self.score)} is the score of an SDE: give a jump model, such as a CategoricalModel"
            )
        check_number("temperature", self.temperature, above=0.0)
        check_number("top_p", self.top_p, above=0.0, most=1.0)

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        return self._sharpened(self.score(x, t))

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        logits = self.score(x, t)
        return torch.where(logits == -math.inf, 0.0, self._sharpened(logits) - logits)

    def _sharpened(self, logits: Tensor) -> Tensor:
        rows = logits.reshape(-1, logits.shape[-1]).split(max(1, AT_ONCE // logits.shape[-1]))
        return torch.cat([self._rows(part) for part in rows]).reshape(logits.shape)

    def _rows(self, logits: Tensor) -> Tensor:
        """Logits of some coordinates, (n, tokens)."""
        log_p = torch.log_softmax(logits / self.temperature, -1)
        if self.top_p == 1.0:
            return log_p
        ordered, order = log_p.sort(-1, descending=True)
        p = ordered.exp()
        ordered = ordered.masked_fill(p.cumsum(-1) - p >= self.top_p, -math.inf)
        return torch.empty_like(log_p).scatter(-1, order, ordered)
