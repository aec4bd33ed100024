"""Torch data sets as a source of data: `TorchDataset` reads the items of ``items.py``, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scoresde._validation import shown
from scoresde.conditions import ConditionKind
from scoresde.data.condition_rows import class_kinds
from scoresde.data.dataset import Dataset
from scoresde.data.items import Items, MapStyle
from scoresde.data.sources import Splits, check_split, split_indices
from scoresde.data.transforms import declared


class TorchDataset(Splits):
    """Any map-style torch data set, such as those of torchvision, read item by item.

    Args:
        train: A data set whose items are events, tuples that begin with an event, or dictionaries. Events are tensors, arrays or
            PIL images, which are read like those of an `ImageFolder` (``scoresde.data.pixels``).
        test: The same for the test set. If None, ``test_fraction`` of ``train`` is held out at random.
        levels: For discrete data, the number of levels 0 .. levels - 1, which are mapped to [low, high]. 0 for real data,
            which is mapped to (r - shift) / scale.
        low: Lower end of the range of x for discrete data.
        high: Upper end of the range of x for discrete data.
        shift: Shift of real data.
        scale: Scale of real data.
        test_fraction: Fraction of ``train`` that is held out if there is no ``test``.
        split_seed: Seed of this random split.
        flip: Mirror images at random in training.
        condition: Names of conditions: of the elements after the first in items (x, y, ...), or of the keys of dictionaries.
            Other elements and keys are not used. Whole numbers are classes and need ``classes``. Real numbers, and vectors (k,),
            are a `Vector`; (c, *sides) with the sides of the event is an `Image`, and another (L, k) is `Tokens`.
        classes: Number of classes, or a list of their names, by name of the condition: {"label": 10}.
        event: The key of the event in items that are dictionaries.

    Raises:
        ValueError: If the first item does not fit. Other items are checked when they are read: their parts must have the shapes
            and dtypes of those of the first item. The message names the item.
    """

    def __init__(
        self,
        train: MapStyle,
        test: MapStyle | None = None,
        *,
        levels: int = 256,
        low: float = -1.0,
        high: float = 1.0,
        shift: float = 0.0,
        scale: float = 1.0,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        flip: bool = False,
        condition: Sequence[str] = (),
        classes: Mapping[str, int | Sequence[str]] | None = None,
        event: str = "x",
    ) -> None:
        transform = declared(levels, low, high, shift, scale)
        check_split(test_fraction, split_seed)
        if not isinstance(condition, Sequence) or isinstance(condition, str):
            raise TypeError(f"condition={shown(condition)} is not allowed: give a list of names, e.g. ['label']")
        stated: dict[str, ConditionKind] = dict(class_kinds(classes, condition))
        first, second = Items(train, None, "train", condition, event), None
        if test is not None:
            second = Items(test, None, "test", condition, event)
        else:
            kept, held_out = split_indices(len(first), test_fraction, split_seed)
            first, second = (Items(train, index, "train", condition, event) for index in (kept, held_out))
        name = type(train).__name__
        for key in condition:
            if (
                key not in stated
                and len(first)
                and not first.part(key).ndim
                and not first.part(key).is_floating_point()
            ):
                raise ValueError(
                    f"condition {key!r} of {name} is a whole number, a class: give the number of classes, classes={{{key!r}: 10}}"
                )
        made = Dataset(first, transform, f"{name}/train", flip=flip, condition=first.given, kinds=stated)
        super().__init__(made, Dataset(second, transform, f"{name}/test", condition=second.given, kinds=made.kinds))
