"""Files that a user names as inputs: pictures, masks, arrays and tables with missing values."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scoresde.data import Arrays, CategoryColumn, Digits, ImageFolder, RealColumn, Table, WholeColumn
from scoresde.data.input_files import find_inputs, read_inputs
from scoresde.data.pictures import PictureFormat, picture_format, read_mask

HOLE = np.array([[255, 0], [255, 255]], np.uint8)


@pytest.fixture
def series(tmp_path):
    """Data of events (3,) of real numbers."""
    np.save(tmp_path / "train.npy", np.random.default_rng(0).normal(size=(20, 3)))
    return Arrays(str(tmp_path / "train.npy"))


@pytest.fixture
def table(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "train.csv").write_text("a,b,kind\n" + "".join(f"{k}.5,{k},{'xy'[k % 2]}\n" for k in range(9)))
    return Table(
        str(tmp_path / "train.csv"),
        [RealColumn("a", 2.0, 3.0), WholeColumn("b", 0, 8), CategoryColumn("kind", ("x", "y"))],
    )


def saved(file, pixels, mode=None):
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(file)
    return str(file)


@given(st.integers(2, 256), st.sampled_from([1, 3]), st.integers(0, 2**32 - 1))
def test_a_picture_that_is_written_is_read_as_the_same_levels(levels, channels, seed):
    """For any number of levels up to 256, black is 0 and white the highest level."""
    form = PictureFormat(channels, levels)
    raw = torch.from_numpy(np.random.default_rng(seed).integers(0, levels, (channels, 3, 4)))
    content = form.png(raw)
    file = io.BytesIO(content)
    assert torch.equal(form.read(file)[0], raw) and form.read(file)[1] is None
    pixels = torch.from_numpy(np.array(Image.open(file)).reshape(3, 4, -1)).movedim(-1, 0)
    assert set(pixels[raw == 0].tolist()) <= {0} and set(pixels[raw == levels - 1].tolist()) <= {255}


@pytest.mark.parametrize(("levels", "options"), [(4, {"resampling": "nearest"}), (65536, {"resampling": "bicubic"})])
def test_files_of_an_image_folder_hold_the_levels(tmp_path, levels, options):
    data = ImageFolder(str(tmp_path), 2, levels=levels, channels=1, **options)
    form, raw = picture_format(data), torch.tensor([[[0, 1], [levels - 1, 2]]])
    content = form.png(raw)
    assert torch.equal(form.read(io.BytesIO(content))[0], raw)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))).astype(int), raw[0].numpy())


def test_which_data_has_pictures(tmp_path, series):
    assert picture_format(Digits()) == PictureFormat(1, 17) and picture_format(series) is None
    assert picture_format(ImageFolder(str(tmp_path), 4)) == PictureFormat(3, 256)
    np.save(tmp_path / "two.npy", np.zeros((8, 2, 4, 4), np.uint8))
    assert picture_format(Arrays(str(tmp_path / "two.npy"), levels=256)) is None


class TestMissing:
    def test_transparent_pixels_are_missing(self, tmp_path):
        gray = np.full((2, 2), 255, np.uint8)
        for name, pixels, mode in (("gray", [gray, HOLE], "LA"), ("color", [gray, gray, gray, HOLE], "RGBA")):
            file = saved(tmp_path / f"{name}.png", np.stack(pixels, -1), mode)
            raw, known = PictureFormat(1, 17).read(file)
            assert known.tolist() == [[[True, False], [True, True]]] and raw.tolist() == [[[16, 0], [16, 16]]]
        opaque = saved(tmp_path / "opaque.png", np.stack([gray, gray], -1), "LA")
        assert PictureFormat(1, 256).read(opaque)[1] is None

    def test_half_transparent_pixels_are_refused(self, tmp_path):
        file = saved(tmp_path / "half.png", np.stack([HOLE, np.full((2, 2), 100)], -1), "LA")
        with pytest.raises(ValueError, match=r"half.png .*the opacity 100 of 255"):
            PictureFormat(1, 256).read(file)

    def test_masks(self, tmp_path):
        file = saved(tmp_path / "mask.png", HOLE)
        assert read_mask(file, (2, 2)).tolist() == [[[True, False], [True, True]]]
        with pytest.raises(ValueError, match=r"has 2 x 2 pixels: a mask for these pictures has 4 x 3"):
            read_mask(file, (3, 4))
        with pytest.raises(ValueError, match=r"has the gray 7: a mask is white \(255\) where pixels are known"):
            read_mask(saved(tmp_path / "gray.png", HOLE // 255 * 7), (2, 2))
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(ValueError, match=r"text.png cannot be read as a mask"):
            read_mask(tmp_path / "text.png", (2, 2))

    def test_nan_is_missing_in_arrays(self, tmp_path, series):
        np.save(tmp_path / "one.npy", np.array([1.0, np.nan, 3.0]))
        np.save(tmp_path / "two.npy", np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]]))
        np.savez(tmp_path / "named.npz", first=np.arange(3.0), other=np.arange(2.0))
        files = [str(tmp_path / name) for name in ("one.npy", "two.npy", "named.npz:first")]
        found = read_inputs(find_inputs(files), series)
        assert [event.name for event in found] == ["one", "two-0", "two-1", "named"]
        assert found[0].known.tolist() == found[1].known.tolist() == [True, False, True] and found[2].known is None
        assert found[1].raw.tolist() == [1.0, 0.0, 3.0] and found[3].raw.tolist() == [0.0, 1.0, 2.0]

    def test_empty_cells_are_missing_in_tables(self, tmp_path, table):
        (tmp_path / "in.csv").write_text("kind,a,b,more\ny,,3,0\n,1.5,,0\nx,2.5,8,0\n")
        found = read_inputs([str(tmp_path / "in.csv")], table)
        assert [event.name for event in found] == ["in-0", "in-1", "in-2"]
        assert found[0].known.tolist() == [False, True, True] and found[0].raw.tolist()[1:] == [3.0, 1.0]
        assert found[1].known.tolist() == [True, False, False] and found[1].raw[0] == 1.5
        assert found[2].known is None and found[2].raw.tolist() == [2.5, 8.0, 0.0]
        (tmp_path / "bad.csv").write_text("a,b,kind\n1.5,9,x\n")
        with pytest.raises(ValueError, match=r"'b' holds 9 .*allowed are whole numbers from 0 to 8"):
            read_inputs([str(tmp_path / "bad.csv")], table)
        (tmp_path / "less.csv").write_text("a,b\n1.5,9\n")
        with pytest.raises(ValueError, match="no column 'kind'"):
            read_inputs([str(tmp_path / "less.csv")], table)


class TestFinding:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("b.png", "a.png", "c.jpg", "notes.txt", "sub/d.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("")
        return tmp_path

    def names(self, folder, *places):
        return [str(path)[len(str(folder)) + 1 :] for path in find_inputs([str(folder / place) for place in places])]

    def test_files_folders_and_patterns(self, folder):
        assert self.names(folder, "") == ["a.png", "b.png", "c.jpg"]
        assert self.names(folder, "b.png", "*.png") == ["b.png", "a.png"]
        assert self.names(folder, "**/*.png") == ["a.png", "b.png", "sub/d.png"]

    @pytest.mark.parametrize(
        ("place", "error", "message"),
        [
            ("a.pgn", FileNotFoundError, "input='.*a.pgn': no such file; did you mean '.*a.png'"),
            ("*.tif", FileNotFoundError, "no such file"),
            ("notes.txt", ValueError, "give files that end in .*.png"),
            ("empty", FileNotFoundError, "the folder holds no files that end in"),
        ],
    )
    def test_what_is_not_there(self, folder, place, error, message):
        (folder / "empty").mkdir()
        with pytest.raises(error, match=message):
            self.names(folder, place)

    def test_files_of_one_name_get_numbers(self, tmp_path):
        (tmp_path / "more").mkdir()
        files = [saved(tmp_path / name, np.zeros((2, 2))) for name in ("a.png", "more/a.png", "b.png")]
        assert [event.name for event in read_inputs(files, Digits())] == ["0-a", "1-a", "2-b"]


class TestRefused:
    def test_files_that_do_not_suit_the_data(self, tmp_path, series):
        picture = saved(tmp_path / "a.png", np.zeros((2, 2)))
        with pytest.raises(ValueError, match=r"a.png is a picture, and the events of the data have the shape \(3,\)"):
            read_inputs([picture], series)
        np.save(tmp_path / "deep.npy", np.zeros((2, 2, 3)))
        np.savez(tmp_path / "many.npz", a=np.zeros(3), b=np.zeros(3))
        np.save(tmp_path / "high.npy", np.full((1, 8, 8), 17))
        np.save(tmp_path / "inf.npy", np.array([1.0, np.inf, 2.0]))
        (tmp_path / "t.csv").write_text("a\n1\n")
        for name, data, message in (
            ("deep.npy", series, r"has the shape \(2, 2, 3\): give one event with 1 dimensions"),
            ("many.npz", series, "has the arrays a, b: give one as .*many.npz:NAME"),
            ("high.npy", Digits(), "levels=17 allows 0 .. 16"),
            ("inf.npy", series, "has infinite values"),
            ("t.csv", series, r"is a table, and the data of the model is none, but Arrays: give arrays \(.npy\)"),
            ("t.csv", Digits(), "is a table, .* Digits: give pictures"),
        ):
            with pytest.raises(ValueError, match=message):
                read_inputs([str(tmp_path / name)], data)

    def test_a_torn_picture(self, tmp_path):
        file = saved(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (8, 8)))
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(content[:60])
        with pytest.raises(ValueError, match=r"a.png cannot be read as a picture"):
            read_inputs([file], Digits())
