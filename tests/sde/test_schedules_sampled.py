"""Sampling and likelihood under processes defined by their schedule, compared with closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from scoresde.distributions import GaussianMixture
from scoresde.likelihood import Exact, log_likelihood
from scoresde.samplers import Langevin, PredictorCorrector, ProbabilityFlowODE, grids
from scoresde.sde import (
    EDMSDE,
    CosineVPSDE,
    LinearInterpolantSDE,
    LogSNRLinearSDE,
)
from scoresde.solvers import ScipyODE
from tests.params import some_long
from tests.sde.schedules import F64, GIVEN, LEARNED, scalar

LINE = GaussianMixture(
    torch.tensor([[-1.5], [-0.3], [1.02]]), torch.tensor([0.3, 0.1, 0.4]), torch.tensor([0.3, 0.2, 0.5])
)


PLANE = GaussianMixture(torch.tensor([[-0.9, 0.3], [0.6, -0.2]]), torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.6]))


# both have mean 0
RUN = {
    "cosine": CosineVPSDE(),
    "edm": EDMSDE(),
    "interpolant": LinearInterpolantSDE(),
    "log snr": LogSNRLinearSDE(13.3, -14.0),
    "learned": LEARNED["learned bent"],
    "given": GIVEN["given vp"],
}


MISMATCHED = {"log snr to -5": LogSNRLinearSDE(), "learned to -5": LEARNED["learned"]}


def share_below(sde, x, t):
    """Cumulative distribution function of LINE under ``sde`` at time t."""
    alpha, sigma = sde.alpha(scalar(t)), sde.sigma(scalar(t))
    stds = (alpha**2 * LINE.variances + sigma**2).sqrt()[:, 0]
    return (LINE.weights * Normal(alpha * LINE.means[:, 0], stds).cdf(x)).sum(-1)


@pytest.mark.parametrize("name", RUN)
@torch.no_grad()
def test_the_flow_maps_quantiles_to_quantiles(name, worst):
    """In one dimension a flow preserves ranks: it maps quantiles of the prior to those of the mixture. No random numbers."""
    sde, n, t_min = RUN[name], 200, 1e-3
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    start = sde.prior_std() * Normal(0.0, 1.0).icdf(u)[:, None]
    sampler = ProbabilityFlowODE(ScipyODE(rtol=1e-7, atol=1e-9), t_min=t_min, denoise=False)
    found = sampler(sde, LINE.score(sde), (n, 1), start=start, dtype=F64).samples
    error = float((share_below(sde, found, t_min) - u).abs().max())
    worst("quantiles under the flow of a scheduled process", error)
    assert error < 1e-3


@pytest.mark.parametrize("name", some_long(RUN, ["interpolant", "log snr", "given"]))
@torch.no_grad()
def test_predictor_corrector_samples_the_mixture(name):
    """Kolmogorov-Smirnov: sqrt(n) D > 2.5 has probability 2 exp(-12.5) = 7e-6 for each. A score 1.5 times too large fails."""
    sde, n = RUN[name], 3000
    t_min = 1e-3 * sde.T if name != "edm" else sde.t_min
    sampler = PredictorCorrector(corrector=Langevin(0.1), steps=150, grid=grids.log_noise, t_min=t_min)
    exact = LINE.score(sde)

    def distance(score):
        x = sampler(sde, score, (n, 1), seed=1, dtype=F64).samples
        u = share_below(sde, x, t_min).sort().values
        return float((u - (torch.arange(n) + 0.5) / n).abs().max()) * n**0.5

    assert distance(exact) < 2.5
    assert distance(lambda x, t: 1.5 * exact(x, t)) > 3.0


@pytest.mark.parametrize(
    "name",
    some_long(RUN | MISMATCHED, ["cosine", "edm", "log snr", "learned", "given", "log snr to -5", "learned to -5"]),
)
def test_log_likelihood_is_that_of_the_mixture(name, worst):
    """log p at t_min within 1e-3 bits/dim for every sample, of centered data.

    With lambda(T) = -5, the initial value of VDM, the error of the prior for a single sample is larger (0.02), but not
    for the mean. The error of the prior of EDM includes the mean of the data over 80: 2.2e-3 for a mean of 0.08.
    """
    sde, t_min = (RUN | MISMATCHED)[name], 1e-4
    x = PLANE.sample(40, seed=2, dtype=F64)
    found = log_likelihood(sde, PLANE.score(sde), x, divergence=Exact(), tolerance=1e-5, t_min=t_min).log_prob
    errors = (found - PLANE.log_prob_at(sde, x, scalar(t_min)).detach()) / (2 * math.log(2))
    bits = errors.abs().max()
    if name in MISMATCHED:
        assert 0.005 < float(bits) < 0.05 and abs(float(errors.mean())) < 1e-3
    else:
        worst("log-likelihood under a scheduled process, bits/dim", float(bits))
        assert float(bits) < 1e-3
