"""Coefficients of a linear process as dense matrices on flattened states, computed with its public methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.linear import LinearSDE
from scoresde.solvers import ScipyODE

SOLVER = ScipyODE("DOP853", 1e-10, 1e-12)
GAUSSIAN = ScipyODE("DOP853", 1e-7, 1e-9)
"""Solver for the flow and the reverse SDE of Gaussian data. The limit of their errors is 1e-5."""
BRIEF = ScipyODE("DOP853", 1e-7, 1e-9, max_nfe=2000)
"""Solver for the checks after a failed kernel check. With a wrong g the flow of Gaussian data can be stiff and slow."""


class DenseProcess:
    """A linear process on events of one shape, as matrices on flattened states with D numbers. An event has d numbers.

    Args:
        sde: The process.
        event_shape: Shape of one event.
        data_std: Root mean square of the data about the center of the process, > 0.
    """

    def __init__(self, sde: LinearSDE, event_shape: tuple[int, ...], data_std: float = 1.0) -> None:
        self.sde, self.event_shape, self.data_std = sde, event_shape, data_std
        self.shape = sde.state_shape(event_shape)
        self.size = math.prod(self.shape)
        self.unit = torch.eye(self.size, dtype=torch.float64).reshape(self.size, *self.shape)
        self.zero = torch.zeros(1, *self.shape, dtype=torch.float64)
        self.t0 = 0.01 * sde.T
        self.times = [0.1 * sde.T, 0.4 * sde.T, 0.8 * sde.T, sde.T * (1.0 - 1e-6)]
        self.solver = GAUSSIAN

    @cached_property
    def embedding(self) -> Tensor:
        """Matrix ``(D, d)`` from the data to the mean of the state at t = 0."""
        event = math.prod(self.event_shape)
        unit = torch.eye(event, dtype=torch.float64).reshape(event, *self.event_shape)
        return self.sde.embed_data(unit).reshape(event, self.size).mT

    @cached_property
    def start(self) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance ``(D, D)`` of x_0 for data N(m, diag(p)), m from 0.2 to 0.6 and p from 0.3 to 0.9."""
        m, p = (
            torch.linspace(*ends, self.embedding.shape[1], dtype=torch.float64) for ends in ((0.2, 0.6), (0.3, 0.9))
        )
        return self.embedding @ m, self.embedding @ (p[:, None] * self.embedding.mT)

    def matrix(self, images: Tensor) -> Tensor:
        """Matrix of a linear function of states.

        Args:
            images: Images of the unit vectors, ``(D, *state)``.

        Returns:
            The matrix, ``(D, D)``, whose columns are the images.
        """
        return images.detach().reshape(self.size, self.size).mT

    def time(self, t: float) -> Tensor:
        """A time for each of the D unit vectors.

        Args:
            t: Time in [0, T].

        Returns:
            t, ``(D,)``.
        """
        return torch.full((self.size,), t, dtype=torch.float64)

    def affine(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Matrix and shift of an affine function of states.

        Args:
            function: The function, ``(B, *state)`` to ``(B, *state)``.

        Returns:
            The matrix ``(D, D)`` and the shift ``(D,)``.
        """
        images = function(torch.cat((self.zero, self.unit))).detach().reshape(self.size + 1, self.size)
        return (images[1:] - images[0]).mT, images[0]

    def f(self, t: float) -> Tensor:
        """Matrix F of the drift.

        Args:
            t: Time in [0, T].

        Returns:
            F, ``(D, D)``.
        """
        return self.drift(t)[0]

    def drift(self, t: float) -> tuple[Tensor, Tensor]:
        """Coefficients of the drift F x + c.

        Args:
            t: Time in [0, T].

        Returns:
            F ``(D, D)`` and c ``(D,)``.
        """
        return self.affine(lambda x: self.sde.drift(x, torch.full((len(x),), t, dtype=torch.float64)))

    def gg(self, t: float) -> Tensor:
        """Diffusion matrix G G^T.

        Args:
            t: Time in [0, T].

        Returns:
            G G^T, ``(D, D)``.
        """
        return self.matrix(self.sde.apply_diffusion_matrix(self.unit, self.time(t)))

    def kernel(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of the kernel x_t | x_0 = N(A x + b, C).

        Args:
            t: Time in [0, T].

        Returns:
            A ``(D, D)``, b ``(D,)`` and C ``(D, D)``.
        """
        return self.parts(self.sde.kernel(torch.tensor(t, dtype=torch.float64)))

    def step(self, s: float, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of the transition x_t | x_s = N(A x + b, C).

        Args:
            s: Start time in [0, T].
            t: End time, >= s.

        Returns:
            A ``(D, D)``, b ``(D,)`` and C ``(D, D)``.
        """
        return self.parts(
            self.sde.transition(torch.tensor(s, dtype=torch.float64), torch.tensor(t, dtype=torch.float64))
        )

    def parts(self, kernel: GaussianKernel) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of a kernel N(A x + b, C).

        Args:
            kernel: The kernel.

        Returns:
            A ``(D, D)``, b ``(D,)`` and C ``(D, D)``.
        """
        return *self.affine(kernel.mean), self.matrix(kernel.covariance(self.unit))

    def marginal(self, t: float) -> tuple[Tensor, Tensor]:
        """Marginal distribution of x_t for the Gaussian data of ``start``.

        Args:
            t: Time in [0, T].

        Returns:
            Mean ``(D,)`` and covariance ``(D, D)``.
        """
        (mean, covariance), (a, b, c) = self.start, self.kernel(t)
        return a @ mean + b, a @ covariance @ a.mT + c

    def score(self, x: Tensor, t: float) -> Tensor:
        """Exact score for the Gaussian data of ``start``.

        Args:
            x: States, ``(B, *state)``.
            t: Time in [0, T].

        Returns:
            The score, ``(B, *state)``.
        """
        mean, covariance = self.marginal(t)
        flat = x.reshape(len(x), self.size)
        out: Tensor = -torch.linalg.solve(covariance, (flat - mean).mT).mT.reshape(x.shape)
        return out


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest error, relative to the largest expected entry. It is infinite if a value is not finite."""
    found, wanted = found.detach(), wanted.detach()
    return _finite((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


def shift_error(found: Tensor, wanted: Tensor, a: Tensor) -> float:
    """Largest error of a shift, relative to the largest entry of the shift and of the matrix a, or infinity."""
    return _finite((found - wanted).abs().max() / torch.maximum(wanted.abs().max(), a.abs().max()))


def _finite(error: Tensor) -> float:
    """The error, or infinity for NaN, which ``max`` would drop."""
    return float(error) if bool(torch.isfinite(error)) else math.inf
