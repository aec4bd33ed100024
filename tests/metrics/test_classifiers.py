"""Classifiers trained on samples: accuracies of Gaussians in closed form, and planted errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from scoresde.data import permutation
from scoresde.metrics import classifier_accuracy, sample_accuracies
from scoresde.metrics.classifiers import CLASSIFIERS, logistic_regression, support_vector_machine
from scoresde.noise import NoiseSource

DISTANCE = 1.0
BEST = 0.5 * (1.0 + math.erf(DISTANCE / math.sqrt(2.0)))
"""Accuracy of the best classifier of N(-1, I) and N(1, I) along the first coordinate, 0.841."""


def clouds(count, seed):
    """Features (count, 3) of two classes."""
    labels = torch.arange(count) % 2
    z = NoiseSource.of(seed, count).normal((3,), step=0, purpose="clouds", dtype=torch.float64)
    z[:, 0] += DISTANCE * (2 * labels - 1)
    return z, labels


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_accuracy_is_that_of_the_best_classifier(name):
    """Gaussians with a known Bayes accuracy. False-alarm rate 6e-5 for four standard errors; 0.01 for the training."""
    (x, y), (test, truth) = clouds(1000, 0), clouds(4000, 1)
    found = classifier_accuracy(x, y, test, truth, classifier=CLASSIFIERS[name]())
    assert (found.trained_on, found.count) == (1000, 4000)
    assert found.standard_error == pytest.approx(math.sqrt(found.value * (1.0 - found.value) / 4000))
    assert BEST - 4.0 * found.standard_error - 0.01 < found.value < BEST + 4.0 * found.standard_error


def test_shuffled_labels_give_chance():
    """Planted: samples whose classes are shuffled. The mean of 20 shuffles is 1/2 by symmetry, false-alarm rate 1e-3."""
    (x, y), (real, labels), (test, truth) = clouds(200, 0), clouds(200, 1), clouds(1000, 2)
    machine = logistic_regression()
    right = sample_accuracies(x, y, real, labels, test, truth, classifier=machine)
    assert right.samples.value > BEST - 0.05 and right.both.value > BEST - 0.04
    found = [
        sample_accuracies(x, y[permutation(200, seed, 0)], real, labels, test, truth, classifier=machine)
        for seed in range(20)
    ]
    values = np.array([one.samples.value for one in found])
    assert abs(values.mean() - 0.5) < 3.9 * values.std(ddof=1) / math.sqrt(20) < 0.2
    assert all(one.real == right.real and one.both.trained_on == 400 for one in found)


def test_the_same_training_events_give_the_same_accuracy():
    (x, y), (test, truth) = clouds(200, 0), clouds(500, 1)
    found = sample_accuracies(x, y, x, y, test, truth)
    assert found.samples == found.real
    assert found.real == classifier_accuracy(x, y, test, truth, classifier=support_vector_machine())


def test_a_classifier_of_the_user_is_copied():
    machine = KNeighborsClassifier(1)
    (x, y), (test, truth) = clouds(100, 0), clouds(200, 1)
    found = classifier_accuracy(x, y, test, truth, classifier=machine)
    nearest = torch.cdist(test, x).argmin(1)
    assert found.value == float((y[nearest] == truth).double().mean())
    assert not hasattr(machine, "classes_"), "not trained itself"


def test_classes_need_not_be_0_to_k():
    (x, y), (test, truth) = clouds(400, 0), clouds(400, 1)
    plain = classifier_accuracy(x, y, test, truth, classifier=logistic_regression())
    assert plain.value == classifier_accuracy(x, 7 * y + 3, test, 7 * truth + 3, classifier=logistic_regression()).value
    assert classifier_accuracy(x, y, test, truth + 2).value == 0.0, "classes that training does not have"


class Short:
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(3, int)


def test_refusals():
    (x, y), (test, truth) = clouds(20, 0), clouds(10, 1)
    for arguments, message in (
        ((x, y[:5], test, truth), r"labels has shape \(5,\) and dtype torch.int64: give whole numbers \(20,\)"),
        ((x, y, test, truth.float()), r"test_labels has shape \(10,\) and dtype torch.float32"),
        ((x, 0 * y, test, truth), "labels has the single class 0: a classifier needs events of two classes"),
        ((x, y, test[:, :2], truth), "train has 3 features, test 2"),
        ((x[:, 0], y, test, truth), r"train has shape \(20,\): give \(n, d\)"),
        ((x / 0.0, y, test, truth), "train holds non-finite values"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier_accuracy(*arguments)
    with pytest.raises(ValueError, match=r"predicts an array of shape \(3,\) for 10 events"):
        classifier_accuracy(x, y, test, truth, classifier=Short())
    with pytest.raises(ValueError, match="samples has 10 rows and train has 20: give as many"):
        sample_accuracies(test, truth, x, y, test, truth)
    with pytest.raises(ValueError, match=r"sample_labels has shape \(10,\)"):
        sample_accuracies(x, truth, x, y, test, truth)
    with pytest.raises(TypeError, match="classifier=3"):
        classifier_accuracy(x, y, test, truth, classifier=3)
