"""DDIM, consistent annealed sampling, adaptive SDE steps, grids for a model, and results."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    DDIM,
    EDM,
    AdaptiveSDE,
    Ancestral,
    DPMSolverPlusPlus,
    Langevin,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReferenceDiscretization,
    UniPC,
    check,
    grids,
)
from scoresde.samplers.adaptive.adaptive_sde import Paths
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.exponential import Churn, ExponentialMultistep, NoiseParameterization
from scoresde.samplers.fitted import AdaptiveGrid, adaptive_grid
from scoresde.samplers.predictor_corrector import ConsistentAnnealed
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, NonlinearSDE, Shifted, SubVPSDE
from scoresde.solvers import ScipyODE
from tests.params import some_long

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 10.0)}


def mixture(event_shape=(2,)):
    d = math.prod(event_shape)
    means = torch.stack([torch.full((d,), 0.7), torch.full((d,), -0.7)]).reshape(2, *event_shape)
    return GaussianMixture(means, torch.tensor([0.2, 0.3]), torch.tensor([0.3, 0.7]))


# --- DDIM and consistent annealed sampling ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SDES)
def test_ddim_with_eta_one_is_the_ancestral_step(name):
    sde = SDES[name]
    runs = [
        PredictorCorrector(p, steps=20, grid=grids.log_noise)(sde, mixture().score(sde), (4, 2), dtype=torch.float64)
        for p in (DDIM(eta=1.0), Ancestral(variance="lower"))
    ]
    assert torch.allclose(runs[0].samples, runs[1].samples, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", SDES)
def test_ddim_without_noise_is_the_first_order_flow(name):
    sde, steps = SDES[name], ExactTransitions(20, grids.log_noise)
    kwargs = {"seed": 4, "dtype": torch.float64}
    found = PredictorCorrector(DDIM(), steps=steps)(sde, mixture().score(sde), (4, 2), **kwargs)
    flow = ExponentialMultistep(steps, 1, NoiseParameterization(), denoise=False)(
        sde, mixture().score(sde), (4, 2), **kwargs
    )
    assert torch.allclose(found.samples, flow.samples, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("eta", some_long([0.0, 0.5, 1.0], [0.0, 1.0]))
def test_ddim_passes_the_selfcheck(eta):
    def make(n):
        return PredictorCorrector(DDIM(eta=eta), steps=n, grid=grids.log_noise)

    for sde in (SDES["vp"], SDES["ve"]):
        report = check(make, sde, order=1, denoised=True, samples=300, counts=(20, 40, 80, 160, 240))
        assert report.passed, f"\n{report}"


def test_ddim_on_the_chain_s_table_and_on_blocks():
    langevin = CriticallyDampedLangevin()
    for sde, steps in ((SDES["vp"], ReferenceDiscretization(100)), (langevin, ExactTransitions(50, grids.log_noise))):
        x = PredictorCorrector(DDIM(eta=0.5), Langevin(0.05), steps=steps)(
            sde, mixture().score(sde), (500, 2), seed=1
        ).samples
        # 500 draws of a distribution with standard deviation 0.70: the mean is known to 0.031, five of them
        assert abs(float(x.mean()) + 0.28) < 0.16 and abs(float(x.std()) - 0.70) < 0.15


@pytest.mark.parametrize("eta", [0.062, 0.3, 0.6])
def test_annealed_sampling_is_consistent_for_data_at_a_single_point(eta):
    """The standard deviation of each of 232 levels is the process's, to 1e-12 (arXiv:2009.05475, proposition 1)."""
    sde = VESDE(0.01, 10.0)
    walk = ExactTransitions(231, grids.log_noise).transitions(sde)
    like = torch.zeros(3, 1, dtype=torch.float64)
    predictor = ConsistentAnnealed(eta=eta).prepare(sde, walk, like)
    std = float(sde.sigma(walk.times[0]))
    for step in walk.steps(like):
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        z = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
        out, _ = predictor.map_step(sde, step, x, -x / sde.sigma(step.t) ** 2, z)
        std = math.hypot(float(out[1] - out[0]) * std, float(out[2] - out[0]))
        assert abs(std / float(sde.sigma(step.s)) - 1.0) < 1e-9


def test_annealed_sampling_passes_the_selfcheck_at_a_small_step():
    def make(n):
        return PredictorCorrector(ConsistentAnnealed(eta=0.1), steps=n, grid=grids.log_noise)

    report = check(
        make, SDES["ve"], order=0, denoised=True, samples=1000, counts=(70, 90, 110, 150, 200), allowance=0.12
    )
    failed = [row for row in report.rows if not row.passed]
    assert [row.name for row in failed] in ([], ["one step and two"]), f"\n{report}"


def test_errors_of_ddim_and_consistent_annealed_sampling():
    with pytest.raises(ValueError, match="would retain more noise than x_s has, at 10 of 10 steps"):
        PredictorCorrector(ConsistentAnnealed(eta=0.1), steps=10)(SDES["ve"], lambda x, t: -x, (2, 2))
    with pytest.raises(ValueError, match=r"eta=1\.5"):
        DDIM(eta=1.5)
    with pytest.raises(TypeError, match="prepare"):
        DDIM().map_step(None, None, None, None, None)


