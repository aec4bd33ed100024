"""The self-check of the process of a config, by ``scoresde.sde.check``."""

from __future__ import annotations

import torch
from ml_collections import ConfigDict

from scoresde._validation import check_number
from scoresde.experiment.config.builder import ConfigError, build
from scoresde.experiment.config.experiment import section
from scoresde.experiment.config.loader import check_values
from scoresde.sde import CheckReport, LinearSDE
from scoresde.sde import check as check_process

SMALL = (2,)
"""Event shape that the check uses if the process accepts any shape."""


def check(config: ConfigDict) -> CheckReport:
    """Test the process of a config against its own equations.

    Args:
        config: A config with the section ``sde``. The other sections are not needed.

    Returns:
        The results of ``scoresde.sde.check``.

    Raises:
        ConfigError: If the process cannot be built.
        TypeError: If the process has no transition kernel to compare with.
    """
    content = config.to_dict()
    if "sde" not in content:
        raise ConfigError("config.sde is missing: give a node, {'name': ..., arguments}")
    check_values(content)
    sde = build(content["sde"], "sde", LinearSDE)
    data_std = section(content, "model").get("data_std")
    data_std = 1.0 if data_std is None else data_std
    try:
        check_number("data_std", data_std, above=0.0)
    except ValueError as problem:
        raise ConfigError(f"config.model.{problem}") from problem
    # a process in a basis has a fixed event shape
    basis = getattr(sde, "basis", None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return check_process(sde, SMALL if basis is None else basis.event_shape, data_std)
    finally:
        torch.set_num_threads(threads)
