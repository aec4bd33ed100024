"""`scoresde train` in real processes that can be killed, limited and launched together, for benchmarks/faults.py and the tests.

The processes are forked from a server that has imported everything, so they start within tens of milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from scoresde.cli import main
from scoresde.experiment.folder.checkpoint import list_checkpoints

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "training.steps": 40, "training.batch_size": 8, "training.checkpoint_every": 2, "training.keep": 30,
    "training.log_every": 2, "training.preview_every": 0, "network.channels": 8, "network.blocks": 1,
}  # fmt: skip
"""A network on the digits that trains in a second. It has dropout, so its random numbers are tested too."""
SMALL |= {"network.dropout": 0.1}

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["scoresde.experiment", "scoresde.cli", "sklearn.datasets", "torch._dynamo"]
)  # slow imports


class Child:
    """One process.

    Args:
        folder: Its work folder.
        options: Values of the config.
        command: The command.
        environment: Variables that are added to the environment.
        file_size: Largest number of bytes that it may write to a file.
        obeys: Whether it runs without root's permission to write everywhere.
        compiler: The backend of torch.compile.
        extra: More arguments of the command line.
        before: Called in the process before the command.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, object] | None = None,
        *,
        command: str = "train",
        environment: Mapping[str, str] | None = None,
        file_size: int = 0,
        obeys: bool = False,
        compiler: str = "inductor",
        extra: Sequence[str] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        rank = (environment or {}).get("RANK", "")
        self.log = folder.parent / f"{folder.name}{rank}.out"
        arguments = [command, *flags(folder, options), *extra]
        self.process = _CONTEXT.Process(
            target=_run,
            daemon=True,
            args=(arguments, str(self.log), dict(environment or {}), file_size, obeys, compiler, before),
        )
        self.process.start()

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints in its folder."""
        return list_checkpoints(self.folder / "checkpoints")

    def until(self, condition: Callable[[], object], what: str, seconds: float = 300.0) -> None:
        """Wait until ``condition()`` is true.

        Raises AssertionError if the process ends or takes too long, and ends it.
        """
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.is_alive(), f"ended before {what}: {self.output()}"
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"no {what} in {seconds} s: {self.output()}")
            time.sleep(0.001)

    def signal(self, number: int) -> None:
        """Send a signal, if it is alive."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self, seconds: float = 300.0) -> int:
        """Wait for the process. Returns its exit code, which is negative for a signal."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"did not end in {seconds} s: {self.output()}")
        return self.process.exitcode

    def output(self) -> str:
        """Its output, including errors."""
        return self.log.read_text() if self.log.exists() else ""


def train(folder: Path, options: Mapping[str, object] | None = None, **more: object) -> Child:
    """Train to the end."""
    child = Child(folder, options, **more)  # type: ignore[arg-type]
    assert child.end() == 0, child.output()
    return child


def free_port() -> int:
    """A free port below those that the system gives to outgoing connections, so that none of them takes it before it is used."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    raise OSError("100 ports between 20,000 and 32,000 are in use")


def together(folder: Path, world: int, options: Mapping[str, object] | None = None, **more: object) -> list[Child]:
    """Start several processes on one model, like torchrun."""
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        Child(folder, options, environment={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, **more)  # type: ignore[arg-type]
        for r in range(world)
    ]


def flags(folder: Path, options: Mapping[str, object] | None = None) -> list[str]:
    """Arguments of the command line. Keys of `SMALL` that are None in ``options`` are left out."""
    head = ["--config", str(ROOT / "configs" / "vp" / "digits.py"), "--workdir", str(folder)]
    return head + [
        f"--config.{key}={value}" for key, value in {**SMALL, **(options or {})}.items() if value is not None
    ]


def _run(
    arguments: Sequence[str],
    log: str,
    environment: dict[str, str],
    file_size: int,
    obeys: bool,
    compiler: str,
    before: Callable[[], None] | None,
) -> None:
    with open(log, "w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what runs in its background
    os.environ.update(environment)
    if file_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend=compiler)  # type: ignore[assignment]
    if obeys and os.getuid() == 0:
        _give_up_override()
    if before is not None:
        before()
    sys.exit(main(list(arguments)))


def _give_up_override() -> None:
    """Take Linux's CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from this process, so that permissions hold for root too."""
    libc = ctypes.CDLL(None, use_errno=True)
    head, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(head, sets) == 0
    sets[0] &= ~0b110
    assert libc.capset(head, sets) == 0
