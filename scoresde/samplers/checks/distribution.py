"""Checks of the distribution of the samples: order of convergence for Gaussian data, and the modes of a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers.checks.diagnoses import explain
from scoresde.samplers.checks.moments import (
    Case,
    GaussianScore,
    OutputDistribution,
    distance,
    exact_distribution,
    run,
    targets,
)
from scoresde.sde import CheckRow

BELOW = 0.15
"""How far the fitted slope may be below the stated order.

A sampler with a wrong limit has slope 0. If the slope is between half of the order and the order, the number of steps
is doubled up to ``FINER`` times. Then all first-order samplers are above 0.87 on VP, sub-VP and VE with the paper's
ranges. A slope above the order always passes: a small leading term is not a mistake. (Euler-Maruyama on VE has slope 2
down to errors of 1e-5, because the distribution depends on the last steps only.)
"""

FINER = 2
"""How often the last number of steps is doubled before the slope counts as too small."""

LEAST = 0.7
"""Smallest slope that passes if no order is stated: every consistent one-step method has weak order 1."""

ROUNDING = 1e-9
"""Smaller errors of the distribution are rounding. They are left out of the fit of the slope."""

AFFINE = 1e-7
"""Largest deviation of an affine map from its own prediction, in standard deviations."""


def _slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of -ln(error) against ln(steps); inf if the errors are rounding."""
    kept = [(math.log(n), -math.log(e)) for n, e in zip(counts, errors, strict=True) if e > ROUNDING]
    if len(kept) < 3:
        return math.inf
    k, y = torch.tensor(kept, dtype=torch.float64).mT
    return float(((k - k.mean()) * (y - y.mean())).sum() / ((k - k.mean()) ** 2).sum())


def order(s: Case) -> list[CheckRow]:
    """Check weak convergence for Gaussian data: the distribution of the output against the exact one."""
    ends = [exact_distribution(s, n) for n in (s.counts[0], s.counts[-1])]
    chosen = ends[0].nfe == ends[1].nfe
    if max(end.bend for end in ends) > (1e-2 if chosen else AFFINE):
        rows = _sampled_distribution(s, ends[1])
    elif chosen or s.order == 0:
        found = ends[1]
        error = min(distance(found.mean, found.covariance, target) for target in targets(s, found.t_min))
        name = "distribution; solver chooses its steps" if chosen else f"distribution at {s.counts[-1]} steps"
        hint = (
            ""
            if error <= s.allowance
            else explain(s, ends[0] if chosen else exact_distribution(s, s.counts[-2]), found)
        )
        rows = [CheckRow(name, error, s.allowance, hint)]
    else:
        rows = [_order_row(s, [ends[0], *(exact_distribution(s, n) for n in s.counts[1:-1]), ends[1]])]
    if s.denoised:
        # The last draw has coefficient zero, or the score is evaluated at t_min after it.
        left = 0.0 if ends[1].lowest <= ends[1].t_min * (1.0 + 1e-6) else ends[1].last / float(s.scale())
        hint = (
            "" if left <= ROUNDING else "the samples contain the noise of the last step: return its mean, or E[x_0 | x]"
        )
        rows.append(CheckRow("noise left by the last step", left, ROUNDING, hint))
    return rows


def _order_row(s: Case, found: list[OutputDistribution]) -> CheckRow:
    """The fitted order of convergence over the numbers of steps of ``found``, which this function extends if needed."""
    ends = targets(s, found[-1].t_min)
    wanted = LEAST if s.order is None else s.order - BELOW
    counts = list(s.counts)

    def fitted() -> float:
        """The slope over the last counts, towards the closer one of the two limits."""
        last = slice(-len(s.counts), None)
        return max(_slope(counts[last], [distance(v.mean, v.covariance, k) for v in found[last]]) for k in ends)

    slope = fitted()
    while 0.5 * (wanted + BELOW) < slope < wanted and len(counts) < len(s.counts) + FINER:
        counts.append(2 * counts[-1])
        found.append(exact_distribution(s, counts[-1]))
        slope = fitted()
    claim = "" if s.order is None else f" for order {s.order:g}"
    short = max(wanted - slope, 0.0) if not math.isnan(slope) else math.inf
    text = "exact to rounding" if slope == math.inf else f"slope {slope:.2f}{claim} up to {counts[-1]} steps"
    if short > 0.0:
        if slope >= LEAST:
            text += ": converges, but not with the order stated"
        else:
            error = min(distance(found[-1].mean, found[-1].covariance, k) for k in ends)
            text += f", error {error:.1e}: {explain(s, found[-2], found[-1])}"
    return CheckRow("order of convergence", short, 0.0, text)


