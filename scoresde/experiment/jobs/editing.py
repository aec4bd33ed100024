"""Samples for the files that a user names: edited, restored or compared (``scoresde edit``).

Sample s of input i is a function of (weights, sampler, input, seed, i, s). The samples of all inputs are drawn in batches of
``editing.batch_size`` and saved as shards (``shards.py``). Finished samples are not drawn again: a command that was killed
continues, and ends with the same bytes as an uninterrupted one. Processes share the batches (``job.py``).

    OUTPUT/NAME/sample-0.png ...        the samples of the input NAME, with mean.png, std.png and sheet.png (``edit_results.py``)
    OUTPUT/NAME/samples.npz             the same as numbers
    OUTPUT/overview.png                 the first inputs with some of their samples
    OUTPUT/edit.json                    everything that the results depend on; written last
    OUTPUT/shards-FINGERPRINT/          the samples as they are drawn

OUTPUT is the folder edits/TASK-FINGERPRINT of the work folder, one for each combination of settings and inputs, or the folder
that ``editing.output`` names, which takes the results of one combination only.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count as numbers
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._validation import check_number, suggestion
from scoresde.data import Quantized
from scoresde.experiment.config.builder import ConfigError, build, config_errors
from scoresde.experiment.config.condition_values import check_values, condition_facts, sample_conditions
from scoresde.experiment.config.editing import GUIDANCE, MEASURED, MOST, STARTED, EditingConfig
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import process_of
from scoresde.experiment.config.guidance import build_guidance, check_guidance
from scoresde.experiment.config.targets import as_sampled
from scoresde.experiment.config.weight_names import weights_name
from scoresde.experiment.folder.cache import changes
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.workdir import Workdir, WorkdirError, config_digest
from scoresde.experiment.jobs.edit_inputs import EditInput, noise_of_x, read_edit_inputs
from scoresde.experiment.jobs.edit_results import write_results
from scoresde.experiment.jobs.guided import guided
from scoresde.experiment.jobs.job import Job, Progress, Range, local_device, run_job
from scoresde.experiment.results.shards import Samples, SampleStore, gaps
from scoresde.guidance import DiffusionPosteriorSampling, Guidance, MeasurementGuidance, StaticThreshold
from scoresde.jump import JumpModel, JumpProcess, JumpSampler, KnownTokens
from scoresde.noise import NoiseSource
from scoresde.product import ProductProcess, ProductSampler
from scoresde.samplers import Sampler
from scoresde.samplers.base import SampleResult
from scoresde.samplers.fitted import UnfittedSampler
from scoresde.score import ScoreModel
from scoresde.sde import SDE
from scoresde.tasks import colorize, edit, inpaint, super_resolve
from scoresde.version import __version__


def edit_files(experiment: Experiment, workdir: Workdir, processes: int = 1) -> Path | None:
    """Do the task of the section ``editing`` for its input files.

    Args:
        experiment: The experiment.
        workdir: The work folder of the trained model.
        processes: Number of local processes that share the work.

    Returns:
        The folder of the results. None in a launcher's process that is not the last to finish.

    Raises:
        ConfigError: If a setting is missing or does not suit the model.
        ValueError: If a file cannot be read or does not suit the task.
        FileNotFoundError: If a file is missing.
        WorkdirError: If the output folder has other files, or another process edits in the work folder.
        WorkerError: If a local process died.
    """
    as_sampled(experiment.model)
    out: Path | None = run_job(EditingJob, experiment, workdir, processes)
    return out


@dataclass(frozen=True)
class EditingJob(Job):
    """Everything that is needed to draw the samples. A part is a range of them: sample s of input i has the number i S + s."""

    kind: ClassVar[str] = "edit"
    unit: ClassVar[str] = "sample"

    model: ScoreModel | JumpModel
    score: Callable[..., Tensor]
    checkpoint: Checkpoint
    inputs: list[EditInput]
    store: SampleStore

    @classmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> EditingJob:
        config, data = experiment.editing, experiment.data
        if isinstance(experiment.process, ProductProcess):
            raise ConfigError("config.editing is not for a product process: it needs an SDE or a jump process")
        _sampler(experiment)
        inputs = read_edit_inputs(config, data)
        asked = replace(experiment, sampling=replace(experiment.sampling, condition=config.condition))
        _check_condition(asked)
        device = local_device(experiment, local)
        weights = weights_name(config.weights)
        model, checkpoint = workdir.model(replace(experiment, device=device), weights)
        if config.task in STARTED:
            _check_time(config, experiment.sde)
        score, guidance = guided(experiment, model, device)
        shape = list(data.event_shape)
        settings = {
            "scoresde": __version__, "config digest": config_digest(experiment), "checkpoint digest": checkpoint.digest,
            "weights": weights, "event shape": shape, "task": config.task, "inputs": _digest(inputs), "samples": config.samples,
            "seed": config.seed, "sampler": _text(experiment.config.to_dict()["samplers"][_sampler(experiment)]),
            **_task_settings(experiment), **condition_facts(asked), **guidance,
        }  # fmt: skip
        output = Path(config.output) if config.output else None
        if output is None:
            mark = hashlib.sha256(_text(settings).encode()).hexdigest()[:8]
            output = workdir.edits / f"{config.task}-{mark}"
        store = SampleStore(output, settings)
        check_output(store)
        assert isinstance(model, ScoreModel | JumpModel)  # others were refused
        made = cls(experiment, workdir, device, model, score, checkpoint, inputs, store)
        if config.task in MEASURED and isinstance(model, ScoreModel):  # errors of arguments, before anything is written
            made.guidance(score, lambda x: x, torch.zeros(1, *shape, device=device), noise_of_x(config, data))
        return made

    @property
    def fingerprint(self) -> str:
        return self.store.fingerprint

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return self.store.folder

    @property
    def sampler(self) -> Sampler | JumpSampler:
        """The sampler that the section ``editing`` names."""
        found = self.experiment.samplers[_sampler(self.experiment)]
        assert not isinstance(found, ProductSampler)  # product processes are refused
        return found

    @property
    def count(self) -> int:
        """Number of samples of all inputs."""
        return len(self.inputs) * self.experiment.editing.samples

    def remaining(self) -> list[Range]:
        size, number, found = self.experiment.editing.batch_size, numbers(), []
        entries, problems = self.store.entries(self.count)
        for problem in problems:
            self.workdir.log(f"{self.workdir.path}: edit: {problem}: drawn again")
        for first, last in _same_sizes(self.inputs):
            samples = self.experiment.editing.samples
            for start in range(first * samples, last * samples, size):
                k, end = next(number), min(start + size, last * samples)
                found += [Range(k, "edit", *gap) for gap in gaps(entries, start, end)]
        return found

    def work(self, parts: Sequence[Range], progress: Progress) -> None:
        for part in parts:
            self.store.write(self.draw(part, progress))
            progress(part.size)

    def draw(self, part: Range, progress: Progress) -> Samples:
        """Draw the samples of a part. Raises KeyboardInterrupt if the sampler was interrupted."""
        started, config, data = time.perf_counter(), self.experiment.editing, self.experiment.data
        index = torch.arange(part.first, part.end)
        rows, sample = index // config.samples, index % config.samples
        noise = NoiseSource(config.seed, (rows * MOST + sample).to(self.device))
        given = {name: value[rows].to(self.device) for name, value in self.conditions().items()}

        def where(step: int, t: Tensor, x: Tensor) -> None:
            progress.show(lambda: f"step {step}, t = {float(t.max()):.3g}")

        result = self.task([self.inputs[k] for k in rows.tolist()], noise=noise, condition=given, callback=where)
        if result.interrupted:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - started
        return Samples.of(part.first, part.end, result, data.transform, seconds=seconds, device=self.device)

    def task(self, inputs: Sequence[EditInput], **options: Any) -> SampleResult:
        """One sample for each of the inputs. ``options`` are those of the sampler's call."""
        config = self.experiment.editing
        sampler, sde = self.sampler, process_of(self.model)
        y = torch.stack([one.y for one in inputs]).to(self.device)
        if isinstance(sampler, JumpSampler):
            assert isinstance(sde, JumpProcess)
            mask = torch.stack([one.known for one in inputs if one.known is not None]).to(self.device)
            tokens = KnownTokens(y, mask)
            return sampler(sde, self.score, tuple(y.shape), known=tokens, device=self.device, **options)
        assert isinstance(sde, SDE)
        if config.task in STARTED:
            assert config.t is not None  # checked with the inputs
            with config_errors("editing", arguments=("t",)):
                return edit(sampler, sde, self.score, y, config.t, **options)
        std = noise_of_x(config, self.experiment.data)
        options |= {"noise_std": std, "guidance": self.guidance}
        if config.task == "inpaint":
            known = torch.stack([one.known for one in inputs if one.known is not None]).to(self.device)
            return inpaint(sampler, sde, self.score, y, known, **options)
        if config.task == "super_resolve":
            return super_resolve(
                sampler, sde, self.score, y, self.experiment.data.event_shape[-1] // y.shape[-1], **options
            )
        return colorize(sampler, sde, self.score, y, **options)

    def guidance(
        self, score: Callable[..., Tensor], operator: Callable[[Tensor], Tensor], y: Tensor, std: float
    ) -> Guidance:
        """The guidance by a measurement that the config names.

        The predicted data stays in the range of the levels, if there are levels: a prediction outside of it is an error of the
        network, which guidance would enlarge.
        """
        node, transform = self.experiment.editing.guidance or GUIDANCE, self.experiment.data.transform
        if isinstance(transform, Quantized):
            score = StaticThreshold(score, transform.low, transform.high)
        kinds: Any = MeasurementGuidance | DiffusionPosteriorSampling
        made: Guidance = build(
            node, "editing.guidance", kinds, score=score, operator=operator, measurement=y, noise_std=std
        )
        return made

    def conditions(self) -> dict[str, Tensor]:
        """The conditions of the inputs, by name."""
        config = replace(self.experiment.sampling, condition=self.experiment.editing.condition)
        return sample_conditions(replace(self.experiment, sampling=config), 0, len(self.inputs))

    def announce(self, parts: Sequence[Range]) -> None:
        config, here = self.experiment.editing, sum(part.size for part in parts)
        self.workdir.log(
            f"{self.workdir.path}: {config.task}: drawing {here} of {self.count} samples, {config.samples} for each of "
            f"{len(self.inputs)} inputs, by {_sampler(self.experiment)}, {self.checkpoint.describe(weights_name(config.weights))}"
        )

    def finish(self, processes: int) -> Path:
        self.store.remove_leftovers()
        return write_results(self, processes)


