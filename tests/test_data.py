"""Data sets: what they refuse, the order and noise of training, the transforms both ways, files of images, and files that are
not what their names say."""

from __future__ import annotations

import gzip
import math
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from scoresde.data import (
    CIFAR10,
    MNIST,
    Affine,
    Arrays,
    Dataset,
    Digits,
    ImageFolder,
    Quantized,
    Splits,
    TorchDataset,
    permutation,
)
from scoresde.data.formats import read_cifar_python, read_idx
from scoresde.noise import NoiseSource

F32, F64 = torch.float32, torch.float64
LIGHT = settings(max_examples=60, deadline=None, derandomize=True)


def levels(shape, below=17):
    return NoiseSource.of(1, shape[0]).integers(below, shape[1:], step=0, purpose="raw")


def numbered(n):
    """A data set whose event i is (i, i)."""
    return Dataset(torch.arange(n, dtype=F64)[:, None].expand(n, 2), Affine())


class Given(NoiseSource):
    """Hands out one uniform number."""

    u = 0.5

    def uniform(self, event_shape, *, step, purpose, dtype):
        return torch.full((len(self.indices), *event_shape), self.u, dtype=dtype)


# --- transforms --------------------------------------------------------------------------------------------------


@st.composite
def quantized(draw):
    low = draw(st.floats(-100, 100))
    return Quantized(draw(st.integers(2, 300)), low, low + draw(st.floats(0.01, 1000)))


@LIGHT
@given(transform=quantized(), dtype=st.sampled_from([F32, F64]))
def test_decode_undoes_encode(transform, dtype):
    """With noise of a seed and without; x inside [low, high] and in the box of its level."""
    raw = torch.arange(transform.levels)[:, None].expand(-1, 3)
    # float32 keeps 24 bits of x, and the box must be wide against what it loses
    if dtype == F32 and transform.width < 1e-4 * (abs(transform.low) + abs(transform.high)):
        dtype = F64
    for noise in (None, NoiseSource.of(0, transform.levels)):
        x = transform.encode(raw, noise, dtype=dtype)
        assert x.dtype == dtype and x.shape == raw.shape
        assert torch.equal(transform.decode(x), raw)
        assert float(x.min()) >= transform.low - 1e-5 and float(x.max()) <= transform.high + 1e-5


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("u", [2.0**-33, 1 - 2.0**-33])
@pytest.mark.parametrize("transform", [Quantized(17), Quantized(256), Quantized(256, 0.0, 1.0)], ids=repr)
def test_decode_undoes_encode_at_the_ends_of_a_box(transform, u, dtype):
    """The least and the largest uniform number that `NoiseSource` gives: rounding must not change the level."""
    noise = Given(0, torch.arange(transform.levels))
    object.__setattr__(noise, "u", u)
    raw = torch.arange(transform.levels)[:, None]
    assert torch.equal(transform.decode(transform.encode(raw, noise, dtype=dtype)), raw)


def test_decode_undoes_encode_in_four_million_draws():
    """8-bit levels in float32, as a training run sees them."""
    raw, transform = levels((100, 40000), 256), Quantized(256)
    wrong = transform.decode(transform.encode(raw, NoiseSource.of(0, 100), dtype=F32)) != raw
    assert int(wrong.sum()) == 0


def test_quantized_by_its_formula():
    transform, noise = Quantized(5, -1.0, 3.0), NoiseSource.of(3, 4)
    raw = levels((4, 2, 3), 5)
    u = noise.uniform((2, 3), step=6, purpose="dequantize", dtype=F64)
    x = transform.encode(raw, noise, step=6, dtype=F64)
    assert torch.allclose(x, -1.0 + 4.0 * (raw + u) / 5, rtol=1e-14)
    assert not torch.equal(x, transform.encode(raw, noise, step=7, dtype=F64))
    assert torch.allclose(transform.encode(raw, None, dtype=F64), -1.0 + 4.0 * (raw.double() + 0.5) / 5, rtol=1e-14)
    assert torch.allclose(transform.edges(), torch.tensor([-1.0, -0.2, 0.6, 1.4, 2.2, 3.0], dtype=F64), rtol=1e-14)
    assert transform.width == pytest.approx(0.8, rel=1e-15) and transform.discrete
    outside = torch.tensor([-9.0, -1.0001, 3.0, 3.1, 99.0])
    assert transform.decode(outside).tolist() == [0, 0, 4, 4, 4]


