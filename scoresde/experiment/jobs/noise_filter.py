"""The filter that colors the noise of samples, as ``sampling.noise_filter`` says.

It is fitted to training events once, and stored in the work folder. All processes and later runs use the stored one.

    noise_filters/DIGEST.safetensors    the masks or the matrix; DIGEST is that of the node of the config
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from scoresde._files import bytes_digest
from scoresde._validation import shown
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.tensor_file import FORMAT, CheckpointError, read_tensors, tensors_digest, write_tensors
from scoresde.experiment.folder.workdir import Workdir
from scoresde.filters import Filter, MatrixFilter, SpectralFilter
from scoresde.sde import SDE

EVENTS = 10_000
"""Number of training events that a filter is fitted to."""
FACTS = ("noise filter", "noise filter digest")
"""Names of the facts about the filter."""


def noise_filter(experiment: Experiment, workdir: Workdir) -> tuple[Filter | None, dict[str, Any]]:
    """The filter of the noise, fitted if no process has fitted it yet, and what samples depend on.

    Args:
        experiment: The experiment.
        workdir: Its work folder.

    Returns:
        The filter, and facts about it (`FACTS`): the node, and the digest of the filter. None and no facts without a filter.

    Raises:
        ConfigError: If the function returns something else than a filter for the events, or if a sampler needs other noise.
    """
    fit = experiment.sampling.noise_filter
    if fit is None:
        return None, {}
    if not isinstance(experiment.process, SDE):
        raise ConfigError("config.sampling.noise_filter is for the Gaussian noise of an SDE: leave it out")
    for name, sampler in experiment.samplers.items():
        for part in (sampler, getattr(sampler, "corrector", None)):
            if getattr(part, "needs_standard_normals", False):
                raise ConfigError(
                    f"config.samplers.{name}: {type(part).__name__} needs standard normals, and config.sampling.noise_filter "
                    "filters them: give another one, or noise_filter=None"
                )
    node = json.dumps(experiment.config.to_dict()["sampling"]["noise_filter"], sort_keys=True, default=str)
    file = workdir.path / "noise_filters" / f"{bytes_digest(node.encode())[:16]}.safetensors"
    with workdir.lock("noise-filter", wait=True):
        try:
            tensors, header = read_tensors(file)
        except (CheckpointError, FileNotFoundError):
            count = min(EVENTS, len(experiment.data.train))
            workdir.log(f"{workdir.path}: fitting the filter of the noise to {count} training events, once")
            made = fit(experiment.data.train.encode(slice(0, count), seed=0))
            file.parent.mkdir(exist_ok=True)
            write_tensors(file, *_contents(made, experiment.data.event_shape))
            tensors, header = read_tensors(file)
    return _filter(tensors, header), dict(zip(FACTS, (node, tensors_digest(tensors, header)), strict=True))


def _contents(made: object, event_shape: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a filter. Raises ConfigError unless it is one for events of this shape."""
    if not isinstance(made, SpectralFilter | MatrixFilter) or made.event_shape != tuple(event_shape):
        of = f" for events {made.event_shape}" if isinstance(made, Filter) else ""
        raise ConfigError(
            f"config.sampling.noise_filter returned {shown(made)}{of}: return a SpectralFilter or a MatrixFilter for events of "
            f"shape {tuple(event_shape)}"
        )
    if isinstance(made, MatrixFilter):
        return {"matrix": made.matrix}, {"format": FORMAT, "shape": list(made.event_shape)}
    return {name: mask for name, mask in vars(made).items() if mask is not None}, {"format": FORMAT}


def _filter(tensors: dict[str, Tensor], header: dict[str, Any]) -> Filter:
    """The filter of a file."""
    if "matrix" in tensors:
        return MatrixFilter(tensors["matrix"], tuple(header["shape"]))
    return SpectralFilter(**tensors)
