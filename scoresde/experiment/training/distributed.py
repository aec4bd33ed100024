"""Several processes that train one model, started by torchrun. A single process is a group of one.

    torchrun --nproc-per-node 4 -m scoresde train --config FILE --workdir DIR

A batch does not depend on the number of processes: rank r takes its r-th part. The loss of a process is its share of
the mean over the batch, and gradients are added up.

    Replicated      every process stores everything, rank 0 writes one file           DistributedDataParallel
    Sharded         every process stores and writes its rows of every tensor          fully_shard (FSDP2)

What one process detects and all must react to, a loss that is not finite or a signal, is summed once per step. All
processes then skip, save and stop at the same step. They all read the work folder, so it must be on a shared file
system. Tensors are exchanged by nccl on GPUs and by gloo on CPUs.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.sections import TrainingConfig
from scoresde.experiment.folder.checkpoint import OneFile
from scoresde.experiment.folder.launcher import WorkerError, launched
from scoresde.experiment.folder.tensor_file import local_part, publish, rank_file, write_index, write_tensors


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them.

    Args:
        rank: Number of this process.
        world: Number of processes.
        device: The device of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process of rank 0."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """The part of ``count`` events that this process takes. Parts differ by at most one event."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, with the same bits on all of them."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor, count: int) -> Tensor:
        """``count`` rows of which each process has its `part`, in order."""
        whole = torch.zeros((count, *values.shape[1:]), dtype=values.dtype, device=values.device)
        whole[self.part(count)] = values
        return self.sum(whole)

    def on_main(self, action: Callable[[], object]) -> None:
        """Run ``action`` on rank 0 while the others wait.

        If it raises, rank 0 raises its own error and the others WorkerError.
        """
        self.on_all(action if self.is_main else lambda: None)

    def on_all(self, action: Callable[[], object]) -> None:
        """Run ``action`` on all processes.

        A process that fails raises its own error once all have ended; the others raise WorkerError.
        """
        problem: BaseException | None = None
        try:
            action()
        except BaseException as found:
            problem = found
        refused = torch.zeros(self.world, device=self.device)
        refused[self.rank] = float(problem is not None)
        who = self.sum(refused).nonzero().flatten().tolist()
        if problem is not None:
            raise problem
        if who:
            raise WorkerError(f"rank {self.rank} of {self.world}: rank {who[0]} failed, see its message")

    def check_equal(self, what: str, value: int) -> None:
        """Raise WorkerError unless all processes have the same number."""
        first = self.sum(torch.tensor(value if self.is_main else 0, device=self.device))
        if float(self.sum((first != value).float())):
            raise WorkerError(
                f"rank {self.rank} of {self.world}: {what} {value} here and {int(first)} on rank 0: "
                "the processes do not see the same files"
            )


class Replicated(OneFile):
    """Every process stores all weights, moments and averages. Rank 0 writes."""

    def __init__(self, group: Group) -> None:
        self.group, self.writes = group, group.is_main

    def place(self, module: nn.Module) -> None:
        """Move a network, or an average of one, to its device."""
        module.to(self.group.device)

    def wrap(self, losses: nn.Module) -> nn.Module:
        """The module with gradients that are averaged over the processes during the backward pass."""
        if self.group.world == 1:
            return losses
        devices = [self.group.device.index] if self.group.device.type == "cuda" else None
        # buffers are equal on all processes: they depend on the seed only, and no network here changes one
        known = inspect.signature(DistributedDataParallel).parameters
        key = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {"device_ids": devices, key: False}
        return DistributedDataParallel(losses, **options)

    def no_sync(self, losses: nn.Module) -> AbstractContextManager[object]:
        """A context in which gradients are not exchanged."""
        return losses.no_sync() if isinstance(losses, DistributedDataParallel) else nullcontext()


