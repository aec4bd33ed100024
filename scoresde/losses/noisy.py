"""Objectives of noisy data: x_t = A x_0 + L z under a linear process, with keyed times and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde._validation import times_checked
from scoresde.losses.base import SDEObjective
from scoresde.score import ScoreModel
from scoresde.sde import GaussianKernel, LinearSDE, check_same_process


@dataclass(frozen=True)
class Draw:
    """Random draws of an objective for a batch.

    Attributes:
        t: Times, (B,).
        noise: Noise z, (B, *state).
        x_t: Noisy data A x_0 + L z, (B, *state).
        kernel: The distribution of x_t given x_0 at these times, computed once for the batch.
    """

    t: Tensor
    noise: Tensor
    x_t: Tensor
    kernel: GaussianKernel


class NoisyDataObjective(SDEObjective[LinearSDE]):
    """Base class of objectives that evaluate a model at noisy data. A subclass implements ``evaluate``.

    Args:
        sde: A ``LinearSDE``, or a chain of one.
        times: The distribution of t: by default ``UniformTime()`` for a process, ``ChainTimes()`` for a chain.
        seed: Seed of the random draws. Call k without ``step`` uses step k.
    """

    def __call__(
        self,
        model: Callable[..., Tensor],
        x0: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
        **condition: Any,
    ) -> Tensor:
        """Computes the loss of each example.

        Args:
            model: The model.
            x0: The data, (B, *event).
            t: Times, (B,); drawn by default.
            noise: Noise z, (B, *state); drawn by default.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example, (B,).
        """
        draw = self.draw(x0, t=t, noise=noise, step=step, indices=indices)
        return self.evaluate(model, draw, **condition)

    def draw(
        self,
        x0: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        step: int | None = None,
        indices: Tensor | None = None,
    ) -> Draw:
        """Draws times, noise and noisy data for a batch.

        Args:
            x0: The data, (B, *event).
            t: Times, (B,); drawn by default.
            noise: Noise z, (B, *state); drawn by default.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each sample, (B,), part of the key. The default is 0 .. B-1.

        Returns:
            The draws.
        """
        source, step = self._keyed(x0, t, step, indices)
        shape = self.sde.state_shape(x0.shape[1:])
        if t is None and noise is None and self.sde.gaussian:
            u, noise = source.uniform_and_normal(
                shape, step=step, purposes=("time", "perturb"), dtypes=(self._time_dtype(x0), x0.dtype)
            )
            t = self.times.times(self.sde, self.times.quantiles(u, source, step))
        t = self._times(x0, source, step) if t is None else t
        if noise is None:
            noise = self.sde.sample_noise(source, shape, t, step=step, purpose="perturb", dtype=x0.dtype)
        elif noise.shape != (len(x0), *shape):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}: give {(len(x0), *shape)}, one state for each event"
            )
        with times_checked():
            kernel = self.sde.kernel(t)
            x_t = kernel.mean(self.sde.embed_data(x0)) + kernel.scale(noise)
        return Draw(t, noise, x_t.to(x0.dtype), kernel)

    def _noise(self, model: Callable[..., Tensor], draw: Draw, condition: dict[str, Any]) -> Tensor:
        """-L^T times the model: the network's output for a ``ScoreModel`` that predicts noise, else computed from the score."""
        if not isinstance(model, ScoreModel):
            return draw.kernel.noise_from_score(self._score(model, draw.x_t, draw.t, condition))
        check_same_process(self.sde, model)
        return model.noise(draw.x_t, draw.t, kernel=draw.kernel, **condition)