@LIGHT
@given(shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
def test_affine_both_ways(shift, scale):
    transform, raw = Affine(shift, scale), torch.linspace(-30, 30, 12, dtype=F64).reshape(3, 2, 2)
    x = transform.encode(raw, dtype=F64)
    assert torch.allclose(x, (raw - shift) / scale, rtol=1e-13, atol=1e-13)
    assert torch.allclose(transform.decode(x), raw, rtol=1e-12, atol=1e-12)
    assert transform.encode(raw, dtype=F32).dtype == F32 and not transform.discrete
    assert torch.equal(transform.encode(raw, NoiseSource.of(0, 3), dtype=F64), x)


@pytest.mark.parametrize("transform", [Quantized(8, 0.0, 1.0), Quantized(256), Affine(1.0, 3.0), Affine(0.0, 0.1)])
@pytest.mark.parametrize("dimensions", [1, 7])
def test_log_volume_is_the_log_determinant_of_encode(transform, dimensions):
    """By the slope of the map itself: from level 1 to level 2, or from 1.0 to 2.0."""
    ends = torch.tensor([[1], [2]], dtype=torch.int64 if transform.discrete else F64)
    x = transform.encode(ends, None, dtype=F64)
    wanted = dimensions * math.log(float(x[1] - x[0]))
    assert transform.log_volume(dimensions) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Quantized(1), "levels"),
        (lambda: Quantized(2.5), "levels"),
        (lambda: Quantized(4, 1.0, 1.0), "high"),
        (lambda: Quantized(4, math.nan, 1.0), "low"),
        (lambda: Affine(math.inf), "shift"),
        (lambda: Affine(0.0, 0.0), "scale"),
        (lambda: Affine(0.0, -1.0), "scale"),
    ],
)
def test_bad_transforms_are_named(make, name):
    with pytest.raises(ValueError, match=f"{name}="):
        make()


# --- data sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3, 2, 0), (3,), ()])
@pytest.mark.parametrize("transform", [Quantized(4), Affine()])
def test_an_empty_data_set_is_refused(transform, shape):
    with pytest.raises(ValueError, match=r"data set 'nothing' (is empty|has shape)"):
        Dataset(torch.zeros(shape), transform, "nothing")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("transform", [Quantized(4), Affine()])
def test_non_finite_data_is_refused_by_index(transform, bad):
    raw = torch.ones(5, 2, 2)
    raw[3, 1, 0] = bad
    with pytest.raises(ValueError, match="'broken' holds non-finite values in 1 of 5 samples: index 3"):
        Dataset(raw, transform, "broken")


def test_fractions_are_no_levels():
    with pytest.raises(ValueError, match=r"holds fractions.*use Affine"):
        Dataset(torch.tensor([[1.0], [1.5]]), Quantized(4))
    whole = Dataset(torch.tensor([[1.0], [3.0]]), Quantized(4))
    assert whole.raw.dtype == torch.int64 and whole.raw.flatten().tolist() == [1, 3]


@pytest.mark.parametrize("value", [-1, 4])
def test_levels_out_of_range_are_refused(value):
    with pytest.raises(ValueError, match=r"levels=4 allows 0 \.\. 3"):
        Dataset(torch.tensor([[0], [value]]), Quantized(4))


