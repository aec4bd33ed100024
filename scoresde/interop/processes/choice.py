"""The adapter of an object, chosen by the library that its class comes from."""

from __future__ import annotations

from typing import Any

from scoresde._arguments import checked_arguments
from scoresde._validation import shown
from scoresde.interop.processes.azula import AzulaSDE
from scoresde.interop.processes.deepinv import DeepinvSDE
from scoresde.interop.processes.diffusers import DiffusersSDE
from scoresde.interop.processes.flow_matching import FlowMatchingSDE
from scoresde.interop.processes.sbi import SbiSDE
from scoresde.interop.processes.torchcfm import TorchCFMSDE
from scoresde.sde import ScalarSDE

ADAPTERS: dict[str, type[ScalarSDE]] = {
    "azula": AzulaSDE, "deepinv": DeepinvSDE, "diffusers": DiffusersSDE, "flow_matching": FlowMatchingSDE, "sbi": SbiSDE,
    "torchcfm": TorchCFMSDE,
}  # fmt: skip


@checked_arguments
def from_library(process: Any) -> ScalarSDE:
    """Process of an object of another library.

    The library is that of the object's class, or of the nearest base class that belongs to a known library. The
    libraries are azula, deepinv, diffusers, flow_matching, sbi and torchcfm; none of them is imported.

    Args:
        process: A schedule, scheduler, diffusion, estimator or matcher of one of the libraries.

    Returns:
        The process: an ``AzulaSDE``, ``DeepinvSDE``, ``DiffusersSDE``, ``FlowMatchingSDE``, ``SbiSDE`` or
        ``TorchCFMSDE``.

    Raises:
        TypeError: If the object belongs to another library, or is of another kind.
    """
    for base in type(process).__mro__:
        adapter: Any = ADAPTERS.get(base.__module__.partition(".")[0])
        if adapter is not None:
            made: ScalarSDE = adapter(process)
            return made
    raise TypeError(
        f"process={shown(process)} is not of a known library: give an object of {', '.join(ADAPTERS)}, or use one of "
        f"the classes {', '.join(adapter.__name__ for adapter in ADAPTERS.values())}"
    )
