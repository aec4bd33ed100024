"""The figures of an evaluation: features gathered, compared, and said with all that they depend on.

A figure is one of a set of events against the reference by one extractor; without the number of events, the reference and the
extractor it says nothing, and so `line` never leaves them out. The other split of the data is compared in the same way: the
yardstick, what fresh data would get.
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
from scoresde.experiment.config.experiment import EvaluationConfig
from scoresde.experiment.folder.cache import file_digest
from scoresde.experiment.results.event_sets import EventSet
from scoresde.experiment.results.shards import FeatureStore
from scoresde.metrics import MomentAccumulator, Moments, frechet_distance, kernel_distance, precision_recall
from scoresde.version import __version__

FEW = 50_000
"""Events below which a Fréchet distance is not one to compare with published figures."""


@dataclass(frozen=True)
class SetFeatures:
    """Features of a set. chosen: (k, d), those of the events that all pairs are taken of; None where the features are not
    known.

    facts: where they come from. said: the same in a few words.
    """

    moments: Moments
    chosen: Tensor | None
    facts: dict[str, Any]
    said: str


def gather(events: EventSet, store: FeatureStore, most: int) -> SetFeatures:
    """The features of a set, from its shards in their order. most: events that are chosen, at random by index."""
    count = events.count
    wanted = permutation(count, 0, 0)[:most].sort().values
    sums, chosen, digest, seconds, devices = MomentAccumulator(), [], hashlib.sha256(), 0.0, set()
    for first, end, source in events.ranges():
        shard = store.part(first, end, source)
        if shard is None:
            raise ValueError(f"features {first} to {end} of {events.name} have gone while they were read: start again")
        features = torch.from_numpy(shard.features[: count - first])
        sums.add(features)
        chosen.append(features[wanted[(wanted >= first) & (wanted < first + len(features))] - first])
        digest.update(features.numpy().tobytes())
        seconds += shard.seconds
        devices.add(shard.device)
    if sums.count != count:
        raise ValueError(f"{events.name} has {count} events, and features of {sums.count} are there")
    facts = {
        **events.facts, "features digest": digest.hexdigest(), "features in": "/".join(store.path.parts[-3:]),
        "seconds": round(seconds, 2), "devices": sorted(devices),
    }  # fmt: skip
    return SetFeatures(sums.moments, torch.cat(chosen), facts, events.said)


def from_file(path: str) -> SetFeatures:
    """A reference that is a file of mu and sigma. Raises FileNotFoundError or ValueError."""
    moments, digest = Moments.load(path), file_digest(Path(path))
    count = "unknown" if moments.count is None else moments.count
    facts = {"file": path, "file digest": digest, "count": moments.count}
    return SetFeatures(moments, None, facts, f"{Path(path).name}, {count} events, digest {digest}")


def compare(samples: SetFeatures, reference: SetFeatures, plan: EvaluationConfig) -> dict[str, float | int | None]:
    """The figures; None for those that the reference or so few events do not give."""
    found: dict[str, float | int | None] = {
        "frechet distance": frechet_distance(samples.moments, reference.moments), "kernel distance": None,
        "kernel distance error": None, "precision": None, "recall": None,
    }  # fmt: skip
    x, y = samples.chosen, reference.chosen
    if x is None or y is None:
        return found
    found |= {"compared": len(x), "compared reference": len(y)}
    least = min(len(x), len(y))
    if least > plan.neighbours:
        manifold = precision_recall(x, y, plan.neighbours)
        found |= {"precision": manifold.precision, "recall": manifold.recall}
    if least > 1:
        kernel = kernel_distance(x, y)
        error = None if math.isnan(kernel.standard_error) else kernel.standard_error
        found |= {"kernel distance": kernel.value, "kernel distance error": error}
    return found


def warnings(events: EventSet, samples: SetFeatures, reference: SetFeatures) -> list[str]:
    """What a reader of the figures must know."""
    found, d = list(events.warnings), samples.moments.dimension
    if events.count < FEW:
        found.append(
            f"a Frechet distance of {events.count} {events.unit} is too large on average, and is compared with those of as many "
            f"only; published ones are of {FEW:,}"
        )
    x, y, there = samples.chosen, reference.chosen, reference.moments.count
    if x is not None and y is not None and there is not None and (len(x), len(y)) != (events.count, there):
        found.append(
            f"precision, recall and kernel distance are of {len(x)} of {events.count} {events.unit} and of {len(y)} of {there} "
            "events of the reference (evaluation.subset_size)"
        )
    counts = {events.unit: events.count, "events of the reference": reference.moments.count}
    for unit, count in counts.items():
        if count is not None and count <= d:
            found.append(f"{count} {unit} of {d} numbers: their covariance lacks rank")
    if reference.moments.count is None:
        found.append("the reference's file does not say how many events it is of, nor of which extractor")
    return found


def result(
    events: EventSet,
    samples: SetFeatures,
    reference: SetFeatures,
    yardstick: dict[str, Any],
    plan: EvaluationConfig,
    processes: int,
) -> dict[str, Any]:
    """What evaluation/NAME.json holds. yardstick: figures and facts of the other split."""
    return {
        **compare(samples, reference, plan),
        "count": events.count, "unit": events.unit, "features": samples.moments.dimension, "neighbours": plan.neighbours,
        "extractor": plan.extractor.name, "extractor digest": plan.extractor.digest,
        "set": samples.facts,
        "reference": {"said": reference.said, **reference.facts},
        "yardstick": yardstick,
        "warnings": warnings(events, samples, reference),
        "batch size": plan.batch_size, "processes": processes, "scoresde": __version__,
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }  # fmt: skip


def line(name: str, found: dict[str, Any]) -> str:
    """The figures of a result with what they depend on, in one line."""
    extractor = (
        f"extractor {found['extractor']} of {found['features']} numbers, digest {found['extractor digest'][:16]}"
    )
    parts = [
        f"{name}: Frechet distance {found['frechet distance']:.4g} @ {found['count']} {found['unit']}",
        f"reference: {found['reference']['said']}",
        extractor,
    ]
    if found["precision"] is not None:
        parts.append(f"precision {found['precision']:.3f} recall {found['recall']:.3f} (k = {found['neighbours']})")
    if found["kernel distance"] is not None:
        error = found["kernel distance error"]
        parts.append(f"KID {found['kernel distance']:.4g} +- {'unknown' if error is None else f'{error:.2g}'}")
    other = found["yardstick"]
    parts.append(f"yardstick: {other['data']} {other['frechet distance']:.4g} @ {other['count']} events")
    return " | ".join(parts)
