"""Particles against exact posteriors: error by number of particles, plain guidance, and the coverage of the log-evidence.

    python benchmarks/particles.py error [--most 1024]      # the table, and docs/pictures/particles.png
    python benchmarks/particles.py evidence --steps 200     # the coverage of the error of the log-evidence
    python benchmarks/particles.py bias                     # the error that remains with many particles, by steps and grid

Mixtures of three Gaussians, whose posterior and evidence are known, with exact scores. The error is the root mean square over
populations and coordinates of the weighted mean minus that of the posterior, in standard deviations of the posterior, for x and
x^2: 1 / sqrt(K) for K exact samples.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import IsotropicMoments, TaskGuidance, TweedieMoments
from scoresde.samplers import Ancestral, ParticleSampler, UniPC
from scoresde.samplers.grids import quadratic, uniform

F64, SDE = torch.float64, VPSDE()
POPULATIONS = {4: 200, 16: 200, 64: 100, 256: 40, 1024: 16, 4096: 8}
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "particles.png"


@dataclass(frozen=True)
class Problem:
    """A mixture and linear measurements of it."""

    name: str
    prior: GaussianMixture
    matrix: Tensor
    std: float

    def operator(self, x: Tensor) -> Tensor:
        """The measurement without noise."""
        return x @ self.matrix.T.to(x)

    def measure(self, count: int, seed: int) -> Tensor:
        """Measurements of samples."""
        x = self.prior.sample(count, seed=seed, dtype=F64)
        noise = torch.randn(count, len(self.matrix), generator=torch.Generator().manual_seed(seed), dtype=F64)
        return (self.operator(x) + self.std * noise).float()

    def guidance(self, y: Tensor) -> dict[str, tuple[Any, Callable[[Tensor], Tensor] | None]]:
        """Scores and log-likelihoods for particles."""
        score = self.prior.score(SDE)

        def log_likelihood(x: Tensor) -> Tensor:
            rows = y.repeat_interleave(len(x) // len(y), 0)
            square = ((self.operator(x) - rows) / self.std).square().sum(1)
            return -0.5 * square - y.shape[1] * math.log(self.std * math.sqrt(2.0 * math.pi))

        return {
            "TweedieMoments": (TweedieMoments(score, self.operator, y, self.std), None),
            "IsotropicMoments": (IsotropicMoments(score, self.operator, y, self.std), None),
            "TaskGuidance(denoised=True)": (TaskGuidance(score, log_likelihood, denoised=True), None),
            "no guidance": (score, log_likelihood),
        }


def problem(dimensions: int, std: float) -> Problem:
    """Two dimensions: modes that are far apart. More: random modes, and a quarter as many measurements."""
    if dimensions == 2:
        means = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.3, -1.2]], dtype=F64)
        covariance = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=F64).expand(3, 2, 2)
        matrix = torch.tensor([[1.0, 0.3]], dtype=F64)
    else:
        generator = torch.Generator().manual_seed(0)
        shape = (dimensions, dimensions)
        means = 0.9 * torch.randn(3, dimensions, generator=generator, dtype=F64)
        roots = torch.randn(3, *shape, generator=generator, dtype=F64) / dimensions**0.5
        covariance = 0.25 * roots @ roots.mT + 0.05 * torch.eye(dimensions, dtype=F64)
        matrix = torch.randn(dimensions // 4, dimensions, generator=generator, dtype=F64) / dimensions**0.5
    return Problem(f"{dimensions} dimensions", GaussianMixture(means, covariances=covariance), matrix, std)


def functions(x: Tensor) -> Tensor:
    """The functions whose means are compared."""
    return torch.cat([x, x**2], -1).double()


def sampler(particles: int, steps: int, log_likelihood: Callable[[Tensor], Tensor] | None) -> ParticleSampler:
    """The sampler of all tables."""
    return ParticleSampler(particles, steps, Ancestral(), log_likelihood=log_likelihood, grid=quadratic)


def errors(one: Problem, y: Tensor, counts: list[int], steps: int) -> dict[str, list[float]]:
    """Errors by method and number of particles; those of plain guidance with as many samples."""
    draws = functions(one.prior.posterior(one.operator, y.double(), one.std).sample(2**20, seed=1, dtype=F64))
    mean, std = draws.mean(0), draws.std(0)
    found: dict[str, list[float]] = {"exact samples": [count**-0.5 for count in counts]}
    for name, (score, log_likelihood) in one.guidance(y).items():
        if not (name.startswith("TaskGuidance") and y.shape[1] > 1):
            found[f"particles, {name}"] = []
            for count in counts:
                shape = (POPULATIONS[count], one.prior.means.shape[1])
                particles = sampler(count, steps, log_likelihood)(SDE, score, shape, seed=count).particles
                assert particles is not None
                means = (particles.log_weights.exp()[..., None] * functions(particles.states)).sum(1)
                found[f"particles, {name}"].append(rms((means - mean) / std))
        if log_likelihood is None:
            shape = (2**13, one.prior.means.shape[1])
            x = functions(UniPC(steps)(SDE, score, shape, seed=0).samples)
            bias, spread = rms((x.mean(0) - mean) / std), rms(x.std(0) / std)
            found[f"plain, {name}"] = [math.sqrt(bias**2 + spread**2 / count) for count in counts]
        print(f"{one.name}: {name} done", flush=True)
    return found


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.square().mean().sqrt())


def error(options: argparse.Namespace) -> None:
    """Print the table of errors and draw the figure."""
    counts = [count for count in POPULATIONS if count <= options.most]
    tables = {}
    for dimensions in (2, 16):
        one = problem(dimensions, 0.3)
        y = torch.tensor([[0.4]]) if dimensions == 2 else one.operator(one.prior.means.mean(0)[None]).float()
        print(one.name, "weights of the modes", one.prior.posterior(one.operator, y.double(), 0.3).weights.tolist())
        started = time.perf_counter()
        tables[one.name] = errors(one, y, counts, options.steps)
        print(f"{one.name}: {time.perf_counter() - started:.0f} s", flush=True)
        print(f"\n| {one.name} | {' | '.join(map(str, counts))} |\n|---|{'---:|' * len(counts)}")
        for name, row in tables[one.name].items():
            print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |")
        print(flush=True)
    draw(tables, counts)


def draw(tables: dict[str, dict[str, list[float]]], counts: list[int]) -> None:
    """The figure: errors by number of particles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = ("TweedieMoments", "IsotropicMoments", "TaskGuidance(denoised=True)", "no guidance")
    colors = dict(zip(names, ("C0", "C1", "C3", "C2"), strict=True))
    figure, panels = plt.subplots(1, len(tables), figsize=(10.5, 4.2), sharey=True, layout="constrained")
    handles: dict[str, Any] = {}
    for panel, (title, table) in zip(panels, tables.items(), strict=True):
        for label, row in table.items():
            kind, _, name = label.partition(", ")
            style = {"particles": "o-", "plain": "--", "exact samples": ":"}[kind]
            (handles[label],) = panel.plot(
                counts, row, style, color=colors.get(name, "black"), label=label, markersize=5
            )
        panel.set(xscale="log", yscale="log", title=title, xlabel="number of particles or samples")
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.minorticks_off()
        panel.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("error of posterior means")
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=110)
    print(f"{FIGURE}")


