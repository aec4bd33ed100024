"""One training step, and the state that it changes.

    batch -> for each objective: times and noise -> losses -> gradient, clipped -> Adam -> averages

Batch, times and noise are functions of (seed, step, position of the event in the stream). A step therefore does not
depend on the number of processes or micro-batches, except for the order in which numbers are summed. Dropout uses
torch's generator, which is seeded for each micro-batch with a function of (seed, step, first position in it): dropout
is the same after a restart, but depends on the division into micro-batches.

Every objective trains its own modules. All gradients of a step are computed before any weight changes. A step in which the losses
or the gradient of an objective are not finite changes only the count of steps.
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
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import OptimizerConfig, learning_rate
from scoresde.experiment.config.trained import MAIN, as_one, check_trainable, trained_modules
from scoresde.experiment.config.weight_names import average_name, times_name
from scoresde.experiment.folder.checkpoint import Checkpoint, load_weights
from scoresde.experiment.training.distributed import Group, choose_layout
from scoresde.experiment.training.precision import prepare_model, to_channels_last
from scoresde.experiment.training.restore import load_learned, load_optimizer
from scoresde.losses import Objective
from scoresde.noise import NoiseSource

BUCKETS = 8
"""Number of intervals of t with equal probability for which the loss is logged."""


@dataclass(frozen=True)
class Losses:
    """The losses of an objective in a step. ``t`` and ``values`` are this process's part of the batch.

    Attributes:
        t: Times, (B,).
        values: Losses, (B,).
        norm: Norm of the gradient over all processes.
        sums: Sums of the losses by interval of t, over all processes.
        counts: Numbers of losses by interval of t, over all processes.
        problem: Why nothing can be updated. Empty if the losses and the gradient are finite.
    """

    t: Tensor
    values: Tensor
    norm: float
    sums: Tensor
    counts: Tensor
    problem: str


@dataclass(frozen=True)
class Step:
    """The result of a step.

    Attributes:
        number: Number of the step.
        position: Positions of the events, (B,), of this process's part of the batch.
        losses: The losses by name of the objective, of those whose modules are updated in this step.
        skipped: Whether nothing was updated.
        problem: Why the step was skipped. Empty if it was not, or if float16 only adjusts its loss scale.
        stop: Whether a process received a signal to stop.
    """

    number: int
    position: Tensor
    losses: dict[str, Losses]
    skipped: bool
    problem: str
    stop: bool

    @property
    def shown(self) -> Losses:
        """The losses with a problem, or those of the first objective."""
        return next((one for one in self.losses.values() if one.problem), self.losses[MAIN])


class _Evaluation(nn.Module):
    """The losses of an objective as a module, which DistributedDataParallel wraps."""

    def __init__(self, model: nn.Module, objective: Objective, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.model, self.objective, self.trained = model, objective, nn.ModuleDict(modules)

    def forward(self, draw: Any, condition: dict[str, Tensor]) -> Tensor:
        return self.objective.evaluate(self.model, draw, **condition)


@dataclass(frozen=True)
class _Part:
    """An objective, the parameters that it trains, and the other ones that are trained in the run.

    ``edges`` are the times between the intervals of t for which its loss is logged.
    """

    name: str
    objective: Objective
    optimizer: OptimizerConfig
    parameters: list[nn.Parameter]
    others: list[nn.Parameter]
    losses: nn.Module
    edges: Tensor

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A context in which only this objective's parameters have gradients."""
        with _frozen(self.others):
            yield


