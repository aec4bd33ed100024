"""The self-check of the process of a config, by ``scoresde.sde.check``."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from ml_collections import ConfigDict

from scoresde._validation import check_number
from scoresde.data import Splits
from scoresde.experiment.config.builder import ConfigError, build, config_errors
from scoresde.experiment.config.experiment import section
from scoresde.experiment.config.families import build_process
from scoresde.experiment.config.loader import check_values
from scoresde.jump import JumpProcess
from scoresde.jump import check as check_jumps
from scoresde.product import ProductProcess
from scoresde.product import check as check_product
from scoresde.sde import SDE, CheckReport
from scoresde.sde import check as check_process
from scoresde.sde.nonlinear import Prior

SMALL = (2,)
"""Event shape that the check uses if the process accepts any shape."""
LARGEST = 64
"""Largest number of coordinates of a process that is checked by samples."""


def check(config: ConfigDict) -> CheckReport:
    """Test the process of a config against its own equations.

    Args:
        config: A config with the section ``sde`` or ``process``. The other sections are not needed, except ``data`` for a jump
            process without a number of tokens.

    Returns:
        The results of ``scoresde.sde.check``, ``scoresde.jump.check`` or ``scoresde.product.check``.

    Raises:
        ConfigError: If the process cannot be built.
    """
    content = config.to_dict()
    if content.get("sde") is None and content.get("process") is None:
        raise ConfigError("config.sde is missing: give a node, {'name': ..., arguments}")
    check_values(content)
    if content.get("sde") is None:
        return _check_jumps(content)
    sde = build(content["sde"], "sde", SDE)
    data_std = section(content, "model").get("data_std")
    data_std = 1.0 if data_std is None else data_std
    try:
        check_number("data_std", data_std, above=0.0)
    except ValueError as problem:
        raise ConfigError(f"config.model.{problem}") from problem
    shape = _event_shape(sde)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return check_process(sde, shape, data_std)
    finally:
        torch.set_num_threads(threads)


def _check_jumps(content: Mapping[str, Any]) -> CheckReport:
    """The results of ``scoresde.jump.check`` for the process of a config."""
    node = content["process"]
    if "data" in content and not (isinstance(node, Mapping) and "tokens" in node):
        process = build_process(content, build(content["data"], "data", Splits))
        if isinstance(process, ProductProcess):
            return check_product(process)
    else:
        process = build(node, "process", JumpProcess)
    assert isinstance(process, JumpProcess)  # the node was checked
    return check_jumps(process)


def _event_shape(sde: SDE) -> tuple[int, ...]:
    """The event shape of a process in a basis or with a prior of its own, else `SMALL`."""
    basis, prior = getattr(sde, "basis", None), getattr(sde, "prior", None)
    if basis is not None:
        return tuple(basis.event_shape)
    if not isinstance(prior, Prior):
        return SMALL
    with config_errors("sde.prior"):
        shape = tuple(prior.sample(1).shape[1:])
    if prod(shape) > LARGEST:
        raise ConfigError(
            f"config.sde.prior={prior!r} has events of {prod(shape)} numbers, and the check takes up to {LARGEST}: give a "
            "smaller one for the check"
        )
    return shape
