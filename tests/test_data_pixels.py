"""Images by one rule, whether a folder or a torch data set brings them: what a file holds, and what Pillow would make of it."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import ImageFolder, TorchDataset
from scoresde.data.items import Items
from scoresde.data.stored import ImageFiles

SHAPE = (8, 6)


def gray(seed=0):
    return np.random.RandomState(seed).randint(0, 256, SHAPE).astype(np.uint8)


def colors(seed=0):
    return np.random.RandomState(seed).randint(0, 256, (*SHAPE, 3)).astype(np.uint8)


def png(kind, channels, depth, transparent=b""):
    """A PNG file by its specification: header, an optional tRNS, rows of random numbers."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = SHAPE
    rows = b"".join(b"\0" + np.random.RandomState(k).bytes(-(-width * channels * depth // 8)) for k in range(height))
    palette = chunk(b"PLTE", bytes(range(48))) if kind == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)) + palette
        + transparent + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def both(tmp_path, make, name="a.png", **options):
    """(by a folder, by a torch data set): the event, or what is said. make: saves an image to a file."""
    file = tmp_path / name
    make(file)
    found = []
    for read in (
        lambda: ImageFiles(tmp_path, [file], min(SHAPE), options.get("channels", 3)).read(0),
        lambda: Items([(Image.open(file), 0)]).read(0),
        lambda: Items([(loaded(file), 0)]).read(0),
    ):
        try:
            found.append(read())
        except ValueError as problem:
            found.append(str(problem))
    return found


def loaded(file):
    image = Image.open(file)
    image.load()
    return image


def square(event):
    """What `ImageFiles` takes of an event of `SHAPE`."""
    return event[:, 1:7] if event.shape[1] == 8 else event[:, :, 1:7]


@pytest.mark.parametrize("kind", [(2, 3, "RGB"), (6, 4, "RGBA"), (4, 2, "RGBA")], ids=["RGB", "RGBA", "LA"])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path, kind):
    """The decoder returns bytes: it is the file that says what it had."""
    with Image.open(io.BytesIO(png(kind[0], kind[1], 16))) as image:
        assert image.mode == kind[2], "Pillow has learned of 16 bits"
    for said in both(tmp_path, lambda file: file.write_bytes(png(kind[0], kind[1], 16))):
        assert isinstance(said, str) and "more than 8 bits per channel" in said
    with pytest.raises(ValueError, match=r"(a\.png|item 0) cannot be read as an image.*more than 8 bits"):
        _ = ImageFolder(str(tmp_path), 6, test=str(tmp_path)).train


def test_sixteen_bits_in_a_tiff(tmp_path):
    values = np.random.RandomState(0).randint(0, 65536, (*SHAPE, 3)).astype("<u2")
    header = struct.pack("<2sHI", b"II", 42, 8)
    entries = [(256, 4, 1, SHAPE[1]), (257, 4, 1, SHAPE[0]), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, 1, 300), (277, 3, 1, 3), (278, 4, 1, SHAPE[0]), (279, 4, 1, values.nbytes)]  # fmt: skip
    content = header + struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    content = content.ljust(200, b"\0") + struct.pack("<3H", 16, 16, 16)
    content = content.ljust(300, b"\0") + values.tobytes()
    for said in both(tmp_path, lambda file: file.write_bytes(content), name="a.tif"):
        assert isinstance(said, str) and "more than 8 bits per channel" in said


def test_deep_gray_keeps_its_numbers_or_is_refused(tmp_path):
    """A folder has 256 levels, a torch data set as many as it says."""
    values = np.random.RandomState(0).randint(0, 65536, SHAPE).astype(np.uint16)
    folder, items, again = both(tmp_path, lambda file: Image.fromarray(values).save(file))
    assert "more than 8 bits" in folder and torch.equal(items, again)
    assert items.shape == (1, *SHAPE) and np.array_equal(items[0].numpy(), values)
    data = TorchDataset([Image.fromarray(values)] * 10, levels=65536)
    assert data.event_shape == (1, *SHAPE)
    with pytest.raises(ValueError, match="levels=256 allows"):
        TorchDataset([Image.fromarray(values)] * 10)
    for mode, wide in (("I", np.int32), ("F", np.float32), ("I;16B", ">u2")):
        image = Image.frombytes(mode, SHAPE[::-1], values.astype(wide).tobytes())
        assert image.mode == mode and np.array_equal(Items([image]).read(0)[0].numpy(), values.astype(np.float64))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_are_colors(tmp_path, depth):
    folder, items, again = both(tmp_path, lambda file: file.write_bytes(png(3, 1, depth) if depth < 8 else palette()))
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        wanted = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(items, wanted) and torch.equal(again, wanted) and torch.equal(folder, square(wanted))
    assert not torch.equal(items[0], items[1]), "not the numbers of the palette"


