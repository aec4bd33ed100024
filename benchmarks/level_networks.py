"""Starts of another noise level than that of their time, and errors of estimated levels: python benchmarks/level_networks.py"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import logsigmoid

from scoresde import VESDE, VPSDE, GaussianMixture
from scoresde.data import Digits
from scoresde.metrics import sliced_wasserstein
from scoresde.networks import MLP
from scoresde.samplers import DDIM
from scoresde.samplers.fitted import LevelAdjustedDDIM, fit_level_network


def starts() -> None:
    """Print the table of sliced Wasserstein distances."""
    generator = torch.Generator().manual_seed(0)
    sde, data = VESDE(0.01, 10.0), GaussianMixture(torch.randn(4, 48, generator=generator), torch.tensor(0.1))
    score = data.score(sde)
    torch.manual_seed(0)
    levels = fit_level_network(sde, data.sample(4000), MLP((48,), width=64, depth=1), updates=300, learning_rate=5e-3)
    clean, noise = data.sample(1000, seed=5), torch.randn(1000, 48, generator=generator)
    for sigma in (0.3, 0.5, 1.0):
        ends = torch.tensor([sigma, 0.02], dtype=torch.float64).log().tolist()
        times = sde.time_of_log_noise(torch.linspace(*ends, 11, dtype=torch.float64))
        for factor in (1.0, 1.5, 1 / 1.5):
            start, found = clean + factor * sigma * noise, []
            for sampler in (DDIM(times), LevelAdjustedDDIM(levels, times)):
                samples = sampler(sde, score, clean.shape, start=start).samples
                found.append(f"{sliced_wasserstein(samples, clean):.4f}")
            print(f"| {sigma} | {factor:.2f} sigma | {found[0]} | {found[1]} |")


def digits() -> None:
    """Print the errors of log(1 - abar)."""
    sde, data = VPSDE(), Digits()
    train, test = (part.encode(slice(None), seed=0) for part in (data.train, data.test))
    torch.manual_seed(0)
    levels = fit_level_network(sde, train, MLP((1, 8, 8), width=64, depth=1), updates=2000)
    generator = torch.Generator().manual_seed(0)
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        times = torch.full((len(test),), t)
        noisy = sde.perturb(test, times, torch.randn(test.shape, generator=generator))
        exact = logsigmoid(2 * sde.log_noise(times.double()))
        error = float((logsigmoid(2 * levels.log_noise(noisy)) - exact).square().mean().sqrt())
        off = float((levels.log_noise(noisy) - sde.log_noise(times.double())).square().mean().sqrt())
        print(f"t = {t}: {error:.3f}, ln(sigma / alpha) {off:.2f}, log(1 - abar) = {float(exact[0]):.4f}")


if __name__ == "__main__":
    starts()
    digits()
    print(f"{time.process_time():.0f} s of CPU time")
