"""Everything with everything: each process with each objective, each sampler and the likelihood. Writes docs/matrix.md.

    .venv/bin/python benchmarks/matrix.py

Data is a Gaussian mixture, the score its closed form under the process. The figure of a sampler is the larger of the
worst error of a mean (in standard deviations) and the worst relative error of a standard deviation over coordinates,
of 1000 samples against the exact law of the data: sampling noise alone makes about 0.08. That of the likelihood is
the mean over 8 points of log p - exact, in bits per dimension. That of an objective is the excess of its mean at a
score scaled by 1.2 over that at the exact score, in standard errors of 4000 examples: it must be well above 0. What
does not apply is refused; the reasons are below the tables.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from scoresde import Exact, GaussianMixture, log_likelihood
from scoresde.losses import DenoisingScoreMatching, UniformLogNoise
from scoresde.samplers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    ReverseSDESampler,
    SymmetricSplitting,
)
from scoresde.sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    BlurringSDE,
    CosineVPSDE,
    CriticallyDampedLangevin,
    LinearInterpolantSDE,
    LogSNRLinearSDE,
    MatrixSDE,
    Schedule,
    SubVPSDE,
)
from scoresde.solvers import TorchSDE

Event = tuple[int, ...]


def vp_as_matrices(event: Event) -> MatrixSDE:
    """VP written as 1 x 1 blocks: F and G alone, the kernel by the library's integration."""
    beta = VPSDE().beta

    def drift(t: torch.Tensor) -> torch.Tensor:
        return -0.5 * beta(t)[..., None, None]

    def diffusion(t: torch.Tensor) -> torch.Tensor:
        return beta(t).sqrt()[..., None, None]

    return MatrixSDE(drift, diffusion, prior_covariance=torch.eye(1, dtype=torch.float64))


PROCESSES: dict[str, Callable[[Event], SDE]] = {
    "VP": lambda e: VPSDE(),
    "sub-VP": lambda e: SubVPSDE(),
    "VE": lambda e: VESDE(0.01, 20.0),
    "VP, cosine": lambda e: CosineVPSDE(),
    "EDM": lambda e: EDMSDE(sigma_max=20.0),
    "linear interpolant": lambda e: LinearInterpolantSDE(),
    "log-SNR linear": lambda e: LogSNRLinearSDE(10.0, -10.0),
    "VP by its schedule alone": lambda e: Schedule(VPSDE().alpha, VPSDE().sigma),
    "VP as matrices": vp_as_matrices,
    "critically damped Langevin": lambda e: CriticallyDampedLangevin(),
    "blurring": lambda e: BlurringSDE(e, blur=2.0),
}

OBJECTIVES: dict[str, Callable[[SDE], Callable]] = {
    "denoising, variance": lambda sde: DenoisingScoreMatching(sde, "variance"),
    "denoising, likelihood": lambda sde: DenoisingScoreMatching(sde, "likelihood", times=UniformLogNoise(0.1, 20.0)),
}

STEPS = 200
SAMPLERS: dict[str, Callable[[], object]] = {
    "Euler-Maruyama": lambda: PredictorCorrector(EulerMaruyama(), steps=STEPS),
    "Euler flow": lambda: PredictorCorrector(EulerMaruyama(flow=True), steps=STEPS),
    "reverse diffusion": lambda: PredictorCorrector(ReverseDiffusion(), steps=STEPS),
    "ancestral": lambda: PredictorCorrector(Ancestral(), steps=STEPS),
    "ancestral, lower": lambda: PredictorCorrector(Ancestral("lower"), steps=STEPS),
    "symmetric splitting": lambda: PredictorCorrector(SymmetricSplitting(), steps=STEPS),
    "with Langevin": lambda: PredictorCorrector(ReverseDiffusion(), Langevin(0.1), steps=STEPS),
    "with annealed Langevin": lambda: PredictorCorrector(ReverseDiffusion(), AnnealedLangevin(0.1), steps=STEPS),
    "flow by SciPy": lambda: ProbabilityFlowODE(),
    "reverse SDE by torchsde": lambda: ReverseSDESampler(steps=STEPS, denoise=False),
    "the same, SRK": lambda: ReverseSDESampler(TorchSDE("srk"), steps=STEPS, denoise=False),
}

EVENTS: dict[str, Event] = {"vector": (2,), "image": (1, 2, 4), "series": (2, 3)}


