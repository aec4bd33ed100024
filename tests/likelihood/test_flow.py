"""log-likelihood by the probability flow against closed forms; trace estimators; bits/dim; refusals."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import GaussianMixture, Quantized, bits_per_dim, log_likelihood
from scoresde.data import Affine
from scoresde.likelihood import Exact, Hutchinson, Multistep, bits_per_dim_error, known_biases
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, MatrixSDE, SubVPSDE
from scoresde.solvers import RungeKutta, ScipyODE, SolverError
from tests.params import some_long

# VE with sigma_max a hundred times the data: the prior then differs from p_T by less than the tolerance
SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 100.0)}


def mixture(d, count=4, seed=0, center=0.0):
    """``count`` modes of different widths, anisotropic, well apart, with mean ``center`` in every coordinate."""
    source = NoiseSource.of(seed, count)
    means = 0.6 * source.normal((d,), step=0, purpose="means", dtype=torch.float64)
    spread = source.uniform((d,), step=0, purpose="stds", dtype=torch.float64)
    weights = torch.arange(1.0, count + 1, dtype=torch.float64)
    means = means - (weights[:, None] * means).sum(0) / weights.sum() + center
    return GaussianMixture(means, 0.1 + 0.4 * spread, weights)


@pytest.mark.covering
@pytest.mark.parametrize("d", [2, 16, 64])
@pytest.mark.parametrize("name", SDES)
def test_closed_form_within_a_thousandth_of_a_bit_per_dimension(name, d, worst):
    """Exact score and trace, RK45 at 1e-5, for each of 16 samples. The data has mean zero; the next test has other means."""
    sde, distribution = SDES[name], mixture(d)
    x = distribution.sample(16, seed=1, dtype=torch.float64)
    found = log_likelihood(sde, distribution.score(sde), x, solver=ScipyODE(), divergence=Exact())
    # at t_min the density is that of data with noise sigma(t_min): for VE that noise is sigma_min, not nothing
    exact = distribution.log_prob_at(sde, x, torch.tensor(1e-5))
    error = float((found.log_prob - exact).abs().max()) / (d * math.log(2))
    worst("likelihood against closed forms, bits/dim, worst sample", error)
    assert error < 1e-3
    assert bool((found.trace_error == 0).all())
    assert bool(found.solver_error.isnan().all())  # a tolerance is no estimate


@pytest.mark.parametrize("name", some_long(SDES, ["subvp", "ve"]))
def test_what_is_left_for_data_off_center_is_the_mismatch_of_the_prior(name, worst):
    """For data with mean 1, the difference to the closed form is log prior - log p_T at the latent.

    The mean of p_T is alpha(T) times that of the data, and the prior's mean is zero. In 2 dimensions the difference is some
    thousandths of a bit, and it is not the solver's error.
    """
    sde, distribution = SDES[name], mixture(2, center=1.0)
    x = distribution.sample(16, seed=1, dtype=torch.float64)
    found = log_likelihood(sde, distribution.score(sde), x, divergence=Exact(), tolerance=1e-5)
    exact = distribution.log_prob_at(sde, x, torch.tensor(1e-5))
    mismatch = found.prior_log_prob - distribution.log_prob_at(sde, found.latent, torch.tensor(1.0))
    scale = 2 * math.log(2)
    assert float((found.log_prob - exact).abs().max()) / scale > 2e-3
    error = float((found.log_prob - mismatch - exact).abs().max()) / scale
    worst("likelihood less the prior's mismatch, off center, bits/dim", error)
    assert error < 1e-3


def test_a_planted_half_is_seen():
    """g^2 in place of g^2 / 2 in the flow's drift changes the likelihood by far more than the tolerance above."""
    sde, distribution = SDES["vp"], mixture(16)
    x = distribution.sample(4, seed=1, dtype=torch.float64)
    score = distribution.score(sde)
    found = log_likelihood(sde, lambda x, t: 2 * score(x, t), x, solver=Multistep(64), divergence=Exact())
    exact = distribution.log_prob_at(sde, x, torch.tensor(1e-5))
    assert float((found.log_prob - exact).abs().min()) / (16 * math.log(2)) > 0.05


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3), (2, 1, 2, 2)])
def test_any_event_shape(shape):
    sde = SDES["vp"]
    x = NoiseSource.of(0, 3).normal(shape, step=0, purpose="x", dtype=torch.float64)
    d = math.prod(shape)
    exact = -0.5 * (x.reshape(3, -1) ** 2).sum(1) - 0.5 * d * math.log(2 * math.pi)
    for solver, error in ((ScipyODE(), 1e-8), (RungeKutta(), 1e-8), (Multistep(), 1e-3)):
        found = log_likelihood(sde, lambda x, t: -x, x, solver=solver, divergence=Exact())
        assert torch.allclose(found.log_prob, exact, atol=error)
        assert found.latent.shape == x.shape


