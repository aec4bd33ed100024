"""Samples by their index, ``samples/NAME.json``: how they came about, and which shards they lie in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from scoresde._files import parse_json, read_plain, read_sealed
from scoresde.experiment.results.shards import Entry, Samples, SampleStore


@dataclass(frozen=True)
class SampleIndex:
    """An index that was read. facts: what it says. entries: of the shards, in order. store: where they are."""

    path: Path
    facts: dict[str, Any]
    entries: tuple[Entry, ...]
    store: SampleStore

    @classmethod
    def open(cls, path: str | Path) -> SampleIndex:
        """Read an index. Raises FileNotFoundError where a file is missing, ValueError for what is no index as it was written."""
        path = Path(path)
        try:
            facts = read_sealed(path)
            folder = path.parent / facts["shards in"]
            settings = parse_json(read_plain(folder / "settings.json"), folder / "settings.json")
            store = SampleStore(folder.parent, settings)
            if store.path != folder or folder.parent.parent != path.parent:
                raise ValueError(f"settings.json is not that of {facts['shards in']}")
            names = [field.name for field in fields(Entry)]
            entries = tuple(Entry(**{name: entry[name] for name in names}) for entry in facts["shards"])
            whole = sum(entry.end - entry.first for entry in entries) >= facts["count"] >= 1
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(
                f"{path} is no index of samples: {type(problem).__name__}: {problem}: scoresde sample writes it again"
            ) from problem
        if not whole:
            raise ValueError(f"{path} is no index of samples: its shards do not hold its {facts['count']}")
        return cls(path, facts, entries, store)

    @property
    def count(self) -> int:
        """Samples that it names."""
        return int(self.facts["count"])

    def read(self, entry: Entry) -> Samples:
        """A shard. Raises ValueError where it is not what was written."""
        shard = self.store.read(entry.file)
        if shard.digest != entry.sha256:
            raise ValueError(f"{entry.file} is not the shard that {self.path} names")
        return shard


def read_samples(index: str | Path) -> Iterator[dict[str, np.ndarray]]:
    """Samples of an index ``samples/NAME.json``, shard by shard: ``x`` and ``raw``, (B, *event), in order.

    Raises ValueError for a shard that is not what was written.
    """
    found = SampleIndex.open(index)
    for entry in found.entries:
        shard, kept = found.read(entry), found.count - entry.first
        yield {"x": shard.x[:kept], "raw": shard.raw[:kept]}
