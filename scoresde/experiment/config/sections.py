"""The sections of a config that describe a run: ``training``, ``sampling``, ``likelihood`` and ``evaluation``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from scoresde._validation import check_choice, check_count, check_number
from scoresde.ema import power_exponent
from scoresde.experiment.config.limits import AVERAGES, BATCHES, DRAWS, check_size
from scoresde.experiment.config.weight_names import DEFAULT, average_name, weights_name
from scoresde.filters import Filter
from scoresde.jump import JumpLikelihood
from scoresde.likelihood import Divergence, Engine, Hadamard
from scoresde.metrics import Coordinates, Extractor
from scoresde.metrics.classifiers import CLASSIFIERS, Classifier
from scoresde.product import ProductLikelihood
from scoresde.schedules import ChainBound
from scoresde.solvers import ODESolver

PRECISIONS = ("float32", "bfloat16", "float16")
HIGHEST_RATE = 1e6
"""Largest learning rate. A step with a much larger one leaves the range of float32."""
HIGHEST_NORM = 1e30
"""Largest ``grad_clip``, near the largest number of float32."""
CHANGEABLE = (
    "keep", "keep_every", "checkpoint_every", "log_every", "posthoc_every", "preview_every", "micro_batch", "compile",
    "channels_last", "prefetch", "max_bad_steps", "sharded",
)  # fmt: skip
"""Keys that may change when a run is resumed.

Apart from the random numbers of dropout (see ``trainer.py``), they change the weights by rounding at most. ``steps``
may change too, see `TrainingConfig.changeable`.
"""


@dataclass(frozen=True)
class OptimizerConfig:
    """How the modules of an objective are updated. What is None is as in the section ``training``.

    Args:
        learning_rate: Adam's learning rate after the warm-up.
        beta2: Adam's decay rate of the second moment.
        grad_clip: Largest global norm of the objective's gradient.
        every: The modules are updated at steps that are multiples of this number.
    """

    learning_rate: float | None = None
    beta2: float | None = None
    grad_clip: float | None = None
    every: int = 1

    def __post_init__(self) -> None:
        _check_optimizer({name: value for name, value in vars(self).items() if value is not None})
        check_count("every", self.every)


@dataclass(frozen=True)
class TrainingConfig:
    """The section ``training`` of a config.

    Args:
        steps: Parameter updates.
        batch_size: Events in an update, over all processes.
        learning_rate: Adam's learning rate after the warm-up.
        beta2: Adam's decay rate of the second moment.
        warmup: Steps during which the learning rate rises linearly.
        schedule: "constant", or "cosine", which decays to 2 % of the learning rate at the last step.
        grad_clip: Largest global norm of the gradient.
        ema_decay: Decay rate of the averaged weights.
        ema_decays: Decay rates of several averages, used instead of ``ema_decay``. Samples are drawn with the first
            one.
        posthoc_widths: Relative widths of power-function averages, such as (0.05, 0.1). Averages of other widths can be
            computed from their snapshots after the run (``averages.py``).
        posthoc_every: Steps between the snapshots of these averages.
        log_every: Steps between rows of metrics.csv.
        checkpoint_every: Steps between checkpoints.
        keep: Number of last checkpoints that are kept.
        keep_every: Checkpoints at multiples of this number of steps are kept as well. 0 keeps none.
        micro_batch: Events that a process computes at a time; gradients are accumulated. 0 takes its whole share of the
            batch.
        precision: Data type of the network's computations, "float32", "bfloat16" or "float16". ``precision.py`` lists
            what stays in float32.
        compile: Whether the network is compiled by ``torch.compile``.
        channels_last: Whether images are stored with their channels last.
        condition_dropout: Probability that training ignores the conditions of an event, so that the model learns p(x) as well as
            p(x | c). It has no effect on data without conditions.
        prefetch: Whether the next batch is read while the current one is computed.
        max_bad_steps: Training stops after this number of consecutive steps without a finite loss and gradient.
        preview_every: Steps between pictures of samples; 0 for none. The first two are drawn after 1/25 and 1/5 of this
            number.
        sharded: Whether each of several processes stores a part of the weights, gradients, moments and averages. It
            excludes previews, ``compile`` and ``channels_last``.
        optimizers: Settings of an `OptimizerConfig` by name of an objective in the section ``objectives``, where they differ from
            those above.
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
    condition_dropout: float = 0.1
    prefetch: bool = False
    max_bad_steps: int = 10
    preview_every: int = 2500
    sharded: bool = False
    optimizers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "steps", "log_every", "checkpoint_every", "keep", "max_bad_steps", "posthoc_every",
        ):  # fmt: skip
            check_count(name, getattr(self, name))
        check_size("batch_size", self.batch_size)
        for name in ("warmup", "keep_every", "micro_batch", "preview_every"):
            check_count(name, getattr(self, name), least=0)
        _check_optimizer(vars(self))
        check_number("condition_dropout", self.condition_dropout, least=0.0, most=1.0)
        check_number("ema_decay", self.ema_decay, least=0.0, below=1.0)
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
        """Decay rates of the averages. Samples are drawn with the first one unless other weights are named."""
        return self.ema_decays or (self.ema_decay,)

    @property
    def averages(self) -> tuple[str, ...]:
        """Names of the averages in a checkpoint, each with its decay rate or width."""
        what = [f"decay {decay:g}" for decay in self.decays] + [f"width {std:g}" for std in self.posthoc_widths]
        return tuple(f"{average_name(number)} ({one})" for number, one in enumerate(what))

    @property
    def changeable(self) -> tuple[str, ...]:
        """Keys that may change when a run is resumed.

        With a constant schedule, ``steps`` is among them: a longer run begins with the steps of the shorter one.
        """
        return (*CHANGEABLE, "steps") if self.schedule == "constant" else CHANGEABLE


