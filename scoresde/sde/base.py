r"""Stochastic processes that transform data into noise (Song et al. 2021, arXiv:2011.13456).

Data ``x_0`` at ``t = 0`` becomes noise at ``t = T``. Three equations have the same marginals ``p_t``::

    forward SDE        dx = f(x, t) dt + g(t) dw
    reverse SDE        dx = [f(x, t) - g(t)^2 score(x, t)] dt + g(t) dw'      solved from T down to 0      (eq. 6)
    probability flow   dx = [f(x, t) - g(t)^2 score(x, t) / 2] dt                                          (eq. 13)

``linear.py`` has the processes whose drift is linear in x. ``scalar.py`` has those of them with scalar coefficients.

Shapes: x is ``(B, *event)``, where the event has any shape. t is ``(B,)``, or ``()`` for one time that all samples
share. Results have the shape of x. Times are in ``[0, T]``; other times raise ValueError. Coefficients are computed in
the dtype of t.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._representation import same_value
from scoresde._validation import check_number, check_times, expand, shown
from scoresde.noise import NoiseSource

if TYPE_CHECKING:
    from scoresde.sde.scalar import Chain

Score = Callable[[Tensor, Tensor], Tensor]
"""A function (x, t) -> grad log p_t(x) that returns the shape of x. t is ``(B,)``, in float32 if x has half precision."""

_WRAPPED = ("module", "_orig_mod", "_torchdynamo_orig_callable", "func", "__self__", "__wrapped__")
"""Attributes in which wrappers store the wrapped object."""


class SDE(ABC):
    r"""Base class of stochastic processes on the time interval [0, T].

    .. math::
        dx = f(x, t)\, dt + g(t)\, dw

    A subclass implements ``drift`` (f), ``diffusion`` (g), ``prior_sample``, ``prior_log_prob`` and
    ``marginal_sample``.

    Args:
        T: The last time, > 0. The default is the class attribute ``T``, which is 1 unless a subclass sets it. f and g
            do not depend on T: a larger T continues the process.

    References:
        Song et al. 2021, Score-based generative modeling through stochastic differential equations, arXiv:2011.13456.
    """

    T: float = 1.0
    _whole: ClassVar[SDE | None] = None  # set on restricted objects

    def __init__(self, T: float | None = None) -> None:
        if T is not None:
            check_number("T", T, above=0.0)
            self.T = float(T)

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Drift f(x, t).

        Args:
            x: States, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The drift, in the shape of x.
        """

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion coefficient g(t).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient, in the shape of t.
        """

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
        """Draw samples from the prior, which approximates p_T.

        Args:
            shape: ``(B, *event)``, where ``event`` is the shape of the data.
            noise: Source of the random numbers. It replaces ``seed`` and ``device``.
            seed: Sample i depends only on (seed, i).
            dtype: Data type of the samples.
            device: Device of the samples.

        Returns:
            The samples, ``(B, *state)``. The state has the shape of the event unless ``state_shape`` says otherwise.
        """

    @abstractmethod
    def prior_log_prob(self, x: Tensor) -> Tensor:
        """Log-density of the prior.

        Args:
            x: States, ``(B, *state)``.

        Returns:
            The log-density in nats, ``(B,)``.
        """

    gaussian: bool = True
    """Whether the noise is Gaussian. ``NonGaussianSDE`` has another distribution."""

    additive: bool = True
    """Whether the noise is additive: g depends on t and not on x."""

    def apply_diffusion(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """Multiply by the diffusion coefficient: g z.

        Args:
            z: Vectors, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            x: States, ``(B, *state)``. Needed only if the process is not ``additive``.

        Returns:
            g z, in the shape of z.
        """
        return expand(self.diffusion(t), z) * z

    def apply_diffusion_matrix(self, v: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """Multiply by the diffusion matrix: g g^T v. The reverse SDE applies it to the score.

        Args:
            v: Vectors, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            x: States, ``(B, *state)``. Needed only if the process is not ``additive``.

        Returns:
            g g^T v, in the shape of v.
        """
        return expand(self.diffusion(t), v) ** 2 * v

    @abstractmethod
    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """Draw x_t given the data x_0.

        Args:
            x0: Data, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            noise: Source of the random numbers.
            step: Number of the draw. Different numbers give independent draws.

        Returns:
            The states x_t, ``(B, *state)``.
        """

    # The state can have more components than the data, for example positions and velocities. By default they are the same.

    def state_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the state for one event.

        Args:
            event_shape: Shape of one event.

        Returns:
            Shape of one state. It equals ``event_shape`` unless the process has auxiliary components.
        """
        return tuple(event_shape)

    def embed_data(self, x0: Tensor) -> Tensor:
        """Mean of the state at t = 0 given the data.

        Args:
            x0: Data, ``(B, *event)``.

        Returns:
            States, ``(B, *state)``. Auxiliary components are 0.
        """
        return x0

    def extract_data(self, state: Tensor) -> Tensor:
        """Data component of a state.

        Args:
            state: States, ``(B, *state)``.

        Returns:
            The data, ``(B, *event)``.
        """
        return state

    def sample_auxiliary(self, x0: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor | float]:
        """Draw the auxiliary components of the state at t = 0 given the data.

        The log-likelihood has the bound log p(x_0) >= E[log p(state) - log q(auxiliary)]. It is an equality if there
        are no auxiliary components.

        Args:
            x0: Data, ``(B, *event)``.
            noise: Source of the random numbers.

        Returns:
            The states ``(B, *state)`` and log q of the auxiliary components in nats, ``(B,)``, or 0.0 if there are
            none.
        """
        return x0, 0.0

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Drift of the reverse-time SDE: f - g^2 score (Song et al. 2021, eq. 6).

        Args:
            x: States, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            score: Value of the score at (x, t), ``(B, *state)``.

        Returns:
            The drift, in the shape of x.
        """
        return self.drift(x, t) - self.apply_diffusion_matrix(score, t)

    def flow_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Drift of the probability-flow ODE: f - g^2 score / 2 (Song et al. 2021, eq. 13).

        Args:
            x: States, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            score: Value of the score at (x, t), ``(B, *state)``.

        Returns:
            The drift, in the shape of x.
        """
        return self.drift(x, t) - 0.5 * self.apply_diffusion_matrix(score, t)

    def data_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Denoised data E[x_0 | x_t] from the score. Only processes with a Gaussian kernel have it, by Tweedie's formula.

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            score: The score at (x, t), ``(B, *state)``.

        Returns:
            The expected state at t = 0, in the shape of x.

        Raises:
            TypeError: If the process has no closed-form kernel.
        """
        raise TypeError(
            f"E[x_0 | x_t] does not follow from the score of {self!r}, which has no closed-form kernel: give denoise=False"
        )

    @property
    def continuous(self) -> SDE:
        """The process in continuous time. It is the process itself, unless the process is a chain."""
        return self

    @property
    def whole(self) -> SDE:
        """The process that ``until`` restricted, or the process itself."""
        return self if self._whole is None else self._whole

    def until(self, t: float) -> SDE:
        """The same process on [0, t], for samplers that start at t. It has no prior: give samplers a ``start``.

        Args:
            t: Its last time, in (0, T].

        Returns:
            The process with T = t. Scores of this process belong to it too.

        Raises:
            ValueError: If t is not in (0, T].
            TypeError: For a chain, whose instants are fixed.

        Example:
            >>> from scoresde import VPSDE
            >>> VPSDE().until(0.5).T
            0.5
        """
        check_number("t", t, above=0.0, most=self.T)
        if self.continuous is not self:
            raise TypeError(f"{self!r} has fixed instants and cannot end at t={t:g}: give the continuous process")

        def refuse(sde: SDE, *given: Any, **options: Any) -> Tensor:
            raise ValueError(
                f"{sde!r} ends at t={t:g}, where the state is noisy data and has no prior: give a start at t={t:g}"
            )

        kind = type(self.whole)
        changes = {"T": float(t), "_whole": self.whole, "prior_sample": refuse, "prior_log_prob": refuse}
        made = copy.copy(self.whole)
        vars(made).pop("T", None)
        # T may be a field, an attribute or a property of the class; an attribute of a subclass replaces all of them
        object.__setattr__(made, "__class__", type(kind.__name__, (kind,), {**changes, "__module__": kind.__module__}))
        return made

    def discretize(self, steps: int) -> Chain:
        """Discrete-time Markov chain of this process. Only processes with scalar coefficients have one.

        Args:
            steps: Number of steps N, >= 2.

        Returns:
            The chain, which is a process as well.

        Raises:
            TypeError: If the coefficients of the process are not scalar.
        """
        raise TypeError(f"{self!r} has no chain: only a process with scalar coefficients alpha(t), sigma(t) has one")

    def same_as(self, other: SDE) -> bool:
        """Whether ``other`` is the same process: the same object, an equal one, or one of the same class and attributes.

        A subclass overrides this method if it can compare the coefficients.

        Args:
            other: Another process.

        Returns:
            True if the two are the same process.
        """
        if self is other or self == other:
            return True
        return type(self) is type(other) and same_value(vars(self), vars(other))

    def check_time(self, t: Tensor, batch: int | None = None) -> None:
        """Check that times are valid.

        Args:
            t: Times.
            batch: Number of samples. None: any shape is allowed.

        Raises:
            ValueError: If a time is outside [0, T], or the shape is neither ``()`` nor ``(batch,)``.
        """
        check_times("t", t, self.T, batch)


def process_of(score: object) -> SDE | None:
    """Process of a score: ``score.sde``, or that of the wrapped score; None if there is none.

    Known wrappers are ``DataParallel``, ``DistributedDataParallel`` and others with a ``module``, compiled modules and
    functions, ``functools.partial``, and methods of a model.
    """
    for _ in range(16):  # wrappers can be nested
        if isinstance(sde := getattr(score, "sde", None), SDE):
            return sde
        inner = [getattr(score, name, None) for name in _WRAPPED]
        score = next((value for value in inner if value is not None), None)
        if score is None:
            break
    return None


def check_gaussian(sde: SDE, what: str) -> None:
    """Raise TypeError unless the noise of a process is Gaussian. ``what`` is the subject of the message."""
    if not sde.gaussian:
        raise TypeError(
            f"{what} needs Gaussian noise, and the noise of {sde!r} is not Gaussian: such a process has Ancestral() and Langevin "
            "dynamics as samplers, and no likelihood"
        )


@checked_arguments
def check_same_process(sde: SDE, score: object) -> None:
    """Check that a score belongs to a process.

    The process of a model or of a closed-form score is ``score.sde``. Wrappers are searched for it. A plain function
    has no process, so only the type is checked. A chain matches its continuous-time process, and a copy of a process
    matches the process if the coefficients agree.

    Args:
        sde: The process of the caller.
        score: The score, a callable (x, t) -> score.

    Raises:
        TypeError: If ``score`` is not callable.
        ValueError: If ``score`` belongs to another process.
    """
    if not callable(score) or isinstance(score, type):
        raise TypeError(
            f"score={shown(score)} cannot be called: give score(x, t), e.g. a ScoreModel or mixture.score(sde)"
        )
    other = process_of(score)
    if other is None:
        return
    if not sde.continuous.whole.same_as(other.continuous.whole):
        raise ValueError(f"the score was made for {other!r}, and sde={sde!r} is not the same process: give score.sde")
