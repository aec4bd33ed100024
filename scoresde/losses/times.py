"""Distributions of the time of a training example, on [t_min, T], with their densities.

An objective is an integral over t. Drawing t from a distribution of density p and dividing by p leaves the integral
unchanged and changes only the variance of its estimate.

- ``UniformTime``: p = 1 / (T - t_min), as in the paper.
- ``UniformLogNoise``: uniform in u = ln(sigma / alpha) over a range, p(t) = (du / dt) / (u_max - u_min).
- ``ChainTimes``: the N instants of a chain with equal probability (DDPM, SMLD).
- ``ImportanceTimes`` (``importance.py``): the instants with probabilities that follow their losses (improved DDPM).
- ``LowDiscrepancy``: any of these, with times that a batch shares out evenly (VDM).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._validation import check_number, check_rising
from scoresde.noise import NoiseSource
from scoresde.sde import SDE, Chain, LinearSDE


class TimeDistribution(ABC):
    """A distribution of t.

    It maps one uniform number per example to a time, so that the draws depend only on the key of the sample.

    A distribution that ``learns`` has a state that the losses change. Training calls ``observe`` after every step, and saves
    ``state`` in checkpoints.
    """

    learns: ClassVar[bool] = False
    """Whether ``observe`` changes the distribution."""

    @abstractmethod
    def times(self, sde: SDE, u: Tensor) -> Tensor:
        """Maps uniform numbers to times: the inverse of the cumulative distribution function.

        Args:
            sde: The process.
            u: Uniform numbers in (0, 1), (B,).

        Returns:
            The times t, (B,).
        """

    @abstractmethod
    def density(self, sde: SDE, t: Tensor) -> Tensor:
        """Computes p(t) (T - t_min), which is 1 everywhere for the uniform distribution.

        Args:
            sde: The process.
            t: The times, (B,).

        Returns:
            The density, (B,).
        """

    def observe(self, sde: SDE, t: Tensor, losses: Tensor) -> None:  # noqa: B027  (most distributions do not learn)
        """Learns from the losses of a step, if the distribution ``learns``.

        Args:
            sde: The process.
            t: The times of all examples of the step, (B,).
            losses: Their losses before the division by the density, (B,).
        """

    def state(self) -> dict[str, Tensor]:
        """What the distribution has learned.

        Returns:
            Tensors by name, empty if it does not learn.
        """
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restores what the distribution had learned.

        Args:
            state: The result of ``state``.
        """

    def quantiles(self, u: Tensor, source: NoiseSource, step: int) -> Tensor:
        """The numbers that ``times`` maps to the times of a batch.

        Args:
            u: Independent uniform numbers in (0, 1), (B,).
            source: The noise source of the batch.
            step: Key of the random draws.

        Returns:
            ``u``, unless a subclass returns other numbers of the same distribution.
        """
        return u


@dataclass(frozen=True)
class UniformTime(TimeDistribution):
    """The uniform distribution on (t_min, T).

    Args:
        t_min: In (0, T). The paper trains with 1e-5.
    """

    t_min: float = 1e-5

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, above=0.0)

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        check_number("t_min", self.t_min, most=sde.T)
        return u * (sde.T - self.t_min) + self.t_min

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class UniformLogNoise(TimeDistribution):
    """ln(sigma / alpha) is uniform between ln ``low`` and ln ``high``, restricted to the range of the process in [t_min, T].

    With likelihood weighting, g^2 / sigma^2 = d ln(sigma / alpha)^2 / dt for every linear process, so that every example has
    the same weight. Times outside the range are not trained. Choose the range wider than the range in which the network can
    contribute: for quantized data, from a tenth of the width of a level to a hundred times the data's standard deviation.

    Args:
        low: Smallest noise-to-signal ratio sigma / alpha, > 0.
        high: Largest noise-to-signal ratio, > low.
        t_min: In [0, T).
    """

    low: float = 1e-3
    high: float = 1e2
    t_min: float = 1e-5

    def __post_init__(self) -> None:
        check_number("low", self.low, above=0.0)
        check_rising("low", self.low, "high", self.high)
        check_number("t_min", self.t_min, least=0.0)

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        sde = _linear(sde)
        first, last = self._range(sde, u)
        return sde.time_of_log_noise(first + u.to(torch.float64) * (last - first)).to(u.dtype)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        sde = _linear(sde)
        first, last = self._range(sde, t)
        slope = sde.log_noise_slope(t)
        return (slope / (last - first)).to(t.dtype) * (sde.T - self.t_min)

    def _range(self, sde: LinearSDE, like: Tensor) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([self.t_min, sde.T], dtype=torch.float64, device=like.device)
        reached = sde.log_noise(ends)
        wanted = torch.tensor([self.low, self.high], dtype=torch.float64, device=like.device).log()
        first, last = torch.maximum(reached[0], wanted[0]), torch.minimum(reached[1], wanted[1])
        if not bool(first < last):
            low, high = reached.exp().tolist()
            raise ValueError(
                f"low={self.low}, high={self.high} are not allowed: give a range that overlaps with that of the process, where "
                f"sigma/alpha is between {low:g} and {high:g}"
            )
        return first, last


