"""The UNet2DModel of diffusers, made from its config.json, with the same names of weights.

    x -> 3x3 -> encoder -> middle -> decoder with skip connections -> norm, SiLU, 3x3

This module implements the networks of the DDPM family (Ho et al. 2020): blocks with or without attention, a sinusoidal
embedding, and an embedding table for classes. For other configs (blocks of NCSN++, Fourier features, scale and shift) it
uses the package diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import expand

_DEFAULTS: dict[str, Any] = {
    "in_channels": 3, "center_input_sample": False, "time_embedding_dim": None, "freq_shift": 0, "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3), "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "mid_block_scale_factor": 1.0,
    "downsample_padding": 1, "dropout": 0.0, "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": None,
    "norm_eps": 1e-5, "add_attention": True, "num_class_embeds": None,
}  # fmt: skip
"""The arguments of `UNet2D` with the defaults of UNet2DModel."""
_KNOWN: dict[str, Any] = {
    "down_block_types": lambda kinds: {*kinds} <= {"DownBlock2D", "AttnDownBlock2D"},
    "up_block_types": lambda kinds: {*kinds} <= {"UpBlock2D", "AttnUpBlock2D"},
    "time_embedding_type": lambda kind: kind == "positional",
    "mid_block_type": lambda kind: kind == "UNetMidBlock2D",
    "downsample_type": lambda kind: kind == "conv",
    "upsample_type": lambda kind: kind == "conv",
    "downsample_padding": lambda width: width in (0, 1),
    "act_fn": lambda name: name in ("silu", "swish"),
    "resnet_time_scale_shift": lambda kind: kind == "default",
    "class_embed_type": lambda kind: kind is None,
}
"""Whether `UNet2D` supports the value of a key."""
_IDLE = ("sample_size", "out_channels", "num_train_timesteps")
"""Keys on which these networks do not depend, in addition to those that begin with an underscore."""


def network_of(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config.json without weights: `UNet2D`, or a network of the package diffusers."""
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"config.json describes a {config['_class_name']}: give a UNet2DModel")
    channels, out = config.get("in_channels", 3), config.get("out_channels", 3)
    if out != channels:
        raise ValueError(
            f"out_channels={out} for in_channels={channels}: networks that learn a variance are not supported"
        )
    beyond = [f"{k}={config[k]!r}" for k, known in _KNOWN.items() if k in config and not known(config[k])]
    # an unknown key may change the function without changing the weights
    strange = {*config} - {*_DEFAULTS, *_KNOWN, *_IDLE}
    beyond += [f"{k}={config[k]!r}" for k in sorted(strange) if not k.startswith("_") and config[k] is not None]
    if not beyond:
        return UNet2D({k: v for k, v in config.items() if k in _DEFAULTS})
    try:
        from diffusers import UNet2DModel
    except ImportError as problem:
        raise ImportError(f"{', '.join(beyond)} needs diffusers itself: pip install diffusers") from problem
    return _DiffusersNetwork(UNet2DModel.from_config(dict(config)))


