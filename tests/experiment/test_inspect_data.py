"""What scoresde inspect says about data: files and pixels that are left out, axes, outliers, and columns of tables."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import Arrays
from scoresde.data.inspect_columns import Column, Grid
from scoresde.data.inspect_facts import survey
from scoresde.data.inspect_images import _left_out, _percent
from scoresde.data.inspect_outliers import FAR, Bulk
from scoresde.data.inspect_source import Source
from scoresde.data.inspect_sources import channels_are_last, find
from scoresde.experiment import Experiment, inspect
from scoresde.experiment.inspection.description import find_warnings
from scoresde.experiment.results.event_sets import file_set

G = np.random.default_rng(0)
F64 = torch.float64


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(array, **options):
    """What inspect says about an array."""
    np.save("a.npy", array)
    return inspect("a.npy", measure=False, **options)


def lines(found, name):
    """The lines of this name."""
    return [line[13:] for line in found.text.splitlines() if line.startswith(f"{name:12s} ")]


def pictures(folder, sizes, suffix=".png"):
    """Gray pictures of these widths and heights."""
    folder.mkdir(exist_ok=True)
    for k, (width, height) in enumerate(sizes):
        Image.fromarray(G.integers(0, 256, (height, width), dtype=np.uint8)).save(folder / f"{k:02d}{suffix}")


class TestPictures:
    @pytest.mark.parametrize("side", [28, 27, 64])
    def test_no_pixel_is_lost_up_to_64(self, folder, side):
        pictures(folder / "mine", [(side, side)] * 12)
        found = inspect("mine", measure=False)
        assert found.config.data.side == side and "of all pixels are kept" not in found.text
        assert Experiment.from_config(found.config).data.event_shape == (1, side, side)

    def test_kept_pixels(self, folder):
        """10 x 10 of 1000 x 10 pixels are 1 %; of all pixels, 12 squares of 10 remain of 11 squares and the long one."""
        pictures(folder / "mine", [(10, 10)] * 11 + [(1000, 10)])
        found = inspect("mine", measure=False)
        assert lines(found, "warning")[0].startswith(
            "the central square is less than 50 % of the pixels of 1 of 12 images: 1 % of 11.png (1000 x 10 pixels)"
        )
        kept = f"{100 * 1200 / 11100:.2g} %"
        assert any(line.startswith(f"{kept} of all pixels are kept: crops") for line in lines(found, "note"))

    def test_shrinking(self, folder):
        pictures(folder / "mine", [(128, 128)] * 10)
        found = inspect("mine", measure=False)
        assert "25 % of all pixels are kept: shrinking to side 64 keeps 25 %" in found.text
        assert "warning" not in found.text

    def test_files_left_out(self, folder):
        pictures(folder / "mine", [(16, 16)] * 10)
        for suffix in (".gif", ".ppm"):
            pictures(folder / "mine", [(16, 16)] * (4 if suffix == ".gif" else 1), suffix)
        (folder / "mine" / "notes.txt").write_text("mine")
        (folder / "mine" / "LICENSE").write_text("mine")
        found = inspect("mine", measure=False)
        assert "10 of shape" in found.text
        assert lines(found, "warning")[0].endswith(
            "5 images are left out because of their format, save them as PNG: 4 .gif (00.gif, 01.gif, 02.gif, ...), "
            "1 .ppm (00.ppm)"
        )
        assert "2 files of other kinds left out: 1 without a suffix (LICENSE), 1 .txt (notes.txt)" in found.text
        assert _left_out(folder / "mine", [*(folder / "mine").iterdir()]) == ([], [])

    def test_percent(self):
        assert [_percent(x) for x in (1.0, 0.9999, 0.02, 0.005)] == ["100 %", "99 %", "2 %", "0.5 %"]


class TestChannels:
    @pytest.mark.parametrize(
        ("shape", "last"),
        [
            ((500, 3), True), ((3, 500), False), ((64, 16), True), ((60, 16), False), ((4, 1), False), ((28, 28), False),
            ((8, 8, 3), True), ((3, 8, 8), False), ((1, 28, 28), False), ((28, 28, 1), True), ((4, 4, 4), False),
            ((8, 8, 8, 2), True), ((2, 8, 8, 8), False), ((500,), False),
        ],
    )  # fmt: skip
    def test_shapes(self, shape, last):
        assert channels_are_last(shape) == last

    @pytest.mark.parametrize("shape", [(50, 2), (9, 9, 3), (5, 6, 7, 1)])
    def test_the_config_moves_them(self, shape):
        x = G.normal(size=(30, *shape))
        found = said(x)
        assert f"{shape} is read with its channels last, because it is much shorter; --channels first" in found.text
        assert found.config.data.channels == "last"
        data = Experiment.from_config(found.config).data
        assert data.event_shape == (shape[-1], *shape[:-1])
        whole = np.moveaxis(x, -1, 1)
        assert any(np.array_equal(data.train.raw[0].numpy(), event) for event in whole)
        assert "as asked for" in said(x, channels="last").text

    def test_the_other_order_can_be_asked_for(self):
        found = said(G.normal(size=(30, 50, 2)), channels="first")
        assert "channels" not in found.config.data and "--channels last if its last axis" in found.text
        found = said(G.normal(size=(30, 6, 5)), channels="last")
        assert "events have the shape (5, 6)" in found.text

    @pytest.mark.parametrize("dtype", ["uint8", "float32"])
    def test_gray_images_without_an_axis_for_the_channel(self, dtype):
        y, x = np.mgrid[:14, :20]
        centers = G.uniform(3, 11, (40, 2, 1, 1))
        blobs = 255 * np.exp(-((y - centers[:, 0]) ** 2 + (x - centers[:, 1]) ** 2) / 20)
        found = said(blobs.astype(dtype))
        assert "(14, 20) is read without channels, as gray images, because neighbors are alike" in found.text
        assert Experiment.from_config(found.config).data.event_shape == (1, 14, 20)
        assert "channels" not in said(blobs.astype(dtype), channels="first").config.data
        assert "channels" not in said(G.normal(size=(40, 14, 20))).config.data
        walks = G.normal(size=(40, 14, 50)).cumsum(-1)  # 14 channels, smooth along the last axis only
        assert "channels" not in said(walks).config.data

    def test_a_series_of_one_channel(self):
        walks = G.normal(size=(40, 64)).cumsum(-1)
        assert "for a series, add --channels none" in said(walks).text
        assert Experiment.from_config(said(walks, channels="none").config).data.event_shape == (1, 64)

    def test_refusals(self, folder):
        pictures(folder / "mine", [(8, 8)] * 10)
        with pytest.raises(ValueError, match="channels='last' is only for arrays: 'mine' is a folder of images"):
            find("mine", channels="last")
        with pytest.raises(ValueError, match="channels='middle' is not known"):
            said(G.normal(size=(30, 6, 5)), channels="middle")
        with pytest.raises(ValueError, match="channels='last' is not allowed"):
            said(G.normal(size=(30, 6)), channels="last")

    @pytest.mark.parametrize("shape", [(2, 50), (50, 2)])
    def test_samples_of_an_evaluation_may_have_either_order(self, shape):
        """The order is that which gives the events of the data, not that which the shape suggests."""
        np.save("train.npy", G.normal(size=(30, *shape)))
        data = Arrays("train.npy")
        first = G.normal(size=(20, *shape))
        np.save("first.npy", first)
        np.save("last.npy", np.moveaxis(first, 1, -1))
        for name in ("first.npy", "last.npy"):
            made = types.SimpleNamespace(data=data, evaluation=types.SimpleNamespace(samples=name))
            assert np.array_equal(file_set(made).data.raw[:].numpy(), first)

    def test_a_torch_data_set_is_not_turned(self, folder, monkeypatch):
        (folder / "turned.py").write_text(
            "import torch\n\n\nclass Mine:\n    def __len__(self):\n        return 20\n\n"
            "    def __getitem__(self, k):\n        return torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(k))\n"
        )
        monkeypatch.syspath_prepend(folder)
        found = inspect("turned:Mine", measure=False)
        assert (
            not found.usable and "the channels are last in (8, 8, 3): give events with the channels first" in found.text
        )


class TestOutliers:
    @pytest.mark.parametrize("shape", [(4,), (1, 30), (200,)])
    def test_one_value(self, shape):
        x = G.normal(size=(300, *shape))
        x.reshape(300, -1)[17, 2] = 1e6
        found = survey(Source("a tensor", {"name": "Arrays"}, torch.as_tensor(x))).outliers
        assert (found.names, found.count, found.worst, found.value) == (("17",), 1, "17", 1e6)
        assert found.coordinate == tuple(int(k) for k in np.unravel_index(2, shape))
        rest = np.delete(x, 17, axis=0)
        assert found.std == pytest.approx(rest.std(), rel=1e-9)
        at = [a.reshape(len(a), -1)[:, 2].std() for a in (x, rest)]
        assert found.column_stds == pytest.approx(at, rel=1e-9)
        assert found.inner == pytest.approx(np.quantile(x.reshape(300, -1)[:, 2], [0.01, 0.99]), abs=0.3)

    def test_what_is_said(self):
        x = G.normal(size=(300, 4))
        x[17, 2] = 1e6
        found = said(x)
        (text,) = [line for line in lines(found, "warning") if "robust" in line]
        for part in (
            "1 event has values more than 20 robust",
            "event 17",
            "in column 2",
            "numpy.delete(a, [17], axis=0)",
        ):
            assert part in text, text
        assert f"{x.std():.4g} with these events and {np.delete(x, 17, axis=0).std():.4g} without" in text
        assert lines(found, "quantiles")[0].startswith("0.1 %: -")
        assert found.usable

    def test_tables_have_a_scale_for_each_column(self):
        x = G.normal(size=(300, 2)) * [1.0, 1000.0]
        x[17, 0] = 1e4
        facts = survey(Source("a table", {"name": "Table"}, torch.as_tensor(x), columns=("height", "weight")))
        (text,) = find_warnings(facts, 0, tabular=True)
        assert "event 17 in column height" in text and "numpy.delete" not in text
        stds = x[:, 0].std(), np.delete(x, 17, axis=0)[:, 0].std()
        assert f"of this column is {stds[0]:.4g} with these events and {stds[1]:.4g} without" in text

    def test_levels(self):
        x = G.poisson(3.0, (300, 1, 4))
        x[5, 0, 1] = 5000
        assert "there are 5001 levels, of which most do not occur" in said(x).text

    @pytest.mark.parametrize(
        "draw",
        [
            lambda: G.normal(size=(20_000, 3)), lambda: G.laplace(size=(5000, 3)), lambda: G.exponential(size=(5000, 3)),
            lambda: G.poisson(0.02, (5000, 3)), lambda: G.normal(size=(1000, 3)) * [1e-6, 1.0, 1e6],
            lambda: (G.uniform(size=(500, 1, 9, 9)) > 0.95) * G.uniform(size=(500, 1, 9, 9)),  # dark pixels
            lambda: np.where(G.uniform(size=(3000, 2)) < 0.9, 0.0, G.exponential(size=(3000, 2))),
            lambda: G.normal(size=(10, 3)), lambda: np.ones((50, 2)),
        ],
    )  # fmt: skip
    def test_no_false_alarm(self, draw):
        x = torch.as_tensor(draw())
        assert survey(Source("a tensor", {"name": "Arrays"}, x)).outliers is None

    def test_heavy_tails(self):
        text = said(G.standard_cauchy(size=(2000, 2))).text
        assert "Heavy tails: train on a transformed copy" in text and "numpy.delete" not in text

    def test_the_bulk_ignores_up_to_a_quarter(self):
        x = torch.as_tensor(G.normal(size=(400, 1)))
        clean = Bulk(x)
        x[:99] = 1e9
        spoiled = Bulk(x)
        assert spoiled.scale < 4 * clean.scale and float(spoiled.distance(torch.tensor([[1e9]], dtype=F64))) > FAR

    def test_chunks_change_nothing(self, monkeypatch):
        x = G.normal(size=(100, 2))
        x[3], x[50, 1] = 1e5, -1e7
        data = Source("a tensor", {"name": "Arrays"}, torch.as_tensor(x))
        whole = survey(data)
        monkeypatch.setattr("scoresde.data.inspect_facts.AT_ONCE", 7)
        parts = survey(data)
        assert parts.outliers.std == pytest.approx(whole.outliers.std)
        assert parts.outliers.names == whole.outliers.names == ("3", "50") and parts.outliers.worst == "50"
        assert parts.columns == whole.columns and parts.quantiles == whole.quantiles


class TestColumns:
    def test_kinds(self):
        n = 400
        x = np.stack(
            [G.integers(0, 5, n), G.normal(size=n), np.round(G.normal(size=n), 1), np.full(n, 2.5), G.integers(0, 10_000, n)], 1
        )  # fmt: skip
        columns = survey(Source("a tensor", {"name": "Arrays"}, torch.as_tensor(x))).columns
        assert str(columns[0]) == "discrete, 5 different whole numbers from 0 to 4"
        assert str(columns[1]).startswith("continuous, from -") and "rounded" not in str(columns[1])
        assert str(columns[2]).endswith("rounded to multiples of 0.1")
        assert str(columns[3]) == "constant, 2.5" and columns[3].constant
        assert str(columns[4]).endswith("whole numbers") and not columns[4].discrete

    def test_what_is_said_of_a_table(self):
        x = np.stack([G.integers(0, 5, 200), G.normal(size=200), np.round(G.normal(size=200), 1)], 1)
        found = said(x)
        assert lines(found, "column 0:") == ["discrete, 5 different whole numbers from 0 to 4"]
        assert any(line.startswith("column 0 is discrete: a probability density") for line in lines(found, "warning"))
        assert any(line.startswith("column 2 is rounded") for line in lines(found, "note"))

    def test_a_small_table_is_not_called_bytes(self):
        found = said(np.round(G.normal(size=(40, 3)), 1))
        assert "bytes" not in found.text and "columns 0, 1, 2 are rounded" in found.text
        assert "bytes" not in said(G.normal(size=(20, 3))).text

    def test_many_columns_are_counted(self):
        found = said(np.concatenate([G.normal(size=(200, 20)), G.integers(0, 2, (200, 5))], 1))
        assert "columns: 20 continuous, 5 discrete" in found.text and "column 0:" not in found.text

    def test_names(self):
        columns = ("height", "weight")
        data = Source("a table", {"name": "Arrays"}, torch.as_tensor(G.normal(size=(30, 2))), columns=columns)
        assert tuple(column.name for column in survey(data).columns) == columns


class TestGrid:
    @pytest.mark.parametrize(
        ("values", "wanted"),
        [
            (np.arange(256) / 255, (0.0, 1 / 255, 256)), (np.arange(256) / 127.5 - 1, (-1.0, 1 / 127.5, 256)),
            ((np.arange(256, dtype=np.float32) / 255).astype(np.float64), (0.0, 1 / 255, 256)),
            (np.array([0, 1, 2, 5, 9, 40]) * 0.1 + 3, (3.0, 0.1, 41)), (np.arange(4.0) / 3, None),
            (np.sort(G.normal(size=50)), None), (np.array([0.0, 1.0, 2.0, 3.0, 1e6 + 0.5]), None),
        ],
    )  # fmt: skip
    def test_grids(self, values, wanted):
        found = Grid.of(torch.as_tensor(values))
        assert (found is None) == (wanted is None)
        if wanted:
            assert (found.low, found.step, found.count) == (wanted[0], pytest.approx(wanted[1], rel=1e-5), wanted[2])

    def test_bytes_divided_by_255(self):
        found = said(G.integers(0, 256, (60, 1, 8, 8)) / 255)
        assert "the values are bytes divided by 255: save the bytes" in found.text
        found = said(G.integers(0, 256, (60, 1, 8, 8)) / 127.5 - 1)
        assert "the values are -1 + 0.007843 k with k = 0 .. 255" in found.text
        (line,) = [line for line in lines(found, "warning") if "save the whole numbers" in line]
        assert line.split("numpy.rint(")[1].startswith("(a - -1) / 0.00784314).astype('i4')")

    def test_columns_without_values(self):
        assert not Column("a", 0, False, 0.0, 1.0, 5000).discrete


class TestFewEvents:
    @pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 9])
    def test_at_least_one_is_held_out(self, count):
        found = said(G.normal(size=(count, 2)))
        data = Experiment.from_config(found.config).data
        assert len(data.test) == 1 and len(data.train) == count - 1
        assert f"{count} events are too few to learn a distribution from" in found.text
        assert ("test_fraction" in found.config.data) == (count <= 5)

    def test_one(self):
        found = said(G.normal(size=(1, 2)))
        assert not found.usable and "PROBLEM  1 event" in found.text
