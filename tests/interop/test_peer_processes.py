"""The adapters on the libraries themselves, where they are installed: values of closed forms, and known deviations.

``python benchmarks/other_processes.py`` runs the whole check on every process that they ship.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from scoresde import VPSDE
from scoresde.interop import from_library
from scoresde.sde import EDMSDE, VESDE, LinearInterpolantSDE, SubVPSDE
from scoresde.sde.checks.dense import DenseProcess
from scoresde.sde.checks.kernels import kernel

from . import torchvision_operators

T = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
NAMES = ("alpha", "sigma", "drift_coefficient", "diffusion")


def needed(module):
    """The module, or a skip with the reason."""
    if module.startswith("deepinv"):
        if importlib.util.find_spec("deepinv") is None:
            pytest.skip("deepinv is not installed")
        torchvision_operators.declare()
    return pytest.importorskip(module, exc_type=ImportError, reason=f"{module.split('.')[0]} is not installed")


def same(sde, wanted, t=T, rtol=1e-6):
    for name in NAMES:
        assert torch.allclose(getattr(sde, name)(t), getattr(wanted, name)(t), rtol=rtol, atol=1e-12), name


def errors(sde):
    return {row.name: row.error for row in kernel(DenseProcess(sde, (2,)))}


def test_azula_rectified_and_exploding():
    noise = needed("azula.noise")
    sde = from_library(noise.RectifiedSchedule(alpha_min=1e-3, sigma_min=0.0))
    assert torch.allclose(sde.alpha(T), 1.0 - 0.999 * T) and torch.allclose(sde.sigma(T), T)
    same(from_library(noise.VESchedule(0.01, 50.0)), VESDE(0.01, 50.0))


def test_diffusers_linear():
    diffusers = needed("diffusers")
    sde = from_library(diffusers.DDPMScheduler())
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    square = diffusers.DDPMScheduler().alphas_cumprod[[99, 499, 999]].double()
    assert torch.allclose(sde.alpha(t), square.sqrt(), rtol=1e-6) and torch.allclose(sde.sigma(t), (1 - square).sqrt())
    assert torch.allclose(sde.diffusion(t[:2]), VPSDE(0.1, 20.0).diffusion(t[:2]), rtol=0.02)


def test_diffusers_euler_has_no_drift():
    sde = from_library(needed("diffusers").EulerDiscreteScheduler())
    assert (sde.drift_coefficient(T) == 0.0).all() and torch.allclose(sde.alpha(T), torch.ones(7, dtype=torch.float64))


def test_diffusers_grids_have_closed_forms():
    """Flow-matching and EDM schedulers are time grids: their marginals are those of our processes at t = sigma."""
    diffusers = needed("diffusers")
    x, z = torch.tensor([[0.7]]), torch.tensor([[-1.3]])
    flow, edm = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), diffusers.EDMEulerScheduler()
    for k in (1, 300, 800):
        t = flow.sigmas[k : k + 1]
        wanted = LinearInterpolantSDE(epsilon=1e-5).perturb(x, t, z)
        assert torch.allclose(flow.scale_noise(x, flow.timesteps[k : k + 1], z), wanted, rtol=1e-5)
        t = edm.sigmas[k : k + 1]
        assert torch.allclose(
            edm.add_noise(x, z, edm.timesteps[k : k + 1]), EDMSDE(0.002, 80.0).perturb(x, t, z), rtol=1e-5
        )


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"])
def test_diffusers_multistep_schedulers_before_set_timesteps(name):
    """Their add_noise at step i has the noise of step N - 1 - i. If this fails, they changed: run the benchmark again."""
    scheduler = getattr(needed("diffusers"), name)()
    with pytest.raises(ValueError, match="at time step 0"):
        from_library(scheduler)


def test_flow_matching_straight_path():
    same(from_library(needed("flow_matching.path.scheduler").CondOTScheduler()), LinearInterpolantSDE())


def test_torchcfm_straight_path():
    same(from_library(needed("torchcfm.conditional_flow_matching").ConditionalFlowMatcher(0.0)), LinearInterpolantSDE())


def test_deepinv_vp():
    same(from_library(needed("deepinv.sampling").VariancePreservingDiffusion()), VPSDE(0.1, 20.0))


def test_sbi_score_estimators():
    module = needed("sbi.neural_nets.estimators.score_estimator")
    shapes = (torch.nn.Identity(), torch.Size([2]), torch.Size([3]))
    same(from_library(module.VPScoreEstimator(*shapes)), VPSDE(0.01, 10.0))
    same(from_library(module.SubVPScoreEstimator(*shapes)), SubVPSDE(0.01, 10.0))
    same(from_library(module.VEScoreEstimator(*shapes)), VESDE(1e-4, 10.0))


def test_sbi_flow_matching_deviates_by_its_noise_scale(monkeypatch):
    """g^2 = 2 (t + s) / (1 - t), where sigma = t + s needs 2 (t + s) (1 + s) / (1 - t)."""
    monkeypatch.setattr("scoresde.sde.checks.kernels._explain", lambda process: "")
    module = needed("sbi.neural_nets.estimators.flowmatching_estimator")
    shapes = (torch.nn.Identity(), torch.Size([2]), torch.Size([3]))
    found = errors(from_library(module.FlowMatchingEstimator(*shapes, noise_scale=0.01)))
    assert found["kernel covariance from the SDE"] == pytest.approx(0.01, rel=0.05)
    found = errors(from_library(module.FlowMatchingEstimator(*shapes, noise_scale=0.0)))
    assert found["kernel covariance from the SDE"] < 1e-6
