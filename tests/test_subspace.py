"""A score in a subspace above t_split, and a Gaussian's in the rest: exact moments and the exact likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.likelihood import Exact, log_likelihood
from scoresde.noise import NoiseSource
from scoresde.samplers import Ancestral, PredictorCorrector, ReverseDiffusion
from scoresde.samplers.discretization import ExactTransitions, GivenTimes
from scoresde.score.subspace import Subspace, SubspaceScore, orthogonal_divergence
from scoresde.sde import VPSDE, CriticallyDampedLangevin, SubVPSDE
from scoresde.sde.linalg.basis import Flat, haar, pca
from scoresde.solvers import ScipyODE

SDE, NARROW, SPLIT = VPSDE(), 0.05, 0.35
WIDE = torch.linspace(0.5, 2.0, 16, dtype=torch.float64)  # variances


def pooled():
    """Events (1, 8, 8), with the 16 averages kept."""
    kept = torch.zeros(1, 8, 8, dtype=torch.bool)
    kept[:, :4, :4] = True
    return Subspace(haar((1, 8, 8)), kept)


def rotated():
    """Events (64,), with 16 modes of a random basis kept that are not consecutive."""
    u = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    return Subspace(Flat(u, (64,)), torch.arange(64) % 4 == 1)


SUBSPACES = [pooled(), rotated()]
NAMES = ["pooling", "any basis"]


def gaussian(subspace, perp=NARROW):
    """Data with variances WIDE in the kept modes and perp^2 in the others; its low part; the wrapped score of both."""
    shape = subspace.basis.event_shape
    eye = torch.eye(64, dtype=torch.float64)
    low, rest = subspace.split(eye.reshape(64, *shape))
    covariance = low.flatten(1) @ WIDE.diag() @ low.flatten(1).mT + perp**2 * rest @ rest.mT
    full = GaussianMixture(torch.zeros(1, *shape), covariances=covariance[None])
    small = GaussianMixture(torch.zeros(1, *subspace.low_shape), WIDE.sqrt().reshape(1, *subspace.low_shape))
    return full, covariance, SubspaceScore(small.score(SDE), full.score(SDE), SDE, subspace, perp, SPLIT)


@pytest.mark.parametrize("subspace", SUBSPACES, ids=NAMES)
def test_split_and_merge(subspace):
    x = torch.randn(3, *subspace.basis.event_shape, dtype=torch.float64)
    low, perp = subspace.split(x)
    assert low.shape == (3, *subspace.low_shape)
    assert perp.shape == (3, 48)
    assert torch.allclose(subspace.merge(low, perp), x)
    assert torch.allclose(low.flatten(1).square().sum(1) + perp.square().sum(1), x.flatten(1).square().sum(1))
    assert subspace.merge(low.float(), perp.float()).dtype == torch.float32


def test_pooling_keeps_pictures():
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(pooled().down(x), 2 * torch.nn.functional.avg_pool2d(x, 2), atol=1e-6)
    assert pooled().low_shape == (1, 4, 4)
    corner = torch.ones(1, 8, 8, dtype=torch.bool)
    corner[0, 7, 7] = False
    assert Subspace(haar((1, 8, 8)), corner).low_shape == (63,)


@pytest.mark.parametrize("subspace", SUBSPACES, ids=NAMES)
def test_the_wrapped_score_is_the_exact_one(subspace):
    full, _, wrapped = gaussian(subspace)
    x = torch.randn(7, *subspace.basis.event_shape, dtype=torch.float64)
    for t in (torch.full((7,), 0.9), torch.full((7,), 0.2), torch.linspace(0.8, 0.1, 7), torch.tensor(0.6)):
        assert torch.allclose(wrapped(x, t.double()), full.score(SDE)(x, t.double()), rtol=1e-8, atol=1e-9)
    assert wrapped(x.float(), torch.full((7,), 0.9)).dtype == torch.float32


def test_each_side_evaluates_only_its_own_score():
    subspace, asked = pooled(), []

    def low(x, t, label=None):
        asked.append(("low", tuple(x.shape), None if label is None else label.tolist()))
        return -x

    def full(x, t, label=None):
        asked.append(("full", tuple(x.shape), None if label is None else label.tolist()))
        return -x

    wrapped = SubspaceScore(low, full, SDE, subspace, NARROW, SPLIT)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.9, 0.1, SPLIT])
    wrapped(x, torch.full((3,), 0.9))
    wrapped(x, torch.full((3,), 0.1))
    wrapped(x, t, label=torch.tensor([5, 6, 7]))
    assert asked == [
        ("low", (3, 1, 4, 4), None),
        ("full", (3, 1, 8, 8), None),
        ("low", (1, 1, 4, 4), [5]),
        ("full", (2, 1, 8, 8), [6, 7]),
    ]


def propagate(predictor, score, times, covariance, shape, denoise):
    """The covariance after the steps of a predictor under a linear score without mean, from the step on unit vectors."""
    d = len(covariance)
    unit = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    walk = ExactTransitions(len(times) - 1, GivenTimes(times)).transitions(SDE)
    for step in walk.steps(unit):
        slope = score(unit, step.t.expand(d))
        gain = predictor.map_step(SDE, step, unit, slope, 0 * unit)[1].reshape(d, d)
        scatter = predictor.map_step(SDE, step, 0 * unit, 0 * unit, unit)[0].reshape(d, d)
        covariance = gain.mT @ covariance @ gain
        if not (denoise and step.index == len(walk) - 1):
            covariance = covariance + scatter.mT @ scatter
    return covariance


def kl(found, wanted):
    """KL(N(0, found) || N(0, wanted)) in nats."""
    ratio = torch.linalg.solve(wanted, found)
    return 0.5 * float(ratio.trace() - len(found) - torch.linalg.slogdet(ratio)[1])


def two_legs(predictor, wrapped, times, split):
    """The covariance of samples drawn in two legs, and their cost relative to all steps in all dimensions."""
    subspace = wrapped.subspace
    low = propagate(
        predictor, wrapped.score_low, times[: split + 1], torch.eye(16).double(), subspace.low_shape, denoise=False
    )
    shape = subspace.basis.event_shape
    kept, rest = (v.flatten(1) for v in subspace.split(torch.eye(64, dtype=torch.float64).reshape(64, *shape)))
    joined = kept @ low @ kept.mT + rest @ wrapped.complement_variance(times[split]).diag() @ rest.mT
    steps = len(times) - 1
    cost = (split * 16 + (steps - split) * 64) / (steps * 64)
    return propagate(predictor, wrapped.score_full, times[split:], joined, shape, denoise=True), cost


@pytest.mark.covering
@pytest.mark.parametrize("predictor", [Ancestral(), ReverseDiffusion()], ids=repr)
@pytest.mark.parametrize("subspace", SUBSPACES, ids=NAMES)
def test_half_the_cost_and_no_loss(subspace, predictor):
    """200 steps: KL is at most 1.1 times that of full sampling, at .51 of its cost. Exact moments, not samples."""
    _, covariance, wrapped = gaussian(subspace)
    times = torch.linspace(1.0, 1e-3, 201, dtype=torch.float64)
    split = int((times > SPLIT).sum())
    shape = subspace.basis.event_shape
    whole = kl(propagate(predictor, wrapped.score_full, times, torch.eye(64).double(), shape, True), covariance)
    found, cost = two_legs(predictor, wrapped, times, split)
    print(f"{predictor}: full {whole:.4f} nats, two legs {kl(found, covariance):.4f} at cost {cost:.3f}")
    assert cost <= 0.55
    assert kl(found, covariance) <= 1.1 * whole
    assert 1e-3 < whole < 0.1  # a figure in which a loss would show


def test_a_complement_of_the_wrong_width_is_detected():
    """A jump that omits sigma, or the data's width, changes the figures."""
    subspace = pooled()
    _, covariance, wrapped = gaussian(subspace)
    times = torch.linspace(1.0, 1e-3, 201, dtype=torch.float64)
    late = int((times > 0.01).sum())
    right = kl(two_legs(Ancestral(), wrapped, times, late)[0], covariance)
    narrow = SubspaceScore(wrapped.score_low, wrapped.score_full, SDE, subspace, 0.0, SPLIT)
    assert kl(two_legs(Ancestral(), narrow, times, late)[0], covariance) > 2 * right


