"""Time of each metric for two sets of 10,000 vectors of 2,048 numbers, and the peak memory.

OMP_NUM_THREADS=1 python benchmarks/metric_cost.py
"""

from __future__ import annotations

import resource
import time

import torch

from scoresde.metrics import Moments, frechet_distance, kernel_distance, precision_recall
from scoresde.noise import NoiseSource


def main() -> None:
    x, y = (NoiseSource.of(k, 10_000).normal((2048,), step=0, purpose="cost", dtype=torch.float32) for k in range(2))
    a, b = Moments.of(x), Moments.of(y)
    work = {
        "moments, batches of 256": lambda: Moments.gather(x.split(256)),
        "Frechet distance": lambda: frechet_distance(a, b),
        "kernel distance": lambda: kernel_distance(x, y),
        "precision and recall": lambda: precision_recall(x, y),
    }
    for name, call in work.items():
        started = time.perf_counter()
        call()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name:26s} {time.perf_counter() - started:6.1f} s   {most} MiB", flush=True)


if __name__ == "__main__":
    main()
