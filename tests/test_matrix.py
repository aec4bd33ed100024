"""Everything with everything, on small events: figures within bounds, or a refusal with a reason; never wrong silently.

The default suite takes vectors, `make test-all` images and series too. docs/matrix.md has the figures of a full run.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.matrix import EVENTS, OBJECTIVES, PROCESSES, SAMPLERS, row

# 600 samples: a mean is known to 0.041 standard deviations, a standard deviation to 2.9 %; 4.5 standard errors over at most 8
# coordinates (a false alarm in 1e4 cells) make 0.19, and 200 steps cost up to 0.03 more
BOUND = 0.22


def judge(process, cells):
    for name, (value, reason) in cells.items():
        if reason:
            assert len(reason) > 20, (process, name, reason)
        elif name in OBJECTIVES:
            assert value > 4, (process, name, value)
        elif name == "likelihood":
            assert abs(value) < (2e-2 if "Langevin" in process else 2e-3), (process, name, value)
        else:
            assert value < BOUND, (process, name, value)


@pytest.mark.parametrize("process", PROCESSES)
def test_vectors(process):
    cells = row(process, EVENTS["vector"], count=600)
    assert set(SAMPLERS) <= set(cells)
    judge(process, cells)


@pytest.mark.long
@pytest.mark.parametrize("kind", [k for k in EVENTS if k != "vector"])
@pytest.mark.parametrize("process", PROCESSES)
def test_images_and_series(process, kind):
    judge(process, row(process, EVENTS[kind], count=600))


def test_a_wrong_score_is_seen(monkeypatch):
    """Planted: a score half as long must break the bounds of every sampler that uses it."""
    import benchmarks.matrix as matrix

    monkeypatch.setattr(matrix, "score_of", lambda law, sde: lambda x, t: 0.5 * law.score(sde)(x, t))
    cells = row("VP", EVENTS["vector"], count=600)
    for name in (*SAMPLERS, "likelihood"):
        value, _ = cells[name]
        assert math.isnan(value) or abs(value) > (2e-3 if name == "likelihood" else BOUND), (name, value)
