"""scoresde sample: shards that are saved, checked, resumed and shared by processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import time
import types

import numpy as np
import pytest
import torch

from scoresde.experiment import Workdir, read_samples
from scoresde.experiment.jobs.job import Progress, local_device
from scoresde.experiment.results.shards import Entry, SampleStore, gaps
from scoresde.samplers import Sampler
from tests.experiment.conftest import TINY, Command, CopyCommand, HereCommand, ended

LONG = pytest.mark.long
FEW = {
    "training__steps": 2,
    **TINY,
    "samplers": "{'pc': {'name': 'PredictorCorrector', 'corrector': {'name': 'Langevin'}, 'steps': 4}}",
    "samplers.predictor-corrector.steps": None,
    "sampling__count": 8,
    "sampling__batch_size": 3,
}
BATCH = "{'pc': {'name': 'PredictorCorrector', 'corrector': {'name': 'BatchLangevin'}, 'steps': 4}}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained folder, with 8 samples in batches of 3."""
    return ended(tmp_path_factory, "train", "sample", **FEW)[0]


def in_copy(folder, place, **settings):
    """``scoresde sample`` in a copy of the folder."""
    command = CopyCommand(folder, place, **settings)

    def run(*extra, **more):
        return command("sample", *extra, **more)

    run.folder = command.workdir / "samples"
    run.shards = lambda: sorted((run.folder / "pc").glob("shards-*/*.npz"))
    run.facts = lambda: json.loads((run.folder / "pc.json").read_text())
    return run


@pytest.fixture
def draw(trained, tmp_path):
    """``scoresde sample`` in a copy of that folder."""
    return in_copy(trained, tmp_path, **FEW)


def digests(folder):
    """The digests of the shards, without the times and devices."""
    return [(e["first"], e["end"], e["sha256"]) for e in json.loads((folder / "pc.json").read_text())["shards"]]


def x_of(folder):
    with np.load(folder / "pc.npz") as file:
        return file["x"]


def test_what_the_files_hold(draw):
    facts, x = draw.facts(), x_of(draw.folder)
    assert x.shape == (8, 1, 8, 8) and facts["count"] == 8
    assert [(e["first"], e["end"]) for e in facts["shards"]] == [(0, 3), (3, 6), (6, 8)]
    parts = list(read_samples(draw.folder / "pc.json"))
    assert np.array_equal(np.concatenate([p["x"] for p in parts]), x)
    with np.load(draw.folder / "pc.npz") as file:
        assert np.array_equal(np.concatenate([p["raw"] for p in parts]), file["raw"])
    assert parts[0]["raw"].dtype == np.uint8


def test_nothing_is_drawn_twice(draw):
    before = [path.stat().st_mtime_ns for path in draw.shards()]
    left = draw.shards()[0].with_name(".0000000003-0000000006.npz.1.tmp")
    left.write_bytes(b"half-written")
    assert "drawing 0 of" in draw().stdout
    assert [path.stat().st_mtime_ns for path in draw.shards()] == before
    assert not left.exists()


# two more processes that import torch; by default the test of kills has two
@LONG
def test_two_processes_draw_the_same_bytes(draw, trained):
    shutil.rmtree(draw.folder)
    draw("--processes", "2")
    assert digests(draw.folder) == digests(trained / "samples")
    for name in ("pc.npz", "pc.png"):
        assert (draw.folder / name).read_bytes() == (trained / "samples" / name).read_bytes()
    assert draw.facts()["processes"] == 2


