"""Compressors and Markov models of text: a model by the formula, probabilities that sum to 1, a source of known entropy."""

from __future__ import annotations

import bz2
from collections import Counter

import numpy as np
import pytest
import torch

from scoresde.metrics import compressor_bits_per_byte, markov_bits


def slow_probability(train, context, byte, order):
    """The formula for one byte, from the shortest context up."""
    tables = [Counter(train[k : k + order + 1] for k in range(len(train) - order))]
    for _ in range(order):
        tables.insert(0, Counter(string[1:] for string in tables[0]))
    p = 1.0 / 256.0
    for k, table in enumerate(tables[: len(context) + 1]):
        end = context[len(context) - k :]
        after = {string[-1]: count for string, count in table.items() if string[:-1] == end}
        if not after:
            break
        once, twice = (sum(count == number for count in table.values()) for number in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        p = (max(after.get(byte, 0) - discount, 0.0) + discount * len(after) * p) / sum(after.values())
    return p


def test_the_formula():
    train, text = b"the rat the cat sat at the mat, that ate the hat", b"that cat ate a zebra\xff"
    for order in range(5):
        expected = [slow_probability(train, text[:k], text[k], order) for k in range(len(text))]
        assert torch.allclose(markov_bits(train, text, order).exp2(), 1.0 / torch.tensor(expected, dtype=torch.float64))


def test_probabilities_sum_to_one():
    """After contexts that occur, that occur in part, and that do not, also if every string occurs once (``d = 1``)."""
    train, before = bytes(np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8)), b"abcabc"
    pairs = ((train, before), (train, train[100:110]), (b"abracadabra, abra", b"zab"), (b"abcd", b"ab"))
    for known, context in pairs:
        bits = [float(markov_bits(known, context + bytes([last]), 3)[-1]) for last in range(256)]
        assert sum(2.0**-b for b in bits) == pytest.approx(1.0)


def test_a_source_of_known_entropy():
    """A chain of order 3 over four letters: order 3 is near its entropy rate, and lower orders are not."""
    rng = np.random.default_rng(0)
    law = rng.dirichlet([0.3] * 4, 64)
    state, found = 0, []
    for u in rng.random(60_000):
        letter = int((u > law[state].cumsum()).sum().clip(max=3))
        found.append((state, letter))
        state = (4 * state + letter) % 64
    content = bytes(97 + letter for _, letter in found)
    train, test = content[:50_000], content[50_000:]
    rate = float(np.mean([-np.log2(law[s, k]) for s, k in found[50_000:]]))
    bits = [float(markov_bits(train, test, order).mean()) for order in range(4)]
    assert rate - 0.01 < bits[3] < 1.02 * rate and bits[0] > bits[1] > bits[2] > bits[3] + 0.1


def test_compressors():
    text = b"Gently down the stream. " * 30
    assert compressor_bits_per_byte(text, "bzip2") == 8.0 * len(bz2.compress(text, 9)) / len(text)
    noise = bytes(np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8))
    assert 8.0 < compressor_bits_per_byte(noise) < 8.3
    assert compressor_bits_per_byte(noise, train=noise) < 0.3


def test_what_is_refused():
    with pytest.raises(ValueError, match="text is empty"):
        compressor_bits_per_byte(b"")
    with pytest.raises(ValueError, match="train is empty"):
        markov_bits(b"", b"a")
    with pytest.raises(ValueError, match=r"order=8 is not allowed: give 0 \.\. 7"):
        markov_bits(b"ab", b"a", 8)
