"""Images with a measurement of each: pairs stay together, draws are keyed, and what does not fit is refused."""

from __future__ import annotations

import pytest
import torch
from PIL import Image as Image_

from scoresde.conditions import Classes, Image
from scoresde.data import (
    Affine,
    Arrays,
    Dataset,
    Degraded,
    Digits,
    ImageFolder,
    Quantized,
    RealColumn,
    Splits,
    Table,
    TorchDataset,
)
from scoresde.data.stored import ImageFiles
from scoresde.noise import NoiseSource
from scoresde.operators import (
    JPEG,
    Blur,
    BoxInpainting,
    FourierMask,
    Grayscale,
    Mask,
    PixelInpainting,
    SuperResolution,
)

COLORS = NoiseSource.of(0, 30).integers(256, (3, 4, 6), step=0, purpose="colors").to(torch.uint8)
PHOTOS = Splits(Dataset(COLORS[:20], Quantized(256)), Dataset(COLORS[20:], Quantized(256)))
OPERATORS = [
    SuperResolution(2),
    BoxInpainting(),
    PixelInpainting(),
    Grayscale(),
    JPEG(20),
    Blur(0.8),
    Mask(torch.eye(4, 6)),
    FourierMask(torch.eye(4, 6)),
]


def measured(split, operator, index, seed=0, number=0):
    """The measurement of events by its definition."""
    x = split.transform.encode(split.events(index), None, dtype=torch.float32)
    noise = NoiseSource(seed, index).again(number)
    return operator.image(operator.apply(x, noise), noise)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_measurements_are_those_of_the_events(operator):
    data = Degraded(PHOTOS, operator, seed=5)
    assert data.kinds == {"measurement": Image(operator.channels((3, 4, 6)))} and data.event_shape == (3, 4, 6)
    for number, split in enumerate((data.train, data.test)):
        index = torch.tensor([7, 2, 2, 0])
        found = split.conditions(index)["measurement"]
        assert torch.equal(found, measured(split, operator, index, 5, number))
        assert torch.equal(
            split.conditions(slice(3, 6))["measurement"], measured(split, operator, torch.arange(3, 6), 5, number)
        )


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_order_epoch_restart_and_processes_do_not_matter(operator):
    """A batch has the measurement of each event whatever the step and the part; a data set that is made again has the same."""
    data, again = Degraded(PHOTOS, operator).train, Degraded(PHOTOS, operator).train
    every = data.conditions(slice(None))["measurement"]
    for step in (0, 1, 6):
        whole = data.batch(step, 9, seed=1)
        raw = data.transform.decode(whole.x)
        index = [next(k for k in range(20) if torch.equal(COLORS[k].long(), one)) for one in raw]
        assert torch.equal(whole.condition["measurement"], every[index])
        parts = [again.batch(step, 9, seed=1, part=slice(a, b)).condition["measurement"] for a, b in ((0, 4), (4, 9))]
        assert torch.equal(torch.cat(parts), whole.condition["measurement"])


def test_random_operators_depend_on_the_seed_and_the_split():
    one, other = Degraded(PHOTOS, BoxInpainting()), Degraded(PHOTOS, BoxInpainting(), seed=1)
    masks = [split.conditions(slice(10))["measurement"][:, 3] for split in (one.train, one.test, other.train)]
    assert not any(torch.equal(a, b) for a, b in zip(masks, masks[1:] + masks[:1], strict=True))
    digests = [d.train.digest() for d in (PHOTOS, one, other, Degraded(PHOTOS, BoxInpainting(0.3)))]
    assert len(set(digests)) == 4 and one.train.digest() == Degraded(PHOTOS, BoxInpainting()).train.digest()
    assert one.train.digest() != one.test.digest()


def test_the_dequantization_does_not_enter():
    data = Degraded(Digits(), SuperResolution(2)).train
    index = torch.arange(5)
    x, y = data.encode(index, seed=0), data.conditions(index)["measurement"]
    apart = (SuperResolution(2).image(SuperResolution(2).apply(x)) - y).abs()
    assert 0.0 < float(apart.max()) < 1.0 / 17.0, "half a level at most"


