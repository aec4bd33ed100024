"""Particles against closed forms: evidence, posteriors, weights, and planted errors in each of their terms."""

from __future__ import annotations

import math

import pytest
import torch

import scoresde.samplers.particles as module
from scoresde import VPSDE, GaussianMixture, ScoreModel
from scoresde.conditions import Classes
from scoresde.filters import FilteredNoise, SpectralFilter
from scoresde.guidance import ClassifierFree, ClassifierGuidance, IsotropicMoments, TaskGuidance, TweedieMoments
from scoresde.networks import MLP
from scoresde.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Langevin,
    ParticleSampler,
    PredictorCorrector,
    ReferenceDiscretization,
    ReverseDiffusion,
    UniPC,
)
from scoresde.samplers.populations import Weights
from scoresde.samplers.predictor_corrector import SymmetricSplitting
from scoresde.samplers.reverse_kernels import reverse_kernels
from scoresde.score import Classifier
from scoresde.sde import VESDE, CriticallyDampedLangevin, NonlinearSDE
from scoresde.tasks import edit

F64, SDE = torch.float64, VPSDE()
PRIOR, Y, STD, STEPS = GaussianMixture([[0.5]], 0.6), 1.2, 0.3, 10


def log_likelihood(x):
    """log N(y; x_0, std^2) of one number."""
    return -0.5 * ((x[:, 0] - Y) / STD) ** 2 - math.log(STD * math.sqrt(2.0 * math.pi))


def identity(x):
    return x


def drawn_by(predictor, steps=STEPS, sde=SDE, denoise=True):
    """Mean and variance of the numbers that a predictor draws without guidance, by the recursion of its linear steps."""
    plan = ParticleSampler(2, steps, predictor).discretization
    size = math.prod(sde.state_shape((1,)))
    mean, covariance = torch.zeros(size, dtype=F64), torch.eye(size, dtype=F64)
    unit = torch.cat([torch.zeros(1, size, dtype=F64), torch.eye(size, dtype=F64)]).reshape(-1, *sde.state_shape((1,)))
    *rest, last = reverse_kernels(predictor, sde, plan, unit)[1]
    for kernel in (*rest, last):
        moved = kernel.mean(unit, PRIOR.score(sde)(unit, kernel.time)).flatten(1)
        a = (moved[1:] - moved[0]).T
        mean, covariance = a @ mean + moved[0], a @ covariance @ a.T
        if kernel is not last or not denoise:
            root = kernel.scale(unit[1:]).flatten(1).T
            covariance = covariance + root @ root.T
    return float(mean[0]), float(covariance[0, 0])


def expected(mean, variance):
    """Log-evidence, posterior mean and posterior variance for data N(mean, variance)."""
    total = variance + STD**2
    gain = variance / total
    return -0.5 * ((Y - mean) ** 2 / total + math.log(2 * math.pi * total)), mean + gain * (Y - mean), gain * STD**2


def deviations(result, exact):
    """Evidence, posterior mean and posterior variance of independent populations, in standard errors from the exact ones."""
    found = result.particles
    z = (found.log_evidence - exact[0]).exp()
    x = found.states.double().reshape(*found.log_weights.shape, -1)[..., 0] - exact[1]
    first, second = ((found.log_weights.exp() * f).sum(1) for f in (x, x**2 - exact[2]))
    # the evidence times a mean is unbiased for any number of particles
    return [float(v.mean() / v.std() * len(v) ** 0.5) for v in (z - 1.0, z * first, z * second)]


