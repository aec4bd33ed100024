"""Preconditioned correctors against closed forms.

For Gaussian p_t a Langevin step is affine. Its matrices are read off the step itself, so covariances after any number of
steps, and in the limit, have no statistical error.
"""

from __future__ import annotations

import pytest
import torch

from scoresde import VESDE, VPSDE, GaussianMixture
from scoresde.filters import FilteredNoise, MatrixFilter, SpectralFilter, fit_spectral_filter
from scoresde.samplers import AnnealedLangevin, Langevin, PredictorCorrector
from scoresde.samplers.predictor_corrector import MALA, BatchLangevin, Preconditioned, UnderdampedLangevin
from tests.samplers.test_correctors import MODES, SNR, Normal, level, model_of, normal

F64 = torch.float64
ROOT = torch.diag(MODES.sqrt())


def affine(corrector, variance):
    """The matrices (A, B) of a step x <- A x + B z for N(0, diag(variance))."""
    d = len(variance)
    zero, eye = torch.zeros(d, d, dtype=F64), torch.eye(d, dtype=F64)
    x, z = torch.cat([eye, zero]), torch.cat([zero, eye])
    moved, *_ = corrector.step(model_of(Normal(variance)), x, level(2 * d), z, None)
    return moved[:d].T, moved[d:].T


def divergence(covariance, variance):
    """KL(N(0, covariance) || N(0, diag(variance))), in nats."""
    ratio = covariance / variance
    return float(0.5 * (ratio.diagonal().sum() - len(variance) - torch.linalg.slogdet(ratio)[1]))


def kl_after(steps, corrector, filter=None):
    """KL from the start N(0, 100 I). With ``filter`` the noise alone is filtered."""
    a, b = affine(corrector, MODES)
    b = b if filter is None else b @ filter.matrix
    covariance = 100.0 * torch.eye(64, dtype=F64)
    for _ in range(steps):
        covariance = a @ covariance @ a.T + b @ b.T
    return divergence(covariance, MODES)


def stationary(corrector, variance, filter=None):
    a, b = affine(corrector, variance)
    b = b if filter is None else b @ filter.matrix
    covariance = b @ b.T
    for _ in range(40):  # doubling: the sum of a^k b b^T a^kT
        covariance, a = covariance + a @ covariance @ a.T, a @ a
    return covariance


def test_fewer_steps_for_an_ill_conditioned_distribution():
    """An eighth of the largest stable step each, e = min(variance) / 4: the figures of docs/samplers.md."""
    plain = AnnealedLangevin(SNR)
    whole = Preconditioned(AnnealedLangevin(0.125**0.5), MatrixFilter(ROOT))  # all variances of u are 1, and e = 1/4
    slow = [kl_after(n, plain) for n in (50, 200)]
    assert slow == [pytest.approx(237.9, rel=1e-3), pytest.approx(22.48, rel=1e-3)]
    fast = kl_after(50, whole)
    assert fast == pytest.approx(0.2984, rel=1e-3) and slow[0] > 50 * fast


def test_the_stationary_distribution_is_that_of_the_score_as_the_step_goes_to_zero():
    """KL is of order e^2, as for plain steps and for any filter. Filtered noise alone has another distribution."""
    variance = torch.tensor([0.2, 1.0, 9.0, 3.0], dtype=F64)
    filters = [
        MatrixFilter(variance.sqrt().diag()),
        MatrixFilter(torch.eye(4, dtype=F64) + 0.2 * normal((4, 4))),
        SpectralFilter(torch.tensor([1.0, 0.7, 0.5, 0.7], dtype=F64), torch.tensor([1.0, 0.8, 1.2, 0.9], dtype=F64)),
    ]
    for steps in (AnnealedLangevin, *(lambda snr, m=m: Preconditioned(AnnealedLangevin(snr), m) for m in filters)):
        coarse, fine = (divergence(stationary(steps(snr), variance), variance) for snr in (0.04, 0.02))
        assert 10 < coarse / fine < 20 and fine < 1e-4
    moved = divergence(stationary(AnnealedLangevin(0.02), variance, filters[0]), variance)
    assert moved > 1.0


