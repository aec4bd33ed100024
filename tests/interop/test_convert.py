"""scoresde convert: checkpoints in the layout of the reference become complete run folders, or raise an error."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.cli import main
from scoresde.ema import EMA
from scoresde.experiment import Experiment, Workdir, load_config, read_checkpoint
from scoresde.experiment.folder.checkpoint import list_checkpoints
from scoresde.interop.score_sde import layout, to_reference

from ..parity.common import _PLACES, folder, tensor

CONFIG = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict({content})
"""
VE = {
    "seed": 0,
    "data": {"name": "ImageFolder", "folder": "nowhere", "side": 16, "low": 0.0, "high": 1.0},
    "sde": {"name": "VESDE", "sigma_min": 0.01, "sigma_max": 50.0},
    "network": {
        "name": "NCSNpp", "channels": 12, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "progressive_input": "skip",
        "progressive_output": "skip", "input_range": (0.0, 1.0),
    },
    "model": {"prediction": {"name": "ScaledScorePrediction"}, "label": {"name": "LogNoiseLabel"}, "data_std": None},
    "objective": {"name": "DenoisingScoreMatching"},
    "training": {"ema_decay": 0.999, "steps": 7, "batch_size": 2, "warmup": 1},
    "sampling": {"count": 2},
    "samplers": {"pc": {"name": "PredictorCorrector", "predictor": {"name": "ReverseDiffusion"},
                        "steps": {"name": "ReferenceDiscretization", "steps": 3, "t_min": 1e-5}}},
    "likelihood": {"limit": 2, "solver": {"name": "ScipyODE", "rtol": 0.5, "atol": 0.5}},
}  # fmt: skip
VP = VE | {
    "data": VE["data"] | {"low": -1.0},
    "sde": {"name": "VPSDE", "beta_min": 0.1, "beta_max": 20.0},
    "network": {
        "name": "DDPM", "channels": 32, "multipliers": (1, 1), "blocks": 1, "attention": (8,), "convolve": False,
        "group_width": 1,
    },
    "model": {"steps": 1000, "prediction": "noise", "label": {"name": "TimeLabel", "scale": 999.0}, "data_std": None},
}  # fmt: skip
SAMPLES = {
    "ncsnpp_highres_ve": ("ncsnpp_highres_ve", VE),
    "ncsnpp_highres_ve_torch17style": ("ncsnpp_highres_ve", VE),
    "ddpm_vp_discrete": ("ddpm_vp_discrete", VP),
}
TINY = VE | {"network": VE["network"] | {"channels": 4}, "data": VE["data"] | {"side": 8}}


class Run:
    """A config's file, and the command line on it."""

    def __init__(self, place: Path, content: dict) -> None:
        self.config, self.workdir, self.place = place / "config.py", place / "runs" / "mine", place
        self.config.write_text(CONFIG.format(content=repr(content)))

    def __call__(self, command, *flags):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main([command, "--config", str(self.config), "--workdir", str(self.workdir), *flags])
            except SystemExit as end:
                code = end.code
        return code, out.getvalue(), err.getvalue()

    def convert(self, file, *flags):
        return self("convert", "--from", "score_sde_pytorch", str(file), *flags)

    def assert_refused(self, file, *wanted, flags=()):
        before = sorted(self.place.rglob("*"))
        code, out, err = self.convert(file, *flags)
        assert code == 2 and not out and "Traceback" not in err, (out, err)
        for text in wanted:
            assert text in err, err
        assert sorted(self.place.rglob("*")) == before, "something was left behind"

    @property
    def experiment(self):
        return Experiment.from_config(load_config(self.config))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, TINY)


@pytest.fixture
def content(run):
    """A checkpoint as the reference lays it out, of random numbers, for the config of `run`."""
    network = run.experiment.model.network
    generator = torch.Generator().manual_seed(0)
    model = {f"module.{n}": torch.randn(w.shape, generator=generator) for n, w in to_reference(network).items()}
    trained = [k for k, w in enumerate(layout(network).values()) if w.trained]
    shapes = [w.shape for w in model.values()]

    def moments(k):
        return {
            "step": 9,
            "exp_avg": torch.randn(shapes[k], generator=generator),
            "exp_avg_sq": torch.rand(shapes[k], generator=generator),
        }

    return {
        "optimizer": {
            "state": {k: moments(k) for k in trained},
            "param_groups": [{"lr": np.float64(2e-4), "params": list(range(len(model)))}],
        },
        "model": {"module.sigmas": sigmas(0.01, 50.0), **model},
        "ema": {
            "decay": 0.999,
            "num_updates": 9,
            "shadow_params": [torch.randn(shapes[k], generator=generator) for k in trained],
        },
        "step": 9,
    }


