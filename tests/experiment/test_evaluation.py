"""scoresde evaluate: metrics of all events; features that are saved, resumed and shared by processes."""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde._files import read_sealed, write_sealed
from scoresde.data import Digits, permutation
from scoresde.experiment import Workdir, read_samples
from scoresde.experiment.folder.tensor_file import read_tensors, write_tensors
from scoresde.experiment.reports.evaluation import evaluation_section
from scoresde.experiment.results.event_sets import DatasetEvents
from scoresde.experiment.results.sample_index import SampleIndex
from scoresde.metrics import Moments, frechet_distance, kernel_distance, precision_recall, relative_distance
from tests.experiment.conftest import ROOT, TINY, Command, CopyCommand, ended
from tests.experiment.extractors import Stopping

LONG = pytest.mark.long
FEW = {
    "training__steps": 2,
    **TINY,
    "samplers": "{'pc': {'name': 'PredictorCorrector', 'steps': 4}}",
    "samplers.predictor-corrector.steps": None,
    "sampling__count": 90,
    "sampling__batch_size": 32,
}


COMPARISON = importlib.import_module("scoresde.experiment.results.comparison")


@pytest.fixture(scope="module", autouse=True)
def two_halvings():
    """The yardstick of two halvings takes a quarter of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(COMPARISON, "HALVINGS", 2)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained folder with 90 samples in three shards, and their evaluation."""
    return ended(tmp_path_factory, "train", "sample", "evaluate", **FEW)


@pytest.fixture
def run(trained, tmp_path):
    """``scoresde evaluate`` in a copy of that folder."""
    folder, said = trained
    command = CopyCommand(folder, tmp_path, **FEW)

    def call(*extra, verb="evaluate", **more):
        return command(verb, *extra, **more)

    call.said, call.command, call.folder = said, command, command.workdir / "evaluation"
    call.result = lambda name="pc": json.loads((call.folder / f"{name}.json").read_text())
    call.shards = lambda place: sorted((call.folder / place).glob("features-*/*.npz"))
    return call


def figures(result):
    """The content without times and devices."""
    keys = ("seconds", "devices", "features in", "sha256")
    parts = {k: {a: b for a, b in result[k].items() if a not in keys} for k in ("set", "reference", "baseline")}
    left_out = (*parts, "processes", "extractor", "sha256", "date", "command")
    return {k: v for k, v in result.items() if k not in left_out} | parts


def one_more(folder):
    """A checkpoint after the last one."""
    tensors, header = read_tensors(folder / "checkpoints" / "step-000000002.safetensors")
    write_tensors(folder / "checkpoints" / "step-000000003.safetensors", tensors, {**header, "step": 3})


def flat(array):
    """Levels in the scaling of the model, at the middle of their interval."""
    return Digits().train.transform.encode(array, None, dtype=torch.float32).flatten(1).double()


def test_figures_are_of_all_events(run, trained):
    """Equal to the metrics on all samples and all data at once, including the last, smaller batch."""
    samples = flat(np.concatenate([part["raw"] for part in read_samples(run.folder.parent / "samples" / "pc.json")]))
    train, test = flat(Digits().train.raw), flat(Digits().test.raw)
    found = run.result()
    assert len(samples) == found["count"] == found["set"]["count"] == 90
    assert (found["reference"]["count"], found["baseline"]["count"]) == (1438, 359)
    for x, figures in ((samples, found), (test, found["baseline"])):
        expected = frechet_distance(Moments.of(x), Moments.of(train))
        assert figures["frechet distance"] == pytest.approx(expected, rel=1e-9)
        kernel, manifold = kernel_distance(x, train), precision_recall(x, train, 3)
        assert figures["kernel distance"] == pytest.approx(kernel.value, rel=1e-9)
        assert figures["kernel distance error"] == pytest.approx(kernel.standard_error, rel=1e-6)
        assert (figures["precision"], figures["recall"]) == (manifold.precision, manifold.recall)
        assert figures["reference count"] == 1438
    # planted: without the last batch
    assert found["frechet distance"] != pytest.approx(
        frechet_distance(Moments.of(samples[:64]), Moments.of(train)), rel=1e-3
    )
    mean = Moments.load(run.folder / "reference.npz")
    assert mean.count == 1438 and torch.allclose(mean.covariance, Moments.of(train).covariance)


