"""Measured orders of convergence of the samplers. ``benchmarks/sampler_orders.py`` prints the table of docs/samplers.md.

The steps are those of the ``log_noise`` grid from T to t = 0.05, with 16 to 81 steps. The order is the least-squares slope of
-ln(error) against ln(steps). The processes are mild (VP and sub-VP with beta up to 8, VE from 0.1 to 5), so that these
counts are in the asymptotic range.

Strong error: root mean square distance of 24 paths from the exact flow (DOP853 at 1e-11), for a mixture of two modes, whose
score is not linear. Weak error: error of mean and variance for Gaussian data, exact to rounding (``samplers/checks/moments.py``).

The methods of torchsde for the reverse SDE have equal steps in t. They are measured for Gaussian data without random
numbers. Such a sampler is linear in its start and its noise, so that a single run on unit vectors gives its distribution,
and its correlation with the exact path x = P x_T + int phi dw. Strong error: root mean square distance from this path, for
the same Brownian motion. Weak
error: error of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers import DEIS, EDM, DPMSolverPlusPlus, ProbabilityFlowODE, ReverseSDESampler, Sampler, UniPC, grids
from scoresde.samplers.checks.moments import Case, distance, exact_distribution, targets
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.exponential import (
    AdamsBashforth,
    Churn,
    DataParameterization,
    DPMSolverSingleStep,
    ExponentialMultistep,
    ExponentialRungeKutta,
    NoiseParameterization,
    Whitened,
    noise_to_signal,
)
from scoresde.sde import VESDE, VPSDE, LinearSDE, ScalarSDE, SubVPSDE
from scoresde.solvers import ScipyODE, TorchSDE
from scoresde.solvers.quadrature import gauss_legendre

# mild processes, so that the counts below are in the asymptotic range
SDES = {"vp": VPSDE(0.1, 8.0), "subvp": SubVPSDE(0.1, 8.0), "ve": VESDE(0.1, 5.0)}
COUNTS = (16, 24, 36, 54, 81)
T_MIN = 0.05


def slope(errors: Sequence[float], counts: Sequence[int] = COUNTS) -> float:
    """Least-squares slope of -ln(error) over ln(steps)."""
    k, y = (torch.tensor(v, dtype=torch.float64).log() for v in (counts, errors))
    return float(-((k - k.mean()) * (y - y.mean())).sum() / ((k - k.mean()) ** 2).sum())


def on(steps: int) -> ExactTransitions:
    """The grid of ``steps``."""
    return ExactTransitions(steps, lambda sde, n: grids.log_noise(sde, n, T_MIN))


def mixture(event_shape: tuple[int, ...] = (2,)) -> GaussianMixture:
    """A mixture of two modes."""
    d = math.prod(event_shape)
    means = torch.stack([torch.full((d,), 0.5), torch.full((d,), -0.6)]).reshape(2, *event_shape)
    return GaussianMixture(means, torch.tensor([0.5, 0.4]), torch.tensor([0.4, 0.6]))


Make = Callable[[int | ExactTransitions], Sampler]


def path_errors(make: Make, sde: ScalarSDE, truth: dict[ScalarSDE, torch.Tensor] = {}) -> list[float]:  # noqa: B006  (a cache)
    """Root mean square distance from the exact flow at t_min, for each of the counts."""
    score, shape = mixture().score(sde), (24, 2)
    start = sde.prior_sample(shape, seed=5, dtype=torch.float64)
    if sde not in truth:
        exact = ProbabilityFlowODE(ScipyODE("DOP853", 1e-11, 1e-11), t_min=T_MIN, denoise=False)
        truth[sde] = exact(sde, score, shape, start=start).samples
    runs = [make(on(n))(sde, score, shape, start=start).samples for n in COUNTS]
    return [float((x - truth[sde]).square().mean().sqrt()) for x in runs]


def quiet(kind: Callable[..., Sampler], *args: object, **kwargs: object) -> Make:
    """The sampler without the final denoising step."""
    return lambda steps: kind(steps, *args, **kwargs, denoise=False)


STRONG = {
    "DDIM": (quiet(ExponentialMultistep, 1), 1),
    "DPM-Solver++(2M)": (quiet(DPMSolverPlusPlus), 2),
    "DPM-Solver++(3M)": (quiet(DPMSolverPlusPlus, 3), 3),
    "order 4": (quiet(ExponentialMultistep, 4), 4),
    "UniPC-2": (quiet(UniPC, 2), 3),
    "UniPC-3": (quiet(UniPC, 3), 3),
    "DEIS-2": (quiet(DEIS, 2), 2),
    "DEIS-3": (quiet(DEIS, 3), 3),
    "rho-DEIS-3": (quiet(DEIS, 3, noise_to_signal), 3),
    "Adams-Bashforth 2": (quiet(AdamsBashforth, 2), 2),
    "Adams-Bashforth 2, corrected": (quiet(AdamsBashforth, 2, corrector=True), 3),
    "DPM-Solver++(2S)": (quiet(DPMSolverSingleStep, 2), 2),
    "DPM-Solver++(3S)": (quiet(DPMSolverSingleStep, 3), 3),
    "EDM's Heun": (quiet(EDM), 2),
    "Whitened, third order single step": (quiet(ExponentialRungeKutta, 3, Whitened()), 3),
}


def weak_errors(
    make: Make, sde: LinearSDE, counts: Sequence[int] = COUNTS, event_shape: tuple[int, ...] = (1,)
) -> list[float]:
    """Errors of the distribution at t_min for Gaussian data, exact to rounding."""
    case = Case(lambda n: make(on(n)), sde, event_shape, (8,), None, T_MIN, None, 0.05, 10, 0)
    distributions = [exact_distribution(case, n) for n in counts]
    target = targets(case, T_MIN)[0]
    return [distance(distribution.mean, distribution.covariance, target) for distribution in distributions]


WEAK = {
    "SDE-DPM-Solver++(1)": (quiet(ExponentialMultistep, 1, DataParameterization(), 1.0), 1),
    "SDE-DPM-Solver++(2M)": (quiet(DPMSolverPlusPlus, 2, 1.0), 2),
    "half of its noise": (quiet(DPMSolverPlusPlus, 2, 0.5), 2),
    "SDE, noise form": (quiet(ExponentialMultistep, 2, NoiseParameterization(), 1.0), 2),
    "SDE, whitened": (quiet(ExponentialMultistep, 2, Whitened(), 1.0), 2),
    "SDE, corrected first order": (quiet(ExponentialMultistep, 1, DataParameterization(), 1.0, corrector=True), 2),
    "EDM, churned": (quiet(EDM, churn=Churn(4.0)), 2),
}


class UnitDraws(NoiseSource):
    """Row 2 + 2 k has 1 for the normal of w at step k, row 3 + 2 k for that of its time integral. Rows 0 and 1 have no noise."""

    def normal(self, event_shape, *, step, purpose, dtype):  # type: ignore[no-untyped-def]
        z = torch.zeros(len(self.indices), *event_shape, dtype=dtype)
        z[2 + 2 * step + (purpose == "brownian area")] = 1.0
        return z


STD = 0.4
"""Standard deviation of the data for the reverse SDE."""


def reverse_errors(method: str, sde: ScalarSDE, steps: int) -> tuple[float, float]:
    """Strong and weak error of ``ReverseSDESampler`` at t_min, exact to rounding."""

    def variance(t: torch.Tensor) -> torch.Tensor:
        return sde.alpha(t) ** 2 * STD**2 + sde.sigma(t) ** 2

    rows = 2 + 2 * steps
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[1] = 1.0
    sampler = ReverseSDESampler(TorchSDE(method), steps, t_min=T_MIN, denoise=False)
    x = sampler(
        sde, lambda x, t: -x / variance(t)[:, None], (rows, 1), start=start, noise=UnitDraws(0, torch.arange(rows))
    ).samples[:, 0]

    end, first = torch.tensor([T_MIN], dtype=torch.float64), torch.tensor([sde.T], dtype=torch.float64)

    def propagator(t: torch.Tensor) -> torch.Tensor:
        return variance(end) / variance(t) * sde.alpha(t) / sde.alpha(end)

    h = (sde.T - T_MIN) / steps
    nodes, weights = gauss_legendre(12)
    r = h * (torch.arange(steps)[:, None] + nodes)  # elapsed time
    phi = propagator((sde.T - r).flatten()).reshape(r.shape) * sde.diffusion((sde.T - r).flatten()).reshape(r.shape)
    whole = h * (phi**2 @ weights)
    with_w = h**0.5 * (phi @ weights)
    with_area = (12.0 * h) ** 0.5 * (phi * (0.5 - nodes) @ weights)
    found = x[2:].reshape(steps, 2)
    exact = torch.stack((with_w, with_area), 1)
    apart = ((found - exact) ** 2).sum() + (whole - (exact**2).sum(1)).sum()
    strong = (x[1] - propagator(first)) ** 2 * variance(first) + apart
    weak = x[1] ** 2 * variance(first) + (found**2).sum() - variance(end)
    return float(strong.sqrt()), float(weak.abs())


REVERSE = {
    "euler": (1, 1),
    "milstein": (1, 1),
    "srk": (2, 2),
    "heun": (1, 2),
    "midpoint": (1, 2),
    "euler_heun": (1, 1),
}
"""Strong and weak order if the diffusion depends only on t and the drift is linear. Otherwise SRK has strong order 1.5."""
REVERSE_COUNTS = (81, 122, 183, 274)


def reverse_slopes(method: str, sde: ScalarSDE) -> tuple[float, float]:
    """Measured strong and weak order."""
    strong, weak = zip(*(reverse_errors(method, sde, n) for n in REVERSE_COUNTS), strict=True)
    return slope(strong, REVERSE_COUNTS), slope(weak, REVERSE_COUNTS)
