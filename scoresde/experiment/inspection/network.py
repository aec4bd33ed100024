"""Networks for data of any shape, the preferred one first, then smaller ones.

    images, series, volumes   a UNet, narrower for fewer events; for images of at most 16 pixels a small one. Sides are
                              halved while at least 4 remain.
    everything else           a multilayer perceptron, narrower where its first and last layer would have too many parameters

Attention is placed at the largest resolution with at most `POSITIONS` positions (the paper's 16 x 16), because its cost is the
square of the number of positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scoresde.data.inspect_facts import Facts
from scoresde.experiment.inspection.section import Section
from scoresde.networks.sides import sides_of_levels

MANY_EVENTS = 20_000
"""Number of events from which the paper's width of 128 channels is used."""
POSITIONS = 256
"""Largest number of positions of attention."""
WIDTHS = (128, 64, 32, 16, 8)
"""Numbers of channels of UNets."""
NARROWEST, WIDEST = 32, 1024
"""Smallest and largest width of a multilayer perceptron."""
PARAMETERS = 10**8
"""Number of parameters of the first and last layer above which a multilayer perceptron is made narrower."""
SMALL_SIDE, FAST_POSITIONS = 16, 1024
"""Largest side of images for which a small UNet is the first choice, and largest number of positions of its attention, at half of
the sides, for which it is a choice."""


def networks(facts: Facts) -> list[Section]:
    """Sections for networks, the preferred one first, then narrower and faster ones."""
    sides = facts.shape[1:]
    if not 1 <= len(sides) <= 3:
        return _perceptrons(math.prod(facts.shape))
    small = len(sides) == 2 and math.prod(sides_of_levels(sides, 2)[1]) <= FAST_POSITIONS
    if small and max(sides) <= SMALL_SIDE:
        return _small_unets("up to 16 pixels: two resolutions and attention are enough")
    most = 128 if facts.count >= MANY_EVENTS else 64 if facts.count >= MANY_EVENTS // 10 else 32
    whys = {most: f"{facts.count} events: {most} channels (the paper's 128 from {MANY_EVENTS} events on)"}
    found = [_unet(sides, width, whys.get(width, f"{width} channels")) for width in WIDTHS if width <= most]
    return found + (_small_unets("two resolutions and attention at the lower one") if small else [])


def _perceptrons(size: int) -> list[Section]:
    wanted, width = _wanted_width(size), _fitting_width(size)
    reasons = [f"vectors: a multilayer perceptron, four times as wide as an event, from 128 to {WIDEST}"]
    if width < wanted:
        reasons = [
            f"vectors: a multilayer perceptron of width {width} in place of {wanted}, which would have "
            f"{2 * wanted * size:,} parameters in its first and last layer"
        ]
    found = []
    while width >= NARROWEST:
        found.append(Section("network", {"name": "MLP", "width": width, "depth": 4}, tuple(reasons)))
        width, reasons = width // 2, [f"vectors: a multilayer perceptron of width {width // 2}"]
    return found


def _wanted_width(size: int) -> int:
    return min(WIDEST, max(128, 1 << math.ceil(math.log2(4 * size))))


def _fitting_width(size: int) -> int:
    fitting = 1 << math.floor(math.log2(max(1.0, PARAMETERS / (2 * size))))
    return min(_wanted_width(size), max(NARROWEST, fitting))


def network_warnings(facts: Facts) -> tuple[str, ...]:
    """What no network for this shape can do well."""
    size, sides = math.prod(facts.shape), facts.shape[1:]
    if 1 <= len(sides) <= 3 or (width := _fitting_width(size)) == _wanted_width(size):
        return ()
    return (
        f"{size:,} coordinates are too many for a multilayer perceptron: all information passes through {width} numbers. If "
        "neighbors are related, save the events as series or images (n, channels, *sides), which get a convolutional network; "
        "otherwise train on their first principal components",
    )


def _small_unets(why: str) -> list[Section]:
    return [
        Section("network", {"name": "SmallUNet", "channels": channels, "blocks": 2}, (why,)) for channels in (32, 16, 8)
    ]


def _unet(sides: Sequence[int], channels: int, width: str) -> Section:
    levels = 1
    while levels < 4 and min(sides_of_levels(sides, levels + 1)[-1]) >= 4:
        levels += 1
    attention, why = attention_sides(sides, levels)
    node: dict[str, Any] = {
        "name": "NCSNpp", "channels": channels, "multipliers": (1, 2, 2, 2)[:levels], "blocks": 2,
        "attention": attention, "dropout": 0.1,
    }  # fmt: skip
    reasons = [
        f"sides {sides}: a UNet of {levels} resolutions; sides are halved while at least 4 remain",
        why,
        width,
    ]
    return Section("network", node, tuple(reasons))


def attention_sides(sides: Sequence[int], levels: int) -> tuple[tuple[int, ...], str]:
    """The sides at which a UNet of this number of levels has attention, and the reason."""
    stages = sides_of_levels(sides, levels)
    have = "/".join(str(max(stage)) for stage in stages)
    for stage in stages:
        if math.prod(stage) <= POSITIONS:
            return (max(stage),), (
                f"attention at side {max(stage)} of {have}: the largest resolution with at most {POSITIONS} positions, as "
                "16 x 16 in the paper"
            )
    return (), f"no attention but in the middle: all of the sides {have} have more than {POSITIONS} positions"
