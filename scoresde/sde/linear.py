r"""Processes whose drift is linear in the state. Their transition kernels are Gaussian and known in closed form.

With linear maps F, G, A and L on the state::

    dx = F(t) x dt + G(t) dw        x_t | x_0 ~ N(A(t) x_0, L(t) L(t)^T)

A drift F(t) x + c(t) is the same process in coordinates x - m(t) with m' = F m + c: the statements about x hold for x -
m, and the kernel includes the shift (``ShiftedKernel``). ``shifted.py`` adds a shift to any linear process.

The score of the kernel at A x_0 + L z is -L^-T z. With score = grad log p_t(x), the expected noise and data given x_t
are::

    E[z | x_t] = -L^T score        E[x_0 | x_t] = A^-1 (x_t + L L^T score)    (Tweedie's formula)

Scalar F, G, A, L are in ``scalar.py``. A scalar for each mode of a basis: ``modewise.py``. Matrices over position and
velocity: ``langevin.py``. General matrix-valued functions of time, optionally one for each mode of a basis:
``matrix.py``. Losses, models, samplers and likelihoods use only this interface, so they work for all of them.
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
    r"""Base class of processes with a linear drift and Gaussian transition kernels.

    .. math::
        dx = F(t)\, x\, dt + G(t)\, dw, \qquad x_t \mid x_0 \sim N(A(t) x_0, L(t) L(t)^T)

    A subclass implements ``drift_map`` (F), ``diffusion_map`` (G), ``kernel`` (A and L), ``_transition`` and
    ``prior_root``. All other methods are derived from these.

    Args:
        T: The last time, > 0. The default is the class attribute ``T``, which is 1 unless a subclass sets it.
    """

    special: ClassVar[str] = "closed-form kernel"
    """What this class has and its base class does not. Error messages use it."""

    @abstractmethod
    def drift_map(self, t: Tensor) -> LinearMap:
        """Linear map F(t) of the drift.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The map, with one coefficient for each time.
        """

    @abstractmethod
    def diffusion_map(self, t: Tensor) -> LinearMap:
        """Linear map G(t) of the diffusion.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The map, with one coefficient for each time.
        """

    @abstractmethod
    def kernel(self, t: Tensor) -> GaussianKernel:
        """Transition kernel from time 0 to t, the distribution of x_t given x_0.

        Its argument is the mean of the state at t = 0, ``embed_data(x0)``. Auxiliary components at t = 0 are
        marginalized.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The kernel N(A x, L L^T).
        """

    @abstractmethod
    def _transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """Transition kernel from s to t. The times are valid."""

    @abstractmethod
    def prior_root(self) -> LinearMap:
        """Linear map R of the prior N(m, R R^T)."""

    def prior_mean(self) -> Tensor:
        """Mean m of the prior, 0 unless the drift has a shift.

        Returns:
            A tensor ``(1, ...)`` in float64, which broadcasts against the state from the left.
        """
        return torch.zeros(1, dtype=torch.float64)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        check_batch("x", x)
        self.check_time(t, len(x))
        return self.drift_map(t)(x)

    def diffusion(self, t: Tensor) -> Tensor:
        """Root mean square of the diffusion over the d coordinates: ||G(t)||_F / sqrt(d).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient, in the shape of t.
        """
        self.check_time(t)
        return self.diffusion_map(t).mean_square().sqrt()

    def apply_diffusion(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        return self.diffusion_map(t)(z)

    def apply_diffusion_matrix(self, v: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        g = self.diffusion_map(t)
        return g(g.transpose()(v))

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x_t given the data x_0.

        Args:
            x0: Data, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The mean ``(B, *state)``, and the standard deviation in the shape of t. If it differs between coordinates,
            it is the root mean square over them.
        """
        check_batch("x0", x0)
        self.check_time(t, len(x0))
        kernel = self.kernel(t)
        return kernel.mean(self.embed_data(x0)), kernel.level()

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """State x_t = A x_0 + L noise.

        Args:
            x0: Data, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            noise: Standard normal noise, ``(B, *state)``.

        Returns:
            The states x_t, ``(B, *state)``.
        """
        check_batch("x0", x0)
        self.check_time(t, len(x0))
        kernel, mean = self.kernel(t), self.embed_data(x0)
        if noise.shape != mean.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}: give {tuple(mean.shape)}, the shape of the states")
        return kernel.mean(mean) + kernel.scale(noise)

    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        z = noise.normal(self.state_shape(x0.shape[1:]), step=step, purpose="perturb", dtype=x0.dtype)
        return self.perturb(x0, t, z)

    def transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        """Transition kernel from time s to time t, the distribution of x_t given x_s.

        Args:
            s: Start times in [0, T], ``()`` or ``(B,)``.
            t: End times in [0, T], ``()`` or ``(B,)``, with s <= t.

        Returns:
            The kernel N(A x_s, L L^T).

        Raises:
            ValueError: If a time is outside [0, T], or s > t.
        """
        self.check_time(s)
        self.check_time(t)
        if s.device.type == "cpu" and not bool((s <= t).all()):
            raise ValueError(f"s={s.tolist()}, t={t.tolist()}: a transition needs s <= t")
        return self._transition(s, t)

    def posterior_mean(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r"""Mean of the posterior q(x_s | x_t, x_0).

        With :math:`x_s \mid x_0 \sim N(m_s, S_s)` and :math:`x_t \mid x_s \sim N(A x_s, C)`, Bayes' rule gives

        .. math::
            E[x_s \mid x_t, x_0] = m_s + S_s A^T S_t^{-1} (x_t - m_t), \qquad
            Cov[x_s \mid x_t, x_0] = S_s - S_s A^T S_t^{-1} A S_s

        The covariance is that of ``transition(s, t).with_posterior_noise(kernel(t), kernel(s))``. If the state has
        auxiliary components, x_0 fixes only the data component.

        Args:
            x_t: States at t, ``(B, *state)``.
            x0: Data, ``(B, *event)``.
            s: Earlier times in [0, T], ``()`` or ``(B,)``.
            t: Later times in (0, T], ``()`` or ``(B,)``, with s <= t.

        Returns:
            The mean, ``(B, *state)``.

        Raises:
            ValueError: If s > t, or a time is outside [0, T].
        """
        step, start, end = self.transition(s, t), self.kernel(s), self.kernel(t)
        mean = start.mean(self.embed_data(x0))
        off = end.whiten_transposed(end.whiten(x_t - step.mean(mean)))
        return mean + start.covariance(step.signal_map().transpose()(off))

    def noise_level(self, t: Tensor) -> Tensor:
        """Root mean square of the noise over the d coordinates: ||L(t)||_F / sqrt(d).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The noise level, in the shape of t. It is sigma(t) for scalar coefficients.
        """
        self.check_time(t)
        return self.kernel(t).level()

    def log_noise(self, t: Tensor) -> Tensor:
        """Log noise-to-signal ratio ln(||L|| / ||A||), which is -1/2 times the log signal-to-noise ratio.

        It is ln(sigma / alpha) for scalar coefficients.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The logarithm, in the shape of t.
        """
        self.check_time(t)
        kernel = self.kernel(t)
        return (kernel.level() / kernel.signal()).log()

    def log_noise_slope(self, t: Tensor) -> Tensor:
        """Time derivative of ``log_noise``, by automatic differentiation.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The derivative, in the shape of t.
        """
        with torch.enable_grad():
            at = t.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.log_noise(at).sum(), at)
        return slope

    def log_spread(self, t: Tensor) -> Tensor:
        """Log noise-to-signal ratio by determinants: ``u(t) = (ln |det L| - ln |det A|) / d``.

        It increases with t for every process, because A^-1 L L^T A^-T does, so it can be used as a time variable. For
        scalar coefficients it equals ``log_noise``.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            u, in the shape of t.
        """
        self.check_time(t)
        kernel = self.kernel(t)
        return kernel.log_det() - kernel.signal_map().log_det()

    def log_spread_slope(self, t: Tensor) -> Tensor:
        """Time derivative of ``log_spread``: du/dt = ||L^-1 G||_F^2 / (2 d).

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The derivative, in the shape of t.
        """
        return 0.5 * self.kernel(t).noise_map().inverse().compose(self.diffusion_map(t)).mean_square()

    def sample_noise(
        self, source: NoiseSource, shape: Sequence[int], t: Tensor, *, step: int, purpose: str, dtype: torch.dtype
    ) -> Tensor:
        """Draw the noise z of x_t = A x_0 + L z.

        Args:
            source: Source of the random numbers of B samples.
            shape: Shape of one state.
            t: Times in [0, T], ``()`` or ``(B,)``. The distribution of Gaussian noise does not depend on them.
            step: Number of the draw.
            purpose: Name of the draw.
            dtype: Data type of the noise.

        Returns:
            The noise, ``(B, *shape)``, of mean 0 and variance 1.
        """
        return source.normal(shape, step=step, purpose=purpose, dtype=dtype)

    def noise_target(self, noise: Tensor, t: Tensor) -> Tensor:
        """-L^T grad log p(x_t | x_0), the target of denoising score matching, as a function of the noise.

        Args:
            noise: The noise z, ``(B, *state)``.
            t: Times in [0, T], ``(B,)``.

        Returns:
            The target, in the shape of the noise. For Gaussian noise it is the noise.
        """
        return noise

    def step_noise(self, source: NoiseSource, times: Tensor) -> NoiseSource:
        """The source of the noise of a sampler's steps.

        Args:
            source: Source of the random numbers of B samples.
            times: Descending times of the sampler, ``(N + 1,)``.

        Returns:
            A source whose normal draws with the purpose "predictor" are the noise of each step, of mean 0 and variance 1. For
            Gaussian noise it is ``source``.
        """
        return source

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
        """Whether ``other`` is the same process.

        It is if it is the same object, or equal, or of the same type with F, G, kernel and prior that agree to a
        relative 1e-6 at three times.

        Args:
            other: Another process.

        Returns:
            True if the two are the same process.
        """
        if self is other or self == other:
            return True
        if type(self) is not type(other) or not isinstance(other, LinearSDE) or self.T != other.T:
            return False
        return all(
            _alike(here, there)
            for t in torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64) * self.T
            for here, there in zip(self._coefficients(t), other._coefficients(t), strict=True)
        )

    def _coefficients(self, t: Tensor) -> tuple[object, ...]:
        """F, G, kernel and prior at t, which define the process."""
        return self.drift_map(t), self.diffusion_map(t), self.kernel(t), self.prior_root(), self.prior_mean()

    @property
    def continuous(self) -> LinearSDE:
        return self

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        """Inverse of ``log_noise``, by bisection to 2^-60 T unless a subclass has a closed form.

        Args:
            u: Values of ``log_noise``.

        Returns:
            The times t with log_noise(t) = u, clamped to [0, T], in float64 and in the shape of u.
        """
        return self._time_at(self.log_noise, u)

    def time_of_log_spread(self, u: Tensor) -> Tensor:
        """Inverse of ``log_spread``, by bisection to 2^-60 T unless a subclass has a closed form.

        Args:
            u: Values of ``log_spread``.

        Returns:
            The times t with log_spread(t) = u, clamped to [0, T], in float64 and in the shape of u.
        """
        return self._time_at(self.log_spread, u)

    def _time_at(self, function: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
        """Solve function(t) = u by bisection, for an increasing function."""
        u = u.to(torch.float64)
        low, high = torch.zeros_like(u), torch.full_like(u, self.T)
        with times_checked():
            for _ in range(60):
                middle = 0.5 * (low + high)
                early = function(middle) < u
                low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return 0.5 * (low + high)

    def discretize(self, steps: int) -> Chain:
        raise TypeError(f"{self!r} has no chain: give steps=N, its exact transitions can be used on any grid")

    # conversions between score, noise, data and velocity, see GaussianKernel

    def noise_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Expected noise E[z | x_t] = -L^T score.

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            score: The score at (x, t), ``(B, *state)``.

        Returns:
            The noise, ``(B, *state)``.
        """
        return self.kernel(t).noise_from_score(score)

    def data_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Expected data E[x_0 | x_t] = A^-1 (x + L L^T score), by Tweedie's formula.

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            score: The score at (x, t), ``(B, *state)``.

        Returns:
            The expected state at t = 0, ``(B, *state)``.
        """
        return self.kernel(t).data_from_score(x, score)

    def score_from_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Score -L^-T noise.

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            noise: Expected noise E[z | x_t], ``(B, *state)``.

        Returns:
            The score, ``(B, *state)``.
        """
        return self.kernel(t).score_from_noise(noise)

    def score_from_data(self, x: Tensor, t: Tensor, data: Tensor) -> Tensor:
        """Score -(L L^T)^-1 (x - A data).

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            data: Expected state at t = 0, E[x_0 | x_t], ``(B, *state)``.

        Returns:
            The score, ``(B, *state)``.
        """
        return self.kernel(t).score_from_data(x, data)

    def velocity_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Velocity alpha E[z | x_t] - sigma E[x_0 | x_t] (Salimans & Ho 2022, arXiv:2202.00512).

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            score: The score at (x, t), ``(B, *state)``.

        Returns:
            The velocity, ``(B, *state)``.

        Raises:
            TypeError: If the coefficients are not scalar.
        """
        return self.kernel(t).velocity_from_score(x, score)

    def score_from_velocity(self, x: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
        """Score -noise / sigma with noise = (alpha velocity + sigma x) / (alpha^2 + sigma^2).

        Args:
            x: States x_t, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            velocity: The velocity at (x, t), ``(B, *state)``.

        Returns:
            The score, ``(B, *state)``.

        Raises:
            TypeError: If the coefficients are not scalar.
        """
        kernel = self.kernel(t)
        return kernel.score_from_noise(kernel.noise_from_velocity(x, velocity))

    def in_diffusion_units(self, residual: Tensor, t: Tensor, kernel: GaussianKernel | None = None) -> Tensor:
        """Score error multiplied by G^T, as in the likelihood weighting: G^T L^-T residual.

        Args:
            residual: Error of the predicted noise, ``(B, *state)``.
            t: Times in [0, T], ``(B,)``.
            kernel: ``self.kernel(t)``, if the caller has it already.

        Returns:
            The weighted error, ``(B, *state)``.

        References:
            Song et al. 2021, Maximum likelihood training of score-based diffusion models, arXiv:2101.09258.
        """
        return self.diffusion_map(t).transpose()((kernel or self.kernel(t)).whiten_transposed(residual))


def _alike(here: object, there: object) -> bool:
    """Whether two maps or kernels agree. Tensors are compared to a relative 1e-6, everything else by equality."""
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