def _linear(sde: SDE) -> LinearSDE:
    """``sde``, if it is linear and so has a ln(sigma / alpha)."""
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde={sde!r} has no ln(sigma / alpha), which UniformLogNoise needs: give times=UniformTime()")
    return sde


@dataclass(frozen=True)
class ChainTimes(TimeDistribution):
    """One of the N instants i / (N - 1) of a ``Chain``, each with probability 1 / N."""

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        if not isinstance(sde, Chain):
            raise TypeError(f"ChainTimes needs a chain, but sde={sde!r} is continuous: give e.g. sde.discretize(1000)")
        return sde.time((u * sde.steps).long()).to(u.dtype)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True)
class LowDiscrepancy(TimeDistribution):
    r"""Times of a distribution that a batch shares out evenly, for a smaller variance of the mean over the batch.

    .. math:: u_i = (v + \phi(i)) \bmod 1, \qquad \phi\Big(\sum_k b_k 2^k\Big) = \sum_k b_k 2^{-k-1}

    One random v is drawn for each step. i is the position of an example in the stream of training, and phi its radical
    inverse (van der Corput). In a batch of :math:`2^m` examples the numbers are exactly equally spaced, as in the paper. In
    every part of it that a process or a micro-batch computes, they are spread nearly evenly. Each one alone is uniform.

    Args:
        of: The distribution of each time, ``UniformTime()`` by default.

    References:
        Kingma et al. 2021, Variational diffusion models, arXiv:2107.00630, appendix I.1.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.losses import DenoisingScoreMatching, LowDiscrepancy
        >>> t = DenoisingScoreMatching(VPSDE(), times=LowDiscrepancy()).draw(torch.zeros(8, 2)).t
        >>> t.sort().values.diff().std() < 1e-6
        tensor(True)
    """

    of: TimeDistribution = UniformTime()

    def __post_init__(self) -> None:
        if not isinstance(self.of, TimeDistribution) or isinstance(self.of, LowDiscrepancy):
            raise TypeError(
                f"of={self.of!r} is not allowed: give UniformTime(), UniformLogNoise(low, high) or ChainTimes()"
            )

        object.__setattr__(self, "learns", self.of.learns)

    def times(self, sde: SDE, u: Tensor) -> Tensor:
        return self.of.times(sde, u)

    def density(self, sde: SDE, t: Tensor) -> Tensor:
        return self.of.density(sde, t)

    def observe(self, sde: SDE, t: Tensor, losses: Tensor) -> None:
        self.of.observe(sde, t, losses)

    def state(self) -> dict[str, Tensor]:
        return self.of.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.of.load(state)

    def quantiles(self, u: Tensor, source: NoiseSource, step: int) -> Tensor:
        shared = NoiseSource(source.seed, torch.zeros_like(source.indices[:1]))
        v = shared.uniform((), step=step, purpose="shared time", dtype=torch.float64)
        kind = torch.finfo(u.dtype)
        spread = (v + radical_inverse(source.indices)).remainder(1.0)
        return spread.to(u.dtype).clamp(kind.tiny, 1.0 - kind.eps / 2)


def radical_inverse(index: Tensor) -> Tensor:
    """The radical inverse of whole numbers in [0, 2^32) in base 2, in float64: the binary digits mirrored at the point."""
    bits = index.long()
    for width, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        bits = ((bits >> width) & mask) | ((bits & mask) << width)
    return bits.to(torch.float64) * 2.0**-32


def distribution_of(times: TimeDistribution) -> TimeDistribution:
    """The distribution of each time, without ``LowDiscrepancy``."""
    return times.of if isinstance(times, LowDiscrepancy) else times
