"""Injects faults while `scoresde` runs in real processes, and prints a table of the results.

    .venv/bin/python benchmarks/faults.py --times 10
    .venv/bin/python benchmarks/faults.py --times 3 --kinds "conditional model" energy "process with parameters"

The faults of `train` are here, those of the other commands in work_faults.py. A trial ends with the same command run to
its end. The weights, averages and moments are compared bit for bit with those of an undisturbed run with the same
number of processes. Metrics are compared unless the run was stopped between two rows of the table. The three trials about
NaN and other data end earlier. A failed trial is counted and shown, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import work_faults
from benchmarks.bench import Bench, intact
from benchmarks.children import Child, flags
from benchmarks.kinds import KINDS, Kind
from scoresde.experiment.folder.checkpoint import list_checkpoints, read_checkpoint
from scoresde.experiment.folder.tensor_file import CheckpointError, read_tensors


def killed_at_random(bench: Bench, folder: Path) -> None:
    """kill -9 at a random moment, three times"""
    for _ in range(3):
        child = bench.child(folder)
        time.sleep(bench.random.uniform(0.0, 1.5))
        child.signal(signal.SIGKILL)
        child.end()
        for path in list_checkpoints(folder / "checkpoints"):
            read_checkpoint(path)
    bench.resume(folder)


def killed_while_saving(bench: Bench, folder: Path) -> None:
    """kill -9 while a checkpoint is being written, twice"""
    for number in (1, 2):
        child = bench.child(folder)
        at_least = bench.random.randint(2, 5) * number

        def saving(child: Child = child, at_least: int = at_least) -> bool:
            return len(child.checkpoints) >= at_least and any((folder / "checkpoints").glob(".step-*.tmp"))

        child.until(saving, "a temporary file")
        child.signal(signal.SIGKILL)
        child.end()
        for path in child.checkpoints:
            read_checkpoint(path)
    bench.resume(folder)


def stopped_once(bench: Bench, folder: Path) -> None:
    """SIGTERM or SIGINT: the step is finished, a checkpoint is saved, exit code 130"""
    child = bench.child(folder)
    child.until(lambda: child.checkpoints, "a checkpoint")
    time.sleep(bench.random.uniform(0.0, 0.2))
    child.signal(bench.random.choice([signal.SIGTERM, signal.SIGINT]))
    assert child.end() in (0, 130), child.output()
    assert "Traceback" not in child.output()
    intact(folder)
    bench.resume(folder, metrics=False)


def stopped_twice(bench: Bench, folder: Path) -> None:
    """two signals: the run stops at once, exit code 130, no file is damaged"""
    child = bench.child(folder)
    child.until(lambda: child.checkpoints, "a checkpoint")
    child.signal(signal.SIGTERM)
    time.sleep(bench.random.uniform(0.0, 0.01))
    child.signal(signal.SIGTERM)
    assert child.end() in (130, -signal.SIGTERM), child.output()
    intact(folder)
    bench.resume(folder, metrics=False)


def disk_full(bench: Bench, folder: Path) -> None:
    """no space for a checkpoint: exit code 2, earlier checkpoints are kept"""
    bench.begun(folder)
    before = list_checkpoints(folder / "checkpoints")
    child = bench.child(folder, file_size=before[-1].stat().st_size // 2)
    assert child.end() == 2, child.output()
    assert "File too large" in child.output() and "Traceback" not in child.output()
    assert list_checkpoints(folder / "checkpoints") == before
    intact(folder)
    bench.resume(folder)


def truncated(bench: Bench, folder: Path) -> None:
    """last checkpoint truncated: the previous one is used"""
    last = list_checkpoints(bench.begun(folder) / "checkpoints")[-1]
    content = last.read_bytes()
    last.write_bytes(content[: bench.random.randrange(len(content))])
    _refuses(last)
    bench.resume(folder)


def flipped(bench: Bench, folder: Path) -> None:
    """one bit of the last checkpoint flipped: the previous one is used"""
    last = list_checkpoints(bench.begun(folder) / "checkpoints")[-1]
    content = bytearray(last.read_bytes())
    content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
    last.write_bytes(content)
    _refuses(last)
    bench.resume(folder)


def hostile(bench: Bench, folder: Path) -> None:
    """a pickle in place of the last checkpoint: it is not executed, the previous one is used"""
    last, mark = list_checkpoints(bench.begun(folder) / "checkpoints")[-1], folder / "executed"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(mark),)

    last.write_bytes(pickle.dumps(Trap()))
    bench.resume(folder)
    assert not mark.exists()


def read_only(bench: Bench, folder: Path) -> None:
    """a read-only folder: exit code 2, nothing is changed"""
    bench.begun(folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    child = bench.child(folder, obeys=True)
    assert child.end() == 2, child.output()
    assert "Permission denied" in child.output() and "Traceback" not in child.output()
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    bench.resume(folder)


def two_runs(bench: Bench, folder: Path) -> None:
    """a second run in the folder: exit code 2, the first continues"""
    first = bench.child(folder)
    first.until(lambda: first.checkpoints, "a checkpoint")
    first.signal(signal.SIGSTOP)
    shutil.copy(first.log, folder.parent / "first.out")
    second = bench.child(folder)
    assert second.end() == 2, second.output()
    assert "another process is running this command" in second.output()
    first.signal(signal.SIGCONT)
    assert first.end() == 0, first.output()
    bench.same(folder)


def data_changed(bench: Bench, folder: Path) -> None:
    """the data file has changed: exit code 2, the message names the file"""
    points, file = (
        np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype("float32"),
        folder.parent / f"{folder.name}.npy",
    )
    np.save(file, points)
    options = {"data": f"{{'name': 'Arrays', 'train': {str(file)!r}}}", "model.prediction": "noise"}
    child = bench.child(folder, options)
    child.until(lambda: child.checkpoints, "a checkpoint")
    child.signal(signal.SIGTERM)
    child.end()
    points[7, 0, 3, 3] += 1e-6
    np.save(file, points)
    again = bench.child(folder, options)
    assert again.end() == 2, again.output()
    assert "the training data" in again.output() and str(file) in again.output() and "has changed" in again.output()
    intact(folder)


def nan_in_data(bench: Bench, folder: Path) -> None:
    """NaN in a data file: exit code 2 before anything is written"""
    points, file = np.zeros((60, 1, 8, 8)), folder.parent / f"{folder.name}.npy"
    points[bench.random.randrange(60), 0, 1, 1] = np.nan
    np.save(file, points)
    child = bench.child(folder, {"data": f"{{'name': 'Arrays', 'train': {str(file)!r}}}", "model.prediction": "noise"})
    assert child.end() == 2 and "non-finite values in 1 of" in child.output(), child.output()
    assert not folder.exists()


def nan_in_losses(bench: Bench, folder: Path) -> None:
    """NaN losses: the step is skipped and the batch saved; exit code 2 after max_bad_steps in a row"""
    options = bench.kind.bad_steps(5, 6, 20, 21, 22)
    child = bench.child(folder, {**options, "training.max_bad_steps": 3})
    assert child.end() == 2, child.output()
    assert "the loss is not finite for 2 of 8 examples at step 22, t in [" in child.output()
    kept = sorted((folder / "bad_batches").glob("*.safetensors"))
    assert [int(p.stem.removeprefix("step-")) for p in kept] == [5, 6, 20, 21, 22]
    tensors, header = read_tensors(kept[0])
    assert tensors["position"].tolist() == list(range(40, 48)) and not tensors["loss"][2].isfinite(), header
    assert list_checkpoints(folder / "checkpoints")[-1].name == "step-000000022.safetensors"
    intact(folder)
    again = bench.child(folder, {**options, "training.max_bad_steps": 4})
    assert again.end() == 0, again.output()


def rank_killed(bench: Bench, folder: Path) -> None:
    """one of two processes killed: the other ends with code 3, checkpoints are kept"""
    ranks = bench.together(folder, 2)
    ranks[0].until(lambda: len(ranks[0].checkpoints) >= 2, "checkpoints")
    time.sleep(bench.random.uniform(0.0, 0.2))
    victim = bench.random.randrange(2)
    ranks[victim].signal(signal.SIGKILL)
    codes = [rank.end() for rank in ranks]
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 3, (codes, ranks[1 - victim].output())
    assert "another process ended" in ranks[1 - victim].output() and "Traceback" not in ranks[1 - victim].output()
    bench.resume(folder, 2)


def ranks_stopped(bench: Bench, folder: Path) -> None:
    """SIGTERM to one of two processes: both stop at the same step with a checkpoint, exit code 130"""
    ranks = bench.together(folder, 2)
    ranks[0].until(lambda: ranks[0].checkpoints, "a checkpoint")
    ranks[bench.random.randrange(2)].signal(signal.SIGTERM)
    assert [rank.end() for rank in ranks] == [130, 130], [rank.output() for rank in ranks]
    intact(folder)
    bench.resume(folder, 2, metrics=False)


def torchrun(bench: Bench, folder: Path) -> None:
    """kill -9 of a process under torchrun: torchrun ends with code 1, checkpoints are kept"""
    launcher = _launch(bench, folder)
    workers = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True).stdout
    os.kill(bench.random.choice([int(pid) for pid in workers.split()]), signal.SIGKILL)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1, output
    assert "another process ended" in output, output
    bench.resume(folder, 2)


def preempted(bench: Bench, folder: Path) -> None:
    """SIGTERM to torchrun, alone or with all its processes: all stop at the same step with a checkpoint, within 30 s"""
    launcher = _launch(bench, folder)
    time.sleep(bench.random.uniform(0.0, 0.2))
    bench.random.choice([os.kill, os.killpg])(launcher.pid, signal.SIGTERM)
    output, _ = launcher.communicate(timeout=30)
    assert launcher.returncode != 0 and "saved; run the same command to resume" in output, output
    intact(folder)
    bench.resume(folder, 2, metrics=False)


def _launch(bench: Bench, folder: Path) -> subprocess.Popen[str]:
    """Two processes under torchrun, in a session of their own, after two checkpoints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    launcher = subprocess.Popen(
        [*command, "-m", "scoresde", "train", *flags(folder, bench.options())], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    while len(list_checkpoints(folder / "checkpoints")) < 2:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.005)
    return launcher


