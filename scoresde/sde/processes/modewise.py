"""Processes that are diagonal in an orthonormal basis U: every mode of the data has its own schedule.

    U x_t = alpha_j(t) U x_0 + sigma_j(t) z,        F_j = d ln alpha_j / dt,        g_j^2 = d sigma_j^2 / dt - 2 F_j sigma_j^2

`ModewiseSDE` takes alpha(t) and sigma(t) with a value for every mode; drift and diffusion follow by automatic differentiation.
`BlurringSDE` is the one in the cosine basis: frequencies dissipate as they do under the heat equation (Rissanen et al. 2022,
arXiv:2206.13397; Hoogeboom & Salimans 2022, arXiv:2209.05557).
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
    """A process with numbers alpha_j(t), sigma_j(t) for every mode j of ``basis``.

    A subclass gives `alphas` and `sigmas`: t of shape () or (B,) to (*event) or (B, *event). The prior is N(0, prior_std^2 I).
    """

    basis: Basis

    @abstractmethod
    def alphas(self, t: Tensor) -> Tensor:
        """alpha_j(t) > 0, (*t, *event)."""

    @abstractmethod
    def sigmas(self, t: Tensor) -> Tensor:
        """sigma_j(t) >= 0, (*t, *event)."""

    @abstractmethod
    def prior_root(self) -> DiagonalMap:
        """R with the prior N(0, R R^T)."""

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
        variance, slope = values_and_slopes(lambda at: self.sigmas(at) ** 2, t)
        square = slope - 2.0 * self.drift_map(t).c * variance
        return DiagonalMap(square.clamp(min=0.0).sqrt(), self.basis)


class BlurringSDE(ModewiseSDE):
    """Blurring: frequency k decays by exp(-lambda_k tau(t)) besides the noise of a variance-preserving schedule.

        alpha_k = cos(pi t' / 2) [(1 - floor) exp(-lambda_k tau) + floor]        sigma = sin(pi t' / 2)

    with t' = t (1 - epsilon), lambda_k = pi^2 |k / n|^2 and tau(t) = blur^2 / 2 sin^4(pi t / 2), as in Hoogeboom & Salimans.

    event_shape: of one event; the last two dimensions, or the only one, are blurred.
    blur: largest standard deviation of the blur, in pixels, > 0.
    floor: what is left of a frequency's amplitude beside the noise schedule, in (0, 1): keeps the signal's logarithm finite.
    epsilon: how far short of pure noise the schedule stops, in (0, 1).
    """

    def __init__(
        self, event_shape: Sequence[int], blur: float = 10.0, floor: float = 0.01, epsilon: float = 0.01
    ) -> None:
        check_counts("event_shape", event_shape)
        if not event_shape:
            raise ValueError("event_shape=() is not allowed: a single number cannot be blurred, give at least one axis")
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
