"""Mixtures compared with torch.distributions and SciPy, scores with autograd, samples with the exact distribution.

Statistical tests fail for another seed with probability below 1e-6. Each is shown to fail on a planted error.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde.distributions import GaussianMixture, SmoothedEmpirical
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, SubVPSDE

F32, F64 = torch.float32, torch.float64
SDES = [VPSDE(), SubVPSDE(), VESDE()]
KINDS = ["isotropic, one std", "isotropic", "diagonal", "full"]
FALSE_ALARM = 1e-6


def normal(shape, purpose):
    return NoiseSource.of(3, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=F64)


def components(kind, count, event_shape):
    """Arguments of a mixture of one kind, and the same as covariances (K, d, d)."""
    d = math.prod(event_shape)
    means = 2 * normal((count, *event_shape), "means")
    weights = torch.linspace(1.0, 2.0, count, dtype=F64)
    arguments = {"means": means, "weights": weights}
    if kind == "full":
        root = normal((count, d, d), "covariance")
        covariances = root @ root.mT + 0.1 * torch.eye(d, dtype=F64)
        return arguments | {"covariances": covariances}, covariances
    shape = {"isotropic, one std": (), "isotropic": (count,), "diagonal": (count, *event_shape)}[kind]
    stds = torch.full((), 0.7, dtype=F64) if shape == () else 0.2 + normal(shape, "stds").abs()
    spread = stds.flatten(1) if kind == "diagonal" else stds.expand(count)[:, None].expand(count, d)
    return arguments | {"stds": stds}, torch.diag_embed(spread**2)


def independent_distribution(arguments, covariances, alpha=1.0, sigma=0.0):
    """torch.distributions' mixture of alpha x_0 + sigma z, on flattened events."""
    means = alpha * arguments["means"].flatten(1)
    covariances = alpha**2 * covariances + sigma**2 * torch.eye(means.shape[1], dtype=F64)
    return MixtureSameFamily(Categorical(arguments["weights"]), MultivariateNormal(means, covariances))


@pytest.mark.parametrize("event_shape", [(1,), (3,), (2, 2), (1, 2, 3), (2, 1, 1, 2)])
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_log_prob(kind, count, event_shape):
    arguments, covariances = components(kind, count, event_shape)
    x = 2 * normal((20, *event_shape), "x")
    found = GaussianMixture(**arguments).log_prob(x)
    assert found.shape == (20,) and found.dtype == F64
    assert torch.allclose(
        found, independent_distribution(arguments, covariances).log_prob(x.flatten(1)), rtol=1e-11, atol=1e-11
    )


def test_log_prob_of_diagonal_components_by_independent_formulas():
    """torch.distributions' independent normals, and SciPy's density for a single component."""
    arguments, covariances = components("diagonal", 3, (2, 2))
    x = normal((9, 2, 2), "x")
    parts = Independent(Normal(arguments["means"], arguments["stds"]), 2)
    wanted = MixtureSameFamily(Categorical(arguments["weights"]), parts).log_prob(x)
    assert torch.allclose(GaussianMixture(**arguments).log_prob(x), wanted, rtol=1e-12)
    one = GaussianMixture(arguments["means"][:1], covariances=covariances[:1])
    scipy = stats.multivariate_normal(arguments["means"][0].flatten(), covariances[0]).logpdf(x.flatten(1).numpy())
    assert np.allclose(one.log_prob(x).numpy(), scipy, rtol=1e-12)


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_at_t_is_the_convolved_mixture(kind, sde):
    arguments, covariances = components(kind, 3, (2, 2))
    mixture, x = GaussianMixture(**arguments), 2 * normal((5, 2, 2), "x")
    for t in torch.tensor([1e-3, 0.1, 0.5, 1.0], dtype=F64):
        wanted = independent_distribution(arguments, covariances, sde.alpha(t), sde.sigma(t)).log_prob(x.flatten(1))
        assert torch.allclose(mixture.log_prob_at(sde, x, t), wanted, rtol=1e-11, atol=1e-11)
        assert torch.allclose(mixture.log_prob_at(sde, x, t.expand(5)), wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("event_shape", [(1,), (2, 2), (1, 2, 3)])
def test_the_score_is_the_gradient(kind, event_shape, sde):
    """Autograd through `log_prob_at`, with a different time for each sample."""
    arguments, _ = components(kind, 3, event_shape)
    mixture = GaussianMixture(**arguments)
    x = (2 * normal((6, *event_shape), "x")).requires_grad_()
    t = torch.tensor([1e-4, 1e-3, 0.1, 0.5, 0.9, 1.0], dtype=F64)
    gradient = torch.autograd.grad(mixture.log_prob_at(sde, x, t).sum(), x)[0]
    score = mixture.score(sde)(x.detach(), t)
    assert score.shape == x.shape
    assert torch.allclose(score, gradient, rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 4),
    event_shape=st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
    t=st.floats(1e-4, 1.0),
    kind=st.sampled_from(KINDS),
    sde=st.sampled_from(SDES),
)
def test_the_event_shape_does_not_matter(count, event_shape, t, kind, sde):
    arguments, _ = components(kind, count, event_shape)
    flat = {k: v.flatten(1) if k == "means" or (k == "stds" and v.ndim > 1) else v for k, v in arguments.items()}
    shaped, flattened = GaussianMixture(**arguments), GaussianMixture(**flat)
    x, t = normal((4, *event_shape), "x"), torch.tensor(t, dtype=F64)
    assert torch.equal(shaped.log_prob_at(sde, x, t), flattened.log_prob_at(sde, x.flatten(1), t))
    score = shaped.score(sde)(x, t)
    assert score.shape == x.shape and torch.equal(score.flatten(1), flattened.score(sde)(x.flatten(1), t))
    sample = shaped.sample(5, dtype=F64)
    assert sample.shape == (5, *event_shape) and torch.equal(sample.flatten(1), flattened.sample(5, dtype=F64))


