"""A first config for data that was inspected. Every number has a reason.

    sigma_max       the largest distance between two events (Song & Ermon 2020, technique 1). Larger for events with few
                    coordinates: the prior neglects the data's standard deviation s, which costs about
                    d (s / sigma_max)^4 / 4 nats, here at most 0.001
    sigma_min       invisible noise: a quarter of a level, and at most 1 % of the standard deviation
                    (256 levels in [-1, 1]: 0.002)
    data            levels or real numbers, depending on the values; images from files have the 256 levels of their data class
    sigma_data      the standard deviation of what the model sees, including dequantization: the input of the network is
                    x / sqrt(sigma_data^2 + sigma^2)
    snr             of the Langevin corrector: 0.16, and 0.075 from 256 pixels on, as in the paper's configs (configs/ve)
    network         a UNet for images and series, a multilayer perceptron for vectors; its width depends on the number of events
    steps           `PASSES` epochs, within bounds

Everything after the data section is measured on the data set that this section builds (`Measured`), so the two agree.
Values that the paper's authors tuned by hand are first guesses here, and the reasons say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scoresde.data import Affine, Quantized, Transform
from scoresde.data.inspect_facts import Facts
from scoresde.data.inspect_source import Source
from scoresde.networks.sides import sides_of_levels

PASSES, LEAST_STEPS, MOST_STEPS = 200, 2000, 400_000
PRIOR_STDS = 4.0
"""Smallest sigma_max in units of sigma_data d^(1/4): 1 / (4 * 4^4) is 0.001 nats."""
SPLIT_ALREADY = ("CIFAR10", "MNIST")
"""Data sets with an official test split."""
CHOOSES_LEVELS = ("Arrays", "TorchDataset")
"""Data classes whose config states the levels. The others have 256."""
FEW_LEVELS = 32
"""Largest number of levels for which the network predicts the probability of each level."""
MANY_EVENTS = 20_000
"""Number of events from which the paper's width of 128 channels is used."""


