"""L_vlb and L_hybrid against DDPM's Gaussians, closed forms of Gaussian data, and each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from scoresde import VPSDE, DenoisingScoreMatching, GaussianMixture, Quantized, ScoreModel
from scoresde.ema import EMA
from scoresde.likelihood import variational_bound
from scoresde.losses import HybridLoss, VariationalLoss
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.score import (
    FreeVariance,
    GaussianVariance,
    InterpolatedVariance,
    LearnedVarianceModel,
    PreconditionedPrediction,
)
from scoresde.sde import VESDE, CosineVPSDE, SubVPSDE
from tests.losses.common import F64, normal

LN2 = math.log(2.0)
CHAINS = [VPSDE().discretize(40), CosineVPSDE().discretize(40), VESDE(0.01, 10.0).discretize(40)]


class Outputs(nn.Module):
    """Smooth outputs of the prediction and of the variance."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.stack((torch.sin(x), 0.8 * torch.cos(2.0 * x)), -1)


def at_instants(chain, event=(3,)):
    """A row for each instant but the first: data, times, noise."""
    n = chain.steps - 1
    return normal((n, *event), "data"), chain.time(torch.arange(1, n + 1)), normal((n, *event), "noise")


@pytest.mark.parametrize("event", [(), (3,), (2, 1, 2)], ids=str)
@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: repr(chain.sde))
def test_a_step_costs_the_divergence_of_its_gaussians(chain, event) -> None:
    """KL between q(x_s | x_t, x_0) and N(mean, beta^v beta_tilde^(1 - v)), with betas of the chain."""
    x0, t, z = at_instants(chain, event)
    model = LearnedVarianceModel(Outputs(), chain, data_std=None)
    loss = VariationalLoss(chain, unit="nats")(model, x0, t=t, noise=z)
    s, shape = chain.time(torch.arange(chain.steps - 1)), (-1, *[1] * len(event))
    alpha, sigma = chain.alpha(t).reshape(shape), chain.sigma(t).reshape(shape)
    x_t = alpha * x0 + sigma * z
    noise, output = torch.sin(x_t), 0.8 * torch.cos(2.0 * x_t)
    alpha_s, sigma_s = chain.alpha(s).reshape(shape), chain.sigma(s).reshape(shape)
    forward = sigma**2 - (alpha / alpha_s * sigma_s) ** 2
    on_x, on_data = alpha / alpha_s * sigma_s**2 / sigma**2, alpha_s * forward / sigma**2
    tilde = forward * sigma_s**2 / sigma**2
    delta = (alpha_s / sigma_s) ** 2 - (alpha / sigma) ** 2
    beta = tilde * (1.0 + delta * GaussianVariance(1.0)(sigma / alpha))
    if isinstance(chain.sde, VPSDE | CosineVPSDE):
        torch.testing.assert_close(beta, forward, rtol=1e-6, atol=0.0)
    v = 0.5 * (output + 1.0)
    ours = Normal(on_x * x_t + on_data * (x_t - sigma * noise) / alpha, (beta**v * tilde ** (1.0 - v)).sqrt())
    wanted = kl_divergence(Normal(on_x * x_t + on_data * x0, tilde.sqrt()), ours).reshape(len(x0), -1).mean(1)
    torch.testing.assert_close(loss, chain.steps * wanted, rtol=1e-6, atol=1e-9)
    bits = VariationalLoss(chain)(model, x0, t=t, noise=z)
    torch.testing.assert_close(bits, loss / LN2)


