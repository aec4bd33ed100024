"""A residual multilayer perceptron for events of any shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._validation import check_count, check_counts
from scoresde.conditions import ConditionKind
from scoresde.networks.conditioning import check_no_conditions, make_conditioning
from scoresde.networks.embeddings import Embedding, RadialEmbedding
from scoresde.networks.fourier_features import FourierFeatures, feature_channels, with_features


class MLP(nn.Module):
    """A residual multilayer perceptron with the embedded label added in every block.

    Args:
        event_shape: Shape of one event. The network flattens it.
        width: Width of the hidden layers.
        depth: Number of residual blocks.
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        embedding: Embedding of the label; ``RadialEmbedding()`` by default.
        conditions: Kinds of the conditions by name, e.g. ``{"label": Classes(10)}``.
        input_features: Fourier features that are appended to the input; none by default.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 128,
        depth: int = 3,
        outputs: int = 1,
        embedding: Embedding | None = None,
        conditions: Mapping[str, ConditionKind] | None = None,
        input_features: FourierFeatures | None = None,
    ) -> None:
        super().__init__()
        check_counts("event_shape", event_shape)
        for name, value in (("width", width), ("depth", depth), ("outputs", outputs)):
            check_count(name, value)
        self.event_shape, self.outputs = tuple(event_shape), outputs
        size = math.prod(event_shape)
        self.embedding = embedding or RadialEmbedding()
        self.conditioning = make_conditioning(conditions, width, event_shape, concatenated=False)
        labels = self.embedding.features + (width if conditions else 0)
        self.input_features = input_features
        self.first = nn.Linear(feature_channels(size, input_features) + labels, width)
        self.blocks = nn.ModuleList(_Block(width, labels) for _ in range(depth))
        self.last = nn.Linear(width, size * outputs)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        """Evaluate the network.

        Args:
            x: Events of shape (B, *event).
            label: Labels of shape (B,).
            **condition: Conditions by name, see ``scoresde.conditions``.

        Returns:
            A tensor of shape (B, *event), or (B, *event, outputs) if ``outputs`` is above 1.

        Raises:
            TypeError: If there is a condition that the network does not have.
            ValueError: If ``x`` has another event shape, or a condition is not of its kind.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(f"x has event shape {tuple(x.shape[1:])}: this MLP was made for {self.event_shape}")
        embedded = self.embedding(label)
        if self.conditioning is None:
            check_no_conditions(condition)
        else:
            embedded = torch.cat((embedded, self.conditioning(x, condition)), dim=1)
        flat = with_features(x.reshape(len(x), -1), self.input_features)
        h = self.first(torch.cat((flat, embedded), dim=1))
        for block in self.blocks:
            h = block(h, embedded)
        shape = (len(x), *self.event_shape) + ((self.outputs,) if self.outputs > 1 else ())
        out: Tensor = self.last(F.silu(h)).reshape(shape)
        return out


class _Block(nn.Module):
    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.norm, self.label = nn.LayerNorm(width), nn.Linear(labels, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, embedded: Tensor) -> Tensor:
        out: Tensor = h + self.down(F.silu(self.up(self.norm(h) + self.label(embedded))))
        return out
