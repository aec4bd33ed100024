"""Publishes the model of a work folder, and makes a work folder from a published model.

A published model is a work folder itself, with a model card and a manifest, and without what only training needs:

    README.md                 the model card (``card.py``)
    config.json               the config, without the section ``loggers``
    environment.json          versions, command, data
    checkpoints/step-N.safetensors    the chosen weights, and with ``state`` everything that training needs
    averages/                 the snapshots of post-hoc averages, if the weights are such an average
    initial.safetensors       with ``state``: the weights that the run started from, if they were not random
    metrics.csv, likelihood/, evaluation/, pictures/    the results in the card
    manifest.json             every file with its size and SHA-256 (``manifest.py``)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scoresde._files import parse_json, read_plain, write_atomic
from scoresde._validation import shown
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import read_config
from scoresde.experiment.config.trust import untrusted
from scoresde.experiment.config.weight_names import DEFAULT, weights_name, width
from scoresde.experiment.folder.checkpoint import Checkpoint
from scoresde.experiment.folder.tensor_file import read_header, write_tensors
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.hub.card import Published, model_card
from scoresde.experiment.hub.manifest import MANIFEST, copy_file, write_manifest
from scoresde.experiment.hub.places import check_target, hidden_folder, parse_place, publish_folder
from scoresde.version import __version__

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_TAG = re.compile(r"[^\s,\"'][^\n\r\"']{0,60}")


def push(
    experiment: Experiment,
    workdir: Workdir,
    place: str | Path,
    *,
    weights: Sequence[str | float] = (DEFAULT,),
    state: bool = False,
    license: str | None = None,
    tags: Sequence[str] = (),
    public: bool = False,
    overwrite: bool = False,
) -> str:
    """Publish the trained model of a work folder.

    The model card contains only figures that lie in the work folder, with the command, the date and the version that made them.
    Results of another checkpoint, another config or other weights are left out.

    Args:
        experiment: The experiment.
        workdir: Its work folder.
        place: "hf://user/name", "user/name", or the path of a folder.
        weights: The weights to publish, see ``weight_names.py``.
        state: Whether Adam's moments and all averages are published too, so that training can continue elsewhere.
        license: The identifier of a license, such as "apache-2.0".
        tags: Tags of the model card, in addition to the standard ones.
        public: Whether a new repository is visible to everyone.
        overwrite: Whether a published model that exists is replaced.

    Returns:
        The place.

    Raises:
        TransferError: If the place exists, or cannot be written. Nothing is published.
        CheckpointError: If there is no checkpoint with these weights.
        WorkdirError: If the folder belongs to another config.
    """
    _check_words(license, tags)
    names = tuple(dict.fromkeys(weights_name(which) for which in weights))
    if not names:
        raise ValueError("weights=() is not allowed: give at least one name, such as 'ema'")
    target = parse_place(place, public=public)
    target.check_free(overwrite)
    checkpoint, digests = _load(experiment, workdir, names)
    with target.staging() as folder:
        published = Published(str(target), digests, state, license, tuple(tags), checkpoint)
        _write_model(workdir, published, folder)
        files, card = model_card(experiment, workdir, published)
        for name, source in files.items():
            copy_file(source, folder / name)
        write_atomic(folder / "README.md", card.encode())
        write_manifest(
            folder, {"scoresde": __version__, "step": checkpoint.step, "weights": list(names), "state": state}
        )
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        target.publish(folder, overwrite, f"{workdir.path.name} at step {checkpoint.step}, by scoresde {__version__}")
    print(
        f"{workdir.path}: published as {target}, weights {', '.join(names)} of {checkpoint.path.name}, {size / 2**20:.1f} MiB"
    )
    return str(target)


def pull(place: str | Path, path: str | Path, *, overwrite: bool = False) -> Workdir:
    """Make a work folder from a published model. Every file is compared with the manifest. Nothing is executed.

    Args:
        place: "hf://user/name", "hf://user/name@revision", "user/name", or the path of a folder.
        path: The new work folder.
        overwrite: Whether a work folder that exists is replaced, with everything in it.

    Returns:
        The work folder.

    Raises:
        TransferError: If the work folder exists, or if a file is missing or has changed. The work folder is not created then.
    """
    target, source = Path(path), parse_place(place)
    owned = f"a work folder (no {MANIFEST} or config.json)"
    check_target(target, overwrite, lambda p: (p / MANIFEST).is_file() or (p / "config.json").is_file(), owned)
    with hidden_folder(target) as folder:
        source.fetch(folder)
        content = read_config((folder / "config.json").read_text())
        check_target(target, overwrite, lambda p: True, owned)
        publish_folder(folder, target)
    step = max(int(p.name[5:14]) for p in (target / "checkpoints").glob("step-*"))
    print(f"{target}: {source}, step {step}")
    if flags := dict.fromkeys(needed for _, _, needed in untrusted(content)):
        given = " ".join(f"--trust {one}" for one in flags)
        print(f"{target}: config.json names code that is not part of scoresde: commands need {given}, if you trust it")
    return Workdir(target)


def _check_words(license: str | None, tags: Sequence[str]) -> None:
    if license is not None and not _LICENSE.fullmatch(license):
        raise ValueError(
            f"license={shown(license)} is not allowed: give an identifier in lower case, such as 'apache-2.0'"
        )
    for tag in tags:
        if not isinstance(tag, str) or not _TAG.fullmatch(tag) or not tag.isprintable():
            raise ValueError(f"tags: {shown(tag)} is not allowed: give up to 60 characters without quotes and lines")


def _load(experiment: Experiment, workdir: Workdir, names: Sequence[str]) -> tuple[Checkpoint, dict[str, str]]:
    """The last checkpoint, and the digest of the weights by name. They are loaded, so their names, shapes and values fit."""
    found = {which: workdir.model(experiment, which)[1] for which in names}
    stored = [which for which in names if width(which) is None]
    checkpoint = found[stored[0]] if stored else workdir.model(experiment, DEFAULT)[1]
    return checkpoint, {which: _digest(one) for which, one in found.items()}


def _digest(checkpoint: Checkpoint) -> str:
    """The digest of weights: of the checkpoint of the original run, if the folder was pulled."""
    return str(checkpoint.facts.get("pushed", {}).get("digest", checkpoint.digest))


def _write_model(workdir: Workdir, published: Published, folder: Path) -> None:
    """Write config, environment, checkpoint and snapshots."""
    checkpoint, names, state = published.checkpoint, tuple(published.digests), published.state
    config = _without_loggers(workdir.config_file.read_text())
    write_atomic(folder / "config.json", config.encode())
    for name in ("environment.json", "metrics.csv"):
        if (workdir.path / name).is_file():
            write_atomic(folder / name, read_plain(workdir.path / name))
    if state and workdir.initial_file.is_file():
        copy_file(workdir.initial_file, folder / workdir.initial_file.name)
    header = {key: value for key, value in read_header(checkpoint.path).items() if key not in ("sha256", "files")}
    facts = dict(checkpoint.facts) | {"pushed": {"weights": list(names), "state": state, "digest": _digest(checkpoint)}}
    if "config" in facts:
        facts["config"] = _without_loggers(facts["config"])
    kept = [which for which in names if width(which) is None] or [DEFAULT]
    tensors = {k: v for k, v in checkpoint.tensors.items() if state or k.partition(".")[0] in kept}
    write_tensors(
        folder / "checkpoints" / f"step-{checkpoint.step:09d}.safetensors", tensors, {**header, "facts": facts}
    )
    if any(width(which) is not None for which in names):
        for file in sorted(workdir.averages.rglob("*")):
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(workdir.averages).parts):
                copy_file(file, folder / "averages" / file.relative_to(workdir.averages))


def _without_loggers(config: str) -> str:
    content: Mapping[str, Any] = parse_json(config, "config.json")
    return json.dumps({k: v for k, v in content.items() if k != "loggers"}, indent=2, sort_keys=True) + "\n"
