r"""Uses of the encoding of data: anomaly maps and interpolation.

Data is encoded to a state x_t, either by the noise of the process or by its probability flow, which is deterministic and has an
inverse. A sampler decodes the state:

.. math::
    x_0 \to x_t \to \hat x_0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number, expand, shown
from scoresde.conditions import given
from scoresde.noise import NoiseSource
from scoresde.samplers import ProbabilityFlowODE
from scoresde.samplers.base import Sampler
from scoresde.sde import SDE, LinearSDE
from scoresde.sde.base import check_gaussian
from scoresde.sde.scores import check_signature
from scoresde.solvers import RungeKutta
from scoresde.tasks.editing import noised_and_denoised


@checked_arguments
def anomaly_map(
    sampler: Sampler,
    sde: SDE,
    score: Callable[..., Tensor],
    x: Tensor,
    t: float,
    *,
    encoder: ProbabilityFlowODE | None = None,
    guided: Callable[..., Tensor] | None = None,
    repeats: int = 1,
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    **options: Any,
) -> Tensor:
    r"""Distances between data and what a model of normal data makes of it.

    .. math::
        m = \Big| x - \frac{1}{R} \sum_{r=1}^R \hat x_0^{(r)} \Big|

    x is encoded to the time t and decoded, R times. A decoder that knows normal data only cannot restore what is abnormal. A
    small t leaves an anomaly as it is, and a large t changes normal parts too.

    Args:
        sampler: The sampler that decodes.
        sde: The process of the score.
        score: A callable (x, t) -> the shape of x: the score of normal data, or of all data if ``guided`` is given.
        x: The data, (B, *event).
        t: Time of the encoding, in (0, T).
        encoder: Encodes by the probability flow with ``score``. By default noise of time t is added instead.
        guided: The score that decodes, such as a ``ClassifierGuidance`` toward the class of normal data. By default ``score``.
        repeats: Number R of encodings and decodings. With noise, more of them leave less of the draws in the map.
        seed: Key of the draws.
        first: Index of the first event. Repeat r of event i depends only on the event and on ``(seed, R (first + i) + r)``.
        noise: A source of noise that replaces ``(seed, first)``.
        **options: Other arguments of the sampler's call, such as ``condition``, which holds for both scores.

    Returns:
        The map, (B, *event), >= 0, in the units of x.

    Raises:
        ValueError: If t is not in (0, T), x is not finite, or the sampler has times above t.

    References:
        Wolleb, Bieder, Sandkuehler, Cattin 2022, "Diffusion models for medical anomaly detection", arXiv:2203.04306.
        Wyatt, Leach, Schmon, Willcocks 2022, "AnoDDPM", CVPR workshops.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.1).score(VPSDE())
        >>> found = anomaly_map(UniPC(10), VPSDE(), score, torch.tensor([[1.0, 2.0]]), t=0.2, repeats=4)
        >>> bool(found[0, 1] > 10 * found[0, 0])
        True
    """
    check_batch("x", x)
    check_finite("x", x)
    check_count("repeats", repeats)
    check_number("t", t, above=0.0, below=sde.T)
    if guided is not None:
        check_signature(guided, "guided")
    condition = options.pop("condition", None)
    decoder = score if guided is None else guided
    score, decoding = given(score, condition), given(decoder, condition, name="score" if guided is None else "guided")
    own = NoiseSource.for_batch(noise, len(x), seed, first, x.device)
    mean = torch.zeros_like(x)
    for r in range(repeats):
        each = NoiseSource(own.seed, own.indices * repeats + r)
        if encoder is None:
            result = noised_and_denoised(sampler, sde, decoding, x, t, each, **options)
        else:
            start = _encoded(encoder, sde.until(t), score, x, each)
            result = sampler(sde.until(t), decoding, tuple(x.shape), noise=each, start=start, **options)
        mean += result.samples / repeats
    return (x - mean).abs()


@checked_arguments
def interpolate(
    sampler: Sampler,
    sde: LinearSDE,
    score: Callable[..., Tensor],
    begin: Tensor,
    end: Tensor,
    weights: Sequence[float],
    *,
    t: float | None = None,
    encoder: ProbabilityFlowODE = ProbabilityFlowODE(RungeKutta()),  # noqa: B008  (not changed)
    seed: int = 0,
    first: int = 0,
    noise: NoiseSource | None = None,
    **options: Any,
) -> Tensor:
    r"""Events between two events: spherical interpolation of their encodings by the probability flow.

    With the mean m of the prior, the covariance L L^T of the noise at time t, and z = L^-1 (x_t - m):

    .. math::
        z_w = \frac{\sin((1-w) \theta)}{\sin \theta} z_{\mathrm{begin}} + \frac{\sin(w \theta)}{\sin \theta} z_{\mathrm{end}},
        \qquad \cos \theta = \frac{z_{\mathrm{begin}} \cdot z_{\mathrm{end}}}{|z_{\mathrm{begin}}| |z_{\mathrm{end}}|}

    Norms near sqrt(d), as those of normal noise, stay so, which a straight line does not do.

    Args:
        sampler: The sampler that decodes. A deterministic one with ``denoise=False`` reproduces the two events for the weights 0
            and 1, such as ``ProbabilityFlowODE(denoise=False)`` or ``UniPC(50, denoise=False)``.
        sde: The process of the score, with a closed-form kernel.
        score: A callable (x, t) -> the shape of x.
        begin: The events for the weight 0, (B, *event).
        end: The events for the weight 1, (B, *event).
        weights: The K weights w, numbers in [0, 1].
        t: Time of the encoding, in (0, T]; T by default. A smaller t keeps more of the two events.
        encoder: The probability flow that encodes. Its last time should be that of the sampler.
        seed: Key of the draws of stochastic samplers.
        first: Index of the first pair. The results of pair i depend only on the pair and on ``(seed, first + i)``.
        noise: A source of noise that replaces ``(seed, first)``.
        **options: Other arguments of the sampler's call, such as ``condition``.

    Returns:
        The events, (B, K, *event).

    Raises:
        ValueError: If the two batches differ in shape or are not finite, a weight is not in [0, 1], or t is not in (0, T].
        TypeError: If the process has no closed-form kernel.

    References:
        Song, Meng, Ermon 2021, "Denoising diffusion implicit models", arXiv:2010.02502, section 5.3.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, ProbabilityFlowODE, VPSDE
        >>> score = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.1).score(VPSDE())
        >>> a, b = torch.tensor([[1.0, 0.1]]), torch.tensor([[-1.0, 0.0]])
        >>> x = interpolate(ProbabilityFlowODE(denoise=False), VPSDE(), score, a, b, (0.0, 0.5, 1.0))
        >>> x.shape, bool((x[:, 0] - a).abs().max() < 1e-3)
        (torch.Size([1, 3, 2]), True)
    """
    for name, x in (("begin", begin), ("end", end)):
        check_batch(name, x)
        check_finite(name, x)
    if begin.shape != end.shape:
        raise ValueError(f"end has shape {tuple(end.shape)}: give {tuple(begin.shape)}, the shape of begin")
    if not len(weights):
        raise ValueError(f"weights={shown(weights)} is not allowed: give numbers in [0, 1]")
    for weight in weights:
        check_number("weights", weight, least=0.0, most=1.0)
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde={sde!r} has no closed-form kernel: give a linear process, such as VPSDE()")
    check_gaussian(sde, "interpolation")
    part = sde if t is None else sde.until(t)
    score = given(score, options.pop("condition", None))
    noise = NoiseSource.for_batch(noise, len(begin), seed, first, begin.device)
    codes = [_encoded(encoder, part, score, x, noise) for x in (begin, end)]
    kernel = sde.kernel(torch.tensor(part.T, dtype=torch.float64, device=begin.device)).to(begin)
    center = sde.prior_mean().to(begin).expand_as(codes[0])
    one, two = (kernel.whiten(code - center) for code in codes)
    found = []
    for weight in weights:
        start = center + kernel.scale(_between(one, two, float(weight)))
        found.append(sampler(part, score, tuple(begin.shape), noise=noise, start=start, **options).samples)
    return torch.stack(found, dim=1)


def _encoded(
    encoder: ProbabilityFlowODE, sde: SDE, score: Callable[..., Tensor], x: Tensor, noise: NoiseSource
) -> Tensor:
    """The state at T to which the flow moves x (B, *event). Auxiliary variables are drawn."""
    return encoder.encode(sde, score, sde.sample_auxiliary(x, noise)[0])


def _between(one: Tensor, two: Tensor, weight: float) -> Tensor:
    """The spherical interpolation, (B, *state). Along parallel vectors it is the straight line."""
    a, b = (z.reshape(len(z), -1).double() for z in (one, two))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    angle = ((a * b).sum(1) / lengths.clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1.0, 1.0).acos()
    sine = angle.sin()
    curved = sine > 1e-6
    safe = torch.where(curved, sine, 1.0)
    first = torch.where(curved, ((1.0 - weight) * angle).sin() / safe, 1.0 - weight)
    second = torch.where(curved, (weight * angle).sin() / safe, weight)
    return (expand(first, one) * one.double() + expand(second, two) * two.double()).to(one)
