"""Post-hoc averages: power-function averages of any width, computed after the run from snapshots of a few widths.

``scoresde/ema.py`` has the mathematics. A snapshot is a file::

    averages/step-000001000.safetensors     power0.*, power1.*: the averages of ``training.posthoc_widths``
                                            header: updates, widths and the names of buffers

For example::

    weights = posthoc_average(Workdir("runs/x"), std=0.08)
    network.load_state_dict(weights)

The headers are read first and determine the coefficient of each snapshot. Then the snapshots are read and added one at
a time, so only one is in memory. A damaged snapshot is an error: the average of the others would be a different one,
without a warning.
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
    """The header of a snapshot.

    Attributes:
        path: The file, or the folder of a sharded run.
        step: The step of the snapshot.
        updates: Parameter updates up to this step.
        stds: Relative widths of the averages in it.
        checksum: The checksum of the file.
        config: The digest of the run's config. Empty in files of earlier versions.
    """

    path: Path
    step: int
    updates: int
    stds: tuple[float, ...]
    checksum: str
    config: str = ""


def write_snapshot(workdir: Workdir, averages: Sequence[EMA], step: int, files: Files, digest: str = "") -> None:
    """Write the power-function averages of a step.

    Nothing is written if there are none, or if no step has updated the weights.

    Raises CheckpointError for an average that is not finite.
    """
    found = [average for average in averages if isinstance(average, PowerEMA) and average.updates]
    if not found:
        return
    tensors = {f"power{n}.{k}": v for n, a in enumerate(found) for k, v in a.module.state_dict().items()}
    files.on_all(lambda: check_finite(tensors, step))
    header = {
        "format": FORMAT, "step": step, "config": digest, "updates": found[0].updates, "stds": [a.std for a in found],
        "buffers": [name for name, _ in found[0].module.named_buffers()],
    }  # fmt: skip
    files.write(workdir.averages / f"step-{step:09d}.safetensors", tensors, header)


def posthoc_average(workdir: Workdir, std: float, updates: int | None = None) -> dict[str, Tensor]:
    """Compute the network's weights averaged with a power function of relative width ``std``.

    Args:
        workdir: The folder of the run.
        std: Relative width of the average.
        updates: Number of updates at which the averaged run ends. The last snapshot unless given.

    Returns:
        The state of the network. Buffers are those of the last snapshot.

    Raises:
        CheckpointError: If there are no snapshots up to ``updates``, or a damaged one.
    """
    return combine_snapshots(workdir, std, updates).tensors


def combine_snapshots(workdir: Workdir, std: float, updates: int | None = None, prefix: str = "") -> Checkpoint:
    """The result of `posthoc_average` as a checkpoint with the step of the last snapshot.

    Its ``facts`` are ``snapshots``, the number of snapshots, and ``off``, the relative L2 distance between the combined
    averaging profile and the requested one. ``prefix`` is added to the names of the tensors.
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
    checksums = hashlib.sha256(" ".join([*(s.checksum for s in chosen), repr(end)]).encode())
    return Checkpoint(
        {prefix + k: v.to(dtypes[k]) for k, v in total.items()}, chosen[-1].step, end, chosen[-1].config, chosen[-1].path,
        {"snapshots": len(chosen), "off": profile_error(stored, end, std)}, checksums.hexdigest()[:16],
    )  # fmt: skip


def list_snapshots(folder: Path) -> list[Snapshot]:
    """The headers of the snapshots in a folder, oldest first. Raises CheckpointError if one cannot be read."""
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
        f"{path} is damaged or not a snapshot of averages ({problem}). An average uses all snapshots; remove this one to use "
        "the others"
    )


def _add(total: dict[str, Tensor], one: Snapshot, weights: Sequence[float]) -> dict[str, torch.dtype]:
    """Add a snapshot's averages to ``total`` in float64.

    Buffers and integers replace the earlier ones, because the coefficients do not sum to 1. Returns the data type of
    each tensor.
    """
    try:
        tensors, header = read_tensors(one.path)
        checksum = read_header(one.path)["sha256"]
        count = {name.partition(".")[0] for name in tensors}
        if count != {f"power{number}" for number in range(len(weights))}:
            raise ValueError(f"it contains {', '.join(sorted(count))} for {len(weights)} widths")
        if not isinstance(header.get("buffers", []), list):
            raise ValueError(f"buffers={header['buffers']!r} is not a list")
        for name, tensor in tensors.items():
            if name.partition(".")[2] in total and total[name.partition(".")[2]].shape != tensor.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, which differs from the earlier snapshots")
    except (CheckpointError, ValueError) as problem:
        raise _refused(one.path, problem) from problem
    if checksum != one.checksum:
        raise CheckpointError(f"{one.path} was replaced while it was read: the run is still training, try again")
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
