"""The self-check of the process of a config, by ``scoresde.sde.check``."""

from __future__ import annotations

from math import prod

import torch
from ml_collections import ConfigDict

from scoresde._validation import check_number
from scoresde.experiment.config.builder import ConfigError, build, config_errors
from scoresde.experiment.config.experiment import section
from scoresde.experiment.config.loader import check_values
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
        config: A config with the section ``sde``. The other sections are not needed.

    Returns:
        The results of ``scoresde.sde.check``.

    Raises:
        ConfigError: If the process cannot be built.
    """
    content = config.to_dict()
    if "sde" not in content:
        raise ConfigError("config.sde is missing: give a node, {'name': ..., arguments}")
    check_values(content)
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
