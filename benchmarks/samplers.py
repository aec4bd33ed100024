"""Quality of samplers against evaluations of the score, beside other libraries'.

    pip install -c constraints.txt -e ".[peers]"
    python benchmarks/samplers.py measure runs/samplers.jsonl     over an hour of one core; goes on where it was stopped
    python benchmarks/samplers.py network runs/samplers.jsonl     the same for the runs of ``make demo``, digits-vp and digits-ve
    python benchmarks/samplers.py tables runs/samplers.jsonl      the tables of docs/sampler_figures.md
    python benchmarks/samplers.py picture runs/samplers.jsonl     docs/pictures/samplers.png

Problems: `problems.py`'s mixtures of 25 and 10 Gaussians in 2 and 16 dimensions and the smoothed digits, with the exact score and
with a smooth error of 3 % of the noise, under VP, sub-VP and VE. All samplers start from the same 384 states at T, with the same
score, and end with E[x_0 | x] at t = 0.001; a budget of evaluations counts that one.

paths   the mean over starts of the root mean square distance a coordinate from where the accurate flow (UniPC-3, 200 steps on
        the pilot grid) ends. Peers: each method on each of three grids (uniform in t, uniform in ln s, Karras). Ours: UniPC-3 as
        it comes, the same on the pilot grid, and `fit`, whose pilot (256 other starts) also chooses, on its own held-out half,
        what it returns.
network paths as above, by the trained network's own accurate flow; and predictors and correctors as in the paper's table 1 at 200
        evaluations (P; 400 for P2x, C, PC), 720 samples against the held-out digits, whose distance from 720 training digits is
        given too.
laws    2048 samples against exact ones: squared energy distance and sliced 2-Wasserstein distance (128 directions); the floor is
        six other exact sets.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Flow
from problems import Problem
from torch import Tensor

from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    Ancestral,
    DPMSolverPlusPlus,
    ExactSteps,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    ReverseSDESampler,
    Sampler,
    UniPC,
    fit,
    grids,
)
from scoresde.samplers.fitting import Pilot
from scoresde.score import ScoreModel
from scoresde.sde import ScalarSDE
from scoresde.solvers import TorchSDE

CALLS = (5, 8, 10, 15, 20, 30, 50)
AIMED = (5, 8, 10, 15, 20)
"""Of which the means are taken."""
LAWS = ("gmm16", "digits", "gmm2")


def quadratic(sde: ScalarSDE, steps: int) -> Tensor:
    """sqrt(t) equally spaced."""
    return torch.linspace(sde.T**0.5, grids.T_MIN**0.5, steps + 1, dtype=torch.float64) ** 2


GRIDS = {
    "uniform": grids.uniform,
    "quadratic": quadratic,
    "log s": grids.log_noise,
    "Karras 7": grids.karras,
    "Karras 3": partial(grids.karras, rho=3.0),
}
STARTS, PILOT, COUNT = 384, 256, 2048
CHECKED = ("gmm16 VP", "gmm16~ VP", "gmm16 VE", "digits VP", "digits~ VP", "digits VE")
"""Problems whose laws are compared."""


@dataclass(frozen=True)
class Network:
    """A trained model in the place of a `Problem`."""

    sde: ScalarSDE
    score: ScoreModel
    process: str


def peer_ends(problem: Problem | Network, name: str, grid: str, calls: int, start: Tensor) -> tuple[Tensor, int]:
    """Where a peer comes to from ``start`` at T, and the evaluations that it made."""
    sde, peer = problem.sde, next(p for p in PEERS if p.name == name)
    s = sde.log_noise(GRIDS[grid](sde, peer.nodes(calls) - 1)).exp()
    flow = Flow(sde, problem.score, start.dtype)
    return peer.run(flow, s, start / float(sde.alpha(torch.tensor(sde.T, dtype=torch.float64)))), flow.calls


def ends(problem: Problem | Network, sampler: Sampler, start: Tensor, calls: int) -> Tensor:
    """Where one of our samplers comes to."""
    result = sampler(problem.sde, problem.score, tuple(start.shape), start=start, allow_failed=True)
    if result.nfe > calls:
        raise AssertionError(f"{sampler!r} made {result.nfe} evaluations of {calls}")
    return result.state


def ours(problem: Problem | Network, pilot: Pilot, calls: int) -> Iterator[tuple[str, Sampler, dict[str, Any]]]:
    """Our samplers at a number of evaluations."""
    yield "UniPC-3", UniPC(calls - 1), {}
    yield "UniPC-3, pilot grid", UniPC(ExactSteps(calls - 1, pilot.grid)), {}
    started = time.perf_counter()
    made = fit(problem.sde, problem.score, calls, pilot=pilot)
    facts = {
        "expected": made.expected.error,
        "evaluations": made.expected.evaluations,
        "kept": type(made.sampler).__name__,
    }
    yield "fit", made, {**facts, "seconds": round(time.perf_counter() - started, 1)}


Ours = dict[int, list[tuple[str, Sampler, dict[str, Any]]]]
"""Our samplers, by evaluations."""


def paths(problem: Problem | Network, mine: Ours, test: Pilot) -> Iterator[dict[str, Any]]:
    """Distances from the accurate end points."""
    for calls in CALLS:
        for name, sampler, facts in mine[calls]:
            yield {
                "calls": calls,
                "ours": name,
                "error": test.error(ends(problem, sampler, test.starts, calls)),
                **facts,
            }
        for peer in PEERS:
            for grid in GRIDS:
                if grid == "uniform" and problem.process == "VE":
                    continue  # the same as log s
                reached, made = peer_ends(problem, peer.name, grid, calls, test.starts)
                assert made <= calls, (peer, made)
                yield {
                    "calls": calls,
                    "peer": peer.name,
                    "grid": grid,
                    "error": test.error(reached.reshape(test.ends.shape)),
                }


def energy(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2.0 * torch.cdist(x, y).mean() - within)


def sliced(x: Tensor, y: Tensor) -> float:
    """The root of the mean squared 2-Wasserstein distance over 128 directions."""
    v = NoiseSource.of(0, 128).normal((x.shape[1],), step=0, purpose="directions", dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True)
    return float(((x @ v.mT).sort(0).values - (y @ v.mT).sort(0).values).square().mean().sqrt())


def laws(problem: Problem, mine: Ours) -> Iterator[dict[str, Any]]:
    """Distances of laws, and their floor."""
    sde, event = problem.sde, problem.law.event_shape

    def exact(k: int) -> Tensor:
        return problem.law.sample(COUNT, seed=100 + k, dtype=torch.float64).flatten(1)

    truth = exact(0)
    floor = [(energy(exact(k), truth), sliced(exact(k), truth)) for k in range(1, 7)]
    yield {
        "law": "floor", "energy": statistics.mean(e for e, _ in floor), "energy_sd": statistics.stdev(e for e, _ in floor),
        "sliced": statistics.mean(w for _, w in floor), "sliced_sd": statistics.stdev(w for _, w in floor),
    }  # fmt: skip
    start = sde.prior_sample((COUNT, *event), seed=11, dtype=torch.float64)
    for calls in CALLS:
        samplers: dict[str, Callable[[], Tensor]] = {}
        for name, sampler, _ in mine[calls]:
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
            "ancestral, uniform": PredictorCorrector(Ancestral(), steps=ExactSteps(calls - 1, grids.uniform)),
            "torchsde Euler": ReverseSDESampler(TorchSDE(), steps=calls - 1),
        }
        for name, sampler in stochastic.items():
            samplers[name] = partial(ends, problem, sampler, start, calls)
        for name, draw in samplers.items():
            x = draw().flatten(1)
            x = x[torch.isfinite(x).all(1)]
            whole = len(x) == COUNT
            yield {
                "calls": calls, "law": name,
                "energy": energy(x, truth) if whole else math.inf, "sliced": sliced(x, truth) if whole else math.inf,
            }  # fmt: skip


def measure(file: Path, names: list[str]) -> None:
    """Every problem that the file does not hold whole; a problem's rows are written together."""
    done = {row["problem"] for row in read(file)} if file.exists() else set()
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        for size in (0.0, 0.03):
            for process in ("VP", "sub-VP", "VE"):
                problem = Problem(name, process, size)
                if str(problem) in done:
                    continue
                started = time.perf_counter()
                event = problem.law.event_shape
                make = partial(Pilot.of, problem.sde, problem.score, dtype=torch.float64)
                pilot, test = make((PILOT, *event)), make((STARTS, *event), seed=7)
                mine = {calls: list(ours(problem, pilot, calls)) for calls in CALLS}
                rows = list(paths(problem, mine, test))
                if str(problem) in CHECKED:
                    rows += laws(problem, mine)
                with open(file, "a") as out:
                    out.writelines(json.dumps({"problem": str(problem), **row}) + "\n" for row in rows)
                print(f"{problem}: {time.perf_counter() - started:.0f} s", flush=True)