def mixture(event: Event) -> GaussianMixture:
    """Two anisotropic modes with mean zero."""
    d = math.prod(event)
    means = torch.stack((torch.linspace(0.5, 0.9, d), -torch.linspace(0.5, 0.9, d))).reshape(2, *event)
    stds = torch.stack((torch.linspace(0.3, 0.5, d), torch.linspace(0.5, 0.4, d))).reshape(2, *event)
    return GaussianMixture(means, stds)


def score_of(law: GaussianMixture, sde: SDE) -> Callable:
    """The exact score."""
    return law.score(sde)


def sampler_error(law: GaussianMixture, x: torch.Tensor) -> float:
    """The larger of the worst error of a mean and of a standard deviation over coordinates."""
    flat = x.flatten(1).double()
    weights, means = law.weights[:, None], law.means
    mean = (weights * means).sum(0)
    std = ((weights * (means**2 + law.variances)).sum(0) - mean**2).sqrt()
    return float(torch.maximum(((flat.mean(0) - mean) / std).abs(), (flat.std(0) / std - 1).abs()).max())


def likelihood_error(law: GaussianMixture, sde: SDE, count: int = 8) -> float:
    """Mean of log p - exact, bits/dim; exact at the flow's own cut-off where the state is the data."""
    x = law.sample(count, seed=5, dtype=torch.float64)
    found = log_likelihood(sde, score_of(law, sde), x, divergence=Exact()).log_prob
    exact = law.log_prob(x)
    if tuple(sde.state_shape(law.event_shape)) == law.event_shape:
        exact = law.log_prob_at(sde, x, torch.tensor(1e-5))
    return float((found - exact).mean()) / (x[0].numel() * math.log(2.0))


def objective_excess(law: GaussianMixture, sde: SDE, objective: Callable, count: int = 4000) -> float:
    """Excess of the loss at 1.2 times the score over that at the score, in its standard errors."""
    score, x = score_of(law, sde), law.sample(count, seed=6, dtype=torch.float64)
    worse = objective(lambda y, t: 1.2 * score(y, t), x, step=0) - objective(score, x, step=0)
    return float(worse.mean() / (worse.std() / math.sqrt(count)))


def cell(work: Callable[[], float]) -> tuple[float, str]:
    """A figure, or NaN with the reason of a refusal. Anything but a refusal is raised."""
    try:
        return work(), ""
    except (TypeError, ValueError) as refusal:
        return math.nan, str(refusal)


def row(process: str, event: Event, count: int = 1000, only: tuple[str, ...] = ()) -> dict[str, tuple[float, str]]:
    """All figures of one process on one kind of event."""
    sde, law = PROCESSES[process](event), mixture(event)
    found: dict[str, tuple[float, str]] = {}
    for name, make in OBJECTIVES.items():
        if not only or name in only:
            found[name] = cell(lambda make=make: objective_excess(law, sde, make(sde)))
    for name, make in SAMPLERS.items():
        if not only or name in only:
            found[name] = cell(
                lambda make=make: sampler_error(
                    law, make()(sde, score_of(law, sde), (count, *event), seed=3, dtype=torch.float64).samples
                )
            )
    if not only or "likelihood" in only:
        found["likelihood"] = cell(lambda: likelihood_error(law, sde))
    return found


def main() -> None:
    """Write docs/matrix.md."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    text = ["# Everything with everything\n", (__doc__ or "").split("\n", 2)[2].strip() + "\n"]
    reasons: dict[str, set[str]] = {}
    for kind, event in EVENTS.items():
        rows = {process: row(process, event) for process in PROCESSES}
        names = list(next(iter(rows.values())))
        text += [
            f"\n## {kind.capitalize()} events {event}\n",
            "| process | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for process, cells in rows.items():
            shown = []
            for name, (value, reason) in cells.items():
                shown.append(
                    "refused"
                    if reason
                    else f"{value:.0f}"
                    if name in OBJECTIVES
                    else f"{value:.1e}"
                    if name == "likelihood"
                    else f"{value:.2f}"
                )
                if reason:
                    reasons.setdefault(f"{process}, {name}", set()).add(reason)
            text.append(f"| {process} | " + " | ".join(shown) + " |")
    if reasons:
        text.append("\n## Refusals\n")
        text += [f"- {where}: {'; '.join(sorted(why))}" for where, why in reasons.items()]
    Path(__file__).resolve().parents[1].joinpath("docs", "matrix.md").write_text("\n".join(text) + "\n")
    print(f"docs/matrix.md in {time.perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
