"""Divergence of a vector field, tr J = sum_i d f_i / d x_i, from one evaluation and some products with the Jacobian J.

- ``Exact``: sum_i e_i^T J e_i over all d unit vectors. It needs d products.
- ``Hutchinson``: v^T J v for random v with E[v v^T] = I. It is unbiased and needs one product per probe (Hutchinson 1990;
  Skilling 1989).
- ``Hadamard``: the same with rows of a Hadamard matrix under random signs and in random order. The probes are orthogonal to
  each other, so that several of them divide the trace between them. A complete set gives the exact trace.
- ``HutchPlusPlus``: one third of the products finds the dominant directions, one third computes their trace exactly, and one
  third estimates the rest (Meyer, Musco, Musco, Woodruff 2021, arXiv:2010.09649).

Rademacher probes (random signs) have the smaller variance: twice the squared off-diagonal part of the symmetric part of J.
Gaussian probes add the diagonal.

The probes of a sample are a stream that depends only on (seed, index of the sample, number of the probe). A solver with
adaptive steps needs a smooth right-hand side and uses the same few probes for the whole solve. A solver on a fixed grid uses
new probes at every node. This costs nothing and reduces the variance several times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde._validation import check_choice, check_count
from scoresde.noise import NoiseSource

Field = Callable[[Tensor], Tensor]
"""x -> f(x), both (B, *event)."""

ProbeStream = Callable[[int, int], Tensor]
"""(first, count) -> probes number first, ..., first + count - 1, (count, B, *event)."""

_AHEAD = 2**20
"""Largest number of elements of the probes that are drawn at once."""
_CHUNK = 2**22
"""Largest number of elements of the probes in one batched backward pass."""

_CPU_CHUNK = 2**19
"""The same on the CPU, where a buffer above 32 MiB is mapped again each time, at several times the cost of the arithmetic."""


@dataclass(frozen=True, kw_only=True)
class Divergence(ABC):
    """A method that computes or estimates div f.

    Args:
        forward: Use forward-mode differentiation for the products in place of reverse mode. It needs less memory for a deep
            network and more time.
        fixed: Use the same probes at every node, even if the solver could use new ones.
    """

    forward: bool = False
    fixed: bool = False

    exact: ClassVar[bool] = False
    """Whether the result is the divergence itself and not an estimate."""

    @property
    def divisible(self) -> bool:
        """Whether different nodes may use different numbers of probes."""
        return not (self.exact or self.fixed)

    @property
    @abstractmethod
    def products(self) -> int:
        """Products with the Jacobian for each evaluation; 0 stands for one product per coordinate of the event."""

    @property
    def estimates(self) -> int:
        """Number of independent estimates that the products give."""
        return max(1, self.products)

    @abstractmethod
    def stream(self, x: Tensor, noise: NoiseSource) -> ProbeStream:
        """Returns the probes for a batch of events.

        Args:
            x: The events, (B, *event). The probes have their dtype and device.
            noise: Keys of the random draws of the B samples.

        Returns:
            A function (first, count) -> the probes first, ..., first + count - 1, (count, B, *event).
        """

    def reduce(self, products: Tensor) -> Tensor:
        """Combines products to independent estimates of the divergence.

        Args:
            products: v^T J v for each probe, (P, B).

        Returns:
            The estimates, (E, B).
        """
        return products

    def variance(self, estimates: Tensor, d: int) -> Tensor:
        """Estimates the variance of the mean of several estimates.

        Args:
            estimates: Independent estimates of the divergence, (E, B).
            d: Number of coordinates of an event.

        Returns:
            The variance of their mean, (B,). It is NaN for a single estimate, whose variance is unknown.
        """
        return estimates.var(0) / len(estimates) if len(estimates) > 1 else torch.full_like(estimates[0], torch.nan)

    def __call__(self, f: Field, x: Tensor, probes: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
        """Evaluates f and its divergence together.

        Args:
            f: The vector field, (B, *event) -> (B, *event).
            x: Where it is evaluated, (B, *event).
            probes: The probes, (P, B, *event).
            differentiable: Keep a graph of the results to x and to the parameters of f.

        Returns:
            f(x) (B, *event), and the estimates of the divergence (E, B), from one evaluation of f.
        """
        y, product = self._linearise(f, x, differentiable)
        estimates = self.reduce(self._quadratic(product, probes))
        return (y, estimates) if differentiable else (y.detach(), estimates.detach())

    def _linearise(self, f: Field, x: Tensor, differentiable: bool) -> tuple[Tensor, Field]:
        """f(x), and the function v -> v^T J (or J v in forward mode) for v of shape (P, B, *event)."""
        if self.forward:
            with _differentiable_attention(True), torch.set_grad_enabled(differentiable):
                return f(x), lambda v: torch.stack([self._pushed(f, x, one, differentiable) for one in v])
        with torch.enable_grad(), _differentiable_attention(differentiable):
            x = x if differentiable and x.requires_grad else x.detach().requires_grad_(True)
            y = f(x)
        if not y.requires_grad:  # f does not depend on x
            return y, torch.zeros_like
        return y, lambda v: self._pulled(y, x, v, differentiable)

    @staticmethod
    def _pushed(f: Field, x: Tensor, v: Tensor, differentiable: bool) -> Tensor:
        with _differentiable_attention(True), torch.set_grad_enabled(differentiable):
            out: Tensor = torch.func.jvp(f, (x,), (v,))[1]
            return out

    @staticmethod
    def _pulled(y: Tensor, x: Tensor, v: Tensor, differentiable: bool) -> Tensor:
        def pull(cotangent: Tensor, batched: bool) -> Tensor:
            (found,) = torch.autograd.grad(
                y,
                x,
                cotangent,
                retain_graph=True,
                create_graph=differentiable,
                allow_unused=True,
                is_grads_batched=batched,
            )
            return torch.zeros_like(cotangent) if found is None else found  # y may depend on parameters only

        if len(v) == 1:
            return pull(v[0], False)[None]
        if _has_second_derivatives(
            y
        ):  # group normalization, for one, cannot be differentiated twice for many rows at once
            return torch.stack([pull(one, False) for one in v])
        rows = max(1, (_CPU_CHUNK if x.device.type == "cpu" else _CHUNK) // x.numel())
        return torch.cat([pull(v[i : i + rows], True) for i in range(0, len(v), rows)])

    @staticmethod
    def _quadratic(product: Field, probes: Tensor) -> Tensor:
        """v^T J v for each probe, (P, B)."""
        return _flat(product(probes) * probes).sum(-1)


@dataclass(frozen=True)
class Exact(Divergence):
    """The exact divergence, by d products with the d unit vectors. It suits small d and tests."""

    exact: ClassVar[bool] = True

    @property
    def products(self) -> int:
        return 0

    def stream(self, x: Tensor, noise: NoiseSource) -> ProbeStream:
        d = x[0].numel()
        eye = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
        return lambda first, count: eye

    def reduce(self, products: Tensor) -> Tensor:
        return products.sum(0, keepdim=True)

    def variance(self, estimates: Tensor, d: int) -> Tensor:
        return torch.zeros_like(estimates[0])


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Independent random probes.

    Args:
        distribution: "rademacher" (random signs) or "gaussian".
        count: Number of probes for each evaluation. Each of them is an independent estimate.
    """

    distribution: str = "rademacher"
    count: int = 1

    def __post_init__(self) -> None:
        check_choice("distribution", self.distribution, ("rademacher", "gaussian"))
        check_count("count", self.count)

    @property
    def products(self) -> int:
        return self.count

    def stream(self, x: Tensor, noise: NoiseSource) -> ProbeStream:
        draw = noise.rademachers if self.distribution == "rademacher" else noise.normals

        def take(first: int, count: int) -> Tensor:
            numbers = range(first, first + count)
            return torch.stack(list(draw(x.shape[1:], steps=numbers, purpose="probe", dtype=x.dtype)))

        return take


