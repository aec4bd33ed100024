r"""Hooks, which change the state of a sampler between its steps.

A hook is a callable ``hook(moment) -> state``. A sampler calls its hooks with the start, after every step, after every step of a
corrector, and, if it returns an estimate of x_0, once more with this estimate at t = 0::

    sampler(sde, score, shape, hooks=[KeepKnown(y, known)])
    sampler(sde, score, shape, hooks=[lambda m: m.x.clamp(-1.0, 1.0)])

`KeepKnown` is the replacement method for known entries y of x_0 (Song et al. 2021, arXiv:2011.13456, appendix I.2):

.. math::
    x_t \leftarrow m \, x_t^{\mathrm{known}} + (1 - m) \, x_t, \qquad x_t^{\mathrm{known}} \sim p(x_t \mid x_0 = y)

It is an approximation: the other entries do not see how the known ones will go on. Correctors, or
:class:`~scoresde.samplers.predictor_corrector.Resampling`, bring it closer to the conditional distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._arguments import check_constructors
from scoresde._validation import check_batch, check_finite, shown
from scoresde.noise import NoiseSource
from scoresde.sde import SDE

__all__ = ["Hook", "KeepKnown", "Moment", "ZeroMean"]


@dataclass(frozen=True, eq=False)
class Moment:
    """What a hook sees.

    Attributes:
        step: Number of steps that are complete. 0 at the start.
        t: Times of the states, of shape ``(B,)``. 0 for the estimate of x_0 at the end.
        x: States, of shape ``(B, *state)``. A hook must not change them in place.
        data: E[x_0 | x] from the last evaluation of the score, of shape ``(B, *event)``. None at the start, if the process does
            not define it, and if the last evaluation was for a part of the batch.
        sde: The process.
        noise: A source of random numbers for this call. They depend on the sample's key and on the number of the call.
    """

    step: int
    t: Tensor
    x: Tensor
    data: Tensor | None
    sde: SDE
    noise: NoiseSource


Hook = Callable[[Moment], Tensor]
"""A function of a ``Moment`` that returns the state with which the sampler continues, of the shape of ``moment.x``."""


@dataclass(frozen=True, eq=False)
class KeepKnown:
    r"""Keeps known entries of the data: the replacement method.

    .. math::
        x_t \leftarrow m \, x_t^{\mathrm{known}} + (1 - m) \, x_t, \qquad x_t^{\mathrm{known}} \sim p(x_t \mid x_0 = y)

    At t = 0 the known entries are y. The result is an approximation of the conditional distribution, also for an exact score.
    A mask between 0 and 1 blends two noisy states (Avrahami et al. 2022, arXiv:2111.14818).

    Args:
        y: The data, ``(B, *event)`` or ``(1, *event)`` for all samples. Values where the mask is 0 have no effect, but must be
            finite.
        known: The mask m: bool or numbers in [0, 1] that broadcast to ``(B, *event)``, 1 for known entries. Or a function of the
            times, ``(B,)`` -> such a mask.

    Raises:
        ValueError: If y is not finite, or the mask does not fit.
        TypeError: If ``known`` is neither a tensor nor a function.

    References:
        Song et al. 2021, "Score-based generative modeling through stochastic differential equations", arXiv:2011.13456.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture([[0.0, 0.0]], 1.0).score(VPSDE())
        >>> first = KeepKnown(torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]))
        >>> x = UniPC(10)(VPSDE(), score, (3, 2), hooks=[first]).samples
        >>> x[:, 0].tolist()
        [1.0, 1.0, 1.0]
    """

    y: Tensor
    known: Tensor | Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_batch("y", self.y)
        check_finite("y", self.y)
        if isinstance(self.known, Tensor):
            self._checked_mask(self.known, tuple(self.y.shape))
        elif not callable(self.known):
            raise TypeError(f"known={shown(self.known)} is not allowed: give a mask, or a function of t")

    def __call__(self, moment: Moment) -> Tensor:
        """The state with the known entries replaced.

        Args:
            moment: The state of the sampler.

        Returns:
            The new state, ``(B, *state)``.

        Raises:
            ValueError: If y or the mask do not fit the state.
        """
        x, sde = moment.x, moment.sde
        if sde.state_shape(self.y.shape[1:]) != x.shape[1:] or len(self.y) not in (1, len(x)):
            raise ValueError(
                f"y has shape {tuple(self.y.shape)} for states of shape {tuple(x.shape)}: give one row for "
                "each sample, or one for all"
            )
        if self.y.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"{sde!r} has auxiliary components, and KeepKnown replaces data alone: give another process"
            )
        m = self._checked_mask(self.known if isinstance(self.known, Tensor) else self.known(moment.t), x.shape).to(x)
        y = self.y.to(x).expand(x.shape)
        known = sde.marginal_sample(y, moment.t, moment.noise) if bool(moment.t.any()) else y
        return torch.where(m == 1.0, known, m * known + (1.0 - m) * x)

    def _checked_mask(self, mask: Tensor, shape: Sequence[int]) -> Tensor:
        """The mask. Raises ValueError unless it broadcasts to the shape and has values in [0, 1]."""
        try:
            fits = isinstance(mask, Tensor) and torch.broadcast_shapes(mask.shape, shape) == tuple(shape)
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"known has shape {tuple(getattr(mask, 'shape', ()))} and y has shape {tuple(shape)}: give a mask of the shape "
                f"{tuple(shape[1:])}"
            )
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise ValueError("known has values outside of [0, 1]: give 1 for known entries, 0 for others")
        return mask


@dataclass(frozen=True)
class ZeroMean:
    """Subtracts the mean over some dimensions of the event, such as the center of mass of the atoms of a molecule.

    With start and noise projected in this way, the process lives in the space of events without a mean (Hoogeboom et al. 2022,
    arXiv:2203.17003).

    Args:
        dims: Dimensions of the event, counted from its end: -2 for positions ``(atoms, 3)``.

    Raises:
        ValueError: If a dimension is not negative, or is given twice.

    Example:
        >>> from scoresde import GaussianMixture, UniPC, VPSDE
        >>> score = GaussianMixture([[0.0, 0.0, 0.0]], 1.0).score(VPSDE())
        >>> x = UniPC(10)(VPSDE(), score, (2, 3), hooks=[ZeroMean((-1,))]).samples
        >>> bool(x.mean(1).abs().max() < 1e-6)
        True
    """

    dims: Sequence[int] = (-2,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if not self.dims or any(isinstance(d, bool) or not isinstance(d, int) or d >= 0 for d in self.dims):
            raise ValueError(f"dims={self.dims!r} is not allowed: give negative numbers, such as (-2,)")
        if len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims={self.dims!r} is not allowed: give each dimension once")

    def __call__(self, moment: Moment) -> Tensor:
        """The state without its mean.

        Args:
            moment: The state of the sampler.

        Returns:
            The new state, ``(B, *state)``.

        Raises:
            ValueError: If the event has fewer dimensions.
        """
        if -min(self.dims) >= moment.x.ndim:
            raise ValueError(
                f"dims={self.dims!r} is not allowed for events {tuple(moment.x.shape[1:])}: they have fewer dimensions"
            )
        return moment.x - moment.x.mean(tuple(self.dims), keepdim=True)


class Hooks:
    """The hooks of one run, and the number of their calls."""

    def __init__(self, hooks: Sequence[Hook], sde: SDE, noise: NoiseSource) -> None:
        self.hooks, self.sde, self.noise, self.calls = tuple(hooks), sde, noise, 0

    def __call__(self, step: int, t: Tensor, x: Tensor, data: Tensor | None) -> Tensor:
        """The state after all hooks.

        Args:
            step: Number of steps that are complete.
            t: Time of the state, ``()``, or of each sample, ``(B,)``.
            x: State, ``(B, *state)``.
            data: E[x_0 | x] from the last evaluation, or None.

        Returns:
            The new state.

        Raises:
            TypeError: If a hook does not return a tensor.
            ValueError: If it returns another shape or dtype, or changes ``moment.x`` or ``moment.data`` in place.
        """
        for hook in self.hooks:
            self.calls += 1
            noise = self.noise.again(self.calls)
            versions = _version(x), _version(data)
            found = hook(Moment(step, t.to(x).expand(len(x)), x, data, self.sde, noise))
            if (_version(x), _version(data)) != versions:
                raise ValueError(
                    f"hook {shown(hook)} changed moment.x or moment.data in place, which the sampler still needs: return a new "
                    "tensor, such as moment.x.clamp(...), or change moment.x.clone()"
                )
            if not isinstance(found, Tensor):
                raise TypeError(
                    f"hook {shown(hook)} returned {shown(found)}: return the state, a tensor of shape {tuple(x.shape)}"
                )
            if found.shape != x.shape or found.dtype != x.dtype:
                raise ValueError(
                    f"hook {shown(hook)} returned {found.dtype} of shape {tuple(found.shape)}: return {x.dtype} of shape "
                    f"{tuple(x.shape)}"
                )
            x = found
        return x


def _version(x: Tensor | None) -> int:
    """A number that rises when x is changed in place. 0 for None and for tensors of the inference mode, which have none."""
    return 0 if x is None or x.is_inference() else x._version


def check_hooks(hooks: object) -> tuple[Hook, ...]:
    """The hooks. Raises TypeError unless they are a sequence of callables."""
    if not isinstance(hooks, list | tuple):
        raise TypeError(f"hooks={shown(hooks)} is not allowed: give a list of hooks, e.g. [KeepKnown(y, known)]")
    for hook in hooks:
        if not callable(hook):
            raise TypeError(f"hooks has {shown(hook)}, which cannot be called: give functions of a Moment")
    return tuple(hooks)


check_constructors(globals(), records=(Moment,))
