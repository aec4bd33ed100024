"""Checkpoints of the reference implementation (yang-song/score_sde_pytorch) made work folders of ours.

    model        raw weights by the names of `score_sde.layout`, behind ``module.``
    ema          averaged weights, a list without names in the order of what is trained; decay; number of updates
    optimizer    Adam's moments by the number of the weight, frozen ones counted
    step         updates so far

A file is a programme for Python's unpickler. torch's weights-only reader runs it: that makes tensors, numbers and containers, and
refuses whatever else a file names. The learning rate is a numpy scalar, for whose parts it is given stand-ins that do nothing.

A work folder appears whole or not at all: it is made beside its place, read back, compared with the file, and then renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._validation import check_choice, check_count
from scoresde.ema import EMA
from scoresde.experiment.checkpoint import load_weights, read_checkpoint, save_checkpoint
from scoresde.experiment.experiment import Experiment
from scoresde.experiment.plan import Training
from scoresde.experiment.workdir import Workdir, WorkdirError, config_digest
from scoresde.interop.score_sde import averages_from_reference, from_reference, layout, to_reference

PROJECTS = ("score_sde_pytorch",)
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MOST_STEPS = 10**9 - 1
"""What the name of a checkpoint holds."""


class ConvertError(ValueError):
    """A file that is not a checkpoint of the project, or not of the config's network; the message says which."""


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """What a file of the reference implementation holds.

    model: raw weights by name, without ``module.`` and the table of sigmas. averages: averaged weights, in order.
    ema_decay, ema_updates: of the averages. moments: Adam's state by the number of the weight. step: updates so far.
    """

    model: dict[str, Tensor]
    averages: list[Tensor]
    ema_decay: float
    ema_updates: int
    moments: dict[int, dict[str, Tensor]]
    step: int


def convert(project: str, file: str | Path, experiment: Experiment, folder: str | Path) -> str:
    """Make a work folder from a checkpoint, and say what is in it and what was compared.

    project: one of `PROJECTS`. folder: new or empty. The data is not read.

    Raises ConvertError for a file that does not fit, WorkdirError for a folder that is in use; neither leaves anything behind.
    """
    check_choice("--from", project, PROJECTS)
    place, digest = Path(folder), config_digest(experiment)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise WorkdirError(f"--workdir {place} is in use: give a new or empty folder")
    given, network = read_reference(file), experiment.model.network
    _check_averages(given, experiment.training, str(file))
    ema, optimizer = _fill(network, given, str(file))
    there = next(parent for parent in place.absolute().parents if parent.exists())
    making = there / f".{place.name}.{os.getpid()}.tmp"
    try:
        workdir = Workdir(making)
        workdir.claim(experiment, data=False)
        path = save_checkpoint(workdir.checkpoints, network, ema, optimizer, given.step, digest, 1)
        digests = _compare(path, network, given)
        if place.exists():
            place.rmdir()
        place.parent.mkdir(parents=True, exist_ok=True)
        making.rename(place)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    trained = sum(p.numel() for p in network.parameters())
    summary = (
        f"{place}: step {given.step} from {Path(file).name}; {len(given.model)} tensors, {trained:,} trained parameters and "
        f"{len(given.moments)} moments of Adam; read back, all names, shapes and values are the file's.\n"
        f"sha256 of the weights {digests['model']}, averaged {digests['ema']}"
    )
    with open(Workdir(place).log_file, "a") as log:
        log.write(summary + "\n")
    return summary


def _check_averages(given: ReferenceCheckpoint, plan: Training, file: str) -> None:
    """Raise ConvertError unless the one average of a file is all that the config wants. None is begun from converted weights:
    what an average is of has gone by, and under its name would be another's weights."""
    if len(plan.averages) > 1:
        raise ConvertError(
            f"{file} holds one average, and the config wants {', '.join(plan.averages)}: the others cannot be made of it; give "
            "--config.training.ema_decays='()' --config.training.posthoc='()'"
        )
    if given.ema_decay != plan.decays[0]:
        key, value = ("ema_decays", f"'({given.ema_decay},)'") if plan.ema_decays else ("ema_decay", given.ema_decay)
        raise ConvertError(
            f"{file} averages with decay {given.ema_decay}, the config with {plan.decays[0]}: it belongs to another config, or "
            f"give --config.training.{key}={value}"
        )


