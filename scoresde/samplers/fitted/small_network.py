"""Training of a small network that gives one number for each state, as for noise levels and for steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scoresde._validation import check_batch, check_count, check_finite, check_number, check_seed, shown
from scoresde.noise import NoiseSource


def row_means(found: object, count: int) -> Tensor:
    """The mean of each row of a network's output.

    Args:
        found: The output, (B, ...).
        count: Number of states B.

    Returns:
        The means, (B,).

    Raises:
        ValueError: If the network returns no row for each state.
    """
    if not isinstance(found, Tensor) or found.ndim < 1 or len(found) != count:
        raise ValueError(f"network returned {shown(found)} for {count} states: it must return ({count}, ...)")
    return found.reshape(count, -1).mean(1)


def check_training(x: Tensor, updates: int, batch_size: int, learning_rate: float, seed: int) -> None:
    """Check the data and the settings of a training. Raises ValueError."""
    check_batch("x", x)
    check_finite("x", x)
    check_settings(updates, batch_size, learning_rate, seed)


def check_settings(updates: int, batch_size: int, learning_rate: float, seed: int) -> None:
    """Check the settings of a training. Raises ValueError."""
    for name, value in (("updates", updates), ("batch_size", batch_size)):
        check_count(name, value)
    check_number("learning_rate", learning_rate, above=0.0)
    check_seed("seed", seed)


def minimize(
    network: nn.Module,
    loss: Callable[[NoiseSource], Tensor],
    *,
    updates: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
) -> None:
    """Train a network in place by Adam, with a step size that falls to 0 like a cosine.

    Args:
        network: The network.
        loss: The mean loss of a batch, a function of the source of its random numbers, which has ``batch_size`` rows.
        updates: Number of updates.
        batch_size: Number of states in an update.
        learning_rate: The first step size.
        seed: Seed of the random numbers.
        device: Device of the random numbers.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    network.train()
    for update in range(updates):
        found = loss(NoiseSource.of(seed, batch_size, update * batch_size, device))
        if not bool(found.isfinite()):
            raise FloatingPointError(f"the loss of update {update} is not finite: give a smaller learning_rate")
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        decay.step()
    network.eval()
