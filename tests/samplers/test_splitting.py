"""The symmetric splitting, by exact propagation of moments.

For data N(m, v) and the exact score a step is affine in the state and its noises, x -> M x + b + N z, read off by calling the
predictor on unit vectors; so the distribution of the sampler's output is known without sampling. Of systems.md, entry 44.
"""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.losses import DenoisingScoreMatching, UniformLogNoise
from scoresde.noise import NoiseSource
from scoresde.samplers import EulerMaruyama, PredictorCorrector
from scoresde.samplers.discretization import ExactTransitions
from scoresde.samplers.predictor_corrector import SymmetricSplitting
from scoresde.samplers.predictor_corrector.splitting import drift_of_covariance, prior_score, reversal
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, Shifted, SubVPSDE
from tests.params import whole

T_MIN = 1e-3
ONE = torch.ones((), dtype=torch.float64)
# the paper's rate for Langevin diffusion; a mild VP
SDES = {"cld": CriticallyDampedLangevin(mass=0.25, beta=4.0, gamma=0.04), "vp": VPSDE(0.1, 8.0)}


def distribution(sde, t, mean, std):
    """Mean (D,) and covariance (D, D) of the state at t for data N(mean, std^2)."""
    kernel, shape = sde.kernel(torch.as_tensor(t, dtype=torch.float64)), sde.state_shape((1,))
    start = sde.embed_data(ONE.reshape(1, 1)).flatten()
    unit = torch.eye(len(start), dtype=torch.float64).reshape(-1, *shape)
    a, c = kernel.mean(unit).flatten(1).mT, kernel.covariance(unit).flatten(1).mT
    return a @ start * mean, std**2 * torch.outer(a @ start, a @ start) + c


def propagated(sde, predictor, steps, mean, std, start):
    """Moments of the sampler's output from those at its start."""

    def score(x, t):
        m, v = distribution(sde, t, mean, std)
        return -torch.linalg.solve(v, (x.flatten(1) - m).mT).mT.reshape(x.shape)

    m, v = start
    d, draws, shape = len(m), predictor.draws_per_step, sde.state_shape((1,))
    unit = torch.eye(1 + d + draws * d, dtype=torch.float64)
    x0 = unit[:, 1 : 1 + d].reshape(-1, *shape)
    z = unit[:, 1 + d :].reshape(-1, draws, *shape).movedim(1, 0)
    z = z[0] if draws == 1 else z
    times = torch.linspace(sde.T, T_MIN, steps + 1, dtype=torch.float64)
    for step in ExactTransitions(steps, lambda *_: times).transitions(sde).steps(ONE):
        x = predictor.before_score(sde, step, x0, z)
        out = predictor.map_step(sde, step, x, score(x, step.t), z)[0].flatten(1)
        b, a, n = out[0], (out[1 : 1 + d] - out[0]).mT, (out[1 + d :] - out[0]).mT
        m, v = a @ m + b, a @ v @ a.mT + n @ n.mT
    return m, v


def error(sde, predictor, steps, mean=0.6, std=0.4):
    m, v = propagated(sde, predictor, steps, mean, std, distribution(sde, sde.T, mean, std))
    true_m, true_v = distribution(sde, T_MIN, mean, std)
    return float((m - true_m).abs().sum() + (v - true_v).abs().sum())


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n == "cld" else n for n in SDES])
def test_first_order(name):
    """Because of Euler's method for the score part the order is one, although the other part is exact."""
    counts = [100, 200, 400, 800] if whole() else [50, 100, 200, 400]
    y = torch.tensor([-math.log2(error(SDES[name], SymmetricSplitting(), n)) for n in counts])
    k = torch.arange(4.0) - 1.5
    slope = float((k * (y - y.mean())).sum() / (k**2).sum())
    assert 0.85 < slope < 1.3, slope


@pytest.mark.parametrize("steps, most", [(10, 0.1), (25, 0.5), (50, 0.75), (100, 1.0)])
def test_few_steps_against_euler_maruyama(steps, most):
    """Entry 44, x-variance 1/4 from the prior: relative errors .459/7.87, .168/.465, .086/.120 at 10, 25, 50 steps."""
    sde, figures = SDES["cld"], {10: (0.459, 7.87), 25: (0.168, 0.465), 50: (0.086, 0.120), 100: (0.0432, 0.0454)}
    root = sde.prior_root().m
    start = (torch.zeros(2, dtype=torch.float64), root @ root.mT)
    true = distribution(sde, T_MIN, 0.0, 0.5)[1][0, 0]
    found = [
        abs(float(propagated(sde, p, steps, 0.0, 0.5, start)[1][0, 0] / true) - 1)
        for p in (SymmetricSplitting(), EulerMaruyama())
    ]
    assert found == pytest.approx(figures[steps], rel=0.01)
    assert found[0] <= most * found[1]


@pytest.mark.parametrize("name", SDES)
def test_exact_in_the_stationary_distribution(name):
    """If the score is the prior's, one step from T to t_min keeps the prior up to rounding. Euler-Maruyama does not."""
    sde = SDES[name]
    shape = sde.state_shape((1,))
    rest = sde.prior_root().dense(shape)
    rest = rest @ rest.mT
    d = len(rest)
    unit = torch.eye(3 * d, dtype=torch.float64)
    x0, z = unit[:, :d].reshape(-1, *shape), unit[:, d:].reshape(-1, 2, *shape).movedim(1, 0)
    step = ExactTransitions(1).transitions(sde).steps(ONE)[0]

    def covariance(predictor, z):
        x = predictor.before_score(sde, step, x0, z)
        columns = predictor.map_step(sde, step, x, prior_score(sde, x), z)[0].flatten(1).mT
        a, n = columns[:, :d], columns[:, d:]
        return a @ rest @ a.mT + n @ n.mT

    assert torch.allclose(covariance(SymmetricSplitting(), z), rest, atol=1e-12)
    assert not torch.allclose(covariance(EulerMaruyama(), z[0]), rest, atol=1e-2)


