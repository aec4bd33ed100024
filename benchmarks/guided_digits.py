"""Digits of a wanted class from a score without conditions and a classifier of noisy digits.

    scoresde train --config configs/vp/digits_classes.py --workdir SCORE
    scoresde train --config configs/vp/digits_classifier.py --workdir CLASSIFIER
    python benchmarks/guided_digits.py SCORE CLASSIFIER [--count 500] [--steps 50]

Samples are drawn with the score s(x, t) + w grad log p(y | x_t), where s is the model of SCORE without conditions and y is the
class i modulo 10 for sample i. An independent support vector machine, trained on the training images, judges them.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.conditional_digits import judge
from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.guidance import ClassifierGuidance
from scoresde.samplers import DDIM


def loaded(folder: str) -> tuple[Experiment, torch.nn.Module]:
    """The experiment and the trained model of a work folder."""
    made = Experiment.from_config(load_config(Workdir(folder).path / "config.json"))
    return made, Workdir(folder).model(made)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("score")
    parser.add_argument("classifier")
    parser.add_argument("--count", type=int, default=500, help="number of samples")
    parser.add_argument("--steps", type=int, default=50, help="steps of DDIM")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made, score = loaded(options.score)
    _, classifier = loaded(options.classifier)
    wanted = torch.arange(options.count) % 10
    machine, accuracy = judge(made.data)
    print(f"accuracy of the support vector machine on the test images: {accuracy:.3f}")

    for weight in (0.0, 1.0, 3.0, 10.0):
        found = DDIM(options.steps, t_min=1e-3)(
            made.sde,
            ClassifierGuidance(score, classifier, weight, target=wanted),
            (options.count, *made.data.event_shape),
        )
        raw = made.data.transform.decode(found.samples).flatten(1).numpy()
        right = machine.predict(np.clip(raw, 0, 16) / 16.0) == wanted.numpy()
        error = (right.mean() * (1.0 - right.mean()) / len(right)) ** 0.5
        print(f"w = {weight:g}: {right.mean():.3f} +- {error:.3f} of {len(right)} samples are of the wanted class")


if __name__ == "__main__":
    main()
