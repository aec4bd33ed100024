"""Any sampler held to what a sampler must do: `check(make_sampler, sde)` is a table of what holds and what does not.

Data is N(m, P_0), whose score is affine in x. A sampler is then an affine map of its start and of all its draws,

    x_out = b + C w_T + sum_k N_k z_k,         x_T = m_T + V_T^(1/2) w_T,

and one run tells it all: a noise source that gives row b of the batch a unit vector for one draw and zero for all others makes
the rows the columns of C and N_k. So the law of the output, N(b, C C^T + sum_k N_k N_k^T), is known to rounding, without
sampling. One more row, with all draws at once, tells whether the map is affine: where a step size follows the score it is not,
and the law is estimated from samples instead. The checks:

    order of convergence        slope of ln(error of the law at t_min) against ln(steps), least squares over the step counts
    law of a mixture            share of the modes, mean, spread: keyed samples, five standard errors and an allowance
    a sample and its batch      sample 5 alone, of 7 and of 64; another seed gives another one
    global random state         neither read nor changed: torch's, numpy's, Python's
    one step and two            finite, or refused by a ValueError
    times, evaluations counted  times in [0, T] and descending, nfe the number of calls
    shapes and types            event ranks 0 to 3 where the process takes any, float32 and float64

The start is drawn from the true law at T, so that what the prior lacks is no error of the sampler's. The law to reach is that
of x at t_min, or of E[x_0 | x at t_min] for a sampler that ends with it (Tweedie); the first is also what a last step without
noise tends to. A law that is not reached is compared with those that common slips lead to, and the slip that explains the
figures is named.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, Sampler, SampleResult
from scoresde.sde import CheckReport, CheckRow, LinearSDE, ScalarSDE, Score
from scoresde.sde.selfcheck import Subject
from scoresde.solvers import ScipyODE

COUNTS = (25, 50, 100, 200, 400)
"""Numbers of steps over which the order is fitted."""

BELOW = 0.15
"""How far the fitted slope may lie below the order. A wrong limit has slope 0; a right one whose slope is not yet there, and
above half of the order, is given up to `FINER` more doublings of the steps: on VP, sub-VP, VE at the paper's ranges all
first-order samplers are then above 0.87. Above the order there is no limit: a leading term that happens to be small is no
mistake (Euler-Maruyama on VE has slope 2 down to errors of 1e-5, as the law forgets all but the last steps)."""

FINER = 2
"""Doublings of the last number of steps before a slope is taken to be too small."""

LEAST = 0.7
"""The least slope where no order is stated: any consistent one-step method is of weak order 1."""

ROUNDING = 1e-9
"""Errors of the law below this are rounding; no slope is fitted to them."""

AFFINE = 1e-7
"""Largest deviation, in standard deviations, of a map that is affine."""

BATCH = 1e-4
"""Deviation of a sample over its batches, in standard deviations: rounding, or a solver's tolerance where it shares its steps."""


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
    if len(counts) < 5 or any(b <= a for a, b in pairwise(counts)):
        raise ValueError(f"counts={tuple(counts)} is not allowed: give at least five ascending numbers of steps")
    subject = _Case(
        make_sampler, sde, tuple(event_shape), tuple(counts), order, t_min, denoised, allowance, samples, seed
    )
    rows: list[CheckRow] = []
    with _GlobalState():
        for part in (_order, _mixture, _batch, _global_state, _few_steps, _times, _shapes):
            try:
                rows += part(subject)
            except Exception as problem:  # a check reports; it does not die of what it found
                name = _NAMES[part.__name__]
                rows.append(CheckRow(name, math.inf, 0.0, f"raised {type(problem).__name__}: {problem}"))
    name = repr(make_sampler(counts[-1]))
    return CheckReport(f"{name} on {sde!r}, events of shape {tuple(event_shape)}", tuple(rows))


_NAMES = {
    "_order": "order of convergence", "_mixture": "law of a mixture", "_batch": "a sample and its batch",
    "_global_state": "global random state", "_few_steps": "one step and two", "_times": "times",
    "_shapes": "shapes and types",
}  # fmt: skip


