"""Linear processes in shifted coordinates: x - m(t) follows another process, for a constant or time-dependent m.

With the F, G, A, L and prior covariance S of the other process::

    dx = [F(t) (x - m) + m'] dt + G(t) dw        x_t | x_s ~ N(m(t) + A (x_s - m(s)), L L^T)        prior N(m(T), S)

A constant m is the mean to which the process reverts: with VP, dx = -beta (x - m) / 2 dt + sqrt(beta) dw, the
mean-reverting Ornstein-Uhlenbeck process (Luo et al. 2023, arXiv:2301.11699, use it for image restoration). With
m' = F m + c, a function m(t) describes any process dx = [F x + c(t)] dt + G dw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_finite, expand
from scoresde.noise import NoiseSource
from scoresde.sde.autodiff import values_and_slopes
from scoresde.sde.linalg.kernel import ShiftedKernel
from scoresde.sde.linalg.maps import LinearMap
from scoresde.sde.linear import LinearSDE


class Shifted(LinearSDE):
    r"""Process in shifted coordinates: x - m(t) follows a given process.

    .. math::
        dx = [F(t) (x - m(t)) + m'(t)]\, dt + G(t)\, dw, \qquad x_t \mid x_0 \sim N(m(t) + A (x_0 - m(0)), L L^T)

    F, G, A and L are those of the given process. The prior is :math:`N(m(T), S)` with the prior covariance S of the
    given process. A shifted process has no Markov chain (``discretize``) and no velocity prediction.

    Args:
        process: A linear process.
        mean: m: a tensor ``(*event)``, in float64 if kernels in float64 are needed; or a function of times ``(B,)``
            that returns ``(B, *event)`` and is differentiable by torch.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the mean is not finite or has the wrong shape, and later for data of another event shape than the
            mean.

    References:
        Luo et al. 2023, Image restoration with mean-reverting stochastic differential equations, arXiv:2301.11699.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.sde import Shifted
        >>> sde = Shifted(VPSDE(), torch.tensor([4.0, -1.0]))  # the prior is N((4, -1), I)
    """

    def __init__(self, process: LinearSDE, mean: Tensor | Callable[[Tensor], Tensor]) -> None:
        if not isinstance(process, LinearSDE):
            raise TypeError(f"process={process!r} is not linear: give a LinearSDE")
        if not isinstance(mean, Tensor) and not callable(mean):
            raise TypeError(f"mean is a {type(mean).__name__}: give a tensor (*event), or a function of time")
        self.process, self.mean, self.T = process, mean, process.T
        start = mean[None] if isinstance(mean, Tensor) else mean(torch.zeros(2, dtype=torch.float64))
        check_batch("mean", start)
        check_finite("mean", start)
        if not isinstance(mean, Tensor) and len(start) != 2:
            raise ValueError(f"mean gives shape {tuple(start.shape)} for times of shape (2,): give (2, *event)")
        self.event_shape = tuple(start.shape[1:])

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        check_batch("x", x)
        self.check_time(t, len(x))
        origin, slope = self._motion(t)
        return self.process.drift(x - expand(origin, x).to(x), t) + expand(slope, x).to(x)

    def drift_map(self, t: Tensor) -> LinearMap:
        return self.process.drift_map(t)

    def diffusion_map(self, t: Tensor) -> LinearMap:
        return self.process.diffusion_map(t)

    def kernel(self, t: Tensor) -> ShiftedKernel:
        return ShiftedKernel(self.process.kernel(t), self._origin(t.new_zeros(1)), self._origin(t))

    def _transition(self, s: Tensor, t: Tensor) -> ShiftedKernel:
        return ShiftedKernel(self.process.transition(s, t), self._origin(s), self._origin(t))

    def prior_root(self) -> LinearMap:
        return self.process.prior_root()

    def prior_mean(self) -> Tensor:
        end = self._origin(torch.tensor(self.T, dtype=torch.float64))
        return expand(self.process.prior_mean(), end) + end

    def log_noise(self, t: Tensor) -> Tensor:
        return self.process.log_noise(t)

    def log_noise_slope(self, t: Tensor) -> Tensor:
        return self.process.log_noise_slope(t)

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        return self.process.time_of_log_noise(u)

    def time_of_log_spread(self, u: Tensor) -> Tensor:
        # a shift changes neither A nor L
        return self.process.time_of_log_spread(u)

    def state_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        self._check_event(event_shape)
        return self.process.state_shape(event_shape)

    def embed_data(self, x0: Tensor) -> Tensor:
        self._check_event(x0.shape[1:])
        return self.process.embed_data(x0)

    def extract_data(self, state: Tensor) -> Tensor:
        return self.process.extract_data(state)

    def sample_auxiliary(self, x0: Tensor, noise: NoiseSource) -> tuple[Tensor, Tensor | float]:
        self._check_event(x0.shape[1:])
        return self.process.sample_auxiliary(x0, noise)

    def _data_origin(self, t: Tensor) -> Tensor:
        """m(t) for times ``(B,)``: ``(B, *event)``, or ``(1, *event)`` if it is constant."""
        return self.mean[None].to(t) if isinstance(self.mean, Tensor) else self.mean(t)

    def _origin(self, t: Tensor) -> Tensor:
        """m(t) as a state, ``(1, *state)`` or ``(B, *state)`` for t of shape ``()`` or ``(B,)``."""
        return self.process.embed_data(self._data_origin(t.reshape(-1)))

    def _motion(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """m(t) and m'(t) as states."""
        if isinstance(self.mean, Tensor):
            return self._origin(t), t.new_zeros(1)
        return values_and_slopes(self._origin, t.reshape(-1))

    def _check_event(self, event_shape: Sequence[int]) -> None:
        if tuple(event_shape) != self.event_shape:
            raise ValueError(
                f"events have shape {tuple(event_shape)}, but the mean of {self!r} has shape {self.event_shape}"
            )
