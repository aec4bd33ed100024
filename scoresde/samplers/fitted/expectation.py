"""The error of a fitted sampler, measured on new starts, with a standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HIGH = 0.99
_WORST = 0.01
"""Share of the starts in ``Expectation.worst_share``."""


@dataclass(frozen=True)
class Expectation:
    """Errors of a sampler on starts that were not used for the fit.

    The error of one start is the distance between the end point of the sampler and that of the accurately solved flow,
    E[x_0 | x_(t_min)], from the same start: the root mean square over coordinates, in units of the data.

    A few starts often contribute most of the mean. They pass between two modes and end in the wrong one. From n starts
    nothing follows about starts with a probability below about 3 / n (at 95 %), and no number of starts bounds a tail.
    ``standard_error`` allows for one unseen start whose error is the distance of the farthest end point from the mean
    of the data. It does not bound starts that are rarer and farther away. If the mean depends on few starts,
    ``heavy_tailed`` is True.

    Attributes:
        error: Mean error over the starts.
        standard_error: Standard error of ``error``: the root of the sum of three squares, of the standard deviation
            divided by sqrt(n), of ``unseen / n``, and of ``reference_error``.
        plain_error: Mean error of the best method without a fit, over the same starts.
        plain: Name of that method.
        starts: Number n of starts.
        evaluations: Number of calls of the score for pilot, fit and this measurement, each for a batch.
        median: Median of the errors.
        high: 99 % quantile of the errors.
        worst: Largest error.
        worst_share: Share of the worst 1 % of the starts in ``error``.
        unseen: Error that is assumed for an unseen start: the distance of the farthest end point from the mean of the
            data.
        reference_error: Estimated mean error of the accurate end points.
        cost: Number of evaluations for single samples that pilot, fit and this measurement took.
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
        """Summarize the errors of n starts.

        Args:
            errors: (n,), the errors.
            unseen: See the class.
            reference_error: See the class.
            plain_error: See the class.
            plain: See the class.
            evaluations: See the class.
            cost: See the class.

        Returns:
            The summary.
        """
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
        """Whether the worst 1 % of the starts contribute more than a quarter of the mean."""
        return self.worst_share > 0.25

    def __str__(self) -> str:
        tail = ""
        if self.heavy_tailed:
            tail = f"; the worst 1 % contribute {self.worst_share:.0%} of the mean, so it may be higher than stated"
        return (
            f"mean error {self.error:.2g} +- {self.standard_error:.1g} a coordinate on {self.starts} new starts (median "
            f"{self.median:.2g}, 99 % below {self.high:.2g}, worst {self.worst:.2g}{tail}); without a fit "
            f"{self.plain_error:.2g} by {self.plain}; cost {self.cost:,} evaluations of single samples"
        )


def farthest(ends: Tensor) -> float:
    """Largest root mean square over coordinates of end points (n, *state) minus their mean; 0 if none is finite."""
    flat = ends.double().flatten(1)
    flat = flat[torch.isfinite(flat).all(1)]
    return float((flat - flat.mean(0)).square().mean(1).sqrt().max()) if len(flat) else 0.0


@dataclass(frozen=True)
class KernelExpectation:
    """Distance between the samples of a fitted sampler and data, on noise and data that the fit did not use.

    Attributes:
        distance: Squared maximum mean discrepancy. Its estimate has no bias, so it can be negative.
        standard_error: Standard error over batches of samples.
        plain_distance: The distance of DDIM with as many evaluations.
        samples: Number of samples.
        updates: Number of updates of the fit.
        better: Whether the fit is better than DDIM. If not, the sampler has the coefficients of DDIM.
    """

    distance: float
    standard_error: float
    plain_distance: float
    samples: int
    updates: int
    better: bool = True

    def __str__(self) -> str:
        end = "" if self.better else "; no fit was better"
        return f"MMD^2 {self.distance:.3g} +- {self.standard_error:.1g}, DDIM {self.plain_distance:.3g}{end}"
