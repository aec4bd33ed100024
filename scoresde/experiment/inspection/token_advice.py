"""A config for data of tokens, from the facts about it: an absorbing process and a transformer."""

from __future__ import annotations

import math

from scoresde.data.inspect_facts import Facts
from scoresde.experiment.inspection.section import Section

SIZES = ((512, 8), (384, 6), (256, 6), (128, 4), (64, 3))
"""Widths and depths of transformers."""
LEAST_TOKENS = {512: 2**26, 384: 2**24, 256: 2**22}
"""Number of tokens of the data from which a width is used."""


def token_networks(facts: Facts) -> list[Section]:
    """Sections for networks of tokens, the preferred one first, then smaller ones."""
    count = facts.count * math.prod(facts.shape)
    fitting = [size for size in SIZES if count >= LEAST_TOKENS.get(size[0], 0)]
    return [
        Section(
            "network",
            {"name": "TokenTransformer", "width": width, "depth": depth, "heads": max(2, width // 64)},
            (f"{count} tokens: a transformer of width {width} with {depth} blocks",),
        )
        for width, depth in fitting
    ]


def token_sections(data: Section, facts: Facts, network: Section, training: Section) -> list[Section]:
    """All sections of a config."""
    d = math.prod(facts.shape)
    return [
        data,
        Section("process", {"name": "Absorbing"}, ("tokens are masked one by one, and the network predicts them",)),
        network,
        Section("objective", {"name": "ContinuousBound"}, ("the bound of the log-likelihood in continuous time",)),
        training,
        Section("sampling", {"count": 16, "batch_size": 16, "seed": 0}, ("more: --config.sampling.count=1000",)),
        Section(
            "samplers",
            {"ancestral": {"name": "AncestralSampler", "steps": min(128, d)}, "exact": {"name": "FirstHitting"}},
            (f"fewer steps are faster; FirstHitting draws one token at a time, in {d} steps",),
        ),
        Section("likelihood", {"split": "test", "batch_size": 64}, ("for scoresde likelihood: the held-out events",)),
    ]
