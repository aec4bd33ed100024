"""The transform of tables: each column in its own units, whole numbers and categories dequantized, exact change of volume."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scoresde.data import Affine, CategoryColumn, Columns, Dataset, Quantized, RealColumn, WholeColumn
from scoresde.noise import NoiseSource
from tests.data_common import F32, F64

MIXED = Columns(
    [RealColumn("a", 3.0, 0.5), WholeColumn("b", -2, 7, 3.0, 4.0), CategoryColumn("c", ("x", "y", "z"), 1.0, 0.8)]
)


def rows(n, seed=0):
    noise = NoiseSource.of(seed, n)
    real = 3.0 + 0.5 * noise.normal((), step=0, purpose="a", dtype=F64)
    whole = noise.integers(10, (), step=0, purpose="b") - 2.0
    return torch.stack([real, whole, noise.integers(3, (), step=0, purpose="c").double()], 1)


def test_mixed_columns_and_back():
    raw = rows(500)
    x = MIXED.encode(raw, NoiseSource.of(1, 500), dtype=F32)
    back = MIXED.decode(x)
    assert torch.equal(back[:, 1:], raw[:, 1:]) and torch.allclose(back[:, 0], raw[:, 0], atol=1e-6)
    assert not torch.equal(x, MIXED.encode(raw, NoiseSource.of(1, 500), step=1, dtype=F32))
    u = x.double() * torch.tensor([0.5, 4.0, 0.8]) + torch.tensor([3.0, 3.0, 1.0]) - raw
    assert float(u[:, 0].abs().max()) < 1e-6 and 0.4 < float(u[:, 1:].mean()) < 0.6
    assert float(u[:, 1:].min()) >= 0.0 and float(u[:, 1:].max()) < 1.0
    middle = MIXED.encode(raw, None, dtype=F64)
    assert torch.allclose(middle[:, 1], (raw[:, 1] + 0.5 - 3.0) / 4.0)
    assert MIXED.decode(torch.tensor([[0.0, 99.0, -99.0]])).tolist() == [[3.0, 7.0, 0.0]]


@settings(max_examples=30, deadline=None)
@given(st.integers(-(10**5), 10**5), st.integers(1, 300), st.floats(0.1, 1e4), st.floats(-1e5, 1e5))
def test_whole_numbers_survive_rounding(low, span, scale, shift):
    """Dequantized, rounded to float32 and decoded, every whole number is the same, or the dtype is refused."""
    transform = Columns([WholeColumn("k", low, low + span, shift, scale)])
    raw = torch.arange(low, low + span + 1).double()[:, None]
    x = transform.encode(raw, NoiseSource.of(0, len(raw)), dtype=F32)
    assert torch.equal(transform.decode(x), raw)


def test_equal_to_the_transforms_of_arrays():
    """One column is an `Affine` or, up to its range, a `Quantized`: the same x, the same volume."""
    raw = torch.linspace(-5.0, 9.0, 11, dtype=F64)[:, None]
    column, affine = Columns([RealColumn("a", 1.5, 2.5)]), Affine(1.5, 2.5)
    assert torch.equal(column.encode(raw, None, dtype=F32), affine.encode(raw, dtype=F32))
    assert column.log_volume(1) == affine.log_volume(1)
    levels, noise = torch.arange(8)[:, None], NoiseSource.of(3, 8)
    column, quantized = Columns([WholeColumn("k", 0, 7, 4.0, 4.0)]), Quantized(8)
    assert torch.allclose(
        column.encode(levels, noise, dtype=F32), quantized.encode(levels, noise, dtype=F32), atol=1e-6
    )
    assert column.log_volume(1) == pytest.approx(quantized.log_volume(1))


def test_the_density_is_that_of_the_rows():
    """For x normal, ln p(x) + log_volume is the log-density of the rows in their units: the sum of the columns' own."""
    columns = [RealColumn("a", 100.0, 20.0), RealColumn("b", -1.0, 0.01)]
    transform, raw = Columns(columns), torch.tensor([[110.0, -1.003], [60.0, -0.99]], dtype=F64)
    x = transform.encode(raw, None, dtype=F64)
    ours = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1) + transform.log_volume(2)
    parts = [torch.distributions.Normal(c.shift, c.scale).log_prob(raw[:, k]) for k, c in enumerate(columns)]
    assert torch.allclose(ours, parts[0] + parts[1])
    assert transform.log_volume(2) == -math.log(20.0) - math.log(0.01)
    with pytest.raises(ValueError, match="dimensions=3 is not allowed"):
        transform.log_volume(3)


def test_what_is_refused_names_the_column():
    raw = rows(20)
    for place, value, said in (
        ((4, 0), math.nan, "non-finite values in 1 of 20 samples: index 4"),
        ((5, 1), 8.0, "column 'b' holds 8 in row 5: allowed are whole numbers from -2 to 7"),
        ((6, 1), 0.5, "column 'b' holds 0.5 in row 6"),
        ((7, 2), 3.0, "column 'c' holds 3 in row 7"),
    ):
        wrong = raw.clone()
        wrong[place] = value
        with pytest.raises(ValueError, match=said):
            Dataset(wrong, MIXED)
    with pytest.raises(ValueError, match="column 'a' holds nan"):
        MIXED.encode(torch.full((1, 3), math.nan), None, dtype=F32)
    with pytest.raises(ValueError, match=r"shape \(20, 2\): it must have shape \(B, 3\)"):
        MIXED.check(raw[:, :2])
    with pytest.raises(ValueError, match=r"x has shape \(1, 2\)"):
        MIXED.decode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"names \['a'\] more than once"):
        Columns([RealColumn("a"), RealColumn("a")])
    with pytest.raises(ValueError, match="columns="):
        Columns([])
    with pytest.raises(ValueError, match="low=3, high=3 of column 'k'"):
        WholeColumn("k", 3, 3)
    with pytest.raises(ValueError, match="values="):
        CategoryColumn("k", ("a", "a"))
    with pytest.raises(ValueError, match=r"scale=0\.0"):
        RealColumn("k", 0.0, 0.0)
    with pytest.raises(ValueError, match="column=''"):
        RealColumn("")


def test_columns_that_float32_cannot_represent():
    fine = torch.linspace(0.0, 1.0, 50, dtype=F64)[:, None]
    far = Dataset(fine + 1e8, Columns([RealColumn("time", 0.0, 1.0)]), "t")
    with pytest.raises(ValueError, match=r"column 'time'.*float32 rounds away"):
        far.check_dtype(F32)
    Dataset(fine + 1e8, Columns([RealColumn("time", 1e8, 1.0)]), "t").check_dtype(F32)
    with pytest.raises(ValueError, match="column 'id' of whole numbers from 0 to 100000000"):
        Columns([WholeColumn("id", 0, 10**8)]).check_dtype(F32)


def test_a_data_set_of_columns():
    raw = rows(40)
    data = Dataset(raw, MIXED, "t")
    assert data.summary == "Dataset('t', 40 events of shape (3,), Columns(1 real, 1 whole, 1 category))"
    x, *_ = data.batch(3, 8, seed=5)
    assert torch.equal(
        torch.cat([data.batch(3, 8, seed=5, part=slice(4))[0], data.batch(3, 8, seed=5, part=slice(4, 8))[0]]), x
    )
    assert MIXED.dequantized and not MIXED.discrete and not Columns([RealColumn("a")]).dequantized
    assert Quantized(4).dequantized and not Affine().dequantized
