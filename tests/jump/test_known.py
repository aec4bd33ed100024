"""Infilling: the exact conditional distribution under a mask, and else the exact table of the replacement method."""

from __future__ import annotations

import itertools

import pytest
import torch

from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    FirstHitting,
    KnownTokens,
    MarkovChain,
    MaskAndReplace,
    TauLeaping,
    Uniform,
    Uniformization,
    grids,
)
from tests.jump.problems import coupled, pairs, total_variation

N = 4000
FIRST = KnownTokens(torch.tensor([[5, 0]]), torch.tensor([True, False]))


def conditional(joint, y):
    return joint.probabilities[y] / joint.probabilities[y].sum()


def second(result, tokens=6):
    return torch.bincount(result.samples[:, 1], minlength=tokens).double() / len(result.samples)


def replacement_table(process, model, y, times):
    """The exact distribution of the second variable, if the first follows q(x_s | x_t, x_0 = y)."""
    x, start = pairs(process.states), torch.full((process.states**2, 1), y)
    p = process.marginal(torch.tensor([[y]]), times[0]).exp()[0, 0][x[:, 0]] * process.prior_log_probs().exp()[x[:, 1]]
    for t, s in itertools.pairwise(times):
        free = process.reverse_transition(x, model(x, t), s, t).exp()[:, 1]
        known = process.posterior(x[:, :1], start, s, t).exp()[:, 0].nan_to_num(0.0)
        p = p @ (known[:, :, None] * free[:, None, :]).reshape(len(x), -1)
    return p.reshape(process.states, -1)[y]


@pytest.mark.parametrize("sampler", [FirstHitting(), AncestralSampler(30), TauLeaping(30)], ids=repr)
def test_known_tokens_under_a_mask_give_the_conditional_distribution(sampler):
    joint, process = coupled(), Absorbing(6)
    result = sampler(process, joint.model(process), (N, 2), seed=2, known=FIRST)
    assert bool((result.samples[:, 0] == 5).all()) and total_variation(second(result), conditional(joint, 5)) < 0.04
    assert total_variation(conditional(joint, 5), joint.probabilities.sum(0)) > 0.3


def test_any_positions_of_a_chain():
    process = Absorbing(2)
    chain = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    y = torch.tensor([[0, 2, 2, 2, 1, 2]]).expand(N, 6)
    result = FirstHitting()(process, chain.model(process), (N, 6), known=KnownTokens(y, y < 2))
    assert torch.equal(result.samples[:, [0, 4]], y[:, [0, 4]]) and result.nfe == 4
    every = torch.cartesian_prod(*[torch.arange(2)] * 6)
    weights = chain.log_prob(every).exp() * (every[:, 0] == 0) * (every[:, 4] == 1)
    code = (result.samples * 2 ** torch.arange(5, -1, -1)).sum(1)
    found = torch.bincount(code, minlength=64).double() / N
    assert total_variation(found, weights / weights.sum()) < 0.05


def test_other_processes_have_the_bias_of_the_replacement_method():
    joint, process = coupled(), Uniform(6)
    model = joint.model(process)
    tables = [replacement_table(process, model, 5, grids.equal_times(process, n)) for n in (10, 40)]
    result = AncestralSampler(10)(process, model, (N, 2), known=FIRST)
    assert bool((result.samples[:, 0] == 5).all()) and total_variation(second(result), tables[0]) < 0.04
    assert all(total_variation(table, conditional(joint, 5)) > 0.1 for table in tables)  # whatever the number of steps


@pytest.mark.parametrize(
    ("sampler", "process"),
    [(Uniformization(0.1), Uniform(2)), (TauLeaping(8), MaskAndReplace(2)), (AncestralSampler(9), Absorbing(2))],
    ids=lambda v: type(v).__name__,
)
def test_samples_with_known_tokens_depend_on_seed_and_index_only(sampler, process):
    chain = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    y = torch.arange(6)[:, None].expand(6, 5) % 2
    mask = torch.tensor([True, False, False, True, False])
    whole = sampler(process, chain.model(process), (6, 5), seed=1, known=KnownTokens(y, mask)).samples
    part = sampler(process, chain.model(process), (2, 5), seed=1, first=3, known=KnownTokens(y[3:5], mask)).samples
    assert torch.equal(whole[3:5], part) and torch.equal(whole[:, mask], y[:, mask])


@pytest.mark.parametrize(
    ("y", "known", "kind", "words"),
    [
        (torch.tensor([[2, 0]]), torch.tensor([True, False]), ValueError, "mask token in sample 0 at"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.tensor(True), ValueError, r"y has shape \(3, 2\) for states"),
        (torch.zeros(1, 2), torch.tensor(True), TypeError, "y has dtype torch.float32"),
        (torch.tensor([[0, 0]]), torch.tensor([1, 0]), TypeError, "known has dtype torch.int64"),
        (torch.tensor([[0, 0]]), torch.ones(3, dtype=torch.bool), ValueError, r"known has shape \(3,\)"),
    ],
)
def test_wrong_known_tokens(y, known, kind, words):
    process = Absorbing(2)
    with pytest.raises(kind, match=words):
        FirstHitting()(process, lambda x, t: torch.zeros(*x.shape, 2), (2, 2), known=KnownTokens(y, known))
