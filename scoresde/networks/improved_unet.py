r"""The UNet of improved-diffusion and guided-diffusion, with its names of weights.

    x -> 3x3 -> encoder -> block, attention, block -> decoder with skip connections -> norm, SiLU, 3x3

A residual block is norm, SiLU, 3x3, then norm, SiLU, dropout, 3x3 (Nichol & Dhariwal 2021, Dhariwal & Nichol 2021). The
embedded label e gives a shift, or a scale and a shift:

.. math:: h \to \mathrm{norm}(h + b(e)) \qquad \text{or} \qquad h \to \mathrm{norm}(h)\,(1 + a(e)) + b(e).

Attention has several heads. Its query, key and value are one layer, whose channels are ordered (head, kind, channel), or
(kind, head, channel) in the other order of guided-diffusion. The features of a label l are cos(l w_j) and sin(l w_j) with
w_j = 10000^(-j / h) for j = 0 ... h - 1. Every normalization has 32 groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_count, check_counts, check_number, expand
from scoresde.conditions import ConditionKind, Tokens
from scoresde.networks.blocks import split_outputs
from scoresde.networks.conditioning import check_no_conditions, make_conditioning
from scoresde.networks.norm_silu import norm_silu

_GROUPS = 32


class ImprovedUNet(nn.Module):
    """The UNet of improved-diffusion and guided-diffusion.

    Args:
        event_shape: (C, H, W), sides that are multiples of 2^(levels - 1).
        channels: Channels of the first level, a multiple of 32.
        multipliers: Channels of each level, in multiples of ``channels``. Every level has half the sides of the one before.
        blocks: Residual blocks of each level of the encoder. The decoder has one more.
        attention: Levels with attention, counted from 0. The lowest point always has attention.
        heads: Heads of attention in the encoder and at the lowest point.
        decoder_heads: Heads of attention in the decoder; 0 means ``heads``.
        head_channels: Channels of a head, in place of a number of heads; 0 means that ``heads`` is used.
        grouped_heads: Whether the query, key and value of a head are adjacent channels. False is the new attention order of
            guided-diffusion.
        scale_shift: Whether the label gives a scale and a shift, in place of a shift.
        resample_blocks: Change the resolution by residual blocks, in place of convolutions.
        dropout: Probability of dropout inside the blocks, in [0, 1).
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        conditions: Kinds of the conditions by name, e.g. ``{"label": Classes(10)}``.

    References:
        Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672.
        Dhariwal, Nichol 2021, "Diffusion models beat GANs on image synthesis", arXiv:2105.05233.

    Example:
        >>> import torch
        >>> network = ImprovedUNet((3, 8, 8), channels=32, multipliers=(1, 2), blocks=1, attention=(1,))
        >>> network(torch.zeros(2, 3, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (1, 2),
        heads: int = 4,
        decoder_heads: int = 0,
        head_channels: int = 0,
        grouped_heads: bool = True,
        scale_shift: bool = True,
        resample_blocks: bool = False,
        dropout: float = 0.0,
        outputs: int = 1,
        conditions: Mapping[str, ConditionKind] | None = None,
    ) -> None:
        super().__init__()
        check_counts("event_shape", event_shape)
        check_counts("multipliers", multipliers)
        if not multipliers:
            raise ValueError(
                f"multipliers={multipliers!r} is not allowed: give one multiplier for each level, at least one"
            )
        for name, value, least in (("blocks", blocks, 1), ("outputs", outputs, 1), ("heads", heads, 1),
                                   ("decoder_heads", decoder_heads, 0), ("head_channels", head_channels, 0)):  # fmt: skip
            check_count(name, value, least=least)
        check_number("dropout", dropout, least=0.0, below=1.0)
        levels = len(multipliers)
        step = 2 ** (levels - 1)
        if len(event_shape) != 3 or any(side % step for side in event_shape[1:]):
            raise ValueError(
                f"event_shape={tuple(event_shape)} is not allowed: ImprovedUNet with {levels} levels takes (C, H, W) with sides "
                f"that are multiples of {step}"
            )
        if not isinstance(channels, int) or channels < _GROUPS or channels % _GROUPS:
            raise ValueError(f"channels={channels!r} is not allowed: give a multiple of {_GROUPS}")
        if wrong := [level for level in attention if level not in range(levels)]:
            raise ValueError(f"attention={tuple(attention)} is not allowed: {wrong} are not levels 0 ... {levels - 1}")
        if tokens := [name for name, kind in (conditions or {}).items() if isinstance(kind, Tokens)]:
            raise ValueError(
                f"conditions: {tokens} are tokens, to which this network does not attend: take SmallUNet or NCSNpp"
            )
        self.event_shape, self.outputs, self.channels = tuple(event_shape), outputs, channels
        size = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, size), nn.SiLU(), nn.Linear(size, size))
        self.conditioning = make_conditioning(conditions, size, event_shape)
        more = 0 if self.conditioning is None else self.conditioning.channels

        def block(before: int, after: int, direction: str = "") -> nn.Module:
            return _Block(before, after, size, scale_shift, dropout, direction)

        def attend(width: int, count: int) -> nn.Module:
            return _Attention(width, _heads(width, count, head_channels), grouped_heads)

        def resample(width: int, direction: str) -> nn.Module:
            return block(width, width, direction) if resample_blocks else _RESAMPLINGS[direction](width)

        width, skips = channels, [channels]
        encoder: list[list[nn.Module]] = [[nn.Conv2d(event_shape[0] + more, channels, 3, padding=1)]]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                encoder.append([block(width, multiplier * channels)])
                width = multiplier * channels
                if level in attention:
                    encoder[-1].append(attend(width, heads))
                skips.append(width)
            if level < levels - 1:
                encoder.append([resample(width, "down")])
                skips.append(width)
        decoder: list[list[nn.Module]] = []
        self.input_blocks = nn.ModuleList(map(_Stage, encoder))
        self.middle_block = _Stage([block(width, width), attend(width, heads), block(width, width)])
        for level in reversed(range(levels)):
            for k in range(blocks + 1):
                decoder.append([block(width + skips.pop(), multipliers[level] * channels)])
                width = multipliers[level] * channels
                if level in attention:
                    decoder[-1].append(attend(width, decoder_heads or heads))
                if level and k == blocks:
                    decoder[-1].append(resample(width, "up"))
        self.output_blocks = nn.ModuleList(map(_Stage, decoder))
        last = nn.Conv2d(width, event_shape[0] * outputs, 3, padding=1)
        self.out: Any = nn.Sequential(nn.GroupNorm(_GROUPS, width), nn.SiLU(), _zeroed(last))

    def forward(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        """Evaluate the network.

        Args:
            x: Events of shape (B, C, H, W).
            label: Labels of shape (B,).
            **condition: Conditions by name, see ``scoresde.conditions``.

        Returns:
            A tensor of shape (B, C, H, W), or (B, C, H, W, outputs) if ``outputs`` is above 1.

        Raises:
            TypeError: If there is a condition that the network does not have.
            ValueError: If ``x`` has another event shape, or a condition is not of its kind.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}: this ImprovedUNet was made for {self.event_shape}"
            )
        embedded = self.time_embed(_waves(label, self.channels))
        if self.conditioning is None:
            check_no_conditions(condition)
        else:
            embedded = embedded + self.conditioning(x, condition)
            x = self.conditioning.images(x, condition)
        embedded, h, skips = F.silu(embedded), x, []
        for stage in self.input_blocks:
            h = stage(h, embedded)
            skips.append(h)
        h = self.middle_block(h, embedded)
        for stage in self.output_blocks:
            h = stage(torch.cat((h, skips.pop()), dim=1), embedded)
        out: Tensor = self.out[2](norm_silu(h, self.out[0]))
        if self.outputs == 1:
            return out
        kinds: Tensor = out.unflatten(1, (self.outputs, self.event_shape[0]))  # all channels of a kind are adjacent
        return split_outputs(kinds.transpose(1, 2).flatten(1, 2), self.outputs)


def _waves(label: Tensor, size: int) -> Tensor:
    """The features of labels (B,): cosines, sines, (B, size). ``size`` is even."""
    half = size // 2
    j = torch.arange(half, dtype=torch.float64, device=label.device)
    phase = label[:, None] * torch.exp(j * (-math.log(10_000.0) / half))
    return torch.cat((phase.cos(), phase.sin()), dim=1).to(label.dtype)


def _heads(width: int, count: int, head_channels: int) -> int:
    """The number of heads. Raises ValueError unless they divide the channels."""
    name, divisor = ("head_channels", head_channels) if head_channels else ("heads", count)
    if width % divisor:
        raise ValueError(f"{name}={divisor} is not allowed: {width} channels of attention are not divisible by it")
    return width // head_channels if head_channels else count


def _zeroed(layer: Any) -> Any:
    """A layer whose output is initially 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Stage(nn.Sequential):
    """Modules in sequence. Blocks get the embedded label too."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(*modules)

    def forward(self, input: Tensor, embedded: Tensor | None = None) -> Tensor:
        h = input
        for module in self:
            h = module(h, embedded) if isinstance(module, _Block) else module(h)
        return h


class _Block(nn.Module):
    """A residual block. ``direction`` is "up" or "down" for a change of resolution within both branches. The embedded label is
    already activated."""

    def __init__(
        self, before: int, after: int, size: int, scale_shift: bool, dropout: float, direction: str = ""
    ) -> None:
        super().__init__()
        self.scale_shift, self.direction = scale_shift, direction
        convs = nn.Conv2d(before, after, 3, padding=1), _zeroed(nn.Conv2d(after, after, 3, padding=1))
        self.in_layers: Any = nn.Sequential(nn.GroupNorm(_GROUPS, before), nn.SiLU(), convs[0])
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(size, after * (2 if scale_shift else 1)))
        self.out_layers: Any = nn.Sequential(nn.GroupNorm(_GROUPS, after), nn.SiLU(), nn.Dropout(dropout), convs[1])
        self.skip_connection = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = norm_silu(x, self.in_layers[0])
        if self.direction:
            h, x = _resized(h, self.direction), _resized(x, self.direction)
        h, label = self.in_layers[2](h), expand(self.emb_layers[1](embedded), x)
        norm, _, dropout, conv = self.out_layers
        if self.scale_shift:
            scale, shift = label.chunk(2, dim=1)
            h = F.silu(norm(h) * (1.0 + scale) + shift)
        else:
            h = norm_silu(h + label, norm)
        out: Tensor = self.skip_connection(x) + conv(dropout(h))
        return out


class _Attention(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, width: int, heads: int, grouped: bool) -> None:
        super().__init__()
        self.heads, self.grouped = heads, grouped
        self.norm, self.qkv = nn.GroupNorm(_GROUPS, width), nn.Conv1d(width, 3 * width, 1)
        self.proj_out = _zeroed(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        all_three = self.qkv(self.norm(x.flatten(2)))
        if self.grouped:
            three = all_three.unflatten(1, (self.heads, 3, -1)).movedim(2, 0)
        else:
            three = all_three.unflatten(1, (3, self.heads, -1)).movedim(1, 0)
        q, k, v = three.mT
        h = F.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2)
        out: Tensor = x + self.proj_out(h).reshape(x.shape)
        return out


class _Down(nn.Module):
    """A 3x3 convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class _Up(nn.Module):
    """Nearest-neighbor upsampling by 2, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(_resized(x, "up"))
        return out


_RESAMPLINGS: dict[str, type[_Down] | type[_Up]] = {"down": _Down, "up": _Up}


def _resized(x: Tensor, direction: str) -> Tensor:
    """Nearest-neighbor upsampling, or the mean of 2 x 2 pixels."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if direction == "up" else F.avg_pool2d(x, 2)
