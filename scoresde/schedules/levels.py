r"""Noise levels and step size of annealed Langevin dynamics: techniques 2 and 4 of NCSNv2.

Levels are a geometric sequence sigma_1 > ... > sigma_L of ratio gamma, and sigma_1 is the largest distance between two events
of the data (technique 1, :func:`~scoresde.data.largest_distance`).

Technique 2. In D dimensions, the length of N(0, sigma^2 I) is about N(sqrt(D) sigma, sigma^2 / 2). With Phi the cumulative
distribution of N(0, 1), the part of the lengths at one level that lies within three standard deviations of the mean length at
the next larger one is::

    o(gamma) = Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma)

The paper recommends o(gamma) of about 0.5. An overlap of 0.5665 gives its numbers of levels, and is the default here.

Technique 4. The step size at level i is epsilon sigma_i^2 / sigma_L^2. Let e = epsilon / sigma_L^2. For data at a single point,
T steps at a level change the variance, in units of sigma_i^2, from gamma^2 to::

    f(e) = (1 - e)^(2 T) (gamma^2 - q) + q,     q = 2 e / (1 - (1 - e)^2) = 2 / (2 - e)

epsilon makes f as close to 1 as possible. f is between gamma^2 and q, which are at least 1, so it is the minimum of f.

References:
    Song, Ermon 2020, "Improved techniques for training score-based generative models", arXiv:2006.09011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_count, check_number, check_rising

OVERLAP = 0.5665
"""The overlap that gives the numbers of levels of the paper."""
_LEAST_DIMENSION = 5
"""In fewer dimensions sqrt(2 D) <= 3, and the overlap of the formula is large for every ratio."""


@checked_arguments
def level_ratio(dimension: int, *, overlap: float = OVERLAP) -> float:
    """The ratio gamma of neighboring noise levels for a given overlap of the lengths of the noise.

    Args:
        dimension: Number of coordinates D of an event, at least 5. For fewer,
            :func:`~scoresde.noise_distributions.overlapping_scales` with ``beta=2.0`` uses the exact distribution of the
            lengths.
        overlap: The wanted o(gamma), in [0.01, 0.99].

    Returns:
        The ratio, > 1.

    Raises:
        ValueError: An argument is out of range.

    References:
        Song, Ermon 2020, arXiv:2006.09011, technique 2.

    Example:
        >>> round(level_ratio(3 * 32 * 32), 4)
        1.0376
    """
    check_count("dimension", dimension, least=_LEAST_DIMENSION)
    check_number("overlap", overlap, least=0.01, most=0.99)
    low, high = 0.0, 1.0  # of gamma - 1
    while _overlap(dimension, high) > overlap:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _overlap(dimension, middle) > overlap else (low, middle)
    return 1.0 + 0.5 * (low + high)


@checked_arguments
def noise_levels(largest: float, smallest: float, dimension: int, *, overlap: float = OVERLAP) -> Tensor:
    """The geometric sequence of noise levels whose ratio is at most ``level_ratio(dimension)``.

    The instants of ``VESDE(sigma_min=smallest, sigma_max=largest).discretize(len(levels))`` have these levels.

    Args:
        largest: First level, > ``smallest``, such as the largest distance between two events of the data.
        smallest: Last level, > 0.
        dimension: Number of coordinates of an event, at least 5.
        overlap: See :func:`level_ratio`.

    Returns:
        Descending levels, (L,) float64.

    Raises:
        ValueError: An argument is out of range.

    References:
        Song, Ermon 2020, arXiv:2006.09011, techniques 1 and 2.

    Example:
        >>> len(noise_levels(50.0, 0.01, 3 * 32 * 32))
        232
    """
    check_number("smallest", smallest, above=0.0)
    check_rising("smallest", smallest, "largest", largest)
    span = math.log(largest / smallest)
    count = 1 + math.ceil(span / math.log(level_ratio(dimension, overlap=overlap)))
    levels = largest * torch.exp(-span * torch.linspace(0.0, 1.0, count, dtype=torch.float64))
    levels[-1] = smallest
    return levels


@checked_arguments
def langevin_step_size(ratio: float, steps: int, *, smallest: float = 1.0) -> float:
    """The step size epsilon of annealed Langevin dynamics at the smallest noise level.

    A step at level i is x + a score + sqrt(2 a) z with a = epsilon sigma_i^2 / sigma_L^2. The corrector
    ``AnnealedLangevin(snr=(epsilon / 2) ** 0.5 / sigma_L)`` makes the same steps for a VE process.

    Args:
        ratio: Ratio gamma of neighboring levels, > 1.
        steps: Number of steps T at each level.
        smallest: The smallest level sigma_L, > 0.

    Returns:
        The step size epsilon.

    Raises:
        ValueError: An argument is out of range.

    References:
        Song, Ermon 2020, arXiv:2006.09011, technique 4.

    Example:
        >>> levels = noise_levels(50.0, 0.01, 3 * 32 * 32)
        >>> f"{langevin_step_size(float(levels[0] / levels[1]), 5, smallest=0.01):.2e}"
        '6.18e-06'
    """
    check_number("ratio", ratio, above=1.0)
    check_count("steps", steps)
    check_number("smallest", smallest, above=0.0)
    low, high = math.log(1e-12), 0.0  # of ln e
    for _ in range(100):  # f has one minimum; thirds shrink its bracket
        a, b = (2.0 * low + high) / 3.0, (low + 2.0 * high) / 3.0
        low, high = (low, b) if _excess(a, ratio, steps) < _excess(b, ratio, steps) else (a, high)
    return math.exp(0.5 * (low + high)) * smallest**2


def _overlap(dimension: int, excess: float) -> float:
    """o(1 + excess)."""
    shift, width = math.sqrt(2.0 * dimension) * excess, 3.0 * (1.0 + excess)
    return 0.5 * (math.erfc(-(shift + width) / math.sqrt(2.0)) - math.erfc(-(shift - width) / math.sqrt(2.0)))


def _excess(log_e: float, ratio: float, steps: int) -> float:
    """f(e) - 1."""
    e = math.exp(log_e)
    kept = math.exp(2.0 * steps * math.log1p(-e)) if e < 1.0 else 0.0
    return kept * (ratio**2 - 1.0) + (1.0 - kept) * e / (2.0 - e)
