"""Corrector steps, by exact tables: p_t is invariant, errors decay, and the bias of known tokens shrinks."""

from __future__ import annotations

import pytest
import torch

from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    CorrectedSampler,
    EnumeratedJoint,
    FirstHitting,
    KnownTokens,
    MarkovChain,
    NearestNeighbor,
    Uniform,
    grids,
)
from tests.jump.problems import (
    ancestral_table,
    corrector,
    coupled,
    floor,
    frequencies,
    pairs,
    processes,
    sampler_table,
    total_variation,
)

N = 2000


def marginal(joint, process, t):
    return torch.stack([joint.log_prob_at(process, x[None], t)[0] for x in pairs(process.states)]).exp()


@pytest.mark.parametrize("process", processes(), ids=lambda p: type(p).__name__)
def test_the_marginal_is_invariant_up_to_second_order(process):
    joint, t = coupled(), torch.tensor(0.4, dtype=torch.float64)
    p, changes = marginal(joint, process, t), []
    for h in (0.02, 0.01):
        q = p @ corrector(process, joint.model(process), t, t + h)
        changes.append(float((q - p).abs().sum()))
    assert changes[0] < 0.005 and changes[0] / changes[1] > 3.5


def test_a_wrong_time_of_the_way_back_is_found():
    """With the model at t in place of u, the marginal of one variable changes."""
    joint, t, u = EnumeratedJoint([0.5, 0.2, 0.3]), torch.tensor(0.4), torch.tensor(0.6)
    process = Uniform(3)
    p = joint.log_prob_at(process, pairs(3, 1), t).exp()
    wrong = joint.model(process)
    step = corrector(process, lambda x, _: wrong(x, t), t, u, 1)
    assert float((p @ step - p).abs().sum()) > 0.01


def test_the_marginal_of_one_variable_is_invariant_for_any_size():
    joint, t, u = EnumeratedJoint([0.5, 0.2, 0.3]), torch.tensor(0.2), torch.tensor(0.9)
    for process in processes(3):
        p = joint.log_prob_at(process, pairs(process.states, 1), t).exp()
        step = corrector(process, joint.model(process), t, u, 1)
        assert torch.allclose(p @ step, p, atol=1e-7)


@pytest.mark.parametrize("process", [Absorbing(6), Uniform(6), NearestNeighbor(6)], ids=lambda p: type(p).__name__)
def test_errors_of_earlier_steps_decay(process):
    """From independent variables with the right marginals to the joint p_t."""
    joint, t = coupled(), torch.tensor(0.2, dtype=torch.float64)
    exact = marginal(joint, process, t)
    table = exact.reshape(process.states, -1)
    p = (table.sum(1)[:, None] * table.sum(0)).reshape(-1)
    step, errors = corrector(process, joint.model(process), t, t + 0.05), [total_variation(p, exact)]
    for _ in range(2):
        p = torch.linalg.matrix_power(step.mT, 5) @ p
        errors.append(total_variation(p, exact))
    assert errors[2] < 0.85 * errors[1] < 0.75 * errors[0]


def test_with_a_mask_and_several_variables_corrections_are_better_than_steps():
    """A chain of four bits: 5 steps with 4 corrections, and 9 steps."""
    process, every = Absorbing(2), torch.cartesian_prod(*[torch.arange(2)] * 4)
    joint = EnumeratedJoint(MarkovChain([[0.95, 0.05], [0.05, 0.95]]).log_prob(every).exp().reshape([2] * 4))
    model = joint.model(process)
    table = sampler_table(CorrectedSampler(AncestralSampler(5), 0.5), process, model, 4)
    corrected = total_variation(table, joint.probabilities)
    plain = ancestral_table(process, model, grids.equal_times(process, 9), 4)[(slice(0, 2),) * 4]
    assert corrected < 0.95 * total_variation(plain, joint.probabilities)


@pytest.mark.parametrize("known", [None, 5])
def test_samples_have_the_distribution_of_the_table(known):
    joint, process = coupled(), Uniform(6)
    sampler = CorrectedSampler(AncestralSampler(3), 0.7, 2)
    fixed = None if known is None else KnownTokens(torch.tensor([[known, 0]]), torch.tensor([True, False]))
    result = sampler(process, joint.model(process), (N, 2), known=fixed)
    table = sampler_table(sampler, process, joint.model(process), known=known)
    assert result.nfe == 3 + 2 * 2 and abs(float(table.sum()) - 1.0) < 1e-6
    assert total_variation(frequencies(result.samples), table) < floor(joint, N)


def test_corrections_remove_the_bias_of_known_tokens():
    joint, process = coupled(), Uniform(6)
    target = joint.probabilities[0] / joint.probabilities[0].sum()
    errors = []
    for steps, corrections in ((30, 1), (30, 8), (60, 16)):
        sampler = CorrectedSampler(AncestralSampler(steps), 1.0, corrections)
        errors.append(total_variation(sampler_table(sampler, process, joint.model(process), known=0)[0], target))
    assert errors[0] > 0.3 and errors[1] < 0.7 * errors[0] and errors[2] < 0.7 * errors[1]


def test_only_samplers_with_steps_are_corrected():
    with pytest.raises(TypeError, match="give a GridJumpSampler"):
        CorrectedSampler(FirstHitting())