def _sampler(experiment: Experiment) -> str:
    """The name of the sampler. Raises ConfigError if there is none of this name, or several without a choice."""
    name, there = experiment.editing.sampler, experiment.samplers
    if not there:
        raise ConfigError("config.samplers is empty: give {'a name': {'name': 'UniPC', arguments}, ...}")
    if not name and len(there) > 1:
        raise ConfigError(
            f"config.editing.sampler is missing: the config has {', '.join(sorted(there))}; give one, e.g. --sampler {min(there)}"
        )
    name = name or next(iter(there))
    if name not in there:
        raise ConfigError(
            f"config.editing.sampler={name!r} is not known: the config has {', '.join(sorted(there))}{suggestion(name, there)}"
        )
    if isinstance(there[name], UnfittedSampler):
        raise ConfigError(
            f"config.editing.sampler={name!r} is not allowed: a {type(there[name]).__name__} sampler is fitted to one score, and "
            "each input has its own; give another sampler"
        )
    return name


def _check_time(config: EditingConfig, sde: SDE) -> None:
    """Raise ConfigError unless the process has the time ``t``, before anything is drawn or written."""
    assert config.t is not None  # checked with the inputs
    with config_errors("editing", arguments=("t",)):
        check_number("t", config.t, above=0.0, below=sde.T)
        sde.until(config.t)


