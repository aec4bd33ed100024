"""Predictions of a target by noise level: shards of log-probabilities and errors, and their summary.

evaluation/predictions/predictions-FINGERPRINT/FIRST-END.npz    a row for each event, a column for each noise level
evaluation/predictions/SPLIT.json                               means over events, with standard errors
evaluation/predictions/SPLIT.csv                                the same as a table
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from scoresde.conditions import Classes, ConditionKind
from scoresde.experiment.results.shards import Shard, ShardStore


@dataclass(frozen=True, kw_only=True)
class Predictions(Shard):
    """Predictions of events at all noise levels.

    Attributes:
        log_prob: log p(y | x_t) of the true targets in nats, (events, levels).
        error: 1 for a wrong class and 0 for the right one; for vectors the mean square of the error, (events, levels).
    """

    log_prob: np.ndarray
    error: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.log_prob, self.error


class PredictionStore(ShardStore[Predictions]):
    """The predictions of one setting. The settings include ``t``, the noise levels."""

    kind: ClassVar[str] = "predictions"
    things: ClassVar[str] = "predictions"
    content = Predictions

    def fits(self, shard: Predictions) -> str:
        wanted = (shard.end - shard.first, len(self.settings["t"]))
        if shard.log_prob.shape != wanted or shard.error.shape != wanted:
            return f"has predictions of shape {shard.log_prob.shape} and {shard.error.shape}; expected {wanted}"
        return ""

    def part(self, first: int, end: int) -> Predictions | None:
        """The predictions of a range. None if they do not exist. Raises ValueError like `read`."""
        file = f"{first:010d}-{end:010d}.npz"
        return self.read(file) if (self.path / file).exists() else None


def by_level(log_prob: np.ndarray, error: np.ndarray, kind: ConditionKind) -> list[dict[str, float]]:
    """Means and standard errors for each noise level.

    Args:
        log_prob: (events, levels).
        error: (events, levels).
        kind: The kind of the target.

    Returns:
        For each level the negative log-likelihood in nats, and the accuracy of classes or the root mean square error of vectors.
    """
    rows = []
    count = len(log_prob)
    for nats, wrong in zip(-log_prob.T, error.T, strict=True):
        spread = [float(x.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan for x in (nats, wrong)]
        mean = float(wrong.mean())
        if isinstance(kind, Classes):
            figures = {"accuracy": 1.0 - mean, "accuracy error": spread[1]}
        else:
            root = math.sqrt(mean)
            figures = {"rmse": root, "rmse error": spread[1] / (2.0 * root) if root else 0.0}
        rows.append({**figures, "nll": float(nats.mean()), "nll error": spread[0]})
    return rows


def prior_figures(train: torch.Tensor, test: torch.Tensor, kind: ConditionKind) -> dict[str, float]:
    """What is possible without x_t: the most frequent class or the mean of the training targets.

    Args:
        train: Targets of the training events.
        test: Targets of the evaluated events.
        kind: The kind of the target.

    Returns:
        The negative log-likelihood in nats, and the accuracy of classes or the root mean square error of vectors.
    """
    if isinstance(kind, Classes):
        counts = torch.bincount(train.long(), minlength=kind.count).double()
        log_share = (counts.clamp(min=0.5) / counts.sum()).log()
        return {
            "nll": float(-log_share[test.long()].mean()),
            "accuracy": float((test.long() == counts.argmax()).double().mean()),
        }
    mean, variance = train.double().mean(0), train.double().var(0, correction=0).clamp(min=1e-12)
    square = (test.double() - mean) ** 2
    nll = 0.5 * (square / variance + (2.0 * math.pi * variance).log()).sum(1)
    return {"nll": float(nll.mean()), "rmse": math.sqrt(float(square.mean()))}


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """The levels as a CSV table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
