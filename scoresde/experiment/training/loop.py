"""Training: from the last checkpoint, or from the start, to the last step; by one process, or by several that torchrun started.

    read the batch of the step -> Trainer.update -> bad_batches what was not finite -> log, save, picture what is due

Everything random is a function of (seed, step, position), so a run that was stopped and started again is the run that was not.
docs/training.md says what is saved, what a fault leaves, and with which exit code a run ends.
"""

from __future__ import annotations

import math
import zlib
from contextlib import ExitStack, nullcontext
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import to_json
from scoresde.experiment.folder.averages import write_snapshot
from scoresde.experiment.folder.checkpoint import Checkpoint, last_checkpoint, newer_damaged, save_checkpoint
from scoresde.experiment.folder.workdir import Workdir, WorkdirError, config_digest, environment
from scoresde.experiment.training.bad_batches import save_bad_batch
from scoresde.experiment.training.batches import Batches
from scoresde.experiment.training.distributed import Group, processes
from scoresde.experiment.training.metrics_log import Meter, metrics, rows_digest
from scoresde.experiment.training.previews import is_due, is_missing, preview
from scoresde.experiment.training.prior_fit import check_prior
from scoresde.experiment.training.signals import catch_signals
from scoresde.experiment.training.trainer import Step, Trainer, trainable

LARGEST = 1e6
"""Values of data as the network sees it above which its scale is named as the reason of a loss that is not finite."""


def train(experiment: Experiment, workdir: Workdir) -> None:
    """Train from the last checkpoint, or from the start, to ``training.steps``.

    SIGINT and SIGTERM finish the step in hand, save, and raise KeyboardInterrupt; a second one raises it at once, unsaved.
    Raises ConfigError before anything is written where the data and the process do not suit each other (`check_prior`).
    Raises FloatingPointError after ``training.max_bad_steps`` steps in a row without a finite loss and gradient, WorkdirError
    where another process trains in the folder, WorkerError where another process of the run has gone.
    """
    trainable(experiment.model)
    experiment.use_threads()
    warning = check_prior(experiment)
    with processes(experiment) as group, ExitStack() as held:

        def claim() -> None:
            workdir.claim(experiment)
            held.enter_context(workdir.lock("train"))
            workdir.sweep("train")
            workdir.adopt(experiment)

        group.on_main(claim)
        run = _Run(experiment, workdir, group)
        if warning:
            run.say(f"WARNING: {warning}")
        run.go()