def _refuses(path: Path) -> None:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return
    raise AssertionError(f"{path} was taken for intact")


FAULTS: tuple[Callable[[Bench, Path], None], ...] = (
    killed_at_random, killed_while_saving, stopped_once, stopped_twice, disk_full, truncated, flipped, hostile, read_only,
    two_runs, data_changed, nan_in_data, nan_in_losses, rank_killed, ranks_stopped, torchrun, preempted, *work_faults.FAULTS,
)  # fmt: skip
FOR_ONE_KIND = (data_changed, nan_in_data, work_faults.killed_editing)
"""Faults of data files and of edited files, which do not depend on the kind of run."""


def faults_of(kind: Kind) -> list[Callable[[Bench, Path], None]]:
    """The faults that are injected into runs of a kind."""
    found = FAULTS if kind.samples else tuple(fault for fault in FAULTS if fault not in work_faults.FAULTS)
    return [fault for fault in found if kind.name == "score" or fault not in FOR_ONE_KIND]


def attempt(
    fault: Callable[[Bench, Path], None], times: int, folder: Path, seed: int = 0, kind: Kind = KINDS["score"]
) -> list[str]:
    """Try a fault so many times; what went wrong in those that failed."""
    wrong = []
    for number in range(times):
        place = folder / f"{kind.name}-{fault.__name__}-{number}"
        try:
            fault(Bench(folder, random.Random(seed + number), kind), place)
            shutil.rmtree(place, ignore_errors=True)
        except AssertionError as problem:
            wrong.append(f"{kind.name}, {fault.__name__} {number}: {problem}")
            print(wrong[-1], file=sys.stderr, flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=[f.__name__ for f in FAULTS])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["score"])
    options = parser.parse_args()
    failures: list[str] = []
    kinds = [KINDS[name] for name in options.kinds]
    print(f"| fault and expected result | {' | '.join(kind.name for kind in kinds)} |")
    print("|---|" + "---:|" * len(kinds))
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for fault in FAULTS:
            if options.only is not None and fault.__name__ not in options.only:
                continue
            cells = []
            for kind in kinds:
                if fault in faults_of(kind):
                    wrong = attempt(fault, options.times, Path(name), kind=kind)
                    cells.append(f"{options.times - len(wrong)} of {options.times}")
                    failures += wrong
                else:
                    cells.append("")
            print(f"| {fault.__doc__} | {' | '.join(cells)} |", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