class _GlobalState:
    """Puts the global random state back, and tells whether it changed meanwhile."""

    def __enter__(self) -> _GlobalState:
        self.torch, self.python = torch.random.get_rng_state(), random.getstate()
        self.numpy = np.random.get_state()  # noqa: NPY002  (it is the old global state that is watched)
        return self

    def changed(self) -> list[str]:
        now = np.random.get_state()  # noqa: NPY002
        found = {
            "torch": not torch.equal(self.torch, torch.random.get_rng_state()),
            "numpy": not all(np.array_equal(a, b) for a, b in zip(self.numpy, now, strict=True)),  # type: ignore[arg-type]
            "random": self.python != random.getstate(),
        }
        return [name for name, moved in found.items() if moved]

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self.torch)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


@dataclass(frozen=True)
class _Case:
    """What is checked, and with what."""

    make_sampler: Callable[[int], Sampler]
    sde: LinearSDE
    event_shape: tuple[int, ...]
    counts: tuple[int, ...]
    order: float | None
    t_min: float | None
    denoised: bool | None
    allowance: float
    samples: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "gauss", Subject(self.sde, self.event_shape))

    gauss: Subject = None  # type: ignore[assignment]

    def scale(self) -> Tensor:
        """Standard deviation of the data, the worst coordinate's."""
        return self.gauss.law(self.gauss.t0)[1].diagonal().max().sqrt()


class _GaussianScore:
    """The exact score of N(m, P_0) for events of one shape, that notes the times it is asked at."""

    def __init__(self, sde: LinearSDE, event_shape: tuple[int, ...]) -> None:
        self.sde, self.times = sde, list[float]()
        size = math.prod(event_shape)
        self.mean = torch.linspace(0.2, 0.6, size, dtype=torch.float64).reshape(event_shape)
        self.variance = torch.linspace(0.3, 0.9, size, dtype=torch.float64).reshape(event_shape)
        self.subject = None if isinstance(sde, ScalarSDE) else Subject(sde, event_shape)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times += [float(t.min()), float(t.max())]
        times = t.to(torch.float64)
        if self.subject is None:
            assert isinstance(self.sde, ScalarSDE)
            a, v = expand(self.sde.alpha(times), x), expand(self.sde.sigma(times), x) ** 2
            return ((a * self.mean - x) / (a**2 * self.variance + v)).to(x.dtype)
        score = torch.empty_like(x, dtype=torch.float64)
        for time in times.unique():
            here = times == time
            score[here] = self.subject.score(x[here].to(torch.float64), float(time))
        return score.to(x.dtype)


