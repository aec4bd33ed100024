"""Thresholds of the predicted data: against their definitions, and in samplers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde import VESDE, VPSDE, GaussianMixture, ScoreModel, UniPC
from scoresde.conditions import Classes
from scoresde.distributions import SmoothedEmpirical
from scoresde.guidance import ClassifierFree, DynamicThreshold, StaticThreshold
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.samplers import DDIM, AdaptiveSDE, DPMSolverPlusPlus, EulerMaruyama
from scoresde.sde import BlurringSDE, CriticallyDampedLangevin, NonlinearSDE
from tests.params import examples

SDE = VPSDE()


def points(shape, seed=0):
    source = NoiseSource.of(seed, 5)
    return 2.0 * source.normal(shape, step=0, purpose="x", dtype=torch.float32), source.uniform(
        (), step=0, purpose="t", dtype=torch.float32
    ) * 0.9 + 0.05


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(
    st.sampled_from([(2,), (3, 2), (1, 3, 3)]),
    st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (-3.0, 0.5)]),
    st.integers(0, 9),
)
def test_the_predicted_data_is_in_the_range(shape, ends, seed):
    """s' = (alpha clip(x^) - x) / sigma^2, for events of any shape."""
    x, t = points(shape, seed)
    wide = GaussianMixture(torch.full((1, *shape), 3.0), 2.0).score(SDE)
    plain = SDE.data_from_score(x, t, wide(x, t))
    static = StaticThreshold(wide, *ends)
    found = static(x, t)
    assert torch.allclose(found, SDE.score_from_data(x, t, plain.clamp(*ends)), atol=1e-3, rtol=1e-3)
    low, high = ends
    dynamic = DynamicThreshold(wide, 0.8, *ends)
    data = dynamic.clipped(plain)
    assert float(data.min()) >= low - 1e-6 and float(data.max()) <= high + 1e-6
    assert torch.allclose(SDE.data_from_score(x, t, dynamic(x, t)), data, atol=1e-3)


def test_a_dynamic_threshold_is_its_definition():
    """s = max(1, quantile of |x^|) for each sample, and clip(x^, -s, s) / s."""
    data = torch.tensor([[0.5, -0.9, 0.1, 0.2], [4.0, -2.0, 1.0, 0.0]])
    found = DynamicThreshold(lambda_score(), 0.75).clipped(data)
    assert torch.equal(found[0], data[0]), "inside of the range nothing changes"
    assert torch.allclose(found[1], torch.tensor([1.0, -1.0, 0.5, 0.0]))
    whole = DynamicThreshold(lambda_score(), 1.0).clipped(data)
    assert torch.allclose(whole[1], data[1] / 4.0)
    shifted = DynamicThreshold(lambda_score(), 0.75, 0.0, 1.0).clipped(0.5 + 0.5 * data)
    assert torch.allclose(shifted, 0.5 + 0.5 * found)


def lambda_score():
    return GaussianMixture([[0.0]], 1.0).score(SDE)


@pytest.mark.parametrize("threshold", [StaticThreshold, DynamicThreshold])
@pytest.mark.parametrize(
    "sampler",
    [UniPC(8), DDIM(8), DPMSolverPlusPlus(8), EulerMaruyama(20), AdaptiveSDE(0.5)],
    ids=lambda s: type(s).__name__,
)
def test_nothing_changes_for_data_inside_of_the_range_with_the_exact_score(threshold, sampler):
    """Bit for bit, for data in [-.9, .9]."""
    data = 0.9 * torch.tanh(NoiseSource.of(0, 20).normal((1, 2, 3), step=0, purpose="data", dtype=torch.float32))
    score = SmoothedEmpirical(data, 0.0).score(SDE)
    plain = sampler(SDE, score, (6, 1, 2, 3), seed=3).samples
    assert torch.equal(sampler(SDE, threshold(score), (6, 1, 2, 3), seed=3).samples, plain)
    assert not torch.equal(sampler(SDE, threshold(score, low=-0.2, high=0.2), (6, 1, 2, 3), seed=3).samples, plain)


