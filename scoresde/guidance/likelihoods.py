r"""Guidance by a likelihood: the score of a posterior, by Bayes' rule.

.. math::
    \nabla_{x_t} \log p_t(x_t \mid y) = \nabla_{x_t} \log p_t(x_t) + \nabla_{x_t} \log p(y \mid x_t)

With the true p(y | x_t) and weight 1 the guided score is that of the noisy p(x | y) at every t, so samplers draw from p(x | y).
With another weight w it is the score of a density proportional to p_t(x) p(y | x_t)^w, which is not a density of noisy data, and
samplers draw from an approximation of p(x) p(y | x)^w.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import shown
from scoresde.conditions import ConditionKind, given, rows_of, select, takes
from scoresde.guidance.base import Guidance, Weight, check_processes
from scoresde.score import ScoreModel, TargetModel
from scoresde.sde import LinearSDE


@dataclass(frozen=True)
class TaskGuidance(Guidance):
    """Guidance by a differentiable log-likelihood of x_t, or of the denoised data E[x_0 | x_t].

    A log-likelihood of x_t that is log p(y | x_t) up to a constant is exact with weight 1. One of the denoised data is an
    approximation: p(y | x_t) is the mean of p(y | x_0) over the posterior of x_0, and is replaced by its value at the mean of x_0
    (Chung et al. 2023, arXiv:2209.14687). The gradient passes through the score.

    Args:
        score: The score that is guided.
        log_likelihood: A function (x, t) -> (B,) of the state that is differentiable in x by autograd; with ``denoised``, a
            function of the data alone, x_0 -> (B,). It has a method ``select_rows(index)`` if it depends on rows of the batch.
        weight: The weight w: a number, or a function of t.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.
        denoised: Whether ``log_likelihood`` takes the denoised data.

    Raises:
        TypeError: If ``denoised`` is set and the process of the score is not a ``LinearSDE``.
        ValueError: When called, if the log-likelihood does not have the shape (B,) or has no graph to x.

    References:
        Song et al. 2021, arXiv:2011.13456, section 5.
        Wolleb et al. 2022, "The Swiss army knife for image-to-image translation: multi-task diffusion models", arXiv:2204.02641.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> near = TaskGuidance(score, lambda x, t: -((x[:, 0] - 1.0) ** 2))
        >>> near(torch.zeros(3, 2), torch.full((3,), 0.5))[0].tolist()
        [2.0, 0.0]
    """

    score: Callable[..., Tensor]
    log_likelihood: Callable[..., Tensor]
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None
    denoised: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.log_likelihood):
            raise TypeError(
                f"log_likelihood={shown(self.log_likelihood)} cannot be called: give a function (x, t) -> (B,)"
            )
        self._check_signature()
        check_processes(self.sde, self.log_likelihood)
        if self.denoised and not isinstance(self.sde, LinearSDE):
            raise TypeError(
                f"denoised=True needs E[x_0 | x_t], which the process {self.sde!r} does not define: give denoised=False"
            )

    def _check_signature(self) -> None:
        """Raise TypeError unless ``log_likelihood`` can be called with its arguments."""
        try:
            signature = inspect.signature(self.log_likelihood)
        except (TypeError, ValueError):  # compiled code may have no signature
            return
        arguments = ("x_0",) if self.denoised else ("x", "t")
        try:
            signature.bind(*arguments)
        except TypeError:
            raise TypeError(
                f"log_likelihood={shown(self.log_likelihood)} cannot be called with ({', '.join(arguments)}), as "
                f"denoised={self.denoised} requires: give a function of {' and '.join(arguments)}"
            ) from None

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        if not self.denoised:
            return self.score(x, t) + w * self.direction(x, t)
        score, direction, _ = self._of_denoised(x, t)
        return score + w * direction

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        if self.denoised:
            return self._of_denoised(x, t)[1]
        return gradient(lambda at: self.log_likelihood(at, t), x)[1]

    def log_potential(self, x: Tensor, t: Tensor) -> Tensor:
        return self._of_denoised(x, t)[2] if self.denoised else self.data_log_likelihood(x, t)

    def terms(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.denoised:
            return self._of_denoised(x, t)
        log_potential, direction = gradient(lambda at: self.log_likelihood(at, t), x)
        return self.score(x, t), direction, log_potential

    def data_log_likelihood(self, x: Tensor, t: Tensor) -> Tensor:
        """Computes ``log_likelihood`` of samples: of the data if ``denoised``, else of the state at the last time t.

        Args:
            x: Samples of the data, (B, *event).
            t: The last time of the sampler, (B,).

        Returns:
            The logarithm in nats, (B,).
        """
        found: Tensor = self.log_likelihood(x) if self.denoised else self.log_likelihood(x, t)
        check_log_likelihood(found, x)
        return found

    def _of_denoised(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The score, and the log-likelihood of E[x_0 | x_t] after its gradient, by one evaluation of the score."""
        sde, found = self.sde, []
        assert isinstance(sde, LinearSDE)  # checked at the start

        def value(at: Tensor) -> Tensor:
            found.append(self.score(at, t))
            return self.log_likelihood(sde.extract_data(sde.data_from_score(at, t, found[0])))

        log_likelihood, direction = gradient(value, x)
        return found[0].detach(), direction, log_likelihood

    def select_rows(self, index: Tensor) -> TaskGuidance:
        return self._with(score=rows_of(self.score, index), log_likelihood=rows_of(self.log_likelihood, index))


