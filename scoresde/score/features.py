r"""Features of a score model: activations inside its network at a time t.

.. math:: x_t \sim p(x_t \mid x_0), \qquad f_m(x_0) = \text{output of module } m \text{ of the network for } (x_t, t)

A network that separates data from noise represents what the data is made of. Small classifiers of these features can need fewer
labels than classifiers of the data itself: for images one feature vector for each pixel (Baranchuk et al. 2021,
arXiv:2112.03126), or one for each event. The noise of event i depends only on (seed, i), so features do not depend on how the
events are divided into batches.

    network_features    the outputs of chosen modules, by name
    pixel_features      these at the sides of the event, concatenated: (B, F, *sides)
    pooled_features     their means over the sides, concatenated: (B, F)
    ScoreFeatures       pooled features as an extractor for metrics
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import (
    check_batch,
    check_choice,
    check_count,
    check_counts,
    check_finite,
    check_number,
    shown,
    suggestion,
)
from scoresde.conditions import check_condition
from scoresde.metrics import Extractor
from scoresde.metrics.extractors import state_digest
from scoresde.networks.block_classes import block_names
from scoresde.noise import NoiseSource
from scoresde.score.base import NoiseConditionalModel
from scoresde.sde.scores import wide

__all__ = ["ScoreFeatures", "network_features", "pixel_features", "pooled_features"]

MODES = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}, "nearest": dict.fromkeys((1, 2, 3), "nearest")}
"""Names of torch's interpolation by number of sides."""
LISTED = 40
"""Number of names that a message lists."""


@checked_arguments
def network_features(
    model: NoiseConditionalModel,
    x: Tensor,
    t: float | Tensor,
    *,
    modules: Sequence[str] | None = None,
    seed: int = 0,
    indices: Tensor | None = None,
    condition: Mapping[str, Any] | None = None,
    gradients: bool = False,
) -> dict[str, Tensor]:
    """Computes the outputs of modules inside the network of a model of x_t, for events with the noise of a time.

    The network is evaluated once, in evaluation mode, without gradients unless ``gradients`` is True.

    Args:
        model: A score model, or a classifier of x_t. A model with conditions ignores those that are neither given nor bound by
            ``model.given``.
        x: Events, (B, *event), in the dtype of the network.
        t: A time, or one for each event, (B,). The noise of small times hides little of the event. At larger times the features
            depend on coarser structure.
        modules: Names of modules as in ``model.network.named_modules()``. By default the residual, attention and refinement
            blocks of this library's networks, see ``scoresde.networks.block_names``.
        seed: Seed of the noise.
        indices: Index of each event, (B,), part of the key of its noise. The default is 0 .. B-1.
        condition: Conditions by name, with one row for each event.
        gradients: Whether the features have a graph that leads to x and to the parameters.

    Returns:
        The outputs by name, in the order of ``modules``. Those of UNets are (B, channels, *sides of their level), those of an
        ``MLP`` (B, width).

    Raises:
        TypeError: If the output of a module is not a tensor, or for other dtypes.
        ValueError: For an unknown name, a module that is not called exactly once, or a time outside [0, T].

    References:
        Baranchuk et al. 2021, "Label-efficient semantic segmentation with diffusion models", arXiv:2112.03126.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, ScoreModel
        >>> from scoresde.networks import SmallUNet
        >>> model = ScoreModel(SmallUNet((1, 8, 8), channels=8, blocks=1), VPSDE())
        >>> found = network_features(model, torch.zeros(5, 1, 8, 8), 0.05)
        >>> {name: tuple(value.shape[1:]) for name, value in found.items()}["attention"]
        (16, 4, 4)
    """
    check_batch("x", x)
    check_finite("x", x)
    condition = dict(condition or {})
    check_condition(len(x), condition, ())
    names = _chosen(model.network, modules)
    if indices is not None and (indices.shape != x.shape[:1] or indices.is_floating_point()):
        raise ValueError(
            f"indices has shape {tuple(indices.shape)} and dtype {indices.dtype}: give whole numbers ({len(x)},), one "
            "for each event"
        )
    high = wide(x)
    time = torch.as_tensor(t, dtype=high.dtype, device=x.device)
    if time.ndim and time.shape != x.shape[:1]:
        raise ValueError(
            f"x has {len(x)} events and t has shape {tuple(time.shape)}: give a number, or one time for each event"
        )
    model.sde.check_time(time)
    time = time.expand(len(x))
    index = torch.arange(len(x), device=x.device) if indices is None else indices.to(x.device)
    x_t = model.sde.marginal_sample(high, time, NoiseSource(seed, index)).to(x.dtype)
    with _evaluating(model.network), torch.set_grad_enabled(gradients), _recorded(model.network, names) as outputs:
        model.output(x_t, time, **condition)
    return {name: _only(name, outputs[name], len(x), model.network) for name in names}


