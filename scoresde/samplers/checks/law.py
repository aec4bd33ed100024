"""Rows on the law of the output: its order of convergence for Gaussian data, and the law of a mixture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers.checks.diagnoses import explain
from scoresde.samplers.checks.moments import Case, GaussianScore, Law, distance, exact_law, run, targets
from scoresde.sde import CheckRow

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


def _slope(counts: Sequence[int], errors: Sequence[float]) -> float:
    """Least-squares slope of -ln(error) over ln(steps); inf where the errors are rounding."""
    kept = [(math.log(n), -math.log(e)) for n, e in zip(counts, errors, strict=True) if e > ROUNDING]
    if len(kept) < 3:
        return math.inf
    k, y = torch.tensor(kept, dtype=torch.float64).mT
    return float(((k - k.mean()) * (y - y.mean())).sum() / ((k - k.mean()) ** 2).sum())


def order(s: Case) -> list[CheckRow]:
    """Convergence in law for Gaussian data."""
    ends = [exact_law(s, n) for n in (s.counts[0], s.counts[-1])]
    chosen = ends[0].nfe == ends[1].nfe
    if max(law.bend for law in ends) > (1e-2 if chosen else AFFINE):
        rows = _sampled_law(s, ends[1])
    elif chosen or s.order == 0:
        found = ends[1]
        error = min(distance(found.mean, found.covariance, target) for target in targets(s, found.t_min))
        name = "law; solver chooses its steps" if chosen else f"law at {s.counts[-1]} steps"
        hint = "" if error <= s.allowance else explain(s, ends[0] if chosen else exact_law(s, s.counts[-2]), found)
        rows = [CheckRow(name, error, s.allowance, hint)]
    else:
        rows = [_order_row(s, [ends[0], *(exact_law(s, n) for n in s.counts[1:-1]), ends[1]])]
    if s.denoised:
        # a coefficient of zero, or a score after it, at t_min itself
        left = 0.0 if ends[1].lowest <= ends[1].t_min * (1.0 + 1e-6) else ends[1].last / float(s.scale())
        hint = "" if left <= ROUNDING else "the last step's noise is left in: return its mean, or E[x_0 | x]"
        rows.append(CheckRow("noise left by the last step", left, ROUNDING, hint))
    return rows


def _order_row(s: Case, laws: list[Law]) -> CheckRow:
    ends = targets(s, laws[-1].t_min)
    wanted = LEAST if s.order is None else s.order - BELOW
    counts = list(s.counts)

    def fitted() -> float:
        """The slope towards the law that it tends to, over the last counts."""
        last = slice(-len(s.counts), None)
        return max(_slope(counts[last], [distance(v.mean, v.covariance, k) for v in laws[last]]) for k in ends)

    slope = fitted()
    while 0.5 * (wanted + BELOW) < slope < wanted and len(counts) < len(s.counts) + FINER:
        counts.append(2 * counts[-1])
        laws.append(exact_law(s, counts[-1]))
        slope = fitted()
    claim = "" if s.order is None else f" for order {s.order:g}"
    short = max(wanted - slope, 0.0) if not math.isnan(slope) else math.inf
    told = "exact to rounding" if slope == math.inf else f"slope {slope:.2f}{claim} up to {counts[-1]} steps"
    if short > 0.0:
        if slope >= LEAST:
            told += ": converges, but not with the order stated"
        else:
            error = min(distance(laws[-1].mean, laws[-1].covariance, k) for k in ends)
            told += f", error {error:.1e}: {explain(s, laws[-2], laws[-1])}"
    return CheckRow("order of convergence", short, 0.0, told)


def _sampled_law(s: Case, rough: Law) -> list[CheckRow]:
    """The output is no affine map: mean and variance by samples, within five standard errors (a false alarm in 1e6 for each)."""
    mean, covariance = s.gauss.law(s.sde.T)
    z = NoiseSource.of(s.seed, s.samples).normal(s.gauss.shape, step=0, purpose="check start", dtype=torch.float64)
    start = mean + z.reshape(s.samples, -1) @ torch.linalg.cholesky(covariance).mT
    score = GaussianScore(s.sde, s.event_shape)
    result = run(s, s.counts[-1], score, s.samples, seed=s.seed, start=start.reshape(s.samples, *s.gauss.shape))
    out = result.state.to(torch.float64).reshape(s.samples, -1)
    figures = []
    for at, law in targets(s, rough.t_min):
        variance = law.diagonal()
        off = ((out.mean(0) - at) / variance.sqrt()).abs() / (5.0 / math.sqrt(s.samples) + s.allowance)
        ratio = (out.var(0) / variance - 1.0).abs() / (5.0 * math.sqrt(2.0 / s.samples) + 2.0 * s.allowance)
        figures.append(float(torch.maximum(off, ratio).max()))
    hint = "steps follow the score: by samples"
    if not min(figures) <= 1.0:
        cov = out.mT.cov().reshape(len(mean), len(mean))
        found = Law(out.mean(0), cov, 0.0, 0.0, rough.t_min, 0.0, 0)
        hint = explain(s, found, found)
    return [CheckRow("law of Gaussian data", min(figures), 1.0, hint)]


_PLACE, _STDS, _WEIGHTS = 0.7, (0.2, 0.3), (0.3, 0.7)


def _modes(event_shape: tuple[int, ...]) -> GaussianMixture:
    """Two modes on the diagonal: 0.3 N(0.7, 0.2^2) + 0.7 N(-0.7, 0.3^2) in every coordinate."""
    means = _PLACE * torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(2, *(1 for _ in event_shape))
    return GaussianMixture(means.expand(2, *event_shape), torch.tensor(_STDS), torch.tensor(_WEIGHTS))


def mixture(s: Case) -> list[CheckRow]:
    """Two modes: the heavy one's share, mean and spread, and the whole variance, against exact draws of the same sizes."""
    law = _modes(s.event_shape)
    start = _start(s, law, s.samples)
    result = run(s, s.counts[-1], law.score(s.sde), s.samples, seed=s.seed, start=start)
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
    figures = {name: (off, off / limit) for name, (off, limit) in figures.items()}
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


def _start(s: Case, law: GaussianMixture, count: int) -> Tensor:
    """Draws of the true law at T."""
    x0 = law.sample(count, seed=s.seed, dtype=torch.float64).reshape(count, *s.event_shape)
    t = torch.full((count,), s.sde.T, dtype=torch.float64)
    noise = NoiseSource.of(s.seed, count)
    z = noise.normal(s.gauss.shape, step=0, purpose="check start", dtype=torch.float64)
    return s.sde.perturb(x0, t, z)
