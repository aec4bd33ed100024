r"""The instants of a chain, drawn in proportion to the root mean square of their losses (Nichol & Dhariwal 2021).

.. math::
    p_i = (1 - u) \frac{\sqrt{E[L_i^2]}}{\sum_j \sqrt{E[L_j^2]}} + \frac{u}{N}

The mean square of an instant is that of its last losses L_i, 10 of them in the paper. Until every instant has as many, all are
equally probable. A loss is divided by N p_i, so that its mean does not change. The second moment of the weighted loss is smallest
for u = 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, check_number, shown
from scoresde.losses.times import TimeDistribution
from scoresde.sde import SDE, Chain


class LossHistory:
    """The last losses of each of N classes of times, and probabilities that follow them.

    Args:
        history: Number of losses for each class, >= 1.
        uniform: Part of the probability that all classes share equally, in [0, 1).
    """

    def __init__(self, history: int, uniform: float) -> None:
        self.history, self.uniform = history, uniform
        self._losses = torch.zeros(0, history, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)

    def size(self, count: int = 0) -> int:
        """The number of classes.

        Args:
            count: The number that an empty history gets.

        Returns:
            The number N.
        """
        if not len(self._counts) and count:
            self._losses = torch.zeros(count, self.history, dtype=torch.float64)
            self._counts = torch.zeros(count, dtype=torch.int64)
        return len(self._counts)

    def probabilities(self, count: int) -> Tensor:
        """Probabilities proportional to the root mean square of the losses. They are equal until every class has all its losses.

        Args:
            count: The number of classes N.

        Returns:
            The probabilities, (N,) float64 on the CPU.
        """
        equal = torch.full((self.size(count),), 1.0 / count, dtype=torch.float64)
        if int(self._counts.min()) < self.history:
            return equal
        root = self._losses.square().mean(1).sqrt()
        total = float(root.sum())
        return (1.0 - self.uniform) * root / total + self.uniform * equal if total > 0 else equal

    def observe(self, index: Tensor, losses: Tensor) -> None:
        """Adds losses.

        Args:
            index: The classes, (B,) on the CPU.
            losses: The losses, (B,), finite. Those of one class replace its oldest ones in their order.
        """
        check_finite("losses", losses[:, None])
        index, order = index.sort(stable=True)
        rank = torch.arange(len(index)) - torch.searchsorted(index, index)  # number of earlier losses of the same class
        added = torch.bincount(index, minlength=len(self._counts))
        kept = rank >= added[index] - self.history  # only the last ones, each at a place of its own
        place = (self._counts[index] + rank) % self.history
        self._losses[index[kept], place[kept]] = losses.detach().to("cpu", torch.float64)[order][kept]
        self._counts += added

    def state(self) -> dict[str, Tensor]:
        """The history, for a checkpoint.

        Returns:
            "losses", (N, history), and "counts", the number of losses that each class has had, (N,).
        """
        return {"losses": self._losses.clone(), "counts": self._counts.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restores the history.

        Args:
            state: The result of ``state`` of a history of the same size.

        Raises:
            ValueError: If it does not fit. Nothing is changed then.
        """
        losses, counts = state.get("losses"), state.get("counts")
        if losses is None or counts is None:
            raise ValueError(f"state has {', '.join(state) or 'nothing'}: give losses and counts")
        if losses.ndim != 2 or losses.shape[1] != self.history or counts.shape != losses.shape[:1]:
            raise ValueError(
                f"state has losses of shape {tuple(losses.shape)} and counts of shape {tuple(counts.shape)}: give (N, "
                f"{self.history}) and (N,)"
            )
        if len(self._counts) and len(counts) != len(self._counts):
            raise ValueError(f"state has {len(counts)} instants: give the history of {len(self._counts)}")
        check_finite("losses", losses)
        if bool((counts < 0).any()):
            raise ValueError(f"counts={shown(counts)} is not allowed: give whole numbers >= 0")
        self._losses, self._counts = losses.to("cpu", torch.float64).clone(), counts.to("cpu", torch.int64).clone()


class ImportanceTimes(TimeDistribution):
    """Instants of a ``Chain`` with probabilities proportional to the root mean square of their last losses.

    The history of losses is state. Training adds the losses of the whole batch to it after every step, in the order of the batch,
    and saves it in checkpoints: all processes of a run have the same history, and a run that is resumed has that of one which was
    not stopped. In a loop of your own, call ``observe`` after every step.

    Args:
        history: Number of losses for each instant, >= 1.
        uniform: Part u of the probability that all instants share equally, in [0, 1).

    References:
        Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models", arXiv:2102.09672, section 3.3.

    Example:
        >>> import torch
        >>> from scoresde.sde import VPSDE
        >>> chain, times = VPSDE().discretize(30), ImportanceTimes(history=1, uniform=0.0)
        >>> t = chain.time(torch.arange(30))
        >>> times.observe(chain, t, torch.tensor([29.0] + 29 * [1.0]))
        >>> times.probabilities(chain)[0]
        tensor(0.5000, dtype=torch.float64)
    """

    learns = True

    def __init__(self, history: int = 10, uniform: float = 0.001) -> None:
        check_count("history", history)
        check_number("uniform", uniform, least=0.0, below=1.0)
        self.history, self.uniform = history, uniform
        self._losses = LossHistory(history, uniform)

    def probabilities(self, sde: SDE) -> Tensor:
        """The probabilities p_i of the instants.

        Args:
            sde: The chain.

        Returns:
            The probabilities, (N,) float64 on the CPU.
        """
        return self._losses.probabilities(self._of(sde).steps)

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        chain = self._of(sde)
        ends = self.probabilities(chain).cumsum(0).to(u.device)
        index = torch.searchsorted(ends / ends[-1], u.to(torch.float64), right=True).clamp(max=chain.steps - 1)
        return chain.time(index).to(u.dtype)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        chain = self._of(sde)
        return (self.probabilities(chain) * chain.steps).to(t.device)[chain.index(t)].to(t.dtype)

    def observe(self, sde: SDE, t: Tensor, losses: Tensor) -> None:
        """Adds losses to the history.

        Args:
            sde: The chain.
            t: Times of instants, (B,).
            losses: The losses before the division by the density, (B,), finite. Those of one instant replace its oldest ones in
                their order.
        """
        chain = self._of(sde)
        if losses.shape != t.shape or t.ndim != 1:
            raise ValueError(f"losses has shape {tuple(losses.shape)} for t of shape {tuple(t.shape)}: give (B,) both")
        self._losses.observe(chain.index(t.detach().cpu()), losses)

    def state(self) -> dict[str, Tensor]:
        """The history, for a checkpoint.

        Returns:
            "losses", (N, history), and "counts", the number of losses that each instant has had, (N,). Empty before the first
            call with a chain.
        """
        return self._losses.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restores the history.

        Args:
            state: The result of ``state`` of a distribution with the same arguments, for the same chain.

        Raises:
            ValueError: If it does not fit. Nothing is changed then.
        """
        self._losses.load(state)

    def _of(self, sde: SDE) -> Chain:
        """The chain. Its history is empty at the first call."""
        if not isinstance(sde, Chain):
            raise TypeError(
                f"ImportanceTimes needs a chain, but sde={sde!r} is continuous: give e.g. sde.discretize(1000)"
            )
        if self._losses.size(sde.steps) != sde.steps:
            raise ValueError(
                f"sde={sde!r} has {sde.steps} instants, and this ImportanceTimes has the history of {self._losses.size()}: give "
                "every chain its own"
            )
        return sde
