"""The modules that a run trains: those that its objectives name, together and each once.

    config.objective             DenoisingScoreMatching    trains {"network": model.network}
    config.objectives.schedule   ScheduleVariance          trains {"sde": model.sde}

A run that trains a single module stores its weights by their own names. A run that trains several stores them as
``network.*`` and ``sde.*``, that is, as an ``nn.ModuleDict``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from scoresde._validation import shown
from scoresde.losses import Objective
from scoresde.score import ConditionalModel

Model = TypeVar("Model", bound=nn.Module)
MAIN = "objective"
"""The name of the objective of ``config.objective``. Those of the section ``objectives`` have the names of their keys."""


def trained_modules(model: ConditionalModel, objectives: Mapping[str, Objective]) -> dict[str, dict[str, nn.Module]]:
    """The modules that each objective trains, by name."""
    return {name: dict(objective.trained(model)) for name, objective in objectives.items()}


def check_trainable(model: ConditionalModel, objectives: Mapping[str, Objective]) -> None:
    """Check that objectives train a model.

    Args:
        model: The model.
        objectives: The objectives by name.

    Raises:
        ValueError: If an objective has no trainable parameters, if two objectives train the same parameter, or if the model has
            a trainable parameter that no objective trains.
    """
    owner: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, modules in trained_modules(model, objectives).items():
        own = {id(p) for module in modules.values() for p in module.parameters() if p.requires_grad}
        if not own:
            what = ", ".join(f"{key}={type(module).__name__}" for key, module in modules.items()) or "no module"
            raise ValueError(
                f"config.{key_of(name)} trains {what}, without trainable parameters: give a module that has parameters"
            )
        if other := next((owner[one] for one in own if one in owner), None):
            raise ValueError(
                f"config.{key_of(other)} and config.{key_of(name)} both train {' and '.join(modules)}: give every parameter one "
                "objective"
            )
        for key in modules:
            _check_key(name, key)
            if key in names:
                raise ValueError(
                    f"config.{key_of(names[key])} and config.{key_of(name)} train different modules with the name {key!r}: give "
                    "them different names"
                )
        owner |= dict.fromkeys(own, name)
        names |= dict.fromkeys(modules, name)
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in owner]
    if lacking:
        part = lacking[0].partition(".")[0]
        raise ValueError(
            f"{part}={getattr(model, part, None)!r} has trainable parameters ({', '.join(lacking[:4])}) that no objective "
            f"trains: add one to config.objectives, such as ScheduleVariance for a process, or give another {part}"
        )


def key_of(name: str) -> str:
    """The key of an objective in the config."""
    return name if name == MAIN else f"objectives.{name}"


def _check_key(objective: str, key: Any) -> None:
    """Raise ValueError for a name that a module cannot have."""
    if not isinstance(key, str) or not key.isidentifier() or hasattr(nn.ModuleDict(), key):
        raise ValueError(
            f"config.{key_of(objective)} trains a module with the name {shown(key)}: give a Python identifier that is not the "
            "name of an attribute of torch.nn.ModuleDict"
        )


def as_one(modules: Mapping[str, Mapping[str, nn.Module]]) -> nn.Module:
    """The modules of `trained_modules` as one: the module itself if there is only one."""
    every = {name: module for some in modules.values() for name, module in some.items()}
    return next(iter(every.values())) if len(every) == 1 else nn.ModuleDict(every)


def with_modules(model: Model, ours: nn.Module, others: nn.Module) -> Model:
    """A copy of a model with other modules in place of those that are trained.

    Args:
        model: The model.
        ours: Its trained modules, from `as_one`.
        others: Modules of the same structure, such as an average of them.

    Returns:
        The copy, which shares everything else with the model.
    """
    pairs = [(ours, others)]
    if isinstance(ours, nn.ModuleDict) and isinstance(others, nn.ModuleDict):
        pairs = [(ours[name], others[name]) for name in ours]
    made = copy.copy(model)
    made._modules = {
        name: next((new for old, new in pairs if old is module), module) for name, module in model._modules.items()
    }
    return made