def test_the_first_instant_costs_the_decoder() -> None:
    chain, transform = CosineVPSDE().discretize(30), Quantized(17)
    model = LearnedVarianceModel(Outputs(), chain, data_std=None)
    levels = torch.arange(17)[:, None]
    x0 = transform.encode(levels, None, dtype=F64)
    t, z = torch.zeros(17, dtype=F64), normal((17, 1))
    alpha, sigma = chain.alpha(t)[:, None], chain.sigma(t)[:, None]
    x_t = alpha * x0 + sigma * z
    mean = (x_t - sigma * torch.sin(x_t)) / alpha
    std = GaussianVariance(1.0)(sigma / alpha).sqrt() * 2.0 ** (0.25 * (0.8 * torch.cos(2.0 * x_t) - 1.0))
    density = VariationalLoss(chain, unit="nats")(model, x0, t=t, noise=z)
    torch.testing.assert_close(density, -30 * Normal(mean, std).log_prob(x0)[:, 0])
    edges = transform.edges(F64)
    edges[0], edges[-1] = -math.inf, math.inf
    cdf = Normal(mean, std).cdf(edges)
    probability = (cdf[:, 1:] - cdf[:, :-1]).gather(1, levels)
    # also for data that is dequantized: it is moved to the middles
    moved = x0 + 0.4 * transform.width * torch.tanh(normal((17, 1), "moved"))
    for data in (x0, moved):
        found = VariationalLoss(chain, transform, unit="nats")(model, data, t=t, noise=z)
        torch.testing.assert_close(found, -30 * probability.log()[:, 0], rtol=1e-5, atol=1e-8)


def test_its_mean_is_the_variational_bound() -> None:
    chain, data = VPSDE().discretize(30), GaussianMixture(torch.zeros(1, 2), torch.tensor([0.5]))
    x, loss = data.sample(4000, seed=3, dtype=F64), VariationalLoss(chain, variance=GaussianVariance(0.7))
    bound = variational_bound(chain, data.score(chain), x, variance=GaussianVariance(0.7))
    wanted = -(bound.log_prob + bound.prior) / (2.0 * LN2)
    found = torch.stack([
        loss(data.score(chain), x, t=torch.full((4000,), float(t), dtype=F64)) for t in chain.time(torch.arange(30))
    ]).mean(0)  # fmt: skip
    error = ((found - wanted).var() / len(x)).sqrt()
    assert abs(float((found - wanted).mean())) < 4.0 * float(error) < 0.1
    drawn = loss(data.score(chain), x)
    assert abs(float(drawn.mean() - wanted.mean())) < 4.0 * float(drawn.std() / len(x) ** 0.5)


class TestSimpleLoss:
    """L_simple is L_(t-1) with another weight (Ho et al. 2020, eq. 12)."""

    @pytest.mark.parametrize("variance", [0.0, 1.0], ids=["lower", "upper"])
    def test_its_gradient_is_that_of_the_reweighted_bound(self, variance: float) -> None:
        chain = VPSDE().discretize(1000)
        index = torch.tensor([1, 2, 10, 200, 998, 999])
        t, x0, z = chain.time(index), normal((6, 3), "data"), normal((6, 3), "noise")
        model = ScoreModel(MLP((3,), 16, 1), chain).double()
        nn.init.normal_(model.network.last.weight)
        beta, bar = chain.step(t).std ** 2, chain.alpha(t) ** 2
        reverse = beta if variance else beta * chain.sigma(chain.time(index - 1)) ** 2 / (1.0 - bar)
        weight = 2.0 * reverse * (1.0 - beta) * (1.0 - bar) / beta**2  # of the sum over coordinates in nats

        def gradient(losses: Tensor) -> Tensor:
            slopes = torch.autograd.grad(losses.sum(), list(model.parameters()))
            return torch.cat([slope.flatten() for slope in slopes])

        simple = DenoisingScoreMatching(chain)
        bound = VariationalLoss(chain, variance=GaussianVariance(variance), unit="nats")
        for i in range(6):
            one = {"t": t[i : i + 1], "noise": z[i : i + 1]}
            a = gradient(simple(model, x0[i : i + 1], **one))
            b = gradient(weight[i] / chain.steps * bound(model, x0[i : i + 1], **one))
            assert float((a - b).norm() / a.norm()) < 1e-6

    def test_its_minimum_for_gaussian_data(self) -> None:
        """1 - Gamma_t with Gamma_t = sigma^2 / (a^2 s^2 + sigma^2), by a quadrature that is exact for squares."""
        chain, std = CosineVPSDE().discretize(100), 0.5
        data = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([std], dtype=F64))
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64)
        loss = DenoisingScoreMatching(chain)
        for i in (0, 30, 99):
            t = chain.time(torch.full((4,), i))
            found = [
                float(
                    loss(
                        lambda x, t, f=f: f * data.score(chain)(x, t), std * signs[:, :1], t=t, noise=signs[:, 1:]
                    ).mean()
                )
                for f in (1.0, 0.99, 1.01)
            ]
            alpha, sigma = chain.alpha(t)[0], chain.sigma(t)[0]
            wanted = 1.0 - sigma**2 / ((alpha * std) ** 2 + sigma**2)
            assert found[0] == pytest.approx(float(wanted), abs=1e-12) and found[0] < min(found[1:])


