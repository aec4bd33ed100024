"""A UNet for states of several fields."""

from __future__ import annotations

import pytest
import torch

from scoresde.networks import MultifieldUNet


def test_multifield_unet_is_a_unet_with_the_channels_of_all_fields():
    """The channels of all fields are concatenated in order, and separated in the output."""
    torch.manual_seed(0)
    network = MultifieldUNet((2, 3, 4, 6), channels=8, blocks=1)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    x, label = torch.randn(5, 2, 3, 4, 6), torch.linspace(-2, 2, 5)
    out = network(x, label)
    inside = network.unet(torch.cat((x[:, 0], x[:, 1]), dim=1), label)
    assert torch.equal(out[:, 0], inside[:, :3])
    assert torch.equal(out[:, 1], inside[:, 3:])
    assert MultifieldUNet((2, 1, 4, 4), channels=8, outputs=5)(torch.zeros(3, 2, 1, 4, 4), label[:3]).shape == (
        3,
        2,
        1,
        4,
        4,
        5,
    )
    with pytest.raises(ValueError, match="this MultifieldUNet was made for"):
        network(torch.zeros(5, 3, 2, 4, 6), label)
    with pytest.raises(ValueError, match="takes \\(k, C, H, W\\)"):
        MultifieldUNet((1, 8, 8))