def _sampled_distribution(s: Case, rough: OutputDistribution) -> list[CheckRow]:
    """Check mean and variance of samples, for a sampler whose output is not an affine map of its noise.

    They must agree within five standard errors. The probability of a false alarm is 1e-6 for each.
    """
    mean, covariance = s.gauss.marginal(s.sde.T)
    z = NoiseSource.of(s.seed, s.samples).normal(s.gauss.shape, step=0, purpose="check start", dtype=torch.float64)
    start = mean + z.reshape(s.samples, -1) @ torch.linalg.cholesky(covariance).mT
    score = GaussianScore(s.sde, s.event_shape)
    result = run(s, s.counts[-1], score, s.samples, seed=s.seed, start=start.reshape(s.samples, *s.gauss.shape))
    out = result.state.to(torch.float64).reshape(s.samples, -1)
    figures = []
    for at, exact in targets(s, rough.t_min):
        variance = exact.diagonal()
        off = ((out.mean(0) - at) / variance.sqrt()).abs() / (5.0 / math.sqrt(s.samples) + s.allowance)
        ratio = (out.var(0) / variance - 1.0).abs() / (5.0 * math.sqrt(2.0 / s.samples) + 2.0 * s.allowance)
        figures.append(float(torch.maximum(off, ratio).max()))
    hint = "the steps depend on the score: estimated from samples"
    if not min(figures) <= 1.0:
        cov = out.mT.cov().reshape(len(mean), len(mean))
        found = OutputDistribution(out.mean(0), cov, 0.0, 0.0, rough.t_min, 0.0, 0)
        hint = explain(s, found, found)
    return [CheckRow("distribution of Gaussian data", min(figures), 1.0, hint)]


_PLACE, _STDS, _WEIGHTS = 0.7, (0.2, 0.3), (0.3, 0.7)


def _modes(event_shape: tuple[int, ...]) -> GaussianMixture:
    """Two modes on the diagonal: 0.3 N(0.7, 0.2^2) + 0.7 N(-0.7, 0.3^2) in every coordinate."""
    means = _PLACE * torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(2, *(1 for _ in event_shape))
    return GaussianMixture(means.expand(2, *event_shape), torch.tensor(_STDS), torch.tensor(_WEIGHTS))


def mixture(s: Case) -> list[CheckRow]:
    """Check samples of a mixture of two modes: weight and width of the larger mode, and mean and variance of all samples."""
    modes = _modes(s.event_shape)
    start = _start(s, modes, s.samples)
    result = run(s, s.counts[-1], modes.score(s.sde), s.samples, seed=s.seed, start=start)
    x = result.samples.to(torch.float64).reshape(s.samples, -1)
    heavy = x.mean(1) < 0
    size = math.sqrt(s.samples)
    share = float(heavy.double().mean())
    inside = x[heavy] if int(heavy.sum()) > 1 else torch.full((2, 1), math.nan, dtype=torch.float64)
    # The means are 3.5 and 2.3 deviations from the middle: samples beyond it change the moments by less than the allowance.
    exact = 0.3 * 0.2**2 + 0.7 * 0.3**2 + 4 * _PLACE**2 * 0.21
    fourth = _fourth() - exact**2
    figures = {
        "share": (share - 0.7, 5 * math.sqrt(0.21) / size + s.allowance),
        "mean": (float(x.mean()) + 0.4 * _PLACE, 5 * math.sqrt(exact) / size + s.allowance),
        "variance": (float(x.var(0).mean()) / exact - 1, 5 * math.sqrt(fourth) / exact / size + 2 * s.allowance),
        "spread": (float(inside.std(0).mean()) / 0.3 - 1, 5 / math.sqrt(1.4) / size + 2 * s.allowance),
    }
    figures = {name: (off, off / limit) for name, (off, limit) in figures.items()}
    name, (off, ratio) = max(figures.items(), key=lambda item: _bad(item[1][1]))
    hint = ""
    if not abs(ratio) <= 1.0:
        little, much = "is the noise dropped or halved?", "is the noise doubled, or the score wrong in sign or factor?"
        why = {
            "share": "the modes have wrong weights: are sign and factor of the score right?",
            "mean": "are signs and factors of drift and score right?",
            "variance": little if off < 0 else much,
            "spread": little if off < 0 else "is the noise doubled, the score too small, or final denoising missing?",
        }[name]
        hint = f"{name} off by {off:+.2g}: {why}"
    return [CheckRow("distribution of a mixture", _bad(ratio), 1.0, hint)]


def _bad(ratio: float) -> float:
    """The size of the ratio; inf for NaN."""
    return math.inf if math.isnan(ratio) else abs(ratio)


def _fourth() -> float:
    """Fourth central moment of a coordinate of the mixture."""
    total, center = 0.0, -0.4 * _PLACE
    for weight, mean, std in zip(_WEIGHTS, (_PLACE, -_PLACE), _STDS, strict=True):
        d = mean - center
        total += weight * (d**4 + 6 * d**2 * std**2 + 3 * std**4)
    return total


def _start(s: Case, modes: GaussianMixture, count: int) -> Tensor:
    """Samples of the true distribution at T."""
    x0 = modes.sample(count, seed=s.seed, dtype=torch.float64).reshape(count, *s.event_shape)
    t = torch.full((count,), s.sde.T, dtype=torch.float64)
    noise = NoiseSource.of(s.seed, count)
    z = noise.normal(s.gauss.shape, step=0, purpose="check start", dtype=torch.float64)
    return s.sde.perturb(x0, t, z)
