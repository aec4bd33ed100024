"""Folders of images: formats, rectangles, other numbers of levels than 256, label maps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scoresde.data import ImageFolder, Quantized
from scoresde.data.image_rules import ImageRules, crop_box, kept_fraction
from scoresde.data.pixels import is_lossy, upright_size
from tests.params import examples


def colors(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def labels(height, width, classes, seed=0):
    return np.random.RandomState(seed).randint(0, classes, (height, width)).astype(np.uint8)


def with_palette(indices):
    image = Image.fromarray(indices)
    image.putpalette(np.repeat(np.arange(255, -1, -1), 3).tolist())
    assert image.mode == "P"
    return image


def all_of(folder, side, **options):
    data = ImageFolder(str(folder), side, test=str(folder), **options)
    assert data.event_shape == data.train.event_shape == data.train.raw[:].shape[1:]
    return data.train.raw[:]


@pytest.mark.parametrize("ending", ["png", "PNG", "webp", "bmp", "tif", "tiff", "TIFF"])
def test_lossless_formats(tmp_path, ending):
    pixels = colors(12, 20)
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **options)
    (tmp_path / "a.gif").write_bytes(b"")
    found = all_of(tmp_path, (12, 20))
    assert found.dtype == torch.uint8 and np.array_equal(found[0].numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "webp"])
def test_lossy_formats(tmp_path, ending):
    smooth = np.linspace(0, 255, 12 * 20 * 3).reshape(12, 20, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{ending}", quality=95)
    assert float(np.abs(all_of(tmp_path, (12, 20))[0].numpy() - smooth.transpose(2, 0, 1).astype(float)).mean()) < 3


SIZES = st.integers(1, 400)


@given(size=st.tuples(SIZES, SIZES), side=st.one_of(SIZES, st.tuples(SIZES, SIZES)))
@settings(max_examples=examples(400), deadline=None, derandomize=True)
def test_the_crop_is_the_largest_centered_rectangle(size, side):
    left, top, right, bottom = crop_box(size, side)
    height, width = (side, side) if isinstance(side, int) else side
    wide, high = right - left, bottom - top
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert wide == size[0] or high == size[1]
    # the other side is the one of the ratio, to half a pixel
    other, wanted = (wide, high * width / height) if high == size[1] else (high, wide * height / width)
    assert abs(other - wanted) <= 0.5 or other == 1
    assert abs(left - (size[0] - right)) <= 1 and abs(top - (size[1] - bottom)) <= 1
    if isinstance(side, int):
        assert wide == high == min(size)
    if size[0] >= width and size[1] >= height:
        assert wide >= width and high >= height
    assert kept_fraction(size, side) == wide * high / (size[0] * size[1])


def test_rectangles(tmp_path):
    """As it is where the size fits, cropped along one side, and shrunk."""
    exact, wide = colors(12, 20), colors(12, 31, seed=1)
    Image.fromarray(exact).save(tmp_path / "0.png")
    Image.fromarray(wide).save(tmp_path / "1.png")
    Image.new("RGB", (100, 60), (10, 200, 90)).save(tmp_path / "2.png")
    found = all_of(tmp_path, (12, 20))
    assert np.array_equal(found[0].numpy(), exact.transpose(2, 0, 1))
    assert np.array_equal(found[1].numpy(), wide.transpose(2, 0, 1)[:, :, 5:25])
    assert found[2].flatten(1).unique(dim=1).flatten().tolist() == [10, 200, 90]
    Image.fromarray(colors(11, 40)).save(tmp_path / "3.png")
    with pytest.raises(ValueError, match=r"3\.png cannot be read as an image of 20 x 12: it has only 40 x 11 pixels"):
        all_of(tmp_path, (12, 20))


def test_bicubic_is_pillow_s(tmp_path):
    pixels = colors(30, 70)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = Image.fromarray(pixels).crop((20, 0, 50, 30)).resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(all_of(tmp_path, 8)[0].numpy(), np.asarray(wanted).transpose(2, 0, 1))


def test_sixteen_bits(tmp_path):
    values = np.random.RandomState(0).randint(0, 65536, (12, 20)).astype(np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "b.tiff")
    data = ImageFolder(str(tmp_path), (12, 20), channels=1, levels=65536, resampling="bicubic", test=str(tmp_path))
    assert data.transform == Quantized(65536) and np.array_equal(data.train.raw[:][1, 0].numpy(), values)
    x = data.train.encode(slice(None), seed=0)
    assert torch.equal(data.transform.decode(x), data.train.raw[:].long())
    # interpolation overshoots between black and white: the result stays within the levels
    edges = np.zeros((24, 40), np.uint16)
    edges[6:18, 10:30] = 999
    Image.fromarray(edges).save(tmp_path / "a.png")
    (tmp_path / "b.tiff").unlink()
    shrunk = all_of(tmp_path, (8, 13), channels=1, levels=1000, resampling="bicubic")
    assert (int(shrunk.min()), int(shrunk.max())) == (0, 999) and len(shrunk.unique()) > 4
    with pytest.raises(ValueError, match=r"a\.png .*values from 0 to 999: levels=999 allows 0 \.\. 998"):
        all_of(tmp_path, (12, 20), channels=1, levels=999, resampling="nearest")
    Image.fromarray(labels(24, 40, 200)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png .*at most 8 bits, and levels=65536: save all images with 16 bits"):
        all_of(tmp_path, (12, 20), channels=1, levels=65536, resampling="bicubic")


@pytest.mark.parametrize("kind", ["L", "P", "I;16"])
def test_label_maps_are_never_interpolated(tmp_path, kind):
    """Every value of the shrunken map is that of the pixel under its center."""
    classes = labels(33, 57, 21)
    image = {"L": Image.fromarray, "P": with_palette, "I;16": lambda a: Image.fromarray(a.astype(np.uint16))}[kind](
        classes
    )
    image.save(tmp_path / "a.png")
    how = {"palette": "indices"} if kind == "P" else {}
    found = all_of(tmp_path, (11, 19), channels=1, levels=21, resampling="nearest", **how)
    assert np.array_equal(found[0, 0].numpy(), classes[1::3, 1::3])
    with pytest.raises(ValueError, match=r"a\.png .*values from 0 to 20: levels=20 allows"):
        all_of(tmp_path, (11, 19), channels=1, levels=20, resampling="nearest", **how)


def test_256_classes_with_a_palette(tmp_path):
    """The number of levels does not decide what a palette means."""
    classes = labels(8, 8, 256)
    with_palette(classes).save(tmp_path / "a.png", transparency=3)
    found = all_of(tmp_path, 8, channels=1, palette="indices", resampling="nearest")
    assert np.array_equal(found[0, 0].numpy(), classes)
    with_palette(classes).save(tmp_path / "a.png")
    assert np.array_equal(all_of(tmp_path, 8)[0, 0].numpy(), 255 - classes)
    with pytest.raises(
        ValueError, match=r"has a palette, whose colors have 256 levels and not levels=21: .*palette='indices'"
    ):
        all_of(tmp_path, 8, channels=1, levels=21, resampling="nearest")


def test_one_bit(tmp_path):
    bits = labels(8, 8, 2)
    Image.fromarray(bits.astype(bool)).save(tmp_path / "a.png")
    assert np.array_equal(all_of(tmp_path, 8, channels=1, levels=2, resampling="nearest")[0, 0].numpy(), bits)
    assert np.array_equal(all_of(tmp_path, 8, channels=1)[0, 0].numpy(), 255 * bits)
    as_labels = all_of(tmp_path, 8, channels=1, levels=5, palette="indices", resampling="nearest")
    assert np.array_equal(as_labels[0, 0].numpy(), bits)
    with pytest.raises(ValueError, match="one bit per pixel: levels=5 must be 2 or 256"):
        all_of(tmp_path, 8, channels=1, levels=5, resampling="nearest")


def test_colors_of_few_levels(tmp_path):
    few = colors(8, 8) // 64
    Image.fromarray(few).save(tmp_path / "a.png")
    assert np.array_equal(all_of(tmp_path, 8, levels=4, resampling="nearest")[0].numpy(), few.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"it has colors \(mode 'RGB'\), and channels=1: with levels=4 only 3"):
        all_of(tmp_path, 8, levels=4, resampling="nearest", channels=1)
    Image.fromarray(few[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(all_of(tmp_path, 8, levels=4, resampling="nearest")[0].numpy(), np.stack([few[..., 0]] * 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 0}, "side=0"),
        ({"side": (8, 8, 8)}, r"side=\(8, 8, 8\) is not allowed: give a whole number, or \(height, width\)"),
        ({"side": (8, 0)}, r"side=\(8, 0\)"),
        ({"levels": 1}, "levels=1"),
        ({"levels": 21}, "resampling=None with levels=21, .*'nearest' for labels"),
        ({"resampling": "cubic"}, "resampling='cubic' is not known: .*'bicubic'"),
        ({"palette": "index"}, "palette='index'.*'indices'"),
        ({"palette": "indices"}, "resampling=None with levels=256, palette='indices'"),
        ({"palette": "indices", "resampling": "bicubic", "channels": 1}, "palette='indices' with channels=1, .*'bicubic'"),
        ({"palette": "indices", "resampling": "nearest"}, "palette='indices' with channels=3"),
        ({"channels": 2}, "channels=2"),
    ],
)  # fmt: skip
def test_rules_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder("nowhere", **{"side": 8} | options)


def test_the_digest_depends_on_the_rules_and_is_unchanged_by_default(tmp_path):
    Image.fromarray(labels(8, 8, 2)).save(tmp_path / "a.png")
    found = [
        ImageFolder(str(tmp_path), 8, channels=1, levels=levels, resampling=how, test=str(tmp_path)).train.digest()
        for levels, how in itertools.product((2, 256), ("nearest", "bicubic"))
    ]
    usual = ImageFolder(str(tmp_path), 8, channels=1, test=str(tmp_path)).train.digest()
    assert len(set(found)) == 4 and usual == found[3] and ImageRules(8, 1).changed == ""


@pytest.mark.parametrize(
    ("name", "options", "lossy"),
    [
        ("a.jpg", {}, True),
        ("a.webp", {}, True),
        ("a.webp", {"icc_profile": bytes(301)}, True),
        ("a.webp", {"lossless": True}, False),
        ("a.webp", {"lossless": True, "icc_profile": bytes(301)}, False),
        ("a.png", {}, False),
        ("a.bmp", {}, False),
    ],
)
def test_lossy_files_by_their_content(tmp_path, name, options, lossy):
    Image.fromarray(colors(12, 20)).save(tmp_path / name, **options)
    (tmp_path / name).rename(tmp_path / "a.tif")
    assert is_lossy(tmp_path / "a.tif") == lossy


@pytest.mark.parametrize("turn", [1, 6])
def test_the_upright_size_from_the_header(tmp_path, turn):
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(colors(12, 20)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        assert upright_size(image) == ((20, 12) if turn == 1 else (12, 20))
    assert all_of(tmp_path, (12, 20) if turn == 1 else (20, 12)).shape[2:] == ((12, 20) if turn == 1 else (20, 12))
