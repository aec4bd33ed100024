"""Checks that the noise of a process covers the training data, by comparing the prior with the data at T.

At T the data should be forgotten: q(x_T | x_0) has the mean m(x_0), but samplers start from a prior that does not
depend on x_0. The remaining dependence costs

    E log prior(mean of the prior) - E log prior(m(x_0))      nats, for a Gaussian prior E |m(x_0) - mean|^2 / (2 std^2)

over training events. Noise that is not Gaussian is compared by the second formula. This is the part of
E KL(q(x_T | x_0) || prior) that depends on the data. `scoresde check` reports the rest.

For a process without a closed-form kernel, paths are simulated from training events to T, and the moments of their end
points are compared with those of the prior (``scoresde/sde/checks/endpoints.py``). For a jump process the divergence itself is
known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.data import permutation
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.jump import JumpProcess
from scoresde.product import ProductProcess
from scoresde.sde import SDE, LinearSDE
from scoresde.sde.checks.endpoints import end_points
from scoresde.sde.checks.report import PRIOR_LIMIT
from scoresde.solvers import SolverError

MOST = 1.0
"""Largest allowed mismatch in nats per coordinate. Above it, samples would start where the data never is."""
EVENTS = 256
"""Largest number of training events that are used."""


@torch.no_grad()
def prior_mismatch(experiment: Experiment) -> float:
    """The mismatch of the prior in nats per coordinate, over at most `EVENTS` training events."""
    process, x = experiment.process, _events(experiment)
    if isinstance(process, ProductProcess):
        return max(lost for _, lost, _ in _of_parts(process, x))
    if isinstance(process, JumpProcess):
        return _by_divergence(process, x)
    return _by_kernel(process, x) if isinstance(process, LinearSDE) else end_points(process, x).mismatch


def check_prior(experiment: Experiment) -> str:
    """A warning if the data is visible at T, or an empty string.

    Raises ConfigError if the mismatch is too large to train, or if a path cannot be simulated.
    """
    x, process = _events(experiment), experiment.process
    if isinstance(process, ProductProcess):
        section, lost, message = max(_of_parts(process, x), key=lambda part: part[1])
    elif isinstance(process, JumpProcess):
        section, lost, message = _of_jumps(process, x)
    else:
        section, lost, message = _of_linear(process, x) if isinstance(process, LinearSDE) else _of_paths(process, x)
    if lost <= PRIOR_LIMIT:
        return ""
    if not lost <= MOST:
        raise ConfigError(f"config.{section}: {message}")
    return message


def _of_linear(sde: LinearSDE, x: Tensor) -> tuple[str, float, str]:
    """The section of the config to change, the mismatch, and the message if it is too large."""
    lost = _by_kernel(sde, x)
    return "data", lost, (
        f"the training data, of mean {float(x.mean()):.4g} and standard deviation {float(x.std(correction=0)):.3g} as the model "
        f"sees it, is still visible at T of {sde!r}: {lost:.3g} nats per coordinate (limit "
        f"{PRIOR_LIMIT:g}). Bring the data to mean 0 and standard deviation 1 (data.shift, data.scale; scoresde inspect chooses "
        "them), or give the "
        "process more noise"
    )  # fmt: skip


def _of_paths(sde: SDE, x: Tensor) -> tuple[str, float, str]:
    """As `_of_linear`, by simulated paths."""
    try:
        found = end_points(sde, x)
    except SolverError as problem:
        raise ConfigError(f"config.sde: paths from the training data cannot be simulated: {problem}") from problem
    return "sde", found.mismatch, (
        f"paths of {sde!r} from the training data do not end in its prior: at T={sde.T:g} they have the mean {found.mean:.3g} "
        f"and the standard deviation {found.std:.3g}, and the prior has {found.prior_mean:.3g} and {found.prior_std:.3g}, a "
        f"mismatch of {found.mismatch:.3g} nats per coordinate (limit {PRIOR_LIMIT:g}). Give a larger T, or the distribution "
        "at T as the prior"
    )  # fmt: skip


def _of_jumps(process: JumpProcess, x: Tensor) -> tuple[str, float, str]:
    """As `_of_linear`, for a jump process."""
    lost = _by_divergence(process, x)
    return (
        "process",
        lost,
        (
            f"the training data is still visible at T={process.T:g} of {process!r}: {lost:.3g} nats per coordinate between "
            f"q(x_T | x_0) and the prior (limit {PRIOR_LIMIT:g}). Give a schedule whose alpha(T) is smaller"
        ),
    )


def _of_parts(process: ProductProcess, x: Tensor) -> list[tuple[str, float, str]]:
    """As `_of_linear`, for each part of a product process."""
    real, tokens = process.split(x)
    parts = [_of_jumps(group.jump, part) for group, part in zip(process.groups, tokens, strict=True)]
    return [_of_linear(process.sde, real), *parts]


def _by_divergence(process: JumpProcess, x: Tensor) -> float:
    """KL(q(x_T | x_0) || prior) in nats per coordinate."""
    return float(process.prior_divergence(x).mean()) / x[0].numel()


@torch.no_grad()
def _by_kernel(sde: LinearSDE, x: Tensor) -> float:
    mean = sde.kernel(torch.tensor(sde.T, dtype=torch.float64)).mean(sde.embed_data(x))
    z = sde.prior_root().to(mean).inverse()(mean - expand(sde.prior_mean(), mean).to(mean))
    return 0.5 * float(z.double().square().mean())


def _events(experiment: Experiment) -> Tensor:
    train = experiment.data.train
    return train.encode(permutation(len(train), 0, 0)[:EVENTS], seed=0, dtype=torch.float64)
