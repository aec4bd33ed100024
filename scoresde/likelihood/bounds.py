"""A lower bound of log p(x) for the reverse SDE as a generative model (Song, Durkan, Murray, Ermon 2021, arXiv:2101.09258;
Huang, Lim, Courville 2021, arXiv:2106.02808; Kingma, Salimans, Poole, Ho 2021, arXiv:2107.00630).

The model draws x_T from the prior pi, runs dx = [f - G G^T s] dt + G dw' down to t_min, and decodes x_0 from the Gaussian

    p(x_0 | x_tmin) = N(x_0; W^+ (L^-1 x_tmin + L^T s), (W^T W)^-1),          W = L^-1 A at t_min,

the distribution of x_0 given x_tmin = A x_0 + L z where the data is smooth on the scale of that noise (the mean, by
Tweedie, even where
it is not). With the forward process from x_0 as the distribution of the path, Girsanov's theorem and Jensen's
inequality give, for
r = grad log q(x_t | x_0) = -L^-T z,

    log p(x_0) >= E[log pi(x_T) + log p(x_0 | x_tmin)] + H_tmin
                  - 1/2 int_tmin^T E[ ||G^T (s - r)||^2 - ||G^T r||^2 - 2 div f ] dt,

H_t the entropy of q(x_t | x_0) = N(A x_0, L L^T). Since dH/dt = E[div f + ||G^T r||^2 / 2], all of the integral but the score's
error is H_T - H_tmin, and with z_s = -L^T s

    log p(x_0) >= E[log p(x_0 | x_tmin)] - KL(q(x_T | x_0) || pi) - 1/2 int_tmin^T E||G^T L^-T (z - z_s)||^2 dt.
                  reconstruction           prior                    diffusion

This bounds log p of the data itself, not of data with the noise of t_min. For the exact score it is an equality at every x
but for two things: where log q(x_0 | x_tmin) + log p_T(x_T) would have to stand it has the decoder and pi. Where the state is
more than the data, q(x_t | x_0) has the rest marginalised, as in hybrid score matching, and the decoder speaks of x_0 alone.

Times. u = -ln det(W^T W) / (2 d), with W = L^-1 A at t, is half the log noise-to-signal ratio where the state is the data. For
every linear process d du/dt = ||G^T L^-T P||_F^2 / 2, P projecting on the range of W: for smooth data the integrand is
flat in u.
[t_min, T] is cut into cells equal in u; t is uniform within a cell. The ``draws`` times of a sample are (k + v) / draws
with one
random v: evenly spread, and so not independent. The error comes from ``replicates``, independent repetitions of the whole.

Variance. Noise comes in pairs z, -z. Taken from the integrand is c ||G^T L^-T P z||^2 / 2 less its known integral, and from the
reconstruction c ||P z||^2 / 2 less its mean, with c = (1 + e^2u / s^2)^-2: for Gaussian data of standard deviation s in every
direction nothing random is left at a given time. The mean stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number
from scoresde.noise import NoiseSource
from scoresde.sde import GaussianKernel, LinearMap, LinearSDE, ScalarMap, Score, check_same_process
from scoresde.sde.linalg.maps import BlockMap, DiagonalMap
from scoresde.sde.scores import CheckedScore, in_evaluation_mode, wide

_CELLS = 256


@dataclass(frozen=True)
class BoundResult:
    """Lower bounds of log p(x) of a batch.

    log_prob: (B,) nats, float64; an unbiased estimate of the bound, reconstruction - prior - diffusion.
    standard_error: (B,) nats, of that estimate given x: from the replicates, with replicates - 1 degrees of freedom.
    reconstruction: (B,) nats, E log p(x_0 | x_tmin).
    prior: (B,) nats, KL(q(x_T | x_0) || pi).
    diffusion: (B,) nats, the score's error along the path.
    nfe: evaluations of the score for the whole batch.
    settings: how it was computed.
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
    score: Score,
    x: Tensor,
    *,
    draws: int = 8,
    replicates: int = 4,
    t_min: float = 1e-5,
    data_std: float = 1.0,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
) -> BoundResult:
    """A lower bound of log p(x) in nats, for the reverse SDE of ``score`` with a Gaussian decoder at t_min.

    sde: the process of the score, linear and in continuous time.
    score: (x, t) -> the shape of x.
    x: (B, *event) finite data.
    draws: times of each sample in one replicate, each with two draws of noise, z and -z.
    replicates: independent repetitions, at least 2; the score is evaluated 2 replicates (draws + 1) times.
    t_min: in (0, T); the score is never asked below it.
    data_std: s of the control; the data's standard deviation is a good choice, any other costs variance alone.
    seed, first: key of the draws: sample i of the batch has the number first + i. ``noise`` replaces both.

    Raises TypeError for a process without kernels, ValueError for other bad input and for a score that is not finite.
    """
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
        parts = [
            torch.stack([path.reconstruction(v) for v in pairs[-2]]),
            torch.stack([path.prior(v) for v in pairs[-1]]),
            torch.stack([path.diffusion((n + start) / draws, v) for n in range(draws) for v in pairs[n]]),
        ]
        rows.append(torch.stack([part.mean(0) for part in parts]))
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
        raise TypeError(f"sde={sde!r} has no closed-form kernel, and the bound needs grad log p(x_t | x_0)")
    if sde.continuous is not sde:
        raise ValueError(f"sde={sde!r} is a chain, and the bound is of continuous time: give sde.continuous")
    check_batch("x", x)
    check_finite("x", x)
    check_same_process(sde, score)
    check_count("draws", draws)
    check_count("replicates", replicates, least=2)
    check_number("t_min", t_min, above=0.0)
    if t_min >= sde.T:
        raise ValueError(f"t_min={t_min!r} is not allowed: give a number in (0, {sde.T})")
    check_number("data_std", data_std, above=0.0)


