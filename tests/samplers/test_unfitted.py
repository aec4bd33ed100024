"""Samplers of configs that are fitted to a model first, and the files of their networks."""

from __future__ import annotations

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.networks import MLP
from scoresde.samplers import DDIM, Ancestral, Fast
from scoresde.samplers.fitted import DDSS, LevelAdjustedDDIM, LevelNetwork, NoiseEstimation, UnfittedSampler
from scoresde.schedules import BDDM, NetworkGrid, StepNetwork, fit_step_network, network_grid
from scoresde.score import ScoreModel
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin

SDE = VPSDE()
DATA = GaussianMixture([[1.0, -1.0], [-1.0, 1.0]], 0.3)
X = DATA.sample(64)


def small(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP((2,), width=8, depth=1)


def model(seed=0):
    return ScoreModel(small(seed), SDE).eval()


def unfitted(sampler=None):
    given = {} if sampler is None else {"sampler": sampler}
    return BDDM(small(), 3, **given, updates=3, batch_size=16, events=64, t_min=0.01)


def test_bddm_is_its_two_functions_with_the_sampler():
    score, plan = model(), unfitted(Ancestral(variance="lower", denoise=False))
    before = {name: value.clone() for name, value in plan.network.state_dict().items()}
    fitted = plan.prepared(SDE, score, (2,), data=X)
    phi = fit_step_network(SDE, score, X, small(), updates=3, batch_size=16, t_min=0.01)
    grid = network_grid(SDE, score, phi, X, 3, batch_size=16, t_min=0.01)
    assert fitted == Ancestral(3, variance="lower", grid=grid, denoise=False)
    assert all(torch.equal(value, before[name]) for name, value in plan.network.state_dict().items())


def test_the_file_of_a_grid_gives_the_same_sampler_and_refuses_another_model(tmp_path):
    score, plan = model(), unfitted()
    fitted = plan.prepared(SDE, score, (2,), data=X)
    plan.save(fitted, tmp_path / "grid.safetensors")
    loaded = plan.load(tmp_path / "grid.safetensors")
    assert loaded == fitted and isinstance(loaded.grid, NetworkGrid)
    loaded(SDE, score, (3, 2))
    with pytest.raises(
        ValueError, match=r"grid=NetworkGrid was measured with weights of digest \w{16}, and score is a ScoreModel"
    ):
        loaded(SDE, model(1), (3, 2))
    with pytest.raises(ValueError, match="is not what this grid was made for, VPSDE"):
        loaded(VPSDE(beta_max=10.0), ScoreModel(small(), VPSDE(beta_max=10.0)), (3, 2))
    (tmp_path / "other").write_bytes(b"not a file")
    with pytest.raises(ValueError, match=r"other is damaged or not a grid of scoresde"):
        plan.load(tmp_path / "other")
    with pytest.raises(ValueError, match=r"fitted=DDIM.* is not allowed: give the result of prepared"):
        plan.save(DDIM(3), tmp_path / "grid")


class Conditional(torch.nn.Module):
    """The score of N(y, 1/4) for each row y, which checks that noisy data has its own row."""

    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t, y):
        alpha, sigma = SDE.alpha(t)[:, None], SDE.sigma(t)[:, None]
        assert bool(((x - alpha * y).abs() < 8.0 * sigma + 1e-3).all())
        return (alpha * y + self.shift - x) / (alpha**2 / 4 + sigma**2)


def test_a_grid_is_trained_with_the_conditions_of_the_events():
    """Events are 100 apart: with the condition of another event the assertion of the score would fail."""
    from scoresde.conditions import given

    y = 100.0 * torch.arange(64.0)[:, None].expand(64, 2)
    score = given(Conditional(), {"y": y})
    phi = fit_step_network(SDE, score, y + 0.0, small(), updates=2, batch_size=16, t_min=0.01)
    phi.check_model(SDE, given(Conditional(), {"y": y[:5]}))


def test_files_of_networks_refuse_damage_another_structure_and_another_model(tmp_path):
    score, file = model(), tmp_path / "phi.safetensors"
    phi = fit_step_network(SDE, score, X, small(), updates=2, batch_size=16)
    phi.save(file)
    loaded = StepNetwork.load(file, small(5))
    t = torch.full((64,), 0.5)
    assert torch.equal(loaded.ratio(SDE, X, t), phi.ratio(SDE, X, t))
    loaded.check_model(SDE, score)
    with pytest.raises(
        ValueError, match=r"trained for another score, of digest \w{16}, and this one has digest \w{16}: give the"
    ):
        network_grid(SDE, model(1), loaded, X, 3)
    with pytest.raises(ValueError, match="and this one has digest of no network"):
        network_grid(SDE, DATA.score(SDE), loaded, X, 3)
    with pytest.raises(
        ValueError, match=r"does not have the structure of .*phi.safetensors: .* has shape \(9.*in the file \(8"
    ):
        StepNetwork.load(file, MLP((2,), width=9, depth=1))
    with pytest.raises(
        ValueError, match=r"phi\.safetensors is damaged or not a LevelNetwork of scoresde: StepNetwork of format 1"
    ):
        LevelNetwork.load(file, small())
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"phi\.safetensors is damaged: its weights do not have the digest"):
        StepNetwork.load(file, small())
    with pytest.raises(FileNotFoundError):
        StepNetwork.load(tmp_path / "missing", small())


def test_noise_estimation_is_its_function_with_the_sampler_and_has_a_file(tmp_path):
    plan = NoiseEstimation(small(), 4, updates=2, batch_size=16, events=64, denoise=False)
    fitted = plan.prepared(SDE, model(), (2,), data=X)
    assert isinstance(fitted, LevelAdjustedDDIM) and not fitted.denoise
    plan.save(fitted, tmp_path / "levels")
    loaded = plan.load(tmp_path / "levels")
    assert torch.equal(loaded.network.log_noise(X), fitted.network.log_noise(X))
    assert torch.equal(loaded(SDE, model(), (3, 2)).samples, fitted(SDE, model(), (3, 2)).samples)
    with pytest.raises(ValueError, match=r"is not what network=LevelNetwork.* was trained for"):
        loaded(VESDE(), ScoreModel(small(), VESDE()), (3, 2))
    with pytest.raises(ValueError, match=r"fitted=DDIM.* is not allowed"):
        plan.save(DDIM(3), tmp_path / "levels")


@pytest.mark.parametrize("plan", [unfitted(), NoiseEstimation(small()), DDSS(2, batch_size=4, events=8)], ids=repr)
def test_what_is_not_fitted_draws_no_samples_and_needs_data(plan):
    assert isinstance(plan, UnfittedSampler) and isinstance(Fast(), UnfittedSampler)
    with pytest.raises(TypeError, match=r"is not fitted yet: call prepared\(sde, score"):
        plan(SDE, model(), (3, 2))
    with pytest.raises(TypeError, match="data is missing"):
        plan.prepared(SDE, model(), (2,))
    with pytest.raises(ValueError, match=r"data has events of shape \(2,\): event_shape is \(3,\)"):
        plan.prepared(SDE, model(), (3,), data=X)
    with pytest.raises(TypeError, match="sde="):
        plan(CriticallyDampedLangevin(), lambda x, t: -x, (3, 2))
