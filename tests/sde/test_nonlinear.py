"""User-defined processes compared with closed forms.

A linear process written as f and g must agree with that process. Processes with a diffusion that depends on x are
geometric Brownian motion, which is log-normal at every time, and stationary processes of a known distribution (Student,
gamma), whose probability flow is 0. For dx = -x^3 dt + dw the Fokker-Planck equation is solved on a grid. Statistical
tests state their false-alarm rate, and detect a planted error.
"""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.likelihood import Exact, log_likelihood
from scoresde.noise import NoiseSource
from scoresde.samplers import ProbabilityFlowODE, ReverseSDESampler
from scoresde.sde import VPSDE, NonlinearSDE
from scoresde.solvers import ScipyODE, SolverError, TorchSDE
from tests.params import some_long
from tests.sde.nonlinear import CUBIC, EVENTS, F32, F64, geometric, normal, per_event

VP = VPSDE(0.1, 8.0)


def as_functions(g=1.0, f=1.0, **given):
    """VP as f and g, multiplied by factors."""
    return NonlinearSDE(lambda x, t: f * VP.drift(x, t), lambda t: g * VP.diffusion(t), **given)


# --- a linear process written as f and g -------------------------------------------------------------------------

WAYS = {
    "g(t)": as_functions(),
    "g(x, t)": NonlinearSDE(VP.drift, lambda x, t: VP.diffusion(t)),
    "g(x, t) for each coordinate": NonlinearSDE(VP.drift, lambda x, t: per_event(VP.diffusion(t), x) + 0 * x),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("way", WAYS)
def test_coefficients_are_those_of_the_linear_process(way, event):
    sde, x, v = WAYS[way], normal((5, *event)), normal((5, *event), "v")
    for t in (torch.linspace(0.0, 1.0, 5, dtype=F64), torch.tensor(0.3, dtype=F64)):
        pairs = [
            (sde.drift(x, t), VP.drift(x, t)),
            (sde.apply_diffusion(v, t, x), VP.apply_diffusion(v, t)),
            (sde.apply_diffusion_matrix(v, t, x), VP.apply_diffusion_matrix(v, t)),
            (sde.reverse_drift(x, t, v), VP.reverse_drift(x, t, v)),
            (sde.flow_drift(x, t, v), VP.flow_drift(x, t, v)),
        ]
        if sde.additive:
            pairs += [(sde.diffusion(t), VP.diffusion(t)), (sde.apply_diffusion(v, t), VP.apply_diffusion(v, t))]
        for found, wanted in pairs:
            assert found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-13)


@pytest.mark.parametrize("depends", ["t", "x, t"])
def test_a_number_for_each_coordinate(depends):
    """diag(1, 2, 3) t, or the same times cos x."""
    scale, x, v = torch.tensor([1.0, 2.0, 3.0], dtype=F64), normal((4, 3)), normal((4, 3), "v")
    if depends == "t":
        sde = NonlinearSDE(VP.drift, lambda t: t[:, None] * scale)
    else:
        sde = NonlinearSDE(VP.drift, lambda x, t: t[:, None] * scale * x.cos())
    for t in (torch.tensor(0.3, dtype=F64), torch.linspace(0.1, 0.9, 4, dtype=F64)):
        g = t.expand(4)[:, None] * scale * (1.0 if depends == "t" else x.cos())
        assert torch.allclose(sde.apply_diffusion(v, t, x), g * v) and torch.allclose(
            sde.apply_diffusion_matrix(v, t, x), g**2 * v
        )
        d = torch.zeros_like(x) if depends == "t" else -2 * g**2 * x.tan()
        assert torch.allclose(sde.diffusion_divergence(x, t), d, rtol=1e-12)
        assert torch.allclose(sde.flow_drift(x, t, v), VP.drift(x, t) - 0.5 * (d + g**2 * v), rtol=1e-12)
        if depends == "t":
            assert sde.diffusion(t).shape == (*t.shape, 3)


