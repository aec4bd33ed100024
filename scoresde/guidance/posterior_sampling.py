r"""Diffusion posterior sampling: guidance by the distance of the denoised data from a measurement.

.. math::
    g(x_t, t) = -\nabla_{x_t} |y - A(\hat x(x_t))|, \qquad \hat x = E[x_0 \mid x_t]

The paper takes steps of size zeta / |y - A x^| along the gradient of the squared distance, which is 2 zeta times this term. It is
not the gradient of a log-likelihood: the weight decides how closely the samples fit y, whatever the noise of the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_finite, shown
from scoresde.conditions import rows_of
from scoresde.guidance.base import Guidance, Weight
from scoresde.guidance.likelihoods import gradient
from scoresde.guidance.measured import check_fits, check_operator, rows_of_measurement
from scoresde.sde import LinearSDE


@dataclass(frozen=True)
class DiffusionPosteriorSampling(Guidance):
    r"""Guidance by the distance of the denoised data from a measurement (DPS).

    .. math::
        \tilde s(x, t) = s(x, t) - w(t) \nabla_x |y - A(E[x_0 \mid x_t = x])|

    The samples approximate those of p(x | y), in no precise sense. The best weight depends on the problem and must be found by
    trial; ``TweedieMoments`` needs no weight. An evaluation needs one vector-Jacobian product of the score. The operator need not
    be linear. In the paper the term is added once for each step of DDPM, without the factor that multiplies the score in this
    step. Here it is a part of the score, so the weight does not depend on the number of steps, and is not the paper's zeta.

    Args:
        score: The score that is guided.
        operator: The measurement A, (B, *event) -> (B, *measurement): an operator, or any function that is differentiable by
            autograd.
        measurement: The measurement y, with one row for each sample, or a single row for all, (1, *measurement).
        weight: The weight w > 0: a number, or a function of t. Larger weights fit y more closely.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.

    Raises:
        TypeError: If the process of the score is not a ``LinearSDE``.
        ValueError: If the operator is random; when called, if shapes do not fit, or the operator has no graph.

    References:
        Chung et al. 2023, "Diffusion posterior sampling for general noisy inverse problems", arXiv:2209.14687.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> first = DiffusionPosteriorSampling(score, lambda x: x[:, :1], torch.tensor([[0.5]]), weight=3.0)
        >>> first(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    score: Callable[..., Tensor]
    operator: Callable[[Tensor], Tensor]
    measurement: Tensor
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.sde, LinearSDE):
            raise TypeError(
                f"score={shown(self.score)} has the process {self.sde!r}, which does not define E[x_0 | x_t]: give the score "
                "of a LinearSDE"
            )
        check_operator(self.operator, linear=False)
        check_batch("measurement", self.measurement)
        check_finite("measurement", self.measurement)

    def guided(self, x: Tensor, t: Tensor, w: Tensor) -> Tensor:
        score, direction = self._both(x, t)
        return score + w * direction

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        return self._both(x, t)[1]

    def _both(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The score and the term, by one evaluation of the score."""
        sde, found = self.sde, []
        assert isinstance(sde, LinearSDE)  # checked at the start

        def value(at: Tensor) -> Tensor:
            found.append(self.score(at, t))
            return -self._distance(sde.extract_data(sde.data_from_score(at, t, found[0])))

        direction = gradient(value, x)[1]
        return found[0].detach(), direction

    def _distance(self, data: Tensor) -> Tensor:
        """|y - A x_0| of each sample."""
        seen = self.operator(data)
        check_fits(seen, self.measurement, data)
        distance: Tensor = torch.linalg.vector_norm((self.measurement - seen).flatten(1), dim=1)
        return distance

    def select_rows(self, index: Tensor) -> DiffusionPosteriorSampling:
        y = rows_of_measurement(self.measurement, index)
        return self._with(score=rows_of(self.score, index), measurement=y)
