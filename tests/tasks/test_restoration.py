"""Samples of p(x | y) for incomplete data, compared with the posteriors of Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch

from scoresde import VPSDE, GaussianMixture
from scoresde.guidance import IsotropicMoments, TweedieMoments
from scoresde.operators import Grayscale, SuperResolution
from scoresde.samplers import AdaptiveSDE, UniPC
from scoresde.sde import VESDE, CriticallyDampedLangevin
from scoresde.tasks import colorize, inpaint, super_resolve

SDE = VPSDE()
PAIR = GaussianMixture([[0.0, 0.0]], covariances=torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])).score(SDE)
COUNT = 2000


def standard(*event, sde=SDE):
    return GaussianMixture(torch.zeros(1, *event), 1.0).score(sde)


def close(x, mean, variance):
    """Whether samples have this mean and variance in every coordinate, up to five standard errors and the steps' error."""
    n = len(x)
    apart = (x.double().mean(0) - mean).abs() <= 5 * (torch.as_tensor(variance) / n).sqrt() + 0.005
    return bool(apart.all()) and torch.allclose(
        x.double().var(0), torch.as_tensor(variance).double(), rtol=5 * math.sqrt(2 / n) + 0.02
    )


class TestInpaint:
    def test_the_missing_coordinate_has_its_conditional_distribution(self):
        y = torch.tensor([[1.0, math.nan]]).repeat(COUNT, 1)
        x = inpaint(UniPC(40), SDE, PAIR, y, torch.tensor([True, False]), guidance=TweedieMoments).samples
        assert bool((x[:, 0] == 1.0).all()) and close(x[:, 1:], 0.9, torch.tensor([0.19]))

    def test_the_comparison_finds_a_wrong_covariance(self):
        """`IsotropicMoments` is not exact for correlated data."""
        y = torch.tensor([[1.0, 0.0]]).repeat(COUNT, 1)
        x = inpaint(UniPC(40), SDE, PAIR, y, torch.tensor([True, False]), guidance=IsotropicMoments).samples
        assert not close(x[:, 1:], 0.9, torch.tensor([0.19]))

    def test_noise_of_the_measurement(self):
        """y_1 = 1 with noise of variance 1: x_1 has mean 1/2 and variance 1/2, x_2 mean .45 and variance 1 - .81/2."""
        y = torch.tensor([[1.0, 0.0]]).repeat(COUNT, 1)
        x = inpaint(
            UniPC(40), SDE, PAIR, y, torch.tensor([True, False]), noise_std=1.0, guidance=TweedieMoments
        ).samples
        assert close(x, torch.tensor([0.5, 0.45]), torch.tensor([0.5, 0.595]))

    @pytest.mark.parametrize("sampler", [UniPC(40), AdaptiveSDE(0.02)], ids=["grid", "steps of each sample"])
    def test_masks_of_each_sample(self, sampler):
        """AdaptiveSDE evaluates the score for some of the samples, and so for some of the masks."""
        y, known = torch.ones(600, 2), torch.tensor([[True, False], [False, True]]).repeat(300, 1)
        x = inpaint(sampler, SDE, PAIR, y, known, guidance=TweedieMoments).samples
        assert bool((x[known] == 1.0).all())
        assert close(x[0::2, 1:], 0.9, torch.tensor([0.19])) and close(x[1::2, :1], 0.9, torch.tensor([0.19]))

    def test_all_or_nothing_is_known(self):
        y = torch.full((COUNT, 2), 0.3)
        assert torch.equal(inpaint(UniPC(5), SDE, PAIR, y, torch.ones(2, dtype=torch.bool)).samples, y)
        assert close(inpaint(UniPC(30), SDE, PAIR, y, torch.zeros(2, dtype=torch.bool)).samples, 0.0, torch.ones(2))

    def test_the_mask_of_pixels_holds_for_all_channels(self):
        y, known = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 1, 4, 4).bool()
        known[:, :, :2] = True
        x = inpaint(UniPC(5), SDE, standard(2, 4, 4), y, known).samples
        assert torch.equal(x[:, :, :2], y[:, :, :2]) and bool((x[:, :, 2:] != y[:, :, 2:]).all())

    def test_other_guidance(self):
        y = torch.tensor([[1.0, 0.0]]).repeat(COUNT, 1)
        seen = []

        def guidance(score, operator, y, noise_std):
            seen.append(noise_std)
            return IsotropicMoments(score, operator, y, noise_std)

        x = inpaint(
            UniPC(40), SDE, standard(2), y, torch.tensor([True, False]), guidance=guidance, noise_std=1.0
        ).samples
        assert seen == [1.0] and close(x, torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.0]))
        x = inpaint(UniPC(40), SDE, standard(2), y, torch.tensor([True, False])).samples
        assert close(x[:, 1:], 0.0, torch.ones(1))

    def test_samples_depend_on_their_index(self):
        y, known = (
            torch.linspace(-1, 1, 12).reshape(6, 2),
            torch.tensor([[True, False], [False, True], [True, True]]).repeat(2, 1),
        )
        whole = inpaint(UniPC(5), SDE, PAIR, y, known, seed=4).samples
        part = inpaint(UniPC(5), SDE, PAIR, y[2:5], known[2:5], seed=4, first=2).samples
        assert torch.allclose(whole[2:5], part, atol=1e-5)
        assert not torch.allclose(inpaint(UniPC(5), SDE, PAIR, y, known, seed=5).samples, whole)

    def test_double_precision(self):
        x = inpaint(UniPC(5), SDE, PAIR, torch.zeros(2, 2).double(), torch.tensor([True, False])).samples
        assert x.dtype == torch.float64


