"""Arrays that are saved as they are computed: a folder of shards for each setting.

    KIND-FINGERPRINT/FIRST-END.npz    arrays of the elements FIRST .. END - 1, along their first dimension, and their digest

    `Samples` in `SampleStore`      shards-*: x (B, *event) float32, raw, the decoded samples, and acceptance or evidence
    `Features` in `FeatureStore`    features-*: feature vectors (B, d), and the digest of their source

A shard is written under a temporary name and renamed, so it is complete or missing. A shard is nevertheless checked
when it is read. One that is not a valid archive, belongs to another setting, does not match its digest or is not finite
counts as missing and is computed again. Nothing in a shard is executed.
"""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from scoresde._files import NO_ARRAY, check_zip, write_atomic
from scoresde.data import Tokens, Transform
from scoresde.experiment.folder.cache import Cache
from scoresde.samplers.base import SampleResult
from scoresde.samplers.populations import Particles

_NAME = re.compile(r"(\d{10})-(\d{10})\.npz")
PARTS = 16
"""Largest number of parts of the proposals for which the acceptance of a sample is saved."""
_READ: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "str": str, "np.ndarray": np.asarray}
"""Conversion of a field by its annotation."""


@dataclass(frozen=True, kw_only=True)
class Shard(ABC):
    """Results for the elements ``first`` .. ``end`` - 1 that were computed together.

    Attributes:
        first: Index of the first element.
        end: Index after the last element.
        nfe: Evaluations of the network for each of them.
        seconds: Seconds that they took.
        device: The device.
    """

    first: int
    end: int
    nfe: int
    seconds: float
    device: str

    @property
    @abstractmethod
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays, each (end - first, ...)."""

    @property
    def file(self) -> str:
        """The name of the file."""
        return shard_file(self.first, self.end)

    @property
    def digest(self) -> str:
        """The SHA-256 of range and arrays in hex."""
        arrays = self.arrays
        found = hashlib.sha256(f"{self.first} {self.end} {arrays[0].shape} {arrays[-1].dtype}".encode())
        for array in arrays:
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def _nothing() -> np.ndarray:
    return np.zeros((0, 0), np.float32)


EVIDENCE = ("log_evidence", "log_evidence_error", "smallest_effective_size", "ancestors")
"""The columns of `Samples.evidence`."""


def _no_evidence() -> np.ndarray:
    return np.zeros((0, len(EVIDENCE)))


@dataclass(frozen=True, kw_only=True)
class Samples(Shard):
    """Samples: x ``(B, *event)`` float32, and raw, the decoded samples, as bytes if they have at most 256 levels.

    Tokens x are whole numbers of the smallest type.

    Attributes:
        acceptance: Probabilities with which a Metropolis step accepted its proposals, ``(B, P)`` float32: the means over
            P consecutive parts of the proposals, from the first level to the last (``acceptance_parts``). Empty for
            samplers without such steps.
        evidence: What ``ParticleSampler`` finds about each sample, ``(B, 4)`` float64, with the columns `EVIDENCE`. Empty
            for other samplers.
    """

    x: np.ndarray
    raw: np.ndarray
    acceptance: np.ndarray = field(default_factory=_nothing)
    evidence: np.ndarray = field(default_factory=_no_evidence)

    @classmethod
    def of(
        cls, first: int, end: int, result: SampleResult, transform: Transform, *, seconds: float, device: object
    ) -> Samples:
        """The samples ``first`` .. ``end`` - 1 that a sampler drew."""
        x = result.samples.cpu()
        return cls(
            first=first, end=end, x=x.float().numpy() if x.is_floating_point() else compact(x, transform),
            raw=compact(transform.decode(x), transform),
            acceptance=acceptance_parts(result.acceptance), evidence=evidence_rows(result.particles), nfe=result.nfe,
            seconds=seconds, device=str(device),
        )  # fmt: skip

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.x, self.raw, *(array for array in (self.acceptance, self.evidence) if array.size))


@dataclass(frozen=True, kw_only=True)
class Features(Shard):
    """Features (B, d) in float32 or float64. ``source`` is the digest of the events that they were computed from."""

    features: np.ndarray
    source: str

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.features,)


@dataclass(frozen=True)
class Entry:
    """The entry of a shard in an index."""

    file: str
    first: int
    end: int
    sha256: str
    nfe: int
    seconds: float
    device: str


def shard_file(first: int, end: int) -> str:
    """The file name of the shard of the elements ``first`` .. ``end`` - 1."""
    return f"{first:010d}-{end:010d}.npz"


Content = TypeVar("Content", bound=Shard)


class ShardStore(Cache, Generic[Content]):
    """The shards of one setting."""

    content: type[Content]
    things: ClassVar[str]
    """Name of the elements, for messages."""

    @abstractmethod
    def fits(self, shard: Content) -> str:
        """What is wrong with the shapes or data types of a shard. An empty string if nothing is."""

    def write(self, shard: Content) -> None:
        """Save a shard. It is on the disk when this returns."""
        self.write_settings()
        content, given = io.BytesIO(), {one.name: getattr(shard, one.name) for one in fields(shard)}
        values = {name: value for name, value in given.items() if not isinstance(value, np.ndarray) or value.size}
        np.savez(content, **values, sha256=shard.digest, fingerprint=self.fingerprint)
        write_atomic(self.path / shard.file, content.getvalue())

    def read(self, file: str) -> Content:
        """Read a complete shard of this setting. Raises ValueError with a reason otherwise."""
        try:
            first, end = (int(n) for n in _NAME.fullmatch(file).groups())  # type: ignore[union-attr]
            check_zip(self.path / file)
            with np.load(self.path / file, allow_pickle=False) as found:
                content: dict[str, Any] = {name: found[name] for name in found.files}
            shard = self.content(
                **{
                    f.name: _READ[str(f.type)](content[f.name])
                    for f in fields(self.content)
                    if f.name in content or f.default_factory is MISSING
                }
            )
            fingerprint, digest = str(content["fingerprint"]), str(content["sha256"])
        except (*NO_ARRAY, TypeError, KeyError, AttributeError) as problem:
            raise ValueError(f"{file} is damaged or not a shard: {type(problem).__name__}: {problem}") from problem
        if fingerprint != self.fingerprint:
            raise ValueError(f"{file} belongs to other settings (fingerprint {fingerprint})")
        arrays, sizes = shard.arrays, {array.shape[:1] for array in shard.arrays}
        if (first, end) != (shard.first, shard.end) or sizes != {(end - first,)}:
            raise ValueError(
                f"{file} has {self.things} {shard.first} to {shard.end} in arrays of shapes {[a.shape for a in arrays]}"
            )
        if fault := self.fits(shard):
            raise ValueError(f"{file} {fault}")
        if digest != shard.digest or not np.isfinite(arrays[0]).all():
            raise ValueError(f"{file} has changed: its digest does not match")
        return shard

    def remove_leftovers(self) -> None:
        """Remove temporary files of killed processes. No process may be writing."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)