class TestHybridLoss:
    def test_it_is_the_sum_of_its_parts(self) -> None:
        chain = CosineVPSDE().discretize(20)
        model = LearnedVarianceModel(Outputs(), chain)
        x0, transform = Quantized(17).encode(torch.arange(17)[:, None], None, dtype=F64), Quantized(17)
        options = {"t": chain.time(torch.arange(17)), "noise": normal((17, 1))}
        simple = DenoisingScoreMatching(chain)(model, x0, **options)
        bound = VariationalLoss(chain, transform)(model, x0, **options)
        for weight in (0.001, 0.5):
            found = HybridLoss(chain, transform, weight=weight)(model, x0, **options)
            torch.testing.assert_close(found, simple + weight * bound)

    @pytest.mark.parametrize("rule", [InterpolatedVariance(), FreeVariance()], ids=repr)
    def test_the_bound_does_not_train_the_mean(self, rule) -> None:
        """The gradient of the mean's output is that of L_simple, that of the variance's output is weight times that of L_vlb."""
        chain = VPSDE().discretize(30)
        model = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), chain, variance=rule).double()
        nn.init.normal_(model.network.last.weight, std=0.1)
        x0, options = normal((30, 2)), {"t": chain.time(torch.arange(30)), "noise": normal((30, 2), "z")}
        last = model.network.last.weight

        def gradient(loss) -> Tensor:
            (found,) = torch.autograd.grad(loss(model, x0, **options).sum(), last)
            return found.reshape(2, 2, -1)  # coordinates, outputs, width

        hybrid = gradient(HybridLoss(chain, weight=0.01))
        torch.testing.assert_close(hybrid[:, 0], gradient(DenoisingScoreMatching(chain))[:, 0])
        torch.testing.assert_close(hybrid[:, 1], 0.01 * gradient(VariationalLoss(chain))[:, 1])
        assert gradient(DenoisingScoreMatching(chain))[:, 1].abs().max() == 0.0

    def test_one_evaluation_of_the_network(self) -> None:
        chain, calls = VPSDE().discretize(30), []
        model = LearnedVarianceModel(MLP((2,), 8, 1, outputs=2), chain)
        model.network.register_forward_hook(lambda *_: calls.append(1))
        HybridLoss(chain)(model, torch.zeros(4, 2))
        assert len(calls) == 1


class Table(nn.Module):
    """The exact noise of N(0, std^2), and an output for each instant, which is trained."""

    def __init__(self, chain, std: float) -> None:
        super().__init__()
        self.chain, self.std, self.rows = chain, std, nn.Parameter(torch.zeros(chain.steps, dtype=F64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.chain.alpha(t)[:, None], self.chain.sigma(t)[:, None]
        noise = sigma * x / ((alpha * self.std) ** 2 + sigma**2)
        return torch.stack((noise, self.rows[self.chain.index(t)][:, None].expand_as(x)), -1)


def optimal(chain, std: float) -> Tensor:
    """log(s^2 / beta_tilde) / log(beta / beta_tilde) of the steps, for the optimal reverse variance s^2, (N - 1,)."""
    t = chain.time(torch.arange(chain.steps))
    level = chain.sigma(t) / chain.alpha(t)
    delta = -level.pow(-2).diff()
    return torch.log1p(delta * GaussianVariance(std)(level[1:])) / torch.log1p(delta * GaussianVariance(1.0)(level[1:]))


def gap(chain, model, std: float, variance) -> float:
    """Negative entropy minus the mean bound, without the part of the prior, by antithetic signs: exact for Gaussian data."""

    class Signs(NoiseSource):
        def again(self, number: int) -> Signs:
            return self

        def normal(self, event_shape, *, step: int, purpose: str, dtype) -> Tensor:
            return torch.tensor([1.0, -1.0], dtype=dtype)[self.indices % 2][:, None]

    x = std * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=F64)
    bound = variational_bound(
        chain, model, x, variance=variance, decoder=GaussianVariance(std), replicates=1, noise=Signs(0, torch.arange(4))
    )
    end = torch.tensor(1.0, dtype=F64)
    spread = float((chain.alpha(end) * std) ** 2 + chain.sigma(end) ** 2)
    prior = 0.5 * (spread - 1.0 - math.log(spread))
    return -0.5 * math.log(2.0 * math.pi * math.e * std**2) - float(bound.log_prob.mean()) - prior


def test_the_trained_variance_is_the_optimal_one() -> None:
    """v within .02, and the bound of 50 steps within .002 nats of the entropy, against .022 for beta."""
    chain, std = VPSDE().discretize(50), 0.5
    model = LearnedVarianceModel(Table(chain, std), chain, label=lambda sde, t: t, data_std=None)
    loss, optimizer = HybridLoss(chain, weight=1.0), torch.optim.Adam(model.parameters(), lr=0.2, eps=1e-20)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64)
    x0, z = (signs[:, i].repeat_interleave(50)[:, None] for i in range(2))  # all instants with noise of both signs
    t = chain.time(torch.arange(50)).repeat(4)
    for _ in range(300):
        optimizer.zero_grad()
        loss(model, std * x0, t=t, noise=z).mean().backward()
        optimizer.step()
        schedule.step()
    v = 0.5 * (model.network.rows.detach() + 1.0)
    assert float((v[1:] - optimal(chain, std)).abs().max()) < 0.02
    assert abs(gap(chain, model, std, "model")) < 0.002
    assert gap(chain, model, std, GaussianVariance(1.0)) == pytest.approx(0.022, abs=5e-4)


