"""VP, sub-VP, VE and their chains, compared with 50-digit values, their moment equations and simulated paths.

Hypothesis draws parameters, times and shapes (derandomized). The references are independent of the implementation:
mpmath, the moment equations d ln alpha / dt = F and d sigma^2 / dt = 2 F sigma^2 + g^2, Bayes' rule,
torch.distributions, and paths that are simulated with drift and diffusion only.
"""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from scoresde.noise import NoiseSource
from scoresde.sde import SDE, VESDE, VPSDE, EulerChain, LinearSDE, ScalarKernel, ScalarSDE, SubVPSDE
from tests.sde.processes import (
    DEFAULTS,
    F32,
    F64,
    LIGHT,
    composed,
    derivative,
    events,
    near,
    normal,
    processes,
    relative,
    scalar,
    uniform_times,
)

OTHERS = {"vp fast": VPSDE(0.5, 40.0), "vp falling": VPSDE(5.0, 0.3), "subvp slow": SubVPSDE(0.01, 3.0)}


OTHERS |= {"ve wide": VESDE(0.001, 348.0)}


ALL = DEFAULTS | OTHERS


TIMES = st.floats(1e-6, 1.0)


SMALL = st.floats(-8.0, -3.0).map(lambda e: 10.0**e)


# --- 50 digits ---------------------------------------------------------------------------------------------------


def exact(sde, t, s=None):
    """alpha, sigma, g at t and the transition's a, std from s, by mpmath. t and s are the exact values of the floats."""
    t, s = mp.mpf(float(t)), None if s is None else mp.mpf(float(s))
    if isinstance(sde, VESDE):
        low, log = mp.mpf(sde.sigma_min), mp.log(mp.mpf(sde.sigma_max) / mp.mpf(sde.sigma_min))

        def alpha(_):
            return mp.mpf(1)

        def sigma(t):
            return low * mp.exp(t * log)

        g = sigma(t) * mp.sqrt(2 * log)
        between = None if s is None else sigma(t) ** 2 - sigma(s) ** 2
    else:
        low, slope = mp.mpf(sde.beta_min), mp.mpf(sde.beta_max) - mp.mpf(sde.beta_min)

        def integral(t):
            return low * t + slope * t**2 / 2

        def alpha(t):
            return mp.exp(-integral(t) / 2)

        def sigma(t):
            left = 1 - mp.exp(-integral(t))
            return left if isinstance(sde, SubVPSDE) else mp.sqrt(left)

        g = mp.sqrt(low + slope * t)
        if isinstance(sde, SubVPSDE):
            g *= mp.sqrt(1 - mp.exp(-2 * integral(t)))
        between = None if s is None else sigma(t) ** 2 - (alpha(t) / alpha(s)) ** 2 * sigma(s) ** 2
    found = {"alpha": alpha(t), "sigma": sigma(t), "diffusion": g}
    if s is not None:
        found |= {"a": alpha(t) / alpha(s), "std": mp.sqrt(between)}
    return found


def largest_deviation(sde, t, s, dtype):
    """Relative errors of all closed forms, at times rounded to dtype."""
    t, s = scalar(t, dtype), scalar(s, dtype)
    kernel = sde.transition(s, t)
    found = {name: getattr(sde, name)(t) for name in ("alpha", "sigma", "diffusion")}
    found |= {"a": kernel.a, "std": kernel.std}
    assert all(v.dtype == dtype for v in found.values())
    with mp.workdps(50):
        return max(relative(found[name], value) for name, value in exact(sde, t, s).items())


@LIGHT
@given(sde=processes(), t=SMALL, fraction=st.sampled_from([0.0, 0.5, 0.999]))
def test_small_times_against_50_digits(sde, t, fraction):
    """Small times, for which the naive 1 - exp(-B) has no correct digit, and transitions between close times."""
    assert largest_deviation(sde, t, fraction * t, F64) < 1e-12
    assert largest_deviation(sde, t, fraction * t, F32) < 1e-6


