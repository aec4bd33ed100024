"""Variational diffusion models of digits, and the objective of configs/vp/digits.py, at equal CPU time on the same split.

    python benchmarks/vdm.py runs/vdm
    python benchmarks/vdm.py runs/vdm --only present vdm        # some of the rows

Every run has the network, batch size, learning rates and average of configs/vp/digits.py. The first one has ``--steps``
steps. The others have as many steps as fit into the same CPU time, from the CPU time of 40 steps of each, measured by turns.
A row has the CPU time of the whole training, the bits/dim of the test digits by the flow, the variational bound in continuous
time, and the end points of the schedule.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from pathlib import Path

import torch
from ml_collections import ConfigDict

from scoresde.data import LevelMiddles
from scoresde.experiment import Experiment, Workdir, load_config, train
from scoresde.experiment.jobs.likelihood import likelihood
from scoresde.experiment.training.distributed import processes
from scoresde.experiment.training.trainer import Trainer
from scoresde.losses import VariationalDiffusionLoss
from scoresde.score import ScoreModel
from scoresde.sde import LearnedSNRSDE

PRESENT, VDM = "configs/vp/digits.py", "configs/vp/digits_vdm.py"
NOISE = {"model.prediction": "noise"}
PLAIN = {"network.input_features": None}
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "present": (PRESENT, {}),
    "vdm": (VDM, {}),
    "vdm, no features": (VDM, PLAIN),
    "vdm, noise": (VDM, NOISE),
    "vdm, noise, no features": (VDM, {**NOISE, **PLAIN}),
}
DRAWS = 100
"""Draws of time and noise for each test digit in the bound."""


def config_of(name: str, steps: int) -> ConfigDict:
    file, options = ROWS[name]
    config = load_config(file)
    config.training.steps, config.training.preview_every, config.likelihood.draws = steps, 0, 1
    for key, value in options.items():
        section, _, inner = key.partition(".")
        if value is None:
            del config[section][inner]
        else:
            with config.unlocked(), config[section].ignore_type():
                config[section][inner] = value
    return config


def seconds_per_step(names: list[str], steps: int = 40) -> dict[str, float]:
    """CPU time of a step of each run: the median of five parts, each measured for all runs by turns."""
    found: dict[str, list[float]] = {name: [] for name in names}
    made = {name: Experiment.from_config(config_of(name, 10_000)) for name in names}
    trainers = {}
    for name, experiment in made.items():
        with processes(experiment) as group:
            trainers[name] = Trainer(experiment.copy(), group)
    for part in range(5):
        for name, trainer in trainers.items():
            started = time.process_time()
            for step in range(part * steps // 5, (part + 1) * steps // 5):
                batch = made[name].data.train.batch(step, made[name].training.batch_size, seed=made[name].seed)
                trainer.update(batch.x, batch.position, batch.condition)
            found[name].append(5 * (time.process_time() - started) / steps)
    return {name: statistics.median(values) for name, values in found.items()}


@torch.no_grad()
def bound(model: ScoreModel, experiment: Experiment) -> tuple[float, float]:
    """The variational bound of the test digits and the standard error of its mean over digits, in bits/dim."""
    transform = experiment.data.transform
    assert isinstance(transform, LevelMiddles)
    loss, x0 = VariationalDiffusionLoss(model.sde, transform), experiment.data.test.encode(slice(None), seed=0)
    each = torch.stack([loss(model, x0, step=k) for k in range(DRAWS)]).mean(0)
    return float(each.mean()), float(each.std()) / len(each) ** 0.5


def row(name: str, folder: Path, steps: int) -> dict[str, object]:
    """Trains a run and measures it."""
    config, workdir = config_of(name, steps), Workdir(folder_of(name, folder))
    started = time.process_time()
    train(Experiment.from_config(config), workdir)
    found: dict[str, object] = {"name": name, "steps": steps, "CPU seconds": round(time.process_time() - started, 1)}
    experiment = Experiment.from_config(config)
    flow = likelihood(experiment, workdir)
    assert flow is not None
    found |= {"flow": flow["bits_per_dim"], "flow error": flow["standard_error"]}
    model, _ = workdir.model(experiment)
    if isinstance(model.sde, LearnedSNRSDE):
        found["bound"], found["bound error"] = bound(model, experiment)
        found["log SNR"] = [round(v, 2) for v in model.sde.log_snr(torch.tensor([0.0, 1.0])).tolist()]
    return found


def events(folder: Path) -> torch.Tensor:
    """The bits/dim of each test digit of a run."""
    with (folder / "likelihood" / "test.csv").open() as file:
        return torch.tensor([float(line["bits_per_dim"]) for line in csv.DictReader(file)], dtype=torch.float64)


def folder_of(name: str, folder: Path) -> Path:
    return folder / name.replace(", ", "-").replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2000, help="steps of the first run")
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs = seconds_per_step(list(ROWS))
    print(
        "| training | steps | CPU s | flow, bits/dim | bound, bits/dim | log SNR from, to |\n|---|---:|---:|---:|---:|---|"
    )
    for name in options.only:
        steps = round(options.steps * costs["present"] / costs[name])
        found = row(name, options.folder, steps)
        (options.folder / f"{name}.json").write_text(json.dumps(found))
        bits = f"{found['bound']:.3f} +- {found['bound error']:.3f}" if "bound" in found else ""
        ends = ", ".join(map(str, found.get("log SNR", ())))
        print(
            f"| {name} | {steps} | {found['CPU seconds']} | {found['flow']:.3f} +- {found['flow error']:.3f} | {bits} | {ends} |",
            flush=True,
        )
    first, *others = (events(folder_of(name, options.folder)) for name in options.only)
    for name, other in zip(options.only[1:], others, strict=True):
        gap = other - first
        print(f"{name} minus {options.only[0]}, same digits: {gap.mean():.3f} +- {gap.std() / len(gap) ** 0.5:.3f}")


if __name__ == "__main__":
    main()
