"""Rows of a likelihood, saved as they are computed: a folder of shards for each setting (``cache.py``), and the final table.

    rows-FINGERPRINT/NNNN.jsonl       a shard: the batches of one process, one line of JSON each

A line is a batch and is written and synced as a whole. A line that a kill cut off has no end and is ignored, so a batch
is stored with all of its rows or not at all. Every process writes its own shard, and no later process appends to it.
Rows are identified by (index, draw).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TextIO

from scoresde._files import write_atomic, writing
from scoresde.experiment.folder.cache import Cache

Key = tuple[int, int]
"""(index, draw)."""


@dataclass(frozen=True)
class Row:
    """The result for one event and draw: the columns of the table.

    Attributes:
        index: Index of the event in its split.
        draw: Number of its dequantization.
        nats: log p(x) of what the model sees.
        bits_per_dim: Bits/dim; NaN for data that is not discrete.
        standard_error: Standard error, in bits/dim for discrete data, otherwise in nats. NaN if not known, as the next
            two.
        trace_error: Its part from the trace estimator.
        solver_error: Error estimate of the solver.
        evaluations: Evaluations of the score for the batch of the row.
        products: Jacobian products for the batch of the row.
        seed: Seed of dequantization and probes.
        failed: 1 if there is no result.
    """

    index: int
    draw: int
    nats: float
    bits_per_dim: float
    standard_error: float
    trace_error: float
    solver_error: float
    evaluations: int
    products: int
    seed: int
    failed: int

    @property
    def key(self) -> Key:
        """(index, draw)."""
        return self.index, self.draw


COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Batch:
    """Rows that were computed together.

    Attributes:
        rows: The rows.
        seconds: Seconds that they took.
        device: The device.
    """

    rows: tuple[Row, ...]
    seconds: float
    device: str

    def to_line(self) -> bytes:
        """One line of JSON followed by its digest, which detects a flipped bit."""
        content = {"rows": [astuple(row) for row in self.rows], "seconds": self.seconds, "device": self.device}
        text = json.dumps(content).encode()
        return text + b" " + _digest(text) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Batch:
        """The batch of a line. Raises ValueError if the line is not one."""
        text, _, digest = line.rstrip(b"\n").rpartition(b" ")
        if digest != _digest(text):
            raise ValueError("not a complete line")
        try:
            content = json.loads(text)
            rows = tuple(Row(*values) for values in content["rows"])
            return cls(rows, float(content["seconds"]), str(content["device"]))
        except (KeyError, TypeError) as problem:
            raise ValueError(f"not a batch of rows: {problem}") from problem


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


class RowStore(Cache):
    """The shards of one setting."""

    kind: ClassVar[str] = "rows"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(folder, settings)
        self._shard: TextIO | None = None

    def read(self) -> dict[Key, tuple[Row, Batch]]:
        """Every complete row by its key, with its batch. Incomplete lines are ignored."""
        found: dict[Key, tuple[Row, Batch]] = {}
        for shard in sorted(self.path.glob("*.jsonl")):
            for line in shard.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    continue
                try:
                    batch = Batch.from_line(line)
                except ValueError:
                    continue
                for row in batch.rows:
                    found.setdefault(row.key, (row, batch))
        return found

    def append(self, batch: Batch) -> None:
        """Write a batch to this process's shard. It is on the disk when this returns."""
        with writing(self.path):
            if self._shard is None:
                self._shard = self._new_shard()
            self._shard.write(batch.to_line().decode())
            self._shard.flush()
            os.fsync(self._shard.fileno())

    def close(self) -> None:
        """Close the shard."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _new_shard(self) -> TextIO:
        self.write_settings()
        number = len(list(self.path.glob("*.jsonl")))
        while True:
            number += 1
            try:
                return open(self.path / f"{number:04d}.jsonl", "x")
            except FileExistsError:  # another process was faster
                continue


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write the CSV file of rows, sorted by (draw, index), completely or not at all."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in sorted(rows, key=lambda row: (row.draw, row.index)))
    write_atomic(path, text.getvalue().encode())
