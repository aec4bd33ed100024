"""The comparison of samples with data: features of both sets, their distances, and everything that these depend on.

A result compares a set of events with the reference, for one extractor. It means little without the number of events,
the reference and the extractor, so `line` always states them. The other split of the data is compared in the same way.
This baseline is the value that new data would get.

A Fréchet distance has no natural scale, and depends on the numbers of events. Its yardstick is the distance between
random halves A and B of the reference (``metrics/yardstick.py``). Samples and A, the same number of each, are compared with
B, so both distances have the same bias, and their ratio has no units. The ratio of the
kernel distance is that of its estimates over all pairs.
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
from scoresde.metrics.yardstick import halves, random_order
from scoresde.version import __version__

FEW = 50_000
"""Number of events below which a Fréchet distance cannot be compared with published values."""


RATIOS = {"frechet distance": "frechet distance", "kernel distance": "kernel distance over all pairs"}
"""Metrics that are given as multiples of the yardstick, and the figure whose ratio is taken."""
HALVINGS = 8
"""Largest number of random halvings for the yardstick."""
WORK = 10**9
"""Number of products, about, that all halvings may take together. One is always computed."""
NO_YARDSTICK: dict[str, Any] = {"yardstick": None, "at its size": None, "ratio": dict.fromkeys(RATIOS)}
Figures = dict[str, float | int | None]


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


def some(events: EventSet, store: FeatureStore, index: Tensor, most: int) -> SetFeatures:
    """The features of the events ``index`` of a set. The first ``most`` of these indices are for metrics over all pairs."""
    wanted, few = index.sort().values, index[:most].sort().values
    sums, chosen = MomentAccumulator(), []
    for first, end, source in events.ranges():
        here, near = (part[(part >= first) & (part < end)] - first for part in (wanted, few))
        if not len(here):
            continue
        shard = store.part(first, end, source)
        if shard is None:
            raise ValueError(
                f"features {first} to {end} of {events.name} were removed while they were read: start again"
            )
        features = torch.from_numpy(shard.features)
        sums.add(features[here])
        chosen.append(features[near])
    return SetFeatures(sums.moments, torch.cat(chosen), {}, events.description)


class Yardstick:
    """The distances between two halves of a set, and of samples from one of the halves, as means over random halvings.

    Args:
        events: The set.
        store: Its features.
        config: The section ``evaluation`` of the config.
    """

    def __init__(self, events: EventSet, store: FeatureStore, config: EvaluationConfig) -> None:
        self.events, self.store, self.config = events, store, config
        self.known: dict[tuple[int, int], Figures] = {}

    def __call__(self, samples: EventSet, store: FeatureStore, features: int) -> dict[str, Any]:
        """Compare samples, and as many events of a half, with the other half. Values are None if a set is too small."""
        count = min(samples.count, self.events.count // 2)
        if count < 2:
            return NO_YARDSTICK
        most, other = self.config.subset_size, self.events.count - self.events.count // 2
        sizes = {"count": count, "reference count": other}
        halvings = _halvings(min(count, most) + min(other, most), features)
        found, scales = [], []
        for seed in range(halvings):
            one, rest = halves(self.events.count, seed)
            reference = some(self.events, self.store, rest, most)
            if (count, seed) not in self.known:
                self.known[count, seed] = compare(
                    some(self.events, self.store, one[:count], most), reference, self.config
                )
            scales.append(self.known[count, seed])
            mine = some(samples, store, random_order(samples.count, seed)[:count], most)
            found.append(compare(mine, reference, self.config))
        near, scale = _means(found), _means(scales)
        return {
            "yardstick": {"data": f"halves of {self.events.facts['data']}", "halvings": halvings, **scale, **sizes},
            "at its size": {**near, **sizes},
            "ratio": {name: _ratio(near[figure], scale[figure]) for name, figure in RATIOS.items()},
        }


def _halvings(events: int, features: int) -> int:
    """The number of halvings: fewer if pairs of events or the eigenvalues of covariances take long."""
    work = events**2 * features + 20 * features**3
    return max(1, min(HALVINGS, WORK // work))


def _means(found: list[Figures]) -> Figures:
    """The mean of each figure. None if it is not known."""
    out: Figures = {}
    for name in found[0]:
        values = [figures[name] for figures in found]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or isinstance(values[0], int):  # sizes are those of every halving
            out[name] = values[0] if len(known) == len(values) else None
        else:
            out[name] = sum(known) / len(known)
    return out


def _ratio(value: float | None, scale: float | None) -> float | None:
    return value / scale if value is not None and scale else None


def from_file(path: str) -> SetFeatures:
    """A reference from a file with ``mu`` and ``sigma``. Raises FileNotFoundError or ValueError."""
    moments, digest = Moments.load(path), file_digest(Path(path))
    count = "unknown" if moments.count is None else moments.count
    facts = {"file": path, "file digest": digest, "count": moments.count}
    return SetFeatures(moments, None, facts, f"{Path(path).name}, {count} events, digest {digest}")


def compare(samples: SetFeatures, reference: SetFeatures, config: EvaluationConfig) -> Figures:
    """The metrics of two sets. None for those that the reference or too few events do not give."""
    found: Figures = {
        "frechet distance": frechet_distance(samples.moments, reference.moments), "kernel distance": None,
        "kernel distance error": None, "kernel distance over all pairs": None, "precision": None, "recall": None,
        "reference count": reference.moments.count,
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
        found |= {"kernel distance over all pairs": kernel.biased}
    return found


def warnings(events: EventSet, samples: SetFeatures, reference: SetFeatures) -> list[str]:
    """What a reader of the metrics must know."""
    found, d = list(events.warnings), samples.moments.dimension
    if events.count < FEW:
        found.append(
            f"a Frechet distance of {events.count} {events.unit} is biased upwards. Compare it only with distances "
            f"of the same numbers of samples and data; published ones use {FEW:,} samples"
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
    relative: dict[str, Any],
    config: EvaluationConfig,
    scaling: str,
    processes: int,
) -> dict[str, Any]:
    """The content of evaluation/NAME.json.

    ``baseline`` has the metrics and facts of the other split, ``relative`` those of the yardstick. ``scaling`` describes
    the values that the extractor got.
    """
    return {
        **compare(samples, reference, config),
        **relative,
        "count": events.count, "unit": events.unit, "features": samples.moments.dimension, "neighbors": config.neighbors,
        "extractor": config.extractor.name, "extractor digest": config.extractor.digest,
        "scaling": scaling,
        "set": samples.facts,
        "reference": {"description": reference.description, **reference.facts},
        "baseline": baseline,
        "warnings": warnings(events, samples, reference),
        "batch size": config.batch_size, "processes": processes, "scoresde": __version__,
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy")},
    }  # fmt: skip


def line(name: str, found: dict[str, Any]) -> str:
    """The metrics of a result, with what they depend on, in one line."""
    origin, other, scale, near = found["set"], found["baseline"], found["yardstick"], found["at its size"]
    first = f"{name}: Frechet distance {found['frechet distance']:.4g} @ {found['count']} {found['unit']}"
    parts = [first if scale is None else f"{first}, {_figure(found['ratio']['frechet distance'])} times the yardstick"]
    if "sampler" in origin:
        parts.append(
            f"sampler {origin['sampler'].partition('(')[0]}, {origin['nfe']} evaluations, weights {origin['weights']}"
        )
    parts.append(f"reference: {found['reference']['description']}")
    if scale is not None:
        sizes = f"{scale['count']} against {scale['reference count']}"
        parts.append(
            f"yardstick: {scale['frechet distance']:.4g} between {scale['data']}, {near['frechet distance']:.4g} between samples "
            f"and a half, both {sizes} events"
        )
    parts.append(
        f"extractor {found['extractor']} with {found['features']} features, digest {found['extractor digest'][:16]}, in the "
        f"scaling of {found['scaling']}"
    )
    if found["precision"] is not None:
        pairs = f"{found['compared']} against {found['compared reference']} events"
        parts.append(
            f"precision {found['precision']:.3f} recall {found['recall']:.3f} (k = {found['neighbors']}, {pairs})"
        )
    if found["kernel distance"] is not None:
        error = "unknown" if (error := found["kernel distance error"]) is None else f"{error:.2g}"
        ratio = (
            "" if scale is None else f", with its bias {_figure(found['ratio']['kernel distance'])} times the yardstick"
        )
        parts.append(f"KID {found['kernel distance']:.4g} +- {error}, unbiased{ratio}")
    apart = "" if other["count"] == found["count"] else f", which are not {found['count']}: compare with the yardstick"
    parts.append(f"baseline: {other['data']} {other['frechet distance']:.4g} @ {other['count']} events{apart}")
    return " | ".join(parts)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
