"""Shifted processes. The reference is the process without a shift, applied to x - m."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.likelihood import Exact, log_likelihood
from scoresde.losses import DenoisingScoreMatching
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    Ancestral,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    ReverseSDESampler,
    UniPC,
)
from scoresde.samplers.predictor_corrector import SymmetricSplitting
from scoresde.sde import (
    VESDE,
    VPSDE,
    BlurringSDE,
    CriticallyDampedLangevin,
    MatrixSDE,
    ScalarKernel,
    Shifted,
    ShiftedKernel,
    SubVPSDE,
    check,
)
from tests.params import some_long

F64 = torch.float64
MU = torch.tensor([3.0, -2.0], dtype=F64)
PROCESSES = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(0.01, 30.0),
    "cld": CriticallyDampedLangevin(),
    "blur": BlurringSDE((2,), blur=1.0),
}


def moving(t):
    return torch.stack((torch.sin(2.0 * t) + 1.0, 2.0 - t**2), -1)


def normal(shape, purpose):
    return NoiseSource.of(5, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=F64)


@pytest.mark.parametrize("name", some_long(["vp", "ve", "cld"], ["ve"]))
def test_a_constant_mean_passes_the_self_check(name):
    report = check(Shifted(PROCESSES[name], MU))
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize(
    "sde",
    [
        pytest.param(Shifted(VPSDE(), moving), marks=pytest.mark.long),
        Shifted(Shifted(VPSDE(), MU), moving),
        Shifted(MatrixSDE(-4.0 * torch.eye(1), 8**0.5 * torch.eye(1), shift=lambda t: t[..., None]), MU),
    ],
    ids=repr,
)
def test_a_moving_mean_passes_the_self_check(sde):
    report = check(sde)
    assert report.passed, f"\n{report}"


def test_the_formulas_of_the_mean_reverting_process():
    vp = VPSDE()
    sde, x0, z = Shifted(vp, MU), normal((5, 2), "x0"), normal((5, 2), "z")
    t = torch.linspace(0.01, 1.0, 5, dtype=F64)
    alpha, sigma, beta = (v(t)[:, None] for v in (vp.alpha, vp.sigma, vp.beta))
    assert torch.allclose(sde.drift(x0, t), -0.5 * beta * (x0 - MU), rtol=1e-12)
    assert torch.allclose(sde.marginal(x0, t)[0], alpha * x0 + (1.0 - alpha) * MU, rtol=1e-12)
    x = sde.perturb(x0, t, z)
    assert torch.allclose(x, alpha * x0 + (1.0 - alpha) * MU + sigma * z, rtol=1e-12)
    assert torch.allclose(sde.score_from_noise(x, t, z), -z / sigma, rtol=1e-12)
    assert torch.allclose(sde.score_from_data(x, t, x0), -z / sigma, rtol=1e-9)
    assert torch.allclose(sde.data_from_score(x, t, -z / sigma), x0, rtol=1e-9)
    assert torch.allclose(sde.prior_log_prob(x), vp.prior_log_prob(x - MU), rtol=1e-12)
    drawn = [s.prior_sample((5, 2), dtype=F64) for s in (sde, vp)]
    assert torch.allclose(drawn[0], drawn[1] + MU, rtol=1e-12)


def test_a_moving_mean_solves_its_equation():
    """dx = (-3 x + sin 2t) dt + ... : m' = -3 m + sin 2t, m(0) = 0, in closed form and by the integration of MatrixSDE."""

    def m(t):
        return (3.0 * torch.sin(2.0 * t) - 2.0 * torch.cos(2.0 * t) + 2.0 * torch.exp(-3.0 * t))[..., None] / 13.0

    f, g = -3.0 * torch.eye(1), 6.0**0.5 * torch.eye(1)
    integrated = MatrixSDE(f, g, shift=lambda t: torch.sin(2.0 * t)[..., None])
    known = Shifted(MatrixSDE(f, g), m)
    t, x = torch.linspace(0.0, 1.0, 41, dtype=F64), normal((41, 1, 1), "x")
    for found, wanted in (
        (integrated.kernel(t).mean(x), known.kernel(t).mean(x)),
        (integrated.drift(x, t), known.drift(x, t)),
        (integrated.transition(0.37 * t, t).mean(x), known.transition(0.37 * t, t).mean(x)),
        (integrated.transition(0.37 * t, t).solve(x), known.transition(0.37 * t, t).solve(x)),
    ):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-10)
    assert float(integrated.prior_mean()) == pytest.approx(float(m(t)[-1]), rel=1e-9)


