"""The divergence of a vector field, sum_i d f_i / d x_i, in one forward pass and some vector-Jacobian products.

    Exact        e_i^T J e_i summed over all d unit vectors: d products
    Hutchinson   v^T J v for random v with E[v v^T] = I: unbiased, one product per probe (Hutchinson 1990; Skilling 1989)

Rademacher probes (signs) have the smaller variance, twice the squared off-diagonal of J's symmetric part; Gaussian ones add
the diagonal. Probes belong to a sample: they are keyed by (seed, index, number of the probe).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import check_choice, check_count
from scoresde.noise import NoiseSource

_CHUNK = 2**22
"""Elements of a block of probes that go through one backward pass together."""


class Divergence(ABC):
    """A way to get div f."""

    exact: bool = False
    """Whether the estimate has no error of its own."""

    @abstractmethod
    def probes(self, x: Tensor, noise: NoiseSource) -> Tensor:
        """The vectors v, (P, B, *event)."""

    @abstractmethod
    def reduce(self, products: Tensor) -> Tensor:
        """Estimates (E, B) from v^T J v, (P, B)."""

    @property
    @abstractmethod
    def estimates(self) -> int:
        """Number E of independent estimates of the divergence."""

    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) (B, *event) and the estimates (E, B), from one evaluation of f."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            y = f(x)
        if not y.requires_grad:  # f does not depend on x
            return y, self.reduce(torch.zeros(probes.shape[:2], dtype=x.dtype, device=x.device))
        rows = max(1, _CHUNK // x.numel())
        parts = [
            self._products(y, x, probes[i : i + rows], i + rows < len(probes)) for i in range(0, len(probes), rows)
        ]
        return y.detach(), self.reduce(torch.cat(parts))

    @staticmethod
    def _products(y: Tensor, x: Tensor, probes: Tensor, retain: bool) -> Tensor:
        """v^T J v for each probe, (P, B)."""
        if len(probes) == 1:
            (vjp,) = torch.autograd.grad(y, x, probes[0], retain_graph=retain)
            vjp = vjp[None]
        else:
            (vjp,) = torch.autograd.grad(y, x, probes, retain_graph=retain, is_grads_batched=True)
        return (vjp * probes).reshape(*probes.shape[:2], -1).sum(-1)


@dataclass(frozen=True)
class Exact(Divergence):
    """The divergence itself, by d products of d unit vectors: for small d, and to test by."""

    exact = True

    def probes(self, x: Tensor, noise: NoiseSource) -> Tensor:
        d = x[0].numel()
        eye = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:])
        return eye.expand(d, *x.shape)

    def reduce(self, products: Tensor) -> Tensor:
        return products.sum(0, keepdim=True)

    @property
    def estimates(self) -> int:
        return 1


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Random probes, the same for the whole solve: an adaptive solver needs a smooth right-hand side.

    law: "rademacher" or "gaussian".
    count: number of probes P, each an estimate of its own; from 2 on they give a standard error.
    """

    law: str = "rademacher"
    count: int = 1

    def __post_init__(self) -> None:
        check_choice("law", self.law, ("rademacher", "gaussian"))
        check_count("count", self.count)

    def probes(self, x: Tensor, noise: NoiseSource) -> Tensor:
        draw = noise.rademacher if self.law == "rademacher" else noise.normal
        shape = x.shape[1:]
        return torch.stack([draw(shape, step=k, purpose="probe", dtype=x.dtype) for k in range(self.count)])

    def reduce(self, products: Tensor) -> Tensor:
        return products

    @property
    def estimates(self) -> int:
        return self.count
