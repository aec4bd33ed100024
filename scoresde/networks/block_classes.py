"""Names of the blocks of a network, whose outputs are its intermediate features."""

from __future__ import annotations

from torch import nn

from scoresde._arguments import checked_arguments
from scoresde.networks import improved_unet, mlp, refinenet, unet
from scoresde.networks.blocks import Attention, ResidualBlock

BLOCKS = (
    ResidualBlock, Attention, improved_unet._Block, improved_unet._Attention, unet._Block, unet._Attention, mlp._Block,
    refinenet._Block, refinenet._Refine,
)  # fmt: skip
"""Classes of the blocks of this library's networks."""


@checked_arguments
def block_names(network: nn.Module) -> tuple[str, ...]:
    """The names of the residual, attention and refinement blocks of a network.

    Args:
        network: A network of this library, or a module that contains one.

    Returns:
        Names as in ``network.named_modules()``, in the order of definition. A block within another block is not listed. The tuple
        is empty if the network has no blocks that this library knows.

    Example:
        >>> from scoresde.networks import MLP, block_names
        >>> block_names(MLP((2,), width=8, depth=2))
        ('blocks.0', 'blocks.1')
    """
    found: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, BLOCKS) and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return tuple(found)
