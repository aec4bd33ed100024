"""Items of torch data sets with conditions: tuples and dictionaries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as Image_

from scoresde.conditions import Classes, Image, Tokens, Vector
from scoresde.data import TorchDataset
from scoresde.data.inspect_sources import find
from scoresde.data.items import Items


class Counting:
    """Items k = 0 .. n - 1 with an event of value k, made by a function. Counts how often each is read."""

    def __init__(self, make, n=20):
        self.make, self.n, self.seen = make, n, []

    def __len__(self):
        return self.n

    def __getitem__(self, k):
        self.seen.append(k)
        return self.make(k)


def event(k):
    return torch.full((1, 2, 2), float(k))


MADE = {
    "label": lambda k: k % 3,
    "numpy": lambda k: np.int64(k % 3),
    "size": lambda k: 0.5 * k,
    "vector": lambda k: [float(k), -1.0],
    "picture": lambda k: torch.full((2, 2, 2), float(k)),
    "words": lambda k: np.full((3, 4), k, np.float32),
}
KINDS = {
    "label": Classes(3), "numpy": Classes(4), "size": Vector(1), "vector": Vector(2), "picture": Image(2), "words": Tokens(4),
}  # fmt: skip
TUPLES = Counting(lambda k: (event(k), *(make(k) for make in MADE.values())))
DICTIONARIES = Counting(lambda k: {"x": event(k), "unused": "text", **{name: make(k) for name, make in MADE.items()}})


def dataset(items, **options):
    return TorchDataset(items, levels=0, condition=list(MADE), classes={"label": 3, "numpy": 4}, **options)


@pytest.mark.parametrize("items", [TUPLES, DICTIONARIES], ids=["tuples", "dictionaries"])
def test_items_with_conditions(items):
    data = dataset(items, test_fraction=0.25)
    assert data.kinds == KINDS and (len(data.train), len(data.test)) == (15, 5)
    for split in (data.train, data.test):
        x, position, condition = split.batch(1, 4, seed=3)
        k = x[:, 0, 0, 0].long()
        assert torch.equal(condition["label"], k % 3) and condition["label"].dtype == torch.int64
        assert torch.equal(condition["size"][:, 0], 0.5 * k) and torch.equal(condition["vector"][:, 0], k.float())
        assert torch.equal(condition["picture"][:, :1], x) and condition["words"].shape == (4, 3, 4)
        parts = [split.batch(1, 4, seed=3, part=slice(a, b)) for a, b in ((0, 1), (1, 4))]
        for name, rows in condition.items():
            assert torch.equal(torch.cat([part.condition[name] for part in parts]), rows)
        assert torch.equal(split.batch(1, 4, seed=3).condition["words"], condition["words"]) and len(position) == 4


def test_an_item_is_read_once_for_its_event_and_conditions():
    items = Counting(TUPLES.make)
    data = dataset(items)
    items.seen.clear()
    data.train.batch(0, 6, seed=0)
    assert len(items.seen) == 6 == len(set(items.seen))


def test_flip_mirrors_images_among_the_conditions():
    picture = torch.arange(4.0).reshape(1, 2, 2)
    data = TorchDataset([(picture + k, picture - k) for k in range(20)], levels=0, condition=["other"], flip=True)
    x, _, condition = data.train.batch(0, 16, seed=0)
    assert torch.equal((x - condition["other"]) % 2, torch.zeros_like(x)) and torch.equal(
        x.flip(-1) > x, condition["other"].flip(-1) > condition["other"]
    )


def test_the_first_of_a_tuple_alone_and_other_keys():
    plain = TorchDataset(TUPLES, levels=0)
    assert (
        plain.kinds == {}
        and plain.train.digest() == TorchDataset([event(k) for k in range(20)], levels=0).train.digest()
    )
    assert TorchDataset(DICTIONARIES, levels=0).train.digest() == plain.train.digest()
    given = TorchDataset(TUPLES, levels=0, condition=["label"], classes={"label": ["a", "b", "c"]})
    assert given.kinds == {"label": Classes(3, ("a", "b", "c"))} and given.train.digest() != plain.train.digest()
    pictures = [{"image": Image_.new("L", (2, 2), k), "text": k} for k in range(10)]
    data = TorchDataset(pictures, event="image", condition=["text"], classes={"text": 10})
    x = data.train.events(torch.arange(4))
    assert torch.equal(x[:, 0, 0, 0].long(), data.train.conditions(slice(4))["text"])


def bad(k, value, name="label"):
    """Items whose condition has another value in item k."""
    return [(event(i), value if i == k else MADE[name](i)) for i in range(8)]


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (bad(9, 0), {}, r"condition 'label' of list is a whole number, a class: give .* classes=\{'label': 10\}"),
        (bad(0, "cat"), {"classes": {"label": 3}}, "item 0: condition 'label' is a str: give a tensor.*; this is 'cat'"),
        (bad(0, None), {}, "item 0: condition 'label' is a NoneType: give a tensor"),
        ([event(0)] * 8, {}, r"item 0 is a Tensor: condition=\['label'\] needs items \(x, label\) or dictionaries"),
        ([(event(0),)] * 8, {}, r"item 0 is a tuple of 1: condition=\['label'\] names elements after the first"),
        ([{"x": event(0), "y": 1}] * 8, {}, r"item 0 is a dictionary with the keys \['x', 'y'\], without 'label'"),
        ([{"y": 1}] * 8, {}, r"without 'x': give event=\.\.\., the key of the event"),
        (bad(9, 0), {"classes": {"lable": 3}}, "'lable' is not in condition: label; did you mean 'label'"),
        ([(event(0), torch.zeros(2, 3, 4))] * 8, {}, r"give classes \(n,\), vectors"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(items, options, message):
    with pytest.raises(ValueError, match=message):
        TorchDataset(items, items, levels=0, condition=["label"], **options)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            bad(5, 7),
            r"condition 'label' of item 5 is 7, which is not allowed: give a class, a whole number in 0 \.\. 2",
        ),
        (bad(5, 1.0), r"item 5 condition 'label' has dtype torch.float64, item 0 torch.int64: give one dtype"),
        (bad(5, [1, 2]), r"item 5 condition 'label' has shape \(2,\), item 0 \(\)"),
        (
            bad(5, float("nan"), "size"),
            "condition 'label' of item 5 is \\[nan\\], which is not allowed: give a real number",
        ),
        (
            [(event(k) if k != 5 else event(k).long(), 0) for k in range(8)],
            "item 5 has dtype torch.int64, item 0 torch.float32",
        ),
    ],
)
def test_what_is_refused_with_the_index_of_the_item(items, message):
    classes = None if isinstance(items[0][1], float) else {"label": 3}
    data = TorchDataset(items, items, levels=0, condition=["label"], classes=classes)
    with pytest.raises(ValueError, match=message):
        data.train.batch(0, 8, seed=0)


def test_items_that_were_read_last_are_kept():
    items = Items(Counting(TUPLES.make), condition=["label"])
    first = items.items([3, 4])
    assert items.items([3, 4]) is first and items.items([4, 3])[0] is not first[1]
    assert items.given["label"].read(5) == 2


class Pairs(Counting):
    def __init__(self):
        super().__init__(lambda k: (event(k), k % 3))


class Named(Counting):
    def __init__(self):
        super().__init__(lambda k: {"x": event(k), "size": 0.5})


class Alone(Counting):
    def __init__(self):
        super().__init__(event)


def test_inspect_says_how_to_use_the_rest_of_an_item():
    notes = [find(f"{__name__}:{one}").notes for one in ("Pairs", "Named", "Alone")]
    assert (
        "items are tuples of 2, and only the events are used" in notes[0][0] and "condition = ['label']" in notes[0][0]
    )
    assert "items are dictionaries" in notes[1][0] and "condition = ['size']" in notes[1][0] and notes[2] == ()
