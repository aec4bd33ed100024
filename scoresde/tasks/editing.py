r"""Samples that start from noisy versions of given data (SDEdit, Meng et al. 2021, arXiv:2108.01073).

.. math::
    x_t \sim p(x_t \mid x_0 = x_{\mathrm{guide}}), \qquad \text{then the reverse process from } t \text{ to } 0

The result is a draw of p(x_0 | x_t) for the noisy guide. A larger t gives results that are more like data and less like the
guide. With an attacked input as the guide, this is purification (Nie et al. 2022, arXiv:2205.07460).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_finite, check_number
from scoresde.noise import NoiseSource
from scoresde.samplers.base import Sampler, SampleResult
from scoresde.sde import SDE


@checked_arguments
def edit(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    guide: Tensor,
    t: float,
    *,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    **options: Any,
) -> SampleResult:
    """Draw samples that resemble given data: noise of time t is added, and the sampler removes it.

    Args:
        sampler: A sampler that takes its times from the process, such as ``UniPC(20)`` or ``AdaptiveSDE()``. All its steps lie
            between t and its last time.
        sde: The process of the score.
        score: A callable (x, t) -> the shape of x.
        guide: The data to start from, (B, *event).
        t: Time of the start, in (0, T).
        seed: Key of the draws.
        first: Index of the first sample. Sample i depends only on its guide and on ``(seed, first + i)``.
        noise: A source of noise that replaces ``(seed, first)``, for the start and for the sampler.
        **options: Other arguments of the sampler's call, such as ``condition``.

    Returns:
        The result of the sampler.

    Raises:
        ValueError: If t is not in (0, T), the guide is not finite, or the sampler has times above t.

    References:
        Meng et al. 2021, "SDEdit: guided image synthesis and editing with stochastic differential equations", arXiv:2108.01073.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.1).score(VPSDE())
        >>> result = edit(UniPC(10), VPSDE(), score, torch.tensor([[0.8, 0.3]]), t=0.1)
        >>> result.samples.shape
        torch.Size([1, 2])
    """
    check_batch("guide", guide)
    check_finite("guide", guide)
    noise = NoiseSource.for_batch(noise, len(guide), seed, first, guide.device)
    return noised_and_denoised(sampler, sde, score, guide, t, noise, **options)


@checked_arguments
def purify(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    x: Tensor,
    t: float,
    *,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    **options: Any,
) -> Tensor:
    """Remove small perturbations of data, such as those of an attack on a classifier.

    Noise of time t covers the perturbation, and the sampler removes both, as in ``edit``. A small t leaves the perturbation,
    and a large t changes the class. The result goes to the classifier in place of x.

    If x requires gradients, so does the result: an attack that knows the purification differentiates through all steps of the
    sampler. The score is evaluated again in the backward pass, so that the memory holds the states of the steps and one
    evaluation.

    Args:
        sampler: A sampler that takes its times from the process. A stochastic one, such as
            ``PredictorCorrector(EulerMaruyama(), None, steps=50)``, follows the paper.
        sde: The process of the score.
        score: A callable (x, t) -> the shape of x.
        x: The data, (B, *event).
        t: Time of the noise, in (0, T).
        seed: Key of the draws.
        first: Index of the first event. Result i depends only on its event and on ``(seed, first + i)``.
        noise: A source of noise that replaces ``(seed, first)``, for the start and for the sampler.
        **options: Other arguments of the sampler's call, such as ``condition``.

    Returns:
        The purified data, (B, *event).

    Raises:
        ValueError: If t is not in (0, T), x is not finite, or the sampler has times above t.
        TypeError: If x requires gradients and the sampler has no grid of times.

    References:
        Nie et al. 2022, "Diffusion models for adversarial purification", arXiv:2205.07460.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.1).score(VPSDE())
        >>> purify(UniPC(10), VPSDE(), score, torch.tensor([[0.8, 0.3]]), t=0.1).shape
        torch.Size([1, 2])
    """
    check_batch("x", x)
    check_finite("x", x)
    noise = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    graph = torch.is_grad_enabled() and x.requires_grad
    return noised_and_denoised(sampler, sde, score, x, t, noise, differentiable=graph, **options).samples


def noised_and_denoised(
    sampler: Sampler, sde: SDE, score: Callable[..., Tensor], x: Tensor, t: float, noise: NoiseSource, **options: Any
) -> SampleResult:
    """The sampler's result from x (B, *event) with the noise of time t. Raises ValueError if t is not in (0, T)."""
    check_number("t", t, above=0.0, below=sde.T)
    start = sde.marginal_sample(x, x.new_full((len(x),), t), noise)
    return sampler(sde.until(t), score, tuple(x.shape), noise=noise, start=start, **options)
