"""The probability flow with both solvers gives the same map and its inverse."""

from __future__ import annotations

import pytest
import torch

from scoresde import GaussianMixture
from scoresde.samplers import ProbabilityFlowODE
from scoresde.sde import VPSDE
from scoresde.solvers import RungeKutta, ScipyODE, SolverError

F64 = torch.float64
SDE = VPSDE()
DISTRIBUTION = GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=F64), 0.3)


@pytest.mark.parametrize("per_sample", [True, False])
def test_runge_kutta_and_scipy_agree(per_sample):
    """Both give the same samples from a start; ``encode`` returns the start; the callback gets every step."""
    seen = []
    ours = ProbabilityFlowODE(RungeKutta(1e-8, 1e-8, per_sample=per_sample), t_min=1e-3, denoise=False)
    theirs = ProbabilityFlowODE(ScipyODE(rtol=1e-8, atol=1e-8), denoise=False)
    score = DISTRIBUTION.score(SDE)
    start = SDE.prior_sample((5, 2), dtype=F64, seed=3)
    found = ours(SDE, score, (5, 2), start=start, callback=lambda k, t, x: seen.append((k, float(t))))
    assert torch.allclose(found.samples, theirs(SDE, score, (5, 2), start=start).samples, atol=1e-6)
    assert torch.allclose(ours.encode(SDE, score, found.samples), start, atol=1e-5)
    assert [k for k, _ in seen] == list(range(len(seen)))
    assert seen[-1][1] == pytest.approx(ours.t_min)
    if per_sample:
        alone = ours(SDE, score, (1, 2), start=start[3:4]).samples
        assert torch.allclose(alone[0], found.samples[3], atol=1e-12)


def test_float32_states_and_denoising():
    sampler = ProbabilityFlowODE(RungeKutta())
    found = sampler(SDE, DISTRIBUTION.score(SDE), (4, 2), seed=1)
    assert found.samples.dtype == torch.float32
    wanted = ProbabilityFlowODE(ScipyODE())(SDE, DISTRIBUTION.score(SDE), (4, 2), seed=1).samples
    assert torch.allclose(found.samples, wanted, atol=1e-3)


def test_the_error_names_a_sample_that_cannot_be_encoded():
    def score(x, t):
        return torch.where(torch.arange(len(x))[:, None] == 1, torch.nan, -x)

    with pytest.raises(SolverError, match=r"RungeKutta.* could not continue for batch positions \[1\]"):
        ProbabilityFlowODE(RungeKutta()).encode(SDE, score, torch.ones(3, 2))
