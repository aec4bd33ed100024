"""``scoresde convert --from improved_diffusion``: state dicts with weights by a rule become work folders that sample."""

from __future__ import annotations

import io
import json
import os
import re
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from PIL import Image

from scoresde.cli import main
from scoresde.conditions import Classes
from scoresde.experiment import Experiment
from scoresde.interop.flagged import convert_flagged, flagged_config
from scoresde.interop.improved_diffusion import facts_of, step_of
from scoresde.networks import ImprovedUNet
from scoresde.score import LearnedVarianceModel

from .improved_forward import filled, forward
from .test_improved_unet import SMALL, published

FLAGS = {"image_size": "8", "diffusion_steps": "20", "noise_schedule": "cosine", "learn_sigma": "True"}


def checkpoint(folder, name="ema_0.9999_001200.pt", event=(3, 8, 8), **options):
    network = ImprovedUNet(event, **{**SMALL, "outputs": 2, **options})
    state = filled(published(network.state_dict()))
    torch.save(state, folder / name)
    return folder / name, state


def run(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def flags(values):
    return [f"--source.{name}={value}" for name, value in values.items()]


def test_a_converted_folder_samples(tmp_path):
    file, state = checkpoint(tmp_path)
    place = tmp_path / "run"
    code, out, err = run("convert", "--from", "improved_diffusion", file, "--workdir", place, *flags(FLAGS))
    assert code == 0, err
    assert "step 1200" in out and f"{sum(w.numel() for w in state.values()):,} parameters" in out
    assert "no outputs were compared" in out and (place / "log.txt").read_text().count("no outputs were compared") == 1
    shown = ("--config.sampling.count=2", "--config.sampling.batch_size=2")
    code, _, err = run("sample", "--workdir", place, *shown)
    assert code == 0, err
    with np.load(place / "samples" / "ancestral.npz") as samples:
        found = next(iter(samples.values()))
    assert found.shape[0] == 2 and np.isfinite(found).all()


def test_levels_are_those_of_the_project(tmp_path):
    """Level k is k / 127.5 - 1, and the bound of a converted model has the discrete decoder."""
    file, _ = checkpoint(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    raw = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype("u1")
    for k, image in enumerate(raw):
        Image.fromarray(image).save(images / f"{k}.png")
    place, folder = tmp_path / "run", f"--config.data.data.folder={images}"
    code, _, err = run("convert", "--from", "improved_diffusion", file, "--workdir", place, *flags(FLAGS), folder)
    assert code == 0, err
    data = Experiment.from_config(ConfigDict(json.loads((place / "config.json").read_text()))).data.train
    x = data.encode(torch.arange(2), seed=0)
    assert torch.allclose(x, data.raw[:2] / 127.5 - 1.0, atol=1e-6)
    code, out, err = run("likelihood", "--workdir", place, "--config.likelihood.limit=2")
    assert code == 0 and "a bound by a chain: 19 steps" in out, err
    summary = json.loads((place / "likelihood" / "test-bound.json").read_text())
    assert summary["unit"] == "bits/dim" and not summary["bound by"].count("uniform dequantization")


@pytest.mark.covering
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_model_on_the_chain_of_the_flags(tmp_path, learned, schedule, rescaled):
    file, state = checkpoint(tmp_path, outputs=1 + learned)
    steps = 50
    values = {
        "image_size": "8",
        "diffusion_steps": str(steps),
        "noise_schedule": schedule,
        "rescale_timesteps": str(rescaled),
    }
    made = Experiment.from_config(ConfigDict(flagged_config("improved_diffusion", file, values)))
    convert_flagged(file, made, tmp_path / "run")
    model = made.model.double().eval()
    assert isinstance(model, LearnedVarianceModel) == learned
    if schedule == "linear":
        beta = np.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps)
    else:
        bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1.0 - bar[1:] / bar[:-1], 0.999)
    t = model.sde.times if hasattr(model.sde, "times") else torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    alpha = model.sde.alpha(t.double())
    assert np.allclose(alpha.numpy() ** 2, np.cumprod(1.0 - beta), rtol=1e-6)
    index = torch.tensor([0, 17, 49])
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = index.double() * (1000.0 / steps if rescaled else 1.0)
    with torch.no_grad():
        noise = forward({n: w.double() for n, w in state.items()}, x, label)[:, :3]
        score = model(x, t[index].double())
    wanted = -noise / model.sde.sigma(t[index].double()).reshape(-1, 1, 1, 1)
    assert float((score - wanted).abs().max() / wanted.std()) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"outputs": 1, "scale_shift": False, "attention": ()},
        {"multipliers": (1, 1, 2, 2), "blocks": 2, "attention": (0, 2)},
        {"resample_blocks": True, "multipliers": (1, 2, 2), "blocks": 2, "attention": (1, 2)},
        {"conditions": {"label": Classes(7)}, "multipliers": (2,), "attention": (0,), "blocks": 3},
    ],
)
def test_facts_are_those_of_the_network(options):
    wanted = {**SMALL, "outputs": 2, "scale_shift": True, "resample_blocks": False, "conditions": {}, **options}
    with torch.device("meta"):
        network = ImprovedUNet((3, 16, 16), **{**SMALL, "outputs": 2, **options})
    facts = facts_of(published(network.state_dict()))
    assert (facts["num_channels"], facts["channel_mult"]) == (wanted["channels"], wanted["multipliers"])
    assert (facts["num_res_blocks"], facts["levels"]) == (wanted["blocks"], wanted["attention"])
    assert facts["learn_sigma"] == (wanted["outputs"] == 2) and facts["use_scale_shift_norm"] == wanted["scale_shift"]
    assert facts["resblock_updown"] == wanted["resample_blocks"] and facts["images"] == 3
    assert facts["classes"] == (7 if wanted["conditions"] else 0)


