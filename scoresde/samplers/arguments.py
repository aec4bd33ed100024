"""Checks of a sampler's arguments, made once per call and before the first step."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import Tensor

from scoresde._validation import TIME_SLACK, check_batch, check_choice, check_count, check_finite, check_kind, shown
from scoresde.noise import NoiseSource
from scoresde.sde import SDE


def check_options(keep_every: object, callback: object, **switches: object) -> None:
    """Check the options of a call.

    Raises:
        ValueError: If ``keep_every`` is not a whole number >= 0, or one of ``switches`` is not a bool.
        TypeError: If ``callback`` is neither callable nor None.
    """
    check_count("keep_every", keep_every, least=0)  # type: ignore[arg-type]
    if callback is not None and not callable(callback):
        raise TypeError(f"callback={shown(callback)} cannot be called: give a function (step, t, state), or None")
    for name, value in switches.items():
        check_choice(name, value, (True, False))


def check_start(sde: SDE, start: Tensor, shape: tuple[int, ...], name: str = "start") -> None:
    """Raise ValueError unless ``start`` is finite and has the state's shape for events of ``shape``."""
    check_batch(name, start)
    check_kind(start.dtype, start.device)
    wanted = (shape[0], *sde.state_shape(shape[1:]))
    if tuple(start.shape) != wanted:
        raise ValueError(f"{name} has shape {tuple(start.shape)}: shape={shape} needs a state of {wanted}")
    check_finite(name, start)


def check_prior(sde: SDE, t: float) -> None:
    """Raise ValueError unless the start is at T, where the prior is the distribution of the state."""
    if t < sde.T * (1.0 - TIME_SLACK):
        raise ValueError(
            f"the grid begins at t={t:g}, and the prior is the distribution at T={sde.T:g}: give start=..., a state at "
            f"t={t:g}, or a grid that begins at T"
        )


def whole_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape`` as a tuple of ints. Raises ValueError unless it is (B, *event), with all sizes positive."""
    try:
        whole = tuple(-1 if isinstance(n, bool) else operator.index(n) for n in shape)
    except TypeError:
        whole = ()
    if not whole or min(whole) < 1:
        raise ValueError(f"shape={shape!r} is not allowed: give (B, *event), positive whole numbers")
    return whole


def check_samples(finite: Tensor, noise: NoiseSource) -> None:
    """Raise FloatingPointError with the indices of the samples for which ``finite`` (B,) is False."""
    if not bool(finite.all()):
        bad = noise.indices[~finite.to(noise.indices.device)].tolist()
        raise FloatingPointError(
            f"{len(bad)} of {len(finite)} samples are not finite, with indices {bad[:8]}: the score returned a "
            "non-finite value, or the steps are too large (more steps, a smaller snr); allow_failed=True returns the others"
        )
