"""Processes that destroy data, x_0 at t = 0, by noise up to t = T (Song et al. 2021, arXiv:2011.13456).

    SDE         dx = f(x, t) dt + g(t) dw
    reverse     dx = [f(x, t) - g(t)^2 score(x, t)] dt + g(t) dw'         run from T down to 0      (their eq. 6)
    flow        dx = [f(x, t) - g(t)^2 score(x, t) / 2] dt                the same marginals        (their eq. 13)

`linear.py` has the processes whose drift is linear in x, `scalar.py` those among them with a number for every time.

Shapes: x is (B, *event) with any event shape; t is (B,), or () where one time serves all; results follow x. Times lie
in [0, T]; a time outside raises ValueError. Coefficients are computed in the dtype of t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_number, check_times, expand, shown
from scoresde.noise import NoiseSource

if TYPE_CHECKING:
    from scoresde.sde.scalar import Chain

Score = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> grad log p_t(x), the shape of x. t is (B,), float32 where x has half precision."""

_WRAPPED = ("module", "_orig_mod", "_torchdynamo_orig_callable", "func", "__self__", "__wrapped__")
"""Where wrappers keep what they wrap."""


class SDE(ABC):
    """A process dx = f(x, t) dt + g(t) dw on [0, T].

    Args:
        T: The last time, > 0. The class attribute ``T``, 1 unless a subclass sets it, is the default. f and g are functions of t
            and do not change with T: a larger T continues the process.
    """

    T: float = 1.0

    def __init__(self, T: float | None = None) -> None:
        if T is not None:
            check_number("T", T, above=0.0)
            self.T = float(T)

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), the shape of x."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), the shape of t."""

    @abstractmethod
    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """A draw of ``shape`` (B, *event) from the prior p_T; sample i depends on (seed, i) alone."""

    @abstractmethod
    def prior_log_prob(self, x: Tensor) -> Tensor:
        """log p_T(x) in nats, (B, *event) -> (B,)."""

    additive: bool = True
    """Whether g is of t alone."""

    def apply_diffusion(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """g z; the state x matters only to a process that is not `additive`."""
        return expand(self.diffusion(t), z) * z

    def apply_diffusion_matrix(self, v: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """g g^T v: what multiplies the score."""
        return expand(self.diffusion(t), v) ** 2 * v

    @abstractmethod
    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """A draw of x_t given data x0 (B, *event), keyed by (noise, step); t is () or (B,)."""

    # The state may be more than the data: positions with velocities, say. Unless a process says otherwise they are one.

    def state_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the state of one event."""
        return tuple(event_shape)

    def embed_data(self, x0: Tensor) -> Tensor:
        """The mean of the state at t = 0 given data x0 (B, *event)."""
        return x0

    def extract_data(self, state: Tensor) -> Tensor:
        """The data that a state stands for."""
        return state

    def sample_auxiliary(self, x0: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor | float]:
        """A state drawn given data x0, and the log-density (B,) in nats of what was drawn: log p(x0) is at least the mean of
        log p(state) minus it, and equal where nothing is drawn."""
        return x0, 0.0

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """f - g^2 score, the drift of the reverse-time SDE, for a score already evaluated at (x, t)."""
        return self.drift(x, t) - self.apply_diffusion_matrix(score, t)

    def flow_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """f - g^2 score / 2, the drift of the probability-flow ODE."""
        return self.drift(x, t) - 0.5 * self.apply_diffusion_matrix(score, t)

    def discretize(self, steps: int) -> Chain:
        """The process as a Markov chain of ``steps`` steps; only processes with a number for every time have one."""
        raise TypeError(
            f"{self!r} has no chain: one is made of numbers alpha(t), sigma(t), which this process does not have"
        )

    def same_as(self, other: SDE) -> bool:
        """Whether ``other`` is this process: the same object, or equal. A subclass that can tell more overrides this."""
        return self is other or self == other

    def check_time(self, t: Tensor, batch: int | None = None) -> None:
        """Raise ValueError unless all of ``t`` lies in [0, T] and its shape is () or (batch,)."""
        check_times("t", t, self.T, batch)


def process_of(score: object) -> SDE | None:
    """The process that a score was made for: ``score.sde``, or that of what it wraps; None where it does not say.

    Wrappers are ``DataParallel``, ``DistributedDataParallel`` and others with a ``module``, compiled modules and functions,
    ``functools.partial``, and methods of a model.
    """
    for _ in range(16):  # wrappers in wrappers
        if isinstance(sde := getattr(score, "sde", None), SDE):
            return sde
        inner = [getattr(score, name, None) for name in _WRAPPED]
        score = next((value for value in inner if value is not None), None)
        if score is None:
            break
    return None


@checked_arguments
def check_same_process(sde: SDE, score: object) -> None:
    """Raise TypeError where ``score`` cannot be called, ValueError where it says that it was made for another process.

    A model or a closed form has its process as ``score.sde``, also inside a wrapper, see `process_of`; a bare function does not
    say. A chain fits its process, and a copy of a process the process as long as they agree.
    """
    if not callable(score) or isinstance(score, type):
        raise TypeError(
            f"score={shown(score)} cannot be called: give score(x, t), e.g. a ScoreModel or mixture.score(sde)"
        )
    other = process_of(score)
    if other is None:
        return
    here, there = (getattr(p, "continuous", p) for p in (sde, other))
    if not here.same_as(there):
        raise ValueError(
            f"the score was made for {other!r}, and sde={sde!r} is not the same process: give the score's own, score.sde"
        )
