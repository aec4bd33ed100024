"""Exact posteriors of small joints and Markov chains, and models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde.jump import Absorbing, CategoricalModel, EnumeratedJoint, JumpProcess, MarkovChain, RatioModel, Uniform
from tests.jump.problems import coupled, pairs, processes

T = torch.tensor(0.6, dtype=torch.float64)


def test_a_markov_chain_equals_its_enumeration():
    chain = MarkovChain([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4]], initial=[0.2, 0.5, 0.3])
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    joint = EnumeratedJoint(chain.log_prob(every).exp().reshape(3, 3, 3, 3))
    process = Absorbing(3)
    x = torch.tensor([[0, 3, 3, 1], [3, 3, 3, 3], [2, 2, 3, 0]])
    assert torch.allclose(chain.model(process)(x, T), joint.model(process)(x, T), atol=1e-12)
    assert torch.allclose(chain.log_prob_at(process, x, T), joint.log_prob_at(process, x, T), atol=1e-12)
    noisy = Uniform(3)
    assert torch.allclose(chain.model(noisy)(x % 3, T), joint.model(noisy)(x % 3, T), atol=1e-12)


def random_chain(tokens, order, seed=0):
    """A chain with random probabilities, most of them small."""
    made = torch.Generator().manual_seed(seed)
    rows = torch.rand(*[tokens] * (order + 1), generator=made, dtype=torch.float64) ** 4
    return MarkovChain(rows / rows.sum(-1, keepdim=True))


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_a_chain_of_order_3_equals_its_enumeration(length):
    chain, process = random_chain(2, 3), Uniform(2)
    every = torch.cartesian_prod(*[torch.arange(2)] * length).reshape(-1, length)
    joint = EnumeratedJoint(chain.log_prob(every).exp().reshape([2] * length))
    assert math.isclose(chain.entropy(length), joint.entropy(), rel_tol=1e-12)
    likelihood = process.likelihood(every, T)
    found, wanted = chain.posterior(likelihood), joint.posterior(likelihood)
    assert torch.allclose(found[0], wanted[0], atol=1e-12) and torch.allclose(found[1], wanted[1], atol=1e-12)
    x = chain.sample(6000, length, seed=1)
    counts = torch.bincount((x * 2 ** torch.arange(length - 1, -1, -1)).sum(1), minlength=2**length) / len(x)
    p = joint.probabilities.reshape(-1)
    assert bool(((counts - p).abs() < 5.0 * (p * (1 - p) / len(x)).sqrt() + 1e-3).all())
    assert torch.equal(chain.sample(4, length, seed=1, first=3), x[3:7])


def test_the_stationary_distribution_of_a_chain_of_higher_order():
    chain = random_chain(3, 3)
    p = chain.stationary()
    moved = (p[..., None] * chain.transition).sum(0)
    assert torch.allclose(moved, p, atol=1e-13) and math.isclose(float(p.sum()), 1.0)
    assert math.isclose(chain.entropy(9) - chain.entropy(8), chain.entropy_rate(), rel_tol=1e-9)
    large = random_chain(11, 3)  # by iteration
    q = large.stationary()
    assert torch.allclose((q[..., None] * large.transition).sum(0), q, atol=1e-12)
    # a chain of order 1, as one of order 2 that ignores the older token
    one = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    two = MarkovChain(one.transition.expand(2, 2, 2))
    x = one.sample(50, 7)
    assert torch.allclose(one.log_prob(x), two.log_prob(x)) and math.isclose(one.entropy_rate(), two.entropy_rate())
    cycle = torch.zeros(12, 12, 12, 12, dtype=torch.float64)  # 0, 1, ..., 11, 0, ... is periodic
    cycle[..., :] = torch.eye(12, dtype=torch.float64).roll(1, 1)
    assert MarkovChain(cycle).entropy_rate() == 0.0


def test_entropies():
    chain = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    assert torch.allclose(chain.stationary(), torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    x = chain.sample(4000, 50)
    rate = -(chain.log_prob(x) - chain.log_prob(x[:, :1])) / 49
    assert abs(float(rate.mean()) - chain.entropy_rate()) < 4 * float(rate.std()) / 4000**0.5
    joint = coupled()
    drawn = joint.log_prob(joint.sample(4000))
    assert abs(float(drawn.mean()) + joint.entropy()) < 4 * float(drawn.std()) / 4000**0.5
    assert torch.equal(joint.sample(10)[4:], joint.sample(6, first=4))


def test_p_t_is_a_distribution():
    for process in processes():
        log_p = coupled().log_prob_at(process, pairs(process.states), T)
        assert math.isclose(float(log_p.exp().sum()), 1.0, rel_tol=1e-12)


@pytest.mark.parametrize("process", processes(), ids=lambda p: type(p).__name__)
def test_ratios_of_the_exact_model_are_those_of_p_t(process):
    joint, x = coupled(), torch.tensor([[1, 4], [process.states - 1, 2]])
    ratios = process.ratios(x, joint.model(process)(x, T), T)
    for i in range(2):
        for y in range(process.states):
            other = x.clone()
            other[:, i] = y
            wanted = joint.log_prob_at(process, other, T) - joint.log_prob_at(process, x, T)
            jumps = process.generator_columns(x)[:, i, y] > 0
            assert torch.allclose(ratios[jumps, i, y], wanted[jumps], atol=1e-10)


class Constant(nn.Module):
    """A network with the same output everywhere, which records its arguments."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x, t, **condition):
        self.seen = (x, t, condition)
        return self.value.expand(*x.shape, -1)