class SampleStore(ShardStore[Samples]):
    """The samples of one setting. The settings include ``event shape``."""

    kind: ClassVar[str] = "shards"
    things: ClassVar[str] = "samples"
    content = Samples

    def fits(self, shard: Samples) -> str:
        wanted = (shard.end - shard.first, *self.settings["event shape"])
        tokens = shard.x.dtype.kind in "iu" and shard.x.dtype == shard.raw.dtype
        if shard.x.shape != wanted or shard.raw.shape != wanted or not (tokens or shard.x.dtype == np.float32):
            return f"has samples {shard.x.shape}, {shard.x.dtype}, raw {shard.raw.shape}; expected {wanted}, float32 or tokens"
        if shard.acceptance.ndim != 2 or shard.acceptance.dtype != np.float32:
            return (
                f"has acceptance {shard.acceptance.shape}, {shard.acceptance.dtype}; expected two dimensions, float32"
            )
        if shard.evidence.ndim != 2 or shard.evidence.shape[1] != len(EVIDENCE) or shard.evidence.dtype != np.float64:
            return f"has evidence {shard.evidence.shape}, {shard.evidence.dtype}; expected {len(EVIDENCE)} columns, float64"
        return ""

    def entries(self, count: int) -> tuple[list[Entry], list[str]]:
        """Complete shards that begin before ``count``, in order and without overlap, and the problems of the others.

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
        """x of the first ``count`` samples, (count, *event). The entries must contain them all."""
        parts = [self.read(entry.file).x for entry in entries if entry.first < count]
        return np.concatenate(parts)[:count]

    def acceptance(self, entries: list[Entry], count: int) -> np.ndarray:
        """Acceptance of the first ``count`` samples, (count, P); empty if the sampler has none. The entries must contain all."""
        return self._gathered("acceptance", entries, count)

    def evidence(self, entries: list[Entry], count: int) -> np.ndarray:
        """Evidence of the first ``count`` samples, (count, 4); empty if the sampler has none. The entries must contain all."""
        return self._gathered("evidence", entries, count)

    def _gathered(self, name: str, entries: list[Entry], count: int) -> np.ndarray:
        first: np.ndarray = getattr(self.read(entries[0].file), name) if entries else _nothing()
        if not first.size:
            return first
        parts = [getattr(self.read(entry.file), name) for entry in entries if entry.first < count]
        return np.concatenate(parts)[:count]


class FeatureStore(ShardStore[Features]):
    """The features of one set by one extractor. The caller decides which shards there should be."""

    kind: ClassVar[str] = "features"
    things: ClassVar[str] = "features"
    content = Features

    def fits(self, shard: Features) -> str:
        if shard.features.ndim != 2 or shard.features.dtype.kind != "f":
            return f"has features {shard.features.shape}, {shard.features.dtype}; expected real vectors"
        return ""

    def part(self, first: int, end: int, source: str) -> Features | None:
        """The features of a range computed from ``source``. None if they do not exist.

        Raises ValueError like `read`, and if they were computed from something else.
        """
        file = shard_file(first, end)
        if not (self.path / file).exists():
            return None
        shard = self.read(file)
        if shard.source != source:
            raise ValueError(f"{file} has features of earlier content")
        return shard


def acceptance_parts(acceptance: torch.Tensor | None) -> np.ndarray:
    """The ``acceptance`` (K, B) of a sampler as it is saved: means over at most `PARTS` parts of the K proposals, (B, parts)."""
    if acceptance is None:
        return _nothing()
    means = [part.double().mean(0) for part in torch.tensor_split(acceptance.cpu(), min(PARTS, len(acceptance)))]
    return torch.stack(means, 1).float().numpy()


def evidence_rows(particles: Particles | None) -> np.ndarray:
    """The ``particles`` of a sampler as they are saved: the columns `EVIDENCE`, (B, 4) float64."""
    if particles is None:
        return _no_evidence()
    columns = (
        particles.log_evidence,
        particles.log_evidence_error,
        particles.effective_sizes.min(0).values,
        particles.ancestors.double(),
    )
    return torch.stack(columns, 1).cpu().numpy()


def gaps(entries: list[Entry], first: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges (first, end) within a range that no shard contains."""
    for entry in entries:
        if entry.end <= first or entry.first >= end:
            continue
        if entry.first > first:
            yield first, entry.first
        first = max(first, entry.end)
    if first < end:
        yield first, end


def compact(raw: torch.Tensor, transform: Transform) -> np.ndarray:
    """Decoded samples as an array. Levels and tokens get the smallest type that holds them: bytes up to 256 of them."""
    count = transform.tokens if isinstance(transform, Tokens) else getattr(transform, "levels", 0)
    if isinstance(transform, Tokens) and count > 256:
        return raw.to(torch.int16 if count <= 2**15 else torch.int32).numpy()
    return (raw.to(torch.uint8) if 0 < count <= 256 else raw).numpy()