@dataclass(frozen=True)
class _Path:
    """What one draw of (t, z) for every sample says of the three terms, (B,) nats each."""

    sde: LinearSDE
    score: Score
    x: Tensor
    data_std: float
    cells: _Cells

    def diffusion(self, place: Tensor, z: Tensor) -> Tensor:
        """||G^T L^-T (z - z_s)||^2 / 2 over the density of t, for places (B,) in (0, 1) of the distribution of t."""
        t, weight, u = self.cells.draw(place)
        t = t.to(self.x.dtype)
        here = t.to(torch.float64)
        kernel = self.sde.kernel(here)
        found, flat = (
            0.5 * weight * _square(self.sde.in_diffusion_units(v, here))
            for v in (self._error(kernel, t, z), _seen(self.sde, kernel, self.x, z))
        )
        known = (self._control(self.cells.middles()) * self.cells.u.diff()).sum() * self.x[0].numel()
        return found - self._control(u) * flat + known

    def reconstruction(self, z: Tensor) -> Tensor:
        """log p(x_0 | x_tmin)."""
        t, u, d = self.cells.t[0].to(self.x.dtype).expand(len(self.x)), self.cells.u[0], self.x[0].numel()
        kernel = self.sde.kernel(t.to(torch.float64))
        found, flat = (0.5 * _square(_seen(self.sde, kernel, self.x, v)) for v in (self._error(kernel, t, z), z))
        return self._control(u) * (flat - 0.5 * d) - found - d * (u + 0.5 * math.log(2.0 * math.pi))

    def prior(self, z: Tensor) -> Tensor:
        """log q(x_T | x_0) - log pi(x_T): both at one point, so that little is left of their scatter."""
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
    """The distribution of t: cells of equal chance, equal in u, t uniform within each. t, u: (N + 1,) float64, their edges."""

    t: Tensor
    u: Tensor

    @classmethod
    def of(cls, sde: LinearSDE, t_min: float, like: Tensor) -> _Cells:
        """Edges by bisection; where one is not exact the cells are a little unequal, and counted as they are."""
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
        """For places (B,) in (0, 1): t, one over its density, and u amid its cell."""
        count = len(self.t) - 1
        cell = (place * count).long().clamp(max=count - 1)
        width = self.t.diff()[cell]
        return self.t[cell] + (place * count - cell) * width, count * width, self.middles()[cell]

    def middles(self) -> Tensor:
        """u amid each cell, (N,)."""
        return 0.5 * (self.u[1:] + self.u[:-1])


def _log_noise(sde: LinearSDE, t: Tensor, like: Tensor) -> Tensor:
    """u = -ln det(W^T W) / 2 for each coordinate of the data, the shape of t (N,); ``like`` is data (B, *event)."""
    return -0.5 * _precision(sde, sde.kernel(t), like).log_det()


def _seen(sde: LinearSDE, kernel: GaussianKernel, like: Tensor, z: Tensor) -> Tensor:
    """The part of z in the range of W, W (W^T W)^-1 W^T z: what smooth data leaves unknown of the noise."""
    if z.shape == like.shape:
        return z
    origin = torch.zeros_like(like, dtype=torch.float64)
    pull = torch.func.vjp(lambda x0: _forward(sde, kernel, x0), origin)[1]
    return _forward(sde, kernel, _precision(sde, kernel, like).inverse()(pull(z)[0]))


def _precision(sde: LinearSDE, kernel: GaussianKernel, like: Tensor) -> LinearMap:
    """W^T W: a number for all coordinates of the data, or one for each mode of the process's basis."""
    white = kernel.noise_map().inverse().compose(kernel.signal_map())
    if not isinstance(white, BlockMap):
        return white.transpose().compose(white)
    data = sde.embed_data(torch.ones_like(like[:1], dtype=torch.float64))
    square = (white.m @ data.reshape(data.shape[1], -1)[:, 0]).square().sum(-1)
    return ScalarMap(square) if white.basis is None else DiagonalMap(square, white.basis)


def _forward(sde: LinearSDE, kernel: GaussianKernel, x0: Tensor) -> Tensor:
    """W x_0 = L^-1 A x_0, linear in x_0 where the kernel is shifted too."""
    return kernel.whiten(kernel.centred.mean(sde.embed_data(x0)))


def _square(v: Tensor) -> Tensor:
    """||v||^2, (B, *event) to (B,)."""
    return (v**2).reshape(len(v), -1).sum(1)
