"""Error of samplers against the number of evaluations of the score, compared with other libraries.

    pip install -c constraints.txt -e ".[peers]"
    python benchmarks/samplers.py measure runs/samplers.jsonl           six to ten minutes on one core
    python benchmarks/samplers.py network runs/samplers.jsonl           the same for the runs of ``make demo-all``
    python benchmarks/sampler_tables.py tables runs/samplers.jsonl      the tables of docs/sampler_figures.md
    python benchmarks/sampler_tables.py picture runs/samplers.jsonl     docs/pictures/samplers.png

The problems are the distributions and scores of ``problems.py``. The sign "~" marks a score with a smooth error of 3 %
of the noise. All samplers get the same states at T and the same score, and end with E[x_0 | x] at t = 0.001. The number
of evaluations includes this last one. There are three kinds of measurements:

paths
    The root mean square distance per coordinate between the end point and that of the accurate flow (UniPC-3 on the
    adaptive grid with 200 evaluations, 100 for the digits), as a mean over 2000 starts (400 in 16 and 64 dimensions). Each
    peer method runs on five grids. Ours are the methods without a fit on their default grid, and ``fit``, whose pilot
    has 128 other starts.
network
    The same for the accurate flow of a trained network. Also predictors and correctors as in table 1 of the paper, with
    200 evaluations for P and 400 for P2x, C and PC: the distance of 720 samples from the held-out digits, and that of
    720 training digits.
distributions
    2048 samples against exact ones: squared energy distance, and sliced 2-Wasserstein distance over 128 directions. The
    floor is the distance of six other exact sets.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Flow
from problems import NEW_DISTRIBUTIONS, Problem
from torch import Tensor

from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    DEIS,
    Ancestral,
    DPMSolverPlusPlus,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    ReverseSDESampler,
    Sampler,
    UniPC,
    fit,
    grids,
)
from scoresde.samplers.exponential import AdamsBashforth
from scoresde.samplers.fitted import Pilot
from scoresde.samplers.fitted.pilot import distances
from scoresde.score import ScoreModel
from scoresde.sde import ScalarSDE
from scoresde.solvers import TorchSDE

GRIDS = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "log s": grids.log_noise,
    "Karras 7": grids.karras,
    "Karras 3": partial(grids.karras, rho=3.0),
}
TUNING = [
    ("gmm16", "VP", 0.0), ("gmm16", "VE", 0.03), ("gmm2", "VP", 0.0), ("gmm2", "VE", 0.03), ("gmm2", "sub-VP", 0.0),
    ("digits", "VP", 0.0),
]  # fmt: skip
NEW = [(name, process, size) for name in NEW_DISTRIBUTIONS for process, size in (("VP", 0.0), ("VE", 0.03))]
NEW.remove(("rare16", "VE", 0.03))  # takes a long time
SUITE = [Problem(*which) for which in TUNING + NEW]
PILOT, COUNT = 128, 2048
CHECKED = ("gmm16 VP",)
"""Problems whose distributions are compared."""
PLAIN: dict[str, Callable[[int | Tensor], Sampler]] = {
    "UniPC": UniPC,
    "UniPC-2": lambda steps: UniPC(steps, 2),
    "UniPC-3": lambda steps: UniPC(steps, 3),
    "DPM-Solver++(2M)": DPMSolverPlusPlus,
    "Adams-Bashforth 2": AdamsBashforth,
    "Adams-Moulton 2": lambda steps: AdamsBashforth(steps, corrector=True),
    "DEIS-3": DEIS,
}


def budgets(problem: Problem | Network) -> tuple[int, ...]:
    """Numbers of evaluations for a problem; 20 only for some, to save time."""
    return (5, 10, 20) if str(problem) in ("gmm16 VP", "gmm2 VP", "rare VP", "ring VP") else (5, 10)


def starts(problem: Problem | Network) -> int:
    """Number of starts; fewer if the score is slow."""
    return 400 if "16" in str(problem) or "digits" in str(problem) else 2000


@dataclass(frozen=True)
class Network:
    """A trained model in place of a ``Problem``."""

    sde: ScalarSDE
    score: ScoreModel
    process: str

    def __str__(self) -> str:
        return f"network {self.process}"


def peer_ends(problem: Problem | Network, name: str, grid: str, calls: int, start: Tensor) -> tuple[Tensor, int]:
    """End points of a peer from ``start`` at T, and the number of its evaluations."""
    sde, peer = problem.sde, next(p for p in PEERS if p.name == name)
    s = sde.log_noise(GRIDS[grid](sde, peer.nodes(calls) - 1)).exp()
    flow = Flow(sde, problem.score, start.dtype)
    return peer.run(flow, s, start / float(sde.alpha(torch.tensor(sde.T, dtype=torch.float64)))), flow.calls


def ends(problem: Problem | Network, sampler: Sampler, start: Tensor, calls: int) -> Tensor:
    """End points of one of our samplers."""
    result = sampler(problem.sde, problem.score, tuple(start.shape), start=start, allow_failed=True)
    if result.nfe > calls:
        raise AssertionError(f"{sampler!r} made {result.nfe} evaluations of {calls}")
    return result.state


def ours(problem: Problem | Network, pilot: Pilot, calls: int) -> Iterator[tuple[str, Sampler, dict[str, Any]]]:
    """Our samplers for a number of evaluations: methods without a fit on the default grid and on the earlier one, and ``fit``."""
    steps = {name: calls - method(2).first_step_order for name, method in PLAIN.items()}  # type: ignore[attr-defined]
    for name, method in PLAIN.items():
        yield name, method(steps[name]), {"grid": "default"}
        yield name, method(grids.log_noise(problem.sde, steps[name])), {"grid": "log s"}
    yield "UniPC-3, adaptive grid", UniPC(calls - 1, 3, grid=pilot.grid), {"grid": "pilot"}
    made = fit(problem.sde, problem.score, calls, pilot=pilot)
    half = pilot.subset(slice(PILOT // 2, None))
    few = half.distances(ends(problem, made, half.starts, calls))
    before = {"few": float(few.mean()), "few_error": float(few.std()) * len(few) ** -0.5}
    facts = {f"stated_{key}": value for key, value in asdict(made.expected).items()}
    yield "fit", made, {"kept": type(made.sampler).__name__, **before, **facts}


Ours = dict[int, list[tuple[str, Sampler, dict[str, Any]]]]
"""Our samplers, by evaluations."""


def paths(problem: Problem | Network, mine: Ours, start: Tensor, exact: Tensor) -> Iterator[dict[str, Any]]:
    """Rows with the distances from the accurate end points."""

    def facts(reached: Tensor) -> dict[str, float]:
        errors = distances(reached.reshape(exact.shape), exact)
        return {
            "error": float(errors.mean()),
            "standard_error": float(errors.std()) * len(errors) ** -0.5,
            "median": float(errors.median()),
            "worst": float(errors.max()),
        }

    for calls in mine:
        for name, sampler, known in mine[calls]:
            yield {"calls": calls, "ours": name, **facts(ends(problem, sampler, start, calls)), **known}
        for peer in PEERS:
            for grid in GRIDS:
                if grid == "uniform" and problem.process == "VE":
                    continue  # equal to log s
                reached, made = peer_ends(problem, peer.name, grid, calls, start)
                assert made <= calls, (peer, made)
                yield {"calls": calls, "peer": peer.name, "grid": grid, **facts(reached)}


def energy(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of 2 E|X - Y| - E|X - X'| - E|Y - Y'|."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2.0 * torch.cdist(x, y).mean() - within)


def sliced(x: Tensor, y: Tensor) -> float:
    """The root of the mean squared 2-Wasserstein distance over 128 directions."""
    v = NoiseSource.of(0, 128).normal((x.shape[1],), step=0, purpose="directions", dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True)
    return float(((x @ v.mT).sort(0).values - (y @ v.mT).sort(0).values).square().mean().sqrt())


def distributions(problem: Problem, mine: Ours) -> Iterator[dict[str, Any]]:
    """Rows with the distances between distributions, and their floor."""
    sde, event = problem.sde, problem.distribution.event_shape

    def exact(k: int) -> Tensor:
        return problem.distribution.sample(COUNT, seed=100 + k, dtype=torch.float64).flatten(1)

    truth = exact(0)
    floor = [(energy(exact(k), truth), sliced(exact(k), truth)) for k in range(1, 7)]
    yield {
        "distribution": "floor",
        "energy": statistics.mean(e for e, _ in floor), "energy_sd": statistics.stdev(e for e, _ in floor),
        "sliced": statistics.mean(w for _, w in floor), "sliced_sd": statistics.stdev(w for _, w in floor),
    }  # fmt: skip
    start = sde.prior_sample((COUNT, *event), seed=11, dtype=torch.float64)
    for calls in (5, 10):
        samplers: dict[str, Callable[[], Tensor]] = {}
        for name, sampler, known in mine[calls]:
            if name not in ("UniPC", "fit", "UniPC-3, adaptive grid") or known.get("grid") == "log s":
                continue
            samplers[name] = partial(ends, problem, sampler, start, calls)
        for name, grid in (
            ("diffusers DPM++(2M)", "log s"), ("diffusers UniPC-2", "log s"), ("diffusers Euler (DDIM)", "uniform"),
            ("azula xEAB-2", "log s"),
        ):  # fmt: skip
            samplers[f"{name}, {grid}"] = lambda name=name, grid=grid, calls=calls: peer_ends(
                problem, name, grid, calls, start
            )[0]
        stochastic = {
            "SDE-DPM-Solver++(2M)": DPMSolverPlusPlus(calls - 1, eta=1.0),
            "SDE-DPM-Solver++(2M), log s": DPMSolverPlusPlus(calls - 1, eta=1.0, grid=grids.log_noise),
            "ancestral, uniform": PredictorCorrector(Ancestral(), steps=calls - 1, grid=grids.uniform),
            "torchsde Euler": ReverseSDESampler(TorchSDE(), steps=calls - 1),
        }
        for name, sampler in stochastic.items():
            samplers[name] = partial(ends, problem, sampler, start, calls)
        for name, draw in samplers.items():
            x = draw().flatten(1)
            x = x[torch.isfinite(x).all(1)]
            whole = len(x) == COUNT
            yield {
                "calls": calls, "distribution": name,
                "energy": energy(x, truth) if whole else math.inf, "sliced": sliced(x, truth) if whole else math.inf,
            }  # fmt: skip


def measured(problem: Problem | Network, event: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """All rows of a problem."""
    like = {"dtype": torch.float64}
    pilot = Pilot.of(problem.sde, problem.score, (PILOT, *event), **like)  # type: ignore[arg-type]
    start = problem.sde.prior_sample((starts(problem), *event), seed=7, dtype=torch.float64)
    reference = pilot.reference(100 if str(problem).startswith("digits") else 200)
    exact = ends(problem, reference, start, 200)
    mine = {calls: list(ours(problem, pilot, calls)) for calls in budgets(problem)}
    yield from paths(problem, mine, start, exact)
    if isinstance(problem, Problem) and str(problem) in CHECKED:
        yield from distributions(problem, mine)


def measure(file: Path) -> None:
    """Measure every problem of the suite."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as out:
        for problem in SUITE:
            started = time.process_time()
            rows = list(measured(problem, problem.distribution.event_shape))
            out.writelines(json.dumps({"problem": str(problem), **row}) + "\n" for row in rows)
            out.flush()
            print(f"{problem}: {time.process_time() - started:.0f} s", flush=True)


