"""Common parts of the objectives: the modules that they train, the keys of the random draws, and the check of the model.

`Objective` is the interface that training uses. `SDEObjective` adds the process and the distribution of t for objectives of
SDEs. Objectives of jump processes are in ``scoresde.jump``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from scoresde._validation import check_batch, check_output, check_seed
from scoresde.losses.times import ChainTimes, TimeDistribution, UniformTime
from scoresde.noise import NoiseSource
from scoresde.score import ConditionalModel, ScoreModel
from scoresde.sde import SDE, Chain, check_same_process

Process = TypeVar("Process", bound=SDE)


class Drawn(Protocol):
    """Random draws of an objective for a batch."""

    @property
    def t(self) -> Tensor:
        """Times, (B,)."""


class Objective(ABC):
    """Base class of the losses that training minimizes, estimated from random times and noisy data.

    A subclass implements ``draw``, which makes all random draws of a batch, ``evaluate``, which computes the losses of given
    draws, and ``time_quantiles``. Training calls both, so that draws depend only on (seed, step, index). ``trained`` says which
    modules the objective trains: the network of the model unless a subclass returns others.

    An objective that ``learns`` has a state that the losses change. Training calls ``observe`` after every step, and saves
    ``state`` in checkpoints.

    Args:
        seed: Seed of the random draws. Call k without a step uses step k, so that every step of a training loop has new
            draws.
    """

    def __init__(self, seed: int) -> None:
        check_seed("seed", seed)
        self.seed = seed
        self._calls = 0

    second_derivatives: ClassVar[bool] = False
    """Whether the gradient of the loss needs second derivatives of the network."""

    model_class: ClassVar[type] = ScoreModel
    """The class of the models that the objective trains."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the conditions that the model predicts. It does not get them, and training does not drop them."""
        return ()

    @property
    def learns(self) -> bool:
        """Whether ``observe`` changes the objective."""
        return False

    @abstractmethod
    def time_quantiles(self, u: Tensor) -> Tensor:
        """Times of the training examples at given probabilities.

        Args:
            u: Probabilities in [0, 1], (n,).

        Returns:
            The times below which t is with these probabilities, or above which, (n,).
        """

    def observe(self, t: Tensor, losses: Tensor) -> None:  # noqa: B027  (most objectives do not learn)
        """Learns from the losses of a step, if the objective ``learns``.

        Args:
            t: The times of all examples of the step, (B,).
            losses: Their losses, (B,).
        """

    def state(self) -> dict[str, Tensor]:
        """What the objective has learned from losses.

        Returns:
            Tensors by name, empty if it does not learn.
        """
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restores what the objective had learned.

        Args:
            state: The result of ``state``.
        """

    def trained(self, model: Any) -> Mapping[str, nn.Module]:
        """The modules that this objective trains. While its loss is computed, no others have gradients.

        Args:
            model: The model, such as a ``ScoreModel``.

        Returns:
            The modules by name, ``{"network": model.network}`` by default. They are modules of the model or of the objective.
            If a run trains several, checkpoints and averages store them by these names.
        """
        return {"network": model.network}

    def __call__(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        *,
        step: int | None = None,
        indices: Tensor | None = None,
        **condition: Any,
    ) -> Tensor:
        """Computes the loss of each example: ``evaluate`` for the draws of ``draw``.

        Args:
            model: The model, (x, t, **condition) -> a tensor with one row for each example.
            x0: The data, (B, *event).
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """
        return self.evaluate(model, self.draw(x0, step=step, indices=indices), **condition)

    @abstractmethod
    def draw(self, x0: Tensor, *, step: int | None = None, indices: Tensor | None = None) -> Drawn:
        """Draws everything that is random for a batch.

        Args:
            x0: The data, (B, *event).
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.

        Returns:
            The draws, with their times as ``t``.
        """

    @abstractmethod
    def evaluate(self, model: Callable[..., Tensor], draw: Any, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The model, (x, t, **condition) -> a tensor with one row for each example.
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """

    def check_model(self, model: Callable[..., Tensor]) -> None:
        """Checks that the objective trains models of this class. Functions and other modules pass.

        Args:
            model: The model.

        Raises:
            TypeError: If it is a model of another kind, such as a ``Classifier`` for an objective of scores.
        """
        if isinstance(model, ConditionalModel) and not isinstance(model, self.model_class):
            wanted = self.model_class.__name__
            raise TypeError(
                f"model is a {type(model).__name__}, and {type(self).__name__} trains a {wanted}: give a {wanted}, or another "
                "objective (TargetLikelihood trains a Classifier or a Regressor)"
            )

    def _source(self, x0: Tensor, step: int | None, indices: Tensor | None) -> tuple[NoiseSource, int]:
        """The noise source of a batch and its step. Without a step, calls are counted."""
        if step is None:
            step, self._calls = self._calls, self._calls + 1
        if indices is None:
            return NoiseSource.of(self.seed, len(x0), device=x0.device), step
        return NoiseSource(self.seed, indices), step


class TimedObjective(Objective, Generic[Process]):
    """Base class of the objectives with an SDE and a distribution of t.

    A subclass implements ``draw`` and ``evaluate``.

    Args:
        sde: The process.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        seed: Seed of the random draws. Call k without a step uses step k, so that every step of a training loop has new
            draws.
    """

    def __init__(self, sde: Process, times: TimeDistribution | None, seed: int) -> None:
        if not (times is None or isinstance(times, TimeDistribution)):
            raise TypeError(
                f"times={times!r} is not a TimeDistribution: give UniformTime(), UniformLogNoise(low, high), ..."
            )
        super().__init__(seed)
        self.sde = sde
        self.times = times or (ChainTimes() if isinstance(sde, Chain) else UniformTime())

    @property
    def learns(self) -> bool:
        return self.times.learns

    def time_quantiles(self, u: Tensor) -> Tensor:
        return self.times.times(self.sde, u)

    def observe(self, t: Tensor, losses: Tensor) -> None:
        self.times.observe(self.sde, t, losses * self.times.density(self.sde, t).to(losses.dtype))

    def state(self) -> dict[str, Tensor]:
        return self.times.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.times.load(state)


class SDEObjective(TimedObjective[Process]):
    """Base class of the objectives of SDEs: a process and a distribution of t.

    A subclass implements ``draw`` and ``evaluate``.

    Args:
        sde: The process.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        seed: Seed of the random draws. Call k without a step uses step k, so that every step of a training loop has new
            draws.
    """

    def _keyed(self, x0: Tensor, t: Tensor | None, step: int | None, indices: Tensor | None) -> tuple[NoiseSource, int]:
        """The noise source of a batch and its step. Given times are checked."""
        check_batch("x0", x0)
        source, step = self._source(x0, step, indices)
        if t is not None:
            self.sde.check_time(t, len(x0))
        return source, step

    def _times(self, x0: Tensor, source: NoiseSource, step: int) -> Tensor:
        """Times (B,) from the distribution of t."""
        u = source.uniform((), step=step, purpose="time", dtype=self._time_dtype(x0))
        return self.times.times(self.sde, self.times.quantiles(u, source, step))

    @staticmethod
    def _time_dtype(x0: Tensor) -> torch.dtype:
        """The dtype of the data, but at least float32: half precision is too coarse for the coefficients."""
        return torch.promote_types(x0.dtype, torch.float32)

    def _score(self, model: Callable[..., Tensor], x: Tensor, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """The model's score. Raises ValueError for another process or another shape, to prevent silent broadcasting."""
        check_same_process(self.sde, model)
        self.check_model(model)
        score = model(x, t, **condition)
        check_output("model", score, x)
        return score
