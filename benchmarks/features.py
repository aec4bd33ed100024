"""Few labels: classifiers of features inside the network of a digits model, against the same classifiers of raw pixels.

    scoresde train --config configs/vp/digits.py --workdir DIR
    python benchmarks/features.py DIR [--t 0.001 0.01 0.05] [--labelled 20] [--repeats 5]

Segmentation: the label of a pixel is stroke (level 8 or more), hole (background that no path of background pixels, up, down, left
or right, connects with the border) or background. Classifiers see the labels of some training images, and are tested on all
pixels of the test split by the mean over the three labels of the intersection over union (IoU).

Classification: 5 labelled training images of each of the ten classes, accuracy on the test split.

The regularization of each classifier is chosen among three values by cross-validation over the labelled images. Each figure is
the mean over random choices of these images, with its standard error; the choices are the same for all rows. The model was
trained on the images of the training split, without labels.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.runs import load
from scoresde.data import Dataset, Digits
from scoresde.score import ScoreModel, network_features, pixel_features, pooled_features


def logistic(seed: int) -> tuple[Pipeline, dict[str, list[float]]]:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), {
        "logisticregression__C": [0.1, 1.0, 10.0]
    }


def perceptron(seed: int) -> tuple[Pipeline, dict[str, list[float]]]:
    machine = make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=300, random_state=seed))
    return machine, {"mlpclassifier__alpha": [0.1, 1.0, 10.0]}


CLASSIFIERS = {"logistic regression": logistic, "MLP, 64 units": perceptron}


def pixel_labels(levels: np.ndarray) -> np.ndarray:
    """0 background, 1 stroke, 2 hole, for levels (n, 8, 8)."""
    out = (levels >= 8).astype(int)
    for image, labels in zip(levels, out, strict=True):
        components, _ = ndimage.label(image < 8)
        border = np.concatenate([components[0], components[-1], components[:, 0], components[:, -1]])
        labels[(components > 0) & ~np.isin(components, border)] = 2
    return out


def neighborhood(x: np.ndarray, reach: int) -> np.ndarray:
    """The pixels up to ``reach`` away of each pixel: (n, (2 reach + 1)^2, 8, 8); -1, the value of paper, outside the image."""
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), constant_values=-1.0)
    width = 2 * reach + 1
    return np.stack([padded[:, i : i + 8, j : j + 8] for i in range(width) for j in range(width)], 1)


def mean_iou(found: np.ndarray, labels: np.ndarray) -> float:
    """The mean over labels of the intersection over union."""
    return float(
        np.mean([((found == k) & (labels == k)).sum() / ((found == k) | (labels == k)).sum() for k in range(3)])
    )


def encoded(split: Dataset) -> torch.Tensor:
    """All events, at the middle of their levels."""
    return split.transform.encode(split.events(torch.arange(len(split))), None, dtype=torch.float32)


def features(model: ScoreModel, x: torch.Tensor, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Features of each pixel (n, F, 8, 8), and of each image (n, F)."""
    pixels, pooled = [], []
    for index in torch.arange(len(x)).split(256):
        found = network_features(model, x[index], t, indices=index)
        pixels.append(pixel_features(found, x.shape[2:]))
        pooled.append(pooled_features(found))
    return torch.cat(pixels).numpy(), torch.cat(pooled).numpy()


def fitted(
    classifier: Callable, seed: int, x: np.ndarray, y: np.ndarray, image: np.ndarray, scoring: Callable
) -> GridSearchCV:
    """A classifier whose regularization is chosen by cross-validation; rows of one image stay together."""
    machine, grid = classifier(seed)
    split = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
    return GridSearchCV(machine, grid, cv=split, scoring=scoring).fit(x, y, groups=image)


def segmented(found: GridSearchCV, x: np.ndarray, y: np.ndarray) -> float:
    return mean_iou(found.predict(x), y)


def right(found: GridSearchCV, x: np.ndarray, y: np.ndarray) -> float:
    return float((found.predict(x) == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--t", type=float, nargs="+", default=[0.001, 0.01, 0.05])
    parser.add_argument("--labelled", type=int, default=20, help="labelled images for segmentation")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    made, model, checkpoint = load(options.workdir)
    train, test = made.data.train, made.data.test
    x, y = encoded(train), encoded(test)
    n, levels = len(x), torch.cat([x, y])[:, 0].numpy()
    pixel_truth = pixel_labels(
        torch.cat([train.events(torch.arange(n)), test.events(torch.arange(len(y)))])[:, 0].numpy()
    )
    labelled = Digits(labels=True)
    classes = np.concatenate(
        [split.conditions(slice(None))["label"].numpy() for split in (labelled.train, labelled.test)]
    )
    share = [float((pixel_truth == k).mean()) for k in range(3)]
    print(f"{checkpoint}; background {share[0]:.3f}, stroke {share[1]:.3f}, hole {share[2]:.3f} of all pixels")

    position = np.broadcast_to(np.stack(np.mgrid[:8, :8])[None] / 3.5 - 1.0, (len(levels), 2, 8, 8))
    segmentation = {
        "pixel": levels[:, None],
        "3 x 3 neighborhood": neighborhood(levels, 1),
        "5 x 5 neighborhood and position": np.concatenate([neighborhood(levels, 2), position], 1),
    }
    classification = {"64 pixels": levels.reshape(-1, 64)}
    for t in options.t:
        segmentation[f"features, t = {t:g}"], classification[f"features, t = {t:g}"] = features(
            model, torch.cat([x, y]), t
        )
    best = f"features, t = {min(options.t):g}"
    segmentation[f"{best}, and 3 x 3"] = np.concatenate([segmentation[best], neighborhood(levels, 1)], 1)
    classification[f"{best}, and pixels"] = np.concatenate([classification[best], levels.reshape(-1, 64)], 1)

    def segmentation_score(values: np.ndarray, classifier: Callable, seed: int) -> float:
        chosen, rows = np.random.default_rng(seed).permutation(n)[: options.labelled], np.moveaxis(values, 1, -1)
        x, y, image = rows[chosen].reshape(-1, rows.shape[-1]), pixel_truth[chosen].ravel(), np.repeat(chosen, 64)
        machine = fitted(classifier, seed, x, y, image, segmented)
        return segmented(machine, rows[n:].reshape(-1, rows.shape[-1]), pixel_truth[n:].ravel())

    def classification_score(values: np.ndarray, classifier: Callable, seed: int) -> float:
        order = np.random.default_rng(seed).permutation(n)
        chosen = np.concatenate([order[classes[order] == k][:5] for k in range(10)])
        machine = fitted(classifier, seed, values[chosen], classes[chosen], chosen, right)
        return right(machine, values[n:], classes[n:])

    for title, sets, score in (
        (f"mean IoU, {options.labelled} labelled images", segmentation, segmentation_score),
        ("accuracy, 5 labels a class", classification, classification_score),
    ):
        print(f"\n{title:<34} {'numbers':>8}  " + "  ".join(f"{name:<20}" for name in CLASSIFIERS))
        for name, values in sets.items():
            cells = []
            for classifier in CLASSIFIERS.values():
                found = [score(values, classifier, seed) for seed in range(options.repeats)]
                cells.append(f"{np.mean(found):.3f} +- {np.std(found, ddof=1) / len(found) ** 0.5:.3f}")
            print(f"{name:<34} {values.shape[1]:>8}  " + "  ".join(f"{cell:<20}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