# --- shifted data under a shifted process equals the data under the process, shifted --------------------

DATA = GaussianMixture(torch.tensor([[1.0, 0.5], [-1.0, -0.5]]), stds=torch.tensor([0.3, 0.4]))
MOVED = GaussianMixture(torch.tensor([[1.0, 0.5], [-1.0, -0.5]]) + MU, stds=torch.tensor([0.3, 0.4]))


def origin(sde):
    """MU as a state, (1, *state)."""
    return sde.embed_data(MU[None])


@pytest.mark.parametrize("name", PROCESSES)
def test_the_distribution_of_a_mixture_is_exact(name):
    own = PROCESSES[name]
    sde, x = Shifted(own, MU), normal((6, *own.state_shape((2,))), "state").requires_grad_(True)
    t = torch.tensor([0.05, 0.1, 0.3, 0.3, 0.6, 1.0], dtype=F64)
    log_prob = MOVED.log_prob_at(sde, x, t)
    wanted = DATA.log_prob_at(own, x - origin(own), t)
    assert torch.allclose(log_prob, wanted, rtol=1e-9)
    (slope,) = torch.autograd.grad(log_prob.sum(), x)
    assert torch.allclose(MOVED.score(sde)(x.detach(), t), slope, rtol=1e-7, atol=1e-9)
    unmoved = MOVED.log_prob_at(own, x, t)
    assert torch.allclose(unmoved, wanted, rtol=0.01) == (name == "ve")  # A = 1: only the prior depends on the mean


SAMPLERS = {
    "euler": PredictorCorrector(EulerMaruyama(), steps=8),
    "euler flow": PredictorCorrector(EulerMaruyama(flow=True), steps=8),
    "reverse diffusion": PredictorCorrector(ReverseDiffusion(), Langevin(), steps=8),
    "ancestral": PredictorCorrector(Ancestral(), steps=8),
    "ancestral, lower": PredictorCorrector(Ancestral(variance="lower"), steps=8),
    "splitting": PredictorCorrector(SymmetricSplitting(), steps=8),
    "flow": ProbabilityFlowODE(),
    "reverse": ReverseSDESampler(steps=8),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["vp", "cld"])
def test_samples_are_shifted_samples_of_the_process(name, sampler):
    own = PROCESSES[name]
    sde = Shifted(own, MU)
    moved = SAMPLERS[sampler](sde, MOVED.score(sde), (4, 2), seed=3, dtype=F64).samples
    plain = SAMPLERS[sampler](own, DATA.score(own), (4, 2), seed=3, dtype=F64).samples
    tolerance = 1e-3 if sampler == "flow" else 1e-9  # the steps of the solver
    assert torch.allclose(moved, plain + MU, atol=tolerance)


def test_a_mean_that_ends_at_0_shifts_scalar_events_too():
    """Events of shape (), for which a prior mean of 0 has the same shape as that of a process without a shift."""
    x = []
    for event in ((), (1,)):
        sde = Shifted(VPSDE(), lambda t, event=event: 3.0 * (1.0 - t).reshape(-1, *event))

        def score(y, t, sde=sde, event=event):
            kernel = sde.kernel(t)
            return -(y - kernel.mean(torch.zeros(1, *event, dtype=y.dtype)))

        x.append(UniPC(6)(sde, score, (4, *event), dtype=F64).samples.flatten())
    assert torch.allclose(*x)


def test_kernels_at_one_time_are_those_of_a_batch():
    t = torch.linspace(0.1, 1.0, 4, dtype=F64)
    x = normal((1, 2), "x")
    for sde in (Shifted(VPSDE(), MU), Shifted(VPSDE(), moving)):
        kernels = sde.transition(0.5 * t, t)
        for k in range(4):
            assert torch.allclose(kernels[k].mean(x), sde.transition(0.5 * t[k], t[k]).mean(x), rtol=1e-12)
            assert torch.allclose(kernels[k].solve(kernels[k].mean(x)), x, rtol=1e-9)
        assert kernels.to(x.float())[2].mean(x.float()).dtype == torch.float32


