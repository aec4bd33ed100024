"""MALA and underdamped Langevin dynamics against closed forms.

A step of underdamped Langevin dynamics is linear for Gaussian p_t. Its matrix is read off the step itself, so covariances
after any number of steps, and in the limit, have no statistical error. A Metropolis step is checked by detailed balance.
"""

from __future__ import annotations

import math

import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.noise import NoiseSource
from scoresde.samplers import AnnealedLangevin, PredictorCorrector, ReverseDiffusion, check
from scoresde.samplers.base import CountedScore
from scoresde.samplers.grid_sampler import Model
from scoresde.samplers.instants import Instant, Interval
from scoresde.samplers.predictor_corrector import MALA, UnderdampedLangevin
from scoresde.samplers.predictor_corrector.underdamped import Momentum
from scoresde.sde import VESDE, VPSDE, CriticallyDampedLangevin, MatrixSDE
from tests.compatibility import vp_as_matrices

F64 = torch.float64
NAN = math.nan


def normal(shape, purpose="x"):
    return NoiseSource.of(2, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=F64)


def level(rows: int, index: int = 0, time: float = 0.5) -> Interval:
    """A level with sigma = 1 and no contraction."""
    at = Instant(NAN, NAN, NAN, NAN, NAN, NAN, torch.full((rows,), time, dtype=F64), torch.tensor(time))
    return Interval(index, at, at, NAN, 1.0, NAN, 1.0)


class Normal:
    """N(0, variance) in every coordinate, at every time."""

    def __init__(self, variance):
        self.variance = torch.as_tensor(variance, dtype=F64)

    def __call__(self, x, t):
        return -x / self.variance.to(x)

    def energy(self, x, t):
        return 0.5 * (x**2 / self.variance.to(x)).reshape(len(x), -1).sum(1)


def model_of(score) -> Model:
    return Model(CountedScore(score), None)


# --- underdamped Langevin dynamics: exact propagation --------------------------------------------------------------


def underdamped_map(corrector, variance):
    """The map of (x, v), (d, 2, 2), and its factor of the noise, (d, 2), for each coordinate with its own variance."""
    d = len(variance)
    x, v, z = (torch.eye(3, dtype=F64)[:, k : k + 1].expand(3, d) for k in range(3))
    moved, _, past = corrector.step(model_of(Normal(variance)), x, level(3, 1), z, Momentum(0, x, v, x))
    out = torch.stack((moved, past.v), 2).permute(1, 2, 0)  # (d, out, in)
    return out[..., :2], out[..., 2]


def overdamped_map(corrector, variance):
    d = len(variance)
    x, z = (torch.eye(2, dtype=F64)[:, k : k + 1].expand(2, d) for k in range(2))
    moved, *_ = corrector.step(model_of(Normal(variance)), x, level(2), z, None)
    return moved[0, :, None, None], moved[1, :, None]


def covariance_after(steps, linear, noise, start):
    for _ in range(steps):
        start = linear @ start @ linear.mT + noise[:, :, None] * noise[:, None, :]
    return start


def kl(variance, wanted):
    ratio = variance / wanted
    return float(0.5 * (ratio - 1.0 - ratio.log()).sum())


MODES = 100.0 / torch.arange(1, 65, dtype=F64) ** 2 + 0.01
"""Variances of 64 modes, from 0.034 to 100."""
SNR = float((MODES.min() / 8.0).sqrt())
"""An eighth of the largest stable size of overdamped steps: e = min(variance) / 4."""


def kl_after(steps, corrector):
    if isinstance(corrector, UnderdampedLangevin):
        linear, noise = underdamped_map(corrector, MODES)
        start = torch.diag_embed(torch.tensor([100.0, 1.0], dtype=F64).expand(64, 2))
    else:
        linear, noise = overdamped_map(corrector, MODES)
        start = torch.full((64, 1, 1), 100.0, dtype=F64)
    return kl(covariance_after(steps, linear, noise, start)[:, 0, 0], MODES)


