"""Samplers from the user's point of view: event shapes, pairings, independence of samples from their batch, errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde.distributions import GaussianMixture
from scoresde.samplers import (
    Ancestral,
    AnnealedLangevin,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReferenceDiscretization,
    ReverseDiffusion,
    ReverseSDESampler,
    grids,
)
from scoresde.samplers.base import CountedScore
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.predictor_corrector import BatchLangevin
from scoresde.sde import VESDE, VPSDE, MatrixSDE, Shifted, SubVPSDE
from scoresde.sde.linalg.basis import fourier
from scoresde.solvers import ScipyODE, TorchSDE

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 10.0)}
PREDICTORS = [
    None, EulerMaruyama(), EulerMaruyama(flow=True), ReverseDiffusion(), ReverseDiffusion(flow=True), Ancestral(),
    Ancestral(variance="lower"),
]  # fmt: skip
CORRECTORS = [None, Langevin(), AnnealedLangevin(), Langevin(steps=2), BatchLangevin()]


def mixture(event_shape=(2,)):
    d = math.prod(event_shape)
    means = torch.stack([torch.full((d,), 0.7), torch.full((d,), -0.7)]).reshape(2, *event_shape)
    return GaussianMixture(means, torch.tensor([0.2, 0.3]), torch.tensor([0.3, 0.7]))


@pytest.mark.covering
@pytest.mark.parametrize("corrector", CORRECTORS, ids=repr)
@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
@pytest.mark.parametrize("name", SDES)
def test_any_pairing_on_any_process(name, predictor, corrector):
    """Also pairings that fail in the reference: correctors on sub-VP, Euler with probability flow, ancestral on sub-VP."""
    if predictor is None and corrector is None:
        with pytest.raises(ValueError, match="at least one"):
            PredictorCorrector(predictor, corrector)
        return
    sde = SDES[name]
    for steps in (ExactTransitions(5), ReferenceDiscretization(25)):
        result = PredictorCorrector(predictor, corrector, steps=steps)(sde, mixture().score(sde), (3, 2))
        assert result.samples.shape == (3, 2)
        assert torch.isfinite(result.samples).all()
        count = len(result.times) - 1
        assert result.nfe == count * ((predictor is not None) + (corrector.steps if corrector else 0))


@pytest.mark.covering
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (1, 4, 6), (3, 2, 2, 2)])
@pytest.mark.parametrize("name", SDES)
def test_any_event_rank(name, shape):
    sde = SDES[name]

    def score(x, t):
        return -x / (1 + sde.sigma(t).reshape(-1, *[1] * (x.ndim - 1)) ** 2)

    samplers = [
        PredictorCorrector(ReverseDiffusion(), Langevin(), steps=4),
        ProbabilityFlowODE(ScipyODE(rtol=1e-2, atol=1e-2)),
        ReverseSDESampler(steps=4),
    ]
    for sampler in samplers:
        assert sampler(sde, score, (2, *shape)).samples.shape == (2, *shape)


SAMPLERS = {
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(), steps=30),
    "em": PredictorCorrector(EulerMaruyama(), AnnealedLangevin(steps=2), steps=30),
    "ancestral": PredictorCorrector(Ancestral(), None, steps=30),
    "torchsde": ReverseSDESampler(steps=30),
    "torchsde srk": ReverseSDESampler(TorchSDE("srk"), steps=30),
    "flow": ProbabilityFlowODE(ScipyODE(rtol=1e-7, atol=1e-7)),
}
TOLERANCE = {"flow": 1e-4}  # the batch has common steps, so samples agree up to about the tolerance of the solver


def in_modes(event_shape):
    """Langevin diffusion whose rate increases with the frequency."""
    basis = fourier(event_shape)
    rate = (3.0 + basis.frequencies().square().sum(0))[..., None, None]
    f, g = torch.tensor([[0.0, 4.0], [-1.0, -4.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 2.0**0.5]]).double()
    return MatrixSDE(
        f * rate, g * rate.sqrt(), basis=basis, aux_std=0.1, prior_covariance=torch.tensor([1.0, 0.25]).diag()
    )


ON_EVENTS = SDES | {"shifted": Shifted(VPSDE(), torch.full((1, 2, 2), 3.0)), "blocks in modes": in_modes((1, 2, 2))}


@pytest.mark.covering
@pytest.mark.parametrize(
    ("name", "sampler"),
    [(n, s) for n in ON_EVENTS for s in SAMPLERS if n != "blocks in modes" or s in ("pc", "ancestral")],  # seconds each
)
def test_a_sample_does_not_depend_on_its_batch(name, sampler):
    """The same seed gives the same sample alone, in a batch of 7 and in a batch of 64: to 1e-5, the flow to 1e-4."""
    sde = ON_EVENTS[name]
    score = mixture((1, 2, 2)).score(sde)
    run, tolerance = SAMPLERS[sampler], TOLERANCE.get(sampler, 1e-5)
    batch = run(sde, score, (64, 1, 2, 2), seed=11).samples
    seven = run(sde, score, (7, 1, 2, 2), seed=11).samples
    alone = run(sde, score, (1, 1, 2, 2), seed=11, first=5).samples
    assert torch.allclose(batch[:7], seven, atol=tolerance)
    assert torch.allclose(batch[5:6], alone, atol=tolerance)
    other = run(sde, score, (7, 1, 2, 2), seed=12).samples
    assert not torch.allclose(other, seven, atol=1e-2)


def test_samples_of_the_reference_corrector_depend_on_their_batch():
    """The test above detects norms that are averaged over the batch, as in the compatibility corrector."""
    sde = SDES["ve"]
    score = mixture().score(sde)
    sampler = PredictorCorrector(ReverseDiffusion(), BatchLangevin(), steps=30)
    batch, seven = (sampler(sde, score, (n, 2), seed=11).samples for n in (64, 7))
    assert not torch.allclose(batch[:7], seven, atol=1e-3)


@pytest.mark.covering
@pytest.mark.parametrize("sampler", ["pc", "em", "ancestral", "torchsde", "flow"])
@pytest.mark.parametrize("name", SDES)
def test_samples_have_the_distribution(name, sampler):
    """Share of the heavy mode and the variance within the modes; 2000 draws, five standard errors (a false alarm in 1e6), plus
    the discretization of 200 steps."""
    sde, distribution = SDES[name], mixture()
    samplers = {
        "pc": PredictorCorrector(ReverseDiffusion(), Langevin(0.1), steps=200),
        "em": PredictorCorrector(EulerMaruyama(), steps=200),
        "ancestral": PredictorCorrector(Ancestral(), steps=200),
        "torchsde": ReverseSDESampler(steps=200),
        "flow": ProbabilityFlowODE(),
    }
    x = samplers[sampler](sde, distribution.score(sde), (2000, 2), seed=1).samples
    assert passes(x)
    assert not passes(1.35 * x), "a planted factor must be seen"
    assert not passes(-x), "a planted exchange of the modes must be seen"


def passes(x):
    heavy = x.sum(1) < 0
    share = float(heavy.float().mean())
    inside = float((x[heavy] + 0.7).std())
    return (
        abs(share - 0.7) < 5 * math.sqrt(0.21 / 2000) + 0.02
        and abs(inside - 0.3) < 5 * 0.3 / math.sqrt(2 * 2800) + 0.03
    )


@given(steps=st.integers(1, 60), t_min=st.floats(1e-4, 0.5), name=st.sampled_from(sorted(SDES)))
@settings(max_examples=30, deadline=None)
def test_grids_descend_between_their_ends(steps, t_min, name):
    for grid in (grids.uniform, grids.log_noise, grids.karras):
        times = grid(SDES[name], steps, t_min)
        assert times.dtype == torch.float64
        assert times.shape == (steps + 1,)
        assert times[0] == SDES[name].T and times[-1] == t_min
        assert bool((times.diff() < 0).all())


def test_karras_is_geometric_in_noise_for_large_rho_and_linear_for_one():
    sde = SDES["ve"]
    levels = sde.sigma(grids.karras(sde, 10, 1e-3, rho=1.0))
    assert torch.allclose(levels.diff(), levels.diff()[0].expand(10), rtol=1e-9)
    levels = sde.sigma(grids.karras(sde, 10, 1e-3, rho=1e6)).log()
    assert torch.allclose(levels.diff(), levels.diff()[0].expand(10), rtol=1e-4)


def test_langevin_step_stays_finite_at_a_mode():
    sde = SDES["vp"]
    x, z = torch.zeros(1, 2), torch.ones(1, 2)
    interval = ExactTransitions(10).intervals(sde, grids.uniform(sde, 10), x)[5]
    state, *_ = Langevin(0.16).step(Model(CountedScore(lambda x, t: 0 * x), sde), x, interval, z, None)
    bound = math.sqrt(2 * 2 * 2.5 / 2 * (0.16 * interval.level) ** 2 * 1.0)
    assert float(state.abs().max()) <= bound * 1.001


class TestRefusals:
    """Errors before the first step name the argument."""

    score = staticmethod(lambda x, t: -x)

    def test_shape(self):
        for shape in [(), (0, 2), (2, -1), (2.0, 2)]:
            with pytest.raises(ValueError, match="shape="):
                PredictorCorrector(steps=2)(VPSDE(), self.score, shape)

    def test_start(self):
        with pytest.raises(ValueError, match="start has shape"):
            PredictorCorrector(steps=2)(VPSDE(), self.score, (2, 3), start=torch.zeros(2, 4))

    def test_score_of_another_shape(self):
        with pytest.raises(ValueError, match="score returned shape"):
            PredictorCorrector(steps=2)(VPSDE(), lambda x, t: x[:, :1], (2, 3))

    def test_non_finite_samples_name_their_indices(self):
        def score(x, t):
            s = -x
            s[1] = math.nan
            return s

        with pytest.raises(FloatingPointError, match=r"indices \[8\]"):
            PredictorCorrector(steps=2)(VPSDE(), score, (3, 2), first=7)

    def test_process(self):
        with pytest.raises(TypeError, match="give a process"):
            PredictorCorrector(steps=2)("vp", self.score, (2, 3))

    def test_arguments(self):
        with pytest.raises(ValueError, match="snr=0"):
            Langevin(snr=0.0)
        with pytest.raises(ValueError, match=r"variance='uper'.*did you mean 'upper'"):
            Ancestral(variance="uper")
        with pytest.raises(ValueError, match="steps=0"):
            ExactTransitions(0)
        with pytest.raises(TypeError, match="predictor='em' is not allowed: give a Predictor"):
            PredictorCorrector("em")
        with pytest.raises(ValueError, match="too few"):
            PredictorCorrector(steps=ReferenceDiscretization(10))(VPSDE(), self.score, (2, 3))

    def test_grid(self):
        ascending = ExactTransitions(3, lambda sde, n: torch.linspace(0, 1, n + 1))
        with pytest.raises(ValueError, match="descending"):
            PredictorCorrector(steps=ascending)(VPSDE(), self.score, (2, 3))
        outside = ExactTransitions(3, lambda sde, n: torch.linspace(1.5, 0, n + 1))
        with pytest.raises(ValueError, match=r"give times in \[0, 1\]"):
            PredictorCorrector(steps=outside)(VPSDE(), self.score, (2, 3))


def test_global_random_state_is_neither_read_nor_changed():
    before = torch.random.get_rng_state()
    for sampler in SAMPLERS.values():
        sampler(VPSDE(), mixture().score(VPSDE()), (2, 2))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.long
def test_a_compiled_score_gives_the_same_samples():
    """``torch.compile`` with a backend that traces but needs no C++ compiler."""
    network = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.SiLU(), torch.nn.Linear(16, 6))

    def score(x, t):
        return -x / (0.1 + t[:, None]) + 0.1 * network(x)

    compiled, sampler = torch.compile(score, backend="aot_eager"), DPMSolverPlusPlus(6, eta=1.0)
    plain, found = (sampler(VPSDE(), f, (4, 6), seed=1).samples for f in (score, compiled))
    assert torch.allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(
        sampler(VPSDE(), lambda x, t: 0.999 * score(x, t), (4, 6), seed=1).samples, plain, rtol=1e-5
    )


@pytest.mark.parametrize("sampler", [PredictorCorrector(ReverseDiffusion(), Langevin(), steps=3), DPMSolverPlusPlus(3)])
def test_a_float64_score_does_not_change_the_dtype_of_samples(sampler):
    sde = SDES["vp"]
    exact = mixture().score(sde)
    plain = sampler(sde, exact, (3, 2)).samples
    found = sampler(sde, lambda x, t: exact(x.double(), t.double()), (3, 2)).samples
    assert found.dtype == plain.dtype == torch.float32
    assert torch.allclose(found, plain, atol=1e-5)
