"""A work folder: one run, one config. What lies where:

config.json              the config, compared on every later command
environment.json         versions, command, data digest
log.txt  metrics.csv     what was printed; one row for each logged step
checkpoints/             step-000001000.safetensors, the last few; averages/  snapshots for averages made afterwards; of a
                         sharded run each is a folder, step-000001000/
previews/  bad_batches/   pictures of samples while it trains; batches whose loss or gradient was not finite
samples/NAME.npz .png .json, with shards in samples/NAME/shards-*/      likelihood/SPLIT.csv .json      report.html
samples/NAME@WEIGHTS.*   likelihood/SPLIT@WEIGHTS.*     the same of other weights than the first average, see weights.py
evaluation/NAME.json     samples beside data, with features of both in evaluation/*/, see assess.py
likelihood/rows-*/       rows as they are computed, see rows.py; checkpoints/grid-*.json, where their solver has its nodes
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

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
from scoresde.experiment.folder.tree import misplaced, sweep
from scoresde.score import ScoreModel
from scoresde.version import __version__

PACKAGES = ("torch", "numpy", "scipy", "torchsde", "scikit-learn", "ml-collections", "safetensors")
EVALUATION = ("device", "threads", "sampling", "samplers", "likelihood", "evaluation")
"""Sections that may change after training: they do not touch the weights. Of ``training`` so may `TrainingConfig.free`."""


class WorkdirError(RuntimeError):
    """A work folder that does not fit; the message says what differs, and what to do."""


class Workdir:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.samples, self.likelihood = self.path / "samples", self.path / "likelihood"
        self.previews, self.bad_batches = self.path / "previews", self.path / "bad_batches"
        self.averages, self.evaluation = self.path / "averages", self.path / "evaluation"
        self.config_file, self.metrics_file = self.path / "config.json", self.path / "metrics.csv"
        self.log_file, self.report_file = self.path / "log.txt", self.path / "report.html"

    def claim(self, experiment: Experiment, *, data: bool = True) -> None:
        """Make the folder this experiment's, or raise WorkdirError where it is another's.

        data: whether the data is read, for its digest in environment.json.
        """
        if self.path.exists() and not self.path.is_dir():
            raise WorkdirError(f"--workdir {self.path} is a file: give a folder")
        if not self.config_file.exists():
            self._refuse_strangers()
            content = environment(experiment, data=data)
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise WorkdirError(f"--workdir {self.path} cannot be made: {problem.strerror}") from problem
            # of several processes that start at once, one writes; the others compare their config with what it wrote
            with self.lock("claim", wait=True):
                if not self.config_file.exists():
                    self._refuse_strangers()
                    write_sealed(self.path / "environment.json", content)
                    write_atomic(self.config_file, to_json(experiment.config).encode())
                    return
        self.check(experiment)

    def _refuse_strangers(self) -> None:
        """Raise WorkdirError where a folder without a config holds more than a start that was killed leaves."""
        ours = re.compile(r"environment\.json|\.(environment|config)\.json\.\d+\.tmp|\.claim\.lock")
        strange = self.path.is_dir() and any(not ours.fullmatch(p.name) for p in self.path.iterdir())
        if strange and not self.config_file.exists():  # another process may have made it meanwhile
            raise WorkdirError(
                f"--workdir {self.path} holds other files and no config.json: give a new or empty folder"
            )

    def adopt(self, experiment: Experiment) -> None:
        """Keep an experiment's config in place of the one before; for who holds the lock of ``train``, after `check`.

        Raises WorkdirError where training has come further than the config's number of steps.
        """
        config, steps, reached = to_json(experiment.config), experiment.training.steps, self._reached()
        if reached > steps:
            raise WorkdirError(
                f"--workdir {self.path} is trained to step {reached}, and training.steps={steps} is less: give as "
                "many or more; a shorter run needs a folder of its own"
            )
        before = self._kept_config()
        if before != config:
            write_atomic(self.config_file, config.encode())
            self.log(f"{self.path}: config.json is this command's: {'; '.join(difference(config, before))}")

    def _reached(self) -> int:
        """The step of the newest checkpoint whose header can be read; 0 without one."""
        for path in reversed(list_checkpoints(self.checkpoints)):
            try:
                if read_header(path).get("step") == step_of(path):
                    return step_of(path)
            except CheckpointError:
                continue
        return 0

    def sweep(self, lock: str) -> None:
        """Remove what killed processes left under temporary names; for who holds this lock alone."""
        sweep(self.path, lock)

    def check(self, experiment: Experiment) -> None:
        """Raise WorkdirError unless the folder was trained with this experiment's config (evaluation apart)."""
        if strange := misplaced(self.path):
            more = f" (and {len(strange) - 1} more)" if strange[1:] else ""
            raise WorkdirError(
                f"--workdir {self.path}: {strange[0]}{more}: remove it; no command follows a link inside a work folder"
            )
        if not self.config_file.exists():
            raise WorkdirError(f"--workdir {self.path} holds no run (no config.json): train first")
        if lines := departures(experiment, self._kept_config()):
            shown = "\n  ".join(lines)
            cosine = any(line.startswith("training.steps:") for line in lines)
            hint = "\n(a cosine schedule depends on the number of steps; a constant one goes on)" if cosine else ""
            empty = "" if list_checkpoints(self.checkpoints) else "it holds no checkpoint and may be deleted; or "
            raise WorkdirError(
                f"--workdir {self.path} belongs to another config; {empty}give another folder, or the config that it has. "
                f"Differences (folder's -> given):\n  {shown}{hint}"
            )

    def _kept_config(self) -> str:
        """The content of config.json. Raises WorkdirError where it is no JSON mapping."""
        try:
            text = read_plain(self.config_file).decode()
            if not isinstance(parse_json(text, self.config_file), dict):
                raise ValueError(f"{self.config_file} holds no mapping")
        except ValueError as problem:
            raise WorkdirError(
                f"{problem}: put back the config.json of the run; a checkpoint's header holds it under facts.config"
            ) from problem
        return text

    def check_trained(self, experiment: Experiment, checkpoint: Checkpoint | None = None) -> None:
        """Raise WorkdirError unless a checkpoint was trained with this experiment's config (evaluation apart).

        config.json alone does not say so: it may have been edited or replaced since. checkpoint: the newest intact one unless
        given; a folder without one passes.
        """
        if checkpoint is None:
            try:
                checkpoint = last_checkpoint(self.checkpoints)
            except CheckpointError:
                return
        if checkpoint is None or checkpoint.config_digest == config_digest(experiment):
            return
        config = checkpoint.facts.get("config")
        lines = ["only the digest is known"] if config is None else departures(experiment, config)
        if lines:
            raise WorkdirError(
                f"{checkpoint.path} belongs to another config (digest {checkpoint.config_digest}): config.json or the "
                f"checkpoint was replaced. Differences (checkpoint's -> given): {'; '.join(lines)}"
            )

    def model(self, experiment: Experiment, which: str | float = DEFAULT) -> tuple[ScoreModel, Checkpoint]:
        """The trained model, and what its weights are from. which: the weights, see weights.py.

        Raises CheckpointError where there is no checkpoint, or none with such weights, and WorkdirError where the folder or the
        checkpoint belongs to another config.
        """
        self.check(experiment)
        which = weights_name(which)
        std = width(which)
        checkpoint = self._last(experiment, which) if std is None else combine_snapshots(self, std, prefix=f"{which}.")
        if checkpoint.made_of:
            self.check_trained(experiment)  # snapshots of earlier versions do not say which config they belong to
        if checkpoint.config_digest or not checkpoint.made_of:
            self.check_trained(experiment, checkpoint)
        model = experiment.model.to(experiment.device)
        load_weights(model.network, checkpoint, which)
        return model.eval().requires_grad_(False), checkpoint

    def _last(self, experiment: Experiment, which: str) -> Checkpoint:
        """The newest intact checkpoint, with weights of a name."""
        checkpoint = last_checkpoint(self.checkpoints)
        if checkpoint is None:
            raise CheckpointError(f"no checkpoint in {self.checkpoints}: train first (random weights are never used)")
        for torn in newer_damaged(checkpoint):
            self.log(f"{self.path}: {torn} is torn, and passed over for {checkpoint.path.name}")
        if not any(name.startswith(f"{which}.") for name in checkpoint.tensors):
            there = ", ".join(["model", *experiment.training.averages])
            count = len(list_checkpoints(self.averages))
            more = (
                f"any width, as 0.07, of {count} snapshots"
                if count
                else "no snapshots for a width (training.posthoc_widths)"
            )
            raise CheckpointError(f"weights={which!r} are not in {checkpoint.path}: there are {there}, and {more}")
        return checkpoint

    def outdated(self, facts: Mapping[str, Any]) -> str:
        """Where a result is not of the last checkpoint (of the last snapshot, for a post-hoc average), which it is of and which
        is the last; else nothing. facts: of the result, its ``checkpoint`` and ``weights``."""
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
        """Hold the folder's lock of a name; it falls with the process, however that ends.

        shared: with others that share it. wait: for whoever has it, in place of raising WorkdirError.
        """
        with self._lock_file(name) as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as problem:
                raise WorkdirError(
                    f"--workdir {self.path}: another process is at work on this (.{name}.lock): wait for it, or stop it"
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
        """Print a line and keep it in the log file."""
        print(line, flush=True)
        with writing(self.log_file), open(self.log_file, "a") as file:
            file.write(line + "\n")


def config_digest(experiment: Experiment) -> str:
    """The first 16 hex digits of the SHA-256 of the config without what may change."""
    config = {k: v for k, v in json.loads(to_json(experiment.config)).items() if k not in EVALUATION}
    if isinstance(config.get("training"), dict):
        config["training"] = {k: v for k, v in config["training"].items() if k not in experiment.training.free}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def departures(experiment: Experiment, config: str) -> list[str]:
    """Where an experiment differs from a config, as JSON, in what may not change: ``key: there -> given``."""
    return [
        line for line in difference(to_json(experiment.config), config)
        if not _may_change(line.split(":")[0], experiment.training)
    ]  # fmt: skip


def _may_change(key: str, plan: TrainingConfig) -> bool:
    section, _, rest = key.partition(".")
    return section in EVALUATION or (section == "training" and rest in plan.free)


def environment(experiment: Experiment, *, data: bool = True) -> dict[str, Any]:
    """Versions, platform, command and data of a run; of the data its declaration alone unless ``data``."""
    sets = {"train": experiment.data.train.digest(), "test": experiment.data.test.digest()} if data else "not read"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "command": " ".join(["scoresde", *sys.argv[1:]]),
        "scoresde": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **versions,
        "torch threads": torch.get_num_threads(),
        "device": str(experiment.device),
        "data": experiment.data.train.summary if data else repr(experiment.data),
        "data digest": sets,
        "parameters": sum(p.numel() for p in experiment.model.parameters()),
    }