def palette():
    file = io.BytesIO()
    Image.fromarray(colors()).quantize(16).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "La", "RGBa"]
)
def test_every_mode_is_gray_or_color(mode):
    """In memory: one channel for kinds of gray, three for others, with the values of Pillow's own conversion."""
    source = Image.fromarray(colors() if mode not in ("1", "L", "LA", "La") else gray())
    if mode == "LAB":
        image = Image.frombytes("LAB", SHAPE[::-1], colors().tobytes())
    elif mode in ("La", "RGBa"):
        image = source.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode == "PA":
        image = Image.fromarray(colors()).quantize(16).convert("PA")
    else:
        image = source.convert(mode)
    assert image.mode == mode
    event = Items([image]).read(0)
    assert event.dtype == torch.uint8 and event.shape == (1 if mode in ("1", "L", "LA", "La") else 3, *SHAPE)
    if mode in ("L", "LA", "La"):
        assert np.array_equal(event[0].numpy(), gray())
    elif mode == "1":
        assert set(event.unique().tolist()) == {0, 255}
    elif mode in ("RGB", "RGBA", "RGBX", "RGBa"):
        assert np.array_equal(event.permute(1, 2, 0).numpy(), colors())
    else:
        assert np.array_equal(event.permute(1, 2, 0).numpy(), np.array(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_folder_and_a_torch_data_set_agree(tmp_path, mode):
    source = Image.fromarray(gray() if mode in ("1", "L") else colors()).convert(mode)
    folder, items, again = both(tmp_path, source.save, channels=1 if mode in ("1", "L") else 3)
    assert torch.equal(folder, square(items)) and torch.equal(items, again)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_every_mode(tmp_path, mode):
    source = Image.fromarray(colors()).convert(mode)
    folder, items, _ = both(tmp_path, source.save, name="a.jpg", channels=1 if mode == "L" else 3)
    assert torch.equal(folder, square(items)) and items.shape[0] == (1 if mode == "L" else 3)
    assert np.array_equal(items.permute(1, 2, 0).squeeze(-1).numpy(), np.array(Image.open(tmp_path / "a.jpg").convert(
        "L" if mode == "L" else "RGB")))  # fmt: skip


@pytest.mark.parametrize("turn", range(1, 9))
def test_images_are_upright(tmp_path, turn):
    """The orientation of EXIF, in a folder and in a torch data set, also of what the data set converted itself."""
    pixels = colors()
    exif = Image.Exif()
    exif[274] = turn
    folder, items, again = both(tmp_path, lambda file: Image.fromarray(pixels).save(file, exif=exif))
    wanted = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels),
    }[turn]  # fmt: skip
    assert np.array_equal(items.permute(1, 2, 0).numpy(), wanted) and torch.equal(items, again)
    assert torch.equal(folder, square(items))
    assert torch.equal(Items([Image.open(tmp_path / "a.png").convert("RGB")]).read(0), items)


def seen_through(mode):
    image = Image.fromarray(colors()).convert("RGBA")
    image.putalpha(Image.fromarray(gray()))
    if mode == "P":
        made = Image.fromarray(colors()).quantize(16)
        made.info["transparency"] = 3
        return made
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_refused_and_opaque_ones_are_not(tmp_path, mode):
    image = seen_through(mode)
    options = {"transparency": 3} if mode == "P" else {}
    for said in both(tmp_path, lambda file: image.save(file, **options)):
        assert isinstance(said, str) and "transparent in places" in said
    if mode != "P":
        image.putalpha(255)
        folder, items, _ = both(tmp_path, image.save, channels=1 if mode == "LA" else 3)
        assert torch.equal(folder, square(items)) and items.shape[0] == (1 if mode == "LA" else 3)


def test_a_transparent_color_is_refused(tmp_path):
    """tRNS of a PNG without an alpha channel."""
    image = Image.new("RGB", SHAPE[::-1], (1, 2, 3))
    for said in both(tmp_path, lambda file: image.save(file, transparency=(1, 2, 3))):
        assert "transparent in places" in said
    _, items, _ = both(tmp_path, lambda file: image.save(file, transparency=(9, 9, 9)))
    assert items.shape == (3, *SHAPE)


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "WEBP"])
def test_several_frames_are_refused(tmp_path, form):
    frames = [Image.fromarray(colors(k)) for k in range(3)]
    for said in both(tmp_path, lambda file: frames[0].save(file, form, save_all=True, append_images=frames[1:])):
        assert isinstance(said, str) and "it has 3 frames: save each" in said


def test_the_main_picture_of_a_camera(tmp_path):
    frames = [Image.fromarray(colors(k)) for k in range(2)]
    save = functools.partial(frames[0].save, format="MPO", save_all=True, append_images=frames[1:])
    folder, items, _ = both(tmp_path, save, name="a.jpg")
    assert items.shape == (3, *SHAPE) and torch.equal(folder, square(items))


def test_broken_images_of_a_torch_data_set_are_named(tmp_path):
    Image.fromarray(colors()).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="item 1 cannot be read as an image: "):
        TorchDataset(
            [Image.open(tmp_path / name) for name in ("a.png", "b.png")] * 2, [frame() for _ in range(2)]
        ).train.events(torch.tensor([0, 1]))


def frame():
    return Image.fromarray(colors())