@dataclass(frozen=True)
class Hadamard(Divergence):
    """Rows of a Hadamard matrix, with random signs for the coordinates and in random order.

    The size of the matrix is the next power of two, and its entries are H_rj = (-1)^(number of common bits of r and j). The
    random signs make every row a Rademacher probe.

    Args:
        count: Number of probes for each evaluation.
    """

    count: int = 1

    def __post_init__(self) -> None:
        check_count("count", self.count)

    @property
    def products(self) -> int:
        return self.count

    def stream(self, x: Tensor, noise: NoiseSource) -> ProbeStream:
        shape, d = x.shape[1:], x[0].numel()
        signs = noise.rademacher(shape, step=0, purpose="probe signs", dtype=x.dtype)
        size = 1 << (d - 1).bit_length()
        # r_k = (odd k + offset) mod size visits every row once
        odd = 1 + 2 * noise.integers(max(1, size // 2), (), step=0, purpose="probe rows")
        offset = noise.integers(size, (), step=1, purpose="probe rows")
        columns = torch.arange(d, device=x.device, dtype=torch.int32)

        def take(first: int, count: int) -> Tensor:
            number = torch.arange(first, first + count, device=x.device)[:, None]
            row = ((odd * number + offset) % size).to(torch.int32)
            common = row[..., None] & columns
            for shift in (16, 8, 4, 2, 1):
                common = common ^ (common >> shift)
            return (1 - 2 * (common & 1)).to(x.dtype).reshape(count, *x.shape) * signs

        return take

    def variance(self, estimates: Tensor, d: int) -> Tensor:
        size = 1 << (d - 1).bit_length()
        # sampling without replacement: complete sets have no error, only the remainder has
        count, rest = len(estimates), len(estimates) % size
        left = rest * (1.0 - rest / size) / count
        return super().variance(estimates, d) * left if left else torch.zeros_like(estimates[0])


@dataclass(frozen=True)
class HutchPlusPlus(Divergence):
    """Hutch++: the trace of the dominant directions exactly, the rest by random probes.

    It suits 12 products or more, and Jacobians with a few large directions.

    Args:
        count: Products for each evaluation, a multiple of 3.

    References:
        Meyer, Musco, Musco, Woodruff 2021, "Hutch++: optimal stochastic trace estimation", arXiv:2010.09649.
    """

    count: int = 12

    def __post_init__(self) -> None:
        check_count("count", self.count, least=3)
        if self.count % 3:
            raise ValueError(f"count={self.count} is not allowed: give a multiple of 3")

    @property
    def products(self) -> int:
        return self.count

    @property
    def estimates(self) -> int:
        return self.count // 3

    @property
    def divisible(self) -> bool:
        return False

    def stream(self, x: Tensor, noise: NoiseSource) -> ProbeStream:
        return Hutchinson().stream(x, noise)

    def __call__(self, f: Field, x: Tensor, probes: Tensor, differentiable: bool = False) -> tuple[Tensor, Tensor]:
        y, product = self._linearise(f, x, differentiable)
        third = len(probes) // 3
        columns = min(third, x[0].numel())
        sketch = _flat(product(probes[:columns])).permute(1, 2, 0)
        basis = torch.linalg.qr(sketch.detach())[0].permute(2, 0, 1)  # (columns, B, d)
        rest = _flat(probes[third : 2 * third])
        rest = rest - torch.einsum("kbd,kbe,pbe->pbd", basis, basis, rest)
        both = torch.cat((basis, rest)).reshape(-1, *x.shape)
        parts = self._quadratic(product, both)
        estimates = parts[:columns].sum(0) + parts[columns:]
        return (y, estimates) if differentiable else (y.detach(), estimates.detach())


def probes_ahead(divergence: Divergence, x: Tensor, noise: NoiseSource, counts: Sequence[int]) -> Iterator[Tensor]:
    """Yields the probes of one evaluation after the other.

    They are drawn for several evaluations at once, as many as ``_AHEAD`` elements allow.

    Args:
        divergence: The method that uses the probes.
        x: Events, (B, *event).
        noise: Keys of the random draws.
        counts: Number of probes for each evaluation. Exact and fixed probes need the same number everywhere.

    Yields:
        Probes (count, B, *event). Each evaluation continues the numbering of the probes before it.
    """
    stream = divergence.stream(x, noise)
    if divergence.exact or divergence.fixed:
        yield from [stream(0, counts[0])] * len(counts)
        return
    at = drawn = 0
    while at < len(counts):
        stop, size = at + 1, counts[at]
        while stop < len(counts) and (size + counts[stop]) * x.numel() <= _AHEAD:
            stop, size = stop + 1, size + counts[stop]
        yield from stream(drawn, size).split(list(counts[at:stop]))
        at, drawn = stop, drawn + size


def _flat(v: Tensor) -> Tensor:
    """(P, B, *event) to (P, B, d)."""
    return v.reshape(*v.shape[:2], -1)


def _differentiable_attention(needed: bool) -> AbstractContextManager[None]:
    """Attention by plain matrix products, because fused kernels have no forward-mode and no second derivative."""
    return sdpa_kernel(SDPBackend.MATH) if needed else nullcontext()


def _has_second_derivatives(y: Tensor) -> bool:
    """Whether y is a function of a gradient, such as the score of an energy: its graph has nodes of double backward passes."""
    seen: set[Any] = set()
    left: list[Any] = [y.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if "BackwardBackward" in node.name():
            return True
        seen.add(node)
        left += [one for one, _ in node.next_functions]
    return False
