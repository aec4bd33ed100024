"""The index of samples, ``samples/NAME.json``: their origin, and the shards that contain them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from scoresde._files import parse_json, read_plain, read_sealed
from scoresde.experiment.results.shards import EVIDENCE, Entry, Samples, SampleStore

CONDITIONS_OF_SAMPLES = ("condition", "guidance", "noise filter")
"""Names of the facts that reports state, if a set of samples has them."""


@dataclass(frozen=True)
class SampleIndex:
    """An index that was read.

    Attributes:
        path: The file of the index.
        facts: Its content.
        entries: The shards in order.
        store: The folder of the shards.
    """

    path: Path
    facts: dict[str, Any]
    entries: tuple[Entry, ...]
    store: SampleStore

    @classmethod
    def open(cls, path: str | Path) -> SampleIndex:
        """Read an index. Raises FileNotFoundError if a file is missing, and ValueError if the content is not valid."""
        path = Path(path)
        try:
            facts = read_sealed(path)
            folder = path.parent / facts["shards in"]
            settings = parse_json(read_plain(folder / "settings.json"), folder / "settings.json")
            store = SampleStore(folder.parent, settings)
            if store.path != folder or folder.parent.parent != path.parent:
                raise ValueError(f"settings.json does not belong to {facts['shards in']}")
            names = [field.name for field in fields(Entry)]
            entries = tuple(Entry(**{name: entry[name] for name in names}) for entry in facts["shards"])
            whole = sum(entry.end - entry.first for entry in entries) >= facts["count"] >= 1
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(
                f"{path} is not an index of samples: {type(problem).__name__}: {problem}: run scoresde sample again"
            ) from problem
        if not whole:
            raise ValueError(
                f"{path} is not an index of samples: its shards do not contain all {facts['count']} samples"
            )
        return cls(path, facts, entries, store)

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.facts["count"])

    def read(self, entry: Entry) -> Samples:
        """Read a shard. Raises ValueError if it has changed."""
        shard = self.store.read(entry.file)
        if shard.digest != entry.sha256:
            raise ValueError(f"{entry.file} is not the shard that {self.path} lists")
        return shard


def read_samples(index: str | Path) -> Iterator[dict[str, np.ndarray]]:
    """Read the samples of an index shard by shard.

    Args:
        index: The file ``samples/NAME.json``.

    Yields:
        Dictionaries with ``x`` and ``raw`` (the decoded samples), both ``(B, *event)``, in order. For a sampler with
        Metropolis steps they have ``acceptance``, ``(B, P)``, the mean probabilities over P consecutive parts of the proposals.
        For `ParticleSampler` they have the columns `EVIDENCE`, each ``(B,)``.

    Raises:
        ValueError: For a shard that has changed.
    """
    found = SampleIndex.open(index)
    for entry in found.entries:
        shard, kept = found.read(entry), found.count - entry.first
        more = {"acceptance": shard.acceptance[:kept]} if shard.acceptance.size else {}
        more |= evidence_columns(shard.evidence[:kept])
        yield {"x": shard.x[:kept], "raw": shard.raw[:kept], **more}


def evidence_columns(evidence: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of the evidence of samples by name, if there is any."""
    return dict(zip(EVIDENCE, evidence.T, strict=True)) if evidence.size else {}


def evidence_facts(evidence: np.ndarray) -> dict[str, dict[str, float | None]]:
    """The mean log-evidence of the samples and of its error (None if infinite), and the least of the other columns."""
    if not evidence.size:
        return {}
    means, least = evidence.mean(0), evidence.min(0)
    values = (*means[:2], *least[2:])
    found = {name: round(float(v), 4) if np.isfinite(v) else None for name, v in zip(EVIDENCE, values, strict=True)}
    return {"particles": found}


def describe_evidence(facts: Mapping[str, Any]) -> str:
    """The evidence in the facts of samples as a phrase. An empty string if there is none."""
    if not (found := facts.get("particles")):
        return ""
    error = "unknown" if found["log_evidence_error"] is None else f"{found['log_evidence_error']:.2f}"
    return f"log-evidence {found['log_evidence']:.2f} +- {error}, smallest effective size {found['smallest_effective_size']:.1f}"


def acceptance_facts(acceptance: np.ndarray) -> dict[str, list[float]]:
    """The mean acceptance of each part of the proposals, from the first level to the last, if there is one."""
    return {"acceptance": [round(float(mean), 4) for mean in acceptance.mean(0)]} if acceptance.size else {}


def describe_acceptance(facts: Mapping[str, Any]) -> str:
    """The acceptance in the facts of samples as a phrase. An empty string if there is none."""
    if not (means := facts.get("acceptance")):
        return ""
    spread = f" ({min(means):.2f} to {max(means):.2f} over the levels)" if len(means) > 1 else ""
    return f"acceptance {sum(means) / len(means):.2f}{spread}"
