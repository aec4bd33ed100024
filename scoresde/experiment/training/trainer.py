"""One step of training, and all that it changes.

    batch -> times and noise -> losses -> gradient, clipped -> Adam -> averages

Batch, times and noise are functions of (seed, step, position of the event in the stream), so that a step is the same
whatever the
number of processes and however a batch is cut into micro-batches: sums of the same numbers in another order. Dropout is
drawn by
torch's generator, which gets a state of its own for each micro-batch, a function of (seed, step, first position in it):
it is the
same after a restart, and other where a batch is cut otherwise.

A step whose losses or gradient are not finite changes nothing but the count of steps.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.ema import EMA, PowerEMA, gathered
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import learning_rate
from scoresde.experiment.config.weight_names import average_name
from scoresde.experiment.folder.checkpoint import Checkpoint, load_weights
from scoresde.experiment.training.distributed import Group, layout
from scoresde.experiment.training.precision import lay_out, tuned
from scoresde.experiment.training.restore import load_optimizer
from scoresde.losses import DenoisingScoreMatching, Draw
from scoresde.score import ScoreModel

BUCKETS = 8
"""Parts of the time distribution, each drawn as often as the others, of which the loss is logged."""


@dataclass(frozen=True)
class Step:
    """What a step was. The tensors are of this process's part of the batch.

    number: of the step. position, t, losses: (B,). norm: of the gradient, all processes together.
    sums, counts: of the losses by bucket of t, all processes together. skipped: nothing was updated. problem: why, where that
    is a fault and not float16's scale being sought. stop: whether any process was asked to stop.
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
    """The loss of a draw: what DistributedDataParallel wraps."""

    def __init__(self, model: ScoreModel, objective: DenoisingScoreMatching) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, draw: Draw) -> Tensor:
        return self.objective.evaluate(self.model, draw)


class Trainer:
    """Model, averages and optimizer of a run.

    step: steps done, skipped ones counted. skipped: those. bad: in a row, up to now. seconds: of all steps.
    """

    def __init__(self, experiment: Experiment, group: Group) -> None:
        self.experiment, self.group, self.plan = experiment, group, experiment.training
        plan = self.plan
        self.layout = layout(group, plan)
        self.model = trainable(experiment.model).train()
        self.network: nn.Module = self.model.network
        self.averages = [EMA(self.network, decay) for decay in plan.decays]
        self.averages += [PowerEMA(self.network, std) for std in plan.posthoc_widths]
        for module in (self.network, *(average.module for average in self.averages)):
            self.layout.place(module)
        self.model.to(group.device)
        called = tuned(self.model, plan)
        if plan.channels_last:
            for average in self.averages:
                lay_out(average.module)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=plan.learning_rate, betas=(0.9, plan.beta2))
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=plan.precision == "float16")
        self.losses = self.layout.wrap(_Losses(called, experiment.objective))
        self.edges = time_edges(experiment.objective, group.device)
        self.step, self.skipped, self.bad, self.seconds = 0, 0, 0, 0.0

    @property
    def updates(self) -> int:
        """Steps that changed the weights."""
        return self.step - self.skipped

    def update(self, x: Tensor, position: Tensor, *, stop: Callable[[], bool] = lambda: False) -> Step:
        """One step on this process's part of the batch. stop: says whether this process was asked to stop."""
        started, number = time.perf_counter(), self.step
        self.optimizer.zero_grad(set_to_none=True)
        losses, t = self._gradient(x, position)
        self.scaler.unscale_(self.optimizer)
        norm = gathered(nn.utils.clip_grad_norm_(self.parameters, self.plan.grad_clip).detach())
        heard = torch.cat(
            [self._by_bucket(losses, t), torch.stack([(~torch.isfinite(losses)).sum(), norm.new_tensor(stop())])]
        )
        *parts, bad, stops, size = torch.cat([self.group.sum(heard), norm.reshape(1)]).tolist()
        skipped, problem = self._verdict(int(bad), size)
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

    def _gradient(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Add up the gradient of the mean loss over micro-batches; the losses and times (B,)."""
        size = self.plan.micro_batch or len(x)
        parts = list(zip(x.split(size), position.split(size), strict=True))
        found = []
        for number, (x_part, position_part) in enumerate(parts, start=1):
            there = position_part.to(self.group.device)
            x_part = x_part.to(self.group.device, non_blocking=True)
            draw = self.experiment.objective.draw(x_part, step=self.step, indices=there)
            more = self.layout.no_sync(self.losses) if number < len(parts) else nullcontext()
            with more:
                with seeded_generator(self.group.device, self.experiment.seed, self.step, int(position_part[0])):
                    losses = self.losses(draw)
                self.scaler.scale(losses.sum() / self.plan.batch_size).backward()
            found.append((losses.detach(), draw.t))
        if self.group.world > 1:
            # both layouts give the mean over the processes; a factor before it would overflow float16 the sooner
            torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], float(self.group.world))
        losses, t = (torch.cat(column) for column in zip(*found, strict=True))
        return losses, t

    def _by_bucket(self, losses: Tensor, t: Tensor) -> Tensor:
        """Sums, then counts of losses by bucket of t, (2 BUCKETS,)."""
        bucket = torch.bucketize(t, self.edges, right=True)
        both = torch.stack([losses, torch.ones_like(losses)])
        return torch.zeros(2, BUCKETS, device=losses.device).index_add_(1, bucket, both).reshape(-1)

    def _verdict(self, bad: int, norm: float) -> tuple[bool, str]:
        """(whether to skip, what is wrong). Gradients that overflow float16 under a scale above 1 are no fault."""
        if bad:
            return True, f"the loss is not finite for {bad} of {self.plan.batch_size} examples"
        if math.isfinite(norm):
            return False, ""
        sought = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        return True, "" if sought else "the gradient is not finite"

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.step)
        self.optimizer.step()
        for average in self.averages:
            average.update(self.network)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint's header holds beside the tensors."""
        scaler = self.scaler.state_dict()
        return {"skipped": self.skipped, "bad": self.bad, "seconds": round(self.seconds, 3), "scaler": scaler}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take the state of a checkpoint. Raises CheckpointError where it is of another network."""
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


def trainable(model: ScoreModel) -> ScoreModel:
    """The model, whose network is all that trains. Raises ValueError for a network without parameters, and for a process with
    some: its objective is another one (scoresde/sde/processes/learned.py), and neither averages nor checkpoints hold it."""
    if not any(p.requires_grad for p in model.network.parameters()):
        raise ValueError(f"network={type(model.network).__name__} has no parameters that train: give one that has")
    own = {id(p) for p in model.network.parameters()}
    others = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    if others:
        raise ValueError(
            f"sde={model.sde!r} has parameters that train ({', '.join(others[:4])}), and training is of the network "
            "alone: give a process without, or train both in a loop of your own"
        )
    return model


def time_edges(objective: DenoisingScoreMatching, device: torch.device) -> Tensor:
    """The times between the buckets, ascending, (BUCKETS - 1,)."""
    u = torch.arange(1, BUCKETS, device=device) / BUCKETS
    return objective.times.times(objective.sde, u).sort().values


@contextmanager
def seeded_generator(device: torch.device, *key: int) -> Iterator[None]:
    """Inside, torch's generators have a state that is a function of ``key``; afterwards the one they had."""
    number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield
