"""Arrays by index as they are made: a folder of shards for each setting, a shard for what was made together.

    KIND-FINGERPRINT/FIRST-END.npz    arrays of the numbers FIRST .. END - 1, along their first dimension, and their digest

    `Samples` in `SampleStore`      shards-*: x (B, *event) float32, and raw, the same decoded
    `Features` in `FeatureStore`    features-*: feature vectors (B, d), and what they are features of

A shard is written under another name and renamed, so it is there whole or not at all. Still, none is trusted unread: one that is
no whole archive, that belongs to another setting, whose numbers are not those that its digest was taken of, or that is not
finite, counts as not there, and is made again. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from scoresde._files import NO_ARRAY, check_zip, write_atomic
from scoresde.data import Transform
from scoresde.experiment.folder.cache import Cache

_NAME = re.compile(r"(\d{10})-(\d{10})\.npz")
_READ: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "str": str, "np.ndarray": np.asarray}
"""How a field is read, by its annotation."""


@dataclass(frozen=True, kw_only=True)
class Shard(ABC):
    """What was made together of the numbers ``first`` .. ``end`` - 1.

    nfe: evaluations of a network that each of them took. seconds: how long it took. device: where.
    """

    first: int
    end: int
    nfe: int
    seconds: float
    device: str

    @property
    @abstractmethod
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What it holds, each (end - first, ...)."""

    @property
    def file(self) -> str:
        """Its name."""
        return shard_file(self.first, self.end)

    @property
    def digest(self) -> str:
        """The SHA-256 of range and arrays, in hex: the same for the same content."""
        arrays = self.arrays
        found = hashlib.sha256(f"{self.first} {self.end} {arrays[0].shape} {arrays[-1].dtype}".encode())
        for array in arrays:
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Samples(Shard):
    """Samples: x (B, *event) float32; raw, the same decoded, bytes where 256 levels are enough."""

    x: np.ndarray
    raw: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.x, self.raw


@dataclass(frozen=True, kw_only=True)
class Features(Shard):
    """features: (B, d) float32 or float64. source: digest of what they were made of."""

    features: np.ndarray
    source: str

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.features,)


@dataclass(frozen=True)
class Entry:
    """What an index says of a shard, its arrays aside."""

    file: str
    first: int
    end: int
    sha256: str
    nfe: int
    seconds: float
    device: str


def shard_file(first: int, end: int) -> str:
    """The name of the shard of the numbers ``first`` .. ``end`` - 1."""
    return f"{first:010d}-{end:010d}.npz"


Content = TypeVar("Content", bound=Shard)


class ShardStore(Cache, Generic[Content]):
    """The shards of one setting."""

    content: type[Content]
    things: ClassVar[str]
    """What it holds."""

    @abstractmethod
    def fits(self, shard: Content) -> str:
        """What is wrong with a shard whose range and numbers are whole; an empty string where nothing is."""

    def write(self, shard: Content) -> None:
        """Keep a shard; it is on the disk when this returns."""
        self.write_settings()
        content, values = io.BytesIO(), {field.name: getattr(shard, field.name) for field in fields(shard)}
        np.savez(content, **values, sha256=shard.digest, fingerprint=self.fingerprint)
        write_atomic(self.path / shard.file, content.getvalue())

    def read(self, file: str) -> Content:
        """A whole shard of this setting. Raises ValueError for anything else, saying what is wrong with it."""
        try:
            first, end = (int(n) for n in _NAME.fullmatch(file).groups())  # type: ignore[union-attr]
            check_zip(self.path / file)
            with np.load(self.path / file, allow_pickle=False) as found:
                content: dict[str, Any] = {name: found[name] for name in found.files}
            shard = self.content(**{f.name: _READ[str(f.type)](content[f.name]) for f in fields(self.content)})
            fingerprint, digest = str(content["fingerprint"]), str(content["sha256"])
        except (*NO_ARRAY, TypeError, KeyError, AttributeError) as problem:
            raise ValueError(f"{file} is torn or no shard: {type(problem).__name__}: {problem}") from problem
        if fingerprint != self.fingerprint:
            raise ValueError(f"{file} belongs to other settings (fingerprint {fingerprint})")
        arrays, sizes = shard.arrays, {array.shape[:1] for array in shard.arrays}
        if (first, end) != (shard.first, shard.end) or sizes != {(end - first,)}:
            raise ValueError(
                f"{file} holds {self.things} {shard.first} to {shard.end} in arrays {[a.shape for a in arrays]}"
            )
        if problem_with := self.fits(shard):
            raise ValueError(f"{file} {problem_with}")
        if digest != shard.digest or not np.isfinite(arrays[0]).all():
            raise ValueError(f"{file} holds other numbers than were written")
        return shard

    def sweep(self) -> None:
        """Remove what a kill left half-written; for when no process writes."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)


class SampleStore(ShardStore[Samples]):
    """The samples of one setting; settings: with ``event shape``."""

    kind: ClassVar[str] = "shards"
    things: ClassVar[str] = "samples"
    content = Samples

    def fits(self, shard: Samples) -> str:
        wanted = (shard.end - shard.first, *self.settings["event shape"])
        if shard.x.shape != wanted or shard.raw.shape != wanted or shard.x.dtype != np.float32:
            return (
                f"holds samples {shard.x.shape}, {shard.x.dtype}, raw {shard.raw.shape}: wanted are {wanted}, float32"
            )
        return ""

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

    def front(self, entries: list[Entry], count: int) -> np.ndarray:
        """x of the first ``count`` samples, (count, *event), of entries that have them all."""
        parts = [self.read(entry.file).x for entry in entries if entry.first < count]
        return np.concatenate(parts)[:count]


class FeatureStore(ShardStore[Features]):
    """The features of one set by one extractor. Which shards there should be, and of what, the caller knows."""

    kind: ClassVar[str] = "features"
    things: ClassVar[str] = "features"
    content = Features

    def fits(self, shard: Features) -> str:
        if shard.features.ndim != 2 or shard.features.dtype.kind != "f":
            return f"holds features {shard.features.shape}, {shard.features.dtype}: wanted are real vectors"
        return ""

    def part(self, first: int, end: int, source: str) -> Features | None:
        """The features of a range, made of ``source``; None where there are none yet.

        Raises ValueError as `read` does, and where they are of something else.
        """
        file = shard_file(first, end)
        if not (self.path / file).exists():
            return None
        shard = self.read(file)
        if shard.source != source:
            raise ValueError(f"{file} holds features of something that was there before")
        return shard


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
