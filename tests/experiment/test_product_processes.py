"""Product processes from configs: a CSV file with real and categorical columns, from training to samples in the file's units."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from benchmarks.runs import load
from scoresde import VPSDE
from scoresde._files import read_sealed
from scoresde.experiment.folder.tensor_file import read_tensors
from scoresde.jump import Absorbing, NearestNeighbor
from scoresde.noise import NoiseSource
from scoresde.product import LabeledMixture, ProductLikelihood, ProductModel, ProductProcess, ProductSampler
from tests.experiment.conftest import called

MIXTURE = LabeledMixture([[-1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [0.3, 0.4, 0.3], [[0, 2], [1, 0], [1, 1]])
CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict({{
        "seed": 0, "device": "cpu", "threads": 1,
        "data": {{"name": "MixedTable", "data": {{"name": "Table", "file": {file!r}, "columns": [
            {{"name": "RealColumn", "column": "height", "shift": 172.0, "scale": 8.5}},
            {{"name": "CategoryColumn", "column": "sex", "values": ("f", "m"), "shift": 1.3, "scale": 0.5}},
            {{"name": "RealColumn", "column": "weight", "shift": 65.0, "scale": 4.0}},
            {{"name": "CategoryColumn", "column": "kind", "values": ("a", "b", "c"), "shift": 1.2, "scale": 0.8}},
        ]}}}},
        "process": {{"name": "ProductProcess", "sde": {{"name": "VPSDE"}}, "jumps": {{"name": "Absorbing"}}}},
        "network": {{"name": "MLP", "width": 16, "depth": 1}},
        "model": {{"prediction": "velocity"}},
        "objective": {{"name": "ProductObjective"}},
        "training": {{"steps": 6, "batch_size": 16, "learning_rate": 0.01, "warmup": 0, "checkpoint_every": 3, "preview_every": 0,
                     "log_every": 1, "ema_decay": 0.5}},
        "sampling": {{"count": 7, "batch_size": 4, "seed": 0}},
        "samplers": {{"product": {{"name": "ProductSampler", "steps": 5, "predictor": {{"name": "Ancestral"}}}}}},
        "likelihood": {{"limit": 5, "batch_size": 3, "method": {{"name": "ProductLikelihood", "draws": 3}}}},
    }})
"""


