"""The training loop, from the start or the last checkpoint to the last step, on one process or on several started by torchrun.

    read the batch of the step -> Trainer.update -> save a batch that was not finite -> log, checkpoint, previews

All random numbers are functions of (seed, step, position), so a run that was stopped and resumed equals one that was
not. docs/training.md describes what is saved, the consequences of faults, and the exit codes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from scoresde.data.dataset import Batch
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import difference, to_json
from scoresde.experiment.config.trained import check_trainable
from scoresde.experiment.config.weight_names import DEFAULT
from scoresde.experiment.folder.averages import write_snapshot
from scoresde.experiment.folder.checkpoint import Checkpoint, last_checkpoint, newer_damaged, save_checkpoint
from scoresde.experiment.folder.initial import describe_source, read_initial, read_source, source_of_run
from scoresde.experiment.folder.workdir import EVALUATION, Workdir, WorkdirError, config_digest, environment
from scoresde.experiment.training.bad_batches import save_bad_batch
from scoresde.experiment.training.batches import Batches
from scoresde.experiment.training.distributed import Group, processes
from scoresde.experiment.training.metrics_log import Meter, columns, metrics_writer, rows_digest
from scoresde.experiment.training.previews import is_due, is_missing, write_preview
from scoresde.experiment.training.prior_fit import check_prior
from scoresde.experiment.training.run_loggers import check_loggers, run_loggers
from scoresde.experiment.training.signals import catch_signals
from scoresde.experiment.training.trainer import Step, Trainer
from scoresde.loggers import Logger

LARGEST = 1e6
"""If values of the data as the network sees it exceed this, a message about a loss that is not finite names the data's scale."""


def train(
    experiment: Experiment,
    workdir: Workdir,
    loggers: Mapping[str, Logger] | None = None,
    *,
    init_from: str | Path | None = None,
    init_weights: str | float = DEFAULT,
) -> None:
    """Train from the last checkpoint, or from the start, to ``training.steps``.

    The model of the experiment is not changed. `Workdir.model` loads the trained one.

    On SIGINT, SIGTERM or SIGUSR1 the current step is finished, a checkpoint is saved, and KeyboardInterrupt is raised. A second
    signal raises KeyboardInterrupt at once, without a checkpoint.

    Args:
        experiment: The experiment.
        workdir: The work folder. It is created if it does not exist.
        loggers: Loggers by name, in addition to those of the config.
        init_from: A run's work folder, or one of its checkpoints, whose weights a new run starts from. Step counter,
            optimizer and averages start new. The weights are copied to the folder, so a run that is resumed does not
            read the source again. None: random weights.
        init_weights: Which weights of ``init_from``: "ema", "ema1", ..., "model", or the width of a post-hoc average.

    Raises:
        CheckpointError: If the weights of ``init_from`` cannot be read, or do not fit the network or the data. Nothing
            is written.
        ConfigError: If the noise of the process does not cover the data (`check_prior`), or if a logger cannot be used, for
            example because its package is missing. Nothing is written.
        FloatingPointError: After ``training.max_bad_steps`` consecutive steps without a finite loss and gradient.
        WorkdirError: If another process trains in the folder, or if ``init_from`` is given for an existing run that
            started from random weights.
        WorkerError: If another process of the run ended.
    """
    experiment = experiment.copy()  # the weights of the caller do not change
    check_trainable(experiment.model, experiment.objectives)
    experiment.use_threads()
    logging = {**experiment.loggers, **(loggers or {})}
    check_loggers(logging)
    warning = check_prior(experiment)
    with processes(experiment) as group, ExitStack() as held:

        def claim() -> None:
            initial = None
            if init_from is not None and not workdir.config_file.exists():
                initial = read_source(init_from, init_weights)
                initial.check_fit(experiment.trained(), experiment.data.event_shape)
            workdir.claim(experiment, initial=initial)
            for damaged in () if initial is None else initial.damaged:
                workdir.log(f"{workdir.path}: {damaged} is damaged and was skipped")
            if init_from is not None and not source_of_run(workdir):
                raise WorkdirError(
                    f"--workdir {workdir.path} is a run that starts from random weights: give a new folder with --init-from"
                )
            held.enter_context(workdir.lock("train"))
            workdir.remove_leftovers("train")
            workdir.update_config(experiment)

        group.on_main(claim)
        run = _Run(experiment, workdir, group)
        if warning:
            run.say(f"WARNING: {warning}")
        run.run(logging if group.is_main else {})


