"""Guidance by measurements compared with exact posteriors: the tables of docs/inverse_problems.md.

    python benchmarks/inverse_problems.py [--file results.jsonl] [--problems ...] [--methods ...] [--steps ...]
    python benchmarks/inverse_problems_deepinv.py [--file results.jsonl]           (optional, see there)
    python benchmarks/inverse_problems.py --write                                  tables in docs/inverse_problems.md

Every result is a line of the file, which is written as soon as it is known. Results that the file has are not computed again.
The problems are in ``benchmarks/posterior_problems.py``. Scores are exact, so all errors come from the guidance and the sampler.
``steps`` is the number of evaluations of the score.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.inverse_tables import write
from benchmarks.posterior_problems import COUNT, Problem, problems
from scoresde import VESDE, VPSDE, GaussianMixture
from scoresde.guidance import DiffusionPosteriorSampling, IsotropicMoments, TaskGuidance, TweedieMoments
from scoresde.noise import NoiseSource
from scoresde.operators import Mask
from scoresde.samplers import DDIM, ParticleSampler, Sampler, UniPC
from scoresde.samplers.hooks import KeepKnown
from scoresde.samplers.populations import systematic
from scoresde.sde import ScalarSDE

STEPS = (20, 50, 200)
PROCESSES: dict[str, ScalarSDE] = {"VP": VPSDE(), "VE": VESDE()}
SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "UniPC": UniPC,
    "DDIM": DDIM,
    "ancestral": partial(DDIM, eta=1.0),
}
SCALES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights of the residual's norm, of which the best for each problem and process is taken, by its result at 50 steps."""
Score = Callable[[Tensor, Tensor], Tensor]


class Counted:
    """A score that counts its evaluations and vector-Jacobian products.

    Args:
        score: The score.
        sde: Its process.
    """

    def __init__(self, score: Score, sde: ScalarSDE) -> None:
        self.score, self.sde, self.evaluations, self.products = score, sde, 0, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.evaluations += 1
        found = self.score(x, t)
        if found.requires_grad:
            found.register_hook(self._count)
        return found

    def _count(self, _: Tensor) -> None:
        self.products += 1


def guidance(name: str, problem: Problem, score: Counted, y: Tensor, scale: float = 1.0) -> Score:
    """A guided score by the name of its method."""
    std = problem.noise_std

    def log_likelihood(x0: Tensor) -> Tensor:
        return -0.5 * (y - problem.operator(x0)).flatten(1).square().sum(1) / std**2

    if name == "TweedieMoments":
        return TweedieMoments(score, problem.operator, y, std)
    if name == "IsotropicMoments":
        data_std = float(problem.prior.sample(2000, seed=3).std())
        return IsotropicMoments(score, problem.operator, y, std, data_std=data_std)
    if name == "denoised likelihood":
        return TaskGuidance(score, log_likelihood, denoised=True)
    if name == "DPS, best step":
        return DiffusionPosteriorSampling(score, problem.operator, y, scale)
    raise ValueError(name)


PARTICLES = ("particles, TweedieMoments", "particles, IsotropicMoments")
METHODS = (
    "exact posterior", "TweedieMoments", "IsotropicMoments", "denoised likelihood", "DPS, best step", "KeepKnown", *PARTICLES,
)  # fmt: skip


def particles(problem: Problem, counted: Counted, steps: int, method: str) -> tuple[Tensor, float]:
    """As many particles as there are samples, resampled by their weights, and the mean error of the log-evidence."""
    guided = guidance(method.removeprefix("particles, "), problem, counted, problem.y.float())
    event = problem.prior.event_shape
    result = ParticleSampler(problem.each, steps)(counted.sde, guided, (COUNT, *event), seed=7)
    population = result.particles
    u = NoiseSource.of(8, COUNT).uniform((), step=0, purpose="resampling", dtype=torch.float64)
    chosen = systematic(population.log_weights, u)
    states = torch.stack([states[index] for states, index in zip(population.states, chosen, strict=True)])
    true = problem.prior.log_evidence(problem.operator, problem.y, problem.noise_std)
    return states.flatten(0, 1), float((population.log_evidence - true).abs().mean())