class _DiffusersNetwork(nn.Module):
    """A network of the package diffusers with the call signature of this library and its own names of weights."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.inner.load_state_dict(state_dict, strict, assign)

    def forward(self, x: Tensor, label: Tensor, **condition: Any) -> Tensor:
        out: Tensor = self.inner(x, label, return_dict=False, **condition)[0]
        return out


class UNet2D(nn.Module):
    """The networks of UNet2DModel of the DDPM family, with its names of weights.

    Call it as ``network(x, label)``, or with ``class_labels=...`` if it has classes.

    Args:
        config: The content of config.json. Missing keys have the values of ``_DEFAULTS``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        c = {**_DEFAULTS, **config}
        widths, layers = c["block_out_channels"], c["layers_per_block"]
        embedding_size = c["time_embedding_dim"] or 4 * widths[0]
        self.center, self.shift, self.flip = c["center_input_sample"], c["freq_shift"], c["flip_sin_to_cos"]
        self.features = widths[0]
        self.conv_in = nn.Conv2d(c["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], embedding_size), "linear_2": nn.Linear(embedding_size, embedding_size)}
        )
        self.class_embedding = nn.Embedding(c["num_class_embeds"], embedding_size) if c["num_class_embeds"] else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        for i, kind in enumerate(c["down_block_types"]):
            change: nn.Module | None = _Down(widths[i], c["downsample_padding"]) if i < len(widths) - 1 else None
            befores = [width] + [widths[i]] * (layers - 1)
            self.down_blocks.append(
                _Level(c, befores, widths[i], embedding_size, "Attn" in kind, "downsamplers", change)
            )
            width = widths[i]
            skips += [width] * (layers + (change is not None))
        self.mid_block = _Middle(c, width, embedding_size)
        for i, kind in enumerate(c["up_block_types"]):
            after = widths[-1 - i]
            befores = [before + skips.pop() for before in [width] + [after] * layers]
            change = _Up(after) if i < len(widths) - 1 else None
            self.up_blocks.append(_Level(c, befores, after, embedding_size, "Attn" in kind, "upsamplers", change))
            width = after
        self.conv_norm_out = nn.GroupNorm(c["norm_num_groups"], widths[0], c["norm_eps"])
        self.conv_out = nn.Conv2d(widths[0], c["in_channels"], 3, padding=1)

    def forward(self, x: Tensor, label: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) and labels (B,) to (B, C, H, W)."""
        step = 2 ** (len(self.down_blocks) - 1)
        if x.ndim != 4 or any(side % step for side in x.shape[2:]):
            raise ValueError(f"x has shape {tuple(x.shape)}: give (B, C, H, W), H and W multiples of {step}")
        embedded = F.silu(self._embed(label, class_labels))
        h = self.conv_in(2.0 * x - 1.0 if self.center else x)
        skips = [h]
        for level in self.down_blocks:
            h = level(h, embedded, put=skips)
        h = self.mid_block(h, embedded)
        for level in self.up_blocks:
            h = level(h, embedded, take=skips)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out

    def _embed(self, label: Tensor, class_labels: Tensor | None) -> Tensor:
        half = self.features // 2
        j = torch.arange(half, dtype=label.dtype, device=label.device)
        phase = label[:, None] * torch.exp(j * (-math.log(10_000.0) / (half - self.shift)))
        waves = (phase.cos(), phase.sin()) if self.flip else (phase.sin(), phase.cos())
        embedded = F.pad(torch.cat(waves, dim=1), (0, self.features % 2))
        embedded = self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](embedded)))
        if (self.class_embedding is None) != (class_labels is None):
            raise ValueError("class_labels are required if the network has classes, and not allowed otherwise")
        out: Tensor = embedded if self.class_embedding is None else embedded + self.class_embedding(class_labels)
        return out


class _Level(nn.Module):
    """Blocks of one resolution, each followed by attention if the level has it, then resampling."""

    def __init__(
        self,
        c: Mapping[str, Any],
        befores: Sequence[int],
        after: int,
        embedding_size: int,
        attended: bool,
        name: str,
        change: nn.Module | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Block(c, before, after, embedding_size) for before in befores)
        self.attentions = nn.ModuleList(_Attention(c, after) for _ in befores) if attended else [None] * len(befores)
        self.change = name if change is not None else None
        if change is not None:
            self.add_module(name, nn.ModuleList([change]))

    def forward(
        self, h: Tensor, embedded: Tensor, put: list[Tensor] | None = None, take: list[Tensor] | None = None
    ) -> Tensor:
        """Append every result to ``put``, and concatenate the input of every block with an entry of ``take``."""
        for block, attention in zip(self.resnets, self.attentions, strict=True):
            h = block(h if take is None else torch.cat((h, take.pop()), dim=1), embedded)
            h = h if attention is None else attention(h)
            if put is not None:
                put.append(h)
        if self.change is not None:
            h = getattr(self, self.change)[0](h)
            if put is not None:
                put.append(h)
        return h


class _Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, c: Mapping[str, Any], width: int, embedding_size: int) -> None:
        super().__init__()
        scale = c["mid_block_scale_factor"]
        self.resnets = nn.ModuleList(_Block(c, width, width, embedding_size, scale) for _ in range(2))
        self.attentions = nn.ModuleList()
        if c["add_attention"]:
            self.attentions.append(_Attention(c, width, scale, c["attn_norm_num_groups"]))

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        h = self.resnets[0](h, embedded)
        for attention in self.attentions:
            h = attention(h)
        out: Tensor = self.resnets[1](h, embedded)
        return out


class _Block(nn.Module):
    """Norm, SiLU, 3x3, + label, norm, SiLU, dropout, 3x3; + shortcut, divided by ``scale``. The label is already activated."""

    def __init__(self, c: Mapping[str, Any], before: int, after: int, embedding_size: int, scale: float = 1.0) -> None:
        super().__init__()
        groups, eps, self.scale = c["norm_num_groups"], c["norm_eps"], scale
        self.norm1, self.conv1 = nn.GroupNorm(groups, before, eps), nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj, self.norm2 = nn.Linear(embedding_size, after), nn.GroupNorm(groups, after, eps)
        self.dropout, self.conv2 = nn.Dropout(c["dropout"]), nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + expand(self.time_emb_proj(embedded), h)
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        out: Tensor = ((x if self.conv_shortcut is None else self.conv_shortcut(x)) + h) / self.scale
        return out


class _Attention(nn.Module):
    """Self-attention over all positions with heads of ``attention_head_dim`` channels, or one head if that is None."""

    def __init__(self, c: Mapping[str, Any], width: int, scale: float = 1.0, groups: int | None = None) -> None:
        super().__init__()
        self.scale, self.heads = scale, width // (c["attention_head_dim"] or width)
        self.group_norm = nn.GroupNorm(groups or c["norm_num_groups"], width, c["norm_eps"])
        inner = self.heads * (c["attention_head_dim"] or width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).mT
        q, k, v = (
            layer(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = (self.to_out[0](h).mT.reshape(x.shape) + x) / self.scale
        return out


class _Down(nn.Module):
    """A 3x3 convolution of stride 2; without padding of its own, a row and a column of zeros at the end."""

    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x if self.conv.padding[0] else F.pad(x, (0, 1, 0, 1)))
        return out


class _Up(nn.Module):
    """Nearest-neighbor upsampling by 2, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