class Trainer:
    """Model, averages and optimizer of a run.

    Args:
        experiment: The experiment.
        group: The processes of the run.

    Attributes:
        trained: The modules that are trained, see `trained_modules`.
        step: Number of steps, including skipped ones.
        skipped: Number of skipped steps.
        bad: Number of consecutive bad steps up to now.
        seconds: Seconds of all steps.
    """

    def __init__(self, experiment: Experiment, group: Group) -> None:
        self.experiment, self.group, self.config = experiment, group, experiment.training
        config = self.config
        self.layout = choose_layout(group, config)
        check_trainable(experiment.model, experiment.objectives)
        modules = trained_modules(experiment.model, experiment.objectives)
        self.model, self.trained = experiment.model.train(), as_one(modules)
        if config.sharded and isinstance(self.trained, nn.ModuleDict):
            raise ConfigError(
                f"config.training.sharded=True is not allowed for several modules ({', '.join(self.trained)}): give False"
            )
        self.averages = [EMA(self.trained, decay) for decay in config.decays]
        self.averages += [PowerEMA(self.trained, std) for std in config.posthoc_widths]
        for module in (self.trained, *(average.module for average in self.averages)):
            self.layout.place(module)
        self.model.to(group.device)
        called = prepare_model(self.model, config, experiment.objectives.values())
        if config.channels_last:
            for average in self.averages:
                to_channels_last(average.module)
        self.parameters = list(self.trained.parameters())
        self.parts = [self._part(name, called, modules[name]) for name in experiment.objectives]
        self.optimizer = torch.optim.Adam([self._parameter_group(part) for part in self.parts])
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=config.precision == "float16")
        self.step, self.skipped, self.bad, self.seconds = 0, 0, 0, 0.0

    def _part(self, name: str, called: nn.Module, modules: Mapping[str, nn.Module]) -> _Part:
        objective = self.experiment.objectives[name]
        parameters = [p for module in modules.values() for p in module.parameters()]
        own = {id(p) for p in parameters}
        others = [p for p in self.parameters if p.requires_grad and id(p) not in own]
        with _frozen(others):  # DistributedDataParallel exchanges the gradients of parameters that have one now
            losses = self.layout.wrap(_Evaluation(called, objective, modules))
        edges = time_edges(objective, self.group.device)
        return _Part(name, objective, self.experiment.optimizers[name], parameters, others, losses, edges)

    def _parameter_group(self, part: _Part) -> dict[str, Any]:
        beta2 = self.config.beta2 if part.optimizer.beta2 is None else part.optimizer.beta2
        return {"params": part.parameters, "lr": self.config.learning_rate, "betas": (0.9, beta2)}

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
        due = [part for part in self.parts if number % part.optimizer.every == 0]
        found = [self._gradient(part, x, position, condition or {}) for part in due]
        self.scaler.unscale_(self.optimizer)
        norms = [self._clip(part) for part in due]
        local = [self._local_sums(values, t, part.edges) for part, (values, t) in zip(due, found, strict=True)]
        summed = self.group.sum(torch.cat([*local, norms[0].new_tensor([stop()])]))
        numbers = torch.cat([summed, torch.stack(norms)]).tolist()
        losses, size = {}, 2 * BUCKETS + 1
        for k, (part, (values, t)) in enumerate(zip(due, found, strict=True)):
            *sums, bad = numbers[k * size : (k + 1) * size]
            norm = numbers[len(due) * size + 1 + k]
            totals, counts = torch.tensor(sums, dtype=torch.float64).reshape(2, BUCKETS)
            losses[part.name] = Losses(t, values, norm, totals, counts, self._problem(part, int(bad), norm))
        problem = next((one.problem for one in losses.values() if one.problem), "")
        skipped = not all(math.isfinite(one.norm) for one in losses.values()) or bool(problem)
        self.scaler.update(self.scaler.get_scale() if problem else None)
        self.bad = self.bad + 1 if problem else 0
        if skipped:
            self.skipped += 1
        else:
            self._apply()
            for part, (values, t) in zip(due, found, strict=True):
                self._observe(part, values, t)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return Step(number, position, losses, skipped, problem, bool(numbers[len(due) * size]))

    def _gradient(
        self, part: _Part, x: Tensor, position: Tensor, condition: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Accumulate the gradient of an objective's mean loss over micro-batches. Returns the losses and times, both (B,)."""
        size = self.config.micro_batch or len(x)
        pieces = list(zip(x.split(size), position.split(size), strict=True))
        key = () if part.name == MAIN else (part.name,)
        found = []
        with part.alone():
            for number, (x_piece, position_piece) in enumerate(pieces, start=1):
                rows = slice((number - 1) * size, number * size)
                there = position_piece.to(self.group.device)
                x_piece = x_piece.to(self.group.device, non_blocking=True)
                draw = part.objective.draw(x_piece, step=self.step, indices=there)
                given = self._with_dropout({name: value[rows] for name, value in condition.items()}, there)
                more = self.layout.no_sync(part.losses) if number < len(pieces) else nullcontext()
                with more:
                    seed = (self.experiment.seed, self.step, int(position_piece[0]), *key)
                    with seeded_generator(self.group.device, *seed):
                        losses = part.losses(draw, given)
                    self.scaler.scale(losses.sum() / self.config.batch_size).backward()
                found.append((losses.detach(), draw.t))
        if self.group.world > 1:
            # both layouts average over the processes; a factor before the average would overflow float16 earlier
            torch._foreach_mul_([p.grad for p in part.parameters if p.grad is not None], float(self.group.world))
        losses, t = (torch.cat(column) for column in zip(*found, strict=True))
        return losses, t

    def _clip(self, part: _Part) -> Tensor:
        """Clip the gradient of an objective. Returns its norm before."""
        most = self.config.grad_clip if part.optimizer.grad_clip is None else part.optimizer.grad_clip
        norm: Tensor = gathered(nn.utils.clip_grad_norm_(part.parameters, most).detach())
        return norm

    def _with_dropout(self, condition: dict[str, Tensor], position: Tensor) -> dict[str, Tensor]:
        """Conditions on this process's device. ``dropped`` is True with probability ``condition_dropout``, for each event.

        Targets are not dropped: the model predicts them."""
        found = {name: rows.to(self.group.device, non_blocking=True) for name, rows in condition.items()}
        if found.keys() - set(self.experiment.targets) and self.config.condition_dropout:
            source = NoiseSource(self.experiment.seed, position)
            u = source.uniform((), step=self.step, purpose="condition dropout", dtype=torch.float64)
            found[DROPPED] = u < self.config.condition_dropout
        return found

    def _local_sums(self, losses: Tensor, t: Tensor, edges: Tensor) -> Tensor:
        """Sums, then counts of losses by interval of t, then the number of those that are not finite, (2 BUCKETS + 1,)."""
        bucket = torch.bucketize(t, edges, right=True)
        both = torch.stack([losses, torch.ones_like(losses)])
        sums = torch.zeros(2, BUCKETS, device=losses.device).index_add_(1, bucket, both).reshape(-1)
        return torch.cat([sums, (~torch.isfinite(losses)).sum().reshape(1)])

    def _problem(self, part: _Part, bad: int, norm: float) -> str:
        """Why an objective cannot update. Gradients that overflow float16 with a scale above 1 are not a problem."""
        of = "" if part.name == MAIN else f" of objectives.{part.name}"
        if bad:
            return f"the loss{of} is not finite for {bad} of {self.config.batch_size} examples"
        sought = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        return "" if math.isfinite(norm) or sought else f"the gradient{of} is not finite"

    def _observe(self, part: _Part, losses: Tensor, t: Tensor) -> None:
        """Give the losses of the whole batch to an objective that learns. All processes then have the same one."""
        if part.objective.learns:
            rows = self.group.gather(
                torch.stack((t.to(torch.float64), losses.to(torch.float64)), 1), self.config.batch_size
            )
            part.objective.observe(*rows.unbind(1))

    def _apply(self) -> None:
        for group, part in zip(self.optimizer.param_groups, self.parts, strict=True):
            group["lr"] = learning_rate(self.config, self.step, part.optimizer.learning_rate)
        self.optimizer.step()
        for average in self.averages:
            average.update(self.trained)

    def learned(self) -> dict[str, Tensor]:
        """What the distributions of t have learned, by the names of a checkpoint."""
        return {
            f"{times_name(part.name)}.{key}": value
            for part in self.parts
            for key, value in part.objective.state().items()
        }

    def facts(self) -> dict[str, Any]:
        """Facts for the header of a checkpoint."""
        scaler = self.scaler.state_dict()
        return {"skipped": self.skipped, "bad": self.bad, "seconds": round(self.seconds, 3), "scaler": scaler}

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises CheckpointError if it belongs to another network."""
        load_weights(self.trained, checkpoint, "model")
        for number, average in enumerate(self.averages):
            load_weights(average.module, checkpoint, average_name(number))
            average.updates = checkpoint.ema_updates
        load_optimizer(self.trained, self.optimizer, checkpoint)
        for part in self.parts:
            load_learned(part.objective, times_name(part.name), checkpoint)
        facts = checkpoint.facts
        self.step, self.skipped, self.bad = checkpoint.step, int(facts.get("skipped", 0)), int(facts.get("bad", 0))
        self.seconds = float(facts.get("seconds", 0.0))
        if facts.get("scaler"):
            self.scaler.load_state_dict(dict(facts["scaler"]))


def time_edges(objective: Objective, device: torch.device) -> Tensor:
    """The times between the intervals, ascending, (BUCKETS - 1,)."""
    u = torch.arange(1, BUCKETS, device=device) / BUCKETS
    return objective.time_quantiles(u).sort().values


@contextmanager
def seeded_generator(device: torch.device, *key: int | str) -> Iterator[None]:
    """A context in which torch's generators are seeded with a function of ``key``.

    Their previous state is restored afterwards.
    """
    number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield


@contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """A context in which trainable parameters are constants."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
