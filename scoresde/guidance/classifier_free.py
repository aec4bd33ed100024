r"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598).

.. math::
    \tilde s(x, t) = s(x, t \mid c) + w \, [\, s(x, t \mid c) - s(x, t) \,]

For jump models, s are logits of p(x_0 | x_t), which :mod:`scoresde.jump.guidance` describes. For other processes,
at each t it is the score of a density proportional to p_t(x | c)^(1 + w) / p_t(x)^w. For w = 0 this is the noisy p(x | c), and
samplers draw from p(x | c). For other weights it is not the density of noisy data, and samplers draw from an approximation of
p(x | c)^(1 + w) / p(x)^w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import expand, shown
from scoresde.conditions import DROPPED, ConditionKind, rows_of
from scoresde.guidance.base import Guidance, Weight, check_dropout, check_processes, difference, repeated, unbound


@dataclass(frozen=True)
class ClassifierFree(Guidance):
    """Classifier-free guidance: the score under a condition, moved away from the score without it.

    A model that is trained with condition dropout gives both scores, by one evaluation of a batch of twice the size.

    Args:
        score: A conditional ``ScoreModel``. Its conditions are bound by ``model.given(label=y)``, or by the argument
            ``condition`` of a sampler.
        weight: The weight w: a number, or a function of t. 0 is the conditional score, -1 the score without condition.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.
        unconditional: Another score (x, t) that takes the place of the score without condition, such as one in closed form, or
            that of a smaller or less trained model (autoguidance, Karras et al. 2024, arXiv:2406.02507).

    Raises:
        TypeError: If ``score`` is a classifier or regressor, or when called, if it cannot ignore its conditions.
        ValueError: When called, if the score has no conditions and there is no ``unconditional``.

    References:
        Ho & Salimans 2022, "Classifier-free diffusion guidance", arXiv:2207.12598.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel, VPSDE
        >>> from scoresde.conditions import Classes
        >>> from scoresde.networks import MLP
        >>> model = ScoreModel(MLP((2,), conditions={"label": Classes(3)}), VPSDE())
        >>> score = ClassifierFree(model.given(label=torch.tensor([0, 2, 2, 1])), weight=2.0)
        >>> score(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    score: Callable[..., Tensor]
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None
    unconditional: Callable[..., Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unconditional is not None:
            if not callable(self.unconditional):
                raise TypeError(f"unconditional={shown(self.unconditional)} cannot be called: give a score (x, t)")
            check_processes(self.sde, self.unconditional)

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        under, without = self._both(x, t)
        return torch.addcmul(under, expand(w.flatten(), under), difference(under, without))

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        return difference(*self._both(x, t))

    def _both(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The scores under the conditions and without them."""
        if self.unconditional is not None:
            return self.score(x, t), self.unconditional(x, t)
        free, condition, dropped = unbound(self.score, x)
        if not condition:
            raise ValueError(
                f"score={shown(self.score)} has no conditions: bind them by model.given(label=y) or by condition= of a sampler, "
                "or give unconditional=, the score without them"
            )
        dropped = torch.cat([dropped, torch.ones_like(dropped)])
        twice = {name: repeated(value, 2) for name, value in condition.items()}
        under, without = free(torch.cat([x, x]), torch.cat([t, t]), **twice, **{DROPPED: dropped}).chunk(2)
        return under, without

    def check_conditions(self, kinds: Mapping[str, ConditionKind], condition: Any, dropout: float) -> None:
        super().check_conditions(kinds, condition, dropout)
        if self.unconditional is not None:
            return
        if not kinds:
            raise ValueError(
                "ClassifierFree needs conditions, and the data has none: give data with conditions, e.g. data.labels=True"
            )
        if condition == "ignore":
            raise ValueError(
                "ClassifierFree needs conditions, and sampling.condition='ignore': give values, e.g. --condition label=3"
            )
        check_dropout(self, dropout)

    def select_rows(self, index: Tensor) -> ClassifierFree:
        other = None if self.unconditional is None else rows_of(self.unconditional, index)
        return self._with(score=rows_of(self.score, index), unconditional=other)
