"""Found time grids against grids that need no model, on two mixtures with exact scores.

    python benchmarks/schedules.py
    python benchmarks/schedules.py --picture docs/pictures/schedules.png

Each grid has K times: K - 1 steps and the last estimate of x_0, which DDIM does not make. The first table is the gap of the
variational bound with the optimal reverse variances: the bound minus the entropy, in nats for each coordinate, with errors of
the score that are measured on other data than those of the search. The others are energy distances between samples and data:
for the reverse chain of that bound, whose last step adds the noise of the decoder, and for two samplers of the probability flow.
The picture has the grids of 10 times.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde import VPSDE, GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers import DDIM, UniPC, grids
from scoresde.schedules import analytic_grids, bound_costs, decoder_costs, grid_cost, optimal_grids
from scoresde.score import DenoisingErrors, denoising_errors

SDE = VPSDE()
COUNTS = (5, 10, 20, 50)
INSTANTS = 200
SEARCH, HELD_OUT, SAMPLES = 2000, 20_000, 5000
T_MIN = 1e-3


def mixtures() -> dict[str, GaussianMixture]:
    """Four modes in the plane, and eight components of different widths in 16 dimensions."""
    corners = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    draw = torch.Generator().manual_seed(0)
    wide = 0.02 * 50.0 ** torch.rand(8, 16, generator=draw)  # standard deviations from 0.02 to 1
    return {
        "four modes, d = 2": GaussianMixture(corners, torch.tensor(0.3), weights=torch.tensor([0.1, 0.2, 0.3, 0.4])),
        "eight components, d = 16": GaussianMixture(torch.randn(8, 16, generator=draw), wide),
    }


def found(data: GaussianMixture) -> dict[str, dict[int, Tensor]]:
    """The grids of K times, by name and K."""
    times = grids.log_noise(SDE, INSTANTS - 1, T_MIN).flip(0)
    errors = denoising_errors(SDE, data.score(SDE), data.sample(SEARCH, seed=1), times, seed=1)
    made = {
        name: {k: grid(SDE, k - 1, T_MIN) for k in COUNTS}
        for name, grid in (
            ("`uniform`", grids.uniform),
            ("`log_noise`", grids.log_noise),
            ("`karras`", grids.karras),
            ("`focused`", grids.focused),
        )
    }
    costs, best = bound_costs(SDE, errors), {}
    best["dynamic programming"] = optimal_grids(times, costs, max(COUNTS) - 1)
    best["Analytic-DPM"] = analytic_grids(SDE, errors, max(COUNTS) - 1)
    made |= {name: {k: of.grid(k - 1) for k in COUNTS} for name, of in best.items()}
    free = optimal_grids(times, costs, max(COUNTS), decoder=decoder_costs(SDE, errors))
    made["dynamic programming, free end"] = {k: free.grid(k) for k in COUNTS}
    return made


def bound(x: Tensor, errors: DenoisingErrors) -> float:
    """The bound of -E ln p(x_0) with the optimal variances, in nats for each coordinate."""
    times = errors.times
    alpha, prior = float(SDE.alpha(times[-1])), float(SDE.sigma(times[-1])) ** 2
    first = 0.5 * ((alpha**2 * float(x.double().square().mean()) + prior) - 1.0 - math.log(prior))
    return grid_cost(times, bound_costs(SDE, errors), times.flip(0), decoder=decoder_costs(SDE, errors)) + first


def reverse_chain(score: Callable[[Tensor, Tensor], Tensor], errors: DenoisingErrors, like: Tensor) -> Tensor:
    """Samples of the chain of the bound: x_s = E[x_s | x_t] + noise of the optimal variance."""
    noise, ends = NoiseSource.of(0, len(like)), [*errors.times[:-1].flip(0), torch.tensor(0.0, dtype=torch.float64)]
    x = noise.normal(like.shape[1:], step=0, purpose="chain", dtype=like.dtype)
    steps = zip(errors.times.flip(0), ends, errors.data_error.flip(0), strict=True)
    for k, (t, s, error) in enumerate(steps, start=1):
        x0 = SDE.data_from_score(x, t.to(x.dtype), score(x, t.to(x.dtype).expand(len(x))))
        mean, std = SDE.posterior(x, x0, s, t)
        c = float(SDE.alpha(s)) * float(SDE.transition(s, t).level() / SDE.sigma(t)) ** 2
        z = noise.normal(like.shape[1:], step=k, purpose="chain", dtype=like.dtype)
        x = (mean + math.sqrt(float(std) ** 2 + c**2 * float(error)) * z).to(like.dtype)
    return x


def mean_distance(x: Tensor, y: Tensor) -> float:
    """The mean distance of all pairs."""
    return sum(float(torch.cdist(part, y).double().sum()) for part in x.split(500)) / (len(x) * len(y))


def energy_distance(x: Tensor, y: Tensor, within: float) -> float:
    """2 E||X - Y|| - E||X - X'|| - E||Y - Y'|| without bias; ``within`` is the mean distance of the pairs of y."""
    own, other = len(x) / (len(x) - 1), len(y) / (len(y) - 1)
    return 2.0 * mean_distance(x, y) - own * mean_distance(x, x) - other * within


def table(title: str, rows: dict[str, list[float]], form: str) -> None:
    print(f"\n{title}\n| grid | " + " | ".join(str(k) for k in COUNTS) + " |\n|---|" + "---:|" * len(COUNTS))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(format(v, form) for v in values) + " |")


def picture(file: str) -> None:
    """The times of each grid in ln(sigma / alpha), one row for each grid and one column for each mixture."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 2.8), sharey=True, layout="constrained")
    for axis, (name, data) in zip(axes, mixtures().items(), strict=True):
        made = {grid.strip("`"): SDE.log_noise(times[10]) for grid, times in found(data).items()}
        for row, u in enumerate(made.values()):
            axis.plot(u, torch.full_like(u, -row), "|-", markersize=9, linewidth=0.5)
        axis.set_yticks([-row for row in range(len(made))], list(made))
        axis.set(title=name, xlabel="ln(sigma / alpha)")
    figure.savefig(file, dpi=110)


