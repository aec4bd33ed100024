"""The files that ``scoresde edit`` writes from its samples: pictures, numbers, contact sheets, and the record of the command.

    mean, std     of the samples of an input at each pixel, in units of the data
    map           for anomaly_map: the distance |x - mean| at each pixel, in units of the data

Standard deviations are those of the samples, with the denominator S - 1; one sample has none.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scoresde._files import bytes_digest, write_atomic, write_sealed
from scoresde.data import Columns, Quantized, Tokens, Transform
from scoresde.data.pictures import PictureFormat, picture_format, png_bytes
from scoresde.experiment.folder.sheets import MISSING, Lines, SheetRow, contact_sheet, lines_sheet
from scoresde.experiment.folder.workdir import provenance
from scoresde.experiment.jobs.edit_inputs import EditInput
from scoresde.experiment.results.shards import Entry, SampleStore

if TYPE_CHECKING:
    from scoresde.experiment.jobs.editing import EditingJob

RECORD = "edit.json"
"""Name of the record."""
FAR = 10.0
"""Standard deviations of the data beyond which a sample counts as strayed."""
SHEET_SAMPLES, OVERVIEW_SAMPLES, OVERVIEW_INPUTS = 8, 4, 12
"""Largest numbers of samples in a sheet, and of samples and inputs in the overview."""


@dataclass(frozen=True)
class EditResult:
    """The samples of an input, and what follows from them.

    Attributes:
        x: Samples in the units of the model, (S, *event).
        raw: Samples in units of the data, (S, *event).
        mean: Their mean, (*event), float64.
        std: Their standard deviation, (*event), float64. None for one sample.
        map: For anomaly_map: the distance of the mean to the input, (*event), float64.
        strayed: Number of samples with a value far outside of the data: a range of the levels beyond their ends, or `FAR`
            standard deviations of the data.
    """

    x: Tensor
    raw: Tensor
    mean: Tensor
    std: Tensor | None
    map: Tensor | None
    strayed: int = 0

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays of samples.npz."""
        found = {"x": self.x, "raw": self.raw, "mean": self.mean, "std": self.std, "map": self.map}
        return {name: value.numpy() for name, value in found.items() if value is not None}


def edit_result(x: np.ndarray, one: EditInput, transform: Transform, task: str, data_std: float = 1.0) -> EditResult:
    """The result of an input.

    Args:
        x: Its samples in the units of the model, (S, *event).
        one: The input.
        transform: The transform of the data.
        task: The task.
        data_std: The standard deviation of the data in the units of the model.

    Returns:
        The result.
    """
    drawn = torch.from_numpy(x)
    raw = transform.decode(drawn)
    values = raw.double()
    distance = None
    if task == "anomaly_map":
        distance = (in_units(one.y[None], transform)[0] - in_units(drawn, transform).mean(0)).abs()
    center, bound = 0.0, FAR * data_std
    if isinstance(transform, Quantized):
        center, bound = (transform.low + transform.high) / 2.0, 1.5 * (transform.high - transform.low)
    far = torch.zeros_like(drawn, dtype=torch.bool) if isinstance(transform, Tokens) else (drawn - center).abs() > bound
    strayed = int(far.flatten(1).any(1).sum())
    return EditResult(drawn, raw, values.mean(0), values.std(0) if len(x) > 1 else None, distance, strayed)


def in_units(x: Tensor, transform: Transform) -> Tensor:
    """x (B, ...) in units of the data, without rounding to levels: the middle of level k is k."""
    if isinstance(transform, Quantized):
        return (x.double() - transform.low) / transform.width - 0.5
    if isinstance(transform, Columns):
        rows = [(column.shift, column.scale) for column in transform.columns]
        shift, scale = torch.tensor(rows, dtype=torch.float64).unbind(1)
        return x.double() * scale + shift
    if isinstance(transform, Tokens):
        return x.double()
    return x.double() * transform.scale + transform.shift


