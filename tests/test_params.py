"""What runs by default of a grid of parameters."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from tests.params import covering, mark_long_cells


@pytest.mark.parametrize("sizes", [(1,), (5,), (3, 11), (3, 4, 3), (2, 2)], ids=str)
def test_a_grid_is_covered_by_as_many_cells_as_its_longest_axis_has_values(sizes):
    grid = [dict(enumerate(cell)) for cell in itertools.product(*map(range, sizes))]
    kept = covering(grid)
    assert len(kept) == max(sizes) and kept == sorted(set(kept))
    for axis, size in enumerate(sizes):
        assert {grid[i][axis] for i in kept} == set(range(size))


def test_a_grid_with_holes_is_covered():
    grid = [{"a": a, "b": b} for a, b in ((0, 0), (0, 1), (1, 0), (0, 2))]
    kept = [grid[i] for i in covering(grid)]
    assert {cell["a"] for cell in kept} == {0, 1} and {cell["b"] for cell in kept} == {0, 1, 2}


class Item:
    """What the hook uses of a collected test."""

    def __init__(self, name, a, b, *markers):
        self.nodeid, self.markers = f"{name}[{a}-{b}]", list(markers)
        self.callspec = SimpleNamespace(params={"a": a, "b": b})

    def get_closest_marker(self, name):
        return name in self.markers or None

    def add_marker(self, mark):
        self.markers.append(mark.name)


def test_the_rest_is_long_and_tests_without_the_mark_are_left_alone():
    items = [Item("marked", a, b, "covering") for a in (0, 1) for b in (0, 1)]
    items += [Item("plain", a, b) for a in (0, 1) for b in (0, 1)]
    mark_long_cells(items)
    assert ["long" in item.markers for item in items] == [False, True, True, False, *[False] * 4]


def test_cells_that_are_long_anyway_cover_nothing():
    items = [Item("marked", 0, 0, "covering", "long"), Item("marked", 0, 1, "covering")]
    mark_long_cells(items)
    assert items[1].markers == ["covering"] and items[0].markers == ["covering", "long"]
