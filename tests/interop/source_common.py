"""Checkpoints in the reference's layout for settings of the reference, with the outputs that its network has."""

from __future__ import annotations

import copy
import io
import json
import math
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import torch

from scoresde.cli import main
from scoresde.interop.score_sde import layout
from scoresde.noise import NoiseSource

from .reference_forward import Forward, ruled
from .test_translate import TINY, changed, network_of

SMALL = changed(TINY, nf=8, ch_mult=[1, 1], image_size=8, attn_resolutions=[4], progressive_input="input_skip")
DDPM = changed(TINY, name="ddpm", nf=32, ch_mult=[1], image_size=8, attn_resolutions=[])
VE = changed(
    SMALL, sde="vesde", centered=False, embedding_type="fourier", scale_by_sigma=True, progressive="output_skip"
)


def checkpoint(settings, step=7):
    """The content of a file: weights by the rule, averages of others, moments of Adam for some."""
    network, model = network_of(settings)
    table = network.float() and layout(network)
    trained = [w.name for w in table.values() if w.trained]
    averages = [ruled(f"averaged {name}", tuple(model[name].shape)) for name in trained]
    numbers = {w.name: k for k, w in enumerate(table.values())}
    moments = {
        numbers[name]: {
            "step": step,
            "exp_avg": torch.zeros_like(model[name]),
            "exp_avg_sq": torch.ones_like(model[name]),
        }
        for name in trained[:4]
    }
    m = settings["model"]
    ends = (math.log(m["sigma_max"]), math.log(m["sigma_min"]))
    sigmas = torch.linspace(*ends, m["num_scales"], dtype=torch.float64).exp()
    return {
        "optimizer": {"state": moments, "param_groups": [{"lr": np.float64(2e-4), "params": list(range(len(model)))}]},
        "model": {"module.sigmas": sigmas, **{f"module.{n}": w for n, w in model.items()}},
        "ema": {"decay": m["ema_rate"], "num_updates": step, "shadow_params": averages},
        "step": step,
    }


def outputs(settings, content):
    """x, labels, and what the network returns with raw and with averaged weights."""
    data, raw = settings["data"], {n.removeprefix("module."): w for n, w in content["model"].items()}
    sigmas = raw.pop("sigmas")
    x = NoiseSource.of(0, 2).normal(
        (data["num_channels"], data["image_size"], data["image_size"]), step=0, purpose="x", dtype=torch.float32
    )
    labels = (
        torch.tensor([0.5, 20.0]) if settings["model"]["embedding_type"] == "fourier" else torch.tensor([3.0, 900.0])
    )
    names = [n for n in raw if not n.endswith("all_modules.0.W")]
    averaged = raw | dict(zip(names, content["ema"]["shadow_params"], strict=True))
    assert len(sigmas) == settings["model"]["num_scales"]
    found = {f"out_{k}": Forward(settings, w)(x, labels).float() for k, w in (("raw", raw), ("ema", averaged))}
    return {"x": x, "labels": labels, **found}


_MADE = {}


def made(settings):
    """A checkpoint of these settings, and its outputs; computed once, the checkpoint copied."""
    key = json.dumps(settings)
    if key not in _MADE:
        content = checkpoint(settings)
        _MADE[key] = content, {k: v.numpy() for k, v in outputs(settings, content).items()}
    content, found = _MADE[key]
    return copy.deepcopy(content), found


class Place:
    """A folder with a checkpoint, its settings and its outputs, and the command line on them."""

    def __init__(self, folder, settings):
        self.folder, self.settings = folder, settings
        self.content, expected = made(settings)
        self.file, self.source, self.workdir = folder / "theirs.pth", folder / "theirs.json", folder / "run"
        self.expected = folder / "expected.npz"
        torch.save(self.content, self.file)
        self.source.write_text(json.dumps(settings))
        np.savez(self.expected, **expected)

    def convert(self, *flags, file=None, source=True):
        """Code, output, errors."""
        out, err = io.StringIO(), io.StringIO()
        how = ["--source-config", str(self.source)] if source else []
        arguments = ["convert", "--from", "score_sde_pytorch", str(file or self.file), "--workdir", str(self.workdir)]
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main([*arguments, *how, *map(str, flags)])
            except SystemExit as end:
                code = end.code
        return code, out.getvalue(), err.getvalue()

    def assert_refused(self, *flags, wanted, file=None, source=True):
        """Code 2, one line of errors with what is wanted, and no folder."""
        code, out, err = self.convert(*flags, file=file, source=source)
        assert code == 2 and not out and "Traceback" not in err, (out, err)
        assert wanted in err and not self.workdir.exists(), err
