r"""Markov chains of any order as data: exact posteriors by the forward-backward algorithm, samples, and entropies.

The next token depends on the last k, which are the state of the chain. With the observations e_i(y) = q(x_t^i | x_0^i = y),

.. math::
    a_i(x_{i-k+1}, \dots, x_i) = e_i(x_i) \sum_{x_{i-k}} p(x_i \mid x_{i-k}, \dots, x_{i-1})\, a_{i-1}(x_{i-k}, \dots, x_{i-1})

and the same sums backwards. A sequence of L tokens with K values needs L K^(k+1) operations. The first k tokens have the
joint distribution ``initial``.

References:
    Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition",
    doi:10.1109/5.18626. Cover, Thomas 2006, "Elements of information theory", section 4.2 (entropy rate).
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._validation import Numbers, as_numbers, check_count
from scoresde.jump.oracles import DiscreteDistribution
from scoresde.jump.states import check_log_weights, draw_states, log_or_zero, whole_states
from scoresde.noise import NoiseSource

_LARGEST = 2**22
"""Largest number of entries of the transition probabilities."""
_DENSE = 1024
"""Largest number of states for which the stationary distribution is solved directly."""
_ITERATIONS = 100_000


class MarkovChain(DiscreteDistribution):
    r"""A Markov chain x_1, ..., x_L with K values, for any length L. Events have the shape (L,).

    Args:
        transition: Probabilities of the next token given the last k, ``(K, ..., K)`` with k + 1 dimensions, the next token
            last. Rows sum to 1. A matrix ``(K, K)`` has the order k = 1.
        initial: Probabilities of the first k tokens, ``(K,) * k``. None for the stationary distribution.

    Example:
        >>> import torch
        >>> from scoresde.jump import MarkovChain
        >>> chain = MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> chain.sample(2, 5).shape, round(chain.entropy_rate(), 4)
        (torch.Size([2, 5]), 0.3835)
        >>> parity = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]])  # of the last two bits
        >>> MarkovChain(parity).order
        2
    """

    def __init__(self, transition: Numbers, initial: Numbers | None = None) -> None:
        rows = as_numbers("transition", transition)
        if rows.ndim < 2 or len(set(rows.shape)) != 1 or len(rows) < 2 or rows.numel() > _LARGEST:
            raise ValueError(
                f"transition has shape {tuple(rows.shape)}: give (K, K), or (K, ..., K) for a higher order, with K >= 2 and at "
                "most 2**22 entries"
            )
        check_log_weights("transition", rows)
        self.transition, self.tokens, self.order = rows, len(rows), rows.ndim - 1
        self.initial = self.stationary() if initial is None else as_numbers("initial", initial)
        if self.initial.shape != rows.shape[:-1]:
            raise ValueError(f"initial has shape {tuple(self.initial.shape)}: give {tuple(rows.shape[:-1])}")
        check_log_weights("initial", self.initial.reshape(-1))

    def stationary(self) -> Tensor:
        """The stationary distribution of k successive tokens.

        Returns:
            The probabilities, ``(K,) * k`` float64.

        Raises:
            ValueError: If it is not found.
        """
        count, eye = self.tokens**self.order, torch.eye
        if count <= _DENSE:
            moves = torch.stack([self._advance(row, self.order) for row in eye(count, dtype=torch.float64).split(1)])[
                :, 0
            ]
            system = torch.cat((moves.mT - eye(count, dtype=torch.float64), torch.ones(1, count, dtype=torch.float64)))
            target = torch.zeros(count + 1, 1, dtype=torch.float64)
            target[-1] = 1.0
            found = torch.linalg.lstsq(system, target).solution[:, 0].clamp(min=0.0)
        else:
            found = torch.full((count,), 1.0 / count, dtype=torch.float64)
            for _ in range(_ITERATIONS):
                before = found
                found = 0.5 * (found + self._advance(found[None], self.order)[0])  # the mean, for periodic chains
                if float((found - before).abs().sum()) < 1e-14:
                    break
            else:
                raise ValueError(
                    f"transition has no stationary distribution that {_ITERATIONS} iterations find: give initial=..."
                )
        stationary: Tensor = (found / found.sum()).reshape(self.transition.shape[:-1])
        return stationary

    def entropy_rate(self) -> float:
        """The entropy of the next token given all before it, for the stationary distribution.

        Returns:
            The rate in nats per token.
        """
        return float((self.stationary() * self._row_entropies()).sum())

    def entropy(self, length: int) -> float:
        """The entropy of a sequence.

        Args:
            length: Number of tokens L.

        Returns:
            -E ln p(x) in nats.
        """
        check_count("length", length)
        p = self._first(min(length, self.order))
        total = -float(torch.special.xlogy(p, p).sum())
        p = p.reshape(1, -1)
        for _ in range(length - self.order):
            total += float((p[0] * self._row_entropies().reshape(-1)).sum())
            p = self._advance(p, self.order)
        return total

    def log_prob(self, x: Tensor) -> Tensor:
        self._check("x", x)
        x = whole_states("x", x, self.tokens)
        first = min(x.shape[1], self.order)
        total = log_or_zero(self._first(first).to(x.device))[tuple(x[:, :first].unbind(1))]
        steps = log_or_zero(self.transition.to(x.device))
        if x.shape[1] > self.order:
            windows = x.unfold(1, self.order + 1, 1)
            total = total + steps[tuple(windows.unbind(2))].sum(1)
        return total

    def sample(self, n: int, length: int, seed: int = 0, first: int = 0) -> Tensor:
        """Draw samples.

        Args:
            n: Number of samples.
            length: Number of tokens L.
            seed: Seed of the draws.
            first: Index of the first sample. Sample i depends only on (seed, first + i).

        Returns:
            The samples, ``(n, L)`` int64.
        """
        check_count("n", n)
        check_count("length", length)
        noise, x = NoiseSource.of(seed, n, first), torch.zeros(n, 0, dtype=torch.int64)
        for i in range(length):
            rows = self._conditional(i)
            place = torch.zeros(n, dtype=torch.int64)
            for token in x[:, -self.order :].unbind(1):
                place = place * self.tokens + token
            drawn = draw_states(log_or_zero(rows[place]), noise, step=i, purpose="chain")
            x = torch.cat((x, drawn[:, None]), 1)
        return x

    def posterior(self, log_likelihood: Tensor) -> tuple[Tensor, Tensor]:
        self._check("log_likelihood", log_likelihood[..., 0])
        best = log_likelihood.amax(-1, keepdim=True)
        seen, size = (log_likelihood - best).exp().unbind(1), len(log_likelihood)
        tables = [self._conditional(i).to(log_likelihood) for i in range(min(len(seen), self.order + 1))]
        now, total, ahead = torch.ones_like(best[:, 0]), best.sum((1, 2)), list[Tensor]()
        for i, observed in enumerate(seen):
            now = self._advance(now, i, tables[min(i, self.order)], observed)
            norm = now.sum(1, keepdim=True)
            now, total = now / norm, total + norm[:, 0].log()
            ahead.append(now)
        back = torch.ones_like(ahead[-1])
        each = list[Tensor]()
        for i in range(len(seen) - 1, -1, -1):
            each.append((ahead[i] * back).reshape(size, -1, self.tokens).sum(1))
            if i:  # the sum over token i, whose state has lost its first token if it had k before
                later = (back.reshape(size, -1, self.tokens) * seen[i][:, None])[:, None]
                table = tables[min(i, self.order)].reshape(-1, later.shape[2], self.tokens)
                back = (later * table).sum(3).reshape(size, -1)
                back = back / back.sum(1, keepdim=True)
        found = torch.stack(each[::-1], 1)
        return log_or_zero(found / found.sum(-1, keepdim=True)), total

    def _first(self, count: int) -> Tensor:
        """The probabilities of the first ``count`` <= k tokens, (K,) * count."""
        first: Tensor = self.initial.sum(tuple(range(count, self.order))) if count < self.order else self.initial
        return first

    def _conditional(self, i: int) -> Tensor:
        """Probabilities of token i (from 0) given the min(i, k) before it, (K^min(i, k), K)."""
        if i >= self.order:
            return self.transition.reshape(-1, self.tokens)
        joint = self._first(i + 1).reshape(-1, self.tokens)
        total = joint.sum(1, keepdim=True)
        return torch.where(total > 0, joint / torch.where(total > 0, total, 1.0), 1.0 / self.tokens)

    def _advance(self, p: Tensor, i: int, table: Tensor | None = None, observed: Tensor | None = None) -> Tensor:
        """The weights (B, states) of the last tokens after token i, from those before it, times those of its observation."""
        table = self._conditional(i) if table is None else table
        joint = p[..., None] * table
        if i >= self.order:
            joint = joint.reshape(len(p), self.tokens, -1, self.tokens).sum(1)
        weights: Tensor = joint if observed is None else joint * observed[:, None]
        return weights.reshape(len(p), -1)

    def _row_entropies(self) -> Tensor:
        """The entropy of the next token given the last k, (K,) * k nats."""
        entropies: Tensor = -torch.special.xlogy(self.transition, self.transition).sum(-1)
        return entropies

    def _check(self, name: str, x: Tensor) -> None:
        if x.ndim != 2:
            raise ValueError(f"{name} has events of shape {tuple(x.shape[1:])}: give (L,)")
