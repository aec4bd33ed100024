"""Prior, conversions between score, noise, data and velocity, and Gaussian data integrated back from T."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.checks.dense import DenseProcess, relative
from scoresde.sde.checks.report import PRIOR_LIMIT, TOLERANCE, CheckRow
from scoresde.sde.scalar import ScalarSDE


def prior(process: DenseProcess) -> list[CheckRow]:
    """E KL(q(x_T | x_0) || prior) in nats per coordinate, and the density and samples of the prior.

    The expectation is over data of standard deviation ``data_std``. It bounds KL(p_T || prior) for every distribution
    of the data with this second moment about the center of the process, and is the prior term of the variational bound
    (Kingma et al. 2021, arXiv:2107.00630, eq. 11). KL(p_T || prior) of Gaussian data is not enough: for a
    variance-preserving process and data N(0, I) it is 0 even if x_T depends strongly on x_0.
    """
    a, b, c = process.kernel(process.sde.T)
    signal = process.data_std**2 * (a @ process.embedding @ process.embedding.mT @ a.mT)
    root = process.matrix(process.sde.prior_root()(process.unit))
    covariance, mean = (
        root @ root.mT,
        (process.zero + expand(process.sde.prior_mean(), process.zero)).reshape(process.size),
    )
    noise, off = torch.linalg.solve(covariance, c), b - mean
    apart = float(off @ torch.linalg.solve(covariance, off)) / (2 * process.size)
    left = 0.5 * float(torch.linalg.solve(covariance, signal).trace()) / process.size
    kl = 0.5 * float(noise.trace() - process.size - torch.linalg.slogdet(noise)[1]) / process.size + left + apart
    at = mean + 0.5 * root.sum(1)
    stated = float(process.sde.prior_log_prob(at.reshape(1, *process.shape))[0])
    drawn = process.sde.prior_sample((512, *process.event_shape), dtype=torch.float64).reshape(512, process.size)
    white = torch.linalg.solve(root, (drawn - mean).mT)
    ratio = float(torch.linalg.matrix_norm(a @ process.embedding) / c.trace().sqrt())
    hint = "is prior_std the kernel's standard deviation at T (not its square)?"
    if apart > 0.5 * PRIOR_LIMIT:
        hint = "is the prior's mean the kernel's shift at T, and is T large enough?"
    elif left > 0.25 * PRIOR_LIMIT:
        hint = (
            f"x_T depends on the data, alpha(T) / sigma(T) = {ratio:.3g} for data_std={process.data_std:g}: use a larger T "
            "or more noise"
        )
    return [
        CheckRow("prior, nats per coordinate", kl, PRIOR_LIMIT, "" if kl <= PRIOR_LIMIT else hint),
        CheckRow("density of the prior", abs(stated - _normal_log_prob(at, mean, covariance)), TOLERANCE),
        CheckRow("samples of the prior, std. errors", float(white.mean(1).abs().max()) * 512**0.5, 6.0),
    ]


def conversions(process: DenseProcess) -> list[CheckRow]:
    """Conversions of each quantity to another and back, and the score of the kernel."""
    sde, worst, own = process.sde, 0.0, 0.0
    x0 = torch.linspace(-1.0, 1.0, math.prod(process.event_shape), dtype=torch.float64).reshape(1, *process.event_shape)
    z = torch.cos(torch.arange(process.size, dtype=torch.float64)).reshape(1, *process.shape)
    pairs = [(sde.noise_from_score, sde.score_from_noise), (sde.data_from_score, sde.score_from_data)]
    if isinstance(sde, ScalarSDE):
        pairs.append((sde.velocity_from_score, sde.score_from_velocity))
    for t in process.times[:3]:
        time = torch.tensor([t], dtype=torch.float64)
        x = sde.perturb(x0, time, z)
        c = process.kernel(t)[2]
        offset = (x - sde.kernel(time).mean(sde.embed_data(x0))).reshape(-1)
        wanted = -torch.linalg.solve(c, offset).reshape(x.shape)
        own = max(own, relative(sde.score_from_noise(x, time, z), wanted))
        own = max(own, relative(sde.score_from_data(x, time, sde.embed_data(x0)), wanted))
        own = max(own, relative(offset @ torch.linalg.solve(c, offset), (z**2).sum()))
        for there, back in pairs:
            worst = max(worst, relative(back(x, time, there(x, time, wanted)), wanted))
    return [
        CheckRow("conversions invert each other", worst, TOLERANCE),
        CheckRow(
            "conversions agree with the kernel", own, TOLERANCE,
            "" if own <= TOLERANCE else "is it -noise / sigma and (alpha x_0 - x) / sigma^2?",
        ),
    ]  # fmt: skip


def gaussian(process: DenseProcess) -> list[CheckRow]:
    """Gaussian data: probability flow and reverse SDE back from T, and the log-likelihood along the flow."""
    n, end = process.size, process.times[-1]
    mean_T, covariance_T = process.marginal(end)
    unit = torch.eye(n, dtype=torch.float64)
    root_T = torch.linalg.cholesky(covariance_T)
    points = torch.cat((mean_T[None], mean_T + root_T.mT, (mean_T + 0.7 * root_T.sum(1))[None]))

    def times(t: float, x: Tensor) -> Tensor:
        return torch.full((len(x),), t, dtype=torch.float64)

    def slope(t: float, state: Tensor) -> Tensor:
        """Points by the flow ``(n + 2, n)``, mean and covariance by the reverse SDE ``(n + 1, n)``, the integral of the
        flow's divergence ``(1, n)``."""
        m, p = state[n + 2 : n + 3], state[n + 3 : -1]
        x = torch.cat((state[: n + 2], m, m + unit)).reshape(2 * n + 3, *process.shape)
        score, lift = process.score(x, t), x[n + 2 :]
        drift = process.sde.reverse_drift(lift, times(t, lift), score[n + 2 :]).reshape(n + 1, n)
        r = (drift[1:] - drift[:1]).mT
        by_flow = process.sde.flow_drift(x, times(t, x), score).reshape(len(x), n)
        divergence = (by_flow[n + 3 :] - by_flow[n + 2]).trace() * unit[:1]
        return torch.cat((by_flow[: n + 2], drift[:1], r @ p + p @ r.mT - process.gg(t), divergence))

    start = torch.cat((points, mean_T[None], covariance_T, torch.zeros(1, n)))
    back, moments, divergence = process.solver.solve(slope, start, end, process.t0).y.split((n + 2, n + 1, 1))
    mean_0, covariance_0 = process.marginal(process.t0)
    moved = (back[1:-1] - back[:1]).mT
    error = max(relative(back[0], mean_0), relative(moved @ moved.mT, covariance_0))
    by_sde = max(relative(moments[0], mean_0), relative(moments[1:], covariance_0))
    # along the flow d log p / dt = -div, and the integral runs from T down to t_0
    found = _normal_log_prob(points[-1], mean_T, covariance_T) - float(divergence[0, 0])
    wanted = _normal_log_prob(back[-1], mean_0, covariance_0)
    return [
        CheckRow("Gaussian data by the flow", error, 10 * TOLERANCE),
        CheckRow("Gaussian data by the reverse SDE", by_sde, 10 * TOLERANCE),
        CheckRow("log-likelihood of Gaussian data", abs(found - wanted), 10 * TOLERANCE),
    ]


def _normal_log_prob(x: Tensor, mean: Tensor, covariance: Tensor) -> float:
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (x - mean)[:, None], upper=False)
    log_det = factor.diagonal().log().sum()
    return float(-0.5 * (white**2).sum() - log_det - 0.5 * len(x) * math.log(2.0 * math.pi))
