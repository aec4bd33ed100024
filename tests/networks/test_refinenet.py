"""NCSN and NCSNv2: the norm by its formula, which of them depends on the level, shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde.networks import NCSN, NCSNv2
from scoresde.networks.refinenet import InstanceNormPlus

from .common import disturbed, normal, weights_of


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("levels", [0, 3])
def test_norm_by_its_formula(levels):
    norm = disturbed(InstanceNormPlus(4, levels)).double()
    x, row = normal((3, 4, 5, 6), dtype=torch.float64), torch.tensor([2, 0, 1])
    ours = norm(x, row).detach().numpy()
    for i, image in enumerate(x.numpy()):
        alpha, gamma, beta = (
            (p[row[i]] if levels else p).detach().numpy() for p in (norm.alpha, norm.gamma, norm.beta)
        )
        means = np.array([channel.mean() for channel in image])
        for k, channel in enumerate(image):
            whitened = (channel - means[k]) / np.sqrt(channel.var() + 1e-5)
            shift = (means[k] - means.mean()) / np.sqrt(means.var(ddof=1) + 1e-5)
            assert np.allclose(ours[i, k], gamma[k] * (whitened + alpha[k] * shift) + beta[k], atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize(
    ("event", "multipliers"),
    [
        ((1, 4, 6), (1, 2, 2, 2)),
        ((3, 4, 4), (1, 1, 1)),
        ((2, 8, 8), (1, 2, 2, 4, 4)),
        ((1, 16, 16), (1, 1, 2, 2, 3, 3)),
    ],
)
def test_shapes_and_gradients(event, multipliers, outputs):
    network = disturbed(NCSNv2(event, 4, multipliers, outputs))
    out = network(normal((2, *event)), torch.zeros(2))
    assert out.shape == (2, *event, *([outputs] if outputs > 1 else []))
    weights_of(out).backward()
    # the bias of a layer before an instance norm, and its own place in the channels' mean, are taken away again
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(
        float(p.grad.abs().max()) > 0 for n, p in network.named_parameters() if n.endswith(("weight", "alpha", "gamma"))
    )


def test_sides_are_halved_between_the_first_and_the_last_two_stages():
    network = NCSNv2((1, 16, 16), 4, (1, 1, 2, 2, 3, 3))
    sides = []
    for stage in network.stages:
        stage[1].register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    network(normal((1, 1, 16, 16)), torch.zeros(1))
    assert sides == [16, 8, 4, 2, 2, 2]


def test_ncsn_depends_on_the_level_and_ncsnv2_does_not():
    x, levels = normal((3, 1, 4, 4)), torch.tensor([0.0, 1.0, 2.0])
    conditional, unconditional = disturbed(NCSN((1, 4, 4), 4, levels=3)), disturbed(NCSNv2((1, 4, 4), 4))
    assert (
        float(
            (conditional(x, levels) - conditional(x, levels.flip(0)))[[0, 2]].detach().abs().amax(dim=(1, 2, 3)).min()
        )
        > 1e-3
    )
    assert torch.equal(unconditional(x, levels), unconditional(x, levels.flip(0)))
    assert sum("alpha" in n for n, _ in conditional.named_parameters()) > sum(
        "alpha" in n for n, _ in unconditional.named_parameters()
    )


@pytest.mark.parametrize("label", [0.5, -1.0, 3.0, float("nan")])
def test_labels_that_are_no_level_are_refused(label):
    with pytest.raises(ValueError, match=r"whole numbers in 0 \.\. 2"):
        NCSN((1, 4, 4), 4, levels=3)(normal((1, 1, 4, 4)), torch.tensor([label]))


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch():
    network = disturbed(NCSN((1, 4, 4), 4, levels=5)).double()
    x, labels = normal((5, 1, 4, 4), dtype=torch.float64), torch.arange(5.0)
    alone = torch.cat([network(x[i : i + 1], labels[i : i + 1]) for i in range(5)])
    assert torch.allclose(network(x, labels), alone, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSNv2((8, 8)), "event_shape="),
        (lambda: NCSNv2((1, 2, 2)), "event_shape="),
        (lambda: NCSNv2((1, 8, 8), multipliers=(1, 2)), "multipliers="),
        (lambda: NCSNv2((1, 8, 8), channels=0), "channels="),
        (lambda: NCSNv2((1, 8, 8), outputs=0), "outputs="),
        (lambda: NCSN((1, 8, 8), levels=0), "levels="),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