def test_the_last_of_a_launchers_processes_makes_the_result(draw, trained, monkeypatch):
    shutil.rmtree(draw.folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, there in (("1", 1), ("0", 3)):
        monkeypatch.setenv("RANK", rank)
        done = draw()
        assert len(draw.shards()) == there
        assert ("rank 1 of 2 is done; 2 batches of other ranks remain" in done.stdout) == (rank == "1")
    assert digests(draw.folder) == digests(trained / "samples")
    assert "give one of the two" in draw("--processes=2", code=2).stderr


def test_each_local_rank_has_its_own_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    def found(name, device, local):
        return str(local_device(types.SimpleNamespace(device=torch.device(device), config={"device": name}), local))

    assert [found("auto", "cuda:0", k) for k in (0, 3, 5)] == ["cuda:0", "cuda:3", "cuda:1"]
    assert found("cuda:2", "cuda:2", 1) == "cuda:2" and found("auto", "cpu", 3) == "cpu"


def test_batch_size_changes_rounding_only(draw, trained):
    shutil.rmtree(draw.folder)
    draw(sampling__batch_size=8)
    assert np.abs(x_of(draw.folder) - x_of(trained / "samples")).max() < 1e-5
    # planted: a corrector that averages over its batch
    found = []
    for size in (8, 3):
        shutil.rmtree(draw.folder)
        draw(sampling__batch_size=size, samplers=BATCH)
        found.append(x_of(draw.folder))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_more_samples_go_on_from_those_there(draw, trained):
    assert "samples by pc: drawing 3 of 11" in draw(sampling__count=11).stdout
    assert digests(draw.folder)[:3] == digests(trained / "samples")
    assert np.array_equal(x_of(draw.folder)[:8], x_of(trained / "samples"))
    # a run with another batch size draws the missing samples, and a smaller count uses the first ones
    draw.shards()[1].unlink()
    assert "samples by pc: drawing 3 of 11" in draw(sampling__count=11, sampling__batch_size=4).stdout
    assert [(e["first"], e["end"]) for e in draw.facts()["shards"]] == [(0, 3), (3, 4), (4, 6), (6, 8), (8, 9), (9, 11)]
    before = x_of(draw.folder)
    draw(sampling__count=5)
    assert np.array_equal(x_of(draw.folder), before[:5])
    assert sum(len(p["x"]) for p in read_samples(draw.folder / "pc.json")) == 5


def flipped(content):
    """One bit of the first sample's numbers, with the archive's own checksum corrected: only the digest shows it."""
    with np.load(io.BytesIO(content)) as file:
        parts = {name: file[name] for name in file.files}
    parts["x"].view(np.uint32)[0, 0, 0, 0] ^= 1
    out = io.BytesIO()
    np.savez(out, **parts)
    return out.getvalue()


def encrypted(content):
    """The bit that marks encryption in the archive's first entry."""
    at = content.index(b"PK\x01\x02") + 8
    return content[:at] + bytes([content[at] | 1]) + content[at + 1 :]


def test_a_shard_is_checked_before_it_is_trusted(draw, trained):
    """Damaged, empty, changed, of other settings, or with another name: drawn again, with the same bytes."""
    first, second, _ = draw.shards()
    whole, other = first.read_bytes(), second.read_bytes()
    draw(sampling__seed=5)
    (stranger,) = [p for p in draw.shards() if p.name == first.name and p.parent != first.parent]
    bad = {
        "torn": whole[: len(whole) // 2], "empty": b"", "a changed byte": whole[:300] + b"\xff\xfe" + whole[302:],
        "a changed bit": flipped(whole), "of another seed": stranger.read_bytes(), "another's": other,
        "no archive": b"\x80\x04", "said to be encrypted": encrypted(whole),
    }  # fmt: skip
    for name, content in bad.items():
        first.write_bytes(content)
        done = draw()
        assert f"{first.name} " in done.stdout and "drawn again" in done.stdout, name
        assert "drawing 3 of" in done.stdout, name
        assert digests(draw.folder) == digests(trained / "samples"), name


def test_a_shard_is_read_by_its_names_and_its_digest(draw):
    """The format of existing folders, written by hand here, can be read."""
    first = draw.shards()[0]
    with np.load(first) as file:
        x, raw, fingerprint = file["x"], file["raw"], file["fingerprint"]
    head = f"0 3 {x.shape} {raw.dtype}".encode()
    digest = hashlib.sha256(head + x.tobytes() + raw.tobytes()).hexdigest()
    np.savez(
        first, device="cpu", seconds=0.5, nfe=8, end=3, first=0, raw=raw, x=x, sha256=digest, fingerprint=fingerprint
    )
    assert "drawing 0 of" in draw().stdout


def test_settings_that_are_garbage_are_passed_over(tmp_path):
    store, other = (SampleStore(tmp_path, {"event shape": [1], "seed": seed}) for seed in (0, 1))
    other.write_settings()
    assert store.others() == [other.settings]
    for content in (b"garbage", b"{}", b"\xff", b""):
        (other.path / "settings.json").write_bytes(content)
        assert store.others() == []


def test_other_settings_start_anew_and_do_not_mix(draw, trained):
    done = draw(sampling__seed=7)
    assert "Changes: seed: 0 -> 7" in done.stdout and "drawing 8 of" in done.stdout
    assert {e["sha256"] for e in draw.facts()["shards"]}.isdisjoint(d for _, _, d in digests(trained / "samples"))
    done = draw(samplers=FEW["samplers"].replace("'steps': 4", "'steps': 5"))
    assert "are not used. Changes: " in done.stdout and "drawing 8 of" in done.stdout
    assert "drawing 0 of" in draw().stdout, "the first ones are still there"
    assert digests(draw.folder) == digests(trained / "samples")


def test_many_samples_stay_in_their_shards(draw, monkeypatch):
    x = x_of(draw.folder)
    monkeypatch.setattr("scoresde.experiment.jobs.sampling.GATHERED_UP_TO", 8 * 64 - 1)
    assert "8 samples by pc in 3 shards named in pc.json" in draw().stdout
    assert not (draw.folder / "pc.npz").exists() and (draw.folder / "pc.png").exists()
    assert np.array_equal(np.concatenate([p["x"] for p in read_samples(draw.folder / "pc.json")]), x)
    shutil.copy(draw.shards()[0], draw.shards()[1])
    with pytest.raises(ValueError, match="has samples 0 to 3"):
        list(read_samples(draw.folder / "pc.json"))


def test_an_interrupted_batch_is_not_kept(draw, monkeypatch):
    """An interrupted sampler returns an unfinished state, which is not a sample."""
    shutil.rmtree(draw.folder)
    whole = Sampler.__call__

    def cut(self, *args, first, **kwargs):
        def stop(step, t, x):
            if first == 3 and step == 2:
                raise KeyboardInterrupt

        return whole(self, *args, **{**kwargs, "first": first, "callback": stop})

    monkeypatch.setattr(Sampler, "__call__", cut)
    draw(code=130)
    assert [path.name for path in draw.shards()] == ["0000000000-0000000003.npz"]


def test_two_at_a_time_are_refused(draw):
    with Workdir(draw.folder.parent).lock("sample"):
        assert "another process is running this command" in draw(code=2).stderr
    assert "processes=0" in draw("--processes=0", code=2).stderr


def test_gaps():
    have = [Entry("", a, b, "", 0, 0.0, "") for a, b in ((0, 3), (5, 6), (9, 12))]
    assert list(gaps(have, 0, 14)) == [(3, 5), (6, 9), (12, 14)]
    assert list(gaps(have, 1, 3)) == [] and list(gaps(have, 10, 13)) == [(12, 13)] and list(gaps([], 2, 4)) == [(2, 4)]


MANY = {**FEW, "sampling__count": 60, "sampling__batch_size": 2}
MANY["samplers"] = FEW["samplers"].replace("'steps': 4", "'steps': 12")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, trained):
    """30 shards of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(trained, folder)
    assert HereCommand(folder)("sample", **MANY).returncode == 0
    return folder


@pytest.mark.parametrize(("kills", "processes"), [pytest.param(6, 1, marks=LONG), pytest.param(3, 2, marks=LONG)])
def test_killed_at_random_it_ends_with_the_bytes_of_an_unbroken_run(tmp_path, trained, whole, kills, processes):
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("samples"))
    command, seen = Command(tmp_path / "run"), {}
    folder = command.workdir / "samples"
    for _ in range(kills):
        call = [*command.arguments("sample", "vp", **MANY), f"--processes={processes}"]
        process = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        before, deadline = len(seen), time.monotonic() + 240
        while len(list(folder.glob("pc/shards-*/*.npz"))) < min(before + 2, 30):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        there = {path.name: path.stat().st_mtime_ns for path in folder.glob("pc/shards-*/*.npz")}
        assert all(there[name] == stamp for name, stamp in seen.items()), "no shard is drawn twice"
        seen = there
    done = HereCommand(command.workdir)("sample", **MANY)
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("*.tmp"))
    assert digests(folder) == digests(whole / "samples")
    assert (folder / "pc.npz").read_bytes() == (whole / "samples" / "pc.npz").read_bytes()
    assert all((next(folder.glob(f"pc/shards-*/{name}"))).stat().st_mtime_ns == stamp for name, stamp in seen.items())


FAST = "{'pc': {'name': 'Fast', 'steps': 2, 'pilot': 16, 'search': 0}}"


DDSS = "{'pc': {'name': 'DDSS', 'steps': 2, 'updates': 2, 'batch_size': 8, 'events': 40, 'kernel': {'name': 'cubic_kernel'}}}"


SMALL = "'network': {'name': 'MLP', 'width': 8, 'depth': 1}, 'updates': 2, 'batch_size': 8, 'events': 40"
BDDM = f"{{'pc': {{'name': 'BDDM', {SMALL}, 'steps': 3, 'sampler': {{'name': 'Ancestral'}}}}}}"
NOISE_ESTIMATION = f"{{'pc': {{'name': 'NoiseEstimation', {SMALL}, 'steps': 2, 'denoise': False}}}}"
SELF_FITTING = {
    "FittedSampler(": (FAST, 2),
    "GGDM": (DDSS, 2),
    "NetworkGrid": (BDDM, 3),
    "LevelNetwork": (NOISE_ESTIMATION, 2),
}


@pytest.mark.parametrize("shown", SELF_FITTING)
def test_a_sampler_that_fits_itself_does_so_once(shown, tmp_path_factory, tmp_path):
    """The fit is saved with the shards, and lost shards are drawn again with the same fit.

    The network predicts noise: the probabilities of 17 levels would make the fit ten times as long.
    """
    sampler, nfe = SELF_FITTING[shown]
    settings = {**FEW, "model": "{'prediction': 'noise'}", "samplers": sampler}
    draw = in_copy(ended(tmp_path_factory, "train", "sample", **settings)[0], tmp_path, **settings)
    kept = next((draw.folder / "pc").glob("shards-*/sampler.safetensors"))
    before, x = kept.stat().st_mtime_ns, x_of(draw.folder)
    assert shown in draw.facts()["sampler"] and draw.facts()["nfe"] == nfe
    next(kept.parent.glob("*.npz")).unlink()
    assert "expects an error" not in draw().stdout
    assert kept.stat().st_mtime_ns == before
    assert np.array_equal(x_of(draw.folder), x)


def test_a_long_batch_says_where_it_is(draw, monkeypatch):
    """By default once a second; one of several processes has no progress bar."""
    monkeypatch.setattr(Progress, "EVERY", 0.0)
    shutil.rmtree(draw.folder)
    assert "pc: step 4, t = " in draw().stderr
    shutil.rmtree(draw.folder)
    monkeypatch.setattr(Progress, "EVERY", 60.0)
    assert "step 4" not in draw().stderr
    Progress(lambda size: None).show(lambda: 1 / 0)
