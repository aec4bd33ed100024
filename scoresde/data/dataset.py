"""A data set, its transform, and the order in which training sees it.

Order and noise are functions of (seed, position). The position p = step * batch + j runs through one permutation of the data per
epoch. A batch therefore does not depend on the number of processes, and a resumed run continues exactly where it stopped. Whether
an event is mirrored in training, with probability 1/2, also depends only on (seed, position). Data keeps its dtype, so 8-bit
images stay bytes, and is encoded batch by batch.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._representation import GIVEN
from scoresde._validation import check_count, check_finite, expand, shown
from scoresde.conditions import ConditionKind, Image
from scoresde.data.columns import Columns
from scoresde.data.condition_rows import ConditionRows
from scoresde.data.limits import check_all
from scoresde.data.rows import Rows, content_digest
from scoresde.data.stored import SPOT_CHECKS, Stored
from scoresde.data.tokens import Tokens
from scoresde.data.transforms import Affine, Quantized, Transform
from scoresde.data.values import as_tensor
from scoresde.noise import NoiseSource


class Batch(NamedTuple):
    """The training batch of a step.

    Attributes:
        x: Encoded events, (B, *event).
        position: Positions of the events in the stream of training events, (B,). They key the random draws.
        condition: Conditions by name, each with B rows.
    """

    x: Tensor
    position: Tensor
    condition: dict[str, Tensor]


class Dataset:
    """Raw data together with its transform to x.

    Args:
        raw: Data of shape (n, *event): integers 0 .. levels - 1 for a `Quantized` transform, 0 .. tokens - 1 for `Tokens`,
            finite real numbers for an `Affine` transform, rows for `Columns`. A tensor, a numpy array, a list, or a `Stored` that
            reads events on demand.
        transform: The transform. It is the only place that defines levels and range.
        name: A name for reports and messages.
        flip: Mirror events at random along their last dimension in training. `encode` never mirrors. Images among the conditions
            are mirrored together with the event.
        condition: Conditions by name, with one row for each event: tensors, arrays, lists, or a `Stored`.
        kinds: Kinds of the conditions by name. By default they follow from the shapes: whole numbers (n,) are classes, (n, k)
            vectors, (n, c, *sides) images, and other (n, L, k) tokens.

    Raises:
        TypeError: If the transform or the raw data have another type.
        ValueError: If the data is empty, or has NaN, infinities, or values that the transform does not allow. Of images and torch
            data sets the constructor checks only the first event; others are checked when they are read.
    """

    def __init__(
        self,
        raw: Any,
        transform: Transform,
        name: str = "data",
        *,
        flip: bool = False,
        condition: Mapping[str, Any] | None = None,
        kinds: Mapping[str, ConditionKind] | None = None,
    ) -> None:
        if not isinstance(transform, Transform):
            raise TypeError(
                f"transform={shown(transform)} is not a transform: give Quantized(levels), Affine(shift, scale), "
                "Columns(columns) or Tokens(tokens)"
            )
        if not isinstance(raw, Stored):
            raw = as_tensor(f"data set {name!r}", raw).detach().cpu()
        shape = tuple(raw.shape)
        if len(shape) < 2:
            raise ValueError(f"data set {name!r} has shape {shape}: give (n, *event), e.g. (n, 1) for scalars")
        if 0 in shape:
            raise ValueError(f"data set {name!r} is empty: shape {shape}, wanted (n, *event) with n >= 1")
        self.raw, self.transform, self.name, self.flip = raw, transform, name, flip
        self._check_flip()
        self._rows = ConditionRows(condition, kinds, shape, name)
        self._coarse = ""
        if isinstance(raw, Tensor | Rows):
            self._coarse = check_all(f"data set {name!r}", raw, transform)
        else:
            self.events(torch.arange(1))
            self._coarse = self._glance()
        if isinstance(raw, Tensor):
            self.raw = self._checked(raw)

    def part(self, index: Tensor, name: str, flip: bool = False) -> Dataset:
        """A data set of some of the events.

        Args:
            index: Indices of the events, of shape (n,).
            name: The name of the new data set.
            flip: As for `Dataset`.

        Returns:
            The new data set. The events of a tensor are copied.
        """
        made = copy.copy(self)
        made.raw = self.raw.part(index) if isinstance(self.raw, Rows) else self.raw[index]
        made._rows = self._rows.part(index)
        made.name, made.flip = name, flip
        made._check_flip()
        return made

    def with_condition(self, name: str, rows: Any, kind: ConditionKind | None = None) -> Dataset:
        """The same events with one more condition.

        Args:
            name: The name of the condition.
            rows: Its rows, one for each event: a tensor, an array, a list, or a `Stored`.
            kind: Its kind. By default it follows from the shape.

        Returns:
            The new data set, which shares the events.

        Raises:
            ValueError: If there is a condition of this name, or the rows do not fit.
        """
        made = copy.copy(self)
        kinds = None if kind is None else {name: kind}
        made._rows = self._rows.joined(ConditionRows({name: rows}, kinds, tuple(self.raw.shape), self.name))
        return made

    def with_transform(self, transform: Transform) -> Dataset:
        """The same events with another transform.

        Args:
            transform: A transform that allows the same raw data.

        Returns:
            The new data set, which shares the events and the conditions.
        """
        made = copy.copy(self)
        made.transform = transform
        vars(made)[GIVEN] = {**vars(self)[GIVEN], "transform": transform}
        return made

    def _check_flip(self) -> None:
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip={shown(self.flip)} is not allowed: give True or False")
        if self.flip and len(self.raw.shape) < 4:
            raise ValueError(
                f"flip={self.flip!r} mirrors images, and data set {self.name!r} has events {self.event_shape}"
            )

    def _glance(self) -> str:
        """The result of `check_all` for some events of real data. Events that cannot be read raise errors when they are read."""
        if isinstance(self.transform, Quantized | Tokens):
            return ""
        index = torch.arange(0, len(self), max(1, len(self) // SPOT_CHECKS))[:SPOT_CHECKS]
        try:
            return check_all(f"data set {self.name!r}", self.raw[index], self.transform)
        except ValueError:
            return ""

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Check that x of a dtype can represent the data.

        Args:
            dtype: A floating-point dtype.

        Raises:
            ValueError: If the dtype cannot hold the data, or cannot distinguish its values.
        """
        if not isinstance(self.transform, Affine):
            self.transform.check_dtype(dtype)
        if self._coarse and dtype != torch.float64:
            raise ValueError(self._coarse)

    def __len__(self) -> int:
        return len(self.raw)

    @property
    def summary(self) -> str:
        """One line with name, size and transform, for a report."""
        transform = self.transform.summary if isinstance(self.transform, Columns | Tokens) else repr(self.transform)
        given = "".join(f", {name}: {shown(kind)}" for name, kind in self.kinds.items())
        return f"Dataset({self.name!r}, {len(self)} events of shape {self.event_shape}, {transform}{given})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return tuple(self.raw.shape[1:])

    @property
    def kinds(self) -> dict[str, ConditionKind]:
        """Kinds of the conditions by name."""
        return self._rows.kinds

    def conditions(self, index: Tensor | slice | Sequence[int]) -> dict[str, Tensor]:
        """Conditions of events.

        Args:
            index: Indices of the events, of shape (B,), or a slice.

        Returns:
            The conditions by name, each with B rows.
        """
        index = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index)
        return self._rows(index)

    def byte_counts(self, index: Tensor | slice | Sequence[int]) -> Tensor | None:
        """The number of bytes of text that each event stands for: bits of events divided by them are bits/byte.

        Args:
            index: Indices of the events, of shape (B,), or a slice.

        Returns:
            The numbers, of shape (B,). Their sum over all events of a test set is the length of its text. None for data that is
            not text.
        """
        given = index if isinstance(index, slice) else torch.as_tensor(index)
        return self.raw.byte_counts(given) if isinstance(self.raw, Stored) else None

    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of shape, dtype and content, or the digest of a `Stored`.

        If there are conditions, it covers them too.
        """
        found: str = content_digest(self.raw) if isinstance(self.raw, Tensor) else self.raw.digest()
        if not self.kinds:
            return found
        return hashlib.sha256(f"{found} {self._rows.digest()}".encode()).hexdigest()[:16]

    def encode(
        self, index: Tensor | slice | Sequence[int], *, seed: int, draw: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Encode events.

        The result depends only on (seed, index, draw).

        Args:
            index: Indices of the events, of shape (B,), or a slice.
            seed: The seed of the dequantization noise.
            draw: The number of the draw of this noise.
            dtype: The dtype of x. Tokens are int64 with any.

        Returns:
            x of shape (B, *event).
        """
        self.check_dtype(dtype)
        index = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index)
        return self.transform._encode(self.events(index), NoiseSource(seed, index), step=draw, dtype=dtype)

    def batch(
        self, step: int, size: int, *, seed: int, dtype: torch.dtype = torch.float32, part: slice = slice(None)
    ) -> Batch:
        """The training batch of a step.

        Args:
            step: The number of the step.
            size: The batch size.
            seed: The seed of order, mirroring and dequantization.
            dtype: The dtype of x.
            part: The slice of the batch to return, for example that of one process.

        Returns:
            x of shape (size, *event), the positions (size,) that key the random draws of the step, and the conditions.
        """
        check_count("size", size)
        self.check_dtype(dtype)
        position = torch.arange(step * size, (step + 1) * size)[part]
        epoch = position // len(self)
        index = torch.empty_like(position)
        for e in epoch.unique().tolist():
            here = epoch == e
            index[here] = _order(len(self), seed, e)[position[here] % len(self)]
        # the draw depends on the position, not on the batch
        turn, position = (step * size) >> 32, position % 2**32
        noise, raw, condition = NoiseSource(seed, position), self.events(index), self._rows(index)
        if self.flip:
            u = noise.uniform((), step=turn, purpose="flip", dtype=torch.float64)
            raw = _mirrored(raw, u)
            images = [name for name, kind in self.kinds.items() if isinstance(kind, Image)]
            condition |= {name: _mirrored(condition[name], u) for name in images}
        return Batch(self.transform._encode(raw, noise, step=turn, dtype=dtype), position, condition)

    def events(self, index: Tensor) -> Tensor:
        """Raw events.

        Args:
            index: Indices of the events, of shape (B,).

        Returns:
            The events, of shape (B, *event).

        Raises:
            ValueError: For values that the transform does not allow.
        """
        return self.raw[index] if isinstance(self.raw, Tensor) else self._checked(self.raw[index], index)

    def _checked(self, raw: Tensor, index: Tensor | None = None) -> Tensor:
        """Checked raw events with these indices; integers if the transform takes levels or tokens."""
        name = f"data set {self.name!r}"
        if isinstance(self.transform, Tokens):
            return self.transform.check(raw, name, index)
        if not isinstance(self.transform, Affine):
            return self.transform.check(raw, name)
        if raw.is_floating_point():
            check_finite(name, raw)
        return raw


def _mirrored(values: Tensor, u: Tensor) -> Tensor:
    """Rows of ``values`` (B, ...), mirrored where u (B,) is below 1/2."""
    return torch.where(expand(u, values) < 0.5, values.flip(-1), values)


@checked_arguments
def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0 .. n - 1 that depends only on (seed, epoch).

    Args:
        n: The number of elements, at least 0.
        seed: The seed.
        epoch: The number of the epoch, at least 0.

    Returns:
        The permutation as an integer tensor of shape (n,).
    """
    check_count("n", n, least=0)
    check_count("epoch", epoch, least=0)
    u = NoiseSource.of(seed, n).uniform((), step=epoch, purpose="order", dtype=torch.float64)
    return u.argsort(stable=True)


_order = functools.lru_cache(maxsize=4)(permutation)
"""`permutation` with a cache, because every step of an epoch uses it."""
