"""Inverse problems whose posteriors are known exactly, and distances of samples to them.

Used by ``benchmarks/inverse_problems.py`` (scoresde) and ``benchmarks/inverse_problems_deepinv.py``. Each problem has four
measurements y, drawn from its own prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde import GaussianMixture, SmoothedEmpirical
from scoresde.metrics import sliced_wasserstein
from scoresde.noise import NoiseSource
from scoresde.operators import LinearOperator, Mask, MatrixOperator, SuperResolution

F64 = torch.float64
COUNT = 4
"""Measurements of a problem."""
SAMPLES = {
    "mixture, d = 2": 250,
    "mixture, d = 16": 250,
    "mixture, d = 64": 150,
    "digits, half": 100,
    "digits, 4 x 4": 100,
}
"""Samples for each measurement."""


@dataclass(frozen=True)
class Problem:
    """A prior, an operator and measurements with noise.

    Args:
        name: A key of ``SAMPLES``.
        prior: The distribution of x.
        operator: The measurement A.
        noise_std: Standard deviation of the noise.
        groups: The group of each component of the prior, such as the class of a digit, (K,).
    """

    name: str
    prior: GaussianMixture
    operator: LinearOperator
    noise_std: float
    groups: Tensor

    @property
    def each(self) -> int:
        """Samples for each measurement."""
        return SAMPLES[self.name]

    @cached_property
    def y(self) -> Tensor:
        """The measurements, (COUNT, *measurement)."""
        clean = self.operator(self.prior.sample(COUNT, seed=11, dtype=F64))
        noise = NoiseSource.of(12, COUNT).normal(clean.shape[1:], step=0, purpose="noise", dtype=F64)
        return clean + self.noise_std * noise

    @property
    def rows(self) -> Tensor:
        """The measurement of each sample, (COUNT * each, *measurement)."""
        return self.y.float().repeat_interleave(self.each, 0)

    @cached_property
    def posteriors(self) -> list[GaussianMixture]:
        """The posterior of each measurement."""
        return [self.prior.posterior(self.operator, y[None], self.noise_std) for y in self.y]

    def exact(self, seed: int) -> Tensor:
        """Exact samples of the posteriors, (COUNT, each, *event)."""
        return torch.stack([p.sample(self.each, seed=seed + 10 * k) for k, p in enumerate(self.posteriors)])

    def errors(self, samples: Tensor) -> dict[str, float]:
        """Distances of samples to the posteriors, means over the measurements.

        Args:
            samples: The samples, (COUNT, each, *event).

        Returns:
            sw: Sliced Wasserstein distance to exact samples. mean: Distance of the mean to that of the posterior, divided by the
            standard deviation of the posterior. groups: Total variation of the shares of the groups. failed: Share of samples
            that are not finite, or further than 1000 from 0.
        """
        found: dict[str, list[float]] = {"sw": [], "mean": [], "groups": [], "failed": []}
        for p, x, exact, shares in zip(self.posteriors, samples, self._exact, self._true_shares, strict=True):
            x = x.flatten(1).double()
            good = x.isfinite().all(1) & (x.abs().amax(1) < 1e3)
            found["failed"].append(1.0 - float(good.double().mean()))
            x = x.nan_to_num(nan=1e3, posinf=1e3, neginf=-1e3).clamp(-1e3, 1e3)
            found["sw"].append(float(sliced_wasserstein(x, exact.flatten(1).double(), directions=128)))
            center = p.weights @ p.means
            within = (p.variances.expand_as(p.means) * p.weights[:, None]).sum()
            spread = (within + (p.weights[:, None] * (p.means - center).square()).sum()).sqrt()
            found["mean"].append(float((x.mean(0) - center).norm() / spread))
            found["groups"].append(float(0.5 * (self._shares(x) - shares).abs().sum()))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def _shares(self, x: Tensor) -> Tensor:
        """The shares of the groups among samples: the groups of the nearest means."""
        nearest = torch.cdist(x, self.prior.means).argmin(1)
        return torch.bincount(self.groups[nearest], minlength=int(self.groups.max()) + 1).double() / len(x)

    @cached_property
    def _true_shares(self) -> list[Tensor]:
        """The same for many exact samples of each posterior."""
        return [self._shares(p.sample(4000, seed=5).flatten(1).double()) for p in self.posteriors]

    @cached_property
    def _exact(self) -> Tensor:
        return self.exact(200)


def problems() -> list[Problem]:
    """The five problems."""
    made = []
    means = 0.8 * torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.3, -1.2]], dtype=F64)
    covariance = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=F64).expand(3, 2, 2)
    prior = GaussianMixture(means, covariances=covariance)
    made.append(Problem("mixture, d = 2", prior, MatrixOperator([[1.0, 0.3]]), 0.2, torch.arange(3)))
    for d, m in ((16, 4), (64, 16)):
        prior, operator = _mixture(d, m)
        made.append(Problem(f"mixture, d = {d}", prior, operator, 0.2, torch.arange(8)))
    points, classes = _digits(50)
    prior = SmoothedEmpirical(points, 0.2)
    known = torch.zeros(8, 8)
    known[:4] = 1
    made.append(Problem("digits, half", prior, Mask(known), 0.8, classes))
    made.append(Problem("digits, 4 x 4", prior, SuperResolution(2), 0.5, classes))
    return made


def _mixture(d: int, m: int) -> tuple[GaussianMixture, MatrixOperator]:
    """Eight components in d dimensions with random covariances, of which m directions are measured.

    The means differ less in the measured directions than in the others, so several components fit a measurement.
    """
    source = NoiseSource.of(d, 1)

    def normal(*shape: int, purpose: str) -> Tensor:
        return source.normal(shape, step=0, purpose=purpose, dtype=F64)[0]

    basis = torch.linalg.qr(normal(d, d, purpose="basis"))[0]
    means = normal(8, d, purpose="means")
    means[:, :m] *= 0.2
    root = normal(8, d, d, purpose="covariances") / d**0.5
    covariances = 0.15 * root @ root.mT + 0.02 * torch.eye(d, dtype=F64)
    return GaussianMixture(means @ basis.mT, covariances=covariances), MatrixOperator(basis[:, :m].mT)


def _digits(each: int) -> tuple[Tensor, Tensor]:
    """Digits of 8 x 8 pixels in [-1, 1], ``each`` of every class, and their classes."""
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    classes = torch.from_numpy(target).long()
    chosen = torch.cat([(classes == k).nonzero()[:each, 0] for k in range(10)])
    return torch.from_numpy(images)[chosen].double().reshape(-1, 1, 8, 8) / 8.0 - 1.0, classes[chosen]
