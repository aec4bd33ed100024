"""Gaussian noise of a measurement: a standard deviation for all entries, one for each, or a covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import as_numbers, check_number, shown


@dataclass(frozen=True)
class MeasurementNoise:
    """The noise of a measurement y of shape (B, *measurement), where a row has m numbers.

    Args:
        std: Standard deviation: a number, or a tensor of the shape of a row, (*measurement); >= 0.
        covariance: Covariance of the flattened row in place of ``std``, (m, m), symmetric positive semi-definite.

    Raises:
        ValueError: If both are given, or one is not allowed. Messages name them ``noise_std`` and ``noise_covariance``.
    """

    std: float | Tensor = 0.0
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.std, Tensor):
            std = as_numbers("noise_std", self.std)
            if std.numel() == 0 or bool((std < 0).any()):
                raise ValueError(f"noise_std={shown(self.std)} is not allowed: give numbers >= 0")
        else:
            check_number("noise_std", self.std, least=0.0)
        if self.covariance is None:
            return
        if isinstance(self.std, Tensor) or self.std != 0:
            raise ValueError(f"noise_std={shown(self.std)} and noise_covariance are both given: give one of them")
        _check_covariance(self.covariance)

    def check(self, measurement: Sequence[int]) -> None:
        """Check the noise against the shape of a row.

        Args:
            measurement: The shape of a row, (*measurement).

        Raises:
            ValueError: If the shapes do not fit.
        """
        m, shape = math.prod(measurement), tuple(measurement)
        if isinstance(self.std, Tensor) and self.std.ndim and tuple(self.std.shape) != shape:
            raise ValueError(
                f"noise_std has shape {tuple(self.std.shape)}, and a row of measurement has shape {shape}: give a number, or "
                "a standard deviation for each entry of a row"
            )
        if self.covariance is not None and len(self.covariance) != m:
            raise ValueError(
                f"noise_covariance has shape {tuple(self.covariance.shape)}, and a row of measurement has {m} numbers: give "
                f"({m}, {m})"
            )

    @property
    def is_positive(self) -> bool:
        """Whether the covariance is positive definite, so that p(y | x) has a density."""
        if self.covariance is not None:
            return not int(torch.linalg.cholesky_ex(self.covariance.double())[1])
        return bool((self.std > 0).all()) if isinstance(self.std, Tensor) else self.std > 0

    def log_density(self, v: Tensor) -> Tensor:
        """The log-density of the noise, which must be positive definite.

        Args:
            v: Values of the noise, (B, *measurement).

        Returns:
            The log-densities in nats, (B,), in float64.
        """
        flat = v.flatten(1).double()
        if self.covariance is not None:
            factor: Tensor = torch.linalg.cholesky(self.covariance.to(flat))
            white = torch.linalg.solve_triangular(factor, flat.mT, upper=False).mT
            log_det = factor.diagonal().log().sum()
        else:
            std = torch.as_tensor(self.std, dtype=flat.dtype, device=flat.device).expand(v.shape[1:]).reshape(-1)
            white, log_det = flat / std, std.log().sum()
        found: Tensor = -0.5 * white.square().sum(1) - log_det - 0.5 * flat.shape[1] * math.log(2.0 * math.pi)
        return found

    def multiply(self, v: Tensor) -> Tensor:
        """The product with the covariance of the noise.

        Args:
            v: Vectors of the shape of a measurement, (B, *measurement).

        Returns:
            The products, with the shape of v.
        """
        if self.covariance is not None:
            return (v.flatten(1) @ self.covariance.to(v)).reshape(v.shape)
        return self.std.to(v) ** 2 * v if isinstance(self.std, Tensor) else self.std**2 * v

    def matrix(self, measurement: Sequence[int]) -> Tensor:
        """The covariance of the noise as a matrix.

        Args:
            measurement: The shape of a row, (*measurement).

        Returns:
            The covariance, (m, m), in float64.
        """
        self.check(measurement)
        m = math.prod(measurement)
        return self.multiply(torch.eye(m, dtype=torch.float64).reshape(m, *measurement)).reshape(m, m)


def _check_covariance(covariance: Tensor) -> None:
    """Raise ValueError unless the covariance is a symmetric positive semi-definite matrix."""
    matrix = as_numbers("noise_covariance", covariance)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
        raise ValueError(f"noise_covariance has shape {tuple(matrix.shape)}: give (m, m) for measurements of m numbers")
    largest = float(matrix.abs().max())
    if not torch.allclose(matrix, matrix.mT, atol=1e-6 * largest):
        raise ValueError("noise_covariance is not symmetric")
    slack = 1e-6 * largest * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    if largest and int(torch.linalg.cholesky_ex(matrix + slack)[1]):
        raise ValueError("noise_covariance has a negative eigenvalue: none may be negative")
