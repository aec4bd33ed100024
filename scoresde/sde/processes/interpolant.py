"""Linear interpolation between data and noise as a diffusion process: the path of flow matching and rectified flow.

The path and its SDE are::

    x_t = (1 - t) x_0 + t z        alpha = 1 - t        sigma = t        t in [0, T],  T = 1 - epsilon

    dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dw

(Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003; Albergo & Vanden-Eijnden 2022,
arXiv:2209.15571.) The velocity of these papers, E[z - x_0 | x_t], is the drift of the probability flow.

F and g have a pole at t = 1, where x_t no longer depends on x_0. The drift of the probability flow has none: F x and
g^2 score / 2 are each 1 / (1 - t) times larger than their difference. The last time is therefore T = 1 - epsilon, where
float32 computes the difference with four digits for the default epsilon = 1e-3. The prior is the noise of the kernel at
T, N(0, T^2 I). The error of this prior per coordinate is::

    x_0^2 (epsilon / T)^2 / 2    nats for data in one point: 5e-7 for |x_0| = 1
    (epsilon / T)^4 / 4          nats for N(0, 1) data: 2.5e-13        with N(0, I) as prior: epsilon^2 = 1e-6

Between two times std^2 = t^2 - (alpha_t s / alpha_s)^2 = (t - s) / (1 - s) (t + alpha_t s / alpha_s).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.sde.linalg.kernel import ScalarKernel
from scoresde.sde.scalar import ScalarSDE


@dataclass(frozen=True)
class LinearInterpolantSDE(ScalarSDE):
    r"""Linear interpolation :math:`x_t = (1 - t) x_0 + t z` between data and noise, the path of flow matching.

    .. math::
        dx = -\frac{x}{1 - t}\, dt + \sqrt{\frac{2 t}{1 - t}}\, dw, \qquad \alpha(t) = 1 - t, \qquad \sigma(t) = t,
        \qquad t \in [0, 1 - \epsilon]

    The prior is :math:`N(0, T^2 I)` with :math:`T = 1 - \epsilon`.

    Args:
        epsilon: Coefficient alpha(T) of the data at the last time, in (0, 1/2].

    References:
        - Lipman et al. 2022, Flow matching for generative modeling, arXiv:2210.02747.
        - Liu et al. 2022, Flow straight and fast: learning to generate and transfer data with rectified flow,
          arXiv:2209.03003.
        - Albergo & Vanden-Eijnden 2022, Building normalizing flows with stochastic interpolants, arXiv:2209.15571.
    """

    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, above=0.0, most=0.5)

    @property
    def T(self) -> float:  # type: ignore[override]
        """The last time, 1 - epsilon."""
        return 1.0 - self.epsilon

    def alpha(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return t.clamp(min=0.0)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return -1.0 / (1.0 - t)

    def diffusion(self, t: Tensor) -> Tensor:
        return (2.0 * self.sigma(t) / (1.0 - t)).sqrt()

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        # ln(t / (1 - t)) = u
        return torch.sigmoid(u.to(torch.float64)).clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        a = (1.0 - t) / (1.0 - s)
        return ScalarKernel(a, ((t - s) / (1.0 - s) * (t + a * s)).clamp(min=0.0).sqrt())
