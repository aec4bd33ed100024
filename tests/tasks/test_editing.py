"""Processes that end below T, and samples that start from noisy data."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from scoresde import VPSDE, GaussianMixture, ScoreModel, log_likelihood
from scoresde.networks import MLP
from scoresde.samplers import (
    DDIM,
    EDM,
    AdaptiveSDE,
    Ancestral,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseSDESampler,
    UniPC,
)
from scoresde.sde import (
    EDMSDE,
    VESDE,
    CosineVPSDE,
    CriticallyDampedLangevin,
    LearnedSNRSDE,
    LinearInterpolantSDE,
    LogSNRLinearSDE,
    NonlinearSDE,
    Schedule,
    Shifted,
    SubVPSDE,
)
from scoresde.tasks import edit, purify

STD, GUIDE = 0.5, 1.2
STOCHASTIC = [
    PredictorCorrector(EulerMaruyama(), None, steps=200), PredictorCorrector(Ancestral(), None, steps=200),
    AdaptiveSDE(0.01), ReverseSDESampler(steps=200), DDIM(200, eta=1.0),
]  # fmt: skip
FLOWS = [UniPC(30), DDIM(200), ProbabilityFlowODE()]
SDES = [
    VPSDE(), SubVPSDE(), VESDE(sigma_max=10.0), CosineVPSDE(), EDMSDE(), LearnedSNRSDE(hidden=4),
    LinearInterpolantSDE(), LogSNRLinearSDE(), Schedule(lambda t: (-2 * t).exp(), lambda t: (1 - (-4 * t).exp()).sqrt()),
    Shifted(VPSDE(), torch.tensor([0.3])),
]  # fmt: skip


def name(thing):
    return type(thing).__name__


def law(sde, t):
    """(a, sigma, gain, variance): x_t | x_0 ~ N(a x_0, sigma^2), x_0 | x_t ~ N(gain x_t, variance), for data N(0, STD^2)."""
    at = torch.tensor(t, dtype=torch.float64)
    a, sigma = float(sde.alpha(at)), float(sde.sigma(at))
    whole = a**2 * STD**2 + sigma**2
    return a, sigma, a * STD**2 / whole, STD**2 * sigma**2 / whole


def edited(sampler, sde, t, count=4000, **options):
    score = GaussianMixture([[0.0]], STD).score(sde)
    return edit(sampler, sde, score, torch.full((count, 1), GUIDE), t, seed=3, **options).samples.double()


class TestEditing:
    @pytest.mark.parametrize("sampler", STOCHASTIC, ids=name)
    @pytest.mark.parametrize("t", [0.2, 0.6])
    def test_the_result_is_a_draw_of_the_posterior_of_the_noisy_guide(self, sampler, t):
        """Mean gain a x and variance v + (gain sigma)^2, up to four standard errors and the error of the steps."""
        sde = VPSDE()
        a, sigma, gain, variance = law(sde, t)
        x, wanted = edited(sampler, sde, t), variance + (gain * sigma) ** 2
        assert float(x.mean()) == pytest.approx(gain * a * GUIDE, abs=4 * math.sqrt(wanted / len(x)) + 0.005)
        assert float(x.var()) == pytest.approx(wanted, rel=4 * math.sqrt(2 / len(x)) + 0.02)

    @pytest.mark.parametrize("sampler", FLOWS, ids=name)
    def test_the_flow_scales_the_noisy_guide(self, sampler):
        sde, t = VPSDE(), 0.4
        a, sigma, _, _ = law(sde, t)
        ratio = STD / math.sqrt(a**2 * STD**2 + sigma**2)
        x = edited(sampler, sde, t)
        assert float(x.mean()) == pytest.approx(ratio * a * GUIDE, abs=4 * ratio * sigma / math.sqrt(len(x)) + 0.005)
        assert float(x.var()) == pytest.approx((ratio * sigma) ** 2, rel=0.12)

    @pytest.mark.parametrize("sde", SDES, ids=name)
    def test_every_process(self, sde):
        """A small t leaves the guide as it is, a large one gives data."""
        score, guide = GaussianMixture([[0.0]], STD).score(sde), torch.full((2000, 1), GUIDE)
        near, far = sde.time_of_log_noise(torch.tensor([0.15, 15.0]).log()).tolist()
        x = edit(UniPC(20), sde, score, guide, near, seed=1).samples
        assert float((x - guide).abs().mean()) < 0.2
        x = edit(UniPC(30), sde, score, guide, min(far, 0.999 * sde.T), seed=1).samples
        assert float(x.std()) == pytest.approx(STD, rel=0.1) and float(x.mean().abs()) < 0.15

    def test_more_noise_is_less_like_the_guide(self):
        sde = VPSDE()
        apart = [float((edited(UniPC(20), sde, t) - GUIDE).abs().mean()) for t in (0.1, 0.3, 0.5, 0.8)]
        assert apart == sorted(apart)

    def test_samples_depend_on_their_index(self):
        sde = VPSDE()
        score, guide = GaussianMixture([[0.0]], STD).score(sde), torch.linspace(-1, 1, 6)[:, None]
        for sampler in (UniPC(5), PredictorCorrector(EulerMaruyama(), Langevin(), steps=5), AdaptiveSDE(0.1)):
            whole = edit(sampler, sde, score, guide, 0.5, seed=2).samples
            part = edit(sampler, sde, score, guide[2:5], 0.5, seed=2, first=2).samples
            assert torch.allclose(whole[2:5], part, atol=1e-5)

    def test_models_conditions_and_auxiliary_variables(self):
        sde = VPSDE()
        model = ScoreModel(MLP((2,), width=8, depth=1), sde)
        seen = []
        model.register_forward_hook(lambda *_: seen.append("score"))
        assert edit(UniPC(5), sde, model, torch.zeros(3, 2), 0.5).samples.shape == (3, 2) and seen
        cld = CriticallyDampedLangevin()
        x = edit(EulerMaruyamaSteps(), cld, GaussianMixture([[0.0]], STD).score(cld), torch.full((64, 1), 0.4), 0.3)
        assert x.samples.shape == (64, 1) and bool(x.samples.isfinite().all())
        free = NonlinearSDE(lambda x, t: -x, lambda t: t * 0 + 1, steps=4)
        x = edit(ReverseSDESampler(steps=8, denoise=False), free, lambda x, t: -x, torch.zeros(4, 1), 0.3)
        assert x.samples.shape == (4, 1)


def EulerMaruyamaSteps():
    return PredictorCorrector(EulerMaruyama(), None, steps=20)


class TestUntil:
    @pytest.mark.parametrize("sde", SDES, ids=name)
    def test_only_the_end_changes(self, sde):
        part = sde.until(0.4)
        t = torch.tensor([0.1, 0.3, 0.4], dtype=torch.float64)
        for coefficient in ("alpha", "sigma", "log_noise", "diffusion"):
            if hasattr(sde, coefficient):  # a process with a shift has none of the first two
                assert torch.equal(getattr(part, coefficient)(t), getattr(sde, coefficient)(t))
        u = sde.log_noise(t)
        assert torch.allclose(part.time_of_log_noise(u), t, atol=1e-6)
        assert (part.T, part.whole, part.until(0.2).whole) == (0.4, sde, sde) and sde.whole is sde
        with pytest.raises(ValueError, match=r"\[0, 0.4\]"):
            part.check_time(torch.tensor([0.5]))
        assert copy.deepcopy(part).T == 0.4

    def test_scores_of_the_process_belong_to_it(self):
        sde = VPSDE()
        score, start = GaussianMixture([[0.0, 0.0]], STD).score(sde), torch.zeros(2, 2)
        assert UniPC(3)(sde.until(0.5), score, (2, 2), start=start).times[0] == 0.5
        with pytest.raises(ValueError, match="was made for VESDE"):
            UniPC(3)(sde.until(0.5), GaussianMixture([[0.0, 0.0]], STD).score(VESDE()), (2, 2), start=start)

    def test_a_model_is_evaluated_as_for_the_whole_process(self):
        """Its noise prediction is used directly, so the steps from t are those of a grid that starts there."""
        sde = VPSDE()
        model = ScoreModel(MLP((2,), width=8, depth=1), sde)
        start = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
        sampler = UniPC(4)
        one = sampler(sde.until(0.5), model, (3, 2), start=start)
        two = UniPC(tuple(one.times.tolist()))(sde, model, (3, 2), start=start)
        assert torch.equal(one.samples, two.samples)

    def test_there_is_no_prior(self):
        part = VPSDE().until(0.5)
        score = GaussianMixture([[0.0]], STD).score(VPSDE())
        for call in (
            lambda: UniPC(3)(part, score, (2, 1)),
            lambda: part.prior_log_prob(torch.zeros(2, 1)),
            lambda: log_likelihood(part, score, torch.zeros(2, 1)),
        ):
            with pytest.raises(
                ValueError, match=r"ends at t=0.5, where the state is noisy data and has no prior: give a start"
            ):
                call()


SCORE = GaussianMixture([[0.0]], STD).score(VPSDE())
ZERO = torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: edit(UniPC(3), VPSDE(), SCORE, ZERO, 0.0), ValueError, "t=0.0 is not allowed"),
        (lambda: edit(UniPC(3), VPSDE(), SCORE, ZERO, 1.0), ValueError, "t=1.0 is not allowed"),
        (lambda: edit(UniPC(3), VPSDE(), SCORE, ZERO, math.nan), (ValueError, TypeError), "t=nan"),
        (lambda: edit(UniPC(3), VPSDE(), SCORE, ZERO * math.nan, 0.5), ValueError, "guide"),
        (lambda: edit(UniPC((0.9, 0.1)), VPSDE(), SCORE, ZERO, 0.5), ValueError, "0.9"),
        (lambda: edit(UniPC(3, t_min=0.6), VPSDE(), SCORE, ZERO, 0.5), ValueError, "t_min=0.6"),
        (lambda: VPSDE().until(2.0), ValueError, "t=2.0 is not allowed"),
        (lambda: VPSDE().discretize(50).until(0.5), TypeError, "has fixed instants and cannot end at t=0.5"),
    ],
)  # fmt: skip
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_edm_starts_at_the_noise_of_t():
    sde = EDMSDE()
    x = edit(EDM(20), sde, GaussianMixture([[0.0]], STD).score(sde), torch.full((3000, 1), GUIDE), 1.0)
    a, sigma, _, _ = law(sde, 1.0)
    ratio = STD / math.sqrt(a**2 * STD**2 + sigma**2)
    assert float(x.samples.mean()) == pytest.approx(ratio * GUIDE, abs=0.05)


class TestPurify:
    def test_it_is_the_edit_of_the_data(self):
        x = torch.linspace(-1, 1, 6)[:, None]
        assert torch.equal(
            purify(UniPC(5), VPSDE(), SCORE, x, 0.3, seed=2), edit(UniPC(5), VPSDE(), SCORE, x, 0.3, seed=2).samples
        )

    @pytest.mark.parametrize("t", [0.1, 0.3])
    def test_its_gradient_is_the_share_of_the_data_that_remains(self, t):
        """For Gaussian data, the result is gain a x and noise that does not depend on x."""
        sde = VPSDE()
        a, _, gain, _ = law(sde, t)
        x = torch.linspace(-1, 1, 4)[:, None].requires_grad_(True)
        sampler = PredictorCorrector(EulerMaruyama(), None, steps=200)
        (slope,) = torch.autograd.grad(purify(sampler, sde, SCORE, x, t).sum(), x)
        assert torch.allclose(slope, torch.full_like(slope, gain * a), rtol=0.02)

    def test_there_is_a_graph_only_where_one_is_wanted(self):
        x = torch.zeros(2, 1, requires_grad=True)
        assert not purify(UniPC(3), VPSDE(), SCORE, x.detach(), 0.5).requires_grad
        assert not purify(AdaptiveSDE(), VPSDE(), SCORE, x.detach(), 0.5).requires_grad
        with torch.no_grad():
            assert not purify(UniPC(3), VPSDE(), SCORE, x, 0.5).requires_grad
        assert purify(UniPC(3), VPSDE(), SCORE, x, 0.5).requires_grad
        with pytest.raises(TypeError, match="differentiable=True is not allowed for AdaptiveSDE"):
            purify(AdaptiveSDE(), VPSDE(), SCORE, x, 0.5)

    @pytest.mark.parametrize(
        ("x", "t", "message"), [(ZERO, 0.0, "t=0.0"), (ZERO, 1.0, "t=1.0"), (ZERO * math.nan, 0.5, "x holds")]
    )
    def test_refused(self, x, t, message):
        with pytest.raises(ValueError, match=message):
            purify(UniPC(3), VPSDE(), SCORE, x, t)
