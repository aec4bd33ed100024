"""Each process with each objective, each sampler and the likelihood: the problems and the numbers of docs/matrix.md.

`benchmarks/matrix.py` describes the numbers and writes the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch

from scoresde import Exact, GaussianMixture, log_likelihood
from scoresde.losses import DenoisingScoreMatching, SlicedScoreMatching, UniformLogNoise
from scoresde.samplers import (
    DDIM,
    EDM,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    ReverseSDESampler,
    UniPC,
)
from scoresde.samplers.predictor_corrector import SymmetricSplitting
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    BlurringSDE,
    CosineVPSDE,
    CriticallyDampedLangevin,
    LearnedSNRSDE,
    LinearInterpolantSDE,
    LinearSDE,
    LogSNRLinearSDE,
    MatrixSDE,
    NonlinearSDE,
    Schedule,
    Score,
    Shifted,
    SubVPSDE,
)
from scoresde.solvers import TorchSDE

Event = tuple[int, ...]


def vp_as_matrices(event: Event) -> MatrixSDE:
    """VP as 1 x 1 blocks: only F and G are given, the kernel is integrated numerically."""
    beta = VPSDE().beta

    def drift(t: torch.Tensor) -> torch.Tensor:
        return -0.5 * beta(t)[..., None, None]

    def diffusion(t: torch.Tensor) -> torch.Tensor:
        return beta(t).sqrt()[..., None, None]

    return MatrixSDE(drift, diffusion, prior_covariance=torch.eye(1, dtype=torch.float64))


def learned_snr(event: Event) -> LearnedSNRSDE:
    """A schedule as after training: half of the increase of gamma is in the first quarter."""
    sde = LearnedSNRSDE(10.0, -10.0)
    with torch.no_grad():
        sde.a[: len(sde.a) // 4] += 3.5
    return sde


def diffusion_of_state(event: Event) -> NonlinearSDE:
    """The marginals p_t of VP for the mixture, with another g: f = v + div(g g^T) / 2 + g^2 grad log p_t / 2, v the VP flow."""
    vp, score = VPSDE(), mixture(event).score(VPSDE())

    def g(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return vp.apply_diffusion(1.0 + 0.5 * x.tanh(), t)

    def divergence(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return vp.apply_diffusion_matrix((1.0 + 0.5 * x.tanh()) * (1.0 - x.tanh() ** 2), t)

    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s = score(x, t)
        return vp.flow_drift(x, t, s) + 0.5 * (divergence(x, t) + g(x, t) ** 2 * s)

    return NonlinearSDE(f, g, divergence=divergence, steps=100)


PROCESSES: dict[str, Callable[[Event], SDE]] = {
    "VP": lambda e: VPSDE(),
    "sub-VP": lambda e: SubVPSDE(),
    "VE": lambda e: VESDE(0.01, 20.0),
    "VP, cosine": lambda e: CosineVPSDE(),
    "EDM": lambda e: EDMSDE(sigma_max=20.0),
    "linear interpolant": lambda e: LinearInterpolantSDE(),
    "log-SNR linear": lambda e: LogSNRLinearSDE(10.0, -10.0),
    "log-SNR learned": learned_snr,
    "VP, Schedule": lambda e: Schedule(VPSDE().alpha, VPSDE().sigma),
    "VP, MatrixSDE": vp_as_matrices,
    "critically damped Langevin": lambda e: CriticallyDampedLangevin(),
    "blurring": lambda e: BlurringSDE(e, blur=2.0),
    "VP, Shifted": lambda e: Shifted(VPSDE(), torch.full(e, 0.3, dtype=torch.float64)),
    "VP, NonlinearSDE": lambda e: NonlinearSDE(VPSDE().drift, VPSDE().diffusion, steps=100),
    "VP marginals, g(x, t)": diffusion_of_state,
}

TWINS: dict[str, LinearSDE] = {"VP, NonlinearSDE": VPSDE(), "VP marginals, g(x, t)": VPSDE()}
"""A linear process with the same marginals and a closed form, for the processes that have none."""

OBJECTIVES: dict[str, Callable[[Any], DenoisingScoreMatching | SlicedScoreMatching]] = {
    "denoising, variance": lambda sde: DenoisingScoreMatching(sde, "variance"),
    "denoising, likelihood": lambda sde: DenoisingScoreMatching(sde, "likelihood", times=UniformLogNoise(0.1, 20.0)),
    "denoising, chain": lambda sde: DenoisingScoreMatching(sde.discretize(1000)),
    "sliced, t^2": lambda sde: SlicedScoreMatching(sde, variance_reduced=False, weighting=torch.square),
    "sliced, likelihood": lambda sde: SlicedScoreMatching(sde, weighting="likelihood"),
}

STEPS = 200
SAMPLERS: dict[str, Callable[[], object]] = {
    "Euler-Maruyama": lambda: PredictorCorrector(EulerMaruyama(), steps=STEPS),
    "Euler probability flow": lambda: PredictorCorrector(EulerMaruyama(flow=True), steps=STEPS),
    "reverse diffusion": lambda: PredictorCorrector(ReverseDiffusion(), steps=STEPS),
    "ancestral": lambda: PredictorCorrector(Ancestral(), steps=STEPS),
    "ancestral, lower": lambda: PredictorCorrector(Ancestral(variance="lower"), steps=STEPS),
    "symmetric splitting": lambda: PredictorCorrector(SymmetricSplitting(), steps=STEPS),
    "reverse diffusion + Langevin": lambda: PredictorCorrector(ReverseDiffusion(), Langevin(0.1), steps=STEPS),
    "reverse diffusion + annealed Langevin": lambda: PredictorCorrector(
        ReverseDiffusion(), AnnealedLangevin(0.1), steps=STEPS
    ),
    "DDIM": lambda: PredictorCorrector(DDIM(), steps=STEPS),
    "UniPC": lambda: UniPC(STEPS // 4),
    "SDE-DPM-Solver++(2M)": lambda: DPMSolverPlusPlus(STEPS // 2, eta=1.0),
    "EDM": lambda: EDM(STEPS // 4),
    "probability flow by SciPy": lambda: ProbabilityFlowODE(denoise=False),
    "reverse SDE by torchsde": lambda: ReverseSDESampler(steps=STEPS, denoise=False),
    "reverse SDE by torchsde, SRK": lambda: ReverseSDESampler(TorchSDE("srk"), steps=STEPS, denoise=False),
    "adaptive SDE": lambda: AdaptiveSDE(denoise=False),
}

EVENTS: dict[str, Event] = {"vector": (2,), "image": (1, 2, 4), "series": (2, 3)}


def mixture(event: Event) -> GaussianMixture:
    """Two anisotropic modes with mean zero."""
    d = math.prod(event)
    means = torch.stack((torch.linspace(0.5, 0.9, d), -torch.linspace(0.5, 0.9, d))).reshape(2, *event)
    stds = torch.stack((torch.linspace(0.3, 0.5, d), torch.linspace(0.5, 0.4, d))).reshape(2, *event)
    return GaussianMixture(means, stds)


def score_of(distribution: GaussianMixture, sde: LinearSDE) -> Score:
    """The exact score."""
    return distribution.score(sde)


def score_for(distribution: GaussianMixture, process: str, sde: Any) -> Score:
    """The exact score of a process, or that of its twin as a plain function without the attribute ``sde``."""
    if process not in TWINS:
        return score_of(distribution, sde)
    score = score_of(distribution, TWINS[process])
    return lambda x, t: score(x, t)


def sampler_error(distribution: GaussianMixture, x: torch.Tensor) -> float:
    """The larger of the largest errors of a mean and of a standard deviation over coordinates."""
    flat = x.flatten(1).double()
    weights, means = distribution.weights[:, None], distribution.means
    mean = (weights * means).sum(0)
    std = ((weights * (means**2 + distribution.variances)).sum(0) - mean**2).sqrt()
    return float(torch.maximum(((flat.mean(0) - mean) / std).abs(), (flat.std(0) / std - 1).abs()).max())


@torch.no_grad()
def likelihood_error(distribution: GaussianMixture, process: str, sde: Any, count: int = 8) -> float:
    """Mean of log p - exact in bits/dim. If the state is the data, exact is the density at the last time of the flow."""
    x = distribution.sample(count, seed=5, dtype=torch.float64)
    found = log_likelihood(sde, score_for(distribution, process, sde), x, divergence=Exact(), tolerance=1e-3).log_prob
    exact = distribution.log_prob(x)
    if tuple(sde.state_shape(distribution.event_shape)) == distribution.event_shape:
        exact = distribution.log_prob_at(TWINS.get(process, sde), x, torch.tensor(1e-5))
    return float((found - exact).mean()) / (x[0].numel() * math.log(2.0))


@torch.no_grad()
def least_at(
    distribution: GaussianMixture, process: str, sde: SDE, make: Callable, count: int = 4000, times: int = 200
) -> float:
    """The c for which the mean loss of c times the exact score is smallest. The loss is a parabola in c, known from 0, 1 and 2.

    The times are quantiles of their distribution, with ``count / times`` examples for each, an even number.
    """
    objective = make(sde)
    score = score_for(distribution, process, objective.sde)
    u = (torch.arange(times, dtype=torch.float64) + 0.5) / times
    t = objective.times.times(objective.sde, u).repeat(count // times)
    draw = objective.draw(distribution.sample(count, seed=6, dtype=torch.float64), t=t, step=0)
    none, one, two = (
        float(objective.evaluate(lambda y, t, c=c: c * score(y, t), draw).mean()) for c in (0.0, 1.0, 2.0)
    )
    return 1.0 - 0.5 * (two - none) / (two - 2.0 * one + none)


def cell(work: Callable[[], float]) -> tuple[float, str]:
    """The number and an empty string, or NaN and the message of a TypeError or ValueError. Other errors are raised."""
    try:
        return work(), ""
    except (TypeError, ValueError) as refusal:
        return math.nan, str(refusal)


def row(process: str, event: Event, count: int = 1000, names: Collection[str] = ()) -> dict[str, tuple[float, str]]:
    """All numbers of one process on one kind of event, or those of the columns ``names``."""
    sde, distribution = PROCESSES[process](event), mixture(event)
    score = score_for(distribution, process, sde)

    def sampled(sampler: Callable) -> float:
        return sampler_error(distribution, sampler()(sde, score, (count, *event), seed=3, dtype=torch.float64).samples)

    work: dict[str, Callable[[], float]] = {
        **{name: partial(least_at, distribution, process, sde, make) for name, make in OBJECTIVES.items()},
        **{name: partial(sampled, sampler) for name, sampler in SAMPLERS.items()},
        "likelihood": partial(likelihood_error, distribution, process, sde),
    }
    found = {name: cell(one) for name, one in work.items() if not names or name in names}
    return {name: (value, reason.replace(repr(sde), process)) for name, (value, reason) in found.items()}
