"""Instants drawn in proportion to the root mean square of their losses."""

from __future__ import annotations

import pytest
import torch

from scoresde import VPSDE, DenoisingScoreMatching
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.folder.checkpoint import last_checkpoint, save_checkpoint
from scoresde.experiment.folder.tensor_file import CheckpointError
from scoresde.losses import ChainTimes, ImportanceTimes, VariationalLoss
from scoresde.score import GaussianVariance
from tests.experiment.training import advance, everything, experiment, same, trainer
from tests.losses.common import F64, U, gaussian_score, normal

CHAIN = VPSDE().discretize(25)
KIND = {
    "model": "{'name': 'LearnedVarianceModel', 'prediction': 'noise', 'data_std': 0.75, 'steps': 25}",
    "objective": "{'name': 'HybridLoss', 'times': {'name': 'ImportanceTimes', 'history': 1}}",
    "training__preview_every": 0,
}


class Reference:
    """The resampler of the reference implementation, written as a loop over the losses."""

    def __init__(self, steps: int, history: int, uniform: float) -> None:
        self.kept, self.history, self.uniform = [[] for _ in range(steps)], history, uniform

    def observe(self, index: list[int], losses: list[float]) -> None:
        for i, loss in zip(index, losses, strict=True):
            self.kept[i] = [*self.kept[i], loss][-self.history :]

    def probabilities(self) -> torch.Tensor:
        n = len(self.kept)
        if any(len(row) < self.history for row in self.kept):
            return torch.full((n,), 1.0 / n, dtype=F64)
        weights = torch.tensor(self.kept, dtype=F64).square().mean(1).sqrt()
        return weights / weights.sum() * (1.0 - self.uniform) + self.uniform / n


