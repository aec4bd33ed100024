"""`check` passes every process of the library, and names common mistakes in user-defined processes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.samplers import DDIM, PredictorCorrector
from scoresde.sde import VESDE, VPSDE, ScalarKernel, ScalarSDE, SubVPSDE, check
from scoresde.sde.linalg.basis import haar
from scoresde.sde.processes.langevin import CriticallyDampedLangevin
from scoresde.sde.processes.modewise import BlurringSDE
from tests.bare import Bare
from tests.params import some_long

PROCESSES = [
    (VPSDE(), (2,)),
    pytest.param(VPSDE(0.5, 8.0), (3,), marks=pytest.mark.long),
    (SubVPSDE(), (2,)),
    pytest.param(VESDE(), (2,), marks=pytest.mark.long),
    (VESDE(0.002, 80.0), (1, 2)),
    (CriticallyDampedLangevin(), (2,)),
    pytest.param(CriticallyDampedLangevin(mass=1.0, beta=4.0, gamma=0.5), (1, 2), marks=pytest.mark.long),
    pytest.param(BlurringSDE((1, 2, 4), blur=3.0), (1, 2, 4), marks=pytest.mark.long),
    (BlurringSDE((2,), blur=3.0), (2,)),
    pytest.param(BlurringSDE((5,)), (5,), marks=pytest.mark.long),  # 5 s
]


@pytest.mark.parametrize(("sde", "event_shape"), PROCESSES, ids=lambda v: repr(v))
def test_every_process_passes(sde, event_shape):
    report = check(sde, event_shape)
    assert report.passed, f"\n{report}"
    assert len(report.rows) == 19


class OneFileProcess(ScalarSDE):
    """Ornstein-Uhlenbeck process as a user would write it, with rate 3 and stationary variance 1."""

    T = 1.0

    def alpha(self, t):
        self.check_time(t)
        return torch.exp(-3.0 * t)

    def sigma(self, t):
        self.check_time(t)
        return (-torch.expm1(-6.0 * t)).sqrt()

    def drift_coefficient(self, t):
        return -3.0 * torch.ones_like(t)

    def diffusion(self, t):
        return math.sqrt(6.0) * torch.ones_like(t)

    def prior_std(self):
        return 1.0


def test_a_user_defined_process_passes():
    assert check(OneFileProcess()).passed


class GWithoutItsRoot(OneFileProcess):
    def diffusion(self, t):
        return 6.0 * torch.ones_like(t)


class TwiceGSquared(OneFileProcess):
    def diffusion(self, t):
        return math.sqrt(12.0) * torch.ones_like(t)


class HalfGSquared(OneFileProcess):
    def diffusion(self, t):
        return math.sqrt(3.0) * torch.ones_like(t)


class DriftWithoutItsHalf(OneFileProcess):
    def drift_coefficient(self, t):
        return -6.0 * torch.ones_like(t)


class DriftOfTheWrongSign(OneFileProcess):
    def drift_coefficient(self, t):
        return 3.0 * torch.ones_like(t)


class AlphaSquared(OneFileProcess):
    def alpha(self, t):
        return super().alpha(t) ** 2


class SigmaSquared(OneFileProcess):
    def sigma(self, t):
        return super().sigma(t) ** 2


class StepForgetsTheContraction(OneFileProcess):
    def _transition(self, s, t):
        return ScalarKernel(self.alpha(t) / self.alpha(s), (self.sigma(t) ** 2 - self.sigma(s) ** 2).sqrt())


class PriorVarianceForItsRoot(OneFileProcess):
    def prior_std(self):
        return 2.0


class PosteriorExchanged(OneFileProcess):
    def posterior(self, x_t, x0, s, t):
        return super().posterior(x0, x_t, s, t)


class PosteriorNotFinite(OneFileProcess):
    def posterior(self, x_t, x0, s, t):
        mean, std = super().posterior(x_t, x0, s, t)
        return mean, math.nan * std


class ConversionNotFinite(OneFileProcess):
    def data_from_score(self, x, t, score):
        return math.nan * super().data_from_score(x, t, score)


class ScoreWithoutTheSquare(OneFileProcess):
    def score_from_data(self, x, t, data):
        return super().score_from_data(x, t, data) * self.sigma(t)[:, None]


class NoiseOfTheWrongSign(OneFileProcess):
    def noise_from_score(self, x, t, score):
        return -super().noise_from_score(x, t, score)


class NoiseThatFalls(OneFileProcess):
    def alpha(self, t):
        return torch.exp(3.0 * t)

    def drift_coefficient(self, t):
        return 3.0 * torch.ones_like(t)

    def sigma(self, t):
        return 0.5 * torch.exp(1.0 * t)


class AnyTimeTaken(OneFileProcess):
    def check_time(self, t, batch=None):
        pass


class AlwaysDouble(OneFileProcess):
    def perturb(self, x0, t, noise):
        return super().perturb(x0, t, noise).double()


MISTAKES = {
    GWithoutItsRoot: ("kernel covariance from the SDE", "square root missing in diffusion"),
    TwiceGSquared: ("kernel covariance from the SDE", "factor 2 in g^2 too many"),
    HalfGSquared: ("kernel covariance from the SDE", "factor 2 in g^2 missing"),
    DriftWithoutItsHalf: ("kernel mean from the drift", "factor 1/2 missing"),
    DriftOfTheWrongSign: ("kernel mean from the drift", "wrong sign"),
    AlphaSquared: ("kernel mean from the drift", "is it alpha in place of alpha|alpha^2 returned for alpha"),
    SigmaSquared: ("kernel covariance from the SDE", "sigma^2 returned for sigma"),
    StepForgetsTheContraction: ("transition carries the marginal", "a^2 sigma_s^2"),
    PriorVarianceForItsRoot: ("prior, nats per coordinate", "not its square"),
    PosteriorExchanged: ("posterior agrees with Bayes", "exchanged"),
    PosteriorNotFinite: ("posterior agrees with Bayes", ""),
    ConversionNotFinite: ("conversions invert each other", ""),
    ScoreWithoutTheSquare: ("conversions agree with the kernel", "sigma^2"),
    NoiseOfTheWrongSign: ("conversions invert each other", ""),
    NoiseThatFalls: ("noise-to-signal ratio increases", "must decrease"),
    AnyTimeTaken: ("edge times", "check_time"),
    AlwaysDouble: ("shapes and types", "perturb gives"),
}


@pytest.mark.parametrize("whole", some_long([False, True], [True]))
@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda c: c.__name__)
def test_a_planted_mistake_is_caught_and_named(wrong, whole, monkeypatch):
    """By default without the flow of Gaussian data, which takes most of the time and has none of these rows."""
    if not whole:
        monkeypatch.setattr("scoresde.sde.checks.run.gaussian", lambda process: [])
    line, hint = MISTAKES[wrong]
    report = check(wrong())
    row = next((r for r in report.rows if r.name == line), None)
    assert row is not None, f"\n{report}"
    assert not row.passed, f"\n{report}"
    assert any(part in row.hint for part in hint.split("|")), f"\n{report}"
    assert "FAIL" in str(report)


def test_a_signal_of_1e_9_has_a_relative_error():
    """The absolute tolerance of the solver, 1e-12, must not apply to it."""
    assert float(VPSDE(0.1, 80.0).alpha(torch.ones(()))) < 3e-9
    assert check(VPSDE(0.1, 80.0)).passed


def test_a_process_without_methods_fails_each_check():
    """Without a kernel it is checked by samples (test_simulated_check.py)."""
    report = check(Bare())
    assert not report.passed and len(report.rows) == 5


def test_a_check_that_raises_is_a_row_of_the_report():
    class Broken(OneFileProcess):
        def prior_log_prob(self, x):
            raise RuntimeError("not today")

    report = check(Broken())
    assert not report.passed
    assert "raised RuntimeError: not today" in str(report)


@pytest.mark.parametrize("method", ["drift_coefficient", "diffusion"])
def test_a_coefficient_that_is_a_number_is_named(method):
    wrong = type("Wrong", (OneFileProcess,), {method: lambda self, t: 5.0})
    report = check(wrong())
    assert not report.passed
    assert [row.name for row in report.rows if row.hint.startswith("it returns a float")] == [
        f"{method} returns a tensor"
    ]


@pytest.mark.long
def test_a_badly_wrong_diffusion_is_caught_soon():
    """Its flow of Gaussian data is so stiff that a solver without a budget needs 260000 evaluations to fail."""
    calls = []

    class Wrong(VPSDE):
        def diffusion(self, t):
            calls.append(t)
            return 5.0 * torch.exp(3.0 * t) * super().diffusion(t)

    report = check(Wrong())
    failed = {row.name for row in report.rows if not row.passed}
    assert {"kernel covariance from the SDE", "gaussian"} <= failed and len(calls) < 20000


def test_the_report_is_a_value():
    report = check(VPSDE())
    assert dataclasses.is_dataclass(report)
    assert all(math.isfinite(row.error) for row in report.rows)


def test_pooling_is_orthonormal():
    basis, x = haar((1, 4, 6)), torch.arange(24.0, dtype=torch.float64).reshape(1, 1, 4, 6)
    assert torch.allclose(basis.inverse(basis.forward(x)), x)
    modes = basis.forward(x)
    assert torch.allclose(modes[0, 0, :2, :3], 2 * torch.nn.functional.avg_pool2d(x, 2)[0, 0])


@pytest.mark.parametrize(
    ("process", "data_std", "passes"),
    [
        pytest.param(OneFileProcess(T=math.log(2.0) / 3.0), 1.0, False, marks=pytest.mark.long),  # alpha(T) = .5
        (OneFileProcess(T=math.log(5.0) / 3.0), 1.0, False),  # .2
        (OneFileProcess(T=math.log(10.0) / 3.0), 1.0, True),  # .1
        (OneFileProcess(T=math.log(10.0) / 3.0), 3.0, False),
        pytest.param(VESDE(0.01, 5.0), 1.0, False, marks=pytest.mark.long),
        pytest.param(VESDE(0.01, 5.0), 0.5, True, marks=pytest.mark.long),
        pytest.param(VPSDE(T=0.5), 1.0, False, marks=pytest.mark.long),
        (CriticallyDampedLangevin(mass=1.0, beta=0.5, gamma=0.5), 1.0, False),
    ],
    ids=repr,
)
def test_the_dependence_of_x_T_on_the_data_is_checked(process, data_std, passes):
    """The mean over x_0 of KL(N(alpha x_0, sigma^2) || prior) decides; the message states alpha(T) / sigma(T)."""
    report = check(process, data_std=data_std)
    (row,) = [r for r in report.rows if r.name == "prior, nats per coordinate"]
    assert row.passed == passes
    assert passes or "x_T depends on the data, alpha(T) / sigma(T) = " in row.hint
    assert [r.name for r in report.rows if not r.passed] == ([] if passes else [row.name])
    if isinstance(process, ScalarSDE):
        end = torch.tensor(process.T, dtype=torch.float64)
        alpha, sigma, prior = float(process.alpha(end)), float(process.sigma(end)), process.prior_std()
        kl = 0.5 * ((alpha**2 * data_std**2 + sigma**2) / prior**2 - 1.0) - math.log(sigma / prior)
        assert row.error == pytest.approx(kl, rel=1e-9)
        assert passes or f"{alpha / sigma:.3g} for data_std={data_std:g}" in row.hint


def test_the_bias_of_a_wrong_prior():
    """With alpha(T) = .5 and data N(1, 1) the flow of the exact score gives samples of mean .5 in place of 1."""
    process, data = OneFileProcess(T=math.log(2.0) / 3.0), GaussianMixture(torch.ones(1, 1), stds=1.0)
    drawn = PredictorCorrector(DDIM(eta=0.0), steps=200)(process, data.score(process), (4000, 1), seed=0).samples
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("T", [0.0, -1.0, math.nan, math.inf, "1", True, None])
@pytest.mark.parametrize("process", [VPSDE, SubVPSDE, VESDE, OneFileProcess])
def test_a_bad_last_time_is_refused(process, T):
    if T is None and process is OneFileProcess:
        assert process(T=None).T == 1.0  # the default of the class
        return
    with pytest.raises(ValueError, match=rf"T={T!r} is not allowed"):
        process(T=T)


@pytest.mark.parametrize("process", [VPSDE, SubVPSDE, VESDE, OneFileProcess])
def test_a_larger_T_continues_the_process(process):
    short, long = process(), process(T=1.5)
    t = torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert torch.equal(short.sigma(t), long.sigma(t)) and torch.equal(short.alpha(t), long.alpha(t))
    assert not short.same_as(long) and "T=1.5" in repr(long) and "T=" not in repr(short)
    with pytest.raises(ValueError, match="give times in"):
        short.sigma(torch.tensor(1.2))
    chain = long.discretize(400)
    last = torch.tensor(1.5, dtype=torch.float64)
    assert float(chain.sigma(last)) == pytest.approx(float(long.sigma(last)), rel=0.02)
