r"""Processes with the coefficients of another process and noise of another distribution::

    x_t = alpha(t) x_0 + sigma(t) n_t

alpha and sigma are those of a process with scalar coefficients. n_t has mean 0, variance 1 and independent coordinates. A
``ProcessNoise`` defines its distribution, and that of the noise between two times s < t,

.. math::
    x_t = a\, x_s + v\, n_{s,t}, \qquad a = \alpha_t / \alpha_s, \qquad v^2 = \sigma_t^2 - a^2 \sigma_s^2

n_t is the noise between the data and t. In the variance tau = sigma^2 / alpha^2 of x_t / alpha as the clock, the choices are:

- ``GammaNoise``: a gamma process. The noise between s and t is Gamma((tau_t - tau_s) / theta_0^2, theta_0), centered, so that
  increments add up to increments. For DDPM's chain it is that of Nachmani et al., k_t = beta_t / (abar_t theta_0^2) and
  theta_t = sqrt(abar_t) theta_0.
- ``StepNoise``: noise of any distribution in each step of a chain. The noise between two instants is the sum over the steps,
  with weights proportional to sqrt(tau_i - tau_(i-1)).
- ``LevelNoise``: noise of one distribution at every level. The levels are not joined by a chain, and annealed Langevin dynamics
  needs none.

What a Gaussian gives and another distribution does not: the score is not -E[n_t | x_t] / sigma. ``NoiseRegression`` trains the
expectation, and ancestral sampling needs only this. For independent increments of an infinitely divisible distribution, such as
``GammaNoise``, the increments given their sum have expectations proportional to their variances, so that ancestral sampling's
mean E[x_s | x_t] = (x_t - v^2 E[n_t | x_t] / sigma_t) / a is exact. Its noise is not: the reverse of a gamma process has jumps
whose rates depend on the state, and many steps of a mean plus noise do not converge to it (docs/noise_distributions.md has the
bias). ``DenoisingScoreMatching`` trains the score with the target -score(n_t), and Langevin dynamics needs only this. The
probability flow, exact likelihoods and all other samplers need Gaussian noise. They raise TypeError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, shown
from scoresde.noise import NoiseSource
from scoresde.noise_distributions import CenteredGamma, DensityNoise, NoiseDistribution
from scoresde.sde.linalg.kernel import GaussianKernel, ScalarKernel
from scoresde.sde.scalar import Chain, ScalarSDE

F64 = torch.float64


class ProcessNoise(ABC):
    """Distribution of the noise of a process between any two times."""

    @abstractmethod
    def between(self, sde: ScalarSDE, s: Tensor | None, t: Tensor) -> NoiseDistribution:
        """The noise between s and t.

        Args:
            sde: The process, which gives the variances.
            s: Earlier times, ``()`` or ``(B,)``. None for the data.
            t: Later times, in the shape of s.

        Returns:
            The distribution, of variance 1.

        Raises:
            TypeError: If the distribution does not suit the process.
        """


@dataclass(frozen=True)
class GammaNoise(ProcessNoise):
    r"""Noise of a gamma process.

    .. math::
        n_{s,t} = \frac{g - k}{\sqrt{k}}, \qquad g \sim \mathrm{Gamma}(k, 1), \qquad
        k = \frac{\tau_t - \tau_s}{\theta_0^2}, \qquad \tau = \sigma^2 / \alpha^2

    Args:
        theta_0: Scale, > 0. The skewness of the noise is 2 theta_0 / sqrt(tau): noise that is much larger than theta_0,
            compared with the data, is close to a Gaussian.

    References:
        Nachmani, San-Roman, Wolf 2021, Denoising diffusion gamma models, arXiv:2110.05948.
    """

    theta_0: float = 0.001

    def __post_init__(self) -> None:
        check_number("theta_0", self.theta_0, above=0.0)

    def between(self, sde: ScalarSDE, s: Tensor | None, t: Tensor) -> CenteredGamma:
        span = _clock(sde, t) if s is None else _clock(sde, t) - _clock(sde, s)
        return CenteredGamma.standard(span / self.theta_0**2)


@dataclass(frozen=True)
class StepNoise(ProcessNoise):
    """Noise of one distribution in each step of a chain, and its sum over the steps between two instants.

    The sum of t steps is drawn from t draws for each coordinate. Its excess kurtosis is that of a step divided by about t.

    Args:
        noise: Distribution of a step, of variance 1, such as a ``NormalMixture``.

    References:
        Nachmani, San-Roman, Wolf 2021, Non Gaussian denoising diffusion models, arXiv:2106.07582.
    """

    noise: DensityNoise

    def __post_init__(self) -> None:
        _check_standard("noise", self.noise)

    def between(self, sde: ScalarSDE, s: Tensor | None, t: Tensor) -> NoiseDistribution:
        if not isinstance(sde, Chain):
            raise TypeError(f"{self!r} is the noise of the steps of a chain: give NonGaussianSDE(...).discretize(N)")
        last = sde.index(t)
        first = torch.zeros_like(last) if s is None else sde.index(s) + 1
        tau = _clock(sde, sde.time(torch.arange(sde.steps, device=t.device)))
        variances = torch.diff(tau, prepend=tau.new_zeros(1))
        # each row begins with its own first step, so that the keys of a sample's draws do not depend on the other samples
        i = first[..., None] + torch.arange(int((last - first).max()) + 1, device=t.device)
        part = torch.where(i <= last[..., None], variances[i.clamp(max=sde.steps - 1)], 0.0)
        return self.noise.sum_of_steps((part / part.sum(-1, keepdim=True)).sqrt())


@dataclass(frozen=True)
class LevelNoise(ProcessNoise):
    """Noise of one distribution at every level.

    Args:
        noise: The distribution, of variance 1, such as a ``GeneralizedNormal``.

    References:
        Deasy, Simidjievski, Lio 2021, Heavy-tailed denoising score matching, arXiv:2112.09788.
    """

    noise: DensityNoise

    def __post_init__(self) -> None:
        _check_standard("noise", self.noise)

    def between(self, sde: ScalarSDE, s: Tensor | None, t: Tensor) -> DensityNoise:
        return self.noise


class _OtherNoise(ScalarSDE):
    """A process with a ``ProcessNoise``: its draws and its target."""

    gaussian = False
    noise: ProcessNoise

    def sample_noise(
        self, source: NoiseSource, shape: Sequence[int], t: Tensor, *, step: int, purpose: str, dtype: torch.dtype
    ) -> Tensor:
        return self.noise.between(self, None, t).sample(source, shape, step=step, purpose=purpose, dtype=dtype)

    def noise_target(self, noise: Tensor, t: Tensor) -> Tensor:
        found = self.noise.between(self, None, t)
        if not isinstance(found, DensityNoise):
            raise TypeError(
                f"the noise {self.noise!r} has no density in closed form, and denoising score matching needs its score: give "
                "NoiseRegression"
            )
        return -found.score(noise)

    def step_noise(self, source: NoiseSource, times: Tensor) -> NoiseSource:
        return _Increments(source.seed, source.indices, self, times)

    def prior_sample(
        self,
        shape: Sequence[int],
        *,
        noise: NoiseSource | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tensor:
        noise = noise or NoiseSource.of(seed, shape[0], device=device)
        end = torch.tensor(self.T, dtype=F64, device=noise.indices.device)
        return self.prior_std() * self.sample_noise(noise, shape[1:], end, step=0, purpose="prior", dtype=dtype)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        end = torch.tensor(self.T, dtype=F64, device=x.device)
        found = self.noise.between(self, None, end)
        if not isinstance(found, DensityNoise):
            raise TypeError(f"the noise {self.noise!r} has no density in closed form")
        std = self.prior_std()
        return found.log_prob(x / std) - x[0].numel() * torch.tensor(std, dtype=F64).log().to(x)


class NonGaussianSDE(_OtherNoise):
    r"""A process whose noise is not Gaussian: x_t = alpha(t) x_0 + sigma(t) n_t.

    .. math::
        x_t = \alpha(t)\, x_0 + \sigma(t)\, n_t, \qquad E\, n_t = 0, \qquad E\, n_t^2 = 1

    Its kernels have the first two moments of the noise. ``NoiseRegression`` and ``DenoisingScoreMatching`` train models of it.
    ``Ancestral`` adds noise of this distribution, and Langevin dynamics starts from it. Other samplers and likelihoods need
    Gaussian noise and raise TypeError.

    Args:
        sde: The process with the coefficients alpha and sigma.
        noise: A ``ProcessNoise``: ``GammaNoise(theta_0)``, ``StepNoise(noise)`` or ``LevelNoise(noise)``.

    References:
        - Nachmani, San-Roman, Wolf 2021, arXiv:2106.07582 and arXiv:2110.05948.
        - Deasy, Simidjievski, Lio 2021, arXiv:2112.09788.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.losses import NoiseRegression
        >>> from scoresde.sde import GammaNoise, NonGaussianSDE
        >>> sde = NonGaussianSDE(VPSDE(), GammaNoise(theta_0=0.1))
        >>> NoiseRegression(sde, p=1)(lambda x, t: -x, torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    special = "noise of another distribution"

    def __init__(self, sde: ScalarSDE, noise: ProcessNoise) -> None:
        if isinstance(sde, Chain) or not sde.gaussian:
            raise ValueError(
                f"sde={sde!r} is not allowed: give a process in continuous time with Gaussian noise, and call "
                "discretize(N) on the result for a chain"
            )
        self.sde, self.noise, self.T = sde, noise, sde.T

    def alpha(self, t: Tensor) -> Tensor:
        return self.sde.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sde.sigma(t)

    def drift_coefficient(self, t: Tensor) -> Tensor:
        return self.sde.drift_coefficient(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sde.diffusion(t)

    def kernel(self, t: Tensor) -> ScalarKernel:
        return self.sde.kernel(t)

    def _transition(self, s: Tensor, t: Tensor) -> GaussianKernel:
        return self.sde._transition(s, t)

    def prior_std(self) -> float:
        return self.sde.prior_std()

    def log_noise(self, t: Tensor) -> Tensor:
        return self.sde.log_noise(t)

    def time_of_log_noise(self, u: Tensor) -> Tensor:
        return self.sde.time_of_log_noise(u)

    def discretize(self, steps: int) -> NonGaussianChain:
        """The chain of the given process, with the same noise.

        Args:
            steps: Number of steps N, >= 2.

        Returns:
            The chain, which is a process as well.
        """
        return NonGaussianChain(self, steps)


class NonGaussianChain(_OtherNoise, Chain):
    """Markov chain x_i = A_i x_(i-1) + L_i n_i whose noise is not Gaussian.

    Args:
        sde: The process in continuous time. The A_i and L_i are those of ``sde.sde.discretize(steps)``.
        steps: Number of steps N, >= 2.
    """

    def __init__(self, sde: NonGaussianSDE, steps: int) -> None:
        check_count("steps", steps, least=2)
        super().__init__(sde, steps)
        self.noise = sde.noise
        self._table = sde.sde.discretize(steps)

    def alpha(self, t: Tensor) -> Tensor:
        return self._table.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._table.sigma(t)

    def step(self, t: Tensor) -> ScalarKernel:
        return self._table.step(t)


@dataclass(frozen=True)
class _Increments(NoiseSource):
    """A source whose draws for a predictor are the noise of the steps between the descending ``times``, not normal numbers."""

    sde: _OtherNoise
    times: Tensor

    standard_normals = False

    def normal(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        plain = NoiseSource(self.seed, self.indices)
        if purpose != "predictor":
            return plain.normal(event_shape, step=step, purpose=purpose, dtype=dtype)
        device = self.indices.device
        t, s = self.times[step].to(device), self.times[step + 1].to(device)
        if float(_clock(self.sde, t)) <= float(_clock(self.sde, s)):  # both times belong to one instant of a chain
            return torch.zeros((len(self.indices), *event_shape), dtype=dtype, device=device)
        law = self.sde.noise.between(self.sde, s, t)
        return law.sample(plain, event_shape, step=step, purpose=purpose, dtype=dtype)


def _clock(sde: ScalarSDE, t: Tensor) -> Tensor:
    """tau = sigma^2 / alpha^2 in float64."""
    return (2.0 * sde.log_noise(t.to(F64))).exp()


def _check_standard(name: str, noise: object) -> None:
    """Raise TypeError or ValueError unless ``noise`` is a ``DensityNoise`` of variance 1."""
    if not isinstance(noise, DensityNoise):
        raise TypeError(
            f"{name}={shown(noise)} is not a DensityNoise: give NormalMixture(...), GeneralizedNormal(beta)"
        )
    variance = noise.variance
    if variance.ndim or abs(float(variance) - 1.0) > 1e-6:
        raise ValueError(f"{name}={noise!r} has variance {shown(variance)}: give a distribution of variance 1")
