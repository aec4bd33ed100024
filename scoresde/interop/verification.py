"""Verification of a converted network, by expected outputs and by the config of the source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scoresde._files import NO_ARRAY, check_zip
from scoresde._validation import expand
from scoresde.interop.conventions import process_of
from scoresde.interop.errors import ConvertError
from scoresde.networks import FourierEmbedding
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.score.predictions import ScaledScorePrediction
from scoresde.sde import VESDE, Chain, LinearSDE

TOLERANCE = 1e-3
"""Largest deviation of outputs, in standard deviations of each event. Rounding in float32 gives 1e-4 with Fourier features."""
_SAME = 1e-4
_WEIGHTS = {"out_raw": "raw", "out_ema": "averaged"}


def compare_outputs(model: ScoreModel, states: Mapping[str, Mapping[str, Tensor]], file: str | Path) -> str:
    """Compare outputs of a network with expected outputs of the source.

    Args:
        model: The model. The weights of its network are replaced during the comparison.
        states: The "raw" and the "averaged" state of the network.
        file: An .npz file with the inputs ``x`` (B, C, H, W) and ``labels`` (B,) of the network of the source, and its outputs
            ``out_raw`` with raw weights, ``out_ema`` with averaged weights, or both.

    Returns:
        What was compared and the largest deviation, for the summary.

    Raises:
        ConvertError: If outputs differ by more than ``TOLERANCE``, or the file has other content. The message names the file.
    """
    given = _arrays(file)
    said, network = [], model.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    training = network.training
    try:
        for key in (k for k in _WEIGHTS if k in given):
            network.load_state_dict(dict(states[_WEIGHTS[key]]))
            with torch.no_grad():
                out = _returned(model.eval(), given["x"].float(), given["labels"])
            off = _deviation(out, given[key])
            if not off <= TOLERANCE:
                raise ConvertError(
                    f"the network differs from that of the source: {key} of {file} differs by {off:.2g} standard deviations "
                    f"(allowed {TOLERANCE:g}); the config differs in a property that the weights do not determine"
                )
            said.append(f"{key} to {off:.1e}")
    except (RuntimeError, ValueError, IndexError) as problem:
        if isinstance(problem, ConvertError):
            raise
        raise ConvertError(f"{file} does not suit the network: {problem}") from problem
    finally:
        network.load_state_dict(before)
        model.train(training)
    return f"outputs are those of {Path(file).name}: {', '.join(said)} of their standard deviation"


def _arrays(file: str | Path) -> dict[str, Tensor]:
    try:
        check_zip(file)
        with np.load(file, allow_pickle=False) as content:
            found = {name: np.asarray(content[name]) for name in ("x", "labels", *_WEIGHTS) if name in content.files}
        if not {"x", "labels"} <= {*found} or not {*_WEIGHTS} & {*found}:
            raise ValueError(f"it contains {sorted(content.files)}: it must contain x, labels, and out_raw or out_ema")
        tensors = {name: torch.from_numpy(np.asarray(array, np.float64)) for name, array in found.items()}
    except FileNotFoundError:
        raise
    except (*NO_ARRAY, TypeError, AttributeError) as problem:
        raise ConvertError(f"{file} cannot be read as expected outputs: {problem}") from problem
    x = tensors["x"]
    if x.ndim < 3 or tensors["labels"].shape != x.shape[:1] or x.numel() == 0:
        raise ConvertError(
            f"{file} holds x {tuple(x.shape)} and labels {tuple(tensors['labels'].shape)}: give (B, C, H, W) and (B,)"
        )
    for name, tensor in tensors.items():
        if name in _WEIGHTS and tensor.shape != x.shape:
            raise ConvertError(
                f"{file} holds {name} {tuple(tensor.shape)} for x {tuple(x.shape)}: the shapes must be equal"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ConvertError(f"{name} of {file} contains numbers that are not finite")
    return tensors


def _returned(model: ScoreModel, x: Tensor, labels: Tensor) -> Tensor:
    """The output of the network of the source. Here its label is ln sigma instead of sigma, and it is divided by sigma."""
    fourier = isinstance(getattr(model.network, "embedding", None), FourierEmbedding)
    out: Tensor = model.network(x, labels.log() if fourier else labels.float())
    if not isinstance(model.prediction, ScaledScorePrediction):
        return out
    process = process_of(model)
    if fourier:
        sigma = labels
    elif isinstance(process, VESDE) and isinstance(model.sde, Chain):
        ends = (math.log(process.sigma_max), math.log(process.sigma_min))
        sigma = torch.linspace(*ends, model.sde.steps, dtype=torch.float64).exp()[labels.long()]
    else:
        raise ValueError(
            "config.model.steps is required, because the output of the network is divided by the noise level of an index"
        )
    return out.double() / expand(sigma, out)


def compare_scores(ours: ScoreModel, theirs: ScoreModel, shape: tuple[int, ...], where: str) -> None:
    """Raise ConvertError unless two models with the same weights compute the same function of (x, t).

    Args:
        ours: The model of the given config.
        theirs: The model of the source config.
        shape: Shape of an event, (C, *sides). Sides above 64 are reduced, because neither network depends on them.
        where: The source config, for messages.
    """
    step = int(getattr(theirs.network, "step", 1))
    sides = [min(side, max(step, 64 // step * step)) for side in shape[1:]]
    assert isinstance(theirs.sde, LinearSDE)  # all processes of the reference are
    times, source = torch.tensor([0.9, 0.4, 0.05]), NoiseSource.of(0, 3)
    x = source.normal((shape[0], *sides), step=0, purpose="proof", dtype=torch.float32)
    x = x * expand(theirs.sde.noise_level(times).clamp(min=1.0), x)
    with torch.no_grad():
        a, b = (model.eval()(x, times * float(model.sde.T)) for model in (ours, theirs))
    off = _deviation(a, b)
    if not off <= _SAME:
        raise ConvertError(
            f"the config's model differs from that of {where} by {off:.2g} standard deviations with the same weights: omit "
            "--config and the overrides of data, sde, network and model, so that those of the source are used"
        )


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference within an event, in standard deviations of the event."""
    a, b = ours.double().flatten(1), theirs.double().flatten(1)
    return float(((a - b).abs().amax(1) / b.std(1).clamp(min=1e-300)).max())