class TestSuperResolve:
    @pytest.mark.parametrize("sde", [SDE, VESDE(sigma_max=10.0)], ids=["vp", "ve"])
    def test_independent_pixels(self, sde):
        """Given its mean y, a block of four independent normal pixels has mean y and covariance I - 1/4."""
        y = torch.tensor([[[0.5, -1.0]]]).repeat(COUNT, 1, 1)[:, :, None]
        x = super_resolve(UniPC(40), sde, standard(1, 2, 4, sde=sde), y, 2).samples
        assert torch.allclose(SuperResolution(2).apply(x), y, atol=1e-5)
        assert close(x[:, :, :, :2], 0.5, torch.full((1, 2, 2), 0.75)) and close(
            x[:, :, :, 2:], -1.0, torch.full((1, 2, 2), 0.75)
        )
        assert float((x[:, 0, 0, 0] * x[:, 0, 0, 1]).mean() - 0.25) == pytest.approx(-0.25, abs=0.05)

    def test_noise_and_one_side(self):
        """The mean of two pixels with noise of variance 1/2: it has the variance 1, the gain is 1/2."""
        x = super_resolve(UniPC(40), SDE, standard(1, 2), torch.ones(COUNT, 1, 1), 2, noise_std=math.sqrt(0.5)).samples
        assert close(x, 0.5, torch.full((1, 2), 0.75))


class TestColorize:
    def test_independent_channels(self):
        """Given y = w x, x has mean w y / |w|^2 and covariance I - w w^T / |w|^2."""
        w = torch.tensor([0.5, 0.3, 0.2])
        x = colorize(UniPC(40), SDE, standard(3, 1), torch.full((COUNT, 1, 1), 0.4), tuple(w.tolist())).samples
        assert torch.allclose(Grayscale(w.tolist()).apply(x), torch.tensor(0.4), atol=1e-5)
        square = float(w @ w)
        assert close(x[:, :, 0], 0.4 * w / square, 1.0 - w**2 / square)

    def test_noise(self):
        x = colorize(
            UniPC(40), SDE, standard(2, 1), torch.ones(COUNT, 1, 1), (1.0, 1.0), noise_std=math.sqrt(2.0)
        ).samples
        assert close(x[:, :, 0], 0.25, torch.full((2,), 0.75))


Y, KNOWN, IMAGE = torch.zeros(3, 2), torch.tensor([True, False]), torch.zeros(3, 1, 2, 2)
ALL, CLD = torch.ones(4, 2).bool(), CriticallyDampedLangevin()


@pytest.mark.parametrize(
    ("known", "options", "error", "message"),
    [
        (KNOWN.float(), {}, TypeError, "known is a torch.float32: give a tensor of bool"),
        ([True, False], {}, TypeError, "known"),
        (ALL, {}, ValueError, r"known has shape \(4, 2\) for y of shape \(3, 2\)"),
        (ALL[:3, 0], {}, ValueError, r"known has shape \(3,\)"),
        (ALL[0, 0], {}, ValueError, r"known has shape \(\)"),
        (KNOWN, {"y": Y / 0}, ValueError, "y holds non-finite values in 3 of 3 samples where it is known"),
        (KNOWN, {"noise_std": -1.0}, ValueError, "noise_std=-1.0 is not allowed"),
        (KNOWN, {"score": lambda x, t: -x}, TypeError, "give the score of a process with scalar alpha"),
        (KNOWN, {"sde": VESDE()}, ValueError, "the score was made for VPSDE"),
        (
            KNOWN,
            {"sde": CLD, "score": standard(2, sde=CLD)},
            TypeError,
            "give the score of a process with scalar alpha",
        ),
        (KNOWN, {"guidance": lambda *_: PAIR}, TypeError, "guidance returned .*: return a Guidance"),
    ],
)
def test_refused_by_inpaint(known, options, error, message):
    given = {"sde": SDE, "score": PAIR, "y": Y, **options}
    with pytest.raises(error, match=message):
        inpaint(UniPC(3), known=known, **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: super_resolve(UniPC(3), SDE, PAIR, Y, 2), r"y has shape \(3, 2\): give images \(B, C, \*sides\)"),
        (lambda: super_resolve(UniPC(3), SDE, PAIR, IMAGE, 1), "factor=1 is not allowed"),
        (lambda: super_resolve(UniPC(3), SDE, PAIR, IMAGE / 0, 2), "y holds non-finite values"),
        (
            lambda: colorize(UniPC(3), SDE, PAIR, IMAGE.repeat(1, 3, 1, 1)),
            r"y has shape \(3, 3, 2, 2\): give gray images",
        ),
        (lambda: colorize(UniPC(3), SDE, PAIR, IMAGE, (1.0,)), "give a number for each of two or more channels"),
        (lambda: colorize(UniPC(3), SDE, PAIR, IMAGE, (0.0, 0.0)), "give a weight that is not 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
