"""Layers of the paper's UNets, for events with one, two or three dimensions in addition to the channels.

    ResidualBlock    x -> norm, act, [resample], 3x3 -> + label -> norm, act, dropout, 3x3 -> + shortcut of x
    Attention        x -> norm, softmax(q k^T / sqrt C) v over all positions, 1x1 -> + x
    Head             x -> norm, act, 3x3
    Downsample       a 3x3 convolution of stride 2        Upsample    doubling, then a 3x3 convolution

The default activation is SiLU. With ``rescale``, a sum of two branches is divided by sqrt(2), which preserves the variance
(Karras et al. 2018). Weights are initialized from a uniform distribution with variance s / mean(fan in, fan out). For the
last layer of each branch s is 0, so that a block is initially its shortcut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from scoresde._validation import check_choice, check_number, expand
from scoresde.networks.norm_silu import norm_silu
from scoresde.networks.resampling import Averaging, Resampling
from scoresde.networks.sides import with_even_sides

_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "lrelu": partial(nn.LeakyReLU, negative_slope=0.2),
}
"""Activations by name; "lrelu" has the slope 0.2 below 0."""
POINTWISE_SCALE = 0.1
"""s of the pointwise layers: those of attention, and the shortcuts of DDPM's blocks."""


def initialized(layer: Any, scale: float = 1.0) -> Any:
    """Initialize weights with variance ``scale`` / mean(fan in, fan out), tiny for a scale of 0, and biases with 0."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    nn.init.zeros_(layer.bias)
    return layer


def convolution(
    dims: int,
    in_channels: int,
    out_channels: int,
    size: int = 3,
    *,
    stride: int = 1,
    scale: float = 1.0,
    padding: int | None = None,
) -> nn.Module:
    """A convolution over ``dims`` dimensions. With the default stride and padding it preserves the sides."""
    padding = size // 2 if padding is None else padding
    out: nn.Module = initialized(
        _CONVOLUTIONS[dims - 1](in_channels, out_channels, size, stride=stride, padding=padding), scale
    )
    return out


def activation_of(name: str) -> nn.Module:
    """The activation of a name in ``ACTIVATIONS``. Raises ValueError for any other name."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


