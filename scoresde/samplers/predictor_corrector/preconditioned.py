r"""Correctors in other coordinates: preconditioned Langevin dynamics (Ma et al. 2022, arXiv:2207.02196).

For an invertible linear map M and x = M u, the density of u has the score M^T s(M u), where s is that of x. A corrector in the
coordinates u, here overdamped Langevin dynamics, is in x

.. math::
    du = M^T s(M u) \, d\tau + \sqrt 2 \, dw
    \qquad\Longleftrightarrow\qquad
    dx = M M^T s(x) \, d\tau + \sqrt 2 \, M \, dw

So the score is filtered twice and the noise once. The stationary distribution of x is p_t for every M. The speed is not: with
M M^T near the covariance of p_t, the state moves far in the wide directions of p_t and little in the narrow ones, and the number
of steps does not depend on the condition number. Plain Langevin dynamics needs a number of steps in proportion to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.filters import Filter
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Instant, Interval
from scoresde.samplers.predictor_corrector.correctors import Corrector


@dataclass(frozen=True)
class Preconditioned(Corrector):
    """Any corrector in the coordinates u = M^-1 x, which has the same stationary distribution of x.

    Args:
        corrector: The corrector, such as ``AnnealedLangevin()``, ``MALA()`` or ``UnderdampedLangevin()``. Its step size holds for
            u.
        filter: The filter M. With M M^T of a mean of 1 on its diagonal, as ``MatrixFilter.of_covariance`` has, sigma(t) is the
            noise level of u on average, and step sizes are comparable with those for x.

    References:
        Ma, Zhang, Zhu, Feng 2022, "Accelerating score-based generative models with preconditioned diffusion sampling",
        arXiv:2207.02196.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.filters import MatrixFilter
        >>> from scoresde.samplers import AnnealedLangevin, PredictorCorrector
        >>> covariance = torch.diag(torch.tensor([4.0, 1.0]))
        >>> corrector = Preconditioned(AnnealedLangevin(0.1), MatrixFilter.of_covariance(covariance))
        >>> score = GaussianMixture([[0.0, 0.0]], covariances=covariance[None]).score(VPSDE())
        >>> PredictorCorrector(corrector=corrector, steps=20)(VPSDE(), score, (5, 2)).samples.shape
        torch.Size([5, 2])
    """

    corrector: Corrector
    filter: Filter

    def __post_init__(self) -> None:
        for name in ("steps", "draws_per_step", "needs_transition", "needs_standard_normals"):
            object.__setattr__(self, name, getattr(self.corrector, name))

    def step(self, model: Model, x: Tensor, interval: Interval, z: Tensor, past: Any) -> tuple[Tensor, Tensor, Any]:
        """The corrector's step for u."""
        u = past.u if past is not None and past.x is x else self.filter.inverse(x)
        u, mean, inner = self.corrector.step(
            _Filtered(model, self.filter), u, interval, z, None if past is None else past.inner
        )
        x = self.filter(u)
        return x, self.filter(mean), _Past(x, u, inner)


@dataclass(frozen=True)
class _Past:
    """The state x, the same in the coordinates u, and the value of the corrector."""

    x: Tensor
    u: Tensor
    inner: Any


class _Filtered(Model):
    """The model of u, with the score M^T s(M u). The energy is that of x, up to a constant."""

    def __init__(self, model: Model, filter: Filter) -> None:
        self.model, self.filter, self.counted = model, filter, model.counted

    def score(self, x: Tensor, at: Instant) -> Tensor:
        return self.filter.adjoint(self.model.score(self.filter(x), at))

    def energy_and_score(self, x: Tensor, at: Instant) -> tuple[Tensor, Tensor]:
        energy, score = self.model.energy_and_score(self.filter(x), at)
        return energy, self.filter.adjoint(score)

    def noise(self, x: Tensor, at: Instant) -> Tensor:
        return self.score(x, at) * -at.sigma

    def data(self, x: Tensor, at: Instant) -> Tensor:
        return self.filter.inverse(self.model.data(self.filter(x), at))