def sigmas(low, high, count=10):
    """The table of noise levels that a file of the reference holds."""
    return torch.linspace(math.log(high), math.log(low), count, dtype=torch.float64).exp()


def saved(content, place, name="checkpoint.pth"):
    torch.save(content, place / name)
    return place / name


@pytest.mark.skipif(folder() == _PLACES[1], reason="the checkpoints are not part of the repository")
@pytest.mark.parametrize("name", SAMPLES)
def test_official_checkpoints(name, tmp_path, worst):
    """Outputs with raw and averaged weights agree with the reference; the file of torch 1.7 has equal bits."""
    expected, config = SAMPLES[name]
    run, place = Run(tmp_path, config), folder() / "checkpoints"
    code, out, err = run.convert(place / f"{name}.pth")
    assert code == 0, err
    with np.load(place / f"{expected}_expected.npz") as file:
        data = {key: file[key] for key in file.files}
    experiment = run.experiment
    x, labels = tensor(data["x"]), tensor(data["labels"]).float()
    for which, key in (("model", "out_raw"), ("ema", "out_ema")):
        model, checkpoint = Workdir(run.workdir).model(experiment, which)
        ve = config is VE
        with torch.no_grad():
            said = model.network(x, labels.double().log() if ve else labels)
        said = said / labels.reshape(-1, 1, 1, 1) if ve else said
        wanted = tensor(data[key])
        off = float(((said - wanted).abs().flatten(1).amax(1) / wanted.flatten(1).std(1)).max())
        worst(f"converted checkpoints, {'Fourier features' if ve else 'sines'}", off)
        # the reference's Fourier features have phases in float32, off by 1e-4 and more
        assert off < (2e-4 if ve else 1e-5)
        assert (checkpoint.step, checkpoint.ema_updates) == (int(data["step"]), int(data["ema_num_updates"]))
    digests = {"ncsnpp_highres_ve": ("3f6a395fcbf108a4", "a5c0439d8792d8f0")}
    if expected in digests:
        assert "sha256 of the weights {}, averaged {}".format(*digests[expected]) in out
    raw, averaged = (
        [w.sum(dtype=torch.float64) for n, w in to_reference(model.network, state).items()]
        for state in (
            {n.removeprefix(p): w for n, w in checkpoint.tensors.items() if n.startswith(p)} for p in ("model.", "ema.")
        )
    )
    trained = [w.trained for w in layout(model.network).values()]
    assert np.allclose(raw, data["param_sums_raw"], rtol=1e-9, atol=1e-9)
    assert np.allclose([a for a, t in zip(averaged, trained, strict=True) if t], data["ema_sums"], rtol=1e-9, atol=1e-9)


def test_a_folder_works(run, content):
    """Weights and moments are complete; sample needs no data, and commands that need data say so."""
    code, out, err = run.convert(saved(content, run.place))
    assert code == 0, err
    assert "step 9 from checkpoint.pth" in out and "all names, shapes and values are the file's" in out
    assert sorted(p.name for p in run.workdir.iterdir()) == [
        ".claim.lock",
        "checkpoints",
        "config.json",
        "environment.json",
        "log.txt",
    ]
    assert json.loads((run.workdir / "environment.json").read_text())["data digest"] == "not read"
    assert [p.name for p in run.workdir.parent.iterdir()] == ["mine"]
    written = read_checkpoint(list_checkpoints(run.workdir / "checkpoints")[0])
    network = run.experiment.model.network
    for k, (ours, weight) in enumerate(layout(network).items()):
        theirs = content["model"][f"module.{weight.name}"]
        places = {f"model.{ours}": theirs}
        if weight.trained:
            moments = content["optimizer"]["state"][k]
            places |= {f"optimizer.{ours}.{kind}": moments[kind] for kind in ("exp_avg", "exp_avg_sq")}
        for name, wanted in places.items():
            found = written.tensors[name]
            assert torch.equal(found.flatten(1).T if weight.pointwise else found, wanted), name
    code, _, err = run("sample", "--config.samplers.pc.steps.steps=2")
    assert code == 0, err
    for verb in ("report", "likelihood"):
        code, _, err = run(verb)
        assert code == 2 and "'nowhere' holds no images" in err


