"""The base class of guided scores, and their weights."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from scoresde._validation import check_number, expand, shown
from scoresde.conditions import DROPPED, Conditioned, ConditionKind, accepts, check_condition, given, rows_of, takes
from scoresde.score import ConditionalModel, NoiseConditionalModel, ScoreModel
from scoresde.score.data_variance import has_variance, variance_method
from scoresde.sde import SDE, LinearSDE, check_same_process
from scoresde.sde.base import process_of

Weight = float | Callable[[Tensor], Tensor]
"""A number, or a function of the times (B,) -> (B,)."""
G = TypeVar("G", bound="Guidance")


class Guidance(ABC):
    r"""Base class of scores (x, t) that guide another score with a weight.

    .. math::
        \tilde s(x, t) = s(x, t) + w(t) \, g(x, t)

    A subclass is a frozen dataclass with these three fields and its own. It implements ``direction``, the term g. With weight 0
    the result is the score itself, and g is not evaluated. A subclass whose g is the gradient of a log-likelihood also implements
    ``log_potential``. Then ``ParticleSampler`` can weight samples, and it is exact in the limit of many particles.

    Attributes:
        score: The score that is guided.
        weight: The weight w: a number, or a function of t, (B,) -> (B,).
        interval: Lowest and highest noise level sigma / alpha with guidance (Kynkaanniemi et al. 2024, arXiv:2404.07724). Outside
            of it the weight is 0. None for all levels.
    """

    score: Callable[..., Tensor]
    weight: Weight
    interval: tuple[float, float] | None

    def __post_init__(self) -> None:
        if not callable(self.score):
            raise TypeError(f"score={shown(self.score)} cannot be called: give a score (x, t), such as a ScoreModel")
        if isinstance(self.score, NoiseConditionalModel) and not isinstance(self.score, ScoreModel):
            raise TypeError(f"score is a {type(self.score).__name__}, which is no score: give a ScoreModel")
        if not callable(self.weight):
            check_number("weight", self.weight)
        if self.interval is not None:
            self._check_interval()

    def _check_interval(self) -> None:
        pair = self.interval
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise ValueError(f"interval={shown(pair)} is not allowed: give the lowest and the highest sigma / alpha")
        low, high = pair
        check_number("interval", low, least=0.0)
        check_number("interval", high, above=low)
        if not isinstance(self.sde, LinearSDE):
            raise TypeError(
                f"interval={pair!r} is not allowed for the process {self.sde!r}, which has no noise level sigma / alpha: give "
                "a weight that is a function of t"
            )

    @property
    def sde(self) -> SDE | None:
        """The process of the score, or None for a plain function."""
        return process_of(self.score)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        w = self.weight_at(t)
        if not bool(w.any()):
            return self.score(x, t)
        return self.guided(x, t, expand(w, x))

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """Computes the guided score.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            w: The weights, (B, 1, ...).

        Returns:
            s + w g, with the shape of x.
        """
        return self.score(x, t) + w * self.direction(x, t)

    @property
    def has_variance(self) -> bool:
        """Whether the guided score has a variance of x_0 given x_t, by ``score_and_variance``: whether the score has one."""
        return has_variance(self.score)

    def score_and_variance(self, x: Tensor, t: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Computes the guided score, and the variance of x_0 given x_t of the score that is guided.

        A reverse step is N(m, v). Guidance multiplies it by a likelihood of x_s. To first order the logarithm of the likelihood
        is linear in x_s, which moves m and leaves v as it is (Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.1). So the
        variance is that of the score without guidance; for ``ClassifierFree``, that of the conditional score. It is exact for
        Gaussian data and a likelihood exp(a^T x_0).

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            delta: Difference of (alpha / sigma)^2 in the step for which the variance is used, () or (B,).

        Returns:
            The guided score, and the variance in units of the data squared, both with the shape of x. Guidance that evaluates the
            score itself takes one more evaluation of it.

        Raises:
            TypeError: If the score has no variance.
        """
        score, variance = variance_method(self.score)(x, t, delta)
        w = self.weight_at(t)
        if not bool(w.any()):
            return score, variance
        own = type(self).guided is not Guidance.guided or type(self).__call__ is not Guidance.__call__
        return (self(x, t) if own else score + expand(w, x) * self.direction(x, t)), variance

    @abstractmethod
    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        """Computes the term g that is added to the score.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).

        Returns:
            The term, with the shape of x.
        """

    @property
    def has_log_potential(self) -> bool:
        """Whether the class defines ``log_potential``."""
        return type(self).log_potential is not Guidance.log_potential

    def log_potential(self, x: Tensor, t: Tensor) -> Tensor:
        """Computes log p(y | x_t), or an approximation of it, up to a number that depends on t alone.

        A particle method weights its states with it. The factors of t alone cancel in its weights, and an approximation changes
        its efficiency but not its limit.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).

        Returns:
            The logarithm in nats, (B,).

        Raises:
            TypeError: If the guidance does not define it.
        """
        raise TypeError(
            f"{type(self).__name__} has no log_potential(x, t), which gives log p(y | x_t) and which particles need: use "
            "ClassifierGuidance, TaskGuidance or guidance by a measurement, or a subclass of Guidance that defines it"
        )

    def terms(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Computes all parts of the guidance together. Subclasses that can share evaluations of the score override it.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).

        Returns:
            The score s and the term g, with the shape of x, and ``log_potential``, (B,).

        Raises:
            TypeError: If the guidance has no ``log_potential``.
        """
        log_potential = self.log_potential(x, t)
        return self.score(x, t), self.direction(x, t), log_potential

    def data_log_likelihood(self, x: Tensor, t: Tensor) -> Tensor:
        """Computes log p(y | x_0) of samples, which defines the posterior that a particle method samples from.

        Args:
            x: Samples of the data, (B, *event).
            t: The last time of the sampler, (B,).

        Returns:
            The logarithm in nats, (B,). By default ``log_potential`` at t.

        Raises:
            TypeError: If the guidance has no ``log_potential``.
        """
        return self.log_potential(x, t)

    def weight_at(self, t: Tensor) -> Tensor:
        """Computes the weight.

        Args:
            t: The times, (B,).

        Returns:
            The weight of each sample, (B,).

        Raises:
            ValueError: If the function ``weight`` returns another shape, or values that are not finite.
        """
        w = self.weight(t) if callable(self.weight) else torch.full_like(t, self.weight)
        if not isinstance(w, Tensor) or w.shape != t.shape or not bool(torch.isfinite(w).all()):
            raise ValueError(
                f"weight returned {shown(w)} for t of shape {tuple(t.shape)}: return finite numbers of this shape"
            )
        if self.interval is not None and isinstance(self.sde, LinearSDE):
            low, high = (math.log(level) if level else -math.inf for level in self.interval)
            level = self.sde.log_noise(t)
            w = torch.where((level >= low) & (level <= high), w, 0.0)
        return w

    def check_conditions(self, kinds: Mapping[str, ConditionKind], condition: Any, dropout: float) -> None:
        """Checks that the samples of a run have the conditions that the guidance needs. A config calls it.

        A subclass that needs conditions, or gives them, overrides it. By default, the score is checked if it is guided itself.

        Args:
            kinds: Kinds of the conditions of the run's data by name.
            condition: The setting ``sampling.condition`` of the run. "ignore" if the samples have no conditions.
            dropout: The setting ``training.condition_dropout`` of the run. With 0 its model does not know the score without
                conditions.

        Raises:
            ValueError: If a condition is missing or given twice, or if the model lacks the score without conditions.
        """
        if isinstance(self.score, Guidance):
            self.score.check_conditions(kinds, condition, dropout)

    def takes(self, name: str) -> bool:
        """Whether a condition of this name would reach the score or the guidance. One that is bound already does not count.

        Args:
            name: Name of the condition.

        Returns:
            Whether it is taken. By default, whether the score takes it.
        """
        return takes(self.score, name)

    def given(self: G, **condition: Any) -> G:
        """Binds conditions of the score.

        Args:
            **condition: The conditions by name. A tensor has one row for each sample, or no dimension.

        Returns:
            The guidance of the score under these conditions.
        """
        return self._with(score=given(self.score, condition))

    def select_rows(self: G, index: Tensor) -> G:
        """The guided score for some of the samples of a batch.

        Args:
            index: Indices of the samples, (n,).

        Returns:
            The same guidance with the conditions of these samples.
        """
        return self._with(score=rows_of(self.score, index))

    def _with(self: G, **changes: Any) -> G:
        """The same guidance with other values of some fields."""
        made: G = dataclasses.replace(self, **changes)  # type: ignore[type-var]
        return made


def check_dropout(guidance: Guidance, dropout: float) -> None:
    """Raise ValueError if the model of a run was never trained without conditions."""
    if not dropout:
        raise ValueError(
            f"{type(guidance).__name__} needs the score without conditions, but the model is trained with "
            "training.condition_dropout=0: train with a number above 0"
        )


def check_processes(sde: SDE | None, *others: object) -> None:
    """Raise ValueError if a score or a classifier belongs to another process than ``sde``. Those without a process pass."""
    for other in others:
        if sde is not None and getattr(other, "sde", None) is not None:
            check_same_process(sde, other)


def unbound(score: Callable[..., Tensor], x: Tensor) -> tuple[Callable[..., Tensor], dict[str, Any], Tensor]:
    """A score without the conditions that are bound to it.

    Args:
        score: The score.
        x: The states, (B, *event).

    Returns:
        The score as a function (x, t, **condition); the conditions that are bound to it; and whether they are ignored, a tensor
        of bool and shape (B,).

    Raises:
        ValueError: If a condition has another number of rows than x.
        TypeError: If the score has conditions and no argument ``dropped`` to ignore them.
    """
    free, condition = score, {}
    if isinstance(score, ConditionalModel):
        condition = dict(score.condition)  # conditions of a call replace those that are bound
    elif isinstance(score, Conditioned):
        free, condition = score.score, dict(score.condition)
        if not accepts(free, DROPPED):
            raise TypeError(
                f"score={shown(free)} has no argument {DROPPED}, which ignores the conditions of some samples: give a ScoreModel"
            )
    check_condition(len(x), condition, ())
    dropped = condition.pop(DROPPED, None)
    return free, condition, x.new_zeros(len(x), dtype=torch.bool) if dropped is None else dropped


def difference(under: Tensor, without: Tensor) -> Tensor:
    """Scores or logits under a condition, minus those without it.

    Args:
        under: Those under the condition.
        without: Those without it, of the same shape.

    Returns:
        The difference. 0 where a logit under the condition is -infinity, so that the probability stays 0 for all weights.
    """
    return (under - without).masked_fill_(under == -math.inf, 0.0)


def repeated(value: Any, times: int) -> Any:
    """The rows of a condition several times. A value without rows is for all samples."""
    return torch.cat([value] * times) if isinstance(value, Tensor) and value.ndim else value