def write_results(job: EditingJob, processes: int) -> Path:
    """Write all files.

    Args:
        job: The job, whose samples are all drawn.
        processes: Number of processes that drew them, for the record.

    Returns:
        The folder of the results.
    """
    experiment, store = job.experiment, job.store
    config, data, output = experiment.editing, experiment.data, job.output
    for leftover in [*output.glob(".*.tmp"), *output.glob("*/.*.tmp")]:
        leftover.unlink(missing_ok=True)
    entries, _ = store.entries(job.count)
    form = picture_format(data)
    rows, gathered, facts = [], [], []
    for k, one in enumerate(job.inputs):
        x = _samples(store, entries, k * config.samples, config.samples)
        result = edit_result(x, one, data.transform, config.task, getattr(job.model, "data_std", None) or 1.0)
        facts.append(
            {"name": one.name, "file": one.file, "digest": one.digest, **_figures(result, one, data.transform)}
        )
        if form is None:
            gathered.append(result)
            continue
        row = _Row(one, result, form, data.transform)
        row.write(output / one.name)
        if k < OVERVIEW_INPUTS:
            rows.append(row)
    if form is None:
        overview = _write_gathered(job, gathered)
    else:
        overview = sheet(rows, OVERVIEW_SAMPLES)
    write_atomic(output / "overview.png", overview)
    store.write_settings()
    record = {
        **{key: value for key, value in store.settings.items() if key not in ("inputs", "event shape")},
        "sampler": repr(job.sampler),
        "inputs digest": store.settings["inputs"], "inputs": facts, "nfe": max(entry.nfe for entry in entries),
        "seconds": round(sum(entry.seconds for entry in entries), 2), "processes": processes,
        "devices": sorted({entry.device for entry in entries}), "checkpoint": job.checkpoint.path.name,
        "overview digest": bytes_digest(overview), **provenance(), "shards in": store.path.name,
        "shards": [asdict(entry) for entry in entries],
    }  # fmt: skip
    write_sealed(output / RECORD, record)
    job.workdir.log(
        f"{job.workdir.path}: {config.task}: {job.count} samples of {len(job.inputs)} inputs in {output}, {record['nfe']} "
        f"evaluations, {record['seconds']:.1f} s"
    )
    if text := strayed_text(facts, config.samples):
        job.workdir.log(f"{job.workdir.path}: WARNING: {config.task}: {text}")
    return output


def strayed_text(inputs: Sequence[Mapping[str, Any]], samples: int) -> str:
    """A sentence about samples that are far outside of the data. Empty if there are none.

    Args:
        inputs: The facts about the inputs.
        samples: Number of samples of each.

    Returns:
        The text.
    """
    count = sum(one["strayed"] for one in inputs)
    if not count:
        return ""
    names = [one["name"] for one in inputs if one["strayed"]]
    return (
        f"{count} of {samples * len(inputs)} samples are far outside of the data, of {', '.join(names[:5])}"
        f"{' and others' * bool(names[5:])}: the sampler or its guidance was not stable. Try a threshold of the predicted data "
        "(--config.guidance.name=StaticThreshold), a stochastic sampler such as PredictorCorrector, or more steps"
    )


def _samples(store: SampleStore, entries: Sequence[Entry], first: int, count: int) -> np.ndarray:
    """x of the samples ``first`` .. ``first + count`` - 1."""
    parts = []
    for entry in entries:
        if entry.first < first + count and entry.end > first:
            x = store.read(entry.file).x
            parts.append(x[max(0, first - entry.first) : first + count - entry.first])
    return np.concatenate(parts)


def _figures(result: EditResult, one: EditInput, transform: Transform) -> dict[str, Any]:
    """Figures of an input: distances to the whole event, where it is known, and the mean of the map."""
    found: dict[str, Any] = {"strayed": result.strayed}
    if one.whole is not None and not isinstance(transform, Columns):
        for name, value in (("mean", result.mean), ("samples", result.raw.double())):
            found[f"rmse of the {name}"] = float((value - one.whole.double()).square().mean().sqrt())
    if result.map is not None:
        found["mean of the map"] = float(result.map.mean())
    return found


def _write_gathered(job: EditingJob, results: Sequence[EditResult]) -> bytes:
    """Write the samples of all inputs that are not pictures to samples.npz, and for a table to a table. Returns the overview."""
    data, output = job.experiment.data, job.output
    file = io.BytesIO()
    arrays = [result.arrays for result in results]
    stacked: dict[str, Any] = {name: np.stack([one[name] for one in arrays]) for name in arrays[0]}
    np.savez_compressed(file, **stacked)
    write_atomic(output / "samples.npz", file.getvalue())
    rows = torch.cat([result.raw for result in results])
    conditions = {
        name: value.repeat_interleave(job.experiment.editing.samples, 0) for name, value in job.conditions().items()
    }
    table = data.sample_file(rows, conditions) if conditions else data.sample_file(rows)
    if table is not None:
        write_atomic(output / f"samples{table[0]}", table[1])
    return _lines(job.inputs[:OVERVIEW_INPUTS], results, data.transform)


