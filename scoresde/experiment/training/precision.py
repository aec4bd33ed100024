"""What the network computes in.

    x / std, label ---> [ network: autocast; norms and the label's embedding in float32 ] ---> float32: score, residual, loss

Weights, gradients, averages and Adam's moments stay in float32. Autocast takes convolutions and products of matrices; norms and
embeddings are given float32 and so compute in it. With float16 the loss is scaled (Micikevicius et al. 2018, arXiv:1710.03740):
a step whose gradients overflow lowers the scale and changes nothing else. bfloat16 has float32's range and needs no scale.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from scoresde.experiment.config.sections import TrainingConfig
from scoresde.networks.embeddings import Embedding
from scoresde.networks.refinenet import InstanceNormPlus
from scoresde.score import ScoreModel

IN_FLOAT32 = (Embedding, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, _NormBase, InstanceNormPlus)
"""Modules that are given float32."""


class Tuned(nn.Module):
    """A network that computes in ``dtype`` and returns float32, with images laid out as it wants them."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
        super().__init__()
        self.network, self.dtype, self.channels_last = network, dtype, channels_last

    def forward(self, x: Tensor, label: Tensor, **condition: Any) -> Tensor:
        """What the network returns."""
        if self.channels_last:
            x = x.contiguous(memory_format=layout(x.ndim))
        if self.dtype == torch.float32:
            out: Tensor = self.network(x, label, **condition)
            return out
        with torch.autocast(x.device.type, dtype=self.dtype):
            out = self.network(x, label, **condition)
            return out.float()


def tuned(model: ScoreModel, plan: TrainingConfig) -> ScoreModel:
    """The model that training calls: the same weights, by the plan's options. The model itself where there are none."""
    network, dtype = model.network, getattr(torch, plan.precision)
    if plan.channels_last:
        lay_out(network)
    if dtype != torch.float32:
        for part in network.modules():
            if isinstance(part, IN_FLOAT32):
                part.register_forward_pre_hook(_to_float32)
    if plan.compile:
        network.compile()
    if dtype == torch.float32 and not plan.channels_last:
        return model
    made = copy.copy(model)
    made._modules = {**model._modules, "network": Tuned(network, dtype, plan.channels_last)}
    return made


def layout(dims: int) -> torch.memory_format:
    """Where the channels of a tensor with so many dimensions come last; as it is for other than images and volumes."""
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(dims, torch.contiguous_format)


def lay_out(module: nn.Module) -> None:
    """Put the channels of a module's weights last in memory."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous(memory_format=layout(parameter.ndim))


def _to_float32(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in given)