@pytest.mark.parametrize("weighting", ["variance", "likelihood"])
def test_the_loss_is_that_of_the_process(weighting):
    own, x0 = CriticallyDampedLangevin(), DATA.sample(16, dtype=F64)
    sde = Shifted(own, MU)
    moved = DenoisingScoreMatching(sde, weighting)(lambda x, t: -torch.tanh(x - origin(own)), x0 + MU, step=0)
    plain = DenoisingScoreMatching(own, weighting)(lambda x, t: -torch.tanh(x), x0, step=0)
    assert torch.allclose(moved, plain, rtol=1e-9)


def test_the_likelihood_is_that_of_the_process():
    own, x = VPSDE(), DATA.sample(3, seed=1, dtype=F64)
    sde = Shifted(own, MU)
    moved = log_likelihood(sde, MOVED.score(sde), x + MU, divergence=Exact(), tolerance=1e-4).log_prob
    still = log_likelihood(own, DATA.score(own), x, divergence=Exact(), tolerance=1e-4).log_prob
    assert torch.allclose(moved, still, atol=1e-4)
    assert torch.allclose(moved, DATA.log_prob(x), atol=0.02)


def test_splitting_needs_a_constant_mean():
    for sde in (Shifted(VPSDE(), MU), Shifted(CriticallyDampedLangevin(), MU)):
        SymmetricSplitting().check(sde)
    with pytest.raises(ValueError, match="drift at m"):
        SymmetricSplitting().check(Shifted(VPSDE(), moving))


# --- planted mistakes -----------------------------------------------------------------------------------------------


class PriorForgets(Shifted):
    def prior_mean(self):
        return torch.zeros(1, dtype=F64)


class DrawsForget(Shifted):
    def prior_sample(self, shape, **options):
        return self.process.prior_sample(shape, **options)


class DensityForgets(Shifted):
    def prior_log_prob(self, x):
        return self.process.prior_log_prob(x)


class TransitionForgets(Shifted):
    def _transition(self, s, t):
        return self.process.transition(s, t)


class KernelForgets(Shifted):
    def kernel(self, t):
        return self.process.kernel(t)


class DriftForgets(Shifted):
    def drift(self, x, t):
        return self.process.drift(x, t)


class OnlyTheEndMoves(Shifted):
    def kernel(self, t):
        whole = super().kernel(t)
        return ShiftedKernel(whole.kernel, torch.zeros(1, dtype=F64), whole.after)


class SolveForgets(ShiftedKernel):
    def solve(self, x):
        return self.kernel.solve(x)


class DataForgets(Shifted):
    def kernel(self, t):
        whole = super().kernel(t)
        return SolveForgets(whole.kernel, whole.before, whole.after)


MISTAKES = {
    PriorForgets: ("prior, nats per coordinate", "prior's mean"),
    DrawsForget: ("samples of the prior, std. errors", ""),
    DensityForgets: ("density of the prior", ""),
    TransitionForgets: ("transition carries the marginal", "shift of the step"),
    KernelForgets: ("kernel shift from the drift", "integral"),
    DriftForgets: ("kernel shift from the drift", "c(t) in the drift"),
    OnlyTheEndMoves: ("kernel shift at t = 0", "m_t + A (x_0 - m_0)"),
    DataForgets: ("conversions invert each other", ""),
}


@pytest.mark.parametrize("whole", some_long([False, True], [True]))
@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda c: c.__name__)
def test_a_planted_mistake_is_caught_and_named(wrong, whole, monkeypatch):
    """By default without the flow of Gaussian data, which takes most of the time and has none of these rows."""
    if not whole:
        monkeypatch.setattr("scoresde.sde.checks.run.gaussian", lambda process: [])
    line, hint = MISTAKES[wrong]
    report = check(wrong(VPSDE(), MU))
    row = next(r for r in report.rows if r.name == line)
    assert not row.passed, f"\n{report}"
    assert hint in row.hint, f"\n{report}"


