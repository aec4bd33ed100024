"""One door for numbers: whatever holds them, every entry point takes the same and refuses the same, by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde.data import Affine, Arrays, Dataset, Quantized, Splits, TorchDataset
from scoresde.data.values import as_tensor
from scoresde.noise import NoiseSource
from scoresde.score.quantized import Levels
from tests.data_common import F32, F64

COMPLEX = np.array([[1 + 2j, 3.0], [0.5, 1j]])
MASKED = np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, True], [False, False]])


# --- what is taken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([[1, 2], [3, 250]], np.uint16), torch.int32),
        (np.array([[1, 2], [3, 250]], np.uint32), torch.int64),
        (np.array([[1, 2], [3, 250]], np.uint64), torch.int64),
        (np.array([[1, 2], [3, 250]], ">i2"), torch.int16),
        (np.array([[1, 2], [3, 250]], ">f8"), F64),
        (np.array([[1, 2], [3, 250]], np.float16), torch.float16),
        (np.array([[1, 2], [3, 250]], np.longdouble), F64),
        (np.array([[2, 1], [250, 3]])[:, ::-1], torch.int64),
        (np.asfortranarray([[1, 2], [3, 250]]), torch.int64),
        (np.ma.masked_array([[1, 2], [3, 250]]), torch.int64),
        ([[1, 2], [3, 250]], torch.int64),
        (((1.0, 2), [3, 250]), F64),
        ([np.array([1, 2], np.uint8), np.array([3, 250], np.int16)], torch.int16),
        ([torch.tensor([1, 2]), np.array([3.0, 250.0])], F64),
        (torch.tensor([[1, 2], [3, 250]]).to(torch.uint16), torch.int32),
        (torch.tensor([[1, 2], [3, 250]]).to(torch.uint32), torch.int64),
        (torch.tensor([[1, 2], [3, 250]]).to(torch.uint64), torch.int64),
        (torch.tensor([[1, 2], [3, 250.0]]).to(torch.bfloat16), F32),
        (torch.nn.Parameter(torch.tensor([[1, 2], [3, 250.0]])), F32),
    ],
)
def test_the_same_numbers_from_anything_that_holds_them(value, kind):
    """A data set, its encoding and the transform's own: values unchanged, x as from int64."""
    wanted = torch.tensor([[1, 2], [3, 250]])
    data = Dataset(value, Affine())
    assert data.raw.dtype == kind and torch.equal(data.raw.to(F64), wanted.to(F64))
    assert torch.equal(Affine(1.0, 2.0).encode(value, dtype=F64), (wanted.to(F64) - 1.0) / 2.0)
    levels = Dataset(value, Quantized(256))
    assert torch.equal(levels.encode(slice(None), seed=0), Dataset(wanted, Quantized(256)).encode(slice(None), seed=0))
    assert torch.equal(Quantized(256).encode(value, None, dtype=F32), Quantized(256).encode(wanted, None, dtype=F32))
    assert not data.encode(slice(None), seed=0).requires_grad
    assert len(data.digest()) == 16


def test_booleans_are_levels():
    assert Dataset([[True, False]], Quantized(2)).raw.tolist() == [[1, 0]]
    assert Dataset(torch.tensor([[True, False]]), Quantized(2)).raw.tolist() == [[1, 0]]


def test_unsigned_items(tmp_path):
    """Items and files of the kinds of numbers that torch cannot take the least of."""
    for kind in ("uint16", "uint32", "uint64"):
        rows = (np.arange(40).reshape(20, 2) * 50).astype(kind)
        np.save(tmp_path / f"{kind}.npy", rows)
        items = [torch.from_numpy(row) for row in rows]
        for data in (Arrays(str(tmp_path / f"{kind}.npy"), levels=2000), TorchDataset(items, levels=2000)):
            seen = torch.cat([data.train.raw[:], data.test.raw[:]])
            assert sorted(seen[:, 0].tolist()) == rows[:, 0].tolist()


# --- what is refused ---------------------------------------------------------------------------------------------

BAD = [
    (COMPLEX, "complex128: give real or whole numbers; the imaginary part"),
    (torch.from_numpy(COMPLEX), "complex128: give real or whole numbers"),
    ([[1 + 2j, 1.0]], "complex128"),
    (MASKED, "1 masked entries of 4"),
    ([MASKED[0], MASKED[1]], "1 masked entries of 2"),
    (np.array([[1, None]], object), "object: give real or whole numbers"),
    (np.array([["a", "b"]]), "<U1: give real or whole numbers"),
    (np.array([["2020-01-01"]], "M8[D]"), r"datetime64\[D\]: give real"),
    ([[1.0, 2.0], [3.0]], "elements have different shapes"),
    ([torch.zeros(2), torch.zeros(3)], r"\[1\] has shape \(3,\)"),
    (torch.zeros(2, 2).to_sparse(), "sparse_coo.*give a dense tensor"),
    (torch.zeros(2, 2, device="meta"), "on meta: give a dense tensor"),
    (np.full((2, 2), 2**63, np.uint64), "2\\*\\*63 or more"),
    (torch.tensor([[-1, 5]]).view(torch.uint64), "2\\*\\*63 or more"),
    (
        np.full((2, 2), np.longdouble("1e4000")) if np.finfo(np.longdouble).max > 1e308 else COMPLEX,
        "too large for float64|complex",
    ),
]


