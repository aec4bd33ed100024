"""Image networks for states of several fields (k, C, H, W), such as position and velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from scoresde.conditions import ConditionKind
from scoresde.networks.embeddings import Embedding
from scoresde.networks.fourier_features import FourierFeatures
from scoresde.networks.unet import SmallUNet


class MultifieldUNet(nn.Module):
    """A `SmallUNet` whose input and output channels are those of all k fields.

    Args:
        event_shape: (k, C, H, W).
        channels: Channels at full resolution, a multiple of 8. Half resolution has twice as many.
        blocks: Residual blocks at each resolution of the encoder, and at full resolution of the decoder.
        outputs: Numbers predicted for each coordinate. More than 1 adds a last dimension of that size.
        dropout: Probability of dropout inside the blocks, in [0, 1).
        embedding: Embedding of the label; ``RadialEmbedding()`` by default.
        conditions: Kinds of the conditions by name, e.g. ``{"label": Classes(10)}``. Images have the size (H, W).
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
        if len(event_shape) != 4:
            raise ValueError(f"event_shape={tuple(event_shape)} is not allowed: MultifieldUNet takes (k, C, H, W)")
        fields, images, *sides = event_shape
        self.event_shape = tuple(event_shape)
        self.unet = SmallUNet(
            (fields * images, *sides), channels, blocks, outputs, dropout, embedding, conditions, input_features
        )

    def forward(self, x: Tensor, label: Tensor, /, **condition: Any) -> Tensor:
        """Evaluate the network.

        Args:
            x: Events of shape (B, k, C, H, W).
            label: Labels of shape (B,).
            **condition: Conditions by name, see ``scoresde.conditions``.

        Returns:
            A tensor of shape (B, k, C, H, W), or (B, k, C, H, W, outputs) if ``outputs`` is above 1.

        Raises:
            TypeError: If there is a condition that the network does not have.
            ValueError: If ``x`` has another event shape, or a condition is not of its kind.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}: this MultifieldUNet was made for {self.event_shape}"
            )
        out: Tensor = self.unet(x.flatten(1, 2), label, **condition).unflatten(1, self.event_shape[:2])
        return out