def test_own_conditions_and_mirroring_are_kept():
    data = Degraded(Digits(labels=True), SuperResolution(2), measurement="small")
    assert data.kinds == {"label": Classes(10), "small": Image(1)}
    assert data.train.name == "digits/train, SuperResolution(factor=2)" and Digits().train.name == "digits/train"
    assert torch.equal(data.train.conditions([0, 1])["label"], Digits(labels=True).train.conditions([0, 1])["label"])
    assert data.condition_row("label", 3) == 3
    flipped = Splits(Dataset(COLORS, Quantized(256), flip=True), Dataset(COLORS, Quantized(256)))
    batch = Degraded(flipped, Grayscale()).train.batch(0, 16, seed=0)
    again = Grayscale().apply(Quantized(256).encode(Quantized(256).decode(batch.x), None, dtype=torch.float32))
    assert torch.allclose(batch.condition["measurement"], again, atol=1e-6)
    twice = Degraded(Degraded(PHOTOS, Grayscale(), measurement="gray"), SuperResolution(2)).train
    assert (
        set(twice.conditions([0])) == {"gray", "measurement"}
        and twice.part(torch.tensor([3]), "one").kinds == twice.kinds
    )


def test_files_are_read_once_for_image_and_measurement(tmp_path, monkeypatch):
    for k in range(10):
        Image_.new("L", (4, 4), 20 * k).save(tmp_path / f"{k}.png")
    data = Degraded(ImageFolder(str(tmp_path), 4, channels=1), SuperResolution(2)).train
    seen, read = [], ImageFiles.read
    monkeypatch.setattr(ImageFiles, "read", lambda self, k: (seen.append(k), read(self, k))[1])
    x, _, condition = data.batch(0, 5, seed=0)
    assert len(seen) == 5
    assert torch.equal(data.transform.decode(x), data.transform.decode(condition["measurement"]))
    items = [torch.full((1, 4, 4), float(k)) for k in range(10)]
    real = Degraded(TorchDataset(items, levels=0, scale=2.0), SuperResolution(2)).train
    batch = real.batch(0, 5, seed=0)
    assert torch.equal(batch.x, batch.condition["measurement"])


def test_the_source_is_not_read_before_it_is_needed():
    data = Degraded(ImageFolder("absent", 4), SuperResolution(2))
    assert data.kinds == {"measurement": Image(3)}
    with pytest.raises(FileNotFoundError, match="holds no images"):
        _ = data.train


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Degraded(Digits(), SuperResolution(3)), "factor=3 does not divide the side 8"),
        (lambda: Degraded(Digits(), Grayscale()), "give a number for each of 1 channels, two or more"),
        (lambda: Degraded(Digits(low=0.0), JPEG()), r"does not fit the range of the data, 0 to 1: give low=0, high=1"),
        (lambda: Degraded(Digits(), SuperResolution(2), measurement="x"), "measurement: 'x' is not allowed as a name"),
        (
            lambda: Degraded(Digits(labels=True), SuperResolution(2), measurement="label"),
            "has a condition of this name",
        ),
        (
            lambda: Degraded(Table("a.csv", [RealColumn("a")]), PixelInpainting()),
            "is for images, and the data is a table",
        ),
        (lambda: Degraded(Digits(), SuperResolution(2), seed=-1), "seed=-1 is not allowed"),
        (lambda: Degraded(Digits().train, SuperResolution(2)), "data=.* give a Splits"),
        (lambda: Degraded(Digits(), 2), "operator=2 is not allowed: give an Operator"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_jpeg_of_real_numbers_is_refused(tmp_path):
    import numpy as np

    np.save(tmp_path / "a.npy", np.zeros((20, 1, 8, 8)))
    data = Arrays(str(tmp_path / "a.npy"))
    with pytest.raises(ValueError, match="needs images with levels, and the data has Affine"):
        Degraded(data, JPEG())
    assert Degraded(data, SuperResolution(2)).transform == Affine()


def test_one_more_condition_of_a_data_set():
    data = Dataset(COLORS, Quantized(256), condition={"a": torch.arange(30) % 2})
    more = data.with_condition("b", torch.arange(30.0))
    assert list(more.kinds) == ["a", "b"] and list(data.kinds) == ["a"] and more.digest() != data.digest()
    assert more.with_condition("c", torch.arange(30) % 3, Classes(5)).kinds["c"] == Classes(5)
    with pytest.raises(ValueError, match="condition 'a' is not allowed: there is one of this name already"):
        data.with_condition("a", torch.arange(30.0))
    with pytest.raises(ValueError, match="give one row for each of 30 events"):
        data.with_condition("b", torch.arange(3.0))
