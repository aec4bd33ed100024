"""The straight path between data and noise as a diffusion process: flow matching's path, rectified flow's coupling.

    x_t = (1 - t) x_0 + t z        alpha = 1 - t        sigma = t        t in [0, T],  T = 1 - epsilon

    dx = -x / (1 - t) dt + sqrt(2 t / (1 - t)) dw

(Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003; Albergo & Vanden-Eijnden 2022, arXiv:2209.15571.) Its
velocity in their sense, E[z - x_0 | x_t], is the drift of the probability flow.

F and g have a pole at t = 1, where nothing is left of x_0, though the flow's drift has none: F x and g^2 score / 2 are each
1 / (1 - t) times larger than their difference. So time ends at T, where float32 still keeps four digits of it for the default
epsilon = 1e-3, and the prior is the kernel's noise there, N(0, T^2 I). Per coordinate that costs

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
    """x_t = (1 - t) x_0 + t z.

    epsilon: what is left of x_0 at the end, in (0, 1/2].
    """

    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon, above=0.0, most=0.5)

    @property
    def T(self) -> float:  # type: ignore[override]
        """1 - epsilon."""
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
        """The t in [0, T] at which ln(t / (1 - t)) = u, float64."""
        return torch.sigmoid(u.to(torch.float64)).clamp(0.0, self.T)

    def _transition(self, s: Tensor, t: Tensor) -> ScalarKernel:
        a = (1.0 - t) / (1.0 - s)
        return ScalarKernel(a, ((t - s) / (1.0 - s) * (t + a * s)).clamp(min=0.0).sqrt())
