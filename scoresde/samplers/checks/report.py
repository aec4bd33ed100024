"""Any sampler held to what a sampler must do: `check(make_sampler, sde)` is a table of what holds and what does not.

For Gaussian data the law of the output is known to rounding, by one run on crafted noise (`moments.py`); where a step size
follows the score it is not, and is estimated from samples instead. The checks:

    order of convergence        slope of ln(error of the law at t_min) against ln(steps), least squares over the step counts
    law of a mixture            share of the modes, mean, spread: keyed samples, five standard errors and an allowance
    a sample and its batch      sample 5 alone, of 7 and of 64; another seed gives another one
    global random state         neither read nor changed: torch's, numpy's, Python's
    one step and two            finite, or refused by a ValueError
    times, evaluations counted  times in [0, T] and descending, nfe the number of calls
    shapes and types            event ranks 0 to 3 where the process takes any, float32 and float64

The start is drawn from the true law at T, so that what the prior lacks is no error of the sampler's. The law to reach is that
of x at t_min, or of E[x_0 | x at t_min] for a sampler that ends with it (Tweedie); the first is also what a last step without
noise tends to. A law that is not reached is compared with those that common slips lead to (`diagnoses.py`), and the slip that
explains the figures is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_counts, check_number, check_seed
from scoresde.samplers.base import Sampler
from scoresde.samplers.checks import contract, law
from scoresde.samplers.checks.moments import Case
from scoresde.sde import CheckReport, CheckRow, LinearSDE

COUNTS = (25, 50, 100, 200, 400)
"""Numbers of steps over which the order is fitted."""

_PARTS: dict[str, Callable[[Case], list[CheckRow]]] = {
    "order of convergence": law.order,
    "law of a mixture": law.mixture,
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
    """Hold a sampler to what a sampler must do, in seconds on one core.

    make_sampler: number of steps -> the sampler with that many; one whose solver chooses its steps may ignore it: the line on
        the order then says so, and its law is held to ``allowance``.
    order: the order of convergence that it claims in law; None: it must converge, with a slope of `LEAST`; 0: none is claimed,
        as with a corrector of fixed step size, whose bias stays: the law at the last of ``counts`` is held to ``allowance``.
    event_shape: of the events to check on; small, and the process's own where it takes only one.
    counts: ascending numbers of steps, at least five; the last is that of the checks which need only one.
    t_min: where it stops; read off its times, its attribute ``t_min``, or the last score, unless given.
    denoised: True holds it to end without noise, at the mean of the last step or at E[x_0 | x]; None: not checked.
    allowance: discretisation error at the last of ``counts``, relative to the standard deviation, that is no mistake.
    samples: draws of the mixture. Five standard errors of each of four figures: a false alarm in 4e5.

    Raises TypeError for a process without a kernel in closed form, ValueError for fewer than five counts or an empty event.
    """
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"{sde!r} states no kernel: there is no closed form to compare with")
    if not event_shape:
        raise ValueError("event_shape=() is not allowed: give at least one axis; events without one are checked anyway")
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
            except Exception as problem:  # a check reports; it does not die of what it found
                rows.append(CheckRow(name, math.inf, 0.0, f"raised {type(problem).__name__}: {problem}"))
    return CheckReport(f"{make_sampler(counts[-1])!r} on {sde!r}, events of shape {tuple(event_shape)}", tuple(rows))
