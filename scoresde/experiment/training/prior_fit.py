"""Whether the noise of a process covers the data that is to be trained on: the prior against the data at T.

At T the data should be forgotten: q(x_T | x_0) has the mean m(x_0), and samplers start from a prior that knows no x_0. The data
that shows at T costs

    E log prior(mean of the prior) - E log prior(m(x_0))      nats, for a Gaussian prior E |m(x_0) - mean|^2 / (2 std^2)

over training events: the part of E KL(q(x_T | x_0) || prior) that the data decides. `scoresde check` has the rest.
"""

from __future__ import annotations

import torch

from scoresde._validation import expand
from scoresde.data import permutation
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.sde.checks.report import PRIOR_LIMIT

MOST = 1.0
"""Nats per coordinate that are refused: samples would start where no data ever comes to."""
EVENTS = 256


@torch.no_grad()
def prior_mismatch(experiment: Experiment) -> float:
    """Nats per coordinate that training events, at most `EVENTS` of them, cost at T under the prior."""
    train, sde = experiment.data.train, experiment.sde
    x = train.encode(permutation(len(train), 0, 0)[:EVENTS], seed=0, dtype=torch.float64)
    mean = sde.kernel(torch.tensor(sde.T, dtype=torch.float64)).mean(sde.embed_data(x))
    at = expand(sde.prior_mean(), mean).to(mean).expand_as(mean)
    lost = sde.prior_log_prob(at) - sde.prior_log_prob(mean)
    return float(lost.double().mean()) / mean[0].numel()


def check_prior(experiment: Experiment) -> str:
    """A warning where the data shows at T, or "". Raises ConfigError where it shows so much that nothing can be learned."""
    lost = prior_mismatch(experiment)
    if lost <= PRIOR_LIMIT:
        return ""
    train = experiment.data.train
    x = train.encode(permutation(len(train), 0, 0)[:EVENTS], seed=0, dtype=torch.float64)
    said = (
        f"the training data, of mean {float(x.mean()):.4g} and standard deviation {float(x.std(correction=0)):.3g} as the model "
        f"sees it, shows at T of {experiment.sde!r}: {lost:.3g} nats per coordinate, {PRIOR_LIMIT:g} pass. Bring the data to "
        "mean 0 and standard deviation 1 (data.shift, data.scale; scoresde inspect chooses them), or give the process more noise"
    )
    if not lost <= MOST:
        raise ConfigError(f"config.data: {said}")
    return said
