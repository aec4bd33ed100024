"""Grids of Multistep: text, nodes, fits to a score, and the allocation of probes to the nodes."""

from __future__ import annotations

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde import log_likelihood
from scoresde.likelihood import (
    Exact,
    FlowGrid,
    Hadamard,
    Hutchinson,
    HutchPlusPlus,
    Multistep,
    fit_grid,
    standard_grid,
)
from scoresde.likelihood.grid import allocate, grid_from
from scoresde.sde import VPSDE
from scoresde.solvers import SolverError
from tests.likelihood.common import DISTRIBUTION, F64, PROCESSES, Broken, X


class TestGrids:
    SDE = PROCESSES["vp"]

    @classmethod
    @cache
    def text(cls):
        """The JSON text of a fitted grid, computed once."""
        return cls().fitted().to_json()

    def fitted(self, **options):
        return fit_grid(self.SDE, DISTRIBUTION.score(self.SDE), X, fine=60, **options)

    def test_a_late_end_has_no_long_interval(self):
        """VP with T = 2 ends at u = 20. The last two of 64 nodes were at 6 and 20, and log p was wrong by 0.2 nats."""
        sde = VPSDE(T=2.0)
        nodes = standard_grid(sde, 1e-5).nodes(64)
        assert float(nodes[-1]) == pytest.approx(20.0) and float(nodes.diff().max()) < 4.5
        found = log_likelihood(sde, DISTRIBUTION.score(sde), X, solver=Multistep(64), divergence=Exact())
        assert float((found.log_prob - DISTRIBUTION.log_prob(X)).abs().max()) < 0.005

    def test_round_trip_as_text(self):
        for grid in (standard_grid(self.SDE, 1e-5), self.fitted()):
            assert FlowGrid.from_json(grid.to_json()) == grid
        assert "pilot" in self.fitted().summary and repr(self.fitted()).startswith("FlowGrid(t_min=1e-05, u=(")
        assert self.fitted() == self.fitted()

    @pytest.mark.parametrize(
        "damage", ["cut", "null", "list", "missing", "falling", "nan", "short", "share", "negative"]
    )
    def test_damaged_text_is_refused(self, damage):
        text = self.text()
        fields = json.loads(text)
        if damage == "missing":
            del fields["share"]
        elif damage == "falling":
            fields["u"][3] = fields["u"][5]
        elif damage == "nan":
            fields["spread"][3] = math.nan
        elif damage == "short":
            fields["spread"] = fields["spread"][:-1]
        elif damage == "share":
            fields["share"][-1] = 0.9999
        elif damage == "negative":
            fields["spread"][0] = -1.0
        plain = {"cut": text[:-30], "null": "null", "list": "[1, 2]"}
        with pytest.raises(ValueError, match=r"FlowGrid|u=|spread|share"):
            FlowGrid.from_json(plain.get(damage, json.dumps(fields)))

    def test_nodes_rise_between_the_ends(self):
        for grid in (standard_grid(self.SDE, 1e-5), self.fitted()):
            for count in (4, 5, 64):
                u = grid.nodes(count)
                assert len(u) == count
                assert bool((u.diff() > 0).all())
                assert (float(u[0]), float(u[-1])) == (grid.u[0], grid.u[-1])

    def test_a_fitted_grid_beats_the_standard_one(self):
        """With equal nodes, on samples that were not used for the fit."""
        x = DISTRIBUTION.sample(12, seed=8, dtype=F64)
        score = DISTRIBUTION.score(self.SDE)
        exact = log_likelihood(self.SDE, score, x, solver=Multistep(512), divergence=Exact()).log_prob
        grid = fit_grid(self.SDE, score, DISTRIBUTION.sample(24, seed=9, dtype=F64), fine=120)
        error = {
            name: float(
                (log_likelihood(self.SDE, score, x, solver=Multistep(32, g), divergence=Exact()).log_prob - exact).std()
            )
            for name, g in {"fitted": grid, "standard": None}.items()
        }
        assert error["fitted"] < error["standard"]

    @pytest.mark.parametrize("divergence", [Hadamard(count=3), HutchPlusPlus(count=6), Hutchinson(count=2, fixed=True)])
    def test_probes_of_a_fitted_grid(self, divergence):
        """The total number of probes is the requested one, also for divergences with the same number at every node."""
        grid = self.fitted()
        found = log_likelihood(
            self.SDE, DISTRIBUTION.score(self.SDE), X, solver=Multistep(32, grid), divergence=divergence
        )
        assert found.vjps == 32 * divergence.products
        assert bool(found.standard_error.isfinite().all())

    def test_more_probes_where_their_spread_is_larger(self):
        grid = self.fitted()
        u = grid.nodes(32)
        weights = torch.ones(32, dtype=F64)
        counts = grid.probe_counts(u, weights, 8)
        spread = torch.from_numpy(np.interp(u.numpy(), grid.u, grid.spread))
        assert sum(counts) == 32 * 8
        assert min(counts) >= 1
        assert counts[int(spread.argmax())] == max(counts) > min(counts)

    def test_a_grid_for_the_score_of_a_gaussian_is_uniform(self):
        """Without curvature and spread, nodes and probes are uniform and not undefined."""
        u = torch.linspace(-7.0, 5.0, 60, dtype=F64)
        grid = grid_from(1e-5, u, torch.zeros(58, dtype=F64), torch.zeros(60, dtype=F64), 0.5, 0.5)
        steps = grid.nodes(9).diff()
        assert torch.allclose(steps, steps.mean())
        assert grid.probe_counts(grid.nodes(9), torch.ones(9, dtype=F64), 3) == [3] * 9
        fitted = fit_grid(self.SDE, lambda x, t: -x, X, fine=40)
        assert sum(fitted.probe_counts(fitted.nodes(8), torch.ones(8, dtype=F64), 3)) == 24

    def test_no_grid_for_a_score_that_is_not_finite(self):
        with pytest.raises(SolverError, match="no grid can be made"):
            fit_grid(self.SDE, Broken([1], 0.5), X, fine=40)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.0, 1e30), min_size=1, max_size=40), st.integers(1, 9))
def test_allocation(wanted, mean):
    """The mean is kept, every node has a probe, and a larger weight never gets fewer probes, to rounding."""
    wanted = torch.tensor(wanted, dtype=F64)
    found = torch.tensor(allocate(wanted, mean), dtype=F64)
    assert int(found.sum()) == mean * len(wanted)
    assert int(found.min()) >= 1
    ranked = found[wanted.argsort()]
    assert bool((ranked.diff() >= -1).all())


def test_allocation_is_proportional():
    assert allocate(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=F64), 3) == [1, 2, 3, 6]
    assert allocate(torch.tensor([0.0, 0.0, 10.0, 40.0], dtype=F64), 3) == [1, 1, 2, 8]
    assert allocate(torch.zeros(3, dtype=F64), 4) == [4, 4, 4]
