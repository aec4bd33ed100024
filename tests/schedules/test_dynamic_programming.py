"""The grids of dynamic programming against all grids, and what is not allowed."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scoresde import VPSDE
from scoresde.schedules import bound_costs, decoder_costs, grid_cost, optimal_grids
from scoresde.score import DenoisingErrors

F64 = torch.float64
TIMES = torch.linspace(0.0, 1.0, 6, dtype=F64)


def random_costs(count, seed=0):
    return torch.rand(count, count, generator=torch.Generator().manual_seed(seed), dtype=F64)


def brute_force(costs, steps, decoder=None):
    """The smallest cost of all paths of ``steps`` steps, and all paths that have it."""
    count, found = len(costs), {}
    inner = range(1, count - 1) if decoder is None else range(count - 1)
    for middle in itertools.combinations(inner, steps - 1):
        path = (*(() if decoder is not None else (0,)), *middle, count - 1)
        cost = 0.0 if decoder is None else float(decoder[path[0]])
        cost += sum(float(costs[t, s]) for s, t in itertools.pairwise(path))
        found[path] = cost
    best = min(found.values())
    return best, [path for path, cost in found.items() if cost <= best + 1e-12]


def indices(grid, times):
    return tuple((grid[:, None] == times).int().argmax(1).flip(0).tolist())


@pytest.mark.parametrize("with_decoder", [False, True])
def test_all_grids_of_14_instants(with_decoder):
    """The bound of Gaussian data, and random costs."""
    times = torch.linspace(1 / 14, 1.0, 14, dtype=F64)
    errors = DenoisingErrors.of_gaussian(VPSDE(), times, std=0.5)
    for costs, end in (
        (bound_costs(VPSDE(), errors, variance="upper"), decoder_costs(VPSDE(), errors, variance="upper")),
        (random_costs(14), random_costs(14, seed=1)[0]),
    ):
        decoder = end if with_decoder else None
        found = optimal_grids(times, costs, 5, decoder=decoder)
        for k in range(1, 6):
            best, paths = brute_force(costs, k, decoder)
            assert float(found.totals[k - 1]) == pytest.approx(best, abs=1e-12)
            assert indices(found.grid(k), times) in paths
            assert len(found.grid(k)) == k + 1 - with_decoder
            assert grid_cost(times, costs, found.grid(k), decoder=decoder) == pytest.approx(best, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 6), st.booleans())
def test_random_costs_with_forbidden_steps(seed, count, with_decoder):
    costs = random_costs(count, seed)
    costs[random_costs(count, seed + 1) < 0.4] = math.inf
    decoder = random_costs(count, seed + 2)[0] if with_decoder else None
    times, most = torch.arange(count, dtype=F64), count - 1 + with_decoder
    found = optimal_grids(times, costs, most, decoder=decoder)
    for k in range(1, most + 1):
        best, paths = brute_force(costs, k, decoder)
        if math.isinf(best):
            assert float(found.totals[k - 1]) == math.inf
            with pytest.raises(ValueError, match=f"steps={k} .* infinite cost"):
                found.grid(k)
        else:
            assert float(found.totals[k - 1]) == pytest.approx(best, abs=1e-12)
            assert indices(found.grid(k), times) in paths


def test_of_equal_grids_the_one_with_the_earliest_instants_is_used():
    grid = optimal_grids(TIMES, torch.ones(6, 6), 3).grid(3)
    assert grid.tolist() == pytest.approx([1.0, 0.4, 0.2, 0.0])


def test_a_function_is_as_good_as_a_table():
    """Squared steps are shortest in sum where all are equal, for any cost that is convex in the length."""
    found = optimal_grids(TIMES, lambda s, t: (t - s) ** 2, 5)
    assert found.grid(5).tolist() == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    table = (TIMES[:, None] - TIMES) ** 2
    assert torch.equal(optimal_grids(TIMES, table, 5).totals, found.totals)


def test_entries_above_the_diagonal_are_not_read():
    costs = random_costs(6)
    junk = costs.clone()
    junk[torch.triu(torch.ones(6, 6)) > 0] = torch.nan
    assert torch.equal(optimal_grids(TIMES, junk, 3).totals, optimal_grids(TIMES, costs, 3).totals)


def test_float32_costs_are_added_in_float64():
    costs = random_costs(6).float()
    found = optimal_grids(TIMES.float(), costs, 3)
    assert found.totals.dtype == found.grid(2).dtype == F64
    assert torch.equal(found.totals, optimal_grids(TIMES.float(), costs.double(), 3).totals)


def test_a_thousand_instants_take_less_than_two_seconds():
    times = torch.linspace(1e-3, 1.0, 1000, dtype=F64)
    costs = random_costs(1000)
    start = time.process_time()
    optimal_grids(times, costs, 50)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 6}, "steps=6 is not allowed: 6 instants have grids of at most 5"),
        ({"steps": 7, "decoder": torch.ones(6)}, "at most 6"),
        ({"steps": 0}, "steps=0"),
        ({"costs": torch.ones(5, 6)}, r"costs has shape \(5, 6\): give \(6, 6\)"),
        ({"costs": torch.full((6, 6), torch.nan)}, "costs holds nan in 15 places"),
        ({"costs": torch.full((6, 6), -math.inf)}, "costs holds -inf"),
        ({"costs": lambda s, t: torch.ones(3)}, r"costs returned shape \(3,\): it must return \(15,\)"),
        ({"costs": lambda s, t: t * torch.nan}, "costs holds nan"),
        ({"decoder": torch.ones(5)}, r"decoder has shape \(5,\)"),
        ({"decoder": torch.full((6,), torch.nan)}, "decoder holds nan in 6 places"),
        ({"times": TIMES.flip(0)}, "ascend"),
        ({"times": TIMES[:4]}, r"give \(4, 4\)"),
    ],
)
def test_refusals(change, words):
    with pytest.raises(ValueError, match=words):
        optimal_grids(**{"times": TIMES, "costs": torch.ones(6, 6), "steps": 2, **change})


def test_grids_that_are_not_there():
    found = optimal_grids(TIMES, torch.ones(6, 6), 2)
    with pytest.raises(ValueError, match="steps=3 is not allowed: the grids have 1 to 2"):
        found.grid(3)
    assert repr(found) == "OptimalGrids(1 to 2 steps, totals from 1 to 2)"
    with pytest.raises(ValueError, match=r"grid has the time 0\.3, which is not one of times"):
        grid_cost(TIMES, torch.ones(6, 6), torch.tensor([1.0, 0.3]))
    with pytest.raises(ValueError, match="give finite times that descend"):
        grid_cost(TIMES, torch.ones(6, 6), torch.tensor([0.0, 1.0]))
