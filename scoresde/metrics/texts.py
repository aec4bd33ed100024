r"""Bits per byte of text by compressors and by a Markov model, as yardsticks for the likelihood of a model.

The Markov model of order m predicts each byte s from the m bytes c before it, by interpolated Kneser-Ney smoothing: with n(cs)
the count of s after c in the training text, n(c) its sum over s, T(c) the number of different bytes after c, and c' the context
without its first byte,

.. math::
    p_k(s | c) = \frac{\max(n(cs) - d_k, 0) + d_k T(c)\, p_{k-1}(s | c')}{n(c)}, \qquad d_k = \frac{n_1}{n_1 + 2 n_2},
    \qquad p_{-1}(s) = 1/256,

where n_1 and n_2 are the numbers of pairs (c, s) that occur once and twice, with c of k bytes. Below the order m, n(cs) is the
number of different bytes before cs: a byte that is frequent after one context only gets a small probability after others. A
context that the training text does not have is left out. A compressor learns while it reads. It can read the training text first,
so that it knows as much as the model.

References:
    Kneser and Ney 1995, Improved backing-off for m-gram language modeling. Chen and Goodman 1999, An empirical study of smoothing
    techniques for language modeling.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_choice, check_count

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "xz": lambda content: lzma.compress(content, preset=6 | lzma.PRESET_EXTREME),
    "bzip2": lambda content: bz2.compress(content, 9),
}
"""Compressors. These settings of xz read 8 MiB back and need 94 MiB of memory."""
MOST_ORDER = 7
"""Largest order of a Markov model: a context and a byte are one number of 64 bits."""


@checked_arguments
def compressor_bits_per_byte(text: bytes, compressor: str = "xz", train: bytes = b"") -> float:
    """Bits per byte of a text in a compressed file.

    Args:
        text: The text.
        compressor: "xz" or "bzip2".
        train: Text that the compressor reads first. Its own size is subtracted.

    Returns:
        Bits per byte of ``text``.

    Raises:
        ValueError: If the text is empty.

    Example:
        >>> from scoresde.metrics import compressor_bits_per_byte
        >>> compressor_bits_per_byte(b"to be or not to be " * 100) < 1.0
        True
    """
    check_choice("compressor", compressor, COMPRESSORS)
    if not text:
        raise ValueError("text is empty: give one byte at least")
    size = COMPRESSORS[compressor]
    return 8.0 * (len(size(train + text)) - (len(size(train)) if train else 0)) / len(text)


@checked_arguments
def markov_bits(train: bytes, text: bytes, order: int = 5) -> Tensor:
    """The code length of each byte of a text by a Markov model of another text.

    The first bytes have fewer bytes before them, and a lower order.

    Args:
        train: The text from which the model is made.
        text: The text to encode.
        order: Number of bytes before each one, 0 to 7.

    Returns:
        -log2 of the probability of each byte, (len(text),).

    Raises:
        ValueError: If a text is empty.

    References:
        Kneser and Ney 1995, Improved backing-off for m-gram language modeling.

    Example:
        >>> from scoresde.metrics import markov_bits
        >>> bits = markov_bits(b"abababababab", b"abab", order=1)
        >>> bool(bits[1:].max() < 1.0)
        True
    """
    check_count("order", order, least=0)
    if order > MOST_ORDER:
        raise ValueError(f"order={order!r} is not allowed: give 0 .. {MOST_ORDER}")
    for name, content in (("train", train), ("text", text)):
        if not content:
            raise ValueError(f"{name} is empty: give one byte at least")
    known, here = (np.frombuffer(content, np.uint8).astype(np.uint64) for content in (train, text))
    order = min(order, len(train) - 1)
    p = np.full(len(text), 1.0 / 256.0)
    for k, (strings, counts) in enumerate(_tables(known, order)):
        if k < len(text):
            p[k:] = _interpolated(strings, counts, _strings(here, k), p[k:])
    return torch.from_numpy(-np.log2(p))


def _tables(known: np.ndarray, order: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The different strings cs and their n(cs), for contexts c of 0 to ``order`` bytes."""
    found = [np.unique(_strings(known, order), return_counts=True)]
    for k in range(order, 0, -1):
        found.append(np.unique(found[-1][0] & np.uint64(256**k - 1), return_counts=True))
    return found[::-1]


def _interpolated(strings: np.ndarray, counts: np.ndarray, wanted: np.ndarray, below: np.ndarray) -> np.ndarray:
    """p_k of the strings ``wanted``, from their p_{k-1}."""
    contexts, first, kinds = np.unique(strings >> np.uint64(8), return_index=True, return_counts=True)
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2.0 * twice) if once else 0.5
    before = wanted >> np.uint64(8)
    total, different = (_looked_up(contexts, one, before) for one in (np.add.reduceat(counts, first), kinds))
    seen = np.maximum(_looked_up(strings, counts, wanted) - discount, 0.0)
    return np.where(total > 0, (seen + discount * different * below) / np.maximum(total, 1), below)


def _strings(content: np.ndarray, order: int) -> np.ndarray:
    """Each byte from position ``order`` on with the ``order`` bytes before it, as one number."""
    out = content[order:].copy()
    for k in range(1, order + 1):
        out |= content[order - k : len(content) - k] << np.uint64(8 * k)
    return out


def _looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each key, which are sorted; 0 where there is none."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
