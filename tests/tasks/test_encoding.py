"""Anomaly maps and interpolation, compared with closed forms for Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import VPSDE, GaussianMixture, ProbabilityFlowODE, UniPC
from scoresde.samplers import EulerMaruyama, PredictorCorrector
from scoresde.sde import VESDE, CriticallyDampedLangevin, NonlinearSDE, Shifted, SubVPSDE
from scoresde.solvers import RungeKutta
from scoresde.tasks import anomaly_map, edit, interpolate

SDE, STD = VPSDE(), 0.5
SCORE = GaussianMixture([[0.0]], STD).score(SDE)
FLOW = ProbabilityFlowODE(RungeKutta(1e-5, 1e-5), denoise=False)


def at(sde, t):
    time = torch.tensor(t, dtype=torch.float64)
    return float(sde.alpha(time)), float(sde.sigma(time))


class TestAnomalyMap:
    @pytest.mark.parametrize("repeats", [1, 8])
    def test_by_noise_it_is_the_distance_to_the_mean_of_draws(self, repeats):
        """x - x^ is normal; the mean of its modulus is that of a folded normal variable."""
        x, t = torch.full((1000, 1), 1.2), 0.4
        a, sigma = at(SDE, t)
        whole = a**2 * STD**2 + sigma**2
        gain, variance = a * STD**2 / whole, STD**2 * sigma**2 / whole
        m, s = float(x[0]) * (1 - gain * a), math.sqrt((variance + (gain * sigma) ** 2) / repeats)
        wanted = s * math.sqrt(2 / math.pi) * math.exp(-0.5 * (m / s) ** 2) + m * math.erf(m / s / math.sqrt(2))
        sampler = PredictorCorrector(EulerMaruyama(), None, steps=50)
        found = anomaly_map(sampler, SDE, SCORE, x, t, repeats=repeats)
        assert float(found.mean()) == pytest.approx(wanted, abs=4 * s / math.sqrt(1000) + 0.005)

    def test_by_the_flow_normal_data_is_restored(self):
        x = torch.linspace(-1.0, 1.0, 9)[:, None]
        assert float(anomaly_map(FLOW, SDE, SCORE, x, 0.6, encoder=FLOW).max()) < 1e-4
        assert float(anomaly_map(UniPC(50, denoise=False), SDE, SCORE, x, 0.6, encoder=FLOW).max()) < 1e-3

    def test_by_the_flow_toward_another_distribution(self):
        """Encoded by N(0, STD^2) and decoded by N(2, 1/16): both maps are affine."""
        x, t, first = torch.linspace(-1.0, 1.0, 9)[:, None].double(), 0.6, 1e-3
        guided = GaussianMixture([[2.0]], 0.25).score(SDE)

        def deviation(std, t):
            a, sigma = at(SDE, t)
            return a, math.sqrt(a**2 * std**2 + sigma**2)

        (_, early), (a, late) = deviation(STD, first), deviation(STD, t)
        code = x * late / early
        (b, back), (_, other) = deviation(0.25, first), deviation(0.25, t)
        wanted = (x - (2.0 * b + (code - 2.0 * a) * back / other)).abs()
        flow = ProbabilityFlowODE(RungeKutta(1e-6, 1e-6), denoise=False)
        found = anomaly_map(flow, SDE, SCORE, x, t, encoder=flow, guided=guided)
        assert torch.allclose(found, wanted, atol=1e-4)

    def test_auxiliary_variables(self):
        sde = CriticallyDampedLangevin()
        score = GaussianMixture([[0.0]], STD).score(sde)
        found = anomaly_map(FLOW, sde, score, torch.full((16, 1), 0.4), 0.3, encoder=FLOW)
        assert found.shape == (16, 1) and float(found.max()) < 1e-3

    def test_maps_depend_on_their_index(self):
        x = torch.linspace(-1, 1, 6)[:, None]
        whole = anomaly_map(UniPC(5), SDE, SCORE, x, 0.5, repeats=3, seed=2)
        assert torch.allclose(
            whole[2:5], anomaly_map(UniPC(5), SDE, SCORE, x[2:5], 0.5, repeats=3, seed=2, first=2), atol=1e-5
        )
        once = anomaly_map(UniPC(5), SDE, SCORE, x, 0.5, seed=2)
        assert torch.equal(once, (x - edit(UniPC(5), SDE, SCORE, x, 0.5, seed=2).samples).abs())


class TestInterpolate:
    @pytest.mark.parametrize("sampler", [FLOW, UniPC(60, denoise=False)], ids=["flow", "unipc"])
    @pytest.mark.parametrize("t", [None, 0.5])
    def test_the_ends_are_the_inputs(self, sampler, t):
        data = GaussianMixture([[1.0, 0.0, 0.3], [-1.0, 0.5, 0.0]], 0.2)
        a, b = data.sample(5, seed=1), data.sample(5, seed=2)
        x = interpolate(sampler, SDE, data.score(SDE), a, b, (0.0, 0.5, 1.0), t=t)
        assert x.shape == (5, 3, 3)
        assert torch.allclose(x[:, 0], a, atol=5e-3) and torch.allclose(x[:, 2], b, atol=5e-3)

    @pytest.mark.parametrize("sde", [SDE, SubVPSDE(), VESDE(sigma_max=10.0)], ids=lambda sde: type(sde).__name__)
    def test_for_isotropic_data_it_is_the_arc(self, sde):
        """The flow multiplies by a number, so the result is the arc between the data: norms and angles are known."""
        score = GaussianMixture(torch.zeros(1, 2), 0.5).score(sde)
        a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        x = interpolate(FLOW, sde, score, a, b, (0.0, 1 / 3, 2 / 3, 1.0))[0]
        angle = torch.tensor([0.0, 30.0, 60.0, 90.0]).deg2rad()
        assert torch.allclose(x, torch.stack((angle.cos(), angle.sin()), 1), atol=1e-3)

    def test_it_turns_around_the_mean_of_the_noise(self):
        center = torch.tensor([3.0, 1.0])
        sde = Shifted(SDE, center)
        score = GaussianMixture(center[None], 0.5).score(sde)
        a, b = center + torch.tensor([[1.0, 0.0]]), center + torch.tensor([[0.0, 1.0]])
        x = interpolate(FLOW, sde, score, a, b, (0.5,))[0, 0]
        assert torch.allclose(x, center + math.sqrt(0.5), atol=1e-3)

    def test_parallel_events(self):
        a = torch.tensor([[0.2, 0.1], [0.0, 0.0]])
        score = GaussianMixture(torch.zeros(1, 2), 0.5).score(SDE)
        x = interpolate(FLOW, SDE, score, a, 3.0 * a, (0.0, 0.5, 1.0))
        assert torch.allclose(x, torch.stack((a, 2.0 * a, 3.0 * a), 1), atol=1e-3)

    def test_results_depend_on_their_index(self):
        sde = CriticallyDampedLangevin()
        score = GaussianMixture(torch.zeros(1, 2), 0.5).score(sde)
        a, b = torch.linspace(-1, 1, 8).reshape(4, 2), torch.ones(4, 2)
        whole = interpolate(FLOW, sde, score, a, b, (0.0, 0.4), t=0.2, seed=1)
        part = interpolate(FLOW, sde, score, a[2:], b[2:], (0.0, 0.4), t=0.2, seed=1, first=2)
        assert torch.allclose(whole[2:], part, atol=1e-5) and torch.allclose(whole[:, 0], a, atol=1e-3)


X, OTHER = torch.zeros(2, 1), GaussianMixture([[0.0]], STD).score(VESDE())
FREE = NonlinearSDE(lambda x, t: -x, lambda t: t * 0 + 1, steps=4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: anomaly_map(UniPC(3), SDE, SCORE, X, 1.0), ValueError, "t=1.0 is not allowed"),
        (lambda: anomaly_map(UniPC(3), SDE, SCORE, X, 0.0, encoder=FLOW), ValueError, "t=0.0 is not allowed"),
        (lambda: anomaly_map(UniPC(3), SDE, SCORE, X, 0.5, repeats=0), ValueError, "repeats=0 is not allowed"),
        (lambda: anomaly_map(UniPC(3), SDE, SCORE, X / 0, 0.5), ValueError, "x holds non-finite values"),
        (lambda: anomaly_map(UniPC(3), SDE, SCORE, X, 0.5, guided=OTHER), ValueError, "VESDE"),
        (lambda: anomaly_map(UniPC(3), SDE, SCORE, X, 5e-4, encoder=FLOW), ValueError, "t_min"),
        (lambda: interpolate(FLOW, SDE, SCORE, X, X[:1], (0.5,)), ValueError, r"end has shape \(1, 1\): give \(2, 1\)"),
        (lambda: interpolate(FLOW, SDE, SCORE, X, X, ()), ValueError, "weights"),
        (lambda: interpolate(FLOW, SDE, SCORE, X, X, (1.5,)), ValueError, "weights=1.5 is not allowed"),
        (lambda: interpolate(FLOW, SDE, SCORE, X, X, (0.5,), t=2.0), ValueError, "t=2.0 is not allowed"),
        (lambda: interpolate(FLOW, FREE, lambda x, t: -x, X, X, (0.5,)), TypeError, "no closed-form kernel"),
    ],
)  # fmt: skip
def test_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