# --- adaptive steps of the reverse SDE ----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", ["vp", "ve"])
def test_adaptive_steps_pass_the_selfcheck(name):
    report = check(lambda n: AdaptiveSDE(0.05), SDES[name], denoised=True, samples=1000, counts=(10, 20, 40, 80, 160))
    assert report.passed, f"\n{report}"


def test_new_noise_after_a_rejected_step_is_detected(monkeypatch):
    """Planted: the paper's rule, new noise for each attempt, which is wrong by a factor of 2 on one coordinate."""
    distribution = GaussianMixture(torch.zeros(1, 1), torch.full((1, 1), 0.5))
    stored, drawn_again = [], []
    for found in (stored, drawn_again):
        x = AdaptiveSDE(0.05)(SDES["ve"], distribution.score(SDES["ve"]), (1000, 1), seed=3).samples
        found.append(float(x.std()) / 0.5)
        monkeypatch.setattr(Paths, "settle", lambda *_: None)
    assert abs(stored[0] - 1.0) < 5 / math.sqrt(2000) + 0.05 and drawn_again[0] > 1.5


def test_increments_of_a_path_add_up():
    """The accepted increments sum to the increment of the whole step, however the step is divided and rejected."""
    x = torch.zeros(1, 3, dtype=torch.float64)
    paths, rows, noise = Paths(x), torch.tensor([0]), NoiseSource.of(0, 1)

    def attempt(h, k, good):
        z = noise.normal((3,), step=k, purpose="test", dtype=torch.float64)
        width, rise = paths.propose(rows, torch.tensor([h], dtype=torch.float64), z)
        paths.settle(rows, width, rise, torch.tensor([good]))
        return float(width), rise

    whole = attempt(1.0, 0, False)
    attempt(0.5, 1, False)
    accepted = [attempt(0.3, 2, True), attempt(0.4, 3, True), attempt(0.25, 4, True), attempt(9.0, 5, True)]
    assert sum(w for w, _ in accepted) == pytest.approx(1.0) and [round(w, 3) for w, _ in accepted] == [
        0.3,
        0.2,
        0.25,
        0.25,
    ]
    assert torch.allclose(sum(rise for _, rise in accepted), whole[1])
    assert int(paths.count) == 0


def test_each_sample_has_its_own_adaptive_steps():
    result = AdaptiveSDE(0.05)(SDES["vp"], mixture().score(SDES["vp"]), (16, 2), seed=1)
    assert result.nfe == int(result.spent.max()) and int(result.spent.min()) < result.nfe
    sde = NonlinearSDE(VPSDE().drift, VPSDE().diffusion, steps=10)
    score = mixture().score(VPSDE())
    x = AdaptiveSDE(0.05, denoise=False)(sde, lambda x, t: score(x, t), (16, 2), seed=1)
    assert torch.isfinite(x.samples).all()
    with pytest.raises(FloatingPointError, match="not finite"):
        AdaptiveSDE(max_steps=3)(SDES["vp"], score, (2, 2))
    of_state = NonlinearSDE(
        VPSDE().drift, lambda x, t: VPSDE().apply_diffusion(1 + 0 * x, t), steps=10, divergence=lambda x, t: 0 * x
    )
    with pytest.raises(ValueError, match="diffusion that depends on the state"):
        AdaptiveSDE()(of_state, lambda x, t: -x, (2, 2))


# --- any event, any batch -----------------------------------------------------------------------------------------

FAMILY = {
    "2M": DPMSolverPlusPlus(8),
    "SDE 2M": DPMSolverPlusPlus(8, eta=1.0),
    "SDE 2M on a path": ExponentialMultistep(8, eta=1.0, cell=0.5),
    "UniPC": UniPC(8),
    "EDM": EDM(8, churn=Churn(2.0)),
    "DDIM": PredictorCorrector(DDIM(eta=0.5), steps=8),
    "adaptive": AdaptiveSDE(0.5),
}


@pytest.mark.parametrize("sampler", FAMILY)
def test_any_event_and_any_batch(sampler):
    make, sde = FAMILY[sampler], SDES["vp"]
    for shape in [(), (3,), (2, 1, 2, 3)]:
        assert make(sde, lambda x, t: -x, (2, *shape)).samples.shape == (2, *shape)
    score = mixture((1, 2)).score(sde)
    seven = make(sde, score, (7, 1, 2), seed=11).samples
    alone = make(sde, score, (1, 1, 2), seed=11, first=5).samples
    assert torch.allclose(seven[5:6], alone, atol=2e-5)
    assert not torch.allclose(seven, make(sde, score, (7, 1, 2), seed=12).samples, atol=1e-2)
    assert type(make).__name__ in repr(make)


# --- grids --------------------------------------------------------------------------------------------------------


