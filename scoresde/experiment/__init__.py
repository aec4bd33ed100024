"""Experiments: from a config to a work folder with a trained model, samples, likelihoods and a report."""

from scoresde.experiment.config.builder import ConfigError, build
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.limits import is_out_of_memory
from scoresde.experiment.config.loader import apply_overrides, load_config
from scoresde.experiment.config.process_check import check
from scoresde.experiment.folder.averages import posthoc_average
from scoresde.experiment.folder.checkpoint import read_checkpoint
from scoresde.experiment.folder.launcher import WorkerError
from scoresde.experiment.folder.run_features import RunFeatures
from scoresde.experiment.folder.tensor_file import CheckpointError
from scoresde.experiment.folder.workdir import Workdir, WorkdirError
from scoresde.experiment.hub.manifest import TransferError
from scoresde.experiment.hub.transfer import pull, push
from scoresde.experiment.inspection.inspection import Inspection, inspect
from scoresde.experiment.jobs.editing import edit_files
from scoresde.experiment.jobs.evaluation import evaluate
from scoresde.experiment.jobs.likelihood import likelihood
from scoresde.experiment.jobs.sampling import sample
from scoresde.experiment.reports.report import report
from scoresde.experiment.reports.run_comparison import PairedDifference, RunComparison, compare_runs
from scoresde.experiment.reports.run_summary import RunLikelihood, RunSummary
from scoresde.experiment.results.sample_index import read_samples
from scoresde.experiment.training.dry_run import DryRunResult, dry_run
from scoresde.experiment.training.fit_time import steps_within
from scoresde.experiment.training.loop import train

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Experiment",
    "DryRunResult",
    "Inspection",
    "TransferError",
    "PairedDifference",
    "RunComparison",
    "RunFeatures",
    "RunLikelihood",
    "RunSummary",
    "Workdir",
    "WorkdirError",
    "WorkerError",
    "apply_overrides",
    "evaluate",
    "build",
    "check",
    "compare_runs",
    "dry_run",
    "edit_files",
    "inspect",
    "likelihood",
    "load_config",
    "is_out_of_memory",
    "posthoc_average",
    "pull",
    "push",
    "read_checkpoint",
    "read_samples",
    "report",
    "sample",
    "steps_within",
    "train",
]
