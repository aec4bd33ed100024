r"""Distributions of discrete data whose posteriors p(x_0 | x_t) are exact: small joints by enumeration. Markov chains are in
``markov.py``.

They take the place of a trained model, so that samplers and bounds are tested without training. For a process with the
columns e_i(k) = q(x_t^i | x_0^i = k),

.. math::
    p_t(x_t) = \sum_{x_0} p(x_0) \prod_i e_i(x_0^i), \qquad
    p(x_0^i = k \mid x_t) = \frac{1}{p_t(x_t)} \sum_{x_0 : x_0^i = k} p(x_0) \prod_j e_j(x_0^j)

A joint of d variables is summed over its K^d values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde._validation import Numbers, as_numbers, check_count
from scoresde.jump.base import JumpProcess
from scoresde.jump.states import check_log_weights, log_or_zero, whole_states
from scoresde.noise import NoiseSource

_LARGEST = 2**20
"""Largest number of values of an enumerated joint."""


class DiscreteDistribution(ABC):
    """Base class of distributions of tokens with exact posteriors.

    Attributes:
        tokens: Number of values K of each variable.
    """

    tokens: int

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x).

        Args:
            x: Data, ``(B, *event)``.

        Returns:
            The log-probability in nats, ``(B,)`` float64.
        """

    @abstractmethod
    def posterior(self, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of each variable given independent observations.

        Args:
            log_likelihood: ln e_i(k) of the observations, ``(B, *event, K)`` float64.

        Returns:
            ln p(x_0^i = k | observations), ``(B, *event, K)``, and ln p(observations), ``(B,)``, float64.
        """

    def model(self, process: JumpProcess) -> ExactModel:
        """The exact model of this data under a process.

        Args:
            process: The process, with the same number of tokens.

        Returns:
            A function (x, t) -> ln p(x_0 | x_t) for samplers and bounds.
        """
        return ExactModel(self, process)

    def log_prob_at(self, process: JumpProcess, x: Tensor, t: Tensor) -> Tensor:
        """ln p_t(x).

        Args:
            process: The process.
            x: States at t, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The log-probability in nats, ``(B,)`` float64.
        """
        return self.posterior(process.likelihood(x, t))[1]


class ExactModel:
    """The posteriors p(x_0 | x_t) of a ``DiscreteDistribution`` under a process.

    Args:
        data: The distribution of the data.
        process: The process.
    """

    def __init__(self, data: DiscreteDistribution, process: JumpProcess) -> None:
        if data.tokens != process.tokens:
            raise ValueError(f"process={process!r} has {process.tokens} tokens, and the data has {data.tokens}")
        self.data, self.process = data, process

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """ln p(x_0^i | x_t). Under ``Absorbing`` it does not depend on t.

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.

        Returns:
            The logarithms, ``(B, *event, K)`` float64.
        """
        if self.process.carries_over:  # the same at all t, also where tokens are visible at T
            t = torch.full_like(t, 0.5 * self.process.T)
        return self.data.posterior(self.process.likelihood(x, t))[0]

    def ratios(self, x: Tensor, t: Tensor) -> Tensor:
        """ln p_t(y) / p_t(x) for all y that differ from x in one coordinate.

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in (0, T), ``()`` or ``(B,)``.

        Returns:
            The logarithms, ``(B, *event, states)`` float64. The entry of x is 0.
        """
        return self.process.ratios(x, self(x, t), t)


class EnumeratedJoint(DiscreteDistribution):
    """A joint distribution of d variables with K values each, as a table. Events have the shape (d,).

    Args:
        probabilities: The table, ``(K,) * d``, >= 0, with the sum 1.

    Example:
        >>> import torch
        >>> from scoresde.jump import Absorbing, EnumeratedJoint
        >>> equal = EnumeratedJoint([[0.5, 0.0], [0.0, 0.5]])  # both bits are equal
        >>> model = equal.model(Absorbing(2))
        >>> model(torch.tensor([[1, 2]]), torch.tensor(0.5)).exp()  # the second bit is masked
        tensor([[[0., 1.],
                 [0., 1.]]], dtype=torch.float64)
    """

    def __init__(self, probabilities: Numbers) -> None:
        table = as_numbers("probabilities", probabilities)
        if table.ndim < 1 or len(set(table.shape)) != 1 or len(table) < 2 or table.numel() > _LARGEST:
            raise ValueError(
                f"probabilities has shape {tuple(table.shape)}: give a table (K, ..., K) with K >= 2 and at most 2**20 entries"
            )
        check_log_weights("probabilities", table.reshape(-1))
        self.probabilities, self.tokens = table, len(table)

    def log_prob(self, x: Tensor) -> Tensor:
        self._check("x", x)
        x = whole_states("x", x, self.tokens)
        return log_or_zero(self.probabilities.to(x.device))[tuple(x.unbind(1))]

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Draw samples.

        Args:
            n: Number of samples.
            seed: Seed of the draws.
            first: Index of the first sample. Sample i depends only on (seed, first + i).

        Returns:
            The samples, ``(n, d)`` int64.
        """
        check_count("n", n)
        noise = NoiseSource.of(seed, n, first)
        cumulative = self.probabilities.reshape(-1).cumsum(0)
        u = noise.uniform((), step=0, purpose="joint", dtype=torch.float64) * cumulative[-1]
        flat = torch.searchsorted(cumulative, u, right=True).clamp(max=len(cumulative) - 1)
        return torch.stack(torch.unravel_index(flat, self.probabilities.shape), 1)

    def entropy(self) -> float:
        """The entropy in nats.

        Returns:
            -sum p ln p.
        """
        return -float(torch.special.xlogy(self.probabilities, self.probabilities).sum())

    def posterior(self, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
        self._check("log_likelihood", log_likelihood[..., 0])
        size, d = len(log_likelihood), self.probabilities.ndim
        joint = log_or_zero(self.probabilities.to(log_likelihood.device)).expand(size, *self.probabilities.shape)
        for i in range(d):
            joint = joint + log_likelihood[:, i].reshape(size, *(self.tokens if j == i else 1 for j in range(d)))
        total = torch.logsumexp(joint.reshape(size, -1), 1)
        others = [[j + 1 for j in range(d) if j != i] for i in range(d)]
        each = [torch.logsumexp(joint, dims) if dims else joint for dims in others]
        return torch.stack(each, 1) - total[:, None, None], total

    def _check(self, name: str, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.probabilities.ndim:
            raise ValueError(f"{name} has events of shape {tuple(x.shape[1:])}: give ({self.probabilities.ndim},)")
