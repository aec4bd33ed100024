"""What a sampler checks of its arguments, once for a call and before the first step: shape, start, prior, options."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import Tensor

from scoresde._validation import TIME_SLACK, check_batch, check_choice, check_count, check_finite, check_kind, shown
from scoresde.noise import NoiseSource
from scoresde.sde import SDE


def check_options(keep_every: object, callback: object, **switches: object) -> None:
    """Raise unless ``keep_every`` is a whole number, ``callback`` None or callable, and all ``switches`` booleans."""
    check_count("keep_every", keep_every, least=0)  # type: ignore[arg-type]
    if callback is not None and not callable(callback):
        raise TypeError(f"callback={shown(callback)} cannot be called: give a function (step, t, state), or None")
    for name, value in switches.items():
        check_choice(name, value, (True, False))


def check_start(sde: SDE, start: Tensor, shape: tuple[int, ...], name: str = "start") -> None:
    """Raise unless ``start`` is a finite state for each of the events of ``shape``."""
    check_batch(name, start)
    check_kind(start.dtype, start.device)
    wanted = (shape[0], *sde.state_shape(shape[1:]))
    if tuple(start.shape) != wanted:
        raise ValueError(f"{name} has shape {tuple(start.shape)}: shape={shape} needs a state of {wanted}")
    check_finite(name, start)


def check_prior(sde: SDE, t: float) -> None:
    """Raise ValueError unless the prior, the law at T, is that of the start at t."""
    if t < sde.T * (1.0 - TIME_SLACK):
        raise ValueError(
            f"the grid begins at t={t:g}, and the prior is the law at T={sde.T:g}: give start=..., a state at t={t:g}, or a grid "
            f"that begins at T"
        )


def whole_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape`` as whole numbers. Raises ValueError unless they are (B, *event), all of them positive."""
    try:
        whole = tuple(-1 if isinstance(n, bool) else operator.index(n) for n in shape)
    except TypeError:
        whole = ()
    if not whole or min(whole) < 1:
        raise ValueError(f"shape={shape!r} is not allowed: give (B, *event), positive whole numbers")
    return whole


def check_samples(finite: Tensor, noise: NoiseSource) -> None:
    """Raise FloatingPointError naming the samples that are not ``finite`` (B,)."""
    if not bool(finite.all()):
        bad = noise.indices[~finite.to(noise.indices.device)].tolist()
        raise FloatingPointError(
            f"{len(bad)} of {len(finite)} samples are not finite, with indices {bad[:8]}: the score returned a "
            "non-finite value, or the steps are too large (more steps, a smaller snr); allow_failed=True returns the others"
        )
