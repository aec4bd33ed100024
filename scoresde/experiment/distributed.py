"""Several processes that train one model, as torchrun starts them; one process alone is a group of one.

    torchrun --nproc-per-node 4 -m scoresde train --config FILE --workdir DIR

A batch is the same whatever the number of processes: rank r takes its r-th part. Every process's loss is its share of the batch's
mean, and gradients are added up by DistributedDataParallel. What one process knows and all must act on, a loss that is not
finite or a signal, is added up once a step, so that all skip, save and stop at the same one. Rank 0 writes; all read the folder,
so it must be one that all see. Tensors travel by nccl on GPUs and by gloo on CPUs.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scoresde.experiment.experiment import Experiment
from scoresde.experiment.sharing import WorkerError, launched


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them.

    rank: number of this one, of ``world``. device: what it computes on.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """What of ``count`` events is this process's: shares differ by one at most."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, the same bits in all of them."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def joined(self, values: Tensor, count: int) -> Tensor:
        """``count`` rows of which each process has its `part`, in order."""
        whole = torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
        whole[self.part(count)] = values
        return self.sum(whole)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with gradients added up over the processes as they come."""
        if self.world == 1:
            return module
        devices = [self.device.index] if self.device.type == "cuda" else None
        # buffers are the same everywhere: made from the seed, and no network here changes one
        known = inspect.signature(DistributedDataParallel).parameters
        key = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": devices, key: False}
        return DistributedDataParallel(module, **options)

    def silent(self, module: nn.Module) -> AbstractContextManager[object]:
        """Inside, gradients of `wrap`'s module are kept to this process."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def lead(self, action: Callable[[], object]) -> None:
        """Rank 0 acts while the others wait. Where it refuses it raises its own error, and the others WorkerError."""
        problem: BaseException | None = None
        if self.leads:
            try:
                action()
            except BaseException as found:
                problem = found
        refused = self.sum(torch.tensor(float(problem is not None), device=self.device))
        if problem is not None:
            raise problem
        if float(refused):
            raise WorkerError(f"rank {self.rank} of {self.world}: rank 0 has refused, and says why")

    def agree(self, what: str, value: int) -> None:
        """Raise WorkerError unless all processes have the same number."""
        first = self.sum(torch.tensor(value if self.leads else 0, device=self.device))
        if float(self.sum((first != value).float())):
            raise WorkerError(
                f"rank {self.rank} of {self.world}: {what} {value} here and {int(first)} with rank 0: "
                "the processes do not see the same files"
            )


@contextmanager
def processes(experiment: Experiment) -> Iterator[Group]:
    """The group that a launcher's environment speaks of. Raises WorkerError where another process has gone."""
    rank, world = launched()
    device = experiment.device
    if world == 1:
        yield Group(0, 1, device)
        return
    if experiment.training.batch_size < world:
        raise ValueError(
            f"batch_size={experiment.training.batch_size} cannot be shared by WORLD_SIZE={world} processes"
        )
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", rank))
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(rank, world, device)
    except RuntimeError as problem:
        if not _lost(problem):
            raise
        raise WorkerError(
            f"rank {rank} of {world}: another process has gone, what was saved is kept: the same command goes on from there "
            f"({str(problem).splitlines()[0][:160]})"
        ) from problem
    dist.destroy_process_group()


def _lost(problem: RuntimeError) -> bool:
    """Whether an error is of the connection to the others."""
    return isinstance(problem, dist.DistError) or (type(problem) is RuntimeError and "gloo" in str(problem).lower())
