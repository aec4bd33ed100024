"""Images: bytes, mirrored in training; CIFAR-10, idx files, folders and torch data sets."""

from __future__ import annotations

import gzip
import math
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import (
    CIFAR10,
    MNIST,
    Affine,
    Arrays,
    Dataset,
    ImageFolder,
    Quantized,
    TorchDataset,
)
from scoresde.data.formats import read_cifar_python, read_idx
from tests.data_common import F32, Trap


def noise_of(shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8))


def test_bytes_stay_bytes(tmp_path):
    """8-bit data takes a byte a value, from a file to the batch, and encodes to the same as integers do."""
    raw = noise_of((20, 3, 4, 4))
    np.save(tmp_path / "a.npy", raw.numpy())
    data = Arrays(str(tmp_path / "a.npy"), str(tmp_path / "a.npy"), levels=256).train
    assert data.raw.dtype == torch.uint8 and torch.equal(data.raw, raw)
    wide = Dataset(raw.long(), Quantized(256))
    assert torch.equal(data.batch(2, 7, seed=1)[0], wide.batch(2, 7, seed=1)[0])
    np.save(tmp_path / "b.npy", np.ones((4, 2), np.float32))
    assert Arrays(str(tmp_path / "b.npy"), test_fraction=0.5).train.raw.dtype == F32


def test_training_mirrors_half_of_the_events():
    """Whether an event is mirrored depends only on its position and differs between epochs; dequantization is the same."""
    raw = noise_of((50, 1, 2, 6))
    data, plain = Dataset(raw, Quantized(256), flip=True), Dataset(raw, Quantized(256))
    mirrored = []
    for step in range(40):
        levels = data.transform.decode(data.batch(step, 25, seed=3)[0])
        as_it_is = plain.transform.decode(plain.batch(step, 25, seed=3)[0])
        turned = (levels == as_it_is.flip(-1)).flatten(1).all(1)
        assert bool((turned | (levels == as_it_is).flatten(1).all(1)).all())
        mirrored.append(turned)
    mirrored = torch.cat(mirrored)
    # 1000 fair coins; a false alarm at 4 standard deviations is 6e-5, and no coin would give 0 or 1000
    assert abs(int(mirrored.sum()) - 500) < 4 * math.sqrt(250)
    assert not torch.equal(mirrored[:50], mirrored[50:100])
    one = torch.cat([data.batch(step, 5, seed=3)[0] for step in range(5)])
    assert torch.equal(one, data.batch(0, 25, seed=3)[0])
    assert torch.equal(data.encode(torch.arange(50), seed=0), plain.encode(torch.arange(50), seed=0))
    with pytest.raises(ValueError, match="flip=True mirrors images"):
        Dataset(torch.zeros(3, 2), Affine(), flip=True)


def label_of(image):
    """A label that depends on the image."""
    return int(image.flatten()[0]) % 10


