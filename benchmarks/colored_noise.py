"""Colored noise for digits: kernel distances (MMD^2) of few steps, with the noise filtered and not.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    python benchmarks/colored_noise.py DIR [--count 500]

The score is that without conditions. The sampler is `ReverseDiffusion`, and the filters are `fit_spectral_filter` of the
training digits.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.runs import load
from scoresde.filters import FilteredNoise, fit_spectral_filter
from scoresde.metrics import kernel_distance
from scoresde.noise import NoiseSource
from scoresde.samplers import ReverseDiffusion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, model, checkpoint = load(options.workdir)
    x0, decode = made.data.train.encode(slice(None), seed=0), made.data.transform.decode
    data = made.data.train.events(slice(None)).flatten(1).double() / 16.0
    shape = (options.count, *x0.shape[1:])
    sources = {"unfiltered": NoiseSource.of(0, options.count)}
    for title, alpha, inverted in (
        ("alpha = 5", 5.0, False),
        ("alpha = 10", 10.0, False),
        ("alpha = 5, inverted", 5.0, True),
    ):
        filter = fit_spectral_filter(x0, alpha, inverted=inverted)
        sources[title] = FilteredNoise.of(0, options.count, filter=filter)
    print(f"{checkpoint}, {options.count} digits")
    print(f"| steps | {' | '.join(sources)} |\n|---:|{'---:|' * len(sources)}", flush=True)
    for steps in (10, 20, 50):
        found = []
        for noise in sources.values():
            x = ReverseDiffusion(steps)(model.sde, model, shape, noise=noise).samples
            distance = kernel_distance(decode(x).clamp(0, 16).flatten(1).double() / 16.0, data)
            found.append(f"{distance.value:.4f} +- {distance.standard_error:.4f}")
        print(f"| {steps} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
