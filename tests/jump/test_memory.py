"""Memory of sampling and training steps for large vocabularies, in units of the logits."""

from __future__ import annotations

import pytest
import torch

from benchmarks.jump_speed import AnyLogits, PeakMemory
from scoresde.jump import (
    Absorbing,
    AncestralSampler,
    CategoricalModel,
    ConfidenceUnmasking,
    ContinuousBound,
    CorrectedSampler,
    FirstHitting,
    MaskAndReplace,
    Remasking,
    TauLeaping,
    Uniform,
    confidences,
)

TOKENS, SHAPE = 30_000, (2, 64)
LOGITS = 4 * TOKENS * SHAPE[0] * SHAPE[1]


def test_the_peak_counts_tensors_that_are_alive_together():
    with PeakMemory() as memory:
        x = torch.zeros(1000)
        y = x + 1.0
        del x
        z = y.view(10, 100) * 2.0  # the view has no memory of its own
        assert memory.peak == 8000 and memory.live == 8000
        del y, z
        assert memory.live == 0


@pytest.mark.parametrize(
    ("process", "sampler"),
    [
        (Absorbing(TOKENS), AncestralSampler(2)),
        (Absorbing(TOKENS), FirstHitting()),
        (Absorbing(TOKENS), ConfidenceUnmasking(2)),
        (Absorbing(TOKENS), ConfidenceUnmasking(2, confidence=confidences.negative_entropy)),
        (Absorbing(TOKENS), Remasking(2)),
        (Uniform(TOKENS), CorrectedSampler(AncestralSampler(2))),
        (Uniform(TOKENS), AncestralSampler(2)),
        (MaskAndReplace(TOKENS), AncestralSampler(2)),
        (MaskAndReplace(TOKENS), TauLeaping(2)),
    ],
    ids=repr,
)
def test_a_sampling_step_holds_at_most_three_tensors_of_the_size_of_the_logits(process, sampler):
    model, start = CategoricalModel(AnyLogits(TOKENS), process), process.prior_sample(SHAPE)
    if isinstance(sampler, FirstHitting):
        start[:, 2:] = 0
    with PeakMemory() as memory:
        sampler(process, model, SHAPE, start=start)
    assert memory.peak < 3.0 * LOGITS


def test_the_draw_of_a_training_step_makes_no_tensor_of_the_size_of_the_logits():
    x0 = torch.randint(TOKENS, SHAPE, generator=torch.Generator().manual_seed(0))
    for process in (Absorbing(TOKENS), Uniform(TOKENS), MaskAndReplace(TOKENS)):
        with PeakMemory() as memory:
            ContinuousBound(process).draw(x0, step=0)
        assert memory.peak < 0.05 * LOGITS
