"""The part of a network that reads conditions (``scoresde.conditions``).

Every condition gives a vector that is added to the embedded label, or concatenated with it:

    Classes     a row of a table
    Vector      a linear map
    Image       a learned vector that says that the image is there. The UNets concatenate the image with their input, and a
                multilayer perceptron gets a linear map of it.
    Tokens      attention of a learned query to the tokens. The UNets also attend to the tokens at their lowest level, and a
                TokenTransformer in each block.

A condition that is absent, because it is not given or ``dropped``, gives a learned vector. All vectors are 0 before training, so
that the output does not depend on the conditions then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import shown
from scoresde.conditions import DROPPED, Classes, ConditionKind, Image, Tokens, Vector, check_conditions, check_name


class Conditioning(nn.Module):
    """Reads the conditions of a network.

    Args:
        conditions: The kinds of the conditions by name.
        size: Number of features.
        event_shape: Shape of one event.
        concatenated: Whether the network concatenates images with its input, see `images`.
    """

    def __init__(
        self,
        conditions: Mapping[str, ConditionKind],
        size: int,
        event_shape: Sequence[int],
        *,
        concatenated: bool = True,
    ) -> None:
        super().__init__()
        check_kinds(conditions)
        self.kinds, self.concatenated = dict(conditions), concatenated
        self.encoders = nn.ModuleDict(
            {name: _encoder(kind, size, event_shape[1:], concatenated) for name, kind in self.kinds.items()}
        )
        self.null = nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name in self.kinds})

    @property
    def channels(self) -> int:
        """Number of channels of all images that the network concatenates with its input."""
        return sum(kind.channels for kind in self.kinds.values() if isinstance(kind, Image) and self.concatenated)

    @property
    def token_sizes(self) -> dict[str, int]:
        """Number of features of a token, by name of the condition."""
        return {name: kind.size for name, kind in self.kinds.items() if isinstance(kind, Tokens)}

    def forward(self, x: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """Compute the features of the conditions.

        Args:
            x: Events of shape (B, *event).
            condition: The conditions by name.

        Returns:
            Features of shape (B, size).

        Raises:
            TypeError: If there is a condition that the network does not have.
            ValueError: If a condition is not of its kind.
        """
        condition = _rows(condition, len(x), x.device, self.kinds)
        check_conditions(self.kinds, condition, len(x))
        dropped = condition.get(DROPPED)
        if dropped is None and self.training:  # every parameter gets a gradient, as DistributedDataParallel requires
            dropped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        parts = []
        for name, kind in self.kinds.items():
            value = condition.get(name)
            if value is None:
                parts.append(self.null[name].expand(len(x), -1))
                continue
            if isinstance(kind, Image) and tuple(value.shape[2:]) != tuple(x.shape[2:]):
                raise ValueError(
                    f"{name} has sides {tuple(value.shape[2:])}: give an image of the size {tuple(x.shape[2:])} of the event"
                )
            features = self.encoders[name](value)
            parts.append(features if dropped is None else torch.where(dropped[:, None], self.null[name], features))
        return torch.stack(parts).sum(0)

    def images(self, x: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """Concatenate images with the input. Absent images are 0.

        Args:
            x: The input of the network, (B, C, *sides).
            condition: The conditions by name.

        Returns:
            A tensor of shape (B, C + channels, *sides).
        """
        if not self.channels:
            return x
        condition = _rows(condition, len(x), x.device)
        dropped = condition.get(DROPPED)
        parts = [x]
        for name, kind in self.kinds.items():
            if isinstance(kind, Image):
                value = condition.get(name)
                value = x.new_zeros(len(x), kind.channels, *x.shape[2:]) if value is None else value.to(x.dtype)
                if dropped is not None:
                    value = value.masked_fill(dropped.reshape(-1, *[1] * (x.ndim - 1)), 0.0)
                parts.append(value)
        return torch.cat(parts, dim=1)


def make_conditioning(
    conditions: Mapping[str, ConditionKind] | None, size: int, event_shape: Sequence[int], *, concatenated: bool = True
) -> Conditioning | None:
    """The conditioning of a network, or None if it has no conditions."""
    return Conditioning(conditions, size, event_shape, concatenated=concatenated) if conditions else None


def check_kinds(conditions: Mapping[str, ConditionKind]) -> None:
    """Raise TypeError or ValueError unless these are kinds by names that a network can have."""
    if not isinstance(conditions, Mapping):
        raise TypeError(
            f"conditions={shown(conditions)} is not allowed: give a dictionary, e.g. {{'label': Classes(10)}}"
        )
    for name, kind in conditions.items():
        check_name("conditions", name)
        if not isinstance(kind, ConditionKind):
            raise TypeError(
                f"conditions: {name}={shown(kind)} is not a kind: give Classes(n), Vector(n), Image(n) or Tokens(n)"
            )


def check_no_conditions(condition: Mapping[str, Any]) -> None:
    """Raise TypeError if a network without conditions gets one."""
    check_conditions({}, {name: value for name, value in condition.items() if name != DROPPED and value is not None}, 0)


class CrossAttention(nn.Module):
    """Attention of features to tokens, added to the features.

    Args:
        channels: Channels of the features.
        token_sizes: Number of features of a token, by name of the condition.
        heads: Number of heads, which divides ``channels``.
        norm: Normalization of the features; group normalization over all positions by default.
    """

    def __init__(
        self, channels: int, token_sizes: Mapping[str, int], heads: int = 4, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        heads = math.gcd(heads, channels)
        self.heads, self.names = heads, tuple(token_sizes)
        self.norm = norm or nn.GroupNorm(math.gcd(8, channels), channels)
        self.query = nn.Linear(channels, channels)
        self.keys = nn.ModuleDict({name: nn.Linear(size, 2 * channels) for name, size in token_sizes.items()})
        self.null = nn.Parameter(torch.zeros(1, 1, 2 * channels))
        self.last = nn.Linear(channels, channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, h: Tensor, condition: Mapping[str, Any]) -> Tensor:
        """Attend to the tokens.

        Args:
            h: Features of shape (B, channels, *sides).
            condition: The conditions by name.

        Returns:
            Features of the same shape.
        """
        batch = len(h)
        condition = _rows(condition, batch, h.device)
        dropped = condition.get(DROPPED)
        both, masks = [self.null.expand(batch, -1, -1)], [torch.ones(batch, 1, dtype=torch.bool, device=h.device)]
        for name in self.names:
            tokens = condition.get(name)
            if tokens is not None:
                there, known = _known(tokens, self.null.dtype)
                both.append(self.keys[name](known))
                masks.append(there if dropped is None else there & ~dropped[:, None])
        k, v = torch.cat(both, dim=1).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.query(self.norm(h).flatten(2).mT).unflatten(2, (self.heads, -1)).transpose(1, 2)
        mask = torch.cat(masks, dim=1)[:, None, None]
        out = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask)
        attended: Tensor = self.last(out.transpose(1, 2).flatten(2)).mT.reshape(h.shape)
        return h + attended


class _Table(nn.Embedding):
    """A vector for each class. Classes may have any dtype of whole numbers."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        nn.init.zeros_(self.weight)

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value.long())


