"""scoresde inspect: its description, its errors, and configs that train without changes."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import types
from inspect import unwrap

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_digits

from scoresde.data import CIFAR10, MNIST, Affine, Quantized
from scoresde.data.inspect_facts import Facts, farthest, survey
from scoresde.data.inspect_source import Source
from scoresde.data.inspect_sources import find
from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.experiment.folder.checkpoint import list_checkpoints
from scoresde.experiment.inspection.advice import Measured, advise, data_section
from scoresde.experiment.inspection.inspection import inspect
from scoresde.experiment.training.prior_fit import check_prior
from scoresde.score import NoisePrediction, PreconditionedPrediction

from .conftest import ROOT, called


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run("inspect", ...)`` in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, measure=False):
        done = called(*arguments, *(["--no-measure"] if arguments[0] == "inspect" and not measure else []))
        return types.SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    call.folder = tmp_path
    return call


def pictures(folder, count=12, gray=False, seed=0):
    """PNG files of different sizes, 16 to 20 pixels."""
    folder.mkdir()
    g = np.random.default_rng(seed)
    for k in range(count):
        shape = (16 + k % 5, 16 + k % 3) if gray else (16 + k % 5, 16 + k % 3, 3)
        Image.fromarray(g.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{k:02d}.png")


def waves(n=24):
    t, g = np.linspace(0, 2 * np.pi, 16), np.random.default_rng(0)
    return np.stack([np.sin(f * t + p) for f, p in zip(g.uniform(1, 3, n), g.uniform(0, 6, n), strict=True)])


def train(run, config, *more):
    """Two training steps with the written config. Returns the last checkpoint and the experiment."""
    done = run(
        "train", "--config", config, "--workdir", "run", "--config.training.steps=2", "--config.threads=1", *more
    )
    assert done.code == 0, done.err
    assert len(list_checkpoints(run.folder / "run" / "checkpoints")) == 1
    return Experiment.from_config(load_config(config))


class TestTrainsAsItIs:
    """The written config trains, with a smaller number of steps only."""

    def test_a_folder_of_images(self, run):
        pictures(run.folder / "mine")
        done = run("inspect", "mine", "--output", "mine.py")
        assert done.code == 0, done.err
        for text in ("a folder of images", "12 of shape (3, 16, 16)", "256 levels", "written to mine.py"):
            assert text in done.out, done.out
        made = train(run, "mine.py")
        assert isinstance(made.model.prediction, NoisePrediction)
        assert made.data.event_shape == (3, 16, 16) and len(made.data.train) + len(made.data.test) == 12
        assert made.sde.sigma_min == 0.002

    def test_an_npz_of_vectors(self, run):
        points = np.random.default_rng(0).normal(3.0, 2.0, (64, 2))
        np.savez(run.folder / "mine.npz", points=points)
        done = run("inspect", "mine.npz", "--output", "mine.py")
        assert done.code == 0, done.err
        made = train(run, "mine.py", "--config.samplers.predictor-corrector.steps=3")
        x = made.data.train.encode(slice(None), seed=0)
        assert float(x.std()) == pytest.approx(1.0, rel=0.1) and float(x.mean()) == pytest.approx(0.0, abs=0.1)
        assert made.model.prediction == PreconditionedPrediction(made.model.data_std)
        # and samples come back in the data's own units
        done = run("sample", "--config", "mine.py", "--workdir", "run", "--config.training.steps=2", "--config.threads=1",
                   "--config.samplers.predictor-corrector.steps=3", "--config.sampling.count=4")  # fmt: skip
        assert done.code == 0, done.err
        assert (Workdir(run.folder / "run").samples / "probability-flow.npz").exists()

    def test_an_array_of_series(self, run):
        np.save(run.folder / "mine.npy", waves()[:, None].astype(np.float32))
        assert run("inspect", "mine.npy", "--output", "mine.py").code == 0
        made = train(run, "mine.py")
        assert made.data.event_shape == (1, 16) and type(made.model.network).__name__ == "NCSNpp"

    def test_few_levels_are_predicted_as_such(self, run):
        np.save(run.folder / "mine.npy", np.random.default_rng(0).integers(0, 4, (40, 1, 8, 8)))
        assert run("inspect", "mine.npy", "--output", "mine.py").code == 0
        made = train(run, "mine.py")
        assert made.data.transform.levels == 4 and type(made.model.prediction).__name__ == "Levels"

    def test_a_torch_data_set(self, run, monkeypatch):
        (run.folder / "mymodule.py").write_text(
            "import torch\n\n\nclass Mine(torch.utils.data.Dataset):\n    def __len__(self):\n        return 20\n\n"
            "    def __getitem__(self, k):\n        return torch.full((3,), float(k)) + torch.arange(3.0) / 7, k\n\n\n"
            "def function():\n    return Mine()\n"
        )
        monkeypatch.syspath_prepend(run.folder)
        assert run("inspect", "mymodule:Mine", "--output", "mine.py").code == 0
        assert train(run, "mine.py").data.event_shape == (3,)
        assert "is not a class" in run("inspect", "mymodule:function").err
        assert "without arguments" in run("inspect", "fractions:Fraction").err
        assert "cannot be imported" in run("inspect", "mymodule:Nine").err


class TestFaults:
    """Exit code 1, the name of the problem, and no config."""

    def assert_faulty(self, run, data, *wanted):
        done = run("inspect", data, "--output", "mine.py")
        assert done.code == 1, done.out + done.err
        for text in (*wanted, "PROBLEM", "no config"):
            assert text in done.out, done.out
        assert not (run.folder / "mine.py").exists()

    def test_broken_images_are_named(self, run):
        pictures(run.folder / "mine")
        whole = (run.folder / "mine" / "03.png").read_bytes()
        (run.folder / "mine" / "03.png").write_bytes(whole[: len(whole) // 2])  # its header is whole
        (run.folder / "mine" / "05.png").write_bytes(b"not a picture")
        self.assert_faulty(run, "mine", "03.png cannot be read", "05.png cannot be read", "broken       2")

    def test_nan_is_named(self, run):
        x = np.random.default_rng(0).normal(size=(30, 2))
        x[7, 1], x[11, 0] = np.nan, np.inf
        np.save(run.folder / "mine.npy", x)
        self.assert_faulty(run, "mine.npy", "2 events have NaN or infinities: 7, 11", "not finite   2")

    def test_nothing_to_learn(self, run):
        np.save(run.folder / "mine.npy", np.ones((30, 2)))
        self.assert_faulty(run, "mine.npy", "there is nothing to learn")

    def test_too_large_a_side(self, run):
        pictures(run.folder / "mine")
        done = run("inspect", "mine", "--side=18")
        assert done.code == 1 and "images are smaller than side=18" in done.out

    def test_duplicates_are_seen_and_no_fault(self, run):
        x = np.random.default_rng(0).normal(size=(30, 2))
        x[20], x[25] = x[3], x[3]
        np.save(run.folder / "mine.npy", x)
        done = run("inspect", "mine.npy", "--output", "mine.py")
        assert done.code == 0 and "duplicates   2 exact: 20 = 3, 25 = 3" in done.out


class TestRefusals:
    """Exit code 2, one message, nothing written."""

    def test_what_is_not_data(self, run):
        (run.folder / "empty").mkdir()
        (run.folder / "notes.md").write_text("mine")
        for data, wanted in (("nowhere", "not a file, a folder or module:class"), ("empty", "holds no images"),
                             ("notes.md", "is not of a supported kind"), ("nowhere:Mine", "cannot be imported")):  # fmt: skip
            done = run("inspect", data)
            assert done.code == 2 and wanted in done.err and "Traceback" not in done.err, (data, done.err)
        assert "arguments are required by inspect: DATA" in run("inspect").err
        np.save(run.folder / "a.npy", np.ones((9, 2)))
        assert "side=8 is only for folders of images" in run("inspect", "a.npy", "--side=8").err
        assert "--side is a flag of inspect, not of check" in run("check", "--config=x", "--side=3").err

    def test_pickles_are_not_executed(self, run):
        mark = run.folder / "executed"

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(mark),)

        np.save(run.folder / "mine.npy", np.array([Trap(), 1], dtype=object), allow_pickle=True)
        (run.folder / "mine.pkl").write_bytes(pickle.dumps(Trap()))
        folder = run.folder / "cifar"
        folder.mkdir()
        for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
            (folder / name).write_bytes(pickle.dumps(Trap()))
        for data in ("mine.npy", "mine.pkl", "cifar", "cifar/test_batch"):
            done = run("inspect", data, "--output", "mine.py")
            assert done.code == 2 and not mark.exists(), (data, done.err)

    def test_a_file_that_is_there_stays(self, run):
        np.save(run.folder / "mine.npy", np.random.default_rng(0).normal(size=(30, 2)))
        (run.folder / "mine.py").write_text("mine")
        done = run("inspect", "mine.npy", "--output", "mine.py")
        assert done.code == 2 and "exists already" in done.err and (run.folder / "mine.py").read_text() == "mine"
        assert run("inspect", "mine.npy", "--output", "mine.py", "--force").code == 0
        assert "get_config" in (run.folder / "mine.py").read_text()
        assert "ends in .py" in run("inspect", "mine.npy", "--output", "mine.txt").err
        assert "an existing folder" in run("inspect", "mine.npy", "--output", "nowhere/mine.py").err

    def test_several_arrays_need_a_name(self, run):
        np.savez(run.folder / "mine.npz", a=np.zeros((9, 2)), b=np.random.default_rng(0).normal(size=(9, 2)))
        assert "it contains ['a', 'b']: select one" in run("inspect", "mine.npz").err
        assert run("inspect", "mine.npz:b").code == 0


def source(raw):
    return Source("a tensor", {"name": "Arrays", "train": "x.npy"}, torch.as_tensor(raw))


class TestFacts:
    def test_against_numpy(self, monkeypatch):
        """In chunks of one event or all at once: the same values, equal to numpy's."""
        x = np.random.default_rng(0).normal(5.0, 3.0, (50, 3)) * [1.0, 2.0, 20.0]
        found = []
        for numbers in (1, 2**22):
            monkeypatch.setattr("scoresde.data.inspect_facts.AT_ONCE", numbers)
            found.append(survey(source(x)))
        for facts in found:
            assert (facts.low, facts.high, facts.count) == (x.min(), x.max(), 50)
            assert facts.mean == pytest.approx(x.mean()) and facts.std == pytest.approx(x.std())
            assert facts.spread == pytest.approx(x.std(0).max() / x.std(0).min())
            assert facts.distinct == 150 and not facts.levels and not facts.twins

    @pytest.mark.parametrize(("high", "levels"), [(1, 2), (16, 17), (127, 128), (128, 256), (255, 256), (256, 257)])
    def test_levels(self, high, levels):
        assert survey(source(np.array([[0, high], [1, 0]]))).levels == levels
        assert survey(source(np.array([[0.0, high], [1, 0]]))).levels == levels, "whole numbers, however stored"

    def test_no_levels(self):
        for raw in ([[-1, 3], [2, 2]], [[0.5, 1], [1, 2]], [[0, 70000], [1, 2]]):
            assert survey(source(np.array(raw))).levels == 0

    def test_the_largest_distance(self, monkeypatch):
        x = np.random.default_rng(0).normal(size=(40, 3))
        far = max(np.linalg.norm(a - b) for a in x for b in x)
        data = source(x)
        transform = Affine(float(x.mean()), float(x.std()))
        found, paired = farthest(data, transform)
        assert paired == 40 and found * transform.scale == pytest.approx(far, rel=1e-5)
        monkeypatch.setattr("scoresde.data.inspect_facts.PAIRED", 10)
        part, paired = farthest(data, transform)
        assert paired == 10 and part < found and farthest(data, transform) == (part, paired)

    @pytest.mark.parametrize(("size", "why"), [(1, "sqrt(E x^2 / 0.016)"), (20, "4 sigma_data d^(1/4)")])
    def test_the_prior_of_low_dimensional_data(self, size, why):
        """With technique 1 only, sigma_max would be too small compared with the data's standard deviation."""
        facts = survey(source(np.random.default_rng(0).uniform(size=(200, size))))
        data = data_section(source(np.zeros((1, size))), facts)
        measured = Measured(Affine(data.value["shift"], data.value["scale"]), 180, 3.4, 200)
        sections = {s.key: s for s in advise(data, facts, measured)}
        sigma = sections["sde"].value["sigma_max"]

        def lost(ratio):
            return 0.5 * size * (ratio - math.log1p(ratio))

        assert lost(sigma**-2) < 1e-3 < lost(3.4**-2)
        assert 0.5 * sigma**-2 <= 0.01 < 0.5 * 3.4**-2
        assert f"{why}: events differ by at most 3.4" in " ".join(sections["sde"].reasons)


