"""Denoising score matching against closed forms for Gaussian data, and the distributions of t against each other.

For data N(0, c^2) everything is known: with v = alpha^2 c^2 + sigma^2 the score is -x / v, the least variance-weighted
loss alpha^2 c^2 / v per coordinate, and the likelihood-weighted loss of another Gaussian's score is a Kullback-Leibler
divergence (Song et al. 2021b, arXiv:2101.09258, theorem 1, with equality where the model is a diffused density). These
expectations are taken by Gauss's quadrature, which is exact for the quadratic losses: no statistics. The distributions of t
are compared by statistics, at a stated number of standard errors.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde.distributions import GaussianMixture
from scoresde.losses import ChainTimes, DenoisingScoreMatching, UniformLogNoise, UniformTime
from scoresde.score import ScoreModel
from scoresde.sde import VESDE, VPSDE
from tests.bare import Bare
from tests.losses.common import F32, F64, SDES, C, U, gaussian_score, normal, per_event

# --- expectations by quadrature ----------------------------------------------------------------------------------

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(4))


WEIGHTS = WEIGHTS / WEIGHTS.sum()


def expected(loss, model, t):
    """E over x_0 ~ N(0, C^2) and z of the loss at one t, exact for a quadratic integrand; one coordinate."""
    i, j = (k.flatten() for k in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    found = loss(model, C * NODES[i][:, None], t=t.expand(16), noise=NODES[j][:, None])
    return float((WEIGHTS[i] * WEIGHTS[j] * found).sum())


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.1, 0.5, 1.0])
def test_the_least_expected_loss(t, sde):
    """alpha^2 c^2 / v for the exact score. (1 + e) times the score costs e^2 sigma^2 / v more, and a shift its square."""
    t, loss = torch.tensor(t, dtype=F64), DenoisingScoreMatching(sde)
    signal, sigma = (sde.alpha(t) * C) ** 2, sde.sigma(t)
    least = float(signal / (signal + sigma**2))
    assert expected(loss, gaussian_score(sde), t) == pytest.approx(least, rel=1e-12)
    for e in (-0.1, 0.05, 0.5):
        more = e**2 * float(sigma**2 / (signal + sigma**2))
        assert expected(loss, gaussian_score(sde, factor=1 + e), t) == pytest.approx(least + more, rel=1e-11)
    exact = gaussian_score(sde)
    shifted = expected(loss, lambda x, t: exact(x, t) + 0.3, t)
    assert shifted == pytest.approx(least + 0.09 * float(sigma**2), rel=1e-11)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_weightings_and_reductions(sde):
    """likelihood = (g / sigma)^2 times variance; half_sum = d / 2 times mean; any event shape, () too."""
    t = torch.tensor([0.01, 0.4, 1.0], dtype=F64)
    for event in ((), (2,), (1, 2, 3)):
        x0, z = normal((3, *event), "x_0"), normal((3, *event), "z")
        found = {
            (w, r): DenoisingScoreMatching(sde, w, reduction=r)(gaussian_score(sde, 0.4), x0, t=t, noise=z)
            for w in ("variance", "likelihood")
            for r in ("mean", "half_sum")
        }
        sigma = per_event(sde.sigma(t), x0)
        x = per_event(sde.alpha(t), x0) * x0 + sigma * z
        residual = (sigma * gaussian_score(sde, 0.4)(x, t) + z) ** 2
        mean = residual.reshape(3, -1).mean(1)
        d, weight = math.prod(event), (sde.diffusion(t) / sde.sigma(t)) ** 2
        for (w, r), value in found.items():
            wanted = mean * (weight if w == "likelihood" else 1.0) * (d / 2 if r == "half_sum" else 1.0)
            assert value.shape == (3,) and torch.allclose(value, wanted, rtol=1e-11)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_likelihood_weighting_is_a_divergence(sde):
    """int_a^T (loss of q's score - loss of p's) dt = KL(p_a || q_a) - KL(p_T || q_T), in nats, p and q Gaussian.

    The integral over ln t in 120 nodes of Gauss and Legendre; the wrong weighting and the wrong reduction are seen.
    """
    mean, std, start = 0.4, 0.9, 1e-3

    def divergence(t):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        p, q = alpha**2 * C**2 + sigma**2, alpha**2 * std**2 + sigma**2
        return 0.5 * (p / q + (alpha * mean) ** 2 / q - 1 - math.log(p / q))

    nodes, weights = np.polynomial.legendre.leggauss(120)
    half = -0.5 * math.log(start)
    t = torch.from_numpy(np.exp(half * (nodes - 1)))
    weights = half * weights * t.numpy()

    def integral(loss):
        wrong, right = gaussian_score(sde, mean, std), gaussian_score(sde)
        return sum(w * (expected(loss, wrong, s) - expected(loss, right, s)) for w, s in zip(weights, t, strict=True))

    wanted = divergence(torch.tensor(start, dtype=F64)) - divergence(torch.tensor(1.0, dtype=F64))
    assert wanted > 0.1
    found = integral(DenoisingScoreMatching(sde, "likelihood", reduction="half_sum"))
    assert found == pytest.approx(wanted, rel=1e-8)
    for weighting, reduction in (("variance", "half_sum"), ("likelihood", "mean")):
        assert integral(DenoisingScoreMatching(sde, weighting, reduction=reduction)) != pytest.approx(wanted, rel=0.1)


def test_the_bound_holds_for_a_score_of_no_density():
    """For a score that is not the gradient of a diffused density, KL(p_a || model) is unknown, but the excess is positive."""
    sde, exact = VPSDE(), gaussian_score(VPSDE())
    loss = DenoisingScoreMatching(sde, "likelihood", reduction="half_sum")
    for t in torch.tensor([1e-3, 0.1, 1.0], dtype=F64):
        for wrong in (lambda x, t: exact(x, t) + 0.2 * x, lambda x, t: 0 * x):
            assert expected(loss, wrong, t) > expected(loss, exact, t)


# --- keyed draws -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [UniformTime(), UniformLogNoise()])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_draw_of_an_example_depends_only_on_its_key(dtype, times):
    """Times, noise and noisy data are bitwise equal alone, in a batch, and in another order."""
    loss = DenoisingScoreMatching(VPSDE(), "likelihood", times=times, seed=4)
    x0, order = normal((7, 2, 3), dtype=dtype), torch.tensor([6, 2, 0, 5, 1, 3, 4])
    whole = loss.draw(x0, step=3, indices=torch.arange(100, 107))
    assert whole.t.shape == (7,) and whole.noise.shape == whole.x_t.shape == x0.shape
    assert whole.t.dtype == whole.x_t.dtype == dtype
    for draw, rows in (
        (loss.draw(x0[5:6], step=3, indices=torch.tensor([105])), [5]),
        (loss.draw(x0[2:5], step=3, indices=torch.arange(102, 105)), [2, 3, 4]),
        (loss.draw(x0[order], step=3, indices=order + 100), order),
    ):
        assert torch.equal(draw.t, whole.t[rows]) and torch.equal(draw.noise, whole.noise[rows])
        # coefficients of a vector and of one number may differ in the last bit
        assert torch.allclose(draw.x_t, whole.x_t[rows], rtol=4 * torch.finfo(dtype).eps)


def test_the_loss_of_an_example_depends_only_on_its_key():
    loss, score = DenoisingScoreMatching(VPSDE()), gaussian_score(VPSDE())
    x0 = normal((7, 2, 3))
    whole = loss(score, x0, step=0)
    assert whole.shape == (7,)
    alone = torch.cat([loss(score, x0[i : i + 1], step=0, indices=torch.tensor([i])) for i in range(7)])
    assert torch.allclose(alone, whole, rtol=1e-13)
    assert torch.equal(whole, loss.evaluate(score, loss.draw(x0, step=0)))


def test_calls_count_as_steps():
    """Calls without a step have new draws, as steps 0, 1, ... An explicit step repeats its draws and is not counted."""
    loss, score, x0 = DenoisingScoreMatching(VPSDE()), gaussian_score(VPSDE()), normal((5, 2))
    first = loss(score, x0)
    again = loss(score, x0, step=0)
    second = loss(score, x0)
    assert torch.equal(first, again) and not (first == second).any()
    assert torch.equal(second, loss(score, x0, step=1))
    assert torch.equal(loss(score, x0), loss(score, x0, step=2))
    other = DenoisingScoreMatching(VPSDE(), seed=1)
    assert not (other(score, x0, step=0) == first).any()


def test_time_and_noise_are_drawn_unless_given():
    loss, x0, t, z = (
        DenoisingScoreMatching(VPSDE()),
        normal((5, 2)),
        torch.linspace(0.1, 1, 5, dtype=F64),
        normal((5, 2)),
    )
    free = loss.draw(x0, step=0)
    assert torch.equal(loss.draw(x0, step=0, t=t).noise, free.noise) and torch.equal(loss.draw(x0, step=0, t=t).t, t)
    assert torch.equal(loss.draw(x0, step=0, noise=z).t, free.t)
    assert torch.equal(loss.draw(x0, step=0, noise=z).noise, z)
    assert torch.equal(free.x_t, VPSDE().perturb(x0, free.t, free.noise))


def test_a_condition_reaches_the_model():
    def model(x, t, *, wanted):
        assert wanted == 3
        return -x

    DenoisingScoreMatching(VPSDE())(model, normal((5, 2)), wanted=3)


# --- together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["noise", "score", "data", "velocity"])
def test_gradients_reach_a_network(prediction):
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 3, dtype=F64)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = network

        def forward(self, x, label):
            return self.layer(x)

    model = ScoreModel(Net(), VPSDE(), prediction)
    DenoisingScoreMatching(VPSDE())(model, normal((8, 3))).mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_nothing_is_nan_down_to_t_min(sde, dtype):
    """t = 1e-5, where sigma of sub-VP is 1e-6 and the likelihood weight is 1e10 and more."""
    mixture = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.1)
    for times in (UniformTime(), UniformLogNoise()):
        loss = DenoisingScoreMatching(sde, "likelihood", times=times)
        t = times.times(sde, torch.tensor([1e-9, 0.5, 1 - 1e-7], dtype=dtype))
        found = loss(mixture.score(sde), normal((3, 1), dtype=dtype), t=t)
        assert found.dtype == dtype and torch.isfinite(found).all() and (found >= 0).all()


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_process_without_a_kernel_is_refused():
    with pytest.raises(TypeError, match="no closed-form kernel"):
        DenoisingScoreMatching(Bare())


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_a_chain_with_likelihood_weighting_is_refused(sde):
    with pytest.raises(ValueError, match="is not allowed for a chain"):
        DenoisingScoreMatching(sde.discretize(1000), "likelihood")


def test_unknown_words_name_the_closest_match():
    with pytest.raises(ValueError, match=r"weighting='likelyhood' is not known.*did you mean 'likelihood'"):
        DenoisingScoreMatching(VPSDE(), "likelyhood")
    with pytest.raises(ValueError, match=r"reduction='sum' is not known.*did you mean 'half_sum'"):
        DenoisingScoreMatching(VPSDE(), reduction="sum")


def test_chain_times_need_a_chain():
    with pytest.raises(TypeError, match="needs a chain"):
        DenoisingScoreMatching(VPSDE(), times=ChainTimes())(gaussian_score(VPSDE()), normal((2, 1)))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: UniformTime(-1e-5), "t_min"),
        (lambda: UniformTime(math.nan), "t_min"),
        (lambda: UniformLogNoise(low=0.0), "low"),
        (lambda: UniformLogNoise(low=1.0, high=0.5), "high"),
        (lambda: UniformLogNoise(high=math.inf), "high"),
        (lambda: UniformLogNoise(t_min=-1.0), "t_min"),
    ],
)
def test_bad_distributions_are_named(make, name):
    with pytest.raises(ValueError, match=f"{name}="):
        make()


def test_a_range_outside_that_of_the_process_is_refused():
    distribution = UniformLogNoise(100.0, 200.0)
    with pytest.raises(ValueError, match=r"low=100.0, high=200.0 are not allowed: .* sigma/alpha is between 0\.01"):
        distribution.times(VESDE(), U[:2])


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan])
def test_times_out_of_range_are_refused(bad):
    loss = DenoisingScoreMatching(VPSDE())
    with pytest.raises(ValueError, match="give times in"):
        loss(gaussian_score(VPSDE()), normal((2, 1)), t=torch.tensor([0.5, bad], dtype=F64))
    with pytest.raises(ValueError, match="give shape"):
        loss(gaussian_score(VPSDE()), normal((2, 1)), t=torch.tensor([0.5], dtype=F64))


@pytest.mark.parametrize("cut", [lambda x: x[:, :1], lambda x: x[:1], lambda x: x[0]])
def test_a_score_of_another_shape_is_refused(cut):
    """Each of these shapes would broadcast against the noise."""
    with pytest.raises(ValueError, match=r"model returned shape .*: it must return \(3, 2\)"):
        DenoisingScoreMatching(VPSDE())(lambda x, t: cut(-x), normal((3, 2)))


def test_integer_data_is_refused():
    with pytest.raises(TypeError, match="x0 has dtype"):
        DenoisingScoreMatching(VPSDE())(gaussian_score(VPSDE()), torch.zeros(3, 2, dtype=torch.int64))


def test_the_global_dtype_does_not_matter():
    def everything():
        found = []
        for sde in SDES:
            for times in (UniformTime(), UniformLogNoise()):
                loss = DenoisingScoreMatching(sde, "likelihood", times=times)
                found += [loss(gaussian_score(sde), normal((4, 2), dtype=dtype), step=0) for dtype in (F32, F64)]
        return found

    found = everything()
    torch.set_default_dtype(F64)
    try:
        again = everything()
    finally:
        torch.set_default_dtype(F32)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, again, strict=True))
