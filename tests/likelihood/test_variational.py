"""The variational bound of a chain with K steps, against closed forms, quadrature and DDPM's own formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde import GaussianMixture, Quantized, ScoreModel
from scoresde.likelihood import variational_bound
from scoresde.networks import MLP
from scoresde.noise import NoiseSource
from scoresde.samplers import Ancestral
from scoresde.score.data_variance import AnalyticVariance, GaussianVariance
from scoresde.score.denoising import DenoisingErrors, denoising_errors
from scoresde.score.step_terms import log_interval
from scoresde.sde import VESDE, VPSDE, CosineVPSDE, CriticallyDampedLangevin, SubVPSDE
from scoresde.solvers import SolverError

F64 = torch.float64
NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(8))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
STD = 0.5
DATA = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([STD], dtype=F64))
ENTROPY = 0.5 * math.log(2.0 * math.pi * math.e * STD**2)


TIMES_FROM_0 = torch.tensor([1e-4, 1e-3, 0.01, 0.1, 1.0], dtype=F64)


@dataclass(frozen=True)
class Nodes(NoiseSource):
    """Nodes of a quadrature in place of random numbers: every draw is the same."""

    def again(self, number: int) -> Nodes:
        return self

    def normal(self, event_shape, *, step: int, purpose: str, dtype) -> Tensor:
        return NODES.repeat(len(NODES))[self.indices].reshape(-1, *event_shape).to(dtype)


def mean_bound(sde, times, variance, **options) -> float:
    """The mean of the bound over Gaussian data and noise, by quadrature, which is exact for squares."""
    n = len(NODES)
    x, noise = STD * NODES.repeat_interleave(n)[:, None], Nodes(0, torch.arange(n * n))
    bound = variational_bound(sde, DATA.score(sde), x, times, variance=variance, noise=noise, replicates=1, **options)
    return float((bound.log_prob * WEIGHTS.repeat_interleave(n) * WEIGHTS.repeat(n)).sum())


def end(sde):
    """KL(p_T || prior) for this data, which no variance can remove."""
    t = torch.tensor(sde.T, dtype=F64)
    ratio = float((sde.alpha(t) * STD) ** 2 + sde.sigma(t) ** 2) / sde.prior_std() ** 2
    return 0.5 * (ratio - 1.0 - math.log(ratio))


@pytest.mark.parametrize("steps", [5, 10, 50, pytest.param(1000, marks=pytest.mark.long)])
@pytest.mark.parametrize("sde", [VPSDE(), CosineVPSDE(), SubVPSDE(), VESDE(0.01, 20.0)], ids=repr)
def test_the_bound_is_the_entropy_for_gaussian_data_with_its_own_variance(sde, steps: int) -> None:
    """The gap is below 1e-6 nats for every number of steps (it is the divergence of p_T from the prior)."""
    times = torch.linspace(1e-3, 1.0, steps + 1, dtype=F64)
    gap = -ENTROPY - mean_bound(sde, times, GaussianVariance(STD)) - end(sde)
    assert abs(gap) < 1e-6
    measured = AnalyticVariance.of(sde, DenoisingErrors.of_gaussian(sde, times, STD))
    assert abs(-ENTROPY - mean_bound(sde, times, measured) - end(sde)) < 1e-6


@pytest.mark.parametrize("steps", [5, 20, 100])
def test_chains_and_their_sub_sequences(steps: int) -> None:
    chain = VPSDE().discretize(100)
    times = chain.time(torch.linspace(0, 99, steps).round().long())
    assert abs(-ENTROPY - mean_bound(chain, times, GaussianVariance(STD)) - end(chain)) < 1e-6
    if steps == 100:
        assert mean_bound(chain, None, GaussianVariance(STD)) == mean_bound(chain, times, GaussianVariance(STD))


def test_other_variances_are_worse_and_more_steps_reduce_the_gap() -> None:
    """DDPM's upper variance beta_t (s = 1) and lower one (s = 0) for data with standard deviation 1/2."""
    sde, gaps = VPSDE(), {}
    for steps in (5, 10, 50, 200):
        times = torch.linspace(1e-3, 1.0, steps + 1, dtype=F64)
        gaps[steps] = [
            -ENTROPY - mean_bound(sde, times, GaussianVariance(s), decoder=GaussianVariance(STD)) - end(sde)
            for s in (1.0, 0.0)
        ]
    print(gaps)
    assert all(upper > 0.0 and lower > 0.0 for upper, lower in gaps.values())
    assert gaps[5][0] > 1.5 * gaps[10][0] > 5 * gaps[50][0] > 0.0 and gaps[200][0] < 8e-3


