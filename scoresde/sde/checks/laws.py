"""The prior, the names of one quantity, and Gaussian data carried back from T."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.checks.report import PRIOR_LIMIT, TOLERANCE, CheckRow
from scoresde.sde.checks.subject import Subject, relative
from scoresde.sde.scalar import ScalarSDE


def prior(s: Subject) -> list[CheckRow]:
    """E KL(q(x_T | x_0) || prior) in nats per coordinate for data of spread ``data_std``; the prior's density and draws.

    The expectation bounds KL(p_T || prior) for every law of the data with this second moment about the process's centre. It is
    the prior term of the variational bound (Kingma et al. 2021, arXiv:2107.00630, eq. 11). KL(p_T || prior) of Gaussian data
    alone would not do: for a variance-preserving process and data N(0, I) it is 0 however much signal is left at T.
    """
    a, b, c = s.kernel(s.sde.T)
    signal = s.data_std**2 * (a @ s.lifted @ s.lifted.mT @ a.mT)
    root = s.matrix(s.sde.prior_root()(s.unit))
    prior, mean = root @ root.mT, (s.zero + expand(s.sde.prior_mean(), s.zero)).reshape(s.size)
    noise, off = torch.linalg.solve(prior, c), b - mean
    apart = float(off @ torch.linalg.solve(prior, off)) / (2 * s.size)
    left = 0.5 * float(torch.linalg.solve(prior, signal).trace()) / s.size
    kl = 0.5 * float(noise.trace() - s.size - torch.linalg.slogdet(noise)[1]) / s.size + left + apart
    at = mean + 0.5 * root.sum(1)
    stated = float(s.sde.prior_log_prob(at.reshape(1, *s.shape))[0])
    drawn = s.sde.prior_sample((512, *s.event_shape), dtype=torch.float64).reshape(512, s.size)
    white = torch.linalg.solve(root, (drawn - mean).mT)
    ratio = float(torch.linalg.matrix_norm(a @ s.lifted) / c.trace().sqrt())
    hint = "is prior_std the kernel's standard deviation at T (not its square)?"
    if apart > 0.5 * PRIOR_LIMIT:
        hint = "is the prior's mean the kernel's shift at T, and T late enough?"
    elif left > 0.25 * PRIOR_LIMIT:
        hint = (
            f"data is left at T, alpha(T) / sigma(T) = {ratio:.3g} for data_std={s.data_std:g}: a later T or more noise"
        )
    return [
        CheckRow("prior, nats per coordinate", kl, PRIOR_LIMIT, "" if kl <= PRIOR_LIMIT else hint),
        CheckRow("prior's density fits", abs(stated - _normal_log_prob(at, mean, prior)), TOLERANCE),
        CheckRow("prior's draws fit, standard errors", float(white.mean(1).abs().max()) * 512**0.5, 6.0),
    ]


def conversions(s: Subject) -> list[CheckRow]:
    """Each quantity turned into another and back, and the score of the kernel itself."""
    sde, worst, own = s.sde, 0.0, 0.0
    x0 = torch.linspace(-1.0, 1.0, math.prod(s.event_shape), dtype=torch.float64).reshape(1, *s.event_shape)
    z = torch.cos(torch.arange(s.size, dtype=torch.float64)).reshape(1, *s.shape)
    pairs = [(sde.noise_from_score, sde.score_from_noise), (sde.data_from_score, sde.score_from_data)]
    if isinstance(sde, ScalarSDE):
        pairs.append((sde.velocity_from_score, sde.score_from_velocity))
    for t in s.times[:3]:
        time = torch.tensor([t], dtype=torch.float64)
        x = sde.perturb(x0, time, z)
        c = s.kernel(t)[2]
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


def gaussian(s: Subject) -> list[CheckRow]:
    """Gaussian data: flow and reverse SDE back from T, and the log-likelihood along the flow."""
    n, end = s.size, s.times[-1]
    mean_T, law_T = s.law(end)
    unit = torch.eye(n, dtype=torch.float64)
    points = torch.cat((mean_T[None], mean_T + torch.linalg.cholesky(law_T).mT))

    def times(t: float, x: Tensor) -> Tensor:
        return torch.full((len(x),), t, dtype=torch.float64)

    def flow(t: float, x: Tensor, score: Tensor) -> Tensor:
        return s.sde.flow_drift(x, times(t, x), score).reshape(len(x), n)

    def both(t: float, state: Tensor) -> Tensor:
        """Points by the flow (n + 1, n); below them mean and covariance by the reverse SDE (n + 1, n)."""
        m, p = state[n + 1 : n + 2], state[n + 2 :]
        x = torch.cat((state[: n + 1], m, m + unit)).reshape(2 * (n + 1), *s.shape)
        score, lift = s.score(x, t), x[n + 1 :]
        drift = s.sde.reverse_drift(lift, times(t, lift), score[n + 1 :]).reshape(n + 1, n)
        r = (drift[1:] - drift[:1]).mT
        return torch.cat((flow(t, x[: n + 1], score[: n + 1]), drift[:1], r @ p + p @ r.mT - s.gg(t)))

    back, moments = s.solver.solve(both, torch.cat((points, mean_T[None], law_T)), end, s.t0).y.split(n + 1)
    mean_0, law_0 = s.law(s.t0)
    moved = (back[1:] - back[:1]).mT
    error = max(relative(back[0], mean_0), relative(moved @ moved.mT, law_0))
    by_sde = max(relative(moments[0], mean_0), relative(moments[1:], law_0))

    def with_divergence(t: float, state: Tensor) -> Tensor:
        x = state[:, :n].reshape(1, *s.shape)
        around = torch.cat((x, x + s.unit))
        drift = flow(t, around, s.score(around, t))
        return torch.cat((drift[:1], (drift[1:] - drift[:1]).trace().reshape(1, 1)), dim=1)

    start = (mean_0 + 0.7 * torch.linalg.cholesky(law_0).sum(1)).reshape(1, n)
    state = s.solver.solve(with_divergence, torch.cat((start, torch.zeros(1, 1)), dim=1), s.t0, end).y
    found = _normal_log_prob(state[0, :n], mean_T, law_T) + float(state[0, n])
    wanted = _normal_log_prob(start[0], mean_0, law_0)
    return [
        CheckRow("Gaussian data back by the flow", error, 10 * TOLERANCE),
        CheckRow("Gaussian data back by the reverse SDE", by_sde, 10 * TOLERANCE),
        CheckRow("log-likelihood of Gaussian data", abs(found - wanted), 10 * TOLERANCE),
    ]


def _normal_log_prob(x: Tensor, mean: Tensor, covariance: Tensor) -> float:
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (x - mean)[:, None], upper=False)
    log_det = factor.diagonal().log().sum()
    return float(-0.5 * (white**2).sum() - log_det - 0.5 * len(x) * math.log(2.0 * math.pi))
