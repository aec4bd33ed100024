"""Conversion of checkpoints of the reference implementation (yang-song/score_sde_pytorch) to run folders of this library.

The shapes of the weights do not fully determine a network. The rest comes from the config of the source (``source_config``,
``translate``), or from a config of this library that agrees with the configs of the reference (``conventions``). Expected
outputs of the source can verify the conversion (``verification``).

The run folder is created atomically: it is written to a temporary place next to its final one, read, compared with the
file, and then renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn

from scoresde._validation import check_choice
from scoresde.ema import EMA
from scoresde.experiment.config.builder import build
from scoresde.experiment.config.experiment import Experiment, build_model
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.experiment.config.targets import as_score
from scoresde.experiment.folder.checkpoint import load_weights, read_checkpoint
from scoresde.interop.conventions import check_model, check_network, check_sigmas, levels_of
from scoresde.interop.errors import ConvertError
from scoresde.interop.reference_file import MOMENTS, ReferenceCheckpoint, read_reference
from scoresde.interop.score_sde import averages_from_reference, from_reference, layout, to_reference, unlike_groups
from scoresde.interop.source_config import read_settings
from scoresde.interop.translate import Source, translate
from scoresde.interop.verification import compare_outputs, compare_scores
from scoresde.interop.work_folder import digest_of, free_folder, logged, write_folder
from scoresde.sde import LinearSDE

PROJECT = "score_sde_pytorch"


def source_of(file: str | Path, values: Mapping[str, str] | None = None) -> Source:
    """Translate a config of score_sde_pytorch, without executing it.

    Args:
        file: The Python or JSON file of the config.
        values: Settings by dotted key that replace those of the file; "unused" removes a setting.

    Returns:
        The translated config.

    Raises:
        ConvertError: If it cannot be read, or a setting that the network depends on is missing or has no counterpart.
        OSError: If the file does not exist.
    """
    return translate(read_settings(file, values), str(file))


def is_source(file: str | Path) -> bool:
    """Whether a file is a config of score_sde_pytorch. The file is not executed."""
    try:
        settings = read_settings(file)
    except (ConvertError, OSError):
        return False
    return bool({"nf", "num_scales", "ema_rate"} & {*settings["model"]})


def convert(
    project: str,
    file: str | Path,
    experiment: Experiment,
    folder: str | Path,
    *,
    source: Source | None = None,
    expected: str | Path | None = None,
) -> str:
    """Make a work folder from a checkpoint, and say what is in it and what was compared.

    Args:
        project: ``PROJECT``. For the others see ``flagged``.
        file: The checkpoint.
        experiment: The experiment of the new folder. Its data is not read.
        folder: A new or empty folder.
        source: The config of the source. The model of the experiment must compute the same function.
        expected: An .npz file with outputs of the network of the source, see `compare_outputs`.

    Returns:
        The summary, which is also written to the log of the folder.

    Raises:
        ConvertError: If the file does not match, or the network would not compute the same function as its source.
        WorkdirError: If the folder is in use.
        OSError: If a file does not exist.

    If an error is raised, no folder is left behind.
    """
    check_choice("--from", project, (PROJECT,))
    place = free_folder(folder)
    given, network = read_reference(file), experiment.model.network
    _check_averages(given, experiment.training, str(file))
    ema, optimizer = _fill(network, given, str(file))
    verified = _verify(experiment, given, ema, str(file), source, expected)
    digests = write_folder(place, experiment, ema, optimizer, given.step, lambda path: _compare(path, network, given))
    trained = sum(p.numel() for p in network.parameters())
    summary = (
        f"{place}: step {given.step} from {Path(file).name}; {len(given.model)} tensors, {trained:,} trained parameters and "
        f"{len(given.moments)} moments of Adam; read back, all names, shapes and values are the file's.\n{verified}\n"
        f"sha256 of the weights {digests['model']}, averaged {digests['ema']}"
    )
    return logged(place, summary)


def _check_averages(given: ReferenceCheckpoint, plan: TrainingConfig, file: str) -> None:
    """Raise ConvertError unless the config asks for exactly the one average of the file.

    Another average cannot be started at converted weights, because it depends on the earlier weights.
    """
    if len(plan.averages) > 1:
        raise ConvertError(
            f"{file} has one average, and the config asks for {', '.join(plan.averages)}: the others cannot be computed "
            "from it; give --config.training.ema_decays='()' --config.training.posthoc_widths='()'"
        )
    if given.ema_decay != plan.decays[0]:
        key, value = ("ema_decays", f"'({given.ema_decay},)'") if plan.ema_decays else ("ema_decay", given.ema_decay)
        raise ConvertError(
            f"the average of {file} has decay {given.ema_decay}, and the config has {plan.decays[0]}: the file belongs to "
            f"another config; or give --config.training.{key}={value}"
        )


def _verify(
    experiment: Experiment,
    given: ReferenceCheckpoint,
    ema: EMA,
    file: str,
    source: Source | None,
    expected: str | Path | None,
) -> str:
    """Verify the network. Returns a text with what was compared. Raises ConvertError for another function."""
    model, lines = as_score(experiment.model), []
    try:
        if source is None:
            check_sigmas(given.sigmas, levels_of(model), "the config")
            check_model(experiment)
            if expected is None:
                check_network(model.network)
            lines.append(
                "properties that the weights do not determine are those of the config, which agrees with all "
                "configs of the reference"
            )
        else:
            for text in unlike_groups(model.network):
                raise ConvertError(text)
            check_sigmas(given.sigmas, source.sigmas, source.name)
            _check_source(experiment, source)
            lines += [f"properties that the weights do not determine are those of {source.name}", *source.notes]
        if expected is not None:
            states = {"raw": model.network.state_dict(), "averaged": ema.module.state_dict()}
            lines.append(compare_outputs(model, states, expected))
        else:
            lines.append("no outputs were compared: give --expected FILE.npz to compare them")
    except ConvertError as problem:
        raise ConvertError(f"{file} is not converted: {problem}") from problem
    if not given.checked:
        lines.append("the file is older than torch 1.6 and has no checksums: changed bits in it cannot be detected")
    return "\n".join(lines)


def _check_source(experiment: Experiment, source: Source) -> None:
    """Raise ConvertError unless the model of the experiment is that of the source config."""
    content, theirs = experiment.config.to_dict(), ConfigDict(source.config).to_dict()
    found = tuple(getattr(experiment.data.transform, end, None) for end in ("low", "high"))
    wanted = tuple(theirs["data"][end] for end in ("low", "high"))
    if found != wanted:
        raise ConvertError(f"config.data maps events to {found}, and {source.name} maps them to {wanted}")
    if all(content.get(section, {}) == theirs[section] for section in ("sde", "network", "model")):
        return
    sde = build(theirs["sde"], "sde", LinearSDE)
    model = as_score(build_model(theirs, experiment.data, sde, 0))
    try:
        model.network.load_state_dict(
            from_reference(model.network, to_reference(experiment.model.network), any_groups=True)
        )
    except (TypeError, ValueError) as problem:
        raise ConvertError(f"the config's network differs from that of {source.name}: {problem}") from problem
    compare_scores(as_score(experiment.model), model, experiment.data.event_shape, source.name)


def _fill(network: nn.Module, given: ReferenceCheckpoint, file: str) -> tuple[EMA, torch.optim.Optimizer]:
    """Load raw weights into ``network``, and return its averages and its optimizer."""
    try:
        state = from_reference(network, given.model, any_groups=True)
        averages = averages_from_reference(network, given.averages, given.model, any_groups=True)
        moments = {kind: _moments(network, given, kind) for kind in MOMENTS}
    except (TypeError, ValueError) as problem:
        raise ConvertError(f"{file} does not have the weights of the config's network: {problem}") from problem
    network.load_state_dict(state)
    ema, optimizer = EMA(network, given.ema_decay), torch.optim.Adam(network.parameters())
    ema.module.load_state_dict(averages)
    ema.updates = given.ema_updates
    numbers = {ours: number for number, ours in enumerate(layout(network))}
    for name, parameter in network.named_parameters():
        if numbers[name] in given.moments:
            found = {kind: moments[kind][name].contiguous() for kind in MOMENTS}
            optimizer.state[parameter] = {"step": given.moments[numbers[name]]["step"], **found}
    return ema, optimizer


def _moments(network: nn.Module, given: ReferenceCheckpoint, kind: str) -> dict[str, Tensor]:
    """One moment of Adam by the names of this library; 0 if the file has none. Moments have the layout of the weights."""
    names = [weight.name for weight in layout(network).values()]
    if strangers := sorted(set(given.moments) - set(range(len(names)))):
        raise ValueError(
            f"the optimizer has moments of weights {strangers[:4]}, and the network has {len(names)} weights"
        )
    found = {name: torch.zeros_like(given.model[name]) for name in names}
    moments = {names[k]: m[kind] for k, m in given.moments.items()}
    return from_reference(network, found | moments, any_groups=True)


def _compare(path: Path, network: nn.Module, given: ReferenceCheckpoint) -> dict[str, str]:
    """Digests of the written checkpoint. Raises ConvertError unless its names, shapes and values equal those of the file."""
    checkpoint, digests = read_checkpoint(path), {}
    trained = [weight.name for weight in layout(network).values() if weight.trained]
    averages = given.model | dict(zip(trained, given.averages, strict=True))
    for which, wanted in (("model", given.model), ("ema", averages)):
        load_weights(network, checkpoint, which)
        back = to_reference(network)
        differ = {*back} ^ {*wanted} or {name for name, tensor in back.items() if not torch.equal(tensor, wanted[name])}
        if differ:
            raise ConvertError(f"the written weights {which!r} differ from those of the file: {sorted(differ)[:4]}")
        digests[which] = digest_of(back)
    return digests
