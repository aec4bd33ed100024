"""The order of convergence of Multistep's fixed grid, with and without the score's correction.

The reference is SciPy's eighth-order method at 1e-9 with the exact divergence, which shares only the process with Multistep.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scoresde import log_likelihood
from scoresde.likelihood import Exact, Multistep, path
from scoresde.solvers import ScipyODE
from tests.likelihood.common import DISTRIBUTION, F64, PROCESSES, X

NODES = {"cld": (64, 96, 128, 192, 256)}  # its clock is three times as long
_REFERENCE = {}
_RIGHT = {}


def reference(name):
    if name not in _REFERENCE:
        sde = PROCESSES[name]
        solver = ScipyODE("DOP853", 1e-9, 1e-9)
        _REFERENCE[name] = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=solver, divergence=Exact()).log_prob
    return _REFERENCE[name]


def errors(name, nodes):
    """Root mean square over the samples, in nats, for each number of nodes."""
    sde = PROCESSES[name]
    found = [
        log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(nodes=n), divergence=Exact()) for n in nodes
    ]
    return [float((f.log_prob - reference(name)).square().mean().sqrt()) for f in found]


def right_errors(name):
    """``errors`` at ``nodes_of(name)`` without a planted error, computed once."""
    if name not in _RIGHT:
        _RIGHT[name] = errors(name, nodes_of(name))
    return _RIGHT[name]


def order(nodes, found):
    """Slope of the least-squares line through (ln nodes, -ln error)."""
    x, y = torch.tensor(nodes, dtype=F64).log(), -torch.tensor(found, dtype=F64).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def nodes_of(name):
    return NODES.get(name, (32, 48, 64, 96, 128))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n != "vp" else n for n in PROCESSES])
def test_order_four_with_the_score_s_correction(name, worst):
    """At least 3.5 over a factor of four in nodes. On grids that are too coarse for the cubics the error decreases faster."""
    nodes, found = nodes_of(name), right_errors(name)
    worst(f"multistep with {nodes[-1]} nodes against SciPy at 1e-9, nats, {name}", found[-1])
    assert order(nodes, found) > 3.5, found
    assert found[-1] < 5e-4


LONG = [pytest.param(name, marks=pytest.mark.long) for name in PROCESSES if name != "vp"]


@pytest.mark.parametrize("name", ["vp", *LONG])
def test_order_three_without_it(name, monkeypatch):
    """Step 1 alone has the third order of Adams-Moulton, and the correction increases the order.

    The latent contains the jumps in both cases, and under Langevin diffusion that is a good part of the correction.
    """
    nodes = (256, 384, 512, 768, 1024) if name == "cld" else (64, 96, 128, 192, 256)
    monkeypatch.setattr(path, "_dot", lambda a, b: torch.zeros(len(a), dtype=F64))
    found = errors(name, nodes)
    monkeypatch.undo()
    assert order(nodes, found) == pytest.approx(3.0, abs=0.5), found
    assert errors(name, nodes[-1:])[0] < (0.25 if name == "cld" else 0.15) * found[-1]


def sign_flipped(monkeypatch):
    dot = path._dot
    monkeypatch.setattr(path, "_dot", lambda a, b: -dot(a, b))


def gaussian_trace_dropped(monkeypatch):
    points = path.white_path

    def without_trace(*args):
        found = points(*args)
        return replace(found, gaussian_trace=0.0 * found.gaussian_trace)

    monkeypatch.setattr(path, "white_path", without_trace)


def corrector_of_lower_order(monkeypatch):
    """The state continues from the predicted value in place of the corrected one."""
    adams = path.adams

    def lower(u, order):
        predictors, _ = adams(u, order)
        return predictors, [torch.cat((p, p.new_zeros(1))) for p in predictors]

    monkeypatch.setattr(path, "adams", lower)
    monkeypatch.setattr(path, "_dot", lambda a, b: torch.zeros(len(a), dtype=F64))


@pytest.mark.parametrize("plant", [sign_flipped, gaussian_trace_dropped])
def test_a_planted_error_is_seen(plant, monkeypatch):
    nodes, right = nodes_of("vp"), right_errors("vp")
    plant(monkeypatch)
    found = errors("vp", nodes)
    assert order(nodes, found) < 3.5 or found[-1] > 5e-4
    assert found[-1] > 10 * right[-1]


def test_a_corrector_that_is_left_out_is_seen(monkeypatch):
    nodes = (64, 96, 128, 192, 256)
    corrector_of_lower_order(monkeypatch)
    assert order(nodes, errors("vp", nodes)) < 2.5
