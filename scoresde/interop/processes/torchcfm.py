r"""Conditional flow matchers of torchcfm (atong01/conditional-flow-matching).

Its time s runs from 0 (source) to 1 (data); here t = 1 - s. A matcher defines, for a pair of a source point y and a data
point x_1, a Gaussian path and its velocity, linear in y, x_1 and x::

    x_s | y, x_1 ~ N(m_0 y + m_1 x_1, tau^2 I)        u(x, s | y, x_1) = c_0 y + c_1 x_1 + c x

For a source y ~ N(0, I) that is independent of the data, the path given the data alone is::

    x_s | x_1 ~ N(m_1 x_1, (m_0^2 + tau^2) I)        E[y | x_s, x_1] = k (x_s - m_1 x_1),   k = m_0 / (m_0^2 + tau^2)

and its velocity is the mean of u over y, which is linear in x_1 and x again. The coefficients are read from
``compute_mu_t``, ``compute_sigma_t`` and ``compute_conditional_flow`` at unit vectors.

A matcher with an optimal-transport coupling draws y and x_1 together. With the coupling, the path given x_1 depends on
the data set, so it has no kernel that could be checked. The adapter describes the paths of such a matcher for
independent pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde.interop.processes.methods import as_column, check_methods
from scoresde.interop.processes.path import Path, PathSDE

_METHODS = ("compute_mu_t", "compute_sigma_t", "compute_conditional_flow")


class TorchCFMSDE(PathSDE):
    r"""Process of a conditional flow matcher of torchcfm, for a source N(0, I) that is independent of the data.

    .. math::
        x_t = m_1 x_0 + \sqrt{m_0^2 + \tau^2}\, z, \qquad t \in [0, 1 - \epsilon]

    with m_0, m_1 and tau of the matcher at its time 1 - t. Its velocity gives F and g.

    Args:
        matcher: A matcher, e.g. ``ConditionalFlowMatcher(sigma=0.1)``.
        epsilon: 1 - T, in (0, 1/2].

    Raises:
        TypeError: If ``matcher`` is not an object of this kind.

    References:
        Tong et al. 2023, Improving and generalizing flow-based generative models with minibatch optimal transport,
        arXiv:2302.00482.
    """

    def __init__(self, matcher: Any, epsilon: float = 1e-3) -> None:
        check_methods("matcher", matcher, _METHODS, "a conditional flow matcher of torchcfm")
        self.matcher = matcher
        super().__init__(epsilon)

    def path(self, t: Tensor) -> Path:
        s = 1.0 - as_column(t)
        zero, one = torch.zeros_like(s), torch.ones_like(s)

        def mean(y: Tensor, x1: Tensor) -> Tensor:
            return self._column(self.matcher.compute_mu_t(y, x1, s[:, 0]), s)

        def flow(y: Tensor, x1: Tensor, x: Tensor) -> Tensor:
            return self._column(self.matcher.compute_conditional_flow(y, x1, s[:, 0], x), s)

        m_0, m_1 = mean(one, zero), mean(zero, one)
        tau = self._column(self.matcher.compute_sigma_t(s[:, 0]), s)
        c_0, c_1, c = flow(one, zero, zero), flow(zero, one, zero), flow(zero, zero, one)
        variance = m_0**2 + tau**2
        k = m_0 / variance
        # the velocity given the data: on_data x_1 + on_state x
        on_data, on_state = c_1 - c_0 * k * m_1, c + c_0 * k
        sigma = variance.sqrt()
        slopes = on_data + on_state * m_1, on_state * sigma
        return Path(*(value.reshape(t.shape) for value in (m_1, sigma, -slopes[0], -slopes[1])))

    @staticmethod
    def _column(value: Any, s: Tensor) -> Tensor:
        """A coefficient as a column: a matcher may return a number, one value for each time, or a state ``(B, 1)``."""
        column: Tensor = torch.as_tensor(value, dtype=s.dtype).reshape(-1, 1)
        return column.expand(s.shape)
