"""Features of a network at a time: those of x_t, independent of the batch, with nothing left behind in the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scoresde import VPSDE, ScoreModel
from scoresde.conditions import Classes
from scoresde.networks import MLP, NCSN, DDPMpp, MultifieldUNet, NCSNpp, SmallUNet, block_names
from scoresde.noise import NoiseSource
from scoresde.score import EnergyModel, ScoreFeatures, network_features, pixel_features, pooled_features
from scoresde.sde import CriticallyDampedLangevin

X = NoiseSource.of(1, 6).normal((1, 8, 8), step=0, purpose="x", dtype=torch.float32)


class Parts(nn.Module):
    """Modules that are called once, twice, never, or return no tensor."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.once, self.twice, self.never, self.pair = nn.Identity(), nn.Identity(), nn.Identity(), Pair()
        self.flat, self.first, self.drop = nn.Flatten(0), First(), nn.Dropout(0.5)
        self.fails = fails

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = self.weight * self.once(x)
        if self.fails:
            raise RuntimeError("out of order")
        self.pair(x), self.flat(x), self.first(x), self.drop(x)
        return self.twice(self.twice(x))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class First(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:1]


def unet(seed=0, **more):
    torch.manual_seed(seed)
    network = SmallUNet((1, 8, 8), channels=8, blocks=1, **more)
    for parameter in network.parameters():  # the last layers are zero before training
        nn.init.normal_(parameter, std=0.1)
    return network


def hooks(network):
    return [module for module in network.modules() if module._forward_hooks]


def test_the_network_gets_the_event_with_the_noise_of_its_index():
    """x_t = alpha x_0 + sigma z, with the z of (seed, index), scaled as in every other evaluation."""
    model, t = ScoreModel(Parts(), VPSDE(), data_std=None), torch.full((6,), 0.3)
    found = network_features(model, X, 0.3, modules=["once"], seed=7)["once"]
    z = NoiseSource.of(7, 6).normal((1, 8, 8), step=0, purpose="perturb", dtype=torch.float32)
    assert torch.equal(found, VPSDE().perturb(X, t, z))
    part = torch.tensor([4, 1])
    again = network_features(model, X[part], t[part], modules=["once"], seed=7, indices=part)["once"]
    assert torch.equal(again, found[part])
    assert not torch.equal(network_features(model, X, 0.3, modules=["once"], seed=8)["once"], found)
    assert not torch.equal(network_features(model, X[part], 0.3, modules=["once"], seed=7)["once"], found[part])


