"""How many of the 1000 steps of a chain a variational bound must evaluate: the error of an event for drawn steps.

    scoresde train --config configs/vp/digits_classes.py --workdir runs/classes
    python benchmarks/variational_bound.py runs/classes

For dequantized test events and a chain of 1000 equal steps of ln(sigma / alpha) with the measured variance, the script prints the
root mean square over events of the standard error of one replicate given the event, in bits/dim, and this error divided by the
root of the number of test events: for all steps, and for steps that are drawn with the probabilities of `ChainBound`, or in
proportion to the costs ln(1 + Delta V). It measures the variance and the probabilities on 128 training events.
"""

from __future__ import annotations

import argparse
import math

import torch

from benchmarks.runs import load
from scoresde.likelihood import bits_per_dim, bits_per_dim_error, variational_bound
from scoresde.schedules import ChainBound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--events", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, _ = load(options.workdir)
    sde, transform, test = model.sde, made.data.transform, made.data.test
    x = test.encode(torch.arange(options.events), seed=0)
    train = made.data.train.encode(torch.arange(128), seed=0)
    fitted = ChainBound(options.steps, variance="measured", draws=1).fit(sde, model, train)
    level = sde.sigma(fitted.times) / sde.alpha(fitted.times)
    costs = (-(level**-2).diff() * fitted.variance(level)[1:]).log1p()
    print(f"| probabilities | steps | evaluations | bits/dim | error of an event | of the mean of {len(test)} |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, p in (("`ChainBound`", fitted.probabilities), ("by cost", costs), ("all", None)):
        for draws in (5, 10, 20, 50, 100) if p is not None else (None,):
            replicates = 2 if draws is None else 4
            found = variational_bound(
                sde,
                model,
                x,
                fitted.times,
                variance=fitted.variance,
                replicates=replicates,
                draws=draws,
                probabilities=p,
            )
            error = bits_per_dim_error(found.standard_error.square().mean().sqrt(), x.shape[1:]) * math.sqrt(replicates)
            bits = bits_per_dim(found.log_prob, x.shape[1:], transform).mean()
            row = (name, draws or options.steps, found.nfe // replicates, f"{float(bits):.4f}", f"{float(error):.4f}")
            print(f"| {' | '.join(map(str, row))} | {float(error) / math.sqrt(len(test)):.4f} |", flush=True)


if __name__ == "__main__":
    main()