def network(file: Path, runs: Path) -> None:
    """The rows of the trained runs."""
    configs = Path(__file__).resolve().parents[1] / "configs"
    for name, process in (("vp", "VP"), ("ve", "VE")):
        experiment = Experiment.from_config(load_config(str(configs / name / "digits.py")))
        model, _ = Workdir(runs / f"digits-{name}").model(experiment)
        problem, event = Network(model.sde, model, process), experiment.data.event_shape
        make = partial(Pilot.of, model.sde, model)
        pilot, test = make((128, *event)), make((128, *event), seed=7)
        mine = {calls: list(ours(problem, pilot, calls)) for calls in CALLS}
        rows = [*paths(problem, mine, test), *correctors(experiment, model)]
        with open(file, "a") as out:
            out.writelines(json.dumps({"problem": f"network {process}", **row}) + "\n" for row in rows)


def correctors(
    experiment: Experiment, model: ScoreModel, steps: int = 200, count: int = 720
) -> Iterator[dict[str, Any]]:
    """Predictors and correctors at equal evaluations."""
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
    """Evaluations and squared energy distance."""
    result = sampler(model.sde, model, (count, *event), seed=3)
    return {"calls": result.nfe, "energy": energy(result.samples.double().flatten(1), held)}


def read(file: Path) -> list[dict[str, Any]]:
    """The rows."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def best(rows: list[dict[str, Any]], kind: str, calls: int) -> dict[str, Any]:
    """The row of the least error at ``calls``."""
    return min((r for r in rows if kind in r and r["calls"] == calls), key=lambda r: r["error"])


def tables(file: Path) -> None:
    """Markdown: ratios of the best peer's error to ours, then the distances of laws."""
    rows = read(file)
    problems = list(dict.fromkeys(r["problem"] for r in rows))
    ratios: dict[str, list[float]] = {"exact score": [], "score with 3 % error": [], "trained network": []}
    print("| problem | " + " | ".join(f"{c}" for c in CALLS) + " |\n|---|" + "---|" * len(CALLS))
    for problem in problems:
        mine = [r for r in rows if r["problem"] == problem and "error" in r]
        cells = []
        for calls in CALLS:
            peer = best(mine, "peer", calls)
            own = next(r for r in mine if r.get("ours") == "fit" and r["calls"] == calls)
            ratio = peer["error"] / own["error"]
            if calls in AIMED:
                ratios[_kind(problem)].append(ratio)
            cells.append(f"{own['error']:.2g} / {peer['error']:.2g} ({ratio:.1f})")
        print(f"| {problem} | " + " | ".join(cells) + " |")
    for kind, values in ratios.items():
        if values:
            print(
                f"\n{kind}: geometric mean of the ratios at {AIMED[0]} to {AIMED[-1]} evaluations "
                f"{statistics.geometric_mean(values):.1f}, "
                f"least {min(values):.2f}, {sum(v < 1 for v in values)} of {len(values)} below 1"
            )
    _laws_tables(rows, problems)
    _corrector_tables(rows, problems)


