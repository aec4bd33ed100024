"""Contact sheets: where pictures are, and how large."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from scoresde.experiment.folder.sheets import GAP, SheetRow, contact_sheet


def constant(value, height, width, channels=1):
    return np.full((channels, height, width), value, np.uint8)


def pixels_of(*arguments, **options):
    return np.asarray(Image.open(io.BytesIO(contact_sheet(*arguments, **options))))


@pytest.mark.parametrize(
    ("sides", "shown"), [((8, 8), (96, 96)), ((6, 12), (48, 96)), ((100, 100), (100, 100)), ((300, 200), (160, 107))]
)
def test_small_pictures_are_enlarged_and_large_ones_shrunk(sides, shown):
    """A smaller measurement fills the place of a sample, and a place may stay empty."""
    low = constant(90, sides[0] // 2, sides[1] // 2)
    sheet = pixels_of(
        ["input", "", "mean of all"], [SheetRow("a", [low, None, constant(30, *sides, channels=3)])], sides
    )
    height, width = shown
    top = sheet.shape[0] - height - GAP
    assert sheet.shape[1] == GAP + 3 * (width + GAP)
    for place, value in ((0, 90), (1, 255), (2, 30)):
        x = GAP + place * (width + GAP)
        assert (sheet[top : top + height, x : x + width] == value).all()
    assert (sheet[:top] < 128).any(), "the columns have titles"


def test_rows_have_labels_and_long_ones_are_broken():
    rows = [SheetRow("name" * 30, [constant(0, 8, 8)]), SheetRow("b", [constant(0, 8, 8)])]
    sheet = pixels_of([""], rows, (8, 8))
    left = sheet.shape[1] - 96 - GAP
    assert left <= 120 and (sheet[:, :left] < 128).any() and sheet.shape[0] == GAP + 2 * (96 + GAP)
