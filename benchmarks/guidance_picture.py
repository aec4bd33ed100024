"""docs/pictures/guidance.png: a linear measurement of a mixture, its exact posterior, and samples of three methods.

    python benchmarks/guidance_picture.py

The prior is a mixture of eight Gaussians on a circle and one in its center, and the measurement is y = x_1 + .5 x_2 + noise. It
prints the sliced Wasserstein distance of the samples to as many samples of the exact posterior, a mean over five sets of these.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import TaskGuidance, TweedieMoments
from scoresde.metrics import sliced_wasserstein
from scoresde.samplers import ParticleSampler, UniPC
from scoresde.samplers.populations import Particles

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "guidance.png"
NOISE, Y, COUNT, STEPS, REACH = 0.3, 0.5, 4000, 100, 2.2


def prior() -> GaussianMixture:
    """Eight Gaussians of standard deviation .15 on a circle of radius 1.5, and one in the center."""
    angles = torch.arange(8) * math.pi / 4
    means = torch.cat([1.5 * torch.stack([angles.cos(), angles.sin()], 1), torch.zeros(1, 2)])
    return GaussianMixture(means, 0.15)


def operator(x: Tensor) -> Tensor:
    """The measurement without noise."""
    return x[:, :1] + 0.5 * x[:, 1:]


def samples(mixture: GaussianMixture) -> dict[str, Tensor]:
    """Samples of the posterior by the title of their panel, the exact ones first."""
    sde, y = VPSDE(), torch.tensor([[Y]])
    score = mixture.score(sde)
    plain = TaskGuidance(score, lambda x0: -0.5 * ((y - operator(x0)) ** 2).sum(1) / NOISE**2, denoised=True)
    moments = TweedieMoments(score, operator, y, NOISE)
    return {
        "exact posterior": mixture.posterior(operator, y, NOISE).sample(COUNT, seed=1),
        "particles": drawn(ParticleSampler(COUNT, STEPS)(sde, moments, (1, 2)).particles),
        "plain guidance (DPS)": UniPC(STEPS)(sde, plain, (COUNT, 2)).samples,
    }


def drawn(found: Particles | None) -> Tensor:
    """As many states of a population as it has, drawn by weight."""
    assert found is not None
    weights = found.log_weights[0].exp()
    return found.states[
        0, weights.multinomial(len(weights), replacement=True, generator=torch.Generator().manual_seed(0))
    ]


def main() -> None:
    torch.set_num_threads(1)
    mixture = prior()
    found = samples(mixture)
    posterior = mixture.posterior(operator, torch.tensor([[Y]]), NOISE)
    others = [posterior.sample(COUNT, seed=seed) for seed in range(2, 7)]
    side = torch.linspace(-REACH, REACH, 120)
    density = mixture.log_prob(torch.cartesian_prod(side, side)).exp().reshape(120, 120).T
    figure = Figure(figsize=(9, 2.75), layout="constrained")
    axes = figure.subplots(1, 1 + len(found), sharex=True, sharey=True)
    axes[0].fill_between(
        side, *((Y + sign * 2 * NOISE - side) / 0.5 for sign in (-1, 1)), color="C1", alpha=0.25, linewidth=0
    )
    axes[0].plot(side, (Y - side) / 0.5, color="C1")
    axes[0].set_title("prior and measurement", fontsize=11)
    for ax, (name, x) in zip(axes[1:], found.items(), strict=True):
        ax.scatter(*x.T, s=2, alpha=0.4, linewidths=0)
        distance = sum(sliced_wasserstein(x, other) for other in others) / len(others)
        ax.set_title(name, fontsize=11)
        print(f"{name}: sliced Wasserstein distance to the posterior {distance:.3f}")
    for ax in axes:
        ax.contourf(side, side, density, levels=[0.02, 0.1, 0.3, 1.0], colors=["0.92", "0.85", "0.75"], zorder=0)
        ax.set(aspect="equal", xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    figure.savefig(OUTPUT, dpi=100)


if __name__ == "__main__":
    main()