class _Run:
    """A run in its folder, as one of its processes sees it."""

    def __init__(self, experiment: Experiment, workdir: Workdir, group: Group) -> None:
        self.experiment, self.workdir, self.group, self.config = experiment, workdir, group, experiment.training
        checkpoint = last_checkpoint(workdir.checkpoints)
        group.check_equal("the step of the last checkpoint is", -1 if checkpoint is None else checkpoint.step)
        self.source = self._start() if checkpoint is None else checkpoint.facts.get("initial", {})
        group.check_equal("the initial weights have the checksum", zlib.crc32(repr(self.source).encode()))
        self.trainer = Trainer(experiment, group)
        self.digest, self.data = config_digest(experiment), experiment.data.train.digest()
        group.check_equal("the training data's digest has the checksum", zlib.crc32(self.data.encode()))
        if checkpoint is not None:
            self._check(checkpoint)
            self.trainer.load(checkpoint)
            for damaged in newer_damaged(checkpoint):
                self.say(f"{damaged} is damaged and was skipped")
            self.say(f"resumed from {checkpoint.path.name}")
        self.first, self.before, self.problem = self.trainer.step, self.trainer.updates, ""

    def _start(self) -> dict[str, Any]:
        """Load the folder's initial weights, if it has some. Returns the statement about their source."""
        initial = read_initial(self.workdir)
        if initial is None:
            return {}
        initial.load(self.experiment.trained())
        self.say(f"starts from {describe_source(initial.source)}")
        changed = difference(to_json(self.experiment.config), initial.config) if initial.config else []
        if trained := [line for line in changed if line.partition(".")[0] not in EVALUATION]:
            self.say(f"config of the source -> of this run: {'; '.join(trained)}")
        return initial.source

    def run(self, loggers: Mapping[str, Logger]) -> None:
        """Train to the last step."""
        trainer, config, missing = self.trainer, self.config, {}
        # the pictures are missing after a kill between the checkpoint and its previews
        if self.trainer.layout.writes and is_missing(self.experiment, self.workdir, trainer.step):
            missing = write_preview(self.experiment, self.workdir, trainer)
        if trainer.step >= config.steps:
            self.say(f"already trained to step {trainer.step} of {config.steps}")
            return
        self.say(describe(trainer))
        if config.precision == "float16" and self.group.device.type == "cpu":
            self.say("WARNING: on a CPU, float16 took over 20 times as long as float32 (docs/speed.md): use bfloat16")
        bar = tqdm(
            total=config.steps, initial=trainer.step, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True,
            disable=not self.group.is_main,
        )  # fmt: skip
        rows = (
            metrics_writer(self.workdir, trainer.step, columns(self.experiment))
            if self.group.is_main
            else nullcontext(lambda row: None)
        )
        meter = Meter(trainer)
        with (
            catch_signals(self.group.world) as stopped,  # first, so that from here on a signal leads to a checkpoint
            rows as write,
            run_loggers(loggers, self.experiment, self.workdir, trainer.step) as logged,
            bar,
            Batches(self.experiment, self.group) as batches,
        ):
            logged.pictures(missing, trainer.step)
            while trainer.step < config.steps:
                batch = batches[trainer.step]
                step = trainer.update(*batch, stop=stopped)
                meter.add(step)
                bar.update()
                if step.problem:
                    self._handle_bad_step(step, batch)
                if trainer.step % config.log_every == 0 or trainer.step == config.steps:
                    row = meter.row()
                    write(row)
                    logged.metrics(row)
                    bar.set_postfix(loss=f"{row['loss']:.4f}")
                if self.trainer.layout.writes:
                    logged.pictures(self._save_due(step.stop), trainer.step)
                if step.stop:
                    saved = "checkpoint saved" if self._has_updated() else "no update since the start"
                    self.say(f"stopped at step {trainer.step}, {saved}; run the same command to resume")
                    raise KeyboardInterrupt
        if not self._has_updated():
            raise FloatingPointError(
                f"none of the {self.config.steps - self.first} steps up to step {trainer.step} updated the weights, and no "
                f"checkpoint was written: {self.problem or 'the loss scale of float16 is still too large, give more steps'}"
            )
        self.say(f"trained to step {trainer.step}, last loss {row['loss']:.4f}, {trainer.seconds:.1f} s")

    def say(self, line: str) -> None:
        """Log a line, on one process only."""
        if self.group.is_main:
            self.workdir.log(f"{self.workdir.path}: {line}")

    def save(self) -> Path:
        """Write a checkpoint."""
        facts = self.trainer.facts() | {
            "data": self.data, "config": to_json(self.experiment.config), "processes": self.group.world,
            "metrics": rows_digest(self.workdir.metrics_file, self.trainer.step),
            "environment": environment(self.experiment, data=False), "event_shape": list(self.experiment.data.event_shape),
        }  # fmt: skip
        if self.source:
            facts["initial"] = self.source
        if vocabulary := self.experiment.data.vocabulary_digest:
            facts["vocabulary"] = vocabulary
        return save_checkpoint(
            self.workdir.checkpoints, self.trainer.trained, self.trainer.averages, self.trainer.optimizer, self.trainer.step,
            self.digest, self.config.keep, keep_every=self.config.keep_every, learned=self.trainer.learned(), facts=facts,
            files=self.trainer.layout,
        )  # fmt: skip

    def _has_updated(self) -> bool:
        """Whether this process has updated the weights. Before that, a checkpoint would only repeat the last one."""
        return self.trainer.updates > self.before

    def _save_due(self, stop: bool) -> dict[str, Path]:
        """Write the files that are due after a step. Returns the pictures of a preview by name.

        The snapshot comes before the checkpoint. A run that is killed between the two resumes before this step and
        writes both again.
        """
        step, end = self.trainer.step, self.trainer.step == self.config.steps
        if not self._has_updated():
            return {}
        if step % self.config.posthoc_every == 0 or end:
            write_snapshot(self.workdir, self.trainer.averages, step, self.trainer.layout, self.digest)
        if step % self.config.checkpoint_every == 0 or end or stop:
            self.save()
        due = is_due(step, self.config.preview_every)
        return write_preview(self.experiment, self.workdir, self.trainer) if due else {}

    def _handle_bad_step(self, step: Step, batch: Batch) -> None:
        """Save the batch of a skipped step. Raises FloatingPointError after too many in a row."""
        line = save_bad_batch(self.workdir, self.group, step, batch, self.config.batch_size)
        self.problem = f"{line}{self._data_problem(batch.x)}"
        self.say(self.problem)
        if self.trainer.bad >= self.config.max_bad_steps:
            raise FloatingPointError(
                f"{self.problem}. Training stopped after {self.trainer.bad} such steps in a row (max_bad_steps); the last "
                "checkpoint is intact"
            )

    def _data_problem(self, x: Tensor) -> str:
        """A text about the batch's data, if its scale explains a loss that is not finite."""
        largest = float(x.abs().max())
        if largest < LARGEST:
            return ""
        data = self.experiment.data.train
        how = f"reach {largest:.3g}" if math.isfinite(largest) else "are not finite in float32"
        return (
            f". The training data {data.name!r} is the reason: its values {how} after the transform {data.transform!r}; give a "
            "shift and a scale that bring them near [-1, 1]"
        )

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raise WorkdirError unless a checkpoint was trained with this config and this data."""
        self.workdir.check_trained(self.experiment, checkpoint)
        if (stated := source_of_run(self.workdir)) != self.source:
            ours, theirs = (describe_source(one) if one else "random weights" for one in (stated, self.source))
            raise WorkdirError(
                f"{checkpoint.path} belongs to another run, which starts from {theirs}; the run of this folder starts from {ours}"
            )
        if not checkpoint.facts.get("pushed", {"state": True})["state"]:
            raise WorkdirError(
                f"{checkpoint.path} was published without the training state, so training cannot continue from it: start a "
                "new run from its weights with --init-from, or publish the model with scoresde push --with-state"
            )
        before = checkpoint.facts.get("data", self.data)
        if before != self.data:
            raise WorkdirError(
                f"the training data {self.experiment.data.train.name!r} has changed: its digest is {self.data}, but "
                f"{checkpoint.path} was trained on {before}. Restore the data, or give another --workdir"
            )


def describe(trainer: Trainer) -> str:
    """One line that states what is trained, on which data, and how."""
    experiment, config, world = trainer.experiment, trainer.config, trainer.group.world
    modules = trainer.trained.values() if isinstance(trainer.trained, nn.ModuleDict) else [trainer.trained]
    what = ", ".join(
        f"{type(one).__name__.removeprefix('FSDP')} with {sum(p.numel() for p in one.parameters()):,} parameters"
        for one in modules
    )
    how = f" by {world} processes{', sharded' if config.sharded else ''}" if world > 1 else ""
    return (
        f"{what}, {experiment.process!r}, {experiment.data.train.summary}, "
        f"steps {trainer.step} to {config.steps}, batch size {config.batch_size}, on {trainer.group.device}{how}"
    )
