"""Checks that do not depend on the distribution of the samples: batches, global state, few steps, times, shapes, types."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import torch

from scoresde.samplers.base import Callback
from scoresde.samplers.checks.moments import Case, GaussianScore, run
from scoresde.sde import CheckRow, ScalarSDE

BATCH = 1e-4
"""Largest allowed change of a sample between batches, in standard deviations. It covers rounding, and the tolerance of a solver
whose steps depend on the whole batch."""


class GlobalState:
    """Context manager that restores the global random state, and reports which generators changed meanwhile."""

    def __enter__(self) -> GlobalState:
        self.torch, self.python = torch.random.get_rng_state(), random.getstate()
        self.numpy = np.random.get_state()  # noqa: NPY002  (the check is about the old global state)
        return self

    def changed(self) -> list[str]:
        """Names of the generators whose state differs from that on entry."""
        now = np.random.get_state()  # noqa: NPY002
        found = {
            "torch": not torch.equal(self.torch, torch.random.get_rng_state()),
            "numpy": not all(np.array_equal(a, b) for a, b in zip(self.numpy, now, strict=True)),
            "random": self.python != random.getstate(),
        }
        return [name for name, moved in found.items() if moved]

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.torch)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


def batch(s: Case) -> list[CheckRow]:
    """Compare sample 5 alone with the same sample in batches of 7 and 64, and with that of another seed."""
    score = GaussianScore(s.sde, s.event_shape)
    few = s.counts[0]
    whole = run(s, few, score, 64, seed=11).samples
    seven = run(s, few, score, 7, seed=11).samples
    alone = run(s, few, score, 1, seed=11, first=5).samples
    other = run(s, few, score, 7, seed=12).samples
    unit = float(s.scale())
    error = max(float((whole[:7] - seven).abs().max()), float((whole[5:6] - alone).abs().max())) / unit
    again = float((run(s, few, score, 7, seed=11).samples - seven).abs().max()) / unit
    hint = ""
    if not error <= BATCH:
        hint = "a sample depends on the rest of its batch: is a norm, a mean or a step size taken over the batch?"
        if not again <= BATCH:
            hint = "the same seed gives different samples: draw with noise.normal(..., step=, purpose=), keyed by the sample"
    same = float(torch.isclose(other, seven, atol=1e-3 * unit, rtol=0.0).double().mean())
    row = CheckRow(
        "another seed, another sample", same, 0.2, "" if same <= 0.2 else "does the sampler use its noise at all?"
    )
    return [CheckRow("a sample and its batch", error, BATCH, hint), row]


def global_state(s: Case) -> list[CheckRow]:
    """Check that the sampler leaves the generators of torch, numpy and Python unchanged."""
    with GlobalState() as state:
        run(s, s.counts[0], GaussianScore(s.sde, s.event_shape), 2)
        moved = state.changed()
    hint = (
        f"the sampler draws from the global state of {', '.join(moved)}: use noise.normal(..., step=, purpose=)"
        if moved
        else ""
    )
    return [CheckRow("global random state", float(len(moved)), 0.0, hint)]


def few_steps(s: Case) -> list[CheckRow]:
    """Check that one step and two give finite samples, or raise a ValueError that gives the reason."""
    problems = []
    for steps in (1, 2):
        try:
            result = run(s, steps, GaussianScore(s.sde, s.event_shape), 3)
        except ValueError as refusal:
            if not str(refusal):
                problems.append(f"steps={steps} raises a ValueError without a message")
            continue
        except FloatingPointError as problem:
            problems.append(f"steps={steps}: {problem}")
            continue
        if not bool(torch.isfinite(result.samples).all()):
            problems.append(f"steps={steps} gives non-finite samples")
    return [CheckRow("one step and two", float(len(problems)), 0.0, problems[0] if problems else "")]


def times(s: Case) -> list[CheckRow]:
    """Check the times of the result, of the callback and of the score, and the number of evaluations."""
    problems: list[str] = []
    score, seen = GaussianScore(s.sde, s.event_shape), list[float]()
    callback: Callback = lambda k, t, x: seen.append(float(t))  # noqa: E731
    result = run(s, s.counts[0], score, 3, callback=callback)
    for name, times in (("result.times", [float(t) for t in result.times]), ("callback's times", seen)):
        if any(b >= a for a, b in pairwise(times)):
            problems.append(f"{name} do not descend")
    slack = 1e-9 * s.sde.T
    for name, times in (("result.times", [float(t) for t in result.times]), ("the score's times", score.times)):
        if times and not (min(times) >= -slack and max(times) <= s.sde.T + slack):
            problems.append(f"{name} run from {max(times):g} to {min(times):g}: they must be in [0, {s.sde.T:g}]")
    if not seen or abs(seen[0] - s.sde.T) > slack:
        problems.append("the first call of the callback is not at T")
    wrong = abs(result.nfe - len(score.times) // 2)
    return [
        CheckRow("times", float(len(problems)), 0.0, problems[0] if problems else ""),
        CheckRow(
            "evaluations counted", float(wrong), 0.0,
            f"nfe={result.nfe} for {len(score.times) // 2} evaluations: call the score that run is given" if wrong else "",
        ),
    ]  # fmt: skip


def shapes(s: Case) -> list[CheckRow]:
    """Check shape and dtype of the samples in float32 and float64. Events have rank 0 to 3 if the process takes any."""
    problems = []
    shapes = [s.event_shape] + ([(), (3,), (2, 3), (1, 2, 3)] if isinstance(s.sde, ScalarSDE) else [])
    for shape in shapes:
        score = GaussianScore(s.sde, shape)
        for dtype in (torch.float32, torch.float64):
            try:
                result = s.make_sampler(s.counts[0])(s.sde, score, (2, *shape), dtype=dtype)
            except Exception as problem:
                problems.append(f"events of shape {shape}, {dtype}: raised {type(problem).__name__}: {problem}")
                continue
            x = result.samples
            if tuple(x.shape) != (2, *shape):
                problems.append(f"samples of shape {tuple(x.shape)} for {(2, *shape)}")
            if x.dtype != dtype:
                problems.append(f"samples are {x.dtype} for {dtype}: make tensors with .to(x), not in a fixed dtype")
    return [CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else "")]