def _check_condition(asked: Experiment) -> None:
    """Raise ConfigError for conditions, or a guidance with them, that the model does not have."""
    condition, dropout = asked.sampling.condition, asked.training.condition_dropout
    with config_errors("editing", arguments=("condition",)):
        check_values(condition, asked.data, dropout)
    with config_errors("guidance"):
        check_guidance(build_guidance(asked.guidance, asked.model, asked.data), asked.data.kinds, condition, dropout)


def _task_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings of the task that the results depend on, besides the inputs."""
    config = experiment.editing
    if config.task in STARTED:
        return {"t": config.t}
    if isinstance(experiment.model, JumpModel):
        return {}  # known tokens have neither noise nor guidance
    return {"noise_std": config.noise_std, "task guidance": _text(config.guidance or GUIDANCE)}


def check_output(store: SampleStore) -> None:
    """Raise WorkdirError if the folder of the results has other files, or results of other settings."""
    folder = store.folder
    if folder.exists() and not folder.is_dir():
        raise WorkdirError(f"--output {folder} is a file: give a folder")
    if others := store.others():
        raise WorkdirError(
            f"--output {folder} has results of other settings or inputs: give another folder, or remove it. Changes: "
            f"{changes(others[-1], store.settings)}"
        )
    if folder.is_dir() and not (store.path / "settings.json").exists() and any(_foreign(folder)):
        raise WorkdirError(f"--output {folder} contains other files: give a new or empty folder")


def _foreign(folder: Path) -> list[Path]:
    """The files of a folder that are not those of a start that was killed."""
    return [path for path in folder.iterdir() if not path.name.startswith("shards-")]


def _same_sizes(inputs: Sequence[EditInput]) -> list[tuple[int, int]]:
    """Ranges (first, end) of inputs whose measurements have the same shape."""
    starts = [k for k, one in enumerate(inputs) if not k or one.y.shape != inputs[k - 1].y.shape]
    return list(zip(starts, [*starts[1:], len(inputs)], strict=True))


def _digest(inputs: Sequence[EditInput]) -> str:
    return hashlib.sha256(" ".join(one.digest for one in inputs).encode()).hexdigest()[:16]


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, default=str)
