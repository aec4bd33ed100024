"""Processes that are diagonal in an orthonormal basis U: each mode of the data has its own schedule.

For each mode j::

    (U x_t)_j = alpha_j(t) (U x_0)_j + sigma_j(t) z_j

    F_j = d ln alpha_j / dt        g_j^2 = d sigma_j^2 / dt - 2 F_j sigma_j^2

``ModewiseSDE`` is defined by alpha(t) and sigma(t) with a value for each mode. Drift and diffusion are derived by
automatic differentiation. ``BlurringSDE`` is one in the cosine basis, in which frequencies decay as in the heat
equation (Rissanen et al. 2022, arXiv:2206.13397; Hoogeboom & Salimans 2022, arXiv:2209.05557).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_counts, check_number
from scoresde.sde.autodiff import values_and_slopes
from scoresde.sde.linalg.basis import Basis, dct
from scoresde.sde.linalg.kernel import MapKernel
from scoresde.sde.linalg.maps import DiagonalMap
from scoresde.sde.linear import LinearSDE


class ModewiseSDE(LinearSDE):
    r"""Base class of processes with coefficients alpha_j(t), sigma_j(t) for each mode j of a basis U.

    .. math::
        (U x_t)_j = \alpha_j(t)\, (U x_0)_j + \sigma_j(t)\, z_j, \qquad
        F_j = \frac{d \ln \alpha_j}{dt}, \qquad g_j^2 = \frac{d \sigma_j^2}{dt} - 2 F_j \sigma_j^2

    A subclass sets ``basis`` and implements ``alphas``, ``sigmas`` and ``prior_root``. alpha and sigma must be
    differentiable by torch.
    """

    basis: Basis

    @abstractmethod
    def alphas(self, t: Tensor) -> Tensor:
        """Coefficients alpha_j(t) > 0 of the mean.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            One coefficient for each mode, ``(*event)`` or ``(B, *event)``.
        """

    @abstractmethod
    def sigmas(self, t: Tensor) -> Tensor:
        """Standard deviations sigma_j(t) >= 0 of the modes given x_0.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            One standard deviation for each mode, ``(*event)`` or ``(B, *event)``.
        """

    @abstractmethod
    def prior_root(self) -> DiagonalMap:
        """Linear map R of the prior N(0, R R^T)."""

    def kernel(self, t: Tensor) -> MapKernel:
        self.check_time(t)
        return MapKernel(DiagonalMap(self.alphas(t), self.basis), DiagonalMap(self.sigmas(t), self.basis))

    def _transition(self, s: Tensor, t: Tensor) -> MapKernel:
        a = self.alphas(t) / self.alphas(s)
        variance = self.sigmas(t) ** 2 - (a * self.sigmas(s)) ** 2
        return MapKernel(DiagonalMap(a, self.basis), DiagonalMap(variance.clamp(min=0.0).sqrt(), self.basis))

    def drift_map(self, t: Tensor) -> DiagonalMap:
        return DiagonalMap(values_and_slopes(lambda at: self.alphas(at).log(), t)[1], self.basis)

    def diffusion_map(self, t: Tensor) -> DiagonalMap:
        dim = t.ndim
        values, slopes = values_and_slopes(
            lambda at: torch.stack(torch.broadcast_tensors(self.sigmas(at) ** 2, self.alphas(at).log()), dim), t
        )  # one differentiation for both
        (variance, _), (slope, drift) = values.unbind(dim), slopes.unbind(dim)
        square = slope - 2.0 * drift * variance
        return DiagonalMap(square.clamp(min=0.0).sqrt(), self.basis)


class BlurringSDE(ModewiseSDE):
    r"""Blurring diffusion: a variance-preserving schedule in which frequency k also decays by exp(-lambda_k tau(t)).

    .. math::
        \alpha_k(t) = \cos(\tfrac{\pi}{2} t') \left[(1 - \mathrm{floor})\, e^{-\lambda_k \tau(t)} +
        \mathrm{floor}\right], \qquad \sigma(t) = \sin(\tfrac{\pi}{2} t')

    .. math::
        t' = (1 - \epsilon)\, t, \qquad \lambda_k = \pi^2 |k / n|^2, \qquad
        \tau(t) = \tfrac{1}{2} \mathrm{blur}^2 \sin^4(\tfrac{\pi}{2} t), \qquad t \in [0, 1]

    The prior is :math:`N(0, \sigma(1)^2 I)`.

    Args:
        event_shape: Shape of one event. The last two dimensions, or the only one, are blurred.
        blur: Largest standard deviation of the blur in pixels, > 0.
        floor: Remaining share of the amplitude of a frequency under the blur, in (0, 1]. It keeps ln alpha_k finite.
        epsilon: Distance of the end of the schedule from pure noise, in (0, 1/2].

    References:
        - Hoogeboom & Salimans 2022, Blurring diffusion models, arXiv:2209.05557.
        - Rissanen et al. 2022, Generative modelling with inverse heat dissipation, arXiv:2206.13397.
    """

    def __init__(
        self, event_shape: Sequence[int], blur: float = 10.0, floor: float = 0.01, epsilon: float = 0.01
    ) -> None:
        check_counts("event_shape", event_shape)
        if not event_shape:
            raise ValueError(
                "event_shape=() is not allowed: a single number cannot be blurred, give at least one dimension"
            )
        check_number("blur", blur, above=0.0)
        check_number("floor", floor, above=0.0, most=1.0)
        check_number("epsilon", epsilon, above=0.0, most=0.5)
        self.basis = dct(event_shape)
        self.blur, self.floor, self.epsilon = blur, floor, epsilon
        axes = min(2, len(event_shape))
        square = torch.zeros((), dtype=torch.float64)
        for n in event_shape[len(event_shape) - axes :]:
            square = square[..., None] + (torch.arange(n, dtype=torch.float64) / n) ** 2
        self.rates = (torch.pi**2 * square).expand(*event_shape)

    def alphas(self, t: Tensor) -> Tensor:
        t = self._lift(t)
        tau = 0.5 * self.blur**2 * torch.sin(0.5 * torch.pi * t) ** 4
        kept = (1.0 - self.floor) * torch.exp(-self.rates.to(t) * tau) + self.floor
        return torch.cos(0.5 * torch.pi * (1.0 - self.epsilon) * t) * kept

    def sigmas(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * torch.pi * (1.0 - self.epsilon) * self._lift(t)).expand(
            *t.shape, *self.basis.event_shape
        )

    def prior_root(self) -> DiagonalMap:
        return DiagonalMap(self.sigmas(torch.tensor(self.T, dtype=torch.float64)), self.basis)

    def _lift(self, t: Tensor) -> Tensor:
        return t.reshape(t.shape + (1,) * len(self.basis.event_shape))
