"""Everything with everything, on small events: figures within bounds, or a refusal with a reason; never wrong silently.

The default suite takes vectors under one process of each kind; `make test-all` takes the schedules that differ in their numbers
alone, and images and series. docs/matrix.md has the figures of a full run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import matrix
from scoresde.samplers import PredictorCorrector
from scoresde.samplers.exponential import ExponentialMultistep, ExponentialRungeKutta
from scoresde.samplers.predictor_corrector.splitting import drift_of_covariance
from scoresde.sde import LinearSDE, ScalarSDE
from tests import compatibility
from tests.compatibility import EVENTS, OBJECTIVES, PROCESSES, SAMPLERS, row
from tests.params import some_long

# 600 samples: a mean is known to 0.041 standard deviations, a standard deviation to 2.9 %; 4.5 standard errors over at most 8
# coordinates (a false alarm in 1e4 cells) make 0.19, and 200 steps cost up to 0.03 more
BOUND = 0.22


def bound(process, name):
    """Of the figure's error: 5 standard errors of an objective's least point, which are 0.006 or, where sliced, 0.08."""
    if name in OBJECTIVES:
        return 0.4 if name.startswith("sliced") else 0.03
    if name == "likelihood":
        return 2e-2 if "Langevin" in process else 2e-3
    return BOUND


def error(name, value):
    return abs(value - 1.0) if name in OBJECTIVES else abs(value)


@torch.no_grad()
def applies(sde, name):
    """By the mathematics: kernels need a linear process, chains one with numbers, splitting one at rest in its prior, adaptive
    steps a diffusion that is of t alone."""
    if name == "denoising, chain":
        return isinstance(sde, ScalarSDE)
    if name == "adaptive SDE":
        return sde.additive
    of_kernels = PredictorCorrector | ExponentialMultistep | ExponentialRungeKutta
    if name.startswith("denoising") or (name in SAMPLERS and isinstance(SAMPLERS[name](), of_kernels)):
        return isinstance(sde, LinearSDE) and (name != "symmetric splitting" or drift_of_covariance(sde) < 1e-4)
    return True


def assert_right(process, kind):
    cells, sde = row(process, EVENTS[kind], count=600), PROCESSES[process](EVENTS[kind])
    assert set(cells) == {*OBJECTIVES, *SAMPLERS, "likelihood"}
    for name, (value, reason) in cells.items():
        assert bool(reason) != applies(sde, name), (process, name, reason)
        assert len(reason) > 20 if reason else error(name, value) < bound(process, name), (process, name, value)


OF_A_KIND = (
    "VP, cosine", "EDM", "linear interpolant", "log-SNR linear", "log-SNR learned", "VP about another mean",
    "VE", "VP by its schedule alone", "VP as matrices", "blurring", "sub-VP", "critically damped Langevin",
)  # fmt: skip
"""Beside VP and the non-linear ones; tests/sde and tests/samplers test sampling and likelihoods of each of them too."""


@pytest.mark.parametrize("process", some_long(PROCESSES, OF_A_KIND))
def test_vectors(process):
    assert_right(process, "vector")


@pytest.mark.long
@pytest.mark.parametrize("kind", [k for k in EVENTS if k != "vector"])
@pytest.mark.parametrize("process", PROCESSES)
def test_images_and_series(process, kind):
    assert_right(process, kind)


def test_the_page_has_every_column_and_is_read_as_it_was_written(tmp_path):
    """Columns are added to what the page has: nothing of it may be lost."""
    page, again = Path(__file__).resolve().parents[1] / "docs" / "matrix.md", tmp_path / "matrix.md"
    tables, refusals = matrix.read(page)
    matrix.write(again, tables, refusals)
    assert again.read_text() == page.read_text()
    assert set(tables) == set(EVENTS) and all(set(rows) == set(PROCESSES) for rows in tables.values())


@pytest.mark.parametrize("process", some_long(["VP", "VP as functions"], ["VP as functions"]))
def test_a_wrong_score_is_seen(process, monkeypatch):
    """Planted: a score half as long must break the bounds of every objective, of every sampler, and of the likelihood."""
    monkeypatch.setattr(
        compatibility, "score_of", lambda distribution, sde: lambda x, t: 0.5 * distribution.score(sde)(x, t)
    )
    for name, (value, reason) in row(process, EVENTS["vector"], count=600).items():
        assert reason or error(name, value) > bound(process, name), (process, name, value)
