"""``check`` passes every sampler of the library, and names the common mistakes in a sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch

from scoresde.samplers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    ReverseSDESampler,
    Sampler,
)
from scoresde.samplers.base import CountedScore
from scoresde.samplers.checks import check
from scoresde.samplers.checks import report as report_module
from scoresde.samplers.predictor_corrector import BatchLangevin, Predictor
from scoresde.sde import VESDE, VPSDE, BlurringSDE, SubVPSDE
from tests.bare import Bare
from tests.params import some_long, whole

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 10.0)}


COARSE = (10, 20, 40, 80, 160)
COUNTS = {} if whole() else {"counts": COARSE}
"""By default fewer steps: 310 in all in place of 775."""
FEW = COARSE if whole() else (10, 14, 20, 28, 40)
"""Steps for mistakes that 112 steps in all tell apart."""
NEEDS_MORE = ("h for its root", "score's sign")
"""Mistakes that 112 steps do not tell from others."""


def stepped(predictor, corrector=None, **kwargs):
    return lambda steps: PredictorCorrector(predictor, corrector, steps=steps, **kwargs)


SAMPLERS = {
    "euler": (stepped(EulerMaruyama()), 1, True),
    "euler, noisy": (stepped(EulerMaruyama(), denoise=False), 1, False),
    "euler, flow": (stepped(EulerMaruyama(flow=True)), 1, True),
    "reverse diffusion": (stepped(ReverseDiffusion()), 1, True),
    "reverse diffusion, flow": (stepped(ReverseDiffusion(flow=True)), 1, True),
    "ancestral": (stepped(Ancestral()), 1, True),
    "ancestral, lower": (stepped(Ancestral(variance="lower")), 1, True),
    "flow": (lambda _: ProbabilityFlowODE(denoise=False), None, True),
    "flow, denoised": (lambda _: ProbabilityFlowODE(), None, True),
    "annealed": (stepped(ReverseDiffusion(), AnnealedLangevin()), 0, True),
    "langevin": (stepped(ReverseDiffusion(), Langevin()), 0, True),
}


def quick(make_sampler, sde=SDES["vp"], part=None, **kwargs):
    """``check``, or one part of it, with few samples."""
    with pytest.MonkeyPatch.context() as patch:
        if part is not None:
            patch.setattr(report_module, "_PARTS", {part: report_module._PARTS[part]})
        return check(make_sampler, sde, **{"samples": 1000, **COUNTS, **kwargs})


ORDER = "order of convergence"


OF_A_KIND = ("euler, noisy", "reverse diffusion, flow", "ancestral, lower", "flow, denoised", "annealed")
"""Samplers that differ from another one of ``SAMPLERS`` in one argument; tests/samplers/test_orders.py has their orders."""


@pytest.mark.covering
@pytest.mark.parametrize("sampler", some_long(SAMPLERS, OF_A_KIND))
@pytest.mark.parametrize("name", SDES)
def test_every_sampler_passes(name, sampler):
    make, order, denoised = SAMPLERS[sampler]
    fine = whole() or "ancestral" in sampler  # at 10 steps far from its limit
    counts = (10, 20, 40, 80, 200) if order == 0 else (25, 50, 100, 200, 400) if fine else COARSE
    report = quick(make, SDES[name], order=order, denoised=denoised, counts=counts)
    assert report.passed, f"\n{report}"
    assert len(report.rows) == 9 + denoised


@pytest.mark.parametrize("name", some_long(SDES, ["subvp", "ve"]))
def test_torchsde_passes(name):
    report = quick(lambda steps: ReverseSDESampler(steps=steps), SDES[name], order=1, denoised=True)
    assert report.passed, f"\n{report}"


def test_matrix_processes_and_larger_events_pass():
    blurring = {"event_shape": (3,), "order": 1, "samples": 100, "counts": (20, 40, 60, 80, 120)}
    report = quick(stepped(ReverseDiffusion()), BlurringSDE((3,)), **blurring)
    assert report.passed, f"\n{report}"
    report = quick(stepped(EulerMaruyama()), SDES["subvp"], event_shape=(1, 2), order=1, samples=300)
    assert report.passed, f"\n{report}"


@dataclass(frozen=True)
class Planted(Predictor):
    """Euler-Maruyama method with factors on f, g^2 score and noise, and with a power of the step on the noise."""

    f: float = 1.0
    pull: float = 1.0
    noise: float = 1.0
    power: float = 0.5

    def step(self, model, x, interval, z, past):
        at, h = interval.at, interval.h
        mean = x - (self.f * at.F * x - self.pull * at.g**2 * model.score(x, at)) * h
        return mean + self.noise * at.g * h**self.power * z, mean, None


class GlobalNoise(EulerMaruyama):
    def step(self, model, x, interval, z, past):
        return super().step(model, x, interval, torch.randn_like(x), past)


class SharedNoise(EulerMaruyama):
    """The same noise for the whole batch."""

    def step(self, model, x, interval, z, past):
        return super().step(model, x, interval, z.mean(0, keepdim=True).expand_as(x), past)


class FloatSampler(PredictorCorrector):
    def run(self, sde, score, x, noise, callback):
        state, times = super().run(sde, score, x, noise, callback)
        return state.float(), times


class Uncounted(PredictorCorrector):
    def run(self, sde, score, x, noise, callback):
        return super().run(sde, CountedScore(score.score), x, noise, callback)


class Upwards(PredictorCorrector):
    def run(self, sde, score, x, noise, callback):
        state, times = super().run(sde, score, x, noise, callback)
        return state, times.flip(0)


class NoStart(PredictorCorrector):
    """Ignores its start. Its predictor uses no noise."""

    def run(self, sde, score, x, noise, callback):
        return super().run(sde, score, 0.0 * x, noise, callback)


class NotFromOneStep(PredictorCorrector):
    def run(self, sde, score, x, noise, callback):
        state, times = super().run(sde, score, x, noise, callback)
        return state / (0.0 if len(times) == 2 else 1.0), times


def of(kind, predictor=EulerMaruyama()):  # noqa: B008  (frozen)
    return lambda steps: kind(predictor, steps=steps)


MISTAKES = {
    "noise dropped": (stepped(Planted(noise=0.0)), "order of convergence", "dropped"),
    "h for its root": (stepped(Planted(power=1.0)), "order of convergence", "scaled by h where its square root"),
    "noise doubled": (stepped(Planted(noise=2.0)), "order of convergence", "twice the scale"),
    "factor 2 in g^2": (stepped(Planted(noise=math.sqrt(2.0))), "order of convergence", "factor 2 in g^2 too many"),
    "noise halved": (stepped(Planted(noise=0.5)), "order of convergence", "half the scale"),
    "drift halved": (stepped(Planted(f=0.5)), "order of convergence", "drift f is halved"),
    "drift's sign": (stepped(Planted(f=-1.0)), "order of convergence", "drift f has the wrong sign"),
    "score halved": (stepped(Planted(pull=0.5)), "order of convergence", "score's term is half"),
    "score doubled": (stepped(Planted(pull=2.0)), "order of convergence", "score's term is twice"),
    "score's sign": (stepped(Planted(pull=-1.0)), "order of convergence", "score has the wrong sign"),
    "mixture, noise dropped": (stepped(Planted(noise=0.0)), "distribution of a mixture", "dropped or halved"),
    "mixture, score's sign": (stepped(Planted(pull=-1.0)), "distribution of a mixture", "sign"),
    "global noise": (stepped(GlobalNoise()), "global random state", "global state of torch"),
    "global noise, batch": (stepped(GlobalNoise()), "a sample and its batch", "keyed by the sample"),
    "one draw for all": (stepped(SharedNoise()), "a sample and its batch", "over the batch"),
    "batch's norm": (stepped(ReverseDiffusion(), BatchLangevin()), "a sample and its batch", "norm"),
    "dtype": (of(FloatSampler), "shapes and types", "samples are torch.float32"),
    "uncounted": (of(Uncounted), "evaluations counted", "call the score that run is given"),
    "upwards": (of(Upwards), "times", "do not descend"),
    "no start": (of(NoStart, EulerMaruyama(flow=True)), "another seed, another sample", "use its noise"),
    "one step": (of(NotFromOneStep), "one step and two", "steps=1"),
}


OF_PART = {"evaluations counted": "times", "another seed, another sample": "a sample and its batch"}
"""Rows of a part of the check with another name."""


@pytest.mark.parametrize("whole", some_long([False, True], [True]))
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_caught_and_named(mistake, whole):
    """By default only the part of the check with this row runs."""
    make, line, hint = MISTAKES[mistake]
    report = quick(
        make,
        part=None if whole else OF_PART.get(line, line),
        order=0 if mistake == "batch's norm" else 1,
        counts=COARSE if mistake in NEEDS_MORE else FEW,
    )
    row = next((r for r in report.rows if r.name == line), None)
    assert row is not None, f"\n{report}"
    assert not row.passed, f"\n{report}"
    assert hint in row.hint, f"\n{report}"
    assert "FAIL" in str(report)


@pytest.mark.parametrize("name", some_long(SDES, ["subvp", "ve"]))
def test_the_planted_method_without_a_mistake_passes(name):
    report = quick(stepped(Planted()), SDES[name], order=1)
    assert report.passed, f"\n{report}"


@pytest.mark.covering
@pytest.mark.parametrize("mistake", ["noise dropped", "factor 2 in g^2", "score halved", "score's sign"])
@pytest.mark.parametrize("name", ["subvp", "ve"])
def test_mistakes_are_named_on_other_processes(name, mistake):
    make, line, hint = MISTAKES[mistake]
    row = next(r for r in quick(make, SDES[name], line, order=1, samples=50).rows if r.name == line)
    assert not row.passed and hint in row.hint, row


def test_a_flow_with_the_whole_score_is_caught():
    """A deterministic method with g^2 score instead of g^2 score / 2 is the reverse SDE without its noise."""
    row = quick(stepped(Planted(noise=0.0)), part=ORDER, order=1, samples=50, counts=FEW).rows[0]
    assert not row.passed and "dropped" in row.hint
    row = quick(stepped(Planted(noise=0.0, pull=0.25)), part=ORDER, order=1, samples=50, counts=FEW).rows[0]
    assert not row.passed and "g^2 score / 2" in row.hint


def test_an_order_that_is_not_reached_is_reported():
    row = quick(stepped(EulerMaruyama(flow=True)), part=ORDER, order=2, samples=50).rows[0]
    assert not row.passed
    assert "not with the order stated" in row.hint


def test_noise_in_the_final_samples_is_detected():
    report = quick(stepped(EulerMaruyama(), denoise=False), order=1, denoised=True)
    assert [row.name for row in report.rows if not row.passed] == ["noise left by the last step"], f"\n{report}"


def test_a_mistake_with_step_sizes_that_depend_on_the_score_is_caught():
    """The output is not affine, and its distribution is estimated from samples."""
    report = quick(stepped(Planted(noise=0.5), Langevin(snr=0.02)), order=0, counts=COARSE)
    row = next(r for r in report.rows if r.name == "distribution of Gaussian data")
    assert not row.passed, f"\n{report}"


def test_refusals():
    with pytest.raises(TypeError, match="has no closed-form kernel"):
        check(stepped(EulerMaruyama()), Bare())
    with pytest.raises(ValueError, match="counts="):
        check(stepped(EulerMaruyama()), VPSDE(), counts=(10, 20, 40))
    with pytest.raises(ValueError, match="event_shape="):
        check(stepped(EulerMaruyama()), VPSDE(), event_shape=())


def test_an_error_of_the_sampler_is_a_row_of_the_report():
    class Broken(Sampler):
        def run(self, sde, score, x, noise, callback):
            raise RuntimeError("not today")

    report = check(lambda steps: Broken(), VPSDE())
    assert not report.passed
    assert "raised RuntimeError: not today" in str(report)


def test_the_global_random_state_is_restored():
    before = torch.random.get_rng_state()
    check(stepped(GlobalNoise()), VPSDE(), counts=FEW, samples=100)
    assert torch.equal(before, torch.random.get_rng_state())