def test_what_is_said(trained):
    digest = Digits().train.digest()
    (line,) = [line for line in trained.said.splitlines() if ": pc: Frechet distance" in line]
    for wanted in (
        " @ 90 samples, ", " | reference: digits/train, 1438 events, digest " + digest,
        "| extractor Coordinates with 64 features, digest ",
        "| precision 0.", "| KID ", "| baseline: digits/test ", " @ 359 events", "(k = 3, 90 against 1438 events)",
        " times the yardstick | sampler PredictorCorrector, ", " evaluations, weights ema | ",
        "in the scaling of the model, Quantized(levels=17, low=-1.0, high=1.0)", "between halves of digits/train, ",
        "both 90 against 719 events", "359 events, which are not 90: compare with the yardstick",
    ):  # fmt: skip
        assert wanted in line
    assert "WARNING: pc: a Frechet distance of 90 samples is biased upwards" in trained.said
    assert "full rank" not in trained.said
    result = json.loads((trained.workdir / "evaluation" / "pc.json").read_text())
    assert (
        result["set"]["checkpoint"] == "step-000000002.safetensors" and "PredictorCorrector" in result["set"]["sampler"]
    )
    assert result["set"]["settings"]["seed"] == 0 and result["reference"]["data digest"] == digest


def test_fewer_samples_than_numbers_are_said(run):
    run(verb="sample", sampling__count=10)
    assert (
        "WARNING: pc: the covariance of 10 samples with 64 features does not have full rank"
        in run(sampling__count=10).stdout
    )
    assert run.result()["count"] == 10, "features of the rest of the shard do not count"
    one = flat(next(read_samples(run.folder.parent / "samples" / "pc.json"))["raw"])
    expected = frechet_distance(Moments.of(one), Moments.of(flat(Digits().train.raw)))
    assert run.result()["frechet distance"] == pytest.approx(expected, rel=1e-9)


def test_nothing_is_computed_twice(run, monkeypatch):
    before = [path.stat().st_mtime_ns for path in run.folder.rglob("*.npz") if path.name != "reference.npz"]
    assert run().stdout.count(" computing 0 of ") == 3
    assert [path.stat().st_mtime_ns for path in run.folder.rglob("*.npz") if path.name != "reference.npz"] == before
    run(verb="sample", sampling__count=100)
    done = run(sampling__count=100)
    assert "features of samples/pc: computing 10 of 100 samples" in done.stdout
    run(verb="sample", sampling__seed=1)
    done = run()
    assert "features of samples/pc: computing 90 of 90 samples" in done.stdout, "of other samples"
    assert "data/train: computing 0 of 1438 events" in done.stdout
    done = run(evaluation__extractor="{'name': 'tests.experiment.extractors:Slow'}")
    assert done.stdout.count(" computing 0 of ") == 0, "by another extractor"
    monkeypatch.setattr(
        importlib.import_module("scoresde.experiment.jobs.evaluation"), "__version__", "of another release"
    )
    assert run().stdout.count(" computing 0 of ") == 0, "by another version"


def test_batch_size_of_features_changes_nothing_here(run, trained):
    shutil.rmtree(run.folder)
    run(evaluation__batch_size=7)
    found, before = (json.loads((f / "pc.json").read_text()) for f in (run.folder, trained.workdir / "evaluation"))
    assert found.pop("batch size") == 7 and before.pop("batch size") == 64
    assert figures(found) == figures(before)