class _Linear(nn.Linear):
    """A linear map of all numbers of a condition."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, value: Tensor) -> Tensor:
        return super().forward(value.flatten(1).to(self.weight.dtype))


class _There(nn.Module):
    """A learned vector for an image that is there."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(size))

    def forward(self, value: Tensor) -> Tensor:
        return self.vector.expand(len(value), -1)


class _Pooled(nn.Module):
    """Attention of a learned query to the tokens, then a linear map."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.score, self.last = nn.Linear(count, 1), nn.Linear(count, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        there, known = _known(tokens, self.score.weight.dtype)
        logits = self.score(known)[..., 0]  # in half precision under autocast
        share = logits.masked_fill(~there, torch.finfo(logits.dtype).min).softmax(1).to(known.dtype) * there
        out: Tensor = self.last((share[..., None] * known).sum(1))
        return out


def _encoder(kind: ConditionKind, size: int, sides: Sequence[int], concatenated: bool) -> nn.Module:
    """The module that computes the features of a condition."""
    if isinstance(kind, Classes):
        return _Table(kind.count, size)
    if isinstance(kind, Vector):
        return _Linear(kind.size, size)
    if isinstance(kind, Tokens):
        return _Pooled(kind.size, size)
    if isinstance(kind, Image):
        return _There(size) if concatenated else _Linear(kind.channels * math.prod(sides), size)
    raise TypeError(f"{kind!r} is not a kind that this network reads: give Classes, Vector, Image or Tokens")


def _known(tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Which tokens are no padding, (B, L) bool, and the tokens in the dtype of the weights with 0 for padding."""
    there = ~tokens.isnan().any(2)
    return there, tokens.masked_fill(~there[..., None], 0.0).to(dtype)


def _rows(
    condition: Mapping[str, Any], batch: int, device: torch.device, kinds: Mapping[str, ConditionKind] | None = None
) -> dict[str, Any]:
    """Conditions with one row for each sample. A number, or a tensor without dimensions, holds for all samples.

    Vectors of one number may have the shape (B,).
    """
    out = dict(condition)
    for name, value in condition.items():
        vector = kinds is not None and isinstance(kinds.get(name), Vector)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool | int | float):  # torch.full does not wait for the device
            number = float(value) if vector and not isinstance(value, bool) else value
            out[name] = torch.full((batch,), number, device=device)
        elif isinstance(value, Tensor) and value.ndim == 0:
            out[name] = value.to(device).expand(batch)
        if vector and isinstance(out[name], Tensor) and out[name].ndim == 1:
            out[name] = out[name][:, None]
    return out
