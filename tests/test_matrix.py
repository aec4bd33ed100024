"""Compatibility matrix on small events: each number is within its bounds, or the combination raises an error with a reason.

The default suite uses vectors under one process of each kind. `make test-all` adds the schedules that differ only in their
numbers, and images and series. docs/matrix.md has the numbers of a full run.
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
from tests.params import some_long, whole

# 600 samples: a mean is known to 0.041 standard deviations, a standard deviation to 2.9 %; 4.5 standard errors over at most 8
# coordinates (a false alarm in 1e4 cells) make 0.19, and 200 steps cost up to 0.03 more
BOUND = 0.22


def bound(process, name):
    """Bound of the error: 5 standard errors of the minimum of an objective, which are 0.006, or 0.08 if sliced."""
    if name in OBJECTIVES:
        return 0.4 if name.startswith("sliced") else 0.03
    if name == "likelihood":
        return 2e-2 if "Langevin" in process else 2e-3
    return BOUND


def error(name, value):
    return abs(value - 1.0) if name in OBJECTIVES else abs(value)


@torch.no_grad()
def applies(sde, name):
    """Whether a combination is possible: kernels need a linear process, chains scalar coefficients, splitting a process that is
    stationary in its prior, and adaptive steps additive noise."""
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
    "VP, cosine", "EDM", "linear interpolant", "log-SNR linear", "log-SNR learned", "VP, Shifted",
    "VE", "VP, Schedule", "VP, MatrixSDE", "blurring", "sub-VP", "critically damped Langevin", "VP marginals, g(x, t)",
)  # fmt: skip
"""In addition to VP and to VP as a NonlinearSDE. tests/sde and tests/samplers also test samples and likelihoods of each;
tests/sde/test_geometric.py and test_nonlinear.py those of a diffusion of x."""


@pytest.mark.parametrize("process", some_long(PROCESSES, OF_A_KIND))
def test_vectors(process):
    assert_right(process, "vector")


@pytest.mark.long
@pytest.mark.parametrize("kind", [k for k in EVENTS if k != "vector"])
@pytest.mark.parametrize("process", PROCESSES)
def test_images_and_series(process, kind):
    assert_right(process, kind)


def test_the_page_has_every_column_and_is_read_as_it_was_written(tmp_path):
    """Columns are added to those of the page, which must not change."""
    page, again = Path(__file__).resolve().parents[1] / "docs" / "matrix.md", tmp_path / "matrix.md"
    tables, refusals = matrix.read(page)
    matrix.write(again, tables, refusals)
    assert again.read_text() == page.read_text()
    assert set(tables) == set(EVENTS) and all(set(rows) == set(PROCESSES) for rows in tables.values())


@pytest.mark.parametrize("process", some_long(["VP", "VP, NonlinearSDE"], ["VP, NonlinearSDE"]))
def test_a_wrong_score_is_seen(process, monkeypatch):
    """Planted: half of the exact score must exceed the bounds of every objective, every sampler and the likelihood.

    By default three samplers; all under ``make test-all``.
    """
    monkeypatch.setattr(
        compatibility, "score_of", lambda distribution, sde: lambda x, t: 0.5 * distribution.score(sde)(x, t)
    )
    some = () if whole() else (*OBJECTIVES, "ancestral", "UniPC", "probability flow by SciPy", "likelihood")
    for name, (value, reason) in row(process, EVENTS["vector"], count=600, names=some).items():
        assert reason or error(name, value) > bound(process, name), (process, name, value)
