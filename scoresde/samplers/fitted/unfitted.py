"""The base class of samplers that are fitted to a model before they draw samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scoresde.noise import NoiseSource
from scoresde.samplers.base import Callback, CountedScore, Sampler
from scoresde.samplers.fitted.sampler import FittedSampler
from scoresde.sde import LinearSDE, Score


class UnfittedSampler(Sampler):
    """A sampler that is fitted to a model, or to data, before it draws samples.

    A config has such a sampler. ``scoresde sample`` calls :meth:`prepared` once for a checkpoint and writes the result by
    :meth:`save`. All processes and later runs read it by :meth:`load`. A subclass implements ``prepared``, and the other two if
    its result is not a :class:`FittedSampler`.

    Attributes:
        events: Number of events of the training set that the fit takes; 0 if it takes none.
        conditions_of: Which conditions the score of :meth:`prepared` has: those of the first ``fit_rows`` "samples", or those of
            the "events".
        t_min: Last time of the sampler. None for the default.
        seed: Seed of the fit.
    """

    conditions_of: ClassVar[Literal["samples", "events"]] = "samples"
    events = 0
    t_min: float | None
    seed: int

    @property
    def fit_rows(self) -> int:
        """Number of samples in an evaluation of the score during the fit, whose conditions the score must have."""
        return 0

    @abstractmethod
    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        data: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Sampler:
        """Fit the sampler. The object itself does not change.

        Args:
            sde: Process of the score.
            score: (x, t) -> score.
            event_shape: Shape of an event.
            data: Events, (n, \\*event).
            dtype: Dtype of the samples.
            device: Device of the samples.

        Returns:
            The fitted sampler.

        Raises:
            TypeError: If there are no data, and the fit takes some.
            ValueError: If the data have another shape.
        """

    def save(self, fitted: Sampler, path: Path | str) -> None:
        """Write a fitted sampler to a safetensors file. An interrupted call leaves no partial file.

        Args:
            fitted: The result of :meth:`prepared`, by default a :class:`FittedSampler`.
            path: The file.
        """
        assert isinstance(fitted, FittedSampler)
        fitted.save(path)

    def load(self, path: Path | str) -> Sampler:
        """Read a file that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The fitted sampler.

        Raises:
            ValueError: If the file is damaged, or contains something else.
            FileNotFoundError: If there is no such file.
        """
        return FittedSampler.load(path)

    def run(
        self, sde: LinearSDE, score: CountedScore, x: Tensor, noise: NoiseSource, callback: Callback
    ) -> tuple[Tensor, Tensor]:
        raise TypeError(
            f"{self!r} is not fitted yet: call prepared(sde, score, event_shape, ...), and sample with the result"
        )

    def check_data(self, data: Tensor | None, event_shape: Sequence[int]) -> Tensor:
        """Check the data of a fit.

        Args:
            data: Events, (n, \\*event).
            event_shape: Shape of an event.

        Returns:
            The data.

        Raises:
            TypeError: If there are none.
            ValueError: If they have another shape.
        """
        if data is None:
            raise TypeError(
                f"data is missing: {self!r} is fitted to data, give prepared(sde, score, event_shape, data=...)"
            )
        if tuple(data.shape[1:]) != tuple(event_shape):
            raise ValueError(f"data has events of shape {tuple(data.shape[1:])}: event_shape is {tuple(event_shape)}")
        return data
