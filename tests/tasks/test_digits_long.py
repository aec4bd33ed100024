"""The aims of purification, anomaly maps and guidance of the ink, for a model of digits at a third of its training."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.anomaly import blocks
from benchmarks.purification import attacked, classifier, middle
from scoresde.cli import main
from scoresde.experiment import Experiment, Workdir, load_config
from scoresde.guidance import TweedieMoments
from scoresde.samplers import DDIM, PredictorCorrector, ReverseDiffusion, UniPC
from scoresde.tasks import anomaly_map, purify
from tests.experiment.conftest import ROOT

pytestmark = pytest.mark.long
COUNT = 150


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The experiment and the model of configs/vp/digits_classes.py after 700 steps."""
    folder = tmp_path_factory.mktemp("classes") / "run"
    config = str(ROOT / "configs" / "vp" / "digits_classes.py")
    assert main(["train", "--config", config, "--workdir", str(folder), "--config.training.steps=700"]) == 0
    workdir = Workdir(folder)
    made = Experiment.from_config(load_config(workdir.config_file))
    return made, workdir.model(made)[0]


def test_purification_restores_the_accuracy_of_a_classifier(run):
    """At least .45 of attacked digits and .80 of clean ones. Without purification the attack leaves less than .2."""
    made, model = run
    train, index = made.data.train, torch.arange(COUNT)
    digits, labels = middle(made.data.test.events(index)), made.data.test.conditions(index)["label"]
    net = classifier(middle(train.events(torch.arange(len(train)))), train.conditions(slice(None))["label"])
    bad = attacked(lambda x, k: net(x), digits, labels, 0.3)
    sampler = PredictorCorrector(ReverseDiffusion(), None, steps=10)

    def right(x):
        return float((net(x).argmax(1) == labels).double().mean())

    with torch.no_grad():
        found = [right(purify(sampler, model.sde, model, x, 0.1)) for x in (digits, bad)]
        before = [right(digits), right(bad)]
    print(before, found)
    assert before[0] > 0.95 and before[1] < 0.2
    assert found[0] >= 0.80 and found[1] >= 0.45


def test_the_map_of_an_anomaly_finds_a_block(run):
    """Digits with an inverted block of 3 x 3 pixels: an AUROC of .85, and half of the squares of the map are in the block."""
    made, model = run
    x = made.data.test.encode(torch.arange(COUNT), seed=0)
    mask = blocks(x)
    maps = [
        anomaly_map(DDIM(1, denoise=False), model.sde, model, v, 0.2, repeats=16) for v in (x, torch.where(mask, -x, x))
    ]
    scores = torch.cat([found.flatten(1).mean(1) for found in maps])
    auroc = roc_auc_score(torch.arange(2 * COUNT) >= COUNT, scores)
    squares = maps[1].square()
    share = float(((squares * mask).flatten(1).sum(1) / squares.flatten(1).sum(1)).mean())
    print(auroc, share)
    assert auroc >= 0.85 and share >= 0.5


def test_the_ink_of_samples_follows_its_target(run):
    """The correlation of wanted and found means of the pixels is at least .9, and without guidance it is near 0."""
    made, model = run
    raw = made.data.train.events(slice(None)).double().flatten(1).mean(1)
    low, high = raw.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    wanted = torch.linspace(low, high, COUNT)
    target = (wanted[:, None] + 0.5) * 2.0 / 17.0 - 1.0
    guided = TweedieMoments(model, lambda x: x.flatten(1).mean(1, keepdim=True), target, 0.1 * 2.0 / 17.0)
    found = []
    for score in (guided, model):
        x = UniPC(30)(model.sde, score, (COUNT, *made.data.event_shape)).samples
        ink = made.data.transform.decode(x).clamp(0, 16).flatten(1).double().mean(1)
        found.append(float(torch.corrcoef(torch.stack((wanted.double(), ink)))[0, 1]))
    print(found)
    assert found[0] >= 0.9 and abs(found[1]) < 0.3