def _lines(inputs: Sequence[EditInput], results: Sequence[EditResult], transform: Transform) -> bytes:
    """The overview of events that are not pictures. Columns of a table are shown in the units of the model."""
    table, found = isinstance(transform, Columns), []
    for one, result in zip(inputs, results, strict=False):
        whole, drawn = one.y[None], result.x
        if not table:
            whole, drawn = in_units(whole, transform), in_units(drawn, transform)
        shown = whole.double() if one.known is None else torch.where(one.known, whole.double(), torch.nan)
        found.append(Lines(one.name, shown.flatten().numpy(), drawn.double().flatten(1).numpy()))
    names = list(transform.names) if isinstance(transform, Columns) else []
    return lines_sheet(found, names, "standardized" if table else "value")


@dataclass(frozen=True)
class _Row:
    """An input that is a picture, and its result."""

    one: EditInput
    result: EditResult
    form: PictureFormat
    transform: Transform

    def write(self, folder: Path) -> None:
        """Write the pictures and numbers of the input."""
        for k, raw in enumerate(self.result.raw):
            write_atomic(folder / f"sample-{k}.png", self.form.png(_as_picture(raw)))
        pictures = {"input": self.input, "mean": self.form.shown(self.result.mean)}
        for name, value in self.spreads.items():
            pictures[name] = _gray(value, _top(value))
        for name, picture in pictures.items():
            write_atomic(folder / f"{name}.png", png_bytes(picture))
        file = io.BytesIO()
        np.savez_compressed(file, **self.result.arrays)
        write_atomic(folder / "samples.npz", file.getvalue())
        write_atomic(folder / "sheet.png", sheet([self], SHEET_SAMPLES))

    @property
    def input(self) -> np.ndarray:
        """What the task gets. Missing pixels have a color."""
        picture = self.form.shown(in_units(self.one.y[None], self.transform)[0])
        if self.one.known is None:
            return picture
        known = _as_picture(self.one.known).numpy()
        colored = np.broadcast_to(picture, (3, *picture.shape[1:]))
        return np.where(known, colored, np.array(MISSING, np.uint8)[:, None, None])

    @property
    def spreads(self) -> Mapping[str, Tensor]:
        """Standard deviation and map, (1, height, width): means over the channels."""
        found = {"std": self.result.std, "map": self.result.map}
        return {name: _as_picture(value).mean(0, keepdim=True) for name, value in found.items() if value is not None}


def sheet(rows: Sequence[_Row], samples: int) -> bytes:
    """The contact sheet of some inputs: input, whole picture where it is known, samples, mean, standard deviation, map."""
    drawn = min(samples, len(rows[0].result.raw))
    whole = any(row.one.whole is not None for row in rows)
    heads = ["input", *(["whole picture"] if whole else []), *(f"sample {k}" for k in range(drawn)), "mean of all"]
    tops = {name: max(_top(row.spreads[name]) for row in rows) for name in rows[0].spreads}
    title = {"std": "standard deviation", "map": "distance to input"}
    heads += [f"{title[name]}, white = {top:.3g}" for name, top in tops.items()]
    found = []
    for row in rows:
        cells: list[np.ndarray | None] = [row.input]
        if whole:
            cells.append(None if row.one.whole is None else row.form.shown(row.one.whole))
        cells += [row.form.shown(raw) for raw in row.result.raw[:drawn]] + [row.form.shown(row.result.mean)]
        cells += [_gray(row.spreads[name], top) for name, top in tops.items()]
        found.append(SheetRow(row.one.name, cells))
    height, width = rows[0].result.raw.shape[-2:]
    return contact_sheet(heads, found, (height, width))


def _as_picture(values: Tensor) -> Tensor:
    """(channels, height, width) of an event with or without channels."""
    return values[None] if values.ndim == 2 else values


def _top(values: Tensor) -> float:
    """The value that is white. It is not 0."""
    return float(values.max()) or 1.0


def _gray(values: Tensor, top: float) -> np.ndarray:
    """Values (1, height, width) >= 0 as grays from 0 to ``top``."""
    return (values / top * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()
