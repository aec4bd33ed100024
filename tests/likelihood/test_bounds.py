"""The ELBO of the reverse SDE against closed forms: its side, its gap, and the detection of planted errors."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import GaussianMixture
from scoresde.likelihood import elbo
from scoresde.likelihood.bounds import _Cells, _log_noise, _Path, _project_on_range
from scoresde.noise import NoiseSource
from scoresde.sde import VESDE, VPSDE, BlurringSDE, CriticallyDampedLangevin, MatrixSDE, Shifted, SubVPSDE
from scoresde.sde.linalg.basis import dct

SDES = {"vp": VPSDE(), "subvp": SubVPSDE(), "ve": VESDE(0.01, 100.0)}

# a late t_min and an early end: the decoder's and the prior's shares of the gap are there to be seen
T_MIN = 0.1
SHORT = {
    "vp": VPSDE(0.5, 4.0),
    "subvp": SubVPSDE(0.5, 4.0),
    "ve": VESDE(0.1, 3.0),
    "cld": CriticallyDampedLangevin(beta=1.0),
    "blurring": BlurringSDE((3,), blur=1.0, epsilon=0.2),
}
WIDTHS = torch.tensor([0.4, 0.4, 0.3], dtype=torch.float64)
MEAN = torch.tensor([1.5, 1.2, 1.8], dtype=torch.float64)


def gaussian():
    return GaussianMixture(MEAN[None], WIDTHS[None])


def mixture(d, count=4):
    source = NoiseSource.of(0, count)
    means = 0.6 * source.normal((d,), step=0, purpose="means", dtype=torch.float64)
    spread = source.uniform((d,), step=0, purpose="stds", dtype=torch.float64)
    return GaussianMixture(means, 0.1 + 0.4 * spread, torch.arange(1.0, count + 1))


def log_normal(x, mean, covariance):
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


def expected_log_normal(mean, covariance, at, spread):
    """E log N(y; mean, covariance) for y ~ N(at, spread)."""
    inner = torch.linalg.solve(covariance, spread).diagonal().sum()
    return log_normal(at, mean, covariance) - 0.5 * inner


class Dense:
    """Gaussian data N(MEAN, diag WIDTHS^2) under any linear process, with dense matrices for states (x_t) and data (x_0)."""

    def __init__(self, sde):
        self.sde, d = sde, len(MEAN)
        self.embed = sde.embed_data(torch.eye(d, dtype=torch.float64)).reshape(d, -1).mT
        self.size = len(self.embed)
        shape = sde.state_shape((d,))
        self.shape, self.prior = shape, sde.prior_root().dense(shape)

    def at(self, t):
        """H and S with x_t ~ N(H x_0, S)."""
        kernel = self.sde.kernel(torch.tensor(t, dtype=torch.float64))
        unit = torch.eye(self.size, dtype=torch.float64).reshape(self.size, *self.shape)
        h = kernel.mean(unit).reshape(self.size, -1).mT @ self.embed
        return h, kernel.covariance(unit).reshape(self.size, -1)

    def gap(self, x):
        """log p(x) - elbo(x) for the exact score: E[log q(x_0 | x_tmin) - log decoder] + E[log p_T - log prior] given x_0 = x."""
        cov = torch.diag(WIDTHS**2)
        h, s = self.at(T_MIN)
        precision = h.mT @ torch.linalg.solve(s, h)
        decoder, posterior = torch.linalg.inv(precision), torch.linalg.inv(precision + torch.linalg.inv(cov))
        # given x_0 = x the posterior's mean is x + posterior (cov^-1 (MEAN - x) + H^T S^-1 L z)
        pull = posterior @ (precision @ posterior)
        miss = (MEAN - x) @ torch.linalg.solve(cov, posterior)
        zero = torch.zeros_like(MEAN)
        first = expected_log_normal(zero, posterior, miss, pull) - expected_log_normal(zero, decoder, miss, pull)
        h, s = self.at(self.sde.T)
        end = h @ cov @ h.mT + s
        mean = x @ h.mT
        prior = self.prior @ self.prior.mT
        second = expected_log_normal(h @ MEAN, end, mean, s) - expected_log_normal(
            torch.zeros_like(h @ MEAN), prior, mean, s
        )
        return first + second, second, expected_log_normal(zero, decoder, miss, pull), first


def agree(found, exact, error, slack=1e-6):
    """Whether the differences are compatible with the standard errors.

    Each of 16 values must be within 6 standard errors with 15 or more degrees of freedom (false-alarm rate 1 in 2,500), and
    their mean within 4 of its own.
    """
    miss, error = found - exact, (error**2 + slack**2).sqrt()
    return bool((miss.abs() < 6 * error).all()) and abs(float(miss.mean())) < 4 * float((error**2).sum().sqrt()) / len(
        miss
    )


@pytest.fixture(scope="module", params=SHORT)
def exact_score(request):
    """Bounds at 16 points under every process, for the exact score. Their gap is known."""
    sde, distribution = SHORT[request.param], gaussian()
    x = distribution.sample(16, seed=1, dtype=torch.float64)
    found = elbo(sde, distribution.score(sde), x, draws=4, replicates=16, t_min=T_MIN, data_std=0.37)
    return request.param, sde, distribution, x, found


def test_the_gap_of_the_exact_score_is_the_decoders_and_the_priors(exact_score):
    _, sde, distribution, x, found = exact_score
    assert agree(found.log_prob, distribution.log_prob(x) - Dense(sde).gap(x)[0], found.standard_error)


def test_the_decoder_alone(exact_score):
    """E log decoder agrees with its closed form within a hundredth of a nat in the mean of 16 points.

    For VP at this t_min the decoder's gap to the exact posterior is a tenth of a nat.
    """
    name, sde, _, x, found = exact_score
    _, _, expected, short = Dense(sde).gap(x)
    assert abs(float((found.reconstruction - expected).mean())) < 0.01
    assert name != "vp" or float(short.mean()) > 0.1


def test_planted_errors_are_seen(exact_score):
    """Omit or double a term of the bound, under every process."""
    name, sde, distribution, x, found = exact_score
    gap, prior = Dense(sde).gap(x)[:2]
    exact = distribution.log_prob(x) - gap
    size = math.prod(sde.state_shape((len(MEAN),)))
    t = torch.tensor([T_MIN, sde.T], dtype=torch.float64)
    entropy = size * (sde.kernel(t).log_det() + 0.5 * math.log(2 * math.pi * math.e))
    divergence = 0.5 * size * sde.kernel(t).contraction().log()
    planted = {
        "no half before the integral": -found.diffusion,
        "no div f": divergence[0] - divergence[1],
        "no entropy at t_min": -entropy[0],
        "prior for p_T": prior,
    }
    if name == "ve":
        del planted["no div f"]  # it is zero
    for mistake, change in planted.items():
        assert not agree(found.log_prob + change, exact, found.standard_error), mistake


def test_the_formula_of_the_paper_by_quadrature():
    """The paper's formula, with entropies in place of the integral of ||G^T r||^2 / 2 + div f, equals the sum of this
    module's terms.

    It is evaluated by quadrature over t, for one coordinate of Gaussian data and a wrong linear score.
    """
    sde, distribution = SDES["subvp"], GaussianMixture(torch.tensor([[0.2]]), 0.5)
    x, wrong, t_min = 0.7, 1.3, 1e-2
    t = torch.linspace(math.log(t_min), 0.0, 20001, dtype=torch.float64).exp().clamp(max=1.0)
    alpha, sigma, g = sde.alpha(t), sde.sigma(t), sde.diffusion(t)
    var = alpha**2 * 0.25 + sigma**2
    # s - r = -wrong (x_t - alpha mean) / var + z / sigma with x_t = alpha x + sigma z
    square = (wrong * alpha * (x - 0.2) / var) ** 2 + (1 / sigma - wrong * sigma / var) ** 2
    integrand = g**2 * (square - 1 / sigma**2) - 2 * sde.drift_coefficient(t)
    integral = torch.trapezoid(integrand, t)
    end = -0.5 * (alpha[-1] ** 2 * x**2 + sigma[-1] ** 2) - 0.5 * math.log(2 * math.pi)
    entropy = 0.5 * math.log(2 * math.pi * math.e) + sigma[0].log()
    # x_0 less the decoder's mean, in units of its width sigma / alpha
    miss = (wrong * alpha[0] * (x - 0.2) * sigma[0] / var[0]) ** 2 + (1 - wrong * sigma[0] ** 2 / var[0]) ** 2
    decoder = -0.5 * miss - 0.5 * math.log(2 * math.pi) - (sigma[0] / alpha[0]).log()
    expected = float(end + decoder + entropy - 0.5 * integral)
    score = distribution.score(sde)
    found = elbo(
        sde, lambda y, s: wrong * score(y, s), torch.full((200, 1), x, dtype=torch.float64), t_min=t_min, data_std=0.5
    )
    error = float(found.log_prob.std()) / math.sqrt(200)
    assert abs(float(found.log_prob.mean()) - expected) < 4 * error
    assert error < 0.02
    without = float(end + decoder - 0.5 * integral)
    assert abs(float(found.log_prob.mean()) - without) > 40 * error


@pytest.mark.covering
@pytest.mark.parametrize("d", [1, 2, 16])
@pytest.mark.parametrize("name", SDES)
def test_the_bound_of_mixtures_is_below_log_p(name, d):
    """With the exact score the bound is tight at every point.

    With a wrong score it is below log p in the mean over the data, by more than its error.
    """
    sde, distribution = SDES[name], mixture(d)
    x = distribution.sample(16, seed=1, dtype=torch.float64)
    score, settings = distribution.score(sde), {"draws": 4, "replicates": 32, "data_std": 0.3, "t_min": 1e-4}
    found = elbo(sde, score, x, **settings)
    assert agree(found.log_prob, distribution.log_prob(x), found.standard_error)
    wrong = elbo(sde, lambda y, t: 1.2 * score(y, t), x, **settings)
    short = distribution.log_prob(x) - wrong.log_prob
    assert float(short.mean()) > 4 * float((wrong.standard_error**2).mean().sqrt()) / 4


@pytest.mark.parametrize("delta", [0.2, -0.1])
def test_what_a_wrong_score_costs(delta):
    """For s = (1 + delta) grad log p_t and Gaussian data, the mean of the bound decreases by a known amount for each
    coordinate.

    The decrease is delta^2 / 2 int g^2 / v dt, with v the variance of x_t, plus delta^2 sigma^2 / (2 v) at t_min for the
    decoder.
    """
    sde, std, t_min, n = SDES["vp"], 0.5, 1e-3, 400
    distribution = GaussianMixture(torch.zeros(1, 2), std)
    x = distribution.sample(n, seed=3, dtype=torch.float64)
    score, settings = distribution.score(sde), {"t_min": t_min, "data_std": std, "replicates": 2}
    good = elbo(sde, score, x, **settings)
    bad = elbo(sde, lambda y, t: (1 + delta) * score(y, t), x, **settings)
    t = torch.linspace(t_min, 1.0, 4001, dtype=torch.float64)
    v = (sde.alpha(t) * std) ** 2 + sde.sigma(t) ** 2
    # in the mean the exact score's s - r is orthogonal to every function of x_t; two coordinates, each with its half
    cost = delta**2 * (torch.trapezoid(sde.diffusion(t) ** 2 / v, t) + sde.sigma(t[0]) ** 2 / v[0])
    drop = good.log_prob - bad.log_prob  # the same draws
    error = float(drop.std()) / math.sqrt(n)
    assert abs(float(drop.mean() - cost)) < 4 * error
    assert error < 0.3 * float(cost)


def test_the_standard_error_is_honest():
    """For one point repeated 300 times, the standard deviation of the estimates equals the stated standard error within 25
    %.

    For normal estimates both would be known to about 4 %. The 3 degrees of freedom of the replicates average out over the
    300.
    """
    sde, distribution = SDES["vp"], mixture(2)
    x = distribution.sample(1, seed=5, dtype=torch.float64).expand(300, -1)
    found = elbo(sde, distribution.score(sde), x, data_std=0.3)
    said = float((found.standard_error**2).mean().sqrt())
    assert abs(float(found.log_prob.std()) / said - 1) < 0.25
    assert float(found.log_prob.std()) > 0.05


@pytest.mark.parametrize("name", SHORT)
def test_cells_and_control_variate_do_not_change_the_mean(name):
    """The known integral of the control variate, summed over cells, equals its mean over the draws."""
    sde = SHORT[name]
    x = torch.zeros(1000, 3, dtype=torch.float64)
    cells = _Cells.of(sde, T_MIN, x)
    u = NoiseSource.of(0, 1000).uniform((), step=0, purpose="u", dtype=torch.float64)
    z = NoiseSource.of(0, 1000).normal(sde.state_shape((3,)), step=0, purpose="z", dtype=torch.float64)
    assert bool((cells.u.diff() > 0).all())
    assert float(cells.u.diff().std() / cells.u.diff().mean()) < 1e-6
    t = cells.draw(u)[0]
    assert float(t.min()) >= T_MIN
    assert float(t.max()) <= 1.0

    def scoreless(width):
        """The integrand for a score that is zero; all of the width enters by the control alone."""
        path = _Path(sde, lambda y, s: torch.zeros_like(y), x, width, cells)
        return path.diffusion(u, z)

    one, two = scoreless(0.1), scoreless(3.0)
    error = float((one - two).std()) / math.sqrt(1000)
    assert abs(float((one - two).mean())) < 4 * error


PULL = torch.tensor([[0.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)
PUSH = torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
RATES = torch.tensor([0.6, 1.0, 1.5], dtype=torch.float64)[:, None, None]
LARGER = {
    "cld": CriticallyDampedLangevin(),
    "shifted cld": Shifted(CriticallyDampedLangevin(), lambda t: 2.0 + t[:, None] * torch.ones(3).to(t)),
    "shifted matrix": MatrixSDE(PULL, PUSH, aux_std=0.3, shift=torch.tensor([0.5, 1.0])),
    "modes": MatrixSDE(RATES * PULL, RATES.sqrt() * PUSH, aux_std=0.3, basis=dct((3,))),
}


@pytest.mark.parametrize("name", LARGER)
def test_the_projection_on_the_data_against_dense_matrices(name):
    """If the state contains more than the data: W (W^T W)^-1 W^T and u = -ln det(W^T W) / 2 d with W = L^-1 A as a matrix."""
    sde, t, like = LARGER[name], torch.tensor(0.3, dtype=torch.float64), torch.zeros(6, 3, dtype=torch.float64)
    kernel = sde.kernel(t)
    data = sde.embed_data(torch.eye(3, dtype=torch.float64))
    w = kernel.whiten(kernel.signal_map()(data)).reshape(3, 6).mT
    unit = torch.eye(6, dtype=torch.float64).reshape(6, 2, 3)
    assert torch.allclose(_project_on_range(sde, kernel, like, unit).reshape(6, 6), w @ torch.linalg.pinv(w), atol=1e-9)
    assert torch.allclose(_log_noise(sde, t[None], like), -(w.mT @ w).logdet() / 6, atol=1e-9)


@pytest.mark.parametrize("name", ["shifted cld", "shifted matrix"])
def test_a_shift_does_not_change_the_bound(name):
    """If data, score and state are shifted together, the terms are those of the process without its shift."""
    sde, x = LARGER[name], torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(2, 3)
    plain = sde.process if name == "shifted cld" else MatrixSDE(PULL, PUSH, aux_std=0.3)

    def moved(y, t):
        kernel = sde.kernel(t)
        return -0.5 * (y - kernel.mean(sde.embed_data(torch.zeros(len(y), 3, dtype=y.dtype))))

    there = elbo(sde, moved, x, draws=1, replicates=2, t_min=T_MIN)
    here = elbo(plain, lambda y, t: -0.5 * y, x, draws=1, replicates=2, t_min=T_MIN)
    assert torch.allclose(there.reconstruction, here.reconstruction, atol=1e-8)
    assert torch.allclose(there.diffusion, here.diffusion, atol=1e-8)


def test_a_bound_depends_only_on_its_key():
    sde, distribution = SDES["vp"], mixture(2)
    x = distribution.sample(7, seed=3)
    whole = elbo(sde, distribution.score(sde), x, seed=5, draws=2)
    part = elbo(sde, distribution.score(sde), x[3:5], seed=5, draws=2, first=3)
    assert torch.allclose(whole.log_prob[3:5], part.log_prob, atol=1e-5)
    assert not torch.allclose(
        part.log_prob, elbo(sde, distribution.score(sde), x[3:5], seed=6, draws=2, first=3).log_prob
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3)])
def test_any_event_shape_and_evaluations_are_counted(shape):
    sde, calls = SDES["vp"], 0
    x = NoiseSource.of(0, 2).normal(shape, step=0, purpose="x", dtype=torch.float32)

    def score(y, t):
        nonlocal calls
        assert y.dtype == t.dtype == torch.float32
        calls += 1
        return -y

    found = elbo(sde, score, x, draws=2, replicates=3)
    assert found.nfe == calls == 18
    assert found.log_prob.shape == (2,)
    assert torch.allclose(found.log_prob, found.reconstruction - found.prior - found.diffusion)
    exact = -0.5 * (x.reshape(2, -1) ** 2).sum(1) - 0.5 * math.prod(shape) * math.log(2 * math.pi)
    assert bool(((found.log_prob - exact).abs() < 12 * found.standard_error + 0.01).all())
    assert "decoder" in repr(found)


def test_refusals():
    sde, x = SDES["vp"], torch.zeros(2, 3)

    def score(y, t):
        return -y

    with pytest.raises(ValueError, match="t_min"):
        elbo(sde, score, x, t_min=0.0)
    with pytest.raises(ValueError, match="replicates"):
        elbo(sde, score, x, replicates=1)
    with pytest.raises(ValueError, match="chain"):
        elbo(sde.discretize(100), score, x)
    with pytest.raises(TypeError, match=r"sde=<object.* give a LinearSDE"):
        elbo(object(), score, x)
    with pytest.raises(ValueError, match="shape"):
        elbo(sde, lambda y, t: y.sum(1), x)
    with pytest.raises(ValueError, match="score holds non-finite"):
        elbo(sde, lambda y, t: y / 0.0, x)
