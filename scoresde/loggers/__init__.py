"""Loggers: where a training run sends its metrics, its pictures of samples and its config.

    TensorBoardLogger    event files in the work folder
    WandbLogger          Weights & Biases, offline or online
    TrackioLogger        trackio, on this machine or in a Hugging Face Space

A config names them in its section ``loggers``, and `scoresde.experiment.train` takes objects::

    train(experiment, workdir, loggers={"mine": MyLogger()})

A logger of your own is a subclass of `Logger` with the method ``open``. It returns a `LoggedRun` with the method ``metrics``.
The table metrics.csv is written in any case, because checkpoints and the report refer to it.
"""

from scoresde._arguments import check_constructors
from scoresde.loggers.base import LoggedRun, Logger, RunStart
from scoresde.loggers.tensorboard_files import TensorBoardLogger
from scoresde.loggers.trackio_project import TrackioLogger
from scoresde.loggers.wandb_run import WandbLogger

__all__ = [
    "LoggedRun",
    "Logger",
    "RunStart",
    "TensorBoardLogger",
    "TrackioLogger",
    "WandbLogger",
]

check_constructors(globals(), records=(RunStart,))
