"""Gamma noise (Nachmani, San-Roman, Wolf 2021, arXiv:2106.07582 and arXiv:2110.05948), and keyed gamma samples.

Centered gamma noise::

    n = g - k theta,    g ~ Gamma(k, theta),    variance k theta^2,    support n > -k theta

    log p(n) = (k - 1) ln(1 + r) - k r - ln(k theta) + [k ln k - k - ln Gamma(k)],    r = n / (k theta)
    score    = -(n + theta) / (theta (n + k theta))

In the chain x_t = sqrt(1 - beta_t) x_{t-1} + n_t, the noise n_t has the shape k_t = beta_t / (abar_t theta_0^2) and the
scale theta_t = sqrt(abar_t) theta_0, and so the variance beta_t. Step i contributes to x_t with the scale
sqrt(abar_t / abar_i) theta_i = theta_t for all i, so the sum is again of this family::

    x_t - sqrt(abar_t) x_0 ~ centered Gamma(kbar_t, theta_t),    kbar_t = sum_{i<=t} k_i = (1 / abar_t - 1) / theta_0^2

because the sum of beta_i / abar_i = 1 / abar_i - 1 / abar_{i-1} telescopes. Its variance is
kbar_t theta_t^2 = 1 - abar_t.

Sampling: G ~ Gamma(a, 1) with a >= 1 solves Q(a, G) = v for the upper tail Q and a keyed uniform v of 64 bits. For
a < 1 it is G_{a+1} u^(1/a). In logarithms this works for every small shape. On the CPU, SciPy inverts Q, or P = 1 - Q
if that is smaller, to rounding. On other devices three steps of Halley's method solve ln Q or ln P in y = ln G,
starting from the Wilson-Hilferty approximation G = a (1 - 1/(9a) + z / (3 sqrt(a)))^3 at the normal quantile z. The
error is 2e-9 standard deviations, the accuracy of torch's Q. For a >= 1e6 the approximation itself is used, with an
error of 1e-5 standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.noise_distributions.base import (
    F64,
    DensityNoise,
    NoiseDistribution,
    NoiseSum,
    Parameter,
    check_parameter,
    check_weights,
    meet,
)

_STEPS = 3
LARGE = 1e6
_BELOW_ONE = 1.0 - 2.0**-53


def draw_log_gamma(a: Parameter, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
    """ln G of samples G ~ Gamma(a, 1), ``(B, *event)`` in float64, for a shape a > 0, a number or ``(B,)``."""
    high, low, u = source.uniform((*event, 3), step=step, purpose=purpose, dtype=F64).unbind(-1)
    v = (high + (low - 0.5) * 2.0**-32).clamp(max=_BELOW_ONE)
    a = meet("shape", a, v)
    small = a < 1.0
    log_g = log_gamma_quantile(a + small, v)
    return torch.where(small, log_g + u.log() / a, log_g)


def log_gamma_quantile(a: Tensor, v: Tensor) -> Tensor:
    """y = ln G with Q(a, G) = v, in float64. a >= 1 and 0 < v < 1 broadcast against each other."""
    start = cube_start(a, v)
    y = _invert_on_host(a, v) if v.device.type == "cpu" else invert(a, v, start)
    return torch.where(a < LARGE, y, start)


def cube_start(a: Tensor, v: Tensor) -> Tensor:
    """ln G by the Wilson-Hilferty approximation, or far in the lower tail, where it fails, from P = G^a / Gamma(a + 1)."""
    cube_root = 1.0 - 1.0 / (9.0 * a) - torch.special.ndtri(v) / (3.0 * a.sqrt())
    power = (torch.log1p(-v) + torch.lgamma(a + 1.0)) / a
    return torch.where(cube_root > 0.3, a.log() + 3.0 * cube_root.clamp(min=0.3).log(), power)


def invert(a: Tensor, v: Tensor, y: Tensor) -> Tensor:
    """Steps of Halley's method from y to the solution of Q(a, e^y) = v, on the device of v."""
    upper = v < 0.5
    for _ in range(_STEPS):
        x = y.exp()
        tail = torch.where(upper, torch.special.gammaincc(a, x), torch.special.gammainc(a, x))
        slope = torch.exp(a * y - x - torch.lgamma(a)) / tail  # derivative of ln P in y, and minus that of ln Q
        slope = torch.where(upper, -slope, slope)
        newton = (tail / torch.where(upper, v, 1.0 - v)).log() / slope
        y = y - newton / (1.0 - 0.5 * newton * (a - x - slope)).clamp(min=0.5)
    return y