def test_a_folder_works_with_data(tmp_path):
    """likelihood, report, and training that resumed from the file's step."""
    np.save(tmp_path / "images.npy", np.random.RandomState(0).randint(0, 256, (12, 3, 8, 8)).astype(np.uint8))
    data = {"name": "Arrays", "train": str(tmp_path / "images.npy"), "levels": 256, "low": 0.0, "test_fraction": 0.25}
    plan = {"training": TINY["training"] | {"steps": 3}, "likelihood": TINY["likelihood"] | {"split": "train"}}
    run = Run(tmp_path, TINY | plan | {"data": data})
    network = run.experiment.model.network
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(2, 3, 8, 8), torch.zeros(2)).square().sum().backward()
    optimizer.step()
    theirs, numbers = to_reference(network), {n: k for k, n in enumerate(layout(network))}
    shapes = [w.shape for w in theirs.values()]
    state = {
        numbers[name]: {
            k: v if k == "step" else torch.zeros(shapes[numbers[name]]) for k, v in optimizer.state[p].items()
        }
        for name, p in network.named_parameters()
    }
    averages = [theirs[w.name] for w in layout(network).values() if w.trained]
    file = saved(
        {
            "optimizer": {"state": state},
            "model": {f"module.{n}": w for n, w in theirs.items()},
            "ema": {"decay": 0.999, "num_updates": 1, "shadow_params": averages},
            "step": 1,
        },
        tmp_path,
    )
    assert run.convert(file)[0] == 0
    for verb in ("likelihood", "report", "train"):
        code, out, err = run(verb)
        assert code == 0, err
    assert "resumed from step-000000001" in out
    assert list_checkpoints(run.workdir / "checkpoints")[-1].name == "step-000000003.safetensors"
    assert "bits/dim" in (run.workdir / "report.html").read_text()


def test_the_files_average_is_the_first_and_the_only_one(run, content):
    """ema_decays has priority over ema_decay. More averages than in the file raise an error."""
    file = saved(content, run.place)
    for flags, wanted in (
        (
            ("--config.training.ema_decays=(0.5,)",),
            ("has decay 0.999, and the config has 0.5", "ema_decays='(0.999,)'"),
        ),
        (("--config.training.ema_decays=(0.999, 0.9)",), ("has one average", "ema (decay 0.999), ema1 (decay 0.9)")),
        (
            ("--config.training.posthoc_widths=(0.05,)",),
            ("ema1 (width 0.05): the others cannot be computed", "posthoc_widths='()'"),
        ),
    ):
        run.assert_refused(file, *wanted, flags=flags)
    flags = ("--config.training.ema_decays=(0.999,)", "--config.training.ema_decay=0.5")
    assert run.convert(file, *flags)[0] == 0
    tensors = read_checkpoint(list_checkpoints(run.workdir / "checkpoints")[0]).tensors
    assert {name.split(".")[0] for name in tensors} == {"model", "ema", "optimizer"}


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_a_hostile_file_is_refused_and_not_executed(run, content, form):
    mark, file = run.place / "executed", run.place / "hostile.pth"
    hostile = content | {"step": Trap(mark)}
    if form == "plain":
        file.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        torch.save(hostile, file, _use_new_zipfile_serialization=form == "zip")
    run.assert_refused(
        file, "hostile.pth is damaged, or not a checkpoint", *([] if form == "plain" else ["which was not executed"])
    )
    assert not mark.exists()
    # the trap works: what a careless reader would have done
    if form != "plain":
        torch.load(file, weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00??"), (b"numpy._core.multiarray", b"numpy.core.multiarray")],
    ids=["a dtype that there is not", "as numpy 1 wrote it"],
)
def test_stand_ins_are_not_numpy(run, content, old, new):
    """Accepted names are replaced by inert classes: the dtype of numpy would reject the first of these files."""
    with zipfile.ZipFile(saved(content, run.place)) as whole, zipfile.ZipFile(run.place / "odd.pth", "w") as odd:
        for name in whole.namelist():
            part = whole.read(name)
            if name.endswith("pkl"):
                assert old in part
                part = part.replace(old, new)
            odd.writestr(name, part)
    assert run.convert(run.place / "odd.pth")[0] == 0


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_torn_file_is_refused(run, content, share):
    file = saved(content, run.place)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    run.assert_refused(file, "checkpoint.pth is damaged, or not a checkpoint of score_sde_pytorch")