@checked_arguments
def pixel_features(features: Mapping[str, Tensor], sides: Sequence[int], *, mode: str = "linear") -> Tensor:
    """Features of all modules for each position of an event.

    Features of levels with other sides are interpolated to ``sides``: by (bi-, tri-)linear interpolation between the centers of
    pixels (``align_corners=False``), or by the nearest value.

    Args:
        features: Features (B, channels, *sides of the level) by module, with one to three sides, from ``network_features``.
        sides: The sides of the event, such as ``x.shape[2:]``.
        mode: "linear" or "nearest".

    Returns:
        The features in the order of the modules, (B, F, *sides) with F the sum of all channels.

    Raises:
        ValueError: If the features of a module have another number of sides.

    Example:
        >>> import torch
        >>> pixel_features({"a": torch.zeros(5, 3, 4, 4), "b": torch.zeros(5, 2, 8, 8)}, (8, 8)).shape
        torch.Size([5, 5, 8, 8])
    """
    check_counts("sides", sides)
    check_choice("mode", mode, MODES)
    _check_features(features)
    if not 1 <= len(sides) <= 3:
        raise ValueError(f"sides={tuple(sides)} is not allowed: give one to three sides, such as x.shape[2:]")
    parts = []
    for name, value in features.items():
        if value.ndim != 2 + len(sides):
            raise ValueError(
                f"features has {tuple(value.shape)} for {name!r}: give (B, channels, *sides) with {len(sides)} sides, or use "
                "pooled_features"
            )
        if tuple(value.shape[2:]) != tuple(sides):
            corners = {"align_corners": False} if mode == "linear" else {}
            value = F.interpolate(value, size=tuple(sides), mode=MODES[mode][len(sides)], **corners)
        parts.append(value)
    return torch.cat(parts, dim=1)


@checked_arguments
def pooled_features(features: Mapping[str, Tensor]) -> Tensor:
    """Features of all modules for each event: their means over all dimensions after the channels.

    Args:
        features: Features (B, channels, ...) by module, from ``network_features``.

    Returns:
        The features in the order of the modules, (B, F) with F the sum of all channels.

    Raises:
        ValueError: If there are no features, or features without channels.

    Example:
        >>> import torch
        >>> pooled_features({"a": torch.zeros(5, 3, 4, 4), "b": torch.zeros(5, 2)}).shape
        torch.Size([5, 5])
    """
    _check_features(features)
    return torch.cat([value.flatten(2).mean(2) if value.ndim > 2 else value for value in features.values()], dim=1)


