"""The learned schedule: gradients, end points, and training of the variance, which keeps the mean."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scoresde.data import Digits
from scoresde.distributions import SmoothedEmpirical
from scoresde.losses import DenoisingScoreMatching
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.score import ScoreModel
from scoresde.sde import (
    LearnedSNRSDE,
    Schedule,
)
from tests.sde.schedules import F32, F64, LIGHT, scalar


def trainable(sde):
    return [p for p in sde.parameters() if p.requires_grad]


def test_a_learned_schedule_is_part_of_its_model():
    sde = LearnedSNRSDE(hidden=8)
    model = ScoreModel(MLP((2,), width=16, depth=1), sde)
    assert {id(p) for p in sde.parameters()} <= {id(p) for p in model.parameters()}
    assert model.sde is sde and "sde.a" in model.state_dict() and "LearnedSNRSDE" in repr(model)
    nn.init.normal_(model.network.last.weight, generator=torch.Generator().manual_seed(0))
    x0 = NoiseSource.of(0, 8).normal((2,), step=0, purpose="x", dtype=F32)
    DenoisingScoreMatching(sde, "likelihood", reduction="half_sum")(model, x0).mean().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in trainable(sde))
    assert all(p.grad is not None for p in model.network.parameters())
    assert sde.gamma_0.grad is None and sde.log_rise.grad is None


def test_learned_schedules_are_equal_only_if_they_are_one_object():
    one, other = LearnedSNRSDE(), LearnedSNRSDE()
    assert one == one and one != other and len({one, other}) == 2
    twin = copy.deepcopy(one)
    with torch.no_grad():
        twin.a += 1.0
    t = torch.tensor([0.3])
    assert not torch.equal(twin.sigma(t), one.sigma(t))
    twin.load_state_dict(one.state_dict())
    assert torch.equal(twin.sigma(t), one.sigma(t))


@pytest.mark.parametrize("method", ["alpha", "sigma", "drift_coefficient", "diffusion", "log_noise", "log_noise_slope"])
def test_all_parameters_of_a_learned_schedule_have_gradients(method):
    """The gradient compared with central differences, in float64."""
    sde, t = LearnedSNRSDE(hidden=4, train_ends=True).double(), scalar([0.2, 0.5, 0.9])
    with torch.no_grad():
        sde.b -= 5.0  # not at 20, where the softplus of torch becomes the identity
    call = getattr(sde, method)
    call(t).sum().backward()
    for p in sde.parameters():
        flat, found = p.data.reshape(-1), torch.zeros_like(p) if p.grad is None else p.grad
        found = found.reshape(-1)
        for k in range(len(flat)):
            values = []
            for step in (1e-5, -2e-5):
                flat[k] += step
                values.append(float(call(t).detach().sum()))
            flat[k] += 1e-5
            assert float(found[k]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)
    with torch.no_grad():
        assert not call(t).requires_grad


@LIGHT
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 5.0), dtype=st.sampled_from([F32, F64]))
def test_gamma_increases_between_its_ends_for_all_parameters(seed, scale, dtype):
    sde = LearnedSNRSDE(9.0, -4.0, hidden=8)
    with torch.no_grad():
        for p in trainable(sde):
            p += scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    t = torch.linspace(0, 1, 200, dtype=dtype)
    gamma = sde.gamma(t).detach()
    assert gamma.dtype == dtype and sde(t).shape == t.shape and sde.gamma(t[5]).shape == ()
    assert torch.allclose(gamma[[0, -1]], torch.tensor([-9.0, 4.0], dtype=dtype), atol=1e-5)
    assert bool((gamma.diff() >= (0.0 if dtype == F64 else -1e-5)).all())


def test_the_global_dtype_does_not_matter():
    torch.set_default_dtype(F64)
    try:
        sde = LearnedSNRSDE()
        assert {p.dtype for p in sde.parameters()} == {F32} and sde.sigma(torch.ones(2, dtype=F32)).dtype == F32
        assert Schedule(lambda t: torch.exp(-t), lambda t: t).diffusion(torch.ones(2, dtype=F32)).dtype == F32
    finally:
        torch.set_default_dtype(F32)


def test_the_initial_gamma_is_linear():
    t = torch.linspace(0, 1, 101)
    assert float((LearnedSNRSDE().gamma(t).detach() - (-13.3 + 18.3 * t)).abs().max()) < 0.01 * 18.3


def test_end_points_with_and_without_training():
    t = torch.tensor([0.0, 1.0])
    for train_ends in (True, False):
        sde = LearnedSNRSDE(6.0, -4.0, train_ends=train_ends)
        optimizer = torch.optim.SGD(trainable(sde), lr=0.1)
        sde.gamma(t).square().sum().backward() if train_ends else sde.gamma(t / 2).square().sum().backward()
        optimizer.step()
        moved = (sde.gamma(t) - torch.tensor([-6.0, 4.0])).abs().min()
        assert (float(moved.detach()) > 0.1) == train_ends


def test_training_of_the_variance_keeps_the_mean(worst):
    """On digits, with the exact score of 100 of them smoothed by 0.05 and the end points of VDM.

    The mean is taken at stratified times, the variance at independent ones; both on samples that were not used for
    training.
    """
    data = SmoothedEmpirical(Digits().train.encode(slice(100), seed=0), 0.05)
    sde = LearnedSNRSDE()

    def figures():
        loss, n = DenoisingScoreMatching(sde, "likelihood", reduction="half_sum", seed=9), 4000
        x0, t = data.sample(n, seed=3), (torch.randperm(n, generator=torch.Generator().manual_seed(0)) + 0.5) / n
        with torch.no_grad():
            mean = float(loss(data.score(sde), x0, t=t, step=0).mean())
            return mean, float(loss(data.score(sde), x0, step=1).reshape(-1, 50).mean(1).var())

    before = figures()
    loss = DenoisingScoreMatching(sde, "likelihood", reduction="half_sum")
    optimizer = torch.optim.Adam(trainable(sde), lr=0.05)
    for k in range(100):
        optimizer.zero_grad()
        (loss(data.score(sde), data.sample(48, seed=1, first=48 * k)) ** 2).mean().backward()
        optimizer.step()
    after = figures()
    worst("learned schedule on digits: variance left per batch", after[1] / before[1])
    worst("learned schedule on digits: change of the mean", abs(after[0] / before[0] - 1))
    assert after[1] < before[1] / 4 and abs(after[0] / before[0] - 1) < 0.01
