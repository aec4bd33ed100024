"""`MatrixSDE`: processes written as matrices agree with their closed forms; those without one pass the self-check."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.likelihood import Exact, log_likelihood
from scoresde.noise import NoiseSource
from scoresde.samplers import PredictorCorrector
from scoresde.samplers.predictor_corrector import SymmetricSplitting
from scoresde.sde.checks import check
from scoresde.sde.linalg.basis import dct, fourier
from scoresde.sde.linalg.maps import BlockMap, ScalarMap
from scoresde.sde.processes.langevin import CriticallyDampedLangevin
from scoresde.sde.processes.matrix import MatrixSDE
from scoresde.sde.processes.subvp import SubVPSDE
from scoresde.sde.processes.ve import VESDE
from scoresde.sde.processes.vp import VPSDE
from scoresde.solvers import ScipyODE

TIMES = torch.cat((torch.tensor([1e-8, 1e-5, 1e-3]), torch.linspace(0, 1, 161)[1:])).double()
PAIRS = torch.rand(2, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(0)[0]


def as_block(sde):
    """A process with scalar coefficients, written as 1 x 1 blocks."""
    return MatrixSDE(
        lambda t: sde.drift_coefficient(t)[..., None, None],
        lambda t: sde.diffusion(t)[..., None, None],
        prior_covariance=torch.eye(1) * sde.prior_std() ** 2,
    )


def cld(data_component=0):
    """Critically damped Langevin diffusion, with position and velocity in either order."""
    own, zero = CriticallyDampedLangevin(), torch.zeros((), dtype=torch.float64)
    order = [0, 1] if data_component == 0 else [1, 0]
    f, g = (m(zero).m[order][:, order] for m in (own.drift_map, own.diffusion_map))
    prior = torch.tensor([1.0, own.mass])[order].diag()
    std = math.sqrt(own.gamma * own.mass)
    return MatrixSDE(f, g, aux_std=std, data_component=data_component, prior_covariance=prior)


THIRD_F = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.0, -2.0, -3.0]], dtype=torch.float64)
THIRD_G = torch.diag(torch.tensor([0.0, 0.0, math.sqrt(6.0)], dtype=torch.float64))


def beta(t):
    return (2.0 + 10.0 * t + torch.sin(6.0 * t))[..., None, None]


def third_order(**options):
    """The data receives noise through two auxiliary components. Stationary distribution N(0, I), rate beta(t)."""
    options = {"aux_std": (0.3, 0.5), "prior_covariance": torch.eye(3)} | options
    return MatrixSDE(lambda t: beta(t) * THIRD_F, lambda t: beta(t).sqrt() * THIRD_G, **options)


def turning(t):
    """The drift matrices at different times do not commute."""
    c, s = torch.cos(3.0 * t), torch.sin(3.0 * t)
    return torch.stack((torch.stack((-3.0 - c, s + 1.5), -1), torch.stack((s - 1.5, -3.0 + c), -1)), -2)


def non_commuting():
    return MatrixSDE(turning, lambda t: 0.4 * turning(t) + torch.eye(2), aux_std=0.7)


def mode_blocks(rates, mass=0.25):
    """Critically damped Langevin diffusion with a rate for each mode: F (*modes, 2, 2) and G."""
    zero, friction = torch.zeros_like(rates), 2.0 * mass**0.5

    def block(xx, xv, vx, vv):
        return torch.stack((torch.stack((xx, xv), -1), torch.stack((vx, vv), -1)), -2)

    f = block(zero, rates / mass, -rates, -rates * friction / mass)
    return f, block(zero, zero, zero, (2.0 * friction * rates).sqrt())


def langevin_in_modes(basis, rates, **options):
    f, g = mode_blocks(rates)
    options = {"aux_std": 0.1, "prior_covariance": torch.tensor([1.0, 0.25]).diag()} | options
    return MatrixSDE(f, g, basis=basis, **options)


def slow_and_fast(event_shape):
    """A basis, and a rate that increases with the frequency."""
    basis = fourier(event_shape)
    return basis, 3.0 + basis.frequencies().square().sum(0)


def push(t):
    return torch.stack((torch.sin(3.0 * t), 1.0 + t), -1)


PROCESSES = [
    (as_block(VPSDE()), (2,)),
    (cld(), (2,)),
    (cld(data_component=1), (2,)),
    (third_order(), (2,)),
    (non_commuting(), (2,)),
    (MatrixSDE(turning, torch.eye(2), shift=push), (1,)),
    (langevin_in_modes(*slow_and_fast((3,))), (3,)),
    (langevin_in_modes(*slow_and_fast((2,)), shift=push), (2,)),
]


CHECKED = [pytest.param(*one, marks=pytest.mark.long) if i != 7 else one for i, one in enumerate(PROCESSES)]
"""By default blocks for each mode with a shift. Blocks that vary and do not commute take 5 s."""


@pytest.mark.parametrize(("sde", "event_shape"), CHECKED, ids=lambda v: repr(v))
def test_it_passes_the_self_check(sde, event_shape):
    report = check(sde, event_shape)
    assert report.passed, f"\n{report}"


def test_each_mode_is_an_independent_process():
    basis, rates = slow_and_fast((2, 3))
    whole, s, t = langevin_in_modes(basis, rates), *torch.tensor([0.2, 0.7], dtype=torch.float64)
    for place in ((0, 0), (1, 2)):
        f, g = mode_blocks(rates[place])
        one = MatrixSDE(f, g, aux_std=0.1)
        for found, wanted in ((whole.kernel(t), one.kernel(t)), (whole.transition(s, t), one.transition(s, t))):
            assert torch.allclose(found.a.m[place], wanted.a.m, rtol=1e-9, atol=1e-12)
            assert torch.allclose(found.noise.m[place], wanted.noise.m, rtol=1e-7, atol=1e-12)


def test_modes_with_equal_coefficients_equal_a_process_without_basis():
    f, g = mode_blocks(torch.tensor(4.0, dtype=torch.float64))
    prior, x = torch.eye(2), torch.linspace(-1.0, 1.0, 24, dtype=torch.float64).reshape(2, 2, 3, 2)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    plain = MatrixSDE(f, g, prior_covariance=prior)
    modes = MatrixSDE(f, g.expand(1, 2, 2, 2), prior_covariance=prior, basis=dct((3, 2)))
    assert torch.allclose(modes.drift(x, t), plain.drift(x, t), atol=1e-12)
    for name in ("mean", "solve", "scale", "covariance", "whiten", "whiten_transposed", "scale_transposed"):
        found, wanted = (getattr(sde.kernel(t), name)(x) for sde in (modes, plain))
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9), name
    for name in ("signal", "level", "contraction"):
        assert torch.allclose(getattr(modes.kernel(t), name)(), getattr(plain.kernel(t), name)(), rtol=1e-9), name
    assert torch.allclose(modes.prior_log_prob(x), plain.prior_log_prob(x), rtol=1e-9)


def test_the_algebra_of_blocks_for_every_mode():
    """Compared with dense matrices."""
    basis, draw = dct((2, 3)), torch.Generator().manual_seed(0)
    one, two = (BlockMap(torch.randn(2, 3, 2, 2, generator=draw, dtype=torch.float64), basis) for _ in range(2))
    shape, three = (2, 2, 3), torch.tensor(3.0, dtype=torch.float64)
    a, b = one.dense(shape), two.dense(shape)
    gram = one.compose(one.transpose())
    for found, wanted in (
        (one.compose(two), a @ b),
        (one.add(two), a + b),
        (one.add(ScalarMap(three)), a + 3.0 * torch.eye(12)),
        (one.times(three), 3.0 * a),
        (one.transpose(), a.mT),
        (one.inverse(), torch.linalg.inv(a)),
        (gram.root().compose(gram.root().transpose()), a @ a.mT),
    ):
        assert torch.allclose(found.dense(shape), wanted, atol=1e-9)
    assert float(one.log_det()) == pytest.approx(float(torch.linalg.slogdet(a)[1]) / 12)
    assert float(one.mean_square()) == pytest.approx(float(a.square().sum()) / 12)


@pytest.mark.long
def test_samples_of_a_process_with_blocks_for_every_mode():
    """The probability flow with the exact score returns the mean and covariance of Gaussian data."""
    basis, rates = slow_and_fast((3,))
    sde = langevin_in_modes(basis, rates)
    means = torch.tensor([[0.6, -0.4, 0.2]], dtype=torch.float64)
    data = GaussianMixture(means, stds=torch.tensor([[0.5, 0.3, 0.8]]))
    sampler = PredictorCorrector(SymmetricSplitting(), steps=100)
    found = sampler(sde, data.score(sde), (1500, 3), seed=1, dtype=torch.float64).samples
    # 5 standard errors of 1500 samples, and the bias of the steps
    assert torch.allclose(found.mean(0), means[0], atol=5 * 0.8 / 1500**0.5 + 0.02)
    assert torch.allclose(found.std(0), torch.tensor([0.5, 0.3, 0.8]).double(), rtol=5 / 3000**0.5 + 0.03)


@pytest.mark.parametrize("sde", [VPSDE(), VPSDE(0.5, 8.0), SubVPSDE()], ids=repr)
def test_a_process_with_scalar_coefficients_as_one_by_one_blocks(sde):
    block = as_block(sde)
    for found, wanted in (
        (block.kernel(TIMES), sde.kernel(TIMES)),
        (block.transition(*PAIRS), sde.transition(*PAIRS)),
    ):
        assert torch.allclose(found.a.m[:, 0, 0], wanted.a, rtol=1e-8, atol=0)
        assert torch.allclose(found.noise.m[:, 0, 0], wanted.std, rtol=1e-8, atol=1e-12)


def test_a_rate_that_grows_by_orders_of_magnitude():
    """The kernel of VE has noise sigma_min at t = 0, that of a MatrixSDE has none, so transitions are compared."""
    sde = VESDE(0.01, 50.0)
    found, wanted = as_block(sde).transition(*PAIRS), sde.transition(*PAIRS)
    assert torch.allclose(found.noise.m[:, 0, 0], wanted.std, rtol=1e-8, atol=0)


def test_langevin_diffusion_as_two_by_two_blocks():
    own, block = CriticallyDampedLangevin(), cld()
    for found, wanted in (
        (block.kernel(TIMES), own.kernel(TIMES)),
        (block.transition(*PAIRS), own.transition(*PAIRS)),
    ):
        assert torch.allclose(found.a.m, wanted.a.m, rtol=1e-7, atol=1e-10)
        assert torch.allclose(found.noise.m, wanted.noise.m, rtol=1e-7, atol=1e-10)
    assert torch.allclose(block.log_noise_slope(TIMES), own.log_noise_slope(TIMES), rtol=1e-7)


def test_the_order_of_components_does_not_matter():
    first, second = cld().kernel(TIMES), cld(data_component=1).kernel(TIMES)
    assert torch.allclose(first.a.m, second.a.m.flip(-1, -2), atol=1e-12)
    covariance = [k.noise.m @ k.noise.m.mT for k in (first, second)]
    assert torch.allclose(covariance[0], covariance[1].flip(-1, -2), atol=1e-12)


def test_the_kernel_integrates_the_moments():
    """Compared with DOP853 of SciPy, which does not use the cells."""
    sde = non_commuting()

    def slope(t, y):
        f, g = sde._f(torch.tensor(t).double()), sde._g(torch.tensor(t).double())
        return torch.cat((f @ y[:2], f @ y[2:] + y[2:] @ f.mT + g @ g.mT))

    start = torch.cat((torch.eye(2), torch.diag(torch.tensor([0.0, 0.49])))).double()
    for t in (0.03, 0.4, 1.0):
        y = ScipyODE("DOP853", 1e-12, 1e-13).solve(slope, start, 0.0, t).y
        kernel = sde.kernel(torch.tensor(t, dtype=torch.float64))
        assert torch.allclose(kernel.a.m, y[:2], atol=1e-10)
        assert torch.allclose(kernel.noise.m @ kernel.noise.m.mT, y[2:], atol=1e-10)


def test_a_short_step_keeps_its_relative_accuracy():
    """x receives noise through two others, Phi_xz = u^2: Var x = int_0^h 6 u^4 du, down to 1e-35, with other entries of 1e-6."""
    sde = MatrixSDE(THIRD_F, THIRD_G)
    s = torch.tensor(0.37, dtype=torch.float64)
    for h in (1e-3, 1e-5, 1e-7):
        std = sde.transition(s, s + h).noise.m[0, 0]
        exact_h = float((s + h) - s)
        assert float(std) == pytest.approx(math.sqrt(6.0 * exact_h**5 / 5.0), rel=10 * h)


def test_decay_at_rates_far_apart():
    """The inverse of Phi would have an entry e^400."""
    rates = torch.tensor([0.5, 400.0], dtype=torch.float64)
    sde = MatrixSDE(-rates.diag(), (2 * rates).sqrt().diag())
    kernel = sde.transition(*torch.tensor([0.1, 0.95], dtype=torch.float64))
    wanted = (-torch.expm1(-2 * rates * 0.85)).sqrt()
    assert torch.allclose(kernel.noise.m.diagonal(), wanted, rtol=1e-7)
    assert float(kernel.a.m[0, 0]) == pytest.approx(math.exp(-0.5 * 0.85), rel=1e-9)


def test_a_jump_at_half_time():
    def rate(t):
        return torch.where(t < 0.5, 1.0, 9.0)[..., None, None].double()

    sde = MatrixSDE(lambda t: -0.5 * rate(t), lambda t: rate(t).sqrt())
    times = torch.tensor([0.2, 0.5, 0.50001, 0.9], dtype=torch.float64)
    integral = times.clamp(max=0.5) + 9.0 * (times - 0.5).clamp(min=0.0)
    assert torch.allclose(sde.kernel(times).a.m[:, 0, 0], torch.exp(-0.5 * integral), rtol=1e-9)
    step = sde.transition(times[0], times[3])
    assert float(step.noise.m) == pytest.approx(math.sqrt(-math.expm1(-(integral[3] - integral[0]))), rel=1e-9)


def test_edges_of_time():
    sde, zero = third_order(), torch.zeros((), dtype=torch.float64)
    at_zero = sde.kernel(zero)
    assert torch.equal(at_zero.a.m, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(at_zero.noise.m, torch.diag(torch.tensor([0.0, 0.3, 0.5])).double())
    edges = sde._edges
    still = sde.transition(edges, edges)
    assert torch.allclose(still.a.m, torch.eye(3, dtype=torch.float64).expand_as(still.a.m))
    assert float(still.noise.m.abs().max()) == 0.0
    assert sde.kernel(edges.float()).a.m.dtype == torch.float32
    assert torch.isfinite(sde.log_noise_slope(edges[1:])).all()


def test_embedding_and_extraction_of_data():
    sde, x0 = third_order(data_component=1), torch.randn(5, 2, 3)
    state, log_q = sde.sample_auxiliary(x0, NoiseSource.of(0, 5))
    assert state.shape == (5, 3, 2, 3)
    assert torch.equal(sde.extract_data(state), x0)
    assert torch.equal(sde.extract_data(sde.embed_data(x0)), x0)
    others = state[:, [0, 2]] / torch.tensor([0.3, 0.5])[:, None, None]
    wanted = -0.5 * (others**2).flatten(1).sum(1) - 6 * math.log(2 * math.pi) - 6 * math.log(0.15)
    assert torch.allclose(log_q, wanted.double(), atol=1e-4)
    assert as_block(VPSDE()).sample_auxiliary(x0, NoiseSource.of(0, 5))[1].tolist() == [0.0] * 5


def test_likelihood_of_gaussian_data():
    """log p(state) - log q(auxiliaries) equals log p(x_0) if the score is exact and the data is Gaussian."""
    sde, data = third_order(T=2.0), GaussianMixture(torch.tensor([[0.3, -0.2]]), stds=0.6)
    x = data.sample(2, seed=1, dtype=torch.float64)
    found = log_likelihood(sde, data.score(sde), x, solver=ScipyODE("DOP853", 1e-6, 1e-6), divergence=Exact())
    assert torch.allclose(found.log_prob, data.log_prob(x), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"drift": torch.eye(2).reshape(4)}, "drift gives shape"),
        ({"drift": lambda t: torch.eye(2).double()}, r"drift gives shape \(2, 2\) for times of shape \(2,\)"),
        ({"diffusion": torch.eye(3)}, "diffusion is 3 square"),
        ({"drift": lambda t: torch.zeros(*t.shape, 2, 2)}, "float32"),
        ({"drift": lambda t: torch.eye(2).double() / t[..., None, None]}, "finite"),
        ({"aux_std": 0.0}, "aux_std=0.0"),
        ({"aux_std": (1.0, 1.0)}, "aux_std has 2 values"),
        ({"data_component": 2}, "data_component=2"),
        ({"prior_covariance": torch.eye(3)}, "prior_covariance has shape"),
        ({"prior_covariance": -torch.eye(2)}, "not positive definite"),
        ({"T": 0.0}, "T=0.0"),
        ({"shift": torch.ones(3)}, r"shift gives shape \(3,\) .* give \(\*t, 2\)"),
        ({"shift": torch.ones(3, 2)}, r"shift gives shape \(3, 2\)"),
        ({"drift": -torch.eye(2).expand(4, 2, 2), "basis": dct((3,))}, r"give \(\*t, k, k\) or \(\*t, 3, k, k\)"),
        (
            {"prior_covariance": torch.eye(2).expand(2, 2, 2), "basis": dct((3,))},
            r"a symmetric \(2, 2\) or \(3, 2, 2\)",
        ),
        ({"drift": lambda t: torch.where(t < 0.3, 0.0, -9.0)[..., None, None] * torch.eye(2).double()}, "not smooth"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        MatrixSDE(**({"drift": -torch.eye(2), "diffusion": torch.eye(2)} | arguments))


def test_coefficients_that_are_no_functions_are_refused():
    with pytest.raises(TypeError, match=r"drift=-0\.5 is not allowed"):
        MatrixSDE(-0.5, torch.eye(1))
