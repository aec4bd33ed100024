"""Processes with a drift that is linear in the state, and so with Gaussian kernels in closed form.

    dx = F(t) x dt + G(t) dw        x_t | x_0 ~ N(A(t) x_0, L(t) L(t)^T)        F, G, A, L linear maps on the state

A drift F(t) x + c(t) is the same seen from an origin m(t) that moves, m' = F m + c: what is said of x holds of x - m, and a
kernel carries its shift with it (`ShiftedKernel`). `shifted.py` gives any process such an origin.

The score of the kernel at A x_0 + L z is -L^-T z, and with score = grad log p_t(x) the model's noise and data are

    E[z | x_t] = -L^T score        E[x_0 | x_t] = A^-1 (x_t + L L^T score)    (Tweedie)

Numbers for F, G, A, L: `scalar.py`. Numbers for every mode of a basis: `modewise.py`. Matrices over phase space: `langevin.py`,
and any matrices of time, for each mode of a basis where wanted: `matrix.py`.
Objectives, models, samplers and the likelihood use what stands here and never ask which it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from scoresde._representation import GIVEN
from scoresde._validation import check_batch, expand, times_checked
from scoresde.noise import NoiseSource
from scoresde.sde.base import SDE
from scoresde.sde.linalg.basis import Basis
from scoresde.sde.linalg.kernel import GaussianKernel, standard_normal_log_prob
from scoresde.sde.linalg.maps import LinearMap

if TYPE_CHECKING:
    from scoresde.sde.scalar import Chain


class LinearSDE(SDE):
    """A process dx = F(t) x dt + G(t) dw.

    A subclass gives `drift_map`, `diffusion_map`, `kernel`, `_transition` and `prior_root`; the rest follows.
    """

    special: ClassVar[str] = "closed-form kernel"
    """What these processes have and others have not."""

    @abstractmethod
    def drift_map(self, t: Tensor) -> LinearMap:
        """F(t)."""

    @abstractmethod
    def diffusion_map(self, t: Tensor) -> LinearMap:
        """G(t)."""

    @abstractmethod
    def kernel(self, t: Tensor) -> GaussianKernel:
        """The kernel x_t | x_0, for the state's mean at t = 0 as `embed_data` gives it; t is () or (B,)."""

    @abstractmethod
    def _transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """The kernel x_t | x_s for times that were checked."""

    @abstractmethod
    def prior_root(self) -> LinearMap:
        """R with the prior N(m, R R^T)."""

    def prior_mean(self) -> Tensor:
        """m, (1, ...) in float64, the leading dimensions of the state: 0 unless the drift has a shift."""
        return torch.zeros(1, dtype=torch.float64)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        check_batch("x", x)
        self.check_time(t, len(x))
        return self.drift_map(t)(x)

    def diffusion(self, t: Tensor) -> Tensor:
        """||G(t)||_F / sqrt d, the shape of t: the root mean square over coordinates."""
        self.check_time(t)
        return self.diffusion_map(t).mean_square().sqrt()

    def apply_diffusion(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        return self.diffusion_map(t)(z)

    def apply_diffusion_matrix(self, v: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        g = self.diffusion_map(t)
        return g(g.transpose()(v))

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, *state) and standard deviation (the shape of t; its root mean square over coordinates) of x_t given x_0."""
        check_batch("x0", x0)
        self.check_time(t, len(x0))
        kernel = self.kernel(t)
        return kernel.mean(self.embed_data(x0)), kernel.level()

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """A x_0 + L noise, for data x0 (B, *event) and noise (B, *state)."""
        check_batch("x0", x0)
        self.check_time(t, len(x0))
        kernel, mean = self.kernel(t), self.embed_data(x0)
        if noise.shape != mean.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}: give {tuple(mean.shape)}, one draw for each state")
        return kernel.mean(mean) + kernel.scale(noise)

    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        z = noise.normal(self.state_shape(x0.shape[1:]), step=step, purpose="perturb", dtype=x0.dtype)
        return self.perturb(x0, t, z)

    def transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """The kernel x_t | x_s for s <= t in [0, T]; shapes () or (B,). Raises ValueError for other times."""
        self.check_time(s)
        self.check_time(t)
        if s.device.type == "cpu" and not bool((s <= t).all()):
            raise ValueError(f"s={s.tolist()}, t={t.tolist()}: a transition goes from s up to t, s <= t")
        return self._transition(s, t)

    def posterior_mean(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """E[x_s | x_t, x_0] (B, *state), s <= t and 0 < t, for states x_t (B, *state) and data x0 (B, *event), by Bayes' rule:

            m_s + S_s A^T S_t^-1 (x_t - m_t),       x_s | x_0 ~ N(m_s, S_s),    x_t | x_s ~ N(A x_s, C)

        Where the state is more than the data, x_0 says the data alone. The covariance, S_s - S_s A^T S_t^-1 A S_s, is that of
        ``transition(s, t).with_posterior_noise(kernel(t), kernel(s))``. Raises ValueError for s > t, or times outside [0, T].
        """
        step, start, end = self.transition(s, t), self.kernel(s), self.kernel(t)
        mean = start.mean(self.embed_data(x0))
        off = end.whiten_transposed(end.whiten(x_t - step.mean(mean)))
        return mean + start.covariance(step.signal_map().transpose()(off))

    def noise_level(self, t: Tensor) -> Tensor:
        """||L(t)||_F / sqrt d, the shape of t."""
        self.check_time(t)
        return self.kernel(t).level()

    def log_noise(self, t: Tensor) -> Tensor:
        """ln(||L|| / ||A||), the shape of t: minus half the logarithm of the signal-to-noise ratio."""
        self.check_time(t)
        kernel = self.kernel(t)
        return (kernel.level() / kernel.signal()).log()

    def log_noise_slope(self, t: Tensor) -> Tensor:
        """d log_noise / dt, the shape of t; by automatic differentiation."""
        with torch.enable_grad():
            at = t.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.log_noise(at).sum(), at)
        return slope

    def log_spread(self, t: Tensor) -> Tensor:
        """u(t) = ln |det L| / d - ln |det A| / d, the shape of t: the process's own clock.

        It rises for every process, since A^-1 L L^T A^-T does; where A and L are numbers it is `log_noise`.
        """
        self.check_time(t)
        kernel = self.kernel(t)
        return kernel.log_det() - kernel.signal_map().log_det()

    def log_spread_slope(self, t: Tensor) -> Tensor:
        """du/dt = ||L^-1 G||_F^2 / (2 d), the shape of t."""
        return 0.5 * self.kernel(t).noise_map().inverse().compose(self.diffusion_map(t)).mean_square()

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        noise = noise or NoiseSource.of(seed, shape[0], device=device)
        z = noise.normal(self.state_shape(shape[1:]), step=0, purpose="prior", dtype=dtype)
        return self.prior_root()(z) + expand(self.prior_mean(), z).to(z)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        check_batch("x", x)
        root = self.prior_root()
        z = root.inverse()(x - expand(self.prior_mean(), x).to(x))
        return standard_normal_log_prob(z) - x[0].numel() * root.log_det().to(x)

    @torch.no_grad()
    def same_as(self, other: SDE) -> bool:
        """Whether ``other`` is the same object, or equal, or of the same type with F, G, kernel and prior that agree to 1e-6 at
        three times."""
        if super().same_as(other):
            return True
        if type(self) is not type(other) or not isinstance(other, LinearSDE) or self.T != other.T:
            return False
        return all(
            _alike(here, there)
            for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64) * self.T
            for here, there in zip(self._coefficients(t), other._coefficients(t), strict=True)
        )

    def _coefficients(self, t: Tensor) -> tuple[object, ...]:
        """All that the process is at t."""
        return self.drift_map(t), self.diffusion_map(t), self.kernel(t), self.prior_root(), self.prior_mean()

    @property
    def continuous(self) -> LinearSDE:
        """The process in continuous time: itself, unless it is a chain."""
        return self

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """The t at which log_noise = u, float64, by bisection to 2^-60 T; clamped to [0, T]."""
        return self._time_at(self.log_noise, u)

    def time_of_log_spread(self, u: Tensor) -> Tensor:
        """The t at which log_spread = u, float64, by bisection to 2^-60 T; clamped to [0, T]."""
        return self._time_at(self.log_spread, u)

    def _time_at(self, clock: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        u = u.to(torch.float64)
        low, high = torch.zeros_like(u), torch.full_like(u, self.T)
        with times_checked():
            for _ in range(60):
                middle = 0.5 * (low + high)
                early = clock(middle) < u
                low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return 0.5 * (low + high)

    def discretize(self, steps: int) -> Chain:
        """The process as a Markov chain of ``steps`` steps; only processes with a number for every time have one."""
        raise TypeError(f"{self!r} has no chain of its own: give steps=N, its own transitions are exact on any grid")

    # the conversions of the kernel at t, see `GaussianKernel`

    def noise_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """E[z | x_t] = -L^T score."""
        return self.kernel(t).noise_from_score(score)

    def data_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """E[x_0 | x_t] = A^-1 (x + L L^T score), a state."""
        return self.kernel(t).data_from_score(x, score)

    def score_from_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """-L^-T noise."""
        return self.kernel(t).score_from_noise(noise)

    def score_from_data(self, x: Tensor, t: Tensor, data: Tensor) -> Tensor:
        """-(L L^T)^-1 (x - A data)."""
        return self.kernel(t).score_from_data(x, data)

    def velocity_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """alpha E[z | x_t] - sigma E[x_0 | x_t]. Raises TypeError unless the coefficients are scalar."""
        return self.kernel(t).velocity_from_score(x, score)

    def score_from_velocity(self, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """-noise / sigma, noise = (alpha velocity + sigma x) / (alpha^2 + sigma^2). Raises TypeError unless they are scalar."""
        kernel = self.kernel(t)
        return kernel.score_from_noise(kernel.noise_from_velocity(x, velocity))

    def in_diffusion_units(self, residual: Tensor, t: Tensor, kernel: GaussianKernel | None = None) -> Tensor:
        """G^T L^-T residual: the error of a score whose error in noise is ``residual``, as the likelihood weighting has it.

        Args:
            residual: (B, *state).
            t: (B,).
            kernel: ``self.kernel(t)`` where it is at hand.
        """
        return self.diffusion_map(t).transpose()((kernel or self.kernel(t)).whiten_transposed(residual))


def _alike(here: object, there: object) -> bool:
    """Whether two maps or kernels are the same: tensors to a relative 1e-6, all else by equality."""
    if type(here) is not type(there):
        return False
    if isinstance(here, Tensor):
        assert isinstance(there, Tensor)
        return here.shape == there.shape and torch.allclose(here, there, rtol=1e-6, atol=0.0)
    if isinstance(here, GaussianKernel | LinearMap | Basis):
        ours, theirs = ({k: v for k, v in vars(thing).items() if k != GIVEN} for thing in (here, there))
        return ours.keys() == theirs.keys() and all(_alike(v, theirs[k]) for k, v in ours.items())
    if isinstance(here, list | tuple):
        assert isinstance(there, list | tuple)
        return len(here) == len(there) and all(_alike(a, b) for a, b in zip(here, there, strict=True))
    return here == there