def test_a_class_conditional_file(tmp_path):
    file, state = checkpoint(tmp_path, conditions={"label": Classes(5)}, outputs=1)
    made = Experiment.from_config(
        ConfigDict(flagged_config("guided_diffusion", file, {"image_size": "8", "class_cond": "True"}))
    )
    convert_flagged(file, made, tmp_path / "run")
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label, y = torch.tensor([3.0, 900.0], dtype=torch.float64), torch.tensor([4, 0])
    with torch.no_grad():
        found = made.model.network.double().eval()(x, label, label=y)
    wanted = forward({n: w.double() for n, w in state.items()}, x, label, y=y)
    assert float((found - wanted).abs().max() / wanted.std()) < 1e-5


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        ({}, {"image_size": None}, "--source.image_size is required"),
        ({}, {"learn_sigma": "False"}, "--source.learn_sigma=False contradicts the file, whose weights show True"),
        ({}, {"num_channels": "64"}, "--source.num_channels=64 contradicts .* show 32"),
        ({}, {"attention_resolutions": "8"}, r"attention_resolutions=\(8,\) contradicts .* \(4,\)"),
        ({}, {"noise_schedule": "sqrt"}, "--source.noise_schedule='sqrt' is not allowed: give linear or cosine"),
        ({}, {"diffusion_steps": "1"}, "diffusion_steps=1 .* at least 2"),
        ({}, {"num_head": "4"}, "--source.num_head is not a flag of improved_diffusion.*num_heads"),
        ({"drop": "middle_block.1.qkv.bias"}, {}, "1 missing: middle_block.1.qkv.bias"),
        ({"drop": "time_embed.0.weight"}, {}, "time_embed.0.weight is missing"),
        ({"add": "extra.weight"}, {}, "1 not in the network: extra.weight"),
        ({"shape": "time_embed.2.bias"}, {}, r"1 of another shape: time_embed.2.bias \(3,\) in place of \(128,\)"),
        ({"nan": "out.2.bias"}, {}, "out.2.bias is not finite"),
        ({"half": "out.2.bias"}, {}, "out.2.bias is torch.float16: it must be float32"),
    ],
)
def test_bad_files_and_flags_are_named_and_leave_nothing(tmp_path, change, values, message):
    file, state = checkpoint(tmp_path)
    kind, name = next(iter(change.items()), ("", ""))
    made = {
        "add": torch.zeros(3),
        "shape": torch.zeros(3),
        "nan": torch.full((6,), float("nan")),
        "half": torch.zeros(6).half(),
    }
    if kind == "drop":
        del state[name]
    elif kind:
        state[name] = made[kind]
    torch.save(state, file)
    given = {name: value for name, value in {**FLAGS, **values}.items() if value is not None}
    code, _, err = run("convert", "--from", "improved_diffusion", file, "--workdir", tmp_path / "run", *flags(given))
    assert code == 2 and "Traceback" not in err
    assert re.search(message, err), err
    assert {path.name for path in tmp_path.iterdir()} == {file.name}


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed-by-a-checkpoint",)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"out.2.bias": Malicious()}, tmp_path / "bad.pt")
    code, _, err = run("convert", "--from", "improved_diffusion", "bad.pt", "--workdir", "run", *flags(FLAGS))
    assert code == 2 and "not executed" in err and "improved-diffusion" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_the_step_is_that_of_the_name():
    steps = {"ema_0.9999_200000.pt": 200_000, "model000500.pt": 500, "cifar10_uncond_50M_500K.pt": 500_000,
             "lsun_uncond_100M_1200K_bs128.pt": 1_200_000, "weights.pt": 0}  # fmt: skip
    assert {name: step_of(name) for name in steps} == steps


def test_a_config_of_another_network_is_refused(tmp_path):
    file, _ = checkpoint(tmp_path)
    content = flagged_config("improved_diffusion", file, FLAGS)
    content["network"]["blocks"] = 2
    made = Experiment.from_config(ConfigDict(json.loads(json.dumps(content))))
    with pytest.raises(ValueError, match=r"does not have the weights of the network .* missing"):
        convert_flagged(file, made, tmp_path / "run")
    assert not (tmp_path / "run").exists()