class Sharded:
    """Every process stores its rows of all weights, gradients, moments and averages, and writes them to its file of a folder.

    Weights are gathered for the forward and the backward pass of a block and freed after it. The blocks are the
    innermost elements of the network's ModuleLists. The remaining modules form one more block, which is gathered for
    the whole step. A block must be called as a module, and may not change a list that is passed to it.

    Raises:
        ValueError: If the processes would compute different numbers of micro-batches. Each micro-batch gathers weights,
            which all processes must do together.
    """

    writes = True

    def __init__(self, group: Group, config: TrainingConfig) -> None:
        shares = [
            (r + 1) * config.batch_size // group.world - r * config.batch_size // group.world
            for r in range(group.world)
        ]
        if config.micro_batch and len({-(-share // config.micro_batch) for share in shares}) > 1:
            raise ValueError(
                f"sharded=True and micro_batch={config.micro_batch} exclude each other with batch_size={config.batch_size} and "
                f"WORLD_SIZE={group.world}: some processes would have more micro-batches; give one that divides the shares"
            )
        self.group, self.on_main, self.on_all = group, group.on_main, group.on_all
        self._mark = int(group.sum(torch.tensor(os.getpid() * group.is_main, device=group.device)))
        self._mesh = init_device_mesh(group.device.type, (group.world,))

    def place(self, module: nn.Module) -> None:
        """Shard a network, or an average of one, over the processes.

        This is done block by block, so that no device stores all of it.
        """
        from torch.distributed.fsdp import fully_shard

        if scalars := [name for name, p in module.named_parameters() if p.ndim == 0]:
            raise ValueError(
                f"sharded=True needs parameters with at least one dimension, but {scalars[:4]} are scalars"
            )
        # must run before the hook of fully_shard, which fails if a view is changed in place
        module.register_forward_hook(lambda _, __, out: out.clone())
        for block in blocks(module):
            fully_shard(block, mesh=self._mesh)
        fully_shard(module, mesh=self._mesh)

    def wrap(self, losses: nn.Module) -> nn.Module:
        """The module itself: FSDP already reduces the gradients."""
        return losses

    def no_sync(self, losses: nn.Module) -> AbstractContextManager[object]:
        """An empty context: gradients are reduced and sharded after every micro-batch."""
        return nullcontext()

    def write(self, path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
        """Write a folder with a file from each process. It gets its name when all files are on the disk."""
        path, group = path.with_suffix(""), self.group
        temporary = path.with_name(f".{path.name}.{self._mark}.tmp")
        mine = {k: local_part(v) for k, v in tensors.items() if hasattr(v, "to_local") or group.is_main}
        part = {"format": header["format"], "step": header["step"], "rank": group.rank, "world": group.world}
        group.on_all(lambda: write_tensors(rank_file(temporary, group.rank), mine, part))

        def finish() -> None:
            write_index(temporary, group.world, header)
            publish(temporary, path)

        group.on_main(finish)
        return path


def choose_layout(group: Group, config: TrainingConfig) -> Replicated | Sharded:
    """How the processes store the network. A single process stores all of it."""
    return Sharded(group, config) if config.sharded and group.world > 1 else Replicated(group)


def blocks(network: nn.Module) -> list[nn.Module]:
    """Innermost elements of the network's ModuleLists that have parameters."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return [
        part
        for parts in lists
        for part in parts
        if not any(isinstance(inner, nn.ModuleList) for inner in part.modules())
        and next(part.parameters(), None) is not None
    ]


@contextmanager
def processes(experiment: Experiment) -> Iterator[Group]:
    """The process group that a launcher's environment describes.

    Raises WorkerError if the connection to another process is lost.
    """
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
            f"rank {rank} of {world}: another process ended; run the same command to resume from the last checkpoint "
            f"({str(problem).splitlines()[0][:160]})"
        ) from problem
    dist.destroy_process_group()


def _lost(problem: RuntimeError) -> bool:
    """Whether an error comes from the connection to the other processes."""
    return isinstance(problem, dist.DistError) or (type(problem) is RuntimeError and "gloo" in str(problem).lower())
