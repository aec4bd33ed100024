"""The batches of a run. The next one can be read while the current one is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from scoresde.data.dataset import Batch
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.training.distributed import Group


class Batches:
    """This process's part of the batch of any step. A context manager, which stops the thread that reads ahead.

    With ``training.prefetch`` a thread reads the batch of the next step, into pinned memory if it is copied to a GPU.
    The events of a batch are a function of the step in both cases.

    Args:
        experiment: The experiment.
        group: The processes of the run.
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
        config = self.experiment.training
        batch = self.experiment.data.train.batch(
            step, config.batch_size, seed=self.experiment.seed, part=self.group.part(config.batch_size)
        )
        if self._pool is not None and self.group.device.type == "cuda":
            pinned = {name: rows.pin_memory() for name, rows in batch.condition.items()}
            batch = batch._replace(x=batch.x.pin_memory(), condition=pinned)
        return batch