class _Run:
    """A run in its folder, as one of its processes sees it."""

    def __init__(self, experiment: Experiment, workdir: Workdir, group: Group) -> None:
        self.experiment, self.workdir, self.group, self.plan = experiment, workdir, group, experiment.training
        self.trainer = Trainer(experiment, group)
        self.digest, self.data = config_digest(experiment), experiment.data.train.digest()
        group.agree("the training data's digest has the checksum", zlib.crc32(self.data.encode()))
        checkpoint = last_checkpoint(workdir.checkpoints)
        group.agree("the step of the last checkpoint is", -1 if checkpoint is None else checkpoint.step)
        if checkpoint is not None:
            self._check(checkpoint)
            self.trainer.load(checkpoint)
            for torn in newer_damaged(checkpoint):
                self.say(f"{torn} is torn, and passed over")
            self.say(f"goes on from {checkpoint.path.name}")
        self.first, self.before, self.problem = self.trainer.step, self.trainer.updates, ""

    def go(self) -> None:
        """Train to the last step."""
        trainer, plan = self.trainer, self.plan
        if self.trainer.layout.writes and is_missing(self.experiment, self.workdir, trainer.step):
            preview(self.experiment, self.workdir, trainer)  # a kill came between the checkpoint and its pictures
        if trainer.step >= plan.steps:
            self.say(f"trained to step {trainer.step} of {plan.steps} already")
            return
        self.say(describe(trainer))
        if plan.precision == "float16" and self.group.device.type == "cpu":
            self.say("WARNING: float16 on a CPU took over 20 times as long as float32 (docs/speed.md): give bfloat16")
        bar = tqdm(
            total=plan.steps, initial=trainer.step, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True,
            disable=not self.group.is_main,
        )  # fmt: skip
        rows = metrics(self.workdir, trainer.step) if self.group.is_main else nullcontext(lambda row: None)
        meter = Meter(trainer)
        with (
            catch_signals(self.group.world) as stopped,  # first: from here on a signal ends with a checkpoint
            rows as write,
            bar,
            Batches(self.experiment, self.group) as batches,
        ):
            while trainer.step < plan.steps:
                x, position = batches[trainer.step]
                step = trainer.update(x, position, stop=stopped)
                meter.add(step)
                bar.update()
                if step.problem:
                    self._set_aside(step, x)
                if trainer.step % plan.log_every == 0 or trainer.step == plan.steps:
                    row = meter.row()
                    write(row)
                    bar.set_postfix(loss=f"{row['loss']:.4f}")
                if self.trainer.layout.writes:
                    self._keep(step.stop)
                if step.stop:
                    saved = "saved" if self._moved() else "where no update had been made since the start"
                    self.say(f"stopped at step {trainer.step}, {saved}; the same command goes on from there")
                    raise KeyboardInterrupt
        if not self._moved():
            raise FloatingPointError(
                f"none of {self.plan.steps - self.first} steps to step {trainer.step} updated the weights, and no checkpoint was "
                f"written: {self.problem or 'the scale of float16 is still too large, give more steps'}"
            )
        self.say(f"trained to step {trainer.step}, last loss {row['loss']:.4f}, {trainer.seconds:.1f} s")

    def say(self, line: str) -> None:
        """Log a line, once for all processes."""
        if self.group.is_main:
            self.workdir.log(f"{self.workdir.path}: {line}")

    def save(self) -> Path:
        """Write a checkpoint."""
        facts = self.trainer.facts() | {
            "data": self.data, "config": to_json(self.experiment.config), "processes": self.group.world,
            "metrics": rows_digest(self.workdir.metrics_file, self.trainer.step),
            "environment": environment(self.experiment, data=False),
        }  # fmt: skip
        return save_checkpoint(
            self.workdir.checkpoints, self.trainer.network, self.trainer.averages, self.trainer.optimizer, self.trainer.step,
            self.digest, self.plan.keep, keep_every=self.plan.keep_every, facts=facts, files=self.trainer.layout,
        )  # fmt: skip

    def _moved(self) -> bool:
        """Whether this process has updated the weights. Until then there is nothing to save that is not saved already."""
        return self.trainer.updates > self.before

    def _keep(self, stop: bool) -> None:
        """Write what is due after a step. The snapshot goes before the checkpoint: a run goes on after that, and would not come
        back for it."""
        step, end = self.trainer.step, self.trainer.step == self.plan.steps
        if not self._moved():
            return
        if step % self.plan.posthoc_every == 0 or end:
            write_snapshot(self.workdir, self.trainer.averages, step, self.trainer.layout, self.digest)
        if step % self.plan.checkpoint_every == 0 or end or stop:
            self.save()
        if is_due(step, self.plan.preview_every):
            preview(self.experiment, self.workdir, self.trainer)

    def _set_aside(self, step: Step, x: Tensor) -> None:
        """Keep the batch of a step that was skipped. Raises FloatingPointError where that were too many in a row."""
        line = save_bad_batch(self.workdir, self.group, step, x, self.plan.batch_size)
        self.problem = f"{line}{self._of_data(x)}"
        self.say(self.problem)
        if self.trainer.bad >= self.plan.max_bad_steps:
            raise FloatingPointError(
                f"{self.problem}. {self.trainer.bad} such steps in a row (max_bad_steps), the last checkpoint is intact"
            )

    def _of_data(self, x: Tensor) -> str:
        """What is wrong with the data of a batch, as the network sees it, where that explains a loss that is not finite."""
        largest = float(x.abs().max())
        if largest < LARGEST:
            return ""
        data = self.experiment.data.train
        how = f"reach {largest:.3g}" if math.isfinite(largest) else "are not finite in float32"
        return (
            f". The training data {data.name!r} is the reason: its values {how} under the transform {data.transform!r}; give a "
            "shift and a scale that bring them near [-1, 1]"
        )

    def _check(self, checkpoint: Checkpoint) -> None:
        self.workdir.check_trained(self.experiment, checkpoint)
        before = checkpoint.facts.get("data", self.data)
        if before != self.data:
            raise WorkdirError(
                f"the training data {self.experiment.data.train.name!r} has changed: its digest is {self.data}, and "
                f"{checkpoint.path} was trained on {before}. Put the data back, or give another --workdir"
            )


def describe(trainer: Trainer) -> str:
    """One line: what is trained on what, and how."""
    experiment, plan, world = trainer.experiment, trainer.plan, trainer.group.world
    parameters = sum(p.numel() for p in trainer.parameters)
    name = type(trainer.network).__name__.removeprefix("FSDP")
    how = f" by {world} processes{', sharded' if plan.sharded else ''}" if world > 1 else ""
    return (
        f"{name} with {parameters:,} parameters, {experiment.sde!r}, {experiment.data.train.summary}, "
        f"steps {trainer.step} to {plan.steps} of {plan.batch_size} on {trainer.group.device}{how}"
    )
