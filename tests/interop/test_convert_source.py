"""convert with the config of the source: a converted network computes the same function, or conversion fails."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.interop.score_sde import from_reference

from ..parity.common import _PLACES, folder
from .source_common import DDPM, SMALL, VE, Place
from .test_translate import ROOT, changed

CONFIG = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict({content})
"""


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, SMALL)


_CONVERTED = {}


def our_config(place, **network):
    """A config of ours from the converted folder's, with some arguments of its network changed; converted once."""
    key = json.dumps(place.settings)
    if key not in _CONVERTED:
        assert place.convert()[0] == 0
        _CONVERTED[key] = (place.workdir / "config.json").read_text()
        shutil.rmtree(place.workdir)
    content = json.loads(_CONVERTED[key])
    content["network"] = {k: v for k, v in (content["network"] | network).items() if v is not None}
    file = place.folder / "ours.py"
    file.write_text(CONFIG.format(content=repr(content)))
    return file


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (SMALL, {"nonlinearity": "relu"}),
        (SMALL, {"nonlinearity": "elu", "skip_rescale": False}),
        (SMALL, {"nonlinearity": "lrelu", "fir_kernel": [1, 2, 1]}),
        (SMALL, {"conditional": False}),
        (SMALL, {"resblock_type": "ddpm", "fir": False}),
        (VE, {}),
        (VE, {"conditional": False, "scale_by_sigma": False}),
        (VE, {"continuous": False, "embedding_type": "positional"}),
        (DDPM, {}),
        (DDPM, {"conditional": False, "nonlinearity": "relu"}),
    ],
)
def test_a_converted_network_computes_the_same_function(tmp_path, settings, change):
    """From the source's config alone; the outputs by another implementation prove it, and the folder's model has them."""
    place = Place(tmp_path, changed(settings, **change))
    code, out, err = place.convert("--expected", place.expected)
    assert code == 0, err
    assert "outputs are those of expected.npz: out_raw to" in out and "theirs.json" in out
    experiment = Experiment.from_config(load_config(place.workdir / "config.json"))
    with np.load(place.expected) as file:
        data = {k: torch.from_numpy(v) for k, v in file.items()}
    fourier = place.settings["model"]["embedding_type"] == "fourier" and place.settings["model"]["name"] == "ncsnpp"
    for which, key in (("model", "out_raw"), ("ema", "out_ema")):
        model, _ = Workdir(place.workdir).model(experiment, which)
        said = model.network(data["x"], data["labels"].double().log() if fourier else data["labels"])
        ratio = (said.double() / data[key].double()).flatten(1)
        sigma = ratio.median(1).values if place.settings["model"]["scale_by_sigma"] else torch.ones(2).double()
        assert torch.allclose(
            said.double() / sigma.reshape(-1, 1, 1, 1), data[key].double(), atol=1e-3 * float(data[key].std())
        )


WRONG = [
    {"nonlinearity": "relu"},
    {"skip_rescale": False},
    {"fir": False},
    {"fir_kernel": [1, 2, 1]},
    {"fir_kernel": [1, 3, 3, 2]},
    {"centered": False},
]


@pytest.mark.parametrize("change", WRONG)
def test_outputs_refuse_a_config_of_another_function(place, change):
    """The weights fit all of these configs. Only outputs distinguish them, and without outputs the summary says so."""
    place.source.write_text(json.dumps(changed(SMALL, **change)))
    place.assert_refused("--expected", place.expected, wanted="differs by")
    code, out, _ = place.convert()
    assert code == 0 and "no outputs were compared" in out


