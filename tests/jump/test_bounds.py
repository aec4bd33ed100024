"""Bounds of jump processes: exact expectations by enumeration, their estimates, and objectives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scoresde import VPSDE
from scoresde.jump import (
    Absorbing,
    ContinuousBound,
    DiscreteBound,
    EnumeratedJoint,
    JumpProcess,
    MarkovChain,
    MaskAndReplace,
    NearestNeighbor,
    RateMatrix,
    RatioModel,
    ScoreEntropy,
    Uniform,
    grids,
    jump_bound,
)
from tests.jump.problems import coupled, expected, pairs

SMALL = [Absorbing(3), Uniform(3), MaskAndReplace(3, 0.3), NearestNeighbor(3)]


def discrete(process, model, x0, steps):
    """The exact bound in K steps for each x_0."""
    times = grids.equal_times(process, steps).flip(0)
    total = -process.prior_divergence(x0).sum(1)
    for s, t in itertools.pairwise(times):
        total -= expected(process, x0, t, lambda x, y, s=s, t=t: process.step_divergence(x, y, model(x, t), s, t))
    return total


def continuous(process, model, x0, points=40):
    """The exact bound in continuous time, by Gauss-Legendre quadrature in a variable with zero density at both ends."""
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(points))
    u = 0.5 * (nodes + 1.0)
    total = -process.prior_divergence(x0).sum(1)
    for t, w in zip(u**2 * (3 - 2 * u), 0.5 * weights * 6 * u * (1 - u), strict=True):
        total -= w * expected(process, x0, t, lambda x, y, t=t: process.rate_divergence(x, y, model(x, t), t))
    return total


@pytest.mark.parametrize("process", SMALL, ids=lambda p: type(p).__name__)
def test_the_bound_in_steps_is_below_the_log_likelihood_and_gets_tight(process):
    joint, x0 = coupled(3), pairs(3)
    p = joint.probabilities.reshape(-1)
    gaps = [float(p @ discrete(process, joint.model(process), x0, n)) + joint.entropy() for n in (8, 16)]
    assert gaps[0] < gaps[1] < 0.0 and gaps[1] > 0.6 * gaps[0]


@pytest.mark.parametrize("process", SMALL, ids=lambda p: type(p).__name__)
def test_the_continuous_bound_of_the_exact_model_is_the_log_likelihood(process):
    joint, x0 = coupled(3), pairs(3)
    assert torch.allclose(continuous(process, joint.model(process), x0), joint.log_prob(x0), rtol=0, atol=3e-5)


@pytest.mark.parametrize("process", SMALL, ids=lambda p: type(p).__name__)
def test_the_continuous_bound_of_a_wrong_model_is_below_the_entropy(process):
    joint, wrong = coupled(3), EnumeratedJoint(torch.full((3, 3), 1.0 / 9.0))
    bound = continuous(process, wrong.model(process), pairs(3), 24)
    found = float(joint.probabilities.reshape(-1) @ bound)
    assert found < -joint.entropy() - 0.01 and math.isclose(found, -math.log(9.0), abs_tol=1e-4)


def test_absorbing_terms_are_the_order_agnostic_autoregressive_likelihood():
    """For a model that ignores correlations, -sum of cross-entropies of all orders: E over orders of log p(x_i | x_before)."""
    joint, process = coupled(4), Absorbing(4)
    model, x0 = joint.model(process), pairs(4)
    t = torch.tensor(0.5, dtype=torch.float64)
    first = torch.full_like(x0, 4)
    marginal = model(first, t).gather(-1, x0[..., None])[..., 0]
    orders = []
    for i in range(2):
        x = x0.clone()
        x[:, 1 - i] = 4
        rest = model(x, t).gather(-1, x0[..., None])[..., 0]
        orders.append(marginal[:, i] + rest[:, 1 - i])
    assert torch.allclose(continuous(process, model, x0, 8), torch.stack(orders).mean(0), rtol=0, atol=1e-9)


def test_the_absorbing_bound_of_any_model_is_the_mean_over_all_orders():
    """Three variables, and a model that is no conditional distribution of any joint, so that orders differ."""
    process, x0 = Absorbing(3), torch.tensor([[0, 2, 1]])
    table = torch.randn(4, 4, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(x, t):
        return table[tuple(x.unbind(1))]

    orders = []
    for order in itertools.permutations(range(3)):
        x, total = torch.full((1, 3), 3), 0.0
        for i in order:
            total += float(model(x, None).log_softmax(-1)[0, i, x0[0, i]])
            x[0, i] = x0[0, i]
        orders.append(total)
    hidden = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    x, data = torch.where(hidden, 3, x0), x0.expand(8, -1)
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(4))  # the integrand is a polynomial
    bound = 0.0
    for t, w in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):
        p = torch.where(hidden, t, 1.0 - t).prod(1)
        bound -= float(w * (p * process.rate_divergence(x, data, model(x, t), t).sum(1)).sum())
    assert math.isclose(bound, sum(orders) / 6, rel_tol=1e-12) and max(orders) - min(orders) > 0.1


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=lambda p: type(p).__name__)
def test_estimates_of_the_bounds(process):
    joint, x0 = coupled(3), pairs(3).repeat(40, 1)
    model = joint.model(process)
    for times, wanted in (
        (grids.equal_times(process, 6), discrete(process, model, x0[:9], 6)),
        (None, joint.log_prob(x0[:9])),
    ):
        for draws in (3, None):
            found = jump_bound(process, model, x0, times, draws=draws, replicates=2, seed=7)
            error = (found.log_prob - wanted.repeat(40)).reshape(40, 9).mean(0)
            spread = found.log_prob.reshape(40, 9).std(0) / 40**0.5
            assert bool((error.abs() < 5.0 * spread).all()), (times, draws)
            stated, seen = (
                float(found.standard_error.square().mean()),
                float((found.log_prob - wanted.repeat(40)).square().mean()),
            )
            assert 0.7 < stated / seen < 1.4
            assert torch.allclose(found.log_prob, -found.steps.sum(0) - found.prior)


def test_units_and_keys():
    process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    x = chain.sample(6, 10)
    whole = jump_bound(process, chain.model(process), x, seed=2)
    part = jump_bound(process, chain.model(process), x[2:4], seed=2, first=2)
    assert torch.allclose(whole.log_prob[2:4], part.log_prob) and whole.nfe == 64
    assert torch.allclose(whole.bits_per_token, -whole.log_prob / (10 * math.log(2.0)))
    assert math.isclose(whole.perplexity, 2.0 ** whole.mean_bits_per_token[0])
    assert bool(jump_bound(process, chain.model(process), x, replicates=1).standard_error.isnan().all())


def test_the_bound_of_a_long_chain_is_its_entropy():
    process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    x = chain.sample(60, 64)
    bound = jump_bound(process, chain.model(process), x, draws=16)
    error = (bound.log_prob - chain.log_prob(x)).mean() / bound.standard_error.mean() * 60**0.5
    assert abs(float(error)) < 5.0


@pytest.mark.parametrize("process", [*SMALL, MaskAndReplace(3, 0.8)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", [lambda p: DiscreteBound(p, 5), ContinuousBound], ids=["discrete", "continuous"])
def test_objectives_are_unbiased(process, kind):
    joint, x0 = coupled(3), pairs(3)
    model, objective = joint.model(process), kind(process)
    wanted = discrete(process, model, x0, 5) if isinstance(objective, DiscreteBound) else joint.log_prob(x0)
    loss = objective(model, x0.repeat(1500, 1)).reshape(1500, 9)  # rare jumps at small t have large losses
    error = loss.mean(0) + wanted + process.prior_divergence(x0).sum(1)
    assert bool((error.abs() < 5.0 * loss.std(0) / 1500**0.5).all())


def test_times_of_a_batch_are_evenly_spread_and_keyed():
    objective, x0 = ContinuousBound(Absorbing(3), seed=1), torch.zeros(64, 2, dtype=torch.long)
    draw = objective.draw(x0, step=5)
    assert (
        float(draw.t.sort().values.diff().max()) < 2.7 / 64
    )  # random times have gaps of up to (ln 64) / 64 = 4.2 / 64
    part = objective.draw(x0[10:20], step=5, indices=torch.arange(10, 20))
    assert torch.equal(part.t, draw.t[10:20]) and torch.equal(part.x, draw.x[10:20])
    assert not torch.equal(objective.draw(x0).t, objective.draw(x0).t)


def test_the_auxiliary_cross_entropy_and_the_gradient():
    process, x0 = MaskAndReplace(3, 0.3), torch.tensor([[0, 1], [2, 2]])
    logits = torch.zeros(2, 2, 3, requires_grad=True)
    for kind in (DiscreteBound, ContinuousBound):
        plain, added = (kind(process, auxiliary=a)(lambda x, t: logits, x0, step=0) for a in (0.0, 0.5))
        assert torch.allclose(added - plain, torch.full((2,), math.log(3.0)))  # 0.5 for each of two tokens
        added.sum().backward()
        assert bool(logits.grad.isfinite().all())
    x0 = torch.tensor([[0, 1, 2]])
    for process in (Absorbing(3), Uniform(3), NearestNeighbor(3)):
        for kind in (DiscreteBound, ContinuousBound):
            logits = torch.randn(1, 3, 3, requires_grad=True)
            kind(process)(lambda x, t, logits=logits: logits, x0, step=1).sum().backward()
            assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("process", [Absorbing(4), Uniform(4), MaskAndReplace(4, 0.3)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_terms_of_replacing_processes_are_those_of_any_process(process, dtype):
    """The formulas without matrices, and their gradients, against sums over all states."""
    t = torch.tensor(0.5, dtype=torch.float64)
    x, x0 = pairs(process.states).repeat_interleave(16, 0), pairs(4).repeat(process.states**2, 1)
    possible = process.marginal(x0, t).gather(-1, x[..., None])[..., 0].isfinite().all(1)
    x, x0 = x[possible], x0[possible]
    logits = (2.0 * torch.randn(len(x0), 2, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    assert torch.allclose(process.prior_divergence(x0), JumpProcess.prior_divergence(process, x0), atol=1e-12)
    short = type(process)(4, schedule=VPSDE(beta_max=4.0))
    assert torch.allclose(short.prior_divergence(x0), JumpProcess.prior_divergence(short, x0), rtol=1e-9)
    assert float(short.prior_divergence(x0).min()) > 1e-3
    for t in torch.tensor([1e-3, 0.4, 0.99], dtype=torch.float64):
        ratios = process.ratios(x, logits, t).clamp(min=-50.0)
        for name, values, times in (
            ("rate_divergence", logits, (t,)),
            ("ratio_divergence", ratios, (t,)),
            ("step_divergence", logits, (0.3 * t, t)),
        ):
            found, wanted = [], []
            for kind, results in ((type(process), found), (JumpProcess, wanted)):
                method = getattr(kind, name).__get__(process)
                leaf = values.clone().requires_grad_()
                value = method(x, x0, leaf, *times)
                results += [value.detach(), torch.autograd.grad(value.sum(), leaf)[0]]
            scale = 1.0 + wanted[0].abs().max()
            limit = 1e-11 if dtype == torch.float64 else 2e-5
            assert float((found[0] - wanted[0]).abs().max() / scale) < limit, (name, float(t))
            gap = (found[1] - wanted[1]).abs().max() / scale
            assert float(gap) < limit, (name, float(t))


@pytest.mark.parametrize(
    "process", [*SMALL, RateMatrix([[-1.0, 1.0, 0.0], [0.5, -2.0, 1.5], [2.0, 0.0, -2.0]])], ids=repr
)
def test_score_entropy_is_the_continuous_bound_and_the_exact_ratios_minimize_it(process):
    joint, x0 = coupled(3), pairs(3)
    objective = ScoreEntropy(process)
    for seed in (0, 1):
        draw = objective.draw(x0.repeat(4, 1), step=seed)
        exact = joint.model(process)
        wanted = ContinuousBound(process).evaluate(exact, draw)
        assert torch.allclose(objective.evaluate(exact, draw), wanted, rtol=1e-9, atol=1e-9)

    # E over x_0 given x_t of the loss, as a function of the ratios, has the gradient 0 at the exact ones
    t = torch.tensor(0.4, dtype=torch.float64)
    x = pairs(process.states)
    model = joint.model(process)
    ratios = model.ratios(x, t).clamp(min=-30.0).requires_grad_()
    log_q = process.marginal(x0, t)
    joint_p = joint.probabilities.reshape(-1, 1) * torch.stack([log_q[:, i][:, x[:, i]] for i in range(2)]).sum(0).exp()
    weight = joint_p / joint_p.sum(0)  # p(x_0 | x_t), (data, states)
    total = torch.zeros((), dtype=torch.float64)
    for k in range(len(x0)):
        seen = weight[k] > 0
        term = process.ratio_divergence(x[seen], x0[k].expand(int(seen.sum()), -1), ratios[seen], t)
        total = total + (weight[k][seen, None] * term).sum()
    (gradient,) = torch.autograd.grad(total, ratios)
    assert float(gradient.abs().max()) < 1e-9 * float(total.detach().abs() + 1.0)
    with torch.no_grad():  # and it is the minimum
        moved = ratios + 0.1 * torch.randn(
            ratios.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        more = sum(
            (weight[k][s, None] * process.ratio_divergence(x[s], x0[k].expand(int(s.sum()), -1), moved[s], t)).sum()
            for k in range(len(x0))
            for s in [weight[k] > 0]
        )
        assert float(more) > float(total) + 1e-3


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3), MaskAndReplace(3, 0.3)], ids=lambda p: type(p).__name__)
def test_gradients_of_score_entropy_are_finite_differences(process):
    x0, f = torch.tensor([[0, 1, 2]]), torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(f):
        model = RatioModel(Given(f), process)
        return ScoreEntropy(process)(model, x0.repeat(5, 1), step=3).sum()

    leaf = f.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for k in range(3):
        step = 1e-5 * torch.nn.functional.one_hot(torch.tensor(k), 3)
        slope = (loss(f + step) - loss(f - step)) / 2e-5
        assert abs(float(slope - gradient[k])) < 1e-6 * (1.0 + abs(float(slope)))


@pytest.mark.parametrize("process", [Absorbing(7), Uniform(7), NearestNeighbor(7)], ids=lambda p: type(p).__name__)
def test_a_ratio_model_that_returns_0_has_the_bound_ln_k(process):
    model = RatioModel(Given(torch.zeros(7, dtype=torch.float64)), process)
    loss = ScoreEntropy(process)(model, torch.arange(7).repeat(1500)[:, None])
    error = loss.mean() - math.log(7.0)
    assert abs(float(error)) < 5.0 * float(loss.std()) / len(loss) ** 0.5


class Given(torch.nn.Module):
    """A network with given outputs at all coordinates."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, t):
        return self.value.expand(*x.shape, -1)