class ScoreFeatures(Extractor):
    """Pooled features of a score model as an extractor for metrics.

    The extractor gets events after the transform of the data. All events get the same noise, so that the features of an event
    depend only on the event. A model with conditions ignores them. To use the model of a run folder in a config, see
    ``scoresde.experiment.RunFeatures``.

    Args:
        model: The model.
        t: The time.
        modules: Names of modules, as in ``network_features``.
        seed: Seed of the noise.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE, ScoreModel
        >>> from scoresde.networks import MLP
        >>> extractor = ScoreFeatures(ScoreModel(MLP((2,), width=8, depth=2), VPSDE()), 0.1)
        >>> extractor(torch.zeros(5, 2)).shape
        torch.Size([5, 16])
    """

    scaling = "model"

    def __init__(
        self, model: NoiseConditionalModel, t: float, modules: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        self.modules = _chosen(model.network, modules)
        check_count("seed", seed, least=0)
        check_number("t", t, least=0.0, most=model.sde.T)
        self.model, self.t, self.seed = model, t, seed

    @property
    def name(self) -> str:
        return f"ScoreFeatures({type(self.model.network).__name__}, t={self.t:g}, {len(self.modules)} modules, seed={self.seed})"

    @property
    def digest(self) -> str:
        model = self.model
        settings = (model.sde, model.label, model.data_std, sorted(model.condition), self.t, self.modules, self.seed)
        return hashlib.sha256(f"{settings!r} {state_digest(model.network)}".encode()).hexdigest()

    def features(self, raw: Tensor) -> Tensor:
        weight = next((w for w in self.model.parameters() if w.is_floating_point()), raw.float())
        index = torch.zeros(len(raw), dtype=torch.long)
        found = network_features(
            self.model.to(raw.device), raw.to(weight.dtype), self.t, modules=self.modules, seed=self.seed, indices=index
        )
        return pooled_features(found)


def _chosen(network: nn.Module, modules: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the modules. Raises ValueError unless the network has them."""
    known = [name for name, _ in network.named_modules() if name]
    if modules is None:
        if not (found := block_names(network)):
            raise ValueError(
                f"modules=None is not allowed for {type(network).__name__}, which has no blocks of scoresde: give "
                f"names, {_list(known)}"
            )
        return found
    if not modules or len(set(modules)) < len(modules):
        raise ValueError(f"modules={shown(modules)} is not allowed: give one name or more, each once, {_list(known)}")
    for name in modules:
        if name not in known:
            raise ValueError(
                f"modules: {name!r} is not a module of {type(network).__name__}: it has {_list(known)}{suggestion(name, known)}"
            )
    return tuple(modules)


def _list(names: Sequence[str]) -> str:
    """Names for a message: those nearest to the root if there are many."""
    few = sorted(names, key=lambda name: name.count("."))[:LISTED]
    kept = [name for name in names if name in few]
    return ", ".join(kept) + (f" and {len(names) - len(kept)} more within these" if len(kept) < len(names) else "")


@contextmanager
def _recorded(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """The outputs of modules, by name, of all evaluations in the context. The hooks are always removed."""
    outputs: dict[str, list[Any]] = {name: [] for name in names}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, arguments, output: outputs[name].append(output)

    handles = [network.get_submodule(name).register_forward_hook(recorder(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode. The mode of every module is restored."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _only(name: str, found: Sequence[Any], batch: int, network: nn.Module) -> Tensor:
    """The output of a module, which must be one tensor with a row for each event."""
    if len(found) != 1:
        compiled = " (hooks do not see the modules of a compiled network)" if hasattr(network, "_orig_mod") else ""
        raise ValueError(
            f"modules: {name!r} is called {len(found)} times in one evaluation{compiled}: give a module that is called once"
        )
    (value,) = found
    if not isinstance(value, Tensor):
        raise TypeError(f"modules: {name!r} returns a {type(value).__name__}: give a module that returns one tensor")
    if value.ndim < 2 or len(value) != batch:
        raise ValueError(
            f"modules: {name!r} returns a tensor of shape {tuple(value.shape)} for {batch} events: give a module that returns "
            "(B, channels, ...)"
        )
    return value


def _check_features(features: Mapping[str, Tensor]) -> None:
    if not features:
        raise ValueError(f"features={features!r} is not allowed: give those of one module or more")
    for name, value in features.items():
        if not isinstance(value, Tensor) or value.ndim < 2:
            raise ValueError(f"features of {name!r} is {shown(value)}: give a tensor (B, channels, ...)")


check_constructors(globals())
