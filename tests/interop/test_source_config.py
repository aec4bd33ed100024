"""Configs of score_sde_pytorch read as data: what is read, what is asked for, and that nothing runs."""

from __future__ import annotations

import contextlib
import json

import pytest

from scoresde.interop.convert import is_source, source_of
from scoresde.interop.errors import ConvertError
from scoresde.interop.source_config import Unread, read_settings

from .test_translate import CONFIGS, ROOT

CONFIG = """
'''In the style of the reference.'''
from configs.default_cifar10_configs import get_default_configs


def get_config():
  config = get_default_configs()
  # training
  training = config.training
  training.sde = 'vpsde'
  training.continuous = True
  training.reduce_mean = True
  sampling = config.sampling
  sampling.method, sampling.predictor = 'pc', 'euler_maruyama'
  sampling.corrector = 'none'
  data = config.data
  data.centered = True
  model = config.model
  model.name = 'ncsnpp'
  model.scale_by_sigma = False
  model.ema_rate = 0.9999
  model.normalization = 'GroupNorm'
  model.nonlinearity = 'swish'
  model.nf = 128
  model.ch_mult = (1, 2, 2, 2)
  model.num_res_blocks = 4
  model.attn_resolutions = (16,)
  model.resamp_with_conv = True
  model.conditional = True
  model.fir = False
  model.fir_kernel = [1, 3, 3, 1]
  model.skip_rescale = True
  model.resblock_type = 'biggan'
  model.progressive = 'none'
  model.progressive_input = 'none'
  model.progressive_combine = 'sum'
  model.attention_type = 'ddpm'
  model.init_scale = 0.
  model.embedding_type = 'positional'
  model.fourier_scale = 16
  model.conv_size = 3
  return config
"""
PARTS = """
import ml_collections
import torch
WIDTH = 2 ** 5


def base():
  config = ml_collections.ConfigDict(dict(seed=1))
  config.model = model = ml_collections.ConfigDict({'name': 'ddpm', 'ch_mult': [1] + [2] * 2})
  model.nf = WIDTH * 4 // 2
  model.dropout = -(-.1)
  config.data = ml_collections.ConfigDict()
  config.sampling = ml_collections.ConfigDict()
  config['data']['image_size'] = 16 if WIDTH == 32 else 64
  if WIDTH > 32:
    config.data.centered = False
  else:
    config.data.centered = not False
  with config.unlocked():
    config.update({'training': {'sde': 'vpsde'}}, extra=3)
    config.training.n_iters: int = 10
    config.training.n_iters += 5
  config.model.update(num_scales=10)
  config.device = torch.device('cuda:0') if torch.cuda.is_available() else torch.device('cpu')
  config.model.sigma_max = float(50)
  del config.extra
  config.lock()
  print('done')
  return config


def get_config():
  return base()
"""


def written(place, text, name="mine.py"):
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_text(text)
    return place / name


def test_a_config_in_the_reference_s_style(tmp_path):
    """With its default config as it is known here, and with a file of that name next to it or in a folder above."""
    file = written(tmp_path / "configs" / "vp", CONFIG)
    found = source_of(file).config
    theirs = CONFIGS["vp/cifar10_ddpmpp_continuous"]
    read = read_settings(file)
    for section in ("model", "data", "training", "sampling", "optim"):
        assert json.loads(json.dumps(read[section])) == theirs[section], section
    assert found["network"]["channels"] == 128 and found["sde"]["name"] == "VPSDE"
    defaults = CONFIG.split("def get_config")[0].replace("from configs", "# from configs") + PARTS.replace(
        "get_config", "get_default_configs"
    )
    for place in (tmp_path / "configs" / "default_cifar10_configs.py", file.parent / "default_cifar10_configs.py"):
        place.write_text(defaults.replace("seed=1", f"seed={len(str(place))}"))
        assert read_settings(file)["seed"] == len(str(place))


def test_python_as_data(tmp_path):
    found = read_settings(written(tmp_path, PARTS))
    device, sigma = found.pop("device"), found["model"].pop("sigma_max")
    assert found == {
        "seed": 1,
        "model": {"name": "ddpm", "ch_mult": [1, 2, 2], "nf": 64, "dropout": 0.1, "num_scales": 10},
        "data": {"image_size": 16, "centered": True},
        "training": {"sde": "vpsde", "n_iters": 15},
        "sampling": {},
    }
    assert isinstance(device, Unread) and isinstance(sigma, Unread) and sigma.text == "float(50)"


