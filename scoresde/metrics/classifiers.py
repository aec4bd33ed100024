r"""Classifiers that are trained on generated samples: whether samples of classes can replace, or add to, labelled data.

The classification accuracy score (Ravuri & Vinyals 2019) is the accuracy on real test events of a classifier that was trained on
samples with the classes that they were drawn for. It is low if samples are of other classes, or if they miss a part of a class,
which a classifier of real training events would need. The same classifier is trained on

    real          k real training events
    samples       k samples
    both          these together, 2 k events

and each is tested on the same n real events. The binomial standard error of an accuracy a is

.. math:: \sqrt{a (1 - a) / n}

It is that of the choice of the test events, and does not contain the choice of the training events. Three accuracies on the same
events are correlated, so that the error of their difference is usually smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import shown
from scoresde.metrics.pairs import checked


class Classifier(Protocol):
    """What is needed of a classifier: the methods of scikit-learn's."""

    def fit(self, X: Any, y: Any) -> Any:
        """Train.

        Args:
            X: Features, an array (n, d).
            y: Classes, an array (n,).

        Returns:
            Anything.
        """

    def predict(self, X: Any) -> Any:
        """Predict classes.

        Args:
            X: Features, an array (n, d).

        Returns:
            Classes, an array (n,).
        """


def support_vector_machine() -> Classifier:
    """scikit-learn's support vector machine with a Gaussian kernel and C = 10.

    Returns:
        The classifier. Its time is about quadratic in the number of training events.
    """
    from sklearn.svm import SVC  # see data/sources.py

    made: Classifier = SVC(C=10.0)
    return made


def logistic_regression() -> Classifier:
    """scikit-learn's logistic regression of features with standard deviation 1.

    Returns:
        The classifier. Its time is linear in the number of training events.
    """
    from sklearn.linear_model import LogisticRegression  # see data/sources.py
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    made: Classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return made


CLASSIFIERS: dict[str, Callable[[], Classifier]] = {"svm": support_vector_machine, "logistic": logistic_regression}
"""Classifiers by their names in configs."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of a classifier.

    Attributes:
        value: Share of the test events whose class was predicted.
        standard_error: Binomial standard error.
        trained_on: Number of training events.
        count: Number of test events.
    """

    value: float
    standard_error: float
    trained_on: int
    count: int


@dataclass(frozen=True)
class SampleAccuracies:
    """Accuracies on the same real test events of a classifier with three training sets.

    Attributes:
        real: Trained on real events.
        samples: Trained on as many samples: the classification accuracy score.
        both: Trained on both together.
    """

    real: Accuracy
    samples: Accuracy
    both: Accuracy


@checked_arguments
def classifier_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, *, classifier: Classifier | None = None
) -> Accuracy:
    """The accuracy of a classifier on test events.

    Args:
        train: Features of the training events, (k, d).
        labels: Their classes, (k,) whole numbers.
        test: Features of the test events, (n, d).
        test_labels: Their classes, (n,) whole numbers.
        classifier: An untrained classifier with the methods ``fit`` and ``predict`` of scikit-learn; it is copied. By default a
            support vector machine with a Gaussian kernel.

    Returns:
        The accuracy with its binomial standard error.

    Raises:
        ValueError: For other shapes, values that are not finite, or training events of a single class.

    Example:
        >>> import torch
        >>> from scoresde.metrics import classifier_accuracy
        >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
        >>> classifier_accuracy(x, y, x, y)
        Accuracy(value=1.0, standard_error=0.0, trained_on=4, count=4)
    """
    train, test = checked(train, test, names=("train", "test"))
    _check_labels("labels", labels, train)
    _check_labels("test_labels", test_labels, test)
    if len(labels.unique()) < 2:
        raise ValueError(
            f"labels has the single class {int(labels[0])}: a classifier needs events of two classes at least"
        )
    machine = support_vector_machine() if classifier is None else deepcopy(classifier)
    machine.fit(train.cpu().numpy(), labels.cpu().numpy())
    found = torch.as_tensor(machine.predict(test.cpu().numpy()))
    if found.shape != test_labels.shape:
        raise ValueError(
            f"classifier={shown(classifier)} predicts an array of shape {tuple(found.shape)} for {len(test)} events: give one "
            "that predicts a class for each event"
        )
    value = float((found == test_labels.cpu()).double().mean())
    return Accuracy(value, math.sqrt(value * (1.0 - value) / len(test)), len(train), len(test))


@checked_arguments
def sample_accuracies(
    samples: Tensor,
    sample_labels: Tensor,
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    classifier: Classifier | None = None,
) -> SampleAccuracies:
    """Accuracies on real test events after training on real events, on as many samples, and on both.

    Args:
        samples: Features of samples, (k, d).
        sample_labels: The classes that they were drawn for, (k,) whole numbers.
        train: Features of real training events, (k, d).
        labels: Their classes, (k,) whole numbers.
        test: Features of real test events, (n, d).
        test_labels: Their classes, (n,) whole numbers.
        classifier: As in `classifier_accuracy`.

    Returns:
        The three accuracies.

    Raises:
        ValueError: As `classifier_accuracy`, or if there are not as many samples as real training events.

    References:
        Ravuri & Vinyals 2019, "Classification accuracy score for conditional generative models", arXiv:1905.10887.

    Example:
        >>> import torch
        >>> from scoresde.metrics import sample_accuracies
        >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([0, 0, 1, 1])
        >>> found = sample_accuracies(x, 1 - y, x, y, x, y)
        >>> found.real.value, found.samples.value
        (1.0, 0.0)
    """
    checked(samples, train, names=("samples", "train"))
    if len(samples) != len(train):
        raise ValueError(
            f"samples has {len(samples)} rows and train has {len(train)}: give as many, so that only their origin differs"
        )
    _check_labels("sample_labels", sample_labels, samples)
    _check_labels("labels", labels, train)
    real, fake = (train, labels), (samples, sample_labels)
    both = (torch.cat([train, samples]), torch.cat([labels, sample_labels]))
    found = [classifier_accuracy(x, y, test, test_labels, classifier=classifier) for x, y in (real, fake, both)]
    return SampleAccuracies(*found)


def _check_labels(name: str, labels: Tensor, rows: Tensor) -> None:
    if labels.shape != rows.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}: give whole numbers ({len(rows)},), one class for "
            "each event"
        )
