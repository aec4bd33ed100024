"""Networks trained by sliced score matching, against exact scores."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.losses import SlicedDraw, SlicedScoreMatching, UniformTime
from scoresde.sde import VESDE, NonlinearSDE
from tests.losses.common import F32, normal
from tests.sde import fokker_planck


def train(model, loss, pool, steps, batch, rate=1e-2):
    """Adam on a pool of draws, with a cosine decay of the learning rate to 0."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for k in range(steps):
        rows = torch.arange(k * batch, (k + 1) * batch) % len(pool.t)
        part = SlicedDraw(pool.t[rows], pool.x_t[rows], pool.directions[:, rows])
        value = loss.evaluate(model, part).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


class Net(torch.nn.Module):
    """x and, where ``timed``, t and its logarithm, through two hidden layers."""

    def __init__(self, d, width, timed):
        super().__init__()
        torch.manual_seed(0)
        self.timed, sizes = timed, (d + 2 * timed, width, width)
        layers = [torch.nn.Linear(sizes[0], width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, d))

    def forward(self, x, t):
        return self.layers(torch.cat((x, t[:, None], 0.5 * t[:, None].log()), 1) if self.timed else x)


@pytest.mark.long
def test_a_score_from_noised_samples_alone():
    """Four modes in the plane with noise of .5: E ||s - score||^2 / E ||score||^2 is at most .02 (.0065 when written)."""
    sde = VESDE(0.01, 10.0)
    means = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    data = GaussianMixture(means, 0.3, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    time = math.log(0.5 / 0.01) / math.log(1000.0)
    loss, model = SlicedScoreMatching(sde, seed=1), Net(2, 64, timed=False)
    pool = loss.draw(data.sample(131072, seed=3), t=torch.full((131072,), time), step=0)
    train(model, loss, pool, steps=1500, batch=512)

    t = torch.full((20000,), time)
    x = sde.perturb(data.sample(20000, seed=77), t, normal((20000, 2), "test", F32))
    exact = data.score(sde)(x, t)
    with torch.no_grad():
        error = float(((model(x, t) - exact) ** 2).sum() / (exact**2).sum())
    assert error < 0.02


@pytest.mark.long
def test_a_score_of_a_process_without_kernel():
    """dx = -x^3 dt + dw from two modes, against the Fokker-Planck equation.

    The density-weighted squared error divided by the squared score is at most .03 at every time (.011, .003, .004 when
    written). Half the score, the result of a loss without its half, has .25.
    """
    sde = NonlinearSDE(lambda x, t: -(x**3), lambda t: torch.ones_like(t), steps=100)
    loss, model = SlicedScoreMatching(sde, times=UniformTime(0.05), seed=1), Net(1, 48, timed=True)
    train(model, loss, loss.draw(fokker_planck.START.sample(262144, seed=3), step=0), steps=2000, batch=1024)

    x = torch.from_numpy(fokker_planck.GRID).float()[:, None]
    for t in (0.1, 0.3, 1.0):
        p = fokker_planck.density(t)
        exact = fokker_planck.score(p)
        with torch.no_grad():
            found = model(x, torch.full((len(x),), t)).numpy()[:, 0]
        errors = [(p * (k * found - exact) ** 2).sum() / (p * exact**2).sum() for k in (1.0, 0.5)]
        assert errors[0] < 0.03 and errors[1] > 0.15
