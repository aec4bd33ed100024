"""The folder of fault trials with runs of one kind, and the comparison with an undisturbed run."""

from __future__ import annotations

import csv
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import children
from benchmarks.children import Child
from benchmarks.kinds import KINDS, Kind
from scoresde.experiment.folder.checkpoint import list_checkpoints, read_checkpoint

MEASURED = {"seconds", "images_per_second", "memory_mib"}
"""Columns of metrics.csv that differ from run to run."""


@dataclass(frozen=True)
class Bench:
    """The folder of the trials, their random numbers, and the kind of the runs."""

    folder: Path
    random: random.Random
    kind: Kind = KINDS["score"]

    def child(self, folder: Path, options: Mapping[str, object] | None = None, **more: object) -> Child:
        """Start a command of a run of this kind. ``more`` are arguments of `Child`."""
        return Child(folder, self.options(options), before=self.kind.before, **more)  # type: ignore[arg-type]

    def together(self, folder: Path, world: int, options: Mapping[str, object] | None = None) -> list[Child]:
        """Start several processes of a run of this kind."""
        return children.together(folder, world, self.options(options), before=self.kind.before)

    def options(self, options: Mapping[str, object] | None = None) -> dict[str, object]:
        """Values of the config of a run of this kind."""
        return {**self.kind.options, **(options or {})}

    def whole(self, world: int) -> Path:
        """The folder of an undisturbed run with ``world`` processes."""
        place = self.folder / f"whole-{self.kind.name}-{world}"
        if not place.exists():
            assert [rank.end() for rank in self.together(place, world)] == [0] * world
        return place

    def same(self, folder: Path, world: int = 1, *, metrics: bool = True) -> None:
        """Raise AssertionError unless the last checkpoint, and the metrics, equal those of the undisturbed run."""
        ours, theirs = (read_checkpoint(list_checkpoints(f / "checkpoints")[-1]) for f in (folder, self.whole(world)))
        assert ours.step == theirs.step and ours.tensors.keys() == theirs.tensors.keys()
        differ = [name for name, tensor in theirs.tensors.items() if not tensor.equal(ours.tensors[name])]
        assert not differ, f"{len(differ)} tensors differ, {differ[:3]}"
        for module in self.kind.modules:
            for which in ("model", "ema", "optimizer"):
                assert any(name.startswith(f"{which}.{module}") for name in theirs.tensors), f"no {which}.{module}"
        if metrics:
            assert rows(folder) == rows(self.whole(world)), "metrics.csv differs"

    def resume(self, folder: Path, world: int = 1, *, metrics: bool = True) -> None:
        """Train to the end and compare. No temporary file may remain.

        ``metrics`` is False if the run was stopped between two rows: then the next row has fewer steps.
        """
        ranks = self.together(folder, world)
        assert [rank.end() for rank in ranks] == [0] * world, [rank.output() for rank in ranks]
        self.same(folder, world, metrics=metrics)
        intact(folder)

    def begun(self, folder: Path, checkpoints: int = 3) -> Path:
        """A folder with a run that was killed after ``checkpoints`` checkpoints."""
        child = self.child(folder)
        child.until(lambda: len(child.checkpoints) >= checkpoints, "checkpoints")
        child.signal(signal.SIGKILL)
        child.end()
        return folder


def intact(folder: Path) -> None:
    """Raise AssertionError unless every checkpoint can be read and no temporary file is left."""
    for path in list_checkpoints(folder / "checkpoints"):
        read_checkpoint(path)
    left = [p.name for p in folder.rglob("*.tmp")]
    assert not left, f"left behind: {left}"


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what was measured."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]
