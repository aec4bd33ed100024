"""Names of the reference implementation (yang-song/score_sde_pytorch) for the weights of the networks of this library.

In the reference, all layers of a UNet are in one list ``all_modules``, numbered in the order of use:

    [frequencies] two layers of the label, first convolution;  each level of the encoder: blocks, each with its attention, then
    downsampling and the progressive input;  middle;  each level of the decoder, from the lowest: blocks, attention, the
    progressive output, upsampling;  normalization and convolution of the head

Layers within an entry have the names below. Pointwise layers are stored as matrices (in, out); here they have the shape
(out, in) or (out, in, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from scoresde.networks import DDPM, FIR, FourierEmbedding, NCSNpp, NCSNv2, SinusoidalEmbedding
from scoresde.networks.blocks import Attention, Downsample, Resample, ResidualBlock, Upsample
from scoresde.networks.stages import SkipInput

_BLOCK = {"norm1": "GroupNorm_0", "conv1": "Conv_0", "label": "Dense_0", "norm2": "GroupNorm_1", "conv2": "Conv_1"}
_ATTENTION = {"norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}
_ENDS = {"first": "begin_conv", "norm": "normalizer", "last": "end_conv"}
_UNITS = {"adapt": "adapt_convs", "out": "output_convs", "fuse": "msf.convs", "chain": "crp.convs"}

Part = tuple[str, Mapping[str, str]]
"""An entry of the list: its name here, and a map from names of its layers here to names there."""


@dataclass(frozen=True)
class Weight:
    """The place of a tensor in the reference.

    Attributes:
        name: The name without the prefix ``module.`` of the files.
        pointwise: Whether it is a matrix (in, out) there.
        trained: Whether it is one of the averaged weights, which files contain as a list in this order, without names.
    """

    name: str
    pointwise: bool = False
    trained: bool = True


def layout(network: nn.Module) -> dict[str, Weight]:
    """The place in the reference of every tensor of a network.

    Args:
        network: A network of this library.

    Returns:
        The places by name of the tensor, in the order of the reference.

    Raises:
        TypeError: If the reference has no such network.
    """
    if isinstance(network, NCSNv2) and len(network.stages) in (4, 5):
        return {ours: Weight(_refinenet(ours, len(network.stages))) for ours in network.state_dict()}
    known = (FourierEmbedding, SinusoidalEmbedding)
    more = getattr(network, "conditioning", None) is not None or getattr(network, "input_features", None) is not None
    if not isinstance(network, NCSNpp) or more or not isinstance(network.embedding, known):
        raise TypeError(f"{type(network).__name__} has no counterpart in the reference implementation")
    found: dict[str, Weight] = {}
    for number, (part, layers) in enumerate(_parts(network)):
        for inner, theirs in layers.items():
            ours = ".".join(filter(None, (part, inner)))
            place = ".".join(filter(None, ("all_modules", str(number), theirs)))
            if part == "embedding":
                found[ours] = Weight(place, trained=False)
                continue
            pointwise = theirs.startswith("NIN")
            found[f"{ours}.weight"] = Weight(f"{place}.{'W' if pointwise else 'weight'}", pointwise)
            found[f"{ours}.bias"] = Weight(f"{place}.{'b' if pointwise else 'bias'}")
    return found


def from_reference(network: nn.Module, tensors: Mapping[str, Tensor], *, any_groups: bool = False) -> dict[str, Tensor]:
    """Convert tensors of the reference to a state for ``network.load_state_dict``.

    Args:
        network: The network of this library.
        tensors: The tensors of the reference by name, with or without the prefix ``module.``. The table ``sigmas`` is ignored.
        any_groups: Accept group normalizations with other groups than in the reference. The network then computes another
            function.

    Returns:
        The state of the network.

    Raises:
        ValueError: If a tensor is missing, unexpected or of another shape, or group normalizations have other groups.
    """
    for text in () if any_groups else unlike_groups(network):
        raise ValueError(f"{text}; any_groups=True loads the weights anyway")
    given = {name.removeprefix("module."): tensor for name, tensor in tensors.items() if name != "module.sigmas"}
    given.pop("sigmas", None)
    places, shapes = layout(network), {name: tensor.shape for name, tensor in network.state_dict().items()}
    wanted = {weight.name for weight in places.values()}
    if wanted != set(given):
        missing, more = sorted(wanted - set(given)), sorted(set(given) - wanted)
        raise ValueError(f"the tensors do not fit this network: missing {missing[:4]}, unexpected {more[:4]}")
    state = {}
    for ours, weight in places.items():
        tensor = given[weight.name].T if weight.pointwise else given[weight.name]
        if weight.pointwise and tensor.numel() == shapes[ours].numel():
            tensor = tensor.reshape(shapes[ours])
        if tensor.shape != shapes[ours]:
            raise ValueError(
                f"{weight.name} has shape {tuple(tensor.shape)}: {ours} of the network has shape {tuple(shapes[ours])}"
            )
        state[ours] = tensor
    return state


def to_reference(network: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Convert a state to tensors of the reference.

    Args:
        network: The network of this library.
        state: A state of the network; its current state by default.

    Returns:
        The tensors by name without the prefix ``module.``, in the order of the reference.
    """
    state = network.state_dict() if state is None else state
    return {
        weight.name: state[ours].flatten(1).T if weight.pointwise else state[ours]
        for ours, weight in layout(network).items()
    }


