"""A work folder: the files of one run with one config.

    config.json               the config, compared on every later command
    environment.json          versions, command, digest of the data
    initial.safetensors       weights of another run, if this run starts from them
    log.txt                   printed lines
    metrics.csv               one row for each logged step
    checkpoints/              step-000001000.safetensors, the last few; in a sharded run each is a folder, step-000001000/
    checkpoints/grid-*.json   time grids of likelihoods; bound-*.json: chains of variational bounds
    averages/                 snapshots for post-hoc averages
    previews/                 pictures of samples during training
    loggers/NAME.json         the id and the last step of a logged run; tensorboard/ and wandb/ have the files of these loggers
    bad_batches/              batches whose loss or gradient was not finite
    samples/NAME.*            .npz, .png and .json; shards in samples/NAME/shards-*/
    likelihood/SPLIT.*        .csv and .json, SPLIT-bound.* for bounds; the rows as they are computed in likelihood/rows-*/
    evaluation/NAME.json      samples compared with data; features in evaluation/*/
    edits/NAME/               results of scoresde edit, unless --output names another folder
    report.html               the report

Results of other weights than the first average have names such as samples/NAME@WEIGHTS.npz, see ``weight_names.py``.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch

from scoresde._files import parse_json, read_plain, write_atomic, write_sealed, writing
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import difference, to_json
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.experiment.config.weight_names import DEFAULT, weights_name, width
from scoresde.experiment.folder.averages import combine_snapshots
from scoresde.experiment.folder.checkpoint import (
    Checkpoint,
    last_checkpoint,
    list_checkpoints,
    load_weights,
    newer_damaged,
    step_of,
)
from scoresde.experiment.folder.tensor_file import CheckpointError, read_header
from scoresde.experiment.folder.tree import misplaced, remove_leftovers
from scoresde.score import ConditionalModel
from scoresde.version import __version__

if TYPE_CHECKING:
    from scoresde.experiment.folder.initial import InitialWeights

PACKAGES = ("torch", "numpy", "scipy", "torchsde", "scikit-learn", "ml-collections", "safetensors")
"""Packages whose versions are written to environment.json."""
EVALUATION = ("device", "threads", "sampling", "samplers", "guidance", "likelihood", "evaluation", "editing", "loggers")
"""Sections that may change after training, because the weights do not depend on them. For ``training`` see
`TrainingConfig.changeable`.
"""


INITIAL = "initial weights"
"""The key in environment.json for the source of a run's initial weights, see ``initial.py``."""


class WorkdirError(RuntimeError):
    """A work folder that does not fit the command. The message says what differs, and what to do."""