EVENTS = [
    (1,), (2,), (100,), (1, 16), (3, 187), (20, 20), (1, 8, 8), (3, 15, 15), (1, 28, 28), (3, 32, 32), (3, 64, 48),
    (1, 256, 256), (2, 8, 8, 8),
]  # fmt: skip


@pytest.mark.parametrize("shape", EVENTS)
@pytest.mark.parametrize("count", [5, 60_000])
def test_advice_for_any_shape_can_be_built(shape, count, tmp_path):
    """A whole config for any event shape."""
    facts = Facts(count, shape, "uint8", 0, 255, 100.0, 70.0, 1.0, 0, True, 256, 0.0, (), (), (), 0)
    raw = torch.arange(10).reshape(10, *[1] * len(shape)).expand(10, *shape).to(torch.uint8)
    np.save(tmp_path / "x.npy", raw.numpy())
    node = {"name": "Arrays", "train": str(tmp_path / "x.npy")}
    data, measured = data_section(Source("a tensor", node, raw), facts), Measured(Quantized(256), count, 30.0, count)
    found = {s.key: s.value for s in advise(data, facts, measured)}
    if count > 5 and len(shape) > 1:
        found["network"]["channels"] = 8  # the width is what costs time here
    made = Experiment.from_config(ConfigDict(found))
    assert made.data.event_shape == shape
    assert 8 <= made.training.batch_size <= 128 and 2000 <= made.training.steps <= 400_000
    assert made.training.warmup < made.training.steps


