"""NCSN++ and its relatives, the paper's UNets (Song et al. 2021, appendix H; Ho et al. 2020).

    x -> 3x3 -> level 0 -> ... -> lowest level -> middle -> lowest level -> ... -> level 0 -> head -> output
                     \\________________________ every result is joined again ______________/

Level i works on sides of 1 / 2^i with multipliers[i] times the channels. Beside the main path an image may go down with it,
and an image may come up with it (Karras et al. 2020):

    progressive_input     "skip"      the input itself, halved, is shown to every level by a 1x1 convolution
                          "residual"  its features, halved by convolutions, become the main path's
    progressive_output    "skip"      every level adds its own part to the output, which is doubled from level to level
                          "residual"  the features of the output become the main path's

What NCSN++ has of these, FIR resampling, resampling inside the residual blocks and rescaled sums, DDPM++ has in part and DDPM
not at all. Events may have one, two or three dimensions beside the channels: series, images, volumes. Modules are defined in
the order in which they are used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_choice, check_count
from scoresde.networks.blocks import (
    Attention,
    Downsample,
    Head,
    InputRange,
    Resample,
    ResidualBlock,
    Upsample,
    convolution,
    initialised,
    merged,
    split_outputs,
)
from scoresde.networks.embeddings import Embedding, FourierEmbedding, SinusoidalEmbedding
from scoresde.networks.resampling import FIR, Averaging, Resampling

PROGRESSIVE = ("none", "skip", "residual")


class NCSNpp(nn.Module):
    """A UNet with all of the above; the defaults are NCSN++ for CIFAR-10 in continuous time.

    event_shape: (C, *sides), one to three sides, each a multiple of 2^(levels - 1). Any other sides of that kind are taken too.
    channels: width at full resolution, a multiple of 4.
    multipliers: of the width, one for each level.
    blocks: residual blocks of each level on the way down; one more on the way up.
    attention: longest sides of the levels with attention; the middle always has it.
    dropout: in [0, 1), inside the blocks.
    outputs: numbers predicted for each coordinate; more than 1 adds a last dimension of that size.
    classes: number of classes of a conditional network, called as ``network(x, label, y=y)``; 0 for none.
    input_range: range of the data, which is mapped to [-1, 1].
    checkpoint: compute residual blocks again in the backward pass: less memory, a third more time.
    embedding: of the label; ``FourierEmbedding(channels)`` unless given.
    resampling: ``FIR()`` unless given.
    block: "biggan", resampling inside residual blocks, or "ddpm", between them.
    convolve: resample by convolutions there; False by ``resampling`` alone.
    progressive_input, progressive_output: "none", "skip" or "residual". combine: "sum" or "cat", of the "skip" input.
    rescale: divide sums of two branches by sqrt 2.
    group_width: least number of channels in a group of the norms, of which there are 32 at most.

    Returns what it predicts, the shape of x: raw, never divided by a noise level, which it does not know.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        outputs: int = 1,
        classes: int = 0,
        input_range: Sequence[float] = (-1.0, 1.0),
        checkpoint: bool = False,
        *,
        embedding: Embedding | None = None,
        resampling: Resampling | None = None,
        block: str = "biggan",
        convolve: bool = True,
        progressive_input: str = "residual",
        progressive_output: str = "none",
        combine: str = "sum",
        rescale: bool = True,
        group_width: int = 4,
    ) -> None:
        super().__init__()
        images, dims = _check_event(event_shape, multipliers)
        for name, count in (
            ("channels", channels),
            ("blocks", blocks),
            ("outputs", outputs),
            *(("multipliers", m) for m in multipliers),
        ):
            check_count(name, count)
        check_count("classes", classes, least=0)
        check_choice("block", block, ("biggan", "ddpm"))
        check_choice("progressive_input", progressive_input, PROGRESSIVE)
        check_choice("progressive_output", progressive_output, PROGRESSIVE)
        check_choice("combine", combine, ("sum", "cat"))
        self.event_shape, self.outputs, self.classes = tuple(event_shape), outputs, classes
        self.input_range = InputRange(input_range)
        self.channels, self.multipliers, self.block = channels, tuple(multipliers), block
        self.progressive_input, self.progressive_output, self.combine = progressive_input, progressive_output, combine
        resampling = resampling or FIR()
        predicted, told, widths = images * outputs, 4 * channels, [channels * m for m in multipliers]

        def residual(before: int, after: int, direction: str = "") -> nn.Module:
            return ResidualBlock(
                dims, before, after, told, resampling=resampling, direction=direction, dropout=dropout, rescale=rescale,
                group_width=group_width, pointwise=block == "ddpm", checkpoint=checkpoint,
            )  # fmt: skip

        def attend(width: int) -> nn.Module:
            return Attention(width, rescale=rescale, group_width=group_width)

        def head(before: int, after: int, scale: float = 0.0) -> nn.Module:
            return Head(dims, before, after, scale=scale, group_width=group_width)

        def change(direction: str, width: int) -> nn.Module:
            """A change of resolution on the main path."""
            if block == "biggan":
                return residual(width, width, direction)
            if convolve:
                return {"down": Downsample, "up": Upsample}[direction](dims, width, width, resampling)
            return Resample(resampling, direction)

        self.embedding = embedding or FourierEmbedding(channels)
        self.label = nn.Sequential(
            initialised(nn.Linear(self.embedding.features, told)), nn.SiLU(), initialised(nn.Linear(told, told))
        )
        if classes:  # a fresh network says the same of every class; the last row is for no class
            self.class_label = nn.Embedding(classes + 1, told)
            nn.init.zeros_(self.class_label.weight)
        self.first = convolution(dims, images, channels)

        skips, width, image = [channels], channels, images
        down: list[_Down] = []
        for i, after in enumerate(widths):
            lowest, attended = i == len(widths) - 1, max(event_shape[1:]) >> i in attention
            rows = [
                _Attended(residual(width if j == 0 else after, after), attend(after) if attended else None)
                for j in range(blocks)
            ]
            skips += [after] * blocks
            width = after
            halve: nn.Module | None = None
            merge: nn.Module | None = None
            if not lowest:
                halve = change("down", width)
                if progressive_input == "skip":
                    merge = SkipInput(dims, images, width, resampling, combine)
                    width *= 2 if combine == "cat" else 1
                elif progressive_input == "residual":
                    merge = _ResidualInput(dims, image, width, resampling, rescale)
                    image = width
                skips.append(width)
            down.append(_Down(rows, halve, merge))
        self.down = nn.ModuleList(down)

        self.before, self.attention, self.after = residual(width, width), attend(width), residual(width, width)

        up: list[_Up] = []
        for i, after in reversed(list(enumerate(widths))):
            lowest, attended = i == len(widths) - 1, max(event_shape[1:]) >> i in attention
            joined = [residual((width if j == 0 else after) + skips.pop(), after) for j in range(blocks + 1)]
            before, width = width, after
            part: nn.Module | None = None
            if progressive_output == "skip":
                part = _SkipOutput(head(width, predicted), resampling)
            elif progressive_output == "residual" and lowest:
                part = _LowestOutput(head(width, width, scale=1.0))
            elif progressive_output == "residual":
                part = _ResidualOutput(dims, before, width, resampling, rescale)
            up.append(_Up(joined, attend(width) if attended else None, part, change("up", width) if i > 0 else None))
        self.up = nn.ModuleList(up)
        self.head = head(width, predicted) if progressive_output != "skip" else None

    def forward(self, x: Tensor, label: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, C, *sides), (B,) to (B, C, *sides) or (B, C, *sides, outputs).

        y: (B,) whole numbers, classes 0 .. classes - 1, or `classes` for none; None for none at all.
        """
        self._check_input(x)
        image, told = self.input_range(x), self._told(label, y)
        h = self.first(image)
        skips = [h]
        for level in self.down:
            h, image = level(h, image, told, skips)
        h = self.after(self.attention(self.before(h, told)), told)
        result: Tensor | None = None
        for level in self.up:
            h, result = level(h, result, told, skips)
        out = result if self.head is None else self.head(h)
        assert out is not None
        return split_outputs(out, self.outputs)

    def _told(self, label: Tensor, y: Tensor | None) -> Tensor:
        told = self.label(self.embedding(label))
        if self.classes:
            y = torch.full(label.shape, self.classes, device=label.device) if y is None else y
            told = told + self.class_label(y)
        elif y is not None:
            raise ValueError("y is given to a network of classes=0: make it with the number of classes")
        return F.silu(told)

    def _check_input(self, x: Tensor) -> None:
        step = 2 ** (len(self.multipliers) - 1)
        alike = x.ndim == len(self.event_shape) + 1 and x.shape[1] == self.event_shape[0]
        if not alike or any(side % step for side in x.shape[2:]):
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}: this {type(self).__name__} was made for {self.event_shape} "
                f"and takes sides that are multiples of {step}"
            )


class DDPMpp(NCSNpp):
    """DDPM++: `NCSNpp` without FIR filters and progressive images, told the time by sines. The arguments are its."""

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        outputs: int = 1,
        classes: int = 0,
        input_range: Sequence[float] = (-1.0, 1.0),
        checkpoint: bool = False,
        *,
        embedding: Embedding | None = None,
    ) -> None:
        super().__init__(
            event_shape, channels, multipliers, blocks, attention, dropout, outputs, classes, input_range, checkpoint,
            embedding=embedding or SinusoidalEmbedding(channels), resampling=Averaging(), progressive_input="none",
        )  # fmt: skip


class DDPM(NCSNpp):
    """DDPM's own UNet (Ho et al. 2020): resampling between the blocks, plain sums. The arguments are `NCSNpp`'s."""

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        outputs: int = 1,
        classes: int = 0,
        input_range: Sequence[float] = (-1.0, 1.0),
        checkpoint: bool = False,
        *,
        embedding: Embedding | None = None,
        convolve: bool = True,
    ) -> None:
        super().__init__(
            event_shape, channels, multipliers, blocks, attention, dropout, outputs, classes, input_range, checkpoint,
            embedding=embedding or SinusoidalEmbedding(channels), resampling=Averaging(), block="ddpm", convolve=convolve,
            progressive_input="none", rescale=False, group_width=1,
        )  # fmt: skip


class _Attended(nn.Module):
    """A block, and attention after it where there is any."""

    def __init__(self, block: nn.Module, attention: nn.Module | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        h = self.block(h, told)
        return h if self.attention is None else self.attention(h)


class _Down(nn.Module):
    """One resolution on the way down: blocks; then half the sides, and the image joined."""

    def __init__(self, blocks: Sequence[nn.Module], change: nn.Module | None, image: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.change, self.image = nn.ModuleList(blocks), change, image

    def forward(self, h: Tensor, image: Tensor, told: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features and image at the next resolution; every result is added to ``skips``."""
        for block in self.blocks:
            skips.append(h := block(h, told))
        if self.change is not None:
            h = self.change(h, told)
            if self.image is not None:
                h, image = self.image(h, image)
            skips.append(h)
        return h, image


