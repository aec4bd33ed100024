"""Work in numbered parts, by one process or several, which can be stopped and resumed at any time.

    Job        lists the parts that remain, does them one by one, saves each when it is done, and combines the results
    run_job    runs a job in this process, distributes it to local processes, or does the parts of a launcher's rank

Finished parts are not done again, so a job that was killed continues with the remaining parts. Several processes are
either local ones, to which the remaining parts are distributed, or those of a launcher such as torchrun, identified by
RANK and WORLD_SIZE: rank r does the parts b with b mod world = r, and the last process to finish combines the results.
Locks of the folder prevent two jobs of a kind from running at the same time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, ClassVar, Protocol

import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from scoresde._validation import check_count
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.launcher import WorkerError, launched
from scoresde.experiment.folder.workdir import Workdir

_START = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_PRELOADED = ["scoresde.experiment", "scoresde.tasks", "sklearn.datasets"]
"""What the fork server imports. A module that is missing is left out."""


class Part(Protocol):
    """A part of the work."""

    @property
    def number(self) -> int:
        """Number of the part. Rank ``number`` mod world does it."""

    @property
    def size(self) -> int:
        """Units of work in it."""


@dataclass(frozen=True)
class Range:
    """The elements ``first`` .. ``end`` - 1 of what has a name.

    Attributes:
        number: Number of the part.
        name: What the elements belong to.
        first: Index of the first element.
        end: Index after the last element.
    """

    number: int
    name: str
    first: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.end - self.first


class Progress:
    """Reports the progress of a job: ``progress(size)`` for a finished part, ``progress.show`` within a part that takes long.

    Args:
        done: Function that is called with the size of a finished part.
        bar: Progress bar. Without one, `show` does nothing.
    """

    EVERY = 1.0
    """Seconds between two updates of the text."""

    def __init__(self, done: Callable[[int], object], bar: tqdm | None = None) -> None:
        self.done, self.bar, self.shown = done, bar, time.monotonic()

    def __call__(self, size: int) -> None:
        self.done(size)

    def show(self, text: Callable[[], str]) -> None:
        """Show the text of ``text()`` in the progress bar, at most once a second."""
        if self.bar is not None and time.monotonic() - self.shown > self.EVERY:
            self.shown = time.monotonic()
            self.bar.set_postfix_str(text())


@dataclass(frozen=True)
class Job(ABC):
    """Work in a work folder, the same in every process. ``device`` is the device of this process."""

    kind: ClassVar[str]
    """Name of the job's locks."""
    unit: ClassVar[str]
    """Name of one unit of work, such as row or sample."""

    experiment: Experiment
    workdir: Workdir
    device: torch.device

    @classmethod
    @abstractmethod
    def create(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> Job:
        """The job of a config. ``local`` is the number of this process on its machine, which determines its device."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of everything that the results depend on. Processes that share a job must agree on it."""

    @abstractmethod
    def remaining(self) -> Sequence[Any]:
        """The parts that are not done."""

    @abstractmethod
    def work(self, parts: Sequence[Any], progress: Progress) -> None:
        """Do parts and save their results."""

    @abstractmethod
    def announce(self, parts: Sequence[Any]) -> None:
        """Log what will be done."""

    @abstractmethod
    def finish(self, processes: int) -> Any:
        """Combine the results of all parts."""

    def bar(self, parts: Sequence[Part]) -> tqdm:
        """A progress bar over parts."""
        total = sum(part.size for part in parts)
        return tqdm(total=total, desc=self.kind, unit=self.unit, dynamic_ncols=True, smoothing=0.1, disable=not total)

    def work_with_bar(self, parts: Sequence[Part]) -> None:
        """Announce the parts and do them with a progress bar."""
        self.announce(parts)
        with self.bar(parts) as bar:
            self.work(parts, Progress(bar.update, bar))


def run_job(kind: type[Job], experiment: Experiment, workdir: Workdir, processes: int = 1) -> Any:
    """Run a job.

    ``processes`` is the number of local processes. Returns the result of ``finish``, or None in a launcher's process
    that is not the last to finish. Raises WorkdirError if another job of the kind is running in the folder, and
    WorkerError if a local process died.
    """
    check_count("processes", processes)
    rank, world = launched()
    if world > 1 and processes > 1:
        raise ValueError(
            f"processes={processes} cannot be combined with a launcher's WORLD_SIZE={world}: give one of the two"
        )
    workdir.check(experiment)
    experiment.use_threads()
    if world == 1:
        with workdir.lock(kind.kind):
            workdir.remove_leftovers(kind.kind)
            job = kind.create(experiment, workdir)
            left = job.remaining()
            if processes > 1 and len(left) > 1:
                _distribute(job, left, min(processes, len(left)))
            else:
                job.work_with_bar(left)
            return job.finish(processes)
    with workdir.lock(kind.kind, shared=True), workdir.lock(f"{kind.kind}-{rank}"):
        job = kind.create(experiment, workdir, int(os.environ.get("LOCAL_RANK", rank)))
        job.work_with_bar([part for part in job.remaining() if part.number % world == rank])
        with workdir.lock(f"{kind.kind}-end", wait=True):
            left = job.remaining()
            if not left:
                workdir.remove_leftovers(kind.kind)
                return job.finish(world)
        workdir.log(f"{workdir.path}: rank {rank} of {world} is done; {len(left)} batches of other ranks remain")
        return None


def local_device(experiment: Experiment, local: int) -> torch.device:
    """The device of process number ``local`` on its machine.

    GPUs are assigned in turn, unless the config names one by its number.
    """
    device = experiment.device
    if device.type == "cuda" and experiment.config.get("device", "auto") in ("auto", "cuda"):
        return torch.device("cuda", local % torch.cuda.device_count())
    return device


def _distribute(job: Job, parts: Sequence[Part], processes: int) -> None:
    """Distribute parts to local processes and wait for them.

    Raises WorkerError if one died, after the others have finished.
    """
    job.announce(parts)
    workers: dict[Connection, tuple[int, BaseProcess]] = {}
    died: list[str] = []
    try:
        for rank in range(processes):
            pipe, worker = _start(job, parts[rank::processes], rank, processes)
            workers[pipe] = rank, worker
        with job.bar(parts) as bar:
            while workers:
                for pipe in [end for end in wait(list(workers)) if isinstance(end, Connection)]:
                    try:
                        bar.update(pipe.recv())
                    except EOFError:  # the process has ended, with or without an error
                        rank, worker = workers.pop(pipe)
                        worker.join()
                        if worker.exitcode:
                            died.append(f"process {rank} of {processes} ended with code {worker.exitcode}")
                            job.workdir.log(f"{job.workdir.path}: {died[-1]}; {len(workers)} continue")
    finally:
        for _, worker in workers.values():
            worker.terminate()
    if died:
        left = sum(part.size for part in job.remaining())
        raise WorkerError(
            f"{'; '.join(died)}. {left} {job.unit}s remain, the others are saved; run the same command to resume"
        )


def _start(job: Job, parts: Sequence[Part], rank: int, processes: int) -> tuple[Connection, BaseProcess]:
    """Start a process that does parts. Returns the receiving end of its pipe and the process.

    Where there is a fork server, all processes are forked from one that has imported torch and this package, and has not used
    a device. The environment is passed, as that of the server is older.
    """
    context: Any = multiprocessing.get_context(_START)
    if _START == "forkserver":
        context.set_forkserver_preload(_PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    config, environment = job.experiment.config.to_dict(), dict(os.environ)
    arguments = (type(job), config, str(job.workdir.path), job.fingerprint, parts, rank, processes, environment, theirs)
    worker = context.Process(target=_worker, args=arguments, daemon=True)
    worker.start()
    theirs.close()
    return ours, worker


def _worker(
    kind: type[Job],
    config: dict[str, Any],
    workdir: str,
    fingerprint: str,
    parts: Sequence[Part],
    rank: int,
    processes: int,
    environment: Mapping[str, str],
    pipe: Connection,
) -> None:
    """The main function of a local process: do its parts and report each of them."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    experiment = Experiment.from_config(ConfigDict(config))
    if not experiment.threads:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    experiment.use_threads()
    job = kind.create(experiment, Workdir(workdir), rank)
    if job.fingerprint != fingerprint:
        raise WorkerError("the last checkpoint of the folder has changed since the start: start again")
    try:
        job.work(parts, Progress(pipe.send))
    except FloatingPointError as problem:
        sys.exit(f"process {rank} of {processes}: {problem}")


def _end_with_parent() -> None:
    """End this process as soon as its parent ends, however that happens."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
