"""Compares the stated error of likelihoods with the true error, for many data sets and grids. Prints Markdown tables.

    python benchmarks/likelihood_honesty.py [--families shifted thin ...] [--points 20] [--detail]

The families of data have closed-form scores and divergences. Each is measured under VP, sub-VP and VE(.01, 50):

    centered     the mixtures of benchmarks/problems.py in 2 and 16 dimensions, for which grids were made
    shifted     N(10, .3^2) in 2 dimensions, and a mixture in 8 dimensions around 5
    thin        std 1e-3 in 15 of 20 directions, rotated and not; a mixture in 10 dimensions, thin in 6
    far         points four times as far from the mean as data is; modes at a distance of 20
    multimodal  12 modes on a ring of radius 3 and std .02; 6 random modes in 2 dimensions
    scaled      std .004 and std 20 in 4 dimensions

The solvers are the standard grid with 8, 12, 16 and 64 nodes, a grid fitted to other examples with 16 and 32 nodes, a user's
grid (nodes equally spaced in u) with 32 nodes, the default call, and the default call with tolerance=1e-4. Each is used with
the exact trace and with one probe. The true value is the closed form at t_min, with the prior in place of p_T, at latents
from 600 nodes. It agrees with DOP853 at 1e-9 within 1e-6 nats.

The stated error of a point is honest if |error| <= 2 standard_error. "worst" is the largest |error| / standard_error of any
point. Errors below 2e-6 nats count as honest, because the true value is not more accurate than that. "evaluations" is per
point: a refined point counts all of its passes, other points count one.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from likelihood import table
from problems import PROCESSES, T_MIN, KnownTrace, PerturbedScore
from problems import distribution as centered_distribution
from torch import Tensor

from scoresde import GaussianMixture, log_likelihood
from scoresde.likelihood import FlowGrid, Hadamard, Multistep, fit_grid
from scoresde.noise import NoiseSource
from scoresde.sde import ScalarSDE

FAMILIES = {
    "centered": ("gmm2", "gmm16"),
    "shifted": ("at10", "around5"),
    "thin": ("thin20", "thin20turned", "thin10"),
    "far": ("far4", "apart20"),
    "multimodal": ("ring", "random6"),
    "scaled": ("tiny", "wide"),
}
FLOOR = 2e-6


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers that depend only on the seed."""
    return NoiseSource.of(seed, shape[0]).normal(shape[1:], step=0, purpose="honesty", dtype=torch.float64)


@lru_cache
def distribution(name: str) -> GaussianMixture:
    """The distribution of the data."""
    f64 = torch.float64
    if name.startswith("gmm"):
        return centered_distribution(name)
    if name == "at10":
        return GaussianMixture(torch.full((1, 2), 10.0, dtype=f64), 0.3)
    if name == "around5":
        return GaussianMixture(5.0 + 0.5 * normal((6, 8), 1), torch.linspace(0.1, 0.4, 6, dtype=f64))
    if name in ("thin20", "thin20turned"):
        stds = torch.cat((torch.tensor([0.8, 0.6, 0.5, 0.4, 0.3], dtype=f64), torch.full((15,), 1e-3, dtype=f64)))
        turn = torch.linalg.qr(normal((20, 20), 2))[0] if name == "thin20turned" else torch.eye(20, dtype=f64)
        covariance = turn @ torch.diag(stds**2) @ turn.mT
        return GaussianMixture(torch.zeros(1, 20), covariances=0.5 * (covariance + covariance.mT)[None])
    if name == "thin10":
        stds = torch.cat((torch.full((4,), 0.4, dtype=f64), torch.full((6,), 3e-3, dtype=f64))).expand(4, 10)
        return GaussianMixture(0.5 * normal((4, 10), 3), stds)
    if name == "far4":
        return GaussianMixture(0.5 * normal((3, 4), 4), torch.tensor([0.2, 0.3, 0.1]))
    if name == "apart20":
        return GaussianMixture(torch.tensor([[-10.0, 0.0, 0.0], [10.0, 0.0, 1.0]]), torch.tensor([0.5, 0.2]))
    if name == "ring":
        angle = torch.arange(12, dtype=f64) * math.tau / 12
        return GaussianMixture(3.0 * torch.stack((angle.cos(), angle.sin()), 1), 0.02)
    if name == "random6":
        return GaussianMixture(normal((6, 2), 5), torch.tensor([0.3, 0.2, 0.1, 0.1, 0.05, 0.05]))
    return GaussianMixture(torch.zeros(1, 4), {"tiny": 0.004, "wide": 20.0}[name])