def test_full_covariances_that_are_diagonal():
    arguments, covariances = components("diagonal", 3, (2, 2))
    diagonal = GaussianMixture(**arguments)
    full = GaussianMixture(arguments["means"], weights=arguments["weights"], covariances=covariances)
    x, t = normal((7, 2, 2), "x"), torch.tensor(0.3, dtype=F64)
    assert torch.allclose(diagonal.log_prob_at(SDES[0], x, t), full.log_prob_at(SDES[0], x, t), rtol=1e-12)
    assert torch.allclose(diagonal.score(SDES[0])(x, t), full.score(SDES[0])(x, t), rtol=1e-11, atol=1e-12)


def test_a_singular_covariance_has_a_density_at_t():
    """For rank one, the distribution at t agrees with torch.distributions after sigma^2 I is added."""
    direction = torch.tensor([[1.0], [2.0], [-1.0]], dtype=F64)
    covariances = (direction @ direction.T)[None]
    arguments = {"means": normal((1, 3), "means"), "weights": torch.ones(1, dtype=F64)}
    mixture = GaussianMixture(arguments["means"], covariances=covariances)
    x, t, sde = normal((4, 3), "x"), torch.tensor(0.2, dtype=F64), VPSDE()
    wanted = independent_distribution(arguments, covariances, sde.alpha(t), sde.sigma(t)).log_prob(x)
    assert torch.allclose(mixture.log_prob_at(sde, x, t), wanted, rtol=1e-11)


def test_far_from_all_components_nothing_underflows():
    mixture = GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.1)
    x = torch.tensor([[300.0], [-300.0]], dtype=F64)
    score = mixture.score(VESDE())(x, torch.tensor(0.0, dtype=F64))
    v = 0.1**2 + 0.01**2
    assert torch.allclose(score, torch.tensor([[-299.0], [299.0]], dtype=F64) / v, rtol=1e-12)
    assert torch.isfinite(mixture.log_prob(x)).all()


def test_a_component_of_weight_0_has_no_effect():
    x = normal((5, 2), "x")
    means = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    one, two = GaussianMixture(means[:1], 1.0), GaussianMixture(means, 1.0, torch.tensor([1.0, 0.0]))
    assert torch.equal(one.log_prob(x), two.log_prob(x))
    assert torch.equal(one.score(SDES[0])(x, torch.tensor(0.5)), two.score(SDES[0])(x, torch.tensor(0.5)))
    assert float(two.sample(1000).max()) < 6.0


def test_results_come_in_the_dtype_of_x():
    arguments, _ = components("full", 3, (2, 2))
    mixture, x, t = GaussianMixture(**arguments), normal((7, 2, 2), "x").float(), torch.full((7,), 0.25)
    for low, high in (
        (mixture.log_prob(x), mixture.log_prob(x.double())),
        (mixture.log_prob_at(SDES[0], x, t), mixture.log_prob_at(SDES[0], x.double(), t)),
        (mixture.score(SDES[0])(x, t), mixture.score(SDES[0])(x.double(), t)),
    ):
        assert low.dtype == F32 and torch.equal(low, high.float())