def test_subsequences_of_a_chain():
    even = grids.subsequence(VPSDE(), 11) * 1000
    assert torch.equal(even.round(), torch.linspace(1000, 1, 12, dtype=torch.float64).round())
    squares = grids.subsequence(VPSDE(), 10, power=2.0) * 1000
    assert float(squares[0]) == 1000 and float(squares[-1]) == pytest.approx(1)
    assert float(squares[5]) == pytest.approx(1000 * (0.5 * (1 + 1000**-0.5)) ** 2, abs=0.5)
    with pytest.raises(ValueError, match="would be used twice"):
        grids.subsequence(VPSDE(), 500, power=2.0)


def test_an_adaptive_grid_needs_fewer_steps():
    """Errors of paths from new starts with 24 steps of UniPC-2: at most half of those on uniform and log-noise grids."""
    centers = torch.linspace(-0.8, 0.8, 5, dtype=torch.float64)
    distribution = GaussianMixture(torch.cartesian_prod(centers, centers), 0.05)
    sde = SDES["vp"]
    score = distribution.score(sde)
    grid = adaptive_grid(sde, score, (32, 2), seed=1)
    times = grid(sde, 12)
    assert isinstance(grid, AdaptiveGrid) and bool((times.diff() < 0).all())
    assert float(times[0]) == 1.0 and float(times[-1]) == 1e-3
    assert torch.equal(grid(sde.discretize(100), 12), times)
    for other in (VPSDE(0.1, 19.0), Shifted(sde, torch.ones(2))):
        with pytest.raises(ValueError, match="not what this grid was made for, VPSDE"):
            grid(other, 12)
    start = sde.prior_sample((64, 2), seed=2, dtype=torch.float64)
    exact = ProbabilityFlowODE(ScipyODE(rtol=1e-7, atol=1e-7), denoise=False)(sde, score, (64, 2), start=start).samples

    def error(grid):
        result = UniPC(24, 2, denoise=False, grid=grid)(sde, score, (64, 2), start=start)
        return float((result.samples - exact).square().mean().sqrt())

    assert error(grid) < 0.5 * min(error(grids.log_noise), error(grids.uniform))


# --- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UniPC", "DDIM", "adaptive", "flow"])
def test_a_trajectory_is_stored(name):
    sampler = {"flow": ProbabilityFlowODE(), **FAMILY}[name]
    sde, score = SDES["vp"], mixture().score(SDES["vp"])
    seen = []
    result = sampler(sde, score, (3, 2), keep_every=3, callback=lambda k, t, x: seen.append((float(t), x.clone())))
    kept = result.trajectory
    assert float(kept.times[0]) == 1.0 and float(kept.times[-1]) == seen[-1][0]
    assert kept.states.shape == (len(kept.times), 3, 2)
    assert torch.equal(kept.states[-1], seen[-1][1])
    where = [t for t, _ in seen].index(float(kept.times[1]))
    assert torch.equal(kept.states[1], seen[where][1])
    if name == "adaptive":  # its samples have their own times
        assert kept.data is None
    else:
        assert kept.data.shape == kept.states.shape and torch.equal(kept.data[-1], result.samples)
    if name in ("UniPC", "DDIM"):
        mean = sde.data_from_score(kept.states[1], kept.times[1], score(kept.states[1], kept.times[1].expand(3)))
        assert torch.allclose(kept.data[1], mean, atol=1e-4)
    assert sampler(sde, score, (3, 2)).trajectory is None


@pytest.mark.parametrize("name", FAMILY)
def test_an_interrupt_returns_the_current_estimates(name):
    score, calls = mixture().score(SDES["vp"]), []

    def stopping(x, t):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return score(x, t)

    result = FAMILY[name](SDES["vp"], stopping, (3, 2))
    assert result.interrupted and result.nfe == 6 and "interrupted" in repr(result)
    assert result.samples.shape == (3, 2) and 0 < float(result.times[-1]) < 1

    def at_once(x, t):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAMILY[name](SDES["vp"], at_once, (3, 2))


def test_other_samples_are_returned_if_one_fails():
    def score(x, t):
        return torch.where(torch.arange(len(x))[:, None] == 1, torch.nan, -x)

    for sampler in (UniPC(5), PredictorCorrector(steps=5)):
        result = sampler(SDES["vp"], score, (3, 2), allow_failed=True)
        assert result.failed.tolist() == [False, True, False] and "1 failed" in repr(result)
        assert torch.isfinite(result.samples[[0, 2]]).all()
        with pytest.raises(FloatingPointError, match="allow_failed=True"):
            sampler(SDES["vp"], score, (3, 2))


def test_progress_is_printed(capsys, monkeypatch):
    clock = iter(float(k) for k in range(10_000))
    monkeypatch.setattr("scoresde.samplers.base.time.monotonic", lambda: next(clock))
    UniPC(5)(SDES["vp"], lambda x, t: -x, (2, 2), progress=True)
    printed = capsys.readouterr().err
    assert "step 5, t = 0.001" in printed and printed.endswith("\n")
    UniPC(5)(SDES["vp"], lambda x, t: -x, (2, 2))
    assert capsys.readouterr().err == ""
