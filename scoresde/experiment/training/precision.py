"""The precision of the network's computations.

    x / std, label ---> [ network: autocast; norms and the label's embedding in float32 ] ---> float32: score, residual,
    loss

Weights, gradients, averages and Adam's moments are float32. Autocast computes convolutions and matrix products in the
lower precision. Norms and embeddings get float32 inputs and compute in float32. With float16 the loss is scaled
(Micikevicius et al. 2018, arXiv:1710.03740): a step whose gradients overflow lowers the scale and changes nothing else.
bfloat16 has the range of float32 and needs no scale.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.losses import Objective
from scoresde.networks.embeddings import Embedding
from scoresde.networks.refinenet import InstanceNormPlus
from scoresde.score import ConditionalModel, EnergyModel

IN_FLOAT32 = (Embedding, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, _NormBase, InstanceNormPlus)
"""Modules that get float32 inputs."""


class AutocastNetwork(nn.Module):
    """A network that computes in ``dtype`` and returns float32, with its images in the memory format that it needs."""

    def __init__(self, network: nn.Module, dtype: torch.dtype, channels_last: bool) -> None:
        super().__init__()
        self.network, self.dtype, self.channels_last = network, dtype, channels_last

    def forward(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        """The output of the network in float32."""
        if self.channels_last:
            x = x.contiguous(memory_format=memory_format(x.ndim))
        if self.dtype == torch.float32:
            out: Tensor = self.network(x, label, **condition)
            return out
        with torch.autocast(x.device.type, dtype=self.dtype):
            out = self.network(x, label, **condition)
            return out.float()


def prepare_model(model: ConditionalModel, config: TrainingConfig, objectives: Iterable[Objective]) -> ConditionalModel:
    """The model that training calls: the same weights, with the options of the config.

    The model itself if there are none.

    Raises:
        ConfigError: If the network is to be compiled or sharded, and training needs second derivatives.
    """
    needing = ["an EnergyModel"] if isinstance(model, EnergyModel) else []
    needing += [type(objective).__name__ for objective in objectives if objective.second_derivatives]
    for option in ("compile", "sharded"):
        if getattr(config, option) and needing:
            raise ConfigError(
                f"config.training.{option}=True is not allowed for {needing[0]}, whose training needs second "
                "derivatives: give False"
            )
    network, dtype = model.network, getattr(torch, config.precision)
    if config.channels_last:
        to_channels_last(network)
    if dtype != torch.float32:
        for part in network.modules():
            if isinstance(part, IN_FLOAT32):
                part.register_forward_pre_hook(_to_float32)
    if config.compile:
        network.compile()
    if dtype == torch.float32 and not config.channels_last:
        return model
    made = copy.copy(model)
    made._modules = {**model._modules, "network": AutocastNetwork(network, dtype, config.channels_last)}
    return made


def memory_format(dims: int) -> torch.memory_format:
    """The channels-last format for a number of dimensions; contiguous for tensors that are not images or volumes."""
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(dims, torch.contiguous_format)


def to_channels_last(module: nn.Module) -> None:
    """Convert the weights of a module to the channels-last format."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous(memory_format=memory_format(parameter.ndim))


def _to_float32(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in given)