@pytest.mark.parametrize("batch", [3, 40, 300])
def test_the_probabilities_are_those_of_the_reference(batch: int) -> None:
    """Also where a batch has more losses of an instant than the history holds."""
    times, reference = ImportanceTimes(3, 0.01), Reference(25, 3, 0.01)
    generator = torch.Generator().manual_seed(batch)
    for step in range(900 // batch):
        index = torch.randint(25, (batch,), generator=generator)
        losses = torch.rand(batch, generator=generator) * (1.0 + index) + step
        times.observe(CHAIN, CHAIN.time(index).float(), losses)
        reference.observe(index.tolist(), losses.tolist())
        torch.testing.assert_close(times.probabilities(CHAIN), reference.probabilities())
    assert float(times.probabilities(CHAIN).std()) > 0


def learned() -> ImportanceTimes:
    times = ImportanceTimes(1, 0.0)
    times.observe(CHAIN, CHAIN.time(torch.arange(25)), torch.linspace(1.0, 9.0, 25))
    return times


def test_instants_occur_with_their_probabilities() -> None:
    times = learned()
    counts = torch.bincount(CHAIN.index(times.times(CHAIN, U)), minlength=25) / len(U)
    wanted = times.probabilities(CHAIN)
    assert ((counts - wanted).abs() < 4.0 * (wanted / len(U)).sqrt()).all()
    t = CHAIN.time(torch.arange(25))
    torch.testing.assert_close(times.density(CHAIN, t), 25 * wanted)
    uniform = ImportanceTimes()
    assert torch.equal(uniform.times(CHAIN, U), ChainTimes().times(CHAIN, U))  # until every instant has its history


def test_the_mean_of_the_loss_does_not_change() -> None:
    x, score = normal((20000, 1)), gaussian_score(CHAIN)
    for make in (
        lambda times: DenoisingScoreMatching(CHAIN, times=times),
        lambda times: VariationalLoss(CHAIN, variance=GaussianVariance(0.6), times=times),
    ):
        one, other = make(None)(score, x), make(learned())(score, x)
        error = float((one.var() / len(one) + other.var() / len(other)).sqrt())
        assert abs(float(one.mean() - other.mean())) < 4.0 * error


def test_its_own_losses_make_the_second_moment_smaller() -> None:
    """The second moment falls to about (sum_i sqrt(E L_i^2) / N)^2, here to less than half."""
    x, score, times = normal((20000, 1)), gaussian_score(CHAIN), ImportanceTimes(50)
    loss = VariationalLoss(CHAIN, variance=GaussianVariance(0.6), times=times)
    before = loss(score, x)
    for step in range(3):
        draw = loss.draw(x[:5000], step=step)
        times.observe(CHAIN, draw.t, loss.evaluate(score, draw) * times.density(CHAIN, draw.t))
    after = loss(score, x)
    assert float(after.square().mean()) < 0.5 * float(before.square().mean())


def test_the_state_is_restored() -> None:
    times = learned()
    again = ImportanceTimes(1, 0.0)
    again.load(times.state())
    for one in (times, again):
        one.observe(CHAIN, CHAIN.time(torch.tensor([3, 3, 4])), torch.tensor([7.0, 8.0, 9.0]))
    assert torch.equal(times.probabilities(CHAIN), again.probabilities(CHAIN))
    with pytest.raises(ValueError, match="has nothing: give losses and counts"):
        again.load({})
    with pytest.raises(ValueError, match=r"losses of shape \(25, 2\)"):
        again.load({"losses": torch.zeros(25, 2), "counts": torch.zeros(25)})
    with pytest.raises(ValueError, match="30 instants: give the history of 25"):
        again.load({"losses": torch.zeros(30, 1), "counts": torch.zeros(30)})
    with pytest.raises(ValueError, match="losses"):
        again.load({"losses": torch.full((25, 1), torch.nan), "counts": torch.zeros(25)})


def test_refusals() -> None:
    with pytest.raises(TypeError, match="ImportanceTimes needs a chain"):
        ImportanceTimes().times(VPSDE(), U)
    with pytest.raises(ValueError, match=r"has 30 instants, .* has the history of 25"):
        learned().probabilities(VPSDE().discretize(30))
    with pytest.raises(ValueError, match=r"losses has shape \(2,\) for t of shape \(1,\)"):
        learned().observe(CHAIN, torch.zeros(1), torch.zeros(2))
    with pytest.raises(ValueError, match="losses"):
        learned().observe(CHAIN, torch.zeros(1), torch.full((1,), torch.nan))
    with pytest.raises(ValueError, match="history"):
        ImportanceTimes(0)
    with pytest.raises(ValueError, match="uniform"):
        ImportanceTimes(uniform=1.0)


class TestTraining:
    def test_a_step_adds_its_losses_and_a_bad_one_does_not(self) -> None:
        run = trainer(**KIND)
        step = advance(run)
        index = run.experiment.objective.sde.index(step.losses["objective"].t)
        counts = run.learned()["times.objective.counts"]
        assert torch.equal(counts, torch.bincount(index, minlength=25))
        name = "benchmarks.bad_losses:BadHybrid"
        bad = trainer(
            **{**KIND, "objective": f"{{'name': '{name}', 'times': {{'name': 'ImportanceTimes'}}, 'steps': (1,)}}"}
        )
        advance(bad)
        before = bad.learned()
        assert advance(bad).skipped and same(before, bad.learned())

    def test_it_goes_on_where_it_stopped(self, tmp_path) -> None:
        whole, first = trainer(**KIND), trainer(**KIND)
        for run in (whole, first):  # every instant has a loss, so that the next steps draw by importance
            t = whole.experiment.objective.sde.time(torch.arange(25))
            run.experiment.objective.times.observe(run.experiment.objective.sde, t, torch.linspace(1.0, 9.0, 25))
        advance(whole, 4)
        advance(first, 2)
        path = save_checkpoint(
            tmp_path,
            first.trained,
            first.averages,
            first.optimizer,
            2,
            "",
            3,
            facts=first.facts(),
            learned=first.learned(),
        )
        second = trainer(**KIND)
        second.load(last_checkpoint(path.parent))
        advance(second, 2)
        assert same(everything(whole), everything(second))

    def test_a_checkpoint_without_the_history_is_refused(self, tmp_path) -> None:
        run = trainer(**KIND)
        advance(run)
        save_checkpoint(tmp_path, run.trained, run.averages, run.optimizer, 1, "", 3, facts=run.facts())
        with pytest.raises(CheckpointError, match=r"the history of HybridLoss cannot be restored"):
            trainer(**KIND).load(last_checkpoint(tmp_path))

    def test_the_objective_of_a_config_has_the_transform_of_the_data(self) -> None:
        made = experiment(**KIND)
        assert made.objective.quantized == made.data.transform and made.model.network.outputs == 2

    def test_a_config_whose_model_has_no_variance_is_refused(self) -> None:
        for options, message in (
            ({"model": "{'prediction': 'noise', 'steps': 25}"}, "config.objective: variance='model' needs a score"),
            (
                {"model": "{'name': 'LearnedVarianceModel'}"},
                "config.objective: HybridLoss .*is not a chain.*model.steps",
            ),
        ):
            with pytest.raises(ConfigError, match=message):
                experiment(**{**KIND, **options})