def _corrector_tables(rows: list[dict[str, Any]], problems: list[str]) -> None:
    for problem in problems:
        mine = [r for r in rows if r["problem"] == problem and "pc" in r]
        if not mine:
            continue
        print(f"\n**{problem}**: squared energy distance from the held-out digits (evaluations)\n")
        kinds = ("P", "P2x", "C", "PC")
        print("| | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
        for name in dict.fromkeys(r["pc"] for r in mine if "kind" in r):
            at = {r["kind"]: f"{r['energy']:.4f} ({r['calls']})" for r in mine if r["pc"] == name}
            print(f"| {name} | " + " | ".join(at.get(k, "") for k in kinds) + " |")
        print(f"\nTraining digits: {next(r['energy'] for r in mine if r['pc'] == 'training digits'):.4f}")


def _laws_tables(rows: list[dict[str, Any]], problems: list[str]) -> None:
    for problem in problems:
        mine = [r for r in rows if r["problem"] == problem and "law" in r]
        if not mine:
            continue
        floor = next(r for r in mine if r["law"] == "floor")
        print(
            f"\n**{problem}**: squared energy distance, floor {floor['energy']:.1e} +- {floor['energy_sd']:.1e}; in brackets "
            f"sliced Wasserstein, floor {floor['sliced']:.3f} +- {floor['sliced_sd']:.3f}\n"
        )
        print("| sampler | " + " | ".join(f"{c}" for c in CALLS) + " |\n|---|" + "---|" * len(CALLS))
        for name in dict.fromkeys(r["law"] for r in mine if r["law"] != "floor"):
            at = {r["calls"]: r for r in mine if r["law"] == name}
            cells = [_law(at[c], floor) if c in at else "" for c in CALLS]
            print(f"| {name} | " + " | ".join(cells) + " |")


def _kind(problem: str) -> str:
    return "trained network" if "network" in problem else "score with 3 % error" if "~" in problem else "exact score"


def _law(row: dict[str, Any], floor: dict[str, Any]) -> str:
    """A cell, bold where both distances are within two standard deviations of the floor."""
    within = all(row[k] <= floor[k] + 2.0 * floor[f"{k}_sd"] for k in ("energy", "sliced"))
    text = f"{row['energy']:.1e} ({row['sliced']:.3f})"
    return f"**{text}**" if within else text


def picture(file: Path) -> None:
    """docs/pictures/samplers.png: error against evaluations on four problems."""
    from matplotlib.figure import Figure

    rows = read(file)
    shown = ["gmm16 VP", "digits VP", "digits~ VP", "network VP"]
    figure = Figure(figsize=(11, 3.0))
    titles = {"gmm16": "10 Gaussians in 16 dimensions", "digits": "smoothed 8 x 8 digits", "network": "8 x 8 digits"}
    for k, problem in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), k + 1)
        mine = [r for r in rows if r["problem"] == problem and "error" in r]
        for peer in PEERS:
            at = [min(r["error"] for r in mine if r.get("peer") == peer.name and r["calls"] == c) for c in CALLS]
            colour = "#7a9cc6" if peer.name.startswith("diffusers") else "#c6a27a"
            axes.loglog(CALLS, at, color=colour, lw=0.9, alpha=0.8)
        for name, colour in (("UniPC-3, pilot grid", "#8c1c13"), ("fit", "#e4572e")):
            own = {r["calls"]: r["error"] for r in mine if r.get("ours") == name}
            axes.loglog(list(own), list(own.values()), color=colour, lw=2.0, marker="o", ms=3)
        axes.set_title(
            f"{titles[problem.split('~')[0].split()[0]]}\n{_kind(problem)}",
            fontsize=9,
        )
        axes.set_xticks(CALLS, [str(c) for c in CALLS], fontsize=7)
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.set_xlabel("network evaluations", fontsize=8)
        if k == 0:
            axes.set_ylabel("distance from the flow's end point", fontsize=8)
    from matplotlib.lines import Line2D

    keys = [
        ("#e4572e", "scoresde fit"),
        ("#8c1c13", "scoresde UniPC, pilot grid"),
        ("#7a9cc6", "diffusers, each method on its best grid"),
        ("#c6a27a", "azula, the same"),
    ]
    figure.legend(
        [Line2D([], [], color=c, lw=2) for c, _ in keys],
        [n for _, n in keys],
        loc="lower center",
        ncol=4,
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    where = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "samplers.png"
    figure.savefig(where, dpi=110)
    print(where)


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["measure", "network", "tables", "picture"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--laws", default=",".join(LAWS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if options.command == "measure":
        measure(options.file, options.laws.split(","))
    elif options.command == "network":
        network(options.file, options.runs)
    else:
        {"tables": tables, "picture": picture}[options.command](options.file)


if __name__ == "__main__":
    main()
