"""Image networks on states of several fields, (k, C, H, W): position and velocity, say, as channels of one image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from scoresde.networks.embeddings import Embedding
from scoresde.networks.unet import SmallUNet


class MultifieldUNet(nn.Module):
    """A `SmallUNet` of k C channels: the k fields of a state go in side by side and come out apart.

    event_shape: (k, C, H, W), H and W even. The other arguments are those of `SmallUNet`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: int = 32,
        blocks: int = 2,
        outputs: int = 1,
        dropout: float = 0.0,
        embedding: Embedding | None = None,
    ) -> None:
        super().__init__()
        if len(event_shape) != 4:
            raise ValueError(f"event_shape={tuple(event_shape)} is not allowed: MultifieldUNet takes (k, C, H, W)")
        fields, images, *sides = event_shape
        self.event_shape = tuple(event_shape)
        self.unet = SmallUNet((fields * images, *sides), channels, blocks, outputs, dropout, embedding)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """(B, k, C, H, W), (B,) to (B, k, C, H, W) or (B, k, C, H, W, outputs)."""
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}: this MultifieldUNet was made for {self.event_shape}"
            )
        out: Tensor = self.unet(x.flatten(1, 2), label).unflatten(1, self.event_shape[:2])
        return out