def test_samples_of_strong_guidance_stay_inside():
    """Two classes at the ends of [-1, 1], extrapolated with w = 8."""
    parts = [GaussianMixture([[m, 0.1 * m]], 0.2).score(SDE) for m in (-0.7, 0.7)]

    def score(x, t, *, label, dropped=None):
        both = torch.stack([part(x, t) for part in parts])
        under = both[label, torch.arange(len(x))]
        return under if dropped is None else torch.where(dropped[:, None], both.mean(0), under)

    score.sde = SDE
    y, guided = {"label": torch.tensor([0, 1]).repeat(100)}, ClassifierFree(score, 8.0)
    draw = DPMSolverPlusPlus(20)
    free = draw(SDE, guided, (200, 2), condition=y).samples
    static = draw(SDE, StaticThreshold(guided), (200, 2), condition=y).samples
    dynamic = draw(SDE, DynamicThreshold(guided, 1.0), (200, 2), condition=y).samples
    assert float((free.abs() > 1.0).float().mean()) > 0.3, "without a threshold samples leave the range"
    assert float(static.abs().max()) <= 1.0 + 1e-3 and float(dynamic.abs().max()) <= 1.0 + 1e-3
    assert bool((static[:, 0].sign() == y["label"] * 2 - 1).float().mean() > 0.95), "of the wanted class"
    ends = [float((x.abs() > 0.999).float().mean()) for x in (static, dynamic)]
    assert ends[0] > 0.3


def test_fewer_coordinates_at_the_ends_with_a_dynamic_threshold():
    data = 3.0 * NoiseSource.of(0, 50).normal((100,), step=0, purpose="data", dtype=torch.float32)
    at_ends = [
        float((one(lambda_score()).clipped(data).abs() > 0.999).float().mean())
        for one in (StaticThreshold, lambda s: DynamicThreshold(s, 0.9))
    ]
    assert at_ends[1] < 0.5 * at_ends[0] and at_ends[1] == pytest.approx(0.11, abs=0.005)


@pytest.mark.parametrize(
    ("sde", "shape"),
    [
        (CriticallyDampedLangevin(), (2, 3)),
        (BlurringSDE((1, 4, 4)), (1, 4, 4)),
        (VESDE(), (3,)),
        (SDE.discretize(50), (3,)),
    ],
    ids=["langevin", "blur", "ve", "chain"],
)
def test_processes_of_every_kind(sde, shape):
    """The data component of the prediction is clipped, and the rest of the state stays."""
    x, t = (value.double() for value in points(shape))
    t = (t * sde.T * 50).round() / 50
    score = StaticThreshold(Straight(sde), -0.1, 0.1)
    before, after = (sde.data_from_score(x, t, s(x, t)) for s in (score.score, score))
    assert torch.allclose(sde.extract_data(after), sde.extract_data(before).clamp(-0.1, 0.1), atol=1e-6)
    if sde.extract_data(x).shape != x.shape:
        assert torch.allclose(after[:, 1], before[:, 1], atol=1e-6), "the velocity"


class Straight:
    """-x as the score of a process."""

    def __init__(self, sde):
        self.sde = sde

    def __call__(self, x, t):
        return -x


def test_conditions_rows_and_an_interval():
    model = ScoreModel(MLP((2,), width=8, depth=1, conditions={"label": Classes(3)}), SDE)
    x, t = points((2,))
    y = torch.tensor([0, 1, 2, 0, 1])
    score = StaticThreshold(ClassifierFree(model, 2.0), -0.1, 0.1).given(label=y)
    assert torch.allclose(score.select_rows(torch.tensor([3, 1]))(x[[3, 1]], t[[3, 1]]), score(x, t)[[3, 1]], atol=1e-5)
    late = StaticThreshold(model, -0.1, 0.1, interval=(0.0, 0.5))
    inside = SDE.log_noise(t).exp() <= 0.5
    assert bool(inside.any()) and not bool(inside.all())
    assert torch.equal(late(x, t)[~inside], model(x, t)[~inside])
    assert torch.equal(late(x, t)[inside], StaticThreshold(model, -0.1, 0.1)(x, t)[inside])


def test_what_is_refused():
    nonlinear = Straight(NonlinearSDE(lambda x, t: -x, lambda t: 1.0 + 0 * t, prior=1.0))
    for make, kind, message in (
        (
            lambda: StaticThreshold(lambda_score(), 1.0, 1.0),
            ValueError,
            r"high=1\.0 is not allowed: give a finite number > 1\.0",
        ),
        (lambda: DynamicThreshold(lambda_score(), 1.5), ValueError, r"quantile=1\.5"),
        (lambda: DynamicThreshold(lambda_score(), 0.0), ValueError, r"quantile=0\.0"),
        (lambda: StaticThreshold(lambda x, t: x), TypeError, r"does not define E\[x_0 \| x_t\]"),
        (lambda: DynamicThreshold(nonlinear), TypeError, r"does not define E\[x_0 \| x_t\]"),
    ):
        with pytest.raises(kind, match=message):
            make()
