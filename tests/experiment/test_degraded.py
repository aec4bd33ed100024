"""Images given a measurement, from the config over training to samples, the likelihood and the report."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from scoresde.conditions import Image
from scoresde.experiment import Experiment, Workdir, apply_overrides, likelihood, load_config, report, sample, train
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.condition_values import sample_conditions
from scoresde.operators import SuperResolution
from tests.experiment.conftest import ROOT, TINY, called
from tests.experiment.test_training import reload
from tests.experiment.training import advance, everything, same, trainer

SMALL = TINY | {
    "training__steps": 4, "training__batch_size": 8, "training__checkpoint_every": 2, "training__log_every": 2,
    "training__preview_every": 0, "device": "cpu", "sampling__count": 7, "sampling__batch_size": 3,
    "samplers__unipc__steps": 3, "likelihood__limit": 4, "likelihood__grid_events": 0,
    "likelihood__solver": "{'name': 'Multistep', 'nodes': 6}",
}  # fmt: skip
BOX = {"name": "Degraded", "data": {"name": "Digits"}, "operator": {"name": "BoxInpainting"}}


def values(**overrides):
    return {key.replace("__", "."): str(value) for key, value in (SMALL | overrides).items() if value is not None}


def experiment(**overrides):
    config = load_config(ROOT / "configs" / "vp" / "digits_super_resolution.py")
    apply_overrides(config, values(**overrides))
    return Experiment.from_config(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    made = experiment()
    workdir = Workdir(tmp_path_factory.mktemp("degraded") / "run")
    train(made, workdir)
    return made, workdir


def test_the_config_gives_pairs():
    made = experiment()
    assert made.data.kinds == {"measurement": Image(1)} and made.data.event_shape == (1, 8, 8)
    assert made.data.operator == SuperResolution(2)
    batch = made.data.train.batch(0, 4, seed=0)
    small = SuperResolution(2).apply(batch.x)
    assert float((SuperResolution(2).image(small) - batch.condition["measurement"]).abs().max()) < 1.0 / 17.0


@pytest.mark.parametrize(
    "operator", [{"name": "SuperResolution", "factor": 4}, {"name": "PixelInpainting", "missing": 0.3}]
)
def test_two_and_two_steps_are_four(tmp_path, operator):
    node = {"name": "Degraded", "data": {"name": "Digits", "labels": True}, "operator": operator}
    options = TINY | {"data": node}
    whole, first = trainer(**options), trainer(**options)
    advance(whole, 4)
    advance(first, 2)
    second = reload(first, tmp_path, **options)
    advance(second, 2)
    assert same(everything(whole), everything(second))


def test_samples_get_the_measurements_of_the_test_split(trained):
    made, workdir = trained
    sample(made, workdir)
    one = np.load(workdir.samples / "unipc.npz")
    assert torch.equal(
        torch.from_numpy(one["condition_measurement"]), made.data.test.conditions(slice(7))["measurement"]
    )
    sample(experiment(sampling__batch_size=7), workdir)
    again = np.load(workdir.samples / "unipc.npz")
    assert np.allclose(one["x"], again["x"], atol=1e-5)
    parts = [sample_conditions(made, first, 2)["measurement"] for first in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), torch.from_numpy(one["condition_measurement"])[:6])


def test_the_report_shows_measurements_beside_the_samples(trained):
    made, workdir = trained
    sample(made, workdir)
    page = report(made, workdir).read_text()
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    first = captions.index("test data, for comparison")
    assert captions[first + 1] == "measurement of the samples with the condition &quot;test&quot;, in the same order"
    assert captions[first + 2].startswith("unipc: 7 samples")
    other = experiment(sampling__condition="'ignore'")
    assert "measurement of the samples" not in report(other, workdir).read_text(), "samples without conditions"


def test_log_p_of_an_image_given_its_measurement(trained):
    made, workdir = trained
    given = likelihood(made, workdir)
    ignored = likelihood(experiment(likelihood__condition="'ignore'"), workdir)
    assert given["condition"] == "data" and given["bits_per_dim"] != ignored["bits_per_dim"]


@pytest.mark.long
def test_a_trained_model_knows_the_measurement(tmp_path):
    config = load_config(ROOT / "configs" / "vp" / "digits_super_resolution.py")
    changed = {"training.steps": 200, "training.preview_every": 0, "likelihood.limit": 24, "device": "cpu"}
    apply_overrides(config, {key: str(value) for key, value in changed.items()})
    made, workdir = Experiment.from_config(config), Workdir(tmp_path / "run")
    train(made, workdir)
    given = likelihood(made, workdir)["bits_per_dim"]
    apply_overrides(config, {"likelihood.condition": "ignore"})
    assert given < likelihood(Experiment.from_config(config), workdir)["bits_per_dim"] - 0.3
    sample(made, workdir)
    file = np.load(workdir.samples / "unipc.npz")
    operator, transform = made.data.operator, made.data.transform
    x = transform.encode(torch.from_numpy(file["raw"]), None, dtype=torch.float32)
    y, found = torch.from_numpy(file["condition_measurement"]), operator.image(operator.apply(x))
    own, other = (float((found - rows).square().mean().sqrt()) for rows in (y, y.roll(1, 0)))
    assert own < 0.5 * other, "the samples have the measurements that they were drawn for"


def test_a_value_on_the_command_line(trained):
    _, workdir = trained
    image = [[[0.5] * 8] * 8]
    flags = [f"--config.{key}={value}" for key, value in values(sampling__count=2).items() if key.startswith("sampl")]
    done = called("sample", "--workdir", workdir.path, "--condition", f"measurement={json.dumps(image)}", *flags)
    assert done.returncode == 0, done.stderr
    assert np.load(workdir.samples / "unipc.npz")["condition_measurement"].tolist() == [image, image]
    done = called("sample", "--workdir", workdir.path, "--condition", "measurement=3", *flags)
    assert (
        done.returncode == 2 and "condition.measurement=3 is not allowed: give an image with 1 channels" in done.stderr
    )


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"operator": {"name": "SuperResolution", "factor": 3}}, "factor=3 does not divide the side 8"),
        (
            {"operator": {"name": "SuperRes"}},
            r"config\.data\.operator\.name='SuperRes' is not known: allowed are Blur, BoxInpainting,",
        ),
        ({"operator": {"name": "Grayscale"}}, "give a number for each of 1 channels"),
        ({"operator": 3}, r"config\.data\.operator=3 is not allowed"),
        ({"data": {"name": "Digit"}}, r"config\.data\.data\.name='Digit' is not known: .*did you mean 'Digits'"),
        ({"measurement": "x"}, r"config\.data: Degraded cannot be built: measurement: 'x' is not allowed as a name"),
    ],
)
def test_wrong_configs_are_refused(node, message):
    with pytest.raises(ConfigError, match=message):
        experiment(data=BOX | node)