def test_refusals():
    process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    model, x = chain.model(process), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"x has the value 2, which is the mask token in sample 0 at \(2,\)"):
        jump_bound(process, model, x)
    with pytest.raises(ValueError, match=r"x0 has the value 2, which is the mask token in sample 0 at \(2,\)"):
        ContinuousBound(process)(model, x)
    with pytest.raises(ValueError, match=r"begins at 0\.5"):
        jump_bound(process, model, x[:, :2], torch.tensor([0.5, 0.0]))
    with pytest.raises(ValueError, match="draws=0"):
        jump_bound(process, model, x[:, :2], draws=0)
    with pytest.raises(ValueError, match="auxiliary=-1"):
        ContinuousBound(process, auxiliary=-1.0)
    with pytest.raises(TypeError, match="has no ratios"):
        ScoreEntropy(process)(lambda x, t: x, x[:, :2])
    with pytest.raises(ValueError, match="is another one"):
        DiscreteBound(Uniform(2))(model, x[:, :2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("process", [Uniform(5), MaskAndReplace(5, 0.3), Absorbing(5)], ids=repr)
def test_losses_of_half_precision_are_float32_and_finite(process, dtype):
    """At small t, the weights of a loss exceed the range of float16, and bfloat16 would round the losses."""
    x0 = torch.randint(5, (4000, 8), generator=torch.Generator().manual_seed(0))
    for objective in (ContinuousBound(process), DiscreteBound(process, 50)):
        half, full = (
            objective(lambda x, t, d=d: torch.zeros(*x.shape, 5, dtype=d), x0, step=0) for d in (dtype, torch.float32)
        )
        assert half.dtype == torch.float32 and bool(half.isfinite().all())
        assert torch.allclose(half, full, rtol=1e-5)


def test_one_event_has_no_error_of_the_mean():
    bits = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    found = jump_bound(Absorbing(2), bits.model(Absorbing(2)), bits.sample(1, 4))
    assert math.isnan(found.mean_bits_per_token[1])