@dataclass(frozen=True)
class ClassifierGuidance(Guidance):
    """Guidance by a classifier or regressor of x_t: the score of p(x | y), if both models are exact and the weight is 1.

    A condition ``name`` that both the score and the classifier take is an error. If the classifier alone gets it, the result is
    p(x | y). If both do, it is proportional to p(x | y) p(y | x)^w, as for the conditional models of Dhariwal & Nichol. Both are
    in use, so the caller chooses: ``target=y`` for the classifier, and ``score.given(label=y)`` for the score.

    Args:
        score: The score that is guided.
        classifier: A ``Classifier`` or ``Regressor`` of the same process, or any object with a method
            ``log_prob(x, t, target)`` -> (B,) in nats.
        weight: The weight w: a number, or a function of t.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.
        target: The target y: a value for all samples, or a tensor with one row for each. None if the condition ``name`` of the
            sampler gives it.
        name: Name of the condition that is the target. Other conditions are those of the score.

    Raises:
        ValueError: If the target is not of the classifier's kind, or if the condition ``name`` is given besides a target, or to a
            score that takes it too. When called, if there is no target.

    References:
        Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel, VPSDE
        >>> from scoresde.networks import MLP
        >>> from scoresde.score import Classifier
        >>> sde = VPSDE()
        >>> classifier = Classifier(MLP((2,), outputs=3), sde, classes=3)
        >>> score = ClassifierGuidance(ScoreModel(MLP((2,)), sde), classifier, weight=3.0, target=2)
        >>> score(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    score: Callable[..., Tensor]
    classifier: Any
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None
    target: Tensor | float | None = None
    name: str = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(getattr(self.classifier, "log_prob", None)):
            raise TypeError(
                f"classifier={shown(self.classifier)} has no log_prob(x, t, target): give a Classifier or a Regressor of x_t"
            )
        y = self.target
        if isinstance(y, Tensor) and (y.numel() == 0 or (y.is_floating_point() and not bool(torch.isfinite(y).all()))):
            raise ValueError(f"target={shown(y)} is not allowed: give finite numbers, one row for each sample")
        if isinstance(self.classifier, ScoreModel):
            raise TypeError("classifier is a ScoreModel: give a Classifier or a Regressor of x_t")
        check_processes(self.sde, self.classifier)
        if y is not None and isinstance(self.classifier, TargetModel):
            rows = y if isinstance(y, Tensor) and y.ndim else self.classifier.kind.parse("target", y)[None]
            self.classifier.kind.check("target", rows, len(rows))

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        return self._value_and_gradient(x, t)[1]

    def log_potential(self, x: Tensor, t: Tensor) -> Tensor:
        return self._value_and_gradient(x, t)[0]

    def terms(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_potential, direction = self._value_and_gradient(x, t)
        return self.score(x, t), direction, log_potential

    def _value_and_gradient(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y | x_t) and its gradient, by one evaluation of the classifier."""
        self._check_target()
        return gradient(lambda at: self.classifier.log_prob(at, t, self.target), x)

    def _check_target(self) -> None:
        """Raise ValueError if there is no target."""
        if self.target is None:
            raise ValueError(
                f"target is missing: give target=, or the condition {self.name!r} to the sampler, condition={{{self.name!r}: y}}"
            )

    def given(self, **condition: Any) -> ClassifierGuidance:
        if self.name not in condition:
            return self._with(score=given(self.score, condition))
        if self.target is not None:
            raise ValueError(
                f"target={shown(self.target)} and the condition {self.name!r} are both given: give one of them, or bind the "
                f"condition to the score, score.given({self.name}=y)"
            )
        self._check_unique()
        target = condition.pop(self.name)
        return self._with(score=given(self.score, condition), target=target)

    def _check_unique(self) -> None:
        """Raise ValueError if the condition of the target is one of the score too."""
        if takes(self.score, self.name):
            raise ValueError(
                f"the condition {self.name!r} is ambiguous, because the score and the classifier take it: give target=y in its "
                f"place for the classifier alone, and score.given({self.name}=y) as the score for both"
            )

    def takes(self, name: str) -> bool:
        return (name == self.name and self.target is None) or takes(self.score, name)

    def check_conditions(self, kinds: Mapping[str, ConditionKind], condition: Any, dropout: float) -> None:
        super().check_conditions(kinds, condition, dropout)
        given = condition != "ignore" and self.name in kinds
        if given and self.target is not None:
            raise ValueError(
                f"target={shown(self.target)} and sampling.condition={shown(condition)} both give {self.name!r}: give "
                "sampling.condition='ignore', or no target"
            )
        if given:
            self._check_unique()
        elif self.target is None:
            raise ValueError(f"target is missing, and the samples have no condition {self.name!r}: give one of them")

    def select_rows(self, index: Tensor) -> ClassifierGuidance:
        target = select({"target": self.target}, index)["target"]
        return self._with(score=rows_of(self.score, index), classifier=self._classifier_of(index), target=target)

    def _classifier_of(self, index: Tensor) -> Any:
        """The classifier for some of the samples. One without ``select_rows`` is for all."""
        return rows_of(self.classifier, index) if hasattr(self.classifier, "select_rows") else self.classifier


