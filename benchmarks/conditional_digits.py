"""A conditional model of digits: classes of its samples, bits/dim with and without classes, and the classifier that it makes.

    scoresde train --config configs/vp/digits_classes.py --workdir DIR
    scoresde sample --workdir DIR
    scoresde likelihood --workdir DIR
    python benchmarks/conditional_digits.py DIR [--events 100] [--nodes 24] [--draws 16] [--picture FILE]

An independent support vector machine, trained on the training images, judges the samples.
"""

from __future__ import annotations

import argparse
import io
import time

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.svm import SVC

from scoresde.data import Splits
from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.experiment.folder.plots import event_picture
from scoresde.likelihood import Hadamard, Multistep, classify, elbo


def judge(data: Splits) -> tuple[SVC, float]:
    """A support vector machine trained on the training images, and its accuracy on the test images."""
    sets = []
    for split in (data.train, data.test):
        raw = split.events(torch.arange(len(split))).flatten(1).numpy() / 16.0
        sets.append((raw, split.conditions(slice(None))["label"].numpy()))
    machine = SVC(gamma=0.001 * 256, C=10.0).fit(*sets[0])
    return machine, float(machine.score(*sets[1]))


def class_picture(sets: dict[str, tuple[np.ndarray, np.ndarray]], data: Splits, columns: int = 10) -> Figure:
    """The first digits of each class, a row for each; ``sets`` has images (n, 1, 8, 8) and classes (n,) by title."""
    picture = Figure(figsize=(4.2 * len(sets), 4.4), layout="constrained")
    for k, (title, (raw, label)) in enumerate(sets.items()):
        index = np.concatenate([np.flatnonzero(label == c)[:columns] for c in range(10)])
        content = event_picture(torch.from_numpy(raw[index]).clamp(0, 16), data.transform, columns=columns)
        axes = picture.add_subplot(1, len(sets), k + 1)
        axes.imshow(np.asarray(Image.open(io.BytesIO(content))), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--events", type=int, default=100, help="test events that are classified by likelihood")
    parser.add_argument("--nodes", type=int, default=24, help="evaluations of the score for each likelihood")
    parser.add_argument("--draws", type=int, default=16, help="times for each replicate of the bound")
    parser.add_argument("--picture", help="file of a picture of samples of each class, next to test images")
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
        wanted = samples["condition_label"]
        shares = ", ".join(f"{c}: {right[wanted == c].mean():.3f}" for c in np.unique(wanted))
        print(f"    by class, {(wanted == wanted[0]).sum()} samples of class {wanted[0]}: {shares}")
        if options.picture:
            test = made.data.test
            real = test.events(torch.arange(len(test))).numpy(), test.conditions(slice(None))["label"].numpy()
            sets = {
                "test images": real,
                f"samples by {name}": (samples["raw"], wanted),
            }
            class_picture(sets, made.data).savefig(options.picture, dpi=100)
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