@pytest.mark.parametrize("subspace", SUBSPACES, ids=NAMES)
def test_likelihood_through_the_wrapped_score(subspace):
    full, _, wrapped = gaussian(subspace)
    x = full.sample(2, seed=3, dtype=torch.float64)
    found = log_likelihood(SDE, wrapped, x, solver=ScipyODE("DOP853", 1e-7, 1e-7), divergence=Exact(), t_min=1e-7)
    error = (found.log_prob - full.log_prob(x)).abs().max()
    print(f"log-likelihood {found.log_prob.tolist()}, largest error {float(error):.1e} nats")
    assert float(error) < 1e-3


def test_two_legs_of_the_library_s_samplers():
    subspace = pooled()
    _, _, wrapped = gaussian(subspace)
    times = torch.linspace(1.0, 1e-3, 201, dtype=torch.float64)
    split = int((times > SPLIT).sum())
    n = 600
    low = PredictorCorrector(Ancestral(), steps=times[: split + 1], denoise=False)(
        SDE, wrapped.score_low, (n, *subspace.low_shape), seed=0
    )
    wrapped = SubspaceScore(wrapped.score_low, wrapped.score_full, SDE, subspace, NARROW, float(times[split]))
    x = wrapped.join(low.samples, NoiseSource.of(1, n))
    result = PredictorCorrector(Ancestral(), steps=times[split:])(SDE, wrapped, (n, 1, 8, 8), start=x, seed=2)
    kept, rest = subspace.split(result.samples)
    assert float((kept.flatten(1).var(0) / WIDE).mean()) == pytest.approx(1.0, abs=0.05)
    assert float(rest.square().mean()) == pytest.approx(NARROW**2, rel=0.05)
    assert low.nfe + result.nfe == 200