def test_large_batches_are_cut(monkeypatch):
    arguments, _ = components("full", 3, (2, 2))
    mixture, x, t = GaussianMixture(**arguments), normal((50, 2, 2), "x"), torch.linspace(0.1, 1.0, 50, dtype=F64)
    whole = mixture.log_prob_at(SDES[0], x, t), mixture.score(SDES[0])(x, t)
    monkeypatch.setattr("scoresde.distributions.mixture._CHUNK", 100)
    assert torch.allclose(mixture.log_prob_at(SDES[0], x, t), whole[0], rtol=1e-14)
    assert torch.allclose(mixture.score(SDES[0])(x, t), whole[1], rtol=1e-13)


# --- samples -----------------------------------------------------------------------------------------------------

DRAWS = 20000


def whitened_moments(x, mean, covariance):
    """The largest deviation of the whitened sample mean and covariance, in standard deviations of each entry."""
    d = len(mean)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - mean).T, upper=False)
    second = z @ z.T / len(x) - torch.eye(d, dtype=F64)
    spread = 1 + torch.eye(d, dtype=F64).sqrt() * (2**0.5 - 1)
    return float(
        torch.cat([(z.mean(1) * len(x) ** 0.5).abs(), (second * len(x) ** 0.5 / spread).abs().flatten()]).max()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_one_component(kind):
    """All 20 entries of mean and covariance are within 6 standard deviations (false-alarm rate 4e-8)."""
    arguments, covariances = components(kind, 1, (2, 2))
    x = GaussianMixture(**arguments).sample(DRAWS, seed=1, dtype=F64).flatten(1)
    mean = arguments["means"][0].flatten()
    assert whitened_moments(x, mean, covariances[0]) < 6
    assert whitened_moments(mean + 1.1 * (x - mean), mean, covariances[0]) > 6
    if kind == "full":  # planted: the transposed rotation has the same eigenvalues
        vectors = torch.linalg.eigh(covariances[0])[1]
        wrong = mean + (x - mean) @ vectors @ vectors
        assert whitened_moments(wrong, mean, covariances[0]) > 6


def test_samples_of_a_mixture():
    """Kolmogorov-Smirnov test of one coordinate, with the exact weights and with a wrong one."""
    means, stds, weights = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([0.5, 1.0, 0.2]), torch.tensor([0.5, 0.2, 0.3])

    def cdf(x, w=weights):
        return sum(float(w[k]) * stats.norm.cdf(x, float(means[k]), float(stds[k])) for k in range(3))

    x = GaussianMixture(means[:, None], stds, 10 * weights).sample(DRAWS, dtype=F64).flatten().numpy()
    assert stats.kstest(x, cdf).pvalue > FALSE_ALARM
    assert stats.kstest(x, lambda v: cdf(v, torch.tensor([0.45, 0.25, 0.3]))).pvalue < FALSE_ALARM
    assert stats.kstest(x**3, lambda v: cdf(v)).pvalue < FALSE_ALARM


def test_samples_are_keyed():
    arguments, _ = components("full", 3, (2, 2))
    mixture = GaussianMixture(**arguments)
    x = mixture.sample(64, seed=5)
    assert x.dtype == F32 and torch.equal(x, mixture.sample(64, seed=5, dtype=F64).float())
    assert torch.equal(mixture.sample(7, seed=5), x[:7])
    assert not (mixture.sample(64, seed=6) == x).any()


# --- the empirical distribution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_smoothed_empirical_is_the_mixture_of_its_points(sde):
    data, x, t = normal((12, 2, 2), "data"), normal((5, 2, 2), "x"), torch.tensor(0.2, dtype=F64)
    distribution = SmoothedEmpirical(data, 0.3)
    points = independent_distribution(
        {"means": data, "weights": torch.ones(12, dtype=F64)}, 0.3**2 * torch.eye(4, dtype=F64).expand(12, 4, 4)
    )
    assert torch.allclose(distribution.log_prob(x), points.log_prob(x.flatten(1)), rtol=1e-12)
    mixture = GaussianMixture(data, 0.3)
    assert torch.equal(distribution.log_prob_at(sde, x, t), mixture.log_prob_at(sde, x, t))
    assert torch.equal(distribution.score(sde)(x, t), mixture.score(sde)(x, t))


def test_the_empirical_distribution_without_smoothing():
    """std = 0: samples are data points, and the posterior mean at t is the average of the points, weighted by likelihood."""
    data = normal((6, 3), "data")
    distribution, sde, t = SmoothedEmpirical(data, 0.0), VPSDE(), torch.tensor(0.1, dtype=F64)
    drawn = distribution.sample(100, dtype=F64)
    assert all(any(torch.equal(x, point) for point in data) for x in drawn)
    x = normal((4, 3), "x")
    share = (-((x[:, None] - sde.alpha(t) * data) ** 2).sum(-1) / (2 * sde.sigma(t) ** 2)).softmax(-1)
    found = sde.data_from_score(x, t, distribution.score(sde)(x, t))
    assert torch.allclose(found, share @ data, rtol=1e-10, atol=1e-12)


# --- refusals and global state -----------------------------------------------------------------------------------

M = torch.zeros(2, 3)
EYES = torch.eye(3).expand(2, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": torch.zeros(3), "stds": 1.0}, "means has shape"),
        ({"means": M}, "either stds or covariances"),
        ({"means": M, "stds": 1.0, "covariances": EYES}, "either stds or covariances"),
        ({"means": M, "stds": torch.ones(3)}, "stds has shape"),
        ({"means": M, "stds": torch.ones(2, 1)}, "stds has shape"),
        ({"means": M, "stds": -1.0}, "stds holds negative"),
        ({"means": M, "covariances": torch.eye(3)}, "covariances has shape"),
        ({"means": M, "covariances": EYES + torch.triu(torch.ones(3, 3), 1)}, "not symmetric"),
        ({"means": M, "covariances": EYES - 1.5 * torch.ones(3, 3)}, "covariances has an eigenvalue"),
        ({"means": M, "stds": 1.0, "weights": torch.ones(3)}, "weights of shape"),
        ({"means": M, "stds": 1.0, "weights": torch.tensor([1.0, -0.1])}, "weights of shape"),
        ({"means": M, "stds": 1.0, "weights": torch.zeros(2)}, "weights of shape"),
        ({"means": M, "stds": 1.0, "weights": torch.tensor([1.0, math.nan])}, "weights holds non-finite values"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"means": M, "stds": torch.tensor([1.0, math.nan])},
        {"means": torch.full((2, 3), math.nan), "stds": 1.0},
        {"means": M, "stds": 1.0, "weights": torch.tensor([1.0, math.inf])},
    ],
    ids=["stds", "means", "weights"],
)
def test_non_finite_arguments_are_refused(arguments):
    """Otherwise every density and score would be NaN without an error."""
    with pytest.raises(ValueError):
        GaussianMixture(**arguments)