def test_a_data_set_says_what_it_is():
    data = Dataset(levels((6, 1, 2, 3)), Quantized(17), "six")
    assert len(data) == 6 and data.event_shape == (1, 2, 3)
    assert repr(data) == "Dataset('six', 6 events of shape (1, 2, 3), Quantized(levels=17, low=-1.0, high=1.0))"
    same, other = Dataset(data.raw.clone(), Quantized(17)), Dataset(data.raw.flip(0), Quantized(17))
    assert data.digest() == same.digest() != other.digest() and len(data.digest()) == 16
    assert Dataset(data.raw.reshape(6, 6), Quantized(17)).digest() != data.digest()


def test_encode_is_keyed_by_event():
    data, index = Dataset(levels((20, 3)), Quantized(17)), torch.tensor([4, 19, 0, 7])
    x = data.encode(index, seed=3, draw=2)
    assert torch.equal(data.transform.decode(x), data.raw[index])
    assert torch.equal(data.encode(torch.tensor([19]), seed=3, draw=2)[0], x[1])
    assert torch.equal(data.encode(index, seed=3, draw=2, dtype=F64).float(), x)
    for other in ({"seed": 4, "draw": 2}, {"seed": 3, "draw": 1}):
        assert not (data.encode(index, **other) == x).any()


# --- order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 30, 1000])
def test_permutation(n):
    for seed, epoch in ((0, 0), (0, 1), (5, 0)):
        assert torch.equal(permutation(n, seed, epoch).sort().values, torch.arange(n))
        assert torch.equal(permutation(n, seed, epoch), permutation(n, seed, epoch))
    if n >= 30:  # by chance 1 / 30!
        orders = {tuple(permutation(n, seed, epoch).tolist()) for seed, epoch in ((0, 0), (0, 1), (5, 0))}
        assert len(orders) == 3


def stream(data, size, steps, seed=0):
    """The events that training sees, in their order, and their positions."""
    batches = [data.batch(step, size, seed=seed, dtype=F64) for step in range(steps)]
    return torch.cat([x[:, 0] for x, _ in batches]), torch.cat([p for _, p in batches])


