"""Peak memory and time of a large array file: to build its data set, to read batches and to compute the digest.

    python benchmarks/data_memory.py [--events 200000] [--dtype float16] [--levels 0]

The file is written to a temporary folder in chunks. A separate process is measured, relative to its memory after the imports.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SHAPE = (1, 28, 28)
MIB = 2**20


def write(file: Path, events: int, dtype: str) -> None:
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(events, *SHAPE))
    generator = np.random.default_rng(0)
    for first in range(0, events, 5000):
        part = array[first : first + 5000]
        part[:] = generator.integers(0, 256, part.shape) if dtype == "uint8" else generator.normal(size=part.shape)
    array.flush()


def measure(file: str, levels: int) -> None:
    import torch

    from scoresde.data import Arrays

    torch.set_num_threads(1)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    data = Arrays(file, levels=levels)
    built = time.perf_counter()
    for step in range(100):
        data.train.batch(step, 128, seed=0)
    drawn = time.perf_counter()
    data.train.digest()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{os.path.getsize(file) / MIB:.0f} MiB in the file; peak {(peak - before) / 1024:.0f} MiB above imports; built in "
        f"{built - started:.1f} s, {10 * (drawn - built):.1f} ms a batch of 128, digest {time.perf_counter() - drawn:.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--levels", type=int, default=0)
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.levels)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.npy"
        write(file, options.events, options.dtype)
        subprocess.run([sys.executable, __file__, "--measure", str(file), "--levels", str(options.levels)], check=True)


if __name__ == "__main__":
    main()