def test_the_momentum_reaches_ill_conditioned_distributions_faster():
    """KL from N(0, 100 I) after 50 and 200 steps, for the same snr: the figures of docs/samplers.md."""
    langevin = AnnealedLangevin(SNR)
    slow, slower = kl_after(50, langevin), kl_after(200, langevin)
    assert (slow, slower) == (pytest.approx(237.9, rel=1e-3), pytest.approx(22.48, rel=1e-3))
    fast, faster = (kl_after(n, UnderdampedLangevin(SNR, friction=c)) for n, c in ((50, 1.2), (200, 0.5)))
    assert (fast, faster) == (pytest.approx(3.707, rel=1e-3), pytest.approx(2.465e-4, rel=1e-3))
    assert fast < slow / 20 and faster < slower / 20


@pytest.mark.parametrize("friction", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("snr", [0.05, 0.2, 0.09])
def test_the_stationary_variance_has_no_error(snr, friction):
    """For every stable step, h < 2 std. Overdamped steps have the variance s^2 / (1 - e / (2 s^2))."""
    variance = torch.tensor([0.2, 1.0, 9.0], dtype=F64)
    linear, noise = underdamped_map(UnderdampedLangevin(snr, friction=friction), variance)
    eye = torch.eye(4, dtype=F64)
    for one, b, s2 in zip(linear, noise, variance, strict=True):
        found = torch.linalg.solve(eye - torch.kron(one, one), torch.outer(b, b).reshape(4))
        assert float(found[0]) == pytest.approx(float(s2), rel=1e-9)
    linear, noise = overdamped_map(AnnealedLangevin(snr), variance)
    found = noise[:, 0] ** 2 / (1.0 - linear[:, 0, 0] ** 2)
    assert torch.allclose(found, variance / (1.0 - snr**2 / variance), rtol=1e-12)


def test_for_large_friction_a_step_is_langevin_s_with_the_mean_of_two_noises():
    corrector, x, z = UnderdampedLangevin(0.3, friction=1e3), normal((5, 2)), normal((5, 2), "z")
    e, before = 2.0 * 0.3**2, normal((5, 2), "before")
    model = model_of(lambda x, t: -x.tanh())
    past = Momentum(0, x, before - 0.5 * math.sqrt(2.0 * e) * x.tanh(), -x.tanh())
    moved, mean, _ = corrector.step(model, x, level(5), z, past)
    assert torch.allclose(moved, x - e * x.tanh() + math.sqrt(2.0 * e) * (z + before) / 2.0, rtol=1e-12)
    assert mean is moved


def test_the_momentum_continues_from_step_to_step_and_from_level_to_level():
    """A run equals BAOAB written out, with the score evaluated wherever it is used."""
    sde, snr, friction, steps = VESDE(0.1, 5.0), 0.2, 0.7, 2
    score = GaussianMixture([[1.0, 2.0], [-1.0, 0.0]], 0.4).score(sde)
    times = torch.tensor([0.6, 0.5, 0.4, 0.3], dtype=F64)
    start = normal((4, 2))
    sampler = PredictorCorrector(None, UnderdampedLangevin(snr, steps, friction=friction), steps=times)
    result = sampler(sde, score, (4, 2), start=start, seed=5)
    x, v, c = start, None, math.exp(-2.0 * snr * friction)
    for k in range(6):
        t = times[k // steps].expand(4)
        z = NoiseSource.of(5, 4).normal((2,), step=k, purpose="corrector", dtype=F64)
        h = 2.0 * snr * float(sde.sigma(t[0]))
        if v is None:
            v = z
        else:
            v = v + h / 2 * score(x, t)
            x = x + h / 2 * v
            v = c * v + (1 - c**2) ** 0.5 * z
        x = x + h / 2 * v
        v = v + h / 2 * score(x, t)
    assert torch.allclose(result.samples, x, rtol=1e-12)
    assert result.nfe == 3 * (steps + 1) - 1 and result.acceptance is None


# --- MALA ----------------------------------------------------------------------------------------------------------

FOUR = GaussianMixture([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]], 0.6, [0.1, 0.2, 0.3, 0.4])


def proposed(model, corrector, x, z):
    """The proposal from x with noise z, and the probability of its acceptance. The uniform number is almost 0."""
    draws = torch.stack((z, torch.full_like(z, -30.0)))
    y, *_ = corrector.step(model, x, level(len(x)), draws, None)
    return y, model.counted.acceptance[-1]


def imbalance(score, corrector, factor: float = 1.0) -> float:
    """Largest relative difference of p(x) N(z) alpha(x, y) and p(y) N(z') alpha(y, x), where z' leads from y to x."""
    x, z = 2.0 * normal((200, 2)), normal((200, 2), "z")
    t, e = torch.full((200,), 0.5, dtype=F64), 2.0 * corrector.snr**2
    model = model_of(score)
    y, there = proposed(model, corrector, x, z)
    back = -z - math.sqrt(0.5 * e) * (score(x, t) + score(y, t))
    home, again = proposed(model, corrector, y, back)
    assert torch.allclose(home, x, rtol=1e-9, atol=1e-9)
    one = -score.energy(x, t) / factor - 0.5 * (z**2).sum(1) + there.log()
    two = -score.energy(y, t) / factor - 0.5 * (back**2).sum(1) + again.log()
    assert 0.2 < float(there.mean()) < 0.98
    return float((one - two).abs().max())


def test_detailed_balance():
    """On a mixture of four components. With the energies of another temperature it fails."""
    score = FOUR.score(VESDE(0.01, 5.0))
    assert imbalance(score, MALA(0.5)) < 1e-9
    assert imbalance(score, MALA(0.5), factor=1.1) > 0.1


def stationary(corrector, chains=5000, d=8):
    """Mean of x^2 over the second half of 60 steps from N(0, 1.5^2 I), and the result. p_t is N(0, I) at all times."""
    seen = []

    class Watched(type(corrector)):
        def step(self, *args):
            out = super().step(*args)
            seen.append(float((out[0].double() ** 2).mean()))
            return out

    sde = VPSDE()
    times = torch.tensor([0.5, 0.499999], dtype=F64)
    sampler = PredictorCorrector(None, Watched(corrector.snr, 60), steps=times)
    start = 1.5 * NoiseSource.of(9, chains).normal((d,), step=0, purpose="start", dtype=torch.float32)
    result = sampler(sde, Normal(1.0), (chains, d), start=start)
    return sum(seen[30:]) / 30, result


def test_the_stationary_variance_of_mala():
    """1 within 1 % for e = 1/4, where unadjusted steps are 14 % off, as their closed form 1 / (1 - e / 2) says.

    The standard error of the mean is about 0.4 %, so a correct sampler fails with a probability of about 1 %; the seed is fixed.
    """
    snr = math.sqrt(0.125) / float(VPSDE().sigma(torch.tensor(0.5)))
    plain, _ = stationary(AnnealedLangevin(snr))
    assert plain == pytest.approx(1.0 / (1.0 - 0.125), rel=0.01)
    found, result = stationary(MALA(snr))
    assert found == pytest.approx(1.0, rel=0.01)
    assert result.acceptance.shape == (60, 5000) and result.nfe == 61
    assert 0.4 < float(result.acceptance.mean()) < 0.95


def test_a_missing_acceptance_step_is_seen():
    """Planted error: all proposals are accepted."""

    class Always(MALA):
        def step(self, model, x, interval, z, past):
            return super().step(model, x, interval, torch.stack((z[0], torch.full_like(z[0], -30.0))), past)

    snr = math.sqrt(0.125) / float(VPSDE().sigma(torch.tensor(0.5)))
    assert stationary(Always(2.0 * snr), 500)[0] > 1.2


@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)])
def test_events_of_any_shape(event):
    """The same samples alone and in a batch, for all steps, with a predictor in between; and their probabilities."""
    sampler = PredictorCorrector(ReverseDiffusion(), MALA(0.3, steps=2), steps=5)
    whole = sampler(VPSDE(), Normal(1.0), (4, *event), seed=3)
    alone = sampler(VPSDE(), Normal(1.0), (1, *event), seed=3, first=2)
    assert torch.allclose(whole.samples[2:3], alone.samples, atol=1e-6)
    assert torch.allclose(whole.acceptance[:, 2:3], alone.acceptance, atol=1e-5)
    assert whole.acceptance.shape == (10, 4) and whole.nfe == 5 * (3 + 1)


