"""Posteriors of mixtures given linear measurements, compared with Bayes' rule, enumeration and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from scoresde.distributions import GaussianMixture, SmoothedEmpirical
from scoresde.distributions.linear_gaussian import LinearMeasurement
from scoresde.noise import NoiseSource
from scoresde.sde import VPSDE

from .test_distributions import KINDS, components

F64 = torch.float64


def normal(*shape, purpose="x"):
    return NoiseSource.of(5, shape[0]).normal(shape[1:], step=0, purpose=purpose, dtype=F64)


def matrix_operator(matrix, event_shape):
    """A plain linear function with measurements of m numbers."""
    return lambda x: x.flatten(1) @ matrix.mT.to(x)


class TestBayes:
    @given(
        kind=st.sampled_from(KINDS),
        count=st.integers(1, 4),
        event_shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        m=st.integers(1, 5),
        noise=st.sampled_from(["number", "entries", "covariance"]),
    )
    @settings(max_examples=60, deadline=None, derandomize=True)
    def test_prior_times_likelihood_is_posterior_times_evidence(self, kind, count, event_shape, m, noise):
        """log p(x) + log p(y | x) = log p(x | y) + log p(y) at every x; m may exceed the size of an event."""
        arguments, _ = components(kind, count, event_shape)
        prior, d = GaussianMixture(**arguments), math.prod(event_shape)
        a, y, root = normal(m, d, purpose="A"), normal(1, m, purpose="y"), normal(m, m, purpose="noise")
        covariance = root @ root.mT + 0.1 * torch.eye(m, dtype=F64)
        named = {"noise_std": 0.4}
        if noise == "entries":
            named = {"noise_std": covariance.diagonal().sqrt()}
            covariance = covariance.diagonal().diag()
        elif noise == "covariance":
            named = {"noise_covariance": covariance}
        else:
            covariance = 0.16 * torch.eye(m, dtype=F64)
        operator = matrix_operator(a, event_shape)
        x = normal(6, *event_shape)
        likelihood = MultivariateNormal(operator(x), covariance).log_prob(y)
        wanted = prior.log_prob(x) + likelihood - prior.log_evidence(operator, y, **named)
        found = prior.posterior(operator, y, **named)
        assert found.event_shape == event_shape
        assert torch.allclose(found.log_prob(x), wanted, rtol=1e-8, atol=1e-7)

    def test_a_wrong_gain_fails(self, monkeypatch):
        prior, operator, y = GaussianMixture([[0.0, 1.0]], 0.7), lambda x: x[:, :1], torch.ones(1, 1)
        x = normal(3, 2)
        likelihood = -0.5 * (operator(x) - 1.0).square().sum(1) / 0.09 - math.log(0.3 * math.sqrt(2 * math.pi))
        wanted = prior.log_prob(x) + likelihood - prior.log_evidence(operator, y, 0.3)
        assert torch.allclose(prior.posterior(operator, y, 0.3).log_prob(x), wanted)
        true = LinearMeasurement.joint
        monkeypatch.setattr(LinearMeasurement, "joint", lambda *args: (true(*args)[0], 1.1 * true(*args)[1]))
        assert not torch.allclose(prior.posterior(operator, y, 0.3).log_prob(x), wanted, atol=1e-3)


class TestEnumeration:
    def test_points_have_the_weights_of_their_likelihoods(self):
        points = normal(40, 1, 2, 2)
        a, y = normal(3, 4, purpose="A"), normal(1, 3, purpose="y")
        operator = matrix_operator(a, (1, 2, 2))
        found = SmoothedEmpirical(points, 0.0).posterior(operator, y, 0.5)
        logits = -0.5 * (y - operator(points)).square().sum(1) / 0.25
        assert torch.allclose(found.weights, logits.softmax(0))
        assert torch.equal(found.means, points.flatten(1)) and float(found.variances.max()) == 0.0
        evidence = logits.logsumexp(0) - math.log(40) - 1.5 * math.log(2 * math.pi * 0.25)
        assert torch.allclose(SmoothedEmpirical(points, 0.0).log_evidence(operator, y, 0.5)[0], evidence)

    def test_points_that_are_excluded_are_left_out(self):
        points = torch.tensor([[0.0, 0.0], [0.1, 1.0], [9.0, 2.0]])
        found = SmoothedEmpirical(points, 0.05).posterior(lambda x: x[:, :1], torch.zeros(1, 1), 0.1)
        assert len(found.weights) == 2 and found.score(VPSDE())(torch.zeros(3, 2), torch.full((3,), 0.5)).shape == (
            3,
            2,
        )


class TestClosedForms:
    def test_evidences_of_rows(self):
        prior, y = GaussianMixture(**components("full", 3, (2, 2))[0]), normal(5, 3, purpose="y")
        operator = matrix_operator(normal(3, 4, purpose="A"), (2, 2))
        found = prior.log_evidence(operator, y, 0.2)
        assert found.shape == (5,) and found.dtype == F64
        assert torch.allclose(found, torch.cat([prior.log_evidence(operator, row[None], 0.2) for row in y]))

    def test_a_mask_without_noise(self):
        """Entries that are masked are 0 for every x and do not count. Known ones have variance 0."""
        prior = GaussianMixture([[0.0, 0.0, 1.0]], covariances=[[[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 2.0]]])
        known = torch.tensor([1.0, 0.0, 0.0])
        found = prior.posterior(lambda x: x * known.to(x), torch.tensor([[1.0, 0.0, 0.0]]))
        assert torch.allclose(found.means, torch.tensor([[1.0, 0.9, 1.0]], dtype=F64))
        x = found.sample(4000, dtype=F64)
        assert torch.allclose(x[:, 0], torch.ones(4000, dtype=F64), atol=1e-6)
        assert float(x[:, 1].var()) == pytest.approx(0.19, rel=0.1)
        with pytest.raises(ValueError, match="no density at t = 0"):
            found.log_prob(x)
        evidence = prior.log_evidence(lambda x: x * known.to(x), torch.tensor([[1.0, 0.0, 0.0]]))
        assert float(evidence) == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi))

    def test_the_score_of_the_posterior_of_noisy_data(self):
        """The posterior is a mixture, so it has a score at every t."""
        prior, y = GaussianMixture([[0.0, 0.0]], 1.0), torch.full((1, 1), 0.5)
        score = prior.posterior(lambda x: x[:, :1], y, 1.0).score(VPSDE())
        x, t = normal(3, 2), torch.full((3,), 0.4, dtype=F64)
        a, s = VPSDE().alpha(t)[:, None], VPSDE().sigma(t)[:, None]
        wanted = (a * torch.tensor([[0.25, 0.0]]) - x) / (a**2 * torch.tensor([[0.5, 1.0]]) + s**2)
        assert torch.allclose(score(x, t), wanted)


PRIOR = GaussianMixture([[0.0, 0.0]], 1.0)
ONE = torch.zeros(1, 1)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((3, ONE), {}, "operator=3"),
        ((lambda x: x[:, :1], torch.zeros(2, 1)), {}, r"measurement has shape \(2, 1\): give a single row"),
        ((lambda x: x, ONE), {}, r"operator returned <Tensor of shape \(4, 2\)> .* rows of shape \(1,\)"),
        ((lambda x: x[:, :1], torch.full((1, 1), math.nan)), {}, "measurement has values that are not finite"),
        ((lambda x: x[:, :1] ** 2, ONE), {}, "operator=.* is not linear"),
        ((lambda x: x[:, :1] + 1.0, ONE), {}, "operator=.* is not linear"),
        ((lambda x: x[:, :1], ONE, -1.0), {}, "noise_std=-1.0"),
        ((lambda x: x, torch.zeros(1, 2), torch.ones(3)), {}, r"noise_std has shape \(3,\), and a row .* \(2,\)"),
        ((lambda x: x, torch.zeros(1, 2), -torch.ones(2)), {}, "noise_std=.* give numbers >= 0"),
        ((lambda x: x, torch.zeros(1, 2)), {"noise_covariance": torch.eye(3)}, r"\(3, 3\), and a row .* give \(2, 2\)"),
        ((lambda x: x, torch.zeros(1, 2)), {"noise_covariance": torch.ones(3)}, r"shape \(3,\): give \(m, m\)"),
        ((lambda x: x, torch.zeros(1, 2)), {"noise_covariance": -torch.eye(2)}, "negative eigenvalue"),
        ((lambda x: x, torch.zeros(1, 2), 0.1), {"noise_covariance": torch.eye(2)}, "are both given"),
        (
            (lambda x: x, torch.zeros(1, 2)),
            {"noise_covariance": torch.tensor([[1.0, 0.5], [0.0, 1.0]])},
            "noise_covariance is not symmetric",
        ),
        ((lambda x: 0.0 * x, torch.ones(1, 2)), {}, "is not a value of the operator, and there is no noise"),
    ],
)
def test_refused(arguments, named, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PRIOR.posterior(*arguments, **named)


def test_points_without_noise_are_refused():
    with pytest.raises(ValueError, match="no density, because a variance is 0: give noise_std > 0"):
        SmoothedEmpirical(torch.randn(4, 2), 0.0).posterior(lambda x: x[:, :1], ONE)
