"""Work in numbered parts: by one process or several, stopped at any time and gone on with.

    Job     knows what is left, does parts one by one, keeps each as it is done, and makes the result of all of them
    share   does a job here, or deals it to local processes, or does what a launcher's rank has to do

What is there already is not done again: a job that was killed goes on with the parts that it would have done. Several processes
are local ones, which are dealt the parts that are left; or a launcher's, which know themselves by RANK and WORLD_SIZE (torchrun):
part b belongs to rank b mod world, and the last to finish makes the result. Locks of the folder keep two jobs of a kind apart.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, ClassVar, Protocol

import torch
from ml_collections import ConfigDict
from tqdm import tqdm

from scoresde._validation import check_count
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.folder.launcher import WorkerError, launched
from scoresde.experiment.folder.workdir import Workdir


class Part(Protocol):
    """Some of the work, done together."""

    @property
    def number(self) -> int:
        """Of the part in the plan: rank ``number`` mod world does it."""

    @property
    def size(self) -> int:
        """Units of work in it."""


@dataclass(frozen=True)
class Range:
    """The part ``first`` .. ``end`` - 1 of what has a name. number: of it in the plan."""

    number: int
    name: str
    first: int
    end: int

    @property
    def size(self) -> int:
        """Units in it."""
        return self.end - self.first


class Progress:
    """What a job reports while it works: ``progress(size)`` for a part that is on the disk, ``progress.where`` for a part that
    takes long.

    done: called with the size. bar: where to show the rest; without one it is not shown.
    """

    EVERY = 1.0
    """Seconds between two places that are shown."""

    def __init__(self, done: Callable[[int], object], bar: tqdm | None = None) -> None:
        self.done, self.bar, self.said = done, bar, time.monotonic()

    def __call__(self, size: int) -> None:
        self.done(size)

    def where(self, place: Callable[[], str]) -> None:
        """Show what ``place()`` says, where a second has gone by since the last one."""
        if self.bar is not None and time.monotonic() - self.said > self.EVERY:
            self.said = time.monotonic()
            self.bar.set_postfix_str(place())


@dataclass(frozen=True)
class Job(ABC):
    """Work on a work folder, the same in every process. device: what this one computes on."""

    kind: ClassVar[str]
    """Names the job's locks."""
    unit: ClassVar[str]
    """What is counted: row, sample."""

    experiment: Experiment
    workdir: Workdir
    device: torch.device

    @classmethod
    @abstractmethod
    def of(cls, experiment: Experiment, workdir: Workdir, local: int = 0) -> Job:
        """The job of a config. local: number of this process on its machine, for its device."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of all that the results depend on: processes that share a job must agree on it."""

    @abstractmethod
    def left(self) -> Sequence[Any]:
        """The parts that are not done."""

    @abstractmethod
    def work(self, parts: Sequence[Any], progress: Progress) -> None:
        """Do parts and keep what comes of them."""

    @abstractmethod
    def announce(self, parts: Sequence[Any]) -> None:
        """Say what will be done."""

    @abstractmethod
    def finish(self, processes: int) -> Any:
        """The result of all parts."""

    def bar(self, parts: Sequence[Part]) -> tqdm:
        """Progress over parts, with the time that is left."""
        total = sum(part.size for part in parts)
        return tqdm(total=total, desc=self.kind, unit=self.unit, dynamic_ncols=True, smoothing=0.1, disable=not total)

    def work_with_bar(self, parts: Sequence[Part]) -> None:
        """`work`, said and shown."""
        self.announce(parts)
        with self.bar(parts) as bar:
            self.work(parts, Progress(bar.update, bar))


def run_job(kind: type[Job], experiment: Experiment, workdir: Workdir, processes: int = 1) -> Any:
    """Do a job. processes: local processes that share it.

    Returns what ``finish`` does; None in a launcher's process that is not the last to finish. Raises WorkdirError where another
    job of the kind is at work in the folder, WorkerError where a local process died.
    """
    check_count("processes", processes)
    rank, world = launched()
    if world > 1 and processes > 1:
        raise ValueError(f"processes={processes} under a launcher with WORLD_SIZE={world}: give one of the two")
    workdir.check(experiment)
    experiment.use_threads()
    if world == 1:
        with workdir.lock(kind.kind):
            workdir.sweep(kind.kind)
            job = kind.of(experiment, workdir)
            left = job.left()
            if processes > 1 and len(left) > 1:
                _deal(job, left, min(processes, len(left)))
            else:
                job.work_with_bar(left)
            return job.finish(processes)
    with workdir.lock(kind.kind, shared=True), workdir.lock(f"{kind.kind}-{rank}"):
        job = kind.of(experiment, workdir, int(os.environ.get("LOCAL_RANK", rank)))
        job.work_with_bar([part for part in job.left() if part.number % world == rank])
        with workdir.lock(f"{kind.kind}-end", wait=True):
            left = job.left()
            if not left:
                workdir.sweep(kind.kind)
                return job.finish(world)
        workdir.log(f"{workdir.path}: rank {rank} of {world} is done, {len(left)} batches are with the others")
        return None


def local_device(experiment: Experiment, local: int) -> torch.device:
    """The device of process number ``local`` on its machine: GPUs are dealt round, unless the config names one by its number."""
    device = experiment.device
    if device.type == "cuda" and experiment.config.get("device", "auto") in ("auto", "cuda"):
        return torch.device("cuda", local % torch.cuda.device_count())
    return device


def _deal(job: Job, parts: Sequence[Part], processes: int) -> None:
    """Deal parts to local processes and wait for them. Raises WorkerError where one died, when the others have finished."""
    job.announce(parts)
    workers: dict[Connection, tuple[int, SpawnProcess]] = {}
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
                    except EOFError:  # the process has ended, one way or another
                        rank, worker = workers.pop(pipe)
                        worker.join()
                        if worker.exitcode:
                            died.append(f"process {rank} of {processes} ended with code {worker.exitcode}")
                            job.workdir.log(f"{job.workdir.path}: {died[-1]}; {len(workers)} go on")
    finally:
        for _, worker in workers.values():
            worker.terminate()
    if died:
        left = sum(part.size for part in job.left())
        raise WorkerError(
            f"{'; '.join(died)}. {left} {job.unit}s are left, the others are kept: the same command goes on from there"
        )


def _start(job: Job, parts: Sequence[Part], rank: int, processes: int) -> tuple[Connection, SpawnProcess]:
    """A process that does parts, and the end of its pipe."""
    context, config = multiprocessing.get_context("spawn"), job.experiment.config.to_dict()
    ours, theirs = context.Pipe(duplex=False)
    arguments = (type(job), config, str(job.workdir.path), job.fingerprint, parts, rank, processes, theirs)
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
    pipe: Connection,
) -> None:
    """What a local process does: its parts, and tell of each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started it decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    experiment = Experiment.from_config(ConfigDict(config))
    if not experiment.threads:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    experiment.use_threads()
    job = kind.of(experiment, Workdir(workdir), rank)
    if job.fingerprint != fingerprint:
        raise WorkerError("the folder's last checkpoint has changed since the start: start again")
    try:
        job.work(parts, Progress(pipe.send))
    except FloatingPointError as problem:
        sys.exit(f"process {rank} of {processes}: {problem}")


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has gone, by whatever way."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