@dataclass(frozen=True)
class Section:
    """A key of the config, its value, and the reasons."""

    key: str
    value: Any
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Measurements of the data set that the config builds.

    Attributes:
        transform: Its transform.
        train_events: Number of training events.
        distance: Largest distance between two events of ``paired``, as the model sees them.
        paired: Number of events whose distances were computed.
    """

    transform: Transform
    train_events: int
    distance: float
    paired: int


def data_section(source: Source, facts: Facts) -> Section:
    """The section that describes how the data is read. Only this section chooses the transform."""
    node = dict(source.node)
    low, high, reasons = facts.low, facts.high, [f"{source.what}, {facts.count} events of shape {facts.shape}"]
    if node["name"] not in CHOOSES_LEVELS:
        reasons.append("8 bits per channel: 256 levels, dequantized and mapped to [-1, 1]; bits/dim are meaningful")
    elif facts.levels:
        node["levels"] = facts.levels
        reasons.append(
            f"whole numbers from {low:g} to {high:g}: {facts.levels} levels, dequantized and mapped to [-1, 1]; "
            "bits/dim are meaningful"
        )
    else:
        standard = Affine.standard(facts.mean, facts.std)
        node |= {"levels": 0, "shift": standard.shift, "scale": standard.scale}
        reasons.append(f"real numbers from {low:g} to {high:g}, transformed to mean 0 and standard deviation 1")
    if node["name"] not in SPLIT_ALREADY:
        reasons.append("one event in ten is held out for testing; if you have a test set, set the key test")
    if len(facts.shape) == 3:
        reasons.append("if mirror images are equally likely: flip = True")
    return Section("data", node, tuple(reasons))


def advise(data: Section, facts: Facts, measured: Measured) -> list[Section]:
    """All sections of a config for the data set that ``data`` builds."""
    std = _round(measured.transform.spread(facts.std))
    least = PRIOR_STDS * std * math.prod(facts.shape) ** 0.25
    distance = measured.distance
    sigma_max = _round(max(distance, least), up=True)
    why = f"the largest distance between two of {_of(facts.count, measured.paired)} (Song & Ermon 2020, technique 1)"
    if least > distance:
        why = (
            f"{PRIOR_STDS:g} sigma_data d^(1/4): events differ by at most {distance:.3g}, which is too little for the prior "
            "to be accurate"
        )
    network = _network(facts)
    return [
        data,
        _process(measured.transform, std, sigma_max, why),
        network,
        _model(measured.transform, std),
        _objective(measured.transform, sigma_max),
        _training(measured.train_events, network.value["name"]),
        Section("sampling", {"count": 64, "batch_size": 64, "seed": 0}, ("more: --config.sampling.count=50000",)),
        _samplers(facts),
        Section("likelihood", {"split": "test", "batch_size": 64}, ("for scoresde likelihood: the held-out events",)),
    ]  # fmt: skip


def _process(transform: Transform, std: float, sigma_max: float, largest: str) -> Section:
    finest = transform.width / 4 if isinstance(transform, Quantized) else math.inf
    sigma_min = float(f"{min(finest, std / 100):.1g}")
    why = "a quarter of a level" if finest < std / 100 else "a hundredth of sigma_data"
    return Section(
        "sde",
        {"name": "VESDE", "sigma_min": sigma_min, "sigma_max": sigma_max},
        (
            "variance exploding: the range of noise is measured on the data",
            f"sigma_max: {largest}",
            f"sigma_min: {why}, which is invisible",
            'an alternative without a range to choose: {"name": "VPSDE"}',
        ),
    )


def _network(facts: Facts) -> Section:
    shape, sides = facts.shape, facts.shape[1:]
    if not 1 <= len(sides) <= 3:
        width = min(1024, max(128, 2 ** math.ceil(math.log2(4 * math.prod(shape)))))
        return Section(
            "network",
            {"name": "MLP", "width": width, "depth": 4},
            ("vectors: a multilayer perceptron, four times as wide as an event, from 128 to 1024",),
        )
    if len(sides) == 2 and max(sides) <= 16:
        return Section(
            "network",
            {"name": "SmallUNet", "channels": 32, "blocks": 2},
            ("up to 16 pixels: two resolutions and attention are enough",),
        )
    levels = 1
    while levels < 4 and min(sides_of_levels(sides, levels + 1)[-1]) >= 4:
        levels += 1
    longest = [max(level) for level in sides_of_levels(sides, levels)]
    attention = tuple(side for side in longest if side <= 16)[:1]
    channels = 128 if facts.count >= MANY_EVENTS else 64 if facts.count >= MANY_EVENTS // 10 else 32
    node = {
        "name": "NCSNpp", "channels": channels, "multipliers": (1, 2, 2, 2)[:levels], "blocks": 2,
        "attention": attention, "dropout": 0.1,
    }  # fmt: skip
    reasons = [
        f"sides {sides}: a UNet of {levels} resolutions; sides are halved while at least 4 remain",
        f"attention at side {attention[0]}: the first of {', '.join(map(str, longest))} that is at most 16, as in the paper"
        if attention
        else f"no attention: all longest sides are above 16 ({', '.join(map(str, longest))})",
        f"{facts.count} events: {channels} channels (the paper's 128 from {MANY_EVENTS} events on)",
    ]
    return Section("network", node, tuple(reasons))


def _model(transform: Transform, std: float) -> Section:
    if isinstance(transform, Quantized) and transform.levels <= FEW_LEVELS:
        return Section(
            "model",
            {"prediction": {"name": "Levels"}, "data_std": std},
            (
                f"{transform.levels} levels are few: the network predicts the probability of each of them",
                f"sigma_data = {std:g}",
            ),
        )
    return Section("model", {"prediction": "noise", "data_std": std}, (f"sigma_data = {std:g}, the spread of x",))


def _objective(transform: Transform, sigma_max: float) -> Section:
    node: dict[str, Any] = {"name": "DenoisingScoreMatching", "weighting": "variance", "reduction": "mean"}
    if isinstance(transform, Quantized) and transform.levels <= FEW_LEVELS:
        low = _round(0.4 * transform.width)
        node["times"] = {"name": "UniformLogNoise", "low": low, "high": sigma_max}
        return Section(
            "objective", node, ("below 0.4 of a level the value is obvious from its noisy version: no training there",)
        )
    return Section("objective", node, ("the paper's choice for good samples",))


def _training(train_events: int, network: str) -> Section:
    batch = min(128, max(8, 2 ** math.floor(math.log2(max(8, train_events // 8)))))
    steps = min(MOST_STEPS, max(LEAST_STEPS, round(PASSES * train_events / batch / 100) * 100))
    passes = steps * batch / train_events
    small = network in ("MLP", "SmallUNet")
    value = {
        "steps": steps, "batch_size": batch, "learning_rate": 1e-3 if small else 2e-4, "warmup": min(5000, steps // 20),
        "schedule": "cosine" if small else "constant", "grad_clip": 1.0,
        "ema_decay": float(f"{min(0.9999, 1 - 20 / steps):.4g}"), "checkpoint_every": max(100, min(5000, steps // 10)),
        "log_every": 50,
    }  # fmt: skip
    return Section(
        "training",
        value,
        (
            f"{passes:.0f} epochs of {train_events} events ({PASSES} epochs, at least {LEAST_STEPS} and at most "
            f"{MOST_STEPS} steps)",
            "batch_size: at most 128 and an eighth of the events, at least 8",
            "learning_rate: " + ("a small network allows more than the paper's 2e-4" if small else "the paper's"),
            "ema_decay: weights are averaged over the last 5 % of the steps, at most 10,000 steps",
        ),
    )


def _samplers(facts: Facts) -> Section:
    large = len(facts.shape) > 1 and max(facts.shape[1:]) >= 256
    snr = 0.075 if large else 0.16
    node = {
        "predictor-corrector": {
            "name": "PredictorCorrector",
            "predictor": {"name": "ReverseDiffusion"},
            "corrector": {"name": "Langevin", "snr": snr},
            "steps": 500,
        },
        "probability-flow": {"name": "ProbabilityFlowODE"},
    }
    tuned = "snr: the paper's authors tuned 0.16 for 32 pixels, 0.17 for 64, 0.075 for 256, 0.15 for 1024"
    return Section("samplers", node, (tuned, "try half and twice this value, and compare the samples"))


def _of(count: int, paired: int) -> str:
    return f"all {count} events" if paired == count else f"{paired} random events out of {count}"


def _round(value: float, up: bool = False) -> float:
    """Round to three digits, never below ``value`` if ``up``."""
    if value <= 0:
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{(math.ceil(value / unit - 1e-9) if up else round(value / unit)) * unit:.3g}")
