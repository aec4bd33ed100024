"""Entries of the discrete Fourier transform, as in magnetic resonance imaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import Numbers
from scoresde.noise import NoiseSource
from scoresde.operators.base import LinearOperator, as_mask, check_measurement


@dataclass(frozen=True)
class FourierMask(LinearOperator):
    r"""Some entries of the discrete Fourier transform, and 0 in place of the others.

    .. math::
        y = M F x

    F is orthonormal. The last dimension of y, (*event, 2), is the real and the imaginary part. ``image`` is the pseudo-inverse.
    A real event has the same number, up to conjugation, at the frequencies k and -k. If both are known, y contains it twice.

    Args:
        known: 1 or True for known frequencies, with the sides of the event, in the order of ``torch.fft.fftn``: the frequency 0
            comes first. The dimensions of the event before these, such as channels, are transformed separately.

    Example:
        >>> import torch
        >>> from scoresde.operators import FourierMask
        >>> mean = FourierMask([[1, 0], [0, 0]])
        >>> mean.pseudo_inverse(mean(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]))).tolist()
        [[[[1.5, 1.5], [1.5, 1.5]]]]
    """

    known: Numbers

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", as_mask(self.known))

    def check(self, event_shape: Sequence[int]) -> None:
        known = tuple(self._mask.shape)
        if tuple(event_shape[-len(known) :]) != known:
            raise ValueError(
                f"known has shape {known}, and events have shape {tuple(event_shape)}: give a mask with the sides of the event"
            )

    def apply(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        found = torch.fft.fftn(self._checked(x), dim=self._axes, norm="ortho") * self._mask.to(x)
        return torch.view_as_real(found)

    def adjoint(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        known = tuple(self._mask.shape)
        check_measurement(self, y, (*y.shape[1 : -1 - len(known)], *known, 2))
        return self._back(torch.view_as_complex(y.contiguous()) * self._mask.to(y))

    def pseudo_inverse(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        # A^T A multiplies a frequency by 1 if k and -k are known, and by 1/2 if one of them is
        opposite = self._mask.flip(self._axes).roll([1] * len(self._axes), self._axes)
        share = 0.5 * (self._mask.to(y) + opposite.to(y))
        inverse = torch.where(share > 0, 1.0 / share.clamp(min=0.5), 0.0)
        return self._back(torch.fft.fftn(self.adjoint(y), dim=self._axes, norm="ortho") * inverse)

    def image(self, y: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return self.pseudo_inverse(y)

    @property
    def _mask(self) -> Tensor:
        assert isinstance(self.known, Tensor)  # converted at the start
        return self.known

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self._mask.ndim, 0))

    def _back(self, spectrum: Tensor) -> Tensor:
        """The real part of the inverse transform."""
        found: Tensor = torch.fft.ifftn(spectrum, dim=self._axes, norm="ortho").real
        return found
