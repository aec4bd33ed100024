r"""Samplers whose steps use all earlier states (generalized Gaussian diffusion models, GGDM).

Let t_0 > t_1 > ... > t_K be times and :math:`\hat x_0` the model's E[x_0 | x_(t_k)]. A step is

.. math:: x_{t_{k+1}} = c_k \hat x_0(x_{t_k}, t_k) + \sum_{j \le k} d_{kj} x_{t_j} + s_k z_k

DDIM is the case d_kj = 0 for j < k. Its coefficients are given by the process; here all of them are free. :func:`fit_ggdm`
fits them to data.

References:
    Watson, Chan, Ho, Norouzi 2022, "Learning fast samplers for diffusion models by differentiating through sample quality",
    arXiv:2202.05830.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_finite, check_number, check_sizes, shown
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.grid_sampler import as_model
from scoresde.sde import SDE, LinearSDE, ScalarSDE


@dataclass(frozen=True, eq=False)
class GGDM(Sampler):
    """The sampler above: K evaluations of the score, at all times but the last.

    The coefficients may have a graph. With ``differentiable=True`` the samples then have a graph to them.

    Args:
        times: Descending times, (K + 1,). The first is the time of the start.
        c: Coefficients of E[x_0 | x_t], (K,).
        d: Coefficients of the states, (K, K). d[k, j] for j > k is not used and must be 0.
        s: Coefficients of the noise, (K,). If all are 0, the sampler draws no noise.

    Raises:
        ValueError: If the shapes do not fit together, the times do not descend, or a number is not finite.

    References:
        Watson et al. 2022, arXiv:2202.05830.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> sampler = GGDM.ddim(VPSDE(), torch.linspace(1.0, 0.001, 6))
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> sampler(VPSDE(), score, (3, 2)).nfe
        5
    """

    times: Tensor
    c: Tensor
    d: Tensor
    s: Tensor

    takes_hooks = True
    differentiable = True

    def __post_init__(self) -> None:
        check_sizes("c", self.c, "K")
        steps = len(self.c)
        check_sizes("times", self.times, steps + 1)
        check_sizes("d", self.d, steps, steps)
        check_sizes("s", self.s, steps)
        for name in ("times", "c", "d", "s"):
            check_finite(name, getattr(self, name).detach()[None])
        times = self.times.detach()
        if bool((times.diff() >= 0).any()) or float(times[-1]) < 0:
            raise ValueError(f"times={times.tolist()} is not allowed: give descending times >= 0")
        if bool(self.d.detach().triu(1).any()):
            raise ValueError("d has coefficients of states that are not known yet: give 0 for d[k, j] with j > k")

    def __repr__(self) -> str:
        noise = "with" if self.stochastic else "without"
        return (
            f"GGDM({len(self.c)} steps from t={float(self.times[0]):.3g} to {float(self.times[-1]):g}, {noise} noise)"
        )

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise."""
        return bool(self.s.any())

    @classmethod
    def ddim(cls, sde: ScalarSDE, times: Tensor, *, eta: float = 0.0) -> GGDM:
        """The coefficients of DDIM.

        Args:
            sde: The process.
            times: Descending times, (K + 1,). The result has a graph to them.
            eta: Scale of the noise, in [0, 1].

        Returns:
            The sampler.

        Raises:
            TypeError: If the process does not have scalar coefficients.
            ValueError: If an argument is not allowed.
        """
        scalar_process(sde, "GGDM")
        check_sizes("times", times, "K")
        check_number("eta", eta, least=0.0, most=1.0)
        if len(times) < 2:
            raise ValueError(f"times={shown(times)} is not allowed: give two or more descending times")
        times = times.to("cpu", torch.float64)
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        a = alpha[:-1] / alpha[1:]
        step = (sigma[:-1].square() - (a * sigma[1:]).square()).clamp(min=0.0)
        posterior = step.sqrt() * sigma[1:] / sigma[:-1] if eta else torch.zeros_like(step)
        carried = (sigma[1:].square() - (eta * posterior).square()).clamp(min=0.0).sqrt() / sigma[:-1]
        return cls(times, alpha[1:] - carried * alpha[:-1], carried.diag(), eta * posterior)

    def detached(self) -> GGDM:
        """The sampler without a graph.

        Returns:
            A sampler with the same numbers.
        """
        return GGDM(self.times.detach(), self.c.detach(), self.d.detach(), self.s.detach())

    def check_process(self, sde: SDE) -> None:
        scalar_process(sde, type(self).__name__)
        if float(self.times[0]) > sde.T * (1.0 + 1e-6):
            raise ValueError(
                f"times[0]={float(self.times[0]):g} is not allowed for {sde!r}: give times of at most {sde.T:g}"
            )

    def start_time(self, sde: SDE) -> float:
        return float(self.times[0])

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        process, starts = scalar_process(sde, type(self).__name__), self.times[:-1]
        alpha, variance = process.alpha(starts).to(x), process.sigma(starts).square().to(x)
        times, c, d, s = (value.to(x) for value in (self.times, self.c, self.d, self.s))
        native, steps, states = as_model(score.score, process), range(len(c)), [x]
        draws = noise.normals(x.shape[1:], steps=steps, purpose="predictor", dtype=x.dtype) if self.stochastic else None
        for k in steps:
            t = times[k].expand(len(x))
            if native is None:
                x0 = (x + variance[k] * score(x, t)) / alpha[k]
            else:
                x0 = score.evaluate(native.denoised, x, t, "data")
            x = c[k] * x0 + sum(d[k, j] * states[j] for j in range(k + 1))
            if draws is not None:
                x = x + s[k] * next(draws)
            x = score.hooked(k + 1, times[k + 1], x)
            callback(k + 1, times[k + 1].detach(), x)
            states.append(x)
        return x, self.times.detach()


def scalar_process(sde: SDE, user: str) -> ScalarSDE:
    """``sde``. Raises TypeError unless the process has scalar coefficients."""
    if not isinstance(sde, ScalarSDE):
        raise TypeError(f"sde={sde!r} is not allowed: {user} needs a process with scalar coefficients, such as VPSDE()")
    return sde