GUIDED = {
    "without guidance": lambda: (PRIOR.score(SDE), log_likelihood),
    "moments": lambda: (TweedieMoments(PRIOR.score(SDE), identity, torch.tensor([[Y]]), STD), None),
    "weight 2": lambda: (TweedieMoments(PRIOR.score(SDE), identity, torch.tensor([[Y]]), STD, weight=2.0), None),
    "interval": lambda: (IsotropicMoments(PRIOR.score(SDE), identity, torch.tensor([[Y]]), STD, interval=(0.1, 1.0)), None),
    "denoised": lambda: (TaskGuidance(PRIOR.score(SDE), log_likelihood, denoised=True), None),
}  # fmt: skip
PREDICTORS = {
    "upper": Ancestral(), "lower": Ancestral(variance="lower"), "reverse diffusion": ReverseDiffusion(),
    "Euler-Maruyama": EulerMaruyama(), "DDIM": DDIM(eta=1.0),
}  # fmt: skip


def run(guided="moments", predictor="lower", particles=40, count=500, seed=0, **options):
    score, likelihood = GUIDED[guided]()
    sampler = ParticleSampler(particles, STEPS, PREDICTORS[predictor], log_likelihood=likelihood, **options)
    return sampler(SDE, score, (count, 1), seed=seed)


class TestLimit:
    @pytest.mark.parametrize(
        ("guided", "predictor"),
        [*((name, "lower") for name in GUIDED), *(("moments", name) for name in PREDICTORS if name != "lower")],
    )
    @pytest.mark.parametrize("denoise", [True, False])
    def test_evidence_and_posterior_of_what_the_predictor_draws(self, guided, predictor, denoise, worst):
        """10 steps, whose bias is large: the target is the posterior under the numbers that they draw without guidance."""
        exact = expected(*drawn_by(PREDICTORS[predictor], denoise=denoise))
        result = run(guided, predictor, denoise=denoise, threshold=0.97)
        assert bool(result.particles.resampled.any()) == (
            guided != "without guidance"
        )  # weights are equal until the end
        off = max(map(abs, deviations(result, exact)))
        worst("particles: standard errors from closed forms", off)
        assert off < 4.0
        assert (
            abs(float(result.samples.mean()) - exact[1]) < 0.04 and abs(float(result.samples.var()) - exact[2]) < 0.02
        )

    def test_more_steps_lead_to_the_data(self):
        found = [expected(*drawn_by(PREDICTORS["lower"], steps))[0] for steps in (10, 40, 160)]
        true = expected(0.5, 0.36)[0]
        assert abs(found[2] - true) < abs(found[1] - true) / 3 < abs(found[0] - true) / 9

    def test_the_error_of_the_evidence(self):
        """At least 90 % of 400 populations within two standard errors, with resampling and without it."""
        exact = expected(*drawn_by(PREDICTORS["lower"]))[0]
        for threshold in (0.0, 1.0):
            found = run(particles=200, count=400, threshold=threshold).particles
            assert float(found.resampled.sum(0).double().mean()) == (9.0 if threshold else 0.0)
            within = (found.log_evidence - exact).abs() < 2.0 * found.log_evidence_error
            assert float(within.double().mean()) >= 0.9
            ratio = found.log_evidence_error.square().mean().sqrt() / found.log_evidence.std()
            assert 0.8 < float(ratio) < 1.3, threshold

    def test_modes(self):
        """The shares of two modes: plain guidance has others."""
        prior = GaussianMixture([[-1.0], [1.5]], 0.25, [0.7, 0.3])
        guided = TaskGuidance(prior.score(SDE), lambda x: -0.5 * (x[:, 0] - 0.2) ** 2 / 0.8**2, denoised=True)
        logits = [math.log(w) - 0.5 * (m - 0.2) ** 2 / (0.8**2 + 0.25**2) for w, m in ((0.7, -1.0), (0.3, 1.5))]
        share = float(torch.tensor(logits).softmax(0)[1])
        result = ParticleSampler(100, 50, Ancestral(variance="lower"))(SDE, guided, (400, 1), seed=0)
        found = result.particles
        weighted = float((found.log_weights.exp() * (found.states[..., 0] > 0.2)).sum(1).mean())
        plain = float((UniPC(50)(SDE, guided, (4000, 1), seed=0).samples > 0.2).float().mean())
        assert abs(weighted - share) < 0.02 < abs(plain - share)
        assert abs(float((result.samples > 0.2).float().mean()) - share) < 0.07

    @pytest.mark.parametrize(
        ("sde", "predictor"),
        [
            (CriticallyDampedLangevin(), ReverseDiffusion()), (CriticallyDampedLangevin(), Ancestral(variance="lower")),
            (VESDE(sigma_max=5.0), Ancestral()),
        ],
    )  # fmt: skip
    def test_other_processes(self, sde, predictor):
        """The directions of CLD are those of position and velocity. The likelihood is of the position."""
        exact = expected(*drawn_by(predictor, 40, sde)) if not isinstance(sde, VESDE) else None
        guided = TaskGuidance(PRIOR.score(sde), log_likelihood, denoised=True)
        result = ParticleSampler(50, 40, predictor)(sde, guided, (300, 1), seed=0)
        if exact is None:  # its start has another variance than 1
            exact = expected(0.5, 0.36)
            assert abs(float(result.samples.mean()) - exact[1]) < 0.1
        else:
            assert max(map(abs, deviations(result, exact))) < 4.0
        assert result.state.shape == (300, *sde.state_shape((1,))) and result.samples.shape == (300, 1)