@dataclass(frozen=True)
class Signs(NoiseSource):
    """Noise whose squares have their mean, so that the control variate is 0."""

    def normal(self, event_shape, *, step: int, purpose: str, dtype) -> Tensor:
        return super().normal(event_shape, step=step, purpose=purpose, dtype=dtype).sign()


def test_a_step_is_ddpm_s_kullback_leibler_divergence() -> None:
    """Against means and variances of q(x_s | x_t, x_0) and p(x_s | x_t), as Ho et al. write them."""
    sde, x = VPSDE(), torch.tensor([[0.3, -0.8]], dtype=F64)
    times = torch.tensor([0.2, 0.5, 1.0], dtype=F64)
    score = lambda x, t: -x * 1.3 / (1.0 + t[:, None])  # noqa: E731
    noise = Signs.of(3, 1)
    bound = variational_bound(sde, score, x, times, variance=GaussianVariance(1.0), noise=noise, replicates=1)
    for k in (1, 2):
        s, t = times[k - 1 : k], times[k : k + 1]
        z = noise.normal((2,), step=k, purpose="bound noise", dtype=F64)
        x_t = sde.alpha(t) * x + sde.sigma(t) * z
        x_hat = (x_t + sde.sigma(t) ** 2 * score(x_t, t)) / sde.alpha(t)
        (mean, std), (guess, _) = sde.posterior(x_t, x, s, t), sde.posterior(x_t, x_hat, s, t)
        beta = 1.0 - (sde.alpha(t) / sde.alpha(s)) ** 2  # the upper variance
        wanted = 0.5 * ((std**2 + (mean - guess) ** 2) / beta - 1.0 - (std**2 / beta).log()).sum()
        assert float(bound.steps[k - 1]) == pytest.approx(float(wanted), rel=1e-9)


def test_the_first_and_last_intervals_have_no_end() -> None:
    for levels, std in ((17, 0.05), (256, 0.004), (256, 1.0), (256, 1e-4)):
        transform = Quantized(levels)
        middles = transform.edges()[:-1] + 0.5 * transform.width
        for mean in (-1.3, -0.7, 0.0, 0.31, 1.0):
            logs = log_interval(middles, middles - mean, torch.tensor(std, dtype=F64), transform)
            assert float(logs.exp().sum()) == pytest.approx(1.0, abs=1e-6)
            assert bool((logs <= 0).all())
    far = log_interval(middles[:1], middles[:1] - 60.0, torch.tensor(1.0, dtype=F64), Quantized(256))
    assert float(far) == pytest.approx(-0.5 * 60.99**2 - math.log(60.99 * math.sqrt(2 * math.pi)), rel=1e-3)


def test_the_bound_of_discrete_data() -> None:
    """Two levels with probabilities .3 and .7: the bound is below the entropy in bits and close to it for a fine grid."""
    sde, transform = VPSDE(), Quantized(2)
    data = GaussianMixture([[-0.5], [0.5]], 1e-4, weights=[0.3, 0.7])
    x = torch.tensor([[-0.6], [0.4], [0.9]]).repeat(500, 1)
    times = torch.logspace(-3, 0, 60, dtype=F64)
    errors = denoising_errors(sde, data.score(sde), data.sample(4000, seed=1), times)
    bound = variational_bound(
        sde, data.score(sde), x, times, variance=AnalyticVariance.of(sde, errors), transform=transform
    )
    wanted = torch.tensor([0.3, 0.7, 0.7], dtype=F64).log()
    mean = bound.log_prob.reshape(500, 3).mean(0)
    error = bound.standard_error.square().reshape(500, 3).sum(0).sqrt() / 500
    print(mean, wanted, error)
    assert bool((mean < wanted + 3.0 * error).all()) and bool((mean > wanted - 0.1).all())
    torch.testing.assert_close(bound.bits_per_dim, -bound.log_prob / math.log(2.0))