def test_other_makers_folders(tmp_path):
    def idx(name, count):
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (tmp_path / name).write_bytes(gzip.compress(head + np.random.default_rng(0).bytes(count * 784)))

    idx("train-images-idx3-ubyte.gz", 20)
    idx("t10k-images-idx3-ubyte.gz", 5)
    for data in (tmp_path, tmp_path / "train-images-idx3-ubyte.gz"):
        found = find(str(data))
        assert found.node == {"name": "MNIST", "folder": str(tmp_path)} and len(found.events) == 20
    found = inspect(str(tmp_path), tmp_path / "mine.py", measure=False)
    assert found.usable and "20 of shape (1, 28, 28)" in found.text
    assert isinstance(Experiment.from_config(load_config(tmp_path / "mine.py")).data, MNIST)


def test_cifar_batches(tmp_path, monkeypatch):
    monkeypatch.setitem(unwrap(CIFAR10.__init__).__kwdefaults__, "images_per_file", 2)
    for name in [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]:
        content = np.random.default_rng(len(name)).integers(0, 256, (2, 3073), dtype=np.uint8)
        content[:, 0] = 1
        (tmp_path / name).write_bytes(content.tobytes())
    for data in (tmp_path, tmp_path / "test_batch.bin"):
        found = find(str(data))
        assert found.node == {"name": "CIFAR10", "folder": str(tmp_path)} and len(found.events) == 10
    assert "8 exact" in inspect(str(tmp_path), measure=False).text, "the five files are alike"