def test_the_jump_has_the_wrapped_distribution():
    subspace = rotated()
    _, _, wrapped = gaussian(subspace, perp=0.4)
    low = torch.randn(2000, 16)
    x = wrapped.join(low, NoiseSource.of(0, 2000))
    kept, rest = subspace.split(x)
    at = torch.tensor(SPLIT).double()
    assert torch.allclose(kept, low, atol=1e-5)
    wanted = float(SDE.alpha(at) ** 2 * 0.16 + SDE.sigma(at) ** 2)
    assert float(rest.square().mean()) == pytest.approx(wanted, rel=0.02)
    assert torch.allclose(x[5:7], wrapped.join(low[5:7], NoiseSource.of(0, 2, first=5)), atol=1e-5)


def test_settling_corrects_a_wrong_complement():
    """Langevin steps on the complement: the kept modes do not change, the others' variance converges to the full score's."""
    subspace = pooled()
    _, _, wrapped = gaussian(subspace, perp=1.0)
    wrong = SubspaceScore(wrapped.score_low, wrapped.score_full, SDE, subspace, 0.1, SPLIT)
    low = torch.randn(400, 1, 4, 4, dtype=torch.float64)
    start = wrong.join(low, NoiseSource.of(0, 400))
    end = wrong.settle(start, NoiseSource.of(1, 400), steps=60)
    assert torch.allclose(subspace.down(end), low)
    before, after = (float(subspace.split(x)[1].square().mean()) for x in (start, end))
    assert before < 0.9
    assert after == pytest.approx(1.0, abs=0.05)
    assert torch.equal(wrong.settle(start, NoiseSource.of(1, 400), steps=0), subspace.merge(*subspace.split(start)))


