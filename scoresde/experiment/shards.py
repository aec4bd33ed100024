"""Samples as they are drawn: a folder of shards for each setting, a shard for each batch.

    shards-FINGERPRINT/FIRST-END.npz    samples FIRST .. END - 1: x (B, *event) float32, raw, the same decoded, and their digest

A shard is written under another name and renamed, so it is there whole or not at all. Still, none is trusted unread: one that is
no whole archive, that belongs to another setting, whose numbers are not those that its digest was taken of, or that is not
finite, counts as not drawn, and is replaced. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from scoresde._files import write_atomic
from scoresde.data import Transform
from scoresde.experiment.kept import Kept

_NAME = re.compile(r"(\d{10})-(\d{10})\.npz")


@dataclass(frozen=True)
class Shard:
    """Samples ``first`` .. ``end`` - 1 that were drawn together.

    x: (B, *event) float32. raw: the same decoded; bytes where 256 levels are enough. nfe: evaluations. seconds: how long it took.
    device: where.
    """

    first: int
    end: int
    x: np.ndarray
    raw: np.ndarray
    nfe: int
    seconds: float
    device: str

    @property
    def digest(self) -> str:
        """The SHA-256 of range, x and raw, in hex: the same for the same samples."""
        found = hashlib.sha256(f"{self.first} {self.end} {self.x.shape} {self.raw.dtype}".encode())
        found.update(np.ascontiguousarray(self.x).tobytes())
        found.update(np.ascontiguousarray(self.raw).tobytes())
        return found.hexdigest()


@dataclass(frozen=True)
class Entry:
    """What the index says of a shard, its samples aside."""

    file: str
    first: int
    end: int
    sha256: str
    nfe: int
    seconds: float
    device: str


class ShardStore(Kept):
    """The shards of one setting; settings: with ``event shape``."""

    kind: ClassVar[str] = "shards"

    def write(self, shard: Shard) -> None:
        """Keep a shard; it is on the disk when this returns."""
        if not (self.path / "settings.json").exists():
            self.write_settings()
        content = io.BytesIO()
        np.savez(
            content, x=shard.x, raw=shard.raw, first=shard.first, end=shard.end, nfe=shard.nfe, seconds=shard.seconds,
            device=shard.device, sha256=shard.digest, fingerprint=self.fingerprint,
        )  # fmt: skip
        write_atomic(self.path / f"{shard.first:010d}-{shard.end:010d}.npz", content.getvalue())

    def read(self, file: str) -> Shard:
        """A whole shard of this setting. Raises ValueError for anything else, saying what is wrong with it."""
        try:
            with np.load(self.path / file, allow_pickle=False) as found:
                content = {name: found[name] for name in found.files}
            first, end = (int(n) for n in _NAME.fullmatch(file).groups())  # type: ignore[union-attr]
            shard = Shard(
                int(content["first"]), int(content["end"]), content["x"], content["raw"], int(content["nfe"]),
                float(content["seconds"]), str(content["device"]),
            )  # fmt: skip
            fingerprint, digest = str(content["fingerprint"]), str(content["sha256"])
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            RuntimeError,
        ) as problem:  # RuntimeError: a header that says encrypted, or a compression that there is not
            raise ValueError(f"{file} is torn or no shard: {type(problem).__name__}: {problem}") from problem
        if fingerprint != self.fingerprint:
            raise ValueError(f"{file} belongs to other settings (fingerprint {fingerprint})")
        wanted = (end - first, *self.settings["event shape"])
        if (first, end) != (shard.first, shard.end) or shard.x.shape != wanted or shard.raw.shape != wanted:
            raise ValueError(f"{file} holds samples {shard.first} to {shard.end} of shape {shard.x.shape}: {wanted}")
        if digest != shard.digest or shard.x.dtype != np.float32 or not np.isfinite(shard.x).all():
            raise ValueError(f"{file} holds other numbers than were written")
        return shard

    def entries(self, count: int) -> tuple[list[Entry], list[str]]:
        """Whole shards that begin before ``count``, in order and without overlap; and what is wrong with the others.

        One shard is in memory at a time.
        """
        found: list[Entry] = []
        problems = []
        for path in sorted(self.path.glob("*.npz")):
            named = _NAME.fullmatch(path.name)
            if named is None or int(named[1]) >= count or (found and int(named[1]) < found[-1].end):
                continue
            try:
                shard = self.read(path.name)
            except ValueError as problem:
                problems.append(str(problem))
                continue
            found.append(Entry(path.name, shard.first, shard.end, shard.digest, shard.nfe, shard.seconds, shard.device))
        return found, problems

    def sweep(self) -> None:
        """Remove what a kill left half-written; for when no process writes."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def front(self, entries: list[Entry], count: int) -> np.ndarray:
        """x of the first ``count`` samples, (count, *event), of entries that have them all."""
        parts = [self.read(entry.file).x for entry in entries if entry.first < count]
        return np.concatenate(parts)[:count]


def gaps(entries: list[Entry], first: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges (first, end) in a range that no shard holds."""
    for entry in entries:
        if entry.end <= first or entry.first >= end:
            continue
        if entry.first > first:
            yield first, entry.first
        first = max(first, entry.end)
    if first < end:
        yield first, end


def compact(raw: torch.Tensor, transform: Transform) -> np.ndarray:
    """Decoded samples in the least room: bytes where 256 levels are enough."""
    levels = getattr(transform, "levels", 0)
    return (raw.to(torch.uint8) if 0 < levels <= 256 else raw).numpy()