def test_a_name_cannot_write_code(run):
    """The name of a folder is only a string and a comment."""
    name = "x\"\n        }))  # ''' \N{TULIP}"
    pictures(run.folder / name, count=6, gray=True)
    done = run("inspect", name, "--output", "mine.py")
    assert done.code == 0, done.err
    config = load_config("mine.py")
    assert config.data.folder == name and config.data.channels == 1


def test_the_page_shows_what_is_printed(run):
    """docs/own_data.md, line by line."""
    page = (ROOT / "docs" / "own_data.md").read_text()
    np.save(run.folder / "digits.npy", load_digits().images.astype("u1")[:, None])
    done = run("inspect", "digits.npy", "--output", "digits.py", measure=True)
    assert done.code == 0, done.err
    shown = page.split("```text\n")[1].split("```")[0].splitlines()
    measured = ("memory ", "time ")  # of the machine of the page
    assert [line for line in shown if not line.startswith(measured)] == [
        line for line in done.out.splitlines() if not line.startswith(measured)
    ]
    assert [line[:12] for line in shown] == [line[:12] for line in done.out.splitlines()]


class NoEvents(torch.utils.data.Dataset):
    """A data set without events."""

    def __len__(self):
        return 0


def test_what_is_no_array_and_what_is_empty(run):
    (run.folder / "notes.npy").write_text("hello")
    done = run("inspect", "notes.npy")
    assert done.code == 2 and "saved by numpy.save or numpy.savez: it starts with b'hello'" in done.err
    done = run("inspect", f"{__name__}:NoEvents")
    assert done.code == 2 and "torch data set NoEvents is empty" in done.err