def test_features_do_not_depend_on_the_batch():
    model = ScoreModel(unet(), VPSDE())
    whole = pixel_features(network_features(model, X, 0.1), (8, 8))
    parts = [pixel_features(network_features(model, X[i], 0.1, indices=i), (8, 8)) for i in torch.arange(6).split(4)]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "blocks"),
    [
        (MLP((3,), width=8, depth=2), {"blocks.0", "blocks.1"}),
        (
            SmallUNet((1, 8, 8), channels=8, blocks=2),
            {"down.0", "down.1", "before.0", "before.1", "attention", "after.0", "up.0", "up.1"},
        ),
        (
            MultifieldUNet((2, 1, 8, 8), channels=8, blocks=1),
            {"unet.down.0", "unet.before.0", "unet.attention", "unet.after.0", "unet.up.0"},
        ),
        (
            DDPMpp((2, 16), channels=8, multipliers=(1, 1), blocks=1, attention=(8,)),
            {
                "down.0.blocks.0.block", "down.1.blocks.0.block", "down.1.blocks.0.attention", "before", "attention", "after",
                "up.0.blocks.0", "up.0.blocks.1", "up.0.attention", "up.1.blocks.0", "up.1.blocks.1",
                "down.0.change", "up.0.change",
            },
        ),
        (
            NCSN((1, 8, 8), channels=8, multipliers=(1, 2, 2), levels=4),
            {f"stages.{i}.{j}" for i in range(3) for j in range(2)} | {f"refine.{i}" for i in range(3)},
        ),
        (nn.Linear(2, 2), set()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_the_blocks_of_a_network(network, blocks):
    assert set(block_names(network)) == blocks and len(block_names(network)) == len(blocks)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP((3,), width=8, depth=2), (3,)),
        (MLP((2, 3, 1), width=8, depth=2), (2, 3, 1)),
        (DDPMpp((2, 15), channels=8, multipliers=(1, 1), blocks=1), (2, 15)),
        (NCSNpp((1, 9, 6), channels=8, multipliers=(1, 2), blocks=1), (1, 9, 6)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else type(value).__name__,
)
def test_any_event_shape(network, shape):
    x = NoiseSource.of(0, 4).normal(shape, step=0, purpose="x", dtype=torch.float32)
    found = network_features(ScoreModel(network, VPSDE()), x, 0.2)
    assert tuple(found) == block_names(network)
    pooled = pooled_features(found)
    assert pooled.shape == (4, sum(value.shape[1] for value in found.values()))
    if not isinstance(network, MLP):
        assert pixel_features(found, shape[1:]).shape == (4, pooled.shape[1], *shape[1:])


def test_a_state_with_velocities():
    """Under CLD the network gets position and velocity; the features have the sides of the images."""
    model = ScoreModel(MultifieldUNet((2, 1, 8, 8), channels=8, blocks=1), CriticallyDampedLangevin())
    found = network_features(model, X, 0.2)
    assert pixel_features(found, (8, 8)).shape[2:] == (8, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    """The noise is that of float32 in half precision too, so the features agree to the rounding of bfloat16."""
    model = ScoreModel(unet(), VPSDE())
    exact = pixel_features(network_features(model, X, 0.1), (8, 8))
    found = pixel_features(network_features(model.to(dtype), X.to(dtype), 0.1), (8, 8))
    assert found.dtype == dtype
    if dtype == torch.bfloat16:
        assert float((found.float() - exact).abs().mean()) < 0.02 * float(exact.abs().mean()) + 0.02


def test_no_graph_unless_wanted():
    model, x = ScoreModel(unet(), VPSDE()), X.clone().requires_grad_()
    assert not any(value.requires_grad for value in network_features(model, x, 0.1).values())
    pooled_features(network_features(model, x, 0.1, gradients=True)).sum().backward()
    assert float(x.grad.abs().sum()) > 0.0
    assert float(model.network.first.weight.grad.abs().sum()) > 0.0
    with torch.no_grad():
        found = network_features(model, X, 0.1, gradients=True)
    assert found["attention"].requires_grad, "the argument decides"
    assert network_features(EnergyModel(MLP((3,)), VPSDE()), torch.zeros(2, 3), 0.1)["blocks.0"].shape == (2, 128)


def test_nothing_stays_in_the_network():
    """Hooks are removed and modes restored, also after an error."""
    network = Parts()
    network.train()
    network.pair.eval()
    model = ScoreModel(network, VPSDE())
    found = network_features(model, X, 0.1, modules=["drop", "once"])
    assert torch.equal(found["drop"], found["once"] * 1.0), "dropout is off"
    assert not hooks(network) and network.training and network.drop.training and not network.pair.training
    network.fails = True
    with pytest.raises(RuntimeError, match="out of order"):
        network_features(model, X, 0.1, modules=["once", "twice"])
    assert not hooks(network) and network.training
    with pytest.raises(ValueError, match="event shape"):
        network_features(ScoreModel(unet(), VPSDE()), X[:, :, :4], 0.1)


def test_conditions():
    model = ScoreModel(unet(conditions={"label": Classes(3)}), VPSDE())
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    one = pooled_features(network_features(model, X, 0.1, condition={"label": y}))
    two = pooled_features(network_features(model.given(label=y), X, 0.1))
    none = pooled_features(network_features(model, X, 0.1))
    dropped = pooled_features(network_features(model.given(label=y, dropped=torch.ones(6, dtype=torch.bool)), X, 0.1))
    assert torch.equal(one, two) and torch.allclose(none, dropped, atol=1e-6) and not torch.allclose(one, none)
    with pytest.raises(ValueError, match="label has shape"):
        network_features(model, X, 0.1, condition={"label": y[:2]})
    with pytest.raises(TypeError, match="the condition labels is not known"):
        network_features(model, X, 0.1, condition={"labels": y})


def test_refusals():
    model = ScoreModel(Parts(), VPSDE())
    for modules, message in (
        (
            None,
            "modules=None is not allowed for Parts, which has no blocks of scoresde: give names, once, twice, never",
        ),
        ([], r"modules=\[\] is not allowed: give one name or more"),
        (["once", "once"], "each once"),
        (["onse"], "'onse' is not a module of Parts: it has once, twice, .*did you mean 'once'"),
        (["twice"], "'twice' is called 2 times in one evaluation: give a module that is called once"),
        (["never"], "'never' is called 0 times"),
        (["first"], r"'first' returns a tensor of shape \(1, 1, 8, 8\) for 6 events"),
        (["flat"], r"'flat' returns a tensor of shape \(384,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            network_features(model, X, 0.1, modules=modules)
    with pytest.raises(TypeError, match="'pair' returns a tuple: give a module that returns one tensor"):
        network_features(model, X, 0.1, modules=["pair"])
    with pytest.raises(ValueError, match=r"t .*1.5"):
        network_features(model, X, 1.5, modules=["once"])
    with pytest.raises(ValueError, match=r"x has 6 events and t has shape \(2,\): give a number, or one time for each"):
        network_features(model, X, torch.tensor([0.1, 0.2]), modules=["once"])
    with pytest.raises(ValueError, match="x holds non-finite values"):
        network_features(model, X / 0.0, 0.1, modules=["once"])
    with pytest.raises(ValueError, match=r"indices has shape \(2,\) and dtype torch.int64: give whole numbers \(6,\)"):
        network_features(model, X, 0.1, modules=["once"], indices=torch.arange(2))
    with pytest.raises(ValueError, match=r"modules: 'x' is not a module of SmallUNet: it has .* more within these"):
        network_features(ScoreModel(unet(), VPSDE()), X, 0.1, modules=["x"])


def test_pixel_features_interpolate_between_centers():
    """A ramp stays a ramp: exact inside, constant beyond the outer centers."""
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    found = pixel_features({"a": ramp, "b": torch.full((1, 2, 8, 8), 5.0)}, (8, 8))
    wanted = ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0.0, 3.0)
    assert (
        found.shape == (1, 3, 8, 8)
        and torch.allclose(found[0, 0], wanted.expand(8, 8))
        and bool((found[0, 1:] == 5.0).all())
    )
    nearest = pixel_features({"a": ramp}, (8, 8), mode="nearest")
    assert torch.equal(nearest[0, 0, 0], torch.arange(4.0).repeat_interleave(2))
    assert pixel_features({"a": torch.zeros(1, 2, 3, 3, 3)}, (6, 6, 6)).shape == (1, 2, 6, 6, 6)
    with pytest.raises(ValueError, match=r"features has \(4, 3\) for 'a': give \(B, channels, \*sides\) with 2 sides"):
        pixel_features({"a": torch.zeros(4, 3)}, (8, 8))
    with pytest.raises(ValueError, match=r"sides=.* is not allowed"):
        pixel_features({"a": ramp}, (1, 1, 8, 8))
    with pytest.raises(ValueError, match="mode='cubic' is not"):
        pixel_features({"a": ramp}, (8, 8), mode="cubic")
    with pytest.raises(ValueError, match=r"features=\{\} is not allowed"):
        pooled_features({})
    assert torch.equal(pooled_features({"a": ramp, "b": torch.ones(1, 2)}), torch.tensor([[1.5, 1.0, 1.0]]))


def test_the_extractor_is_a_function_of_the_event():
    model = ScoreModel(unet(), VPSDE())
    extractor = ScoreFeatures(model, 0.1)
    assert extractor.scaling == "model" and "SmallUNet, t=0.1, 5 modules" in extractor.name
    whole = extractor(X)
    assert torch.allclose(extractor(X[2:3]), whole[2:3], atol=1e-6)
    assert torch.allclose(extractor(X.double()), whole, atol=1e-6)
    digests = {
        extractor.digest, ScoreFeatures(model, 0.2).digest, ScoreFeatures(model, 0.1, ["attention"]).digest,
        ScoreFeatures(model, 0.1, seed=1).digest, ScoreFeatures(ScoreModel(unet(1), VPSDE()), 0.1).digest,
        ScoreFeatures(ScoreModel(unet(), VPSDE(0.2)), 0.1).digest,
    }  # fmt: skip
    assert len(digests) == 6 and ScoreFeatures(ScoreModel(unet(), VPSDE()), 0.1).digest == extractor.digest
    y = torch.zeros(1, dtype=torch.long)
    labelled = ScoreModel(unet(conditions={"label": Classes(3)}), VPSDE())
    assert ScoreFeatures(labelled.given(label=y[0]), 0.1).digest != ScoreFeatures(labelled, 0.1).digest
    with pytest.raises(ValueError, match=r"t=2\.0 is not allowed"):
        ScoreFeatures(model, 2.0)
    with pytest.raises(ValueError, match="'head' is not a module"):
        ScoreFeatures(model, 0.1, ["head"])
