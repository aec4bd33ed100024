"""Samplers that choose the order of unmasking, or mask again, against tables of their exact distributions."""

from __future__ import annotations

import pytest
import torch

from scoresde.experiment.config.builder import build
from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    ConfidenceUnmasking,
    CorrectedSampler,
    EnumeratedJoint,
    JumpSampler,
    KnownTokens,
    MarkovChain,
    Remasking,
    TauLeaping,
    Uniform,
    confidences,
    grids,
)
from scoresde.jump.counted import ancestral_step
from tests.jump.problems import (
    ancestral_table,
    coupled,
    floor,
    frequencies,
    greedy_table,
    sampler_table,
    total_variation,
    wrong_at_the_start,
)

N = 4000
PROCESS, JOINT = Absorbing(6), coupled()
MODEL = JOINT.model(PROCESS)


def remasking_table(sampler):
    return sampler_table(sampler, PROCESS, MODEL)


@pytest.mark.parametrize(
    "sampler",
    [
        ConfidenceUnmasking(50, confidence=confidences.negative_entropy),
        ConfidenceUnmasking(2, confidence=confidences.margin),
        ConfidenceUnmasking(2, randomness=1e6),
    ],
    ids=["entropy", "margin", "random"],
)
def test_an_order_that_ignores_the_drawn_tokens_is_exact(sampler):
    result = sampler(PROCESS, MODEL, (N, 2), seed=1)
    assert result.nfe == 2 and total_variation(frequencies(result.samples), JOINT.probabilities) < floor(JOINT, N)


def test_the_order_of_maskgit_prefers_likely_tokens():
    table, result = greedy_table(JOINT), ConfidenceUnmasking(7)(PROCESS, MODEL, (N, 2))
    assert total_variation(frequencies(result.samples), table) < floor(JOINT, N)
    assert total_variation(table, JOINT.probabilities) > 0.15


def test_no_evaluation_without_a_token_to_unmask():
    process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    model, sizes = chain.model(process), []

    def counted(x, t):
        sizes.append(len(x))
        return model(x, t)

    start = torch.full((3, 8), 2)
    start[1, :5], start[2] = 1, 0
    result = ConfidenceUnmasking(30)(process, counted, (3, 8), start=start)
    assert result.spent.tolist() == [8, 3, 0] and sum(sizes) == 11 and not process.masked(result.samples).any()
    assert ConfidenceUnmasking(3)(process, model, (3, 8)).nfe == 3
    known = KnownTokens(torch.zeros(1, 8, dtype=torch.int64), torch.arange(8) > 1)
    assert ConfidenceUnmasking(30)(process, model, (3, 8), known=known).nfe == 2


@pytest.mark.parametrize("sampler", [Remasking(4, cap=1.0, eta=0.7), Remasking(9, cap=0.1)], ids=repr)
def test_remasking_has_the_distribution_of_its_table(sampler):
    table, result = remasking_table(sampler), sampler(PROCESS, MODEL, (N, 2))
    assert total_variation(frequencies(result.samples), table) < floor(JOINT, N)


def test_remasking_tends_to_the_joint_and_has_the_marginals_of_the_process():
    def error(steps, cap):
        return total_variation(remasking_table(Remasking(steps, cap=cap)), JOINT.probabilities)

    assert 0.45 < error(30, 1 / 30) / error(15, 1 / 15) < 0.55  # order 1
    assert 0.4 < error(100, 1.0) / error(25, 1.0) < 0.6  # order 1/2
    plain = ancestral_table(PROCESS, MODEL, grids.equal_times(PROCESS, 6))[:6, :6]
    assert torch.allclose(remasking_table(Remasking(6, eta=0.0)), plain, atol=1e-12)
    table = remasking_table(Remasking(6, eta=1.0, cap=0.9))  # each variable alone is exact
    assert torch.allclose(table.sum(1), JOINT.probabilities.sum(1), atol=0.02)


