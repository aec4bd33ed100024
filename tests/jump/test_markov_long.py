"""A trained model of a third-order Markov source reaches its entropy rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scoresde.jump import Absorbing, CategoricalModel, ContinuousBound, MarkovChain, jump_bound

LENGTH, BATCH, STEPS = 64, 64, 1200


class Window(nn.Module):
    """Residual convolutions: the logits of a token depend on the states at distances up to 9."""

    def __init__(self, tokens: int, states: int, width: int = 48) -> None:
        super().__init__()
        self.first = nn.Embedding(states, width)
        self.middle = nn.ModuleList([nn.Conv1d(width, width, 7, padding=3) for _ in range(3)])
        self.last = nn.Conv1d(width, tokens, 1)

    def forward(self, x, t):
        hidden = self.first(x).mT
        for layer in self.middle:
            hidden = hidden + nn.functional.silu(layer(hidden))
        return self.last(hidden).mT


def source() -> MarkovChain:
    """The next of 3 tokens depends on all of the last three."""
    rows = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    return MarkovChain(rows / rows.sum(-1, keepdim=True))


@pytest.mark.long
def test_bits_per_token_are_within_5_percent_of_the_entropy_rate_of_a_third_order_source():
    chain, process = source(), Absorbing(3)
    torch.manual_seed(0)
    model, objective = CategoricalModel(Window(3, 4), process), ContinuousBound(process)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    x0 = chain.sample(6400, LENGTH)
    for step in range(STEPS):
        rows = (torch.arange(BATCH) + BATCH * step) % len(x0)
        loss = objective(model, x0[rows], step=step).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    held_out = chain.sample(400, LENGTH, seed=1)
    found, error = jump_bound(process, model, held_out, draws=16).mean_bits_per_token
    rate, window = chain.entropy_rate() / math.log(2), chain.entropy(LENGTH) / LENGTH / math.log(2)
    print(f"{found:.4f} +- {error:.4f} bits/token, entropy rate {rate:.4f}, of {LENGTH} tokens {window:.4f}")
    assert window - 4 * error < found < 1.05 * rate
