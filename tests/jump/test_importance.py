"""Times of jump objectives that follow the losses: unbiased, with a smaller variance, and restored by checkpoints."""

from __future__ import annotations

import pytest
import torch

from scoresde import VPSDE
from scoresde.experiment import Experiment, load_config
from scoresde.experiment.folder.checkpoint import last_checkpoint, save_checkpoint
from scoresde.experiment.training.distributed import Group
from scoresde.experiment.training.trainer import Trainer
from scoresde.jump import (
    Absorbing,
    AdaptiveTimes,
    ContinuousBound,
    DiscreteBound,
    MarkovChain,
    PolynomialKeep,
    ScoreEntropy,
    Uniform,
)
from tests.experiment.conftest import ROOT
from tests.experiment.training import advance, everything, same

CHAIN = MarkovChain([[0.9, 0.1], [0.2, 0.8]])


def adapted(objective, model, x0, steps):
    for step in range(steps):
        draw = objective.draw(x0, step=step)
        objective.observe(draw.t, objective.evaluate(model, draw))
    return objective


@pytest.mark.parametrize(
    "make",
    [
        lambda a: ContinuousBound(Absorbing(2, PolynomialKeep(4.0)), adaptive=a),
        lambda a: DiscreteBound(Uniform(2, VPSDE()), 21, adaptive=a),  # 8 intervals do not divide 21 steps
        lambda a: ScoreEntropy(Uniform(2, VPSDE()), adaptive=a),
    ],
    ids=["continuous", "discrete", "ratios"],
)
def test_the_mean_does_not_change_and_the_second_moment_falls(make):
    objective = make(AdaptiveTimes(8, 1000))
    model, x0 = CHAIN.model(objective.process), CHAIN.sample(8000, 6)
    adapted(objective, model, x0, 3)
    p = objective.adaptive.probabilities()
    assert float(p.max() / p.min()) > 1.5
    uniform, weighted = make(None)(model, x0, step=50), objective(model, x0, step=50)
    error = float((uniform.var() / len(x0) + weighted.var() / len(x0)).sqrt())
    assert abs(float(uniform.mean() - weighted.mean())) < 4.0 * error
    assert float(weighted.square().mean()) < 0.96 * float(uniform.square().mean())
    wrong = objective.evaluate(model, objective.draw(x0, step=50)) * objective.draw(x0, step=50).density
    assert abs(float(uniform.mean() - wrong.mean())) > 4.0 * error  # without the division by the density


def test_draws_have_the_density():
    times = AdaptiveTimes(4, 1, 0.2)
    times.observe(torch.tensor([0.1, 0.3, 0.6, 0.99]), torch.tensor([0.0, 1.0, 3.0, 4.0]))
    p = times.probabilities()
    assert torch.allclose(p, 0.8 * torch.tensor([0.0, 1.0, 3.0, 4.0]).double() / 8 + 0.05)
    u = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    value, density = times.draw(u)
    assert torch.allclose(torch.bincount((4 * value).long()).double() / 8000, p, atol=1e-3) and bool(
        (value.diff() > 0).all()
    )
    assert torch.equal(density, times.density(value)) and abs(float((1 / density).mean()) - 1.0) < 1e-3
    with pytest.raises(ValueError, match=r"losses has shape \(2,\) for u of shape \(1,\)"):
        times.observe(torch.zeros(1), torch.zeros(2))
    with pytest.raises(ValueError, match=r"adaptive has 32 intervals for steps=20: give at most 20"):
        DiscreteBound(Uniform(2), 20, adaptive=AdaptiveTimes())


def run():
    config = load_config(ROOT / "configs" / "jump" / "digits.py")
    config.network = {"name": "TokenTransformer", "width": 16, "depth": 1, "heads": 2, "embedding_size": 16}
    config.objective.adaptive = {"name": "AdaptiveTimes", "bins": 4, "history": 1}
    config.training.update({"batch_size": 8, "preview_every": 0})
    made = Experiment.from_config(config)
    return Trainer(made, Group(0, 1, made.device))


def test_training_goes_on_where_it_stopped(tmp_path):
    whole, first, second = run(), run(), run()
    advance(whole, 3)
    assert float(whole.experiment.objective.adaptive.probabilities().std()) > 0
    advance(first, 2)
    path = save_checkpoint(
        tmp_path, first.trained, first.averages, first.optimizer, 2, "", 3, facts=first.facts(), learned=first.learned()
    )
    second.load(last_checkpoint(path.parent))
    advance(second, 1)
    assert same(everything(whole), everything(second))
