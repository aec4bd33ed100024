"""The levels of NCSN++, DDPM++ and DDPM: blocks at one resolution, resampling, and the paths of progressive growing.

Modules are defined in the order in which they are used, because the conversion of other projects' weights relies on this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoresde.networks.blocks import (
    Attention,
    Downsample,
    Head,
    Resample,
    ResidualBlock,
    Upsample,
    convolution,
    residual_sum,
)
from scoresde.networks.resampling import Resampling
from scoresde.networks.sides import cropped, with_even_sides


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of a network with common settings. inside: resample inside the residual blocks."""

    dims: int
    embedding_size: int
    resampling: Resampling
    inside: bool
    convolve: bool
    dropout: float
    rescale: bool
    group_width: int
    checkpoint: bool
    activation: str = "silu"
    groups: int = 0
    conditional: bool = True

    def residual(self, in_channels: int, out_channels: int, direction: str = "") -> nn.Module:
        return ResidualBlock(
            self.dims, in_channels, out_channels, self.embedding_size, resampling=self.resampling,
            direction=direction, dropout=self.dropout, rescale=self.rescale, group_width=self.group_width,
            pointwise=not self.inside, checkpoint=self.checkpoint,
            activation=self.activation, groups=self.groups, conditional=self.conditional,
        )  # fmt: skip

    def attention(self, width: int) -> nn.Module:
        return Attention(width, rescale=self.rescale, group_width=self.group_width, groups=self.groups)

    def head(self, in_channels: int, out_channels: int, scale: float = 0.0) -> nn.Module:
        return Head(
            self.dims, in_channels, out_channels, scale=scale, group_width=self.group_width, activation=self.activation,
            groups=self.groups,
        )  # fmt: skip

    def convolved(self, direction: str, in_channels: int, out_channels: int) -> nn.Module:
        return {"down": Downsample, "up": Upsample}[direction](self.dims, in_channels, out_channels, self.resampling)

    def change(self, direction: str, width: int) -> nn.Module:
        """A layer that changes the resolution on the main path."""
        if self.inside:
            return self.residual(width, width, direction)
        return self.convolved(direction, width, width) if self.convolve else Resample(self.resampling, direction)


def encoder(
    layers: LayerFactory,
    width: int,
    widths: Sequence[int],
    blocks: int,
    attended: Sequence[bool],
    images: int,
    progressive: str,
    combine: str,
) -> tuple[nn.ModuleList, list[int], int]:
    """The levels from full to lowest resolution, the channels of all skip connections, and the channels of the last level."""
    levels, skips, image = nn.ModuleList(), [width], images
    for i, after in enumerate(widths):
        rows = []
        for _ in range(blocks):
            rows.append(
                _BlockWithAttention(layers.residual(width, after), layers.attention(after) if attended[i] else None)
            )
            skips.append(width := after)
        change: nn.Module | None = None
        step: nn.Module | None = None
        if i < len(widths) - 1:
            change = layers.change("down", width)
            if progressive == "skip":
                step = SkipInput(layers.dims, images, width, layers.resampling, combine)
                width *= 2 if combine == "cat" else 1
            elif progressive == "residual":
                step = _ResidualInput(layers.convolved("down", image, width), layers.rescale)
                image = width
            skips.append(width)
        levels.append(_EncoderLevel(rows, change, step))
    return levels, skips, width


def decoder(
    layers: LayerFactory,
    width: int,
    widths: Sequence[int],
    blocks: int,
    attended: Sequence[bool],
    skips: list[int],
    predicted: int,
    progressive: str,
) -> nn.ModuleList:
    """The levels from lowest to full resolution."""
    levels = nn.ModuleList()
    for i, after in reversed(list(enumerate(widths))):
        rows, lower = [], width
        for _ in range(blocks + 1):
            rows.append(layers.residual(width + skips.pop(), after))
            width = after
        step: nn.Module | None = None
        if progressive == "skip":
            step = _SkipOutput(layers.head(width, predicted), layers.resampling)
        elif progressive == "residual" and i == len(widths) - 1:
            step = _LowestOutput(layers.head(width, width, scale=1.0))
        elif progressive == "residual":
            step = _ResidualOutput(layers.convolved("up", lower, width), layers.rescale)
        attention = layers.attention(width) if attended[i] else None
        levels.append(_DecoderLevel(rows, attention, step, layers.change("up", width) if i > 0 else None))
    return levels


