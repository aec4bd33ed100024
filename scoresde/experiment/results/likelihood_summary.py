"""The summary of a likelihood: its mean, the parts of its error, and its known biases.

Let y_ij be the value (bits/dim, or nats) of event i = 1..n at draw j = 1..m_i, e_ij its standard error from the probes,
and

    y_i = mean_j y_ij          y = mean_i y_i          V = sum_i (y_i - y)^2 / (n - 1)
    W = sum_ij (y_ij - y_i)^2 / sum_i (m_i - 1)        the variance over draws, dequantization and probes together

Then the standard error of y and its parts are

    standard error    s^2 = V / n                      all that differs from event to event
    trace             a^2 = sum_i sum_j e_ij^2 / m_i^2 / n^2
    dequantization    b^2 = sum_i W / m_i / n^2 - a^2
    sampling          c^2 = s^2 - a^2 - b^2            the n events are a sample of the data distribution
    solver            mean of the rows' solver errors. They may have the same sign, so they are not a part of s

so that s^2 = a^2 + b^2 + c^2, unless a part is negative and is set to 0. With one draw, b is not known and is included
in c. If the errors of the probes are not known (a single fixed probe), a is not known either and is included in b and
c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from scoresde.data import Dataset, LevelMiddles
from scoresde.experiment.results.likelihood_rows import Row
from scoresde.likelihood import Exact, Hadamard, known_biases
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import LinearSDE

BIAS_EVENTS = 32
"""Number of events, from the first one, at which the known biases are computed."""
EXACT_SIZE = 256
"""Largest event size for which the divergence at t_min is exact; `PROBES` probes above."""
PROBES = 8
"""Probes of an event for larger data. The stated error of the cut-off, from the spread over events, includes theirs."""

LEVEL_BOUND = "the noise of t_min and the decoder of the levels"
"""What makes the likelihood of data that is not dequantized a bound, under "bound by" in a summary."""

Number = float | None
"""None if it is not known, because JSON has no NaN."""


def statistics(
    rows: Sequence[Row],
    discrete: bool,
    log_volume: float = 0.0,
    known: str = "trace",
    *,
    dequantized: bool = True,
) -> dict[str, Number | dict[str, Number]]:
    """Mean, standard error and its parts, as in the module's docstring. Failed rows are left out.

    ``known`` is what the errors of the probes are called: those of a bound come from its noise, its steps or its times. A bound
    has no solver. Without dequantization, as for tokens, its part is left out.

    ``log_volume`` is ``ln |dx / d(data)|`` of an event. It converts nats of what the model sees to nats of the original
    data.

    Raises ValueError if all rows failed.
    """
    good = [row for row in rows if not row.failed]
    if not good:
        raise ValueError("all rows failed")
    _, event = np.unique([row.index for row in good], return_inverse=True)
    draws = np.bincount(event)
    n = len(draws)

    def mean_of(values: np.ndarray) -> np.ndarray:
        return np.bincount(event, values) / draws

    def mean_and_error(name: str) -> tuple[float, float]:
        means = mean_of(np.array([getattr(row, name) for row in good]))
        return float(means.mean()), float(means.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    nats, nats_error = mean_and_error("nats")
    key = "bits_per_dim" if discrete else "nats"
    y = np.array([getattr(row, key) for row in good])
    error = mean_and_error(key)[1]
    probes = np.array([row.trace_error for row in good])
    trace = float((np.bincount(event, probes**2) / draws**2).sum() / n**2)
    freedom = int((draws - 1).sum())
    spread = float(((y - mean_of(y)[event]) ** 2).sum() / freedom) if freedom else math.nan
    within = float((spread / draws).sum() / n**2)
    parts = [0.0 if math.isnan(part) else part for part in (trace, within)]
    found: dict[str, Number | dict[str, Number]] = {"nats": _number(nats), "nats_error": _number(nats_error)}
    if discrete:
        value, _ = mean_and_error(key)
        found |= {"bits_per_dim": _number(value), "standard_error": _number(error)}
    else:
        found["nats_of_data"] = _number(nats + log_volume)
    solver = np.array([row.solver_error for row in good])
    found["parts of the error"] = {
        "sampling of events": _root(error**2 - max(parts)),
        **({"dequantization": _root(within - parts[0]) if discrete else None} if dequantized else {}),
        known: _root(trace),
        **({"solver": _number(float(mean_of(solver).mean()))} if known == "trace" else {}),
    }
    return found


def event_means(rows: Sequence[Row], discrete: bool, log_volume: float = 0.0) -> dict[int, float]:
    """The mean over draws of each event by its index, in bits/dim, or nats of the original data. Failed rows are left out."""
    draws: dict[int, list[float]] = {}
    for row in rows:
        if not row.failed:
            draws.setdefault(row.index, []).append(row.bits_per_dim if discrete else row.nats + log_volume)
    return {index: math.fsum(values) / len(values) for index, values in draws.items()}


def biases(
    model: ScoreModel,
    data: Dataset,
    *,
    count: int,
    t_min: float,
    seed: int,
    device: torch.device,
    batch_size: int,
    conditional: bool = True,
) -> dict[str, Number]:
    """The known biases to first order at the first ``count`` events, in bits/dim, or in nats for real-valued data.

    Positive values mean that the likelihood is reported as too bad.

    cut-off: the density at t_min is used in place of that at 0. For quantized data, whose density has steps, it means
    little, and the bound for data that is not dequantized does not have it. prior: an upper bound on the mean effect of the
    prior in place of p_T. Empty for a process without a closed-form kernel, whose biases are not known.
    """
    sde = model.sde
    if not isinstance(sde, LinearSDE):
        return {}
    d = math.prod(data.event_shape)
    unit = d * math.log(2.0) if data.transform.discrete else 1.0
    cutoff, prior = [], []
    for first in range(0, count, batch_size):
        index = torch.arange(first, min(first + batch_size, count))
        given = data.conditions(index) if conditional else {}
        score = model.given(**{name: rows.to(device) for name, rows in given.items()})
        found = known_biases(
            sde, score, data.encode(index, seed=seed).to(device), t_min=t_min,
            divergence=Exact() if d <= EXACT_SIZE else Hadamard(count=PROBES), noise=NoiseSource(seed, index.to(device)),
        )  # fmt: skip
        exact = isinstance(data.transform, LevelMiddles)
        cutoff.append((torch.zeros_like(found.cutoff) if exact else -found.cutoff).cpu() / unit)
        prior.append(found.prior.cpu() / unit)
    low, high = torch.cat(cutoff), torch.cat(prior)
    spread = float(low.std() / math.sqrt(count)) if count > 1 else math.nan
    return {
        "events": count,
        "cut-off": _number(float(low.mean())),
        "cut-off error": _number(spread),
        "prior, at most": _number(float(high.mean())),
    }


def _number(value: float) -> Number:
    return value if math.isfinite(value) else None


def _root(square: float) -> Number:
    return math.sqrt(max(0.0, square)) if math.isfinite(square) else None
