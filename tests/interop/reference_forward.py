"""What a network of the reference returns, from its settings and its tensors by name: written from the description of its
architecture in the parity data, in the simplest operations, as a check on ours."""

from __future__ import annotations

import math
import zlib
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F

ACTIVATIONS = {"swish": F.silu, "relu": F.relu, "elu": F.elu, "lrelu": lambda h: F.leaky_relu(h, 0.2)}


def ruled(name, shape, fourier_scale=16.0):
    """The weights that the parity data's rule gives to a name and a shape, float32."""
    g = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    last = name.rsplit(".", 1)[-1]
    if len(shape) > 1:
        w = g / math.sqrt(shape[0] if last == "W" else math.prod(shape[1:]))
    else:
        w = fourier_scale * g if last == "W" else (last == "weight") + 0.1 * g
    return torch.from_numpy(w.astype(np.float32))


class Forward:
    """settings: sections of the reference's config. tensors: by its names, without ``module.``."""

    def __init__(self, settings, tensors):
        self.m, self.centered = settings["model"], settings["data"]["centered"]
        self.side, self.p = settings["data"]["image_size"], {n: w.double() for n, w in tensors.items()}
        self.ddpm, self.act = self.m["name"] == "ddpm", ACTIVATIONS[self.m["nonlinearity"]]
        self.fir = not self.ddpm and self.m["fir"]
        self.rescale = not self.ddpm and self.m["skip_rescale"]
        self.biggan = not self.ddpm and self.m["resblock_type"] == "biggan"

    def __call__(self, x, labels):
        """(B, C, H, W), (B,) to (B, C, H, W), float64."""
        m, self.k, x = self.m, count(), x.double()
        self.temb, sigma = self.embed(labels.double())
        image = x if self.centered else 2.0 * x - 1.0
        h = self.conv(image, self.next())
        hs, levels = [h], len(m["ch_mult"])
        into, out = (m.get(k, "none") if not self.ddpm else "none" for k in ("progressive_input", "progressive"))
        for i in range(levels):
            for _ in range(m["num_res_blocks"]):
                h = self.block(h, m["nf"] * m["ch_mult"][i])
                h = self.attention(h) if self.side >> i in m["attn_resolutions"] else h
                hs.append(h)
            if i < levels - 1:
                h = self.change(h, "down")
                if into == "input_skip":
                    image = self.down(image)
                    shown = self.conv(image, f"{self.next()}.Conv_0")
                    h = torch.cat((shown, h), 1) if m["progressive_combine"] == "cat" else shown + h
                elif into == "residual":
                    image = h = self.sum(self.learned_down(image, self.next()), h)
                hs.append(h)
        h = self.block(h, h.shape[1])
        h = self.block(self.attention(h), h.shape[1])
        result = None
        for i in reversed(range(levels)):
            for _ in range(m["num_res_blocks"] + 1):
                h = self.block(torch.cat((h, hs.pop()), 1), m["nf"] * m["ch_mult"][i])
            h = self.attention(h) if self.side >> i in m["attn_resolutions"] else h
            if out == "output_skip":
                part = self.head(h)
                result = part if result is None else self.up(result) + part
            h = self.change(h, "up") if i else h
        assert not hs
        result = self.head(h) if result is None else result
        return result / sigma.reshape(-1, 1, 1, 1) if m["scale_by_sigma"] else result

    def embed(self, labels):
        m = self.m
        if not self.ddpm and m["embedding_type"] == "fourier":
            phase = 2.0 * math.pi * labels.log()[:, None] * self.p[f"{self.next()}.W"]
            sigma, emb = labels, torch.cat((phase.sin(), phase.cos()), 1)
        else:
            half = m["nf"] // 2
            phase = labels[:, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
            emb = F.pad(torch.cat((phase.sin(), phase.cos()), 1), (0, m["nf"] % 2))
            ends = (math.log(m["sigma_max"]), math.log(m["sigma_min"]))
            sigma = torch.linspace(*ends, m["num_scales"], dtype=torch.float64).exp()[labels.long()]
        if not m["conditional"]:
            return None, sigma
        return self.linear(self.act(self.linear(emb, self.next())), self.next()), sigma

    def next(self):
        return f"all_modules.{next(self.k)}"

    def linear(self, h, name):
        return h @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def conv(self, h, name, **how):
        w = self.p[f"{name}.weight"]
        return F.conv2d(h, w, self.p[f"{name}.bias"], **({"padding": w.shape[-1] // 2} | how))

    def nin(self, h, name):
        return torch.einsum("bchw,cd->bdhw", h, self.p[f"{name}.W"]) + self.p[f"{name}.b"].reshape(1, -1, 1, 1)

    def norm(self, h):
        c = h.shape[1]
        groups = 32 if self.ddpm else min(c // 4, 32)
        h = h.reshape(len(h), groups, -1)
        return (h - h.mean(2, keepdim=True)) / (h.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def normed(self, x, name):
        h = self.norm(x).reshape(x.shape)
        return h * self.p[f"{name}.weight"].reshape(1, -1, 1, 1) + self.p[f"{name}.bias"].reshape(1, -1, 1, 1)

    def sum(self, x, h):
        return (x + h) / math.sqrt(2.0) if self.rescale else x + h

    def block(self, x, after, direction=""):
        n = self.next()
        h = self.act(self.normed(x, f"{n}.GroupNorm_0"))
        if direction:
            h, x = (getattr(self, direction)(v) for v in (h, x))
        h = self.conv(h, f"{n}.Conv_0")
        if self.temb is not None:
            h = h + self.linear(self.act(self.temb), f"{n}.Dense_0")[:, :, None, None]
        h = self.conv(self.act(self.normed(h, f"{n}.GroupNorm_1")), f"{n}.Conv_1")
        if x.shape[1] != after or direction:
            x = self.conv(x, f"{n}.Conv_2") if self.biggan else self.nin(x, f"{n}.NIN_0")
        return self.sum(x, h)

    def attention(self, x):
        n = self.next()
        h = self.normed(x, f"{n}.GroupNorm_0")
        q, k, v = (self.nin(h, f"{n}.NIN_{j}").flatten(2) for j in range(3))
        w = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1]), dim=2)
        return self.sum(x, self.nin(torch.einsum("bij,bcj->bci", w, v).reshape(x.shape), f"{n}.NIN_3"))

    def head(self, h):
        return self.conv(self.act(self.normed(h, self.next())), self.next())

    def change(self, h, direction):
        if self.biggan:
            return self.block(h, h.shape[1], direction)
        n = self.next()
        if not self.m["resamp_with_conv"]:
            return getattr(self, direction)(h)
        return self.learned_down(h, n) if direction == "down" else self.conv(self.up(h), f"{n}.Conv_0")

    def learned_down(self, h, name):
        if self.fir:
            p = len(self.m["fir_kernel"])
            return self.conv(self.filtered(h, (p + 1) // 2, p // 2), f"{name}.Conv2d_0", stride=2, padding=0)
        return self.conv(F.pad(h, (0, 1, 0, 1)), f"{name}.Conv_0", stride=2, padding=0)

    def down(self, h):
        p = len(self.m.get("fir_kernel", ())) - 2
        return self.filtered(h, (p + 1) // 2, p // 2)[..., ::2, ::2] if self.fir else F.avg_pool2d(h, 2)

    def up(self, h):
        if not self.fir:
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        p = len(self.m["fir_kernel"]) - 2
        z = h.new_zeros(*h.shape[:2], 2 * h.shape[2], 2 * h.shape[3])
        z[..., ::2, ::2] = 4.0 * h
        return self.filtered(z, (p + 1) // 2 + 1, p // 2)

    def filtered(self, h, before, after):
        k = torch.tensor(self.m["fir_kernel"], dtype=torch.float64)
        kernel = (torch.outer(k, k) / k.sum() ** 2).flip(0, 1)
        h = F.pad(h, (before, after, before, after))
        return F.conv2d(h, kernel.expand(h.shape[1], 1, *kernel.shape), groups=h.shape[1])
