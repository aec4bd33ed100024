"""``check`` tests a sampler: ``check(make_sampler, sde)`` prints a table with one line for each property.

For Gaussian data the distribution of the output is known to rounding, from a single run on prepared noise
(``moments.py``). If the step sizes depend on the score, the output is not an affine map of the noise, and the
distribution is estimated from samples. The checks are:

===========================  =============================================================================================
order of convergence         slope of ln(error of the distribution at t_min) against ln(steps), by least squares
distribution of a mixture    weights of the modes, mean and width, from samples: five standard errors plus an allowance
a sample and its batch       sample 5 alone and in batches of 7 and 64 is the same; another seed gives another sample
global random state          torch's, numpy's and Python's generators are neither read nor changed
one step and two             the samples are finite, or the sampler raises a ValueError
times, evaluations counted   the times are in [0, T] and descend; ``nfe`` is the number of evaluations
shapes and types             events of rank 0 to 3 if the process takes any rank; float32 and float64
===========================  =============================================================================================

The start is drawn from the true distribution at T. So the difference between this distribution and the prior is not an
error of the sampler. The output must have the distribution of x at t_min, or that of E[x_0 | x at t_min] for a sampler
that ends with Tweedie's formula. A last step without noise also tends to the second one. If the distribution is wrong,
it is compared with those that common mistakes lead to, and the report names the mistake that explains it
(``diagnoses.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_counts, check_number, check_seed
from scoresde.samplers.base import Sampler
from scoresde.samplers.checks import contract, distribution
from scoresde.samplers.checks.moments import Case
from scoresde.sde import CheckReport, CheckRow, LinearSDE

COUNTS = (25, 50, 100, 200, 400)
"""Default numbers of steps for the fit of the order."""

_PARTS: dict[str, Callable[[Case], list[CheckRow]]] = {
    "order of convergence": distribution.order,
    "distribution of a mixture": distribution.mixture,
    "a sample and its batch": contract.batch,
    "global random state": contract.global_state,
    "one step and two": contract.few_steps,
    "times": contract.times,
    "shapes and types": contract.shapes,
}


@checked_arguments
def check(
    make_sampler: Callable[[int], Sampler],
    sde: LinearSDE,
    *,
    order: float | None = None,
    event_shape: Sequence[int] = (1,),
    counts: Sequence[int] = COUNTS,
    t_min: float | None = None,
    denoised: bool | None = None,
    allowance: float = 0.05,
    samples: int = 2000,
    seed: int = 0,
) -> CheckReport:
    """Test a sampler, in seconds on one core.

    Args:
        make_sampler: Function that takes a number of steps and returns the sampler. If the solver chooses its own
            steps, the function may ignore the number. The report says so, and the error of the distribution is compared
            with ``allowance``.
        sde: A linear process.
        order: Order of weak convergence that the sampler claims. None: it must converge, with a slope of 0.7 or more.
            0: no order is claimed, as for a corrector of fixed step size, which has a remaining bias. Then the error of
            the distribution at the last of ``counts`` is compared with ``allowance``.
        event_shape: Shape of the events of the check. It should be small, and must be the process's own if the process
            has one.
        counts: At least five ascending numbers of steps. Checks that need a single number use the last one.
        t_min: Time at which the sampler stops. None: taken from the times of the result, from its attribute ``t_min``,
            or from the last evaluation of the score.
        denoised: True if the sampler must end without noise: at the mean of the last step or at E[x_0 | x]. None: not
            checked.
        allowance: Discretization error at the last of ``counts`` that still passes, relative to the standard deviation.
        samples: Number of samples of the mixture. They must agree within five standard errors in each of four figures.
            The probability of a false alarm is 1 in 4e5.
        seed: Seed of the samples.

    Returns:
        The report, one row for each check. ``report.passed`` is True if all pass. It prints as a table.

    Raises:
        TypeError: If the process has no kernel in closed form.
        ValueError: If there are fewer than five counts, or the event shape is empty.
    """
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde={sde!r} has no closed-form kernel to compare with: give a LinearSDE")
    if not event_shape:
        raise ValueError("event_shape=() is not allowed: give at least one axis")
    check_counts("event_shape", event_shape)
    check_counts("counts", counts)
    check_count("samples", samples, least=2)
    check_seed("seed", seed)
    check_number("allowance", allowance, above=0.0)
    if order is not None:
        check_number("order", order, least=0.0)
    if t_min is not None:
        check_number("t_min", t_min, above=0.0, below=sde.T)
    if len(counts) < 5 or any(b <= a for a, b in pairwise(counts)):
        raise ValueError(f"counts={tuple(counts)} is not allowed: give at least five ascending numbers of steps")
    subject = Case(
        make_sampler, sde, tuple(event_shape), tuple(counts), order, t_min, denoised, allowance, samples, seed
    )
    rows: list[CheckRow] = []
    with contract.GlobalState():
        for name, part in _PARTS.items():
            try:
                rows += part(subject)
            except Exception as problem:  # an error of the sampler is a result of the check
                rows.append(CheckRow(name, math.inf, 0.0, f"raised {type(problem).__name__}: {problem}"))
    return CheckReport(f"{make_sampler(counts[-1])!r} on {sde!r}, events of shape {tuple(event_shape)}", tuple(rows))