def run(problem: Problem, process: str, sampler: str, steps: int, method: str, scale: float = 1.0) -> dict[str, Any]:
    """Samples of all measurements of a problem: their errors, and what they cost."""
    sde, make, each = PROCESSES[process], SAMPLERS[sampler](steps), problem.each
    shape = (COUNT * each, *problem.prior.event_shape)
    begin, counted = time.process_time(), Counted(problem.prior.score(sde), sde)
    more = {}
    if method in PARTICLES:
        samples, more["log_evidence_error"] = particles(problem, counted, steps, method)
    elif method == "exact posterior":
        parts = []
        for k, posterior in enumerate(problem.posteriors):
            counted = Counted(likely(posterior).score(sde), sde)
            parts.append(make(sde, counted, (each, *shape[1:]), seed=7, first=k * each).samples)
        samples = torch.cat(parts)
    elif method == "KeepKnown":
        hook = KeepKnown(problem.rows, problem.operator.known)
        samples = make(sde, counted, shape, seed=7, hooks=[hook]).samples
    else:
        samples = make(sde, guidance(method, problem, counted, problem.rows, scale), shape, seed=7).samples
    seconds = time.process_time() - begin
    errors = problem.errors(samples.reshape(COUNT, each, *shape[1:]))
    return errors | more | {"seconds": seconds, "evaluations": counted.evaluations, "products": counted.products}


def likely(mixture: GaussianMixture) -> GaussianMixture:
    """A mixture without its least likely components, which have a share of .1 % together. Thousands would take minutes."""
    order = mixture.weights.argsort(descending=True)
    kept = order[: int((mixture.weights[order].cumsum(0) < 0.999).sum()) + 1]
    rotations = mixture.rotations[kept]
    covariances = rotations * mixture.variances[kept][:, None] @ rotations.mT
    means = mixture.means[kept].reshape(-1, *mixture.event_shape)
    return GaussianMixture(means, covariances=covariances, weights=mixture.weights[kept])


def attempt(*arguments: Any) -> dict[str, Any]:
    """The result of ``run``, or why there is none."""
    try:
        return run(*arguments)
    except FloatingPointError as problem:
        return {"error": str(problem)[:200], "failed": 1.0}


class Results:
    """Results in a file, one in each line.

    Args:
        file: The file. It may exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The result with these values, or None."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        """Append a result to the file."""
        self.rows.append(row)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def best_scale(problem: Problem, process: str, results: Results) -> float:
    """The scale of DPS with the least distance, by ancestral sampling with 50 steps."""
    found = {}
    for scale in SCALES:
        key = {"problem": problem.name, "process": process, "method": "DPS", "scale": scale, "steps": 50}
        row = results.find(**key)
        if row is None:
            row = key | attempt(problem, process, "ancestral", 50, "DPS, best step", scale)
            results.add(row)
        found[scale] = row.get("sw", float("inf"))
    return min(found, key=lambda scale: found[scale])


def cases(options: argparse.Namespace) -> Iterator[tuple[Problem, str, str, str, int]]:
    """All combinations, short runs first."""
    chosen = [p for p in problems() if not options.problems or p.name in options.problems]
    for steps in options.steps:
        for problem in chosen:
            for method in options.methods:
                if method == "KeepKnown" and not isinstance(problem.operator, Mask):
                    continue
                if method == "exact posterior" and steps > 20 and problem.name.startswith("digits"):
                    continue  # up to a minute of CPU time each
                for process in PROCESSES:
                    for sampler in ("ancestral",) if method in PARTICLES else SAMPLERS:
                        yield problem, method, process, sampler, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=Path("inverse_problems.jsonl"))
    parser.add_argument("--problems", nargs="*")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--steps", type=int, nargs="*", default=STEPS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.file)
    if options.write:
        write(results.rows)
        return
    for problem in problems():
        if results.find(problem=problem.name, method="exact samples") is None:
            results.add({"problem": problem.name, "method": "exact samples"} | problem.errors(problem.exact(100)))
    for problem, method, process, sampler, steps in cases(options):
        key = {"problem": problem.name, "process": process, "sampler": sampler, "steps": steps, "method": method}
        if results.find(**key) is None:
            scale = best_scale(problem, process, results) if method == "DPS, best step" else 1.0
            results.add(key | {"scale": scale} | attempt(problem, process, sampler, steps, method, scale))


if __name__ == "__main__":
    main()
