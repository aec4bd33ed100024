"""The process that ``--process MODULE:NAME`` names."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from scoresde._validation import shown
from scoresde.jump import JumpProcess
from scoresde.product import ProductProcess
from scoresde.sde import SDE


def named_process(name: str) -> SDE | JumpProcess | ProductProcess:
    """Import a process, or make it.

    Args:
        name: ``module:name`` of an object, or of a class or function that is called without arguments. The object is a
            process, a jump process or a product process of scoresde, or of a library that has an adapter in ``scoresde.interop``.

    Returns:
        The process.

    Raises:
        ValueError: If the name cannot be imported, or the class or function cannot be called without arguments.
        TypeError: If the object is not a process.
    """
    from scoresde.interop import from_library

    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ValueError(f"--process {shown(name)} is not allowed: give MODULE:NAME, e.g. azula.noise:VPSchedule")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise ValueError(
            f"--process {name} cannot be imported: {problem}; is its folder on PYTHONPATH, or the current one?"
        ) from problem
    if inspect.isclass(found) or inspect.isfunction(found):
        try:
            inspect.signature(found).bind()
        except TypeError as problem:
            raise ValueError(
                f"--process {name} needs arguments ({problem}): write a function without arguments that makes it"
            ) from problem
        found = found()
    return found if isinstance(found, SDE | JumpProcess | ProductProcess) else from_library(found)
