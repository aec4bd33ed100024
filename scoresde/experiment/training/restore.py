"""Restores Adam's state from a checkpoint and checks it against the parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.header import shortened
from scoresde.experiment.folder.tensor_file import CheckpointError, shard_like
from scoresde.losses import Objective

MOMENTS = ("exp_avg", "exp_avg_sq")


def load_optimizer(network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Restore the optimizer's state, parameter by parameter.

    Raises CheckpointError if moments are missing or do not fit. Otherwise training would silently start from zero
    moments and take other steps.
    """
    parameters = dict(network.named_parameters())
    states = {name: _state(checkpoint, name) for name in parameters}
    _check_all_there(parameters, states, checkpoint)
    for name, state in states.items():
        if state:
            parameter = parameters[name]
            _check(name, parameter, state, checkpoint)
            optimizer.state[parameter] = {
                k: v if k == "step" else shard_like(v, parameter).to(parameter.device, parameter.dtype)
                for k, v in state.items()
            }


def load_learned(objective: Objective, name: str, checkpoint: Checkpoint) -> None:
    """Restore what an objective has learned from losses. Raises CheckpointError if it is missing or does not fit."""
    if not objective.learns:
        return
    prefix = f"{name}."
    state = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    try:
        objective.load_state(state)
    except ValueError as problem:
        raise CheckpointError(
            f"{checkpoint.path}: the history of {type(objective).__name__} cannot be restored, {problem}; remove the "
            "checkpoint to resume from the one before"
        ) from problem


def _state(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    prefix = f"optimizer.{name}."
    return {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}


def _check_all_there(
    parameters: dict[str, nn.Parameter], states: dict[str, dict[str, Tensor]], checkpoint: Checkpoint
) -> None:
    """Raise CheckpointError unless every trained parameter has moments, except those that the header names."""
    lacking = {name for name, parameter in parameters.items() if parameter.requires_grad and not states[name]}
    known = checkpoint.without_moments
    if known is None:  # an earlier version without this list: only the lack of all moments can be detected
        known = tuple(lacking) if any(states.values()) or not checkpoint.ema_updates else ()
    if gone := sorted(lacking - set(known)):
        more = f" and {len(gone) - 3} more" if gone[3:] else ""
        raise CheckpointError(
            f"{checkpoint.path} lacks Adam's moments of {', '.join(gone[:3])}{more}: training cannot resume from it; remove "
            "it to resume from the one before"
        )


def _check(name: str, parameter: nn.Parameter, state: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless a parameter's state is a step count and two finite moments of the parameter's shape."""
    problem = ""
    if set(state) != {"step", *MOMENTS}:
        problem = f"has {', '.join(sorted(state))}, expected step, exp_avg and exp_avg_sq"
    elif state["step"].numel() != 1 or not _is_count(float(state["step"])):
        problem = f"has step {shortened(state['step'].tolist())}, expected a whole number >= 0"
    for key in () if problem else MOMENTS:
        moment = state[key]
        if moment.shape != parameter.shape or not moment.is_floating_point():
            problem = f"has {key} {tuple(moment.shape)} {moment.dtype}, expected real numbers of shape {tuple(parameter.shape)}"
        elif not bool(torch.isfinite(moment).all()) or (key == "exp_avg_sq" and bool((moment < 0).any())):
            problem = f"has {key} with values that are not finite{', or below 0' if key == 'exp_avg_sq' else ''}"
    if problem:
        raise CheckpointError(f"{checkpoint.path}: Adam's state of {name} {problem}")


def _is_count(value: float) -> bool:
    return math.isfinite(value) and value >= 0.0 and value.is_integer()
