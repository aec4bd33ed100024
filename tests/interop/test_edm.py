"""Score models from EDM denoisers, compared with the exact denoiser of Gaussian data and with models of the same networks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from scoresde import Exact, GaussianMixture, ScoreModel, log_likelihood
from scoresde.interop.edm import DenoiserScore, EDMPrecondition, VEPrecondition, VPPrecondition
from scoresde.noise import NoiseSource
from scoresde.samplers import PredictorCorrector, ProbabilityFlowODE, grids
from scoresde.samplers.discretization import ExactTransitions
from scoresde.score import TimeLabel
from scoresde.sde import EDMSDE, VESDE, VPSDE, CriticallyDampedLangevin, SubVPSDE

MEAN, STD = 0.7, 0.3
DISTRIBUTION = GaussianMixture(torch.tensor([[MEAN, MEAN]]), torch.tensor(STD))
SIGMAS = torch.tensor([0.002, 0.1, 0.5, 2.0, 80.0], dtype=torch.float64)


def points(n=5, event=(2,)):
    return NoiseSource.of(3, n).normal(event, step=0, purpose="x", dtype=torch.float64)


def denoised(x, sigma):
    """E[x_0 | x_0 + sigma z = x] of data N(MEAN, STD^2)."""
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


class Exactly(nn.Module):
    """The raw network F whose denoiser is the exact one, by table 1 of the paper, read from c_noise back to sigma."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, u, c_noise):
        assert c_noise.ndim == 1
        c_noise = c_noise.reshape(-1, *[1] * (u.ndim - 1))
        if self.kind == "vp":
            t, rise = c_noise / 999, 19.9
            sigma = ((0.5 * rise * t**2 + 0.1 * t).exp() - 1).sqrt()
            x = u * (sigma**2 + 1).sqrt()
            return (x - denoised(x, sigma)) / sigma
        if self.kind == "ve":
            sigma = 2 * c_noise.exp()
            return (denoised(u, sigma) - u) / sigma
        sigma, s = (4 * c_noise).exp(), 0.5
        x = u * (sigma**2 + s**2).sqrt()
        return (denoised(x, sigma) - s**2 / (s**2 + sigma**2) * x) * (s**2 + sigma**2).sqrt() / (sigma * s)


KINDS = {"vp": VPPrecondition, "ve": VEPrecondition, "edm": EDMPrecondition}