@pytest.mark.parametrize("distribution", some_long(["rademacher", "gaussian"], ["gaussian"]))
def test_probes_are_unbiased_and_their_standard_error_is_honest(distribution):
    """64 probes for each of 24 samples.

    |error| < 2 standard errors for at least 80 % (95 % are expected; fewer than 80 % has probability 2e-4), and the mean
    error is within 4 of its standard errors (false-alarm rate 1 in 16,000).
    """
    sde, mix = SDES["vp"], mixture(8)
    x = mix.sample(24, seed=2, dtype=torch.float64)
    exact = log_likelihood(sde, mix.score(sde), x, solver=ScipyODE(), divergence=Exact())
    found = log_likelihood(sde, mix.score(sde), x, solver=ScipyODE(), divergence=Hutchinson(distribution, 64), seed=4)
    z = (found.log_prob - exact.log_prob) / found.standard_error
    assert float((z.abs() < 2).float().mean()) > 0.8
    assert abs(float(z.mean())) < 4 / math.sqrt(24)
    wrong = log_likelihood(sde, mix.score(sde), x, solver=ScipyODE(), divergence=Loud(distribution, 64), seed=4)
    z = (wrong.log_prob - exact.log_prob) / wrong.standard_error
    assert abs(float(z.mean())) > 4 / math.sqrt(24), "probes of variance 2 must be seen"


class Loud(Hutchinson):
    """Planted error: probes of variance 2."""

    def stream(self, x, noise):
        take = super().stream(x, noise)
        return lambda first, count: math.sqrt(2.0) * take(first, count)


def test_one_fixed_probe_has_no_error_estimate():
    x = torch.zeros(2, 3)
    found = log_likelihood(SDES["vp"], lambda x, t: -x, x, solver=ScipyODE())
    assert bool(found.standard_error.isnan().all())


def test_a_likelihood_does_not_depend_on_its_batch():
    """Probes depend only on the sample. The batch shares the solver's steps, so results agree within its tolerance."""
    sde, mix = SDES["subvp"], mixture(6)
    x = mix.sample(9, seed=3, dtype=torch.float64)
    whole = log_likelihood(sde, mix.score(sde), x, solver=ScipyODE(rtol=1e-7, atol=1e-7), seed=5)
    part = log_likelihood(sde, mix.score(sde), x[4:6], solver=ScipyODE(rtol=1e-7, atol=1e-7), seed=5, first=4)
    assert torch.allclose(whole.log_prob[4:6], part.log_prob, atol=1e-3)
    other = log_likelihood(sde, mix.score(sde), x[4:6], solver=ScipyODE(rtol=1e-7, atol=1e-7), seed=5)
    assert not torch.allclose(whole.log_prob[4:6], other.log_prob, atol=1e-3)


def test_evaluations_are_counted():
    sde, mix, calls = SDES["vp"], mixture(3), 0
    score = mix.score(sde)

    def counting(x, t):
        nonlocal calls
        calls += 1
        return score(x, t)

    found = log_likelihood(sde, counting, mix.sample(2), divergence=Hutchinson(count=3))
    assert found.nfe == calls
    assert found.vjps == 3 * calls