def test_refusals() -> None:
    chain = VPSDE().discretize(50)
    for loss in (VariationalLoss, HybridLoss):
        with pytest.raises(TypeError, match=r"sde=VPSDE.* is not a chain.* give sde.discretize\(1000\)"):
            loss(VPSDE())
        with pytest.raises(ValueError, match="has no noise at its first instant"):
            loss(SubVPSDE().discretize(50))
        with pytest.raises(TypeError, match="variance='model' needs a score with a variance"):
            loss(chain)(ScoreModel(MLP((2,), 8, 1), chain), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="weight"):
        HybridLoss(chain, weight=0.0)
    with pytest.raises(ValueError, match="unit='bytes'"):
        VariationalLoss(chain, unit="bytes")
    with pytest.raises(ValueError, match="variance='beta'"):
        VariationalLoss(chain, variance="beta")


@pytest.mark.long
def test_a_network_learns_mean_and_variance() -> None:
    """An MLP trained by random batches: v within .02 where it matters, and the bound of 50 steps within .002 nats."""
    chain, std = VPSDE().discretize(50), 0.5
    torch.manual_seed(0)
    network = MLP((1,), 32, 2, outputs=2)
    model = LearnedVarianceModel(network, chain, PreconditionedPrediction(std), data_std=std).double()
    loss, steps = HybridLoss(chain, weight=0.1), 1500
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.99))
    schedule, average = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), EMA(network, 0.99)
    for step in range(steps):
        optimizer.zero_grad()
        loss(model, std * NoiseSource.of(step, 256).normal((1,), step=0, purpose="data", dtype=F64)).mean().backward()
        optimizer.step()
        schedule.step()
        average.update(network)
    model.network = average.module
    assert abs(gap(chain, model, std, "model")) < 0.002
    t = chain.time(torch.arange(1, 50))
    with torch.no_grad():
        v = 0.5 * (model.output(torch.zeros(49, 1, dtype=F64), t)[:, 0, 1] + 1.0)
    level = chain.sigma(chain.time(torch.arange(50))) / chain.alpha(chain.time(torch.arange(50)))
    weight = torch.log1p(-level.pow(-2).diff() * GaussianVariance(1.0)(level[1:]))  # log(beta / beta_tilde)
    assert float(((v - optimal(chain, std)) * weight).abs().max()) < 0.02


def test_data_outside_of_the_levels_is_refused():
    loss = VariationalLoss(CosineVPSDE().discretize(50), Quantized(4))
    with pytest.raises(ValueError, match=r"x0 has values from .* to 255, and Quantized"):
        loss.draw(torch.tensor([[0.0, 255.0]]))
    assert loss.draw(torch.tensor([[-1.0, 1.0]])).x_t.shape == (1, 2)
