"""A conditional model of digits: classes of its samples, bits/dim with and without classes, and the classifier that it makes.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    scoresde sample --workdir DIR
    scoresde likelihood --workdir DIR
    python benchmarks/conditional_digits.py DIR [--events 100] [--nodes 24] [--draws 16]

An independent support vector machine, trained on the training images, judges the samples.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sklearn.svm import SVC

from scoresde.data import Splits
from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.likelihood import Hadamard, Multistep, classify, elbo


def judge(data: Splits) -> tuple[SVC, float]:
    """A support vector machine trained on the training images, and its accuracy on the test images."""
    sets = []
    for split in (data.train, data.test):
        raw = split.events(torch.arange(len(split))).flatten(1).numpy() / 16.0
        sets.append((raw, split.conditions(slice(None))["label"].numpy()))
    machine = SVC(gamma=0.001 * 256, C=10.0).fit(*sets[0])
    return machine, float(machine.score(*sets[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--events", type=int, default=100, help="test events that are classified by likelihood")
    parser.add_argument("--nodes", type=int, default=24, help="evaluations of the score for each likelihood")
    parser.add_argument("--draws", type=int, default=16, help="times for each replicate of the bound")
    options = parser.parse_args()
    torch.set_num_threads(1)
    workdir = Workdir(options.workdir)
    made = Experiment.from_config(load_config(workdir.path / "config.json"))
    machine, accuracy = judge(made.data)
    print(f"accuracy of the support vector machine on the test images: {accuracy:.3f}")
    for name in made.samplers:
        samples = np.load(workdir.samples / f"{name}.npz")
        guessed = machine.predict(np.clip(samples["raw"], 0, 16).reshape(len(samples["raw"]), -1) / 16.0)
        right = guessed == samples["condition_label"]
        print(f"samples by {name}: {right.mean():.3f} of {len(right)} are judged to be of the wanted class")
    model, checkpoint = workdir.model(made)
    test, index = made.data.test, torch.arange(options.events)
    x, labels = test.encode(index, seed=0), test.conditions(index)["label"]
    methods = {
        f"likelihood, {options.nodes} nodes": {
            "solver": Multistep(options.nodes), "divergence": Hadamard(), "t_min": made.likelihood.t_min,
        },
        f"bound, {options.draws} draws": {
            "likelihood": elbo, "draws": options.draws, "data_std": 0.5, "t_min": 1e-3,
        },
    }  # fmt: skip
    print(f"classes of {len(index)} test events by {checkpoint.path.name}")
    for name, arguments in methods.items():
        started = time.perf_counter()
        found = classify(model.sde, model, x, 10, **arguments)
        good = found.predicted == labels
        error = float((good.double().var() / len(good)).sqrt())
        sure = found.margin > 2.0 * found.margin_error
        print(
            f"    {name:<24} accuracy {float(good.double().mean()):.3f} +- {error:.3f}, {time.perf_counter() - started:.0f} s; "
            f"{int((good & sure).sum())} of {int(sure.sum())} with a margin above two standard errors are right"
        )


if __name__ == "__main__":
    main()