@pytest.mark.parametrize("method", some_long(["RK45", "RK23", "DOP853", "LSODA"], ["RK23", "DOP853"]))
def test_any_scipy_method(method):
    sde, mix = SDES["vp"], mixture(2)
    x = mix.sample(4, seed=1, dtype=torch.float64)
    found = log_likelihood(sde, mix.score(sde), x, solver=ScipyODE(method, 1e-7, 1e-7), divergence=Exact())
    assert torch.allclose(found.log_prob, mix.log_prob_at(sde, x, torch.tensor(1e-5)), atol=1e-3)


class TestBitsPerDim:
    def test_uniform_levels_have_the_bits_of_their_logarithm(self):
        """A uniform density over the range has log2(levels) bits for every coordinate, for any range."""
        for low, high in ((-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)):
            log_prob = torch.tensor([-6 * math.log(high - low)])
            assert torch.allclose(bits_per_dim(log_prob, (2, 3), Quantized(17, low, high)), torch.tensor(math.log2(17)))

    def test_offsets_of_the_reference(self):
        zero = torch.zeros(1)
        assert torch.allclose(bits_per_dim(zero, (3, 4, 4), Quantized(256, -1, 1)), torch.tensor(7.0))
        assert torch.allclose(bits_per_dim(zero, (3, 4, 4), Quantized(256, 0, 1)), torch.tensor(8.0))

    @pytest.mark.parametrize(
        "convert", [lambda v: bits_per_dim(v, (2,), Quantized(4)), lambda v: bits_per_dim_error(v, (2,))]
    )
    def test_one_value_for_each_example(self, convert):
        assert convert(torch.zeros(3)).shape == (3,) and convert(torch.zeros(())).shape == ()
        with pytest.raises(ValueError, match=r"has shape \(3, 2\) .*: give \(B,\) nats, one number for each example"):
            convert(torch.zeros(3, 2))
        with pytest.raises(TypeError, match=r"=1\.0 is not allowed: give a torch\.Tensor"):
            convert(1.0)

    def test_refused_for_real_data_with_the_figure_in_nats(self):
        with pytest.raises(ValueError, match=r"discrete data only.*report nats, here 6 per example or 3 per dimension"):
            bits_per_dim(torch.tensor([-6.0]), (2,), Affine())

    def test_nats_of_real_data_include_its_scale(self):
        with pytest.raises(ValueError, match=f"here {6 + 2 * math.log(10):.6g} per example"):
            bits_per_dim(torch.tensor([-6.0]), (2,), Affine(scale=10.0))

    def test_errors_scale_alike(self):
        assert torch.allclose(bits_per_dim_error(torch.tensor([math.log(2.0) * 12]), (3, 4)), torch.ones(1))


class TestRefusals:
    score = staticmethod(lambda x, t: -x)

    def test_nan(self):
        x = torch.zeros(3, 2)
        x[1, 0] = math.nan
        with pytest.raises(ValueError, match="x holds non-finite values in 1 of 3 samples: index 1"):
            log_likelihood(VPSDE(), self.score, x)

    def test_integers(self):
        with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
            log_likelihood(VPSDE(), self.score, torch.zeros(3, 2, dtype=torch.long))

    def test_cut_off(self):
        for t_min in (-0.1, 1.0, 2.0):
            with pytest.raises(ValueError, match="t_min="):
                log_likelihood(VPSDE(), self.score, torch.zeros(3, 2), t_min=t_min)

    def test_two_tolerances(self):
        with pytest.raises(ValueError, match="either solver or tolerance"):
            log_likelihood(VPSDE(), self.score, torch.zeros(3, 2), solver=ScipyODE(), tolerance=1e-5)

    def test_a_score_that_is_not_finite_names_the_time(self):
        def score(x, t):
            return torch.where(t[:, None] > 0.99, torch.full_like(x, math.inf), -x)

        with pytest.raises(SolverError, match=r"not finite at t=1 for batch positions \[0, 1, 2\]"):
            log_likelihood(VPSDE(), score, torch.ones(3, 2))

    def test_a_solver_that_diverges(self):
        with pytest.raises(SolverError, match="max_nfe=10"):
            log_likelihood(VPSDE(), mixture(2).score(VPSDE()), torch.ones(3, 2), solver=ScipyODE(max_nfe=10))


