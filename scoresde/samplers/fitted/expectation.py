"""What error a sampler has, measured on starts that it was not fitted to, and how far that statement reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HIGH = 0.99
_WORST = 0.01
"""The share of the starts that `Expectation.worst_share` looks at."""


@dataclass(frozen=True)
class Expectation:
    """Errors of a sampler on starts that it was not fitted to.

    The error of one start is the root mean square over coordinates, in units of the data, of the sampler's end point minus
    E[x_0 | x_(t_min)] of the flow from the same start, solved accurately.

    A few starts often make most of the mean: those that pass between two modes and end in the wrong one. n starts say nothing
    about starts of a probability below about 3 / n (at 95 %), and no number of starts bounds a tail. ``standard_error`` allows
    for one unseen start, as far off as the farthest end point is from the data's mean. It does not bound starts that are rarer
    and farther off than that. `heavy_tailed` says where the mean depends on few starts.

    Attributes:
        error: Mean over the starts.
        standard_error: Of ``error``: the root of the sum of the squares of the standard deviation over sqrt(n), of
            ``unseen / n``, and of ``reference_error``.
        plain_error: Mean over the same starts for the best method without a fit.
        plain: Name of that method.
        starts: Their number n.
        evaluations: Calls of the score, each for a batch, that the pilot, the fit and this measurement took.
        median: Of the errors.
        high: Their 99 % quantile.
        worst: The largest.
        worst_share: Part of ``error`` that is due to the worst 1 % of the starts.
        unseen: Error assumed for a start that was not seen: distance of the farthest end point from the data's mean.
        reference_error: Estimate of the mean error of the accurate end points themselves.
        cost: Evaluations of single samples that the pilot, the fit and this measurement took.
    """

    error: float
    standard_error: float
    plain_error: float
    plain: str
    starts: int
    evaluations: int
    median: float = math.nan
    high: float = math.nan
    worst: float = math.nan
    worst_share: float = math.nan
    unseen: float = math.nan
    reference_error: float = math.nan
    cost: int = 0

    @classmethod
    def of(
        cls,
        errors: Tensor,
        *,
        unseen: float,
        reference_error: float,
        plain_error: float,
        plain: str,
        evaluations: int,
        cost: int,
    ) -> Expectation:
        """The statement from the errors (n,) of n starts."""
        n, mean = len(errors), float(errors.mean())
        few = errors.topk(max(1, round(_WORST * n))).values
        spread = float(errors.std()) if math.isfinite(mean) else math.inf
        return cls(
            mean,
            math.hypot(spread * n**-0.5, unseen / n, reference_error),
            plain_error,
            plain,
            n,
            evaluations,
            float(errors.median()),
            float(errors.sort().values[math.ceil(_HIGH * n) - 1]),
            float(errors.max()),
            float(few.sum() / errors.sum()) if 0.0 < mean < math.inf else math.nan,
            unseen,
            reference_error,
            cost,
        )

    @property
    def heavy_tailed(self) -> bool:
        """Whether the worst 1 % of the starts make more than a quarter of the mean."""
        return self.worst_share > 0.25

    def __str__(self) -> str:
        tail = ""
        if self.heavy_tailed:
            tail = f"; the worst 1 % make {self.worst_share:.0%} of the mean, so it may be higher than stated"
        return (
            f"mean error {self.error:.2g} +- {self.standard_error:.1g} a coordinate on {self.starts} new starts (median "
            f"{self.median:.2g}, 99 % below {self.high:.2g}, worst {self.worst:.2g}{tail}), plain {self.plain_error:.2g} by "
            f"{self.plain}; cost {self.cost:,} evaluations of single samples"
        )


def farthest(ends: Tensor) -> float:
    """The largest root mean square over coordinates of end points (n, *state) minus their mean; 0 where none is finite."""
    flat = ends.double().flatten(1)
    flat = flat[torch.isfinite(flat).all(1)]
    return float((flat - flat.mean(0)).square().mean(1).sqrt().max()) if len(flat) else 0.0