@pytest.mark.parametrize("n", [0, -1, 2.0])
def test_bad_numbers_of_draws(n):
    with pytest.raises(ValueError, match="n="):
        GaussianMixture(M, 1.0).sample(n)


def test_bad_points():
    mixture = GaussianMixture(M, 1.0)
    with pytest.raises(ValueError, match="event shape"):
        mixture.log_prob(torch.zeros(4, 2))
    with pytest.raises(TypeError, match="floating-point"):
        mixture.log_prob(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="give times in"):
        mixture.log_prob_at(VPSDE(), torch.zeros(4, 3), torch.tensor(1.5))
    with pytest.raises(ValueError, match="give times in"):
        mixture.score(VPSDE())(torch.zeros(4, 3), torch.tensor(math.nan))


@pytest.mark.parametrize(
    ("data", "std", "message"),
    [
        (torch.tensor([[0.0], [math.nan]]), 0.1, "non-finite values in 1 of 2"),
        (torch.zeros(2, 1), -0.1, "std="),
        (torch.zeros(2, 1), math.nan, "std="),
    ],
)
def test_bad_empirical_data(data, std, message):
    with pytest.raises(ValueError, match=message):
        SmoothedEmpirical(data, std)


def test_the_repr_of_a_mixture_is_its_constructor_call():
    mixture = GaussianMixture(M, 1.0)
    assert repr(mixture).startswith("GaussianMixture(means=torch.tensor([[") and "stds=1.0" in repr(mixture)
    assert repr(mixture.score(VPSDE())) == f"{mixture!r}.score({VPSDE()!r})"


