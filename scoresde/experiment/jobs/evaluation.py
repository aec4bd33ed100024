"""Samples beside data: features of both, part by part, and the figures that compare them (comparison.py).

Features are those of ``evaluation.extractor``, of the numbers as they were decoded. They are kept by index in shards
(shards.py), each with a digest of what it was made of: what is there is not computed again, so a command that was killed goes
on where it was, more samples add features to those there, and data is gone through once for each extractor. All events of a
set count; none is dropped at the end. Processes share the parts (sharing.py). The figures are made at the end from the shards
in their order, so that the number of processes changes nothing.

    evaluation/data/SPLIT/features-FINGERPRINT/      features of the data, by the digests of data and extractor
    evaluation/samples/NAME/features-FINGERPRINT/    of samples; evaluation/files/... of what ``evaluation.samples`` names
    evaluation/NAME.json                             figures with all that they depend on
    evaluation/reference.npz                         mu, sigma and count of the reference, for other tools and other folders

Memory holds a part, and of three sets, reference, yardstick and samples, a covariance and the features of
``evaluation.subset_size`` events.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from scoresde._files import write_sealed
from scoresde.experiment.config.experiment import EvaluationConfig, Experiment
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.jobs.job import Job, Progress, Range, local_device, run_job
from scoresde.experiment.results.comparison import SetFeatures, compare, from_file, gather, line, result
from scoresde.experiment.results.event_sets import Events, EventSet, sets_to_evaluate
from scoresde.experiment.results.shards import Features, FeatureStore
from scoresde.metrics import Moments
from scoresde.version import __version__

DIMENSIONS_UP_TO = 2**13
"""Numbers in a feature vector up to which their covariance is taken: 512 MiB."""


def evaluate(experiment: Experiment, workdir: Workdir, processes: int = 1) -> dict[str, dict[str, Any]] | None:
    """Compare the samples of every sampler, or those that ``evaluation.samples`` names, with the data; files in evaluation/.

    processes: local processes that share the work.

    Returns what evaluation/NAME.json holds, by name; None in a launcher's process that is not the last to finish. Raises
    WorkdirError where there are no samples or another process evaluates in the folder, WorkerError where a local process died,
    ValueError for samples or a reference that do not fit.
    """
    if experiment.evaluation.samples:
        workdir.claim(experiment)
    workdir.check(experiment)
    workdir.check_trained(experiment)
    out: dict[str, dict[str, Any]] | None = run_job(EvaluationJob, experiment, workdir, processes)
    return out


def check_dimension(plan: EvaluationConfig, dimension: int) -> None:
    """Raise ValueError, before features are computed, where they are too many or do not fit the reference's file."""
    if dimension > DIMENSIONS_UP_TO:
        raise ValueError(
            f"{plan.extractor.name} gives {dimension} numbers, and a covariance of more than {DIMENSIONS_UP_TO} is too large: "
            "give an evaluation.extractor with fewer"
        )
    if plan.reference and (wanted := Moments.load(plan.reference).dimension) != dimension:
        raise ValueError(
            f"{plan.reference!r} is of {wanted} features, and {plan.extractor.name} gives {dimension}: both must be of one "
            "extractor"
        )


@dataclass(frozen=True)
class Part(Range):
    """Events of a set, which has the name of its place in evaluation/. source: digest of what they are."""

    source: str


@dataclass(frozen=True)
class EvaluationJob(Job):
    """All that is needed to compute features. sets: by the place of their features in evaluation/."""

    kind: ClassVar[str] = "evaluate"
    unit: ClassVar[str] = "event"

    sets: dict[str, EventSet]
    stores: dict[str, FeatureStore]

    @classmethod
    def of(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> EvaluationJob:
        plan, data = experiment.evaluation, experiment.data
        sets: dict[str, EventSet] = {}
        for looked_at in sets_to_evaluate(experiment, workdir):
            kind = "files" if isinstance(looked_at, Events) else "samples"
            sets[f"{kind}/{looked_at.name}"] = looked_at
        for split in ([] if plan.reference else [plan.split]) + [plan.other_split]:
            sets[f"data/{split}"] = Events(split, getattr(data, split), {"split": split})
        device = local_device(experiment, local)
        check_dimension(plan, plan.extractor(sets[f"data/{plan.other_split}"].raw(0, 1).to(device)).shape[1])
        by = {"scoresde": __version__, "extractor": plan.extractor.name, "extractor digest": plan.extractor.digest}
        stores = {place: FeatureStore(workdir.evaluation / place, {**by, **s.identity}) for place, s in sets.items()}
        return cls(experiment, workdir, device, sets, stores)

    @property
    def fingerprint(self) -> str:
        stores = " ".join(store.fingerprint for store in self.stores.values())
        return hashlib.sha256(f"{stores} {self.plan()}".encode()).hexdigest()[:16]

    def plan(self) -> list[Part]:
        """All parts."""
        ranges = [(place, *part) for place, looked_at in self.sets.items() for part in looked_at.ranges()]
        return [Part(number, *part) for number, part in enumerate(ranges)]

    def left(self) -> list[Part]:
        found = []
        for part in self.plan():
            try:
                there = self.stores[part.name].part(part.first, part.end, part.source)
            except ValueError as problem:
                self.workdir.log(f"{self.workdir.path}: {part.name}: {problem}: it is computed again")
                there = None
            if there is None:
                found.append(part)
        return found

    def work(self, parts: Sequence[Part], progress: Progress) -> None:
        for part in parts:
            self.stores[part.name].write(self.features(part))
            progress(part.size)

    def features(self, part: Part) -> Features:
        """The features of a part, ``batch_size`` events at a time."""
        started, plan = time.perf_counter(), self.experiment.evaluation
        raw = self.sets[part.name].raw(part.first, part.end)
        found = [plan.extractor(some.to(self.device)).cpu() for some in raw.split(plan.batch_size)]
        return Features(
            first=part.first, end=part.end, features=torch.cat(found).numpy(), source=part.source, nfe=1,
            seconds=time.perf_counter() - started, device=str(self.device),
        )  # fmt: skip

    def announce(self, parts: Sequence[Part]) -> None:
        for place, looked_at in self.sets.items():
            here = sum(part.size for part in parts if part.name == place)
            self.workdir.log(
                f"{self.workdir.path}: features of {looked_at.count} {looked_at.unit} of {place}, {here} of them to compute "
                f"here, by {self.experiment.evaluation.extractor.name}"
            )

    def finish(self, processes: int) -> dict[str, dict[str, Any]]:
        plan, results = self.experiment.evaluation, {}
        for store in self.stores.values():
            store.sweep()
        reference = from_file(plan.reference) if plan.reference else self.gathered(f"data/{plan.split}")
        if not plan.reference:
            reference.moments.save(self.workdir.evaluation / "reference.npz")
        yardstick = self.gathered(f"data/{plan.other_split}")
        against = compare(yardstick, reference, plan)
        for place, events in self.sets.items():
            if place.startswith("data/"):
                continue
            found = result(events, self.gathered(place), reference, {**against, **yardstick.facts}, plan, processes)
            write_sealed(self.workdir.evaluation / f"{events.name}.json", found)
            self.workdir.log(f"{self.workdir.path}: {line(events.name, found)}")
            for warning in found["warnings"]:
                self.workdir.log(f"{self.workdir.path}: WARNING: {events.name}: {warning}")
            results[events.name] = found
        return results

    def gathered(self, place: str) -> SetFeatures:
        """The features of a set."""
        return gather(self.sets[place], self.stores[place], self.experiment.evaluation.subset_size)
