r"""Diffusion processes of deepinv (``deepinv.sampling``): EDM, VP, VE, Song's general form, and flow matching.

Time t runs from 0 (data) to ``process.T`` (noise), as here. The noise is stated relative to the scale::

    x_t ~ N(s(t) x_0, s(t)^2 sigma(t)^2 I)        so alpha = s and sigma = s sigma(t) here

    dx = f(x, t) dt + g(t) dw        ``forward_drift`` and ``forward_diffusion``: s' x / s and s sqrt(2 sigma sigma')

The library derives f and g from s' and sigma' that each class states in closed form. ``sample_init`` draws the prior.
deepinv's own parameter ``alpha`` is the amount of noise of its reverse SDE, and has no part in the forward process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_batch, expand
from scoresde.interop.processes.methods import DRAWS, check_methods
from scoresde.sde import ScalarSDE

_METHODS = ("T", "scale_t", "sigma_t", "forward_drift", "forward_diffusion", "sample_init")


class DeepinvSDE(ScalarSDE):
    r"""Process of a diffusion of deepinv.

    .. math::
        x_t = s(t)\, x_0 + s(t)\, \sigma(t)\, z, \qquad t \in [0, T]

    Args:
        process: A diffusion, e.g. ``deepinv.sampling.VariancePreservingDiffusion()``. It needs no denoiser.

    Raises:
        TypeError: If ``process`` is not an object of this kind.
    """

    def __init__(self, process: Any) -> None:
        check_methods("process", process, _METHODS, "a diffusion of deepinv.sampling that has scale_t and sigma_t")
        super().__init__(float(process.T))
        self.process = process

    def _times(self, t: Tensor) -> Tensor:
        self.check_time(t)
        return t.to(torch.float64).clamp(0.0, self.T)

    def alpha(self, t: Tensor) -> Tensor:
        out: Tensor = self.process.scale_t(self._times(t))
        return out.to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        times = self._times(t)
        out: Tensor = self.process.scale_t(times) * self.process.sigma_t(times)
        return out.to(t.dtype)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        check_batch("x", x)
        self.check_time(t, len(x))
        out: Tensor = self.process.forward_drift(x, expand(self._times(t), x))
        return out.to(x.dtype)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        times = self._times(t)
        out: Tensor = self.process.forward_drift(torch.ones_like(times), times)
        return out.to(t.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        out: Tensor = self.process.forward_diffusion(self._times(t))
        return out.to(t.dtype)

    @torch.no_grad()
    def prior_std(self) -> float:
        """Standard deviation of the samples of ``sample_init``.

        They are compared with the normal numbers of the same generator, so that the value is exact if ``sample_init``
        multiplies them by a constant.
        """
        seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
        drawn = self.process.sample_init((DRAWS, 1), rng=seeded[0]).to(torch.float64)
        noise = torch.randn((DRAWS, 1), generator=seeded[1], dtype=torch.float64)
        return float(drawn.square().mean().sqrt() / noise.square().mean().sqrt())
