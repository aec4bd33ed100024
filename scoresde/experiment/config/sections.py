"""How a run is trained: the config's `training` section, and the learning rate of a step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scoresde._validation import check_choice, check_count, check_number
from scoresde.ema import power_exponent
from scoresde.experiment.config.limits import AVERAGES, check_size
from scoresde.experiment.config.weight_names import average_name

PRECISIONS = ("float32", "bfloat16", "float16")
HIGHEST_RATE = 1e6
"""Largest learning rate: far above it a step leaves float32's range."""
HIGHEST_NORM = 1e30
"""Largest ``grad_clip``: float32 has no numbers much above it."""
HOW = (
    "keep", "keep_every", "checkpoint_every", "log_every", "posthoc_every", "preview_every", "micro_batch", "compile",
    "channels_last", "prefetch", "max_bad_steps", "sharded",
)  # fmt: skip
"""Keys that may change when a run goes on: they change its weights by rounding at most, dropout's draws aside (trainer.py). So
may ``steps``, see `free`."""


@dataclass(frozen=True)
class TrainingConfig:
    """config.training.

    steps: parameter updates. batch_size: events in each, over all processes. learning_rate, beta2: Adam's.
    warmup: steps of linear rise. schedule: "constant", or "cosine" down to 2 % of the rate at the last step.
    grad_clip: largest global norm of the gradient.
    ema_decay: of the averaged weights. ema_decays: several averages at once, in its place; samples are drawn with the first.
    posthoc: widths of power-function averages, (0.05, 0.1) for instance, of which `posthoc.py` makes any other afterwards.
    posthoc_every: steps between their snapshots.
    log_every, checkpoint_every: in steps. keep: checkpoints kept. keep_every: besides, those of every so many steps; 0: none.
    micro_batch: events that a process takes at a time, gradients added up; 0: its whole share of the batch.
    precision: what the network computes in, "float32", "bfloat16" or "float16"; see precision.py for what stays in float32.
    compile: the network by torch.compile. channels_last: images with their channels last in memory.
    prefetch: read the next batch while this one is computed.
    max_bad_steps: steps in a row without a finite loss and gradient, after which training stops.
    preview_every: steps between pictures of samples; 0: none. The first two come at a 25th and a 5th of it.
    sharded: of several processes, each holds its part of weights, gradients, moments and averages; without previews, compile
    and channels_last.
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-4
    beta2: float = 0.999
    warmup: int = 100
    schedule: str = "constant"
    grad_clip: float = 1.0
    ema_decay: float = 0.9999
    ema_decays: tuple[float, ...] = ()
    posthoc_widths: tuple[float, ...] = ()
    posthoc_every: int = 1000
    log_every: int = 50
    checkpoint_every: int = 500
    keep: int = 3
    keep_every: int = 0
    micro_batch: int = 0
    precision: str = "float32"
    compile: bool = False
    channels_last: bool = False
    prefetch: bool = False
    max_bad_steps: int = 10
    preview_every: int = 2500
    sharded: bool = False

    def __post_init__(self) -> None:
        for name in (
            "steps", "log_every", "checkpoint_every", "keep", "max_bad_steps", "posthoc_every",
        ):  # fmt: skip
            check_count(name, getattr(self, name))
        check_size("batch_size", self.batch_size)
        for name in ("warmup", "keep_every", "micro_batch", "preview_every"):
            check_count(name, getattr(self, name), least=0)
        for name, most in (("learning_rate", HIGHEST_RATE), ("grad_clip", HIGHEST_NORM)):
            check_number(name, getattr(self, name), above=0.0, most=most)
        for name in ("beta2", "ema_decay"):
            check_number(name, getattr(self, name), least=0.0, below=1.0)
        for name in ("ema_decays", "posthoc_widths"):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: give a list of numbers")
            if len(getattr(self, name)) > AVERAGES:
                raise ValueError(
                    f"{name} of {len(getattr(self, name))} numbers is not allowed: give at most {AVERAGES}"
                )
        for decay in self.ema_decays:
            check_number("ema_decays", decay, least=0.0, below=1.0)
        for std in self.posthoc_widths:
            power_exponent(std)
        for name in ("compile", "channels_last", "prefetch", "sharded"):
            check_choice(name, getattr(self, name), (False, True))
        for name, off in (("compile", False), ("channels_last", False), ("preview_every", 0)):
            if self.sharded and getattr(self, name):
                raise ValueError(
                    f"sharded=True and {name}={getattr(self, name)!r} exclude each other: give {name}={off}"
                )
        check_choice("schedule", self.schedule, ("constant", "cosine"))
        check_choice("precision", self.precision, PRECISIONS)

    @property
    def decays(self) -> tuple[float, ...]:
        """Of the averages, the one that samples are drawn with first."""
        return self.ema_decays or (self.ema_decay,)

    @property
    def averages(self) -> tuple[str, ...]:
        """The averages that a checkpoint holds, by their names in it, and what they are."""
        what = [f"decay {decay:g}" for decay in self.decays] + [f"width {std:g}" for std in self.posthoc_widths]
        return tuple(f"{average_name(number)} ({one})" for number, one in enumerate(what))

    @property
    def free(self) -> tuple[str, ...]:
        """Keys that may change when a run goes on: under a constant schedule a longer run begins with the shorter one."""
        return (*HOW, "steps") if self.schedule == "constant" else HOW


def learning_rate(plan: TrainingConfig, step: int) -> float:
    """The rate of a step: linear rise over ``warmup``, then constant or a cosine down to 2 %."""
    rate = plan.learning_rate * min(1.0, (step + 1) / max(1, plan.warmup))
    if plan.schedule == "cosine":
        rate *= 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / plan.steps))
    return rate
