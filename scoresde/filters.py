r"""Invertible linear filters M of events, and noise that is filtered by one.

A filter is a linear map x -> M x of events with its adjoint M^T and its inverse M^-1. There are two kinds:

.. math::
    \text{SpectralFilter:} \quad M x = F^{-1} ( m_{\text{freq}} \odot F (m_{\text{space}} \odot x)), \qquad
    \text{MatrixFilter:} \quad M x \text{ with any invertible matrix } M

F is the discrete Fourier transform. The masks are real, and M maps real events to real events. Standard normal noise z becomes
colored noise M z with the covariance M M^T.

Two uses are in the library. ``FilteredNoise`` is a source of noise for samplers, whose start and steps then have colored noise.
The score stays the same, so the samples have another distribution than the model's (see the class). ``Preconditioned``, a
corrector, filters the score as well, which keeps the distribution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_batch, check_finite, check_number, shown
from scoresde.noise import NoiseSource

__all__ = [
    "Filter",
    "FilteredNoise",
    "MatrixFilter",
    "SpectralFilter",
    "fit_covariance_filter",
    "fit_spectral_filter",
]


class Filter(ABC):
    """Base class of invertible linear maps M of events. An event may have more dimensions in front, such as those of a batch."""

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of the events."""

    def __call__(self, x: Tensor) -> Tensor:
        """Computes M x.

        Args:
            x: Events, (..., *event).

        Returns:
            The filtered events, with the shape of x.

        Raises:
            ValueError: If x has another event shape.
        """
        return self._filtered(self._checked(x))

    def adjoint(self, x: Tensor) -> Tensor:
        """Computes M^T x.

        Args:
            x: Events, (..., *event).

        Returns:
            The result, with the shape of x.
        """
        return self._adjoint(self._checked(x))

    def inverse(self, x: Tensor) -> Tensor:
        """Computes M^-1 x.

        Args:
            x: Events, (..., *event).

        Returns:
            The result, with the shape of x.
        """
        return self._inverse(self._checked(x))

    def _checked(self, x: Tensor) -> Tensor:
        event = self.event_shape
        if tuple(x.shape[max(0, x.ndim - len(event)) :]) != event:
            raise ValueError(f"x has shape {tuple(x.shape)}: the filter is for events of shape {event}")
        return x

    @abstractmethod
    def _filtered(self, x: Tensor) -> Tensor:
        """M x."""

    @abstractmethod
    def _adjoint(self, x: Tensor) -> Tensor:
        """M^T x."""

    @abstractmethod
    def _inverse(self, x: Tensor) -> Tensor:
        """M^-1 x."""