def test_drawn_steps_give_the_same_mean_with_the_stated_error() -> None:
    sde, data = VPSDE(), GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.3)
    x, times = data.sample(64, seed=2), torch.linspace(1e-3, 1.0, 101, dtype=F64)
    options = {"variance": GaussianVariance(0.3)}
    full = variational_bound(sde, data.score(sde), x, times, replicates=8, **options)
    weights = full.steps.square().mean(1).sqrt()
    drawn = variational_bound(
        sde, data.score(sde), x, times, replicates=16, draws=8, probabilities=weights, seed=1, **options
    )
    equal = variational_bound(sde, data.score(sde), x, times, replicates=16, draws=8, seed=1, **options)
    assert drawn.nfe == 16 * 9 and full.nfe == 8 * 101
    for other in (drawn, equal):
        off = (other.log_prob - full.log_prob).mean()
        error = (other.standard_error.square() + full.standard_error.square()).sum().sqrt() / len(x)
        assert abs(float(off / error)) < 3.5
    assert float(drawn.standard_error.mean()) < 0.7 * float(equal.standard_error.mean())


def test_the_length_of_the_noise_has_no_effect_where_the_noise_is_small() -> None:
    """64 coordinates would otherwise give the decoder a standard deviation of 5.7 nats. The mean does not change."""
    sde, data = VPSDE(), GaussianMixture(torch.zeros(1, 64, dtype=F64), STD)
    x = data.sample(8, seed=0)
    found = [
        variational_bound(sde, data.score(sde), x, TIMES_FROM_0, variance=GaussianVariance(STD), seed=s) for s in (0, 1)
    ]
    assert float((found[0].reconstruction - found[1].reconstruction).abs().max()) < 0.5
    steps = torch.stack([one.steps[0] for one in found])  # the first step is from r = .0032 to r = .010
    assert float((steps[0] - steps[1]).abs().max()) < 0.5


def test_drawn_steps_leave_out_no_part_of_the_cost() -> None:
    """With one of 100 steps, the error is that of the rest, not that of the whole sum: its spread is far below its mean."""
    sde, data = VPSDE(), GaussianMixture(torch.zeros(1, 16, dtype=F64), STD)
    x, times = data.sample(200, seed=0), torch.logspace(-4, 0, 101, dtype=F64)
    variance = GaussianVariance(STD)
    found = variational_bound(sde, data.score(sde), x, times, variance=variance, draws=1, replicates=1)
    level = sde.sigma(times) / sde.alpha(times)
    total = 8.0 * (-(level**-2).diff() * variance(level)[1:]).log1p().sum()
    assert found.nfe == 2 and float(found.steps.sum(0).mean()) == pytest.approx(float(total), rel=0.05)
    assert float(found.steps.sum(0).std()) < 0.5 * float(total)


def test_terms_add_up_and_do_not_depend_on_the_batch() -> None:
    sde, data = CosineVPSDE(), GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.3)
    x, times = data.sample(6, seed=2), torch.linspace(1e-3, 1.0, 8, dtype=F64)
    for options in ({}, {"draws": 3}):
        found = variational_bound(sde, data.score(sde), x, times, **options)
        torch.testing.assert_close(found.log_prob, found.reconstruction - found.steps.sum(0) - found.prior)
        part = variational_bound(sde, data.score(sde), x[2:4], times, first=2, **options)
        torch.testing.assert_close(part.log_prob, found.log_prob[2:4])
        assert "VariationalBound(mean log_prob>=" in repr(found)


def test_measured_errors_are_nearly_as_good_as_exact_ones() -> None:
    """10,000 samples give a gap below .005 nats with 5 steps."""
    sde, times = VPSDE(), torch.linspace(1e-3, 1.0, 6, dtype=F64)
    errors = denoising_errors(sde, DATA.score(sde), DATA.sample(10_000, seed=0), times)
    gap = -ENTROPY - mean_bound(sde, times, AnalyticVariance.of(sde, errors)) - end(sde)
    assert 0.0 <= gap + 1e-9 < 0.005


def ignored(x: Tensor, t: Tensor) -> Tensor:
    return -x


TIMES = torch.linspace(0.1, 1.0, 4, dtype=F64)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"times": None}, ValueError, "times is missing, and VPSDE.* is not a chain"),
        ({"times": TIMES[:-1]}, ValueError, r"the last of them T=1"),
        ({"times": TIMES.flip(0)}, ValueError, "give finite times that ascend"),
        ({"times": torch.linspace(0.0, 1.0, 4)}, ValueError, "has no noise"),
        ({"variance": lambda level: -level}, ValueError, "variance returned"),
        ({"decoder": GaussianVariance(0.0)}, ValueError, "decoder=.* is 0 at the first time"),
        ({"replicates": 0}, ValueError, "replicates=0"),
        ({"draws": 0}, ValueError, "draws=0"),
        ({"probabilities": torch.ones(3)}, ValueError, "probabilities is given without draws"),
        ({"draws": 2, "probabilities": torch.ones(2)}, ValueError, "give 3 positive numbers"),
        ({"transform": Quantized(4, 0.0, 1.0)}, ValueError, r"x has values from -1 to -1, and Quantized"),
        (
            {"sde": VPSDE().discretize(50), "times": torch.tensor([0.3, 0.301, 0.6, 1.0])},
            ValueError,
            "two times of one instant",
        ),
    ],
)
def test_bad_input(change, error, message: str) -> None:
    arguments = {"sde": VPSDE(), "score": ignored, "x": -torch.ones(2, 2), "times": TIMES} | change
    with pytest.raises(error, match=message):
        variational_bound(**arguments)


