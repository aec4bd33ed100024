"""Lower bound of log p(x) for the reverse SDE as a generative model.

The model draws x_T from the prior pi, integrates dx = [f - G G^T s] dt + G dw' from T to t_min, and decodes x_0 from the
Gaussian ::

    p(x_0 | x_tmin) = N(x_0; W^+ (L^-1 x_tmin + L^T s), (W^T W)^-1),          W = L^-1 A at t_min

This is the distribution of x_0 given x_tmin = A x_0 + L z if the data is smooth on the scale of that noise. Its mean is
exact for any data, by Tweedie's formula. Take the forward process from x_0 as the distribution of the path and let
r = grad log q(x_t | x_0) = -L^-T z. Girsanov's theorem and Jensen's inequality give ::

    log p(x_0) >= E[log pi(x_T) + log p(x_0 | x_tmin)] + H_tmin
                  - 1/2 int_tmin^T E[ ||G^T (s - r)||^2 - ||G^T r||^2 - 2 div f ] dt

Here H_t is the entropy of q(x_t | x_0) = N(A x_0, L L^T). Since dH/dt = E[div f + ||G^T r||^2 / 2], the last two terms of
the integral are H_T - H_tmin. With z_s = -L^T s, the bound is ::

    log p(x_0) >= E[log p(x_0 | x_tmin)] - KL(q(x_T | x_0) || pi) - 1/2 int_tmin^T E||G^T L^-T (z - z_s)||^2 dt
                  reconstruction           prior                    diffusion

It bounds log p of the data itself, not of data with the noise of t_min. For the exact score the bound differs from log p(x)
only because it uses the decoder and pi in place of q(x_0 | x_tmin) and p_T. If the state contains more than the data, the
auxiliary variables are marginalized in q(x_t | x_0), as in hybrid score matching, and the decoder is a density of x_0 alone.

Times. Let u = -ln det(W^T W) / (2 d) with W = L^-1 A at t. If the state is the data, u is half the log noise-to-signal
ratio. For every linear process d du/dt = ||G^T L^-T P||_F^2 / 2, where P projects on the range of W, so that the integrand
is flat in u for smooth data. [t_min, T] is divided into cells of equal length in u, and t is uniform within a cell. A sample
uses the ``draws`` times (k + v) / draws with one random v. They are evenly spaced and therefore not independent. The
standard error comes from ``replicates`` independent repetitions of the whole estimate.

Variance reduction. Noise comes in antithetic pairs z, -z. The control variate c ||G^T L^-T P z||^2 / 2 is subtracted from
the integrand and its known integral is added back. The control variate c ||P z||^2 / 2 does the same for the reconstruction.
With c = (1 + e^2u / s^2)^-2, nothing random is left at a given time for Gaussian data of standard deviation s in every
direction. The expectation does not change.

References:
    Song, Durkan, Murray, Ermon 2021, "Maximum likelihood training of score-based diffusion models", arXiv:2101.09258.
    Huang, Lim, Courville 2021, "A variational perspective on diffusion-based generative models", arXiv:2106.02808.
    Kingma, Salimans, Poole, Ho 2021, "Variational diffusion models", arXiv:2107.00630.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number
from scoresde.conditions import given
from scoresde.noise import NoiseSource
from scoresde.sde import GaussianKernel, LinearMap, LinearSDE, ScalarMap, Score, check_same_process
from scoresde.sde.base import check_gaussian
from scoresde.sde.linalg.maps import BlockMap, DiagonalMap
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide

_CELLS = 256


@dataclass(frozen=True)
class BoundResult:
    """Lower bounds of log p(x) for a batch.

    Attributes:
        log_prob: Unbiased estimate of the bound, reconstruction - prior - diffusion, (B,) nats, float64.
        standard_error: Standard error of ``log_prob`` given x, (B,) nats. It is estimated from the replicates and has
            replicates - 1 degrees of freedom.
        reconstruction: E log p(x_0 | x_tmin), (B,) nats.
        prior: KL(q(x_T | x_0) || pi), (B,) nats.
        diffusion: The weighted error of the score along the path, (B,) nats.
        nfe: Evaluations of the score for the whole batch.
        settings: The settings of the computation.
    """

    log_prob: Tensor
    standard_error: Tensor
    reconstruction: Tensor
    prior: Tensor
    diffusion: Tensor
    nfe: int
    settings: dict[str, str]

    def __repr__(self) -> str:
        mean = float(self.log_prob.mean())
        return f"BoundResult(mean log_prob>={mean:.4f} nats over {len(self.log_prob)}, nfe={self.nfe}, {self.settings})"


@checked_arguments
@torch.no_grad()
@in_evaluation_mode("score")
def elbo(
    sde: LinearSDE,
    score: Callable[..., Tensor],
    x: Tensor,
    *,
    draws: int = 8,
    replicates: int = 4,
    t_min: float = 1e-5,
    data_std: float = 1.0,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    condition: Mapping[str, Any] | None = None,
) -> BoundResult:
    """Lower bound of log p(x) in nats for the reverse SDE of ``score`` with a Gaussian decoder at ``t_min``.

    Args:
        sde: The process of the score. It must be linear and in continuous time.
        score: The score, (x, t) -> a tensor with the shape of x.
        x: Finite data, (B, *event).
        draws: Times for each sample in one replicate. Each time uses two noise vectors, z and -z.
        replicates: Independent repetitions, at least 2.
        t_min: Time of the decoder, in (0, T). The score is not evaluated below it.
        data_std: The s of the control variate. The standard deviation of the data is a good choice. Other values increase
            the variance but do not bias the result.
        seed: Seed of the random draws.
        first: Index of the first sample: sample i of the batch uses the draws with the key (seed, first + i).
        noise: Replaces ``seed`` and ``first``.
        condition: Conditions c of the score by name, with one row for each sample. The result then bounds log p(x | c).

    Returns:
        The bounds, their standard errors and their three terms. The score is evaluated 2 replicates (draws + 1) times.

    Raises:
        TypeError: The process has no closed-form kernel.
        ValueError: An argument is not allowed, or the score is not finite.

    References:
        Song, Durkan, Murray, Ermon 2021, arXiv:2101.09258. Huang, Lim, Courville 2021, arXiv:2106.02808.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, GaussianMixture
        >>> sde, data = VPSDE(), GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5]))
        >>> bound = elbo(sde, data.score(sde), data.sample(4), data_std=0.5)
        >>> bound.log_prob.shape
        torch.Size([4])
    """
    score = given(score, condition)
    _check(sde, score, x, draws, replicates, t_min, data_std)
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    checked = CheckedScore(score, len(x), x.dtype)
    x = wide(x)
    path = _Path(sde, checked, x, data_std, _Cells.of(sde, t_min, x))
    shape = sde.state_shape(x.shape[1:])

    def z(step: int) -> Tensor:
        return noise.normal(shape, step=step, purpose="elbo noise", dtype=torch.float64)

    rows = []
    for r in range(replicates):
        start, k = noise.uniform((), step=r, purpose="elbo time", dtype=torch.float64), r * (draws + 2)
        pairs = [(z(k + n), -z(k + n)) for n in range(draws + 2)]
        terms_of_pairs = [
            torch.stack([path.reconstruction(v) for v in pairs[-2]]),
            torch.stack([path.prior(v) for v in pairs[-1]]),
            torch.stack([path.diffusion((n + start) / draws, v) for n in range(draws) for v in pairs[n]]),
        ]
        rows.append(torch.stack([term.mean(0) for term in terms_of_pairs]))
    terms = torch.stack(rows)  # (replicates, 3, B)
    bounds = terms[:, 0] - terms[:, 1] - terms[:, 2]
    reconstruction, prior, diffusion = terms.mean(0)
    settings = {"draws": str(draws), "replicates": str(replicates), "t_min": f"{t_min:g}", "seed": str(noise.seed)}
    return BoundResult(
        log_prob=bounds.mean(0),
        standard_error=bounds.std(0) / math.sqrt(replicates),
        reconstruction=reconstruction,
        prior=prior,
        diffusion=diffusion,
        nfe=2 * replicates * (draws + 1),
        settings={**settings, "data_std": f"{data_std:g}", "decoder": "Gaussian at t_min"},
    )


def _check(sde: LinearSDE, score: Score, x: Tensor, draws: int, replicates: int, t_min: float, data_std: float) -> None:
    if not isinstance(sde, LinearSDE):
        raise TypeError(
            f"sde={sde!r} has no closed-form kernel: give a LinearSDE, the bound needs grad log p(x_t | x_0)"
        )
    if sde.continuous is not sde:
        raise ValueError(f"sde={sde!r} is a chain: give its process in continuous time, sde.continuous")
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    check_gaussian(sde, "the variational bound")
    check_count("draws", draws)
    check_count("replicates", replicates, least=2)
    check_number("t_min", t_min, above=0.0)
    if t_min >= sde.T:
        raise ValueError(f"t_min={t_min!r} is not allowed: give a number in (0, {sde.T})")
    check_number("data_std", data_std, above=0.0)


@dataclass(frozen=True)
class _Path:
    """The three terms for one draw of (t, z) for every sample, (B,) nats each."""

    sde: LinearSDE
    score: Score
    x: Tensor
    data_std: float
    cells: _Cells

    def diffusion(self, place: Tensor, z: Tensor) -> Tensor:
        """||G^T L^-T (z - z_s)||^2 / 2 divided by the density of t, for the quantiles ``place`` (B,) of t, in (0, 1)."""
        t, weight, u = self.cells.draw(place)
        t = t.to(self.x.dtype)
        here = t.to(torch.float64)
        kernel = self.sde.kernel(here)
        found, flat = (
            0.5 * weight * _square(self.sde.in_diffusion_units(v, here))
            for v in (self._error(kernel, t, z), _project_on_range(self.sde, kernel, self.x, z))
        )
        known = (self._control(self.cells.middles()) * self.cells.u.diff()).sum() * self.x[0].numel()
        return found - self._control(u) * flat + known

    def reconstruction(self, z: Tensor) -> Tensor:
        """log p(x_0 | x_tmin)."""
        t, u, d = self.cells.t[0].to(self.x.dtype).expand(len(self.x)), self.cells.u[0], self.x[0].numel()
        kernel = self.sde.kernel(t.to(torch.float64))
        found, flat = (
            0.5 * _square(_project_on_range(self.sde, kernel, self.x, v)) for v in (self._error(kernel, t, z), z)
        )
        return self._control(u) * (flat - 0.5 * d) - found - d * (u + 0.5 * math.log(2.0 * math.pi))

    def prior(self, z: Tensor) -> Tensor:
        """log q(x_T | x_0) - log pi(x_T). Both are taken at the same point, where most of their variation cancels."""
        kernel = self.sde.kernel(self.cells.t[-1])
        end = kernel.mean(self.sde.embed_data(self.x.to(torch.float64))) + kernel.scale(z)
        log_q = -0.5 * _square(z) - z[0].numel() * (kernel.log_det() + 0.5 * math.log(2.0 * math.pi))
        return log_q - self.sde.prior_log_prob(end)

    def _error(self, kernel: GaussianKernel, t: Tensor, z: Tensor) -> Tensor:
        """z - z_s at x_t, float64."""
        x_t = kernel.mean(self.sde.embed_data(self.x.to(torch.float64))) + kernel.scale(z)
        value = self.score(x_t.to(self.x.dtype), t)
        check_finite("score", value, f" for times from {float(t.min()):g} to {float(t.max()):g}")
        return z + kernel.scale_transposed(value.to(torch.float64))

    def _control(self, u: Tensor) -> Tensor:
        return (1.0 + (2.0 * u).exp() / self.data_std**2) ** -2


@dataclass(frozen=True)
class _Cells:
    """The distribution of t: cells of equal probability and equal length in u, with t uniform within each cell.

    Args:
        t: Edges of the cells, (N + 1,) float64.
        u: u at the edges, (N + 1,) float64.
    """

    t: Tensor
    u: Tensor

    @classmethod
    def of(cls, sde: LinearSDE, t_min: float, like: Tensor) -> _Cells:
        """Edges by bisection. Inexact edges make the cells slightly unequal; the weights account for that."""
        ends = torch.tensor([t_min, sde.T], dtype=torch.float64, device=like.device)
        first, last = _log_noise(sde, ends, like)
        wanted = torch.linspace(0.0, 1.0, _CELLS + 1, dtype=torch.float64, device=like.device) * (last - first) + first
        low, high = ends[0].expand_as(wanted), ends[1].expand_as(wanted)
        for _ in range(60):
            middle = 0.5 * (low + high)
            quiet = _log_noise(sde, middle, like) < wanted
            low, high = torch.where(quiet, middle, low), torch.where(quiet, high, middle)
        t = torch.cat((ends[:1], 0.5 * (low + high)[1:-1], ends[1:]))
        return cls(t, _log_noise(sde, t, like))

    def draw(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For quantiles ``place`` (B,) in (0, 1): t, the inverse of its density, and u in the middle of its cell."""
        count = len(self.t) - 1
        cell = (place * count).long().clamp(max=count - 1)
        width = self.t.diff()[cell]
        return self.t[cell] + (place * count - cell) * width, count * width, self.middles()[cell]

    def middles(self) -> Tensor:
        """u in the middle of each cell, (N,)."""
        return 0.5 * (self.u[1:] + self.u[:-1])