class NotReset(Weights):
    """Weights that resampling leaves as they are."""

    def resample(self, threshold, noise, step):
        before = self.log
        rows = super().resample(threshold, noise, step)
        self.log = before
        return rows


class TestPlantedErrors:
    """Each wrong term moves evidence or posterior by many standard errors."""

    def off(self):
        """With resampling before every step."""
        exact = expected(*drawn_by(PREDICTORS["lower"]))
        return max(map(abs, deviations(run("moments", threshold=1.0), exact)))

    def test_none(self):
        assert self.off() < 4.0

    def test_the_sign_of_the_kernel_ratio(self, monkeypatch):
        right = module.inner
        monkeypatch.setattr(module, "inner", lambda a, b: -right(a, b))
        assert self.off() > 10.0

    def test_no_square_in_the_kernel_ratio(self, monkeypatch):
        right = module.inner
        monkeypatch.setattr(module, "inner", lambda a, b: right(a - 0.5 * b, b))
        assert self.off() > 10.0

    def test_weights_that_are_not_reset(self, monkeypatch):
        monkeypatch.setattr(module, "Weights", NotReset)
        assert self.off() > 10.0

    def test_no_last_potential(self, monkeypatch):
        monkeypatch.setattr(TweedieMoments, "data_log_likelihood", lambda self, x, t: x.new_zeros(len(x)))
        assert self.off() > 10.0

    def test_no_first_potential(self, monkeypatch):
        terms = TweedieMoments.terms
        monkeypatch.setattr(
            TweedieMoments,
            "terms",
            lambda self, x, t: (*(found := terms(self, x, t))[:2], found[2] * (t < SDE.T)),
        )
        assert self.off() < 4.0, "any potential is allowed, also 1 at the start"
        monkeypatch.setattr(Weights, "multiply", _without_first(Weights.multiply))
        monkeypatch.setattr(TweedieMoments, "terms", terms)
        assert self.off() > 4.0


def _without_first(multiply):
    def wrong(self, log_factor):
        if self.sizes:
            multiply(self, log_factor)

    return wrong