def test_a_variance_of_another_process_or_other_weights_is_refused() -> None:
    sde, x = VPSDE(), torch.linspace(-1.0, 1.0, 8)[:, None]
    models = [ScoreModel(MLP((1,), width=8, depth=1), sde) for _ in range(2)]
    variance = AnalyticVariance.of(sde, denoising_errors(sde, models[0], x, TIMES))
    variational_bound(sde, models[0], x, TIMES, variance=variance)
    for name in ("variance", "decoder"):
        with pytest.raises(
            ValueError, match=rf"{name}=AnalyticVariance was measured with weights of digest .*: measure it with"
        ):
            variational_bound(sde, models[1], x, TIMES, **{name: variance})
    with pytest.raises(
        ValueError, match=r"variance=AnalyticVariance was measured with VPSDE.*, and the process is CosineVPSDE"
    ):
        variational_bound(CosineVPSDE(), DATA.score(CosineVPSDE()), x, TIMES, variance=variance)
    with torch.no_grad():
        models[0].network.get_parameter(next(iter(dict(models[0].network.named_parameters())))).mul_(1.01)
    with pytest.raises(ValueError, match="weights of digest"):
        variational_bound(sde, models[0], x, TIMES, variance=variance)


def test_ancestral_sampling_with_the_measured_variance_keeps_gaussian_data() -> None:
    """With 5 steps the standard deviation of the samples is exact for V of the data, and not for DDPM's two variances."""
    sde, found = VPSDE(), {}
    times = torch.linspace(1e-3, 1.0, 6, dtype=F64)
    measured = AnalyticVariance.of(sde, DenoisingErrors.of_gaussian(sde, times, STD))
    for variance in (measured, GaussianVariance(STD), "upper", "lower", GaussianVariance(1.0), GaussianVariance(0.0)):
        sampler = Ancestral(times.flip(0), variance=variance, denoise=False)
        x = sampler(sde, DATA.score(sde), (4000, 1), dtype=F64).samples
        found[variance] = float(x.std())
    end = math.sqrt(float((sde.alpha(times[0]) * STD) ** 2 + sde.sigma(times[0]) ** 2))
    print(found, end)
    for variance, std in list(found.items())[:2]:
        assert std == pytest.approx(end, rel=0.04), variance
    assert found["lower"] < 0.8 * end and found["upper"] > 1.2 * end
    assert found["lower"] == pytest.approx(found[GaussianVariance(0.0)], rel=1e-9)
    assert found["upper"] == pytest.approx(found[GaussianVariance(1.0)], rel=1e-6)
    with pytest.raises(TypeError, match="needs a process with scalar coefficients"):
        Ancestral(4, variance=measured)(CriticallyDampedLangevin(), lambda x, t: -x, (2, 2))


def test_a_sample_whose_score_is_not_finite_has_no_bound() -> None:
    """The others are as without it. A batch without any result is an error."""
    sde, x = VPSDE(), DATA.sample(6)

    def broken(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x == x[2], math.nan, DATA.score(sde)(x, t))

    with pytest.warns(RuntimeWarning, match=r"not finite for batch positions \[2\]: their log_prob is NaN"):
        found = variational_bound(sde, broken, x, TIMES)
    whole = variational_bound(sde, DATA.score(sde), x, TIMES)
    assert found.failed.tolist() == [False, False, True, False, False, False] and not whole.failed.any()
    assert torch.equal(found.log_prob[~found.failed], whole.log_prob[~found.failed])
    assert bool(found.log_prob[2].isnan()) and bool(found.standard_error[2].isnan())
    with pytest.raises(SolverError, match="not finite for batch positions"):
        variational_bound(sde, lambda x, t: x * math.nan, x, TIMES)
