"""Samplers of jump processes against enumerated joints, by exact tables or by total variation of many samples."""

from __future__ import annotations

import pytest
import torch

from scoresde import VPSDE
from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    ConfidenceUnmasking,
    CorrectedSampler,
    EnumeratedJoint,
    FirstHitting,
    MarkovChain,
    MaskAndReplace,
    NearestNeighbor,
    Remasking,
    TauLeaping,
    Uniform,
    Uniformization,
    grids,
)
from scoresde.jump.exact import rate_bound
from tests.jump.problems import (
    ancestral_table,
    coupled,
    floor,
    frequencies,
    kernel,
    pairs,
    processes,
    sampler_table,
    total_variation,
)

N = 4000


def test_ancestral_sampling_with_a_mask_has_an_error_below_0_4_over_steps():
    joint, process = coupled(), Absorbing(6)
    for steps in (10, 50):
        table = ancestral_table(process, joint.model(process), grids.equal_times(process, steps))
        assert float(table[6].sum() + table[:, 6].sum()) == 0.0
        error = total_variation(table[:6, :6], joint.probabilities)
        assert 0.05 / steps < error < 0.4 / steps


@pytest.mark.parametrize("process", processes(), ids=lambda p: type(p).__name__)
def test_the_error_of_ancestral_sampling_halves_when_the_steps_double(process):
    joint = coupled()
    errors = [
        total_variation(
            ancestral_table(process, joint.model(process), grids.equal_times(process, n))[:6, :6], joint.probabilities
        )
        for n in (20, 40)
    ]
    assert errors[1] < 0.65 * errors[0]


def test_eight_bits_of_a_random_joint():
    """The check of the binomial process of Sohl-Dickstein et al."""
    table = torch.rand([2] * 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint, process = EnumeratedJoint(table / table.sum()), Uniform(2)
    model = joint.model(process)
    errors = [
        total_variation(ancestral_table(process, model, grids.equal_times(process, n), 8), joint.probabilities)
        for n in (25, 50)
    ]
    assert errors[1] < 0.02 and 0.4 < errors[1] / errors[0] < 0.6


def test_an_ancestral_step_is_the_posterior_of_the_joint_up_to_second_order():
    """The step of both variables together, by Bayes' rule, against independent draws."""
    joint, process = coupled(), Uniform(6)
    t, model = torch.tensor(0.5, dtype=torch.float64), joint.model(process)
    x = pairs(6)
    errors = []
    for h in (0.02, 0.01):
        s = t - h
        independent = kernel(process, lambda x, s=s: process.reverse_transition(x, model(x, t), s, t))
        forward = kernel(process, lambda x, s=s: process.transition(x, s, t))
        exact = (joint.log_prob_at(process, x, s).exp()[:, None] * forward).mT
        exact = exact / exact.sum(1, keepdim=True)
        errors.append(float((independent - exact).abs().sum(1).max()))
    assert errors[0] / errors[1] > 3.5


@pytest.mark.parametrize(
    ("sampler", "process"),
    [
        (AncestralSampler(40), Absorbing(6)),
        (TauLeaping(40), MaskAndReplace(6, 0.3)),
        (FirstHitting(), Absorbing(6)),
    ],
    ids=lambda v: type(v).__name__,
)
def test_samples_have_the_frequencies_of_the_joint(sampler, process):
    joint = coupled()
    result = sampler(process, joint.model(process), (N, 2), seed=3)
    assert result.samples.dtype == torch.int64 and not result.failed.any()
    assert total_variation(frequencies(result.samples), joint.probabilities) < floor(joint, N)


def test_first_hitting_is_exact_where_ancestral_sampling_with_the_same_calls_is_not():
    joint, process = coupled(), Absorbing(6)
    result = FirstHitting()(process, joint.model(process), (N, 2))
    assert result.nfe == 2 and bool((result.spent == 2).all())
    few = AncestralSampler(2)(process, joint.model(process), (N, 2))
    assert total_variation(frequencies(few.samples), joint.probabilities) > floor(joint, N)


def test_first_hitting_continues_from_a_start():
    joint, process = coupled(), Absorbing(6)
    start = torch.tensor([[6, 2], [6, 6], [1, 3]])
    result = FirstHitting()(process, joint.model(process), (3, 2), start=start)
    assert result.spent.tolist() == [1, 2, 0] and result.samples[0, 1] == 2 and result.samples[2].tolist() == [1, 3]


@pytest.mark.parametrize("process", [Absorbing(2), Uniform(2), NearestNeighbor(2)], ids=lambda p: type(p).__name__)
def test_uniformization_is_exact(process):
    joint = EnumeratedJoint([[0.45, 0.05], [0.05, 0.45]])
    result = Uniformization(0.02)(process, joint.model(process), (1000, 2), seed=1)
    assert total_variation(frequencies(result.samples, 2), joint.probabilities) < floor(joint, 1000)
    few = AncestralSampler(2)(process, joint.model(process), (1000, 2), seed=1)
    assert total_variation(frequencies(few.samples, 2), joint.probabilities) > floor(joint, 1000)


def test_reverse_rates_stay_below_their_bound():
    b = 0.3
    for process in processes():
        t = process.schedule.time_of_log_alpha(torch.tensor(-b, dtype=torch.float64))
        x, logits = torch.arange(process.states)[:, None], 8.0 * torch.randn(process.states, 1, 6, dtype=torch.float64)
        rates = process.reverse_rates(x, logits, t) / process.schedule.rate(t)
        largest = float((-rates.gather(-1, x[..., None])).max())
        assert 0.0 < largest <= rate_bound(process, (b,)) * (1 + 1e-9)


@pytest.mark.parametrize("process", [Absorbing(6), Uniform(6), MaskAndReplace(6, 0.3)], ids=lambda p: type(p).__name__)
def test_tau_leaping_has_the_distribution_of_its_table(process):
    joint, sampler = coupled(), TauLeaping(5)
    table = sampler_table(sampler, process, joint.model(process))
    result = sampler(process, joint.model(process), (N, 2), seed=2)
    assert abs(float(table.sum()) - 1.0) < 1e-9 and total_variation(frequencies(result.samples), table) < floor(
        joint, N
    )
    errors = [
        total_variation(sampler_table(TauLeaping(n), process, joint.model(process)), joint.probabilities)
        for n in (20, 40)
    ]
    assert errors[1] < 0.65 * errors[0]


def test_tau_leaping_adds_jumps_of_ordered_states():
    joint, process = coupled(), NearestNeighbor(6)
    result = TauLeaping(40)(process, joint.model(process), (2000, 2))
    assert total_variation(frequencies(result.samples), joint.probabilities) < 0.1


@pytest.mark.parametrize(
    "sampler",
    [
        AncestralSampler(5),
        TauLeaping(5),
        FirstHitting(),
        Uniformization(0.05),
        ConfidenceUnmasking(3, randomness=1.0),
        Remasking(4),
        CorrectedSampler(AncestralSampler(4)),
    ],
    ids=repr,
)
def test_sample_i_depends_on_seed_and_index_only(sampler):
    process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
    model = chain.model(process)
    whole = sampler(process, model, (6, 5), seed=4).samples
    part = sampler(process, model, (2, 5), seed=4, first=3).samples
    assert torch.equal(whole[3:5], part) and not torch.equal(whole, sampler(process, model, (6, 5), seed=5).samples)


def test_events_of_any_shape_with_conditions_and_callbacks():
    process, seen = MaskAndReplace(4), []

    def model(x, t, label):
        assert t.shape == (3,) and t.dtype == torch.float64
        return 20.0 * torch.nn.functional.one_hot(label, 4).double().reshape(3, 1, 1, 4).expand(*x.shape, 4)

    label = torch.tensor([0, 3, 1])
    result = AncestralSampler(4)(
        process, model, (3, 2, 2), condition={"label": label}, callback=lambda k, t, x: seen.append((k, float(t)))
    )
    assert torch.equal(result.samples, label[:, None, None].expand(3, 2, 2))
    assert seen == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25), (4, 0.0)]