def _invert_on_host(a: Tensor, v: Tensor) -> Tensor:
    from scipy import special

    shape, upper = np.broadcast_arrays(a.numpy(), v.numpy())
    g = np.ones(upper.shape)
    right, left = (shape < LARGE) & (upper < 0.5), (shape < LARGE) & (upper >= 0.5)
    # by index, because the ufuncs of SciPy may write out of bounds with where= (scipy/scipy#25127)
    g[right] = special.gammainccinv(shape[right], upper[right])
    g[left] = special.gammaincinv(shape[left], 1.0 - upper[left])
    return torch.from_numpy(g).log()


def _log_peak(k: Tensor) -> Tensor:
    """k ln k - k - ln Gamma(k), for k >= 20 by the Stirling series."""
    large = k.clamp(min=20.0)
    r = large**-2
    series = 0.5 * (large / (2.0 * math.pi)).log()
    series = series - (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r / 1188.0)))) / large
    small = k.clamp(max=20.0)
    return torch.where(k < 20.0, small * small.log() - small - torch.lgamma(small), series)


@dataclass(frozen=True)
class CenteredGamma(DensityNoise):
    r"""Centered gamma noise n = g - k theta with g ~ Gamma(k, theta). ``standard(k)`` has variance 1.

    .. math::
        \nabla \log p(n) = -\frac{n + \theta}{\theta (n + k \theta)}, \qquad n > -k \theta

    For k <= 1 the density is discontinuous at the edge of its support, and the score is not a target for denoising
    score matching.

    Outside of the support ``log_prob`` is -inf and the score is NaN. At the edge ``log_prob`` is the limit of the
    density (+inf for k < 1, ln(1/theta) for k = 1, -inf for k > 1) and the score is NaN. Samples are rounded to the
    inside of the support in their dtype, so their ``log_prob`` and score are finite.

    Args:
        k: Shape, > 0: a number or ``(B,)``.
        theta: Scale, > 0: a number or ``(B,)``.

    References:
        - Nachmani, San-Roman, Wolf 2021, Non Gaussian denoising diffusion models, arXiv:2106.07582.
        - Nachmani, San-Roman, Wolf 2021, Denoising diffusion gamma models, arXiv:2110.05948.
    """

    k: Parameter
    theta: Parameter

    def __post_init__(self) -> None:
        check_parameter("k", self.k)
        check_parameter("theta", self.theta)

    @classmethod
    def standard(cls, k: Parameter) -> CenteredGamma:
        """Centered gamma noise of shape k and variance 1.

        Args:
            k: Shape, > 0: a number or ``(B,)``.

        Returns:
            The distribution, with the scale theta = 1 / sqrt(k).
        """
        check_parameter("k", k)
        return cls(k, (k.to(F64) if isinstance(k, Tensor) else k) ** -0.5)

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.k, dtype=F64) * torch.as_tensor(self.theta, dtype=F64).square()

    @property
    def excess_kurtosis(self) -> Tensor:
        return 6.0 / torch.as_tensor(self.k, dtype=F64)

    def sum_of_steps(self, b: Tensor) -> NoiseDistribution:
        """Distribution of the sum sum_i b_i n_i.

        If the t nonzero weights of each row equal b, it is the gamma noise of shape t k and scale b theta. Gamma noise of
        different scales does not add up to gamma noise. ``scoresde.sde.GammaNoise`` has steps whose shapes and scales do.

        Args:
            b: Weights, ``(t,)`` or ``(B, t)``.

        Returns:
            The distribution of the sum: a ``CenteredGamma`` for equal weights, else a ``NoiseSum``.
        """
        check_weights(b)
        b = b.to(F64)
        largest = b.amax(-1)
        if not bool(((b == 0) | (b == largest[..., None])).all()):
            return NoiseSum(self, b)
        return CenteredGamma(self.k * (b > 0).sum(-1), self.theta * largest)

    def sample(
        self, source: NoiseSource, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype
    ) -> Tensor:
        n = self._draw(source, tuple(event_shape), step, purpose)
        edge = -meet("k", self.k, n) * meet("theta", self.theta, n)
        first = edge.to(dtype)
        first = torch.where(first.to(F64) > edge, first, torch.nextafter(first, torch.zeros_like(first)))
        return torch.maximum(n.to(dtype), first)

    def _draw(self, source: NoiseSource, event: tuple[int, ...], step: int, purpose: str) -> Tensor:
        g = draw_log_gamma(self.k, source, event, step, purpose).exp()
        return meet("theta", self.theta, g) * (g - meet("k", self.k, g))

    def _log_density(self, n: Tensor) -> Tensor:
        k, theta = meet("k", self.k, n), meet("theta", self.theta, n)
        r = n / (k * theta)
        inside = torch.special.xlog1py(k - 1.0, r) - k * r - (k * theta).log() + _log_peak(k)
        return torch.where(r < -1.0, -math.inf, inside)

    def _slope(self, n: Tensor) -> Tensor:
        k, theta = meet("k", self.k, n), meet("theta", self.theta, n)
        g = n + k * theta
        return torch.where(g > 0, -(n + theta) / (theta * g), math.nan)
