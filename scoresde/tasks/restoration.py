r"""Samples of p(x | y) for incomplete images: missing pixels, low resolution, gray levels.

A measurement is y = A x + noise. The score of p(x_t | y) is that of p(x_t) plus the gradient of log p(y | x_t), which a
guidance approximates (``scoresde.guidance.measurements``). Without noise in y, the result of the sampler is moved to the nearest
x with A x = y:

.. math::
    x \leftarrow x + A^+ (y - A x)

For missing pixels this puts the known values in place, bit for bit. For the means of blocks and gray levels, A x equals y up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_finite, check_number, shown
from scoresde.guidance import Guidance, TweedieMoments
from scoresde.operators import Grayscale, LinearOperator, SuperResolution
from scoresde.samplers.base import Sampler, SampleResult
from scoresde.sde import SDE

GuidanceMaker = Callable[[Callable[..., Tensor], Callable[[Tensor], Tensor], Tensor, float], Guidance]
"""A function (score, operator, y, noise_std) -> Guidance, such as the class TweedieMoments."""


@checked_arguments
def inpaint(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    y: Tensor,
    known: Tensor,
    *,
    noise_std: float = 0.0,
    guidance: GuidanceMaker = TweedieMoments,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> SampleResult:
    """Draw samples of the missing values of data, given the known values.

    For several samples of one measurement, repeat its row: ``y.repeat_interleave(8, 0)``.

    Args:
        sampler: The sampler.
        sde: The process of the score, with scalar coefficients.
        score: The score of the process without the measurement, such as a ``ScoreModel``.
        y: The data, (B, *event). Values that are not known are not used.
        known: Which values are known, a tensor of bool: (B, *event), (*event), or with sizes of 1 that stand for all indices,
            such as (B, 1, *sides) for images.
        noise_std: Standard deviation of the noise of y, >= 0. With 0, the result has the known values of y exactly: the sampler's
            values are replaced at the end.
        guidance: A class of guidance by a measurement, or a function (score, operator, y, noise_std) -> Guidance. The default is
            the most accurate one; ``IsotropicMoments`` costs a fifth.
        seed: Key of the draws.
        first: Index of the first sample. Sample i depends only on its rows of y and known and on ``(seed, first + i)``.
        **options: Other arguments of the sampler's call, such as ``condition``.

    Returns:
        The result of the sampler. ``samples`` has the shape of y.

    Raises:
        ValueError: If known has a shape that does not fit y, or a known value is not finite.
        TypeError: If known is not a tensor of bool, or the score has no process with scalar coefficients.

    References:
        Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture([[1.0, 1.0], [-1.0, -1.0]], 0.1).score(VPSDE())
        >>> y, known = torch.tensor([[1.0, 0.0]]), torch.tensor([True, False])
        >>> x = inpaint(UniPC(20), VPSDE(), score, y, known).samples
        >>> float(x[0, 0]), round(float(x[0, 1]))
        (1.0, 1)
    """
    check_batch("y", y)
    mask = _mask(known, y)
    y = torch.where(mask, y, 0.0)
    result = _restored(sampler, sde, score, Known(mask), y, tuple(y.shape), noise_std, guidance, seed, first, options)
    return result if noise_std else _moved(result, torch.where(mask, y, result.samples))


@checked_arguments
def super_resolve(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    y: Tensor,
    factor: int,
    *,
    noise_std: float = 0.0,
    guidance: GuidanceMaker = TweedieMoments,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> SampleResult:
    """Draw samples of images, given the means of blocks of pixels.

    For several samples of one measurement, repeat its row: ``y.repeat_interleave(8, 0)``.

    Args:
        sampler: The sampler.
        sde: The process of the score, with scalar coefficients.
        score: The score of the process without the measurement, such as a ``ScoreModel`` of images (C, *(factor sides)).
        y: The images of low resolution, (B, C, *sides).
        factor: Pixels of a block along each side, >= 2.
        noise_std: Standard deviation of the noise of y, >= 0. With 0, the blocks of the result have the means y up to rounding:
            at the end, the difference is added to all pixels of a block.
        guidance: A class of guidance by a measurement, or a function (score, operator, y, noise_std) -> Guidance. The default is
            the most accurate one; ``IsotropicMoments`` costs a fifth.
        seed: Key of the draws.
        first: Index of the first sample. Sample i depends only on its row of y and on ``(seed, first + i)``.
        **options: Other arguments of the sampler's call, such as ``condition``.

    Returns:
        The result of the sampler. ``samples`` has the shape (B, C, *(factor sides)).

    Raises:
        ValueError: If y is not a batch of finite images, or factor is below 2.
        TypeError: If the score has no process with scalar coefficients.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture(torch.zeros(1, 1, 4, 4), 1.0).score(VPSDE())
        >>> super_resolve(UniPC(10), VPSDE(), score, torch.ones(1, 1, 2, 2), factor=2).samples.shape
        torch.Size([1, 1, 4, 4])
    """
    operator = SuperResolution(factor)
    check_batch("y", y)
    check_finite("y", y)
    if y.ndim < 3:
        raise ValueError(f"y has shape {tuple(y.shape)}: give images (B, C, *sides)")
    shape = (*y.shape[:2], *(side * factor for side in y.shape[2:]))
    result = _restored(sampler, sde, score, operator, y, shape, noise_std, guidance, seed, first, options)
    return result if noise_std else _moved(result, _nearest(operator, result.samples, y))


@checked_arguments
def colorize(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    y: Tensor,
    weights: Sequence[float] = (0.299, 0.587, 0.114),
    *,
    noise_std: float = 0.0,
    guidance: GuidanceMaker = TweedieMoments,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> SampleResult:
    """Draw samples of color images, given their gray levels, a weighted sum of the channels.

    For several samples of one measurement, repeat its row: ``y.repeat_interleave(8, 0)``.

    Args:
        sampler: The sampler.
        sde: The process of the score, with scalar coefficients.
        score: The score of the process without the measurement, such as a ``ScoreModel`` of images (C, *sides).
        y: The gray images, (B, 1, *sides), in the units of the data.
        weights: One number for each of the C >= 2 channels; by default those of the luminance of red, green and blue (ITU-R
            BT.601).
        noise_std: Standard deviation of the noise of y, >= 0. With 0, the result has the gray levels y up to rounding: at the
            end, the difference is added to the channels in the ratio of the weights.
        guidance: A class of guidance by a measurement, or a function (score, operator, y, noise_std) -> Guidance. The default is
            the most accurate one; ``IsotropicMoments`` costs a fifth.
        seed: Key of the draws.
        first: Index of the first sample. Sample i depends only on its row of y and on ``(seed, first + i)``.
        **options: Other arguments of the sampler's call, such as ``condition``.

    Returns:
        The result of the sampler. ``samples`` has the shape (B, C, *sides).

    Raises:
        ValueError: If y is not a batch of finite gray images, or the weights are not numbers of which one is not 0.
        TypeError: If the score has no process with scalar coefficients.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture(torch.zeros(1, 3, 4, 4), 1.0).score(VPSDE())
        >>> colorize(UniPC(10), VPSDE(), score, torch.ones(1, 1, 4, 4)).samples.shape
        torch.Size([1, 3, 4, 4])
    """
    operator = Grayscale(weights)
    if not any(operator.weights):
        raise ValueError(f"weights={weights!r} is not allowed: give a weight that is not 0")
    check_batch("y", y)
    check_finite("y", y)
    if y.ndim < 3 or y.shape[1] != 1:
        raise ValueError(f"y has shape {tuple(y.shape)}: give gray images (B, 1, *sides)")
    shape = (len(y), len(operator.weights), *y.shape[2:])
    result = _restored(sampler, sde, score, operator, y, shape, noise_std, guidance, seed, first, options)
    return result if noise_std else _moved(result, _nearest(operator, result.samples, y))


@dataclass(frozen=True)
class Known:
    """The operator x -> the known values of x, and 0 elsewhere. ``mask`` is a tensor of bool (B, *event)."""

    mask: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.mask

    def select_rows(self, index: Tensor) -> Known:
        """The operator for the samples ``index`` (n,)."""
        return Known(self.mask[index.to(self.mask.device)])


def _restored(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    operator: Callable[[Tensor], Tensor],
    y: Tensor,
    shape: tuple[int, ...],
    noise_std: float,
    guidance: GuidanceMaker,
    seed: int,
    first: int,
    options: dict[str, Any],
) -> SampleResult:
    """Samples of ``shape`` with the score that the measurement y guides."""
    check_number("noise_std", noise_std, least=0.0)
    guided = guidance(score, operator, y, noise_std)
    if not isinstance(guided, Guidance):
        raise TypeError(
            f"guidance returned {shown(guided)}: return a Guidance, such as TweedieMoments(score, operator, y)"
        )
    return sampler(sde, guided, shape, seed=seed, first=first, dtype=y.dtype, device=y.device, **options)


def _nearest(operator: LinearOperator, x: Tensor, y: Tensor) -> Tensor:
    """The nearest point to x with A x = y. The second step removes the rounding of the first, which has the size of x."""
    for _ in range(2):
        x = x + operator.pseudo_inverse(y - operator(x))
    return x


def _moved(result: SampleResult, samples: Tensor) -> SampleResult:
    """The result with other samples. Its trajectory stays that of the sampler."""
    return replace(result, samples=samples, state=samples)


def _mask(known: Tensor, y: Tensor) -> Tensor:
    """``known`` as a mask (B, *event) of y. Raises unless it is a tensor of bool that fits, with finite known values."""
    if not isinstance(known, Tensor) or known.dtype != torch.bool:
        kind = known.dtype if isinstance(known, Tensor) else type(known).__name__
        raise TypeError(f"known is a {kind}: give a tensor of bool, True where y is known")
    sizes = y.shape[y.ndim - known.ndim :]
    fits = known.ndim in (y.ndim, y.ndim - 1) and all(m in (1, n) for m, n in zip(known.shape, sizes, strict=True))
    if not fits:
        raise ValueError(
            f"known has shape {tuple(known.shape)} for y of shape {tuple(y.shape)}: give the shape of y or of one event, with "
            "the sizes of y or 1"
        )
    mask = known.to(y.device).expand(y.shape)
    check_finite("y", torch.where(mask, y, 0.0), " where it is known")
    return mask
