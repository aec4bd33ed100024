"""The sets of events that an evaluation compares, divided into ranges by index.

    DatasetEvents    a data set, in ranges of `PART` events
    SampleEvents     the samples of an index, in the ranges of its shards

Each range has a source, the digest of its content. Features of the range are valid as long as the source is the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from scoresde.data import Dataset, ImageFolder
from scoresde.data.inspect_sources import find
from scoresde.data.pixels import is_lossy, upright_size
from scoresde.data.stored import ImageFiles
from scoresde.experiment.config.condition_values import SPLITS, short
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.cache import file_digest
from scoresde.experiment.folder.workdir import Workdir, WorkdirError, config_digest
from scoresde.experiment.results.sample_index import CONDITIONS_OF_SAMPLES, SampleIndex
from scoresde.experiment.results.shards import compact

PART = 256
"""Number of events of a data set whose features form a shard."""


class EventSet(ABC):
    """Decoded events by index.

    Attributes:
        unit: Name of one element, in the plural.
        name: Name of the set and of its results.
        warnings: What a reader of the results must know.
    """

    unit: ClassVar[str]
    name: str
    warnings: tuple[str, ...]

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of events."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the features depend on, in addition to the source of each range."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The origin of the events, for the result file."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The origin of the events in a few words."""

    @abstractmethod
    def ranges(self) -> Sequence[tuple[int, int, str]]:
        """(first, end, source) in order, without gap or overlap. The last range may exceed ``count``."""

    @abstractmethod
    def raw(self, first: int, end: int) -> Tensor:
        """The events of a range, (B, *event). Raises ValueError if they have changed."""


@dataclass(frozen=True)
class DatasetEvents(EventSet):
    """A data set.

    Args:
        name: Name of the set.
        data: The data set.
        more: Additional facts.
        warnings: What a reader of the results must know.
        seen: A digest of the content, if the data set's own digest does not read all of it.
    """

    name: str
    data: Dataset
    more: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seen: str = ""
    unit: ClassVar[str] = "events"

    @property
    def count(self) -> int:
        return len(self.data)

    @cached_property
    def digest(self) -> str:
        """Digest of the data."""
        return self.seen or self.data.digest()

    @property
    def identity(self) -> dict[str, Any]:
        return {"data digest": self.digest, "event shape": list(self.data.event_shape)}

    @property
    def facts(self) -> dict[str, Any]:
        return {"data": self.data.name, "count": self.count, **self.identity, **self.more}

    @property
    def description(self) -> str:
        return f"{self.data.name}, {self.count} {self.unit}, digest {self.digest}"

    def ranges(self) -> list[tuple[int, int, str]]:
        return [(first, min(first + PART, self.count), self.digest) for first in range(0, self.count, PART)]

    def raw(self, first: int, end: int) -> Tensor:
        return torch.from_numpy(compact(self.data.events(torch.arange(first, end)), self.data.transform))


@dataclass(frozen=True)
class SampleEvents(EventSet):
    """The samples of an index."""

    name: str
    index: SampleIndex
    warnings: tuple[str, ...] = ()
    unit: ClassVar[str] = "samples"

    @property
    def count(self) -> int:
        return self.index.count

    @property
    def identity(self) -> dict[str, Any]:
        return {"samples": self.index.store.fingerprint}

    @property
    def facts(self) -> dict[str, Any]:
        origin = {
            key: self.index.facts.get(key) for key in ("sampler", "count", "seed", "nfe", "checkpoint", "weights")
        }
        origin |= {key: self.index.facts[key] for key in CONDITIONS_OF_SAMPLES if key in self.index.facts}
        return {"index": self.index.path.name, **origin, "settings": self.index.store.settings}

    @property
    def description(self) -> str:
        return f"{self.index.path.name}, {self.count} {self.unit}"

    def ranges(self) -> list[tuple[int, int, str]]:
        return [(entry.first, entry.end, entry.sha256) for entry in self.index.entries]

    def raw(self, first: int, end: int) -> Tensor:
        entry = next(entry for entry in self.index.entries if (entry.first, entry.end) == (first, end))
        return torch.from_numpy(self.index.read(entry).raw)


