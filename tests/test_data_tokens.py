"""Tokens: values, refusals, and data with levels as tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde.data import (
    Affine,
    Arrays,
    AsTokens,
    CategoryColumn,
    Dataset,
    Degraded,
    Digits,
    RealColumn,
    Splits,
    Table,
    Tokens,
    TorchDataset,
    WholeColumn,
)  # fmt: skip
from scoresde.data.pictures import picture_format
from scoresde.experiment.folder.plots import event_picture
from scoresde.likelihood import bits_per_dim
from scoresde.operators import SuperResolution
from tests.data_common import levels


def test_tokens_are_kept():
    transform, raw = Tokens(5), levels((6, 7), 5)
    for dtype in (torch.float16, torch.float32, torch.float64):
        x = transform.encode(raw.to(torch.uint8), None, dtype=dtype)
        assert x.dtype == torch.int64 and torch.equal(x, raw)
    assert torch.equal(transform.decode(raw.double()), raw) and transform.decode(raw.double()).dtype == torch.int64
    assert transform.discrete and not transform.dequantized and transform.log_volume(9) == 0.0
    found = bits_per_dim(torch.tensor([-7 * math.log(5)]), (7,), transform)
    assert float(found) == pytest.approx(math.log2(5))


def test_what_is_no_token():
    with pytest.raises(ValueError, match=r"holds the token 5 in event 1 at \(2,\), the number of a mask.*0 \.\. 4"):
        Tokens(5).check(torch.tensor([[0, 1, 2], [0, 1, 5]]))
    with pytest.raises(ValueError, match=r"holds the token -1 in event 0 at \(0,\): allowed"):
        Tokens(5).encode([[-1, 2]], None, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"holds the token 0.5 in event 0 at \(1,\)"):
        Tokens(5).decode([[0.0, 0.5]])
    with pytest.raises(ValueError, match="index 0"):
        Tokens(5).check(torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match="is empty"):
        Tokens(5).check(torch.empty(0, 3).long())


def test_the_place_is_that_in_the_data(monkeypatch):
    """Also where the data is checked in pieces, and where events are read on demand."""
    raw = torch.zeros(40, 4, dtype=torch.int64)
    raw[37, 3] = 9
    monkeypatch.setattr("scoresde.data.rows.AT_ONCE", 32)
    with pytest.raises(ValueError, match=r"data set 'bars' holds the token 9 in event 37 at \(3,\)"):
        Dataset(raw, Tokens(9), "bars")
    items = [row.numpy() for row in raw]
    data = TorchDataset(items, items, levels=10)
    made = data.train.with_transform(Tokens(9))
    with pytest.raises(ValueError, match=r"token 9 in event 37 at \(3,\)"):
        made.events(torch.tensor([3, 37]))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "b"], "has 2 texts: give tokens=3"), (["a", "b", "a"], "contains 'a' more than once")],
)
def test_names(names, message):
    assert Tokens(3, ["a", "b", "c"]).names == ("a", "b", "c")
    with pytest.raises(ValueError, match=message):
        Tokens(3, names)
    with pytest.raises(TypeError, match="give a tuple or list of strings"):
        Tokens(3, "abc")


def test_levels_become_tokens():
    source, data = Digits(labels=True), AsTokens(Digits(labels=True))
    index = torch.arange(20)
    x = data.train.encode(index, seed=0)
    assert x.dtype == torch.int64 and torch.equal(x, source.train.events(index))
    batch = data.train.batch(3, 8, seed=0)
    assert batch.x.dtype == torch.int64 and set(batch.condition) == {"label"} and list(data.kinds) == ["label"]
    assert torch.equal(batch.condition["label"], source.train.batch(3, 8, seed=0).condition["label"])
    assert data.train.digest() == source.train.digest() and data.transform == Tokens(17)
    assert picture_format(data).levels == 17


def test_two_colors(tmp_path):
    data = AsTokens(Digits(), threshold=8)
    x = data.test.encode(slice(None), seed=0)
    assert torch.equal(x, (Digits().test.raw >= 8).long()) and data.transform == Tokens(2)
    assert data.test.digest() != Digits().test.digest() != AsTokens(Digits(), threshold=9).test.digest()
    assert event_picture(x[:4], data.transform).startswith(b"\x89PNG") and picture_format(data).levels == 2

    np.save(tmp_path / "a.npy", levels((30, 1, 4, 4), 9).numpy())
    arrays = Arrays(str(tmp_path / "a.npy"), levels=9, flip=True)
    found = AsTokens(arrays, threshold=4).train
    assert torch.equal(found.batch(0, 9, seed=1).x, (arrays.train.batch(0, 9, seed=1).x >= 8 / 9 - 1).long())


def test_two_colors_of_events_that_are_read_on_demand():
    rows = levels((12, 1, 4, 4), 9)
    train, test = ([(row.numpy(), y) for row in rows] for y in (1, 0))
    data = TorchDataset(train, test, levels=9, condition=["y"], classes={"y": 2})
    found, other = AsTokens(data, threshold=4), AsTokens(data, threshold=5)
    assert torch.equal(found.train.encode(slice(None), seed=0), (rows >= 4).long())
    assert found.train.conditions(slice(None))["y"].tolist() == [1] * 12
    assert found.train.digest() == AsTokens(data, threshold=4).train.digest() != other.train.digest()


def test_what_cannot_become_tokens():
    real = Dataset(torch.zeros(4, 2), Affine())
    with pytest.raises(ValueError, match="which has no levels"):
        AsTokens(Splits(real, real))
    with pytest.raises(ValueError, match="which has no levels"):
        AsTokens(AsTokens(Digits()))
    with pytest.raises(ValueError, match=r"threshold=17 is not allowed: give 1 \.\. 16"):
        AsTokens(Digits(), threshold=17)
    with pytest.raises(ValueError, match="threshold"):
        AsTokens(Digits(), threshold=0)
    with pytest.raises(ValueError, match="the data has tokens"):
        Degraded(AsTokens(Digits()), SuperResolution(2))


SHOES = "size,color,pairs\n" + "".join(f"{k % 5 + 38},{('red', 'blue', 'white')[k % 3]},{k % 2}\n" for k in range(30))


def test_a_table_of_categories(tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra 'tables'")
    (tmp_path / "shoes.csv").write_text(SHOES)
    columns = [
        WholeColumn("size", 38, 42),
        CategoryColumn("color", ("blue", "red", "white")),
        WholeColumn("pairs", 0, 1),
    ]
    source = Table(str(tmp_path / "shoes.csv"), columns, condition=["pairs"])
    data = AsTokens(source)
    assert data.transform == Tokens(5) and data.event_shape == (2,) and list(data.kinds) == ["pairs"]
    x = data.train.encode(slice(None), seed=0)
    assert x.dtype == torch.int64 and torch.equal(x[:, 0] + 38, source.train.raw[:, 0].long())
    assert torch.equal(x[:, 1], source.train.raw[:, 1].long()) and data.train.digest() != source.train.digest()
    index = torch.arange(4)
    suffix, content = data.sample_file(x[:4], data.train.conditions(index))
    assert (suffix, content) == source.sample_file(source.train.raw[:4], source.train.conditions(index))
    assert torch.equal(data.train.conditions(index)["pairs"], source.train.conditions(index)["pairs"])


def test_a_token_that_a_column_does_not_have_is_an_empty_cell(tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra 'tables'")
    (tmp_path / "shoes.csv").write_text(SHOES)
    columns = [
        CategoryColumn("color", ("blue", "red", "white")),
        WholeColumn("size", 38, 42),
        WholeColumn("pairs", 0, 1),
    ]
    data = AsTokens(Table(str(tmp_path / "shoes.csv"), columns))
    _, content = data.sample_file(torch.tensor([[1, 4, 1], [3, 0, 4]]))
    assert content.decode().split() == ['"color","size","pairs"', '"red",42,1', ",38,"]


def test_tables_that_cannot_become_tokens(tmp_path):
    (tmp_path / "shoes.csv").write_text(SHOES)
    file = str(tmp_path / "shoes.csv")
    with pytest.raises(ValueError, match="columns of real numbers, 'size'"):
        AsTokens(Table(file, [RealColumn("size")]))
    with pytest.raises(ValueError, match="the data is a table"):
        AsTokens(Table(file, [WholeColumn("pairs", 0, 1)]), threshold=1)
    same = [CategoryColumn("color", ("blue", "red", "white")), CategoryColumn("size", ("blue", "red", "white"))]
    assert AsTokens(Table(file, same)).transform.names == ("blue", "red", "white")
