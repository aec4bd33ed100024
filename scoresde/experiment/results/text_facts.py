"""Bits/byte of text for the summary of a likelihood, with those of compressors and of a Markov model for the same bytes.

With b_i the bits of window i, and c_i the bytes that it stands for,

    bits/byte  r = sum_i b_i / sum_i c_i          standard error  s^2 = n / (n - 1) sum_i (b_i - r c_i)^2 / (sum_i c_i)^2

Vocabularies and lengths of windows do not matter for r, so models with different ones compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scoresde.data import Dataset
from scoresde.data.windows import Windows
from scoresde.metrics import COMPRESSORS, compressor_bits_per_byte, markov_bits

ORDER = 5
"""Order of the Markov model."""
BYTES_UP_TO, READ_FIRST = 2**23, 2**22
"""Largest number of bytes of a held-out text that is compressed, and of the end of the training text that is read first."""


def text_facts(train: Dataset, data: Dataset, count: int, events: Mapping[int, float]) -> dict[str, Any] | None:
    """Bits/byte of the windows ``events``, and of other models for the first ``count`` windows.

    Args:
        train: The training set.
        data: The set of the events.
        count: Number of events of the likelihood.
        events: Bits/dim of events by their index.

    Returns:
        The facts. "figures" is empty for windows that overlap, and for large texts. None for data that is not text.
    """
    sizes = data.byte_counts(slice(0, count))
    if sizes is None or not events:
        return None
    index = torch.tensor(list(events))
    bits = torch.tensor(list(events.values()), dtype=torch.float64) * math.prod(data.event_shape)
    size = sizes[index].double()
    n, ratio = len(bits), float(bits.sum() / size.sum())
    each = float(bits.mean()) / math.prod(data.event_shape)
    spread = float((bits - ratio * size).square().sum().sqrt() / size.sum())
    facts = {
        "bytes": int(size.sum()),
        "bits_per_byte": ratio,
        "bits_per_token": each,
        "perplexity": 2.0**each,
        "standard error": spread * math.sqrt(n / (n - 1)) if n > 1 else None,
    }
    return facts | {"figures": _figures(train, data, count)}


def describe_text(facts: Mapping[str, Any]) -> str:
    """One line with bits/byte, and those of the other models."""
    error = "unknown" if facts["standard error"] is None else f"{facts['standard error']:.4f}"
    others = "; ".join(f"{one['name']} {one['value']:.4f}" for one in facts["figures"])
    return (
        f"{facts['bits_per_byte']:.4f} +- {error} bits/byte of {facts['bytes']} bytes of text, perplexity "
        f"{facts['perplexity']:.3f} per token{'; ' * bool(others)}{others}"
    )


def _figures(train: Dataset, data: Dataset, count: int) -> list[dict[str, Any]]:
    """Bits/byte of compressors and of a Markov model."""
    texts = _texts(train, data, count)
    if texts is None:
        return []
    known, here = texts
    markov = markov_bits(known, here, ORDER).mean()
    return [
        {"name": f"Markov model of order {ORDER}", "value": float(markov)},
        *({"name": name, "value": compressor_bits_per_byte(here, name)} for name in COMPRESSORS),
        *(
            {"name": f"{name}, after the training text", "value": compressor_bits_per_byte(here, name, known)}
            for name in COMPRESSORS
        ),
    ]


def markov_bits_of_windows(train: Dataset, data: Dataset, count: int) -> Tensor | None:
    """Bits/dim of the first ``count`` windows by a Markov model. None for large texts.

    Bytes at the beginning of the last window that the one before has are left out.
    """
    texts, sizes = _texts(train, data, count), data.byte_counts(slice(0, count))
    if texts is None or sizes is None:
        return None
    bits = markov_bits(*texts, ORDER)
    return torch.stack([part.sum() for part in bits.split(sizes.tolist())]) / math.prod(data.event_shape)


def _texts(train: Dataset, data: Dataset, count: int) -> tuple[bytes, bytes] | None:
    """The end of the training text, and the bytes of the first ``count`` windows."""
    if not isinstance(train.raw, Windows) or not isinstance(data.raw, Windows) or data.raw.stride:
        return None
    here, known = data.raw.covered(count), train.raw.sequence.text
    if len(here) > BYTES_UP_TO:
        return None
    return known.read(max(0, len(known) - READ_FIRST), len(known)), here