@pytest.mark.parametrize(("value", "why"), BAD)
def test_what_holds_no_real_numbers_is_refused_everywhere(value, why):
    for call in (
        lambda: Dataset(value, Affine(), "mine"),
        lambda: Dataset(value, Quantized(256), "mine"),
        lambda: Affine().encode(value, dtype=F32),
        lambda: Quantized(256).encode(value, None, dtype=F32),
        lambda: Affine().decode(value),
        lambda: Quantized(256).decode(value),
    ):
        with pytest.raises(ValueError, match=why):
            call()
    with pytest.raises(ValueError, match=why):
        TorchDataset([(value, 0)] * 4, levels=0)


@pytest.mark.parametrize("value", ["data.npy", [["a", "b"]], None, {"x": [1.0]}, {1, 2}, iter([1])])
def test_what_holds_no_numbers_is_refused_everywhere(value):
    for call in (lambda: Dataset(value, Affine(), "mine"), lambda: Affine().decode(value)):
        with pytest.raises(TypeError, match=r"(data set 'mine'|x)(\[0\]\[0\])? is a .*give"):
            call()


def test_scalars_and_other_transforms():
    with pytest.raises(ValueError, match=r"data set 'data' has shape \(\)"):
        Dataset(3, Affine())
    for transform in (3, None, "Affine", Quantized):
        with pytest.raises(
            TypeError, match=r"transform=.* is not allowed: give a Quantized, an Affine, a Columns or a Tokens"
        ):
            Dataset([[1.0]], transform)
    with pytest.raises(TypeError, match=r"flip=1 is not allowed: give True or False"):
        Dataset(torch.zeros(2, 1, 2, 2), Affine(), flip=1)
    with pytest.raises(TypeError, match=r"transform=Affine\(.* is not allowed: give a Quantized"):
        Levels(Affine())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("transform", [Quantized(256), Affine()])
@pytest.mark.parametrize("wrap", [torch.tensor, np.array, list])
def test_nothing_that_is_not_finite_becomes_a_value(transform, bad, wrap):
    """Neither direction: a NaN is no level, and infinity no white."""
    value = wrap([[1.0, 2.0], [bad, 3.0]])
    for call in (lambda: transform.decode(value), lambda: transform.encode(value, None, dtype=F32)):
        with pytest.raises(ValueError, match="holds non-finite values in 1 of 2 samples: index 1"):
            call()


@pytest.mark.parametrize("transform", [Quantized(256), Affine()])
@pytest.mark.parametrize("value", [[], torch.zeros(0, 3), np.zeros((2, 0))])
def test_nothing_at_all_is_said_to_be_empty(transform, value):
    for call in (lambda: transform.decode(value), lambda: transform.encode(value, None, dtype=F32)):
        with pytest.raises(ValueError, match="is empty: shape"):
            call()


@pytest.mark.parametrize("wrap", [torch.tensor, np.array, list])
def test_encode_takes_no_fractions(wrap):
    """A picture in [0, 1] is not black, and 255.9 not 255."""
    transform, noise = Quantized(256), NoiseSource.of(0, 1)
    for value, shown in (([[0.0, 0.5]], "0.5"), ([[255.9, 1.0]], "255.9")):
        for call in (
            lambda v=value: transform.encode(wrap(v), noise, dtype=F32),
            lambda v=value: transform.place(wrap(v), torch.tensor(0.5), dtype=F32),
            lambda v=value: transform.check(wrap(v)),
            lambda v=value: Dataset(wrap(v), transform),
        ):
            with pytest.raises(ValueError, match=f"holds fractions, such as {shown}, and Quantized"):
                call()
    with pytest.raises(ValueError, match=r"values from 1 to 256: levels=256 allows 0 \.\. 255"):
        transform.encode(wrap([[256.0, 1.0]]), noise, dtype=F32)
    with pytest.raises(ValueError, match=r"u holds values from 0.5 to 2: allowed is \[0, 1\]"):
        transform.place(wrap([[1, 2]]), torch.tensor([[0.5, 2.0]]), dtype=F32)


# --- precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
def test_affine_is_exact_both_ways(dtype):
    """Decoding adds no rounding of its own: the only error is that of x."""
    transform, raw = Affine(1.7e9, 1000.0), 1.7e9 + torch.linspace(-3000, 3000, 601, dtype=F64)[:, None]
    x = transform.encode(raw, dtype=dtype)
    back = transform.decode(x)
    assert back.dtype == F64 and x.dtype == dtype
    assert float((back - raw).abs().max()) <= 3.0 * torch.finfo(dtype).eps * 1000.0 + 2.4e-7
    assert torch.equal(back, x.to(F64) * 1000.0 + 1.7e9)
    assert int((back % 128 == 0).sum()) < 20
    assert torch.equal(transform.decode(x.numpy()), back)
    assert torch.equal(transform.decode(x.tolist()), back)


def test_affine_of_any_size():
    """scale = 1e300 is undone in float64; what float64 has not is refused."""
    x = torch.tensor([[-2.0], [3.5]])
    assert torch.equal(Affine(0.0, 1e300).decode(x), x.to(F64) * 1e300)
    with pytest.raises(ValueError, match=r"x up to 3.5 is beyond float64 after Affine\(shift=0.0, scale=1e\+308\)"):
        Affine(0.0, 1e308).decode(x)
    with pytest.raises(ValueError, match=r"raw data from -1 to 1e\+60 is beyond torch.float32 after Affine"):
        Affine().encode(torch.tensor([[-1.0], [1e60]], dtype=F64), dtype=F32)
    assert float(Affine(0.0, 1e60).encode([[1e60]], dtype=F32)) == 1.0


def test_levels_that_a_dtype_cannot_tell_apart_are_refused():
    """2^22 levels in [-1, 1] are the most of float32: there decode undoes encode, above it does not."""
    most = Quantized(2**22)
    k = torch.tensor([[0, 1, 2**21, 2**22 - 2, 2**22 - 1]])
    for noise in (None, NoiseSource.of(0, 1)):
        assert torch.equal(most.decode(most.encode(k, noise, dtype=F32)), k)
    for transform, dtype, most in (
        (Quantized(2**26), F32, 2**22),
        (Quantized(256, 1000.0, 1000.001), F32, 2),
        (Quantized(4096), torch.float16, 512),
        (Quantized(256, 0.0, 1e39), F32, "[0-9]+"),
    ):
        with pytest.raises(
            ValueError, match=f"levels={transform.levels} .* are too fine for {dtype}: give {most} levels"
        ):
            transform.encode([[1]], None, dtype=dtype)
    assert Quantized(2**26).decode(Quantized(2**26).encode([[2**26 - 1]], None, dtype=F64)).item() == 2**26 - 1
    data = Dataset([[1, 2]], Quantized(2**26))
    assert data.encode([0], seed=0, dtype=F64).dtype == F64
    for call in (lambda: data.encode([0], seed=0), lambda: data.batch(0, 1, seed=0), lambda: Splits(data, data)):
        with pytest.raises(ValueError, match="too fine for torch"):
            call()


def normal(mean, std, count=200, dtype=F64):
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(count, 2)))
    return (mean + std * z).to(dtype)


@pytest.mark.parametrize(
    ("raw", "transform", "why"),
    [
        (
            normal(1e8, 1.0),
            Affine(),
            "float32 rounds away more than 1% of the spread of 2 of 2 coordinates; give shift=99999999.[0-9]+, scale=",
        ),
        (normal(1e6, 1.0), Affine(), "float32 rounds away"),
        (normal(1.7e9, 1000.0), Affine(0.0, 1000.0), "float32 rounds away"),
        (normal(0.0, 1.0), Affine(0.0, 1e300), "float32 rounds away"),
        (normal(0.0, 1e60), Affine(), "beyond float32, give shift="),
        (normal(0.0, 1e300), Affine(), "beyond float32"),
        (torch.stack([normal(1e9, 1.0)[:, 0], normal(0, 1e9)[:, 0]], 1), Affine(), "of 1 of 2 coordinates"),
        (normal(1e8, 3.0).long(), Affine(), "float32 rounds away"),
        (normal(1e8, 30.0, dtype=F32), Affine(), "in which it is stored, is too coarse"),
    ],
)
def test_data_that_float32_loses_is_refused_where_float32_is_used(raw, transform, why, tmp_path):
    """By a data set, splits, a file and a torch data set; float64 takes it."""
    data = Dataset(raw, transform, "mine")
    if raw.dtype == F64:
        assert torch.isfinite(data.encode(slice(None), seed=0, dtype=F64)).all()
    np.save(tmp_path / "a.npy", raw.numpy())
    options = {"shift": transform.shift, "scale": transform.scale}
    for call in (
        lambda: data.batch(0, 4, seed=0),
        lambda: data.encode(slice(None), seed=0),
        lambda: Splits(data, data),
        lambda: Arrays(str(tmp_path / "a.npy"), **options),
        lambda: TorchDataset(list(raw), levels=0, **options),
    ):
        with pytest.raises(ValueError, match=f"data set .*{why}"):
            call()


