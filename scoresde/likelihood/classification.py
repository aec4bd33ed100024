r"""Classification by the likelihoods of a conditional model.

.. math::
    p(c \mid x) = \frac{p(x \mid c) \, p(c)}{\sum_k p(x \mid k) \, p(k)}

Every class uses the same dequantization, noise and probes, so that common errors cancel in differences between classes. Li et al.
2023 (arXiv:2303.16203) and Clark & Jaini 2023 (arXiv:2303.15233) use the variational bound in place of the likelihood.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, shown
from scoresde.conditions import given
from scoresde.likelihood.bounds import BoundResult
from scoresde.likelihood.flow import LikelihoodResult, log_likelihood
from scoresde.sde import SDE


@dataclass(frozen=True)
class Classification:
    """Probabilities of classes.

    Attributes:
        log_prob: log p(x | c), (B, K) nats.
        standard_error: Its standard error, (B, K) nats, as that of ``log_likelihood``.
        probabilities: p(c | x), (B, K).
        predicted: Index of the most probable class, (B,).
        margin: log p(c | x) of the best class minus that of the second best, (B,) nats.
        margin_error: Root of the sum of squares of the standard errors of these two, (B,) nats. Since the errors of the classes
            are correlated, the error of the difference is usually smaller.
    """

    log_prob: Tensor
    standard_error: Tensor
    probabilities: Tensor
    predicted: Tensor
    margin: Tensor
    margin_error: Tensor

    def __repr__(self) -> str:
        count, classes = self.probabilities.shape
        doubtful = int((self.margin < 2.0 * self.margin_error).sum())
        return (
            f"Classification({count} events, {classes} classes, {doubtful} within two standard errors of another class)"
        )


@checked_arguments
def classify(
    sde: SDE,
    score: Callable[..., Tensor],
    x: Tensor,
    classes: int | Sequence[Any],
    *,
    name: str = "label",
    prior: Sequence[float] | None = None,
    likelihood: Callable[..., LikelihoodResult | BoundResult] = log_likelihood,
    condition: Mapping[str, Any] | None = None,
    **options: Any,
) -> Classification:
    """Classify events by the likelihood of each class.

    Args:
        sde: The process of the score.
        score: The score under a condition, (x, t, **condition) -> a tensor with the shape of x: a conditional ``ScoreModel``.
        x: Events, (B, *event).
        classes: Number K of classes 0 .. K - 1, or the value of the condition for each class.
        name: Name of the condition.
        prior: p(c) of each class, up to a factor; equal by default.
        likelihood: ``log_likelihood``, or ``elbo`` for the variational bound, which needs no divergence.
        condition: Other conditions by name, with one row for each event. They are the same for all classes.
        **options: Arguments of ``likelihood``, such as ``seed``.

    Returns:
        The likelihoods, the probabilities and the predicted classes.

    Raises:
        ValueError: If there are fewer than two classes, or ``prior`` does not fit.

    References:
        Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", arXiv:2303.16203.
        Clark & Jaini 2023, "Text-to-image diffusion models are zero-shot classifiers", arXiv:2303.15233.
    """
    check_batch("x", x)
    if condition is not None and name in condition:
        raise ValueError(f"condition has a value for {name!r}, which is the name of the classes: give other conditions")
    values = list(classes) if isinstance(classes, Sequence) else list(range(classes))
    if len(values) < 2:
        raise ValueError(f"classes={classes!r} is not allowed: give at least two")
    weights = torch.ones(len(values)) if prior is None else torch.as_tensor(prior, dtype=torch.float64)
    if weights.shape != (len(values),) or not bool((weights >= 0).all()) or not float(weights.sum()) > 0:
        raise ValueError(f"prior={shown(prior)} is not allowed: give {len(values)} numbers >= 0, not all 0")
    try:
        given(score, {name: None})
    except TypeError as problem:
        raise TypeError(f"name={name!r} is not allowed: {problem}") from None
    try:
        inspect.signature(likelihood).bind(sde, score, x, condition={}, **options)
    except TypeError as problem:
        raise TypeError(
            f"likelihood={shown(likelihood)} cannot be called as likelihood(sde, score, x, condition=...): {problem}"
        ) from None
    found = []
    for value in values:
        row = torch.as_tensor(value, device=x.device)
        one = {**(condition or {}), name: row.expand(len(x), *row.shape)}
        found.append(likelihood(sde, score, x, condition=one, **options))
    log_prob = torch.stack([each.log_prob for each in found], 1)
    error = torch.stack([each.standard_error for each in found], 1)
    joint = log_prob + (weights / weights.sum()).log().to(log_prob)
    best = joint.topk(2, dim=1)
    return Classification(
        log_prob=log_prob,
        standard_error=error,
        probabilities=joint.softmax(1),
        predicted=joint.argmax(1),
        margin=best.values[:, 0] - best.values[:, 1],
        margin_error=error.gather(1, best.indices).square().sum(1).sqrt(),
    )
