"""A first config for data that was inspected. Every number has a reason.

    sigma_max       the largest distance between two events (Song & Ermon 2020, technique 1). Larger for events with few
                    coordinates: the prior neglects the data's standard deviation s, which costs about
                    d (s / sigma_max)^4 / 4 nats, here at most 0.001; and the prior neglects x at T, which costs
                    E x^2 / (2 sigma_max^2) nats per coordinate, here at most `MISMATCH`
    sigma_min       invisible noise: a quarter of a level, and at most 1 % of the standard deviation
                    (256 levels in [-1, 1]: 0.002)
    data            levels or real numbers, depending on the values; images from files have 256, or those of their bits
    sigma_data      the standard deviation of what the model sees, including dequantization: the input of the network is
                    x / sqrt(sigma_data^2 + sigma^2)
    snr             of the Langevin corrector: 0.16, and 0.075 from 256 pixels on, as in the paper's configs (configs/ve)
    network, steps  see ``plan.py``

Everything after the data section is measured on the data set that this section builds (`Measured`), so the two agree.
Values that the paper's authors tuned by hand are first guesses here, and the reasons say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scoresde.data import Affine, Columns, Quantized, Tokens, Transform
from scoresde.data.inspect_facts import Facts
from scoresde.data.inspect_source import Source
from scoresde.experiment.inspection.plan import Plan, first_plan
from scoresde.experiment.inspection.section import Section
from scoresde.experiment.inspection.token_advice import token_sections
from scoresde.sde.checks.report import PRIOR_LIMIT

PRIOR_STDS = 4.0
"""Smallest sigma_max in units of sigma_data d^(1/4): 1 / (4 * 4^4) is 0.001 nats."""
MISMATCH = 0.8 * PRIOR_LIMIT
"""Largest mismatch of the prior. Above `PRIOR_LIMIT`, training would warn; the training events are a part of those seen here."""
SPLIT_ALREADY = ("CIFAR10", "MNIST")
"""Data sets with an official test split."""
CHOOSES_LEVELS = ("Arrays", "TorchDataset")
"""Data classes whose config states the levels. The others have 256."""
TEST_FRACTION = 0.1
"""Part of the events that data classes hold out for testing by default."""
FEW_LEVELS = 32
"""Largest number of levels for which the network predicts the probability of each level."""


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
    if source.tokens:
        return Section("data", node, _text_reasons(node))
    low, high, reasons = facts.low, facts.high, [f"{source.what}, {facts.count} events of shape {facts.shape}"]
    if node["name"] == "Table":
        reasons.append("each column is transformed to mean 0 and standard deviation 1 of the training rows")
        reasons.append(
            "log-likelihoods are in nats, of rows in the units of the table; whole numbers and texts are dequantized"
        )
    elif "levels" in node:
        reasons.append(f"{node['levels']} levels, dequantized and mapped to [-1, 1]; bits/dim are meaningful")
    elif node["name"] not in CHOOSES_LEVELS:
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
        held_out = "one event in ten is held out for testing"
        if not round(TEST_FRACTION * facts.count):
            node["test_fraction"] = float(f"{math.ceil(1000 / max(2, facts.count)) / 1000:g}")
            held_out = "one event is held out for testing: one in ten would be none"
        reasons.append(f"{held_out}; if you have a test set, set the key test")
    if len(facts.shape) == 3:
        reasons.append("if mirror images are equally likely: flip = True")
    return Section("data", node, tuple(reasons))


def _text_reasons(node: dict[str, Any]) -> tuple[str, ...]:
    stride = node.get("stride", 1)
    starts = f"{stride} tokens apart" if stride > 1 else "at any token"
    if node["name"] != "TextFile":
        return (f"windows of {node['length']} tokens, and the standard split",)
    return (
        f"windows of {node['length']} tokens; those for training start {starts}",
        "the last tenth of the bytes is held out for testing; if you have a test set, set the key test",
        "bits/byte are reported, which compare vocabularies and lengths",
    )


def advise(data: Section, facts: Facts, measured: Measured, plan: Plan | None = None) -> list[Section]:
    """All sections of a config for the data set that ``data`` builds, by default with `first_plan`."""
    plan = first_plan(facts, measured.train_events) if plan is None else plan
    transform = measured.transform
    if facts.tokens:
        return token_sections(data, facts, plan.network, _training(plan))
    # the columns of a table are standardized
    std = 1.0 if isinstance(transform, Columns) else _round(transform.spread(facts.std))
    sigma_max, why = _largest_noise(facts, measured, std)
    return [
        data,
        _process(measured.transform, std, sigma_max, why),
        plan.network,
        _model(measured.transform, std, plan.network.value["name"]),
        _objective(measured.transform, sigma_max),
        _training(plan),
        _sampling(isinstance(transform, Columns)),
        _samplers(facts),
        Section("likelihood", {"split": "test", "batch_size": 64}, ("for scoresde likelihood: the held-out events",)),
    ]  # fmt: skip


def _largest_noise(facts: Facts, measured: Measured, std: float) -> tuple[float, str]:
    """sigma_max and the reason."""
    transform = measured.transform
    if isinstance(transform, Columns | Tokens):
        center = 0.0
    elif isinstance(transform, Quantized):
        center = transform.low + transform.width * (facts.mean + 0.5)
    else:
        center = (facts.mean - transform.shift) / transform.scale
    distance = measured.distance
    found = {
        f"the largest distance between two of {_of(facts.count, measured.paired)} (Song & Ermon 2020, technique 1)": distance,
        f"{PRIOR_STDS:g} sigma_data d^(1/4): events differ by at most {distance:.3g}, which is too little for the prior "
        "to be accurate": PRIOR_STDS * std * math.prod(facts.shape) ** 0.25,
        f"sqrt(E x^2 / {2 * MISMATCH:g}): events differ by at most {distance:.3g}, and the prior, which neglects x at T, "
        f"must be accurate to {MISMATCH:g} nats per coordinate": math.sqrt((center**2 + std**2) / (2 * MISMATCH)),
    }
    why = max(found, key=found.__getitem__)
    return _round(found[why], up=True), why


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


def _model(transform: Transform, std: float, network: str) -> Section:
    if isinstance(transform, Quantized) and transform.levels <= FEW_LEVELS:
        return Section(
            "model",
            {"prediction": {"name": "Levels"}, "data_std": std},
            (
                f"{transform.levels} levels are few: the network predicts the probability of each of them",
                f"sigma_data = {std:g}",
            ),
        )
    reason = f"sigma_data = {std:g}, the spread of x"
    if network == "MLP":
        node = {"name": "PreconditionedPrediction", "data_std": std}
        return Section(
            "model",
            {"prediction": node, "data_std": std},
            (reason, "vectors: a multilayer perceptron that predicts the noise itself gives samples far from the data"),
        )
    return Section("model", {"prediction": "noise", "data_std": std}, (reason,))


def _objective(transform: Transform, sigma_max: float) -> Section:
    node: dict[str, Any] = {"name": "DenoisingScoreMatching", "weighting": "variance", "reduction": "mean"}
    if isinstance(transform, Quantized) and transform.levels <= FEW_LEVELS:
        low = _round(0.4 * transform.width)
        node["times"] = {"name": "UniformLogNoise", "low": low, "high": sigma_max}
        return Section(
            "objective", node, ("below 0.4 of a level the value is obvious from its noisy version: no training there",)
        )
    return Section("objective", node, ("the paper's choice for good samples",))


def _training(plan: Plan) -> Section:
    steps = plan.steps
    small = plan.network.value["name"] in ("MLP", "SmallUNet", "TokenTransformer")
    value: dict[str, Any] = {
        "steps": steps, "batch_size": plan.batch_size, "learning_rate": 1e-3 if small else 2e-4,
        "warmup": min(5000, steps // 20), "schedule": "cosine" if small else "constant", "grad_clip": 1.0,
        "ema_decay": float(f"{max(0.0, min(0.9999, 1 - 20 / steps)):.4g}"),
        "checkpoint_every": max(100, min(5000, steps // 10)), "log_every": 50,
    }  # fmt: skip
    reasons = [
        *plan.reasons,
        "learning_rate: " + ("a small network allows more than the paper's 2e-4" if small else "the paper's"),
        "ema_decay: weights are averaged over the last 5 % of the steps, at most 10,000 steps",
    ]
    if plan.micro_batch:
        value["micro_batch"] = plan.micro_batch
        reasons.append("micro_batch: the largest part of a batch whose activations fit into half of the free memory")
    return Section("training", value, tuple(reasons))


def _sampling(table: bool) -> Section:
    count, size, more = (1000, 500, 10_000) if table else (64, 64, 50_000)
    return Section(
        "sampling", {"count": count, "batch_size": size, "seed": 0}, (f"more: --config.sampling.count={more}",)
    )


def _samplers(facts: Facts) -> Section:
    large = len(facts.shape) == 3 and max(facts.shape[1:]) >= 256
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
