"""Samplers fitted to a model: equation, accuracy, stated errors, files and error messages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.samplers import Fast, ProbabilityFlowODE, UniPC, fit, grids
from scoresde.samplers.exponential import ExponentialMultistep, Whitened
from scoresde.samplers.fitted import Expectation, FittedMultistep, FittedSampler, Pilot
from scoresde.samplers.fitted import fit_method as fitting
from scoresde.samplers.fitted import stages as fit_stages
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, NonlinearSDE, Shifted, SubVPSDE
from scoresde.solvers import RungeKutta
from scoresde.solvers.quadrature import adams
from tests.params import some_long

WIDE = {"dtype": torch.float64}


def mixture(event_shape=(2,), away=0.0):
    means = torch.tensor([[0.6, 0.5], [-0.6, 0.1], [0.2, -0.7]], dtype=torch.float64).reshape(3, *event_shape)
    return GaussianMixture(means + away, torch.tensor([0.08, 0.12, 0.05], dtype=torch.float64))


@pytest.fixture(scope="module")
def case():
    """A process, a score, a pilot, and a fit with four steps."""
    sde = VPSDE()
    score = mixture().score(sde)
    pilot = Pilot.of(sde, score, (128, 2), fine=100, **WIDE)
    return sde, score, pilot, fit(sde, score, 4, pilot=pilot, search=8)


def drawn(sampler, sde, score, pilot):
    shape = (len(pilot.starts), *pilot.mean.shape)
    return sampler(sde, score, shape, start=pilot.starts)


@pytest.mark.parametrize("sde", [VPSDE(), SubVPSDE(), VESDE(0.01, 10.0)], ids=["vp", "subvp", "ve"])
def test_adams_weights_give_the_adams_bashforth_method(sde):
    """Compare with the exponential integrator for the same method, on a grid that starts at T."""
    score, times = mixture().score(sde), grids.log_noise(sde, 7)
    weights, _ = adams(sde.log_spread(times), 2)
    b = torch.zeros(7, 2, dtype=torch.float64)
    for i, row in enumerate(weights):
        b[i, : len(row)] = row.flip(0)
    ours = FittedMultistep(times[:-1], float(times[-1]), torch.ones(7).double(), b, torch.zeros(2).double(), 0.5)
    plain = ExponentialMultistep(times, 2, Whitened(data_std=0.5), denoise=False)
    one, two = (s(sde, score, (16, 2), seed=3, **WIDE) for s in (ours, plain))
    torch.testing.assert_close(one.samples, two.samples, rtol=1e-9, atol=1e-9)
    assert one.nfe == 7
    torch.testing.assert_close(one.times, times)


def test_finite_differences_stay_on_the_path(case):
    """If the last time is t_min, no score is evaluated below it, and the derivative by this time is one-sided."""
    _, score, pilot, _ = case
    seen = []

    def watched(x, t):
        seen.append(float(t.min()))
        return score(x, t)

    low, high = pilot.grid.u[0], pilot.grid.u[-1]
    u = torch.linspace(0.5 * high, low, 4, dtype=torch.float64)
    numbers = fit_stages.stepwise(watched, pilot, fit_stages.whitened_paths(pilot), u, 3)
    search = fit_stages.Search(watched, pilot, numbers)
    found = search.jacobian(search.at)[:, 3]
    assert min(seen) >= pilot.grid.t_min
    up = numbers.vector()
    up[3] += 1e-4
    wanted = (search.residuals(up) - search.residuals(numbers.vector())) / 1e-4
    assert abs(found - wanted).max() < 0.02 * abs(wanted).max()


def test_a_fit_of_four_steps_is_more_accurate_than_methods_without_a_fit(case):
    sde, score, _, made = case
    assert isinstance(made.sampler, FittedMultistep)
    new = Pilot.of(sde, score, (128, 2), fine=100, seed=1, **WIDE)
    result = drawn(made, sde, score, new)
    assert result.nfe == 4
    error = new.error(result.state)
    others = [new.error(drawn(s, sde, score, new).state) for s in fitting.plain_samplers(new, 4).values()]
    assert error < min(others) / 4.0
    assert 0.0 < made.expected.standard_error < made.expected.error
    assert abs(error - made.expected.error) < 3.0 * made.expected.standard_error


def test_the_stated_error_is_measured_on_new_starts(case):
    """A fit with as many parameters as data overfits: its error on the fitted half is small, and the stated error is not."""
    sde, score, pilot, made = case
    new = Pilot.of(sde, score, (500, 2), fine=60, seed=5, **WIDE)
    assert made.expected.starts == 2000
    assert abs(made.expected.error - new.error(drawn(made, sde, score, new).state)) < 3.0 * made.expected.standard_error
    few = pilot.subset(slice(0, 16))
    overfitted = fit(sde, score, 5, pilot=few, search=20, history=4, held_out=200)
    on_fitted = few.subset(slice(0, 8))
    assert on_fitted.error(drawn(overfitted, sde, score, on_fitted).state) < 0.5 * overfitted.expected.error


def test_the_stated_error_allows_for_a_mode_that_the_pilot_misses():
    """None of 128 starts ends in a mode of 0.2 %. The stated error agrees with the mean over 4000 other starts."""
    sde = VPSDE()
    distribution = GaussianMixture(
        torch.tensor([[-0.8, 0.0], [0.8, 0.2], [0.5, 6.0]]),
        torch.tensor([0.1, 0.15, 0.05]),
        torch.tensor([0.499, 0.499, 0.002]),
    )
    score = distribution.score(sde)
    pilot = Pilot.of(sde, score, (128, 2), fine=60, **WIDE)
    assert float(pilot.ends[:, 1].max()) < 3.0
    made = fit(sde, score, 4, pilot=pilot, search=2)
    stated, new = made.expected, Pilot.of(sde, score, (4000, 2), fine=60, seed=9, **WIDE)
    errors = new.distances(drawn(made, sde, score, new).state)
    assert float(errors.mean()) < stated.error + 3.0 * stated.standard_error
    assert stated.worst > 5.0 * stated.high > 5.0 * stated.median
    assert stated.heavy_tailed
    assert "may be higher than stated" in repr(made)


def test_the_summary_of_given_errors():
    errors = torch.cat((torch.full((1980,), 0.01), torch.full((20,), 1.0))).double()
    facts = {"plain_error": 0.5, "plain": "2M", "evaluations": 7, "cost": 8}
    stated = Expectation.of(errors, unseen=2.0, reference_error=3e-4, **facts)
    mean = 0.99 * 0.01 + 0.01 * 1.0
    assert stated.error == pytest.approx(mean)
    assert (stated.median, stated.high, stated.worst) == pytest.approx((0.01, 0.01, 1.0))
    assert stated.worst_share == pytest.approx(0.01 / mean)
    wanted = float(errors.var()) / 2000 + (2.0 / 2000) ** 2 + 3e-4**2
    assert stated.standard_error == pytest.approx(wanted**0.5)
    none = Expectation.of(torch.full((100,), float("inf")).double(), unseen=2.0, reference_error=0.0, **facts)
    assert none.standard_error == float("inf")
    exact = Expectation.of(torch.full((2000,), 1e-6).double(), unseen=2.0, reference_error=0.0, **facts)
    assert exact.standard_error == pytest.approx(1e-3)
    assert not exact.heavy_tailed


def test_the_cost_counts_single_samples(case):
    sde, score, _, _ = case
    rows = 0

    def counting(x, t):
        nonlocal rows
        rows += len(x)
        return score(x, t)

    few = Pilot.of(sde, counting, (32, 2), fine=40, **WIDE)
    made = fit(sde, counting, 3, pilot=few, search=1, held_out=100)
    assert made.expected.cost == rows
    assert made.expected.starts == 100
    with pytest.raises(ValueError, match="held_out=8"):
        fit(sde, score, 3, pilot=few, held_out=8)


def test_the_pilot_solves_the_flow_accurately(case):
    """Compare the ends with a Runge-Kutta method at 1e-9, and the starts with samples of the prior."""
    sde, score, pilot, _ = case
    exact = drawn(ProbabilityFlowODE(RungeKutta(rtol=1e-9, atol=1e-9)), sde, score, pilot)
    assert pilot.error(exact.state) < 2e-4
    torch.testing.assert_close(pilot.starts, sde.prior_sample((128, 2), seed=0, **WIDE))
    assert len(pilot.u) == len(pilot.states)
    assert bool((pilot.u.diff() < 0).all())


def test_the_plain_method_is_returned_if_the_fit_is_worse(case, monkeypatch, tmp_path):
    sde, score, pilot, _ = case
    stepwise = fit_stages.stepwise

    def spoilt(*arguments):
        numbers = stepwise(*arguments)
        return replace(numbers, b=3.0 * numbers.b)

    monkeypatch.setattr(fitting, "stepwise", spoilt)
    made = fit(sde, score, 6, pilot=pilot, search=0)
    assert isinstance(made.sampler, ExponentialMultistep)
    assert made.expected.error == made.expected.plain_error
    assert "no fit was better" in repr(made)
    made.save(tmp_path / "plain.safetensors")
    again = FittedSampler.load(tmp_path / "plain.safetensors")
    assert torch.equal(drawn(again, sde, score, pilot).samples, drawn(made, sde, score, pilot).samples)


PROCESSES = {
    "langevin": (CriticallyDampedLangevin(), (2,), 0),
    "shifted": (Shifted(VPSDE(), torch.tensor([2.0, -1.0])), (2,), 2),
    "blurring": (BlurringSDE((1, 2)), (1, 2), 2),
}


@pytest.mark.parametrize("name", some_long(["langevin", "shifted", "blurring"], ["langevin", "blurring"]))
def test_any_linear_process(name):
    sde, event, search = PROCESSES[name]
    score = mixture(event).score(sde)
    pilot = Pilot.of(sde, score, (32, *event), fine=60, **WIDE)
    made = fit(sde, score, 5, pilot=pilot, search=search)
    assert isinstance(made.sampler, FittedMultistep)
    assert made.expected.error < 0.7 * made.expected.plain_error
    assert drawn(made, sde, score, pilot).samples.shape == (32, *event)


def test_data_far_from_zero_are_as_accurate():
    """The coordinates subtract the mean of the data, so that a shift by 20 does not change the error."""
    sde = VPSDE()
    errors = []
    for away in (0.0, 20.0):
        score = mixture(away=away).score(sde)
        pilot = Pilot.of(sde, score, (64, 2), fine=60, **WIDE)
        errors.append(fit(sde, score, 5, pilot=pilot, search=2).expected.error)
    assert errors[1] < 2.0 * errors[0]


def test_single_precision_and_a_single_sample(case):
    sde, score, _, made = case
    whole = made(sde, score, (32, 2), seed=4)
    alone = made(sde, score, (1, 2), seed=4, first=7)
    torch.testing.assert_close(whole.samples[7:8], alone.samples, rtol=1e-5, atol=1e-5)
    assert made.sampler.times.dtype == torch.float64
    single = fit(sde, score, 4, pilot=(128, 2), search=8)
    assert single.expected.error < 2.0 * made.expected.error


def test_a_saved_sampler_is_the_same(case, tmp_path):
    sde, score, _, made = case
    path = tmp_path / "four.safetensors"
    made.save(path)
    again = FittedSampler.load(path)
    assert repr(again) == repr(made)
    assert again.expected == made.expected
    assert torch.equal(made(sde, score, (8, 2)).samples, again(sde, score, (8, 2)).samples)
    assert [p.name for p in tmp_path.iterdir()] == ["four.safetensors"]


def test_fast_and_its_prepared_sampler_are_equal():
    sde = VPSDE()
    score = mixture().score(sde)
    fast = Fast(4, pilot=32, search=2)
    ready = fast.prepared(sde, score, (2,))
    whole, once = fast(sde, score, (8, 2), seed=1), ready(sde, score, (8, 2), seed=1)
    assert torch.equal(whole.samples, once.samples)
    assert whole.nfe == once.nfe == 4
    seen = set()

    def strict(x, t):
        seen.add((x.dtype, t.dtype))
        return score(x, t)

    Pilot.of(sde, strict, (16, 2), fine=40, dtype=torch.float64)
    assert seen == {(torch.float64, torch.float64)}
    plain = UniPC(4)
    assert plain.prepared(sde, score, (2,)) is plain
    with pytest.raises(ValueError, match="pilot=8"):
        Fast(pilot=8)


def test_other_files_are_refused(case, tmp_path):
    path = tmp_path / "file"
    case[3].save(path)
    for content in (path.read_bytes()[:100], b"", b"\x80\x04K\x01."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="incomplete or not a fitted sampler"):
            FittedSampler.load(path)
    with pytest.raises(FileNotFoundError):
        FittedSampler.load(tmp_path / "none")


def test_refusals(case):
    sde, score, pilot, made = case
    other = VPSDE(beta_max=10.0)
    with pytest.raises(ValueError, match="not what this sampler was fitted to"):
        made(other, mixture().score(other), (4, 2))
    with pytest.raises(ValueError, match=r"events of shape \(2, 1\)"):
        made(sde, mixture((2, 1)).score(sde), (4, 2, 1))
    with pytest.raises(ValueError, match="not the process of the pilot"):
        fit(other, mixture().score(other), 4, pilot=pilot)
    with pytest.raises(ValueError, match="steps=1"):
        fit(sde, score, 1, pilot=pilot)
    with pytest.raises(ValueError, match=r"pilot=\(8, 2\)"):
        fit(sde, score, 4, pilot=(8, 2))
    with pytest.raises(ValueError, match="descending times"):
        FittedMultistep(torch.tensor([0.1, 0.2]), 1e-3, torch.ones(2), torch.ones(2, 1), torch.zeros(2), 0.5)
    bistable = NonlinearSDE(lambda x, t: x - x**3, lambda t: torch.ones_like(t))
    with pytest.raises(TypeError, match="has no closed-form kernel"):
        fit(bistable, lambda x, t: -x, 4, pilot=(32, 2))


def test_processes_with_the_same_repr_are_distinguished():
    """Two shifts with more numbers than are printed have the same repr."""
    here, there = (Shifted(VPSDE(), torch.full((101,), m)) for m in (2.0, 2.01))
    distribution = GaussianMixture(torch.zeros(1, 101), torch.tensor([0.5]))
    assert repr(here) == repr(there)
    made = fit(here, distribution.score(here), 3, pilot=(16, 101), search=0)
    assert made(here, distribution.score(here), (4, 101)).nfe == 3
    with pytest.raises(ValueError, match="not what this sampler was fitted to"):
        made(there, distribution.score(there), (4, 101))
