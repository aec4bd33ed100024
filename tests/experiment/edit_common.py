"""A run that is hardly trained, pictures for it, and the results of scoresde edit."""

from __future__ import annotations

import numpy as np
from PIL import Image

from scoresde._files import read_sealed
from scoresde.data.pictures import picture_format
from scoresde.experiment import Workdir, edit_files, load_config
from scoresde.experiment import train as train_here
from scoresde.experiment.config.experiment import Experiment
from tests.experiment.conftest import TINY as SMALL
from tests.experiment.training import experiment

RUN = SMALL | {
    "training__steps": 2, "training__schedule": "constant", "training__preview_every": 0,
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 3}}",
    "editing__samples": 3, "editing__batch_size": 4,
}  # fmt: skip
EDIT = {"editing__task": "edit", "editing__t": 0.3}
INPAINT = {"editing__task": "inpaint"}
SUPER = {"editing__task": "super_resolve", "editing__factor": 2, "editing__guidance": {"name": "IsotropicMoments"}}
"""The guidance is one that is stable for a network that has hardly been trained."""
OTHER = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({
        "data": %s, "sde": {"name": "VPSDE"}, "network": {"name": "MLP", "width": 8, "depth": 1},
        "objective": {"name": "DenoisingScoreMatching"}, "training": {"steps": 2, "batch_size": 4},
        "samplers": {"unipc": {"name": "UniPC", "steps": 3}},
    })
"""


def make_run(folder):
    """A run of digits, three test digits as pictures, and a mask."""
    made = experiment(**RUN)
    train_here(made, Workdir(folder / "run"))
    (folder / "pictures").mkdir()
    form = picture_format(made.data)
    for k in range(3):
        (folder / "pictures" / f"digit{k}.png").write_bytes(form.png(made.data.test.raw[k]))
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:5, 3:7] = 0
    Image.fromarray(mask).save(folder / "mask.png")


def other_run(folder, data):
    """A run of other data than pictures."""
    (folder / "config.py").write_text(OTHER % data)
    made = Experiment.from_config(load_config(folder / "config.py"))
    train_here(made, Workdir(folder / "run"))
    return made


class Edited:
    """The results of a command."""

    def __init__(self, folder):
        self.folder = folder
        self.facts = read_sealed(folder / "edit.json")

    def __getitem__(self, name):
        """An array of samples.npz of all inputs, (N, S, ...)."""
        return np.stack([np.load(self.folder / one["name"] / "samples.npz")[name] for one in self.facts["inputs"]])

    def contents(self):
        """The bytes of all files but the record, which has times."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file() and "shards-" not in str(path))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files if path.name != "edit.json"}

    def shards(self):
        """When each shard was written."""
        return {path.name: path.stat().st_mtime_ns for path in self.folder.glob("shards-*/*.npz")}


def edited(place, processes=1, **options):
    inputs = {"editing__input": [str(place / "pictures")]}
    return Edited(edit_files(experiment(**{**RUN, **inputs, **options}), Workdir(place / "run"), processes))