@dataclass(frozen=True)
class Case:
    """A distribution under a process with its exact score, as ``KnownTrace`` needs it."""

    name: str
    process: str

    @property
    def sde(self) -> ScalarSDE:
        """The process."""
        return PROCESSES[self.process]

    @cached_property
    def score(self) -> PerturbedScore:
        """The exact score."""
        return PerturbedScore(distribution(self.name), self.sde, 0.0, 1.0)

    def examples(self, count: int) -> Tensor:
        """Points whose likelihood is wanted."""
        x = distribution(self.name).sample(count, seed=1, dtype=torch.float64)
        mean = distribution(self.name).means.mean(0)
        return mean + 4.0 * (x - mean) if self.name == "far4" else x

    def pilot(self) -> FlowGrid:
        """The grid fitted to other examples."""
        return fit_grid(self.sde, self.score, distribution(self.name).sample(16, seed=5, dtype=torch.float64))

    def even(self) -> FlowGrid:
        """A user's grid: nodes even in u."""
        u = tuple(self.sde.log_spread(torch.tensor([T_MIN, self.sde.T], dtype=torch.float64)).tolist())
        return FlowGrid(T_MIN, u, (0.0, 1.0), (), 0.5)

    def exact_log_prob(self, x: Tensor) -> Tensor:
        """log p of the flow, (B,) nats: the distribution's own at T_MIN, less the mismatch of the prior at the end of
        the flow."""
        known = KnownTrace(self)  # type: ignore[arg-type]
        solver = Multistep(600, self.even())
        latent = log_likelihood(self.sde, known.score, x, divergence=known, solver=solver).latent
        start, end = torch.tensor([T_MIN, self.sde.T], dtype=torch.float64)
        mismatch = distribution(self.name).log_prob_at(self.sde, latent, end) - self.sde.prior_log_prob(latent)
        return distribution(self.name).log_prob_at(self.sde, x, start) - mismatch

    @property
    def d(self) -> int:
        """Coordinates."""
        return math.prod(distribution(self.name).event_shape)


def engines(case: Case) -> Iterator[tuple[str, dict[str, object]]]:
    """Name and arguments of every call."""
    for nodes in (8, 12, 16, 64):
        yield f"standard {nodes}", {"solver": Multistep(nodes)}
    grid = case.pilot()
    for nodes in (16, 32):
        yield f"fitted {nodes}", {"solver": Multistep(nodes, grid)}
    yield "user 32", {"solver": Multistep(32, case.even())}
    yield "default", {}
    yield "tolerance 1e-4", {"tolerance": 1e-4}


@dataclass(frozen=True)
class Found:
    """Results of a call. spent: score evaluations of single points, per point."""

    family: str
    case: Case
    engine: str
    trace: str
    error: Tensor
    stated: Tensor
    spent: float

    @property
    def ratio(self) -> Tensor:
        """|error| / stated, 0 where the error is below what the truth knows."""
        return torch.where(self.error.abs() < FLOOR, 0.0, self.error.abs() / self.stated.clamp(min=1e-300))


class Counted:
    """A score that counts the points it sees."""

    def __init__(self, score: object) -> None:
        self.score, self.points = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.points += len(x)
        return self.score(x, t)  # type: ignore[operator,no-any-return]


def run(family: str, count: int) -> Iterator[Found]:
    """Every process, engine and trace."""
    for name in FAMILIES[family]:
        for process in PROCESSES:
            case = Case(name, process)
            x = case.examples(count)
            exact, known = case.exact_log_prob(x), KnownTrace(case)  # type: ignore[arg-type]
            for engine, options in engines(case):
                for trace in ("exact", "one probe"):
                    score = Counted(known.score if trace == "exact" else case.score)
                    divergence = known if trace == "exact" else Hadamard()
                    found = log_likelihood(case.sde, score, x, divergence=divergence, seed=7, **options)  # type: ignore[arg-type]
                    error = found.log_prob - exact
                    yield Found(family, case, engine, trace, error, found.standard_error, score.points / len(x))


def row(label: list[str], found: list[Found]) -> list[str]:
    """Share within twice, worst ratio, errors and evaluations."""
    ratio = torch.cat([f.ratio for f in found])
    error = torch.cat([f.error / f.case.d for f in found]).abs()
    stated = torch.cat([f.stated / f.case.d for f in found])
    spent = sum(f.spent for f in found) / len(found)
    return [*label, f"{float((ratio <= 2.0).double().mean()):.1%}", f"{float(ratio.max()):.3g}",
            *(f"{float(v):.1e}" for v in (error.median(), error.max(), stated.median())), f"{spent:.0f}"]  # fmt: skip


COLUMNS = ("within twice", "worst ratio", "error per dim, median", "largest", "stated, median", "evaluations")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--detail", action="store_true", help="a row for every distribution, process and engine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    found = [f for family in options.families for f in run(family, options.points)]
    for trace in ("exact", "one probe"):
        part = [f for f in found if f.trace == trace]
        print(f"\n{'Exact trace' if trace == 'exact' else 'One probe'}, by family and by engine (nats):\n")
        rows = [row([f], [p for p in part if p.family == f]) for f in options.families]
        rows += [row([e], [p for p in part if p.engine == e]) for e in dict.fromkeys(p.engine for p in part)]
        rows += [row(["all"], part)]
        table(("family or engine", *COLUMNS), rows)
    if options.detail:
        print()
        table(("distribution", "process", "engine", "trace", *COLUMNS),
              (row([f.case.name, f.case.process, f.engine, f.trace], [f]) for f in found))  # fmt: skip
    print(f"\n{time.time() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