@LIGHT
@given(sde=processes(), t=st.floats(1e-3, 1.0), fraction=st.sampled_from([0.0, 0.5, 0.999]))
def test_all_times_against_50_digits(sde, t, fraction):
    assert largest_deviation(sde, t, fraction * t, F64) < 1e-12
    # exp(y) has the rounding error of y, |y| up to B(1) / 2 = 12.5 or ln(1e5) = 11.5, and sigma is the root of two such terms
    assert largest_deviation(sde, t, fraction * t, F32) < 5e-6


def test_the_naive_formula_would_fail():
    """1 - exp(-B) in float32 at t = 1e-6, as in the reference implementation, compared with the same 50 digits."""
    t = scalar(1e-6, F32)
    naive = (1 - torch.exp(2 * torch.log(VPSDE().alpha(t)))).sqrt()
    assert relative(naive, exact(VPSDE(), t)["sigma"]) > 1e-3


@LIGHT
@given(sde=processes(), t=st.lists(TIMES, min_size=1, max_size=5))
def test_moments_solve_their_equations(sde, t):
    t = scalar(t)
    rate = sde.drift_coefficient(t)
    slope = derivative(lambda t: sde.alpha(t).log() if sde.alpha(t).requires_grad else 0.0 * t, t)
    assert torch.allclose(slope, rate, rtol=1e-12, atol=1e-14)
    growth = 2 * rate * sde.sigma(t) ** 2 + sde.diffusion(t) ** 2
    # near its stationary value sigma^2 is constant and the two terms of its derivative cancel, so errors are relative to them
    assert ((derivative(lambda t: sde.sigma(t) ** 2, t) - growth).abs() <= 1e-11 * sde.diffusion(t) ** 2).all()


@LIGHT
@given(sde=processes(), times=st.lists(TIMES, min_size=3, max_size=3, unique=True).map(sorted))
def test_transitions_compose(sde, times):
    s, u, t = map(scalar, times)
    first, second, whole = sde.transition(s, u), sde.transition(u, t), sde.transition(s, t)
    assert near(first.a * second.a, whole.a, 1e-11)
    assert near((second.a * first.std).hypot(second.std), whole.std, 1e-11)


@LIGHT
@given(sde=processes(), s=TIMES, t=TIMES)
def test_a_transition_maps_one_marginal_to_the_next(sde, s, t):
    s, t = scalar(min(s, t)), scalar(max(s, t))
    kernel = sde.transition(s, t)
    assert near(kernel.a * sde.alpha(s), sde.alpha(t), 1e-11)
    assert near((kernel.a * sde.sigma(s)).hypot(kernel.std), sde.sigma(t), 1e-11)


