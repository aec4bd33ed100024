r"""A grid from a network that chooses the next step (bilateral denoising diffusion models, BDDM).

Let x be the state divided by (alpha_t^2 + sigma_t^2)^(1/2), so that every process has the form of VP, with abar = alpha^2 /
(alpha^2 + sigma^2), delta^2 = 1 - abar and the noise eps. For a frozen model eps_hat, a network phi in (0, 1) gives the ratio r =
beta / delta^2 of the forward variance of the next step. For D coordinates it minimizes::

    C = ||eps - r eps_hat||^2 / (2 (1 - r)) - ln(r) / 4 + D (r - 1) / 2

A step may not be larger than the step before, beta_next::

    beta = min(beta_next, delta^2 phi(x, delta))

The paper has beta = min(beta_next, delta^2) phi(x). Where beta_next >= delta^2 the two are equal. Below, its best phi is
min(1, delta^2 r / beta_next), a function of beta_next too, and gives the beta above.

``step_grid.py`` makes grids with the network.

References:
    Lam, Wang, Su, Yu 2022, "BDDM: bilateral denoising diffusion models for fast and high-quality speech synthesis",
    arXiv:2203.13508.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde._arguments import checked_arguments
from scoresde._validation import check_counts, expand
from scoresde.conditions import rows_of
from scoresde.noise import NoiseSource
from scoresde.samplers.fitted.fingerprint import check_fingerprint, fingerprint
from scoresde.samplers.fitted.network_file import NetworkFile
from scoresde.samplers.fitted.small_network import check_training, minimize, row_means
from scoresde.samplers.grids import end_time
from scoresde.score.denoising import check_scalar
from scoresde.score.origin import networks_digest
from scoresde.sde import ScalarSDE, Score
from scoresde.sde.scores import evaluation_mode, in_evaluation_mode

__all__ = ["StepNetwork", "fit_step_network"]

_NUMBERS = 3
"""Count of the numbers of the score in the fingerprint of a ``StepNetwork``."""


class StepNetwork(NetworkFile):
    """A network phi(x, delta) that was trained for one model. :func:`fit_step_network` returns it.

    Args:
        network: The network. It is called as ``network(x, label)`` with x of the scale of VP and the labels ln(sigma / alpha),
            (B,). The mean of its output over all dimensions but the first is the logit of phi.
        process: ``repr`` of the process.
        event_shape: Shape of the events.
        fingerprint: The process's ``fingerprint``, followed by numbers of the score.
        weights: A digest of the weights of the score's networks. Empty if it has none.
    """

    header = ("process", "event_shape", "fingerprint", "weights")

    def __init__(
        self,
        network: nn.Module,
        process: str,
        event_shape: Sequence[int],
        fingerprint: Sequence[float],
        weights: str = "",
    ) -> None:
        check_counts("event_shape", event_shape)
        if len(fingerprint) <= _NUMBERS:
            raise ValueError(
                f"fingerprint={fingerprint!r} is not allowed: give the numbers of the process and of the score"
            )
        self.network, self.process, self.weights = network, process, weights
        self.event_shape, self.fingerprint = tuple(event_shape), tuple(fingerprint)

    def ratio(self, sde: ScalarSDE, x: Tensor, t: Tensor) -> Tensor:
        """phi, the ratio beta / delta^2 of the next step if the step before was not smaller.

        Args:
            sde: The process.
            x: States, (B, \\*event).
            t: Their times, (B,).

        Returns:
            Numbers in (0, 1), (B,).

        Raises:
            ValueError: If the network returns no row for each state.
        """
        alpha, sigma = sde.alpha(t.double()), sde.sigma(t.double())
        scaled = x / expand((alpha.square() + sigma.square()).sqrt().to(x), x)
        return row_means(self.network(scaled, (sigma / alpha).log().to(x)), len(x)).sigmoid()

    def check_model(self, sde: ScalarSDE, score: Score) -> None:
        """Check that the network was trained for a model.

        The networks of the score are compared by their weights. A score without networks is compared by its values.

        Args:
            sde: The process.
            score: The score. Conditions have one row or more.

        Raises:
            ValueError: If it was trained for another process or another score.
        """
        split = len(self.fingerprint) - _NUMBERS
        check_fingerprint(
            sde.continuous, self.event_shape, self.fingerprint[:split], f"network={self!r} was trained for"
        )
        weights = networks_digest(score)
        same, found = weights == self.weights, f"digest {weights or 'of no network'}"
        if same and not weights:
            numbers, wanted = _score_numbers(sde, score, self.event_shape), torch.tensor(self.fingerprint[split:])
            same, found = (
                torch.allclose(numbers, wanted, rtol=1e-2, atol=1e-3 * float(wanted.abs().max())),
                "other values",
            )
        if not same:
            raise ValueError(
                f"network={self!r} was trained for another score, of digest {self.weights or 'of no network'}, and this one has "
                f"{found}: give the model of the training, or train it again for score"
            )


@torch.no_grad()
def _score_numbers(sde: ScalarSDE, score: Score, event_shape: Sequence[int]) -> Tensor:
    """Weighted means of the score of a fixed state at three times, with the first row of its conditions."""
    place = torch.arange(float(torch.Size(event_shape).numel())).reshape(1, *event_shape)
    t = torch.tensor([0.1, 0.5, 0.9]) * sde.T
    with evaluation_mode(score):
        one = rows_of(score, torch.zeros(_NUMBERS, dtype=torch.long))
        value = one((place + 1.0).cos().expand(_NUMBERS, *event_shape).contiguous(), t)
    return (value * (1.0 + place.sqrt()).sin()).reshape(_NUMBERS, -1).mean(1).detach().cpu()


@checked_arguments
@in_evaluation_mode("score")
def fit_step_network(
    sde: ScalarSDE,
    score: Score,
    x: Tensor,
    network: nn.Module,
    *,
    updates: int = 500,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    t_min: float | None = None,
    seed: int = 0,
) -> StepNetwork:
    """Train a network that chooses steps, for a frozen score.

    Args:
        sde: Process of the score, with scalar coefficients.
        score: (x, t) -> score. Conditions have one row for each event of ``x``.
        x: Data, (n, \\*event).
        network: A network (x, label) whose output has one row for each state, such as ``MLP(event, width=64, depth=1)``.
            It is trained in place.
        updates: Number of updates by Adam, with a step size that falls to 0.
        batch_size: Number of states in an update.
        learning_rate: The first step size.
        t_min: Smallest time. None: the process's own ``t_min`` if it has one, else 1e-3.
        seed: Seed of times, noise and choice of data.

    Returns:
        The trained network with the model that it belongs to.

    Raises:
        TypeError: If the process does not have scalar coefficients.
        ValueError: If an argument is out of range.
        FloatingPointError: If the loss is not finite.

    References:
        Lam et al. 2022, arXiv:2203.13508.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.networks import MLP
        >>> mixture = GaussianMixture([[0.0]], 0.5)
        >>> score = mixture.score(VPSDE())
        >>> phi = fit_step_network(VPSDE(), score, mixture.sample(100), MLP((1,), width=8, depth=1), updates=5)
        >>> phi.ratio(VPSDE(), mixture.sample(3), torch.full((3,), 0.5)).shape
        torch.Size([3])
    """
    check_scalar(sde)
    check_training(x, updates, batch_size, learning_rate, seed)
    least, event = max(end_time(sde, t_min), 1e-6 * sde.T), tuple(x.shape[1:])
    weights = networks_digest(score)
    values = [0.0] * _NUMBERS if weights else _score_numbers(sde, score, event).tolist()
    numbers = [*fingerprint(sde.continuous, event), *values]
    made = StepNetwork(network, repr(sde.continuous), event, numbers, weights)

    def loss(noise: NoiseSource) -> Tensor:
        u = noise.uniform((2,), step=0, purpose="step network", dtype=torch.float64)
        t = _times(sde, least, u[:, 0]).to(x)
        z = noise.normal(event, step=0, purpose="step network noise", dtype=x.dtype)
        rows = (u[:, 1] * len(x)).long()
        noisy = sde.perturb(x[rows], t, z)
        with torch.no_grad():
            guess = -expand(sde.sigma(t), noisy) * rows_of(score, rows)(noisy, t)
        ratio = made.ratio(sde, noisy, t)
        # the weight depends on the network's input alone, so the best ratio stays; it bounds the noise near r = 1
        return ((1.0 - ratio.detach()) * step_loss(ratio, z, guess)).mean()

    minimize(
        network, loss, updates=updates, batch_size=batch_size, learning_rate=learning_rate, seed=seed, device=x.device
    )
    return made


def _times(sde: ScalarSDE, least: float, u: Tensor) -> Tensor:
    """Times (B,) for u (B,) in (0, 1).

    One half has equal density in delta^2, the other in ln(sigma / alpha), the label of the network.
    """
    ends = sde.log_noise(torch.tensor([least, sde.T], dtype=torch.float64))
    half = len(u) // 2
    low, high = (2.0 * ends).sigmoid()
    levels = low + (high - low) * u[:half]
    return sde.time_of_log_noise(torch.cat((levels.logit() / 2.0, ends[0] + (ends[1] - ends[0]) * u[half:])))


def step_loss(ratio: Tensor, noise: Tensor, guess: Tensor) -> Tensor:
    """C = ||eps - r eps_hat||^2 / (2 (1 - r)) - ln(r) / 4 + D (r - 1) / 2.

    Args:
        ratio: r, (B,).
        noise: eps, (B, \\*event).
        guess: eps_hat, (B, \\*event).

    Returns:
        (B,), up to a constant of r.
    """
    r = ratio.clamp(1e-6, 1.0 - 1e-6)
    error = (noise - expand(r, noise) * guess).flatten(1).square().sum(1)
    return error / (2.0 * (1.0 - r)) - 0.25 * r.log() + 0.5 * noise[0].numel() * (r - 1.0)