def euler_moments(t, steps):
    """Exact coefficient and standard deviation of x_t given x_0 after ``steps`` equal Euler steps of VP."""
    h = t / steps
    a, v = torch.ones_like(t), torch.zeros_like(t)
    for k in range(steps):
        c = 1 - 0.5 * VP.beta(k * h) * h
        a, v = c * a, c**2 * v + VP.beta(k * h) * h
    return a, v.sqrt()


def z_scores(sde, steps=50, n=20000):
    """Mean, variance and covariance with x_0 of the standardized x_t in standard errors, with one time for each sample."""
    t = NoiseSource.of(3, n).uniform((), step=0, purpose="t", dtype=F64)
    x0 = normal((n, 1))
    a, std = euler_moments(t, steps)
    u = (sde.simulate(x0, t, seed=1, steps=steps) - a[:, None] * x0) / std[:, None]
    return [
        float(u.mean()) * n**0.5,
        float((u**2).mean() - 1) * (n / 2) ** 0.5,
        float((u * x0).mean()) * n**0.5,
    ]


@pytest.mark.parametrize("way", WAYS)
def test_simulated_moments(way):
    """Three statistics, each within 5 standard errors: 1 false alarm in 1.7e6 for each."""
    assert max(map(abs, z_scores(WAYS[way]))) < 5


@pytest.mark.parametrize("planted", [{"g": 1.05}, {"f": 0.8}, {"g": math.sqrt(0.5)}], ids=repr)
def test_simulated_moments_see_an_error(planted):
    assert max(map(abs, z_scores(as_functions(**planted)))) > 5


def test_simulated_moments_approach_the_kernel():
    """Within 1 % for 200 steps, and proportional to the step size. No random numbers."""
    t = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=F64)
    errors = []
    for steps in (200, 400):
        a, std = euler_moments(t, steps)
        errors.append(torch.stack([a / VP.alpha(t) - 1, std / VP.sigma(t) - 1]).abs())
    assert float(errors[0][1].max()) < 0.02 and float(errors[0][0].max()) < 0.05
    assert torch.allclose(errors[0] / errors[1], torch.full_like(errors[0], 2.0), rtol=0.1)