def test_groups_that_disagree_are_refused(tmp_path):
    """32 channels: the reference's ddpm has 32 groups, our class by default 16, ncsnpp 8. Nothing in a file shows it."""
    place = Place(tmp_path, DDPM)
    for groups in (0, 8, 16, 1):
        flags = [f"--config.network.groups={groups}"]
        place.assert_refused(*flags, wanted="of 32 channels has")
        place.assert_refused(*flags, "--expected", place.expected, wanted="of 32 channels has")
    ours = our_config(place, groups=None)
    place.assert_refused("--config", ours, source=False, wanted="a norm of 32 channels has 16 groups: 32 in")
    place.assert_refused("--config", ours, "--expected", place.expected, source=False, wanted="differs by")
    place.assert_refused("--config", ours, wanted="a norm of 32 channels has 16 groups: 32 in")
    for good in (["--config.network.groups=32"], ["--config.network.group_width=1"]):
        code, out, err = place.convert("--config", ours, *good, "--expected", place.expected, source=False)
        assert code == 0 and "outputs are those of" in out, err
        place.workdir.rename(tmp_path / good[0])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"activation": "relu"}, "activation ReLU(), in the reference SiLU"),
        ({"rescale": False}, "rescale=False, in the reference True"),
        ({"resampling": {"name": "Averaging"}}, "resampling Averaging(), in the reference FIR (1, 3, 3, 1)"),
        (
            {"resampling": {"name": "FIR", "kernel": [1, 2, 1]}},
            "resampling FIR(kernel=(1, 2, 1)), in the reference FIR (1, 3, 3, 1)",
        ),
        ({"groups": 1}, "a norm of 8 channels has 1 groups: 2 in"),
        ({"group_width": 2}, "a norm of 8 channels has 4 groups: 2 in"),
    ],
)
def test_a_config_of_this_library_must_agree_with_the_reference(place, change, wanted):
    """Unless expected outputs or the config of the source confirm it."""
    ours = our_config(place, **change)
    place.assert_refused("--config", ours, source=False, wanted=wanted)
    place.assert_refused("--config", ours, "--expected", place.expected, source=False, wanted="differs by")
    wanted = "a norm of 8" if "group" in next(iter(change)) else "the config's model differs from that of"
    place.assert_refused("--config", ours, wanted=wanted)


def test_the_config_of_a_converted_folder_converts_again(place):
    code, _, err = place.convert("--config", our_config(place), source=False)
    assert code == 0, err


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--config.model.label.scale=1.0"], "config.model.label TimeLabel(scale=1.0"),
        (["--config.model.data_std=0.5"], "config.model.data_std=0.5, in the reference None"),
        (
            ["--config.model.prediction=data"],
            "config.model.prediction DataPrediction, in the reference NoisePrediction",
        ),
        (["--config.sde.name=CosineVPSDE"], "config.sde CosineVPSDE"),
        (["--config.data.low=0.0"], "data in (0.0, 1.0)"),
        (["--config.network.input_range=(0.0, 1.0)"], "which the network maps to (-3.0, 1.0)"),
    ],
)
def test_labels_and_inputs_must_be_those_of_the_reference(place, flags, wanted):
    ours = our_config(place)
    place.assert_refused("--config", ours, *flags, source=False, wanted=wanted)
    differs = "config.data maps" if "data.low" in flags[0] else "the config's model differs from that of"
    place.assert_refused(*flags, wanted=differs)


def test_the_table_of_noise_levels_must_be_the_config_s(tmp_path):
    place = Place(tmp_path, VE)
    for key, value in (("model.sigma_max", 49.0), ("model.num_scales", 999), ("model.sigma_min", 0.02)):
        place.assert_refused(f"--source.{key}={value}", wanted="the file belongs to another config")
    ours = our_config(place)
    place.assert_refused("--config", ours, "--config.sde.sigma_max=378.0", source=False, wanted="another config")


