"""Samplers whose steps use all earlier states, and their fit by a kernel distance."""

from __future__ import annotations

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.metrics import kernel_distance
from scoresde.networks import MLP
from scoresde.samplers import DDIM, grids
from scoresde.samplers.fitted import DDSS, GGDM, FittedSampler, cubic_kernel, distance_kernel, fit_ggdm
from scoresde.samplers.fitted.kernel_fit import _Coefficients, _Distance
from scoresde.score import ScoreModel
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, SubVPSDE

SDE = VPSDE()
CORNERS = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
FOUR = GaussianMixture(CORNERS, torch.tensor(0.3), weights=torch.tensor([0.1, 0.2, 0.3, 0.4]))
SCORE = FOUR.score(SDE)


@pytest.fixture(scope="module")
def fitted():
    return fit_ggdm(SDE, SCORE, FOUR.sample(3000, seed=1), 5, updates=80, batch_size=192)


def distance(sampler, sde=SDE, score=SCORE, count=3000):
    x = sampler(sde, score, (count, 2), seed=7).samples
    return float(_Distance(distance_kernel, None, count, 0)(x, FOUR.sample(count, seed=8)))


@pytest.mark.parametrize("sde", [SDE, SubVPSDE(), VESDE(0.01, 10.0)], ids=["vp", "subvp", "ve"])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_first_coefficients_are_those_of_ddim(sde, eta):
    times = grids.uniform(sde, 5)
    score = FOUR.score(sde)
    plain = DDIM(times, eta=eta, denoise=False)(sde, score, (6, 2), seed=3, dtype=torch.float64)
    ours = GGDM.ddim(sde, times, eta=eta)(sde, score, (6, 2), seed=3, dtype=torch.float64)
    torch.testing.assert_close(ours.samples, plain.samples, rtol=1e-9, atol=1e-9)
    assert ours.nfe == plain.nfe == 5


def test_a_step_is_its_equation_for_any_event_shape():
    """All coefficients are random; the states and the predictions are those that the callback and the score see."""
    draw = torch.Generator().manual_seed(0)
    c, s = torch.rand(3, generator=draw), torch.rand(3, generator=draw)
    d = torch.rand(3, 3, generator=draw).tril()
    model = ScoreModel(MLP((2, 3), width=8, depth=1), SDE)
    times, states = torch.tensor([1.0, 0.7, 0.4, 0.0]), []
    sampler = GGDM(times, c, d, s)
    sampler(SDE, model, (4, 2, 3), seed=5, callback=lambda k, t, x: states.append(x))
    quiet = []
    GGDM(times, c, d, 0 * s)(SDE, model, (4, 2, 3), start=states[0], callback=lambda k, t, x: quiet.append(x))
    for k in range(3):
        mean = c[k] * model.denoised(quiet[k], times[k].expand(4)) + sum(d[k, j] * quiet[j] for j in range(k + 1))
        torch.testing.assert_close(quiet[k + 1], mean)
    z = (states[1] - quiet[1]) / s[0]
    assert sampler.stochastic and 0.4 < float(z.std()) < 1.8


@pytest.mark.parametrize("kernel", [cubic_kernel, distance_kernel])
def test_the_estimate_of_the_distance_has_no_bias(kernel):
    """Its mean over batches is that of one large batch, and the cubic kernel gives the kernel distance of the metrics."""
    x, y = FOUR.sample(4000, seed=1), FOUR.sample(4000, seed=2) + 0.3
    small = _Distance(kernel, None, 20, 0)
    values = torch.stack([small(a, b) for a, b in zip(x.split(20), y.split(20), strict=True)])
    error = float(values.std()) / len(values) ** 0.5
    whole = float(small(x[:1500], y[:1500]))
    assert abs(float(values.mean()) - whole) < 4 * error
    if kernel is cubic_kernel:
        assert whole == pytest.approx(kernel_distance(x[:1500], y[:1500]).value, rel=1e-3)


def test_the_fit_reduces_the_distance_at_least_five_times(fitted):
    plain = GGDM.ddim(SDE, fitted.sampler.times)
    assert fitted.expected.better and fitted.expected.distance < fitted.expected.plain_distance
    assert distance(plain) > 5 * abs(distance(fitted))
    assert "GGDM(5 steps" in repr(fitted) and "MMD^2" in repr(fitted)


@pytest.mark.long
def test_noise_and_times_can_be_fitted_too():
    made = fit_ggdm(SDE, SCORE, FOUR.sample(5000, seed=1), 5, eta=0.5, fit_times=True, updates=400)
    assert made.sampler.stochastic and not torch.equal(made.sampler.times, grids.uniform(SDE, 5))
    plain = distance(GGDM.ddim(SDE, grids.uniform(SDE, 5), eta=0.5), count=4000)
    assert plain > 5 * abs(distance(made, count=4000))


