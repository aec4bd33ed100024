"""Objects with the methods of other libraries' processes and known closed forms, each with faults that can be planted."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch


def vp_integral(t):
    """int_0^t beta for beta from 0.1 to 20."""
    return 0.1 * t + 9.95 * t**2


class Diffusion:
    """A variance-preserving diffusion with the methods of deepinv."""

    T = 1.0

    def __init__(self, factor=1.0, prior=1.0):
        self.factor, self.prior = factor, prior

    def scale_t(self, t):
        return torch.exp(-0.5 * vp_integral(t))

    def sigma_t(self, t):
        return torch.expm1(vp_integral(t)).sqrt()

    def forward_drift(self, x, t):
        return -0.5 * (0.1 + 19.9 * t) * x

    def forward_diffusion(self, t):
        return (self.factor * (0.1 + 19.9 * t)).sqrt()

    def sample_init(self, shape, rng=None, t=None):
        noise = torch.randn(shape, generator=rng, dtype=torch.float64)
        return self.prior * noise * self.scale_t(torch.tensor(1.0)) * self.sigma_t(torch.tensor(1.0))


class Estimator:
    """A variance-preserving estimator with the methods of sbi."""

    t_max = 1.0

    def __init__(self, root=True, mean_base=0.0, std_base=1.0, event=(2,)):
        self.root, self.event = root, event
        self.mean_base = torch.as_tensor(mean_base).expand(1, *event)
        self.std_base = torch.as_tensor(std_base).expand(1, *event)

    def _full(self, value):
        return value.reshape(value.shape + (1,) * len(self.event))

    def mean_t_fn(self, times):
        return self._full(torch.exp(-0.5 * vp_integral(times)))

    def std_fn(self, times):
        variance = -torch.expm1(-vp_integral(times))
        return self._full(variance.sqrt() if self.root else variance)

    def drift_fn(self, input, times):
        return -0.5 * (0.1 + 19.9 * times) * input

    def diffusion_fn(self, input, times):
        return (0.1 + 19.9 * times).sqrt()


class Flow:
    """An estimator for flow matching with the methods of sbi, whose functions stop at 0.99."""

    t_max = 1.0
    mean_base, std_base = torch.zeros(1, 2), torch.ones(1, 2)

    def __init__(self, noise_scale=0.0, factor=1.0):
        self.noise_scale, self.factor = noise_scale, factor

    def mean_t_fn(self, times, effective_t_max=0.99):
        return 1.0 - times.clamp(max=effective_t_max)[:, None]

    def std_fn(self, times):
        return (times + self.noise_scale)[:, None]

    def drift_fn(self, input, times, effective_t_max=0.99):
        return -input / (1.0 - times).clamp(min=1.0 - effective_t_max)

    def diffusion_fn(self, input, times, effective_t_max=0.99):
        rate = 2.0 * self.factor * (times + self.noise_scale)
        return (rate / (1.0 - times).clamp(min=1.0 - effective_t_max)).sqrt()


class Cosine:
    """A scheduler with the method of flow_matching: alpha = sin, sigma = cos."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def __call__(self, s):
        angle, half = 0.5 * math.pi * s, 0.5 * math.pi
        return SimpleNamespace(
            alpha_t=angle.sin(),
            sigma_t=angle.cos(),
            d_alpha_t=self.factor * half * angle.cos(),
            d_sigma_t=-half * angle.sin(),
        )


class Matcher:
    """An independent conditional flow matcher with the methods of torchcfm."""

    def __init__(self, sigma=0.1, factor=1.0):
        self.sigma, self.factor = sigma, factor

    def compute_mu_t(self, x0, x1, t):
        t = t.reshape(-1, *[1] * (x0.ndim - 1))
        return t * x1 + (1.0 - t) * x0

    def compute_sigma_t(self, t):
        return self.sigma

    def compute_conditional_flow(self, x0, x1, t, xt):
        return self.factor * x1 - x0


class Scheduler:
    """A scheduler with the linear table of DDPM in float64 and the methods of diffusers.

    ``variance_preserving=False`` gives alpha = 1, as Euler schedulers do.
    """

    def __init__(self, steps=100, *, variance_preserving=True, factor=1.0, reverse=False, init_noise_sigma=None):
        self.betas = torch.linspace(1e-3, 0.2, steps, dtype=torch.float64)
        self.variance_preserving, self.reverse = variance_preserving, reverse
        self.squares = torch.cumprod(1.0 - factor * self.betas, 0)
        self.timesteps = torch.arange(steps).flip(0)
        last = 1.0 if variance_preserving else float((1.0 / self.squares[-1]).sqrt())
        self.init_noise_sigma = last if init_noise_sigma is None else init_noise_sigma

    def add_noise(self, original_samples, noise, timesteps):
        square = (self.squares.flip(0) if self.reverse else self.squares)[timesteps][:, None]
        if self.variance_preserving:
            return square.sqrt() * original_samples + (1.0 - square).sqrt() * noise
        return original_samples + (1.0 / square - 1.0).sqrt() * noise


def straight(t):
    """An azula schedule: the path of rectified flow."""
    return 1.0 - 0.999 * t, t + (1.0 - t) * 1e-3