class _Up(nn.Module):
    """One resolution on the way up: blocks, attention once; then the part of the output, and twice the sides."""

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
        self, h: Tensor, image: Tensor | None, told: Tensor, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Features at the next resolution and the output so far; a result is taken from ``skips`` for every block."""
        for block in self.blocks:
            h = block(torch.cat((h, skips.pop()), dim=1), told)
        if self.attention is not None:
            h = self.attention(h)
        if self.image is not None:
            h, image = self.image(h, image)
        if self.change is not None:
            h = self.change(h, told)
        return h, image


class SkipInput(nn.Module):
    """The input halved, and shown by a 1x1 convolution: added to the features, or set before them."""

    def __init__(self, dims: int, images: int, width: int, resampling: Resampling, combine: str) -> None:
        super().__init__()
        self.resampling, self.combine = resampling, combine
        self.conv = convolution(dims, images, width, 1)

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = self.resampling.down(image)
        shown = self.conv(image)
        return (torch.cat((shown, h), dim=1) if self.combine == "cat" else shown + h), image


class _ResidualInput(nn.Module):
    """The features of the image, halved by a convolution, joined to the main path's."""

    def __init__(self, dims: int, before: int, after: int, resampling: Resampling, rescale: bool) -> None:
        super().__init__()
        self.rescale, self.shrink = rescale, Downsample(dims, before, after, resampling)

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = merged(self.shrink(image), h, self.rescale)
        return image, image


