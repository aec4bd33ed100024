"""Processes defined by their schedule: automatic differentiation compared with closed forms, and 50-digit values.

The references are independent of the implementation: mpmath values of the papers' formulas, the closed forms of VP,
sub-VP and VE, transported quantiles (a flow in one dimension preserves ranks), exact mixture densities, and the closed
integral of the likelihood-weighted objective for Gaussian data (Kingma et al. 2021). `scoresde.sde.check` integrates
the moment equations.
"""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal

from scoresde.distributions import GaussianMixture
from scoresde.losses import DenoisingScoreMatching
from scoresde.sde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    LearnedSNRSDE,
    LinearInterpolantSDE,
    LogSNRLinearSDE,
    Schedule,
    ScheduleSDE,
    SubVPSDE,
    check,
)
from tests.params import some_long
from tests.sde.schedules import ALL, CLOSED, F32, F64, GIVEN, LEARNED, LIGHT, bent, scalar


def interior(sde, count=41):
    """Times in (0, T], most of them in the middle and some near both ends."""
    ends = torch.logspace(-5, -2, 7, dtype=F64)
    u = torch.cat((ends, torch.linspace(0.0, 1.0, count, dtype=F64)[1:], 1.0 - ends))
    return sde.T * u.sort().values


def near(found, wanted, rtol):
    """|found - wanted| <= rtol |wanted|, without an absolute tolerance."""
    return torch.allclose(found.detach().double(), wanted.detach().double(), rtol=rtol, atol=0.0)


# --- drift and diffusion by automatic differentiation --------------------------------------------------------------


@pytest.mark.parametrize(
    "sde", [VPSDE(), SubVPSDE(), VESDE(), VPSDE(5.0, 0.3), *CLOSED.values(), LEARNED["learned bent"]], ids=repr
)
def test_two_functions_define_the_process(sde):
    """A Schedule with the alpha and sigma of another process."""
    again, t = Schedule(sde.alpha, sde.sigma, T=sde.T), interior(sde)
    # for very small noise F is a difference of alpha from 1, so the tolerance is absolute
    assert torch.allclose(again.drift_coefficient(t), sde.drift_coefficient(t), rtol=1e-10, atol=1e-10 / sde.T)
    assert near(again.diffusion(t), sde.diffusion(t), 1e-10)
    one = t[20]
    assert again.diffusion(one).shape == () and near(again.diffusion(one), again.diffusion(t)[20], 1e-14)
    half = t.float()
    for name in ("alpha", "sigma", "drift_coefficient", "diffusion"):
        value = getattr(again, name)(half)
        assert value.dtype == F32 and near(value, getattr(again, name)(half.double()), 1e-6)
    with torch.no_grad():
        assert near(again.diffusion(t), sde.diffusion(t), 1e-10)


def test_at_0_rates_are_the_limits():
    """Times at which sigma has an infinite derivative, or a naive 1 - alpha^2 no correct digit."""
    again, zero = Schedule(VPSDE().alpha, VPSDE().sigma), scalar(0.0)
    assert near(again.diffusion(zero), VPSDE().diffusion(zero), 2e-5)
    assert near(again.drift_coefficient(zero), VPSDE().drift_coefficient(zero), 1e-4)
    cosine = CosineVPSDE(0.0)
    naive = Schedule(cosine.alpha, lambda t: (1.0 - cosine.alpha(t) ** 2).sqrt(), prior_std=1.0)
    assert float(naive.sigma(zero)) == 0.0 and 0.0 <= float(naive.diffusion(zero)) < 1e-2
    t = torch.logspace(-4, -0.01, 20, dtype=F64)
    assert near(naive.diffusion(t), cosine.diffusion(t), 1e-6)
    assert near(naive.diffusion(t.float()), cosine.diffusion(t), 1e-5)


def test_rates_can_be_differentiated_in_t():
    """F' = -(beta_max - beta_min) / 2 of VP, through a t that is itself computed."""
    again = Schedule(VPSDE().alpha, VPSDE().sigma)
    u = scalar([0.1, 0.4]).requires_grad_()
    for t in (u, 2.0 * u):
        (slope,) = torch.autograd.grad(again.drift_coefficient(t).sum(), t)
        assert near(slope, torch.full_like(slope, -9.95), 1e-10)
        (slope,) = torch.autograd.grad(again.diffusion(t).square().sum(), t)
        assert near(slope, torch.full_like(slope, 19.9), 1e-9)
    with torch.no_grad():
        assert not again.diffusion(u).requires_grad
    assert u.grad is None