# --- invalid arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((object(), MU), TypeError, "process="),
        ((VPSDE(), 0.5), TypeError, "mean=0.5 is not allowed"),
        ((VPSDE(), MU.long()), TypeError, "mean has dtype"),
        ((VPSDE(), MU * math.nan), ValueError, "mean holds non-finite"),
        ((VPSDE(), lambda t: MU[None]), ValueError, r"mean gives shape \(1, 2\)"),
    ],
)
def test_bad_arguments_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        Shifted(*arguments)


def test_events_of_another_shape_are_refused():
    sde = Shifted(VPSDE(), MU)
    for call in (
        lambda: sde.perturb(torch.zeros(4, 3), torch.tensor(0.5), torch.zeros(4, 3)),
        lambda: sde.prior_sample((4, 1)),
        lambda: sde.sample_auxiliary(torch.zeros(4, 2, 2), NoiseSource.of(0, 4)),
    ):
        with pytest.raises(ValueError, match=r"the mean of .* has shape \(2,\)"):
            call()
    with pytest.raises(TypeError, match="no velocity"):
        sde.velocity_from_score(torch.zeros(1, 2), torch.tensor([0.5]), torch.zeros(1, 2))


def test_the_centered_kernel_is_that_of_the_process():
    kernel = Shifted(VPSDE(), MU).kernel(torch.tensor(0.5))
    assert isinstance(kernel.centered, ScalarKernel) and kernel.centered.centered is kernel.centered


PUSHED = MatrixSDE(
    torch.tensor([[0.0, 3.0], [-2.0, -4.0]], dtype=F64), torch.diag(torch.tensor([0.1, 2.0], dtype=F64)),
    shift=torch.tensor([0.5, -1.0], dtype=F64), aux_std=0.6,
)  # fmt: skip


@pytest.mark.parametrize("sde", [*PROCESSES.values(), Shifted(PROCESSES["cld"], moving), PUSHED], ids=repr)
def test_the_mean_of_the_posterior_is_that_of_the_joint_distribution(sde):
    """x_s and x_t given x_0 are jointly Gaussian with cross-covariance S_s A^T. The reference conditions with dense matrices."""
    x0 = normal((3, 2), "x0")
    times = torch.tensor([0.2, 0.5, 0.69], dtype=F64), torch.tensor([0.3, 0.8, 0.7], dtype=F64)
    shape = sde.state_shape((2,))
    x_t, size = normal((3, *shape), "x_t"), math.prod(shape)
    found = sde.posterior_mean(x_t, x0, *times)
    for i in range(3):
        s, t = times[0][i], times[1][i]
        first, last, step = sde.kernel(s), sde.kernel(t), sde.transition(s, t)
        m_s, m_t = (k.mean(sde.embed_data(x0[i : i + 1])).reshape(-1) for k in (first, last))
        noise_s, noise_t, a = (m.dense(shape) for m in (first.noise_map(), last.noise_map(), step.signal_map()))
        joint = torch.cat((torch.cat((noise_s @ noise_s.mT, noise_s @ noise_s.mT @ a.mT), 1),
                           torch.cat((a @ noise_s @ noise_s.mT, noise_t @ noise_t.mT), 1)))  # fmt: skip
        gain = torch.linalg.solve(joint[size:, size:], joint[size:, :size]).mT
        wanted = m_s + gain @ (x_t[i].reshape(-1) - m_t)
        torch.testing.assert_close(found[i].reshape(-1), wanted, rtol=1e-8, atol=1e-9)


def test_the_mean_of_the_posterior_of_a_scalar_process_and_at_its_ends():
    x0, x_t = normal((2, 2), "x0"), normal((2, 2), "x_t")
    s, t = torch.tensor([0.1, 0.4], dtype=F64), torch.tensor([0.3, 0.9], dtype=F64)
    sde = PROCESSES["vp"]
    torch.testing.assert_close(
        sde.posterior_mean(x_t, x0, s, t), sde.posterior(x_t, x0, s, t)[0], rtol=1e-12, atol=1e-12
    )
    state = normal((2, 2, 2), "x_t")
    torch.testing.assert_close(PROCESSES["cld"].posterior_mean(state, x0, t, t), state)
    with pytest.raises(ValueError, match="a transition needs s <= t"):
        sde.posterior_mean(x_t, x0, t, s)