@pytest.mark.parametrize("name", ALL)
def test_the_transition_from_0_is_the_marginal(name):
    """For VE up to the noise sigma_min of the state at t = 0."""
    sde, t = ALL[name], torch.logspace(-6, 0, 25, dtype=F64)
    kernel = sde.transition(scalar(0.0), t)
    assert near(kernel.a, sde.alpha(t), 1e-14)
    before = sde.sigma_min if isinstance(sde, VESDE) else 0.0
    assert near((kernel.std**2 + before**2).sqrt(), sde.sigma(t), 1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_general_transition_agrees_with_the_closed_forms(name):
    """`ScalarSDE._transition`, the default for processes without a closed form."""
    sde = ALL[name]
    s, t = scalar([0.01, 0.2, 0.5, 0.1]), scalar([0.03, 0.21, 1.0, 0.9])
    ours, general = sde.transition(s, t), ScalarSDE._transition(sde, s, t)
    assert near(ours.a, general.a, 1e-12) and near(ours.std, general.std, 1e-10)


@LIGHT
@given(sde=processes(), times=st.tuples(st.floats(1e-4, 1.0), st.floats(0.01, 0.99)), shape=events())
def test_the_posterior_is_bayes(sde, times, shape):
    """The normalized product of the Gaussians q(x_s | x_0) and q(x_t | x_s)."""
    t = times[0] * torch.linspace(0.9, 1.0, shape[0], dtype=F64)
    s = times[1] * t
    x_t, x0 = normal(shape, "x_t"), normal(shape, "x_0")
    mean, std = sde.posterior(x_t, x0, s, t)
    assert mean.shape == shape and std.shape == (shape[0],)
    kernel = sde.transition(s, t)
    for b in range(shape[0]):
        prior, v = sde.sigma(s[b]) ** 2, kernel.std[b] ** 2
        precision = 1 / prior + kernel.a[b] ** 2 / v
        wanted = (sde.alpha(s[b]) * x0[b] / prior + kernel.a[b] * x_t[b] / v) / precision
        assert near(std[b], precision**-0.5, 1e-11)
        assert torch.allclose(mean[b], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_posterior_at_its_ends(name):
    """For s = t it is x_t. For s = 0 and a process without noise at 0 it is x_0."""
    sde, (x_t, x0) = DEFAULTS[name], (normal((3, 2), "x_t"), normal((3, 2), "x_0"))
    mean, std = sde.posterior(x_t, x0, scalar(0.4), scalar(0.4))
    assert torch.equal(mean, x_t) and float(std) == 0.0
    if name != "ve":
        mean, std = sde.posterior(x_t, x0, scalar(0.0), scalar(0.4))
        assert near(mean, x0, 1e-14) and float(std) == 0.0


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_noise_of_the_posterior_kernel_is_that_of_the_posterior(name):
    sde, (s, t) = DEFAULTS[name], (scalar([0.1, 0.3]), scalar([0.15, 0.9]))
    kernel = sde.transition(s, t).with_posterior_noise(sde.kernel(t))
    assert near(kernel.std, sde.posterior(normal((2, 1)), normal((2, 1)), s, t)[1], 1e-10)
    assert near(kernel.a, sde.transition(s, t).a, 0.0)


# --- the prior ---------------------------------------------------------------------------------------------------


@LIGHT
@given(sde=processes(), shape=events())
def test_prior_log_prob(sde, shape):
    x = 2 * normal(shape)
    scale = torch.full(shape, sde.sigma_max if isinstance(sde, VESDE) else 1.0, dtype=F64)
    wanted = Independent(Normal(torch.zeros_like(x), scale), len(shape) - 1).log_prob(x)
    found = sde.prior_log_prob(x)
    assert found.shape == shape[:1]
    assert torch.allclose(found, wanted, rtol=1e-13, atol=1e-13)
    assert torch.allclose(sde.prior_log_prob(x.float()).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "nats"), [("vp", 2.16e-5), ("subvp", 2.16e-5), ("ve", 2.0e-4), ("subvp slow", 0.165), ("ve wide", 4.1e-6)]
)
def test_the_error_of_the_prior(name, nats):
    """KL(kernel at T || prior) in nats per coordinate for x_0 = 1, the error of starting from the prior.

    exp(-B) / 2 for VP and sub-VP to first order, 1 / (2 sigma_max^2) for VE: negligible for the defaults, not for a
    beta that ends at 3.
    """
    sde, one = ALL[name], scalar(1.0)
    x0 = torch.ones(1, 1, dtype=F64)
    mean, std = sde.marginal(x0, one)
    gap = torch.distributions.kl_divergence(Normal(mean, std), Normal(0.0, sde.prior_std()))
    assert float(gap) == pytest.approx(nats, rel=0.02)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_prior_sample(name, dtype):
    """prior_std times keyed normal numbers: sample i depends only on (seed, i)."""
    sde = DEFAULTS[name]
    x = sde.prior_sample((500, 3, 4), seed=3, dtype=dtype)
    assert x.shape == (500, 3, 4) and x.dtype == dtype
    assert torch.equal(sde.prior_sample((9, 3, 4), noise=NoiseSource.of(3, 9, first=40), dtype=dtype), x[40:49])
    assert not (sde.prior_sample((500, 3, 4), seed=4, dtype=dtype) == x).any()
    # 6000 draws: the mean square is within 6 of its standard deviations, sqrt(2 / 6000); the false-alarm rate is 2e-9
    off = float((x.double() / sde.prior_std()).square().mean() - 1) / (2 / x.numel()) ** 0.5
    assert abs(off) < 6
    assert abs((1.15**2 * (off * (2 / x.numel()) ** 0.5 + 1) - 1) / (2 / x.numel()) ** 0.5) > 6  # a std of 1.15


# --- score, noise, data, velocity ----------------------------------------------------------------------------------


@LIGHT
@given(sde=processes(), shape=events())
def test_conversions(sde, shape):
    """For x_t = alpha x_0 + sigma z with score -z / sigma, and each converted back to the score."""
    x0, z, t = normal(shape, "x_0"), normal(shape, "z"), uniform_times(shape[0])
    alpha, sigma = (c.reshape(-1, *[1] * (len(shape) - 1)) for c in (sde.alpha(t), sde.sigma(t)))
    x, score = sde.perturb(x0, t, z), -z / sigma
    assert near(x, alpha * x0 + sigma * z, 1e-14)
    # the data is a difference of terms of size |x|, divided by alpha: errors are relative to these
    assert ((sde.data_from_score(x, t, score) - x0).abs() * alpha <= 1e-13 * (x.abs() + sigma * z.abs())).all()
    assert near(sde.noise_from_score(x, t, score), z, 1e-13)
    velocity = sde.velocity_from_score(x, t, score)
    scale = alpha * z.abs() + sigma / alpha * (x.abs() + sigma * z.abs())
    assert ((velocity - (alpha * z - sigma * x0)).abs() <= 1e-13 * scale).all()
    size = (x.abs() + alpha * x0.abs()) / sigma**2
    assert ((sde.score_from_data(x, t, x0) - score).abs() <= 1e-13 * size).all()
    assert near(sde.score_from_noise(x, t, z), score, 1e-13)
    back = sde.score_from_velocity(x, t, alpha * z - sigma * x0)
    size = (alpha**2 * z.abs() + sigma * x.abs() + alpha * sigma * x0.abs()) / (sigma * (alpha**2 + sigma**2))
    assert ((back - score).abs() <= 1e-13 * size).all()


@LIGHT
@given(sde=processes(), t=st.lists(TIMES, min_size=1, max_size=5))
def test_time_of_log_noise(sde, t):
    t = scalar(t)
    u = (sde.sigma(t) / sde.alpha(t)).log()
    # u is accurate to 1e-16 times its terms, and its derivative is g^2 / (2 sigma^2)
    slope = 0.5 * (sde.diffusion(t) / sde.sigma(t)) ** 2
    assert ((sde.time_of_log_noise(u) - t).abs() <= 1e-14 * (1 + u.abs()) / slope + 1e-15).all()
    assert torch.allclose(sde.time_of_log_noise(scalar([-100.0, 100.0])), scalar([0.0, 1.0]), atol=1e-15)


@LIGHT
@given(sde=processes(), shape=events())
def test_one_time_for_all_is_the_same_time_for_each(sde, shape):
    x, z = normal(shape), normal(shape, "z")
    one, each = scalar(0.3), scalar([0.3] * shape[0])
    for f in (sde.drift, sde.apply_diffusion, sde.apply_diffusion_matrix):
        assert torch.equal(f(x, one), f(x, each))
    for f in (sde.perturb, sde.reverse_drift, sde.noise_from_score, sde.score_from_data, sde.velocity_from_score):
        # exp of a vector and of a scalar can differ in the last bit
        assert torch.allclose(f(x, one, z), f(x, each, z), rtol=1e-13, atol=1e-13)


# --- global state, extension -------------------------------------------------------------------------------------


def everything(sde, dtype):
    x, z = normal((3, 2), dtype=dtype), normal((3, 2), "z", dtype=dtype)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=dtype)
    chain = sde.discretize(50)
    kernel, step = sde.transition(0.5 * t, t), chain.step(t)
    found = [sde.alpha(t), sde.sigma(t), sde.diffusion(t), sde.drift(x, t), *sde.marginal(x, t), kernel.a, kernel.std]
    found += [sde.prior_sample((3, 2), dtype=dtype), sde.prior_log_prob(x), *sde.posterior(x, z, 0.5 * t, t)]
    found += [sde.time_of_log_noise(t), chain.alpha(t), chain.sigma(t), step.a, step.std]
    return [*found, sde.score_from_velocity(x, t, z), sde.score_from_data(x, t, z)]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", DEFAULTS)