@pytest.mark.parametrize("corrector", [MALA(0.3, steps=2), UnderdampedLangevin(0.3, steps=2)], ids=["MALA", "BAOAB"])
def test_linear_maps_give_the_same_steps(corrector):
    """A process written with matrices uses the general loop."""
    mixture = GaussianMixture([[1.0, 0.5, 0.0]], 0.5)
    sde, maps = VPSDE(), vp_as_matrices((3,))
    assert isinstance(maps, MatrixSDE)
    sampler = PredictorCorrector(ReverseDiffusion(), corrector, steps=6)
    one, two = (sampler(p, mixture.score(p), (5, 3), dtype=F64, seed=1) for p in (sde, maps))
    assert torch.allclose(one.samples, two.samples, rtol=1e-6, atol=1e-8)
    assert one.nfe == two.nfe


def test_a_process_with_velocities():
    """MALA keeps the distribution of a state of data and velocity: second moments of 20,000 states, to 3 %."""
    sde, mixture = CriticallyDampedLangevin(), GaussianMixture([[1.0], [-1.0]], 0.3)
    n, time = 20_000, torch.tensor(0.4, dtype=F64)
    x0 = mixture.sample(n, dtype=F64)
    start = sde.marginal_sample(x0, time.expand(n), NoiseSource.of(4, n), step=0)
    sampler = PredictorCorrector(None, MALA(0.5, steps=10), steps=torch.tensor([0.4, 0.399999], dtype=F64))
    result = sampler(sde, mixture.score(sde), (n, 1), start=start, seed=2)
    before, after = (x.mT @ x / n for x in (start, result.state))
    assert torch.allclose(before, after, rtol=0.03, atol=0.03)
    assert 0.3 < float(result.acceptance.mean()) < 0.99