def tables() -> None:
    """Print all tables."""
    start = time.process_time()
    for name, data in mixtures().items():
        made, score = found(data), data.score(SDE)
        test, real = data.sample(HELD_OUT, seed=2), data.sample(SAMPLES, seed=3)
        entropy = -float(data.log_prob(test.double()).mean()) / test.shape[1]
        within = mean_distance(real, real)
        rows: dict[str, dict[str, list[float]]] = {}
        for grid, times in made.items():
            for k in COUNTS:
                errors = denoising_errors(SDE, score, test, times[k].flip(0), batch_size=HELD_OUT)
                samples = {
                    "the chain of the bound": reverse_chain(score, errors, real),
                    "DDIM": DDIM(times[k])(SDE, score, tuple(real.shape)).samples,
                    "UniPC": UniPC(times[k])(SDE, score, tuple(real.shape)).samples,
                }
                rows.setdefault("gap", {}).setdefault(grid, []).append(bound(test, errors) - entropy)
                for label, x in samples.items():
                    rows.setdefault(label, {}).setdefault(grid, []).append(1e3 * energy_distance(x, real, within))
        print(f"\n## {name}: entropy {entropy:.4f} nats for each coordinate")
        table("gap of the bound, nats for each coordinate", rows.pop("gap"), ".3f")
        noise = [energy_distance(data.sample(SAMPLES, seed=4 + k), real, within) for k in range(4)]
        print("\n1000 x energy distance of four other sets of data: " + ", ".join(f"{1e3 * v:.1f}" for v in noise))
        for label, of in rows.items():
            table(f"1000 x energy distance, {label}", of, ".1f")
    print(f"\n{time.process_time() - start:.0f} s of CPU time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", metavar="FILE", help="draw the grids instead")
    options = parser.parse_args()
    if options.picture:
        picture(options.picture)
    else:
        tables()


if __name__ == "__main__":
    main()