def test_flags(place):
    place.assert_refused(source=False, wanted="required by convert: --source-config or --config")
    place.assert_refused("--config", place.source, source=False, wanted="give it as --source-config")
    place.assert_refused(
        "--config",
        ROOT / "configs/vp/digits.py",
        "--source.model.nf=3",
        source=False,
        wanted="requires --source-config",
    )
    place.assert_refused("--expected", place.folder / "none.npz", wanted="none.npz")
    place.assert_refused("--source.model.nf=16", wanted="does not have the weights of the config's network")
    place.source.unlink()
    place.assert_refused(wanted="theirs.json")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"x": None}, "it must contain x, labels, and out_raw or out_ema"),
        ({"out_raw": None, "out_ema": None}, "it must contain x, labels, and out_raw or out_ema"),
        ({"x": np.ones((2, 3, 7, 8), np.float32)}, "the shapes must be equal"),
        ({"labels": np.ones(3)}, "give (B, C, H, W) and (B,)"),
        ({"out_raw": np.full((2, 3, 8, 8), np.nan)}, "contains numbers that are not finite"),
        ({"x": np.array(["a"])}, "cannot be read as expected outputs"),
        ({"x": np.array([None])}, "cannot be read as expected outputs"),
        ({k: np.ones((2, 4, 8, 8)) for k in ("x", "out_raw", "out_ema")}, "does not suit the network"),
    ],
)
def test_expected_outputs_that_are_none(place, change, wanted):
    with np.load(place.expected) as file:
        data = {k: v for k, v in (dict(file) | change).items() if v is not None}
    np.savez(place.expected, **data)
    place.assert_refused("--expected", place.expected, wanted=wanted)
    place.assert_refused("--expected", place.expected, wanted="expected.npz")


def test_one_kind_of_outputs_is_enough(place):
    with np.load(place.expected) as file:
        data = {k: v for k, v in file.items() if k != "out_raw"}
    np.savez(place.expected, **data)
    code, out, _ = place.convert("--expected", place.expected)
    assert code == 0 and "out_ema to" in out and "out_raw" not in out


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16, np.float64, np.float32, torch.tensor])
def test_numbers_of_numpy(place, kind):
    """The step, the count of updates and Adam's may be numpy scalars or tensors."""
    content = place.content | {"step": kind(11), "ema": place.content["ema"] | {"num_updates": kind(12)}}
    content["ema"]["decay"] = np.float64(content["ema"]["decay"])
    for state in content["optimizer"]["state"].values():
        state["step"] = kind(11)
    torch.save(content, place.file)
    code, out, err = place.convert()
    if kind in (np.float64, np.float32):
        assert code == 2 and "num_updates=12.0 is not allowed: give a whole number" in err
        return
    assert code == 0 and "step 11 from theirs.pth" in out, err


def test_bare_state_dicts(place):
    """What they are, and what loads them."""
    state = place.content["model"]
    for content in (state, {"state_dict": state}, {"model": state}, dict(list(state.items())[:2])):
        torch.save(content, place.file)
        place.assert_refused(wanted="theirs.pth is not a checkpoint of score_sde_pytorch: it is a bare state dict, ")
        place.assert_refused(wanted="from_reference(network, tensors)")
    network = Experiment.from_config(load_config(our_config_of(place))).model.network
    network.load_state_dict(from_reference(network, state))


def our_config_of(place):
    torch.save(place.content, place.file)
    assert place.convert()[0] == 0
    return place.workdir / "config.json"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(place, value):
    state = place.content["model"]
    name = next(n for n in state if n.endswith("Conv_0.weight"))
    bad = state[name].clone()
    bad.view(-1)[3] = value
    torch.save(place.content | {"model": state | {name: bad}}, place.file)
    place.assert_refused(wanted=f"{name.removeprefix('module.')} is not finite: it holds")


@pytest.mark.skipif(folder() == _PLACES[1], reason="the checkpoints are not part of the repository")
@pytest.mark.parametrize("name", ["ddpm_vp_discrete", "ncsnpp_highres_ve", "ncsnpp_highres_ve_torch17style"])
def test_official_checkpoints_from_their_own_configs(place, name):
    kind = name.removesuffix("_torch17style")
    place.expected = folder() / "checkpoints" / f"{kind}_expected.npz"
    with np.load(place.expected) as file:
        place.source.write_text(str(file["config"]))
    code, out, err = place.convert("--expected", place.expected, file=folder() / "checkpoints" / f"{name}.pth")
    assert code == 0 and f"outputs are those of {kind}_expected.npz: out_raw to" in out, err
