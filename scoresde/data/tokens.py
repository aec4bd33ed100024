"""Tokens: discrete data whose values are names, with no order and no distance between them.

    tokens k in 0 .. K-1   ->   x = k, an integer tensor (int64)

Nothing is added, scaled or rounded, so a model of tokens has probabilities and no density. Jump processes (``scoresde.jump``)
take x as it is. `AsTokens` reads any data with levels as tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_count, check_finite, shown
from scoresde.data.values import as_tensor, check_event
from scoresde.noise import NoiseSource

LISTED = 40
"""Largest number of names in a summary."""


@dataclass(frozen=True)
class Tokens:
    """Tokens 0 .. tokens - 1, whose x is the token itself (int64).

    Args:
        tokens: Size of the vocabulary, without the mask of an absorbing process.
        names: The name of each token, for files and reports: the letters of an alphabet, or the categories of a table. Empty if
            the tokens have no names.

    Raises:
        ValueError: If ``tokens`` is below 2, or the names are not ``tokens`` different texts.

    Example:
        >>> import torch
        >>> from scoresde.data import Tokens
        >>> Tokens(3).encode([[0, 2, 1]], None, dtype=torch.float32)
        tensor([[0, 2, 1]])
    """

    tokens: int
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens, least=2)
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names:
            return
        if len(self.names) != self.tokens:
            raise ValueError(
                f"names={shown(self.names)} has {len(self.names)} texts: give tokens={self.tokens} of them"
            )
        if len(set(self.names)) < self.tokens:
            twice = next(name for k, name in enumerate(self.names) if name in self.names[:k])
            raise ValueError(f"names={shown(self.names)} contains {twice!r} more than once: give different texts")

    @property
    def discrete(self) -> bool:
        """True: tokens are discrete, so bits/dim are defined."""
        return True

    @property
    def dequantized(self) -> bool:
        """False: nothing is added to tokens."""
        return False

    @property
    def summary(self) -> str:
        """The transform in one line, without a long list of names."""
        return repr(self) if self.tokens <= LISTED or not self.names else f"Tokens(tokens={self.tokens}, with names)"

    def check(self, raw: Any, name: str = "raw data", index: Tensor | None = None) -> Tensor:
        """Check tokens.

        Args:
            raw: Tokens of shape (B, *event); whole numbers, which may be stored as floats.
            name: The name of the data in messages.
            index: Indices of the events in the data, of shape (B,), for messages. By default 0 .. B - 1.

        Returns:
            The tokens as a tensor of integers.

        Raises:
            ValueError: For fractions, NaN, empty data, or numbers outside 0 .. tokens - 1, with the first such place.
        """
        raw = check_event(name, as_tensor(name, raw))
        if raw.is_floating_point():
            check_finite(name, raw.reshape(len(raw) if raw.ndim else 1, -1))
        low, high = (float(value) for value in torch.aminmax(raw))
        if low < 0 or high >= self.tokens or (raw.is_floating_point() and bool((raw != raw.round()).any())):
            raise ValueError(f"{name} {self._fault(raw, index)}: allowed are whole numbers 0 .. {self.tokens - 1}")
        out: Tensor = raw.long() if raw.is_floating_point() else raw
        return out

    def _fault(self, raw: Tensor, index: Tensor | None) -> str:
        """The first value that is not allowed, and its place."""
        wrong = (raw < 0) | (raw >= self.tokens)
        if raw.is_floating_point():
            wrong |= raw != raw.round()
        place = wrong.nonzero()[0].tolist()
        value = float(raw[tuple(place)]) if place else float(raw)
        at = f" in event {place[0] if index is None else int(index[place[0]])}" if place else ""
        at += f" at {tuple(place[1:])}" if place[1:] else ""
        mask = ", the number of a mask, which only a process adds" if value == self.tokens else ""
        return f"holds the token {value:.17g}{at}{mask}"

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Tokens do not depend on the dtype of the network: every dtype is allowed.

        Args:
            dtype: A floating-point dtype.
        """

    def encode(self, raw: Any, noise: NoiseSource | None = None, *, step: int = 0, dtype: torch.dtype) -> Tensor:
        """Map tokens to x.

        Args:
            raw: Tokens of shape (B, *event).
            noise: Not used.
            step: Not used.
            dtype: Not used: x is int64.

        Returns:
            x of shape (B, *event) in int64.

        Raises:
            ValueError: As `check`.
        """
        return self._encode(self.check(raw), noise, step=step, dtype=dtype)

    def _encode(self, raw: Tensor, noise: NoiseSource | None, *, step: int, dtype: torch.dtype) -> Tensor:
        return raw.to(torch.int64)

    def decode(self, x: Any) -> Tensor:
        """Map x to tokens.

        Args:
            x: A tensor of shape (B, *event).

        Returns:
            The tokens (int64), equal to x.

        Raises:
            ValueError: As `check`: a sample with a token outside of the vocabulary, such as a mask, is not finished.
        """
        return self.check(x, "x").to(torch.int64)

    def spread(self, std: float) -> float:
        """The standard deviation of x.

        Args:
            std: The standard deviation of the tokens as numbers.

        Returns:
            ``std``.
        """
        return std

    def log_volume(self, dimensions: int) -> float:
        """0: a model of tokens has probabilities, which no change of volume affects.

        Args:
            dimensions: The number of coordinates of an event.

        Returns:
            0.
        """
        return 0.0