def averages_from_reference(
    network: nn.Module, averages: list[Tensor], tensors: Mapping[str, Tensor], *, any_groups: bool = False
) -> dict[str, Tensor]:
    """Convert averaged weights of the reference to a state for ``network.load_state_dict``.

    Args:
        network: The network of this library.
        averages: The averaged weights, a list without names.
        tensors: The raw tensors by name, for those that are not trained.
        any_groups: As for `from_reference`.

    Returns:
        The state of the network.

    Raises:
        ValueError: If the length of the list or a shape does not match.
    """
    places = layout(network).values()
    names = [weight.name for weight in places if weight.trained]
    if len(names) != len(averages):
        raise ValueError(f"{len(averages)} averaged tensors are given, and the network has {len(names)} trained ones")
    fixed = {name: tensor for name, tensor in tensors.items() if name.removeprefix("module.") not in names}
    return from_reference(network, fixed | dict(zip(names, averages, strict=True)), any_groups=any_groups)


def unlike_groups(network: nn.Module) -> Iterator[str]:
    """Describe the first group normalization with another number of groups than in the reference, if any.

    The number of groups does not change shapes, but it changes the function.
    """
    ddpm = isinstance(network, DDPM)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            wanted = 32 if ddpm else min(module.num_channels // 4, 32)
            if module.num_groups != wanted:
                yield (
                    f"a norm of {module.num_channels} channels has {module.num_groups} groups: {wanted} in the reference's "
                    f"{'ddpm (groups=32)' if ddpm else 'ncsnpp (group_width=4)'}"
                )
                return


def _parts(module: nn.Module, name: str = "") -> Iterator[Part]:
    """The numbered entries. Networks of this library define layers in the order of use, so the order is the same."""
    if isinstance(module, FourierEmbedding):
        yield name, {"frequencies": "W"}
    elif isinstance(module, ResidualBlock):
        yield name, _BLOCK | _shortcut(module)
    elif isinstance(module, Attention):
        yield name, _ATTENTION
    elif isinstance(module, Downsample | Upsample):
        yield name, {"conv": "Conv2d_0" if isinstance(module.resampling, FIR) else "Conv_0"}
    elif isinstance(module, Resample):
        yield name, {}  # it has a number in the list, but no weights
    elif isinstance(module, SkipInput):
        yield name, {"conv": "Conv_0"}
    elif isinstance(getattr(module, "weight", None), nn.Parameter):
        yield name, {"": ""}
    else:
        for inner, child in module.named_children():
            yield from _parts(child, f"{name}.{inner}".lstrip("."))


def _shortcut(block: ResidualBlock) -> dict[str, str]:
    if isinstance(block.shortcut, nn.Identity):
        return {}
    return {"shortcut": "NIN_0" if block.pointwise else "Conv_2"}


def _refinenet(ours: str, stages: int) -> str:
    """The name in the reference of a weight of NCSNv2. There the layers have names; here they are defined in the same order."""
    part, *rest = ours.split(".")
    kind = rest.pop()
    if part == "stages":
        stage, block, layer = rest
        halves = 0 < int(stage) < stages - 2 and block == "0" and layer in ("conv2", "shortcut")
        return ".".join((f"res{int(stage) + 1}", block, layer.replace("norm", "normalize"), *["conv"] * halves, kind))
    if part == "refine":
        number, unit, *place = rest[:-1]
        if unit in ("adapt", "out"):
            *which, _, j, k = place
            return ".".join((f"refine{int(number) + 1}", _UNITS[unit], *which, f"{int(j) + 1}_{int(k) + 1}_conv", kind))
        return ".".join((f"refine{int(number) + 1}", _UNITS[unit], *place, kind))
    return f"{_ENDS[part]}.{kind}"
