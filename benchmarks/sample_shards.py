"""Memory and time of large sets of samples, and what a restart costs: random color images of 32 pixels, a tiny network.

    python benchmarks/sample_shards.py [COUNT ...]

The network and its four steps cost next to nothing: what is measured is the rest, noise, decoding, writing and checking.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "data": {"name": "Arrays", "train": "images.npy", "levels": 256}, "sde": {"name": "VPSDE"}, "threads": 1,
        "network": {"name": "MLP", "width": 16, "depth": 1}, "objective": {"name": "DenoisingScoreMatching"},
        "training": {"steps": 1, "batch_size": 8}, "sampling": {"count": 1, "batch_size": 250},
        "samplers": {"pc": {"name": "PredictorCorrector", "steps": 4}},
    })
"""
MEASURED = (
    "import resource, sys; from scoresde.cli import main; code = main(sys.argv[1:]); "
    "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(code)"
)


def run(folder: Path, command: str, *more: str) -> tuple[float, int]:
    """(seconds, peak memory in MiB) of a command."""
    call = [sys.executable, "-c", MEASURED, command, "--config", "config.py", "--workdir", "run", *more]
    started = time.perf_counter()
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split("PEAK")[1])


def main() -> None:
    counts = [int(n) for n in sys.argv[1:]] or [5_000, 10_000, 50_000]
    print("| samples | seconds | peak memory, MiB | the same command again, s | MiB | result |")
    print("|---:|---:|---:|---:|---:|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8))
            (folder / "config.py").write_text(CONFIG)
            run(folder, "train")
            more = f"--config.sampling.count={count}"
            (first, peak), (again, peak_again) = (run(folder, "sample", more) for _ in range(2))
            shards = len(json.loads((folder / "run" / "samples" / "pc.json").read_text())["shards"])
            result = "one file" if (folder / "run" / "samples" / "pc.npz").exists() else f"{shards} shards"
        print(f"| {count:,} | {first:.0f} | {peak} | {again:.0f} | {peak_again} | {result} |", flush=True)


if __name__ == "__main__":
    main()