class TestRows:
    """Each population belongs to its sample."""

    def test_a_sample_does_not_depend_on_its_batch(self):
        y = torch.tensor([[-0.5], [0.2], [0.9], [1.5]])
        guided = TweedieMoments(PRIOR.score(SDE), identity, y, 0.05)
        sampler = ParticleSampler(30, 20, threshold=0.9)
        whole = sampler(SDE, guided, (4, 1), seed=3)
        part = sampler(SDE, guided.select_rows(torch.tensor([1, 2])), (2, 1), seed=3, first=1)
        assert torch.allclose(whole.samples[1:3], part.samples, atol=1e-5) and part.first == 1
        for name in ("states", "log_weights", "log_evidence", "log_evidence_error"):
            assert torch.allclose(getattr(whole.particles, name)[1:3], getattr(part.particles, name), atol=1e-4), name
        assert torch.equal(whole.particles.resampled[:, 1:3], part.particles.resampled)
        other = sampler(SDE, guided, (4, 1), seed=4).samples
        assert not torch.allclose(whole.samples, other) and whole.particles.resampled.any()
        assert float((whole.samples - y).abs().max()) < 0.2, "each sample is near its own measurement"

    def test_conditions(self):
        """Labels of a classifier, by condition= and by a model."""
        parts = [GaussianMixture([[m]], 0.2) for m in (-1.0, 1.0)]
        free = GaussianMixture([[-1.0], [1.0]], 0.2)

        class Known:
            sde = SDE

            def __call__(self, x, t):
                return self.log_prob(x, t, 0)

            def log_prob(self, x, t, target):
                joint = torch.stack([part.log_prob_at(SDE, x, t) for part in parts], 1)
                return joint.log_softmax(1)[torch.arange(len(x)), target]

        y = torch.tensor([0, 1, 1, 0])
        guided = ClassifierGuidance(free.score(SDE), Known())
        result = ParticleSampler(20, 15)(SDE, guided, (4, 1), condition={"label": y}, seed=0)
        assert torch.equal((result.samples[:, 0] > 0).long(), y)
        model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"size": Classes(3)}), SDE)
        classifier = Classifier(MLP((2,), width=8, depth=1, outputs=3), SDE, classes=3)
        condition = {"size": torch.tensor([0, 1]), "label": torch.tensor([2, 0])}
        result = ParticleSampler(8, 4)(SDE, ClassifierGuidance(model, classifier), (2, 2), condition=condition)
        assert result.samples.shape == (2, 2) and result.nfe == 4

    def test_the_likelihood_of_the_argument_has_rows(self):
        class Near:
            def __init__(self, y):
                self.y = y

            def __call__(self, x):
                return -50.0 * (x[:, 0] - self.y) ** 2

            def select_rows(self, index):
                return Near(self.y[index])

        y = torch.tensor([-0.5, 0.5, 1.5])
        sampler = ParticleSampler(200, 10, log_likelihood=Near(y))
        for score in (PRIOR.score(SDE), TaskGuidance(PRIOR.score(SDE), lambda x, t: -((x[:, 0] - 0.5) ** 2))):
            x = sampler(SDE, score, (3, 1), seed=0).samples[:, 0]
            assert float((x - y).abs().max()) < 0.4

    def test_a_start(self):
        """All particles begin there, and edit gives samples near a guide."""
        guided = TweedieMoments(PRIOR.score(SDE), identity, torch.tensor([[0.6]]), STD)
        guide = torch.tensor([[0.2], [1.0], [0.6]])
        result = edit(ParticleSampler(20, 10), SDE, guided, guide, 0.05, seed=1)
        assert result.samples.shape == (3, 1) and float((result.samples - guide).abs().max()) < 0.6
        seen = []
        start = torch.tensor([[0.3], [-0.4]])
        ParticleSampler(3, 4)(SDE, guided, (2, 1), start=start, callback=lambda k, t, x: seen.append(x))
        assert torch.equal(seen[0], start.repeat_interleave(3, 0)) and len(seen) == 5


