"""Tables in CSV and Parquet files: columns by name, missing values, measured scales, and samples in the format of the data."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from scoresde.conditions import Classes, Vector
from scoresde.data import CategoryColumn, RealColumn, Table, WholeColumn, measure_columns, permutation, table_files
from scoresde.noise import NoiseSource

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the extra 'tables' (pyarrow)")


def mixed(n=40):
    """Four columns of different types, as text."""
    noise = NoiseSource.of(0, n)
    real = (20.0 + 3.0 * noise.normal((), step=0, purpose="a", dtype=torch.float64)).tolist()
    whole = (noise.integers(6, (), step=0, purpose="b") + 1).tolist()
    text = [("red", "white", "rosé, dry")[k] for k in noise.integers(3, (), step=0, purpose="c").tolist()]
    yes = [("true", "false")[k] for k in noise.integers(2, (), step=0, purpose="d").tolist()]
    return [[f"{a:.4f}", str(b), f'"{c}"', d] for a, b, c, d in zip(real, whole, text, yes, strict=True)]


def csv_of(path, rows, head="degree,count,color,sold"):
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


@needs_pyarrow
def test_columns_are_measured_on_the_training_rows(tmp_path):
    rows = mixed()
    file = csv_of(tmp_path / "t.csv", rows)
    columns = measure_columns(file)
    kinds = [type(column) for column in columns]
    assert kinds == [RealColumn, WholeColumn, CategoryColumn, WholeColumn]
    assert (columns[1].low, columns[1].high, columns[2].values) == (1, 6, ("red", "rosé, dry", "white"))
    data = Table(file, columns)
    assert data.event_shape == (4,) and (len(data.train), len(data.test)) == (36, 4)
    train = data.train.raw
    spread = (train.var(0, correction=0) + torch.tensor([0.0, 1.0, 1.0, 1.0]) / 12.0).sqrt()
    assert torch.allclose(torch.tensor([c.scale for c in columns]).double(), spread, rtol=1e-3)
    shifts = torch.tensor([c.shift for c in columns]).double()
    assert torch.allclose(shifts, train.mean(0) + torch.tensor([0.0, 0.5, 0.5, 0.5]), atol=1e-2)
    # the rows are those of the file
    found = {tuple(row.tolist()) for row in torch.cat([train, data.test.raw])}
    named = {"red": 0.0, "rosé, dry": 1.0, "white": 2.0}
    wanted = {(float(a), float(b), named[c.strip('"')], float(d == "true")) for a, b, c, d in rows}
    assert found == wanted


@needs_pyarrow
def test_chosen_columns_and_a_test_file(tmp_path):
    file, test = csv_of(tmp_path / "t.csv", mixed()), csv_of(tmp_path / "test.csv", mixed(7))
    columns = measure_columns(file, ("count", "degree"), test=test)
    data = Table(file, columns, test=test)
    assert [column.column for column in columns] == ["count", "degree"]
    assert (len(data.train), len(data.test), data.test.name) == (40, 7, "test.csv/test")
    assert torch.equal(data.test.raw[:, 0], torch.tensor([float(row[1]) for row in mixed(7)]).double())


@needs_pyarrow
def test_parquet_has_the_same_rows_as_csv(tmp_path):
    from pyarrow import csv, parquet

    file = csv_of(tmp_path / "t.csv", mixed())
    table = csv.read_csv(file)
    parquet.write_table(table.set_column(2, "color", table.column("color").dictionary_encode()), tmp_path / "t.parquet")
    columns = measure_columns(file)
    assert measure_columns(str(tmp_path / "t.parquet")) == columns
    assert torch.equal(Table(file, columns).train.raw, Table(str(tmp_path / "t.parquet"), columns).train.raw)


@needs_pyarrow
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_samples_have_the_format_of_the_data(tmp_path, suffix):
    """Written as samples and read again, rows are the same, with the same names and types."""
    from pyarrow import csv, parquet

    file = csv_of(tmp_path / "t.csv", mixed())
    if suffix == "parquet":
        parquet.write_table(csv.read_csv(file), tmp_path / "t.parquet")
        file = str(tmp_path / "t.parquet")
    columns = measure_columns(file)
    data = Table(file, columns)
    ending, content = data.sample_file(data.transform.decode(data.train.encode(slice(None), seed=0)))
    assert ending == f".{suffix}" and data.sample_file(data.train.raw)[1] == data.sample_file(data.train.raw)[1]
    (tmp_path / f"again.{suffix}").write_bytes(content)
    again = Table(str(tmp_path / f"again.{suffix}"), columns)
    rows = torch.cat([again.train.raw, again.test.raw])
    order, wanted = rows[:, 0].argsort(), data.train.raw[data.train.raw[:, 0].argsort()]
    assert torch.equal(rows[order][:, 1:], wanted[:, 1:]) and torch.allclose(rows[order], wanted, rtol=1e-6)
    assert measure_columns(str(tmp_path / f"again.{suffix}"))[2].values == columns[2].values


@needs_pyarrow
def test_missing_values(tmp_path):
    rows = mixed()
    rows[3][0], rows[5][0], rows[5][1], rows[9][2] = "", "NA", "NaN", ""
    file = csv_of(tmp_path / "t.csv", rows)
    said = r"missing values in 3 of 40 rows, by column: 'degree' 2, 'count' 1, 'color' 1: .*missing=\"drop\""
    with pytest.raises(ValueError, match=said):
        measure_columns(file)
    columns = measure_columns(file, missing="drop")
    with pytest.raises(ValueError, match=said):
        _ = Table(file, columns).train
    data = Table(file, columns, missing="drop")
    assert len(data.train) + len(data.test) == 37
    assert data.train.name == "t.csv, 3 of 40 rows left out/train"
    # a column without missing values keeps every row
    assert len(Table(file, measure_columns(file, ("sold",))).train) == 36
    rows = [[*row[:3], ""] for row in rows]
    with pytest.raises(ValueError, match="'sold' 40: leave out these columns"):
        measure_columns(csv_of(tmp_path / "t.csv", rows), missing="drop")
    with pytest.raises(ValueError, match="missing='fill' is not known"):
        Table(file, columns, missing="fill")


@needs_pyarrow
def test_columns_without_a_model_are_named(tmp_path):
    head = "id,when,same,x"
    rows = [[f"name {k}", f"2024-01-{k % 28 + 1:02d}", "5", f"{k / 7:.3f}"] for k in range(100)]
    file = csv_of(tmp_path / "t.csv", rows, head)
    said = "'id' has 100 different texts, more than 64, 'when' is of type date32.*, 'same' is constant"
    with pytest.raises(ValueError, match=said):
        measure_columns(file)
    assert measure_columns(file, ("x",))[0].column == "x"
    with pytest.raises(ValueError, match=r"holds infinite values"):
        measure_columns(csv_of(tmp_path / "u.csv", [[str(k)] for k in range(20)] + [["inf"]], "x"))


@needs_pyarrow
def test_errors_name_file_and_column(tmp_path):
    file = csv_of(tmp_path / "t.csv", mixed())
    columns = measure_columns(file)
    for wrong, said in (
        ([RealColumn("weight")], "has no column 'weight': it has 'degree', 'count', 'color', 'sold'"),
        ([WholeColumn("count", 1, 5)], r"column 'count' holds 6 in row \d+: allowed are whole numbers from 1 to 5"),
        ([WholeColumn("degree", 0, 50)], "column 'degree' holds"),
        ([CategoryColumn("color", ("red", "white"))], "column 'color' holds 'rosé, dry': allowed are 'red', 'white'"),
        ([CategoryColumn("count", ("1", "2"))], "column 'count' holds '3': allowed are '1', '2'"),
        ([CategoryColumn("degree", ("1", "2"))], "column 'degree' is real, and CategoryColumn"),
        ([RealColumn("color")], "column 'color' is category, and RealColumn"),
    ):
        with pytest.raises(ValueError, match=said):
            _ = Table(file, wrong).train
    with pytest.raises(ValueError, match=r"file='t\.txt' is not allowed: give a table that ends in \.csv"):
        Table("t.txt", columns)
    with pytest.raises(FileNotFoundError, match="no data file"):
        _ = Table(str(tmp_path / "absent.csv"), columns).train
    for content, said in (
        ("", "cannot be read as a table"),
        ("a,b\n1,2\n3\n", "cannot be read as a table"),
        ("a,b\n", "has no rows"),
        ("a,a\n1,2\n", "several columns with the name 'a'"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(ValueError, match=said):
            measure_columns(str(tmp_path / "bad.csv"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        measure_columns(str(tmp_path / "bad.parquet"))


def test_sampling_needs_no_data_and_a_missing_package_is_named(monkeypatch):
    data = Table("absent.csv", [RealColumn("a", 2.0, 3.0), WholeColumn("b", 0, 3)])
    assert data.event_shape == (2,)
    assert torch.equal(data.transform.decode(torch.zeros(1, 2)), torch.tensor([[2.0, 0.0]]).double())
    monkeypatch.setattr(table_files, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"'pyarrow', which is not installed: pip install 'scoresde\[tables\]'"):
        _ = data.train


@needs_pyarrow
def test_large_whole_numbers_are_real(tmp_path):
    """Whole numbers whose steps float32 cannot resolve have no levels. Ids up to 2**53 stay exact in the file."""
    numbers = np.arange(50) * 10**9
    columns = measure_columns(csv_of(tmp_path / "t.csv", [[str(k), str(k % 7)] for k in numbers], "big,small"))
    assert [type(column) for column in columns] == [RealColumn, WholeColumn]


class TestConditions:
    """Columns as conditions of the others: degree (real), count (1 to 6), color (3 texts), sold (true and false)."""

    @needs_pyarrow
    def test_rows_keep_their_conditions(self, tmp_path):
        file = csv_of(tmp_path / "t.csv", mixed())
        columns = measure_columns(file, categories=["sold"])
        assert columns[3] == CategoryColumn("sold", ("0", "1"), columns[3].shift, columns[3].scale)
        whole, data = (
            Table(file, columns),
            Table(file, columns, condition={"hue": "color", "count": "count", "sold": "sold"}),
        )
        assert data.event_shape == (1,) and data.columns.names == ["degree"]
        hues = ("red", "rosé, dry", "white")
        assert data.kinds == {"hue": Classes(3, hues), "count": Vector(1), "sold": Classes(2, ("0", "1"))}
        for split, both in ((data.train, whole.train), (data.test, whole.test)):
            given = split.conditions(slice(None))
            assert torch.equal(split.raw, both.raw[:, :1])
            assert torch.equal(given["hue"], both.raw[:, 2].long()) and torch.equal(
                given["sold"], both.raw[:, 3].long()
            )
            count = (both.raw[:, 1:2] + 0.5 - columns[1].shift) / columns[1].scale
            assert torch.equal(given["count"], count.float())
        assert torch.equal(
            data.train.batch(1, 8, seed=2).x,
            (data.train.raw[_order(data)] - columns[0].shift).div(columns[0].scale).float(),
        )
        assert data.train.digest() != whole.train.digest()
        assert len({Table(file, columns, condition=c).train.digest() for c in ((), ["color"], ["count"])}) == 3

    @needs_pyarrow
    def test_parts_of_a_batch_have_the_conditions_of_the_batch(self, tmp_path):
        file = csv_of(tmp_path / "t.csv", mixed())
        data = Table(file, measure_columns(file), condition=["color", "degree"]).train
        whole = data.batch(3, 10, seed=1)
        parts = [data.batch(3, 10, seed=1, part=slice(a, b)) for a, b in ((0, 3), (3, 10))]
        for name, rows in whole.condition.items():
            assert torch.equal(torch.cat([part.condition[name] for part in parts]), rows)

    @needs_pyarrow
    def test_values_have_the_units_of_the_columns(self, tmp_path):
        file = csv_of(tmp_path / "t.csv", mixed())
        columns = measure_columns(file)
        data = Table(file, columns, condition=["degree", "count", "color"])
        degree, count, _, _ = columns
        assert data.condition_row("color", "white").tolist() == 2 and data.condition_row("color", 1).tolist() == 1
        assert data.condition_row("degree", 21.5).item() == pytest.approx(
            (21.5 - degree.shift) / degree.scale, rel=1e-6
        )
        assert data.condition_row("count", [3]).item() == pytest.approx((3.5 - count.shift) / count.scale, rel=1e-6)
        for name, value, said in (
            (
                "color",
                "whit",
                r"condition\.color='whit' is not allowed: .* 'red', 'rosé, dry', 'white'; did you mean 'white'",
            ),
            ("color", 3, r"condition\.color=3 is not allowed"),
            ("count", 7, "condition.count=7 is not allowed for column 'count': allowed are whole numbers from 1 to 6"),
            ("count", 2.5, "allowed are whole numbers from 1 to 6"),
            ("degree", "warm", "condition.degree='warm' is not allowed: give a real number"),
            ("degree", [1.0, 2.0], "give a real number"),
        ):
            with pytest.raises(ValueError, match=said):
                data.condition_row(name, value)

    @needs_pyarrow
    def test_samples_are_complete_rows(self, tmp_path):
        file = csv_of(tmp_path / "t.csv", mixed())
        columns = measure_columns(file)
        data, whole = Table(file, columns, condition=["color", "count"]), Table(file, columns)
        given = data.test.conditions(slice(None))
        _, content = data.sample_file(data.test.raw, given)
        assert content == whole.sample_file(whole.test.raw)[1]
        assert content.splitlines()[0] == b'"degree","count","color","sold"'
        assert data.sample_file(data.test.raw)[1].splitlines()[0] == b'"degree","sold"'

    @needs_pyarrow
    def test_wrong_conditions_are_refused(self, tmp_path):
        file = csv_of(tmp_path / "t.csv", mixed(), head="degree,count,wine color,sold")
        columns = measure_columns(file)
        for condition, error, said in (
            ("count", TypeError, "condition='count' is not allowed: give a tuple or list of strings"),
            (["grade"], ValueError, "condition names 'grade', which is not in columns: 'degree'"),
            (["cuont"], ValueError, "did you mean 'count'"),
            (
                ["wine color"],
                ValueError,
                "condition: 'wine color' is not allowed as a name: .* {'grade': 'wine color'}",
            ),
            ({"type": "wine color"}, ValueError, "'type' is not allowed as a name"),
            ({"a": "count", "b": "count"}, ValueError, "condition names a column more than once: a, b"),
            (["degree", "count", "sold"], ValueError, None),
        ):
            if said is None:
                condition = dict(zip("abcd", (c.column for c in columns), strict=True))
                said = "condition names all columns .*: leave at least one to model"
            with pytest.raises(error, match=said):
                Table(file, columns, condition=condition)
        for categories, said in ((["a"], "categories names 'a'"), (["degree"], "'degree' is of real numbers")):
            with pytest.raises(ValueError, match=said):
                measure_columns(file, categories=categories)
        test = csv_of(
            tmp_path / "test.csv", [*mixed(3), ["1.0", "1", "green", "true"]], head="degree,count,wine color,sold"
        )
        with pytest.raises(ValueError, match="column 'wine color' holds 'green': allowed are 'red'"):
            _ = Table(file, columns, test=test, condition={"hue": "wine color"}).train


def _order(data):
    """Indices of the events of batch 1 of 8 with seed 2."""
    return permutation(len(data.train), 2, 0)[8:16]