def write_table(path, n=80):
    with open(path, "w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["height", "sex", "weight", "kind"])
        for a, b, sex, kind in MIXTURE.sample(n).tolist():
            table.writerow([f"{172 + 8 * a:.3f}", "fm"[int(sex)], f"{61 + 4 * b:.3f}", "abc"[int(kind)]])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table, the config mine.py and the run of all commands, and what they said."""
    folder = tmp_path_factory.mktemp("product")
    write_table(folder / "table.csv")
    (folder / "mine.py").write_text(CONFIG.format(file=str(folder / "table.csv")))
    for verb in ("train", "sample", "likelihood", "evaluate", "report"):
        done = command(folder, verb)
        assert done.returncode == 0, done.stderr
    return folder


def command(folder, verb, *extra, run="run"):
    return called(verb, "--config", folder / "mine.py", "--workdir", folder / run, *extra)


def test_the_objects(place):
    made, model, _ = load(str(place / "run"))
    assert made.process == ProductProcess(VPSDE(), [None, Absorbing(2), None, Absorbing(3)])
    assert isinstance(model, ProductModel) and model.process == made.process
    assert model.network.event_shape == (2 + 3 + 4,)
    assert made.data.train.encode([0], seed=0).dtype == torch.float32


def test_samples_are_those_of_the_library_and_a_table_with_the_texts(place):
    made, model, _ = load(str(place / "run"))
    wanted = ProductSampler(made.samplers["product"].predictor, 5)(made.process, model, (7, 4), seed=0)
    found = np.load(place / "run" / "samples" / "product.npz")
    np.testing.assert_allclose(found["x"], wanted.samples.numpy(), rtol=1e-5, atol=1e-5)
    assert set(found["x"][:, 1].tolist()) <= {0.0, 1.0} and set(found["x"][:, 3].tolist()) <= {0.0, 1.0, 2.0}
    with open(place / "run" / "samples" / "product.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["abc"[int(k)] for k in found["x"][:, 3]]
    assert [float(row["height"]) for row in rows] == pytest.approx((172.0 + 8.5 * found["x"][:, 0]).tolist(), rel=1e-6)


def test_bounds_are_those_of_the_library_in_the_units_of_the_table(place):
    made, model, _ = load(str(place / "run"))
    index = torch.arange(3)
    wanted = ProductLikelihood(draws=3)(
        made.process, model, made.data.test.encode(index, seed=0), noise=NoiseSource(0, index).again(0)
    )
    rows = (place / "run" / "likelihood" / "test-bound.csv").read_text().splitlines()[1:]
    assert len(rows) == 5
    for row, nats in zip(rows, wanted.log_prob.tolist(), strict=False):
        assert float(row.split(",")[2]) == pytest.approx(nats, rel=1e-5)
    summary = read_sealed(place / "run" / "likelihood" / "test-bound.json")
    assert summary["unit"] == "nats" and summary["bound by"] == ["the reverse of a product process"]
    assert summary["nats_of_data"] - summary["nats"] == pytest.approx(-np.log(8.5 * 4.0), rel=1e-6)
    assert summary["baseline"]["name"] == "Gaussian and independent categories fitted to the training data"


def test_report_evaluation_and_check(place):
    page = (place / "run" / "report.html").read_text()
    assert "ProductProcess" in page and "Absorbing(tokens=3" in page and "kind" in page
    assert "VelocityPrediction" in page and "ProductLikelihood(t_min=0.001, draws=3" in page
    done = called("push", place / "published", "--workdir", place / "run")
    assert done.returncode == 0, done.stderr
    card = (place / "published" / "README.md").read_text()
    assert (
        "A generative model of table.csv/train under ProductProcess" in card and "the score of real coordinates" in card
    )
    assert read_sealed(place / "run" / "evaluation" / "product.json")["frechet distance"] > 0.0
    done = called("check", "--config", place / "mine.py")
    assert done.returncode == 0 and "1: posterior" in done.stdout and "3: posterior" in done.stdout


def test_two_processes_draw_the_same_samples(place):
    one = np.load(place / "run" / "samples" / "product.npz")["x"]
    done = command(place, "sample", "--config.sampling.batch_size=2", "--processes", "2")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(place / "run" / "samples" / "product.npz")["x"], one, rtol=1e-5, atol=1e-5)


def test_a_resumed_training_ends_as_an_unbroken_one(place):
    for steps in (3, 6):
        done = command(place, "train", f"--config.training.steps={steps}", run="resumed")
        assert done.returncode == 0, done.stderr
    one, other = (
        read_tensors(place / run / "checkpoints" / "step-000000006.safetensors")[0] for run in ("run", "resumed")
    )
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


REFUSED = {
    "a process for other data": ({"data": "{'name': 'Digits'}"}, "a MixedTable for a ProductProcess"),
    "an SDE for tokens": (
        {"process": "None", "sde": "{'name': 'VPSDE'}"}, "categories as tokens, which need config.process"),
    "a jump process alone": ({"process": "{'name': 'Absorbing'}"}, "categories as tokens, which need config.process"),
    "no jumps": ({"process": "{'name': 'ProductProcess', 'sde': {'name': 'VPSDE'}}"}, "config.process.jumps"),
    "another key": ({"process.sed": "1"}, "config.process"),
    "tokens": ({"process.jumps": "{'name': 'Absorbing', 'tokens': 9}"}, "has 2 categories; leave it out"),
    "another T": ({"process.jumps": "{'name': 'Absorbing', 'schedule': {'name': 'PolynomialKeep', 'T': 2.0}}"}, "the same T"),
    "a process without scalar coefficients": (
        {"process.sde": "{'name': 'CriticallyDampedLangevin'}"}, "config.process.sde"),
    "an objective of scores": ({"objective": "{'name': 'DenoisingScoreMatching'}"}, "config.objective"),
    "a sampler of an SDE": ({"samplers": "{'a': {'name': 'UniPC'}}"}, "config.samplers.a"),
    "a grid below T": ({"samplers": "{'a': {'name': 'ProductSampler', 'steps': [0.5, 0.1]}}"}, "begins at t=0.5"),
    "a chain": ({"model": "{'steps': 10}"}, "config.model.steps"),
    "guidance": ({"guidance": "{'name': 'ClassifierFree'}"}, "config.guidance is not for a product process"),
    "a bound of jumps": ({"likelihood.method": "{'name': 'JumpLikelihood'}"}, "give a ProductLikelihood"),
    "a solver": ({"likelihood.method": "None", "likelihood.solver": "{'name': 'ScipyODE'}"}, "config.likelihood.solver"),
    "only numbers": (
        {"data.data.columns": "[{'name': 'RealColumn', 'column': 'height'}]"}, "has no categories"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(place, case):
    changes, message = REFUSED[case]
    done = command(place, "train", *(f"--config.{key}={value}" for key, value in changes.items()), run="refused")
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert not (place / "refused" / "checkpoints").exists()


def test_editing_is_refused(place):
    done = command(place, "edit", "--config.editing.task=inpaint", f"--config.editing.input={place / 'table.csv'}")
    assert done.returncode != 0 and "config.editing is not for a product process" in done.stderr, done.stderr


def test_another_process_for_each_part(place):
    made = command(
        place, "train", "--config.process.jumps={'name': 'NearestNeighbor'}", "--config.training.steps=2",
        "--config.training.preview_every=2",
        "--config.process.sde={'name': 'VESDE', 'sigma_max': 20.0}", run="other",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert load(str(place / "other"))[0].process.jumps[1] == NearestNeighbor(2)
    previews = np.load(place / "other" / "previews" / "step-000000002-ema.npz")
    assert previews["raw"].shape == (16, 4) and set(previews["raw"][:, 3].tolist()) <= {0.0, 1.0, 2.0}