def read_reference(file: str | Path) -> ReferenceCheckpoint:
    """Read a file, executing nothing in it. Raises ConvertError for what is no such checkpoint, OSError where there is none."""
    try:
        with open(file, "rb") as stream, torch.serialization.safe_globals(_STAND_INS):
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as problem:  # a hostile or torn file may raise anything
        asked = re.search(r"GLOBAL (\S+)", str(problem))
        why = f"it asks for {asked[1]}, which was not executed" if asked else repr(problem).split("\\n")[0][:200]
        raise ConvertError(f"{file} is torn or no checkpoint of score_sde_pytorch: {why}") from problem
    try:
        if not isinstance(content, dict):
            raise TypeError("a dictionary is wanted")
        averages, state = content["ema"], content["optimizer"]["state"]
        model = {name.removeprefix("module."): tensor for name, tensor in content["model"].items()}
        model.pop("sigmas", None)
        return ReferenceCheckpoint(
            model={name: _tensor(tensor) for name, tensor in model.items()},
            averages=[_tensor(tensor) for tensor in averages["shadow_params"]],
            ema_decay=float(averages["decay"]),
            ema_updates=_count("num_updates", averages["num_updates"]),
            moments={
                int(k): {"step": torch.as_tensor(float(m["step"])), **{n: _tensor(m[n]) for n in _MOMENTS}}
                for k, m in state.items()
            },
            step=_count("step", content["step"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        there = list(content) if isinstance(content, dict) else type(content).__name__
        raise ConvertError(
            f"{file} is no checkpoint of score_sde_pytorch: {problem!r}; it holds {there}, and model, ema, optimizer and step "
            "with all their parts are wanted"
        ) from problem


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hex digits of the SHA-256 of names, shapes and values, in the order given."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


class _StandIn:
    """Takes the place of what a file names; keeps nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS: list[Any] = [
    type(name, (_StandIn,), {"__module__": module})
    for module, name in (
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
    )
]
"""The parts of a numpy scalar, by the names that numpy 1 and 2 write."""


def _count(name: str, value: Any) -> int:
    check_count(name, value, least=0)
    if value > _MOST_STEPS:
        raise ValueError(f"{name}={value} is no number of steps")
    return int(value)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        raise TypeError(f"a weight is {getattr(value, 'dtype', type(value).__name__)}, where float32 is wanted")
    return value


def _fill(network: nn.Module, given: ReferenceCheckpoint, file: str) -> tuple[EMA, torch.optim.Optimizer]:
    """Load raw weights into ``network``; averages and an optimizer that belong to it."""
    try:
        state = from_reference(network, given.model)
        averages = averages_from_reference(network, given.averages, given.model)
        moments = {kind: _moments(network, given, kind) for kind in _MOMENTS}
    except (TypeError, ValueError) as problem:
        raise ConvertError(f"{file} is not of the config's network: {problem}") from problem
    network.load_state_dict(state)
    ema, optimizer = EMA(network, given.ema_decay), torch.optim.Adam(network.parameters())
    ema.module.load_state_dict(averages)
    ema.updates = given.ema_updates
    numbers = {ours: number for number, ours in enumerate(layout(network))}
    for name, parameter in network.named_parameters():
        if numbers[name] in given.moments:
            found = {kind: moments[kind][name].contiguous() for kind in _MOMENTS}
            optimizer.state[parameter] = {"step": given.moments[numbers[name]]["step"], **found}
    return ema, optimizer


def _moments(network: nn.Module, given: ReferenceCheckpoint, kind: str) -> dict[str, Tensor]:
    """One of Adam's moments by our names, 0 where the file has none. They are laid out as the weights are."""
    names = [weight.name for weight in layout(network).values()]
    if strangers := sorted(set(given.moments) - set(range(len(names)))):
        raise ValueError(f"the optimizer has moments of weights {strangers[:4]}, and there are {len(names)}")
    found = {name: torch.zeros_like(given.model[name]) for name in names}
    return from_reference(network, found | {names[k]: m[kind] for k, m in given.moments.items()})


def _compare(path: Path, network: nn.Module, given: ReferenceCheckpoint) -> dict[str, str]:
    """Digests of what a written checkpoint gives back. Raises ConvertError unless names, shapes and values are the file's."""
    checkpoint, digests = read_checkpoint(path), {}
    trained = [weight.name for weight in layout(network).values() if weight.trained]
    averages = given.model | dict(zip(trained, given.averages, strict=True))
    for which, wanted in (("model", given.model), ("ema", averages)):
        load_weights(network, checkpoint, which)
        back = to_reference(network)
        differ = {*back} ^ {*wanted} or {name for name, tensor in back.items() if not torch.equal(tensor, wanted[name])}
        if differ:
            raise ConvertError(f"the {which} weights that were written are not the file's: {sorted(differ)[:4]}")
        digests[which] = digest_of(back)
    return digests