def sets_to_evaluate(experiment: Experiment, workdir: Workdir) -> list[EventSet]:
    """The sets to evaluate: all samples in the folder, or the set that ``evaluation.samples`` names.

    Samples of a sampler that the config no longer has cannot be drawn again. If they cannot be read or come from another
    config, they are left out, and the log says why.

    Raises WorkdirError if there are none, FileNotFoundError or ValueError for what cannot be read.
    """
    if experiment.evaluation.samples:
        return [file_set(experiment)]
    found: list[EventSet] = []
    for name in (path.stem for path in sorted(workdir.samples.glob("*.json"))):
        try:
            found.append(sample_set(experiment, workdir, name))
        except (ValueError, WorkdirError) as problem:
            # samples with other weights are called NAME@WEIGHTS
            if name.partition("@")[0] in experiment.samplers:
                raise
            workdir.log(
                f"{workdir.path}: WARNING: {name}: not evaluated, because no sampler of the config draws it: {problem}"
            )
    if not found:
        raise WorkdirError(f"--workdir {workdir.path} has no samples: run scoresde sample first, or give --samples")
    return found


def sample_set(experiment: Experiment, workdir: Workdir, name: str) -> SampleEvents:
    """The samples of samples/NAME.json, with warnings if they do not come from the config's sampler and the last checkpoint."""
    index = SampleIndex.open(workdir.samples / f"{name}.json")
    if index.store.settings.get("config digest") != config_digest(experiment):
        raise WorkdirError(
            f"{index.path} was drawn with another config (digest {index.store.settings.get('config digest')}, this one has "
            f"{config_digest(experiment)}): run scoresde sample again"
        )
    node, found = experiment.config.to_dict().get("samplers", {}).get(name.partition("@")[0]), []
    if node is not None and index.store.settings.get("sampler") != json.dumps(node, sort_keys=True, default=str):
        found.append(f"drawn by {index.facts.get('sampler')}, not by the config's sampler: run scoresde sample again")
    condition = str(index.facts.get("condition", json.dumps("ignore")))
    if condition not in [json.dumps(word) for word in ("ignore", *SPLITS)]:
        found.append(
            f"the samples have the condition {short(condition)}, but the data that they are compared with may have others"
        )
    if before := workdir.outdated(index.facts):
        found.append(f"drawn with {before}" + (": run scoresde sample again" if node is not None else ""))
    return SampleEvents(name, index, tuple(found))


def file_set(experiment: Experiment) -> DatasetEvents:
    """The events that ``evaluation.samples`` names, read like the config's data: with its event shape and its levels.

    Samples in an array may have their channels first or last, or none, whichever gives the shape of the data.
    """
    path, data = experiment.evaluation.samples, experiment.data
    side = data.event_shape[1:] if Path(path).is_dir() and len(data.event_shape) == 3 else 0
    source = find(path, side, "first")
    shape = tuple(source.events.shape[1:])
    orders = {"last": (*shape[-1:], *shape[:-1]), "none": (1, *shape)}
    if source.node["name"] == "Arrays" and shape != data.event_shape and data.event_shape in orders.values():
        channels = next(name for name, order in orders.items() if order == data.event_shape)
        source, shape = find(path, side, channels), data.event_shape
    if source.problems:
        raise ValueError(f"samples={path!r}: {'; '.join(source.problems[:3])}")
    if isinstance(data, ImageFolder) and isinstance(source.events, ImageFiles) and data.rules.changed:
        source = dataclasses.replace(source, events=data.files(source.events.root, source.events.files))
        shape = tuple(source.events.shape[1:])
    if shape != data.event_shape:
        raise ValueError(
            f"samples={path!r} has events of shape {shape}, but the data has {data.event_shape}: the shapes must be equal"
        )
    events = Dataset(source.events, data.transform, path)
    images = source.events if isinstance(source.events, ImageFiles) else None
    warnings = _of_files(images) if images else []
    seen = _content(images) if images else ""
    name = f"files-{Path(path.partition('.npz:')[0]).stem}-{(seen or events.digest())[:8]}"
    return DatasetEvents(name, events, {"what": source.what}, tuple(warnings), seen)


def _content(images: ImageFiles) -> str:
    """16 hex digits of all bytes of all files. New samples often have the same file names as old ones, unlike data."""
    digests = " ".join([str(images.shape), *(file_digest(file) for file in images.files)])
    return hashlib.sha256(digests.encode()).hexdigest()[:16]


def _of_files(images: ImageFiles) -> list[str]:
    """Warnings about a folder of images."""
    found, (height, width) = [], images.event_shape[1:]
    if lossy := sum(is_lossy(file) for file in images.files):
        found.append(
            f"{lossy} of {len(images)} files are JPEG or lossy WebP, whose compression changes the metrics: save samples as PNG "
            "or arrays"
        )
    resized = 0
    for file in images.files:
        with Image.open(file) as image:
            resized += upright_size(image) != (width, height)
    if resized:
        found.append(
            f"{resized} of {len(images)} images were cropped and resized to {width} x {height}, which changes the metrics"
        )
    return found
