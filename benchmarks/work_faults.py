"""Faults of `scoresde sample`, `likelihood`, `evaluate` and `edit` in real processes; benchmarks/faults.py runs the trials.

A trial ends with the same command run to its end. Samples, rows and features are compared byte for byte with those of
an undisturbed run. Every part must exist once, and work that was finished before the fault must not have changed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.children import ROOT, Child, flags


@dataclass(frozen=True)
class Work:
    """A command that works part by part.

    Args:
        command: Its name.
        options: Values of the config.
        kept: Pattern of the files of parts.
        result: Patterns of result files, each of one file.
        after: The work whose results it needs.
    """

    command: str
    options: Mapping[str, object]
    kept: str
    result: tuple[str, ...]
    after: Work | None = None

    def parts(self, folder: Path) -> list[tuple[str, bytes]]:
        """The finished parts: a file of samples, or a line of rows, with its name."""
        files = sorted(folder.glob(self.kept))
        if files and files[0].suffix == ".npz":
            return [(file.name, file.read_bytes()) for file in files]
        return [(file.name, line) for file in files for line in file.read_bytes().splitlines(keepends=True)]

    def start(self, bench: Bench, folder: Path, file_size: int = 0) -> Child:
        """Start the command in its own process."""
        return bench.child(folder, self.options, command=self.command, file_size=file_size)

    def begin(self, bench: Bench, folder: Path) -> None:
        """Create a folder with everything that the command needs."""
        shutil.copytree(bench.whole(1) if self.after is None else self.after.whole(bench), folder)

    def whole(self, bench: Bench) -> Path:
        """A folder in which the command ended undisturbed."""
        place = bench.folder / f"whole-{bench.kind.name}-{self.command}"
        if not place.exists():
            self.begin(bench, place)
            child = self.start(bench, place)
            assert child.end() == 0, child.output()
        return place

    def resume(self, bench: Bench, folder: Path, but: int = 0) -> None:
        """Work to the end and compare.

        ``but`` is the number of parts that were made unreadable, which are computed again.
        """
        before = self.parts(folder)
        child = self.start(bench, folder)
        assert child.end() == 0, child.output()
        whole = self.whole(bench)
        after, theirs = self.parts(folder), self.parts(whole)
        touched = len(set(before) - set(after))
        assert touched <= but, f"{touched} finished parts were done again"
        # a damaged line stays in its file and is ignored
        assert len(after) <= len(theirs) + (but if self is LIKELIHOOD else 0), (
            f"{len(after)} parts, {len(theirs)} wanted"
        )
        for name in self.result:
            assert _facts(_only(folder, name)) == _facts(_only(whole, name)), f"{name} differs"
        left = [p.name for p in folder.rglob("*.tmp")]
        assert not left, f"left behind: {left}"


def _only(folder: Path, pattern: str) -> Path:
    """The file of a pattern."""
    (found,) = folder.glob(pattern)
    return found


def _facts(file: Path) -> object:
    """The content of a result without its times: bytes, or the digests of an index of shards."""
    if file.suffix != ".json":
        return file.read_bytes()
    content = json.loads(file.read_text())
    if "frechet distance" in content:
        sets = [content[name]["features digest"] for name in ("set", "reference", "baseline")]
        return [content[name] for name in ("frechet distance", "kernel distance", "precision", "recall")] + sets
    return [(entry["first"], entry["end"], entry["sha256"]) for entry in content["shards"]]


SAMPLER = "{'pc': {'name': 'PredictorCorrector', 'corrector': {'name': 'Langevin'}, 'steps': 10}}"
SAMPLING = Work(
    "sample", {"samplers": SAMPLER, "sampling.count": 90, "sampling.batch_size": 3}, "samples/pc/shards-*/*.npz",
    ("samples/pc.json", "samples/pc.npz"),
)  # fmt: skip
LIKELIHOOD = Work(
    "likelihood",
    {
        "likelihood.limit": 90,
        "likelihood.batch_size": 3,
        "likelihood.grid_events": 0,
        "likelihood.solver": "{'name': 'Multistep', 'nodes': 6}",
    },
    "likelihood/rows-*/*.jsonl",
    ("likelihood/test.csv",),
)
EVALUATING = Work(
    "evaluate", {**SAMPLING.options, "evaluation.batch_size": 8}, "evaluation/*/*/features-*/*.npz",
    ("evaluation/pc.json", "evaluation/reference.npz"), SAMPLING,
)  # fmt: skip
WORK = (SAMPLING, LIKELIHOOD, EVALUATING)


def editing(bench: Bench) -> Work:
    """Three samples for each of 15 arrays of 8x8 levels, three at a time."""
    inputs = bench.folder / "inputs.npy"
    if not inputs.exists():
        np.save(inputs, np.random.default_rng(0).integers(0, 17, (15, 1, 8, 8)))
    options = {
        "editing.task": "super_resolve", "editing.factor": 2, "editing.input": repr(str(inputs)), "editing.samples": 3,
        "editing.batch_size": 3, "samplers": "{'unipc': {'name': 'UniPC', 'steps': 10}}",
    }  # fmt: skip
    result = ("edits/*/edit.json", "edits/*/overview.png", "edits/*/inputs-07/samples.npz")
    return Work("edit", options, "edits/*/shards-*/*.npz", result)


def killed(work: Work, bench: Bench, folder: Path, times: int = 3) -> None:
    """Kills, each after at least two more parts."""
    work.begin(bench, folder)
    wanted = len(work.parts(work.whole(bench)))
    for number in range(times):
        child, goal = work.start(bench, folder), min(len(work.parts(folder)) + 2, wanted - 3 + number)
        child.until(lambda goal=goal: len(work.parts(folder)) >= goal, "parts")
        time.sleep(bench.random.uniform(0.0, 0.05))
        child.signal(signal.SIGKILL)
        child.end()
    work.resume(bench, folder, but=int(work is LIKELIHOOD))  # the last line may be half of one


def killed_sampling(bench: Bench, folder: Path) -> None:
    """kill -9 of `sample`, three times: no sample is lost, drawn twice or changed"""
    killed(SAMPLING, bench, folder)


def killed_likelihood(bench: Bench, folder: Path) -> None:
    """kill -9 of `likelihood`, three times: no row is lost, counted twice or changed"""
    killed(LIKELIHOOD, bench, folder)


def killed_evaluating(bench: Bench, folder: Path) -> None:
    """kill -9 of `evaluate`, three times: no features are lost, counted twice or changed"""
    killed(EVALUATING, bench, folder)


def killed_editing(bench: Bench, folder: Path) -> None:
    """kill -9 of `edit`, three times: no sample is lost, drawn twice or changed"""
    killed(editing(bench), bench, folder)


def stopped(bench: Bench, folder: Path) -> None:
    """SIGTERM or SIGINT to one of the first three: exit code 130, finished work is kept"""
    work = bench.random.choice(WORK)
    work.begin(bench, folder)
    child = work.start(bench, folder)
    child.until(lambda: len(work.parts(folder)) >= 2, "parts")
    child.signal(bench.random.choice([signal.SIGTERM, signal.SIGINT]))
    assert child.end() == 130 and "interrupted" in child.output() and "Traceback" not in child.output(), child.output()
    work.resume(bench, folder)


def worker_killed(bench: Bench, folder: Path) -> None:
    """kill -9 of one of `--processes 2` of `sample` or `likelihood`: the other finishes, exit code 3, the rest comes next time"""
    work = bench.random.choice([SAMPLING, LIKELIHOOD])
    work.begin(bench, folder)
    call = [
        sys.executable,
        "-m",
        "scoresde",
        work.command,
        *flags(folder, bench.options(work.options)),
        "--processes",
        "2",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    leader = subprocess.Popen(call, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while len(work.parts(folder)) < 2:
        assert leader.poll() is None, leader.communicate()
        time.sleep(0.002)
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(leader.pid)], capture_output=True, text=True).stdout
    workers = [int(line.split()[0]) for line in found.splitlines() if "spawn_main" in line]
    os.kill(bench.random.choice(workers), signal.SIGKILL)
    output, _ = leader.communicate(timeout=300)
    assert leader.returncode == 3 and "ended with code -9" in output and "Traceback" not in output, output
    work.resume(bench, folder, but=int(work is LIKELIHOOD))


def no_room(bench: Bench, folder: Path) -> None:
    """no space for samples, rows or features: exit code 2, finished work is kept"""
    work = bench.random.choice(WORK)
    work.begin(bench, folder)
    sizes = [file.stat().st_size for file in work.whole(bench).glob(work.kept)]
    child = work.start(bench, folder, file_size=min(sizes) // 2)
    assert child.end() == 2 and "File too large" in child.output() and "Traceback" not in child.output(), child.output()
    work.resume(bench, folder, but=int(work is LIKELIHOOD))


def damaged(bench: Bench, folder: Path) -> None:
    """samples, rows or features truncated or with one bit flipped: only these are computed again"""
    work = bench.random.choice(WORK)
    shutil.copytree(work.whole(bench), folder)
    file = bench.random.choice(sorted(folder.glob(work.kept)))
    content = bytearray(file.read_bytes())
    if bench.random.random() < 0.5:
        content = content[: bench.random.randrange(len(content))]
    else:
        content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
    file.write_bytes(content)
    work.resume(bench, folder, but=2)  # a flipped end of a line joins two of them


FAULTS = (
    killed_sampling,
    killed_likelihood,
    killed_evaluating,
    killed_editing,
    stopped,
    worker_killed,
    no_room,
    damaged,
)