def test_the_global_dtype_does_not_matter():
    """Also for arguments that are Python numbers."""

    def everything():
        mixture = GaussianMixture([[0.1, 0.2], [1.3, 0.4]], [0.3, 0.7], [0.3, 0.7])
        x, t = normal((4, 2), "x"), torch.tensor(0.3, dtype=F64)
        return [mixture.weights, mixture.log_prob(x), mixture.score(VPSDE())(x, t), mixture.sample(5)]

    found = everything()
    torch.set_default_dtype(F64)
    try:
        again = everything()
    finally:
        torch.set_default_dtype(F32)
    for a, b in zip(found, again, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("sde", [CriticallyDampedLangevin(), BlurringSDE((3,), blur=1.0)], ids=["langevin", "blurring"])
def test_different_times_in_a_batch_give_the_results_of_each_alone(sde):
    """For blocks and modes, with repeated times and more samples than one block of memory."""
    distribution = GaussianMixture(torch.eye(3, dtype=F64)[:2], torch.tensor([0.2, 0.5], dtype=F64))
    x = NoiseSource.of(0, 7).normal(sde.state_shape((3,)), step=0, purpose="x", dtype=F64)
    t = torch.tensor([0.3, 0.9, 0.3, 0.05, 1.0, 0.9, 0.2], dtype=F64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoresde.distributions.mixture._CHUNK", 8 * 2 * math.prod(x.shape[1:]) ** 2 * 3)
        score, log_prob = distribution.score(sde)(x, t), distribution.log_prob_at(sde, x, t)
    for i in range(7):
        one = x[i : i + 1], t[i : i + 1]
        torch.testing.assert_close(score[i], distribution.score(sde)(*one)[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_prob[i], distribution.log_prob_at(sde, *one)[0], rtol=1e-12, atol=1e-12)


def test_one_std_for_all_components_equals_many_equal_ones():
    """A shared std uses a faster computation that skips responsibilities of 0. It must agree with the general formula."""
    means, x = 3.0 * normal((40, 3), "means"), 3.0 * normal((25, 3), "x")
    shared = GaussianMixture(means, stds=0.05)
    general = GaussianMixture(means, stds=torch.full((40, 3), 0.05, dtype=F64))
    for t in (1e-3, 0.1, 1.0):
        for sde in SDES:
            at = torch.tensor(t, dtype=F64)
            assert torch.allclose(shared.log_prob_at(sde, x, at), general.log_prob_at(sde, x, at), rtol=1e-9)
            assert torch.allclose(shared.score(sde)(x, at), general.score(sde)(x, at), rtol=1e-9, atol=1e-9)


def test_the_score_of_many_points_can_be_differentiated():
    means, x = 3.0 * normal((40, 2), "means"), normal((6, 2), "x").requires_grad_(True)
    score = GaussianMixture(means, stds=0.3).score(VPSDE())
    assert torch.autograd.gradcheck(lambda y: score(y, torch.tensor(0.2, dtype=F64)), (x,))


@pytest.mark.parametrize("name", ["means", "stds", "weights", "covariances"])
def test_complex_arguments_are_refused(name):
    arguments = {"means": torch.zeros(2, 1), "stds": torch.ones(2), "weights": None, "covariances": None}
    if name == "covariances":
        arguments |= {"stds": None}
    arguments[name] = torch.ones(2, 1, 1, dtype=torch.complex64)
    with pytest.raises(TypeError, match=f"{name} has dtype torch.complex64"):
        GaussianMixture(**arguments)


class _LargestTensor(TorchDispatchMode):
    """Number of elements of the largest result of an operation."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.size = max(self.size, result.numel())
        return result


def test_full_covariances_need_no_matrix_for_each_pair_of_point_and_component():
    batch, count, d = 32, 8, 16
    arguments, _ = components("full", count, (d,))
    score = GaussianMixture(**arguments).score(VPSDE())
    x, t = normal((batch, d), "points"), torch.linspace(0.1, 0.9, batch, dtype=F64)
    with _LargestTensor() as largest:
        score(x, t)
    assert largest.size == batch * count * d
    with _LargestTensor() as largest:  # the contraction in the order of its factors
        torch.einsum(
            "bk,kij,bkj->bi", x[:, :count], torch.ones(count, d, d, dtype=F64), x[:, None].expand(-1, count, -1)
        )
    assert largest.size == batch * count * d * d