@pytest.mark.parametrize("corrector", [MALA(0.2), UnderdampedLangevin(0.1)], ids=["MALA", "BAOAB"])
def test_the_check_of_samplers_passes(corrector):
    report = check(
        lambda n: PredictorCorrector(ReverseDiffusion(), corrector, steps=n),
        VPSDE(),
        counts=(8, 12, 16, 24, 48),
        samples=500,
    )
    assert report.passed, str(report)


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_score_without_energy_is_refused():
    with pytest.raises(TypeError, match=r"score=.* has no energy\(x, t\).*EnergyModel.*UnderdampedLangevin"):
        PredictorCorrector(None, MALA(), steps=3)(VPSDE(), lambda x, t: -x, (2, 2))


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda x, t: (x**2).sum(), r"energy returned shape \(\) for a batch of 2: give \(2,\)"),
        (lambda x, t: (x.detach() ** 2).sum(1), r"energy has no graph to x"),
    ],
)
def test_a_wrong_energy_is_refused(energy, message):
    score = Normal(1.0)
    score.energy = energy
    with pytest.raises(ValueError, match=message):
        PredictorCorrector(None, MALA(), steps=3)(VPSDE(), score, (2, 2))


def test_an_energy_that_is_not_a_number_is_reported():
    score = Normal(1.0)
    score.energy = lambda x, t: (x**2).sum(1) * torch.where(torch.arange(len(x)) == 1, math.nan, 1.0)
    sampler = PredictorCorrector(None, MALA(), steps=3)
    with pytest.raises(FloatingPointError):
        sampler(VPSDE(), score, (3, 2))
    assert sampler(VPSDE(), score, (3, 2), allow_failed=True).failed.tolist() == [False, True, False]


@pytest.mark.parametrize("friction", [0.0, -1.0, math.nan, 2e3])
def test_a_wrong_friction_is_refused(friction):
    with pytest.raises(ValueError, match="friction="):
        UnderdampedLangevin(friction=friction)
