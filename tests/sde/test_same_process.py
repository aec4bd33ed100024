"""The process of a score matches if it is the same object, an equal one, or a copy with equal coefficients."""

from __future__ import annotations

import copy

import pytest
import torch

from scoresde.ema import EMA
from scoresde.losses import DenoisingScoreMatching, UniformLogNoise
from scoresde.networks import MLP
from scoresde.score import ScoreModel
from scoresde.sde import (
    VESDE,
    VPSDE,
    BlurringSDE,
    CriticallyDampedLangevin,
    LearnedSNRSDE,
    MatrixSDE,
    NonlinearSDE,
    Shifted,
    check_same_process,
)


def g(t):
    return torch.ones_like(t)


ONE, TWO = torch.eye(1), torch.tensor([0.5, 1.0])


def accepted(here, there):
    class Score:
        sde = there

        def __call__(self, x, t):
            raise AssertionError("not to be called")

    try:
        check_same_process(here, Score())
    except ValueError as error:
        assert "is not the same process" in str(error)
        return False
    return True


@pytest.mark.parametrize(
    "make",
    [
        lambda: VPSDE(0.2, 9.0),
        lambda: MatrixSDE(lambda t: -(1.0 + t)[..., None, None] * torch.eye(2).double(), torch.eye(2)),
        lambda: BlurringSDE((3,), blur=2.0),
        lambda: Shifted(VPSDE(), TWO),
        lambda: Shifted(CriticallyDampedLangevin(), lambda t: torch.stack((t, 1.0 - t), -1)),
        lambda: LearnedSNRSDE(),
    ],
)
def test_two_equal_processes_match(make):
    assert accepted(make(), make())
    one = make()
    assert accepted(one, copy.deepcopy(one))


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (VPSDE(), VPSDE(0.1, 19.0)),
        (VPSDE(), VESDE()),
        (MatrixSDE(-ONE, ONE), MatrixSDE(-1.01 * ONE, ONE)),
        (MatrixSDE(-ONE, ONE), MatrixSDE(-ONE, 1.01 * ONE)),
        (MatrixSDE(-ONE, ONE), MatrixSDE(-ONE, ONE, prior_covariance=ONE)),
        (MatrixSDE(-ONE, ONE), MatrixSDE(-ONE, ONE, shift=torch.ones(1))),
        (MatrixSDE(-ONE, ONE, T=2.0), MatrixSDE(-ONE, ONE, T=1.0)),
        (MatrixSDE(-torch.eye(2), torch.eye(2)), MatrixSDE(-torch.eye(2), torch.eye(2), aux_std=0.9)),
        (BlurringSDE((3,), blur=2.0), BlurringSDE((3,), blur=2.1)),
        (BlurringSDE((3,)), BlurringSDE((4,))),
        (Shifted(VPSDE(), TWO), Shifted(VPSDE(), TWO + 0.01)),
        (Shifted(VPSDE(), TWO), Shifted(VPSDE(0.1, 19.0), TWO)),
        (Shifted(VPSDE(), TWO), VPSDE()),
        (NonlinearSDE(lambda x, t: -x, g), NonlinearSDE(lambda x, t: -x, g)),
    ],
)
def test_another_process_is_refused(here, there):
    assert not accepted(here, there) and not accepted(there, here)


def test_a_learned_process_and_its_average():
    """The copy in a weight average matches the process until one of them changes."""
    sde = LearnedSNRSDE()
    average = EMA(sde, decay=0.9)
    assert accepted(sde, average.module)
    with torch.no_grad():
        sde.w += 0.5
    assert not accepted(sde, average.module)


def test_the_process_of_a_model_always_matches():
    sde = LearnedSNRSDE()
    average = EMA(ScoreModel(MLP((2,), width=8, depth=1), sde))
    assert accepted(average.module.sde, average.module.sde)
    DenoisingScoreMatching(sde)(average.module, torch.zeros(3, 2), step=0)


def test_uniform_log_noise_needs_a_kernel():
    sde, distribution = NonlinearSDE(lambda x, t: -x, g), UniformLogNoise()
    for call in (distribution.times, distribution.density):
        with pytest.raises(TypeError, match="give times=UniformTime"):
            call(sde, torch.tensor([0.5]))
