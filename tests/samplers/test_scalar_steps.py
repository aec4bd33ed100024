"""Steps with scalar coefficients agree with the general integrators with linear maps."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.samplers import (
    DDIM,
    EDM,
    Ancestral,
    AnnealedLangevin,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    UniPC,
    grids,
)
from scoresde.samplers.exponential import Churn, ExponentialMultistep
from scoresde.samplers.exponential.history import phi, polynomial_weights
from scoresde.samplers.grid_sampler import GridSampler
from scoresde.samplers.predictor_corrector import BatchLangevin, ConsistentAnnealed
from scoresde.sde import EDMSDE, VESDE, VPSDE, CosineVPSDE, LinearInterpolantSDE, SubVPSDE

SDES = {
    "vp": VPSDE(),
    "sub-vp": SubVPSDE(),
    "ve": VESDE(0.01, 10.0),
    "edm": EDMSDE(0.01, 10.0),
    "cosine": CosineVPSDE(),
    "interpolant": LinearInterpolantSDE(1e-2),
}
ON = {"grid": grids.log_noise, "t_min": 1e-2}
SAMPLERS = {
    "2M": DPMSolverPlusPlus(6, **ON),
    "first order": DPMSolverPlusPlus(6, 1, **ON),
    "SDE 2M": DPMSolverPlusPlus(6, eta=1.0, **ON),
    "SDE 2M, eta = 0.5": DPMSolverPlusPlus(6, eta=0.5, **ON),
    "SDE first order": DPMSolverPlusPlus(6, 1, 1.0, **ON),
    "2M by times": DPMSolverPlusPlus([0.9, 0.5, 0.2, 0.1, 0.05]),
    "UniPC-2": UniPC(6, 2, **ON),
    "UniPC-3": UniPC(8, 3, **ON),
    "UniPC-3, few steps": UniPC(5, 3, **ON),
    "UniPC with noise": ExponentialMultistep(6, 2, eta=1.0, corrector=True, **ON),
    "on a fixed path": ExponentialMultistep(6, 2, eta=1.0, cell=0.05, **ON),
    "EDM": EDM(6, t_min=1e-2),
    "EDM, Euler": EDM(6, t_min=1e-2, heun=False),
    "EDM, churned": EDM(6, t_min=1e-2, churn=Churn(20.0, inflate=1.01)),
    "EDM, churned in part": EDM(6, t_min=1e-2, churn=Churn(20.0, low=0.1, high=1.0)),
    "DDIM": DDIM(steps=8, **ON),
    "DDIM, eta = 0.5": DDIM(eta=0.5, steps=8, **ON),
    "DDIM, eta = 1": DDIM(eta=1.0, steps=8, **ON),
    "annealed": ConsistentAnnealed(eta=0.5, steps=40, **ON),
    "Euler-Maruyama": EulerMaruyama(steps=8),
    "Euler": EulerMaruyama(flow=True, steps=8),
    "reverse diffusion": ReverseDiffusion(steps=8, denoise=False),
    "reverse diffusion, flow": ReverseDiffusion(flow=True, steps=8),
    "ancestral": Ancestral(steps=8),
    "ancestral, lower": Ancestral(variance="lower", steps=8),
    "predictor-corrector": PredictorCorrector(ReverseDiffusion(), Langevin(0.1), steps=8),
    "DDIM with Langevin steps": PredictorCorrector(DDIM(), AnnealedLangevin(0.1, steps=2), steps=8, **ON),
    "Langevin": PredictorCorrector(None, BatchLangevin(0.1), steps=8),
}


def score_of(sde):
    """A function of x and t that reveals a wrong coefficient.

    It has the size of a score. A larger one, times sigma^2 = 100, would amplify rounding errors by up to 50 in a step.
    """

    def score(x, t):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        return -torch.tanh(x + t) / (1.0 + sde.sigma(t) ** 2)

    return score


def run(sampler, sde, shape, **settings):
    seen = []
    start = None
    if isinstance(sampler.steps, tuple):
        start = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = sampler(
        sde, score_of(sde), shape, dtype=torch.float64, start=start, callback=lambda k, t, x: seen.append(x), **settings
    )
    return result, torch.stack(seen)


def cases():
    """Every method on every process, events of rank 1 and 3. By default each method runs on one process; the rest is long."""
    for i, method in enumerate(SAMPLERS):
        for k, name in enumerate(SDES):
            for rank, shape in enumerate(((3, 2), (2, 1, 2, 2))):
                marks = [] if k == i % len(SDES) and rank == i % 2 else [pytest.mark.long]
                yield pytest.param(method, name, shape, marks=marks)


@pytest.mark.parametrize(("method", "name", "shape"), cases())
def test_the_step_agrees_with_the_general_integrator(monkeypatch, method, name, shape):
    """All states of a run in float64 agree to 1e-12, relative to the largest."""
    sampler, sde = SAMPLERS[method], SDES[name]
    found, states = run(sampler, sde, shape)
    monkeypatch.setattr(type(sampler), "has_step", lambda self, process: False)
    wanted, reference = run(sampler, sde, shape)
    size = reference.abs().flatten(1).amax(1).reshape(-1, *[1] * len(shape))
    assert float(((states - reference).abs() / size).max()) < 1e-12
    assert float((found.samples - wanted.samples).abs().max()) < 1e-12 * float(size[-1])
    assert found.nfe == wanted.nfe and torch.equal(found.times, wanted.times)


def test_phi():
    """Both branches agree with the definition, in exact arithmetic near the branch point."""
    for m in range(5):
        for z in (-1e-3, -0.7, -1.0, -1.0001, -4.0):
            wanted = sum(z**n / math.factorial(n + m) for n in range(60))
            assert phi(m, z) == pytest.approx(wanted, rel=1e-13)


def test_weights_integrate_polynomials():
    """sum_j w_j p(tau_j) is the integral of p, for p = 1, tau, tau^2."""
    nodes, h, k = (0.0, -0.3, -0.7), 0.4, 1.0
    w = polynomial_weights(nodes, h, k)
    tau = torch.linspace(0.0, h, 20001, dtype=torch.float64)
    for power in range(3):
        wanted = torch.trapezoid(k * (-k * (h - tau)).exp() * tau**power, tau)
        assert sum(a * b**power for a, b in zip(w, nodes, strict=True)) == pytest.approx(float(wanted), rel=1e-8)


def test_every_sampler_with_a_step_is_compared():
    assert all(isinstance(sampler, GridSampler) and sampler.has_step(VPSDE()) for sampler in SAMPLERS.values())