def test_transparency_is_said(run):
    pictures(run.folder / "clear")
    assert "transparency" not in run("inspect", "clear").out
    for file in list((run.folder / "clear").iterdir())[:2]:
        Image.open(file).convert("RGBA").save(file)
    assert "2 images have transparency: it is left out" in run("inspect", "clear").out


class TestOneTransform:
    """The written config, the data set that it builds, and the measurements agree."""

    def agrees(self, run, data):
        """The config of ``data``, after inspect; its data_std is that of the training events as the model sees them."""
        done = run("inspect", data, "--output", "mine.py", "--force")
        assert done.code == 0, done.out + done.err
        made = Experiment.from_config(load_config("mine.py"))
        levels = getattr(made.data.transform, "levels", 0)
        assert (f"{levels} levels" if levels else "no levels: real numbers") in done.out
        x = torch.cat([d.encode(slice(None), seed=0, dtype=torch.float64) for d in (made.data.train, made.data.test)])
        # the mean square of noise in a hundred or more coordinates
        assert made.model.data_std == pytest.approx(float(x.std(correction=0)), rel=0.02)
        assert f"{made.model.data_std:g}" in done.out
        far = float(torch.cdist(x.flatten(1), x.flatten(1)).max())
        least = max(4 * float(x.std()) * x[0].numel() ** 0.25, math.sqrt(float(x.square().mean()) / 0.016))
        assert made.sde.sigma_max == pytest.approx(max(far, least), rel=0.05)
        assert not check_prior(made), "training would warn"
        assert (type(made.model.prediction).__name__ == "Levels") == (0 < levels <= 32)
        return made, done.out

    @pytest.mark.parametrize("brightest", [1, 15, 100, 127, 128, 255])
    def test_dark_images_keep_the_levels_of_their_class(self, run, brightest):
        (run.folder / "masks").mkdir()
        g = np.random.default_rng(0)
        for k in range(12):
            pixels = g.integers(0, brightest + 1, (16, 16), dtype=np.uint8)
            pixels[0, 0] = brightest
            Image.fromarray(pixels).save(run.folder / "masks" / f"{k:02d}.png")
        made, out = self.agrees(run, "masks")
        assert made.data.transform == Quantized(256)
        assert ("save them as an array" in out) == (brightest < 128)
        if brightest == 15:
            assert made.model.data_std == pytest.approx(0.0363, rel=0.03)

    @pytest.mark.parametrize("levels", [2, 4, 16, 200])
    def test_levels_of_an_array(self, run, levels):
        np.save(run.folder / "a.npy", np.random.default_rng(0).integers(0, levels, (40, 1, 8, 8)).astype(np.float32))
        made, _ = self.agrees(run, "a.npy")
        assert made.data.transform == Quantized(256 if levels == 200 else levels)

    @pytest.mark.parametrize(
        ("mean", "std"),
        [(288.15, 0.01), (1.7e9, 1000.0), (0.0, 1.0), (-1e5, 0.2), (1e8, 1.0), (3e-7, 1e-9), (1e300, 1e299)],
    )
    def test_a_shift_is_as_fine_as_the_spread(self, run, mean, std):
        """The result has mean 0 and standard deviation 1 for any data."""
        z = np.random.default_rng(0).normal(size=(200, 3))
        np.save(run.folder / "a.npy", mean + std * z)
        made, _ = self.agrees(run, "a.npy")
        x = torch.cat([d.encode(slice(None), seed=0) for d in (made.data.train, made.data.test)])
        assert abs(float(x.mean())) < 2e-3 and float(x.std()) == pytest.approx(1.0, rel=1e-3)
        assert made.data.transform.decode(x).numpy() == pytest.approx(
            np.concatenate([d.raw[:].numpy() for d in (made.data.train, made.data.test)]), rel=1e-6, abs=1e-6 * std
        )

    def test_a_torch_data_set_of_images(self, run, monkeypatch):
        (run.folder / "mypictures.py").write_text(
            "import numpy as np\nfrom PIL import Image\n\n\nclass Mine:\n    def __len__(self):\n        return 20\n\n"
            "    def __getitem__(self, k):\n        g = np.random.default_rng(k)\n"
            "        return Image.fromarray(g.integers(0, 16, (8, 8), dtype=np.uint8)), k\n"
        )
        monkeypatch.syspath_prepend(run.folder)
        made, _ = self.agrees(run, "mypictures:Mine")
        assert made.data.transform == Quantized(16) and made.data.event_shape == (1, 8, 8)

    def test_what_the_config_could_not_build_is_a_problem(self, run):
        """Two coordinates that one shift and one scale cannot bring into float32."""
        z = np.random.default_rng(0).normal(size=(200, 2))
        np.save(run.folder / "a.npy", z * [0.1, 1e9] + [1e9, 0.0])
        done = run("inspect", "a.npy", "--output", "mine.py")
        assert done.code == 1 and "PROBLEM  config.data: Arrays cannot be built: data set" in done.out
        assert "float32 rounds away" in done.out and not (run.folder / "mine.py").exists()


def test_files_that_are_no_data_are_one_line_and_code_2(run):
    """Errors of `read_array` and `as_tensor` on the command line."""
    np.save(run.folder / "complex.npy", np.ones((9, 2), complex))
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000, 2)}".ljust(117) + b"\n"
    (run.folder / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    np.savez(run.folder / "flipped.npz", x=np.arange(90.0).reshape(30, 3))
    content = bytearray((run.folder / "flipped.npz").read_bytes())
    content[len(content) // 2] ^= 4
    (run.folder / "flipped.npz").write_bytes(content)
    for data, why in (("complex.npy", "imaginary part"), ("huge.npy", "160000000000000 bytes"), ("flipped.npz", "CRC")):
        for done in (run("inspect", data), run("inspect", data, "--output", "mine.py")):
            assert done.code == 2 and why in done.err and data in done.err
            assert len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err
    assert not (run.folder / "mine.py").exists()