@pytest.mark.parametrize("event", [(2,), (3, 4, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_network_becomes_the_exact_denoiser(kind, event):
    x = points(5, event) * (1.0 + SIGMAS.reshape(-1, *[1] * len(event)))
    found = KINDS[kind](Exactly(kind))(x, SIGMAS)
    assert torch.allclose(found, denoised(x, SIGMAS), rtol=1e-6, atol=1e-8)
    assert torch.allclose(KINDS[kind](Exactly(kind))(x, SIGMAS[2]), denoised(x, SIGMAS[2:3]), rtol=1e-6)


def test_edm_s_own_keeps_variances_at_one():
    """Of the input, and of the target (x_0 - c_skip x) / c_out, for data of its standard deviation (appendix B.6)."""
    c_skip, c_out, c_in, _ = EDMPrecondition(nn.Identity(), 0.3).coefficients(SIGMAS)
    ones = torch.ones(5, dtype=torch.float64)
    assert torch.allclose(c_in**2 * (0.3**2 + SIGMAS**2), ones)
    assert torch.allclose(((1 - c_skip) ** 2 * 0.3**2 + c_skip**2 * SIGMAS**2) / c_out**2, ones)
    with pytest.raises(ValueError, match=r"data_std=0\.0"):
        EDMPrecondition(nn.Identity(), 0.0)


PROCESSES = {"edm": EDMSDE(), "ve": VESDE(0.01, 50.0), "vp": VPSDE(), "subvp": SubVPSDE()}


class Denoiser(nn.Module):
    """EDM's interface: computes in float32, classes optional."""

    def forward(self, x, sigma, class_labels=None, force_fp32=False, **model_kwargs):
        x, sigma = x.to(torch.float32), sigma.to(torch.float32)
        return denoised(x, sigma) + (0.0 if class_labels is None else class_labels.reshape(-1, 1))


@pytest.mark.parametrize("name", PROCESSES)
def test_scores_are_the_distribution_s(name):
    """Under every process, EDM's own and those with alpha other than 1."""
    sde = PROCESSES[name]
    t = torch.tensor([0.05, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64) * sde.T
    x = DISTRIBUTION.score(sde)(points(), t) + points()
    model = DenoiserScore(EDMPrecondition(Exactly("edm")), sde)
    assert torch.allclose(model(x, t), DISTRIBUTION.score(sde)(x, t), rtol=1e-6, atol=1e-7)
    single = DenoiserScore(Denoiser(), sde)
    assert single(x, t).dtype == torch.float64
    assert torch.allclose(single(x, t), DISTRIBUTION.score(sde)(x, t), rtol=1e-3, atol=1e-3)
    # classes reach the network: the score moves by alpha / sigma^2 of the class
    shift = single(x, t, class_labels=torch.ones(5)) - single(x, t)
    wanted = (sde.alpha(t) / sde.sigma(t) ** 2)[:, None]
    assert torch.allclose(shift, wanted.expand(5, 2), rtol=1e-3)


class Odd(nn.Module):
    """Some function of its two arguments."""

    def forward(self, x, label):
        return torch.tanh(x) * torch.cos(0.01 * label)[:, None]


def test_a_network_of_ddpm_is_the_same_either_way():
    """Trained to predict noise under VP, told 999 t: as a `ScoreModel`, and by its precondition, under VP and under EDM's."""
    t, x = torch.tensor([1e-3, 0.1, 0.4, 0.7, 1.0], dtype=torch.float64), points()
    ours = ScoreModel(Odd(), VPSDE(), "noise", label=TimeLabel(999.0), data_std=None)
    theirs = DenoiserScore(VPPrecondition(Odd()), VPSDE())
    assert torch.allclose(theirs(x, t), ours(x, t), rtol=1e-9)
    sigma = (VPSDE().sigma(t) / VPSDE().alpha(t)).clamp(max=80.0)
    edm = DenoiserScore(VPPrecondition(Odd()), EDMSDE())
    alpha = VPSDE().alpha(t)[:4, None]
    assert torch.allclose(edm(x[:4] / alpha, sigma[:4]), alpha * ours(x[:4], t[:4]), rtol=1e-9)


def test_samples_and_likelihoods():
    """The distribution comes back on EDM's process: samples to 4 standard errors and the bias of 40 steps, densities to
    the prior's."""
    sde = EDMSDE()
    model = DenoiserScore(EDMPrecondition(Exactly("edm")), sde)
    steps = ExactTransitions(40, partial(grids.karras, t_min=0.002))
    x = PredictorCorrector(steps=steps)(sde, model, (2000, 2), seed=0, dtype=torch.float64).samples
    assert abs(float(x.mean()) - MEAN) < 4 * STD / 4000**0.5 + 0.01
    x = ProbabilityFlowODE(t_min=0.002, denoise=False)(sde, model, (2000, 2), seed=0, dtype=torch.float64).samples
    assert abs(float(x.mean()) - MEAN) < 4 * STD / 4000**0.5 + 0.001
    assert abs(float(x.std()) - STD) < 4 * STD / 8000**0.5 + 0.001
    x = x[:4]
    found = log_likelihood(sde, model, x, divergence=Exact(), tolerance=1e-4, t_min=1e-4)
    # a start from N(0, 80^2) in place of N(MEAN, 80^2 + STD^2), see EDMSDE
    assert torch.allclose(found.log_prob, DISTRIBUTION.log_prob(x), atol=0.05)


def test_other_processes_are_refused():
    with pytest.raises(TypeError, match="a denoiser needs a process with scalar coefficients"):
        DenoiserScore(Denoiser(), CriticallyDampedLangevin())
    with pytest.raises(ValueError, match="t has shape"):
        DenoiserScore(Denoiser(), EDMSDE())(points(), torch.ones(3, dtype=torch.float64))
