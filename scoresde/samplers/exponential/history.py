r"""The polynomial through the previous predictions of a multistep method, for scalar coefficients.

With lambda = ln(alpha / sigma) and k = 1 + eta^2, a step from lambda_t over h to lambda_s is

.. math::

    x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta^2 h} x_t
        + \alpha_s \int_0^h k\, e^{-k (h - \tau)} D(\lambda_t + \tau)\, d\tau + z.

D is the polynomial through the predictions D_j of the data at lambda_t + tau_j. The integral is sum_j w_j D_j, with the
weights

.. math::

    \sum_j w_j \tau_j^i = \int_0^h k\, e^{-k (h - \tau)} \tau^i d\tau = k\, h^{i+1}\, i!\, \varphi_{i+1}(-k h),
    \qquad i = 0, 1, \dots

phi_i are the phi-functions of exponential integrators. Zhao et al. 2023 (arXiv:2302.04867) write this system as R_p rho
= b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scoresde.samplers.instants import Interval

_TERMS = 20
"""Number of terms in the series of phi, for arguments of size at most 1. The error is below 1e-19."""


def phi(order: int, z: float) -> float:
    """phi_m(z) = sum_n z^n / (n + m)!.

    phi_0(z) = e^z, and phi_m(z) = (phi_(m-1)(z) - 1 / (m - 1)!) / z.

    Args:
        order: m.
        z: The argument.

    Returns:
        The value.
    """
    if abs(z) <= 1.0:
        term = total = 1.0 / math.factorial(order)
        for n in range(1, _TERMS):
            term *= z / (n + order)
            total += term
        return total
    value = math.exp(z)
    for m in range(1, order + 1):
        value = (value - 1.0 / math.factorial(m - 1)) / z
    return value


def polynomial_weights(nodes: Sequence[float], h: float, k: float) -> list[float]:
    """The weights w_j above, by the algorithm of Bjorck and Pereyra for Vandermonde systems.

    Args:
        nodes: The tau_j.
        h: Length of the step in lambda.
        k: 1 + eta^2.

    Returns:
        The w_j.
    """
    n = len(nodes)
    w = [k * h ** (i + 1) * math.factorial(i) * phi(i + 1, -k * h) for i in range(n)]
    for j in range(n - 1):
        for i in range(n - 1, j, -1):
            w[i] -= nodes[j] * w[i - 1]
    for j in range(n - 2, -1, -1):
        for i in range(j + 1, n):
            w[i] /= nodes[i] - nodes[i - j - 1]
        for i in range(j, n - 1):
            w[i] -= w[i + 1]
    return w


@dataclass(frozen=True)
class History:
    """The predictions that a step used, the latest one first, and their weights.

    Attributes:
        interval: The step.
        eta: Amount of noise of the step.
        lams: The lambda of each prediction.
        data: The predictions, each (B, *state).
        weights: alpha_s w_j for each prediction.
    """

    interval: Interval
    eta: float
    lams: tuple[float, ...]
    data: tuple[Tensor, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, interval: Interval, eta: float, data: Tensor, past: History | None, order: int) -> History:
        """The prediction ``data`` at the start of the step and those of ``past``, at most ``order`` in total."""
        lams: tuple[float, ...] = (interval.at.lam,)
        known: tuple[Tensor, ...] = (data,)
        if past is not None:
            lams, known = (lams + past.lams)[:order], (known + past.data)[:order]
        return cls(interval, eta, lams, known, _weights(interval, eta, lams))

    def corrected(self, x: Tensor, data: Tensor, lam: float) -> Tensor:
        """Correct the end of the step: use the polynomial that also goes through the prediction made there.

        Args:
            x: (B, *state), the end of the step.
            data: (B, *state), the prediction of the data there.
            lam: lambda there.

        Returns:
            (B, *state), the corrected state.
        """
        new, *others = _weights(self.interval, self.eta, (lam, *self.lams))
        x = x.add(data, alpha=new)
        for before, weight, other in zip(self.data, self.weights, others, strict=True):
            x.add_(before, alpha=other - weight)
        return x


def _weights(interval: Interval, eta: float, lams: Sequence[float]) -> tuple[float, ...]:
    at, to = interval.at, interval.to
    nodes = [lam - at.lam for lam in lams]
    return tuple(to.alpha * w for w in polynomial_weights(nodes, to.lam - at.lam, 1.0 + eta**2))