def test_the_momentum_keeps_its_exact_variance():
    """Underdamped steps have no error for Gaussian p_t, preconditioned too: from the start N(0, C) the distribution of x does not
    move."""
    variance, m = torch.tensor([0.2, 1.0, 9.0], dtype=F64), torch.eye(3, dtype=F64) + 0.2 * normal((3, 3))
    corrector = Preconditioned(UnderdampedLangevin(0.05), MatrixFilter(m))
    x = variance.sqrt() * normal((20_000, 3))
    past = None
    for k in range(5):
        x, _, past = corrector.step(model_of(Normal(variance)), x, level(len(x), k), normal((20_000, 3), f"z{k}"), past)
    assert torch.allclose(x.T.cov(), variance.diag(), atol=0.3)
    assert torch.allclose(x.var(0), variance, rtol=0.05)


@pytest.mark.parametrize(
    "corrector", [AnnealedLangevin(0.3), Langevin(0.3), BatchLangevin(0.3), MALA(0.8), UnderdampedLangevin(0.3)]
)
def test_steps_are_those_of_the_corrector_for_the_whitened_distribution(corrector):
    """For p_t = N(0, M M^T), u is standard normal: x is M times the run for N(0, I), and MALA accepts the same proposals."""
    m = MatrixFilter(torch.tensor([[2.0, 0.5], [0.3, 0.1]], dtype=F64))
    covariance = m.matrix @ m.matrix.T
    wide = GaussianMixture(torch.zeros(1, 2, dtype=F64), covariances=covariance[None])

    class Score:
        """Of the distribution without noise, at every time."""

        def __call__(self, x, t):
            return -(torch.linalg.solve(covariance, x.T)).T

        def energy(self, x, t):
            return -wide.log_prob(x)

    models, whole = (model_of(Normal(torch.ones(2))), model_of(Score())), Preconditioned(corrector, m)
    u, states = normal((6, 2)), []
    x, past_u, past_x = m(u), None, None
    for k in range(4):
        z = normal((6, 2), f"z{k}")
        z = torch.stack([z, normal((6, 2), f"u{k}")]) if corrector.draws_per_step == 2 else z
        u, mean_u, past_u = corrector.step(models[0], u, level(6, k // 2), z, past_u)
        x, mean_x, past_x = whole.step(models[1], x, level(6, k // 2), z, past_x)
        assert torch.allclose(x, m(u), atol=1e-9) and torch.allclose(mean_x, m(mean_u), atol=1e-9)
        states.append(x)
    accepted = [model.counted.acceptance for model in models]
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*accepted, strict=True))
    assert len(accepted[0]) == (4 if isinstance(corrector, MALA) else 0)


def test_a_corrector_with_the_identity_is_the_corrector():
    score = GaussianMixture([[1.0, -1.0]], 0.3).score(VPSDE())
    for corrector in (AnnealedLangevin(0.1, steps=2), MALA(0.3, steps=2), UnderdampedLangevin(0.1)):
        whole = Preconditioned(corrector, SpectralFilter(space=torch.ones(2)))
        plain, found = (PredictorCorrector(corrector=c, steps=8)(VPSDE(), score, (3, 2)) for c in (corrector, whole))
        assert torch.allclose(plain.samples, found.samples, atol=1e-5) and plain.nfe == found.nfe
        assert (plain.acceptance is None) == (found.acceptance is None)


def test_images():
    """A spectral filter of the data in a sampler, for a process with scalar coefficients."""
    data = GaussianMixture(torch.zeros(1, 1, 4, 4), 1.0)
    filter = fit_spectral_filter(data.sample(100, seed=0), inverted=True)
    sampler = PredictorCorrector(corrector=Preconditioned(Langevin(0.2), filter), steps=50)
    x = sampler(VESDE(0.01, 5.0), data.score(VESDE(0.01, 5.0)), (500, 1, 4, 4)).samples
    assert torch.allclose(x.var(0), torch.ones(1, 4, 4), atol=0.3)


def test_what_is_refused():
    with pytest.raises(TypeError, match="corrector=1 is not allowed: give a Corrector"):
        Preconditioned(1, MatrixFilter(ROOT))
    with pytest.raises(TypeError, match="filter=2 is not allowed: give a Filter"):
        Preconditioned(Langevin(), 2)
    score, identity = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE()), SpectralFilter(space=torch.ones(2))
    noise, whole = FilteredNoise.of(0, 2, filter=identity), Preconditioned(MALA(), identity)
    with pytest.raises(ValueError, match="Preconditioned needs standard normals"):
        PredictorCorrector(corrector=whole, steps=3)(VPSDE(), score, (2, 2), noise=noise)
    with pytest.raises(ValueError, match=r"the filter is for events of shape \(64,\)"):
        PredictorCorrector(corrector=Preconditioned(Langevin(), MatrixFilter(ROOT)), steps=3)(VPSDE(), score, (2, 2))
