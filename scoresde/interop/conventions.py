"""Conventions of the networks of the reference implementation that the shapes of their weights do not determine.

These are the number of groups, the activation, rescaled sums, the resampling, the label of the network and the meaning of
its output. A config of this library can choose other values. If no config of the source is given, they must be those that
all configs of the reference share, or expected outputs must confirm the conversion.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.targets import as_score
from scoresde.interop.errors import ConvertError
from scoresde.interop.score_sde import unlike_groups
from scoresde.networks import DDPM, FIR, Averaging, FourierEmbedding, NCSNpp, Resampling
from scoresde.networks.blocks import Attention, ResidualBlock
from scoresde.networks.refinenet import RefineNet
from scoresde.score import LogNoiseLabel, NoisePrediction, ScoreModel, ScorePrediction, SigmaLabel, TimeLabel
from scoresde.score.predictions import ScaledScorePrediction
from scoresde.sde import VESDE, VPSDE, Chain, SubVPSDE

HOW = "give the config of score_sde_pytorch by --source-config FILE, or outputs of its network by --expected FILE.npz"
"""Ways to determine what a file does not show."""


def check_network(network: nn.Module) -> None:
    """Raise ConvertError if a network differs from what all configs of the reference share, naming the differences."""
    if isinstance(network, RefineNet):
        found = [] if isinstance(network.act, nn.ELU) else [f"activation {network.act}, in the reference ELU"]
    else:
        found = list(_departures(network)) if isinstance(network, NCSNpp) else []
    if found:
        raise ConvertError(
            f"the config differs from all configs of the reference in properties that the "
            f"weights do not determine: {'; '.join(found)}. {HOW}"
        )


def _departures(network: NCSNpp) -> Iterator[str]:
    ddpm = isinstance(network, DDPM)
    yield from unlike_groups(network)
    if not isinstance(network.act, nn.SiLU):
        yield f"activation {network.act}, in the reference SiLU"
    if network.label is None:
        yield "conditional=False, in the reference True"
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    sums = [*blocks, *(module for module in network.modules() if isinstance(module, Attention))]
    if any(module.rescale == ddpm for module in sums):
        yield f"rescale={ddpm}, in the reference {not ddpm}"
    if any(module.pointwise != ddpm for module in blocks):
        yield f"block={'biggan' if ddpm else 'ddpm'!r}, in the reference {'ddpm' if ddpm else 'biggan'!r}"
    progressive = any(level.image is not None for level in (*network.down, *network.up))
    plain = ddpm or not progressive
    for module in network.modules():
        if isinstance(module, Resampling) and not _usual(module, plain):
            yield f"resampling {module}, in the reference {'Averaging' if plain else 'FIR (1, 3, 3, 1)'}"
            break


def _usual(resampling: Resampling, plain: bool) -> bool:
    if plain:
        return isinstance(resampling, Averaging)
    return isinstance(resampling, FIR) and tuple(resampling.kernel) == (1, 3, 3, 1)


def check_model(experiment: Experiment) -> None:
    """Raise ConvertError if the label, the input or the meaning of the output differs from the reference."""
    model, transform = as_score(experiment.model), experiment.data.transform
    process, found = process_of(model), []
    if model.data_std is not None:
        found.append(f"config.model.data_std={model.data_std}, in the reference None")
    if type(process) not in (VPSDE, SubVPSDE, VESDE):
        found.append(f"config.sde {process!r}, in the reference VPSDE, SubVPSDE or VESDE")
    label, predictions = _wanted(model)
    if model.label != label:
        found.append(f"config.model.label {model.label!r}, in the reference {label!r}")
    if type(model.prediction) not in predictions:
        listed = " or ".join(kind.__name__ for kind in predictions)
        found.append(f"config.model.prediction {type(model.prediction).__name__}, in the reference {listed}")
    ends = tuple(getattr(transform, end, None) for end in ("low", "high"))
    probe = torch.tensor([float("nan") if end is None else float(end) for end in ends])
    network = model.network
    mapped = network.input_range(probe) if isinstance(network, NCSNpp | RefineNet) else probe
    if ends not in ((-1.0, 1.0), (0.0, 1.0)) or not torch.equal(mapped, torch.tensor([-1.0, 1.0])):
        found.append(
            f"data in {ends}, which the network maps to {tuple(mapped.tolist())}, in the reference "
            "(-1, 1) or (0, 1), mapped to (-1, 1)"
        )
    if found:
        raise ConvertError(f"the config differs from the reference: {'; '.join(found)}. {HOW}")


def process_of(model: ScoreModel) -> object:
    """The process in continuous time."""
    return model.sde.continuous


def _wanted(model: ScoreModel) -> tuple[object, tuple[type, ...]]:
    """The label and the predictions that the reference uses with a process and an embedding."""
    steps = model.sde.steps if isinstance(model.sde, Chain) else 0
    if not isinstance(process_of(model), VESDE):
        scale = steps - 1.0 if steps else 999.0
        return TimeLabel(scale), (NoisePrediction,)
    scores = (ScorePrediction, ScaledScorePrediction)
    if steps:
        return TimeLabel(steps - 1.0, descending=True, whole=True), scores
    if isinstance(getattr(model.network, "embedding", None), FourierEmbedding):
        return LogNoiseLabel(), scores
    return SigmaLabel(), (ScorePrediction,)


def check_sigmas(table: Tensor | None, levels: tuple[int, float, float] | None, where: str) -> None:
    """Raise ConvertError unless the table of noise levels in a file matches a config.

    Args:
        table: Descending levels, or None if the file has none.
        levels: Number, smallest and largest level. A number of 0 is not compared; None compares nothing.
        where: The config, for messages.
    """
    if table is None or levels is None:
        return
    count, low, high = levels
    ends = (float(table[-1]), float(table[0])) if table.ndim == 1 and len(table) else (0.0, 0.0)
    alike = all(abs(a - b) <= 1e-6 * abs(b) for a, b in zip(ends, (low, high), strict=True))
    if not alike or (count and len(table) != count):
        raise ConvertError(
            f"the file has {table.numel()} noise levels from {ends[0]:g} to {ends[1]:g}, and {where} "
            f"has {count or 'levels'} from {low:g} to {high:g}: the file belongs to another config"
        )


def levels_of(model: ScoreModel) -> tuple[int, float, float] | None:
    """The noise levels of a model under VE, for `check_sigmas`; the number is 0 in continuous time."""
    process = process_of(model)
    if not isinstance(process, VESDE):
        return None
    return model.sde.steps if isinstance(model.sde, Chain) else 0, process.sigma_min, process.sigma_max
