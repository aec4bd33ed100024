"""Processes that a user writes down: any drift, and a diffusion that may depend on the state (Ito, diagonal).

    SDE         dx = f(x, t) dt + g(x, t) dw
    reverse     dx = [f - D - g^2 score] dt + g dw'             run from T down to 0
    flow        dx = [f - D / 2 - g^2 score / 2] dt             the same marginals
    with        D = div(g g^T),  D_i = d(g_i^2) / dx_i,         0 where g depends on t alone (additive noise)

(Song et al. 2021, arXiv:2011.13456, appendix A.) There is no kernel x_t | x_0 in closed form: x_t is simulated. With h = t /
n a sample's path to its own time t takes n steps of one clock tau that the whole batch shares,

    dx = h f(x, h tau) dtau + sqrt(h) g(x, h tau) dW,           tau from 0 to n,

so that one solve serves a batch of any times. Denoising score matching needs the kernel; sliced score matching does not. Nor is
there a Tweedie formula for E[x_0 | x_t]: samplers are called with ``denoise=False``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scoresde._validation import check_batch, check_count, check_number, expand
from scoresde.noise import NoiseSource
from scoresde.sde.base import SDE
from scoresde.sde.linalg.kernel import standard_normal_log_prob
from scoresde.solvers import SolverError, TorchSDE


@runtime_checkable
class Prior(Protocol):
    """A law that can be drawn from and weighed, e.g. a `GaussianMixture`."""

    def sample(self, n: int, seed: int = 0, dtype: torch.dtype = torch.float32, first: int = 0) -> Tensor:
        """(n, *event) draws, number ``first`` and on; draw i depends on (seed, first + i) alone."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B, *event) -> (B,)."""