def group_norm(channels: int, group_width: int = 4, groups: int = 0) -> nn.GroupNorm:
    """Group normalization; ``groups=0`` means the most groups, up to 32, with at least ``group_width`` channels each."""
    if groups:
        if channels % groups:
            raise ValueError(f"groups={groups} is not allowed: {channels} channels do not divide into so many groups")
        return nn.GroupNorm(groups, channels, eps=1e-6)
    most = max(1, min(channels // group_width, 32))
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels, eps=1e-6)


class InputRange:
    """Maps the range [low, high] of the data to [-1, 1]."""

    def __init__(self, ends: Sequence[float]) -> None:
        if len(ends) != 2:
            raise ValueError(f"input_range={tuple(ends)} is not allowed: give (low, high)")
        low, high = ends
        check_number("input_range", low)
        check_number("input_range", high, above=low)
        self.center, self.scale = 0.5 * (low + high), 2.0 / (high - low)

    def __call__(self, x: Tensor) -> Tensor:
        return x if (self.center, self.scale) == (0.0, 1.0) else (x - self.center) * self.scale


def split_outputs(out: Tensor, outputs: int) -> Tensor:
    """Reshape (B, C outputs, *sides) to (B, C, *sides, outputs); for one output, return it unchanged."""
    return out if outputs == 1 else out.unflatten(1, (-1, outputs)).movedim(2, -1)


def residual_sum(x: Tensor, y: Tensor, rescale: bool) -> Tensor:
    """x + y, divided by sqrt(2) if ``rescale``."""
    return (x + y).mul_(math.sqrt(0.5)) if rescale else x + y


class ResidualBlock(nn.Module):
    """Two convolutions, with the embedded label added between them, and a shortcut.

    Args:
        dims: Number of dimensions in addition to the channels: 1, 2 or 3.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        embedding_size: Features of the embedded label. The label is passed after its activation.
        resampling: How to change the resolution; `Averaging` by default.
        direction: "up" or "down" changes the resolution of both branches (Brock et al. 2019); "" keeps it.
        dropout: Probability of dropout before the second convolution.
        rescale: Divide the sum with the shortcut by sqrt(2).
        group_width: See `group_norm`.
        shortcut_size: Kernel size of the convolution of the shortcut, which exists if channels or resolution change.
        pointwise: Initialize that convolution with small weights, as in DDPM.
        checkpoint: Recompute the block in the backward pass.
        activation: A name in ``ACTIVATIONS``.
        groups: See `group_norm`.
        conditional: False keeps the layer of the label, because checkpoints of other projects contain it, but neither uses
            nor trains it.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        embedding_size: int,
        *,
        resampling: Resampling | None = None,
        direction: str = "",
        dropout: float = 0.0,
        rescale: bool = False,
        group_width: int = 4,
        shortcut_size: int = 1,
        pointwise: bool = False,
        checkpoint: bool = False,
        activation: str = "silu",
        groups: int = 0,
        conditional: bool = True,
    ) -> None:
        super().__init__()
        self.act, self.conditional = activation_of(activation), conditional
        self.resample = Resample(resampling or Averaging(), direction) if direction else None
        self.rescale, self.pointwise, self.checkpoint = rescale, pointwise, checkpoint
        self.norm1, self.conv1 = (
            group_norm(in_channels, group_width, groups),
            convolution(dims, in_channels, out_channels),
        )
        self.label = initialized(nn.Linear(embedding_size, out_channels)).requires_grad_(conditional)
        self.norm2 = group_norm(out_channels, group_width, groups)
        self.conv2 = convolution(dims, out_channels, out_channels, scale=0.0)
        self.dropout = nn.Dropout(dropout)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or direction:
            scale = POINTWISE_SCALE if pointwise else 1.0
            self.shortcut = convolution(dims, in_channels, out_channels, shortcut_size, scale=scale)

    def forward(self, x: Tensor, embedded: Tensor | None) -> Tensor:
        """Map (B, in_channels, *sides) and (B, embedding_size) to (B, out_channels, *sides), with resampled sides."""
        if self.checkpoint and torch.is_grad_enabled():
            out: Tensor = recomputed(self._compute, x, embedded, use_reentrant=False)
            return out
        return self._compute(x, embedded)

    def _compute(self, x: Tensor, embedded: Tensor | None) -> Tensor:
        h = self._activated(x, self.norm1)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        if embedded is not None:
            h = h.add_(expand(self.label(embedded), h))  # no backward pass needs the convolution's output
        h = self.conv2(self.dropout(self._activated(h, self.norm2)))
        return residual_sum(self.shortcut(x), h, self.rescale)

    def _activated(self, x: Tensor, norm: nn.GroupNorm) -> Tensor:
        if isinstance(self.act, nn.SiLU):
            return norm_silu(x, norm)
        out: Tensor = self.act(norm(x))
        return out


class Attention(nn.Module):
    """Self-attention over all positions with one head."""

    def __init__(self, channels: int, *, rescale: bool = False, group_width: int = 4, groups: int = 0) -> None:
        super().__init__()
        self.rescale, self.norm = rescale, group_norm(channels, group_width, groups)
        self.query, self.key, self.value = (
            initialized(nn.Linear(channels, channels), POINTWISE_SCALE) for _ in range(3)
        )
        self.out = initialized(nn.Linear(channels, channels), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *sides) to the same shape."""
        h = self.norm(x).flatten(2).mT[:, None]
        h = F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h))
        return residual_sum(x, self.out(h)[:, 0].mT.reshape(x.shape), self.rescale)


class Head(nn.Sequential):
    """Group normalization, activation, and a 3x3 convolution."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        *,
        scale: float = 0.0,
        group_width: int = 4,
        activation: str = "silu",
        groups: int = 0,
    ) -> None:
        super().__init__()
        self.norm, self.act = group_norm(in_channels, group_width, groups), activation_of(activation)
        self.conv = convolution(dims, in_channels, out_channels, scale=scale)


class Resample(nn.Module):
    """Downsampling or upsampling by ``resampling`` only; ``direction`` is "down" or "up"."""

    def __init__(self, resampling: Resampling, direction: str) -> None:
        super().__init__()
        check_choice("direction", direction, ("up", "down"))
        self.resampling, self.direction = resampling, direction

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        """Halve or double the sides of (B, C, *sides); odd sides are made even first. The embedded label is ignored."""
        return self.resampling.down(with_even_sides(x)) if self.direction == "down" else self.resampling.up(x)


class Downsample(nn.Module):
    """Downsampling by a 3x3 convolution of stride 2, after the filter of ``resampling`` if it has one."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, resampling: Resampling) -> None:
        super().__init__()
        self.resampling, self.conv = resampling, convolution(dims, in_channels, out_channels, stride=2, padding=0)

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, *sides) to (B, out_channels, *(sides / 2)), rounded up. The embedded label is ignored."""
        out: Tensor = self.conv(self.resampling.before_stride(with_even_sides(x)))
        return out


class Upsample(nn.Module):
    """Upsampling by ``resampling``, then a 3x3 convolution."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, resampling: Resampling) -> None:
        super().__init__()
        self.resampling, self.conv = resampling, convolution(dims, in_channels, out_channels)

    def forward(self, x: Tensor, embedded: Tensor | None = None) -> Tensor:
        """Map (B, in_channels, *sides) to (B, out_channels, *(2 sides)). The embedded label is ignored."""
        out: Tensor = self.conv(self.resampling.up(x))
        return out