def test_remasking_undoes_errors_of_the_model():
    model = wrong_at_the_start(PROCESS, MODEL)
    plain, *remasked = (
        total_variation(sampler_table(sampler, PROCESS, model), JOINT.probabilities)
        for sampler in (AncestralSampler(50), Remasking(50, cap=0.1), Remasking(50, cap=0.3))
    )
    assert plain > 0.18 and remasked[0] < 0.9 * plain and remasked[1] < 0.8 * plain


def test_the_share_of_masked_tokens_is_that_of_the_process():
    class Wrong(Remasking):
        """The share (alpha_s - alpha_t) / (1 - alpha_t), which ignores the tokens that are masked again."""

        def step(self, process, model, x, t, s, noise, number):
            new = super().step(process, model, x, t, s, noise, number)
            plain = ancestral_step(process, model, x, t, s, noise, step=number, purpose="plain")
            return torch.where(process.masked(x), plain, new)

    def largest_error(sampler):
        found = []
        sampler(
            PROCESS, MODEL, (N, 2), callback=lambda k, t, x: found.append(float(PROCESS.masked(x).double().mean() - t))
        )
        return max(map(abs, found))

    bound = 5 * (0.25 / (2 * N)) ** 0.5
    assert largest_error(Remasking(4, cap=0.5)) < bound < 0.3 * largest_error(Wrong(4, cap=0.5))


@pytest.mark.parametrize(
    "make",
    [
        AncestralSampler,
        TauLeaping,
        ConfidenceUnmasking,
        Remasking,
        lambda steps: CorrectedSampler(AncestralSampler(steps)),
    ],
)
def test_one_step_draws_all_variables_on_their_own(make):
    start = torch.full((N, 2), 6)
    start[0] = 2
    result = make(1)(PROCESS, MODEL, (N, 2), start=start)
    alone = JOINT.probabilities.sum(1)[:, None] * JOINT.probabilities.sum(0)
    assert result.nfe == 1 and result.samples[0].tolist() == [2, 2]
    assert total_variation(frequencies(result.samples), alone) < floor(EnumeratedJoint(alone), N)


def test_known_tokens_are_not_masked_again():
    known = KnownTokens(torch.tensor([[3, 0]]), torch.tensor([True, False]))
    result = Remasking(20, cap=0.3)(PROCESS, MODEL, (N, 2), known=known)
    found = torch.bincount(result.samples[:, 1], minlength=6).double() / N
    assert total_variation(found, JOINT.probabilities[3] / JOINT.probabilities[3].sum()) < 0.04


def test_samplers_in_a_config():
    nodes = {
        "ConfidenceUnmasking": {"steps": 6, "confidence": {"name": "margin"}, "randomness": 1.0},
        "CorrectedSampler": {"predictor": {"name": "AncestralSampler", "steps": 4}, "size": 0.7},
        "Remasking": {"steps": 6, "cap": 0.1},
    }
    made = [build({"name": name, **node}, "samplers.own", JumpSampler) for name, node in nodes.items()]
    assert made[0] == ConfidenceUnmasking(6, confidence=confidences.margin, randomness=1.0)
    assert made[1:] == [CorrectedSampler(AncestralSampler(4), 0.7), Remasking(6, cap=0.1)]


@pytest.mark.parametrize("wrong", [lambda p, drawn: p, lambda p, drawn: torch.full(drawn.shape, torch.nan)])
def test_a_wrong_confidence_is_refused(wrong):
    with pytest.raises(ValueError, match="confidence returned"):
        ConfidenceUnmasking(2, confidence=wrong)(PROCESS, MODEL, (2, 2))


@pytest.mark.parametrize("sampler", [ConfidenceUnmasking(2), Remasking(2)], ids=lambda s: type(s).__name__)
def test_other_processes_are_refused(sampler):
    with pytest.raises(TypeError, match=rf"{type(sampler).__name__} does not support Uniform"):
        sampler(Uniform(6), coupled().model(Uniform(6)), (2, 2))