def test_rates_have_gradients_in_the_parameters_of_the_functions():
    """dx = -k x dt + sqrt(2 k) dw: F = -k and g^2 = 2 k."""
    k = nn.Parameter(scalar(0.7))
    sde = Schedule(lambda t: torch.exp(-k * t), lambda t: (-torch.expm1(-2 * k * t)).sqrt(), T=3.0)
    t = scalar([0.0, 0.5, 3.0])
    assert near(torch.autograd.grad(sde.drift_coefficient(t).sum(), k)[0], scalar(-3.0), 1e-12)
    assert near(torch.autograd.grad(sde.diffusion(t).square().sum(), k)[0], scalar(6.0), 1e-12)
    wanted = torch.autograd.grad((-torch.expm1(-2 * k * t[1:])).sum().sqrt(), k)[0]
    assert near(torch.autograd.grad(sde.sigma(t[1:]).square().sum().sqrt(), k)[0], wanted, 1e-12)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = sde.diffusion(scalar([0.0, 0.5, 3.0]))
            assert not found.requires_grad and near(found, k.new_full((3,), 1.4**0.5), 1e-6)
    assert k.grad is None


def test_there_is_no_graph_without_parameters():
    sde = GIVEN["given pair"]
    assert not sde.diffusion(scalar(0.5)).requires_grad and not sde.drift_coefficient(scalar(0.5)).requires_grad
    assert not CLOSED["log snr"].diffusion(scalar(0.5)).requires_grad


class Straight(ScheduleSDE):
    """x_t = (1 - t / 2) x_0 + t z by two methods."""

    def alpha(self, t):
        self.check_time(t)
        return 1.0 - 0.5 * t

    def sigma(self, t):
        self.check_time(t)
        return t


def test_a_subclass_by_two_methods():
    sde, t = Straight(), scalar([0.1, 0.9])
    sde.check_schedule()
    assert near(sde.drift_coefficient(t), -0.5 / (1.0 - 0.5 * t), 1e-14)
    assert near(sde.diffusion(t) ** 2, 2 * t + t**2 / (1 - 0.5 * t), 1e-14)
    # alpha(T) is large: the prior is accurate only for data of a small standard deviation
    assert check(sde, data_std=0.1).passed
    assert [row.name for row in check(sde).rows if not row.passed] == ["prior, nats per coordinate"]


# --- what is refused -----------------------------------------------------------------------------------------------