@dataclass(frozen=True)
class SpectralFilter(Filter):
    r"""A mask in space, then a mask in frequency: M x = F^-1(m_freq * F(m_space * x)).

    The Fourier transform is over all dimensions of an event after its channels, and over the only dimension of a vector.
    Frequencies k and -k of a real event belong together, so the mask of both is the mean of the two numbers.

    Args:
        frequency: The mask m_freq, of the shape of an event, in the order of ``torch.fft.fftn``: zero frequency first. None
            changes no frequency.
        space: The mask m_space, of the shape of an event. None changes no coordinate.

    Raises:
        ValueError: If both masks are None, if their shapes differ, or if a number is not finite or is 0, so that the filter has
            no inverse.

    References:
        Ma, Zhang, Zhu, Zhang, Feng 2022, "Accelerating score-based generative models for high-resolution image synthesis",
        arXiv:2206.04029.

    Example:
        >>> import torch
        >>> smooth = SpectralFilter(1.0 / (1.0 + torch.fft.fftfreq(8).abs()))
        >>> x = torch.ones(2, 8)
        >>> torch.allclose(smooth(x), x, atol=1e-6)
        True
    """

    frequency: Tensor | None = None
    space: Tensor | None = None

    def __post_init__(self) -> None:
        masks = {name: mask for name, mask in vars(self).items() if mask is not None}
        if not masks:
            raise ValueError("frequency=None and space=None: give at least one mask")
        for name, mask in masks.items():
            _check_mask(name, mask)
        if len({mask.shape for mask in masks.values()}) > 1:
            shapes = " and ".join(f"{name} has shape {tuple(mask.shape)}" for name, mask in masks.items())
            raise ValueError(f"{shapes}: give masks of one shape, that of an event")
        if self.frequency is not None:
            object.__setattr__(self, "frequency", _even(self.frequency, self._dims))
            _check_mask("frequency", self.frequency)

    @property
    def event_shape(self) -> tuple[int, ...]:
        mask = self.space if self.frequency is None else self.frequency
        assert mask is not None  # checked at the start
        return tuple(mask.shape)

    @property
    def _dims(self) -> tuple[int, ...]:
        """Dimensions of the Fourier transform, counted from the last one."""
        return _sides(torch.empty(self.event_shape, device="meta"))

    def _filtered(self, x: Tensor) -> Tensor:
        return self._in_frequency(x if self.space is None else x * self.space.to(x), inverse=False)

    def _adjoint(self, x: Tensor) -> Tensor:
        x = self._in_frequency(x, inverse=False)  # an even real mask makes a symmetric map
        return x if self.space is None else x * self.space.to(x)

    def _inverse(self, x: Tensor) -> Tensor:
        x = self._in_frequency(x, inverse=True)
        return x if self.space is None else x / self.space.to(x)

    def _in_frequency(self, x: Tensor, inverse: bool) -> Tensor:
        """F^-1(m F x), or F^-1(F x / m)."""
        if self.frequency is None:
            return x
        dims = self._dims
        mask = self.frequency.to(x)[..., : self.event_shape[-1] // 2 + 1]  # the other half is determined by this one
        modes = torch.fft.rfftn(x, dim=dims)
        modes = modes / mask if inverse else modes * mask
        found: Tensor = torch.fft.irfftn(modes, s=[x.shape[d] for d in dims], dim=dims)
        return found


@dataclass(frozen=True)
class MatrixFilter(Filter):
    """Multiplication of the flattened event by an invertible matrix.

    Args:
        matrix: The matrix M, (d, d).
        shape: Shape of an event, with d numbers. None for vectors, (d,).

    Raises:
        ValueError: If the matrix is not square or not finite, has no inverse, or has another number of rows than an event.

    Example:
        >>> import torch
        >>> filter = MatrixFilter.of_covariance(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        >>> (filter.matrix @ filter.matrix.T).diagonal().tolist()  # mean 1
        [1.6, 0.4]
    """

    matrix: Tensor
    shape: Sequence[int] | None = None

    def __post_init__(self) -> None:
        m = self.matrix
        if not (isinstance(m, Tensor) and m.is_floating_point() and m.ndim == 2 and len(m) == m.shape[1] and len(m)):
            raise ValueError(f"matrix={shown(m)} is not allowed: give a square matrix of real numbers")
        check_finite("matrix", m)
        if math.prod(self.event_shape) != len(m):
            raise ValueError(f"shape={self.shape!r} has another size than the matrix of {len(m)} rows")
        double = m.to(torch.float64)
        inverse, info = torch.linalg.inv_ex(double)
        if int(info) or not bool(torch.isfinite(inverse).all()):
            raise ValueError(f"matrix={shown(m)} has no inverse: give an invertible matrix")
        object.__setattr__(self, "_inverted", inverse)

    @classmethod
    def of_covariance(
        cls, covariance: Tensor, shape: Sequence[int] | None = None, *, floor: float = 1e-6
    ) -> MatrixFilter:
        """The symmetric filter with M M^T proportional to a covariance, and with a mean variance of 1.

        Args:
            covariance: The covariance, (d, d), symmetric and positive semi-definite.
            shape: Shape of an event, with d numbers. None for vectors.
            floor: Smallest variance of a direction, relative to the mean variance, in (0, 1].

        Returns:
            The filter.

        Raises:
            ValueError: If the covariance is not a symmetric matrix with a positive trace.
        """
        check_number("floor", floor, above=0.0, most=1.0)
        c = covariance.to(torch.float64)
        finite = c.ndim == 2 and len(c) == c.shape[1] and len(c) > 0 and bool(torch.isfinite(c).all())
        if not finite or not torch.allclose(c, c.mT, atol=1e-6 * float(c.abs().max())):
            raise ValueError(
                f"covariance={shown(covariance)} is not allowed: give a symmetric matrix of finite numbers"
            )
        values, vectors = torch.linalg.eigh(c)
        if not float(values.mean()) > 0.0 or float(values[0]) < -1e-6 * float(values[-1]):
            raise ValueError(f"covariance={shown(covariance)} is not allowed: give a positive semi-definite matrix")
        values = (values / values.mean()).clamp(min=floor)
        return cls((vectors * (values / values.mean()).sqrt()) @ vectors.mT, shape)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (len(self.matrix),) if self.shape is None else tuple(self.shape)

    def _filtered(self, x: Tensor) -> Tensor:
        return self._times(self.matrix.mT, x)

    def _adjoint(self, x: Tensor) -> Tensor:
        return self._times(self.matrix, x)

    def _inverse(self, x: Tensor) -> Tensor:
        return self._times(vars(self)["_inverted"].mT, x)

    def _times(self, right: Tensor, x: Tensor) -> Tensor:
        """The flattened events times a matrix."""
        front = x.shape[: x.ndim - len(self.event_shape)]
        return (x.reshape(*front, -1) @ right.to(x)).reshape(x.shape)


@checked_arguments
def fit_spectral_filter(x: Tensor, alpha: float = 5.0, *, inverted: bool = False) -> SpectralFilter:
    r"""The filter of Ma et al. 2022 from statistics of data.

    .. math::
        m = \frac{\ell / \max \ell + \alpha - 1}{\alpha}, \qquad
        \ell_{\text{freq}} = \log(1 + E |F x|^2), \quad \ell_{\text{space}} = \log(1 + E x^2)

    The masks lie between (alpha - 1) / alpha and 1. They are largest where the data has most power: for images, at low
    frequencies.

    Args:
        x: Data, (N, *event). The Fourier transform is orthonormal.
        alpha: Number > 1. The larger it is, the closer the filter is to the identity.
        inverted: Whether the masks are 1 / m, which damps what the data has most of.

    Returns:
        The filter.

    Raises:
        ValueError: If alpha is not above 1, or if the data has values that are not finite.

    References:
        Ma, Zhang, Zhu, Zhang, Feng 2022, "Accelerating score-based generative models for high-resolution image synthesis",
        arXiv:2206.04029.

    Example:
        >>> import torch
        >>> filter = fit_spectral_filter(torch.ones(10, 1, 4, 4))
        >>> filter.frequency.max().item(), filter.frequency.min().item()  # all power is at zero frequency
        (1.0, 0.8)
    """
    check_batch("x", x)
    check_finite("x", x)
    check_number("alpha", alpha, above=1.0)
    x = x.to(torch.float64)
    power = torch.fft.fftn(x, dim=_sides(x[0]), norm="ortho").abs().square().mean(0)
    logs = (power.log1p(), x.square().mean(0).log1p())
    masks = [(log / log.max().clamp(min=1e-300) + alpha - 1.0) / alpha for log in logs]
    return SpectralFilter(*(1.0 / mask if inverted else mask for mask in masks))


@checked_arguments
def fit_covariance_filter(x: Tensor, *, floor: float = 1e-3) -> MatrixFilter:
    """The symmetric filter with M M^T proportional to the covariance of data, for few dimensions.

    Args:
        x: Data, (N, *event).
        floor: Smallest variance of a direction, relative to the mean variance, in (0, 1].

    Returns:
        The filter.

    Raises:
        ValueError: If the floor is not in (0, 1], or if the data is constant or has values that are not finite.

    Example:
        >>> import torch
        >>> filter = fit_covariance_filter(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> (filter.matrix @ filter.matrix.T).diagonal().tolist()
        [1.6, 0.4]
    """
    check_batch("x", x)
    check_finite("x", x)
    flat = x.reshape(len(x), -1).to(torch.float64)
    return MatrixFilter.of_covariance(torch.atleast_2d(flat.T.cov(correction=0)), tuple(x.shape[1:]), floor=floor)


@dataclass(frozen=True)
class FilteredNoise(NoiseSource):
    """A source whose normal draws are colored: M z, with the covariance M M^T. Other draws are those of ``NoiseSource``.

    Given to a sampler as ``noise=``, it replaces the noise of the start and of every step (Ma et al. 2022). The score is not
    changed, so the samples have another distribution. For Gaussian data with covariance S, the stationary distribution of
    Langevin steps has the covariance C with S^-1 C + C S^-1 = 2 M M^T instead of S. ``Preconditioned`` keeps the distribution.

    ``MALA`` needs standard normals and refuses this source. A process whose prior is a distribution of its own is not filtered at
    the start.

    Args:
        seed: A whole number in [0, 2^64).
        indices: (B,) whole numbers in [0, 2^32), the identity of each sample.
        filter: The filter M. The last dimensions of every normal draw must be its event shape.

    References:
        Ma, Zhang, Zhu, Zhang, Feng 2022, "Accelerating score-based generative models for high-resolution image synthesis",
        arXiv:2206.04029.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> noise = FilteredNoise.of(0, 4, filter=SpectralFilter(space=torch.tensor([1.0, 0.5])))
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> UniPC(10)(VPSDE(), score, (4, 2), noise=noise).samples.shape
        torch.Size([4, 2])
    """

    filter: Filter

    standard_normals = False

    @classmethod
    def of(  # type: ignore[override]  # a filter is needed
        cls, seed: int, count: int, first: int = 0, device: torch.device | str | None = None, *, filter: Filter
    ) -> FilteredNoise:
        """The source of consecutive samples.

        Args:
            seed: A whole number in [0, 2^64).
            count: Number of samples.
            first: Index of the first sample.
            device: Device of the draws.
            filter: The filter M.

        Returns:
            The source of the samples ``first``, ..., ``first + count - 1``.
        """
        return cls(seed, NoiseSource.of(seed, count, first, device).indices, filter)

    def _unfiltered(self) -> NoiseSource:
        return NoiseSource(self.seed, self.indices)

    def normal(self, event_shape: Sequence[int], *, step: int, purpose: str, dtype: torch.dtype) -> Tensor:
        return self.filter(self._unfiltered().normal(event_shape, step=step, purpose=purpose, dtype=dtype))

    def normals(
        self, event_shape: Sequence[int], *, steps: Sequence[int], purpose: str | Sequence[str], dtype: torch.dtype
    ) -> Iterator[Tensor]:
        for z in self._unfiltered().normals(event_shape, steps=steps, purpose=purpose, dtype=dtype):
            yield self.filter(z)


def _sides(event: Tensor) -> tuple[int, ...]:
    """The dimensions of an event after its channels, counted from the last one."""
    return tuple(range(-max(1, event.ndim - 1), 0))


def _check_mask(name: str, mask: Tensor) -> None:
    """Raise ValueError unless all numbers of a mask are finite and not 0."""
    if not isinstance(mask, Tensor) or not mask.is_floating_point() or mask.ndim == 0 or mask.numel() == 0:
        raise ValueError(f"{name}={shown(mask)} is not allowed: give a tensor of real numbers of the shape of an event")
    if not bool(torch.isfinite(mask).all()) or bool((mask == 0).any()):
        raise ValueError(f"{name} has numbers that are not finite or are 0, so the filter has no inverse: give others")


def _even(mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(m(k) + m(-k)) / 2."""
    return 0.5 * (mask + mask.flip(dims).roll([1] * len(dims), dims))


check_constructors(globals())
