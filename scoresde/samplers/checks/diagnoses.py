r"""Names the mistake that explains a wrong distribution.

For Gaussian data the mean and the covariance of

.. math:: dx = [a f(x, t) - b\, g g^T \nabla \log p_t(x)]\, dt + \sqrt{c}\, g\, dw

solve ordinary differential equations. The reverse SDE has a = b = c = 1, the probability flow b = 1/2 and c = 0. Common
mistakes correspond to other factors: a dropped noise term is c = 0, for example. ``explain`` compares the distribution
that a sampler tends to with those of all mistakes in a list, and returns the name of the closest one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.samplers.checks.moments import Case, OutputDistribution, targets
from scoresde.solvers import ScipyODE

_DIAGNOSES: tuple[tuple[str, float, float, float], ...] = (
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
"""For each mistake: its description, and the factors a on f, b on g^2 score and c on the variance of the noise."""

_SOLVER = ScipyODE("RK45", 1e-5, 1e-8)


def _with_mistakes(s: Case, t_min: float) -> tuple[Tensor, Tensor]:
    """Means (S, D) and covariances (S, D, D) at t_min with each of the S mistakes, started from the true distribution at T."""
    mean, covariance = s.gauss.marginal(s.sde.T)
    factors = torch.tensor([diagnosis[1:] for diagnosis in _DIAGNOSES], dtype=torch.float64)
    a, b, c = factors.mT[:, :, None, None]

    def slope(t: float, state: Tensor) -> Tensor:
        t = min(max(t, 0.0), s.sde.T)
        center, spread = s.gauss.marginal(t)
        gg = s.gauss.gg(t)
        pull = b * torch.linalg.solve(spread, gg.mT).mT
        m, p = state[:, :1], state[:, 1:]
        r = a * s.gauss.f(t) + pull
        return torch.cat((m @ r.mT - (pull @ center)[:, None], r @ p + p @ r.mT - c * gg), dim=1)

    start = torch.cat((mean[None], covariance)).expand(len(_DIAGNOSES), -1, -1)
    end = _SOLVER.solve(slope, start.contiguous(), s.sde.T, t_min).y
    return end[:, 0], end[:, 1:]


def _apart(found: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> float:
    """Like ``distance``, but with the logarithm of the ratio of variances, which may differ by orders of magnitude."""
    mean, covariance = found
    spread, right = covariance.diagonal().clamp(min=1e-300), target[1].diagonal().clamp(min=1e-300)
    return float(
        ((mean - target[0]) / torch.maximum(spread, right).sqrt()).abs().max() + (spread / right).log().abs().max()
    )


def explain(s: Case, coarse: OutputDistribution, fine: OutputDistribution) -> str:
    """The mistake whose distribution the sampler tends to. If none fits, a description of the error.

    Args:
        s: The case.
        coarse: Distribution of the output with fewer steps.
        fine: Distribution of the output with more steps.
    """
    mean, covariance = s.gauss.marginal(fine.t_min)
    spread = float((fine.covariance.diagonal() / covariance.diagonal()).max())
    fall = float((fine.covariance.diagonal() / coarse.covariance.diagonal()).max())
    if spread < 0.2 and fall < 0.7:
        return "the variance falls with the step: is the noise scaled by h where its square root is meant?"
    # Richardson extrapolation removes the leading term of a first-order method. On logarithms the variance stays positive.
    ratio = (fine.covariance.diagonal() / coarse.covariance.diagonal().clamp(min=1e-300)).clamp(0.5, 2.0).sqrt()
    limit = (2 * fine.mean - coarse.mean, ratio[:, None] * fine.covariance * ratio)
    right = min(_apart(limit, target) for target in targets(s, fine.t_min))
    means, covariances = _with_mistakes(s, max(fine.t_min, 1e-6 * s.sde.T))
    apart = [_apart(limit, found) for found in zip(means, covariances, strict=True)]
    best = min(apart)
    name = _DIAGNOSES[apart.index(best)][0]
    # Distributions that explode differ by orders of magnitude even when the diagnosis is right: compare with the distance too.
    if best < max(0.4, 0.15 * right) and best < 0.4 * right:
        return name
    if spread < 0.9:
        return f"the variance is {spread:.2f} of what it must be: is the noise term complete, at every step?"
    if spread > 1.1:
        return f"the variance is {spread:.2f} times what it must be: too much noise, or the score pulls too little"
    off = float(((fine.mean - mean) / covariance.diagonal().sqrt()).abs().max())
    return f"the mean is {off:.2f} standard deviations off: look at the drift's and the score's factors"