WRONG = {
    "rising ratio": (
        lambda t: torch.exp(-t),
        lambda t: (t * (1.1 - t)).sqrt(),
        r"g\^2 .* at t = 0\.\d+; the signal-to",
    ),
    "rising in a gap": (lambda t: torch.ones_like(t), lambda t: 1 + t + 0.05 * torch.sin(30 * t), "signal-to-noise"),
    "alpha at 0": (lambda t: 1 - 2 * t, lambda t: t, r"alpha is 0 at t = 0\.5; must be > 0"),
    "alpha 0 at T": (
        lambda t: 1 - t,
        lambda t: t,
        "alpha is 0 at t = 1; must be > 0; if this is at T, choose a smaller T",
    ),
    "cosine to the end": (lambda t: torch.cos(0.5 * math.pi * t), lambda t: torch.sin(0.5 * math.pi * t), "d ln alpha"),
    "sigma at 0": (lambda t: torch.ones_like(t), lambda t: (t - 0.25).clamp(min=0.0), "sigma is 0 at t = 1e-06"),
    "sigma below 0": (lambda t: torch.ones_like(t), lambda t: t - 1e-7, "sigma is -1e-07 at t = 0; must be >= 0"),
    "NaN": (lambda t: torch.ones_like(t), lambda t: (t - 0.25).sqrt(), "sigma is nan at t = 0; must be finite"),
    "infinite": (lambda t: 1 / (t - 0.3).abs(), lambda t: t, r"alpha is inf at t = 0\.3; must be finite"),
    "infinite slope": (lambda t: torch.ones_like(t), lambda t: 1 + (t - 0.5).sign() * (t - 0.5).abs().sqrt() / 2, "g"),
    "a jump up": (
        lambda t: torch.exp(-t) + 0.5 * (t > 0.5),
        lambda t: t,
        r"alpha / sigma .* at t = 0\.5; it increases",
    ),
    "detached": (lambda t: torch.exp(-t.detach()), lambda t: t, r"alpha\(t\) cannot be differentiated"),
    "steps": (torch.ones_like, lambda t: 1 + torch.floor(10 * t), r"sigma\(t\) cannot be differentiated"),
    "one value": (lambda t: torch.ones(()), lambda t: t, r"alpha\(t\) has shape \(\)"),
    "not elementwise": (lambda t: torch.exp(-t), lambda t: t / t.max(), "depends on the other times"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_pair_that_defines_no_process_is_refused(name):
    alpha, sigma, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        Schedule(alpha, sigma)


def test_an_increasing_log_snr_is_refused():
    for preserving in (True, False):
        with pytest.raises(ValueError, match="the signal-to-noise ratio increases"):
            Schedule.from_log_snr(lambda t: -5.0 + 3.0 * torch.cos(6.0 * t), variance_preserving=preserving)


def test_constant_coefficients_are_allowed():
    """Coefficients that are constant on an interval: g = 0, and rounding must not count as an increase."""

    def hold(t):
        return t - (t.clamp(0.3, 0.7) - 0.3)

    sde = Schedule(lambda t: VPSDE().alpha(hold(t)), lambda t: (1 - VPSDE().alpha(hold(t)) ** 2).sqrt())
    assert float(sde.diffusion(scalar(0.5))) == 0.0 and float(sde.diffusion(scalar(0.8))) > 1.0
    Schedule(torch.ones_like, lambda t: (torch.sin(9 * t) ** 2 + torch.cos(9 * t) ** 2).sqrt() + t.clamp(max=0.5))


BAD = [
    (lambda: Schedule(torch.ones_like, torch.clone, T=0.0), r"T=0\.0"),
    (lambda: Schedule(torch.ones_like, torch.clone, prior_std=-1.0), r"prior_std=-1\.0"),
    (lambda: CosineVPSDE(-0.1), r"s=-0\.1"),
    (lambda: CosineVPSDE(0.008, 0.03), r"beta_max=0\.03"),
    (lambda: EDMSDE(0.0), r"sigma_min=0\.0"),
    (lambda: EDMSDE(1.0, 0.5), r"sigma_max=0\.5"),
    (lambda: LinearInterpolantSDE(0.0), r"epsilon=0\.0"),
    (lambda: LinearInterpolantSDE(0.6), r"epsilon=0\.6"),
    (lambda: LogSNRLinearSDE(-6.0, -5.0), r"log_snr_max=-6\.0"),
    (lambda: LogSNRLinearSDE(5.0, math.nan), "log_snr_min=nan"),
    (lambda: LearnedSNRSDE(-6.0, -5.0), r"log_snr_max=-6\.0"),
    (lambda: LearnedSNRSDE(hidden=0), "hidden=0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ALL)
def test_times_out_of_range_are_refused(name):
    sde = ALL[name]
    for call in (sde.alpha, sde.sigma, sde.diffusion, sde.kernel, lambda t: sde.drift(torch.ones(2, 1), t)):
        call(scalar([0.1, sde.T * 1.0000001], F32))
        assert torch.isfinite(sde.diffusion(scalar(-5e-7 * sde.T)))
        for bad in (-0.01 * sde.T, 1.001 * sde.T, math.nan):
            with pytest.raises(ValueError, match="give times in"):
                call(scalar([0.1, bad], F32))


# --- each process against the paper's formula in 50 digits ---------------------------------------------------------


def formula(sde, t):
    """alpha, sigma^2 and g^2 at t by mpmath."""
    if isinstance(sde, EDMSDE):
        return mp.mpf(1), t**2, 2 * t
    if isinstance(sde, LinearInterpolantSDE):
        return 1 - t, t**2, 2 * t / (1 - t)
    if isinstance(sde, LogSNRLinearSDE):
        high, low = mp.mpf(sde.log_snr_max), mp.mpf(sde.log_snr_min)
        variance = 1 / (1 + mp.exp(high + t * (low - high)))
        return mp.sqrt(1 - variance), variance, (high - low) * variance
    s, most = mp.mpf(sde.s), mp.mpf(sde.beta_max)

    def h(t):
        return mp.cos(mp.pi / 2 * (t + s) / (1 + s))

    clip = (1 + s) * mp.atan(most * (1 + s) / mp.pi) * 2 / mp.pi - s
    first = min(t, clip)
    alpha = h(first) / h(mp.mpf(0)) * mp.exp(-most * (t - first) / 2)
    return alpha, 1 - alpha**2, min(most, mp.pi / (1 + s) * mp.tan(mp.pi / 2 * (t + s) / (1 + s)) if t < 1 else most)


def largest_deviation(sde, t, s, dtype):
    t, s = scalar(t, dtype), scalar(s, dtype)
    kernel = sde.transition(s, t)
    found = (sde.alpha(t), sde.sigma(t), sde.diffusion(t), kernel.a, kernel.std)
    assert all(v.dtype == dtype for v in found)
    with mp.workdps(50):
        (a_s, v_s, _), (a_t, v_t, square) = (formula(sde, mp.mpf(float(time))) for time in (s, t))
        ratio = a_t / a_s
        wanted = (a_t, mp.sqrt(v_t), mp.sqrt(square), ratio, mp.sqrt(v_t - ratio**2 * v_s))
        return max(float(abs(mp.mpf(float(a)) / b - 1)) for a, b in zip(found, wanted, strict=True))


@LIGHT
@given(
    name=st.sampled_from(list(CLOSED)),
    t=st.floats(-6, -3).map(lambda e: 10**e),
    fraction=st.sampled_from([0, 0.5, 0.999]),
)
def test_small_times_against_50_digits(name, t, fraction):
    sde = CLOSED[name]
    assert largest_deviation(sde, t * sde.T, fraction * t * sde.T, F64) < 2e-12
    assert largest_deviation(sde, t * sde.T, fraction * t * sde.T, F32) < 5e-6


@LIGHT
@given(name=st.sampled_from(list(CLOSED)), t=st.floats(1e-3, 1.0), fraction=st.sampled_from([0, 0.5, 0.999]))
def test_all_times_against_50_digits(name, t, fraction):
    sde = CLOSED[name]
    assert largest_deviation(sde, t * sde.T, fraction * t * sde.T, F64) < 2e-11
    # near the end the accuracy of 1 - t is limited by the rounding of t, here at 1e-3 and 2e-3 (t_c)
    assert largest_deviation(sde, t * sde.T, fraction * t * sde.T, F32) < 2e-4


@LIGHT
@given(
    name=st.sampled_from(list(ALL)), u=st.lists(st.floats(1e-4, 1.0), min_size=3, max_size=3, unique=True).map(sorted)
)
def test_transitions_compose_and_carry_the_marginals(name, u):
    sde = ALL[name]
    s, m, t = (scalar(v * sde.T) for v in u)
    first, second, whole = sde.transition(s, m), sde.transition(m, t), sde.transition(s, t)
    assert near(first.a * second.a, whole.a, 1e-10)
    # the transition of a Schedule is sigma_t^2 - a^2 sigma_s^2, which cancels for close times
    size = whole.std if name not in GIVEN else sde.sigma(t)
    assert float(((second.a * first.std).hypot(second.std) - whole.std).abs().detach() / size.detach()) < (
        1e-9 if name not in GIVEN else 1e-7
    )
    assert near((whole.a * sde.sigma(s)).hypot(whole.std), sde.sigma(t), 1e-10)


@pytest.mark.parametrize(
    "name",
    some_long(
        [name for name in ALL if name != "learned"],
        ["cosine s=0", "edm", "interpolant", "log snr wide", "learned bent", "given vp", "given ve"],
    ),
)
def test_the_process_check_passes(name):
    """Moment equations integrated, flow and reverse SDE back from T, posterior, conversions, float32, edges."""
    report = check(ALL[name])
    assert report.passed, str(report)


@pytest.mark.parametrize("name", ALL)
def test_float32_at_small_times(name):
    sde = ALL[name]
    t = (sde.T * torch.logspace(-6, -2, 9, dtype=F64)).float()
    for call in (sde.sigma, sde.diffusion, sde.log_noise_slope):
        assert near(call(t), call(t.double()), 2e-5), call


# --- priors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at_one", "unit_variance"),
    [("cosine", 6.6e-7, 0), ("edm", 7.8e-5, 6.1e-9), ("interpolant", 5.0e-7, 2.5e-13), ("log snr", 3.36e-3, 0)],
)
def test_the_error_of_the_prior(name, at_one, unit_variance):
    """KL(distribution at T || prior) in nats per coordinate, for x_0 = 1 and for N(0, 1) data: the numbers of the docstrings."""
    sde = CLOSED[name]
    end, prior = scalar(sde.T), Normal(scalar(0.0), sde.prior_std())
    alpha, sigma = sde.alpha(end), sde.sigma(end)
    point = torch.distributions.kl_divergence(Normal(alpha, sigma), prior)
    assert float(point) == pytest.approx(at_one, rel=0.01)
    ratio = (alpha**2 + sigma**2) / sde.prior_std() ** 2 - 1
    assert float(0.5 * (ratio - torch.log1p(ratio))) == pytest.approx(unit_variance, rel=0.02, abs=1e-15)


def test_priors():
    assert CosineVPSDE().prior_std() == LogSNRLinearSDE().prior_std() == LearnedSNRSDE().prior_std() == 1.0
    assert EDMSDE().prior_std() == EDMSDE().T == 80.0 and LinearInterpolantSDE().prior_std() == 0.999
    assert GIVEN["given vp"].prior_std() == 1.0 and GIVEN["given ve"].prior_std() == pytest.approx(3.1**2)
    assert Schedule(VPSDE().alpha, VPSDE().sigma, prior_std=2.0).prior_std() == 2.0


def test_equal_processes_are_equal():
    pair = (VPSDE().alpha, VPSDE().sigma)
    assert (
        Schedule(*pair) == Schedule(*pair) != Schedule(*pair, prior_std=1.0)
        and len({Schedule(*pair), Schedule(*pair)}) == 1
    )
    assert Schedule.from_log_snr(bent().log_snr) != Schedule.from_log_snr(bent().log_snr)
    assert EDMSDE(0.002) == EDMSDE(0.01) != EDMSDE(0.01, 50.0) and EDMSDE(0.01).t_min == 0.01


# --- the chain of the cosine schedule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [10, 1000])
def test_the_cosine_chain_is_that_of_the_paper(steps):
    """alpha_bar_i = h(i / N) / h(0) to the last step but one, and beta_N = 0.999."""
    chain = CosineVPSDE().discretize(steps)
    i = torch.arange(1, steps + 1, dtype=F64)
    h = torch.cos(0.5 * math.pi * (i / steps + 0.008) / 1.008) ** 2 / math.cos(0.5 * math.pi * 0.008 / 1.008) ** 2
    assert float((chain.alphas**2 - h)[:-1].abs().max()) < 1e-12
    assert near(chain.sigmas[:-1] ** 2, (1 - h)[:-1], 1e-9)
    betas = chain.step_std**2
    assert float(betas[-1]) == pytest.approx(0.999) and float(betas[:-1].max()) < 0.8
    assert near(chain.alphas[-1] ** 2, 1e-3 * h[-2], 1e-9)


def test_the_time_of_the_clip():
    sde = CosineVPSDE()
    assert 1 - sde.clipped_from == pytest.approx(0.002, abs=1e-5)
    assert float(sde.alpha(scalar(1.0))) ** 2 == pytest.approx(1.3e-6, rel=0.02)
    beta = sde.diffusion(scalar([sde.clipped_from - 1e-6, sde.clipped_from, 1.0])) ** 2
    assert near(beta, torch.full_like(beta, 999.0), 1e-3) and near(beta[1:], torch.full((2,), 999.0), 1e-9)


# --- the objective does not depend on the shape --------------------------------------------------------------------------

SHAPES = {"linear": lambda u: u, "sine": lambda u: torch.sin(0.5 * math.pi * u), "cubic": lambda u: u**3}


@pytest.mark.parametrize("name", SHAPES)
def test_the_objective_depends_only_on_the_end_points(name, worst):
    """1/2 int MMSE dSNR = 1/2 ln((1 + c^2 SNR_max) / (1 + c^2 SNR_min)) for data N(0, c^2), by the loss of the library.

    The exact model's error is z - z_hat with mean square alpha^2 c^2 / (alpha^2 c^2 + sigma^2): a noise that is +-1 in
    equal parts, with x_0 at +-c in each combination, makes the mean over both exact. Simpson's rule in t.
    """
    c, low, high, n = 0.8, -13.3, 5.0, 2001
    sde = Schedule.from_log_snr(lambda t: -(low + (high - low) * SHAPES[name](t)))
    t = torch.linspace(0.0, 1.0, n, dtype=F64).clamp(min=1e-9).repeat_interleave(4)
    x0 = scalar([c, c, -c, -c]).repeat(n)[:, None]
    noise = scalar([1.0, -1.0, 1.0, -1.0]).repeat(n)[:, None]
    score = GaussianMixture(torch.zeros(1, 1), c).score(sde)
    loss = DenoisingScoreMatching(sde, "likelihood", reduction="half_sum")(score, x0, t=t, noise=noise)
    values = loss.reshape(n, 4).mean(1)
    weights = torch.full((n,), 2.0, dtype=F64)
    weights[1::2], weights[0], weights[-1] = 4.0, 1.0, 1.0
    found = float((weights * values).sum()) / (3 * (n - 1))
    wanted = 0.5 * math.log((1 + c**2 * math.exp(-low)) / (1 + c**2 * math.exp(-high)))
    worst(f"1/2 int MMSE dSNR, {name} schedule", abs(found - wanted))
    assert abs(found - wanted) < 1e-5
