"""One training step, and the state that it changes.

    batch -> times and noise -> losses -> gradient, clipped -> Adam -> averages

Batch, times and noise are functions of (seed, step, position of the event in the stream). A step therefore does not
depend on the number of processes or micro-batches, except for the order in which numbers are summed. Dropout uses
torch's generator, which is seeded for each micro-batch with a function of (seed, step, first position in it): dropout
is the same after a restart, but depends on the division into micro-batches.

A step whose losses or gradient are not finite changes only the count of steps.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.conditions import DROPPED
from scoresde.ema import EMA, PowerEMA, gathered
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import learning_rate
from scoresde.experiment.config.weight_names import average_name
from scoresde.experiment.folder.checkpoint import Checkpoint, load_weights
from scoresde.experiment.training.distributed import Group, choose_layout
from scoresde.experiment.training.precision import prepare_model, to_channels_last
from scoresde.experiment.training.restore import load_optimizer
from scoresde.losses import Objective
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel

BUCKETS = 8
"""Number of intervals of t with equal probability for which the loss is logged."""


@dataclass(frozen=True)
class Step:
    """The result of a step. The tensors are this process's part of the batch.

    Attributes:
        number: Number of the step.
        position: Positions of the events, (B,).
        t: Times, (B,).
        losses: Losses, (B,).
        norm: Norm of the gradient over all processes.
        sums: Sums of the losses by interval of t, over all processes.
        counts: Numbers of losses by interval of t, over all processes.
        skipped: Whether nothing was updated.
        problem: Why the step was skipped. Empty if it was not, or if float16 only adjusts its loss scale.
        stop: Whether a process received a signal to stop.
    """

    number: int
    position: Tensor
    t: Tensor
    losses: Tensor
    norm: float
    sums: Tensor
    counts: Tensor
    skipped: bool
    problem: str
    stop: bool


class _Losses(nn.Module):
    """The loss as a module, which DistributedDataParallel wraps."""

    def __init__(self, model: ScoreModel, objective: Objective[Any]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, draw: Any, condition: dict[str, Tensor]) -> Tensor:
        return self.objective.evaluate(self.model, draw, **condition)


class Trainer:
    """Model, averages and optimizer of a run.

    Args:
        experiment: The experiment.
        group: The processes of the run.

    Attributes:
        step: Number of steps, including skipped ones.
        skipped: Number of skipped steps.
        bad: Number of consecutive bad steps up to now.
        seconds: Seconds of all steps.
    """

    def __init__(self, experiment: Experiment, group: Group) -> None:
        self.experiment, self.group, self.config = experiment, group, experiment.training
        config = self.config
        self.layout = choose_layout(group, config)
        self.model = check_trainable(experiment.model).train()
        self.network: nn.Module = self.model.network
        self.averages = [EMA(self.network, decay) for decay in config.decays]
        self.averages += [PowerEMA(self.network, std) for std in config.posthoc_widths]
        for module in (self.network, *(average.module for average in self.averages)):
            self.layout.place(module)
        self.model.to(group.device)
        called = prepare_model(self.model, config, experiment.objective)
        if config.channels_last:
            for average in self.averages:
                to_channels_last(average.module)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, betas=(0.9, config.beta2))
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=config.precision == "float16")
        self.losses = self.layout.wrap(_Losses(called, experiment.objective))
        self.edges = time_edges(experiment.objective, group.device)
        self.step, self.skipped, self.bad, self.seconds = 0, 0, 0, 0.0

    @property
    def updates(self) -> int:
        """Number of steps that updated the weights."""
        return self.step - self.skipped

    def update(
        self,
        x: Tensor,
        position: Tensor,
        condition: Mapping[str, Tensor] | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> Step:
        """Run one step on this process's part of the batch.

        ``stop`` tells whether this process received a signal to stop.
        """
        started, number = time.perf_counter(), self.step
        self.optimizer.zero_grad(set_to_none=True)
        losses, t = self._gradient(x, position, condition or {})
        self.scaler.unscale_(self.optimizer)
        norm = gathered(nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip).detach())
        local = torch.cat(
            [self._by_bucket(losses, t), torch.stack([(~torch.isfinite(losses)).sum(), norm.new_tensor(stop())])]
        )
        *parts, bad, stops, size = torch.cat([self.group.sum(local), norm.reshape(1)]).tolist()
        skipped, problem = self._check_step(int(bad), size)
        self.scaler.update(self.scaler.get_scale() if problem else None)
        self.bad = self.bad + 1 if problem else 0
        if skipped:
            self.skipped += 1
        else:
            self._apply()
        self.step += 1
        self.seconds += time.perf_counter() - started
        sums, counts = torch.tensor(parts, dtype=torch.float64).reshape(2, BUCKETS)
        return Step(number, position, t, losses, size, sums, counts, skipped, problem, bool(stops))

    def _gradient(self, x: Tensor, position: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Accumulate the gradient of the mean loss over micro-batches. Returns the losses and times, both (B,)."""
        size = self.config.micro_batch or len(x)
        parts = list(zip(x.split(size), position.split(size), strict=True))
        found = []
        for number, (x_part, position_part) in enumerate(parts, start=1):
            rows = slice((number - 1) * size, number * size)
            there = position_part.to(self.group.device)
            x_part = x_part.to(self.group.device, non_blocking=True)
            draw = self.experiment.objective.draw(x_part, step=self.step, indices=there)
            given = self._with_dropout({name: value[rows] for name, value in condition.items()}, there)
            more = self.layout.no_sync(self.losses) if number < len(parts) else nullcontext()
            with more:
                with seeded_generator(self.group.device, self.experiment.seed, self.step, int(position_part[0])):
                    losses = self.losses(draw, given)
                self.scaler.scale(losses.sum() / self.config.batch_size).backward()
            found.append((losses.detach(), draw.t))
        if self.group.world > 1:
            # both layouts average over the processes; a factor before the average would overflow float16 earlier
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], float(self.group.world))
        losses, t = (torch.cat(column) for column in zip(*found, strict=True))
        return losses, t

    def _with_dropout(self, condition: dict[str, Tensor], position: Tensor) -> dict[str, Tensor]:
        """Conditions on this process's device. ``dropped`` is True with probability ``condition_dropout``, for each event."""
        found = {name: rows.to(self.group.device, non_blocking=True) for name, rows in condition.items()}
        if found and self.config.condition_dropout:
            source = NoiseSource(self.experiment.seed, position)
            u = source.uniform((), step=self.step, purpose="condition dropout", dtype=torch.float64)
            found[DROPPED] = u < self.config.condition_dropout
        return found

    def _by_bucket(self, losses: Tensor, t: Tensor) -> Tensor:
        """Sums, then counts of losses by interval of t, (2 BUCKETS,)."""
        bucket = torch.bucketize(t, self.edges, right=True)
        both = torch.stack([losses, torch.ones_like(losses)])
        return torch.zeros(2, BUCKETS, device=losses.device).index_add_(1, bucket, both).reshape(-1)

    def _check_step(self, bad: int, norm: float) -> tuple[bool, str]:
        """(whether to skip, the problem). Gradients that overflow float16 with a scale above 1 are not a problem."""
        if bad:
            return True, f"the loss is not finite for {bad} of {self.config.batch_size} examples"
        if math.isfinite(norm):
            return False, ""
        sought = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        return True, "" if sought else "the gradient is not finite"

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.step()
        for average in self.averages:
            average.update(self.network)

    def facts(self) -> dict[str, Any]:
        """Facts for the header of a checkpoint."""
        scaler = self.scaler.state_dict()
        return {"skipped": self.skipped, "bad": self.bad, "seconds": round(self.seconds, 3), "scaler": scaler}

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises CheckpointError if it belongs to another network."""
        load_weights(self.network, checkpoint, "model")
        for number, average in enumerate(self.averages):
            load_weights(average.module, checkpoint, average_name(number))
            average.updates = checkpoint.ema_updates
        load_optimizer(self.network, self.optimizer, checkpoint)
        facts = checkpoint.facts
        self.step, self.skipped, self.bad = checkpoint.step, int(facts.get("skipped", 0)), int(facts.get("bad", 0))
        self.seconds = float(facts.get("seconds", 0.0))
        if facts.get("scaler"):
            self.scaler.load_state_dict(dict(facts["scaler"]))


def check_trainable(model: ScoreModel) -> ScoreModel:
    """Return the model if its network is all that trains.

    Raises ValueError for a network without parameters, and for a process with parameters: its objective is a different
    one (scoresde/sde/processes/learned.py), and neither averages nor checkpoints include the process.
    """
    if not any(p.requires_grad for p in model.network.parameters()):
        raise ValueError(
            f"network={type(model.network).__name__} has no trainable parameters: give a network with parameters"
        )
    own = {id(p) for p in model.network.parameters()}
    others = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    if others:
        raise ValueError(
            f"sde={model.sde!r} has trainable parameters ({', '.join(others[:4])}), but training is for the network "
            "only: give a process without parameters, or write a training loop for both"
        )
    return model


def time_edges(objective: Objective[Any], device: torch.device) -> Tensor:
    """The times between the intervals, ascending, (BUCKETS - 1,)."""
    u = torch.arange(1, BUCKETS, device=device) / BUCKETS
    return objective.times.times(objective.sde, u).sort().values


@contextmanager
def seeded_generator(device: torch.device, *key: int) -> Iterator[None]:
    """A context in which torch's generators are seeded with a function of ``key``.

    Their previous state is restored afterwards.
    """
    number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield
