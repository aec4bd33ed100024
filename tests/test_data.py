"""Data sets: what they refuse, the order and noise of training, the transforms both ways, files of images, and files that are
not what their names say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from scoresde.data import (
    Affine,
    Dataset,
    Digits,
    Quantized,
    Splits,
    permutation,
    sources,
)
from scoresde.noise import NoiseSource
from tests.data_common import F32, F64, levels
from tests.params import examples

LIGHT = settings(max_examples=examples(60), deadline=None, derandomize=True)


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
    with pytest.raises(ValueError, match="'broken' holds non-finite values in 1 of 5 samples: index 3"):
        sources.split(raw, transform, 0.4, 0, "broken")  # by its number in the file, wherever the cut puts it


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
    assert data.summary == "Dataset('six', 6 events of shape (1, 2, 3), Quantized(levels=17, low=-1.0, high=1.0))"
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
    return torch.cat([batch.x[:, 0] for batch in batches]), torch.cat([batch.position for batch in batches])


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
    x, position, _ = data.batch(7, 5, seed=2)
    again, same, _ = data.batch(7, 5, seed=2)
    assert torch.equal(x, again) and torch.equal(position, same) and x.dtype == F32
    assert torch.equal(position, torch.arange(35, 40))
    assert not torch.equal(data.batch(7, 5, seed=3)[0], x)
    order = torch.cat([permutation(12, 2, e) for e in range(4)])
    assert torch.equal(data.transform.decode(x), data.raw[order[35:40]])


def test_dequantization_is_drawn_again_in_every_epoch():
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
    with pytest.raises(ValueError, match=r"train has events of shape \(3,\), and test of shape \(4,\)"):
        Splits(a, b)
    with pytest.raises(ValueError, match="share one transform"):
        Splits(a, Dataset(torch.zeros(2, 3), Affine(1.0)))
    assert "train=" in repr(Splits(a, a))