def evidence(options: argparse.Namespace) -> None:
    """Print how often the exact log-evidence is within two standard errors, for measurements of random samples."""
    print(f"{options.cases} measurements for each row, {options.particles} particles, {options.steps} steps\n")
    print(
        "| dimensions | noise | particles by | within 2 errors | mean error bar | true error (RMS) | fewest ancestors |"
    )
    print("|---:|---:|---|---:|---:|---:|---:|")
    for dimensions in (2, 16):
        for std in (0.1, 0.3):
            one = problem(dimensions, std)
            y = one.measure(options.cases, seed=7)
            exact = one.prior.log_evidence(one.operator, y.double(), std)
            for name, (score, log_likelihood) in one.guidance(y).items():
                if name.startswith("TaskGuidance") and dimensions > 2:
                    continue
                run = sampler(options.particles, options.steps, log_likelihood)
                particles = run(SDE, score, (options.cases, dimensions), seed=dimensions).particles
                assert particles is not None
                off, bar = particles.log_evidence - exact, particles.log_evidence_error
                within = float((off.abs() < 2.0 * bar).double().mean())
                print(
                    f"| {dimensions} | {std:g} | {name} | {within:.2f} | {float(bar.mean()):.3f} | {rms(off):.3f} | "
                    f"{int(particles.ancestors.min())} |",
                    flush=True,
                )


def bias(options: argparse.Namespace) -> None:
    """Print the error that is left with 4 x 16384 particles: that of the steps."""
    one, y = problem(2, 0.3), torch.tensor([[0.4]])
    draws = functions(one.prior.posterior(one.operator, y.double(), one.std).sample(2**20, seed=1, dtype=F64))
    exact = one.prior.log_evidence(one.operator, y.double(), one.std)
    score, log_likelihood = one.guidance(y)["no guidance"]
    print("| grid | steps | error of posterior means | error of the log-evidence |\n|---|---:|---:|---:|")
    for grid in (uniform, quadratic):
        for steps in (25, 50, 100, 200):
            run = ParticleSampler(2**14, steps, Ancestral(), log_likelihood=log_likelihood, grid=grid)
            particles = run(SDE, score, (4, 2), seed=1).particles
            assert particles is not None
            means = (particles.log_weights.exp()[..., None] * functions(particles.states)).sum(1)
            off, noise = (means.mean(0) - draws.mean(0)) / draws.std(0), means.std(0) / draws.std(0) / 2.0
            log_off = particles.log_evidence - exact
            print(
                f"| {grid.__name__} | {steps} | {rms(off):.3f} +- {rms(noise):.3f} | {float(log_off.mean()):.3f} +- "
                f"{float(log_off.std()) / 2.0:.3f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("error", "evidence", "bias"))
    parser.add_argument("--most", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--particles", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"error": error, "evidence": evidence, "bias": bias}[options.what](options)


if __name__ == "__main__":
    main()