def _log_noise(sde: LinearSDE, t: Tensor, like: Tensor) -> Tensor:
    """u = -ln det(W^T W) / (2 d), with the shape of t, (N,); ``like`` is data, (B, *event)."""
    return -0.5 * _precision(sde, sde.kernel(t), like).log_det()


def _project_on_range(sde: LinearSDE, kernel: GaussianKernel, like: Tensor, z: Tensor) -> Tensor:
    """The part of z in the range of W, W (W^T W)^-1 W^T z: the noise that smooth data does not determine."""
    if z.shape == like.shape:
        return z
    origin = torch.zeros_like(like, dtype=torch.float64)
    pull = torch.func.vjp(lambda x0: _forward(sde, kernel, x0), origin)[1]
    return _forward(sde, kernel, _precision(sde, kernel, like).inverse()(pull(z)[0]))


def _precision(sde: LinearSDE, kernel: GaussianKernel, like: Tensor) -> LinearMap:
    """W^T W: one number for all coordinates of the data, or one for each mode of the process's basis."""
    white = kernel.noise_map().inverse().compose(kernel.signal_map())
    if not isinstance(white, BlockMap):
        return white.transpose().compose(white)
    data = sde.embed_data(torch.ones_like(like[:1], dtype=torch.float64))
    square = (white.m @ data.reshape(data.shape[1], -1)[:, 0]).square().sum(-1)
    return ScalarMap(square) if white.basis is None else DiagonalMap(square, white.basis)


def _forward(sde: LinearSDE, kernel: GaussianKernel, x0: Tensor) -> Tensor:
    """W x_0 = L^-1 A x_0. It is linear in x_0 for shifted kernels too."""
    return kernel.whiten(kernel.centered.mean(sde.embed_data(x0)))


def _square(v: Tensor) -> Tensor:
    """||v||^2, (B, *event) to (B,)."""
    return (v**2).reshape(len(v), -1).sum(1)