def gradient(value: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A log-likelihood and its gradient.

    Args:
        value: A function of x (B, *event) -> (B,) that is differentiable by autograd.
        x: The states, (B, *event).

    Returns:
        The value, (B,), without a graph, and the gradient for each sample, with the shape of x. The gradient has a graph if
        gradients are enabled.

    Raises:
        TypeError: If x has whole numbers.
        ValueError: If the value does not have the shape (B,), or has no graph to x.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}, which has no gradient: use JumpClassifierGuidance for jump models")
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if graph and x.requires_grad else x.detach().requires_grad_(True)
        found = value(at)
        check_log_likelihood(found, x)
        slope = None
        if found.requires_grad:
            (slope,) = torch.autograd.grad(found.sum(), at, create_graph=graph, allow_unused=True)
    if slope is None:
        raise ValueError(
            "log_likelihood has no graph to x, so it has no gradient: call it without torch.inference_mode "
            "(torch.no_grad is allowed), and compute it without detach and NumPy"
        )
    return found.detach(), slope


def check_log_likelihood(value: object, x: Tensor) -> None:
    """Raise ValueError unless a log-likelihood has one number for each of the samples x."""
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        raise ValueError(f"log_likelihood returned {shown(value)} for a batch of {len(x)}: return a tensor ({len(x)},)")
