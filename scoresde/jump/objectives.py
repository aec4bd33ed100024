r"""Objectives of models of jump processes: the bounds of ``bounds.py`` with one random time for each example.

In N steps the loss is N times the term of a random step. In continuous time it is T times the integrand at a random
time. Both can add the cross-entropy -lambda ln p(x_0 | x_t), summed over the coordinates.

The times of a batch are evenly spread (low discrepancy): with U uniform for each step of the training, and the golden
ratio phi,

.. math::
    u_i = (U + i \phi) \bmod 1

for the example with the number i. Each u_i is uniform, so that the loss is unbiased, and depends on (seed, step, i)
only, not on the size of the batch.

References:
    Austin et al. 2021, arXiv:2107.03006, eq. 5. Kingma et al. 2021, arXiv:2107.00630, appendix I.1 (low discrepancy).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.jump.base import JumpProcess
from scoresde.jump.counted import check_model
from scoresde.jump.importance import AdaptiveTimes
from scoresde.jump.models import JumpModel
from scoresde.jump.states import check_logits, cross_entropy, whole_states
from scoresde.losses import Objective
from scoresde.noise import NoiseSource

_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)


@dataclass(frozen=True)
class JumpDraw:
    """Random draws of an objective for a batch.

    Attributes:
        x0: Data, ``(B, *event)``.
        x: States x_t, ``(B, *event)``.
        t: Times, ``(B,)`` float64.
        s: Times of the next states, ``(B,)`` float64. Equal to t in continuous time.
        density: Density of the times relative to uniform ones, ``(B,)`` float64.
    """

    x0: Tensor
    x: Tensor
    t: Tensor
    s: Tensor
    density: Tensor


class JumpObjective(Objective):
    """Base class of the losses of jump processes. The expectation of a loss is minus the bound without the prior's term, in nats.

    A subclass implements ``times`` and ``divergence``.

    Args:
        process: The process.
        auxiliary: Weight of the cross-entropy of x_0, >= 0.
        seed: Seed of the random draws. Call k without a step uses step k.
        adaptive: Distribution of the times that follows the losses. None for uniform times.
    """

    model_class: ClassVar[type] = JumpModel

    def __init__(
        self, process: JumpProcess, auxiliary: float, seed: int, adaptive: AdaptiveTimes | None = None
    ) -> None:
        check_number("auxiliary", auxiliary, least=0.0)
        super().__init__(seed)
        self.process, self.auxiliary, self.adaptive = process, auxiliary, adaptive

    @property
    def learns(self) -> bool:
        return self.adaptive is not None

    def time_quantiles(self, u: Tensor) -> Tensor:
        return self.times(self._drawn(u.to(torch.float64))[0])[0]

    def _drawn(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers in [0, 1) for uniform ones, and their density."""
        return (u, torch.ones_like(u)) if self.adaptive is None else self.adaptive.draw(u)

    def observe(self, t: Tensor, losses: Tensor) -> None:
        if self.adaptive is not None:
            u = self.uniform_of(t.to(torch.float64))
            self.adaptive.observe(u, losses * self.adaptive.density(u).to(losses.dtype))

    def state(self) -> dict[str, Tensor]:
        return {} if self.adaptive is None else self.adaptive.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self.adaptive is not None:
            self.adaptive.load(state)

    def draw(self, x0: Tensor, *, step: int | None = None, indices: Tensor | None = None) -> JumpDraw:
        """Draws everything that is random for a batch.

        Args:
            x0: Data, ``(B, *event)``.
            step: Key of the random draws. The default is the number of the call.
            indices: Index of each example, ``(B,)``, part of the key. The default is 0 .. B-1.

        Returns:
            The draws.
        """
        x0 = whole_states("x0", x0, self.process.states, self.process.tokens)
        noise, step = self._source(x0, step, indices)
        first = NoiseSource.of(self.seed, 1, device=x0.device).uniform(
            (), step=step, purpose="time", dtype=torch.float64
        )
        u, density = self._drawn((first + noise.indices.to(torch.float64) * _GOLDEN) % 1.0)
        t, s = self.times(u)
        return JumpDraw(x0, self.process.marginal_sample(x0, t, noise, step=step), t, s, density)

    def evaluate(self, model: Callable[..., Tensor], draw: JumpDraw, **condition: Any) -> Tensor:
        """Computes the loss of each example for given draws.

        Args:
            model: The model, (x, t, **condition) -> logits of p(x_0 | x_t).
            draw: The draws, from ``draw``.
            **condition: Conditions of the model by name.

        Returns:
            The loss of each example in nats, ``(B,)``.
        """
        check_model(self.process, model)
        output = self.output(model, draw, condition)
        output = output.to(torch.promote_types(output.dtype, torch.float32))  # half precision rounds weighted losses
        loss = self.divergence(draw, output)
        if self.auxiliary > 0.0:
            masked = self.process.masked(draw.x) if self.process.carries_over else None
            loss = loss + self.auxiliary * cross_entropy(output, draw.x0, masked)
        return loss.reshape(len(loss), -1).sum(1) / draw.density.to(loss.dtype)

    def output(self, model: Callable[..., Tensor], draw: JumpDraw, condition: dict[str, Any]) -> Tensor:
        """The output of the model that ``divergence`` needs: logits unless a subclass returns others.

        Args:
            model: The model.
            draw: The draws.
            condition: Conditions of the model by name.

        Returns:
            Logits of p(x_0 | x_t), ``(B, *event, tokens)``. Those of unmasked coordinates have no meaning under
            ``Absorbing``.
        """
        call = model.masked_logits if isinstance(model, JumpModel) else model
        logits: Tensor = call(draw.x, draw.t, **condition)
        check_logits("model", logits, draw.x, self.process.tokens)
        return logits

    @abstractmethod
    def times(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Maps uniform numbers to times.

        Args:
            u: Uniform numbers in [0, 1), ``(B,)`` float64.

        Returns:
            The times t and s, ``(B,)`` float64.
        """

    @abstractmethod
    def uniform_of(self, t: Tensor) -> Tensor:
        """The inverse of ``times``.

        Args:
            t: Times, ``(B,)`` float64.

        Returns:
            Numbers in [0, 1] that ``times`` maps to t, ``(B,)`` float64.
        """

    @abstractmethod
    def divergence(self, draw: JumpDraw, logits: Tensor) -> Tensor:
        """The unbiased estimate of the bound's terms from one time.

        Args:
            draw: The draws.
            logits: The result of ``output``.

        Returns:
            The estimate for each coordinate in nats, ``(B, *event)``.
        """


class DiscreteBound(JumpObjective):
    """The bound in N equal steps, and the cross-entropy of x_0.

    The loss is N KL(q(x_s | x_t, x_0) || p(x_s | x_t)) - lambda ln p(x_0 | x_t), summed over the coordinates.

    Args:
        process: The process.
        steps: Number of steps N.
        auxiliary: Weight lambda of the cross-entropy, >= 0. D3PM uses 0.001 to 0.1.
        seed: Seed of the random draws.
        adaptive: Distribution of the steps that follows the losses. None for equally probable steps.

    References:
        Austin et al. 2021, arXiv:2107.03006, eq. 5.

    Example:
        >>> from scoresde.jump import Absorbing, DiscreteBound, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> DiscreteBound(process, steps=100)(chain.model(process), chain.sample(4, 8)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        process: JumpProcess,
        steps: int = 1000,
        auxiliary: float = 0.0,
        seed: int = 0,
        adaptive: AdaptiveTimes | None = None,
    ) -> None:
        check_count("steps", steps)
        if adaptive is not None and adaptive.bins > steps:
            raise ValueError(f"adaptive has {adaptive.bins} intervals for steps={steps}: give at most {steps}")
        super().__init__(process, auxiliary, seed, adaptive)
        self.steps = steps

    def times(self, u: Tensor) -> tuple[Tensor, Tensor]:
        index = (u * self.steps).floor().clamp(max=self.steps - 1)
        return self.process.T * (index + 1) / self.steps, self.process.T * index / self.steps

    def uniform_of(self, t: Tensor) -> Tensor:
        return t / self.process.T - 0.5 / self.steps

    def divergence(self, draw: JumpDraw, logits: Tensor) -> Tensor:
        return self.steps * self.process.step_divergence(draw.x, draw.x0, logits, draw.s, draw.t)


class ContinuousBound(JumpObjective):
    """The bound in continuous time, and the cross-entropy of x_0.

    Under ``Absorbing`` it is a weighted cross-entropy of the masked coordinates, - beta alpha / (1 - alpha) ln p(x_0 |
    x_t), with the weight 1 / t for the linear schedule.

    Args:
        process: The process.
        auxiliary: Weight lambda of the cross-entropy, >= 0.
        seed: Seed of the random draws.
        adaptive: Distribution of the times that follows the losses. None for uniform times.

    References:
        Campbell et al. 2022, arXiv:2205.14987, prop. 2. Sahoo et al. 2024, arXiv:2406.07524, eq. 10. Shi et al. 2024,
        arXiv:2406.04329, eq. 5.

    Example:
        >>> from scoresde.jump import Absorbing, ContinuousBound, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> ContinuousBound(process)(chain.model(process), chain.sample(4, 8)).shape
        torch.Size([4])
    """

    def __init__(
        self, process: JumpProcess, auxiliary: float = 0.0, seed: int = 0, adaptive: AdaptiveTimes | None = None
    ) -> None:
        super().__init__(process, auxiliary, seed, adaptive)

    def times(self, u: Tensor) -> tuple[Tensor, Tensor]:
        t = (self.process.T * u).clamp(min=1e-6 * self.process.T, max=self.process.T * (1.0 - 1e-9))
        return t, t

    def uniform_of(self, t: Tensor) -> Tensor:
        return t / self.process.T

    def divergence(self, draw: JumpDraw, logits: Tensor) -> Tensor:
        return self.process.T * self.process.rate_divergence(draw.x, draw.x0, logits, draw.t)
