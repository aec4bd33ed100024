"""The simplest density model of the same data: a likelihood that is worse than it is not useful.

For discrete data it is the histogram of each coordinate on its own, in bits/dim. For real-valued data it is a Gaussian fitted
to the training split, in nats, as a log-density of the original data. Both are computed for the events of the likelihood.
For 8-bit images there are also the sizes of lossless image files (``scoresde.metrics.codecs``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from scoresde.data import Dataset, Quantized
from scoresde.metrics import CODECS, codec_bits_per_dim, gaussian_log_prob, pixel_histogram

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
        value: Bits/dim, or nats.
        standard_error: The standard error of the mean over events. None if it is not known.
        discrete: Whether the value is in bits/dim, where lower is better. Of nats, higher is better.
    """

    name: str
    value: float
    standard_error: float | None
    discrete: bool

    def beats(self, value: float) -> bool:
        """Whether a model with this mean is worse than the baseline."""
        return value > self.value if self.discrete else value < self.value

    def sentence(self, value: float) -> str:
        """A warning about a model with this mean. Empty if it is better than the baseline."""
        if not self.beats(value):
            return ""
        unit = "bits/dim" if self.discrete else "nats"
        return (
            f"the model ({value:.4f} {unit}) is worse than the {self.name} ({self.value:.4f} {unit}) on the same events"
        )


def baseline_facts(train: Dataset, data: Dataset, count: int, seed: int, value: float | None) -> dict[str, Any] | None:
    """The baseline for the summary of a likelihood, and ``worse``: a warning if a model with the mean ``value`` is worse."""
    found = simple_baseline(train, data, count, seed)
    if found is None:
        return None
    worse = "" if value is None else found.sentence(value)
    return {"name": found.name, "value": found.value, "standard error": found.standard_error, "worse": worse}


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

    ``seed`` is that of the dequantization, which real-valued data does not need.
    """
    n, d, transform = len(train), math.prod(train.event_shape), train.transform
    index = torch.arange(count)
    if isinstance(transform, Quantized):
        if n * d > VALUES_UP_TO or d * transform.levels > COUNTS_UP_TO:
            return None
        found = pixel_histogram(train.events(torch.arange(n)), data.events(index), transform.levels)
        error = None if math.isnan(found.standard_error) else found.standard_error
        return SimpleBaseline(found.name, found.bits_per_dim, error, True)
    if d > DIMENSIONS_UP_TO or n * d > COUNTS_UP_TO:
        return None
    try:
        x, y = (
            part.encode(index, seed=seed, dtype=torch.float64)
            for part, index in ((train, torch.arange(n)), (data, index))
        )
        nats = gaussian_log_prob(x, y) + transform.log_volume(d)
    except ValueError:
        return None
    spread = float(nats.std()) / math.sqrt(count) if count > 1 else None
    return SimpleBaseline("Gaussian fitted to the training data", float(nats.mean()), spread, False)
