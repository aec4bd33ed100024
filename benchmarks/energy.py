"""Energies against free score networks: the error of the score after training, its curl, and the time of a step.

    python benchmarks/energy.py [--steps N] [--seeds K]

The data is a mixture of four components in the plane, whose score is known at every t. One MLP of the same size is trained
under each parameterization with the same draws of the denoising loss. "Error" is the mean of sigma^2 (s - score)^2 over
coordinates, states and uniform times: 0 for the exact score, and about 1 for a score of 0. "Curl" is the largest
|ds_1/dx_2 - ds_2/dx_1| over the largest derivative at 256 states. The forms of an energy are

    residual   E = ||x^ - n||^2 / 2        this is EnergyModel
    norm       E = ||n||^2 / 2
    product    E = x^ . n
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde import VPSDE, DenoisingScoreMatching, GaussianMixture, ScoreModel
from scoresde.networks import MLP
from scoresde.score import EnergyModel

SDE = VPSDE()
DATA = GaussianMixture([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], 0.15, [0.1, 0.2, 0.3, 0.4])


class Norm(EnergyModel):
    """E = ||n||^2 / 2."""

    def _energy(self, kernel, output, x):  # type: ignore[no-untyped-def]
        return 0.5 * output.square().flatten(1).sum(1)


class Product(EnergyModel):
    """E = x^ . n."""

    def _energy(self, kernel, output, x):  # type: ignore[no-untyped-def]
        scaled = kernel.standardized(x, self.data_std)
        return (scaled * output).flatten(1).sum(1)


MODELS: dict[str, Callable[[], ScoreModel]] = {
    "free, noise": lambda: ScoreModel(MLP((2,), width=64, depth=3), SDE),
    "free, velocity": lambda: ScoreModel(MLP((2,), width=64, depth=3), SDE, "velocity"),
    "energy, residual": lambda: EnergyModel(MLP((2,), width=64, depth=3), SDE),
    "energy, norm": lambda: Norm(MLP((2,), width=64, depth=3), SDE),
    "energy, product": lambda: Product(MLP((2,), width=64, depth=3), SDE),
}


def trained(make: Callable[[], ScoreModel], steps: int, seed: int) -> tuple[ScoreModel, float]:
    """A model after ``steps`` steps of Adam on batches of 128, and the seconds of a step."""
    torch.manual_seed(seed)
    model, loss = make(), DenoisingScoreMatching(SDE, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    data, start = DATA.sample(128 * steps, seed=seed), time.process_time()
    for step in range(steps):
        value = loss(model, data[128 * step : 128 * (step + 1)], step=step).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return model, (time.process_time() - start) / steps


def score_error(model: ScoreModel) -> float:
    """The error of the score in units of noise, for 20,000 states at uniform times."""
    t = torch.linspace(1e-3, 1.0, 20_000)
    x = DenoisingScoreMatching(SDE, seed=99).draw(DATA.sample(len(t), seed=99), t=t, step=0).x_t
    with torch.no_grad():
        error = model(x, t) - DATA.score(SDE)(x, t)
    return float((SDE.sigma(t)[:, None] * error).square().mean())


def curl(model: ScoreModel) -> float:
    """The largest asymmetry of the Jacobian over its largest entry, at t = 0.3."""
    x, t = DATA.sample(256, seed=5).requires_grad_(True), torch.full((256,), 0.3)

    def derivative(i: int) -> Tensor:
        return torch.autograd.grad(model(x, t)[:, i].sum(), x)[0]

    jacobian = torch.stack([derivative(i) for i in range(2)], 1)
    return float((jacobian - jacobian.mT).abs().max() / jacobian.abs().max())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    print("| parameterization | error, each seed | curl | ms a step |\n|---|---|---:|---:|")
    for name, make in MODELS.items():
        runs = [trained(make, options.steps, seed) for seed in range(options.seeds)]
        errors = ", ".join(f"{score_error(model):.4f}" for model, _ in runs)
        cost = min(seconds for _, seconds in runs)
        print(f"| {name} | {errors} | {max(curl(model) for model, _ in runs):.1e} | {1e3 * cost:.1f} |", flush=True)


if __name__ == "__main__":
    main()
