"""The comparison of samples with data: features of both sets, their distances, and everything that these depend on.

A result compares a set of events with the reference, for one extractor. It means little without the number of events,
the reference and the extractor, so `line` always states them. The other split of the data is compared in the same way.
This baseline is the value that new data would get.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.data import permutation
from scoresde.experiment.config.sections import EvaluationConfig
from scoresde.experiment.folder.cache import file_digest
from scoresde.experiment.results.event_sets import EventSet
from scoresde.experiment.results.shards import FeatureStore
from scoresde.metrics import MomentAccumulator, Moments, frechet_distance, kernel_distance, precision_recall
from scoresde.version import __version__

FEW = 50_000
"""Number of events below which a Fréchet distance cannot be compared with published values."""


@dataclass(frozen=True)
class SetFeatures:
    """The features of a set.

    Attributes:
        moments: Mean and covariance of the features.
        chosen: Features (k, d) of the events that the pairwise metrics use. None if the features are not known.
        facts: Their origin, for the result file.
        description: Their origin in a few words.
    """

    moments: Moments
    chosen: Tensor | None
    facts: dict[str, Any]
    description: str


def gather(events: EventSet, store: FeatureStore, most: int) -> SetFeatures:
    """The features of a set from its shards, in their order.

    ``most`` is the number of events chosen at random by index.
    """
    count = events.count
    wanted = permutation(count, 0, 0)[:most].sort().values
    sums, chosen, digest, seconds, devices = MomentAccumulator(), [], hashlib.sha256(), 0.0, set()
    for first, end, source in events.ranges():
        shard = store.part(first, end, source)
        if shard is None:
            raise ValueError(
                f"features {first} to {end} of {events.name} were removed while they were read: start again"
            )
        features = torch.from_numpy(shard.features[: count - first])
        sums.add(features)
        chosen.append(features[wanted[(wanted >= first) & (wanted < first + len(features))] - first])
        digest.update(features.numpy().tobytes())
        seconds += shard.seconds
        devices.add(shard.device)
    if sums.count != count:
        raise ValueError(f"{events.name} has {count} events, but there are features of {sums.count}")
    facts = {
        **events.facts, "features digest": digest.hexdigest(), "features in": "/".join(store.path.parts[-3:]),
        "seconds": round(seconds, 2), "devices": sorted(devices),
    }  # fmt: skip
    return SetFeatures(sums.moments, torch.cat(chosen), facts, events.description)


def from_file(path: str) -> SetFeatures:
    """A reference from a file with ``mu`` and ``sigma``. Raises FileNotFoundError or ValueError."""
    moments, digest = Moments.load(path), file_digest(Path(path))
    count = "unknown" if moments.count is None else moments.count
    facts = {"file": path, "file digest": digest, "count": moments.count}
    return SetFeatures(moments, None, facts, f"{Path(path).name}, {count} events, digest {digest}")


def compare(samples: SetFeatures, reference: SetFeatures, config: EvaluationConfig) -> dict[str, float | int | None]:
    """The metrics of two sets. None for those that the reference or too few events do not give."""
    found: dict[str, float | int | None] = {
        "frechet distance": frechet_distance(samples.moments, reference.moments), "kernel distance": None,
        "kernel distance error": None, "precision": None, "recall": None,
    }  # fmt: skip
    x, y = samples.chosen, reference.chosen
    if x is None or y is None:
        return found
    found |= {"compared": len(x), "compared reference": len(y)}
    least = min(len(x), len(y))
    if least > config.neighbors:
        manifold = precision_recall(x, y, config.neighbors)
        found |= {"precision": manifold.precision, "recall": manifold.recall}
    if least > 1:
        kernel = kernel_distance(x, y)
        error = None if math.isnan(kernel.standard_error) else kernel.standard_error
        found |= {"kernel distance": kernel.value, "kernel distance error": error}
    return found


def warnings(events: EventSet, samples: SetFeatures, reference: SetFeatures) -> list[str]:
    """What a reader of the metrics must know."""
    found, d = list(events.warnings), samples.moments.dimension
    if events.count < FEW:
        found.append(
            f"a Frechet distance of {events.count} {events.unit} is biased upwards. Compare it only with distances "
            "of the same number of "
            f"samples; published ones use {FEW:,}"
        )
    x, y, there = samples.chosen, reference.chosen, reference.moments.count
    if x is not None and y is not None and there is not None and (len(x), len(y)) != (events.count, there):
        found.append(
            f"precision, recall and kernel distance use {len(x)} of {events.count} {events.unit} and {len(y)} of {there} "
            "events of the reference (evaluation.subset_size)"
        )
    counts = {events.unit: events.count, "events of the reference": reference.moments.count}
    for unit, count in counts.items():
        if count is not None and count <= d:
            found.append(f"the covariance of {count} {unit} with {d} features does not have full rank")
    if reference.moments.count is None:
        found.append("the file of the reference does not state its number of events, nor its extractor")
    return found


def result(
    events: EventSet,
    samples: SetFeatures,
    reference: SetFeatures,
    baseline: dict[str, Any],
    config: EvaluationConfig,
    processes: int,
) -> dict[str, Any]:
    """The content of evaluation/NAME.json. ``baseline`` has the metrics and facts of the other split."""
    return {
        **compare(samples, reference, config),
        "count": events.count, "unit": events.unit, "features": samples.moments.dimension, "neighbors": config.neighbors,
        "extractor": config.extractor.name, "extractor digest": config.extractor.digest,
        "set": samples.facts,
        "reference": {"description": reference.description, **reference.facts},
        "baseline": baseline,
        "warnings": warnings(events, samples, reference),
        "batch size": config.batch_size, "processes": processes, "scoresde": __version__,
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }  # fmt: skip


def line(name: str, found: dict[str, Any]) -> str:
    """The metrics of a result, with what they depend on, in one line."""
    extractor = (
        f"extractor {found['extractor']} with {found['features']} features, digest {found['extractor digest'][:16]}"
    )
    parts = [
        f"{name}: Frechet distance {found['frechet distance']:.4g} @ {found['count']} {found['unit']}",
        f"reference: {found['reference']['description']}",
        extractor,
    ]
    if found["precision"] is not None:
        parts.append(f"precision {found['precision']:.3f} recall {found['recall']:.3f} (k = {found['neighbors']})")
    if found["kernel distance"] is not None:
        error = found["kernel distance error"]
        parts.append(f"KID {found['kernel distance']:.4g} +- {'unknown' if error is None else f'{error:.2g}'}")
    other = found["baseline"]
    parts.append(f"baseline: {other['data']} {other['frechet distance']:.4g} @ {other['count']} events")
    return " | ".join(parts)