def test_the_orthogonal_divergence_shows_where_to_split():
    """Two-point complement: far from Gaussian while the noise is low, Gaussian once it is not."""
    subspace = pooled()
    z = torch.randn(200, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signs = torch.ones(2, 48, dtype=torch.float64) * torch.tensor([[-0.3], [0.3]])
    means = subspace.merge(torch.zeros(2, 1, 4, 4, dtype=torch.float64), signs)
    data = GaussianMixture(means, 0.05)
    wrapped = SubspaceScore(lambda x, t: -x, data.score(SDE), SDE, subspace, math.hypot(0.3, 0.05), SPLIT)
    x0 = data.sample(200, dtype=torch.float64)
    found = orthogonal_divergence(wrapped, x0, [0.02, 0.2, 0.5, 0.9])
    assert (found.diff() < 0).all()
    assert float(found[0]) > 0.1 > 1e-2 > float(found[-1])
    exact = gaussian(subspace)[2]
    assert float(orthogonal_divergence(exact, subspace.merge(z, torch.zeros(200, 48).double()), [0.5])) < 1e-20


def test_widths_from_principal_axes():
    """PCA's own variances give the complement's widths, mode by mode."""
    full, _, _ = gaussian(rotated(), perp=0.2)
    basis, variances = pca(full.sample(4000, dtype=torch.float64))
    kept = torch.arange(64) < 16
    model = SubspaceScore(lambda x, t: -x, lambda x, t: -x, SDE, Subspace(basis, kept), variances.sqrt(), SPLIT)
    t = torch.tensor([0.5, 0.9], dtype=torch.float64)
    wanted = (SDE.alpha(t)[:, None] ** 2 * variances[16:]) + SDE.sigma(t)[:, None] ** 2
    assert torch.allclose(model.complement_variance(t), wanted)


def test_splits_can_be_nested():
    """Two splits: the low score is a wrapped score itself."""
    subspace = pooled()
    full, _, wrapped = gaussian(subspace)
    inner = torch.zeros(1, 4, 4, dtype=torch.bool)
    inner[:, :2, :2] = True
    lower = Subspace(Flat(torch.eye(16), (1, 4, 4)), inner)
    stds = WIDE.sqrt().reshape(1, 4, 4)
    smallest = GaussianMixture(torch.zeros(1, 1, 2, 2), stds[None, :, :2, :2])
    middle = SubspaceScore(smallest.score(SDE), wrapped.score_low, SDE, lower, stds, 0.6)
    both = SubspaceScore(middle, wrapped.score_full, SDE, subspace, NARROW, SPLIT)
    x, t = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0.9, 0.5, 0.7, 0.1]).double()
    assert torch.allclose(both(x, t), full.score(SDE)(x, t), rtol=1e-8, atol=1e-9)


def test_what_does_not_fit_is_named():
    subspace, score = pooled(), lambda x, t: -x
    with pytest.raises(ValueError, match="bool tensor"):
        Subspace(haar((1, 8, 8)), torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="keep at least one"):
        Subspace(haar((1, 8, 8)), torch.ones(1, 8, 8, dtype=torch.bool))
    with pytest.raises(TypeError, match="ScalarSDE"):
        SubspaceScore(score, score, CriticallyDampedLangevin(), subspace, NARROW, SPLIT)
    for split in (0.0, 1.0):
        with pytest.raises(ValueError, match="t_split"):
            SubspaceScore(score, score, SDE, subspace, NARROW, split)
    for std in (-0.1, math.nan, torch.ones(3)):
        with pytest.raises(ValueError, match="complement_std"):
            SubspaceScore(score, score, SDE, subspace, std, SPLIT)
    with pytest.raises(ValueError, match="made for"):
        SubspaceScore(gaussian(subspace)[0].score(SubVPSDE()), score, SDE, subspace, NARROW, SPLIT)
    wrapped = SubspaceScore(lambda x, t: x[:, :1, :1], score, SDE, subspace, NARROW, SPLIT)
    x = torch.randn(2, 1, 8, 8)
    with pytest.raises(ValueError, match="score_low returned"):
        wrapped(x, torch.full((2,), 0.9))
    with pytest.raises(ValueError, match="give times in"):
        wrapped(x, torch.full((2,), 1.1))
    with pytest.raises(ValueError, match="the shape of the subspace"):
        wrapped.join(torch.randn(2, 4), NoiseSource.of(0, 2))