class _SkipOutput(nn.Module):
    """A level's own part of the output, added to what the lower levels said."""

    def __init__(self, head: nn.Module, resampling: Resampling) -> None:
        super().__init__()
        self.head, self.resampling = head, resampling

    def forward(self, h: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        part = self.head(h)
        return h, part if image is None else self.resampling.up(image) + part


class _LowestOutput(nn.Module):
    """The features of the output, from the lowest level's."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, h: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        return h, self.head(h)


class _ResidualOutput(nn.Module):
    """The features of the output, doubled by a convolution, joined to the main path's."""

    def __init__(self, dims: int, before: int, after: int, resampling: Resampling, rescale: bool) -> None:
        super().__init__()
        self.rescale, self.grow = rescale, Upsample(dims, before, after, resampling)

    def forward(self, h: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        image = merged(self.grow(image), h, self.rescale)
        return image, image


def _check_event(event_shape: Sequence[int], multipliers: Sequence[int]) -> tuple[int, int]:
    """Channels and number of sides."""
    images, *sides = event_shape
    step = 2 ** (len(multipliers) - 1)
    if not 1 <= len(sides) <= 3 or any(side < step or side % step for side in sides):
        raise ValueError(
            f"event_shape={tuple(event_shape)} is not allowed: give (C, *sides), one to three sides that are multiples of "
            f"{step} for {len(multipliers)} multipliers"
        )
    return images, len(sides)
