"""The number of training steps that fits into a given time, from the measured time of a few steps."""

from __future__ import annotations

import os

from scoresde._validation import check_number
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.training.dry_run import dry_run

SHARE = 0.9
"""Part of the time that is for training steps. The rest is for previews, checkpoints and logging."""


def steps_within(experiment: Experiment, seconds: float) -> int:
    """The number of training steps that fits into a time.

    The time of a step is measured with a copy of the model. Nothing is written, and the model does not change.

    Args:
        experiment: The experiment. Its ``training.steps`` is the largest number that is returned.
        seconds: The time for training, in seconds.

    Returns:
        The number of steps, at least 1.

    Raises:
        ValueError: ``seconds`` is not positive, or several processes train: each would measure another time.
    """
    check_number("seconds", seconds, above=0.0)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--fit-time is for a single process: give --config.training.steps to several processes")
    needs = dry_run(experiment)
    assert needs is not None  # the single process leads
    return max(1, min(experiment.training.steps, int(SHARE * seconds / needs.seconds)))