def test_reversal_is_bayes():
    """Map and noise of the analytic part against the joint distribution of (x_s, x_t), and for Langevin diffusion
    against the forward
    kernel with the velocity's sign turned."""
    sde = SDES["cld"]
    s, t = 0.3 * ONE, 0.42 * ONE
    kernel, root = sde.transition(s, t), sde.prior_root()
    a, c, rest = kernel.a.m, kernel.noise.m @ kernel.noise.m.mT, root.m @ root.m.mT
    assert torch.allclose(a @ rest @ a.mT + c, rest, atol=1e-14)
    back = reversal(kernel, root)
    gain = rest @ a.mT @ torch.linalg.inv(a @ rest @ a.mT + c)
    assert torch.allclose(back.a.m, gain, atol=1e-13)
    assert torch.allclose(back.noise.m @ back.noise.m.mT, rest - gain @ a @ rest, atol=1e-13)
    turn = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert torch.allclose(back.a.m, turn @ a @ turn, atol=1e-13)
    assert torch.allclose(back.noise.m @ back.noise.m.mT, turn @ c @ turn, atol=1e-13)


@pytest.mark.parametrize("sde", [VESDE(), SubVPSDE()], ids=repr)
def test_a_nonstationary_process_is_refused(sde):
    assert drift_of_covariance(sde) > 1e-2
    with pytest.raises(ValueError, match="is not stationary in its prior"):
        PredictorCorrector(SymmetricSplitting(), steps=5)(sde, lambda x, t: -x, (2, 1))


@pytest.mark.parametrize(
    "sde",
    [*SDES.values(), CriticallyDampedLangevin(mass=2.0, beta=1.0), Shifted(SDES["cld"], torch.ones(2))],
    ids=repr,
)
def test_a_stationary_process_is_accepted(sde):
    assert drift_of_covariance(sde) < 1e-12
    SymmetricSplitting().check(sde)


def test_draws():
    """Draw k of a step has the key index * draws + k: samples do not depend on their batch, and the halves are independent."""
    sde, score = SDES["cld"], GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.2).score(SDES["cld"])
    sampler = PredictorCorrector(SymmetricSplitting(), steps=20)
    four = sampler(sde, score, (4, 1), seed=3)
    alone = sampler(sde, score, (1, 1), seed=3, first=2)
    assert torch.allclose(four.samples[2:3], alone.samples, atol=1e-5)
    assert four.nfe == 20
    seen = []

    class Recording(NoiseSource):
        def normal(self, shape, *, step, purpose, dtype):
            seen.append((purpose, step))
            return super().normal(shape, step=step, purpose=purpose, dtype=dtype)

    PredictorCorrector(SymmetricSplitting(), steps=2)(sde, score, (1, 1), noise=Recording(3, torch.arange(1)))
    assert seen == [("prior", 0), *(("predictor", k) for k in range(4))]


def test_mixture_is_reached():
    """Two sharp modes, from the prior: weights to 4.5 standard errors, spread to 5 %."""
    sde = SDES["cld"]
    data = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.2, torch.tensor([0.3, 0.7]))
    x = PredictorCorrector(SymmetricSplitting(), steps=200)(sde, data.score(sde), (2000, 1), seed=1).samples[:, 0]
    right = x > 0
    assert abs(float(right.double().mean()) - 0.7) < 4.5 * (0.7 * 0.3 / 2000) ** 0.5
    assert float(x[right].std()) == pytest.approx(0.2, rel=0.05)


def test_hybrid_score_matching_finds_the_velocity_score():
    """Entry 44: the velocity's score by denoising with v_0 integrated out is within 2 % of the closed form.

    For Gaussian data the score is linear, and its minimizer of the loss the solution of a regression on the loss's own draws.
    """
    sde, count, std = SDES["cld"], 2**17, 0.5
    objective = DenoisingScoreMatching(sde, "likelihood", times=UniformLogNoise(0.08, 12.0))
    x0 = std * torch.randn(count, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for time in (0.02, 0.1, 0.3):
        t = torch.full((count,), time, dtype=torch.float64)
        draw = objective.draw(x0, t=t, step=0)
        target = -sde.kernel(t).whiten_transposed(draw.noise)[:, 1]
        u = draw.x_t.flatten(1)
        fitted = torch.linalg.lstsq(u, target).solution[:, 0]
        covariance = distribution(sde, time, 0.0, std)[1]
        exact = -torch.linalg.inv(covariance)[1]
        off = fitted - exact
        relative = float(((off @ covariance @ off) / (exact @ covariance @ exact)).sqrt())
        assert relative < 0.02, (time, relative)
        best = objective.evaluate(lambda x, t, w=fitted: (x.flatten(1) @ w)[:, None, None].expand_as(x), draw).mean()
        closed = objective.evaluate(lambda x, t, w=exact: (x.flatten(1) @ w)[:, None, None].expand_as(x), draw).mean()
        assert best <= closed <= 1.001 * best
