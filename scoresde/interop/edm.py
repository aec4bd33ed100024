"""Score models from denoisers of EDM (Karras et al. 2022, arXiv:2206.00364), D(x; sigma) = E[x_0 | x_0 + sigma z = x].

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)                                                       (eq. 7)

                c_skip                        c_out                                  c_in                           c_noise
    VP          1                             -sigma                                 1 / sqrt(sigma^2 + 1)          999 t(sigma)
    VE          1                             sigma                                  1                              ln(sigma / 2)
    EDM         s^2 / (sigma^2 + s^2)         sigma s / sqrt(sigma^2 + s^2)          1 / sqrt(sigma^2 + s^2)        ln(sigma) / 4

(table 1), where s is the standard deviation of the data and t(sigma) the time at which VP has the ratio sigma / alpha. Any
process x_t = alpha x_0 + sigma z has this form after a division by alpha. A denoiser therefore gives a score model under
all of them:

    E[x_0 | x_t] = D(x_t / alpha; sigma / alpha)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._validation import check_batch, check_number, expand
from scoresde.conditions import check_condition
from scoresde.score import ScoreModel
from scoresde.sde import VPSDE, GaussianKernel, LinearSDE, ScalarSDE


@dataclass(frozen=True)
class NoiseRatioLabel:
    """sigma / alpha."""

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The label of t."""
        kernel = sde.kernel(t)
        return kernel.level() / kernel.signal()


class Precondition(nn.Module, ABC):
    """Base class of denoisers D from a raw network F, called as ``D(x, sigma, **condition)``.

    Args:
        network: A module that is called as ``network(c_in x, c_noise, **condition)`` with c_noise of shape (B,), and
            returns a tensor with the shape of x.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise, each the shape of sigma."""

    def forward(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Denoise x (B, *event) with sigma of shape (B,) or ()."""
        c_skip, c_out, c_in, c_noise = (expand(c, x) for c in self.coefficients(sigma.expand(len(x))))
        out: Tensor = c_skip * x + c_out * self.network(c_in * x, c_noise.flatten(), **condition)
        return out


class VPPrecondition(Precondition):
    """The preconditioning of DDPM: F predicts the noise, and its label is 999 t.

    Args:
        network: The raw network F.
        beta_min: Parameter of the process of the training; 0.1 in the files of EDM.
        beta_max: Parameter of the process of the training; 20 in the files of EDM.
        steps: The label at t = 1 is steps - 1.
    """

    def __init__(self, network: nn.Module, beta_min: float = 0.1, beta_max: float = 20.0, steps: int = 1000) -> None:
        super().__init__(network)
        self.sde, self.steps = VPSDE(beta_min, beta_max), steps

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return torch.ones_like(sigma), -sigma, (sigma**2 + 1.0).rsqrt(), (self.steps - 1.0) * self._time(sigma)

    def _time(self, sigma: Tensor) -> Tensor:
        """t with ln(1 + sigma^2) = B(t) = beta_min t + (beta_max - beta_min) t^2 / 2."""
        b0, rise = self.sde.beta_min, self.sde.beta_max - self.sde.beta_min
        integral = torch.log1p(sigma**2)
        return 2.0 * integral / (b0 + (b0**2 + 2.0 * rise * integral).sqrt())


class VEPrecondition(Precondition):
    """The preconditioning of NCSN++: F predicts minus the noise, and its label is ln(sigma / 2)."""

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return torch.ones_like(sigma), sigma, torch.ones_like(sigma), (0.5 * sigma).log()


class EDMPrecondition(Precondition):
    """The preconditioning of EDM: input and target of F have variance 1 at every sigma.

    Args:
        network: The raw network F.
        data_std: Standard deviation of the data, above 0; 0.5 in the files of EDM.
    """

    def __init__(self, network: nn.Module, data_std: float = 0.5) -> None:
        super().__init__(network)
        check_number("data_std", data_std, above=0.0)
        self.data_std = data_std

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total = sigma.square() + self.data_std**2
        return self.data_std**2 / total, sigma * self.data_std * total.rsqrt(), total.rsqrt(), 0.25 * sigma.log()


class DenoiserScore(ScoreModel):
    """A score model from a denoiser, for every sampler and likelihood.

    Args:
        denoiser: A module that is called as ``denoiser(x, sigma, **condition)`` with sigma of shape (B,): a network of EDM
            with the condition ``class_labels=...``, or a `Precondition`. It may compute and return a lower precision than
            that of x.
        sde: A process with scalar coefficients, such as ``EDMSDE()``, the process of the training of EDM.
    """

    def __init__(self, denoiser: nn.Module, sde: ScalarSDE) -> None:
        if not isinstance(sde, ScalarSDE):
            raise TypeError(f"sde={sde!r} is not allowed: a denoiser needs a process with scalar coefficients")
        super().__init__(denoiser, sde, "data", label=NoiseRatioLabel(), data_std=None)

    def _check_input(self, x: Tensor, t: Tensor, condition: dict[str, Any]) -> None:
        """Check the input. The dtype of the denoiser may differ from that of x."""
        check_batch("x", x)
        self.sde.check_time(t, len(x))
        check_condition(len(x), condition, self.required)

    def _output(self, x: Tensor, kernel: GaussianKernel, t: Tensor, condition: dict[str, Any]) -> Tensor:
        """D, an estimate of x_0."""
        scaled = x / expand(kernel.signal(), x)
        out: Tensor = self.network(scaled, self.label(self.sde, t), **condition).to(x.dtype)
        return out