@pytest.mark.parametrize("method", ["euler", "milstein", "srk", "heun"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_path_does_not_depend_on_the_batch(dtype, method):
    """Alone, in a batch, or in another order: equal up to rounding."""
    sde = NonlinearSDE(CUBIC.f, CUBIC.g, steps=20, solver=TorchSDE(method))
    x0, t, order = (
        normal((7, 2), dtype=dtype),
        torch.linspace(0, 1, 7, dtype=dtype),
        torch.tensor([6, 2, 0, 5, 1, 3, 4]),
    )
    whole = sde.simulate(x0, t, noise=NoiseSource(4, torch.arange(100, 107)))
    assert whole.shape == x0.shape and whole.dtype == dtype
    assert torch.equal(whole[0], x0[0])  # t = 0
    tolerance = 50 * torch.finfo(dtype).eps
    for rows in (torch.tensor([5]), torch.tensor([2, 3, 4]), order):
        part = sde.simulate(x0[rows], t[rows], noise=NoiseSource(4, rows + 100))
        assert torch.allclose(part, whole[rows], rtol=tolerance, atol=tolerance)
    assert torch.equal(sde.marginal_sample(x0, t, NoiseSource(4, torch.arange(100, 107))), whole)
    assert torch.equal(sde.simulate(x0, torch.tensor(0.0, dtype=dtype)), x0)


def test_step_numbers_give_independent_draws():
    """Each step number and seed has independent paths, also of a reverse solve: correlations within 5 standard errors."""
    n, brownian = 4000, NonlinearSDE(lambda x, t: 0 * x, lambda t: torch.ones_like(t), steps=10)
    zero, t = torch.zeros(n, 1, dtype=F64), torch.tensor(1.0, dtype=F64)

    def back():
        def one(x, t):
            return torch.ones_like(x)

        return TorchSDE().solve(lambda x, t: 0 * x, one, zero, 1.0, 0.0, 0.1, NoiseSource.of(0, n))

    paths = [brownian.simulate(zero, t), brownian.simulate(zero, t, step=1), brownian.simulate(zero, t, seed=1), back()]
    correlation = torch.corrcoef(torch.cat(paths, 1).T) - torch.eye(4, dtype=F64)
    assert float(correlation.abs().max()) < 5 / n**0.5
    assert torch.equal(paths[0], brownian.simulate(zero, t, step=0))
    assert torch.equal(paths[1], brownian.marginal_sample(zero, t, NoiseSource.of(0, n), step=1))


def test_no_global_state_is_read_or_changed():
    before = torch.get_rng_state()
    a = CUBIC.simulate(torch.zeros(3, 2), torch.tensor(1.0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(CUBIC.simulate(torch.zeros(3, 2), torch.tensor(1.0)), a)


@pytest.mark.long
def test_an_adaptive_solver_meets_the_same_distribution():
    """Brownian motion to t: a standard deviation of sqrt t within 5 standard errors, 1 false alarm in 1.7e6."""
    sde = NonlinearSDE(
        lambda x, t: -x, lambda t: torch.ones_like(t), steps=10, solver=TorchSDE("milstein", adaptive=True)
    )
    x = sde.simulate(torch.zeros(300, 1, dtype=F64), torch.tensor(0.5, dtype=F64))
    variance = (1 - math.exp(-1.0)) / 2
    assert abs(float((x**2).mean()) / variance - 1) < 5 * (2 / 300) ** 0.5


# --- the divergence of g g^T, and stationary distributions -------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
def test_a_student_distribution_is_stationary(event):
    """g^2 = a + b |x|^2, one number for each sample, f = -c x: stationary in (a + b |x|^2)^-(c / b + 1), so the flow is 0."""
    a, b, c = 1.3, 0.4, 0.9

    def square(x):
        return a + b * (x**2).reshape(len(x), -1).sum(1)

    sde = NonlinearSDE(lambda x, t: -c * x, lambda x, t: square(x).sqrt())
    x, t = normal((5, *event)), torch.full((5,), 0.5, dtype=F64)
    rest = -2 * (c + b) * x / per_event(square(x), x)
    assert torch.allclose(sde.flow_drift(x, t, rest), torch.zeros_like(x), atol=1e-14)
    assert torch.allclose(sde.reverse_drift(x, t, rest), c * x, rtol=1e-12)


@pytest.mark.parametrize("event", EVENTS)
def test_a_gamma_distribution_is_stationary(event):
    """g_i^2 = s^2 x_i, f = k (m - x): stationary in a gamma distribution of shape 2 k m / s^2 and rate 2 k / s^2 (Cox,
    Ingersoll, Ross)."""
    k, m, s = 0.7, 1.5, 0.6
    sde = NonlinearSDE(lambda x, t: k * (m - x), lambda x, t: s * x.sqrt())
    x, t = 0.5 + normal((5, *event)) ** 2, torch.tensor(0.2, dtype=F64)
    rest = (2 * k * m / s**2 - 1) / x - 2 * k / s**2
    assert torch.allclose(sde.flow_drift(x, t, rest), torch.zeros_like(x), atol=1e-13)


def test_the_divergence_with_coupled_coordinates():
    """D_i = d(g_i^2) / dx_i only. The gradient of the sum of g^2 would include other coordinates."""
    x, t = normal((5, 3)), torch.full((5,), 0.5, dtype=F64)

    def g(x, t):
        return (1 + x**2 * x.roll(1, 1) ** 2 + t[:, None]).sqrt()

    sde = NonlinearSDE(lambda x, t: -x, g)
    wanted = 2 * x * x.roll(1, 1) ** 2
    assert torch.allclose(sde.diffusion_divergence(x, t), wanted, rtol=1e-12)
    at = x.clone().requires_grad_(True)
    (planted,) = torch.autograd.grad((g(at, t) ** 2).sum(), at)
    assert not torch.allclose(planted, wanted, rtol=0.1)


@pytest.mark.parametrize("kind", ["sample", "coordinate"])
def test_the_divergence_is_differentiable(kind):
    """In x and in parameters of g, by central differences. Without gradients enabled there is no graph."""
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def g(x, t):
        return (weight * x).sin().mean(1) + 2 if kind == "sample" else (weight * x).sin() + x.roll(1, 1) ** 2

    sde, x, t = NonlinearSDE(lambda x, t: -x, g), normal((4, 3)), torch.full((4,), 0.5, dtype=F64)
    at = x.clone().requires_grad_(True)
    slopes = torch.autograd.grad(sde.diffusion_divergence(at, t).sum(), (at, weight))
    h, v = 1e-5, normal((4, 3), "v")
    with torch.no_grad():
        ends = [sde.diffusion_divergence(x + k * h * v, t).sum() for k in (1, -1)]
        assert not ends[0].requires_grad
        assert float((slopes[0] * v).sum()) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6)
        here = float(weight)
        ends = []
        for k in (1, -1):
            weight.fill_(here + k * h)
            ends.append(sde.diffusion_divergence(x, t).sum())
    assert float(slopes[1]) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=1e-6)


# --- samplers and likelihood -------------------------------------------------------------------------------------

MIXTURE = GaussianMixture(torch.tensor([[0.7, 0.7], [-0.7, -0.7]]), torch.tensor([0.2, 0.3]), torch.tensor([0.3, 0.7]))


@pytest.mark.parametrize("way", some_long(WAYS, ["g(t)", "g(x, t) for each coordinate"]))
def test_samplers_and_likelihood_agree_with_the_linear_process(way):
    exact, sde = MIXTURE.score(VP), WAYS[way]

    def bare(x, t):  # the exact score has VP as its process
        return exact(x, t)

    sampler = ReverseSDESampler(steps=30, denoise=False)
    found, wanted = (sampler(s, bare, (5, 2), seed=4, dtype=F64).samples for s in (sde, VP))
    assert torch.allclose(found, wanted, rtol=1e-9)
    flow = ProbabilityFlowODE(ScipyODE(rtol=1e-6, atol=1e-6), denoise=False)
    found, wanted = (flow(s, bare, (5, 2), seed=4, dtype=F64).samples for s in (sde, VP))
    assert torch.allclose(found, wanted, rtol=1e-6)
    solver = ScipyODE(rtol=1e-7, atol=1e-7)
    found, wanted = (log_likelihood(s, bare, wanted, solver=solver, divergence=Exact()).log_prob for s in (sde, VP))
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_score_of_another_process_is_refused():
    with pytest.raises(ValueError, match="was made for"):
        ReverseSDESampler(steps=3, denoise=False)(WAYS["g(t)"], MIXTURE.score(VP), (2, 2))


@pytest.mark.parametrize("sampler", [ReverseSDESampler(steps=3), ProbabilityFlowODE(ScipyODE(rtol=0.1))])
def test_there_is_no_tweedie_formula(sampler):
    with pytest.raises(TypeError, match="denoise=False"):
        sampler(WAYS["g(t)"], lambda x, t: -x, (2, 2))


def test_the_prior_is_a_normal_or_an_object():
    x = normal((4, 2))
    wide, mixed = NonlinearSDE(VP.drift, VP.diffusion, prior=3.0), NonlinearSDE(VP.drift, VP.diffusion, prior=MIXTURE)
    draws = wide.prior_sample((4, 2), seed=5, dtype=F64)
    assert torch.allclose(draws, 3.0 * NonlinearSDE(VP.drift, VP.diffusion).prior_sample((4, 2), seed=5, dtype=F64))
    gaussian = torch.distributions.Normal(torch.zeros((), dtype=F64), 3.0)
    assert torch.allclose(wide.prior_log_prob(x), gaussian.log_prob(x).sum(1), rtol=1e-12)
    assert torch.allclose(mixed.prior_log_prob(x), MIXTURE.log_prob(x))
    whole = mixed.prior_sample((9, 2), seed=5)
    assert torch.equal(whole, MIXTURE.sample(9, seed=5))
    rows = torch.tensor([7, 8, 2, 3, 4, 0])
    assert torch.allclose(mixed.prior_sample((6, 2), noise=NoiseSource(5, rows)), whole[rows])


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"T": 0.0}, ValueError, "T=0.0"),
        ({"T": math.inf}, ValueError, "T=inf"),
        ({"steps": 0}, ValueError, "steps=0"),
        ({"prior": -1.0}, ValueError, "prior=-1.0"),
        ({"prior": "normal"}, TypeError, "prior='normal'.*sample and log_prob"),
        ({"g": lambda x, t, z: t}, TypeError, "takes 3 arguments"),
        ({"g": lambda *given: given[0]}, TypeError, "any number"),
        ({"g": torch.ones_like}, TypeError, "wrap it"),
        ({"g": lambda x, t: x, "solver": TorchSDE("heun")}, ValueError, "Stratonovich"),
    ],
)
def test_bad_arguments_are_named(given, error, words):
    with pytest.raises(error, match=words):
        NonlinearSDE(**{"f": VP.drift, "g": VP.diffusion, **given})


