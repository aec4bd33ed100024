"""Checks that the noise of a process covers the training data, by comparing the prior with the data at T.

At T the data should be forgotten: q(x_T | x_0) has the mean m(x_0), but samplers start from a prior that does not
depend on x_0. The remaining dependence costs

    E log prior(mean of the prior) - E log prior(m(x_0))      nats, for a Gaussian prior E |m(x_0) - mean|^2 / (2 std^2)

over training events. This is the part of E KL(q(x_T | x_0) || prior) that depends on the data. `scoresde check` reports
the rest.
"""

from __future__ import annotations

import torch

from scoresde._validation import expand
from scoresde.data import permutation
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.sde.checks.report import PRIOR_LIMIT

MOST = 1.0
"""Largest allowed mismatch in nats per coordinate. Above it, samples would start where the data never is."""
EVENTS = 256
"""Largest number of training events that are used."""


@torch.no_grad()
def prior_mismatch(experiment: Experiment) -> float:
    """The mismatch of the prior in nats per coordinate, over at most `EVENTS` training events."""
    train, sde = experiment.data.train, experiment.sde
    x = train.encode(permutation(len(train), 0, 0)[:EVENTS], seed=0, dtype=torch.float64)
    mean = sde.kernel(torch.tensor(sde.T, dtype=torch.float64)).mean(sde.embed_data(x))
    at = expand(sde.prior_mean(), mean).to(mean).expand_as(mean)
    lost = sde.prior_log_prob(at) - sde.prior_log_prob(mean)
    return float(lost.double().mean()) / mean[0].numel()


def check_prior(experiment: Experiment) -> str:
    """A warning if the data is visible at T, or an empty string.

    Raises ConfigError if the mismatch is too large to train.
    """
    lost = prior_mismatch(experiment)
    if lost <= PRIOR_LIMIT:
        return ""
    train = experiment.data.train
    x = train.encode(permutation(len(train), 0, 0)[:EVENTS], seed=0, dtype=torch.float64)
    message = (
        f"the training data, of mean {float(x.mean()):.4g} and standard deviation {float(x.std(correction=0)):.3g} as the model "
        f"sees it, is still visible at T of {experiment.sde!r}: {lost:.3g} nats per coordinate (limit "
        f"{PRIOR_LIMIT:g}). Bring the data to mean 0 and standard deviation 1 (data.shift, data.scale; scoresde inspect chooses "
        "them), or give the "
        "process more noise"
    )
    if not lost <= MOST:
        raise ConfigError(f"config.data: {message}")
    return message
