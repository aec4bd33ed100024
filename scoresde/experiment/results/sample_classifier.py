"""Classifiers that are trained on samples and tested on real events (``metrics/classifiers.py``), from stored features.

For each condition of the data that is a class, and each set of samples that were drawn for classes, the classifier of
``evaluation.classifier`` is trained on k real events, on k samples, on both, and on all real events, and tested on the test
split. k is the number of samples or of real training events, whichever is smaller, and at most ``evaluation.subset_size``.
Events are chosen at random by index, the same ones every time, so the number of processes and restarts change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from scoresde.conditions import Classes
from scoresde.data import Dataset, Splits, permutation
from scoresde.experiment.config.condition_values import stored_conditions
from scoresde.experiment.config.sections import EvaluationConfig
from scoresde.experiment.results.comparison import some
from scoresde.experiment.results.event_sets import EventSet, SampleEvents
from scoresde.experiment.results.shards import FeatureStore
from scoresde.metrics.classifiers import CLASSIFIERS, Classifier, classifier_accuracy, sample_accuracies

FAST_UP_TO = 5000
"""Number of events up to which "auto" is a support vector machine, whose time is quadratic in this number."""
KEYS = ("real", "samples", "both", "all real")
"""The training sets, in the order of the report."""


class SampleClassifier:
    """Trains and tests classifiers for sets of samples.

    Args:
        data: The data.
        config: The section ``evaluation`` of the config.
        sets: All sets by place.
        stores: Their features.
    """

    def __init__(
        self,
        data: Splits,
        config: EvaluationConfig,
        sets: Mapping[str, EventSet],
        stores: Mapping[str, FeatureStore],
    ) -> None:
        self.data, self.config, self.sets, self.stores = data, config, sets, stores
        self.names = [name for name, kind in data.kinds.items() if isinstance(kind, Classes) and kind.count > 1]

    def __call__(self, place: str) -> dict[str, Any]:
        """The accuracies for the samples of a place.

        Returns:
            For each condition the accuracies and their origin, or ``{"missing": reason}``. Empty if the data has no classes, or
            if no classifier is wanted.
        """
        if self.config.classifier is None:
            return {}
        found: dict[str, Any] = {}
        for name in self.names:
            try:
                found[name] = self._accuracies(place, name)
            except ValueError as problem:
                found[name] = {"missing": str(problem)}
        return found

    def _accuracies(self, place: str, name: str) -> dict[str, Any]:
        """The accuracies for one condition. Raises ValueError if there are none, with the reason."""
        events = self.sets[place]
        if not isinstance(events, SampleEvents):
            raise ValueError("the classes of events from a file are not known")
        if "data/train" not in self.sets:
            raise ValueError("evaluation.reference replaces the training split")
        given = stored_conditions(self.data, events.index.store.settings, events.count)
        if name not in given:
            raise ValueError("the samples were drawn without conditions")
        train, test, most = self.data.train, self.data.test, self.config.subset_size
        k = min(events.count, len(train), most)
        x, y = self._chosen(place, given[name], k)
        if len(y.unique()) < 2:
            raise ValueError(f"all samples have the class {self._named(name, y[:1])[0]}")
        real, labels = self._chosen("data/train", _labels(train, name), k)
        judge, truth = self._chosen("data/test", _labels(test, name), min(len(test), most))
        machine = self._classifier(k)
        accuracies = asdict(sample_accuracies(x, y, real, labels, judge, truth, classifier=machine))
        every, every_label = self._chosen("data/train", _labels(train, name), min(len(train), most))
        accuracies["all real"] = asdict(classifier_accuracy(every, every_label, judge, truth, classifier=machine))
        absent = self._named(name, truth[~torch.isin(truth, y)].unique())
        return {
            **accuracies,
            "classifier": " ".join(repr(machine).split()),
            "test": test.name,
            "classes without samples": absent,
        }

    def _chosen(self, place: str, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Features and classes of ``count`` events of a set."""
        index = permutation(len(labels), 0, 0)[:count].sort().values
        features = some(self.sets[place], self.stores[place], index, count).chosen
        assert features is not None
        return features, labels[index]

    def _named(self, name: str, labels: Tensor) -> list[str]:
        """The names of classes; their numbers if they have none."""
        kind = self.data.kinds[name]
        names = kind.names if isinstance(kind, Classes) else ()
        return [names[k] if names else str(k) for k in labels.tolist()]

    def _classifier(self, count: int) -> Classifier:
        chosen = self.config.classifier
        assert chosen is not None
        if not isinstance(chosen, str):
            return chosen
        return CLASSIFIERS[("svm" if count <= FAST_UP_TO else "logistic") if chosen == "auto" else chosen]()


def _labels(split: Dataset, name: str) -> Tensor:
    """The classes of all events of a split."""
    return split.conditions(torch.arange(len(split)))[name].long()


def classifier_lines(found: Mapping[str, Any]) -> list[str]:
    """The accuracies of a result, a line for each condition."""
    lines = []
    for name, one in found.items():
        if "missing" in one:
            lines.append(f"no classifier of {name} was trained on samples: {one['missing']}")
            continue
        parts = [f"{accuracy(one[key])} on {trained_on(one, key)}" for key in KEYS]
        text = (
            f"{name} of {one['real']['count']} events of {one['test']} by {one['classifier']}: accuracy after training "
            f"{', '.join(parts)}"
        )
        if one["classes without samples"]:
            text += f"; there are no samples of the classes {', '.join(one['classes without samples'])}"
        lines.append(text)
    return lines


def trained_on(found: Mapping[str, Any], key: str) -> str:
    """What a classifier was trained on, in words."""
    count = found[key]["trained_on"]
    if key == "both":
        return f"{found['real']['trained_on']} real events and {found['samples']['trained_on']} samples"
    return f"{count} samples" if key == "samples" else f"{count} real events"


def accuracy(figure: Mapping[str, Any]) -> str:
    """An accuracy with its standard error."""
    return f"{figure['value']:.3f} +- {figure['standard_error']:.3f}"
