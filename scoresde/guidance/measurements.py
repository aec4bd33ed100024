r"""Guidance by a linear measurement y = A x_0 + noise, with Gaussian noise N(0, N).

The posterior of x_0 given x_t is approximated by a Gaussian with the mean x^(x_t) = E[x_0 | x_t] and a covariance V:

.. math::
    p(y \mid x_t) \approx N(A \hat x, \; A V A^T + N), \qquad
    \nabla_{x_t} \log p(y \mid x_t) \approx J^T A^T (A V A^T + N)^{-1} (y - A \hat x), \qquad
    J = \frac{\partial \hat x}{\partial x_t}

    IsotropicMoments    V = r_t^2 I, r_t^2 = sigma^2 s^2 / (alpha^2 s^2 + sigma^2)      one vector-Jacobian product
    TweedieMoments      V = (sigma^2 / alpha) J, the true covariance                    one for each step of GMRES

The true posterior covariance of x_0 is (sigma^2 / alpha) J for every distribution of the data (second-order Tweedie formula). The
dependence of V on x_t is left out of the gradient. So `TweedieMoments` is exact for Gaussian data, where V is constant, and
`IsotropicMoments` for isotropic Gaussian data N(0, s^2 I). For other data both are approximations, which get worse with the noise
of x_t, while p(x_0 | x_t) is far from a Gaussian. ``log_potential`` is the exponent of p(y | x_t), without the determinant of the
covariance. Where this depends on t alone, it cancels in the weights of particles. For `TweedieMoments` and data that is
not Gaussian it depends on x_t too, and would need a vector-Jacobian product for each number of y. Particles are exact with any
potential.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, expand, shown
from scoresde.conditions import rows_of
from scoresde.guidance.base import Guidance, Weight
from scoresde.guidance.measured import check_fits, check_operator, check_seen, rows_of_measurement
from scoresde.operators import LinearOperator
from scoresde.operators.linear_systems import conjugate_gradients, dot, gmres
from scoresde.operators.measurement_noise import MeasurementNoise
from scoresde.sde import ScalarSDE

Linear = Callable[[Tensor], Tensor]


class MeasurementGuidance(Guidance):
    """Base class of guidance by a linear measurement. Subclasses are frozen dataclasses with these fields.

    Attributes:
        operator: The measurement A: a ``LinearOperator``, or a linear function (B, *event) -> (B, *measurement) that is
            differentiable by autograd.
        measurement: The measurement y, with one row for each sample, or a single row for all, (1, *measurement).
        noise_std: Standard deviation of its noise: a number, or a tensor (*measurement); >= 0.
        noise_covariance: Covariance of the noise of a flattened row in place of ``noise_std``, (m, m), or None.
        iterations: Largest number of steps of the method that solves the linear system.
    """

    operator: Linear
    measurement: Tensor
    noise_std: float | Tensor
    noise_covariance: Tensor | None
    iterations: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sde, ScalarSDE):
            raise TypeError(
                f"score={shown(self.score)} has the process {self.sde!r}: give the score of a process with scalar alpha and "
                "sigma, such as VPSDE()"
            )
        check_operator(self.operator, linear=True)
        if not isinstance(self.measurement, Tensor) or self.measurement.ndim == 0 or self.measurement.numel() == 0:
            raise TypeError(
                f"measurement={shown(self.measurement)} is not allowed: give a tensor with one row for each sample"
            )
        if not self.measurement.is_floating_point():
            raise TypeError(
                f"measurement has dtype {self.measurement.dtype}: give a floating-point tensor, e.g. measurement.float()"
            )
        if not bool(torch.isfinite(self.measurement).all()):
            raise ValueError("measurement has values that are not finite: give finite numbers")
        self.noise.check(self.measurement.shape[1:])
        if (event_shape := getattr(self.operator, "event_shape", None)) is not None:
            with torch.no_grad():
                check_seen(self.operator(self.measurement.new_zeros(1, *event_shape)), self.measurement, 1)
        check_count("iterations", self.iterations)

    @cached_property
    def noise(self) -> MeasurementNoise:
        """The noise of the measurement."""
        return MeasurementNoise(self.noise_std, self.noise_covariance)

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        score, direction, _ = self.terms(x, t)
        return score + w * direction

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        return self.terms(x, t)[1]

    def log_potential(self, x: Tensor, t: Tensor) -> Tensor:
        return self.terms(x, t)[2]

    def data_log_likelihood(self, x: Tensor, t: Tensor) -> Tensor:
        """Computes log N(y; A x, N) of samples, with its normalization.

        Args:
            x: Samples of the data, (B, *event).
            t: The last time of the sampler, (B,). Not used.

        Returns:
            The logarithm in nats, (B,).

        Raises:
            ValueError: If the measurement has no noise, so that the density does not exist.
        """
        if not self.noise.is_positive:
            raise ValueError(
                f"noise_std={shown(self.noise_std)} is not allowed here: a measurement without noise has no density p(y | x_0); "
                "give a small number > 0, or log_likelihood= to the sampler"
            )
        with torch.enable_grad():
            seen = self._measured(x.detach().requires_grad_(True)).detach()
        return self.noise.log_density(self.measurement - seen)

    def terms(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sde = self.sde
        assert isinstance(sde, ScalarSDE)  # checked at the start
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            score = self.score(at, t)
            mean = (at + sigma**2 * score) / alpha
            seen = self._measured(mean)

        def jacobian(v: Tensor) -> Tensor:
            """J^T v."""
            return torch.autograd.grad(mean, at, v, retain_graph=True)[0]

        def adjoint(v: Tensor) -> Tensor:
            """A^T v."""
            if isinstance(self.operator, LinearOperator):
                return self.operator.adjoint(v)
            return torch.autograd.grad(seen, mean, v, retain_graph=True)[0]

        covariance = self.covariance(alpha, sigma, jacobian)

        def system(v: Tensor) -> Tensor:
            """(A V A^T + N) v."""
            with torch.no_grad():
                return self.operator(covariance(adjoint(v))) + self.noise.multiply(v)

        residual = (self.measurement - seen).detach()
        solved = self.solve(system, residual)
        return score.detach(), jacobian(adjoint(solved)), -0.5 * dot(residual, solved)

    def solve(self, system: Linear, residual: Tensor) -> Tensor:
        """Solves (A V A^T + N) v = y - A x_hat.

        Args:
            system: The function v -> (A V A^T + N) v.
            residual: y - A x_hat, (B, *measurement).

        Returns:
            The solution v, (B, *measurement), by conjugate gradients.
        """
        return conjugate_gradients(system, residual, self.iterations)

    @abstractmethod
    def covariance(self, alpha: Tensor, sigma: Tensor, jacobian: Linear) -> Linear:
        """The product with the covariance V of x_0 given x_t.

        Args:
            alpha: alpha(t), (B, 1, ...).
            sigma: sigma(t), (B, 1, ...).
            jacobian: The function v -> J^T v. J is symmetric for a score that is a gradient.

        Returns:
            The function v -> V v.
        """

    def _measured(self, mean: Tensor) -> Tensor:
        seen = self.operator(mean)
        check_fits(seen, self.measurement, mean)
        if not seen.requires_grad:
            raise ValueError("operator has no graph to x (torch.no_grad, detach, NumPy?), so its adjoint is not known")
        return seen

    def select_rows(self, index: Tensor) -> MeasurementGuidance:
        y = rows_of_measurement(self.measurement, index)
        return self._with(score=rows_of(self.score, index), operator=rows_of(self.operator, index), measurement=y)


@dataclass(frozen=True)
class IsotropicMoments(MeasurementGuidance):
    r"""Guidance by a linear measurement, with an isotropic covariance of x_0 given x_t (pseudoinverse guidance, PiGDM).

    .. math::
        V = r_t^2 I, \qquad r_t^2 = \frac{\sigma^2 s^2}{\alpha^2 s^2 + \sigma^2}

    It needs one vector-Jacobian product of the score for each evaluation. It is exact for data N(0, s^2 I) and weight 1.

    Args:
        score: The score that is guided, of a process with scalar coefficients.
        operator: The measurement A: a ``LinearOperator``, or a linear function (B, *event) -> (B, *measurement) that is
            differentiable by autograd.
        measurement: The measurement y, with one row for each sample, or a single row for all, (1, *measurement).
        noise_std: Standard deviation of its noise: a number, or a tensor (*measurement); >= 0.
        data_std: Standard deviation s of the data.
        weight: The weight: a number, or a function of t.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.
        iterations: Largest number of steps of conjugate gradients. They cost no evaluation of the score.
        noise_covariance: Covariance of the noise of a flattened row in place of ``noise_std``, (m, m).

    References:
        Song, Vahdat, Mardani, Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems", ICLR.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> first = IsotropicMoments(score, lambda x: x[:, :1], torch.tensor([[0.5]]), noise_std=0.1)
        >>> first(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    score: Callable[..., Tensor]
    operator: Linear
    measurement: Tensor
    noise_std: float | Tensor = 0.0
    data_std: float = 1.0
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None
    iterations: int = 50
    noise_covariance: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("data_std", self.data_std, above=0.0)

    def covariance(self, alpha: Tensor, sigma: Tensor, jacobian: Linear) -> Linear:
        variance = (sigma * self.data_std) ** 2 / ((alpha * self.data_std) ** 2 + sigma**2)
        return lambda v: variance * v


@dataclass(frozen=True)
class TweedieMoments(MeasurementGuidance):
    r"""Guidance by a linear measurement, with the covariance of x_0 given x_t by the second-order Tweedie formula.

    .. math::
        V = \frac{\sigma^2}{\alpha} \frac{\partial \hat x}{\partial x_t}

    It needs a vector-Jacobian product of the score for each step of GMRES, and one more. It is exact for Gaussian data of any
    covariance and weight 1. The Jacobian of a trained network is not symmetric, so conjugate gradients would be unstable there.

    Args:
        score: The score that is guided, of a process with scalar coefficients.
        operator: The measurement A: a ``LinearOperator``, or a linear function (B, *event) -> (B, *measurement) that is
            differentiable by autograd.
        measurement: The measurement y, with one row for each sample, or a single row for all, (1, *measurement).
        noise_std: Standard deviation of its noise: a number, or a tensor (*measurement); >= 0.
        weight: The weight: a number, or a function of t.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.
        iterations: Largest number of steps of GMRES.
        noise_covariance: Covariance of the noise of a flattened row in place of ``noise_std``, (m, m).

    References:
        Boys et al. 2024, "Tweedie moment projected diffusions for inverse problems", arXiv:2310.06721.
        Rozet et al. 2024, "Learning diffusion priors from observations by expectation maximization", arXiv:2405.13712.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> first = TweedieMoments(score, lambda x: x[:, :1], torch.tensor([[0.5]]), noise_std=0.1)
        >>> first(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    score: Callable[..., Tensor]
    operator: Linear
    measurement: Tensor
    noise_std: float | Tensor = 0.0
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None
    iterations: int = 5
    noise_covariance: Tensor | None = field(default=None, kw_only=True)

    def covariance(self, alpha: Tensor, sigma: Tensor, jacobian: Linear) -> Linear:
        return lambda v: sigma**2 / alpha * jacobian(v)

    def solve(self, system: Linear, residual: Tensor) -> Tensor:
        return gmres(system, residual, self.iterations)
