r"""Gaussian components given a linear measurement with Gaussian noise.

For a component N(mu, C) and a measurement y = A x + e, e ~ N(0, N), the joint distribution of x and y is Gaussian:

.. math::
    S = A C A^T + N, \qquad G = C A^T S^{-1}, \qquad p(y) = N(y; A \mu, S)

    p(x \mid y) = N(x; \; \mu + G (y - A \mu), \; (I - G A) C (I - G A)^T + G N G^T)

In directions in which A and the noise vanish for all x (a masked pixel without noise), y is 0 with probability 1. They are
left out: p(y) is the density on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde._validation import check_batch, shown
from scoresde.operators.measurement_noise import MeasurementNoise

TOLERANCE = 1e-6
"""Relative error of functions that are taken to be linear, and of measurements in directions in which they must be 0."""


class LinearMeasurement:
    """A linear function of events with m numbers, and its noise, as matrices.

    Args:
        operator: The linear function A, (B, *event) -> (B, *measurement).
        event_shape: The shape of an event, of d numbers.
        measurement: Values y, (B, *measurement).
        noise: The noise.

    Raises:
        ValueError: If the shapes do not fit, the function is not linear, or a value y is impossible.
    """

    def __init__(
        self,
        operator: Callable[[Tensor], Tensor],
        event_shape: Sequence[int],
        measurement: Tensor,
        noise: MeasurementNoise,
    ) -> None:
        if not callable(operator):
            raise TypeError(f"operator={shown(operator)} cannot be called: give a linear function of x")
        check_batch("measurement", measurement)
        if not bool(torch.isfinite(measurement).all()):
            raise ValueError("measurement has values that are not finite: give finite numbers")
        shape = tuple(measurement.shape[1:])
        noise.check(shape)
        matrix = _matrix(operator, event_shape, shape)
        covariance = noise.matrix(shape)
        variances, basis = torch.linalg.eigh(matrix @ matrix.mT + covariance)
        seen = variances > len(variances) * torch.finfo(torch.float64).eps * variances.max()
        y = measurement.flatten(1).to("cpu", torch.float64)
        hidden = y @ basis[:, ~seen]
        if bool((hidden.norm(dim=1) > TOLERANCE * y.norm(dim=1)).any()):
            raise ValueError(
                f"measurement={shown(measurement)} is not a value of the operator, and there is no noise: give noise_std > 0"
            )
        basis = basis[:, seen]
        self.matrix, self.noise, self.y = basis.mT @ matrix, basis.mT @ covariance @ basis, y @ basis

    def joint(self, covariances: Tensor) -> tuple[Tensor, Tensor]:
        """The covariances of y, and the regression of x on y.

        Args:
            covariances: Covariances C of x, (K, d, d).

        Returns:
            The Cholesky factors of S, (K, m, m), and the matrices G, (K, d, m).

        Raises:
            ValueError: If a covariance of y is singular.
        """
        cross = covariances @ self.matrix.mT
        factors, failed = torch.linalg.cholesky_ex(self.matrix @ cross + self.noise)
        if bool(failed.any()):
            raise ValueError("the measurement has no density, because a variance is 0: give noise_std > 0")
        return factors, torch.cholesky_solve(cross.mT, factors).mT

    def log_densities(self, means: Tensor, factors: Tensor) -> Tensor:
        """log p(y) of each component.

        Args:
            means: Means mu of x, (K, d).
            factors: Cholesky factors of the covariances of y, (K, m, m) or (1, m, m).

        Returns:
            The log-densities of each y, in nats, (B, K).
        """
        off = self.y[:, None] - means @ self.matrix.mT  # (B, K, m)
        white = torch.linalg.solve_triangular(factors, off.movedim(0, -1), upper=False)  # (K, m, B)
        log_det = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        norm = 0.5 * off.shape[-1] * math.log(2.0 * math.pi)
        found: Tensor = (-0.5 * white.square().sum(1) - log_det[:, None] - norm).mT
        return found

    def given(self, means: Tensor, covariances: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and covariance of x given the first y, for each component.

        Args:
            means: Means mu, (K, d).
            covariances: Covariances C, (K, d, d) or (1, d, d).
            gains: The matrices G, (K, d, m) or (1, d, m).

        Returns:
            The means, (K, d), and the covariances, (K, d, d).
        """
        off = self.y[0] - means @ self.matrix.mT
        rest = torch.eye(means.shape[1], dtype=means.dtype) - gains @ self.matrix
        left = rest @ covariances @ rest.mT + gains @ self.noise @ gains.mT
        return means + (gains @ off[..., None])[..., 0], (0.5 * (left + left.mT)).expand(len(means), -1, -1)


def _matrix(operator: Callable[[Tensor], Tensor], event_shape: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The matrix of a linear function, (m, d), in float64."""
    d = math.prod(event_shape)
    unit = torch.eye(d, dtype=torch.float64)
    probe = torch.linspace(-1.0, 2.0, d, dtype=torch.float64)[None]
    with torch.no_grad():
        images = operator(torch.cat((unit, probe, 0.0 * probe)).reshape(d + 2, *event_shape))
    if not isinstance(images, Tensor) or images.shape != (d + 2, *shape):
        raise ValueError(
            f"operator returned {shown(images)} for x of shape {(d + 2, *event_shape)}, and measurement has rows of shape "
            f"{tuple(shape)}: give a measurement of the shape that the operator returns"
        )
    images = images.reshape(d + 2, -1).to("cpu", torch.float64)
    wanted = probe @ images[:d]
    scale = TOLERANCE * max(1.0, float(images.abs().max()))
    if float(images[-1].abs().max()) > scale or float((images[-2:-1] - wanted).abs().max()) > d * scale:
        raise ValueError(
            f"operator={shown(operator)} is not linear: give a function with A(a x + b z) = a A(x) + b A(z)"
        )
    return images[:d].mT
