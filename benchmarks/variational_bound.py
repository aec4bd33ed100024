"""The variational bound of a trained model in K steps: reverse variances, grids, and importance over steps.

    scoresde train --config configs/vp/digits_classes.py --workdir runs/classes
    python benchmarks/variational_bound.py runs/classes

For dequantized test events, the script prints the bound in bits/dim with K steps: for DDPM's upper variance; for the variance
measured on training events, on a grid of equal steps in the log noise; and the same on the best grid of the measured costs. Then
it prints the standard error of an event for all of 500 steps, and for steps drawn with equal probabilities or those of the costs.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.runs import load
from scoresde.likelihood import bits_per_dim, bits_per_dim_error, variational_bound
from scoresde.samplers import grids
from scoresde.schedules import bound_costs, decoder_costs, optimal_grids
from scoresde.score import AnalyticVariance, GaussianVariance, denoising_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--events", type=int, default=24)
    parser.add_argument("--t-min", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 40])
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, _ = load(options.workdir)
    sde, transform = model.sde, made.data.transform
    x = made.data.test.encode(torch.arange(options.events), seed=0)
    times = grids.log_noise(sde, 60, options.t_min).flip(0)
    train = made.data.train.encode(torch.arange(64), seed=0)
    errors = denoising_errors(sde, model, train, times)
    measured = AnalyticVariance.of(sde, errors)
    best = optimal_grids(times, bound_costs(sde, errors), max(options.steps), decoder=decoder_costs(sde, errors))

    def bound(times: torch.Tensor, variance: object, **more: object) -> str:
        found = variational_bound(sde, model, x, times, variance=variance, **more)
        bits = bits_per_dim(found.log_prob, x.shape[1:], transform)  # of dequantized data, as the model was trained
        error = bits_per_dim_error(found.standard_error.square().mean().sqrt(), x.shape[1:])
        return f"{float(bits.mean()):.3f} (error of an event {float(error):.3f})"

    print("| steps | upper variance | measured variance | measured variance, best grid |\n|---:|---:|---:|---:|")
    for steps in options.steps:
        plain, chosen = grids.log_noise(sde, steps, options.t_min).flip(0), best.grid(steps).flip(0)
        cells = (bound(plain, GaussianVariance(1.0)), bound(plain, measured), bound(chosen, measured))
        print(f"| {steps} | {' | '.join(cells)} |", flush=True)
    fine = grids.log_noise(sde, 500, options.t_min).flip(0)
    levels = sde.sigma(fine) / sde.alpha(fine)
    costs = 0.5 * (-(levels**-2).diff() * measured(levels)[1:]).log1p()
    print("\n| 500 steps, measured variance | evaluations | bits/dim |\n|---|---:|---:|")
    rows = {"all": {}, "50 drawn equally": {"draws": 50}, "50 drawn by cost": {"draws": 50, "probabilities": costs}}
    rows |= {"20 drawn by cost": {"draws": 20, "probabilities": costs}}
    for name, more in rows.items():
        replicates = 2 if name == "all" else 4
        count = replicates * (1 + more.get("draws", 500))
        print(f"| {name} | {count} | {bound(fine, measured, replicates=replicates, **more)} |", flush=True)


if __name__ == "__main__":
    main()
