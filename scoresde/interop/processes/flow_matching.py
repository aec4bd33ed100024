r"""Schedulers of flow_matching (facebookresearch/flow_matching).

Its time s runs from 0 (noise) to 1 (data); here t = 1 - s. A scheduler returns alpha_s, sigma_s and their derivatives::

    x_s = alpha_s x_1 + sigma_s x_0        x_1 is the data, x_0 ~ N(0, I) the source

The scale is the same as here. The library has no SDE and no prior of its own: the user draws the source, usually
from N(0, I).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scoresde.interop.processes.methods import check_methods
from scoresde.interop.processes.path import Path, PathSDE


class FlowMatchingSDE(PathSDE):
    r"""Process of a scheduler of flow_matching.

    .. math::
        x_t = \alpha_{1-t}\, x_0 + \sigma_{1-t}\, z, \qquad t \in [0, 1 - \epsilon]

    The derivatives of the scheduler give F and g, see `scoresde.interop.processes.path`.

    Args:
        scheduler: A scheduler, e.g. ``CondOTScheduler()``, or an ``AffineProbPath``, whose scheduler is used.
        epsilon: 1 - T, in (0, 1/2].

    Raises:
        TypeError: If ``scheduler`` is not an object of this kind.

    References:
        Lipman et al. 2024, Flow matching guide and code, arXiv:2412.06264.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from scoresde.interop import FlowMatchingSDE
        >>> def straight(s):  # what flow_matching's CondOTScheduler returns
        ...     one = torch.ones_like(s)
        ...     return SimpleNamespace(alpha_t=s, sigma_t=1 - s, d_alpha_t=one, d_sigma_t=-one)
        >>> FlowMatchingSDE(straight).drift_coefficient(torch.tensor(0.5))
        tensor(-2.)
    """

    def __init__(self, scheduler: Any, epsilon: float = 1e-3) -> None:
        wanted = "a scheduler of flow_matching, or an AffineProbPath"
        check_methods("scheduler", scheduler, (), wanted)
        self.scheduler = getattr(scheduler, "scheduler", scheduler)
        check_methods("scheduler", self.scheduler, ("__call__",), wanted)
        super().__init__(epsilon)

    def path(self, t: Tensor) -> Path:
        out = self.scheduler(1.0 - t)
        return Path(out.alpha_t, out.sigma_t, -out.d_alpha_t, -out.d_sigma_t)