@pytest.mark.parametrize(
    ("raw", "transform"),
    [
        (normal(1e8, 1.0), Affine(1e8, 1.0)),
        (normal(1.7e9, 1000.0), Affine(1.7e9, 1000.0)),
        (normal(288.15, 0.01), Affine()),
        (normal(0.0, 1e300), Affine(0.0, 1e300)),
        (normal(1e-30, 1e-32), Affine()),
        (torch.ones(5, 2), Affine()),
        (torch.full((5, 2), 0.1, dtype=F64), Affine()),
        (torch.tensor([[0.5, 1.0], [0.5 + 1e-16, 2.0], [0.5, 3.0]], dtype=F64), Affine()),
        (torch.arange(20)[:, None] % 16, Affine()),
    ],
)
def test_data_that_float32_keeps(raw, transform):
    """Among it what never varies, or by float64's rounding alone."""
    data = Dataset(raw, transform)
    x = data.encode(slice(None), seed=0)
    assert torch.allclose(transform.decode(x), raw.to(F64), rtol=1e-6, atol=1e-6 * transform.scale)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_spread_of_x_by_drawing(levels):
    """`spread` counts the dequantization: 2 levels have 4 / 3 of the variance of their middles."""
    raw = torch.arange(levels).repeat(-(-20000 // levels))[:, None]
    x = Dataset(raw, Quantized(levels)).encode(slice(None), seed=0, dtype=F64)
    std = float(raw.double().std(correction=0))
    # uniform in [-1, 1] whatever the levels: 1 / sqrt(3); 20000 draws
    assert Quantized(levels).spread(std) == pytest.approx(1 / math.sqrt(3), rel=1e-12)
    assert float(x.std()) == pytest.approx(1 / math.sqrt(3), rel=0.02)
    assert Affine(3.0, 4.0).spread(2.0) == 0.5


# --- items -------------------------------------------------------------------------------------------------------


def test_what_items_are():
    """The first of a tuple; of a list too, unless it is a list of numbers."""
    rows = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]
    for items in (
        rows,
        [(row, 1) for row in rows],
        [torch.tensor(row) for row in rows],
        [[np.array(row), 3] for row in rows],
        [(np.array(row, np.uint16),) for row in rows],
    ):
        data = TorchDataset(items, items, levels=0)
        assert data.event_shape == (2, 2) and data.train.raw[:].tolist() == rows


@pytest.mark.parametrize(
    ("items", "why"),
    [
        (
            [{"image": [1.0], "label": 2}] * 4,
            r"item [0-9] is a dictionary with the keys \['image', 'label'\], without 'x': give event=\.\.\., the key",
        ),
        ([({"image": [1.0]}, 2)] * 4, "is a dictionary"),
        (["a.png"] * 4, "item [0-9] is a str: give a tensor, a numpy array or a list of numbers, an image, or a tuple"),
        ([None] * 4, "is a NoneType"),
        ([()] * 4, "is a NoneType"),
        ([1.0, 2.0, 3.0, 4.0], r"has shape \([0-9],\): give \(n, \*event\)"),
    ],
)
def test_items_that_are_no_events_are_named(items, why):
    with pytest.raises(ValueError, match=why):
        TorchDataset(items, levels=0, test_fraction=0.5)


class Failing(torch.utils.data.Dataset):
    """Item 3 cannot be read."""

    def __len__(self):
        return 6

    def __getitem__(self, k):
        if k == 3:
            raise RuntimeError("disk on fire")
        return torch.full((2,), float(k))


def test_an_item_that_fails_is_named():
    data = TorchDataset(Failing(), Failing(), levels=0)
    with pytest.raises(ValueError, match="item 3 cannot be read: RuntimeError: disk on fire"):
        data.train.encode([2, 3], seed=0)


def test_arguments_that_would_change_nothing_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((9, 2), np.uint8))
    for make in (lambda **k: Arrays(str(tmp_path / "a.npy"), **k), lambda **k: TorchDataset([[0.0]] * 9, **k)):
        with pytest.raises(
            ValueError, match=r"scale=2.0 with levels=4: they are only for real-valued data: give levels=0"
        ):
            make(levels=4, scale=2.0)
        with pytest.raises(ValueError, match=r"low=0.0, high=1.0 with levels=0: they are only for data with levels"):
            make(levels=0, low=0.0)


def test_a_name_begins_every_message():
    with pytest.raises(ValueError, match=r"^mine\[1\] holds complex64"):
        as_tensor("mine", [torch.zeros(2), torch.zeros(2, dtype=torch.complex64)])
