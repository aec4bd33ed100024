"""Digits with gamma, mixture and Laplace noise, compared with Gaussian noise at equal training.

    python benchmarks/noise_distributions.py RUNS           # trains what is missing under the folder RUNS, samples, prints
    python benchmarks/noise_distributions.py RUNS gaussian gamma-0.1      # some of the runs

All runs have the same network, seed, data order and number of steps. The first table has ancestral sampling with the variance
sigma_t^2 = beta_t or that of q(x_s | x_t, x_0), whichever is better, for each count of steps; the second has annealed Langevin
dynamics with the better of two step sizes. Distances are to all digits, next to those of two halves of the digits. Classes are
those of a support vector machine that is trained on digits: the total variation distance between the frequencies of classes,
which is about 0.05 for 500 digits.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.runs import load
from scoresde.data import Digits, Splits
from scoresde.metrics import kernel_distance, sliced_wasserstein
from scoresde.metrics.classifiers import Classifier, support_vector_machine
from scoresde.metrics.yardstick import halves
from scoresde.samplers import PredictorCorrector, Sampler
from scoresde.samplers.discretization import ReferenceDiscretization
from scoresde.samplers.predictor_corrector import Ancestral, AnnealedLangevin

VP, VE = "configs/vp/digits_gamma.py", "configs/ve/digits_heavy_tailed.py"
PLAIN = "{'name': 'VPSDE', 'beta_min': 0.1, 'beta_max': 20.0}"
MIXTURE = "{'name': 'NormalMixture', 'weights': (0.5, 0.5), 'means': (-0.96, 0.96), 'stds': (0.28, 0.28)}"
RUNS: dict[str, tuple[str, dict[str, str]]] = {
    "gaussian": (VP, {"sde": PLAIN, "objective.p": "2"}),
    "gaussian-L1": (VP, {"sde": PLAIN}),
    "gamma-0.1": (VP, {}),
    "gamma-0.1-L2": (VP, {"objective.p": "2"}),
    "gamma-0.5": (VP, {"sde.noise.theta_0": "0.5"}),
    "mixture": (VP, {"sde.noise": f"{{'name': 'StepNoise', 'noise': {MIXTURE}}}", "model.steps": "50"}),
    "gaussian-50": (VP, {"sde": PLAIN, "model.steps": "50"}),
    "levels-gaussian": (VE, {"sde.noise.noise.beta": "2.0"}),
    "levels-laplace": (VE, {}),
}
STEPS, COUNT, SNRS = 1200, 500, (0.16, 0.3)


def train(name: str, folder: Path) -> None:
    config, options = RUNS[name]
    options = {"training.steps": str(STEPS), "training.preview_every": "0", **options}
    flags = [f"--config.{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "scoresde", "train", "--config", config, "--workdir", str(folder), *flags]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def samplers(name: str) -> dict[str, list[Sampler]]:
    """Samplers by the title of their row. The best one of a list counts."""
    if name.startswith("levels"):
        return {
            f"{levels} levels": [
                PredictorCorrector(None, AnnealedLangevin(snr, 3), ReferenceDiscretization(levels)) for snr in SNRS
            ]
            for levels in (50, 221)
        }
    found: dict[str, list[Sampler]] = {}
    for n in (10, 50):
        times: int | ReferenceDiscretization | tuple[float, ...] = n
        if "model.steps" in RUNS[name][1]:  # a chain of 50 instants: all of them, or every fifth
            times = ReferenceDiscretization(n) if n == 50 else tuple(1.0 - k / n for k in range(n + 1))
        found[f"{n} steps"] = [Ancestral(times, variance=variance) for variance in ("upper", "lower")]
    return found


@dataclass(frozen=True)
class Judge:
    """The digits as values of their levels in [-1, 1], and a support vector machine that knows their classes."""

    data: Tensor
    classifier: Classifier
    frequencies: np.ndarray

    @classmethod
    def of(cls, digits: Splits) -> Judge:
        parts = (digits.train, digits.test)
        data = torch.cat([values(part.raw) for part in parts])
        classes = torch.cat([part.conditions(slice(None))["label"] for part in parts]).numpy()
        classifier = support_vector_machine()
        classifier.fit(data.numpy(), classes)
        return cls(data, classifier, np.bincount(classes, minlength=10) / len(classes))

    def row(self, x: Tensor, data: Tensor | None = None) -> tuple[float, ...]:
        """Sliced Wasserstein distance, MMD^2, its standard error, and the total variation of the classes."""
        data = self.data if data is None else data
        mmd = kernel_distance(x, data)
        classes = np.bincount(self.classifier.predict(x.numpy()), minlength=10) / len(x)
        variation = float(np.abs(classes - self.frequencies).sum() / 2)
        return sliced_wasserstein(x, data), mmd.value, mmd.standard_error, variation


def values(levels: Tensor) -> Tensor:
    """Levels 0, ..., 16 as numbers in [-1, 1], (n, 64)."""
    return levels.flatten(1).double() / 8.0 - 1.0


def line(name: str, row: tuple[float, ...], more: str = "") -> str:
    distance, mmd, error, variation = row
    return f"| {name} | {distance:.4f} | {1e3 * mmd:.2f} +- {1e3 * error:.2f} | {variation:.3f} |{more}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(RUNS)}")
    given = parser.parse_args()
    judge = Judge.of(Digits(labels=True))
    print("| noise and sampler | sliced Wasserstein | 1000 MMD^2 | classes |\n|---|---|---|---|")
    one, other = halves(len(judge.data))
    print(line("two halves of the digits", judge.row(judge.data[one], judge.data[other])))
    for name in given.names or RUNS:
        folder = given.runs / name
        if not (folder / "checkpoints").exists():
            train(name, folder)
        experiment, model, _ = load(str(folder))
        for title, each in samplers(name).items():
            found = []
            for sampler in each:
                x = sampler(model.sde, model, (COUNT, 1, 8, 8), seed=0).samples
                found.append((judge.row(values(experiment.data.transform.decode(x))), repr(sampler)))
            row, best = min(found, key=lambda one: one[0][0])
            print(line(f"{name}, {title}", row, f" {best}"), flush=True)


if __name__ == "__main__":
    main()
