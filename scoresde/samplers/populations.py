r"""Weights of particles: systematic resampling, effective sizes, and the evidence with its error.

Each of B samples has a population of K particles with weights W_k that sum to 1. The effective size is 1 / sum_k W_k^2. The
evidence is estimated by the product of the mean weights between resamplings. Its relative variance is estimated from the
ancestors of the last particles (Lee & Whiteley 2018, arXiv:1509.00394):

.. math::
    V = 1 - \frac{K}{K - 1} \Big(1 - \sum_e \Omega_e^2\Big)

where Omega_e is the sum of the weights of all particles that descend from particle e of the start. Without resampling this is the
variance of importance sampling. With multinomial resampling, the factor K / (K - 1) would appear once more for each resampling.
Systematic resampling adds less noise, and the estimate would be too small. The standard error of the log-evidence is
(-log(1 - V))^(1/2), which is about V^(1/2), and infinite if one ancestor is left. It is too small if few ancestors are left, or
if the particles miss a part of the posterior. All weights are logarithms in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde.noise import NoiseSource

__all__ = ["Particles"]


@dataclass(frozen=True)
class Particles:
    """The particles of a run of ``ParticleSampler``.

    The mean of a function f over the posterior of sample i is estimated by ``(log_weights[i].exp() * f(states[i])).sum()``.

    Attributes:
        states: The last states, of shape ``(B, K, *state)``.
        log_weights: Logarithms of their weights, ``(B, K)`` in float64. The weights of a sample sum to 1. They are
            NaN if no particle has a positive weight.
        log_evidence: Estimate of log p(y) in nats, ``(B,)``; of the log of the mean of the likelihood, if it is not
            normalized. NaN after an interrupt.
        log_evidence_error: Its standard error, ``(B,)``; infinite if all particles descend from one of the start.
        effective_sizes: Effective number of particles before each step and at the end, ``(N + 1, B)``, in [1, K].
        resampled: Whether the particles were resampled there, bool of shape ``(N + 1, B)``.
        ancestors: Number of particles of the start from which the last ones descend, ``(B,)``. If it is small, the error is
            not reliable.
    """

    states: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    log_evidence_error: Tensor
    effective_sizes: Tensor
    resampled: Tensor
    ancestors: Tensor

    def __repr__(self) -> str:
        batch, count = self.log_weights.shape
        least = float(self.effective_sizes.min()) if self.effective_sizes.numel() else math.nan
        return f"Particles({count} for each of {batch} samples, smallest effective size {least:.1f})"


class Weights:
    """The weights of populations during a run.

    Args:
        batch: Number of populations B.
        count: Number of particles K in each.
        device: Device of the particles.
    """

    def __init__(self, batch: int, count: int, device: torch.device) -> None:
        self.count = count
        self.log = torch.zeros(batch, count, dtype=torch.float64, device=device)
        self.log_evidence = self.log.new_zeros(batch)
        self.lost = torch.zeros(batch, dtype=torch.bool, device=device)
        self.start = torch.arange(count, device=device).expand(batch, count)
        self.first_rows = count * torch.arange(batch, device=device)[:, None]
        self.sizes: list[Tensor] = []
        self.resampled: list[Tensor] = []

    def multiply(self, log_factor: Tensor) -> None:
        """Multiply the weights by factors, given as logarithms of shape ``(B K,)``.

        A population is lost if all its weights are 0, or if one is not a number. From then on its weights are equal.
        """
        self.log = self.log + log_factor.double().reshape(self.log.shape)
        highest = self.log.max(1).values  # NaN if there is one
        self.lost |= ~torch.isfinite(highest)
        self.log = torch.where(self.lost[:, None], 0.0, self.log)

    def measure(self) -> Tensor:
        """Record the effective sizes and return them, ``(B,)``."""
        size = (2.0 * self.log.logsumexp(1) - (2.0 * self.log).logsumexp(1)).exp()
        self.sizes.append(size)
        self.resampled.append(torch.zeros_like(self.lost))
        return size

    def resample(self, threshold: float, noise: NoiseSource, step: int) -> Tensor | None:
        """Resample the populations whose effective size is below a threshold.

        Args:
            threshold: Smallest effective size, as a part of K.
            noise: Source of one uniform number for each population.
            step: Number of the step, part of the key.

        Returns:
            The row of the particle that replaces each row, ``(B K,)``. None if no population was resampled.
        """
        due = self.measure() < threshold * self.count
        if not bool(due.any()):
            return None
        u = noise.uniform((), step=step, purpose="resampling", dtype=torch.float64)
        same = torch.arange(self.count, device=self.log.device)
        parents = torch.where(due[:, None], systematic(self.log, u), same)
        self.log_evidence = torch.where(due, self.log_evidence + self._log_mean(), self.log_evidence)
        self.log = torch.where(due[:, None], 0.0, self.log)
        self.start = self.start.gather(1, parents)
        self.resampled[-1] = due
        return (self.first_rows + parents).flatten()

    def record(self, states: Tensor, *, complete: bool) -> Particles:
        """The particles with the present weights.

        Args:
            states: The states, ``(B K, *state)``.
            complete: Whether the run has ended, so that the evidence is known.

        Returns:
            The record.
        """
        batch, count = self.log.shape
        log_weights = self.log - self.log.logsumexp(1, keepdim=True)
        shares = log_weights.new_zeros(batch, count).scatter_add(1, self.start, log_weights.exp())
        correction = count / (count - 1.0) if count > 1 else math.nan
        remains = (correction * (1.0 - shares.square().sum(1))).clamp(0.0, 1.0)  # 1 - V
        unknown = math.nan if not complete else 0.0
        return Particles(
            states.reshape(batch, count, *states.shape[1:]),
            torch.where(self.lost[:, None], math.nan, log_weights),
            torch.where(self.lost, math.nan, self.log_evidence + self._log_mean()) + unknown,
            torch.where(self.lost, math.nan, (-remains.log()).sqrt()) + unknown,
            torch.stack(self.sizes) if self.sizes else log_weights.new_zeros(0, batch),
            torch.stack(self.resampled) if self.resampled else self.lost.new_zeros(0, batch),
            torch.zeros_like(shares).scatter(1, self.start, 1.0).sum(1).long(),
        )

    def _log_mean(self) -> Tensor:
        return self.log.logsumexp(1) - math.log(self.count)


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """Systematic resampling: particle k is drawn floor(K W_k) or ceil(K W_k) times, K W_k on average.

    Args:
        log_weights: Logarithms of weights, ``(B, K)``, up to a constant for each row.
        u: One number in (0, 1) for each row, ``(B,)``.

    Returns:
        The indices of the K particles that are drawn, ``(B, K)``.
    """
    count = log_weights.shape[1]
    ends = log_weights.softmax(1).cumsum(1)
    places = (u[:, None] + torch.arange(count, device=u.device)) / count
    return torch.searchsorted(ends / ends[:, -1:], places).clamp(max=count - 1)


check_constructors(globals(), records=(Particles,))