class TestResult:
    def test_the_record(self):
        result = run("denoised", count=5, particles=20)
        found = result.particles
        assert found.states.shape == (5, 20, 1) and found.log_weights.dtype == F64
        assert torch.allclose(found.log_weights.logsumexp(1), torch.zeros(5, dtype=F64))
        assert found.effective_sizes.shape == found.resampled.shape == (STEPS + 1, 5)
        assert float(found.effective_sizes.min()) >= 1.0 and float(found.effective_sizes.max()) <= 20.0 + 1e-9
        assert torch.equal(found.resampled[:-2], found.effective_sizes[:-2] < 10.0), (
            "resampled only below the threshold"
        )
        assert not found.resampled[-2:].any(), "the last step has no noise"
        own = (found.states == result.state[:, None]).flatten(2).all(2).any(1)
        assert bool(own.all()) and result.nfe == STEPS and result.spent.tolist() == [STEPS] * 5
        assert "20 for each of 5 samples" in repr(found) and not result.failed.any()

    def test_one_evaluation_for_each_step(self):
        calls = []

        class Counted:
            sde = SDE

            def __call__(self, x, t):
                calls.append(len(x))
                return PRIOR.score(SDE)(x, t)

        guided = TweedieMoments(Counted(), identity, torch.tensor([[Y]]), STD)
        ParticleSampler(7, 5)(SDE, guided, (2, 1))
        assert calls[-5:] == [14] * 5 and len(calls) <= 6  # one call checks the number of rows

    def test_one_particle_is_the_proposal(self):
        guided = TweedieMoments(PRIOR.score(SDE), identity, torch.tensor([[Y]]), STD)
        result = ParticleSampler(1, 20, ReverseDiffusion(), denoise=False)(SDE, guided, (4000, 1), seed=0)
        plain = ReverseDiffusion(20, denoise=False)(SDE, guided, (4000, 1), seed=0)
        assert abs(float(result.samples.mean() - plain.samples.mean())) < 0.04
        assert torch.isnan(result.particles.log_evidence_error).all()

    def test_an_interrupt(self):
        def stop(k, t, x):
            if k == 3:
                raise KeyboardInterrupt

        result = ParticleSampler(6, 10)(SDE, GUIDED["moments"]()[0], (2, 1), callback=stop)
        assert result.interrupted and result.samples.shape == (2, 1) and result.particles.states.shape == (2, 6, 1)
        assert torch.isnan(result.particles.log_evidence).all()

    def test_half_precision_trajectory_and_reference_grid(self):
        guided = GUIDED["moments"]()[0]
        result = ParticleSampler(6, 10)(SDE, guided, (2, 1), dtype=torch.bfloat16, keep_every=5)
        assert result.samples.dtype == torch.bfloat16 and result.trajectory.states.shape == (3, 12, 1)
        assert ParticleSampler(6, ReferenceDiscretization(30))(SDE, guided, (2, 1)).samples.shape == (2, 1)

    def test_a_likelihood_that_is_zero(self):
        """Particles with weight 0 are lost; a sample is lost if all its particles are."""
        hard = ParticleSampler(100, 10, log_likelihood=lambda x: torch.where(x[:, 0] > 1.0, 0.0, -math.inf))
        assert float(hard(SDE, PRIOR.score(SDE), (20, 1), seed=0).samples.min()) > 1.0
        rows = torch.arange(200) >= 100
        impossible = ParticleSampler(100, 10, log_likelihood=lambda x: torch.where(rows, 0.0, -math.inf))
        with pytest.raises(FloatingPointError, match=r"of 1 of 2 samples, with indices \[5\], have no weights"):
            impossible(SDE, PRIOR.score(SDE), (2, 1), seed=0, first=5)
        result = impossible(SDE, PRIOR.score(SDE), (2, 1), seed=0, allow_failed=True)
        assert result.failed.tolist() == [True, False]
        assert torch.isnan(result.particles.log_evidence).tolist() == [True, False]