def test_grids():
    process = Absorbing(3, VPSDE())
    times = grids.equal_alpha(process, 4)
    alpha = process.schedule.alpha(times)
    assert torch.allclose(alpha.diff(), (1 - alpha[0]).expand(4) / 4, atol=1e-6) and times[0] == 1 and times[-1] == 0
    result = AncestralSampler(torch.tensor([1.0, 0.3, 0.0]))(Uniform(3), lambda x, t: torch.zeros(2, 3), (2,))
    assert result.nfe == 2 and result.samples.shape == (2,)


class TestRefusals:
    process, model = Absorbing(6), coupled().model(Absorbing(6))

    @pytest.mark.parametrize(
        ("call", "kind", "words"),
        [
            (
                lambda p, m: FirstHitting()(Uniform(6), coupled().model(Uniform(6)), (2, 2)),
                TypeError,
                "FirstHitting does not",
            ),
            (lambda p, m: FirstHitting()(VPSDE(), m, (2, 2)), TypeError, "not a jump process"),
            (lambda p, m: FirstHitting()(Absorbing(6, VPSDE()), m, (2, 2)), ValueError, "is another one"),
            (lambda p, m: FirstHitting()(p, None, (2, 2)), TypeError, "cannot be called"),
            (
                lambda p, m: FirstHitting()(p, m, (2, 2), start=torch.tensor([[0, 7], [0, 0]])),
                ValueError,
                "value 7 in sample 0",
            ),
            (
                lambda p, m: AncestralSampler(2)(p, lambda x, t: torch.zeros(2, 2), (2, 2)),
                ValueError,
                r"model has shape \(2, 2\)",
            ),
            (
                lambda p, m: AncestralSampler(2)(p, lambda x, t: torch.full((2, 2, 6), torch.nan), (2, 2)),
                ValueError,
                "non-finite values for 2 of 2 samples",
            ),
            (lambda p, m: AncestralSampler(torch.tensor([1.0, 0.5])), ValueError, "end at 0.5"),
            (lambda p, m: AncestralSampler(torch.tensor([0.5, 0.0]))(p, m, (2, 2)), ValueError, "give start="),
            (lambda p, m: Uniformization()(Uniform(5000), lambda x, t: x, (2, 2)), TypeError, "at most 4096 states"),
            (lambda p, m: Uniformization(0.5), ValueError, "ends=0.5"),
        ],
    )
    def test_wrong_calls(self, call, kind, words):
        with pytest.raises(kind, match=words):
            call(self.process, self.model)


def test_with_a_mask_the_model_evaluates_only_samples_with_a_token_to_unmask():
    process, chain, rows = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]]), []
    exact = chain.model(process)

    def model(x, t):
        rows.append(len(x))
        return exact(x, t)

    result = AncestralSampler(300)(process, model, (4, 6))
    assert sum(rows) == int(result.spent.sum()) <= 24 and result.nfe == len(rows) and int(result.spent.min()) >= 1
    again = AncestralSampler(3)(process, model, (4, 6), start=result.samples)
    assert again.nfe == 0 and torch.equal(again.samples, result.samples)