def test_the_gradient_of_the_fit_is_the_difference_quotient():
    table = _Coefficients(SDE, grids.uniform(SDE, 3), eta=0.5, fit_times=True)
    y = FOUR.sample(16, seed=1).double()

    def value():
        sampler = table.sampler()
        x = sampler(SDE, SCORE, (16, 2), seed=2, dtype=torch.float64, differentiable=True).samples
        return _Distance(distance_kernel, None, 16, 0)(x, y)

    slopes = torch.autograd.grad(value(), table.parameters)
    for parameter, slope in zip(table.parameters, slopes, strict=True):
        at = (-1,) * parameter.ndim
        with torch.no_grad():
            parameter[at] += 1e-5
            up = float(value())
            parameter[at] -= 2e-5
            down = float(value())
            parameter[at] += 1e-5
        assert float(slope[at]) == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-7)


def test_a_fit_that_is_not_better_is_ddim():
    one = fit_ggdm(SDE, SCORE, FOUR.sample(100, seed=1), 3, updates=1, batch_size=32, learning_rate=1e-18)
    plain = GGDM.ddim(SDE, grids.uniform(SDE, 3))
    assert not one.expected.better and "no fit was better" in repr(one)
    assert torch.equal(one.sampler.c, plain.c) and torch.equal(one.sampler.d, plain.d)


def test_a_repeated_fit_has_the_same_numbers():
    makes = (fit_ggdm(SDE, SCORE, FOUR.sample(64, seed=1), 2, updates=3, batch_size=16) for _ in range(2))
    one, two = makes
    assert torch.equal(one.sampler.c, two.sampler.c) and one.expected == two.expected


def test_a_saved_sampler_is_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "sampler.safetensors")
    again = FittedSampler.load(tmp_path / "sampler.safetensors")
    assert repr(again) == repr(fitted) and again.expected == fitted.expected
    one, two = (s(SDE, SCORE, (5, 2), seed=1).samples for s in (fitted, again))
    assert torch.equal(one, two)


def test_another_process_is_refused(fitted):
    other = VPSDE(beta_max=10.0)
    with pytest.raises(ValueError, match="is not what this sampler was fitted to, VPSDE"):
        fitted(other, FOUR.score(other), (3, 2))
    with pytest.raises(TypeError, match="scalar coefficients"):
        GGDM.ddim(CriticallyDampedLangevin(), torch.linspace(1.0, 0.0, 3))
    with pytest.raises(TypeError, match=r"sde=.* is not allowed: DDSS"):
        DDSS(5)(CriticallyDampedLangevin(), lambda x, t: -x, (3, 2))


DATA = FOUR.sample(64, seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"updates": 0}, "updates=0"),
        ({"batch_size": 33}, "x has 64 events: give at least 2 \\* batch_size = 66"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"features": lambda x: x.sum(1)}, r"features=.* returned .*shape \(16,\).*it must return .*\(16, F\)"),
        ({"features": lambda x: x[:3]}, r"features=.*must return"),
        ({"kernel": lambda x, y: x.sum(1)}, r"kernel=.* returned .*it must return \(16, 16\)"),
        ({"dtype": torch.float16}, "dtype=torch.float16 is not allowed"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit_ggdm(SDE, SCORE, DATA, **{"steps": 2, "updates": 1, "batch_size": 16, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": torch.tensor([1.0, 0.5])}, "times has shape"),
        ({"times": torch.tensor([1.0, 0.5, 0.6])}, "descending times"),
        ({"d": torch.ones(2, 2)}, "d has coefficients of states that are not known yet"),
        ({"c": torch.tensor([1.0, float("nan")])}, "c holds non-finite"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(change, message):
    right = {"times": torch.tensor([1.0, 0.5, 0.0]), "c": torch.ones(2), "d": torch.eye(2), "s": torch.zeros(2)}
    with pytest.raises(ValueError, match=message):
        GGDM(**(right | change))


def test_ddss_needs_data():
    with pytest.raises(TypeError, match="is not fitted yet: call prepared"):
        DDSS(2)(SDE, SCORE, (3, 2))
    with pytest.raises(TypeError, match="data is missing"):
        DDSS(2).prepared(SDE, SCORE, (2,))
    with pytest.raises(ValueError, match="data has events of shape"):
        DDSS(2).prepared(SDE, SCORE, (3,), data=DATA)
