"""Training: batches, objective, Adam, EMA, checkpoints. Everything random is a function of (seed, step, position), so a run that
was stopped and started again is the run that was not.
"""

from __future__ import annotations

import csv
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from scoresde.ema import EMA
from scoresde.experiment.checkpoint import last_checkpoint, load_optimizer, load_weights, save_checkpoint
from scoresde.experiment.experiment import Experiment, Training
from scoresde.experiment.workdir import Workdir, WorkdirError, config_digest
from scoresde.losses import Draw

COLUMNS = ("step", "loss", "grad_norm", "learning_rate", "seconds")


def train(experiment: Experiment, workdir: Workdir) -> None:
    """Train from the last checkpoint, or from the start, to ``training.steps``.

    SIGINT and SIGTERM finish the step in hand, save, and raise KeyboardInterrupt; a second one raises it at once, unsaved.
    Raises FloatingPointError where a loss or gradient is not finite, before it can touch the weights; WorkdirError where another
    process trains in the folder.
    """
    experiment.use_threads()
    workdir.claim(experiment)
    with workdir.lock("train"):
        _train(experiment, workdir)


def _train(experiment: Experiment, workdir: Workdir) -> None:
    run = _Run(experiment, workdir)
    plan = experiment.training
    if run.step >= plan.steps:
        workdir.log(f"{workdir.path}: trained to step {run.step} of {plan.steps} already")
        return
    parameters = sum(p.numel() for p in experiment.model.parameters())
    workdir.log(
        f"{workdir.path}: {type(experiment.model.network).__name__} with {parameters:,} parameters, {experiment.sde!r}, "
        f"{experiment.data.train!r}, steps {run.step} to {plan.steps} of {plan.batch_size} on {experiment.device}"
    )
    with _metrics(workdir, run.step) as write:
        bar = tqdm(total=plan.steps, initial=run.step, desc="train", unit="step", mininterval=1.0, dynamic_ncols=True)
        with bar, _signals() as stopped:
            while run.step < plan.steps:
                run.update()
                bar.update()
                if run.step % plan.log_every == 0 or run.step == plan.steps:
                    row = run.summary()
                    write(row)
                    bar.set_postfix(loss=f"{row['loss']:.4f}")
                if run.step % plan.checkpoint_every == 0 or run.step == plan.steps or stopped():
                    run.save()
                if stopped():
                    workdir.log(
                        f"{workdir.path}: stopped at step {run.step}, saved; the same command goes on from there"
                    )
                    raise KeyboardInterrupt
    workdir.log(f"{workdir.path}: trained to step {run.step}, last loss {row['loss']:.4f}, {run.seconds:.1f} s")


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """While inside, the first SIGINT or SIGTERM is only noted; the function that is given says whether there was one."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    # only the main thread may set handlers; elsewhere Python's own stay
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield lambda: bool(noted)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """The state that training changes."""

    def __init__(self, experiment: Experiment, workdir: Workdir) -> None:
        self.experiment, self.workdir = experiment, workdir
        plan = experiment.training
        self.model = experiment.model.to(experiment.device).train()
        self.ema = EMA(self.model.network, plan.ema_decay)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=plan.learning_rate, betas=(0.9, plan.beta2))
        self.digest = config_digest(experiment)
        self.step, self.seconds = 0, 0.0
        checkpoint = last_checkpoint(workdir.checkpoints)
        if checkpoint is not None:
            if checkpoint.config_digest != self.digest:
                raise WorkdirError(f"{checkpoint.path} belongs to another config (digest {checkpoint.config_digest})")
            load_weights(self.model.network, checkpoint, "model")
            load_weights(self.ema.module, checkpoint, "ema")
            load_optimizer(self.model.network, self.optimizer, checkpoint)
            self.step, self.ema.updates = checkpoint.step, checkpoint.ema_updates
            workdir.log(f"{workdir.path}: goes on from {checkpoint.path.name}")
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []

    def update(self) -> None:
        """One step. The state changes only once everything is known to be finite."""
        started = time.perf_counter()
        experiment, plan = self.experiment, self.experiment.training
        x, position = experiment.data.train.batch(self.step, plan.batch_size, seed=experiment.seed)
        x, position = x.to(experiment.device), position.to(experiment.device)
        draw = experiment.objective.draw(x, step=self.step, indices=position)
        # dropout is the only draw of torch's own generator: it gets a state of its own, a function of (seed, step)
        with torch.random.fork_rng(devices=[experiment.device] if experiment.device.type == "cuda" else []):
            torch.manual_seed(hash((experiment.seed, self.step)) % 2**63)
            losses = experiment.objective.evaluate(self.model, draw)
        _check_losses(losses, draw, position, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), plan.grad_clip)
        if not bool(torch.isfinite(norm)):
            raise FloatingPointError(
                f"the gradient is not finite at step {self.step}, t in [{float(draw.t.min()):g}, {float(draw.t.max()):g}], "
                f"positions {int(position.min())} to {int(position.max())}: the last checkpoint is intact"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(plan, self.step)
        self.optimizer.step()
        self.ema.update(self.model.network)
        self.step += 1
        self._losses.append(losses.detach().mean())
        self._norms.append(norm.detach())
        self.seconds += time.perf_counter() - started

    def summary(self) -> dict[str, float]:
        """Means since the last call."""
        row = {
            "step": self.step,
            "loss": float(torch.stack(self._losses).mean()),
            "grad_norm": float(torch.stack(self._norms).mean()),
            "learning_rate": learning_rate(self.experiment.training, self.step - 1),
            "seconds": round(self.seconds, 3),
        }
        self._losses, self._norms = [], []
        return row

    def save(self) -> Path:
        """Write a checkpoint."""
        return save_checkpoint(
            self.workdir.checkpoints, self.model.network, self.ema, self.optimizer, self.step, self.digest,
            self.experiment.training.keep,
        )  # fmt: skip


def learning_rate(plan: Training, step: int) -> float:
    """The rate of a step: linear rise over ``warmup``, then constant or a cosine down to 2 %."""
    rate = plan.learning_rate * min(1.0, (step + 1) / max(1, plan.warmup))
    if plan.schedule == "cosine":
        rate *= 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / plan.steps))
    return rate


def _check_losses(losses: Tensor, draw: Draw, position: Tensor, step: int) -> None:
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        t, bad = draw.t[~finite], position[~finite].tolist()
        raise FloatingPointError(
            f"the loss is not finite at step {step} for {len(bad)} of {len(losses)} examples, t in [{float(t.min()):g}, "
            f"{float(t.max()):g}], positions {bad[:8]}: nothing was updated, the last checkpoint is intact"
        )


@contextmanager
def _metrics(workdir: Workdir, step: int) -> Iterator[Any]:
    """A function that writes a row to metrics.csv, and to TensorBoard where it is installed. Rows after ``step``, of a
    part that is run again, are dropped."""
    rows: list[dict[str, str]] = []
    if workdir.metrics_file.exists():
        with open(workdir.metrics_file, newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values() and int(row["step"]) <= step]
    board: Any = None
    try:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(str(workdir.path / "tensorboard"))
    except ImportError:
        pass
    with open(workdir.metrics_file, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        file.flush()

        def write(row: dict[str, float]) -> None:
            writer.writerow(row)
            file.flush()
            if board is not None:
                for key in ("loss", "grad_norm", "learning_rate"):
                    board.add_scalar(key, row[key], int(row["step"]))

        try:
            yield write
        finally:
            if board is not None:
                board.close()