def test_what_cannot_be_read_is_asked_for(tmp_path):
    text = CONFIG.replace("model.nf = 128", "model.nf = int(os.environ['NF'])").replace("  model.fir = False\n", "")
    file = written(tmp_path, "import os\n" + text)
    line = file.read_text().split("\n").index("  model.nf = int(os.environ['NF'])") + 1
    with pytest.raises(ConvertError) as problem:
        source_of(file)
    assert "model.nf is \"int(os.environ['NF'])\"" in str(problem.value) and f"mine.py, line {line}" in str(
        problem.value
    )
    assert "give --source.model.nf=VALUE" in str(problem.value) and "model.fir is missing" in str(problem.value)
    found = source_of(file, {"model.nf": "64", "model.fir": "False", "model.nonlinearity": "elu"}).config
    assert (found["network"]["channels"], found["network"]["activation"]) == (64, "elu")
    file.write_text(CONFIG.replace("model.nf = 128", "model.nf = 128\n  model.heads = 2"))
    assert source_of(file, {"model.heads": "unused"}).config["network"]["channels"] == 128
    with pytest.raises(ConvertError, match=r"--source\.model\.nf\.x='1' is not allowed"):
        source_of(file, {"model.nf.x": "1"})


STATEMENTS = [
    "for k in range(3):\n    model.nf = k",
    "while True:\n    pass",
    "try:\n    model.nf = 1\n  except ValueError:\n    pass",
    "setattr(model, 'nf', 64)",
    "change(config)",
    "config.update(other())",
    "model.nf.x = 3",
    "config.apply({'nf': 1})",
    "eval('change')(model)",
    "if os.environ.get('BIG'):\n    change(model)",
    "with open('x') as f:\n    model.nf = 3",
    "class A:\n    pass",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statements_that_may_change_a_config_are_refused(tmp_path, statement):
    text = CONFIG.replace("  return config", f"  {statement}\n  return config")
    with pytest.raises(ConvertError, match=r"mine.py, line \d+: .* cannot be read as data"):
        read_settings(written(tmp_path, text))


def test_a_branch_that_cannot_be_read_leaves_its_values_unread(tmp_path):
    text = CONFIG.replace("model.nf = 128", "model.nf = 128\n  if flags.big:\n    model.nf = 256")
    assert isinstance(read_settings(written(tmp_path, text))["model"]["nf"], Unread)


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.mkdir('executed')\n" + CONFIG,
        CONFIG.replace("return config", "__import__('os').mkdir('executed')\n  return config"),
        CONFIG.replace("model.nf = 128", "model.nf = __import__('os').mkdir('executed') or 128"),
        CONFIG.replace("model.nf = 128", "model.nf = [k for k in [open('executed', 'w')]]"),
        "from executing import get_default_configs\n" + CONFIG,
    ],
)
def test_nothing_is_executed(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "executing.py").write_text("import os\nos.mkdir('executed')\ndef get_default_configs(): pass\n")
    with contextlib.suppress(ConvertError):
        read_settings(written(tmp_path, text))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("def get_config(:\n", "mine.py, line 1 is not Python"),
        ("x = 3\n", "has no function get_config"),
        ("def get_config():\n  return get_config()\n", "calls too many functions"),
        ("def f():\n  return [f(), f()]\ndef get_config():\n  return f()\n", "calls too many functions"),
        ("def get_config():\n  return {'model': " + "(" * 5000 + ")" * 5000 + "}\n", "mine.py"),
        ("def get_config():\n  return {'model': " + "-" * 90_000 + "1}\n", "mine.py"),
        ("from mine import x\ndef get_config():\n  return x()\n", "has no section `model`"),
        ("def get_config():\n  return 3\n", "has no section `model`"),
        ("def get_config():\n  a = 'x' * 9999\n  b = a + a + a\n  return {'model': {'a': b, 'c': 9 ** 9 ** 9}}\n", ""),
        ("\0", "mine.py"),
        ("#" * 1_000_001, "it is not a config"),
    ],
)  # fmt: skip
def test_files_that_are_no_configs(tmp_path, text, wanted):
    file = written(tmp_path, text)
    if not wanted:  # values that would grow without end are not read
        assert all(isinstance(value, Unread) for value in read_settings(file)["model"].values())
        return
    with pytest.raises(ConvertError, match=r"mine\.py") as problem:
        source_of(file)
    assert wanted in str(problem.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"config": 3}', '{"model": []}', "\xff"])
def test_json_that_is_no_config(tmp_path, text):
    with pytest.raises(ConvertError, match=r"mine\.json"):
        source_of(written(tmp_path, text, "mine.json"))


@pytest.mark.parametrize("wrapped", [True, False])
def test_json(tmp_path, wrapped):
    content = CONFIGS["ve/cifar10_ncsnpp_continuous"]
    file = written(tmp_path, json.dumps({"config": content} if wrapped else content), "mine.json")
    assert read_settings(file) == content and is_source(file)
    assert source_of(file).sigmas == (1000, 0.01, 50.0)


def test_configs_of_ours_are_not_taken_for_theirs():
    assert not any(is_source(file) for file in (ROOT / "configs").rglob("*.py"))
