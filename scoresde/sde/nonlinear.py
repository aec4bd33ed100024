r"""Processes with any drift and a diffusion that may depend on the state (Ito, diagonal).

With additive noise (g depends only on t) the divergence D is 0::

    SDE                dx = f(x, t) dt + g(x, t) dw
    reverse SDE        dx = [f - D - g^2 score] dt + g dw'          solved from T down to 0
    probability flow   dx = [f - D / 2 - g^2 score / 2] dt          the same marginals
    with               D = div(g g^T),  D_i = d(g_i^2) / dx_i

(Song et al. 2021, arXiv:2011.13456, appendix A.) The transition kernel x_t | x_0 is not known in closed form, so x_t is
simulated. With h = t / n, the path of each sample to its time t takes n steps in a time variable tau that all samples
of the batch share::

    dx = h f(x, h tau) dtau + sqrt(h) g(x, h tau) dW,           tau from 0 to n

One solve therefore serves a batch with different times. Denoising score matching needs the kernel and cannot be used;
sliced score matching can. Tweedie's formula for E[x_0 | x_t] does not apply either: call samplers with
``denoise=False``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
    """Protocol of a distribution with samples and a density, for example ``GaussianMixture``."""

    def sample(self, n: int, seed: int = 0, dtype: torch.dtype = torch.float32, first: int = 0) -> Tensor:
        """Draw samples.

        Args:
            n: Number of samples.
            seed: Sample i depends only on (seed, first + i).
            dtype: Data type of the samples.
            first: Index of the first sample.

        Returns:
            The samples, ``(n, *event)``.
        """

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density.

        Args:
            x: Points, ``(B, *event)``.

        Returns:
            log p(x) in nats, ``(B,)``.
        """


