"""The baselines and figures of benchmarks/photo_restoration.py, against closed forms."""

from __future__ import annotations

import pytest
import torch

from benchmarks.restoration import NOISE, Linear, Task, coverage, moments, psnr, tasks
from scoresde import GaussianMixture


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_linear_estimate_is_the_posterior_mean_of_gaussian_data():
    x = (normal(500, 4, seed=0) @ normal(4, 4, seed=1) + 0.3).reshape(-1, 1, 2, 2)
    task = Task("mean of a row", lambda z: z.mean(-1))
    mean, covariance = moments(x)
    linear, y = Linear(mean, covariance, task), torch.tensor([[[0.7, -0.2]]])
    both = torch.cat([x, x.flip(-1)]).flatten(1)
    torch.testing.assert_close(covariance, torch.cov(both.T))
    prior = GaussianMixture(mean[None], covariances=covariance[None])
    posterior = prior.posterior(task.operator, y, NOISE)
    torch.testing.assert_close(linear(y).flatten(), posterior.means[0].double().flatten(), rtol=1e-5, atol=1e-5)
    # the spread of the posterior is that of its samples: four standard errors of a standard deviation of 20,000 draws
    torch.testing.assert_close(
        linear.std, posterior.sample(20000, seed=2).double().std(0).reshape(1, 2, 2), rtol=4.0 / 200.0, atol=0.0
    )


def test_blur_and_averages_keep_a_constant_image():
    x = torch.full((1, 3, 32, 32), 0.3)
    for name in ("sr2", "sr4", "blur"):
        y = tasks()[name].operator(x)
        torch.testing.assert_close(y, torch.full_like(y, 0.3))


@pytest.mark.parametrize("nominal", [50, 80, 90])
def test_coverage_of_exchangeable_values_is_nominal(nominal):
    """4000 pixels: a standard error of at most .8 %, so five of them fail by chance once in a million."""
    samples, truth = normal(19, 4000, seed=0), normal(4000, seed=1)
    assert abs(coverage(samples, truth, nominal) - nominal) < 4.0
    assert coverage(0.5 * samples, truth, nominal) < nominal - 10.0
    assert coverage(2.0 * samples, truth, nominal) > nominal + 5.0


def test_coverage_refuses_a_number_of_samples_without_such_an_interval():
    with pytest.raises(ValueError, match="use 19 samples"):
        coverage(normal(16, 5, seed=0), normal(5, seed=1), 90)


def test_psnr_of_inpainting_is_that_of_the_missing_pixels():
    truth, box = torch.zeros(1, 3, 32, 32), tasks()["box"]
    wrong = truth + 0.2 * (1.0 - box.known)
    assert float(psnr(wrong, truth, box)) == pytest.approx(20.0)  # 10 log10(4 / .04)
    assert float(psnr(wrong, truth)) == pytest.approx(20.0 + 10.0 * torch.log10(torch.tensor(4.0)))
    assert float(psnr(truth + 0.2 * box.known, truth, box)) == float("inf")


def test_missing_pixels_have_no_noise():
    for name in ("box", "pixels"):
        task = tasks()[name]
        y = task.measure(torch.ones(2, 3, 32, 32), seed=0)
        assert bool((y[..., task.known == 0] == 0).all()) and bool((y[..., task.known == 1] != 1).all())
