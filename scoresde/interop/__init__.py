"""File formats, networks and processes of other projects. No other part of the library depends on them."""

from scoresde._arguments import check_constructors
from scoresde.interop.processes.azula import AzulaSDE
from scoresde.interop.processes.choice import from_library
from scoresde.interop.processes.deepinv import DeepinvSDE
from scoresde.interop.processes.diffusers import DiffusersSDE
from scoresde.interop.processes.flow_matching import FlowMatchingSDE
from scoresde.interop.processes.sbi import SbiSDE
from scoresde.interop.processes.torchcfm import TorchCFMSDE

__all__ = [
    "AzulaSDE",
    "DeepinvSDE",
    "DiffusersSDE",
    "FlowMatchingSDE",
    "SbiSDE",
    "TorchCFMSDE",
    "from_library",
]

check_constructors(globals())