@pytest.mark.parametrize("size", [1, 3, 4, 12, 13, 30])
def test_every_epoch_sees_every_event_once(size):
    seen, position = stream(numbered(12), size, -(-48 // size))
    assert torch.equal(position, torch.arange(len(position)))
    for epoch in range(4):
        part = seen[12 * epoch : 12 * (epoch + 1)]
        assert torch.equal(part.sort().values, torch.arange(12, dtype=F64))
        assert torch.equal(part.long(), permutation(12, 0, epoch))


@LIGHT
@given(n=st.integers(1, 20), size=st.integers(1, 25), other=st.integers(1, 25), seed=st.integers(0, 100))
def test_the_order_does_not_depend_on_the_batch_size(n, size, other, seed):
    a, _ = stream(numbered(n), size, -(-50 // size), seed)
    b, _ = stream(numbered(n), other, -(-50 // other), seed)
    assert torch.equal(a[:50], b[:50])


def test_a_batch_is_a_function_of_seed_and_step():
    data = Dataset(levels((12, 3)), Quantized(17))
    x, position = data.batch(7, 5, seed=2)
    again, same = data.batch(7, 5, seed=2)
    assert torch.equal(x, again) and torch.equal(position, same) and x.dtype == F32
    assert torch.equal(position, torch.arange(35, 40))
    assert not torch.equal(data.batch(7, 5, seed=3)[0], x)
    order = torch.cat([permutation(12, 2, e) for e in range(4)])
    assert torch.equal(data.transform.decode(x), data.raw[order[35:40]])


def test_dequantisation_is_drawn_anew_in_every_epoch():
    data = Dataset(torch.zeros(4, 3, dtype=torch.int64), Quantized(2))
    x = torch.cat([data.batch(step, 4, seed=0)[0] for step in range(5)])
    assert len(x.unique()) == x.numel()
    # two epochs and a half in one batch
    x = data.batch(3, 10, seed=0)[0]
    assert len(x.unique()) == x.numel()


def test_the_noise_of_a_position_does_not_depend_on_the_batch_size():
    """dataset.py: "Order and noise are functions of (seed, position)"."""
    data = Dataset(levels((12, 3)), Quantized(17))
    small = torch.cat([data.batch(step, 4, seed=0)[0] for step in range(6)])
    large = torch.cat([data.batch(step, 8, seed=0)[0] for step in range(3)])
    assert torch.equal(data.transform.decode(small), data.transform.decode(large))
    assert torch.equal(small, large)


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_bad_batch_sizes_are_named(size):
    with pytest.raises(ValueError, match="size="):
        numbered(3).batch(0, size, seed=0)


# --- splits ------------------------------------------------------------------------------------------------------


def test_digits():
    """1797 images of 17 levels, each in one of the two sets and once."""
    digits = Digits()
    assert len(digits.train) == 1438 and len(digits.test) == 359 and digits.event_shape == (1, 8, 8)
    assert digits.transform == Quantized(17, -1.0, 1.0)
    everything = torch.cat([digits.train.raw, digits.test.raw])
    source = torch.from_numpy(load_digits().images).long()[:, None]
    assert len(source.unique(dim=0)) == 1797  # no image comes twice: equal sets are then a partition
    assert torch.equal(everything.unique(dim=0), source.unique(dim=0))
    assert int(everything.min()) == 0 and int(everything.max()) == 16


def test_the_cut_depends_on_its_seed_alone():
    first, again, other = Digits(), Digits(), Digits(split_seed=1)
    assert torch.equal(first.test.raw, again.test.raw) and first.test.digest() != other.test.digest()
    assert len(Digits(test_fraction=0.5, low=0.0).test) == 898
    assert torch.equal(Digits(low=0.0, high=2.0).test.raw, first.test.raw)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0, 1e-9, math.nan])
def test_bad_fractions_are_named(fraction):
    with pytest.raises(ValueError, match="test_fraction="):
        Digits(test_fraction=fraction)


def test_splits_must_be_alike():
    a, b = Dataset(torch.zeros(2, 3), Affine()), Dataset(torch.zeros(2, 4), Affine())
    with pytest.raises(ValueError, match=r"train has events \(3,\), test \(4,\)"):
        Splits(a, b)
    with pytest.raises(ValueError, match="share one transform"):
        Splits(a, Dataset(torch.zeros(2, 3), Affine(1.0)))
    assert "train=" in repr(Splits(a, a))


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "float16", "float32", "float64", ">f4", "bool"])
def test_npy(tmp_path, dtype):
    content = (np.arange(40).reshape(20, 2) % 2).astype(dtype)
    np.save(tmp_path / "a.npy", content)
    data = Arrays(str(tmp_path / "a.npy"), test_fraction=0.25)
    assert len(data.train) == 15 and len(data.test) == 5 and data.transform == Affine()
    whole = torch.cat([data.train.raw, data.test.raw]).double()
    assert torch.equal(whole.mT, torch.tensor([[0.0] * 20, [1.0] * 20], dtype=F64))


def test_npz_and_levels(tmp_path):
    x = levels((30, 1, 4, 4), 9).numpy()
    np.savez(tmp_path / "all.npz", images=x[:20], held_out=x[20:])
    file = tmp_path / "all.npz"
    data = Arrays(f"{file}:images", f"{file}:held_out", levels=9, low=0.0)
    assert data.transform == Quantized(9, 0.0, 1.0) and data.event_shape == (1, 4, 4)
    assert np.array_equal(data.train.raw.numpy(), x[:20]) and np.array_equal(data.test.raw.numpy(), x[20:])


def test_real_data_is_shifted_and_scaled(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(20.0).reshape(10, 2))
    data = Arrays(str(tmp_path / "a.npy"), str(tmp_path / "a.npy"), shift=9.5, scale=2.0)
    x = data.train.encode(torch.arange(10), seed=0, dtype=F64)
    assert torch.allclose(x.flatten(), (torch.arange(20, dtype=F64) - 9.5) / 2)


def test_a_missing_file_or_key_says_what_is_there(tmp_path):
    np.savez(tmp_path / "all.npz", images=np.zeros((4, 2)), masks=np.zeros(4))
    with pytest.raises(FileNotFoundError, match=r"no data file .*none\.npy"):
        Arrays(str(tmp_path / "none.npy"))
    with pytest.raises(FileNotFoundError, match=r"no data file .*none\.npz"):
        Arrays(f"{tmp_path / 'none.npz'}:images")
    for spec in (f"{tmp_path / 'all.npz'}:image", str(tmp_path / "all.npz")):
        with pytest.raises(ValueError, match=r"all\.npz.*it holds \['images', 'masks'\]: name one"):
            Arrays(spec)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["npy", "npz", "pickle", "zip"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, form):
    mark = tmp_path / "executed"
    array = np.array([Trap(mark)] * 4, dtype=object)[:, None]
    spec = str(tmp_path / "trap.npy")
    if form == "npy":
        np.save(tmp_path / "trap.npy", array, allow_pickle=True)
    elif form == "npz":
        np.savez(tmp_path / "trap.npz", x=array)
        spec = f"{tmp_path / 'trap.npz'}:x"
    elif form == "pickle":
        (tmp_path / "trap.npy").write_bytes(pickle.dumps(Trap(mark)))
    else:
        with zipfile.ZipFile(tmp_path / "trap.npz", "w") as file:
            file.writestr("x", pickle.dumps(Trap(mark)))
        spec = f"{tmp_path / 'trap.npz'}:x"
    with pytest.raises(ValueError):
        Arrays(spec)
    assert not mark.exists()
    # the trap works: what a careless reader would have done
    if form == "npy":
        np.load(tmp_path / "trap.npy", allow_pickle=True)
        assert mark.exists()


@pytest.mark.parametrize(
    "content", [np.array([["a", "b"]] * 4), np.ones((4, 2), dtype=complex), np.zeros((4, 2), "M8[s]")]
)
def test_arrays_of_no_numbers_are_refused(tmp_path, content):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(ValueError, match=r"holds .*: give real or whole numbers"):
        Arrays(str(tmp_path / "a.npy"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.npy", b""),
        ("text.npy", b"1, 2, 3\n"),
        ("cut.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'"),
        ("cut.npz:x", b"PK\x03\x04 the rest is lost"),
        ("none.npz", b"PK\x05\x06" + 18 * b"\x00"),
    ],
    ids=["empty", "text", "cut npy", "cut npz", "npz of no arrays"],
)
def test_broken_files_are_named(tmp_path, name, content):
    (tmp_path / name.partition(":")[0]).write_bytes(content)
    with pytest.raises(ValueError, match=name.partition(".")[0]):
        Arrays(str(tmp_path / name))


def test_bad_content_is_refused_at_once(tmp_path):
    np.save(tmp_path / "nan.npy", np.array([[1.0], [np.nan], [2.0], [3.0]]))
    with pytest.raises(ValueError, match="non-finite"):
        Arrays(str(tmp_path / "nan.npy"), test_fraction=0.5)
    np.save(tmp_path / "levels.npy", np.array([[1], [9], [2], [3]]))
    with pytest.raises(ValueError, match=r"levels=4 allows 0 \.\. 3"):
        Arrays(str(tmp_path / "levels.npy"), levels=4, test_fraction=0.5)


def test_large_whole_numbers_do_not_wrap(tmp_path):
    """uint64 beyond 2^63: refused, or right to rounding; not negative."""
    np.save(tmp_path / "large.npy", np.full((4, 2), 2**63 + 5, dtype=np.uint64))
    try:
        large = Arrays(str(tmp_path / "large.npy"), test_fraction=0.5)
    except ValueError:
        return
    assert (large.train.encode(torch.arange(2), seed=0) > 9e18).all()


# --- images in bytes, mirrored in training ------------------------------------------------------------------------


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
    """Each event as it is or mirrored, dequantised as without; by its position alone, and anew in every epoch."""
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
    labels = b"](" + b"K\x03" * len(images) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + text(b"batch_label") + text(b"1") + b"u."


CIFAR_NAMES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


def write_cifar(folder, form, images):
    place = folder / f"cifar-10-batches-{form}"
    place.mkdir(parents=True)
    for name, part in zip(CIFAR_NAMES, images.split(len(images) // 6), strict=True):
        if form == "py":
            (place / name).write_bytes(cifar_python(part))
        else:
            (place / f"{name}.bin").write_bytes(b"".join(b"\x07" + image.numpy().tobytes() for image in part))


@pytest.mark.parametrize("form", ["py", "bin"])
@pytest.mark.parametrize("inside", [False, True])
def test_cifar(tmp_path, form, inside):
    images = noise_of((12, 3, 32, 32))
    write_cifar(tmp_path, form, images)
    # what the hand-written file says is what Python itself reads
    if form == "py":
        batch = pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_2").read_bytes(), encoding="bytes")
        assert np.array_equal(batch[b"data"], images[2:4].flatten(1).numpy()) and batch[b"labels"] == [3, 3]
    folder = tmp_path / f"cifar-10-batches-{form}" if inside else tmp_path
    data = CIFAR10(str(folder), low=0.0, flip=True, images_per_file=2)
    assert torch.equal(data.train.raw, images[:10]) and torch.equal(data.test.raw, images[10:])
    assert data.train.raw.dtype == torch.uint8 and data.train.flip and not data.test.flip
    assert data.event_shape == data.train.event_shape and data.transform == Quantized(256, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"data_batch_1.* holds 2 images: 10000 are wanted"):
        _ = CIFAR10(str(folder)).train


def test_cifar_that_is_not_there(tmp_path):
    """What is declared needs no files; what needs them says which, and where they are to be had."""
    data = CIFAR10(str(tmp_path))
    assert data.event_shape == (3, 32, 32) and "CIFAR10(events" in repr(data)
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
    with pytest.raises(ValueError, match=f"data_batch_1 is no CIFAR-10 batch.*({why})"):
        read_cifar_python(tmp_path / "data_batch_1")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_cifar_batch_executes_nothing(tmp_path, protocol):
    """Nor does what is reached through the names that are let in: they are stand-ins."""
    mark, file = tmp_path / "executed", tmp_path / "data_batch_1"
    file.write_bytes(pickle.dumps({"data": Trap(mark)}, protocol=protocol))
    with pytest.raises(
        ValueError, match=r"asks for (pathlib|builtins|__builtin__|copyreg|copy_reg)[\w.]*, which no such file"
    ):
        read_cifar_python(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())
    assert mark.exists()
    file.write_bytes(b"\x80\x02}(U\x04datacnumpy\nndarray\n(M\xff\xff\x85tRu.")  # numpy would make it
    with pytest.raises(ValueError, match="is no CIFAR-10 batch"):
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
        (b"\x00\x00\x08\x03\x00", "is no idx file"),
        (b"\x89PNG", "is no idx file"),
        (gzip.compress(idx(np.zeros((2, 28, 28), np.uint8)))[:-9], "is broken"),
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
    x, _ = data.train.batch(0, 4, seed=0)
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
    with pytest.raises(FileNotFoundError, match=r"holds no images: put PNG or JPEG files there, of 8 x 8 pixels"):
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
    with pytest.raises(TypeError, match=r"give a map-style data set"):
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