def network(file: Path, runs: Path) -> None:
    """Measure the trained networks."""
    configs = Path(__file__).resolve().parents[1] / "configs"
    for name, process in (("vp", "VP"), ("ve", "VE")):
        experiment = Experiment.from_config(load_config(str(configs / name / "digits.py")))
        model, _ = Workdir(runs / f"digits-{name}").model(experiment)
        problem, event = Network(model.sde, model, process), experiment.data.event_shape
        rows = [*measured(problem, event), *correctors(experiment, model)]
        with open(file, "a") as out:
            out.writelines(json.dumps({"problem": f"network {process}", **row}) + "\n" for row in rows)


def correctors(
    experiment: Experiment, model: ScoreModel, steps: int = 200, count: int = 720
) -> Iterator[dict[str, Any]]:
    """Rows for predictors and correctors with equal numbers of evaluations."""
    data = experiment.data
    held, seen = (
        d.encode(torch.arange(min(count, len(d))), seed=0).double().flatten(1) for d in (data.test, data.train)
    )
    yield {"pc": "training digits", "energy": energy(seen, held)}
    predictors = {
        "ancestral": Ancestral(),
        "reverse diffusion": ReverseDiffusion(),
        "probability flow": ReverseDiffusion(flow=True),
    }
    langevin = Langevin(snr=0.16)
    for name, predictor in predictors.items():
        for kind, sampler in {
            "P": PredictorCorrector(predictor, None, steps),
            "P2x": PredictorCorrector(predictor, None, 2 * steps),
            "PC": PredictorCorrector(predictor, langevin, steps),
        }.items():
            yield {"pc": name, "kind": kind, **_distance(sampler, model, data.event_shape, count, held)}
    alone = PredictorCorrector(None, langevin, 2 * steps)
    yield {"pc": "corrector alone", "kind": "C", **_distance(alone, model, data.event_shape, count, held)}


def _distance(sampler: Sampler, model: ScoreModel, event: tuple[int, ...], count: int, held: Tensor) -> dict[str, Any]:
    """Number of evaluations, and squared energy distance."""
    result = sampler(model.sde, model, (count, *event), seed=3)
    return {"calls": result.nfe, "energy": energy(result.samples.double().flatten(1), held)}


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["measure", "network"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if options.command == "measure":
        measure(options.file)
    else:
        network(options.file, options.runs)


if __name__ == "__main__":
    main()
