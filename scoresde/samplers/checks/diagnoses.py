"""A law that is not reached is compared with those that common slips lead to, and the slip that explains it is named."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.samplers.checks.moments import Case, Law, targets
from scoresde.solvers import ScipyODE

_SLIPS: tuple[tuple[str, float, float, float], ...] = (
    ("the noise term is dropped: the variance is too small", 1, 1, 0),
    ("the noise has twice the variance that it needs: is a factor 2 in g^2 too many?", 1, 1, 2),
    ("the noise has twice the scale that it needs", 1, 1, 4),
    ("the noise has half the variance that it needs: is a factor 2 missing?", 1, 1, 0.5),
    ("the noise has half the scale that it needs", 1, 1, 0.25),
    ("the score's term is half of what the noise needs: g^2 score / 2 is the flow's", 1, 0.5, 1),
    ("the score's term is twice what it needs: is a factor 2 too many?", 1, 2, 1),
    ("the score has the wrong sign", 1, -1, 1),
    ("the score's term is missing", 1, 0, 1),
    ("the drift f is halved", 0.5, 1, 1),
    ("the drift f is doubled", 2, 1, 1),
    ("the drift f is missing", 0, 1, 1),
    ("the drift f has the wrong sign", -1, 1, 1),
    ("the flow's score term is half of what it needs: it is g^2 score / 2", 1, 0.25, 0),
    ("the flow's score has the wrong sign", 1, -0.5, 0),
    ("the flow's score term is missing", 1, 0, 0),
    ("the flow's drift f is halved", 0.5, 0.5, 0),
    ("the flow's drift f is doubled", 2, 0.5, 0),
    ("the flow's drift f is missing", 0, 0.5, 0),
    ("the flow's drift f has the wrong sign", -1, 0.5, 0),
    ("drift and score's term are halved", 0.5, 0.5, 1),
)
"""Name, factors on f, on g^2 score, and on the noise's variance, of the moments' equations that a slip solves instead."""

_READING = ScipyODE("RK45", 1e-5, 1e-8)


def _readings(s: Case, t_min: float) -> tuple[Tensor, Tensor]:
    """Laws at t_min, means (S, D) and covariances (S, D, D), of dx = [a f - b g^2 score] dt + sqrt(c) g dw' from the true law
    at T, for the (a, b, c) of every slip."""
    mean, covariance = s.gauss.law(s.sde.T)
    factors = torch.tensor([slip[1:] for slip in _SLIPS], dtype=torch.float64)
    a, b, c = factors.mT[:, :, None, None]

    def slope(t: float, state: Tensor) -> Tensor:
        t = min(max(t, 0.0), s.sde.T)
        centre, law = s.gauss.law(t)
        gg = s.gauss.gg(t)
        pull = b * torch.linalg.solve(law, gg.mT).mT
        m, p = state[:, :1], state[:, 1:]
        r = a * s.gauss.f(t) + pull
        return torch.cat((m @ r.mT - (pull @ centre)[:, None], r @ p + p @ r.mT - c * gg), dim=1)

    start = torch.cat((mean[None], covariance)).expand(len(_SLIPS), -1, -1)
    end = _READING.solve(slope, start.contiguous(), s.sde.T, t_min).y
    return end[:, 0], end[:, 1:]


def _apart(found: tuple[Tensor, Tensor], law: tuple[Tensor, Tensor]) -> float:
    """Like `distance`, with the logarithm of the variances' ratio: fit for laws that are orders of magnitude off."""
    mean, covariance = found
    spread, right = covariance.diagonal().clamp(min=1e-300), law[1].diagonal().clamp(min=1e-300)
    return float(
        ((mean - law[0]) / torch.maximum(spread, right).sqrt()).abs().max() + (spread / right).log().abs().max()
    )


def explain(s: Case, coarse: Law, fine: Law) -> str:
    """The slip whose law the sampler tends to, or what is off."""
    mean, law = s.gauss.law(fine.t_min)
    spread = float((fine.covariance.diagonal() / law.diagonal()).max())
    fall = float((fine.covariance.diagonal() / coarse.covariance.diagonal()).max())
    if spread < 0.2 and fall < 0.7:
        return "the variance falls with the step: is the noise scaled by h where its square root is meant?"
    # first order's leading term drops out; on logarithms, where the variance stays positive
    ratio = (fine.covariance.diagonal() / coarse.covariance.diagonal().clamp(min=1e-300)).clamp(0.5, 2.0).sqrt()
    limit = (2 * fine.mean - coarse.mean, ratio[:, None] * fine.covariance * ratio)
    right = min(_apart(limit, law) for law in targets(s, fine.t_min))
    means, laws = _readings(s, max(fine.t_min, 1e-6 * s.sde.T))
    apart = [_apart(limit, law) for law in zip(means, laws, strict=True)]
    best = min(apart)
    name = _SLIPS[apart.index(best)][0]
    # a law that explodes is off by its own powers: there a share of the distance will do
    if best < max(0.4, 0.15 * right) and best < 0.4 * right:
        return name
    if spread < 0.9:
        return f"the variance is {spread:.2f} of what it must be: is the noise term there in full, at every step?"
    if spread > 1.1:
        return f"the variance is {spread:.2f} times what it must be: too much noise, or the score pulls too little"
    off = float(((fine.mean - mean) / law.diagonal().sqrt()).abs().max())
    return f"the mean is {off:.2f} standard deviations off: look at the drift's and the score's factors"
