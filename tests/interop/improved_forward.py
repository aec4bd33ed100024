"""A second implementation of the UNet of improved-diffusion: a function of its state dict, from the published architecture."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F

from .reference_forward import ruled


def forward(
    state, x, label, *, heads=4, up_heads=None, head_channels=None, grouped=True, resample_blocks=False, y=None
):
    """The output of the network with the weights ``state``; whatever the names show is read from them."""
    width = state["time_embed.0.weight"].shape[1]
    frequencies = torch.tensor(
        [math.exp(-math.log(10000.0) * j / (width // 2)) for j in range(width // 2)], dtype=x.dtype
    )
    angle = torch.outer(label, frequencies)
    e = F.linear(torch.cat([angle.cos(), angle.sin()], 1), state["time_embed.0.weight"], state["time_embed.0.bias"])
    e = F.linear(e * e.sigmoid(), state["time_embed.2.weight"], state["time_embed.2.bias"])
    if y is not None:
        e = e + state["label_emb.weight"][y]

    def norm(h, name):
        groups = h.reshape(len(h), 32, -1)
        mean, variance = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, unbiased=False)
        h = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(h.shape)
        shape = (1, -1, *[1] * (h.ndim - 2))
        return h * state[f"{name}.weight"].reshape(shape) + state[f"{name}.bias"].reshape(shape)

    def conv(h, name, **how):
        return F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def twice(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def half(h):
        return (h[:, :, ::2, ::2] + h[:, :, 1::2, ::2] + h[:, :, ::2, 1::2] + h[:, :, 1::2, 1::2]) / 4

    def silu(h):
        return h * h.sigmoid()

    def block(h, name, change=lambda h: h):
        x = change(h)
        h = conv(change(silu(norm(h, f"{name}.in_layers.0"))), f"{name}.in_layers.2", padding=1)
        label = F.linear(silu(e), state[f"{name}.emb_layers.1.weight"], state[f"{name}.emb_layers.1.bias"])[
            :, :, None, None
        ]
        if label.shape[1] == 2 * h.shape[1]:
            h = norm(h, f"{name}.out_layers.0") * (1 + label[:, : h.shape[1]]) + label[:, h.shape[1] :]
        else:
            h = norm(h + label, f"{name}.out_layers.0")
        h = conv(silu(h), f"{name}.out_layers.3", padding=1)
        return (conv(x, f"{name}.skip_connection") if f"{name}.skip_connection.weight" in state else x) + h

    def attend(h, name, count):
        shape, channels = h.shape, h.shape[1]
        count = count if head_channels is None else channels // head_channels
        size, flat = channels // count, h.reshape(*shape[:2], -1)
        mixed = F.conv1d(norm(flat, f"{name}.norm"), state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
        heads = []
        for k in range(count):  # the channels of q, k and v of a head
            places = [(3 * k + i) * size if grouped else (i * count + k) * size for i in range(3)]
            q, key, v = (mixed[:, place : place + size] for place in places)
            weight = (q.transpose(1, 2) @ key / math.sqrt(size)).softmax(2)
            heads.append(v @ weight.transpose(1, 2))
        out = F.conv1d(torch.cat(heads, 1), state[f"{name}.proj_out.weight"], state[f"{name}.proj_out.bias"])
        return (flat + out).reshape(shape)

    def stage(h, name, count, change):
        for k in range(4):
            place = f"{name}.{k}"
            if f"{place}.in_layers.0.weight" in state:
                h = block(h, place, change if change and (k or name.startswith("input")) else lambda h: h)
            elif f"{place}.qkv.weight" in state:
                h = attend(h, place, count)
            elif f"{place}.op.weight" in state:
                h = conv(h, f"{place}.op", stride=2, padding=1)
            elif f"{place}.conv.weight" in state:
                h = conv(twice(h), f"{place}.conv", padding=1)
            elif f"{place}.weight" in state:
                h = conv(h, place, padding=1)
        return h

    def count(group):
        return 1 + max(int(found[1]) for name in state if (found := re.match(rf"{group}\.(\d+)\.", name)))

    # with resample_blocks, the last block of every level but the last changes the resolution
    total = count("output_blocks")
    ups = sum(f"output_blocks.{j}.{k}.in_layers.0.weight" in state for j in range(total) for k in (1, 2))
    per_level = total // (ups + 1) if resample_blocks else 0
    h, kept = x, []
    for i in range(count("input_blocks")):
        down = half if resample_blocks and i and i % per_level == 0 else None
        h = stage(h, f"input_blocks.{i}", heads, down)
        kept.append(h)
    h = attend(block(h, "middle_block.0"), "middle_block.1", heads)
    h = block(h, "middle_block.2")
    for j in range(total):
        h = stage(torch.cat([h, kept.pop()], 1), f"output_blocks.{j}", up_heads or heads, twice)
    return conv(silu(norm(h, "out.0")), "out.2", padding=1)


def filled(state, dtype=torch.float32):
    """Weights by the rule in place of those of a state dict."""
    return {name: ruled(name, tuple(w.shape)).to(dtype) for name, w in state.items()}