def test_g_may_be_a_module_or_have_defaults():
    class Learned(torch.nn.Module):
        def forward(self, x, t):
            return x

    assert not NonlinearSDE(VP.drift, Learned()).additive
    assert NonlinearSDE(VP.drift, lambda t, scale=2.0: scale * t).additive


def test_wrong_shapes_are_named():
    x, t = normal((4, 2)), torch.full((4,), 0.5, dtype=F64)
    with pytest.raises(ValueError, match=r"f returned shape \(4,\)"):
        NonlinearSDE(lambda x, t: t, VP.diffusion).drift(x, t)
    with pytest.raises(ValueError, match=r"g returned shape \(2,\)"):
        NonlinearSDE(VP.drift, lambda t: t[:2]).apply_diffusion(x, t)
    with pytest.raises(ValueError, match=r"divergence returned shape \(4,\)"):
        NonlinearSDE(VP.drift, lambda x, t: x, divergence=lambda x, t: t).diffusion_divergence(x, t)
    with pytest.raises(ValueError, match=r"gave samples of shape \(4, 2\)"):
        NonlinearSDE(VP.drift, VP.diffusion, prior=MIXTURE).prior_sample((4, 3))
    for sde in (CUBIC, WAYS["g(x, t)"]):
        with pytest.raises(ValueError, match="give shape"):
            sde.simulate(x, t[:3])


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
def test_times_out_of_range_are_refused(bad):
    x, t = normal((2, 1)), torch.tensor([0.5, bad], dtype=F64)
    for call in (CUBIC.drift, CUBIC.simulate, CUBIC.apply_diffusion, geometric().diffusion_divergence):
        with pytest.raises(ValueError, match="give times in"):
            call(x, t)