@dataclass(frozen=True)
class NonlinearSDE(SDE):
    r"""Process with a user-defined drift and diffusion.

    .. math::
        dx = f(x, t)\, dt + g(x, t)\, dw

    The SDE is in the Ito sense and the diffusion is diagonal.

    Args:
        f: Drift, a function (x, t) of states ``(B, *event)`` and times ``(B,)`` that returns the shape of x.
        g: Diffusion, a function of t or of (x, t). The number of its required arguments decides which. It returns
            ``(B,)``, one number for each sample, or the shape of x, one number for each coordinate.
        T: The last time, > 0.
        prior: Distribution at T: the standard deviation of N(0, prior^2 I), or an object with the methods of ``Prior``.
            Samplers and likelihoods use it without a check, so T must be large enough that p_T is close to it.
        divergence: D = div(g g^T), a function (x, t) that returns the shape of x, if it is known for a g(x, t). By
            default it is computed by automatic differentiation: one backward pass if g returns ``(B,)``, d passes if it
            returns the shape of x.
        steps: Number of steps of ``simulate``, >= 1.
        solver: SDE solver of ``simulate``. If g depends on x, Stratonovich solvers are not allowed. Solvers of order
            above 1/2 are then correct only if g_i depends on x_i alone.

    Raises:
        ValueError: If a value is not allowed. The message names the argument.
        TypeError: If an argument has the wrong type.

    References:
        Song et al. 2021, arXiv:2011.13456, appendix A.
    """

    f: Callable[[Tensor, Tensor], Tensor]
    g: Callable[..., Tensor]
    T: float = 1.0
    prior: Prior | float = 1.0
    divergence: Callable[[Tensor, Tensor], Tensor] | None = None
    steps: int = 200
    solver: TorchSDE = field(default_factory=TorchSDE)
    additive: bool = field(init=False, repr=False, compare=False)
    """Whether the noise is additive: g depends on t and not on x."""

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
            raise TypeError(f"g={self.g!r} takes {arguments} arguments: give g(t) or g(x, t)")
        object.__setattr__(self, "additive", arguments == 1)
        if not self.additive and self.solver.stratonovich:
            raise ValueError(
                f"solver={self.solver!r} solves Stratonovich SDEs, and g(x, t) is the diffusion of an Ito SDE: give "
                "'euler', 'milstein' or 'srk'"
            )

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self._drift(x, self._times(x, t))

    def diffusion(self, t: Tensor) -> Tensor:
        """Diffusion coefficient g(t) of a process with additive noise.

        Args:
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The coefficient in the shape of t, or ``(*t, *event)`` if g has one number for each coordinate.

        Raises:
            TypeError: If g depends on x.
        """
        if not self.additive:
            raise TypeError(f"{self!r} has a diffusion that depends on x: use apply_diffusion(z, t, x)")
        self.check_time(t)
        value = self.g(t.reshape(-1))
        return value.reshape(t.shape + value.shape[1:])

    def apply_diffusion(self, z: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        return self._diffusion(z, t, x) * z

    def apply_diffusion_matrix(self, v: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        return self._diffusion(v, t, x) ** 2 * v

    def diffusion_divergence(self, x: Tensor, t: Tensor) -> Tensor:
        """Divergence of the diffusion matrix: D = div(g g^T).

        Args:
            x: States, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            D, in the shape of x. It has a graph if gradients are enabled.
        """
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
        if squared.numel() == len(x):  # one number for each sample: D is the gradient of g^2
            unit = torch.ones_like(squared)
            return torch.autograd.grad(squared, at, unit, create_graph=graph, materialize_grads=True)[0]
        d = x[0].numel()
        unit = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
        (rows,) = torch.autograd.grad(
            squared, at, unit, create_graph=graph, is_grads_batched=True, materialize_grads=True
        )
        return (rows * unit).sum(0)

    def reverse_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        drift = self.drift(x, t) - self.apply_diffusion_matrix(score, t, x)
        return drift if self.additive else drift - self.diffusion_divergence(x, t)  # f - D - g^2 score

    def flow_drift(self, x: Tensor, t: Tensor, score: Tensor) -> Tensor:
        drift = self.drift(x, t) - 0.5 * self.apply_diffusion_matrix(score, t, x)
        return drift if self.additive else drift - 0.5 * self.diffusion_divergence(x, t)  # f - D / 2 - g^2 score / 2

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
        """Simulate x_t given x_0.

        Args:
            x0: Data, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            seed: Seed of the paths. The path of sample i depends only on (seed, i, step), unless the solver is
                adaptive: then the samples of a batch share their steps.
            noise: Source of the random numbers. It replaces the seed and the indices of the samples.
            step: Number of the draw. Different numbers give independent paths.
            steps: Number of steps of each path, >= 1. None: the ``steps`` of the process.

        Returns:
            The states x_t, ``(B, *event)``.

        Raises:
            SolverError: If a path becomes non-finite.
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
            raise SolverError(f"the path from x_0 to t failed with {steps} steps: give more ({error})") from error

    def marginal_sample(self, x0: Tensor, t: Tensor, noise: NoiseSource, *, step: int = 0) -> Tensor:
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
        # a Prior draws samples with consecutive indices: one call for each run of consecutive indices
        breaks = (noise.indices.diff() != 1).nonzero().flatten() + 1
        runs = torch.tensor_split(noise.indices, breaks.tolist())
        draws = [self.prior.sample(len(run), seed=noise.seed, dtype=dtype, first=int(run[0])) for run in runs]
        start = torch.cat(draws).to(noise.indices.device)
        if tuple(start.shape) != tuple(shape):
            raise ValueError(
                f"prior={self.prior!r} gave samples of shape {tuple(start.shape)}, but shape={tuple(shape)} was requested"
            )
        return start

    def prior_log_prob(self, x: Tensor) -> Tensor:
        check_batch("x", x)
        if isinstance(self.prior, Prior):
            return self.prior.log_prob(x)
        std = torch.tensor(self.prior, dtype=x.dtype, device=x.device)
        return standard_normal_log_prob(x / std) - x[0].numel() * std.log()

    def _times(self, x: Tensor, t: Tensor) -> Tensor:
        """Check t and expand it to ``(B,)``."""
        check_batch("x", x)
        self.check_time(t, len(x))
        return t.expand(len(x))

    def _drift(self, x: Tensor, t: Tensor) -> Tensor:
        return _shaped("f", self.f(x, t), x)

    def _diffusion(self, like: Tensor, t: Tensor, x: Tensor | None) -> Tensor:
        if x is None:
            if not self.additive:
                raise ValueError("g depends on x: give the state, apply_diffusion(z, t, x)")
            x = like
        return self._coefficient(x, self._times(x, t))

    def _coefficient(self, x: Tensor, t: Tensor) -> Tensor:
        """g, in a shape that broadcasts against x."""
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
    """Number of required arguments of g."""
    try:
        given = inspect.signature(
            getattr(g, "forward", g)
        ).parameters.values()  # the signature of a module is that of forward, not of __call__
    except (TypeError, ValueError):
        raise TypeError(f"g={g!r} has no signature: wrap it, lambda t: ... or lambda x, t: ...") from None
    if any(p.kind is p.VAR_POSITIONAL for p in given):
        raise TypeError(f"g={g!r} takes any number of arguments: wrap it, lambda t: ... or lambda x, t: ...")
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in given)


def _paths(noise: NoiseSource, step: int) -> NoiseSource:
    """Source of Brownian paths for draw number ``step``.

    The seed is derived from that of ``noise``, so that a reverse solve with the same seed and samples has independent
    paths.
    """
    low, high = NoiseSource.of(noise.seed, 1, step).integers(2**32, (2,), step=0, purpose="forward paths")[0].tolist()
    return replace(noise, seed=low | high << 32)
