"""A small UNet for small images: two resolutions, attention at the lower one.

    x (C, H, W) -> convolution -> blocks -> halve -> blocks, attention, blocks -> double, join -> blocks -> outputs

Every block consists of GroupNorm, SiLU and a 3x3 convolution, twice, with scale and shift from the embedded label (Dhariwal
& Nichol 2021). A learned value for every pixel and channel is added to the features, so that the network depends on the position.

The weights of the last layer, and of the last layer of every branch, are initially zero. Their biases are drawn from U(-b, b),
b = 1 / sqrt(fan in), so the output of an untrained network is one constant for each channel, with a mean square of b^2 / 3. DDPM
and Dhariwal & Nichol start the biases at zero as well; ``benchmarks/zero_start.py`` finds no advantage in this.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_count, check_counts
from scoresde.conditions import ConditionKind
from scoresde.networks.conditioning import CrossAttention, check_no_conditions, make_conditioning
from scoresde.networks.embeddings import Embedding, RadialEmbedding
from scoresde.networks.fourier_features import FourierFeatures, feature_channels, with_features
from scoresde.networks.sides import cropped


class SmallUNet(nn.Module):
    """A UNet with two resolutions for small images.

    Args:
        event_shape: (C, H, W) of any sides. Half of an odd side is rounded up.
        channels: Channels at full resolution, a multiple of 8. Half resolution has twice as many.
        blocks: Residual blocks at each resolution of the encoder, and at full resolution of the decoder.
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        dropout: Probability of dropout inside the blocks, in [0, 1).
        embedding: Embedding of the label; ``RadialEmbedding()`` by default.
        conditions: Kinds of the conditions by name, e.g. ``{"label": Classes(10)}``.
        input_features: Fourier features that are appended to the input; none by default.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 32,
        blocks: int = 2,
        outputs: int = 1,
        dropout: float = 0.0,
        embedding: Embedding | None = None,
        conditions: Mapping[str, ConditionKind] | None = None,
        input_features: FourierFeatures | None = None,
    ) -> None:
        super().__init__()
        check_counts("event_shape", event_shape)
        if len(event_shape) != 3:
            raise ValueError(f"event_shape={tuple(event_shape)} is not allowed: SmallUNet takes (C, H, W)")
        check_count("blocks", blocks)
        check_count("outputs", outputs)
        if not isinstance(channels, int) or channels < 8 or channels % 8:
            raise ValueError(f"channels={channels!r} is not allowed: give a multiple of 8")
        images, height, width = event_shape
        self.event_shape, self.images, self.outputs = tuple(event_shape), images, outputs
        size = 4 * channels
        self.embedding = embedding or RadialEmbedding()
        self.label = nn.Sequential(
            nn.Linear(self.embedding.features, size), nn.SiLU(), nn.Linear(size, size), nn.SiLU()
        )
        self.conditioning = make_conditioning(conditions, size, event_shape)
        more = 0 if self.conditioning is None else self.conditioning.channels
        self.input_features = input_features
        self.first = nn.Conv2d(feature_channels(images, input_features) + more, channels, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(channels, height, width))

        def stack(*widths: int) -> nn.ModuleList:
            return nn.ModuleList(_Block(a, b, size, dropout) for a, b in itertools.pairwise(widths))

        self.down = stack(*[channels] * (blocks + 1))
        self.halve = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.before = stack(*[2 * channels] * (blocks + 1))
        self.attention = _Attention(2 * channels)
        tokens = {} if self.conditioning is None else self.conditioning.token_sizes
        self.tokens = CrossAttention(2 * channels, tokens) if tokens else None
        self.after = stack(2 * channels, 2 * channels)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        self.up = stack(2 * channels, *[channels] * blocks)
        self.norm = nn.GroupNorm(8, channels)
        self.last = nn.Conv2d(channels, images * outputs, 1)
        nn.init.zeros_(self.last.weight)

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
            raise ValueError(f"x has event shape {tuple(x.shape[1:])}: this SmallUNet was made for {self.event_shape}")
        embedded = self.label(self.embedding(label))
        if self.conditioning is None:
            check_no_conditions(condition)
            h = with_features(x, self.input_features)
        else:
            embedded = embedded + self.conditioning(x, condition)
            h = self.conditioning.images(with_features(x, self.input_features), condition)
        h = self.first(h) + self.position
        for block in self.down:
            h = block(h, embedded)
        skip, h = h, self.halve(h)
        for block in self.before:
            h = block(h, embedded)
        h = self.attention(h)
        if self.tokens is not None:
            h = self.tokens(h, condition)
        for block in self.after:
            h = block(h, embedded)
        h = cropped(F.interpolate(self.narrow(h), scale_factor=2.0, mode="nearest"), skip.shape[2:])
        h = torch.cat((h, skip), dim=1)
        for block in self.up:
            h = block(h, embedded)
        out: Tensor = self.last(F.silu(self.norm(h)))
        if self.outputs == 1:
            return out
        grouped: Tensor = out.unflatten(1, (self.images, self.outputs))
        return grouped.movedim(2, -1)


class _Block(nn.Module):
    def __init__(self, before: int, after: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, before), nn.Conv2d(before, after, 3, padding=1)
        self.label = nn.Linear(labels, 2 * after)
        self.norm2, self.conv2 = nn.GroupNorm(8, after), nn.Conv2d(after, after, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = self.label(embedded)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.dropout(F.silu(self.norm2(h) * (1 + scale) + shift))
        out: Tensor = self.shortcut(x) + self.conv2(h)
        return out


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(8, channels)
        self.qkv, self.last = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).mT.unbind(1)
        out: Tensor = x + self.last(F.scaled_dot_product_attention(q, k, v).mT.reshape(b, c, h, w))
        return out
