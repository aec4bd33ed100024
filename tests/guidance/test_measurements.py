"""Guidance by linear measurements: exact for Gaussian data, and its error for mixtures."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import IsotropicMoments, TaskGuidance, TweedieMoments
from scoresde.metrics import sliced_wasserstein
from scoresde.operators import JPEG, Blur, BoxInpainting, FourierMask, Mask, MatrixOperator, SuperResolution
from scoresde.operators.linear_systems import conjugate_gradients, gmres
from scoresde.samplers import AdaptiveSDE, UniPC
from scoresde.sde import VESDE, CriticallyDampedLangevin, SubVPSDE

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def posterior(mean, covariance, a, y, std):
    """Mean and covariance of N(mean, covariance) given y = a x + noise."""
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + std**2 * torch.eye(len(a), dtype=F64))
    return mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance


class TestGaussianData:
    @pytest.mark.parametrize("sde", [VPSDE(), VESDE(sigma_max=20.0), SubVPSDE()], ids=lambda sde: type(sde).__name__)
    def test_tweedie_moments_are_exact(self, sde, worst):
        """In 16 dimensions with 4 measurements, the guided score is that of the posterior, at every t."""
        root, a, mean = normal(16, 16) / 4, normal(4, 16, seed=1), normal(16, seed=2)
        covariance, y = root @ root.T + 0.05 * torch.eye(16, dtype=F64), normal(4, seed=3)
        prior = GaussianMixture(mean[None], covariances=covariance[None]).score(sde)
        new_mean, new_covariance = posterior(mean, covariance, a, y, 0.3)
        wanted = GaussianMixture(new_mean[None], covariances=new_covariance[None]).score(sde)
        guided = TweedieMoments(prior, lambda x: x @ a.T, y[None], 0.3, iterations=20)
        t = torch.tensor([0.05, 0.2, 0.5, 0.9], dtype=F64)
        x = normal(4, 16, seed=4)
        apart = (guided(x, t) - wanted(x, t)).norm(dim=1) / wanted(x, t).norm(dim=1)
        worst("guided Gaussian score against that of the posterior", float(apart.max()))
        assert float(apart.max()) < 1e-4  # conjugate gradients end at a relative residual of 1e-5
        plain = IsotropicMoments(prior, lambda x: x @ a.T, y[None], 0.3)
        assert float(((plain(x, t) - wanted(x, t)).norm(dim=1) / wanted(x, t).norm(dim=1)).max()) > 0.02

    @pytest.mark.parametrize("noise", ["entries", "covariance"])
    @pytest.mark.parametrize(
        "operator",
        [
            Mask([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 0], [0, 1, 0, 1]]),
            Blur(0.6),
            SuperResolution(2),
            FourierMask(torch.eye(4)),
            MatrixOperator(normal(3, 16, seed=7), (1, 4, 4)),
        ],
        ids=lambda operator: type(operator).__name__,
    )
    def test_operators_and_noise(self, operator, noise):
        """Images of 4 x 4 pixels. The noise has a standard deviation for each entry, or a covariance."""
        sde, root = VPSDE(), normal(16, 16) / 4
        prior = GaussianMixture(normal(1, 1, 4, 4, seed=2), covariances=(root @ root.T + 0.1 * torch.eye(16))[None])
        y = operator(prior.sample(1, dtype=F64))
        spread, m = normal(*y.shape, seed=4)[0].abs() + 0.2, y.numel()
        named = {"noise_std": spread}
        if noise == "covariance":
            other = normal(m, m, seed=5) / m**0.5
            named = {"noise_covariance": spread.flatten().diag() ** 2 + other @ other.T}
        wanted = prior.posterior(operator, y, **named).score(sde)
        guided = TweedieMoments(prior.score(sde), operator, y, iterations=40, **named)
        x, t = normal(3, 1, 4, 4, seed=6), torch.tensor([0.1, 0.4, 0.9], dtype=F64)
        assert torch.allclose(guided(x, t), wanted(x, t), rtol=2e-3, atol=2e-3)
        plain = TweedieMoments(prior.score(sde), lambda x: operator(x), y, iterations=40, **named)
        assert torch.allclose(plain(x, t), guided(x, t), rtol=1e-6, atol=1e-6)
        wrong = TweedieMoments(prior.score(sde), operator, y, 0.1, iterations=40)
        assert not torch.allclose(wrong(x, t), wanted(x, t), rtol=1e-2, atol=1e-2)
        known = operator.apply(x)
        covariance = named.get("noise_covariance", spread.flatten().diag() ** 2)
        density = MultivariateNormal(known.flatten(1), covariance).log_prob(y.flatten(1))
        assert torch.allclose(guided.data_log_likelihood(x, t), density)

    def test_isotropic_moments_are_exact_for_isotropic_data(self):
        sde, a, y = VPSDE(), normal(3, 5), normal(3, seed=1)
        new_mean, new_covariance = posterior(torch.zeros(5, dtype=F64), 0.49 * torch.eye(5, dtype=F64), a, y, 0.2)
        wanted = GaussianMixture(new_mean[None], covariances=new_covariance[None]).score(sde)
        prior = GaussianMixture(torch.zeros(1, 5), 0.7).score(sde)
        t, x = torch.tensor([0.05, 0.3, 0.9], dtype=F64), normal(3, 5, seed=2)
        for kind in (IsotropicMoments, TweedieMoments):
            options = {"data_std": 0.7} if kind is IsotropicMoments else {}
            guided = kind(prior, lambda x: x @ a.T, y[None], 0.2, iterations=10, **options)
            assert torch.allclose(guided(x, t), wanted(x, t), rtol=1e-3, atol=1e-3)
        wrong = IsotropicMoments(prior, lambda x: x @ a.T, y[None], 0.2, data_std=1.0)
        assert not torch.allclose(wrong(x, t), wanted(x, t), rtol=1e-2, atol=1e-2)

    def test_samples_given_one_coordinate(self):
        """Correlation .9 and x_1 = 1, without noise: mean .9 and variance .19."""
        covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
        prior = GaussianMixture([[0.0, 0.0]], covariances=covariance[None]).score(VPSDE())
        x = UniPC(40)(VPSDE(), TweedieMoments(prior, lambda x: x[:, :1], torch.ones(1, 1)), (20000, 2)).samples
        assert float((x[:, 0] - 1.0).abs().max()) < 0.05
        assert float(x[:, 1].mean()) == pytest.approx(0.9, abs=0.01)
        assert float(x[:, 1].var()) == pytest.approx(0.19, abs=0.01)


class TestMixtures:
    def test_better_moments_are_nearer_to_the_posterior(self):
        """The posterior of a mixture is a mixture. Sliced Wasserstein distances of 2000 samples to it."""
        sde, std, y = VPSDE(), 0.3, torch.tensor([[0.4]], dtype=F64)
        means = 0.3 * torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.3, -1.2]], dtype=F64)
        a, covariance = torch.tensor([[1.0, 0.3]], dtype=F64), torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=F64)
        parts = [posterior(mean, covariance, a, y[0], std) for mean in means]
        spread = (a @ covariance @ a.T + std**2)[0, 0]
        shares = torch.stack([-0.5 * (y[0] - a @ m).square().sum() / spread for m in means]).softmax(0)
        where, widths = (torch.stack(column) for column in zip(*parts, strict=True))
        true = GaussianMixture(where, covariances=widths, weights=shares.tolist())
        prior = GaussianMixture(means, covariances=covariance.expand(3, 2, 2)).score(sde)

        def operator(x):
            return x @ a.T.to(x)

        def log_likelihood(x0):
            return -0.5 * ((operator(x0) - y.float()) ** 2).sum(1) / std**2

        scores = {
            "exact": true.score(sde),
            "tweedie": TweedieMoments(prior, operator, y.float(), std),
            "isotropic": IsotropicMoments(prior, operator, y.float(), std),
            "of the mean": TaskGuidance(prior, log_likelihood, denoised=True),
        }
        exact = true.sample(2000, seed=1)
        found = {
            name: float(sliced_wasserstein(UniPC(50)(sde, score, (2000, 2), seed=0).samples, exact, seed=0))
            for name, score in scores.items()
        }
        assert found["tweedie"] < 1.5 * found["exact"], found
        assert 2.0 * found["exact"] < found["isotropic"] < 0.5 * found["of the mean"], found


class TestSystem:
    def test_conjugate_gradients(self):
        """Samples that end at different steps keep their solutions."""
        roots, b = normal(3, 5, 5), normal(3, 5, seed=1)
        matrices = roots @ roots.mT + torch.eye(5, dtype=F64)
        matrices[0] = 2.0 * torch.eye(5, dtype=F64)
        found = conjugate_gradients(lambda v: (matrices @ v[..., None])[..., 0], b, 20, 1e-10)
        assert torch.allclose(found, torch.linalg.solve(matrices, b), atol=1e-8)
        few = conjugate_gradients(lambda v: (matrices @ v[..., None])[..., 0], b, 1)
        assert torch.allclose(few[0], b[0] / 2.0) and not torch.allclose(few[1], found[1], atol=1e-2)
        assert torch.equal(conjugate_gradients(lambda v: v, torch.zeros(2, 3), 5), torch.zeros(2, 3))

    def test_gmres(self):
        """Systems that are not symmetric, where conjugate gradients fail. Samples that end early keep their solutions."""
        skew, b = normal(4, 6, 6), normal(4, 6, seed=1)
        matrices = torch.eye(6, dtype=F64) + 2.0 * (skew - skew.mT)
        matrices[0] = 2.0 * torch.eye(6, dtype=F64)
        b[3] = 0.0
        system = lambda v: (matrices @ v[..., None])[..., 0]  # noqa: E731
        wanted = torch.linalg.solve(matrices, b)
        assert torch.allclose(gmres(system, b, 6), wanted, atol=1e-10)
        assert torch.allclose(gmres(system, b, 20), wanted, atol=1e-10)
        assert not torch.allclose(conjugate_gradients(system, b, 6), wanted, atol=1.0)
        residuals = torch.stack([(system(gmres(system, b, k)) - b).norm(dim=1) for k in range(1, 7)])
        assert bool((residuals.diff(dim=0) < 1e-9).all()) and bool((residuals[:, 0] < 1e-9).all())
        single = gmres(lambda v: (matrices.float() @ v[..., None])[..., 0], b.float(), 6)
        assert single.dtype == torch.float32 and torch.allclose(single, wanted.float(), atol=1e-4)

    def test_images_and_rows(self):
        """Averages of 2 x 2 pixels. Each sample keeps its measurement in an adaptive sampler."""
        sde = VPSDE()
        prior = GaussianMixture(torch.zeros(1, 1, 4, 4), 0.5).score(sde)
        y = torch.linspace(-0.6, 0.6, 4).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
        guided = IsotropicMoments(prior, lambda x: torch.nn.functional.avg_pool2d(x, 2), y, 0.01, data_std=0.5)
        x = AdaptiveSDE(0.02)(sde, guided, (4, 1, 4, 4), seed=0).samples
        assert float((torch.nn.functional.avg_pool2d(x, 2) - y).abs().max()) < 0.1
        t, rows = torch.full((4,), 0.4), torch.tensor([3, 1])
        assert torch.allclose(guided.select_rows(rows)(x[rows], t[rows]), guided(x, t)[rows], atol=1e-5)
        one = IsotropicMoments(prior, lambda x: torch.nn.functional.avg_pool2d(x, 2), y[:1], 0.1)
        assert one.select_rows(rows)(x[rows], t[rows]).shape == (2, 1, 4, 4)


SCORE = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
Y = torch.zeros(1, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x, t: x, lambda x: x, Y), TypeError, "process None: give the score of a process with scalar"),
        ((SCORE, 3, Y), TypeError, "operator=3"),
        ((SCORE, lambda x: x, 3.0), TypeError, "measurement=3.0"),
        ((SCORE, lambda x: x, torch.ones(1, 2, dtype=torch.int64)), TypeError, "measurement has dtype torch.int64"),
        ((SCORE, lambda x: x, torch.full((1, 1), math.nan)), ValueError, "measurement has values that are not finite"),
        ((SCORE, lambda x: x[:, :1], Y, -1.0), ValueError, "noise_std=-1.0"),
        ((SCORE, lambda x: x[:, :1], Y, math.nan), ValueError, "noise_std=nan"),
        (
            (SCORE, lambda x: x[:, :1], Y, torch.ones(2)),
            ValueError,
            r"noise_std has shape \(2,\), and a row of measurement",
        ),
        ((SCORE, JPEG(), Y), TypeError, r"operator=JPEG\(.*\) is not linear: give a LinearOperator"),
        ((SCORE, BoxInpainting(), Y), ValueError, r"operator=BoxInpainting\(.*\) is random: give one mask, e.g. Mask"),
        ((SCORE, MatrixOperator(torch.eye(2)), Y), ValueError, r"operator returned shape \(1, 2\) for 1 events"),
    ],
)
@pytest.mark.parametrize("kind", [IsotropicMoments, TweedieMoments])
def test_refused(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(*arguments)


@pytest.mark.parametrize(
    ("operator", "y", "message"),
    [
        (lambda x: x, Y, r"operator returned shape \(4, 2\) .* measurement has shape \(1, 1\)"),
        (
            lambda x: x[:, :1],
            torch.zeros(3, 1),
            r"measurement has shape \(3, 1\) for x of shape \(4, 2\): give one row",
        ),
        (lambda x: x[:, :1].detach(), Y, "operator has no graph to x"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_first_call(operator, y, message):
    with pytest.raises(ValueError, match=message):
        TweedieMoments(SCORE, operator, y)(torch.zeros(4, 2), torch.full((4,), 0.5))


def test_a_process_with_matrices():
    class Plain:
        sde = CriticallyDampedLangevin()

        def __call__(self, x, t):
            return -x

    with pytest.raises(TypeError, match="give the score of a process with scalar alpha and sigma"):
        TweedieMoments(Plain(), lambda x: x, Y)