class _Crafted(NoiseSource):
    """Gives row ``offset + j`` of the batch the unit vector e_j of a draw, others zero, the last row fixed normal numbers.

    Draws are known by (purpose, step, shape), as keyed ones are; ``others`` counts what is not a normal draw.
    """

    def __init__(self, rows: int, first: int, draws: dict[tuple[str, int, tuple[int, ...]], int]) -> None:
        super().__init__(0, torch.arange(rows))
        for name, value in {"draws": draws, "first": first, "others": [0], "recording": rows == 1}.items():
            object.__setattr__(self, name, value)

    draws: dict[tuple[str, int, tuple[int, ...]], int]
    first: int
    others: list[int]
    recording: bool

    def normal(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        key, size = (purpose, step, tuple(event_shape)), math.prod(event_shape)
        if self.recording and key not in self.draws:
            self.draws[key] = self.used()
        value = torch.zeros(len(self.indices), size, dtype=dtype)
        if key not in self.draws:
            self.others[0] += 1  # a draw that hangs on the data
        elif not self.recording:
            row = self.first + self.draws[key]
            value[row : row + size] = torch.eye(size, dtype=dtype)
            value[-1] = self.probe()[self.draws[key] :][:size].to(dtype)
        return value.reshape(len(self.indices), *event_shape)

    def _uniforms(self, size: int, step: int, purpose: str) -> Tensor:
        self.others[0] += 1
        return super()._uniforms(size, step, purpose)

    def used(self) -> int:
        """Numbers drawn in all."""
        return sum(math.prod(shape) for _, _, shape in self.draws)

    def probe(self) -> Tensor:
        return _normals(self.used(), "probe of the draws")


def _normals(count: int, purpose: str) -> Tensor:
    return NoiseSource.of(0, 1).normal((count,), step=0, purpose=purpose, dtype=torch.float64)[0]


@dataclass(frozen=True)
class _Law:
    """Law of a sampler's output for Gaussian data. bend: how far the map is from affine, in standard deviations. last: the norm
    of the last draw's coefficients. t_min: where it stopped. lowest: the last time of a score."""

    mean: Tensor
    covariance: Tensor
    bend: float
    last: float
    t_min: float
    lowest: float
    nfe: int


def _exact_law(s: _Case, steps: int) -> _Law:
    """The law by one run on crafted noise."""
    n, shape = s.gauss.size, s.gauss.shape
    mean, covariance = s.gauss.law(s.sde.T)
    root = torch.linalg.cholesky(covariance)
    draws: dict[tuple[str, int, tuple[int, ...]], int] = {}
    score = _GaussianScore(s.sde, s.event_shape)
    dry = _Crafted(1, 0, draws)
    _run(s, steps, score, 1, noise=dry, start=mean.reshape(1, *shape))
    rows = 1 + n + dry.used() + 1
    source = _Crafted(rows, 1 + n, draws)
    probe = _normals(n, "probe of the start")
    start = mean.repeat(rows, 1)
    start[1 : 1 + n] += root.mT
    start[-1] += root @ probe
    result = _run(s, steps, score, rows, noise=source, start=start.reshape(rows, *shape))
    out = result.state.to(torch.float64).reshape(rows, n)
    columns = out[1:-1] - out[0]
    wanted = out[0] + torch.cat((probe, source.probe())) @ columns
    law = columns.mT @ columns
    bend = math.inf if source.others[0] + dry.others[0] else float((out[-1] - wanted).abs().max() / s.scale())
    last = 0.0
    if draws:
        at = 1 + n + max(draws.values())
        last = float((out[at:-1] - out[0]).abs().max())
    times = [float(t) for t in result.times]
    stop = s.t_min if s.t_min is not None else getattr(s.make_sampler(steps), "t_min", None)
    if s.t_min is None and times:
        stop = times[-1]
    return _Law(
        out[0], law, bend, last, min(score.times) if stop is None else float(stop), min(score.times), result.nfe
    )


def _run(s: _Case, steps: int, score: Score, rows: int, **kwargs: Any) -> SampleResult:
    kwargs.setdefault("dtype", torch.float64)
    return s.make_sampler(steps)(s.sde, score, (rows, *s.event_shape), **kwargs)


def _targets(s: _Case, t: float) -> list[tuple[Tensor, Tensor]]:
    """Laws (mean, covariance) of x at t and of E[x_0 | x at t]."""
    mean, covariance = s.gauss.law(t)
    unit, ones = s.gauss.unit, torch.full((s.gauss.size,), t, dtype=torch.float64)
    score = _GaussianScore(s.sde, s.event_shape)

    def tweedie(x: Tensor) -> Tensor:
        return s.sde.data_from_score(x, ones[: len(x)], score(x, ones[: len(x)])).reshape(len(x), -1)

    laws = [(mean, covariance)]
    if t > 0:
        at = mean.reshape(1, *s.gauss.shape)
        middle = tweedie(at)[0]
        slope = (tweedie(at + unit) - middle).mT
        laws.append((middle, slope @ covariance @ slope.mT))
    return laws


def _distance(mean: Tensor, covariance: Tensor, target: tuple[Tensor, Tensor]) -> float:
    """Error of a law in units of the right one: of its mean in standard deviations, plus of its variance relatively."""
    root = torch.linalg.cholesky(target[1] + 1e-12 * target[1].diagonal().max() * torch.eye(len(mean)))
    off = torch.linalg.solve_triangular(root, (mean - target[0])[:, None], upper=False)
    half = torch.linalg.solve_triangular(root, covariance, upper=False)
    white = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return float(off.abs().max() + (white - torch.eye(len(mean))).abs().max())


def _slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of -ln(error) over ln(steps); inf where the errors are rounding."""
    kept = [(math.log(n), -math.log(e)) for n, e in zip(counts, errors, strict=True) if e > ROUNDING]
    if len(kept) < 3:
        return math.inf
    k, y = torch.tensor(kept, dtype=torch.float64).mT
    return float(((k - k.mean()) * (y - y.mean())).sum() / ((k - k.mean()) ** 2).sum())


def _order(s: _Case) -> list[CheckRow]:
    """Convergence in law for Gaussian data."""
    ends = [_exact_law(s, n) for n in (s.counts[0], s.counts[-1])]
    chosen = ends[0].nfe == ends[1].nfe
    if max(law.bend for law in ends) > (1e-2 if chosen else AFFINE):
        rows = _sampled_law(s, ends[1])
    elif chosen or s.order == 0:
        found = ends[1]
        error = min(_distance(found.mean, found.covariance, target) for target in _targets(s, found.t_min))
        name = "law; solver chooses its steps" if chosen else f"law at {s.counts[-1]} steps"
        hint = "" if error <= s.allowance else _explain(s, ends[0] if chosen else _exact_law(s, s.counts[-2]), found)
        rows = [CheckRow(name, error, s.allowance, hint)]
    else:
        rows = [_order_row(s, [ends[0], *(_exact_law(s, n) for n in s.counts[1:-1]), ends[1]])]
    if s.denoised:
        # a coefficient of zero, or a score after it, at t_min itself
        left = 0.0 if ends[1].lowest <= ends[1].t_min * (1.0 + 1e-6) else ends[1].last / float(s.scale())
        hint = "" if left <= ROUNDING else "the last step's noise is left in: return its mean, or E[x_0 | x]"
        rows.append(CheckRow("noise left by the last step", left, ROUNDING, hint))
    return rows


def _order_row(s: _Case, laws: list[_Law]) -> CheckRow:
    targets = _targets(s, laws[-1].t_min)
    wanted = LEAST if s.order is None else s.order - BELOW
    counts = list(s.counts)

    def fitted() -> float:
        """The slope towards the law that it tends to, over the last counts."""
        last = slice(-len(s.counts), None)
        return max(_slope(counts[last], [_distance(v.mean, v.covariance, k) for v in laws[last]]) for k in targets)

    slope = fitted()
    while 0.5 * (wanted + BELOW) < slope < wanted and len(counts) < len(s.counts) + FINER:
        counts.append(2 * counts[-1])
        laws.append(_exact_law(s, counts[-1]))
        slope = fitted()
    claim = "" if s.order is None else f" for order {s.order:g}"
    short = max(wanted - slope, 0.0) if not math.isnan(slope) else math.inf
    told = "exact to rounding" if slope == math.inf else f"slope {slope:.2f}{claim} up to {counts[-1]} steps"
    if short > 0.0:
        if slope >= LEAST:
            told += ": converges, but not with the order stated"
        else:
            error = min(_distance(laws[-1].mean, laws[-1].covariance, k) for k in targets)
            told += f", error {error:.1e}: {_explain(s, laws[-2], laws[-1])}"
    return CheckRow("order of convergence", short, 0.0, told)


def _sampled_law(s: _Case, rough: _Law) -> list[CheckRow]:
    """The output is no affine map: mean and variance by samples, within five standard errors (a false alarm in 1e6 for each)."""
    mean, covariance = s.gauss.law(s.sde.T)
    z = NoiseSource.of(s.seed, s.samples).normal(s.gauss.shape, step=0, purpose="check start", dtype=torch.float64)
    start = mean + z.reshape(s.samples, -1) @ torch.linalg.cholesky(covariance).mT
    score = _GaussianScore(s.sde, s.event_shape)
    result = _run(s, s.counts[-1], score, s.samples, seed=s.seed, start=start.reshape(s.samples, *s.gauss.shape))
    out = result.state.to(torch.float64).reshape(s.samples, -1)
    figures = []
    for at, law in _targets(s, rough.t_min):
        variance = law.diagonal()
        off = ((out.mean(0) - at) / variance.sqrt()).abs() / (5.0 / math.sqrt(s.samples) + s.allowance)
        ratio = (out.var(0) / variance - 1.0).abs() / (5.0 * math.sqrt(2.0 / s.samples) + 2.0 * s.allowance)
        figures.append(float(torch.maximum(off, ratio).max()))
    hint = "steps follow the score: by samples"
    if not min(figures) <= 1.0:
        cov = out.mT.cov().reshape(len(mean), len(mean))
        found = _Law(out.mean(0), cov, 0.0, 0.0, rough.t_min, 0.0, 0)
        hint = _explain(s, found, found)
    return [CheckRow("law of Gaussian data", min(figures), 1.0, hint)]


_SLIPS: tuple[tuple[str, float, float, float], ...] = (
    ("the noise term is dropped: the variance is too small", 1, 1, 0),
    ("the noise has twice the variance that it needs: is a factor 2 in g^2 too many?", 1, 1, 2),
    ("the noise has twice the scale that it needs", 1, 1, 4),
    ("the noise has half the variance that it needs: is a factor 2 missing?", 1, 1, 0.5),
    ("the noise has half the scale that it needs", 1, 1, 0.25),
    ("the score's term is half of what the noise needs: g^2 score / 2 is the flow's", 1, 0.5, 1),
    ("the score's term is twice what it needs: is a factor 2 too many?", 1, 2, 1),
    ("the score has the wrong sign", 1, -1, 1),
    ("the score's term is missing", 1, 0, 1),
    ("the drift f is halved", 0.5, 1, 1),
    ("the drift f is doubled", 2, 1, 1),
    ("the drift f is missing", 0, 1, 1),
    ("the drift f has the wrong sign", -1, 1, 1),
    ("the flow's score term is half of what it needs: it is g^2 score / 2", 1, 0.25, 0),
    ("the flow's score has the wrong sign", 1, -0.5, 0),
    ("the flow's score term is missing", 1, 0, 0),
    ("the flow's drift f is halved", 0.5, 0.5, 0),
    ("the flow's drift f is doubled", 2, 0.5, 0),
    ("the flow's drift f is missing", 0, 0.5, 0),
    ("the flow's drift f has the wrong sign", -1, 0.5, 0),
    ("drift and score's term are halved", 0.5, 0.5, 1),
)
"""Name, factors on f, on g^2 score, and on the noise's variance, of the moments' equations that a slip solves instead."""

_READING = ScipyODE("RK45", 1e-5, 1e-8)


def _readings(s: _Case, t_min: float) -> tuple[Tensor, Tensor]:
    """Laws at t_min, means (S, D) and covariances (S, D, D), of dx = [a f - b g^2 score] dt + sqrt(c) g dw' from the true law
    at T, for the (a, b, c) of every slip."""
    mean, covariance = s.gauss.law(s.sde.T)
    factors = torch.tensor([slip[1:] for slip in _SLIPS], dtype=torch.float64)
    a, b, c = factors.mT[:, :, None, None]

    def slope(t: float, state: Tensor) -> Tensor:
        t = min(max(t, 0.0), s.sde.T)
        centre, law = s.gauss.law(t)
        gg = s.gauss.gg(t)
        pull = b * torch.linalg.solve(law, gg.mT).mT
        m, p = state[:, :1], state[:, 1:]
        r = a * s.gauss.f(t) + pull
        return torch.cat((m @ r.mT - (pull @ centre)[:, None], r @ p + p @ r.mT - c * gg), dim=1)

    start = torch.cat((mean[None], covariance)).expand(len(_SLIPS), -1, -1)
    end = _READING.solve(slope, start.contiguous(), s.sde.T, t_min).y
    return end[:, 0], end[:, 1:]


def _apart(found: tuple[Tensor, Tensor], law: tuple[Tensor, Tensor]) -> float:
    """Like `_distance`, with the logarithm of the variances' ratio: fit for laws that are orders of magnitude off."""
    mean, covariance = found
    spread, right = covariance.diagonal().clamp(min=1e-300), law[1].diagonal().clamp(min=1e-300)
    return float(
        ((mean - law[0]) / torch.maximum(spread, right).sqrt()).abs().max() + (spread / right).log().abs().max()
    )


def _explain(s: _Case, coarse: _Law, fine: _Law) -> str:
    """The slip whose law the sampler tends to, or what is off."""
    mean, law = s.gauss.law(fine.t_min)
    spread = float((fine.covariance.diagonal() / law.diagonal()).max())
    fall = float((fine.covariance.diagonal() / coarse.covariance.diagonal()).max())
    if spread < 0.2 and fall < 0.7:
        return "the variance falls with the step: is the noise scaled by h where its square root is meant?"
    # first order's leading term drops out; on logarithms, where the variance stays positive
    ratio = (fine.covariance.diagonal() / coarse.covariance.diagonal().clamp(min=1e-300)).clamp(0.5, 2.0).sqrt()
    limit = (2 * fine.mean - coarse.mean, ratio[:, None] * fine.covariance * ratio)
    right = min(_apart(limit, law) for law in _targets(s, fine.t_min))
    means, laws = _readings(s, max(fine.t_min, 1e-6 * s.sde.T))
    apart = [_apart(limit, law) for law in zip(means, laws, strict=True)]
    best = min(apart)
    name = _SLIPS[apart.index(best)][0]
    # a law that explodes is off by its own powers: there a share of the distance will do
    if best < max(0.4, 0.15 * right) and best < 0.4 * right:
        return name
    if spread < 0.9:
        return f"the variance is {spread:.2f} of what it must be: is the noise term there in full, at every step?"
    if spread > 1.1:
        return f"the variance is {spread:.2f} times what it must be: too much noise, or the score pulls too little"
    off = float(((fine.mean - mean) / law.diagonal().sqrt()).abs().max())
    return f"the mean is {off:.2f} standard deviations off: look at the drift's and the score's factors"


_PLACE, _STDS, _WEIGHTS = 0.7, (0.2, 0.3), (0.3, 0.7)


def _modes(event_shape: tuple[int, ...]) -> GaussianMixture:
    """Two modes on the diagonal: 0.3 N(0.7, 0.2^2) + 0.7 N(-0.7, 0.3^2) in every coordinate."""
    means = _PLACE * torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(2, *(1 for _ in event_shape))
    return GaussianMixture(means.expand(2, *event_shape), torch.tensor(_STDS), torch.tensor(_WEIGHTS))


def _mixture(s: _Case) -> list[CheckRow]:
    """Two modes: the heavy one's share, mean and spread, and the whole variance, against exact draws of the same sizes."""
    law = _modes(s.event_shape)
    start = _start(s, law, s.samples)
    result = _run(s, s.counts[-1], law.score(s.sde), s.samples, seed=s.seed, start=start)
    x = result.samples.to(torch.float64).reshape(s.samples, -1)
    heavy = x.mean(1) < 0
    size = math.sqrt(s.samples)
    share = float(heavy.double().mean())
    inside = x[heavy] if int(heavy.sum()) > 1 else torch.full((2, 1), math.nan, dtype=torch.float64)
    # at 3.5 and 2.3 deviations, the share beyond the middle changes the inner moments by less than the allowance
    exact = 0.3 * 0.2**2 + 0.7 * 0.3**2 + 4 * _PLACE**2 * 0.21
    fourth = _fourth() - exact**2
    figures = {
        "share": (share - 0.7, 5 * math.sqrt(0.21) / size + s.allowance),
        "mean": (float(x.mean()) + 0.4 * _PLACE, 5 * math.sqrt(exact) / size + s.allowance),
        "variance": (float(x.var(0).mean()) / exact - 1, 5 * math.sqrt(fourth) / exact / size + 2 * s.allowance),
        "spread": (float(inside.std(0).mean()) / 0.3 - 1, 5 / math.sqrt(1.4) / size + 2 * s.allowance),
    }
    figures = {name: (off, off / limit) for name, (off, limit) in figures.items()}  # type: ignore[misc]
    name, (off, ratio) = max(figures.items(), key=lambda item: _bad(item[1][1]))
    hint = ""
    if not abs(ratio) <= 1.0:
        why = {
            "share": "samples do not settle in the modes by their weights: are score's sign and factor right?",
            "mean": "are drift and score of the right sign and size?",
            "variance": "noise dropped or halved?" if off < 0 else "noise doubled, score's sign or factor?",
            "spread": "noise dropped or halved?" if off < 0 else "noise doubled, score too weak, or no final denoising?",
        }[name]  # fmt: skip
        hint = f"{name} off by {off:+.2g}: {why}"
    return [CheckRow("law of a mixture", _bad(ratio), 1.0, hint)]


def _bad(ratio: float) -> float:
    return math.inf if math.isnan(ratio) else abs(ratio)


def _fourth() -> float:
    """Fourth central moment of a coordinate of the mixture."""
    total, centre = 0.0, -0.4 * _PLACE
    for weight, mean, std in zip(_WEIGHTS, (_PLACE, -_PLACE), _STDS, strict=True):
        d = mean - centre
        total += weight * (d**4 + 6 * d**2 * std**2 + 3 * std**4)
    return total


def _start(s: _Case, law: GaussianMixture, count: int) -> Tensor:
    """Draws of the true law at T."""
    x0 = law.sample(count, seed=s.seed, dtype=torch.float64).reshape(count, *s.event_shape)
    t = torch.full((count,), s.sde.T, dtype=torch.float64)
    noise = NoiseSource.of(s.seed, count)
    z = noise.normal(s.gauss.shape, step=0, purpose="check start", dtype=torch.float64)
    return s.sde.perturb(x0, t, z)


def _batch(s: _Case) -> list[CheckRow]:
    """Sample 5 alone, in a batch of 7 and of 64; another seed."""
    score = _GaussianScore(s.sde, s.event_shape)
    few = s.counts[0]
    whole = _run(s, few, score, 64, seed=11).samples
    seven = _run(s, few, score, 7, seed=11).samples
    alone = _run(s, few, score, 1, seed=11, first=5).samples
    other = _run(s, few, score, 7, seed=12).samples
    unit = float(s.scale())
    error = max(float((whole[:7] - seven).abs().max()), float((whole[5:6] - alone).abs().max())) / unit
    again = float((_run(s, few, score, 7, seed=11).samples - seven).abs().max()) / unit
    hint = ""
    if not error <= BATCH:
        hint = "a sample hangs on its neighbours: does a norm, a mean or a step size run over the batch?"
        if not again <= BATCH:
            hint = (
                "the same seed gives other samples: draw with noise.normal(..., step=, purpose=), keyed by the sample"
            )
    same = float(torch.isclose(other, seven, atol=1e-3 * unit, rtol=0.0).double().mean())
    row = CheckRow("another seed, another sample", same, 0.2, "" if same <= 0.2 else "does it use its noise at all?")
    return [CheckRow("a sample and its batch", error, BATCH, hint), row]


def _global_state(s: _Case) -> list[CheckRow]:
    """The generators of torch, numpy and Python are as they were."""
    with _GlobalState() as state:
        _run(s, s.counts[0], _GaussianScore(s.sde, s.event_shape), 2)
        moved = state.changed()
    hint = f"draws from the global state of {', '.join(moved)}: use noise.normal(..., step=, purpose=)" if moved else ""
    return [CheckRow("global random state", float(len(moved)), 0.0, hint)]


def _few_steps(s: _Case) -> list[CheckRow]:
    """One step and two: finite, or a ValueError that says why not."""
    problems = []
    for steps in (1, 2):
        try:
            result = _run(s, steps, _GaussianScore(s.sde, s.event_shape), 3)
        except ValueError as refusal:
            if not str(refusal):
                problems.append(f"steps={steps} is refused without a reason")
            continue
        except FloatingPointError as problem:
            problems.append(f"steps={steps}: {problem}")
            continue
        if not bool(torch.isfinite(result.samples).all()):
            problems.append(f"steps={steps} gives non-finite samples")
    return [CheckRow("one step and two", float(len(problems)), 0.0, problems[0] if problems else "")]


def _times(s: _Case) -> list[CheckRow]:
    """Times of the result, of the callback and of the score; the calls of the score."""
    problems: list[str] = []
    score, seen = _GaussianScore(s.sde, s.event_shape), list[float]()
    callback: Callback = lambda k, t, x: seen.append(float(t))  # noqa: E731
    result = _run(s, s.counts[0], score, 3, callback=callback)
    for name, times in (("result.times", [float(t) for t in result.times]), ("callback's times", seen)):
        if any(b >= a for a, b in pairwise(times)):
            problems.append(f"{name} do not descend")
    slack = 1e-9 * s.sde.T
    for name, times in (("result.times", [float(t) for t in result.times]), ("the score's times", score.times)):
        if times and not (min(times) >= -slack and max(times) <= s.sde.T + slack):
            problems.append(f"{name} run from {max(times):g} to {min(times):g}: [0, {s.sde.T:g}] is allowed")
    if not seen or abs(seen[0] - s.sde.T) > slack:
        problems.append("the callback is not called with T first")
    wrong = abs(result.nfe - len(score.times) // 2)
    return [
        CheckRow("times", float(len(problems)), 0.0, problems[0] if problems else ""),
        CheckRow(
            "evaluations counted", float(wrong), 0.0,
            f"nfe={result.nfe} for {len(score.times) // 2} calls: call the score that run is given" if wrong else "",
        ),
    ]  # fmt: skip


def _shapes(s: _Case) -> list[CheckRow]:
    """Shapes and types of what comes out, in both types, for any rank where the process takes any."""
    problems = []
    shapes = [s.event_shape] + ([(), (3,), (2, 3), (1, 2, 3)] if isinstance(s.sde, ScalarSDE) else [])
    for shape in shapes:
        score = _GaussianScore(s.sde, shape)
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
                problems.append(
                    f"samples are {x.dtype} for {dtype}: make tensors with .to(x), not in a dtype of one's own"
                )
    return [CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else "")]
