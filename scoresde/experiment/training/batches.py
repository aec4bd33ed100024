"""The batches of a run, the next one read while this one is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.training.distributed import Group

Batch = tuple[Tensor, Tensor]
"""x (B, *event) and positions (B,)."""


class Batches:
    """This process's part of the batch of any step; a context, so that the thread that reads ahead ends with it.

    With ``training.prefetch`` the batch of the following step is read by a thread, into pinned memory where there is a GPU to
    copy it to. Which events come is a function of the step either way.
    """

    def __init__(self, experiment: Experiment, group: Group) -> None:
        self.experiment, self.group = experiment, group
        self._pool = ThreadPoolExecutor(1) if experiment.training.prefetch else None
        self._next: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __getitem__(self, step: int) -> Batch:
        if self._pool is None:
            return self._read(step)
        ahead = self._next
        batch = ahead[1].result() if ahead is not None and ahead[0] == step else self._read(step)
        self._next = step + 1, self._pool.submit(self._read, step + 1)
        return batch

    def _read(self, step: int) -> Batch:
        plan = self.experiment.training
        x, position = self.experiment.data.train.batch(
            step, plan.batch_size, seed=self.experiment.seed, part=self.group.part(plan.batch_size)
        )
        if self._pool is not None and self.group.device.type == "cuda":
            x = x.pin_memory()
        return x, position