def cifar_python(images, dtype=b"u1", width=3072, name=b"numpy.core.multiarray\n_reconstruct"):
    """A batch as Python 2 and numpy of 2009 wrote it, operation by operation."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    pixels = images.numpy().tobytes()
    array = (
        b"c" + name + b"\ncnumpy\nndarray\n(K\x00t" + text(b"b") + b"\x87R(K\x01(M" + struct.pack("<H", len(images))
        + b"M" + struct.pack("<H", width) + b"tcnumpy\ndtype\n(" + text(dtype) + b"K\x00K\x01tR(K\x03" + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
    )  # fmt: skip
    labels = b"](" + b"".join(b"K" + bytes([label_of(image)]) for image in images) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + text(b"batch_label") + text(b"1") + b"u."


CIFAR_NAMES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


def write_cifar(folder, form, images):
    place = folder / f"cifar-10-batches-{form}"
    place.mkdir(parents=True)
    for name, part in zip(CIFAR_NAMES, images.split(len(images) // 6), strict=True):
        if form == "py":
            (place / name).write_bytes(cifar_python(part))
        else:
            (place / f"{name}.bin").write_bytes(
                b"".join(bytes([label_of(image)]) + image.numpy().tobytes() for image in part)
            )


@pytest.mark.parametrize("form", ["py", "bin"])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar(tmp_path, form, inside):
    images = noise_of((12, 3, 32, 32))
    write_cifar(tmp_path, form, images)
    # what the hand-written file says is what Python itself reads
    if form == "py":
        batch = pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_2").read_bytes(), encoding="bytes")
        assert np.array_equal(batch[b"data"], images[2:4].flatten(1).numpy()) and batch[b"labels"] == [
            label_of(image) for image in images[2:4]
        ]
    folder = tmp_path / f"cifar-10-batches-{form}" if inside else tmp_path
    data = CIFAR10(str(folder), low=0.0, flip=True, images_per_file=2)
    assert torch.equal(data.train.raw, images[:10]) and torch.equal(data.test.raw, images[10:])
    assert data.train.raw.dtype == torch.uint8 and data.train.flip and not data.test.flip
    assert data.event_shape == data.train.event_shape and data.transform == Quantized(256, 0.0, 1.0)
    assert data.kinds == {}
    named = CIFAR10(str(folder), images_per_file=2, labels=True)
    for split, part in ((named.train, images[:10]), (named.test, images[10:])):
        assert split.conditions(slice(None))["label"].tolist() == [label_of(image) for image in part]
    with pytest.raises(ValueError, match=r"data_batch_1.* contains 2 images: it must contain 10000"):
        _ = CIFAR10(str(folder)).train


def test_cifar_that_is_not_there(tmp_path):
    """What is declared needs no files; what needs them says which, and where they are to be had."""
    data = CIFAR10(str(tmp_path))
    assert data.event_shape == (3, 32, 32) and repr(data).startswith("CIFAR10(folder=")
    with pytest.raises(
        FileNotFoundError, match=r"cifar-10-python\.tar\.gz.*cs\.toronto\.edu.*data_batch_1.*data\.folder"
    ):
        _ = data.train


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (cifar_python(noise_of((2, 3072)), dtype=b"f4"), "kind b'f4'"),
        (cifar_python(noise_of((2, 1024)), width=1024), r"shape \(2, 1024\)"),
        (cifar_python(noise_of((2, 3072)))[:3000], "truncated|ran out|Ran out"),
        (cifar_python(noise_of((2, 3072)), name=b"posix\nsystem"), r"asks for posix\.system"),
        (pickle.dumps({b"labels": [1]}), "data"),
        (b"", "Ran out"),
    ],
    ids=["floats", "small images", "cut", "another function", "no data", "empty"],
)
def test_broken_cifar_batches_are_named(tmp_path, content, why):
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_1 is not a CIFAR-10 batch.*({why})"):
        read_cifar_python(tmp_path / "data_batch_1")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_cifar_batch_executes_nothing(tmp_path, protocol):
    """Nor does what is reached through the names that are let in: they are stand-ins."""
    mark, file = tmp_path / "executed", tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({"data": Trap(mark)}, protocol=protocol))
    with pytest.raises(
        ValueError, match=r"asks for (pathlib|builtins|__builtin__|copyreg|copy_reg)[\w.]*, which files of CIFAR-10"
    ):
        read_cifar_python(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()
    file.write_bytes(b"\x80\x02}(U\x04datacnumpy\nndarray\n(M\xff\xff\x85tRu.")  # numpy would make it
    with pytest.raises(ValueError, match="is not a CIFAR-10 batch"):
        read_cifar_python(file)


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"\x0b" + bytes(3072), "label 11"), (bytes(3072), "not a whole number of records"), (b"", "0 bytes")],
)
def test_broken_binary_batches_are_named(tmp_path, content, why):
    write_cifar(tmp_path, "bin", noise_of((6, 3, 32, 32)))
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"test_batch.bin .*{why}"):
        _ = CIFAR10(str(tmp_path), images_per_file=1).test


def idx(array, kind=8):
    return struct.pack(">HBB", 0, kind, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("kind", "dtype"), [(8, "u1"), (9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_idx(tmp_path, kind, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array, kind))
    (tmp_path / "b").write_bytes(gzip.compress(idx(array, kind)))
    for name in "ab":
        found = read_idx(tmp_path / name)
        assert np.array_equal(found.numpy(), array) and found.element_size() == array.itemsize


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (idx(np.zeros((2, 28, 28), np.uint8))[:-1], r"1567 bytes of numbers: shape \(2, 28, 28\) needs 1568"),
        (idx(np.zeros((2, 28, 28), np.uint8)) + b"0", "1569 bytes"),
        (b"\x00\x00\x08\x03\x00", "is not an idx file"),
        (b"\x89PNG", "is not an idx file"),
        (gzip.compress(idx(np.zeros((2, 28, 28), np.uint8)), mtime=0)[:-9], "is broken"),
        (idx(np.zeros((2, 14, 14), np.uint8)), r"\(n, 28, 28\) of bytes is wanted"),
        (idx(np.zeros((2, 28, 28), np.int8), 9), r"torch.int8: \(n, 28, 28\) of bytes"),
    ],
)
def test_broken_idx_files_are_named(tmp_path, content, why):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte .*{why}"):
        _ = MNIST(str(tmp_path)).train


def test_mnist(tmp_path):
    train, test = noise_of((5, 28, 28)), noise_of((3, 28, 28), seed=1)
    (tmp_path / "emnist-letters-train-images-idx3-ubyte").write_bytes(idx(train.numpy()))
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte or the same with \.gz, and holds none"):
        _ = MNIST(str(tmp_path)).train
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(test.numpy())))
    data = MNIST(str(tmp_path), side=33)
    assert data.event_shape == data.train.event_shape == (1, 33, 33) and len(data.train) == 5
    middle = data.test.raw[:, 0, 2:30, 2:30]
    assert torch.equal(middle, test) and int(data.test.raw.long().sum()) == int(test.long().sum())
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"must hold one file.*'emnist-letters-train.*', 'train-images"):
        _ = MNIST(str(tmp_path)).train


def picture(file, height, width, mode="RGB", seed=0):
    pixels = noise_of((height, width, 3), seed).numpy()
    Image.fromarray(pixels).convert(mode).save(file)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_image_folder(tmp_path):
    """The middle square as it is where it has the side already, and shrunk where it is larger; nested folders; the cut."""
    (tmp_path / "all" / "deep").mkdir(parents=True)
    wide = picture(tmp_path / "all" / "0.png", 8, 12, seed=1)
    high = picture(tmp_path / "all" / "deep" / "1.PNG", 11, 8, seed=2)
    Image.new("RGB", (40, 24), (10, 200, 90)).save(tmp_path / "all" / "deep" / "2.jpg", quality=95)
    picture(tmp_path / "all" / "deep" / "3.jpeg", 16, 16, mode="L")
    (tmp_path / "all" / "notes.txt").write_text("no image")
    data = ImageFolder(str(tmp_path / "all"), 8, test=str(tmp_path / "all"), flip=True)
    assert data.event_shape == (3, 8, 8) and len(data.train) == 4 and data.train.flip
    raw = data.train.raw[:]
    assert raw.dtype == torch.uint8 and torch.equal(raw[0], wide[:, :, 2:10]) and torch.equal(raw[1], high[:, 1:9])
    assert float((raw[2].float().mean((1, 2)) - torch.tensor([10.0, 200.0, 90.0])).abs().max()) < 3
    assert (
        torch.equal(raw[3][0], raw[3][2]) and raw[3].float().std() < picture(tmp_path / "x.png", 16, 16).float().std()
    )
    x, *_ = data.train.batch(0, 4, seed=0)
    assert x.shape == (4, 3, 8, 8)
    assert torch.equal(data.test.encode(torch.tensor([1]), seed=0)[0], data.test.encode(slice(None), seed=0)[1])
    both = ImageFolder(str(tmp_path / "all"), 8, test_fraction=0.25, channels=1)
    assert (len(both.train), len(both.test), both.train.event_shape) == (3, 1, (1, 8, 8))
    assert {*both.train.raw.files} | {*both.test.raw.files} == {*data.train.raw.files}
    before = data.train.digest()
    picture(tmp_path / "all" / "0.png", 9, 12)
    assert data.train.digest() != before


def test_test_images_inside_the_folder_are_not_trained_on(tmp_path):
    (tmp_path / "all" / "held-out").mkdir(parents=True)
    for name in ("a.png", "b.png", "held-out/c.png"):
        picture(tmp_path / "all" / name, 8, 8)
    data = ImageFolder(str(tmp_path / "all"), 8, test=str(tmp_path / "all" / "held-out"))
    assert [file.name for file in data.train.raw.files] == ["a.png", "b.png"]
    assert [file.name for file in data.test.raw.files] == ["c.png"]


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no images: put PNG, JPEG, WebP, BMP or TIFF files there, of 8 x 8 pixels"
    ):
        _ = ImageFolder(str(tmp_path), 8).train
    picture(tmp_path / "a.png", 8, 8)
    data = ImageFolder(str(tmp_path), 8, test=str(tmp_path))
    for name, content in (
        ("b.png", (tmp_path / "a.png").read_bytes()[:90]),
        ("c.jpg", b"no picture"),
    ):
        (tmp_path / name).write_bytes(content)
    picture(tmp_path / "d.png", 7, 30)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "e.png")
    for index, why in enumerate(
        (r"b\.png cannot", r"c\.jpg cannot", r"d\.png .*30 x 7 pixels", r"e\.png .*more than 8 bits"), 1
    ):
        with pytest.raises(ValueError, match=why):
            data.train.encode(torch.tensor([0, index]), seed=0)


class Squares(torch.utils.data.Dataset):
    """Item k is (k, k, k, k) and a label; item `bad` is broken."""

    def __init__(self, bad=None, value=math.nan):
        self.bad, self.value = bad, value

    def __len__(self):
        return 10

    def __getitem__(self, k):
        return torch.full((1, 2, 2), self.value if k == self.bad else float(k)), k % 3


def test_torch_data_sets():
    data = TorchDataset(Squares(), levels=10, test_fraction=0.3)
    seen = torch.cat([data.train.raw[:], data.test.raw[:]])[:, 0, 0, 0]
    assert (len(data.train), len(data.test)) == (7, 3) and seen.sort().values.tolist() == list(range(10))
    assert data.transform == Quantized(10) and data.event_shape == (1, 2, 2)
    levels = data.transform.decode(data.train.batch(0, 7, seed=0)[0])
    assert sorted(levels[:, 0, 0, 0].tolist()) == sorted(data.train.raw[:][:, 0, 0, 0].tolist())
    real = TorchDataset(Squares(), Squares(), levels=0, shift=4.5, scale=2.0).train
    assert torch.equal(real.encode(torch.tensor([0, 9]), seed=0)[:, 0, 0, 0], torch.tensor([-2.25, 2.25]))
    assert real.digest() == TorchDataset(Squares(), Squares(), levels=0).train.digest() != data.train.digest()
    pictures = [(Image.fromarray(noise_of((4, 6, 3)).numpy()), 1)] * 3
    assert torch.equal(TorchDataset(pictures, pictures).train.raw[:1][0], noise_of((4, 6, 3)).permute(2, 0, 1))


def test_what_a_torch_data_set_may_not_be():
    """Found at once where it is in the first event, and when it is read elsewhere."""
    with pytest.raises(TypeError, match=r"give an object with __len__ and __getitem__"):
        TorchDataset(iter([1]))
    with pytest.raises(ValueError, match="non-finite"):
        TorchDataset(Squares(0), Squares())
    for value, why in (
        (math.nan, "non-finite values in 1 of 2 samples: index 1"),
        (0.5, "fractions"),
        (11.0, "levels=10"),
    ):
        data = TorchDataset(Squares(4, value), Squares(), levels=10)
        with pytest.raises(ValueError, match=why):
            data.train.encode(torch.tensor([3, 4]), seed=0)
    with pytest.raises(ValueError, match=r"item 1 has shape \(1, 3\), item 0 \(1, 2\)"):
        ragged = [torch.zeros(1, 2), torch.zeros(1, 3)]
        TorchDataset(ragged, ragged, levels=0).train.encode(torch.arange(2), seed=0)