class Workdir:
    """The files of one run.

    Args:
        path: The folder. It need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.samples, self.likelihood = self.path / "samples", self.path / "likelihood"
        self.previews, self.bad_batches = self.path / "previews", self.path / "bad_batches"
        self.averages, self.evaluation = self.path / "averages", self.path / "evaluation"
        self.edits = self.path / "edits"
        self.config_file, self.metrics_file = self.path / "config.json", self.path / "metrics.csv"
        self.log_file, self.report_file = self.path / "log.txt", self.path / "report.html"
        self.environment_file, self.initial_file = self.path / "environment.json", self.path / "initial.safetensors"

    def claim(self, experiment: Experiment, *, data: bool = True, initial: InitialWeights | None = None) -> None:
        """Create the folder for an experiment, or check that it belongs to the experiment.

        Args:
            experiment: The experiment.
            data: Whether the data is read, for its digest in environment.json.
            initial: The weights of another run from which a new folder's run starts. An existing folder ignores it.

        Raises:
            WorkdirError: If the folder belongs to another config or holds other files.
        """
        if self.path.exists() and not self.path.is_dir():
            raise WorkdirError(f"--workdir {self.path} is a file: give a folder")
        if not self.config_file.exists():
            self._check_empty()
            content = environment(experiment, data=data)
            if initial is not None:
                content[INITIAL] = initial.source
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise WorkdirError(f"--workdir {self.path} cannot be created: {problem.strerror}") from problem
            # if several processes start at once, one writes and the others compare their config with what it wrote
            with self.lock("claim", wait=True):
                if not self.config_file.exists():
                    self._check_empty()
                    write_sealed(self.environment_file, content)
                    if initial is None:
                        self.initial_file.unlink(missing_ok=True)  # of a start that was killed
                    else:
                        initial.write(self.initial_file)
                    write_atomic(self.config_file, to_json(experiment.config).encode())
                    return
        self.check(experiment)

    def _check_empty(self) -> None:
        """Raise WorkdirError if a folder without a config contains more than the files of a killed start."""
        ours = re.compile(
            r"environment\.json|initial\.safetensors|\.(environment\.json|config\.json|initial\.safetensors)\.\d+\.tmp|\.claim\.lock"
        )
        strange = self.path.is_dir() and any(not ours.fullmatch(p.name) for p in self.path.iterdir())
        if strange and not self.config_file.exists():  # another process may have made it meanwhile
            raise WorkdirError(
                f"--workdir {self.path} contains other files and no config.json: give a new or empty folder"
            )

    def update_config(self, experiment: Experiment) -> None:
        """Replace config.json by an experiment's config. The caller holds the lock of ``train`` and has called `check`.

        Args:
            experiment: The experiment.

        Raises:
            WorkdirError: If training has already passed the number of steps in the config.
        """
        config, steps, reached = to_json(experiment.config), experiment.training.steps, self._reached()
        if reached > steps:
            raise WorkdirError(
                f"--workdir {self.path} is trained to step {reached}, but training.steps={steps} is less: give at least "
                f"{reached}, or another folder for a shorter run"
            )
        before = self._folder_config()
        if before != config:
            write_atomic(self.config_file, config.encode())
            self.log(f"{self.path}: config.json was updated by this command: {'; '.join(difference(config, before))}")

    def _reached(self) -> int:
        """The step of the newest checkpoint with a readable header; 0 without one."""
        for path in reversed(list_checkpoints(self.checkpoints)):
            try:
                if read_header(path).get("step") == step_of(path):
                    return step_of(path)
            except CheckpointError:
                continue
        return 0

    def remove_leftovers(self, lock: str) -> None:
        """Remove temporary files of killed processes.

        Args:
            lock: The lock that only this process holds.
        """
        remove_leftovers(self.path, lock)

    def check(self, experiment: Experiment) -> None:
        """Raise WorkdirError unless the folder was trained with this experiment's config, evaluation sections aside.

        Args:
            experiment: The experiment.
        """
        if strange := misplaced(self.path):
            more = f" (and {len(strange) - 1} more)" if strange[1:] else ""
            raise WorkdirError(
                f"--workdir {self.path}: {strange[0]}{more}: remove it; commands do not follow links inside a work folder"
            )
        if not self.config_file.exists():
            raise WorkdirError(f"--workdir {self.path} contains no run (no config.json): train first")
        if lines := config_changes(experiment, self._folder_config()):
            differences = "\n  ".join(lines)
            cosine = any(line.startswith("training.steps:") for line in lines)
            hint = (
                "\n(a cosine schedule depends on the number of steps; a constant schedule does not. To train further, start a "
                f"new run from the weights: --init-from {self.path} --workdir NEW)"
                if cosine
                else ""
            )
            empty = "" if list_checkpoints(self.checkpoints) else "it has no checkpoint and may be deleted; or "
            raise WorkdirError(
                f"--workdir {self.path} belongs to another config; {empty}give another folder, or the folder's config. "
                f"Differences (folder -> given):\n  {differences}{hint}"
            )

    def _folder_config(self) -> str:
        """The content of config.json. Raises WorkdirError if it is not a JSON mapping."""
        try:
            text = read_plain(self.config_file).decode()
            if not isinstance(parse_json(text, self.config_file), dict):
                raise ValueError(f"{self.config_file} is not a mapping")
        except ValueError as problem:
            raise WorkdirError(
                f"{problem}. Restore the config.json of the run; the header of a checkpoint has a copy in facts.config"
            ) from problem
        return text

    def check_trained(self, experiment: Experiment, checkpoint: Checkpoint | None = None) -> None:
        """Raise WorkdirError unless a checkpoint was trained with this experiment's config, evaluation sections aside.

        The file config.json does not prove it, because it may have been edited or replaced.

        Args:
            experiment: The experiment.
            checkpoint: The checkpoint; the newest intact one unless given. A folder without one passes.
        """
        if checkpoint is None:
            try:
                checkpoint = last_checkpoint(self.checkpoints)
            except CheckpointError:
                return
        if checkpoint is None:
            return
        ours = experiment.data.vocabulary_digest
        if (theirs := checkpoint.facts.get("vocabulary", ours)) != ours:
            raise WorkdirError(
                f"the vocabulary of the data has changed: its digest is {ours}, and {checkpoint.path} was trained with {theirs}. "
                "Restore the tokenizer's file, or give another --workdir"
            )
        if checkpoint.config_digest == config_digest(experiment):
            return
        config = checkpoint.facts.get("config")
        lines = ["only the digest is known"] if config is None else config_changes(experiment, config)
        if lines:
            raise WorkdirError(
                f"{checkpoint.path} belongs to another config (digest {checkpoint.config_digest}): config.json or the "
                f"checkpoint was replaced. Differences (checkpoint -> given): {'; '.join(lines)}"
            )

    def model(self, experiment: Experiment, which: str | float = DEFAULT) -> tuple[ConditionalModel, Checkpoint]:
        """Load the trained model.

        Args:
            experiment: The experiment of the folder.
            which: The weights, see ``weight_names.py``.

        Returns:
            The model in evaluation mode, and the checkpoint of its weights.

        Raises:
            CheckpointError: If there is no checkpoint, or none with these weights.
            WorkdirError: If the folder or the checkpoint belongs to another config.
        """
        self.check(experiment)
        which = weights_name(which)
        std = width(which)
        checkpoint = self._last(experiment, which) if std is None else combine_snapshots(self, std, prefix=f"{which}.")
        if checkpoint.made_of:
            self.check_trained(experiment)  # snapshots of earlier versions have no config digest
        if checkpoint.config_digest or not checkpoint.made_of:
            self.check_trained(experiment, checkpoint)
        model = experiment.model.to(experiment.device)
        load_weights(experiment.trained(), checkpoint, which)
        return model.eval().requires_grad_(False), checkpoint

    def _last(self, experiment: Experiment, which: str) -> Checkpoint:
        """The newest intact checkpoint with the weights ``which``."""
        checkpoint = last_checkpoint(self.checkpoints)
        if checkpoint is None:
            raise CheckpointError(
                f"no checkpoint in {self.checkpoints}: train first (untrained weights are never used)"
            )
        for damaged in newer_damaged(checkpoint):
            self.log(f"{self.path}: {damaged} is damaged; {checkpoint.path.name} is used instead")
        if not any(name.startswith(f"{which}.") for name in checkpoint.tensors):
            stored = {name.partition(".")[0] for name in checkpoint.tensors}
            averages = [text for text in experiment.training.averages if text.partition(" ")[0] in stored]
            there = ", ".join([*(["model"] if "model" in stored else []), *averages])
            count = len(list_checkpoints(self.averages))
            more = (
                f"any width such as 0.07, from {count} snapshots"
                if count
                else "no snapshots for other widths (training.posthoc_widths)"
            )
            raise CheckpointError(f"weights={which!r} are not in {checkpoint.path}: available are {there}, and {more}")
        return checkpoint

    def outdated(self, facts: Mapping[str, Any]) -> str:
        """Describe the checkpoint of a result if it is not the last one.

        Args:
            facts: Facts of the result, with ``checkpoint`` and ``weights``.

        Returns:
            A text with the checkpoint of the result and the last one (snapshots for a post-hoc average), or an empty
            string.
        """
        try:
            of_snapshots = width(weights_name(facts.get("weights", DEFAULT))) is not None
        except ValueError:
            return ""
        files = list_checkpoints(self.averages if of_snapshots else self.checkpoints)
        if not files or files[-1].name == facts.get("checkpoint"):
            return ""
        return f"checkpoint {facts.get('checkpoint')}, the last is {files[-1].name}"

    @contextmanager
    def lock(self, name: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
        """Hold a lock of the folder. It is released when the process ends, however that happens.

        Args:
            name: The name of the lock.
            shared: Whether other holders with ``shared`` are allowed.
            wait: Whether to wait for the holder instead of raising WorkdirError.

        Yields:
            Nothing.
        """
        with self._lock_file(name) as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as problem:
                raise WorkdirError(
                    f"--workdir {self.path}: another process is running this command (.{name}.lock): wait for it, or stop it"
                ) from problem
            yield

    def _lock_file(self, name: str) -> TextIO:
        path = self.path / f".{name}.lock"
        try:
            return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666), "a")
        except OSError as problem:
            if problem.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise WorkdirError(f"--workdir {self.path}: {path} is not a file: remove it") from problem
            raise

    def log(self, line: str) -> None:
        """Print a line and append it to the log file.

        Args:
            line: The text.
        """
        print(line, flush=True)
        with writing(self.log_file), open(self.log_file, "a") as file:
            file.write(line + "\n")


def config_digest(experiment: Experiment) -> str:
    """The first 16 hex digits of the SHA-256 of the config, without the keys that may change."""
    config = {k: v for k, v in json.loads(to_json(experiment.config)).items() if k not in EVALUATION}
    if isinstance(config.get("training"), dict):
        config["training"] = {k: v for k, v in config["training"].items() if k not in experiment.training.changeable}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def config_changes(experiment: Experiment, config: str) -> list[str]:
    """Where an experiment differs from a JSON config in keys that may not change, as ``key: there -> given``."""
    return [
        line for line in difference(to_json(experiment.config), config)
        if not _may_change(line.split(":")[0], experiment.training)
    ]  # fmt: skip


def _may_change(key: str, training: TrainingConfig) -> bool:
    section, _, rest = key.partition(".")
    return section in EVALUATION or (section == "training" and rest in training.changeable)


def provenance() -> dict[str, str]:
    """The command of this process and the date in UTC, for the results that it writes."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"command": shlex.join(["scoresde", *sys.argv[1:]]), "date": now.isoformat(timespec="seconds")}


def environment(experiment: Experiment, *, data: bool = True) -> dict[str, Any]:
    """Versions, platform, command and data of a run. With ``data=False`` the data is described but not read."""
    sets = {"train": experiment.data.train.digest(), "test": experiment.data.test.digest()} if data else "not read"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        **provenance(),
        "scoresde": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions,
        "torch threads": torch.get_num_threads(),
        "device": str(experiment.device),
        "data": experiment.data.train.summary if data else repr(experiment.data),
        "data digest": sets,
        "parameters": sum(p.numel() for p in experiment.trained().parameters()),
    }
