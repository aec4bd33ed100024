r"""Times of training examples that are drawn more often where losses are large.

The objectives of jump processes map u in [0, 1) to a time. ``AdaptiveTimes`` divides [0, 1] into n equal intervals, and draws
interval i with the probability

.. math::
    p_i = (1 - v) \frac{\sqrt{E[L_i^2]}}{\sum_j \sqrt{E[L_j^2]}} + \frac{v}{n}

where the mean square is that of the last losses L_i at times of the interval. A loss is divided by n p_i, so that its mean
does not change. Among distributions that are constant in each interval, v = 0 has the smallest second moment of the loss.

Under ``Absorbing`` with the linear schedule and L tokens, whose cross-entropy is h(t) if the others are masked with the
probability t, the loss has the second moment L^2 h(t)^2 (1 + (1 - t) / (t L)) up to the spread of the cross-entropy. The
optimal density is therefore nearly proportional to h(t): uniform times are close to it except below t = 1 / L, and the
bound has the same value for every schedule. Other processes have large losses at small t.

References:
    Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, section 3.3. Kingma et al.
    2021, arXiv:2107.00630, appendix I.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.losses.importance import LossHistory


class AdaptiveTimes:
    """A density on [0, 1], constant in equal intervals, that follows the root mean square of the last losses.

    The history of losses is state. Training adds the losses of the whole batch to it after every step, and saves it in
    checkpoints. In a loop of your own, call ``objective.observe(draw.t, losses)`` after every step.

    Args:
        bins: Number of intervals n, >= 1.
        history: Number of losses for each interval, >= 1. Until every interval has as many, all are equally probable.
        uniform: Part v of the probability that all intervals share equally, in [0, 1).

    Example:
        >>> import torch
        >>> from scoresde.jump import AdaptiveTimes
        >>> times = AdaptiveTimes(bins=2, history=1, uniform=0.0)
        >>> times.observe(torch.tensor([0.2, 0.7]), torch.tensor([3.0, 1.0]))
        >>> times.draw(torch.tensor([0.3, 0.9]))
        (tensor([0.2000, 0.8000]), tensor([1.5000, 0.5000]))
    """

    def __init__(self, bins: int = 32, history: int = 50, uniform: float = 0.1) -> None:
        check_count("bins", bins)
        check_count("history", history)
        check_number("uniform", uniform, least=0.0, below=1.0)
        self.bins, self.history, self.uniform = bins, history, uniform
        self._losses = LossHistory(history, uniform)
        self._losses.size(bins)

    def probabilities(self) -> Tensor:
        """The probabilities of the intervals.

        Returns:
            The probabilities p_i, (n,) float64 on the CPU.
        """
        return self._losses.probabilities(self.bins)

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of the cumulative distribution function, and the density there.

        Args:
            u: Uniform numbers in [0, 1), of any shape.

        Returns:
            Numbers in [0, 1) and their densities n p_i, in the shape and dtype of u.
        """
        p = self.probabilities().to(u.device)
        ends = p.cumsum(0) / p.sum()
        index = torch.searchsorted(ends, u.to(torch.float64), right=True).clamp(max=self.bins - 1)
        inside = ((u - (ends - p)[index]) / p[index]).clamp(0.0, 1.0 - 1e-12)
        return ((index + inside) / self.bins).to(u.dtype), (self.bins * p[index]).to(u.dtype)

    def density(self, u: Tensor) -> Tensor:
        """The density.

        Args:
            u: Numbers in [0, 1], of any shape.

        Returns:
            n p_i, in the shape and dtype of u.
        """
        return (self.bins * self.probabilities().to(u.device))[self._bin(u)].to(u.dtype)

    def observe(self, u: Tensor, losses: Tensor) -> None:
        """Adds losses to the history.

        Args:
            u: Numbers in [0, 1], (B,).
            losses: The losses before the division by the density, (B,), finite. Those of one interval replace its oldest
                ones in their order.
        """
        if losses.shape != u.shape or u.ndim != 1:
            raise ValueError(f"losses has shape {tuple(losses.shape)} for u of shape {tuple(u.shape)}: give (B,) both")
        self._losses.observe(self._bin(u.detach().cpu()), losses)

    def state(self) -> dict[str, Tensor]:
        """The history, for a checkpoint.

        Returns:
            "losses", (n, history), and "counts", the number of losses that each interval has had, (n,).
        """
        return self._losses.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restores the history.

        Args:
            state: The result of ``state`` of another one with the same arguments.

        Raises:
            ValueError: If it does not fit. Nothing is changed then.
        """
        self._losses.load(state)

    def _bin(self, u: Tensor) -> Tensor:
        """The intervals of numbers."""
        return (u * self.bins).floor().long().clamp(0, self.bins - 1)