def test_a_shard_is_checked_before_it_is_trusted(run, trained):
    """Damaged, changed, or of other settings or content: computed again, with the same metrics."""
    first, second = run.shards("data/train")[:2]
    whole = first.read_bytes()

    def changed(**parts):
        with np.load(io.BytesIO(whole)) as file:
            content = {name: file[name] for name in file.files} | parts
        out = io.BytesIO()
        np.savez(out, **content)
        return out.getvalue()

    bad = {
        "torn": whole[: len(whole) // 2], "empty": b"", "another's": second.read_bytes(),
        "other numbers": changed(features=np.zeros((256, 64), np.float32)), "of other data": changed(source="0" * 16),
        "whole numbers": changed(features=np.zeros((256, 64), int)),
    }  # fmt: skip
    for name, content in bad.items():
        first.write_bytes(content)
        done = run()
        assert f"data/train: {first.name} " in done.stdout and "computed again" in done.stdout, name
        assert "data/train: computing 256 of 1438 events" in done.stdout, name
        assert figures(run.result()) == figures(json.loads((trained.workdir / "evaluation" / "pc.json").read_text())), (
            name
        )


def test_samples_that_were_cut_otherwise_are_looked_at_again(run):
    """With another batch size, the shards of features follow those of the samples."""
    for shard in (run.command.workdir / "samples" / "pc").glob("shards-*/*.npz"):
        shard.unlink()
    run(verb="sample", sampling__batch_size=45)
    assert "samples/pc: computing 90 of 90 samples" in run().stdout
    assert run.result()["count"] == 90


def test_a_shard_that_the_index_does_not_name_is_refused(run):
    """A complete shard of the same settings with other numbers does not match the index."""
    index = SampleIndex.open(run.command.workdir / "samples" / "pc.json")
    shard = index.read(index.entries[0])
    index.store.write(replace(shard, x=shard.x + 1.0))
    with pytest.raises(ValueError, match=r"0000000000-0000000032\.npz is not the shard that .*pc\.json lists"):
        next(read_samples(index.path))
    run(verb="sample")  # takes it for what it is
    assert "samples/pc: computing 32 of 90 samples" in run().stdout, "features of the shard before"


def test_the_report_keeps_figures_of_other_settings_apart(run):
    """Another k, extractor or reference gives another table."""
    found = run.result()
    others = [
        {"neighbors": 5},
        {"extractor digest": "0" * 64},
        {"reference": {**found["reference"], "description": "another"}},
    ]
    for number, other in enumerate(others, start=1):
        write_sealed(run.folder / f"pc@{number}.json", {**found, **other})
    write_sealed(run.folder / "pc@like.json", found)
    page = evaluation_section(Workdir(run.command.workdir))
    assert [f"id='evaluation-{number}'" in page for number in range(5)] == [True] * 4 + [False]


def test_a_dropped_batch_is_caught(run, monkeypatch):
    """Planted faults: a loader that drops the last batch, and an extractor that loses an event."""
    ranges = DatasetEvents.ranges
    monkeypatch.setattr(DatasetEvents, "ranges", lambda events: ranges(events)[:-1])
    shutil.rmtree(run.folder)
    assert "train has 1438 events, but there are features of 1280" in run(code=2).stderr
    monkeypatch.setattr(DatasetEvents, "ranges", ranges)
    done = run(code=2, evaluation__extractor="{'name': 'tests.experiment.extractors:Dropping'}")
    assert "features are (1, d)" in done.stderr
    done = run(code=2, evaluation__extractor="{'name': 'tests.experiment.extractors:Neither'}")
    assert "scaling='bytes' is not known" in done.stderr


def test_an_interrupted_evaluation_goes_on(run, trained, monkeypatch):
    shutil.rmtree(run.folder)
    extractor = {"evaluation__extractor": "{'name': 'tests.experiment.extractors:Stopping'}"}
    monkeypatch.setattr(Stopping, "after", 10)
    run(code=130, **extractor)
    assert len(run.shards("samples/pc")) == 3 and len(run.shards("data/train")) == 1
    assert "data/train: computing 1182 of 1438 events" in run(**extractor).stdout
    assert figures(run.result()) == figures(json.loads((trained.workdir / "evaluation" / "pc.json").read_text()))


def test_the_last_of_a_launchers_processes_makes_the_result(run, trained, monkeypatch):
    shutil.rmtree(run.folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", 5), ("0", 11)):
        monkeypatch.setenv("RANK", rank)
        run()
        assert sum(len(run.shards(place)) for place in ("data/train", "data/test", "samples/pc")) == there
    assert run.result()["processes"] == 2
    assert figures(run.result()) == figures(json.loads((trained.workdir / "evaluation" / "pc.json").read_text()))


@LONG
def test_two_processes_make_the_same_figures(run, trained):
    shutil.rmtree(run.folder)
    run("--processes", "2")
    assert run.result()["processes"] == 2
    assert figures(run.result()) == figures(json.loads((trained.workdir / "evaluation" / "pc.json").read_text()))
    names = [path.relative_to(run.folder) for path in run.folder.rglob("*-*.npz")]
    assert len(names) == 11
    for name in names:
        with np.load(run.folder / name) as a, np.load(trained.workdir / "evaluation" / name) as b:
            assert a["features"].tobytes() == b["features"].tobytes()


@LONG
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_it_ends_with_the_figures_of_an_unbroken_run(run, trained, processes):
    shutil.rmtree(run.folder)
    slow = {**FEW, "evaluation__extractor": "{'name': 'tests.experiment.extractors:Slow'}"}
    call = [*Command(run.command.workdir).arguments("evaluate", "vp", **slow), f"--processes={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLOW": "0.1", "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        before = len(list(run.folder.rglob("*-*.npz")))
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        deadline = time.monotonic() + 120
        while len(list(run.folder.rglob("*-*.npz"))) < before + 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*-*.npz")}
    assert 4 <= len(kept) < 11
    run(**{k: v for k, v in slow.items() if k not in FEW})
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert figures(run.result()) == figures(json.loads((trained.workdir / "evaluation" / "pc.json").read_text()))


def test_a_file_of_mu_and_sigma_may_be_the_reference(run, tmp_path):
    before = run.result()
    done = run(evaluation__reference=str(run.folder / "reference.npz"))
    found = run.result()
    assert found["frechet distance"] == pytest.approx(before["frechet distance"], rel=1e-12)
    assert (
        found["kernel distance"]
        is found["precision"]
        is found["yardstick"]
        is found["ratio"]["frechet distance"]
        is None
    )
    assert found["baseline"]["frechet distance"] == pytest.approx(before["baseline"]["frechet distance"], rel=1e-12)
    assert "reference: reference.npz, 1438 events, digest " in done.stdout and "KID" not in done.stdout
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(64), sigma=np.eye(64))
    done = run(evaluation__reference=str(tmp_path / "theirs.npz"))
    assert "theirs.npz, unknown events" in done.stdout and "does not state its number of events" in done.stdout
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert (
        "has 3 features, but Coordinates has 64"
        in run(code=2, evaluation__reference=str(tmp_path / "theirs.npz")).stderr
    )


def test_anyones_samples(run, tmp_path):
    """An array, and folders of images of the right size and too large. JPEG files give a warning."""
    raw = Digits().test.raw[:50]
    np.save(tmp_path / "array.npy", raw.numpy())
    done = run("--samples", tmp_path / "array.npy")
    (file,) = run.folder.glob("files-array-*.json")
    found = run.result(file.stem)
    expected = frechet_distance(Moments.of(flat(raw)), Moments.of(flat(Digits().train.raw)))
    assert found["frechet distance"] == pytest.approx(expected, rel=1e-9) and found["count"] == 50
    assert f"{file.stem}: Frechet distance" in done.stdout and "samples/pc" not in done.stdout
    for name, side, lossy in (("png", 8, 0), ("jpg", 16, 3)):
        (tmp_path / name).mkdir()
        for k in range(3):
            Image.fromarray(np.full((side, side), k, np.uint8)).save(tmp_path / name / f"{k}.{name}")
        done = run("--samples", tmp_path / name)
        assert ("3 of 3 files are JPEG" in done.stdout) == bool(lossy)
        assert ("3 of 3 images were cropped and resized to 8 x 8" in done.stdout) == (side == 16)
    np.save(tmp_path / "wide.npy", np.zeros((4, 1, 8, 9)))
    assert (
        "has events of shape (1, 8, 9), but the data has (1, 8, 8)"
        in run("--samples", tmp_path / "wide.npy", code=2).stderr
    )
    np.save(tmp_path / "half.npy", np.full((4, 1, 8, 8), 0.5))
    assert "holds fractions" in run("--samples", tmp_path / "half.npy", code=2).stderr
    assert "is not a file, a folder" in run("--samples", tmp_path / "none", code=2).stderr


def test_images_drawn_anew_under_the_same_names_are_looked_at(run, tmp_path):
    """Files with the same names and sizes but other pixels give other features, metrics and result files."""
    folder = tmp_path / "images"
    folder.mkdir()
    for shade in (0, 9):
        for k in range(3):
            pixels = Image.fromarray(np.full((8, 8), k + shade, np.uint8))
            pixels.save(folder / f"{k}.png", compress_level=0)
        assert len({file.stat().st_size for file in folder.glob("*.png")}) == 1
        assert "features of files/" in (said := run("--samples", folder).stdout) and ": computing 3 of 3 events" in said
    assert len(list(run.folder.glob("files-*.json"))) == 2


def test_pairs_are_of_events_chosen_at_random(run):
    """50 random events of each set, the same ones every time, because the first events may be of one class."""
    said = (
        "WARNING: pc: precision, recall and kernel distance use 50 of 90 samples and 50 of 1438 events of the reference"
    )
    assert said in run(evaluation__subset_size=50).stdout and "kernel distance are of" not in run.said
    sets = [flat(np.concatenate([p["raw"] for p in read_samples(run.command.workdir / "samples" / "pc.json")]))]
    chosen = [x[permutation(len(x), 0, 0)[:50]] for x in (*sets, flat(Digits().train.raw))]
    found = run.result()
    assert found["kernel distance"] == pytest.approx(kernel_distance(*chosen).value, rel=1e-9)
    assert found["recall"] == precision_recall(*chosen, 3).recall and found["compared reference"] == 50


def test_what_cannot_be_evaluated_is_said(run, tmp_path):
    index = run.command.workdir / "samples" / "pc.json"
    write_sealed(index, {})
    assert "pc.json is not an index of samples: KeyError: 'shards in'" in run(code=2).stderr
    index.write_text("{}")
    assert "pc.json has no sha256" in run(code=2).stderr
    shutil.rmtree(run.command.workdir / "samples")
    assert "has no samples: run scoresde sample first" in run(code=2).stderr
    refusals = {
        "split": ("'both'", "split='both' is not known"), "neighbors": ("0", "neighbors=0"),
        "subset_size": ("1", "subset_size=1"),
        "reference": ("2024", "reference=2024 is not allowed: give a path"),
        "extractor": ("{'name': 'Coordinate'}", "did you mean 'Coordinates'"), "k": ("3", "config.evaluation.k is not known"),
    }  # fmt: skip
    for key, (value, message) in refusals.items():
        assert message in run(code=2, **{f"evaluation__{key}": value}).stderr
    assert "is not an Extractor" in run(code=2, evaluation__extractor="3").stderr
    with Workdir(run.command.workdir).lock("evaluate"):
        assert "another process is running this command" in run(code=2).stderr
    assert "--samples is a flag of evaluate and edit, not of sample" in run("--samples=x", verb="sample", code=2).stderr


def test_samples_of_before_are_said(run):
    done = run(samplers=FEW["samplers"].replace("4", "5"))
    assert "not by the config's sampler: run scoresde sample again" in done.stdout
    index = run.command.workdir / "samples" / "pc.json"
    write_sealed(index, {**read_sealed(index), "checkpoint": "step-000000001.safetensors"})
    assert "WARNING: pc: drawn with checkpoint step-000000001.safetensors, the last is" in run().stdout


def test_the_report_says_which_figures_are_of_before(run, monkeypatch):
    """Samples drawn again after their evaluation; results of a checkpoint that is no longer the last one."""
    monkeypatch.setattr(
        importlib.import_module("scoresde.experiment.reports.report"), "baselines", lambda experiment: ([], "")
    )
    workdir = Workdir(run.command.workdir)
    run(verb="likelihood", likelihood__limit=2)
    assert not workdir.outdated(json.loads((workdir.likelihood / "test.json").read_text()))
    assert "class='missing'>pc:" not in evaluation_section(workdir).replace("pc: a Frechet", "")
    one_more(workdir.path)
    run(verb="report")
    text, last = (
        workdir.report_file.read_text(),
        "checkpoint step-000000002.safetensors, the last is step-000000003.safetensors",
    )
    for said in (
        f"pc: drawn with {last}. Run scoresde sample", f"test.json: computed with {last}. Run scoresde likelihood",
        f"pc: the samples were drawn with {last}",
    ):  # fmt: skip
        assert said in text
    run()
    assert evaluation_section(workdir).count(last) == 1
    run(verb="sample", sampling__seed=1)
    assert "pc: the samples have been drawn again since: run scoresde evaluate" in evaluation_section(workdir)
    (workdir.samples / "pc.json").unlink()
    assert "the samples pc.json were removed or changed" in evaluation_section(workdir)


def test_a_snapshot_is_not_the_last_checkpoint(run):
    """A snapshot of the same step does not make the samples those of the last checkpoint."""
    folder = run.command.workdir
    shutil.copytree(folder / "checkpoints", folder / "averages")
    one_more(folder)
    assert "WARNING: pc: drawn with checkpoint step-000000002.safetensors, the last is" in run().stdout


def test_samples_by_other_weights_stand_beside_the_first(run):
    """Their names are NAME@WEIGHTS. A file that no sampler of the config writes is left out if it is not an index."""
    samples = run.command.workdir / "samples"
    shutil.copy(samples / "pc.json", samples / "pc@model.json")
    (samples / "other.json").write_text("of no sampler of the config")
    said = run().stdout
    assert run.result("pc@model")["frechet distance"] == run.result()["frechet distance"]
    assert not (run.folder / "other.json").exists()
    assert "WARNING: other: not evaluated, because no sampler of the config draws it: " in said


def test_samples_by_a_sampler_that_the_config_no_longer_has(run):
    """They are evaluated, and the line and the report name their sampler."""
    run(verb="sample", samplers="{'plain': {'name': 'DDIM', 'steps': 2}}", sampling__count=40)
    said = run().stdout
    (line,) = [line for line in said.splitlines() if ": plain: Frechet distance" in line]
    assert "| sampler DDIM, 2 evaluations, weights ema |" in line and " @ 40 samples" in line
    assert ": pc: Frechet distance" in said
    assert run.result("plain")["yardstick"]["count"] == 40 and run.result()["yardstick"]["count"] == 90
    page = evaluation_section(Workdir(run.command.workdir))
    assert "plain: DDIM(steps=2, " in page and "pc: PredictorCorrector(" in page
    assert "id='yardstick-0'" in page and page.count("yardstick: halves of digits/train") == 2, "at 40 and at 90 events"
    assert ": plain: Frechet distance" in run(samplers="{}").stdout


def test_the_yardstick_is_the_distance_of_halves(run):
    """Equal to `relative_distance` of all features; at the same sizes for both distances."""
    samples = flat(np.concatenate([part["raw"] for part in read_samples(run.folder.parent / "samples" / "pc.json")]))
    train, found = flat(Digits().train.raw), run.result()
    wanted = {
        "frechet distance": lambda x, y: frechet_distance(Moments.of(x), Moments.of(y)),
        "kernel distance": lambda x, y: kernel_distance(x, y).biased,
        "recall": lambda x, y: precision_recall(x, y, 3).recall,
    }
    for metric, distance in wanted.items():
        expected = relative_distance(samples, train, distance, halvings=found["yardstick"]["halvings"])
        figure = {"kernel distance": "kernel distance over all pairs"}.get(metric, metric)
        assert found["at its size"][figure] == pytest.approx(expected.value, rel=1e-9)
        assert found["yardstick"][figure] == pytest.approx(expected.yardstick, rel=1e-9)
        if metric in found["ratio"]:
            assert found["ratio"][metric] == pytest.approx(expected.ratio, rel=1e-9) and expected.ratio > 1.5
        assert (expected.count, expected.reference_count, expected.halvings) == (90, 719, 2)
    for name in ("yardstick", "at its size"):
        assert (found[name]["count"], found[name]["reference count"]) == (90, 719)


def test_held_out_digits_are_as_far_as_the_yardstick(run, tmp_path, monkeypatch):
    """Planted: the same digits, of which every second is dark, are not."""
    monkeypatch.setattr(COMPARISON, "HALVINGS", 8)
    test, ratios = Digits().test.raw, []
    dark = test.clone()
    dark[::2] //= 2
    for name, raw in (("test", test), ("dark", dark)):
        np.save(tmp_path / f"{name}.npy", raw.numpy())
        run("--samples", tmp_path / f"{name}.npy")
        (file,) = run.folder.glob(f"files-{name}-*.json")
        ratios.append(json.loads(file.read_text())["ratio"])
    assert all(0.7 < value < 1.4 for value in ratios[0].values()), ratios
    assert all(value > 2.0 for value in ratios[1].values()), ratios


def test_large_features_are_refused_before_they_are_computed(run, monkeypatch):
    monkeypatch.setattr(importlib.import_module("scoresde.experiment.jobs.evaluation"), "DIMENSIONS_UP_TO", 63)
    assert "Coordinates has 64 features" in run(code=2).stderr


def test_the_report_shows_it(run):
    run(verb="report")
    page = (run.command.workdir / "report.html").read_text()
    found = run.result()
    assert "id='evaluation-0'" in page and f"{found['frechet distance']:.4g}" in page
    assert "baseline: digits/test instead of samples" in page and "digits/train, 1438 events, digest" in page
    write_sealed(run.folder / "pc.json", {})
    run(verb="report")
    assert "pc.json cannot be shown: KeyError" in (run.command.workdir / "report.html").read_text()
    (run.folder / "pc.json").write_text(json.dumps({**found, "frechet distance": 0.1}))
    assert "pc.json is not what was written" in evaluation_section(Workdir(run.command.workdir))
    write_sealed(run.folder / "pc.json", {**found, "warnings": None})
    assert "pc.json cannot be shown: TypeError" in evaluation_section(Workdir(run.command.workdir))
    shutil.rmtree(run.folder)
    run(verb="report")
    assert "Not computed yet: run scoresde evaluate" in (run.command.workdir / "report.html").read_text()
