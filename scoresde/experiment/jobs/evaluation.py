"""Compares samples with data: features of both, part by part, and metrics from them (``comparison.py``).

The features are those of ``evaluation.extractor``, computed from the decoded values, or from these in the model's scaling
(``Extractor.scaling``). They are saved by index in shards
(``shards.py``), each with a digest of its source. Existing features are not computed again: a command that was killed
continues, more samples add features to the existing ones, and the data is processed once for each extractor. All events
of a set are used. Processes share the parts (``job.py``). The metrics are computed at the end from the shards in their
order, so the number of processes changes nothing.

    evaluation/data/SPLIT/features-FINGERPRINT/      features of the data, by the digests of data and extractor
    evaluation/samples/NAME/features-FINGERPRINT/    features of samples; evaluation/files/... those of ``evaluation.samples``
    evaluation/NAME.json                             metrics, with everything that they depend on
    evaluation/reference.npz                         mu, sigma and count of the reference, for other tools and other folders

In memory there are one part, and for five sets (reference, baseline, samples and the two halves) a covariance and the
features of ``evaluation.subset_size`` events.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._files import write_sealed
from scoresde._validation import check_choice
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import EvaluationConfig
from scoresde.experiment.config.weight_names import DEFAULT
from scoresde.experiment.folder.workdir import Workdir, provenance
from scoresde.experiment.jobs.job import Job, Progress, Range, local_device, run_job
from scoresde.experiment.jobs.prediction import PredictionJob
from scoresde.experiment.results.comparison import (
    NO_YARDSTICK,
    SetFeatures,
    Yardstick,
    compare,
    from_file,
    gather,
    line,
    result,
)
from scoresde.experiment.results.event_sets import DatasetEvents, EventSet, sets_to_evaluate
from scoresde.experiment.results.sample_classifier import SampleClassifier, classifier_lines
from scoresde.experiment.results.shards import Features, FeatureStore
from scoresde.metrics import Moments
from scoresde.score import TargetModel
from scoresde.version import __version__

DIMENSIONS_UP_TO = 2**13
"""Largest number of features for which their covariance is computed: 512 MiB."""


def evaluate(experiment: Experiment, workdir: Workdir, processes: int = 1) -> dict[str, dict[str, Any]] | None:
    """Compare all sample sets in the folder, or the events that ``evaluation.samples`` names, with the data.

    For a ``Classifier`` or ``Regressor``, evaluate its predictions instead (``prediction.py``). The files are written to
    evaluation/.

    Args:
        experiment: The experiment.
        workdir: The work folder.
        processes: Number of local processes that share the work.

    Returns:
        The content of evaluation/NAME.json, or evaluation/predictions/NAME.json, by name. None in a launcher's process that is
            not the last to finish.

    Raises:
        WorkdirError: If there are no samples, or if another process evaluates in the folder.
        WorkerError: If a local process died.
        ConfigError: For settings that the model does not have.
        ValueError: For samples or a reference that do not fit.
    """
    predicts = isinstance(experiment.model, TargetModel)
    if not predicts and experiment.evaluation.weights != DEFAULT:
        raise ConfigError(
            f"config.evaluation.weights={experiment.evaluation.weights!r} is not allowed for samples, which have the weights "
            "that they were drawn with: give scoresde sample --weights"
        )
    if experiment.evaluation.samples and not predicts:
        workdir.claim(experiment)
    workdir.check(experiment)
    workdir.check_trained(experiment)
    job = PredictionJob if predicts else EvaluationJob
    out: dict[str, dict[str, Any]] | None = run_job(job, experiment, workdir, processes)
    return out


def check_dimension(config: EvaluationConfig, dimension: int) -> None:
    """Raise ValueError, before features are computed, if there are too many or if they do not fit the file of the reference."""
    check_choice("scaling", config.extractor.scaling, ("data", "model"))
    if dimension > DIMENSIONS_UP_TO:
        raise ValueError(
            f"{config.extractor.name} has {dimension} features, but at most {DIMENSIONS_UP_TO} are allowed because "
            "of their covariance: "
            "give an evaluation.extractor with fewer"
        )
    if config.reference and (wanted := Moments.load(config.reference).dimension) != dimension:
        raise ValueError(
            f"{config.reference!r} has {wanted} features, but {config.extractor.name} has {dimension}: both must "
            "come from the same "
            "extractor"
        )


def scaling(experiment: Experiment) -> str:
    """The values that the extractor gets, in words."""
    if experiment.evaluation.extractor.scaling == "model":
        transform = experiment.data.transform
        return f"the model, {getattr(transform, 'summary', None) or repr(transform)}"
    return "the data"


def scaled(experiment: Experiment, raw: Tensor) -> Tensor:
    """Decoded events in the scaling of the extractor. Levels become the middle of their interval."""
    if experiment.evaluation.extractor.scaling == "model":
        return experiment.data.transform.encode(raw, None, dtype=torch.float32)
    return raw


@dataclass(frozen=True)
class Part(Range):
    """Events of a set, whose name is its place in evaluation/. ``source`` is the digest of their content."""

    source: str


@dataclass(frozen=True)
class EvaluationJob(Job):
    """Everything that is needed to compute features.

    ``sets`` are keyed by the place of their features in evaluation/.
    """

    kind: ClassVar[str] = "evaluate"
    unit: ClassVar[str] = "event"

    sets: dict[str, EventSet]
    stores: dict[str, FeatureStore]

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> EvaluationJob:
        config, data = experiment.evaluation, experiment.data
        sets: dict[str, EventSet] = {}
        for events in sets_to_evaluate(experiment, workdir):
            kind = "files" if isinstance(events, DatasetEvents) else "samples"
            sets[f"{kind}/{events.name}"] = events
        for split in ([] if config.reference else [config.split]) + [config.other_split]:
            sets[f"data/{split}"] = DatasetEvents(split, getattr(data, split), {"split": split})
        device = local_device(experiment, local)
        first = scaled(experiment, sets[f"data/{config.other_split}"].raw(0, 1))
        check_dimension(config, config.extractor(first.to(device)).shape[1])
        by = {
            "scoresde": __version__, "extractor": config.extractor.name, "extractor digest": config.extractor.digest,
            "scaling": scaling(experiment), "transform": repr(experiment.data.transform),
        }  # fmt: skip
        stores = {place: FeatureStore(workdir.evaluation / place, {**by, **s.identity}) for place, s in sets.items()}
        return cls(experiment, workdir, device, sets, stores)

    @property
    def fingerprint(self) -> str:
        stores = " ".join(store.fingerprint for store in self.stores.values())
        return hashlib.sha256(f"{stores} {self.all_parts()}".encode()).hexdigest()[:16]

    def all_parts(self) -> list[Part]:
        """All parts."""
        ranges = [(place, *part) for place, events in self.sets.items() for part in events.ranges()]
        return [Part(number, *part) for number, part in enumerate(ranges)]

    def remaining(self) -> list[Part]:
        found = []
        for part in self.all_parts():
            try:
                there = self.stores[part.name].part(part.first, part.end, part.source)
            except ValueError as problem:
                self.workdir.log(f"{self.workdir.path}: {part.name}: {problem}: computed again")
                there = None
            if there is None:
                found.append(part)
        return found

    def work(self, parts: Sequence[Part], progress: Progress) -> None:
        for part in parts:
            self.stores[part.name].write(self.features(part))
            progress(part.size)

    def features(self, part: Part) -> Features:
        """The features of a part, computed ``batch_size`` events at a time."""
        started, config = time.perf_counter(), self.experiment.evaluation
        raw = scaled(self.experiment, self.sets[part.name].raw(part.first, part.end))
        found = [config.extractor(some.to(self.device)).cpu() for some in raw.split(config.batch_size)]
        return Features(
            first=part.first, end=part.end, features=torch.cat(found).numpy(), source=part.source, nfe=1,
            seconds=time.perf_counter() - started, device=str(self.device),
        )  # fmt: skip

    def announce(self, parts: Sequence[Part]) -> None:
        for place, events in self.sets.items():
            here = sum(part.size for part in parts if part.name == place)
            self.workdir.log(
                f"{self.workdir.path}: features of {place}: computing {here} of {events.count} {events.unit}, by "
                f"{self.experiment.evaluation.extractor.name}"
            )

    def finish(self, processes: int) -> dict[str, dict[str, Any]]:
        config, results = self.experiment.evaluation, {}
        for store in self.stores.values():
            store.remove_leftovers()
        reference = from_file(config.reference) if config.reference else self.set_features(f"data/{config.split}")
        if not config.reference:
            reference.moments.save(self.workdir.evaluation / "reference.npz")
        baseline = self.set_features(f"data/{config.other_split}")
        against = compare(baseline, reference, config)
        place = f"data/{config.split}"
        yardstick = None if config.reference else Yardstick(self.sets[place], self.stores[place], config)
        classified = SampleClassifier(self.experiment.data, config, self.sets, self.stores)
        for place, events in self.sets.items():
            if place.startswith("data/"):
                continue
            relative = yardstick(events, self.stores[place], reference.moments.dimension) if yardstick else NO_YARDSTICK
            found = result(
                events, self.set_features(place), reference, {**against, **baseline.facts}, relative, config,
                scaling(self.experiment), processes,
            )  # fmt: skip
            found["classifiers"] = classified(place)
            write_sealed(self.workdir.evaluation / f"{events.name}.json", {**found, **provenance()})
            self.workdir.log(f"{self.workdir.path}: {line(events.name, found)}")
            for text in classifier_lines(found["classifiers"]):
                self.workdir.log(f"{self.workdir.path}: {events.name}: {text}")
            for warning in found["warnings"]:
                self.workdir.log(f"{self.workdir.path}: WARNING: {events.name}: {warning}")
            results[events.name] = found
        return results

    def set_features(self, place: str) -> SetFeatures:
        """The features of a set."""
        return gather(self.sets[place], self.stores[place], self.experiment.evaluation.subset_size)
