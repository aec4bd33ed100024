"""The closed-form inverse of ln(sigma / alpha), compared with its definition and with bisection."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde._validation import times_checked
from scoresde.sde import (
    EDMSDE,
    VESDE,
    VPSDE,
    BlurringSDE,
    CosineVPSDE,
    LinearInterpolantSDE,
    LinearSDE,
    LogSNRLinearSDE,
    Schedule,
    Shifted,
    SubVPSDE,
)

CLOSED = [
    VPSDE(), VPSDE(5.0, 0.3), VPSDE(0.1, 0.1), VPSDE(0.1, 4000.0), VPSDE(T=1.5), SubVPSDE(), SubVPSDE(0.1, 2000.0),
    SubVPSDE(T=0.4), VESDE(), VESDE(0.002, 378.0, T=0.7), EDMSDE(), LinearInterpolantSDE(), LinearInterpolantSDE(0.1),
    LogSNRLinearSDE(), LogSNRLinearSDE(20.0, -20.0), CosineVPSDE(), CosineVPSDE(0.0), CosineVPSDE(0.1, 10.0),
    Shifted(VPSDE(), torch.ones(2)),
]  # fmt: skip


def times(sde):
    share = torch.cat(
        (torch.logspace(-6, -2, 9, dtype=torch.float64), torch.linspace(0.02, 1.0, 50, dtype=torch.float64))
    )
    return sde.T * share


@pytest.mark.parametrize("sde", CLOSED, ids=repr)
def test_closed_forms_agree_with_definition_and_bisection(sde):
    t = times(sde)
    u = sde.log_noise(t)
    kernel = sde.kernel(t)
    direct = (kernel.level() / kernel.signal()).log()
    seen = torch.isfinite(direct)  # alpha can underflow where the closed form does not
    assert float((u - direct)[seen].abs().max()) < 1e-9 and bool(seen[:40].all())
    closed, bisected = sde.time_of_log_noise(u), LinearSDE.time_of_log_noise(sde, u)
    # the accuracy of t is limited by the rounding of u
    rounding = 1e-13 * (1.0 + u.abs()) / sde.log_noise_slope(t).abs() + 1e-13 * t
    assert bool(((closed - t).abs() <= 10 * rounding).all())
    assert bool(((bisected - t).abs() <= 10 * rounding + 2.0**-58 * sde.T).all())
    assert torch.equal(sde.time_of_log_spread(u), closed)
    assert closed.dtype == torch.float64


@pytest.mark.parametrize("sde", CLOSED, ids=repr)
def test_noise_beyond_both_ends_is_clamped(sde):
    t = sde.time_of_log_noise(torch.tensor([-math.inf, -1e4, 1e4, math.inf]))
    assert t.tolist() == pytest.approx([0.0, 0.0, sde.T, sde.T], abs=1e-12)


class FasterVP(VPSDE):
    """VP with another integral of beta, for which the inherited closed forms would be wrong."""

    def beta(self, t):
        return 60.0 * t**2 + 0.1

    def beta_integral(self, t):
        return 20.0 * t**3 + 0.1 * t


class WiderVE(VESDE):
    def sigma(self, t):
        self.check_time(t)
        return 0.01 + 50.0 * t


class BentLogSNR(LogSNRLinearSDE):
    def log_snr(self, t):
        return 10.0 - 15.0 * t**2


@pytest.mark.parametrize("sde", [FasterVP(), WiderVE(), BentLogSNR(), Schedule(VPSDE().alpha, VPSDE().sigma)], ids=repr)
def test_a_subclass_with_other_coefficients_gets_the_general_inverse(sde):
    t = times(sde)
    u = sde.log_noise(t)
    assert torch.allclose(u, (sde.sigma(t) / sde.alpha(t)).log(), atol=1e-9, rtol=1e-9)
    assert torch.allclose(sde.time_of_log_noise(u), t, rtol=1e-6, atol=1e-9)


def test_log_noise_and_log_spread_differ_without_scalar_coefficients():
    sde = BlurringSDE((5,))
    t = times(sde)
    assert torch.allclose(sde.time_of_log_spread(sde.log_spread(t)), t, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(sde.log_spread(t), sde.log_noise(t))


def test_times_are_checked_unless_the_caller_has_checked_them():
    late = torch.tensor([0.5, 2.0])
    with times_checked():
        VPSDE().sigma(late)
        with pytest.raises(ValueError, match="give shape"):
            VPSDE().drift(torch.zeros(3, 2), late)  # shapes are always checked
    with pytest.raises(ValueError, match="give times in"):
        VPSDE().sigma(late)