def test_the_global_dtype_does_not_matter(name, dtype):
    found = everything(DEFAULTS[name], dtype)
    torch.set_default_dtype(F64)
    try:
        again = everything(DEFAULTS[name], dtype)
    finally:
        torch.set_default_dtype(F32)
    for a, b in zip(found, again, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


class OrnsteinUhlenbeck(ScalarSDE):
    """dx = -k x dt + g dw on [0, T], with the four methods that a subclass must implement."""

    def __init__(self, k, g, end):
        self.k, self.g, self.T = k, g, end

    def alpha(self, t):
        self.check_time(t)
        return torch.exp(-self.k * t)

    def sigma(self, t):
        self.check_time(t)
        return self.g * (-torch.expm1(-2 * self.k * t) / (2 * self.k)).sqrt()

    def drift_coefficient(self, t):
        return torch.full_like(t, -self.k)

    def diffusion(self, t):
        return torch.full_like(t, self.g)


def test_a_user_defined_process_needs_four_methods_and_any_T():
    """On [0, 3]: transition, posterior, prior, inverse of log_noise and a chain are all derived."""
    sde = OrnsteinUhlenbeck(0.7, 1.3, 3.0)
    s, t = scalar([0.5, 1.0]), scalar([0.9, 2.9])
    kernel = sde.transition(s, t)
    wanted = OrnsteinUhlenbeck(0.7, 1.3, 3.0).sigma(t - s)  # the coefficients are constant
    assert near(kernel.std, wanted, 1e-12) and near(kernel.a, torch.exp(-0.7 * (t - s)), 1e-13)
    assert sde.prior_std() == pytest.approx(float(sde.sigma(scalar(3.0))), rel=1e-15)
    u = (sde.sigma(t) / sde.alpha(t)).log()
    assert near(sde.time_of_log_noise(u), t, 1e-13)
    chain = sde.discretize(3000)
    assert isinstance(chain, EulerChain) and float(chain.time(torch.tensor(2999))) == 3.0
    alpha, sigma = composed(chain)
    assert float(alpha[-1]) == pytest.approx(math.exp(-2.1), rel=1e-3)
    assert float(sigma[-1]) == pytest.approx(sde.prior_std(), rel=1e-3)
    with pytest.raises(ValueError, match=r"give times in \[0, 3\]"):
        sde.alpha(scalar(3.1))


@pytest.mark.parametrize("method", ["alpha", "sigma", "drift_coefficient", "diffusion"])
def test_a_subclass_without_one_of_them_cannot_be_constructed(method):
    body = {m: lambda self, t: t for m in ("alpha", "sigma", "drift_coefficient", "diffusion") if m != method}
    with pytest.raises(TypeError, match=method):
        type("Part", (ScalarSDE,), body)()
    assert issubclass(LinearSDE, SDE)


def test_scalar_kernel():
    kernel = ScalarKernel(scalar([0.5, 2.0]), scalar([3.0, 0.1]))
    x = normal((2, 3))
    a, std = scalar([[0.5], [2.0]]), scalar([[3.0], [0.1]])
    assert torch.equal(kernel.mean(x), a * x) and near(kernel.solve(kernel.mean(x)), x, 1e-15)
    assert torch.equal(kernel.scale(x), std * x) and torch.equal(kernel.covariance(x), std**2 * x)
    assert torch.equal(kernel.contraction(), scalar([0.25, 4.0]))
    assert kernel.to(x.float()).a.dtype == F32 and float(kernel[1].std) == 0.1
