"""Predictions in addition to those of test_score.py."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import EDMSDE, VESDE, VPSDE, DenoisingScoreMatching, GaussianMixture, ScoreModel, SubVPSDE
from scoresde.interop.edm import DenoiserScore, EDMPrecondition
from scoresde.networks import MLP
from scoresde.samplers import DDIM
from scoresde.score.predictions import PreconditionedPrediction, ScaledScorePrediction, VelocityPrediction
from tests.score_common import F32, F64, TIMES, Zero
from tests.test_score import LINEAR, noisy


@pytest.mark.parametrize("sde", [VPSDE(), VESDE(), SubVPSDE(), VESDE().discretize(10)], ids=repr)
def test_sigma_times_the_score(sde):
    """A network that returns sigma times the score of a mixture gives that score."""
    mixture = GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 2.0]]).double(), torch.tensor([0.3, 0.5]).double())
    exact = mixture.score(sde)

    class Network(torch.nn.Module):
        def forward(self, x, label):
            return sde.sigma(t)[:, None] * exact(x, t)

    t = torch.tensor([0.05, 0.4, 1.0], dtype=torch.float64)
    x = torch.tensor([[0.3, -0.2], [1.0, 2.0], [-4.0, 0.1]], dtype=torch.float64)
    model = ScoreModel(Network(), sde, ScaledScorePrediction(), data_std=None)
    assert torch.allclose(model(x, t), exact(x, t), rtol=1e-10)
    with pytest.raises(ValueError, match="the network's output has shape"):
        ScaledScorePrediction().score(sde, sde.kernel(t), x[:, :1], x)


class Waves(torch.nn.Module):
    """A network without parameters that depends on all that it is given."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, x, label):
        return (2.0 * x + self.scale * label[:, None]).sin()


class TestPreconditioning:
    @pytest.mark.parametrize("name", LINEAR)
    @pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-5), (F64, 1e-10)])
    def test_a_zero_output_is_the_exact_score_of_gaussian_data(self, name, dtype, tolerance):
        sde, x, t = LINEAR[name], noisy(LINEAR[name], 0.7, dtype), TIMES.to(dtype)
        exact = GaussianMixture(torch.zeros(1, *x[0].shape[-2:]), 0.7).score(sde)(x.to(F64), t.to(F64))
        found = ScoreModel(Zero(), sde, PreconditionedPrediction(0.7))(x, t).to(F64)
        assert float(((found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max()) < tolerance

    @pytest.mark.parametrize("sde", [VESDE(), EDMSDE()], ids=repr)
    def test_it_is_that_of_edm(self, sde):
        """Their label is ln(sigma) / 4, ours ln(sigma)."""
        x, t = noisy(sde, 0.5, F64)[:, 0], TIMES
        theirs = DenoiserScore(EDMPrecondition(Waves(4.0), 0.5), sde)
        ours = ScoreModel(Waves(), sde, PreconditionedPrediction(0.5), data_std=0.5)
        for name in ("denoised", "noise", "forward"):
            assert torch.allclose(getattr(ours, name)(x, t), getattr(theirs, name)(x, t), rtol=1e-9, atol=1e-9)

    def test_under_vp_it_is_the_velocity(self):
        sde = VPSDE()
        x = noisy(sde, 1.0, F64)[:, 0]

        class Negative(Waves):
            def forward(self, x, label):
                return -super().forward(x, label)

        velocity = ScoreModel(Negative(), sde, VelocityPrediction())
        assert torch.allclose(
            ScoreModel(Waves(), sde, PreconditionedPrediction())(x, TIMES), velocity(x, TIMES), rtol=1e-9
        )
        other = ScoreModel(Waves(), sde, PreconditionedPrediction(0.5))
        assert not torch.allclose(other(x, TIMES), velocity(x, TIMES), rtol=1e-2)

    def test_input_and_target_have_unit_variance(self):
        """The target of F is (x_0 - c_skip x) / c_out."""
        for sde in (VPSDE(), VESDE(), SubVPSDE(), EDMSDE()):
            for t in TIMES:
                x0 = 0.5 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
                z = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
                kernel = sde.kernel(t)
                x = kernel.mean(x0) + kernel.scale(z)
                prediction = PreconditionedPrediction(0.5)
                zero, one = (prediction.noise(sde, kernel, c * torch.ones_like(x), x) for c in (0.0, 1.0))
                assert float(((z - zero) / (one - zero)).std()) == pytest.approx(1.0, abs=0.02)
                assert float(kernel.standardized(x, 0.5).std()) == pytest.approx(1.0, abs=0.02)

    def test_a_start_far_out_comes_back(self):
        """The flow of a network whose output does not grow ends near the data, which a network that predicts noise does not."""
        sde, far = VESDE(), torch.tensor([[250.0, 0.0], [0.0, -250.0]])
        ends = {
            name: DDIM(steps=200)(sde, ScoreModel(Waves(), sde, prediction), (2, 2), start=far).samples.norm(dim=1)
            for name, prediction in (("ours", PreconditionedPrediction()), ("noise", "noise"))
        }
        assert float(ends["ours"].max()) < 20.0 and float(ends["noise"].min()) > 100.0

    def test_rare_starts_of_a_trained_network(self):
        """Starts at 4.5 standard deviations, for a network that is trained for a second (``benchmarks/flow_outliers.py``).

        The means of the data are at 1.4 from 0. With three seeds the largest ends are at 3.6, 3.0 and 2.9, and with a
        network that predicts the noise at 79, 39 and 81.
        """
        sde, angle = VPSDE(), 2.0 * math.pi * torch.arange(16) / 16
        circle = torch.stack([angle.cos(), angle.sin()], dim=1)
        x = GaussianMixture(2**0.5 * circle[::2], 0.1).sample(2000, seed=1)
        ends = {}
        for name, prediction in (("ours", PreconditionedPrediction()), ("noise", "noise")):
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model, loss = ScoreModel(MLP((2,), width=32, depth=1), sde, prediction), DenoisingScoreMatching(sde)
                optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
                for _ in range(300):
                    optimizer.zero_grad()
                    loss(model, x[torch.randint(len(x), (128,))]).mean().backward()
                    optimizer.step()
            ends[name] = DDIM(steps=50)(sde, model, (16, 2), start=4.5 * circle).samples.norm(dim=1)
        assert float(ends["ours"].max()) < 4.5 and float(ends["noise"].max()) > 20.0
