r"""Vector-field estimators of sbi (sbi-dev/sbi): the processes of its score estimators and of its flow matching.

Time t runs from 0 (data) to ``t_max`` (noise), and::

    x_t ~ N(mean_t_fn(t) x_0, std_fn(t)^2 I)        dx = drift_fn(x, t) dt + diffusion_fn(x, t) dw

as here, so that alpha = mean_t_fn and sigma = std_fn. The prior is N(mean_base, std_base^2 I). For score estimators it
is the distribution at t_max of Gaussian data with the mean and standard deviation of the training data.

The functions of ``FlowMatchingEstimator`` do not change with t beyond ``effective_t_max`` = 0.99, to avoid the pole at 1.
The process ends there.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_number, expand
from scoresde.interop.processes.methods import as_column, check_methods
from scoresde.sde import ScalarSDE

_METHODS = ("mean_t_fn", "std_fn", "drift_fn", "diffusion_fn", "mean_base", "std_base", "t_max")


class SbiSDE(ScalarSDE):
    r"""Process of a vector-field estimator of sbi.

    .. math::
        x_t = m(t)\, x_0 + s(t)\, z, \qquad dx = f(x, t)\, dt + g(t)\, dw, \qquad t \in [0, T]

    Args:
        estimator: A ``VPScoreEstimator``, ``SubVPScoreEstimator``, ``VEScoreEstimator`` or ``FlowMatchingEstimator``,
            or an estimator of your own with the same methods. Its network is not used.
        T: The last time. None: the ``effective_t_max`` of the estimator's functions if they have one, and ``t_max``
            otherwise.
        prior_std: Standard deviation of the prior. None: ``std_base``, which must then be the same for all coordinates.

    Raises:
        TypeError: If ``estimator`` is not an object of this kind.
        ValueError: If ``std_base`` differs between coordinates and ``prior_std`` is not given.
    """

    def __init__(self, estimator: Any, T: float | None = None, prior_std: float | None = None) -> None:
        check_methods("estimator", estimator, _METHODS, "a vector-field estimator of sbi")
        limit = inspect.signature(estimator.mean_t_fn).parameters.get("effective_t_max")
        last = min([float(estimator.t_max), *([] if limit is None else [float(limit.default)])])
        super().__init__(last if T is None else T)
        self.estimator, self.given_prior_std = estimator, prior_std
        if prior_std is not None:
            check_number("prior_std", prior_std, above=0.0)
        elif bool((estimator.std_base != estimator.std_base.flatten()[0]).any()):
            raise ValueError(
                f"estimator has a base distribution with std_base={estimator.std_base.flatten().tolist()}: give "
                "prior_std, one number for all coordinates"
            )

    def _times(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return t.to(torch.float64).clamp(0.0, self.T)

    @torch.no_grad()
    def alpha(self, t: Tensor) -> Tensor:
        out: Tensor = self.estimator.mean_t_fn(self._times(t).reshape(-1))
        return out.reshape(t.shape).to(t.dtype)

    @torch.no_grad()
    def sigma(self, t: Tensor) -> Tensor:
        out: Tensor = self.estimator.std_fn(self._times(t).reshape(-1))
        return out.reshape(t.shape).to(t.dtype)

    @torch.no_grad()
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        check_batch("x", x)
        self.check_time(t, len(x))
        # times with the dimensions of x: some of sbi's functions do not add them
        out: Tensor = self.estimator.drift_fn(x, expand(self._times(t), x))
        return out.to(x.dtype).expand(x.shape)

    @torch.no_grad()
    def drift_coefficient(self, t: Tensor) -> Tensor:
        times = as_column(self._times(t))
        out: Tensor = self.estimator.drift_fn(torch.ones_like(times), times)
        return out.expand(times.shape).reshape(t.shape).to(t.dtype)

    @torch.no_grad()
    def diffusion(self, t: Tensor) -> Tensor:
        times = as_column(self._times(t))
        out: Tensor = self.estimator.diffusion_fn(torch.ones_like(times), times)
        return out.expand(times.shape).reshape(t.shape).to(t.dtype)

    def prior_std(self) -> float:
        """Standard deviation of the prior: the argument, or ``std_base``."""
        return float(self.given_prior_std or self.estimator.std_base.flatten()[0])

    def prior_mean(self) -> Tensor:
        """Mean ``mean_base`` of the prior, ``(1,)`` if it is the same for all coordinates, or ``(1, *event)``."""
        mean: Tensor = self.estimator.mean_base.detach().to(torch.float64)
        return mean.flatten()[:1] if bool((mean == mean.flatten()[0]).all()) else mean
