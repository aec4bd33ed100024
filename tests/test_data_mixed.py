"""Tables of numbers and categories as packed states: values, both directions, volume, refusals, a product process."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import VPSDE
from scoresde.data import AsTokens, CategoryColumn, MixedColumns, MixedTable, RealColumn, Table, WholeColumn
from scoresde.jump import Absorbing
from scoresde.noise import NoiseSource
from scoresde.product import ProductProcess

COLUMNS = (
    RealColumn("height", 1.7, 0.2),
    CategoryColumn("eyes", ("blue", "brown", "green"), 1.5, 0.8),
    WholeColumn("age", 0, 99, 40.0, 20.0),
)
RAW = torch.tensor([[1.8, 2.0, 30.0], [1.5, 0.0, 99.0]], dtype=torch.float64)


def test_values_in_both_directions():
    transform = MixedColumns(COLUMNS)
    noise = NoiseSource.of(3, 2)
    for dtype in (torch.float32, torch.float64):
        x = transform.encode(RAW, noise, dtype=dtype)
        assert x.dtype == dtype and x[:, 1].tolist() == [2.0, 0.0]
        assert torch.allclose(x[:, 0].double(), (RAW[:, 0] - 1.7) / 0.2)
        assert torch.equal(transform.decode(x)[:, 1:], RAW[:, 1:]) and torch.allclose(transform.decode(x), RAW)
    u = x[:, 2] * 20.0 + 40.0 - RAW[:, 2]
    assert bool(((u > 0) & (u < 1)).all()) and transform.dequantized and not transform.discrete
    assert not MixedColumns(COLUMNS[:2]).dequantized and transform.tokens == (0, 3, 0)
    assert transform.log_volume(3) == pytest.approx(-math.log(0.2) - math.log(20.0))
    assert transform.summary == "MixedColumns(1 real, 1 whole, 1 category)"


def test_what_is_refused():
    with pytest.raises(ValueError, match="has no categories: give the table itself"):
        MixedColumns([RealColumn("a")])
    with pytest.raises(ValueError, match=r"has only categories: give AsTokens\(table\)"):
        MixedColumns(COLUMNS[1:2])
    for wrong in (3.0, 0.5, -1.0):
        with pytest.raises(
            ValueError, match=r"x: column 'eyes' holds .* in row 1: allowed are whole numbers from 0 to 2"
        ):
            MixedColumns(COLUMNS).decode(torch.tensor([[0.0, 1.0, 0.0], [0.0, wrong, 0.0]]))


def test_a_table(tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra 'tables'")
    lines = [f"{1.5 + k / 100},{('blue', 'brown', 'green')[k % 3]},{k % 50}" for k in range(60)]
    (tmp_path / "people.csv").write_text("\n".join(["height,eyes,age", *lines]))
    table = Table(str(tmp_path / "people.csv"), COLUMNS)
    data = MixedTable(table)
    batch = data.train.batch(0, 16, seed=0).x
    process = ProductProcess(VPSDE(), [Absorbing(k) if k else None for k in data.transform.tokens])
    real, (states,) = process.split(batch, data=True)
    assert real.shape == (16, 2) and states.shape == (16, 1)
    raw = data.transform.decode(batch)
    assert data.sample_file(raw) == table.sample_file(raw) and b"green" in data.sample_file(raw)[1]
    assert data.train.digest() == table.train.digest() and data.train.transform == data.transform != table.transform
    with pytest.raises(ValueError, match="columns of real numbers, 'height'"):
        AsTokens(table)