def test_other_files_are_refused(run, content):
    for name, part in (
        ("text.pth", b"step: 9\n"),
        ("our.pth", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
        ("zip.pth", b"PK\x05\x06" + bytes(18)),
    ):
        (run.place / name).write_bytes(part)
        run.assert_refused(run.place / name, f"{name} is damaged, or not a checkpoint")
    run.assert_refused(run.place / "none.pth", "No such file")
    run.assert_refused(run.place, "Is a directory")
    run.assert_refused(
        saved({"state_dict": {}}, run.place), "not a checkpoint of score_sde_pytorch: KeyError('ema')", "['state_dict']"
    )
    run.assert_refused(saved(torch.ones(3), run.place), "not a checkpoint of score_sde_pytorch", "it holds Tensor")


def changed(content, part, **values):
    return content | {part: content[part] | values}


def test_what_does_not_fit_the_network_is_refused(run, content):
    """Names, shapes, counts, kinds, values: all strict."""
    model, averages = content["model"], content["ema"]["shadow_params"]
    first, last = list(model)[1], list(model)[-1]
    state = content["optimizer"]["state"]
    cases = [
        (content | {"model": {n: w for n, w in model.items() if n != last}}, "missing ['all_modules"),
        (changed(content, "model", **{"module.more": torch.ones(1)}), "unexpected ['more']"),
        (changed(content, "model", **{last: torch.ones(7)}), "has shape (7,)"),
        (changed(content, "model", **{first: model[first].double()}), "all_modules.0.W is torch.float64"),
        (changed(content, "model", **{last: "text"}), "is str: it must be float32"),
        (changed(content, "model", **{last: torch.full_like(model[last], torch.nan)}), "is not finite"),
        (changed(content, "ema", shadow_params=averages[1:]), "averaged tensors are given"),
        (changed(content, "ema", shadow_params=[*averages[1:], averages[0]]), "has shape"),
        (changed(content, "ema", decay=0.9999), "--config.training.ema_decay=0.9999"),
        (changed(content, "ema", num_updates="many"), "not a checkpoint of score_sde_pytorch"),
        (content | {"step": -1}, "step=-1"),
        (content | {"step": 10**9}, "is not a number of steps"),
        (content | {"step": 2.5}, "step=2.5"),
        (content | {"optimizer": {"state": state | {999: state[1]}}}, "moments of weights [999]"),
        (content | {"optimizer": {"state": state | {1: state[2]}}}, "has shape"),
        (content | {"optimizer": {"state": state | {1: {"step": 3}}}}, "KeyError('exp_avg')"),
    ]  # fmt: skip
    for case, why in cases:
        run.assert_refused(saved(case, run.place), why)
    run.assert_refused(
        saved(content, run.place),
        "does not have the weights of the config's network",
        flags=["--config.network.channels=8"],
    )
    run.assert_refused(
        saved(content, run.place), "MLP has no counterpart in the reference", flags=["--config.network.name=MLP"]
    )


def test_a_wrong_write_is_detected(run, content, monkeypatch):
    """The folder is compared with the file before it gets its name: averages in place of raw weights are found."""
    load = EMA.__init__

    def swapped(self, module, decay):
        load(self, module, decay)
        with torch.no_grad():
            next(module.parameters()).add_(1e-6)

    monkeypatch.setattr(EMA, "__init__", swapped)
    run.assert_refused(
        saved(content, run.place), "the written weights 'model' differ from those of the file: ['all_modules."
    )


def test_folders_and_flags(run, content):
    file = saved(content, run.place)
    run.assert_refused(file, "config.network.chanels", flags=["--config.network.chanels=8"])
    code, _, err = run("convert", "--from", "score_sde", str(file))
    assert code == 2 and "--from='score_sde' is not known" in err and "did you mean 'score_sde_pytorch'" in err
    code, _, err = run("convert")
    assert code == 2 and "required by convert: --from" in err
    code, _, err = run("sample", "--from", "score_sde_pytorch", str(file))
    assert code == 2 and "--from is a flag of convert, not of sample" in err
    run.workdir.mkdir(parents=True)
    torch.save(content, file, _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    assert run.convert(file)[0] == 0  # an empty folder is taken
    run.assert_refused(file, "is in use: give a new or empty folder")


def test_training_without_its_data_leaves_no_folder(run):
    code, _, err = run("train")
    assert code == 2 and "'nowhere' holds no images" in err and not run.workdir.parent.exists()
