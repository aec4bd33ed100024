"""Samples far from the data: a flow sampler with a small MLP that predicts the noise, or with preconditioning.

The data is a mixture of eight Gaussians, whose exact score is known at every state and time. Each model is the default MLP,
trained for 2000 steps. The starts are the same for all models. An outlier is further than 4 sqrt(d) standard deviations from
every mean. It is outside of the data (|x| > 1.5 max |mean|), or between its parts. The starts of all outliers are integrated
again with 1000 steps, in float64, and with the exact score. Rare starts are tested in 64 random directions.

    OMP_NUM_THREADS=1 python benchmarks/flow_outliers.py                      vectors of 2 numbers
    OMP_NUM_THREADS=1 python benchmarks/flow_outliers.py --problem table      vectors of 13 numbers
    OMP_NUM_THREADS=1 python benchmarks/flow_outliers.py --problem series     series of 32 values
"""

from __future__ import annotations

import argparse
import copy
import math
import time

import torch
from torch import Tensor

from scoresde import VESDE, VPSDE, DenoisingScoreMatching, GaussianMixture, ScoreModel
from scoresde.networks import MLP
from scoresde.samplers import DDIM, EulerMaruyama
from scoresde.score import PreconditionedPrediction
from scoresde.sde import ScalarSDE

STD, STEPS, BATCH, RATE = 0.1, 2000, 256, 1e-3
PREDICTIONS = {"noise": "noise", "preconditioned": PreconditionedPrediction()}
PROCESSES: tuple[ScalarSDE, ...] = (VPSDE(), VESDE())


def problem(name: str) -> GaussianMixture:
    """The mixture, with about unit variance in every coordinate."""
    angle = 2.0 * math.pi * torch.arange(8, dtype=torch.float64) / 8
    if name == "ring":
        means = 2**0.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
    elif name == "table":
        means = torch.randn(8, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        means = (means - means.mean(0)) / means.std(0, correction=0)
    else:
        place = torch.arange(32, dtype=torch.float64)
        means = 2**0.5 * (angle[:, None] + 2.0 * math.pi * place / 16).sin()[:, None]
    return GaussianMixture(means, STD)


def trained(mixture: GaussianMixture, sde: ScalarSDE, name: str) -> ScoreModel:
    """A trained model."""
    torch.manual_seed(0)
    model, loss = ScoreModel(MLP(mixture.event_shape), sde, PREDICTIONS[name]), DenoisingScoreMatching(sde)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    x = mixture.sample(5000, seed=1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model, x[torch.randint(len(x), (BATCH,))]).mean().backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


class Samples:
    """Samples, and which of them are outliers."""

    def __init__(self, mixture: GaussianMixture, x: Tensor) -> None:
        flat, means = x.flatten(1).double(), mixture.means
        self.norm = flat.norm(dim=1)
        far = torch.cdist(flat, means).min(dim=1).values > 4.0 * STD * means.shape[1] ** 0.5
        self.outside = far & (self.norm > 1.5 * means.norm(dim=1).max())
        self.between = far & ~self.outside

    def __str__(self) -> str:
        outside, between = int(self.outside.sum()), int(self.between.sum())
        return f"{outside:3d} outside, {between:3d} between, largest |x| {float(self.norm.max()):6.2f}"


def measure(mixture: GaussianMixture, sde: ScalarSDE, name: str, count: int) -> None:
    """Train a model and print its outliers."""
    began, shape = time.perf_counter(), (count, *mixture.event_shape)
    model = trained(mixture, sde, name)
    print(
        f"\n{type(sde).__name__}, {name}: trained in {time.perf_counter() - began:.0f} s; {count} samples", flush=True
    )
    start = sde.prior_sample(shape, seed=2)
    size = float(sde.prior_sample((10_000, 1), seed=3).std())
    found = Samples(mixture, DDIM(steps=50)(sde, model, shape, start=start).samples)
    print(f"  {'DDIM, 50 steps':34s} {found}")
    print(
        f"  {'Euler-Maruyama, 200 steps':34s} {Samples(mixture, EulerMaruyama(steps=200)(sde, model, shape).samples)}"
    )
    again = found.outside | found.between
    if bool(again.any()):
        starts, double = start[again], copy.deepcopy(model).double()
        few = (len(starts), *mixture.event_shape)
        for label, score, first, steps in (
            ("outliers again, 1000 steps", model, starts, 1000),
            ("outliers again, 1000 steps, float64", double, starts.double(), 1000),
            ("outliers again, exact score", mixture.score(sde), starts, 200),
        ):
            ends = Samples(mixture, DDIM(steps=steps)(sde, score, few, start=first).samples)
            print(f"  {label:34s} {ends}")
    radius = start.flatten(1).norm(dim=1) / size
    if bool(found.outside.any()):
        rare = radius[found.outside]
        print(
            f"  starts of those outside: {float(rare.min()):.2f} to {float(rare.max()):.2f} standard deviations from 0"
        )
        print(f"  median of all starts: {float(radius.median()):.2f}")
        follow(mixture, sde, model, start[[int(torch.where(found.outside, found.norm, 0.0).argmax())]])
    dim = mixture.means.shape[1]
    direction = torch.randn(64, dim, generator=torch.Generator().manual_seed(4))
    direction /= direction.norm(dim=1, keepdim=True)
    for more in (2.0, 3.0, 4.0):
        away = math.sqrt(dim) + more
        far = (away * size * direction).reshape(64, *mixture.event_shape)
        ends = Samples(mixture, DDIM(steps=50)(sde, model, far.shape, start=far).samples)
        print(f"  64 starts at {away:4.1f} standard deviations {ends}")


def follow(mixture: GaussianMixture, sde: ScalarSDE, model: ScoreModel, start: Tensor) -> None:
    """Print the states of one trajectory, with the prediction of the model and the exact one."""
    path = DDIM(steps=50)(sde, model, start.shape, start=start, keep_every=1).trajectory
    assert path is not None
    exact = mixture.score(sde)
    print("     t     sigma   |x|/rms   |noise|, model and exact    |x_0|, model and exact")
    for k in [*range(0, len(path.times) - 1, 8), len(path.times) - 2]:
        t, x = path.times[k].reshape(1).float(), path.states[k].float()
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        noises = [-sigma * score(x, t) for score in (model, exact)]
        data = [(x - sigma * noise) / alpha for noise in noises]
        noise, true_noise, clean, true_clean = (float(v.norm()) for v in (*noises, *data))
        radius = float(x.norm()) / math.hypot(alpha, sigma)
        print(
            f"  {float(t):6.4f} {sigma:8.3f} {radius:8.2f}  {noise:10.3f} {true_noise:10.3f}     {clean:10.2f} {true_clean:10.2f}"
        )


def main() -> None:
    """Measure all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problem", choices=("ring", "table", "series"), default="ring")
    parser.add_argument("--count", type=int, default=20_000, help="number of samples")
    parser.add_argument("--process", choices=[type(sde).__name__ for sde in PROCESSES], help="only this process")
    given = parser.parse_args()
    mixture = problem(given.problem)
    for sde in PROCESSES:
        for name in PREDICTIONS:
            if given.process in (None, type(sde).__name__):
                measure(mixture, sde, name, given.count)


if __name__ == "__main__":
    main()