class _BlockWithAttention(nn.Module):
    """A block, followed by attention if there is any."""

    def __init__(self, block: nn.Module, attention: nn.Module | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Tensor, embedded: Tensor | None) -> Tensor:
        h = self.block(h, embedded)
        return h if self.attention is None else self.attention(h)


class _EncoderLevel(nn.Module):
    """One level of the encoder: blocks, then downsampling combined with the downsampled input."""

    def __init__(self, blocks: Sequence[nn.Module], change: nn.Module | None, image: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.change, self.image = nn.ModuleList(blocks), change, image

    def forward(self, h: Tensor, image: Tensor, embedded: Tensor | None, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features and input at the next resolution. Appends the features of every block to ``skips``."""
        for block in self.blocks:
            skips.append(h := block(h, embedded))
        if self.change is not None:
            h = self.change(h, embedded)
            if self.image is not None:
                h, image = self.image(h, image)
            skips.append(h)
        return h, image


class _DecoderLevel(nn.Module):
    """One level of the decoder: blocks, one attention, the contribution to the output, then upsampling."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attention: nn.Module | None,
        image: nn.Module | None,
        change: nn.Module | None,
    ) -> None:
        super().__init__()
        self.blocks, self.attention, self.image, self.change = nn.ModuleList(blocks), attention, image, change

    def forward(
        self, h: Tensor, image: Tensor | None, embedded: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Features at the next resolution and the output up to this level. Every block consumes one entry of ``skips``."""
        for block in self.blocks:
            h = block(torch.cat((h, skips.pop()), dim=1), embedded)
        if self.attention is not None:
            h = self.attention(h)
        if self.image is not None:
            h, image = self.image(h, image)
        if self.change is not None:
            h = cropped(self.change(h, embedded), skips[-1].shape[2:])
        return h, image


class SkipInput(nn.Module):
    """Downsamples the input, and adds a 1x1 convolution of it to the features or concatenates the two."""

    def __init__(self, dims: int, images: int, width: int, resampling: Resampling, combine: str) -> None:
        super().__init__()
        self.resampling, self.combine = resampling, combine
        self.conv = convolution(dims, images, width, 1)

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.resampling.down(with_even_sides(image))
        features = self.conv(image)
        return (torch.cat((features, h), dim=1) if self.combine == "cat" else features + h), image


class _ResidualInput(nn.Module):
    """Downsamples the features of the input by a convolution and adds them to those of the main path."""

    def __init__(self, shrink: nn.Module, rescale: bool) -> None:
        super().__init__()
        self.shrink, self.rescale = shrink, rescale

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = residual_sum(self.shrink(image), h, self.rescale)
        return image, image


class _SkipOutput(nn.Module):
    """Adds the contribution of one level to the upsampled output of the lower levels."""

    def __init__(self, head: nn.Module, resampling: Resampling) -> None:
        super().__init__()
        self.head, self.resampling = head, resampling

    def forward(self, h: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        part = self.head(h)
        return h, part if image is None else cropped(self.resampling.up(image), part.shape[2:]) + part


class _LowestOutput(nn.Module):
    """The features of the output at the lowest level."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, h: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        return h, self.head(h)


class _ResidualOutput(nn.Module):
    """Upsamples the features of the output by a convolution and adds them to those of the main path."""

    def __init__(self, grow: nn.Module, rescale: bool) -> None:
        super().__init__()
        self.grow, self.rescale = grow, rescale

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = residual_sum(cropped(self.grow(image), h.shape[2:]), h, self.rescale)
        return image, image
