r"""A network that estimates the noise level of a state.

The process has x_t = alpha_t x_0 + sigma_t z, and abar = alpha^2 / (alpha^2 + sigma^2). A network estimates
u = ln(sigma / alpha) from x_t alone. It minimizes the mean of::

    | log(1 - abar_t) - log(1 - abar_hat) | + | log(abar_t) - log(abar_hat) | = 2 | u - u_hat |

over data, noise and levels with equal density in u. The first term is the loss of the paper. Alone its gradient vanishes where
the estimate has large noise and 1 - abar is near 1, and a network can stay there. The second term, which is small at small
noise, prevents this.

The network sees x_t divided by its root mean square, and the logarithm of that number as its label. So it can be any network of
this library, and states of VE, whose scale grows with the noise, need no scaling by hand.

References:
    San-Roman, Nachmani, Wolf 2021, "Noise estimation for generative diffusion models", arXiv:2104.02600.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scoresde._arguments import checked_arguments
from scoresde._validation import (
    check_batch,
    check_counts,
    check_number,
    check_rising,
    expand,
)
from scoresde.noise import NoiseSource
from scoresde.samplers.fitted.fingerprint import check_fingerprint, fingerprint
from scoresde.samplers.fitted.network_file import NetworkFile
from scoresde.samplers.fitted.small_network import check_training, minimize, row_means
from scoresde.samplers.grids import end_time
from scoresde.score.denoising import check_scalar
from scoresde.sde import ScalarSDE
from scoresde.sde.scores import evaluation_mode


class LevelNetwork(NetworkFile):
    """An estimate of the noise level of a state, for one process. :func:`fit_level_network` returns it.

    Args:
        network: The network, called as ``network(x, label)``, with x of root mean square 1 and the labels (B,), the logarithms of
            the root mean squares of the states. The mean of its output over all dimensions but the first is the estimate, where
            -1 stands for ``lowest`` and 1 for ``highest``.
        lowest: Smallest ln(sigma / alpha) that an estimate can have.
        highest: Largest ln(sigma / alpha).
        process: ``repr`` of the process.
        event_shape: Shape of the events.
        fingerprint: The process's ``fingerprint``.
    """

    header = ("lowest", "highest", "process", "event_shape", "fingerprint")

    def __init__(
        self,
        network: nn.Module,
        lowest: float,
        highest: float,
        process: str,
        event_shape: Sequence[int],
        fingerprint: Sequence[float],
    ) -> None:
        check_number("lowest", lowest)
        check_number("highest", highest)
        check_rising("lowest", lowest, "highest", highest)
        check_counts("event_shape", event_shape)
        if not fingerprint:
            raise ValueError(f"fingerprint={fingerprint!r} is not allowed: give the numbers of the process")
        self.network, self.lowest, self.highest, self.process = network, lowest, highest, process
        self.event_shape, self.fingerprint = tuple(event_shape), tuple(fingerprint)

    @torch.no_grad()
    def log_noise(self, x: Tensor) -> Tensor:
        """The estimated noise levels.

        Args:
            x: States, (B, \\*event).

        Returns:
            ln(sigma / alpha), float64, (B,), in [lowest, highest].

        Raises:
            ValueError: If the events have another shape, or the network returns no row for each state.
        """
        check_batch("x", x)
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has events of shape {tuple(x.shape[1:])}: network={self!r} was trained for {self.event_shape}"
            )
        with evaluation_mode(self.network):
            return self.raw(x).double().clamp(self.lowest, self.highest)

    def raw(self, x: Tensor) -> Tensor:
        """The estimates (B,) without limits, with their graph to the network.

        Args:
            x: States, (B, \\*event).

        Returns:
            ln(sigma / alpha), (B,).

        Raises:
            ValueError: If the network returns no row for each state.
        """
        size = x.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
        found = row_means(self.network(x / expand(size, x), size.log()), len(x))
        middle, half = 0.5 * (self.highest + self.lowest), 0.5 * (self.highest - self.lowest)
        return middle + half * found

    def check_process(self, sde: ScalarSDE, event_shape: Sequence[int]) -> None:
        """Check that the network was trained for a process.

        Args:
            sde: The process.
            event_shape: Shape of the events.

        Raises:
            ValueError: If it was trained for another process or another shape.
        """
        check_fingerprint(sde.continuous, tuple(event_shape), self.fingerprint, f"network={self!r} was trained for")


@checked_arguments
def fit_level_network(
    sde: ScalarSDE,
    x: Tensor,
    network: nn.Module,
    *,
    updates: int = 500,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    t_min: float | None = None,
    seed: int = 0,
) -> LevelNetwork:
    """Train a network that estimates the noise level of a state.

    Args:
        sde: Process with scalar coefficients.
        x: Data, (n, \\*event).
        network: A network (x, label) whose output has one row for each state, such as ``MLP(event, width=64, depth=1)``.
            It is trained in place.
        updates: Number of updates by Adam, with a step size that falls to 0.
        batch_size: Number of states in an update.
        learning_rate: The first step size.
        t_min: Smallest time, > 0. None: the process's own ``t_min`` if it has one, else 1e-3.
        seed: Seed of levels, noise and choice of data.

    Returns:
        The trained network with the process that it belongs to.

    Raises:
        TypeError: If the process does not have scalar coefficients.
        ValueError: If an argument is out of range.
        FloatingPointError: If the loss is not finite.

    References:
        San-Roman et al. 2021, arXiv:2104.02600.

    Example:
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.networks import MLP
        >>> data = GaussianMixture([[1.0] * 4], 0.1).sample(100)
        >>> levels = fit_level_network(VPSDE(), data, MLP((4,), width=8, depth=1), updates=5)
        >>> levels.log_noise(data).shape
        torch.Size([100])
    """
    check_scalar(sde)
    check_training(x, updates, batch_size, learning_rate, seed)
    least, event = end_time(sde, t_min), tuple(x.shape[1:])
    check_number("t_min", least, above=0.0, below=sde.T)
    low, high = sde.log_noise(torch.tensor([least, sde.T], dtype=torch.float64)).tolist()
    made = LevelNetwork(network, low, high, repr(sde.continuous), event, fingerprint(sde.continuous, event))

    def loss(noise: NoiseSource) -> Tensor:
        v = noise.uniform((2,), step=0, purpose="level network", dtype=torch.float64)
        u = low + (high - low) * v[:, 0]
        z = noise.normal(event, step=0, purpose="level network noise", dtype=x.dtype)
        noisy = sde.perturb(x[(v[:, 1] * len(x)).long()], sde.time_of_log_noise(u).to(x), z)
        found: Tensor = 2.0 * (made.raw(noisy) - u.to(x)).abs().mean()
        return found

    minimize(
        network, loss, updates=updates, batch_size=batch_size, learning_rate=learning_rate, seed=seed, device=x.device
    )
    return made
