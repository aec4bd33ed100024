"""A run of configs/nonlinear/quartic.py against the Fokker-Planck equation, which a grid solves exactly in time.

scoresde train --config configs/nonlinear/quartic.py --workdir runs/quartic
scoresde sample --workdir runs/quartic --trust configs
scoresde likelihood --workdir runs/quartic --trust configs
python benchmarks/nonlinear.py runs/quartic
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from scoresde.experiment import Experiment, Workdir, load_config
from tests.sde import fokker_planck
from tests.sde.fokker_planck import GRID, WIDTH

TIMES = (0.05, 0.1, 0.3, 1.0, 1.5)


def score_error(model: torch.nn.Module, t: float) -> float:
    """E_p |s - score|^2 / E_p |score|^2 at a time."""
    p = fokker_planck.density(t)
    exact, x = fokker_planck.score(p), torch.from_numpy(GRID).float()[:, None]
    with torch.no_grad():
        found = model(x, torch.full((len(x),), t)).numpy()[:, 0]
    return float((p * (found - exact) ** 2).sum() / (p * exact**2).sum())


def kolmogorov(samples: np.ndarray, t: float) -> float:
    """The largest difference of the distribution functions of samples and of p_t."""
    at = np.interp(np.sort(samples), GRID, np.cumsum(fokker_planck.density(t)) * WIDTH)
    n = len(samples)
    return float(max(np.abs(at - np.arange(n) / n).max(), np.abs(at - np.arange(1, n + 1) / n).max()))


def main() -> None:
    folder = Workdir(sys.argv[1])
    made = Experiment.from_config(load_config(folder.config_file, trust=("configs",)))
    model, checkpoint = folder.model(made)
    print(f"step {checkpoint.step}, score error: " + ", ".join(f"{score_error(model, t):.4f} at {t:g}" for t in TIMES))
    x = np.load(folder.samples / "reverse.npz")["x"][:, 0]
    usual = 1.36 / len(x) ** 0.5
    print(
        f"{len(x)} samples: Kolmogorov distance {kolmogorov(x, 0.05):.4f}, below {usual:.4f} for 95 % of exact samples"
    )
    rows = np.genfromtxt(folder.likelihood / "test.csv", delimiter=",", names=True)
    data = made.data.test.raw[rows["index"].astype(int)].numpy()[:, 0]
    error = rows["nats"] - np.log(np.interp(data, GRID, fokker_planck.density(0.05)))
    print(
        f"log p_0.05 of {len(error)} events: mean error {error.mean():+.4f} nats, mean size {np.abs(error).mean():.4f}"
    )


if __name__ == "__main__":
    main()
