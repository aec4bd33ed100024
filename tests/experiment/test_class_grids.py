"""The report of a run with classes shows its samples class by class."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data.pictures import picture_format
from scoresde.experiment import Workdir, sample
from scoresde.experiment import train as train_here
from scoresde.experiment.reports.report import report
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.training import experiment

RUN = SMALL | {
    "data__labels": True, "training__steps": 2, "training__preview_every": 0, "sampling__count": 25, "sampling__batch_size": 9,
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 2}}",
}  # fmt: skip
CAPTION = "unipc: the first samples of each label"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    found = Workdir(tmp_path_factory.mktemp("classes") / "run")
    train_here(experiment(**RUN), found)
    return found


def grid(workdir, **options):
    """The page, and the picture of its grid of classes."""
    made = experiment(**RUN, **options)
    sample(made, workdir)
    page = report(made, workdir).read_text()
    picture = re.search(f"<img alt='{CAPTION}' src='data:image/png;base64,([^']*)'", page)
    return page, picture and np.asarray(Image.open(io.BytesIO(base64.b64decode(picture[1]))))


def test_a_row_has_the_first_samples_of_a_class(workdir):
    """25 samples of 10 classes in turn: three of the classes 0 to 4, two of the others."""
    _, pixels = grid(workdir, sampling__condition={"label": "balanced"})
    form = picture_format(experiment(**RUN).data)
    raw = np.load(workdir.samples / "unipc.npz")["raw"]
    side, gap = 48, 6
    left = pixels.shape[1] - 3 * (side + gap)
    top = pixels.shape[0] - 10 * (side + gap)
    for c in range(10):
        for k in range(3):
            y, x = top + c * (side + gap), left + k * (side + gap)
            cell = pixels[y : y + side : 6, x : x + side : 6, 0]
            number = c + 10 * k
            wanted = form.shown(torch.from_numpy(raw[number])) if number < 25 else np.full((1, 8, 8), 255)
            assert np.array_equal(cell, wanted[0]), (c, k)
    assert (pixels[:, :left] < 255).any(), "the rows have labels"


def test_samples_without_classes_have_no_grid(workdir):
    page, pixels = grid(workdir, sampling__condition="ignore")
    assert pixels is None and "25 samples" in page