def _check_optimizer(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a learning rate, a decay rate or a norm that is not allowed."""
    for name, most in (("learning_rate", HIGHEST_RATE), ("grad_clip", HIGHEST_NORM)):
        if name in values:
            check_number(name, values[name], above=0.0, most=most)
    if "beta2" in values:
        check_number("beta2", values["beta2"], least=0.0, below=1.0)


Solver = Engine | ODESolver
"""A solver for the probability flow ODE of a likelihood."""


@dataclass(frozen=True)
class SamplingConfig:
    """The section ``sampling`` of a config.

    Args:
        count: Number of samples.
        batch_size: Samples that are drawn at a time. The samples do not depend on it.
        seed: Seed of the samples.
        weights: "ema", "ema1", ..., "model" or the width of a post-hoc average, see ``weight_names.py``.
        condition: Conditions of the samples, if the data has conditions: "test" or "train" (those of the events of a split),
            "ignore", or values by name, see ``condition_values.py``.
        noise_filter: A function of training events (N, *event) that returns a ``SpectralFilter`` or a ``MatrixFilter``, such as
            ``fit_spectral_filter``. The filter colors the noise of the samples. None filters nothing.
    """

    count: int = 64
    batch_size: int = 64
    seed: int = 0
    weights: str | float = DEFAULT
    condition: str | Mapping[str, Any] = "test"
    noise_filter: Callable[[Tensor], Filter] | None = None

    def __post_init__(self) -> None:
        check_count("count", self.count)
        check_size("batch_size", self.batch_size)
        if self.count > BATCHES * self.batch_size:
            raise ValueError(
                f"count={self.count} is not allowed with batch_size={self.batch_size}: give at most {BATCHES} batches"
            )
        check_count("seed", self.seed, least=0)
        weights_name(self.weights)


@dataclass(frozen=True)
class LikelihoodConfig:
    """The section ``likelihood`` of a config.

    Args:
        split: "test" or "train".
        method: None for the likelihood of the probability flow. A `ChainBound` for the variational bound of a chain, which has no
            solver, tolerance or probes. For a jump process a `JumpLikelihood`, by default in continuous time, and
            for a product process a `ProductLikelihood`.
        draws: Number of dequantizations that are averaged for each event.
        limit: Number of events, from the first one; 0 for all.
        batch_size: Events at a time. Results depend on it by rounding only.
        seed: Seed of dequantization and probes.
        t_min: Time at which the probability flow starts, and the first time of a chain with a number of steps.
        solver: A solver: `Multistep`, `RungeKutta`, `ScipyODE` or any object with their method ``solve``. The default is
            `Multistep`, or `ScipyODE` for a process without a closed-form kernel.
        tolerance: Tolerance of the default solver: in bits/dim for `Multistep` (None for 0.02), relative and absolute for
            `ScipyODE` (None for 1e-5).
        grid_events: Number of training events to which the time grid of a `Multistep` without a grid is fitted
            (`fit_grid`), at most ``limit``. 0 uses the standard grid.
        divergence: A `Divergence`.
        weights: As in `SamplingConfig`.
        condition: "data" for log p(x | c) with the conditions of the events, "ignore" for log p(x). It has no effect on data
            without conditions.
    """

    split: str = "test"
    method: ChainBound | JumpLikelihood | ProductLikelihood | None = None
    draws: int = 1
    limit: int = 0
    batch_size: int = 128
    seed: int = 0
    t_min: float = 1e-5
    solver: Solver | None = None
    tolerance: float | None = None
    grid_events: int = 32
    divergence: Divergence = Hadamard()  # noqa: RUF009  (frozen)
    weights: str | float = DEFAULT
    condition: str = "data"

    def __post_init__(self) -> None:
        check_choice("condition", self.condition, ("data", "ignore"))
        check_choice("split", self.split, ("train", "test"))
        check_size("draws", self.draws, most=DRAWS)
        check_count("limit", self.limit, least=0)
        check_size("batch_size", self.batch_size)
        check_count("seed", self.seed, least=0)
        check_size("grid_events", self.grid_events, least=0)
        check_number("t_min", self.t_min, above=0.0)
        weights_name(self.weights)
        if self.method is not None and (self.solver is not None or self.tolerance is not None):
            given = "solver" if self.solver is not None else "tolerance"
            raise ValueError(
                f"{given}={getattr(self, given)!r} is for the probability flow, not for {self.method!r}: leave it out"
            )
        if self.tolerance is not None:
            check_number("tolerance", self.tolerance, above=0.0)
            if self.solver is not None:
                raise ValueError(f"tolerance={self.tolerance!r} with solver={self.solver!r}: give it to the solver")
        if not (self.solver is None or isinstance(self.solver, Engine) or hasattr(self.solver, "solve")):
            raise TypeError(
                f"solver={self.solver!r} is not a solver: give a node with a name, as {{'name': 'Multistep'}}"
            )
        if not isinstance(self.divergence, Divergence):
            raise TypeError(f"divergence={self.divergence!r} is not a Divergence: give a node with a name")


@dataclass(frozen=True)
class EvaluationConfig:
    """The section ``evaluation`` of a config.

    Args:
        extractor: An `Extractor` of features.
        split: The reference, "train" or "test". The other split is compared with it too, as a baseline.
        reference: An .npz file with ``mu`` and ``sigma`` that replaces the split, for the Fréchet distance only.
        samples: A folder of images or the file of an array, as `scoresde inspect` reads them, instead of the run's own
            samples.
        batch_size: Events at a time. Features depend on it by rounding only.
        neighbors: Number k of nearest neighbors for precision and recall.
        subset_size: Number of events of each set that precision, recall and the kernel distance use, since they need
            all pairs. They are chosen at random by index, the same ones every time. Classifiers are trained on at most this
            number of events of each kind.
        classifier: The classifier that is trained on samples with classes as conditions, and tested on the test split: "svm",
            "logistic", "auto" (a support vector machine up to 5000 samples, logistic regression above), or a node of any class
            with the methods ``fit`` and ``predict`` of scikit-learn. None trains none.
        weights: For a ``Classifier`` or ``Regressor``: its weights, as in `SamplingConfig`. It predicts its target on the
            split that is not the reference.
    """

    extractor: Extractor = Coordinates()  # noqa: RUF009  (frozen)
    split: str = "train"
    reference: str = ""
    samples: str = ""
    batch_size: int = 64
    neighbors: int = 3
    subset_size: int = 10_000
    classifier: str | Classifier | None = "auto"
    weights: str | float = DEFAULT

    def __post_init__(self) -> None:
        if isinstance(self.classifier, str):
            check_choice("classifier", self.classifier, ("auto", *CLASSIFIERS))
        if not isinstance(self.extractor, Extractor):
            raise TypeError(f"extractor={self.extractor!r} is not an Extractor: give a node with a name")
        check_choice("split", self.split, ("train", "test"))
        for name in ("reference", "samples"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: give a path in quotes")
        check_size("batch_size", self.batch_size)
        check_size("neighbors", self.neighbors)
        check_size("subset_size", self.subset_size, least=2)
        weights_name(self.weights)

    @property
    def other_split(self) -> str:
        """The split that is not the reference."""
        return "test" if self.split == "train" else "train"


def learning_rate(config: TrainingConfig, step: int, highest: float | None = None) -> float:
    """The learning rate of a step: a linear rise over ``warmup``, then constant or a cosine decay to 2 %.

    ``highest`` replaces the config's rate after the warm-up.
    """
    rate = (config.learning_rate if highest is None else highest) * min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        rate *= 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
    return rate