SCORE = PRIOR.score(SDE)
GUIDANCE = TaskGuidance(SCORE, lambda x, t: -(x[:, 0] ** 2))
FILTER = SpectralFilter(space=torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ParticleSampler(0), ValueError, "particles=0"),
        (lambda: ParticleSampler(threshold=1.5), ValueError, "threshold=1.5"),
        (lambda: ParticleSampler(log_likelihood=3), TypeError, "log_likelihood=3"),
        (lambda: ParticleSampler(predictor=DDIM()), TypeError, r"predictor=DDIM\(.*no steps that add Gaussian noise"),
        (lambda: ParticleSampler(predictor=ReverseDiffusion(flow=True)), TypeError, "no steps that add Gaussian noise"),
        (lambda: ParticleSampler(predictor=SymmetricSplitting()), TypeError, "no steps that add Gaussian noise"),
        (lambda: ParticleSampler(predictor=UniPC(3)), TypeError, "predictor=UniPC"),
        (lambda: ParticleSampler(predictor=PredictorCorrector(Ancestral(), Langevin())), TypeError, "predictor=Pred"),
        (lambda: ParticleSampler(predictor=Ancestral(10)), ValueError, "has a grid of its own: give steps"),
        (lambda: ParticleSampler(3, 3)(SDE, SCORE, (2, 1)), TypeError, "has no log potential.*or log_likelihood= to"),
        (lambda: ParticleSampler(3, 3)(SDE, ClassifierFree(SCORE), (2, 1)), TypeError, "ClassifierFree.* has no log potential"),
        (lambda: ParticleSampler(3)(NonlinearSDE(lambda x, t: -x, lambda t: t), GUIDANCE, (2, 1)), TypeError, "no closed-form"),
        (lambda: ParticleSampler(3, 3)(SDE, GUIDANCE, (2, 1), hooks=[lambda m: m.x]), TypeError, "does not take hooks"),
        (lambda: ParticleSampler(3, 3)(SDE, GUIDANCE, (2, 1), noise=FilteredNoise.of(0, 2, filter=FILTER)), ValueError,
            "noise is a FilteredNoise, and the weights"),
        (lambda: ParticleSampler(3, 3)(VESDE(), GUIDANCE, (2, 1)), ValueError, "VESDE"),
        (lambda: ParticleSampler(3, 3)(SDE, GUIDANCE, (0, 1)), ValueError, "shape="),
        (lambda: ParticleSampler(3, 3)(SDE, GUIDANCE, (2, 1), start=torch.zeros(3, 1)), ValueError, "start has shape"),
        (lambda: ParticleSampler(3, 3, EulerMaruyama())(CriticallyDampedLangevin(), TaskGuidance(
            PRIOR.score(CriticallyDampedLangevin()), lambda x, t: -(x[:, 0, 0] ** 2)), (2, 1)), TypeError, "give Ancestral"),
        (lambda: ParticleSampler(3, 3, log_likelihood=lambda x: x)(SDE, SCORE, (2, 1)), ValueError, "log_likelihood returned"),
        (lambda: ParticleSampler(3, 3)(SDE, TweedieMoments(SCORE, identity, torch.zeros(1, 1)), (2, 1)), ValueError,
            "a measurement without noise has no density"),
        (lambda: ParticleSampler(3, 3)(SDE, TweedieMoments(SCORE, identity, torch.zeros(3, 1)), (2, 1)), ValueError,
            "measurement has shape"),
        (lambda: ParticleSampler(3, 3)(SDE, GUIDANCE, (2, 1), seed=0, first=2**31), ValueError, "indices"),
    ],
)  # fmt: skip
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_score_that_is_not_finite():
    sampler = ParticleSampler(4, 3, log_likelihood=log_likelihood)
    with pytest.raises(FloatingPointError, match="the score or a potential is not finite"):
        sampler(SDE, lambda x, t: x * math.nan, (2, 1))


def test_its_representation():
    made = ParticleSampler(8, 20, ReverseDiffusion(), threshold=0.3)
    names = {"ParticleSampler": ParticleSampler, "ReverseDiffusion": ReverseDiffusion}
    assert repr(made).startswith("ParticleSampler(particles=8, steps=20, predictor=ReverseDiffusion(")
    again = eval(repr(made), {**names, "uniform": made.grid})
    assert repr(again) == repr(made)
    assert repr(made.prior) == repr(ReverseDiffusion(20))
