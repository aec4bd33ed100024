"""Averages of any width, made after the run from snapshots of a few (scoresde/ema.py has the mathematics).

averages/step-000001000.safetensors     power0.*, power1.*: the averages of ``training.posthoc_widths``; in the header
                                        updates, widths and the names of buffers

weights = posthoc_average(Workdir("runs/x"), std=0.08)
network.load_state_dict(weights)

Headers are read first, and say how each snapshot counts; then snapshots are read and added one by one, so that one is in memory
at a time. A torn snapshot is refused, not passed over: without it the average is another one, and nothing would tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scoresde.ema import EMA, PowerEMA, posthoc_coefficients, power_exponent, profile_error
from scoresde.experiment.folder.checkpoint import Checkpoint, Files, list_checkpoints
from scoresde.experiment.folder.header import whole_number
from scoresde.experiment.folder.tensor_file import FORMAT, CheckpointError, check_finite, read_header, read_tensors

if TYPE_CHECKING:
    from scoresde.experiment.folder.workdir import Workdir


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot's header says. stds: widths of the averages in it. seal: its checksum. config: the digest of
    the run's config, empty in files of earlier versions."""

    path: Path
    step: int
    updates: int
    stds: tuple[float, ...]
    seal: str
    config: str = ""


def write_snapshot(workdir: Workdir, averages: Sequence[EMA], step: int, files: Files, digest: str = "") -> None:
    """Write the power-function averages of a step; nothing where there are none, or all steps so far were skipped.

    digest: of the config. Raises CheckpointError for an average that is not finite.
    """
    kept = [average for average in averages if isinstance(average, PowerEMA) and average.updates]
    if not kept:
        return
    tensors = {f"power{n}.{k}": v for n, a in enumerate(kept) for k, v in a.module.state_dict().items()}
    files.on_all(lambda: check_finite(tensors, step))
    header = {
        "format": FORMAT, "step": step, "config": digest, "updates": kept[0].updates, "stds": [a.std for a in kept],
        "buffers": [name for name, _ in kept[0].module.named_buffers()],
    }  # fmt: skip
    files.write(workdir.averages / f"step-{step:09d}.safetensors", tensors, header)


def posthoc_average(workdir: Workdir, std: float, updates: int | None = None) -> dict[str, Tensor]:
    """The network's state averaged with a power function of relative width ``std``; buffers are those of the last snapshot.

    updates: where the run is taken to have ended; the last snapshot unless given.

    Raises CheckpointError where there are no snapshots up to there, or a torn one.
    """
    return combine_snapshots(workdir, std, updates).tensors


def combine_snapshots(workdir: Workdir, std: float, updates: int | None = None, prefix: str = "") -> Checkpoint:
    """What `posthoc` makes, as a checkpoint with the step of the last snapshot. prefix: of the tensors' names.

    facts: ``snapshots``, how many; ``off``, how far the combined profile is from the wanted one, relative to it, in L2.
    """
    chosen = [s for s in list_snapshots(workdir.averages) if s.updates and (updates is None or s.updates <= updates)]
    if not chosen:
        raise CheckpointError(
            f"no snapshots in {workdir.averages}{'' if updates is None else f' up to update {updates}'}: train with "
            "--config.training.posthoc_widths='[0.05, 0.1]'"
        )
    for one in chosen:
        if one.config and one.config != chosen[-1].config:
            raise CheckpointError(
                f"{one.path} belongs to another config than {chosen[-1].path.name}: remove one of them"
            )
    stored = [(float(s.updates), width) for s in chosen for width in s.stds]
    end = chosen[-1].updates if updates is None else updates
    parts = iter(posthoc_coefficients(stored, end, std).tolist())
    total: dict[str, Tensor] = {}
    for one in chosen:
        dtypes = _add(total, one, [next(parts) for _ in one.stds])
    seals = hashlib.sha256(" ".join([*(s.seal for s in chosen), repr(end)]).encode())
    return Checkpoint(
        {prefix + k: v.to(dtypes[k]) for k, v in total.items()}, chosen[-1].step, end, chosen[-1].config, chosen[-1].path,
        {"snapshots": len(chosen), "off": profile_error(stored, end, std)}, seals.hexdigest()[:16],
    )  # fmt: skip


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder, oldest first, by their headers. Raises CheckpointError where one has none."""
    found = []
    for path in list_checkpoints(folder):
        try:
            header = read_header(path)
            stds = tuple(float(std) for std in header["stds"])
            for std in stds:
                power_exponent(std)
            step, updates = whole_number("step", header["step"]), whole_number("updates", header["updates"])
            found.append(Snapshot(path, step, updates, stds, str(header["sha256"]), str(header.get("config", ""))))
        except (CheckpointError, KeyError, ValueError, TypeError) as problem:
            raise _refused(path, problem) from problem
    return found


def _refused(path: Path, problem: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is torn or no snapshot of averages ({problem}). An average is made of all snapshots; remove this one to have it "
        "made of the others"
    )


def _add(total: dict[str, Tensor], one: Snapshot, weights: Sequence[float]) -> dict[str, torch.dtype]:
    """Add a snapshot's averages to ``total``, in float64; buffers and whole numbers take their place, for coefficients do not
    sum to 1. Returns what each is kept in."""
    try:
        tensors, header = read_tensors(one.path)
        seal = read_header(one.path)["sha256"]
        count = {name.partition(".")[0] for name in tensors}
        if count != {f"power{number}" for number in range(len(weights))}:
            raise ValueError(f"it holds {', '.join(sorted(count))} for {len(weights)} widths")
        if not isinstance(header.get("buffers", []), list):
            raise ValueError(f"buffers={header['buffers']!r} is not a list")
        for name, tensor in tensors.items():
            if name.partition(".")[2] in total and total[name.partition(".")[2]].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, other than in the snapshots before")
    except (CheckpointError, ValueError) as problem:
        raise _refused(one.path, problem) from problem
    if seal != one.seal:
        raise CheckpointError(f"{one.path} was replaced while it was read: the run is at work, try again")
    dtypes, buffers = {}, set(header.get("buffers", ()))
    for name, tensor in tensors.items():
        power, _, name = name.partition(".")
        dtypes[name] = tensor.dtype
        if tensor.is_floating_point() and name not in buffers:
            more = tensor.double() * weights[int(power.removeprefix("power"))]
            total[name] = total[name].add_(more) if name in total else more
        else:
            total[name] = tensor.clone()
    return dtypes