@dataclass(frozen=True)
class NonlinearSDE(SDE):
    """dx = f(x, t) dt + g dw for functions f and g of one's own.

    f: (x, t) -> the shape of x, with t of shape (B,).
    g: of t, or of (x, t), by how many arguments it asks for; returns (B,), one number for each sample, or the shape of x, one
        for each coordinate.
    T: > 0, where the process ends.
    prior: the law at T: its standard deviation where that is N(0, prior^2 I), or a `Prior`. For sampling and likelihoods; it is
        taken at its word, so T must be late enough for p_T to be near it.
    divergence: (x, t) -> D = div(g g^T), the shape of x, for a g(x, t) whose D is known. By automatic differentiation unless
        given: one backward pass where g is (B,), d of them where it has the shape of x.
    steps, solver: of `simulate`. A Stratonovich solver is refused for a g of x, and orders above 1/2 need a g_i of x_i alone.

    Raises ValueError or TypeError naming the argument.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    g: Callable[..., Tensor]
    T: float = 1.0
    prior: Prior | float = 1.0
    divergence: Callable[[Tensor, Tensor], Tensor] | None = None
    steps: int = 200
    solver: TorchSDE = field(default_factory=TorchSDE)
    additive: bool = field(init=False, repr=False, compare=False)
    """Whether g is of t alone."""

    def __post_init__(self) -> None:
        check_number("T", self.T, above=0.0)
        check_count("steps", self.steps)
        if not isinstance(self.prior, Prior):
            if not isinstance(self.prior, Real):
                raise TypeError(
                    f"prior={self.prior!r}: give a standard deviation, or an object with sample and log_prob"
                )
            check_number("prior", self.prior, above=0.0)
        arguments = _arguments(self.g)
        if arguments not in (1, 2):
            raise TypeError(f"g={self.g!r} asks for {arguments} arguments: give g(t) or g(x, t)")
        object.__setattr__(self, "additive", arguments == 1)
        if not self.additive and self.solver.stratonovich:
            raise ValueError(
                f"solver={self.solver!r} is of Stratonovich's kind, and g(x, t) is meant as Ito's: give 'euler', 'milstein' "
                "or 'srk'"
            )

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self._drift(x, self._times(x, t))

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), the shape of t, or (*t.shape, *event) where g gives a number for each coordinate; TypeError for g(x, t)."""
        if not self.additive:
            raise TypeError(f"{self!r} has a diffusion that depends on x: use diffuse(z, t, x)")
        self.check_time(t)
        value = self.g(t.reshape(-1))
        return value.reshape(t.shape + value.shape[1:])

    def apply_diffusion(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """g z, at the state x where g depends on it."""
        return self._diffusion(z, t, x) * z

    def apply_diffusion_matrix(self, v: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """g g^T v, at the state x where g depends on it."""
        return self._diffusion(v, t, x) ** 2 * v

    def diffusion_divergence(self, x: Tensor, t: Tensor) -> Tensor:
        """D = div(g g^T) at (x, t), the shape of x; differentiable where gradients are on."""
        t = self._times(x, t)
        if self.additive:
            return torch.zeros_like(x)
        if self.divergence is not None:
            return _shaped("divergence", self.divergence(x, t), x)
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if graph and x.requires_grad else x.detach().requires_grad_(True)
            squared = self._coefficient(at, t) ** 2
        if not squared.requires_grad:
            return torch.zeros_like(x)
        if squared.numel() == len(x):  # one number for each sample: D is its gradient
            unit = torch.ones_like(squared)
            return torch.autograd.grad(squared, at, unit, create_graph=graph, materialize_grads=True)[0]
        d = x[0].numel()
        unit = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
        (rows,) = torch.autograd.grad(
            squared, at, unit, create_graph=graph, is_grads_batched=True, materialize_grads=True
        )
        return (rows * unit).sum(0)

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """f - D - g^2 score."""
        drift = self.drift(x, t) - self.apply_diffusion_matrix(score, t, x)
        return drift if self.additive else drift - self.diffusion_divergence(x, t)

    def flow_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """f - D / 2 - g^2 score / 2."""
        drift = self.drift(x, t) - 0.5 * self.apply_diffusion_matrix(score, t, x)
        return drift if self.additive else drift - 0.5 * self.diffusion_divergence(x, t)

    @torch.no_grad()
    def simulate(
        self,
        x0: Tensor,
        t: Tensor,
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        step: int = 0,
        steps: int | None = None,
    ) -> Tensor:
        """A draw of x_t given x_0, by paths of ``steps`` steps each.

        x0: (B, *event). t: () or (B,), in [0, T].
        seed: of the paths: that of sample i depends on (seed, i, step) alone, unless the solver is adaptive, where a batch
            shares its steps. ``noise`` replaces seed and i.
        step: number of the draw; each gives other paths.
        steps: of each path; the process's own number unless given.

        Raises SolverError where a path becomes non-finite.
        """
        check_batch("x0", x0)
        steps = self.steps if steps is None else steps
        check_count("steps", steps)
        width = self._times(x0, t).to(x0) / steps
        scale, root = expand(width, x0), expand(width.sqrt(), x0)

        def drift(x: Tensor, tau: Tensor) -> Tensor:
            return scale * self._drift(x, width * tau)

        def diffusion(x: Tensor, tau: Tensor) -> Tensor:
            return (root * self._coefficient(x, width * tau)).expand(x.shape)

        noise = noise or NoiseSource.of(seed, len(x0), device=x0.device)
        try:
            return self.solver.forward(drift, diffusion, x0, 0.0, float(steps), 1.0, _paths(noise, step))
        except SolverError as error:
            raise SolverError(f"{steps} steps do not carry x_0 to t: give more, or a milder drift ({error})") from error

    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
        """A draw of x_t given x_0, keyed by (noise, step): `simulate`."""
        return self.simulate(x0, t, noise=noise, step=step)

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
        if not isinstance(self.prior, Prior):
            return self.prior * noise.normal(tuple(shape[1:]), step=0, purpose="prior", dtype=dtype)
        # a Prior counts its draws on from a first one: a call for each run of indices without a gap
        breaks = (noise.indices.diff() != 1).nonzero().flatten() + 1
        runs = torch.tensor_split(noise.indices, breaks.tolist())
        draws = [self.prior.sample(len(run), seed=noise.seed, dtype=dtype, first=int(run[0])) for run in runs]
        start = torch.cat(draws).to(noise.indices.device)
        if tuple(start.shape) != tuple(shape):
            raise ValueError(
                f"prior={self.prior!r} gave draws of shape {tuple(start.shape)}: {tuple(shape)} was asked for"
            )
        return start

    def prior_log_prob(self, x: Tensor) -> Tensor:
        check_batch("x", x)
        if isinstance(self.prior, Prior):
            return self.prior.log_prob(x)
        std = torch.tensor(self.prior, dtype=x.dtype, device=x.device)
        return standard_normal_log_prob(x / std) - x[0].numel() * std.log()

    def data_from_score(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        """Not known without a Gaussian kernel: raises TypeError."""
        raise TypeError("E[x_0 | x_t] does not follow from the score of a non-linear process: give denoise=False")

    def _times(self, x: Tensor, t: Tensor) -> Tensor:
        """t, checked, as (B,)."""
        check_batch("x", x)
        self.check_time(t, len(x))
        return t.expand(len(x))

    def _drift(self, x: Tensor, t: Tensor) -> Tensor:
        return _shaped("f", self.f(x, t), x)

    def _diffusion(self, like: Tensor, t: Tensor, x: Tensor | None) -> Tensor:
        if x is None:
            if not self.additive:
                raise ValueError("g depends on x: give the state, diffuse(z, t, x)")
            x = like
        return self._coefficient(x, self._times(x, t))

    def _coefficient(self, x: Tensor, t: Tensor) -> Tensor:
        """g, to be multiplied with something of the shape of x."""
        value = self.g(t) if self.additive else self.g(x, t)
        if value.shape not in (t.shape, x.shape):
            raise ValueError(
                f"g returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}: give {tuple(t.shape)} or the shape "
                f"of x; {_HINT}"
            )
        return expand(value, x)


_HINT = "t has shape (B,), write t.reshape(-1, *[1] * (x.ndim - 1)) to multiply x by it"


def _shaped(name: str, value: Tensor, x: Tensor) -> Tensor:
    if value.shape != x.shape:
        raise ValueError(f"{name} returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}: {_HINT}")
    return value


def _arguments(g: Callable[..., Tensor]) -> int:
    """How many arguments g asks for."""
    try:
        given = inspect.signature(getattr(g, "forward", g)).parameters.values()  # a module hides them behind __call__
    except (TypeError, ValueError):
        raise TypeError(f"g={g!r} does not say what it takes: wrap it, lambda t: ... or lambda x, t: ...") from None
    if any(p.kind is p.VAR_POSITIONAL for p in given):
        raise TypeError(f"g={g!r} takes any number of arguments: wrap it, lambda t: ... or lambda x, t: ...")
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in given)


def _paths(noise: NoiseSource, step: int) -> NoiseSource:
    """A source of Brownian paths for draw number ``step``, with a seed of its own: a reverse solve with the same seed and
    samples sees other paths."""
    low, high = NoiseSource.of(noise.seed, 1, step).integers(2**32, (2,), step=0, purpose="forward paths")[0].tolist()
    return NoiseSource(low | high << 32, noise.indices)
