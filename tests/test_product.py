"""Product processes against mixtures whose exact model is known: draws, sampler, objective and bound, and planted errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde import VESDE, VPSDE
from scoresde.jump import Absorbing, DiscretizedGaussian, NearestNeighbor, PolynomialKeep, Uniform
from scoresde.losses import UniformTime
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.product import (
    LabeledMixture,
    ProductLikelihood,
    ProductModel,
    ProductObjective,
    ProductProcess,
    ProductSampler,
    product_bound,
)
from scoresde.samplers import DDIM, Ancestral, EulerMaruyama
from scoresde.score.predictions import PreconditionedPrediction
from scoresde.sde import CriticallyDampedLangevin

MIXTURE = LabeledMixture(
    [[-1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [0.3, 0.4, 0.3], [[0, 2], [1, 0], [1, 1]], [0.2, 0.5, 0.3]
)
JUMPS = ((Absorbing(2), Absorbing(3)), (Uniform(2), NearestNeighbor(3)), (Absorbing(3), Absorbing(3)))


def process_of(jumps, sde=None):
    return ProductProcess(sde or VPSDE(), [None, None, *jumps])


class Uncoupled:
    """A model whose categories do not see the real coordinates: the planted error."""

    def __init__(self, process, wrong="logits"):
        self.process, self.exact, self.wrong = process, MIXTURE.model(process), wrong

    def __call__(self, x, t):
        output, other = self.exact(x, t), x.clone()
        other[:, :2] = other[:, :2].roll(1, 0)
        moved = self.exact(other, t)
        n = len(self.process.real)
        if self.wrong == "logits":
            return torch.cat((output[:, :n], moved[:, n:]), 1)
        return torch.cat((0.5 * output[:, :n], output[:, n:]), 1)


# the exact model


@pytest.mark.parametrize(("jumps", "sde"), zip(JUMPS, (VPSDE(), VESDE(0.01, 20.0), VPSDE()), strict=True))
def test_the_exact_model_is_the_gradient_and_the_posterior_of_the_joint(jumps, sde):
    process = process_of(jumps, sde)
    x0, t = MIXTURE.sample(16, dtype=torch.float64), torch.linspace(0.05, 0.95, 16, dtype=torch.float64)
    x = process.marginal_sample(x0, t, NoiseSource.of(0, 16))
    real = x[:, :2].clone().requires_grad_()
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    terms = []
    for mean, std, cats, w in zip(MIXTURE.means, MIXTURE.stds, MIXTURE.categories, MIXTURE.weights, strict=True):
        total = torch.distributions.Normal(alpha * mean, (alpha**2 * std**2 + sigma**2).sqrt()).log_prob(real).sum(1)
        for j, jump in enumerate(jumps):
            rows = jump.marginal(cats[j].expand(16, 1), t)[:, 0]
            total = total + rows.gather(1, x[:, 2 + j : 3 + j].long())[:, 0]
        terms.append(w.log() + total)
    joint = torch.stack(terms, 1)
    (gradient,) = torch.autograd.grad(joint.logsumexp(1).sum(), real)
    score, logits = process.split_output(MIXTURE.model(process)(x, t), x)
    torch.testing.assert_close(score, gradient)
    r = joint.detach().softmax(1)
    found = {}
    for group, part in zip(process.groups, logits, strict=True):
        found |= {c: part[:, k] for k, c in enumerate(group.coordinates)}
    for j, jump in enumerate(jumps):
        wanted = torch.zeros(16, jump.tokens, dtype=torch.float64).index_add(1, MIXTURE.categories[:, j], r)
        torch.testing.assert_close(found[2 + j].exp(), wanted)


def test_the_log_density_sums_to_one_and_the_samples_have_it():
    mixture = LabeledMixture([[0.0], [1.0]], [0.5, 0.3], [[0], [1]], [0.3, 0.7])
    grid = torch.linspace(-4.0, 4.0, 4001, dtype=torch.float64)
    total = sum(
        float(mixture.log_prob(torch.stack((grid, torch.full_like(grid, c)), 1)).exp().sum()) * 0.002
        for c in (0.0, 1.0)
    )
    assert total == pytest.approx(1.0, abs=1e-6)
    x = mixture.sample(4000)
    assert float(x[:, 1].mean()) == pytest.approx(0.7, abs=0.03)
    assert float(x[x[:, 1] == 1, 0].mean()) == pytest.approx(1.0, abs=0.03)
    assert bool(torch.isinf(mixture.log_prob(torch.tensor([[0.0, 2.0]]))).all())
    assert torch.equal(mixture.sample(6)[2:], mixture.sample(4, first=2))


# draws


def test_the_parts_of_a_state_have_independent_keyed_draws_with_the_laws_of_their_processes():
    process = ProductProcess(VPSDE(), [Uniform(3), None, Absorbing(3), Uniform(3), None])
    assert process.real == (1, 4) and [g.coordinates for g in process.groups] == [(0, 3), (2,)]
    x0 = torch.tensor([[0.0, 0.5, 2.0, 1.0, -1.0]]).expand(6000, 5)
    x = process.marginal_sample(x0, torch.full((6000,), 0.3), NoiseSource.of(3, 6000))
    wanted = Uniform(3).marginal(torch.tensor([[0, 1]]), torch.tensor(0.3))[0].exp()
    for place, column in enumerate((0, 3)):
        shares = torch.bincount(x[:, column].long(), minlength=3) / 6000
        torch.testing.assert_close(shares.double(), wanted[place], atol=0.03, rtol=0)
    assert float((x[:, 2] == 3).float().mean()) == pytest.approx(0.3, abs=0.03)
    correlation = torch.corrcoef(x.T)
    assert float((correlation - torch.eye(5)).abs().max()) < 0.06  # 4.6 standard errors
    halves = [process.prior_sample((3, 5), noise=NoiseSource.of(1, 3, first)) for first in (0, 3)]
    assert torch.equal(torch.cat(halves), process.prior_sample((6, 5), seed=1))


def test_parts_are_split_and_joined():
    process = ProductProcess(VPSDE(), [Absorbing(2), None, NearestNeighbor(4), Absorbing(2)])
    x = torch.tensor([[2.0, 0.5, 3.0, 1.0], [0.0, -0.5, 0.0, 2.0]])
    real, states = process.split(x)
    assert torch.equal(process.join(real, states), x)
    assert process.width == 1 + 2 * 2 + 4 and process.input_width == 1 + 2 * 3 + 4


# the sampler


def distances(process, model, sampler, n=1200):
    """Total variation of the categories, and the largest error of the conditional means in standard deviations of the data."""
    x = sampler(process, model, (n, 4), seed=5).samples.double()
    shares, error = 0.0, 0.0
    for cats, mean, std, w in zip(MIXTURE.categories, MIXTURE.means, MIXTURE.stds, MIXTURE.weights, strict=True):
        own = (x[:, 2:] == cats).all(1)
        shares += min(float(own.double().mean()), float(w))
        if bool(own.any()):
            error = max(error, float(((x[own, :2].mean(0) - mean) / std).abs().max()))
    return 1.0 - shares, error


@pytest.mark.parametrize("jumps", JUMPS[:2])
def test_samples_of_the_exact_model_have_the_joint_distribution(jumps):
    process = process_of(jumps)
    coarse, fine = (distances(process, MIXTURE.model(process), ProductSampler(steps=n)) for n in (2, 16))
    assert coarse[0] > 0.1 and fine[0] < 0.06  # the sampling error of 0 is 0.015
    assert coarse[1] > 4.0 * fine[1] and fine[1] < 0.3


@pytest.mark.parametrize("predictor", [Ancestral(), DDIM(eta=0.5), EulerMaruyama(flow=True)])
def test_other_steps_of_the_real_part(predictor):
    process = process_of(JUMPS[0])
    found = distances(process, MIXTURE.model(process), ProductSampler(predictor, steps=20), n=500)
    assert found[0] < 0.09 and found[1] < 0.4


def test_a_model_without_the_coupling_is_caught():
    process = process_of(JUMPS[0])
    assert distances(process, Uncoupled(process), ProductSampler(steps=16))[1] > 0.4
    assert distances(process, Uncoupled(process, "score"), ProductSampler(steps=16))[1] > 1.0


def test_samples_depend_on_their_index_and_hold_no_mask():
    process = process_of(JUMPS[0])
    sampler, model = ProductSampler(steps=5), MIXTURE.model(process)
    seen = []
    whole = sampler(process, model, (6, 4), seed=2, callback=lambda k, t, x: seen.append((k, float(t), x.clone())))
    rest = sampler(process, model, (3, 4), seed=2, first=3)
    torch.testing.assert_close(whole.samples[3:], rest.samples)
    assert [k for k, _, _ in seen] == list(range(6)) and seen[0][1] == 1.0
    assert torch.equal(seen[0][2][:, 2:], torch.tensor([[2.0, 3.0]]).expand(6, 2))  # all masked at T
    process.split(whole.samples, data=True)  # raises for a mask
    assert whole.nfe == 5 and whole.spent.tolist() == [5] * 6


# the bound and the objective


@pytest.mark.parametrize(("jumps", "sde"), [(JUMPS[0], VPSDE()), (JUMPS[1], VESDE(0.01, 50.0))])
def test_the_bound_of_the_exact_model_is_the_log_density(jumps, sde):
    process = process_of(jumps, sde)
    x = MIXTURE.sample(100, dtype=torch.float64)
    bound = product_bound(process, MIXTURE.model(process), x, draws=20)
    gap = bound.log_prob - MIXTURE.log_prob(x)
    assert abs(float(gap.mean())) < 4.0 * float(gap.std()) / math.sqrt(100) and float(gap.std()) < 1.5
    torch.testing.assert_close(
        bound.reconstruction - bound.real - bound.categories - bound.prior, bound.log_prob, atol=1e-9, rtol=0
    )
    assert ProductLikelihood(draws=20)(process, MIXTURE.model(process), x[:3]).nfe == bound.nfe == 42


@pytest.mark.parametrize("wrong", ["logits", "score"])
def test_the_bound_of_a_wrong_model_is_lower(wrong):
    process = process_of(JUMPS[0])
    x = MIXTURE.sample(150, dtype=torch.float64)
    exact, worse = (
        product_bound(process, model, x, draws=16) for model in (MIXTURE.model(process), Uncoupled(process, wrong))
    )
    loss = exact.log_prob - worse.log_prob
    assert float(loss.mean()) > 4.0 * float(loss.std()) / math.sqrt(150)


@pytest.mark.parametrize("times", [None, UniformTime(1e-3)])
def test_the_objective_is_the_bound_up_to_a_constant(times):
    process, x = process_of(JUMPS[0]), MIXTURE.sample(1500, dtype=torch.float64)
    objective = ProductObjective(process, times=times)
    draw = objective.draw(x, step=0)
    exact, wrong = (objective.evaluate(model, draw) for model in (MIXTURE.model(process), Uncoupled(process, "score")))
    bounds = [
        product_bound(process, m, x, draws=8, replicates=1)
        for m in (MIXTURE.model(process), Uncoupled(process, "score"))
    ]
    difference = bounds[0].real + bounds[0].categories - bounds[1].real - bounds[1].categories
    gap = (exact - wrong) - difference
    assert abs(float(gap.mean())) < 4.0 * float(gap.std()) / math.sqrt(1500)
    assert float((wrong - exact).mean()) > 0.3


def test_draws_of_the_objective_depend_on_step_and_index():
    process, x = process_of(JUMPS[0]), MIXTURE.sample(8)
    objective = ProductObjective(process, seed=4)
    whole = objective.draw(x, step=3, indices=torch.arange(8))
    part = objective.draw(x[5:], step=3, indices=torch.arange(5, 8))
    torch.testing.assert_close(whole.x[5:], part.x)
    assert not torch.equal(whole.x, objective.draw(x, step=4, indices=torch.arange(8)).x)


# the model


class Recorder(nn.Module):
    def forward(self, x, label):
        self.seen = x
        return torch.zeros_like(x)


def test_the_network_sees_both_parts_and_the_known_tokens_are_carried_over():
    process = ProductProcess(VPSDE(), [None, Absorbing(2), NearestNeighbor(3)])
    model = ProductModel(Recorder(), process)
    score, logits = model.parts(torch.tensor([[0.5, 2.0, 1.0], [0.5, 1.0, 0.0]]), torch.tensor([0.5, 0.5]))
    assert torch.equal(model.network.seen[:, 1:], torch.tensor([[0.0, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 0]]))
    assert torch.equal(logits[0].softmax(-1)[:, 0], torch.tensor([[0.5, 0.5], [0.0, 1.0]]))  # the first is masked
    assert torch.equal(logits[1].softmax(-1), torch.full((2, 1, 3), 1.0 / 3.0)) and torch.equal(
        score, torch.zeros(2, 1)
    )


def test_gradients_reach_the_network_and_are_finite():
    process = process_of(JUMPS[0])
    model = ProductModel(MLP((process.input_width,), width=16, depth=1), process, "velocity")
    ProductObjective(process)(model, MIXTURE.sample(64)).mean().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.long
def test_a_trained_model_learns_the_coupling():
    process, x = process_of(JUMPS[0]), MIXTURE.sample(4000)
    torch.manual_seed(0)
    model = ProductModel(MLP((process.input_width,), width=64, depth=2), process, PreconditionedPrediction())
    objective, optimizer = ProductObjective(process), torch.optim.Adam(model.parameters(), 2e-3)
    for step in range(1500):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / 1500)
        loss = objective(model, x[torch.randint(len(x), (256,))], step=step).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    variation, error = distances(process, model, ProductSampler(steps=50), n=1000)
    assert variation < 0.08 and error < 0.4  # .53 without the coupling


# what is refused


def nan_model(x, t):
    return x.new_full((len(x), 7), math.nan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProductProcess(VPSDE(), [None, None]), "at least one real one"),
        (lambda: ProductProcess(VPSDE(), [Absorbing(2)]), "at least one real one"),
        (lambda: ProductProcess(VPSDE().discretize(100), [None, Absorbing(2)]), "in continuous time"),
        (lambda: ProductProcess(CriticallyDampedLangevin(), [None, Absorbing(2)]), "sde="),
        (lambda: ProductProcess(VPSDE(), [None, Absorbing(2, PolynomialKeep(T=2.0))]), "T"),
        (lambda: process_of(JUMPS[0]).split(torch.zeros(2, 3)), "one column a coordinate"),
        (lambda: process_of(JUMPS[0]).split(torch.zeros(2, 4).long()), "real numbers"),
        (lambda: process_of(JUMPS[0]).split(torch.tensor([[0.0, 0, 1, 0], [0, 0, 0.5, 0]])), "0.5 in row 1, coordinate 2"),
        (lambda: process_of(JUMPS[0]).split(torch.tensor([[0.0, 0, 2, 0]]), data=True), "tokens 0 to 1"),
        (lambda: MIXTURE.model(ProductProcess(VPSDE(), [None, Absorbing(2), Absorbing(3)])), "2 real coordinates"),
        (lambda: MIXTURE.model(process_of((Absorbing(2), Absorbing(2)))), "has the category 2 in column 1"),
        (lambda: ProductSampler(DDIM(steps=10)), "grid of its own"),
        (lambda: ProductSampler(Ancestral(variance="model")), "more than the score"),
        (lambda: ProductSampler(steps=[0.5, 0.1])(process_of(JUMPS[0]), MIXTURE.model(process_of(JUMPS[0])), (2, 4)), "begins"),
        (lambda: ProductSampler(steps=2)(process_of(JUMPS[0]), MIXTURE.model(process_of(JUMPS[0])), (2, 3)), "give"),
        (lambda: ProductSampler(steps=2)(process_of(JUMPS[0]), MIXTURE.model(process_of(JUMPS[1])), (2, 4)), "another one"),
        (lambda: ProductSampler(steps=2)(process_of(JUMPS[0]), lambda x, t: x, (2, 4)), "model returned shape"),
        (lambda: product_bound(process_of(JUMPS[0]), nan_model, torch.zeros(2, 4)), "NaN|finite"),
        (lambda: LabeledMixture([[0.0]], [0.0], [[0]]), "stds"),
        (lambda: LabeledMixture([[0.0]], [1.0], [[0.5]]), "whole numbers"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    "value",
    [
        ProductProcess(VPSDE(), [None, DiscretizedGaussian(4), None]),
        ProductSampler(Ancestral(), steps=7, t_min=0.01),
        ProductLikelihood(draws=3),
        ProductObjective(ProductProcess(VPSDE(), [None, Absorbing(2)]), "variance", seed=3),
    ],
)
def test_values_are_made_again_from_their_text(value):
    import scoresde

    names = {
        **vars(scoresde),
        **vars(scoresde.product),
        **vars(scoresde.jump),
        **vars(scoresde.samplers),
        **vars(scoresde.losses),
    }
    names["uniform"] = scoresde.samplers.grids.uniform
    assert repr(eval(repr(value), names)) == repr(value)
