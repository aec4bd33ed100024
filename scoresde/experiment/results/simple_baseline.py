"""The simplest density model of the same data: a likelihood that is worse than it is not useful.

For discrete data it is the histogram of each coordinate on its own, in bits/dim. For real-valued data it is a Gaussian fitted
to the training split, in nats, as a log-density of the original data. Both are computed for the events of the likelihood.
For 8-bit images there are also the sizes of lossless image files (``scoresde.metrics.codecs``). For text it is a Markov model of
bytes (``text_facts.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Dataset, MixedColumns, Quantized, Tokens
from scoresde.experiment.results.text_facts import ORDER, markov_bits_of_windows
from scoresde.metrics import CODECS, codec_bits_per_dim, gaussian_log_prob
from scoresde.metrics.baselines import histogram_bits

VALUES_UP_TO = 2**28
"""Largest number of values in a training set for which the histogram is computed: CIFAR-10 has 2^27.2."""
COUNTS_UP_TO = 2**24
"""Largest number of counts, levels x dimensions: 128 MiB."""
CODEC_IMAGES = 128
"""Largest number of images that are saved as files: WebP takes 20 to 100 ms for a small image."""
DIMENSIONS_UP_TO = 1024
"""Largest number of dimensions of a Gaussian; its training set has at most `COUNTS_UP_TO` values."""


@dataclass(frozen=True)
class SimpleBaseline:
    """The result of the simplest density model.

    Attributes:
        name: The model.
        values: Bits/dim or nats of each event, of shape (count,).
        discrete: Whether the values are in bits/dim, where lower is better. Of nats, higher is better.
    """

    name: str
    values: Tensor
    discrete: bool

    @property
    def value(self) -> float:
        """The mean over events."""
        return float(self.values.mean())

    def sentence(self, events: Mapping[int, float]) -> str:
        """A warning about a model with these values of events, by their index. Empty if it is better on average."""
        if not events:
            return ""
        theirs = self.values[torch.tensor(list(events))]
        apart = torch.tensor(list(events.values()), dtype=torch.float64) - theirs
        mean, error = float(apart.mean()), _error(apart)
        if (mean <= 0.0) if self.discrete else (mean >= 0.0):
            return ""
        unit = "bits/dim" if self.discrete else "nats"
        verdict = "worse than" if error is not None and abs(mean) > 2.0 * error else "not better than"
        base = float(theirs.mean())
        return (
            f"the model ({mean + base:.4f} {unit}) is {verdict} the {self.name} ({base:.4f} {unit}): "
            f"the difference on the same events is {mean:+.4f} +- {'unknown' if error is None else f'{error:.4f}'}"
        )


def baseline_facts(
    train: Dataset, data: Dataset, count: int, seed: int, events: Mapping[int, float]
) -> dict[str, Any] | None:
    """The baseline for the summary of a likelihood, and ``worse``: a warning if a model with the values ``events`` is worse."""
    found = simple_baseline(train, data, count, seed)
    if found is None:
        return None
    facts = {"name": found.name, "value": found.value, "standard error": _error(found.values)}
    return {**facts, "worse": found.sentence(events)}


def codec_facts(data: Dataset, count: int) -> dict[str, Any] | None:
    """Bits/dim of the first ``count`` images in lossless files, at most `CODEC_IMAGES`. None if they are not 8-bit images."""
    shape, transform = data.event_shape, data.transform
    if not isinstance(transform, Quantized) or transform.levels != 256 or len(shape) != 3 or shape[0] not in (1, 3):
        return None
    images = data.events(torch.arange(min(count, CODEC_IMAGES)))
    found = [codec_bits_per_dim(images, codec, tiled) for tiled in (False, True) for codec in CODECS]
    errors = [None if math.isnan(one.standard_error) else one.standard_error for one in found]
    figures = [
        {"name": one.name, "value": one.bits_per_dim, "standard error": error}
        for one, error in zip(found, errors, strict=True)
    ]
    return {"images": len(images), "figures": figures}


def simple_baseline(train: Dataset, data: Dataset, count: int, seed: int) -> SimpleBaseline | None:
    """The baseline of the first ``count`` events of ``data``. None if the data is too large or all events are equal.

    ``seed`` is that of the dequantization, which real numbers do not need.
    """
    n, d, transform = len(train), math.prod(train.event_shape), train.transform
    index = torch.arange(count)
    if train.byte_counts(slice(0, 1)) is not None:
        markov = markov_bits_of_windows(train, data, count)
        return None if markov is None else SimpleBaseline(f"Markov model of order {ORDER}", markov, True)
    if isinstance(transform, Quantized | Tokens):
        levels = transform.tokens if isinstance(transform, Tokens) else transform.levels
        if n * d > VALUES_UP_TO or d * levels > COUNTS_UP_TO:
            return None
        bits = histogram_bits(train.events(torch.arange(n)), data.events(index), levels)
        what = "pixel" if isinstance(transform, Quantized) else "token"
        return SimpleBaseline(f"independent {what} histogram", bits, True)
    if d > DIMENSIONS_UP_TO or n * d > COUNTS_UP_TO:
        return None
    tokens = transform.tokens if isinstance(transform, MixedColumns) else (0,) * d
    real = [j for j, size in enumerate(tokens) if not size] if len(train.event_shape) == 1 else slice(None)
    try:
        x, y = (
            part.encode(which, seed=seed, dtype=torch.float64)
            for part, which in ((train, torch.arange(n)), (data, index))
        )
        nats = gaussian_log_prob(x[:, real], y[:, real]) + transform.log_volume(d)
    except ValueError:
        return None
    name = "Gaussian fitted to the training data"
    for j, size in enumerate(tokens):
        if size:
            nats = nats + _frequencies(x[:, j], size)[y[:, j].long()].log()
            name = "Gaussian and independent categories fitted to the training data"
    return SimpleBaseline(name, nats, False)


def _frequencies(tokens: Tensor, size: int) -> Tensor:
    """The frequency of each token, where one more of each is counted, as in the histograms."""
    counts = torch.bincount(tokens.long(), minlength=size).to(torch.float64) + 1.0
    return counts / counts.sum()


def _error(values: Tensor) -> float | None:
    """The standard error of the mean. None for one value."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
