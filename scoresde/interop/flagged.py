"""Conversion of checkpoints of improved-diffusion and guided-diffusion to work folders of this library.

A file is a state dict. Its names and shapes, and flags of the project's scripts, determine the config (``improved_diffusion``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.checkpoint import load_weights, read_checkpoint
from scoresde.interop import improved_diffusion
from scoresde.interop.errors import ConvertError
from scoresde.interop.work_folder import digest_of, free_folder, logged, write_folder


def flagged_config(project: str, file: str | Path, values: Mapping[str, str]) -> dict[str, Any]:
    """The config of a checkpoint of improved-diffusion or guided-diffusion, from its shapes and the flags of its scripts.

    Args:
        project: "improved_diffusion" or "guided_diffusion".
        file: The checkpoint.
        values: The flags, e.g. ``{"image_size": "32", "noise_schedule": "cosine"}``.

    Raises:
        ConvertError: If the file or a flag is not allowed, or a flag contradicts the file.
        OSError: If the file does not exist.
    """
    try:
        facts = improved_diffusion.facts_of(improved_diffusion.read_weights(file)[0])
    except ConvertError as problem:
        text = str(problem)
        raise (
            problem if text.startswith(str(file)) else ConvertError(f"{file} cannot be converted: {text}")
        ) from problem
    return improved_diffusion.config_of(facts, improved_diffusion.settings_of(project, facts, values))


def convert_flagged(file: str | Path, experiment: Experiment, folder: str | Path) -> str:
    """Make a work folder from a checkpoint of improved-diffusion or guided-diffusion.

    Args:
        file: The checkpoint, one set of weights. They become the raw and the averaged weights.
        experiment: The experiment of the new folder, e.g. that of `flagged_config`. Its data is not read.
        folder: A new or empty folder.

    Returns:
        The summary, which is also written to the log of the folder.

    Raises:
        ConvertError: If the file does not have exactly the weights of the network. No folder is left behind.
        WorkdirError: If the folder is in use.
        OSError: If the file does not exist.
    """
    place, network = free_folder(folder), experiment.model.network
    weights, checked = improved_diffusion.read_weights(file)
    ema, optimizer = improved_diffusion.fill(network, weights, file)
    step = ema.updates = improved_diffusion.step_of(file)

    def compare(path: Path) -> dict[str, str]:
        checkpoint, digests = read_checkpoint(path), {}
        for which in ("model", "ema"):
            load_weights(network, checkpoint, which)
            back = improved_diffusion.published(network.state_dict())
            if differ := [n for n in weights if n not in back or not torch.equal(back[n], weights[n])]:
                raise ConvertError(f"the written weights {which!r} differ from those of the file: {differ[:4]}")
            digests[which] = digest_of(back)
        return digests

    digests = write_folder(place, experiment, ema, optimizer, step, compare)
    lines = [
        f"{place}: step {step} from the name of {Path(file).name}; {len(weights)} tensors, "
        f"{sum(w.numel() for w in weights.values()):,} parameters; read back, all names, shapes and values are the file's",
        "the file has one set of weights: the raw and the averaged weights are equal, and the optimizer has no moments",
        "heads, schedule, steps, label and the meaning of the output are those of the flags or the config: the weights do not "
        "determine them, and no outputs were compared",
        *(
            []
            if checked
            else ["the file is older than torch 1.6 and has no checksums: changed bits in it cannot be detected"]
        ),
        f"sha256 of the weights {digests['model']}",
    ]
    return logged(place, "\n".join(lines))
