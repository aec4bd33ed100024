r"""Gaussian mixtures, whose score and density are known in closed form at every time under every linear process.

A mixture p(x) = sum_k w_k N(x; mu_k, C_k) remains a mixture under x_t = alpha x_0 + sigma z::

    p_t(x) = sum_k w_k N(x; alpha mu_k, alpha^2 C_k + sigma^2 I)

Its score is the sum of the scores of the components, weighted by their responsibilities. The decomposition
C_k = V_k diag(c_k) V_k^T is computed once; then each evaluation costs one rotation. Under a process with a matrix
kernel N(A x_0, L L^T) the components are N(A mu_k, A C_k A^T + L L^T), computed with dense matrices, so the events must
be small. If the kernel is shifted, its mean at x_0 = 0 is subtracted from x first.

The tests use these distributions as exact references. ``mixture.score(sde)`` can replace a trained network wherever a
score is expected.

Computations are in float64; results have the dtype of x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import Numbers, as_numbers, check_batch, check_count
from scoresde.distributions.data_variance import data_variance
from scoresde.distributions.linear_gaussian import LinearMeasurement
from scoresde.noise import NoiseSource
from scoresde.operators.measurement_noise import MeasurementNoise
from scoresde.sde.base import check_gaussian
from scoresde.sde.linalg.kernel import GaussianKernel, ScalarKernel
from scoresde.sde.linear import LinearSDE

_CHUNK = 2**21
"""Largest number of elements of a ``(B, K, d)`` block in memory: 16 MiB in float64."""


class GaussianMixture:
    r"""Mixture of K Gaussians on events of any shape.

    .. math::
        p(x) = \sum_{k=1}^K w_k\, N(x; \mu_k, C_k)

    Args:
        means: Means, ``(K, *event)``.
        stds: Standard deviations: ``()`` or ``(K,)`` for isotropic components, ``(K, *event)`` for diagonal ones. None
            if ``covariances`` is given.
        weights: Weights, ``(K,)``, >= 0. They are normalized. None: equal weights.
        covariances: Covariances in place of ``stds``, ``(K, d, d)`` symmetric positive semi-definite, where an event
            has d numbers.

    Raises:
        ValueError: If shapes do not match, or a weight or variance is negative. The message names the argument. If a
            variance is 0, the density exists only for t > 0, and ``log_prob`` raises ValueError.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> mixture = GaussianMixture(means=[[1.0, 0.5], [-1.0, -0.5]], stds=[0.3, 0.4])
        >>> x = mixture.sample(4, seed=0)
        >>> score = mixture.score(VPSDE())
        >>> score(x, torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        means: Numbers,
        stds: Numbers | None = None,
        weights: Numbers | None = None,
        *,
        covariances: Numbers | None = None,
    ) -> None:
        means = as_numbers("means", means)
        if means.numel() == 0:
            raise ValueError(
                f"means has shape {tuple(means.shape)}: give at least one component, of at least one number"
            )
        if means.ndim < 2:
            raise ValueError(f"means has shape {tuple(means.shape)}: give (K, *event)")
        self.event_shape = tuple(means.shape[1:])
        self.means = means.flatten(1)
        count, d = self.means.shape
        self.rotations: Tensor | None = None
        if (stds is None) == (covariances is None):
            raise ValueError("give either stds or covariances")
        if covariances is not None:
            covariances = as_numbers("covariances", covariances, means.device)
            if covariances.shape != (count, d, d):
                raise ValueError(f"covariances has shape {tuple(covariances.shape)}: give ({count}, {d}, {d})")
            if not torch.allclose(covariances, covariances.mT, atol=1e-10):
                raise ValueError("covariances are not symmetric")
            self.variances, self.rotations = torch.linalg.eigh(covariances)
            self._rotation = self.rotations.transpose(0, 1).reshape(d, count * d)
            self._rotated_means = torch.einsum("kij,ki->kj", self.rotations, self.means)
            floor = -1e-10 * float(self.variances.abs().max())
            # an eigenvalue that is as small as the rounding error of the largest is 0
            rounding = d * torch.finfo(torch.float64).eps * self.variances.amax(1, keepdim=True)
            self.variances = torch.where(self.variances.abs() <= rounding, 0.0, self.variances)
        elif stds is not None:
            std = as_numbers("stds", stds, means.device)
            if std.shape not in ((), (count,), means.shape):
                raise ValueError(f"stds has shape {tuple(std.shape)}: give (), ({count},) or {tuple(means.shape)}")
            if bool((std < 0).any()):
                raise ValueError("stds holds negative values")
            # isotropic components have one column, which broadcasts over the coordinates
            std = std.flatten(1) if std.shape == means.shape else std.expand(count)[:, None]
            self.variances, floor = std**2, 0.0
        if float(self.variances.min()) < floor:
            raise ValueError(f"covariances has an eigenvalue of {float(self.variances.min()):g}: none may be negative")
        self.variances = self.variances.clamp(min=0.0)
        self._flat = not bool((self.variances > 0).all())
        weights = torch.ones(count) if weights is None else as_numbers("weights", weights)
        if weights.shape != (count,) or bool((weights < 0).any()) or not float(weights.sum()) > 0:
            raise ValueError(
                f"weights of shape {tuple(weights.shape)}: give ({count},) non-negative numbers, not all 0"
            )
        weights = weights.to(self.means)
        self.weights = weights / weights.sum()
        self._squares = torch.einsum("kd,kd->k", self.means, self.means)
        shared = self.variances.shape[1] == 1 and bool((self.variances == self.variances[0]).all())
        self._distinct_variances = self.variances[:1, 0] if shared else self.variances[:, 0]

    def sample(self, n: int, seed: int = 0, dtype: torch.dtype = torch.float32, first: int = 0) -> Tensor:
        """Draw exact samples.

        Args:
            n: Number of samples.
            seed: Sample i depends only on (seed, first + i).
            dtype: Data type of the samples.
            first: Index of the first sample.

        Returns:
            The samples, ``(n, *event)``.
        """
        check_count("n", n)
        source = NoiseSource.of(seed, n, first, self.means.device)
        u = source.uniform((), step=0, purpose="mixture component", dtype=torch.float64)
        k = torch.searchsorted(self.weights.cumsum(0), u).clamp(max=len(self.weights) - 1)
        z = source.normal(self.means.shape[1:], step=0, purpose="mixture noise", dtype=torch.float64)
        z = z * self.variances[k].sqrt()
        if self.rotations is not None:
            for (
                one
            ) in k.unique():  # one component at a time: the rotations of all samples together need too much memory
                z[k == one] = z[k == one] @ self.rotations[one].mT
        out: Tensor = (self.means[k] + z).to(dtype).reshape(n, *self.event_shape)
        return out

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at t = 0.

        Args:
            x: Points, ``(B, *event)``.

        Returns:
            log p(x) in nats, ``(B,)``.

        Raises:
            ValueError: If a variance is 0.
        """
        check_batch("x", x)
        if self._flat:
            raise ValueError(
                f"{self!r} has no density at t = 0, because a variance is 0: give stds > 0, or use log_prob_at"
            )
        one = torch.ones((), dtype=torch.float64, device=x.device)
        return self._evaluate(x, one, 0.0 * one)[0]

    def log_prob_at(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        """Log-density of x_t under a process.

        Args:
            sde: The process.
            x: States, ``(B, *state)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            log p_t(x) in nats, ``(B,)``.
        """
        return self._at(sde, x, t)[0]

    def score(self, sde: LinearSDE) -> Callable[[Tensor, Tensor], Tensor]:
        """Exact score under a process.

        Args:
            sde: The process.

        Returns:
            The function (x, t) -> grad log p_t(x), for states ``(B, *state)`` and times ``(B,)``. Its attribute ``sde``
            is the process, its method ``energy(x, t)`` returns -log p_t(x), ``(B,)``, and ``score_and_variance(x, t, delta)``
            the score and the variance of each coordinate of x_0 given x_t, ``(B, *event)``. The variance needs a process with
            scalar coefficients and does not depend on ``delta``.
        """
        return _MixtureScore(self, sde)

    def posterior(
        self,
        operator: Callable[[Tensor], Tensor],
        measurement: Tensor,
        noise_std: float | Tensor = 0.0,
        *,
        noise_covariance: Tensor | None = None,
    ) -> GaussianMixture:
        r"""The distribution of x given a linear measurement y = A x + e with Gaussian noise e ~ N(0, N), exactly.

        .. math::
            p(x \mid y) = \sum_k w_k' N(x; \mu_k + G_k (y - A \mu_k), C_k - G_k A C_k), \qquad
            w_k' \propto w_k N(y; A \mu_k, A C_k A^T + N)

        with :math:`G_k = C_k A^T (A C_k A^T + N)^{-1}`. Components whose weight is 0 in float64 are left out. It is computed with
        dense matrices, so events must be small.

        Args:
            operator: The linear function A, ``(B, *event) -> (B, *measurement)``, such as a ``LinearOperator``.
            measurement: The measurement y, ``(1, *measurement)``.
            noise_std: Standard deviation of the noise: a number, or a tensor ``(*measurement)``; >= 0.
            noise_covariance: Covariance of the flattened noise in place of ``noise_std``, ``(m, m)``.

        Returns:
            The posterior.

        Raises:
            ValueError: If shapes do not fit, the operator is not linear, or y has no density, such as a measurement without noise
                of a variance 0.

        Example:
            >>> import torch
            >>> from scoresde import GaussianMixture
            >>> prior = GaussianMixture([[0.0, 0.0]], covariances=[[[1.0, 0.9], [0.9, 1.0]]])
            >>> given = prior.posterior(lambda x: x[:, :1], torch.ones(1, 1))
            >>> [round(float(mean), 6) for mean in given.means[0]]
            [1.0, 0.9]
        """
        if isinstance(measurement, Tensor) and len(measurement.shape) and len(measurement) != 1:
            raise ValueError(f"measurement has shape {tuple(measurement.shape)}: give a single row, (1, *measurement)")
        seen, log_weights, gains = self._measured(operator, measurement, MeasurementNoise(noise_std, noise_covariance))
        weights = log_weights[0].softmax(0)
        kept = weights > 0
        covariances, gains = (one[kept] if len(one) > 1 else one for one in (self._covariances(), gains))
        means, covariances = seen.given(self.means[kept].cpu(), covariances, gains)
        means, covariances, weights = (one.to(self.means) for one in (means, covariances, weights[kept]))
        return GaussianMixture(means.reshape(-1, *self.event_shape), weights=weights, covariances=covariances)

    def log_evidence(
        self,
        operator: Callable[[Tensor], Tensor],
        measurement: Tensor,
        noise_std: float | Tensor = 0.0,
        *,
        noise_covariance: Tensor | None = None,
    ) -> Tensor:
        r"""The log-density of linear measurements y = A x + e with Gaussian noise e ~ N(0, N), exactly.

        .. math::
            p(y) = \sum_k w_k N(y; A \mu_k, A C_k A^T + N)

        Entries that are 0 for every x, such as masked ones without noise, do not count.

        Args:
            operator: The linear function A, ``(B, *event) -> (B, *measurement)``, such as a ``LinearOperator``.
            measurement: The measurements y, ``(B, *measurement)``.
            noise_std: Standard deviation of the noise: a number, or a tensor ``(*measurement)``; >= 0.
            noise_covariance: Covariance of the flattened noise in place of ``noise_std``, ``(m, m)``.

        Returns:
            log p(y) in nats, ``(B,)``, in float64.

        Raises:
            ValueError: As for ``posterior``.

        Example:
            >>> import torch
            >>> from scoresde import GaussianMixture
            >>> prior = GaussianMixture([[0.0, 0.0]], 1.0)
            >>> round(float(prior.log_evidence(lambda x: x[:, :1], torch.zeros(1, 1))), 4)
            -0.9189
        """
        noise = MeasurementNoise(noise_std, noise_covariance)
        return self._measured(operator, measurement, noise)[1].logsumexp(-1).to(measurement.device)

    def _measured(
        self, operator: Callable[[Tensor], Tensor], measurement: Tensor, noise: MeasurementNoise
    ) -> tuple[LinearMeasurement, Tensor, Tensor]:
        """The measurement; log of w_k N(y; ...), ``(B, K)``; and the regressions of x on y, ``(K or 1, d, m)``."""
        seen = LinearMeasurement(operator, self.event_shape, measurement, noise)
        factors, gains = seen.joint(self._covariances())
        return seen, seen.log_densities(self.means.cpu(), factors) + self.weights.cpu().log(), gains

    def _covariances(self) -> Tensor:
        """The covariances of the components on the CPU, ``(K, d, d)``, or ``(1, d, d)`` where all share one number."""
        if self.rotations is not None:
            full: Tensor = self.rotations * self.variances[:, None] @ self.rotations.mT
            return full.cpu()
        shared = len(self._distinct_variances) == 1 and self.variances.shape[1] == 1
        variances = self.variances[:1] if shared else self.variances
        return torch.diag_embed(variances.expand(-1, self.means.shape[1])).cpu()

    def _at(self, sde: LinearSDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density ``(B,)`` and score ``(B, *state)`` of x_t at the state x."""
        check_batch("x", x)
        check_gaussian(sde, "the exact score of a mixture")
        sde.check_time(t, len(x))
        t = t.to(torch.float64)
        if tuple(x.shape[1:]) != sde.state_shape(self.event_shape):
            state = ", ".join(["B", *map(str, sde.state_shape(self.event_shape))])
            raise ValueError(f"x has shape {tuple(x.shape)}: give ({state}), a batch of states of the process")
        kernel = sde.kernel(t)
        dtype, x = x.dtype, x.to(torch.float64)
        x = x - kernel.mean(torch.zeros_like(x))
        if isinstance(kernel.centered, ScalarKernel):
            log_prob, score = self._evaluate(x, kernel.centered.a, kernel.centered.std)
            return log_prob.to(dtype), score.to(dtype)
        flat, times = x.flatten(1), t.expand(len(x))
        if bool((times == times[0]).all()):
            log_prob, score = _full(flat[None], *self._dense(sde, times[:1]), self.weights)
            return log_prob[0].to(dtype), score[0].to(dtype).reshape(x.shape)
        rows = max(1, _CHUNK // (8 * len(self.means) * flat.shape[1] ** 2))
        parts = []
        for i in range(0, len(x), rows):
            own, which = times[i : i + rows].unique(return_inverse=True)
            means, factors = self._dense(sde, own)
            parts.append(_full(flat[i : i + rows, None], means[which], factors[which], self.weights))
        log_prob, score = (torch.cat(part)[:, 0] for part in zip(*parts, strict=True))
        return log_prob.to(dtype), score.to(dtype).reshape(x.shape)

    def _dense(self, sde: LinearSDE, t: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(n, K, D)`` and Cholesky factors ``(n, K, D, D)`` of the components of x_t without shift, at times ``(n,)``."""
        n, d, shape = len(t), self.means.shape[1], sde.state_shape(self.event_shape)
        size = math.prod(shape)

        def columns(count: int, event: tuple[int, ...], function: Callable[[GaussianKernel, Tensor], Tensor]) -> Tensor:
            """Matrices ``(n, D, count)`` of a map, from the images of unit vectors of shape ``event``."""
            unit = torch.eye(count, dtype=torch.float64).reshape(count, *event).repeat(n, *(1,) * len(event))
            images = function(sde.kernel(t.repeat_interleave(count)).centered, unit)
            return images.reshape(n, count, size).mT

        forward = columns(d, self.event_shape, lambda kernel, unit: kernel.mean(sde.embed_data(unit)))
        noise = columns(size, shape, lambda kernel, unit: kernel.covariance(unit))[:, None]
        variances = self.variances.expand(-1, d)
        turned = forward[:, None].expand(-1, len(variances), -1, -1)
        if self.rotations is not None:
            turned = turned @ self.rotations
        covariances = turned @ (variances[:, :, None] * turned.mT) + 0.5 * (noise + noise.mT)
        return self.means @ forward.mT, torch.linalg.cholesky(covariances)

    def _evaluate(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density ``(B,)`` and score ``(B, *event)`` of alpha x_0 + sigma z at x."""
        check_batch("x", x)
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has event shape {tuple(x.shape[1:])}: the distribution's is {self.event_shape}")
        flat = x.flatten(1).to(torch.float64)
        alpha, sigma = alpha.expand(len(x))[:, None], sigma.expand(len(x))[:, None]
        isotropic = self.rotations is None and self.variances.shape[1] == 1
        part, size = (self._isotropic, len(self.means)) if isotropic else (self._general, self.means.numel())
        rows = max(1, _CHUNK // size)
        parts = [part(flat[i : i + rows], alpha[i : i + rows], sigma[i : i + rows]) for i in range(0, len(x), rows)]
        log_prob, score = (torch.cat(part).to(x.dtype) for part in zip(*parts, strict=True))
        return log_prob, score.reshape(x.shape)

    def _data_variance(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        """The variance of each coordinate of x_0 given x_t, ``(B, *event)``. Raises TypeError without scalar coefficients."""
        kernel = sde.kernel(t.to(torch.float64))
        if not isinstance(kernel.centered, ScalarKernel):
            raise TypeError(f"the variance of x_0 given x_t needs scalar coefficients, which {sde!r} does not have")
        flat = (x.to(torch.float64) - kernel.mean(torch.zeros_like(x, dtype=torch.float64))).flatten(1)
        alpha, sigma = (c.expand(len(x))[:, None] for c in (kernel.centered.a, kernel.centered.std))
        rows = max(1, _CHUNK // self.means.numel())
        parts = [
            data_variance(
                flat[i : i + rows], alpha[i : i + rows], sigma[i : i + rows],
                means=self.means, variances=self.variances, rotations=self.rotations, weights=self.weights,
            )
            for i in range(0, len(x), rows)
        ]  # fmt: skip
        return torch.cat(parts).to(x.dtype).reshape(x.shape)

    def _isotropic(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """One variance per component. Distances are computed by a matrix product, without a tensor of size B K d."""
        variance = alpha**2 * self._distinct_variances + sigma**2  # (B, 1) where all components share it, else (B, K)
        lengths = x.square().sum(1, keepdim=True) + alpha**2 * self._squares
        squares = torch.addmm(lengths, -2.0 * alpha * x, self.means.mT).clamp(min=0.0)
        norm = self.weights.log() - 0.5 * x.shape[1] * (2.0 * math.pi * variance).log()
        log_joint = torch.addcdiv(norm, squares, variance, value=-0.5)
        log_prob = log_joint.logsumexp(-1)
        share = (log_joint - log_prob[:, None]).exp() / variance
        total = share.sum(1, keepdim=True)
        near = (share.detach() > 0.0).any(0).nonzero()[:, 0]  # most responsibilities are exactly 0 far from most points
        means = self.means
        if 2 * len(near) < len(means):
            share, means = share[:, near], means[near]
        return log_prob, alpha * (share @ means) - total * x

    def _general(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = alpha[..., None], sigma[..., None]
        if self.rotations is None:
            offset = x[:, None] - alpha * self.means  # (B, K, d)
        else:  # in the eigenbasis of each component, by one matrix product
            offset = (x @ self._rotation).unflatten(1, self.means.shape) - alpha * self._rotated_means
        variance = alpha**2 * self.variances + sigma**2  # (B, K, d) or (B, K, 1)
        whitened = offset / variance
        repeats = offset.shape[-1] // variance.shape[-1]
        log_det = repeats * variance.log().sum(-1)
        norm = offset.shape[-1] * math.log(2.0 * math.pi)
        log_joint = self.weights.log() - 0.5 * ((offset * whitened).sum(-1) + log_det + norm)
        log_prob = log_joint.logsumexp(-1)
        share = (log_joint - log_prob[:, None]).exp()
        if self.rotations is not None:
            # The responsibilities multiply the residuals before the rotation. So no (B, K, d, d) tensor is needed.
            return log_prob, -(share[..., None] * whitened).flatten(1) @ self._rotation.mT
        return log_prob, -torch.einsum("bk,bki->bi", share, whitened)


def _full(x: Tensor, means: Tensor, factors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density and score of G mixtures with means ``(G, K, D)`` and covariances factor factor^T, at x ``(G, n, D)``."""
    offset = (x[:, None] - means[:, :, None]).mT  # (G, K, D, n)
    white = torch.linalg.solve_triangular(factors, offset, upper=False)
    slope = torch.linalg.solve_triangular(factors.mT, white, upper=True)
    log_det = (
        factors.diagonal(dim1=-2, dim2=-1).log().sum(-1) - weights.log() + 0.5 * x.shape[-1] * math.log(2.0 * math.pi)
    )
    log_joint = -log_det[..., None] - 0.5 * (white**2).sum(2)
    log_prob = log_joint.logsumexp(1)
    share = (log_joint - log_prob[:, None]).exp()
    return log_prob, -torch.einsum("gkn,gkdn->gnd", share, slope)


@dataclass(frozen=True)
class _MixtureScore:
    """The function grad log p_t of a mixture under a process."""

    mixture: GaussianMixture
    sde: LinearSDE

    def __repr__(self) -> str:
        return f"{self.mixture!r}.score({self.sde!r})"

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mixture._at(self.sde, x, t)[1]

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        """-log p_t(x), ``(B,)``."""
        return -self.mixture._at(self.sde, x, t)[0]

    def score_and_variance(self, x: Tensor, t: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The score and the variance of each coordinate of x_0 given x_t, ``(B, *event)`` each."""
        return self(x, t), self.mixture._data_variance(self.sde, x, t)


check_constructors(globals())
