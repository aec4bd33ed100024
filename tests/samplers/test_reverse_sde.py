"""The reverse SDE by torchsde: orders against the closed form of Gaussian data, adaptive steps by their distribution,
the door."""

from __future__ import annotations

import pytest
import torch

from scoresde.samplers import ReverseSDESampler
from scoresde.sde import VPSDE, CriticallyDampedLangevin, NonlinearSDE
from scoresde.solvers import TorchSDE
from scoresde.solvers.torchsde_forms import StepBrownian
from scoresde.solvers.torchsde_sde import METHODS
from tests.params import some_long
from tests.samplers.orders import REVERSE, SDES, reverse_errors, reverse_slopes

F64 = torch.float64
SHAPE = (2, 4000)


@pytest.mark.parametrize("method", some_long(REVERSE, ["milstein", "midpoint", "euler_heun"]))
def test_strong_and_weak_order(method):
    """The error is computed exactly, without random draws."""
    for found, order in zip(reverse_slopes(method, SDES["vp"]), REVERSE[method], strict=True):
        assert abs(found - order) < 0.25


def test_srk_without_the_area_loses_its_order(monkeypatch):
    """Planted: U without its own standard normal."""
    whole = StepBrownian._normal

    def planted(self, purpose, step):
        return whole(self, purpose, step) * (purpose != "brownian area")

    before = reverse_errors("srk", SDES["vp"], 81)[0]
    monkeypatch.setattr(StepBrownian, "_normal", planted)
    assert reverse_errors("srk", SDES["vp"], 81)[0] > 5 * before
    assert reverse_slopes("srk", SDES["vp"])[0] < 1.2


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_number_of_steps_is_the_requested_one(dtype):
    """Also if the sum of the step sizes ends below the span because of rounding."""
    for steps in (1, 7, 16, 30, 54, 81, 100, 200):
        sampler = ReverseSDESampler(steps=steps, denoise=False)
        assert sampler(VPSDE(), lambda x, t: -x, (1, 1), dtype=dtype).nfe == steps


def moments(method, share=1.0, tolerance=1e-3):
    """Mean and standard deviation at t = 0.05 in standard errors from the truth, and evaluations; ``share`` of the score."""
    sde = SDES["vp"]

    def variance(t):
        return 0.3 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2

    solver = TorchSDE(method, adaptive=True, rtol=tolerance, atol=tolerance)
    result = ReverseSDESampler(solver, steps=20, t_min=0.05, denoise=False)(
        sde, lambda x, t: -share * x / variance(t)[:, None], SHAPE, seed=1, dtype=F64
    )
    x, n = result.samples / variance(torch.tensor(0.05, dtype=F64)).sqrt(), result.samples.numel()
    return abs(float(x.mean())) * n**0.5, abs(float(x.std()) - 1.0) * (2 * n) ** 0.5, result.nfe


@pytest.mark.parametrize("method", ["euler", "milstein", "srk", "heun"])
def test_adaptive_steps_keep_the_distribution(method):
    """8000 coordinates. 5 standard errors (a false alarm in 1e6), 1 for the tolerance; detects a score that is 10 % too small."""
    mean, std, nfe = moments(method)
    assert mean < 6 and std < 6
    assert moments(method, tolerance=1e-2)[2] < 0.6 * nfe
    assert moments(method, share=0.9, tolerance=1e-2)[1] > 6


def of_the_state():
    return NonlinearSDE(lambda x, t: -x, lambda x, t: 0.5 + 0.5 * x.abs(), steps=10)


@pytest.mark.covering
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_samples_or_raises_an_error(method, adaptive):
    """Scalar coefficients, blocks, and a diffusion that depends on the state."""
    sampler = ReverseSDESampler(
        TorchSDE(method, adaptive=adaptive, rtol=0.1, atol=0.1), steps=4, t_min=0.1, denoise=False
    )
    for sde in (VPSDE(), CriticallyDampedLangevin(), of_the_state()):
        refused = method == "reversible_heun" if sde.additive else method not in ("euler", "milstein", "srk")
        if refused:
            with pytest.raises(ValueError, match=f"method='{method}'.*give 'heun'|method='{method}'.*give 'euler'"):
                sampler(sde, lambda x, t: -x, (2, 2))
        else:
            assert sampler(sde, lambda x, t: -x, (2, 2)).nfe >= 4


def test_a_last_time_above_T_is_refused():
    with pytest.raises(ValueError, match=r"t_min=1\.5"):
        ReverseSDESampler(t_min=1.5)(VPSDE(), lambda x, t: -x, (2, 2))