def test_a_categorical_model_carries_tokens_over():
    process, network = Absorbing(3), Constant(torch.tensor([0.1, 0.2, 0.3]))
    model, x = CategoricalModel(network, process), torch.tensor([[2, 3, 0]])
    p = model(x, T, label=torch.tensor([1])).softmax(-1)
    assert torch.equal(p[0, 0], torch.tensor([0.0, 0.0, 1.0])) and torch.equal(p[0, 2], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(p[0, 1], network.value.softmax(-1))
    assert network.seen[1].dtype == torch.float32 and network.seen[1].shape == (1,) and "label" in network.seen[2]
    model(x, T)[0, 1, 2].backward()
    assert torch.equal(network.value.grad, torch.tensor([0.0, 0.0, 1.0]))
    noisy = CategoricalModel(network, Uniform(3))
    assert torch.equal(noisy(torch.tensor([[2, 0]]), T)[0, 0], network.value)


@pytest.mark.parametrize("process", processes(3), ids=lambda p: type(p).__name__)
def test_ratio_and_categorical_models_convert_into_each_other(process):
    torch.manual_seed(0)
    logits = torch.randn(3, dtype=torch.float64)
    categorical = CategoricalModel(Constant(logits), process)
    x = torch.tensor([[0, process.states - 1]])
    ratios = categorical.ratios(x, T)

    class Ratios(nn.Module):
        def forward(self, x, t):
            return ratios - process.equal_ratios(x, T, torch.float64)

    model = RatioModel(Ratios(), process)
    possible = process.likelihood(x, T).isfinite()
    wanted = torch.where(possible, logits, -math.inf).log_softmax(-1)
    assert torch.allclose(model(x, T).exp(), wanted.exp(), atol=1e-9)
    assert torch.allclose(model.ratios(x, T), ratios.scatter(-1, x[..., None], 0.0))
    independent = EnumeratedJoint(torch.full((3, 3), 1 / 9)).model(process)
    jumps = process.generator_columns(x) > 0
    equal = process.equal_ratios(x, T, torch.float64)
    assert torch.allclose(equal[jumps], independent.ratios(x, T)[jumps], atol=1e-12)
    assert torch.allclose(equal, JumpProcess.equal_ratios(process, x, T, torch.float64), atol=1e-12)


def test_a_ratio_model_has_a_posterior_at_the_end_and_needs_no_number_for_the_mask():
    process = Absorbing(3)
    model = RatioModel(Constant(torch.tensor([0.1, 0.2, 0.7])), process)
    x = torch.tensor([[3, 1]])
    for t in (1e-9, 0.5, 1.0):
        found = model(x, torch.tensor(t, dtype=torch.float64))
        assert torch.allclose(found[0, 0], torch.tensor([0.1, 0.2, 0.7]).log_softmax(0), atol=1e-5)
        assert torch.equal(found[0, 1], torch.tensor([-math.inf, 0.0, -math.inf]))
    with pytest.raises(ValueError, match=r"network has shape \(1, 2, 2\): give \(1, 2, 4\)"):
        RatioModel(Constant(torch.zeros(2)), process)(x, T)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EnumeratedJoint([[0.5, 0.6], [0.0, 0.0]]), "sum 1.1"),
        (lambda: EnumeratedJoint([[1.5, -0.5], [0.0, 0.0]]), r"value -0.5 at \(1,\)"),
        (lambda: EnumeratedJoint(torch.ones(2, 3) / 6), "shape"),
        (lambda: MarkovChain([[0.5, 0.5], [0.5, 0.4]]), r"sum 0.9 at \(1,\)"),
        (lambda: MarkovChain([[0.5, 0.5], [0.5, 0.5]], initial=[1.0]), "initial has shape"),
        (lambda: MarkovChain(torch.full((2, 3, 2), 0.5)), r"transition has shape \(2, 3, 2\)"),
        (
            lambda: MarkovChain(torch.full((2, 2, 2), 0.5), initial=[0.5, 0.5]),
            r"initial has shape \(2,\): give \(2, 2\)",
        ),
        (lambda: coupled().model(Uniform(5)), "has 5 tokens, and the data has 6"),
        (lambda: coupled().log_prob(torch.tensor([[1, 2, 3]])), "events of shape"),
        (lambda: coupled().log_prob(torch.tensor([[1, 6]])), r"value 6 in sample 0 at \(1,\)"),
        (lambda: CategoricalModel(Constant(torch.zeros(4)), Uniform(3))(torch.tensor([[1]]), T), "network has shape"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
