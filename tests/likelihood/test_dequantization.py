"""Bounds of the probability of discrete data, against probabilities in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde import Quantized
from scoresde.data import Affine
from scoresde.likelihood import FlowDequantizer, UniformDequantizer, importance_weighted_bound
from scoresde.noise import NoiseSource

WHERE = Quantized(4, -1.0, 1.0)
# p is the product of N(0.3, 0.35^2) and N(-0.4, 0.2^2): steep within boxes of width 1/2
MEANS, STDS = torch.tensor([0.3, -0.4], dtype=torch.float64), torch.tensor([0.35, 0.2], dtype=torch.float64)


def log_prob(x):
    """log p of the first coordinates, as many as x has."""
    d = x.shape[1]
    return torch.distributions.Normal(MEANS[:d], STDS[:d]).log_prob(x.double()).sum(1)


def log_probability(levels):
    """log P(k) from the cumulative distribution function of the normal, (B, d) to (B,)."""
    d = levels.shape[1]
    distribution = torch.distributions.Normal(MEANS[:d], STDS[:d])
    low, high = (WHERE.low + WHERE.width * (levels.double() + e) for e in (0, 1))
    return (distribution.cdf(high) - distribution.cdf(low)).log().sum(1)


def repeated(levels, n):
    return torch.tensor([levels]).expand(n, -1)


def mean_and_error(values):
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("levels", [[3], [0, 2]])
def test_the_bound_grows_with_the_draws_up_to_the_probability(levels):
    """L_1 < L_2 < L_4 < L_64 < log P(k), for means over 3000 repetitions.

    Each difference exceeds 4 standard errors. The last one, the remaining gap, equals its leading term within 30 % and 4
    standard errors.
    """
    k = repeated(levels, 3000)
    exact, before = float(log_probability(k)[0]), -math.inf
    for draws in (1, 2, 4, 64):
        found = importance_weighted_bound(log_prob, k, WHERE, draws=draws, seed=draws)
        mean, error = mean_and_error(found.log_prob)
        assert mean - before > 4 * error
        assert mean < exact + 4 * error
        before = mean
    shortfall = 0.5 * float((found.standard_error**2).mean())
    assert abs(mean + shortfall - exact) < 4 * error + 0.3 * shortfall
    # the spread that one estimate says against the spread there is, and what the jackknife removes
    assert abs(float(found.log_prob.std()) / float((found.standard_error**2).mean().sqrt()) - 1) < 0.15
    jackknife, error = mean_and_error(found.jackknife)
    assert abs(jackknife - exact) < 4 * error + 0.2 * shortfall
    assert float(found.single.mean()) < mean
    assert bool(((found.effective_draws >= 1) & (found.effective_draws <= 64)).all())


def test_unnormalised_weights_are_seen():
    """Planted errors: no 1/K, no volume of the box, no 1/q. Each moves the bound to the wrong side or far away."""
    k = repeated([1, 0], 500)  # p grows with u in both coordinates
    exact = float(log_probability(k)[0])
    found = importance_weighted_bound(log_prob, k, WHERE, draws=64)
    mean, error = mean_and_error(found.log_prob)
    assert abs(mean - exact) < 4 * error + float((found.standard_error**2).mean())
    for wrong in (mean + math.log(64), mean - WHERE.log_volume(2)):
        assert abs(wrong - exact) > 20 * error + 0.5

    class Steep(UniformDequantizer):
        """v^(2/3), of density 3/2 u^(1/2), and its own density or none."""

        def __init__(self, honest):
            self.honest = honest

        def sample(self, levels, noise, *, step=0):
            u = super().sample(levels, noise, step=step)[0] ** (2 / 3)
            return u, (1.5 * u**0.5).log().sum(1) if self.honest else torch.zeros(len(u))

    honest, error = mean_and_error(
        importance_weighted_bound(log_prob, k, WHERE, draws=64, dequantizer=Steep(True)).log_prob
    )
    assert abs(honest - exact) < 0.05
    wrong, _ = mean_and_error(
        importance_weighted_bound(log_prob, k, WHERE, draws=64, dequantizer=Steep(False)).log_prob
    )
    assert wrong - exact > 0.2


def flow(d, seed=0, loud=0.0, **settings):
    torch.manual_seed(seed)
    made = FlowDequantizer(WHERE, (d,), **{"width": 16, **settings}).double()
    with torch.no_grad():
        made.gates.fill_(loud)
    return made


def test_an_untrained_flow_is_the_uniform_distribution():
    k = torch.arange(4).reshape(4, 1).expand(4, 3)
    noise = NoiseSource.of(2, 4)
    u, log_q = FlowDequantizer(WHERE, (3,)).sample(k, noise, step=5)
    plain, _ = UniformDequantizer().sample(k, noise, step=5)
    assert torch.allclose(u, plain, atol=1e-12)
    assert float(log_q.detach().abs().max()) < 1e-12
    x = WHERE.place(k, u, dtype=torch.float64)
    assert torch.equal(x, WHERE.encode(k, noise, step=5, dtype=torch.float64))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_flows_density_is_its_density(layers):
    """The density integrates to 1 over the box (midpoints in the logits), and agrees with the one that ``sample`` returns."""
    made, n = flow(2, loud=1.0, layers=layers), 400
    side = torch.linspace(-25, 25, n, dtype=torch.float64)
    grid = torch.sigmoid(torch.cartesian_prod(side, side))
    k = repeated([1, 3], len(grid))
    cell = (50 / (n - 1)) ** 2 * (grid * (1 - grid)).prod(1)
    with torch.no_grad():
        total = float((made.log_prob(grid, k).exp() * cell).sum())
        u, log_q = made.sample(k[:50], NoiseSource.of(0, 50))
        again = made.log_prob(u, k[:50])
    assert abs(total - 1) < 1e-3
    assert torch.allclose(again, log_q, atol=1e-8)
    assert float(log_q.std()) > 0.02


def test_training_closes_the_gap():
    """After 150 steps, the gap of L_1 to log P(k), averaged over the distribution of k, is less than a third of what it was.

    The bound remains a bound, and the spread of the importance weights decreases too.
    """
    k = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    exact, prior = log_probability(k), log_probability(k).softmax(0)
    made = flow(2, width=32)
    optimizer = torch.optim.Adam(made.parameters(), lr=2e-2)
    noise = NoiseSource.of(1, 16)
    for step in range(150):
        optimizer.zero_grad()
        (prior @ made.loss(log_prob, k, noise, step=step)).backward()
        optimizer.step()
    settings = {"draws": 200, "dtype": torch.float64, "seed": 9}
    before = importance_weighted_bound(log_prob, k, WHERE, **settings)
    after = importance_weighted_bound(log_prob, k, WHERE, dequantizer=made, **settings)
    gaps = [float(prior @ (exact - found.single)) for found in (before, after)]
    assert 0 < gaps[1] < gaps[0] / 3
    assert float(prior @ after.standard_error) < 0.6 * float(prior @ before.standard_error)
    assert float(prior @ (after.log_prob - exact)) < 4 * float(prior @ after.standard_error)


def test_any_event_shape_and_a_custom_network():
    shape = (1, 2, 3)
    made = FlowDequantizer(Quantized(16), shape, layers=2, network=lambda: nn.Conv3d(2, 2, 3, padding=1))
    k = NoiseSource.of(0, 5).integers(16, shape, step=0, purpose="k")
    loss = made.loss(lambda x: -(x**2).flatten(1).sum(1), k, NoiseSource.of(0, 5))
    loss.sum().backward()
    assert loss.shape == (5,)
    assert all(p.grad is not None for p in made.parameters())
    assert "network" not in made.state_dict()
    found = importance_weighted_bound(lambda x: -(x**2).flatten(1).sum(1), k, Quantized(16), dequantizer=made, draws=3)
    assert found.calls == 3
    assert "FlowDequantizer" in repr(found)


def test_a_bound_depends_only_on_its_key_and_one_draw_has_no_error():
    k = torch.tensor([[0, 1], [2, 3], [1, 1]])
    whole = importance_weighted_bound(log_prob, k, WHERE, seed=3)
    part = importance_weighted_bound(log_prob, k[1:], WHERE, seed=3, first=1)
    assert torch.allclose(whole.log_prob[1:], part.log_prob)
    one = importance_weighted_bound(log_prob, k, WHERE, draws=1)
    assert bool(one.standard_error.isnan().all())
    assert torch.equal(one.log_prob, one.single)


def test_refusals():
    k = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="real numbers"):
        importance_weighted_bound(log_prob, k, Affine())
    with pytest.raises(ValueError, match="real numbers"):
        FlowDequantizer(Affine(), (2,))
    with pytest.raises(ValueError, match="integers"):
        importance_weighted_bound(log_prob, k.float(), WHERE)
    with pytest.raises(ValueError, match="allows 0"):
        importance_weighted_bound(log_prob, k + 3, WHERE)
    with pytest.raises(ValueError, match="log_prob returned shape"):
        importance_weighted_bound(lambda x: x, k, WHERE)
    with pytest.raises(ValueError, match="log_prob holds non-finite"):
        importance_weighted_bound(lambda x: log_prob(x) / 0.0, k, WHERE)
    with pytest.raises(ValueError, match="event shape"):
        importance_weighted_bound(log_prob, k, WHERE, dequantizer=FlowDequantizer(WHERE, (3,)))
    with pytest.raises(ValueError, match="network returned"):
        wide = FlowDequantizer(WHERE, (2,), network=lambda: nn.Flatten())
        importance_weighted_bound(log_prob, k, WHERE, dequantizer=wide)
