"""Experiments: from a config to a work folder with a trained model, samples, likelihoods and a report."""

from scoresde.experiment.assess import assess
from scoresde.experiment.build import ConfigError, build
from scoresde.experiment.check import check
from scoresde.experiment.checkpoint import CheckpointError, read_checkpoint
from scoresde.experiment.config import apply_overrides, load_config
from scoresde.experiment.draw import sample
from scoresde.experiment.dry_run import Needs, dry_run
from scoresde.experiment.experiment import Experiment
from scoresde.experiment.index import read_samples
from scoresde.experiment.inspect import inspect
from scoresde.experiment.limits import out_of_memory
from scoresde.experiment.posthoc import posthoc
from scoresde.experiment.report import report
from scoresde.experiment.sharing import WorkerError
from scoresde.experiment.train import train
from scoresde.experiment.weigh import likelihood
from scoresde.experiment.workdir import Workdir, WorkdirError

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Experiment",
    "Needs",
    "Workdir",
    "WorkdirError",
    "WorkerError",
    "apply_overrides",
    "assess",
    "build",
    "check",
    "dry_run",
    "inspect",
    "likelihood",
    "load_config",
    "out_of_memory",
    "posthoc",
    "read_checkpoint",
    "read_samples",
    "report",
    "sample",
    "train",
]