@pytest.mark.parametrize("solver", [None, ScipyODE(), RungeKutta()], ids=repr)
def test_a_network_has_no_score_without_noise(solver):
    model = ScoreModel(MLP((2,), width=8), VPSDE())
    for call in (log_likelihood, known_biases):
        options = {"solver": solver} if call is log_likelihood else {}
        with pytest.raises(ValueError, match=r"t_min=0.0 is not allowed: VPSDE\(.*no noise there"):
            call(VPSDE(), model, torch.ones(2, 2), t_min=0.0, **options)


def test_a_tolerance_below_rounding_is_refused():
    for solver in (RungeKutta, ScipyODE):
        with pytest.raises(ValueError, match="rtol=1e-20 is not allowed: give a finite number >= 1e-13"):
            solver(rtol=1e-20)
        solver(rtol=1e-13)
    with pytest.raises(ValueError, match="max_nfe=0"):
        ScipyODE(max_nfe=0)


def test_known_biases_of_a_shifted_matrix_process():
    """The prior's mean has the leading dimensions of a state, not the last: (1, k) against (B, k, *event)."""
    pull = torch.tensor([[0.0, 4.0], [-4.0, -8.0]], dtype=torch.float64)
    push = torch.tensor([[0.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    x = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(3, 2)
    found = [
        known_biases(MatrixSDE(pull, push, shift=shift), lambda y, t: -y, x, t_min=1e-3).prior
        for shift in (None, torch.tensor([0.5, 1.0]))
    ]
    assert torch.allclose(*found, rtol=1e-6)


@pytest.mark.parametrize("sde", some_long([VPSDE(), VESDE(0.01, 20.0)], [VESDE(0.01, 20.0)]), ids=["vp", "ve"])
def test_the_likelihood_of_a_chain_is_that_of_the_flow_of_its_process(sde):
    """Both solvers and the biases use the continuous process's own kernels, and the chain's score."""
    mixture = GaussianMixture(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0.3, 0.2]))
    x, chain = mixture.sample(4, dtype=torch.float64), sde.discretize(1000)
    score = mixture.score(chain)
    grid, adaptive = (
        log_likelihood(chain, score, x, divergence=Exact(), solver=solver).log_prob
        for solver in (Multistep(), ScipyODE())
    )
    torch.testing.assert_close(grid, adaptive, rtol=0.0, atol=5e-3)
    torch.testing.assert_close(adaptive, mixture.log_prob(x), rtol=0.0, atol=0.13)
    ours, wanted = known_biases(chain, score, x).cutoff, known_biases(sde, mixture.score(sde), x).cutoff
    torch.testing.assert_close(ours, wanted, rtol=0.02, atol=0.02 * float(wanted.abs().max()))


def test_the_cutoff_of_a_state_that_is_more_than_the_data():
    """The contraction of the velocities, 1.6e-4 nats a coordinate, is compensated by their noise and does not count.

    Langevin diffusion at 1e-5, in the mean over velocities, which come in pairs v, -v of length E|v|^2.
    """
    sde, distribution = CriticallyDampedLangevin(), GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 0.4)
    x = torch.tensor([[0.3], [0.3]], dtype=torch.float64)
    v = (sde.gamma * sde.mass) ** 0.5 * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    true = distribution.log_prob_at(sde, torch.stack((x, v), 1), torch.tensor(1e-5, dtype=torch.float64))
    true -= (
        distribution.log_prob(x)
        + torch.distributions.Normal(0.0, (sde.gamma * sde.mass) ** 0.5).log_prob(v)[:, 0].double()
    )
    found = known_biases(sde, distribution.score(sde), x).cutoff
    assert abs(float(true.mean())) < 2e-5 and abs(float(found.mean())) < 2e-5