def test_a_diffusion_of_x_needs_x():
    sde, x, t = geometric(), normal((2, 1)), torch.tensor([0.5, 0.6], dtype=F64)
    with pytest.raises(TypeError, match="depends on x"):
        sde.diffusion(t)
    for call in (sde.apply_diffusion, sde.apply_diffusion_matrix):
        with pytest.raises(ValueError, match="give the state"):
            call(x, t)


def test_a_path_that_diverges_is_named():
    x0 = torch.tensor([[0.1], [500.0]])
    with pytest.raises(SolverError, match=r"failed with 50 steps.*positions \[1\]"):
        CUBIC.simulate(x0, torch.tensor(1.0))


def test_the_global_dtype_does_not_matter():
    def everything():
        found = []
        for dtype in (F32, F64):
            x, t = normal((3, 2), dtype=dtype).abs() + 0.5, torch.full((3,), 0.5, dtype=dtype)
            sde = geometric((2,), steps=5)
            found += [
                sde.simulate(x, t),
                sde.flow_drift(x, t, -x),
                sde.prior_sample((3, 2), dtype=dtype),
                CUBIC.simulate(x, t),
            ]
            found += [CUBIC.prior_sample((3, 2), dtype=dtype), CUBIC.prior_log_prob(x)]
        return found

    found = everything()
    torch.set_default_dtype(F64)
    try:
        again = everything()
    finally:
        torch.set_default_dtype(F32)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, again, strict=True))
