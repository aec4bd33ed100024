"""Checks of values, and the helper that broadcasts a coefficient against an event of any rank.

Every message names the parameter, its value and the allowed values.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TIME_SLACK = 1e-6
"""Times may exceed [0, T] by this fraction of T, which is the rounding error of float32 for a grid that ends at T."""


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """View a coefficient of shape () or (B,) so that it broadcasts against ``like`` of shape (B, *event)."""
    if coefficient.ndim == 0:
        return coefficient
    return coefficient.reshape(coefficient.shape + (1,) * (like.ndim - coefficient.ndim))


def suggestion(word: str, known: Collection[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known word, or an empty string."""
    near = get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_choice(name: str, value: Any, allowed: Collection[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed`` and of the same kind: True is not 1."""
    if not any(_same_kind(value, one) and value == one for one in allowed):
        known = sorted(allowed, key=str)
        near = suggestion(str(value), [str(one) for one in known])
        raise ValueError(f"{name}={value!r} is not known: allowed are {known}{near}")


def _same_kind(value: Any, one: Any) -> bool:
    if isinstance(one, bool) or isinstance(value, bool):
        return isinstance(one, bool) and isinstance(value, bool)
    return isinstance(value, Integral if isinstance(one, Integral) else type(one))


def check_number(
    name: str,
    value: float,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Raise ValueError unless ``value`` is a finite number, ``above`` < value < ``below`` and ``least`` <= value <= ``most``."""
    good = isinstance(value, Real) and not isinstance(value, bool) and _is_finite(value)
    good = good and (above is None or value > above) and (least is None or value >= least)
    if not (good and (most is None or value <= most) and (below is None or value < below)):
        bounds = [f"> {above}" if above is not None else "", f">= {least}" if least is not None else ""]
        bounds += [f"<= {most}" if most is not None else "", f"< {below}" if below is not None else ""]
        wanted = " and ".join(b for b in bounds if b)
        raise ValueError(f"{name}={value!r} is not allowed: give a finite number{' ' + wanted if wanted else ''}")


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} is not allowed: give a whole number >= {least}")


Numbers = Tensor | np.ndarray | Sequence[Any] | float
"""What ``as_numbers`` converts to a tensor, including rows of Python numbers."""


class KindError(TypeError, ValueError):
    """An argument of the wrong kind.

    It is both a TypeError and a ValueError, so that code that catches either of them catches it.
    """


def shown(value: object) -> str:
    """``value`` in one short line. Modules and arrays, whose repr has many lines, are abbreviated."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim > 0:
        return f"<{type(value).__name__} of shape {tuple(value.shape)}>"
    if isinstance(value, list | tuple | dict | set) and len(value) > 64:
        return f"<{type(value).__name__} of {len(value)}>"
    name = type(value).__name__
    text = f"<{name}>" if isinstance(value, nn.Module) else repr(value)
    if len(text) <= 120 and "\n" not in text:
        return text
    return f"{name}(...)" if text.startswith(f"{name}(") else f"<{name}>"


def check_batch(name: str, x: Tensor) -> None:
    """Raise unless ``x`` is a floating-point tensor of shape (B, *event)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}: give a torch.Tensor of shape (B, *event)")
    if x.is_complex():
        raise TypeError(f"{name} has dtype {x.dtype}: give real numbers, e.g. torch.view_as_real({name})")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}: give a floating-point tensor, e.g. {name}.float()")
    if x.ndim < 1:
        raise ValueError(f"{name} has shape (): give a batch of shape (B, *event)")
    if x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: give at least one event, and no dimension of size 0")


def check_rising(low_name: str, low: float, high_name: str, high: float) -> None:
    """Raise ValueError unless both are finite numbers, and ``low`` < ``high``."""
    check_number(low_name, low)
    check_number(high_name, high)
    if not low < high:
        raise ValueError(f"{high_name}={high!r} is not allowed: give a finite number > {low!r} ({low_name})")


def check_seed(name: str, seed: int) -> None:
    """Raise ValueError unless ``seed`` is a whole number in [0, 2^64)."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"{name}={seed!r} is not allowed: give a whole number in [0, 2**64)")


def check_sizes(name: str, x: Tensor, *sizes: int | str) -> None:
    """Raise ValueError unless ``x`` is a floating-point tensor of these sizes: numbers, letters for any size, "..." for more."""
    known = [size for size in sizes if size != "..."]
    fits = x.ndim == len(known) or (x.ndim > len(known) and len(known) < len(sizes))
    fits = fits and all(isinstance(size, str) or size == n for size, n in zip(known, x.shape, strict=False))
    if not fits or x.numel() == 0 or not x.is_floating_point():
        wanted = ", ".join(map(str, sizes)) + ("," if len(sizes) == 1 else "")
        raise ValueError(
            f"{name} has shape {tuple(x.shape)} and dtype {x.dtype}: give floating-point numbers ({wanted})"
        )


def check_counts(name: str, value: object) -> None:
    """Raise ValueError unless ``value`` is a sequence of whole numbers >= 1, such as an event shape. It may be empty."""
    sequence = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [0]
    if not all(isinstance(n, Integral) and int(n) >= 1 for n in sequence):
        raise ValueError(f"{name}={value!r} is not allowed: give a tuple of whole numbers >= 1")


def as_numbers(name: str, value: Numbers, device: torch.device | None = None) -> Tensor:
    """``value`` as a float64 tensor. Raises KindError if it is not made of real numbers, ValueError for NaN or infinity."""
    try:
        made = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise KindError(f"{name}={shown(value)} is not allowed: give numbers in rows of equal length") from problem
    if made.dtype == torch.bool or made.is_complex():
        raise KindError(f"{name} has dtype {made.dtype}: give real numbers")
    wide = (value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)).to(
        device, torch.float64
    )
    if not bool(torch.isfinite(wide).all()):
        raise ValueError(f"{name} holds non-finite values: {name}={shown(value)}")
    return wide


_STATES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_kind(dtype: object, device: torch.device | str | None) -> None:
    """Raise unless ``dtype`` is a floating-point dtype and ``device`` a device on which torch can create a tensor."""
    if not (isinstance(dtype, torch.dtype) and dtype in _STATES):
        raise TypeError(
            f"dtype={dtype!r} is not allowed: give a floating-point dtype, torch.float32, float64, float16 or bfloat16"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as problem:
        raise ValueError(f"device={device!r} cannot be used: give None, 'cpu' or 'cuda:0'") from problem


def check_output(name: str, value: object, x: Tensor) -> None:
    """Raise unless ``value``, the result of ``name`` for ``x``, is a tensor with the shape of ``x``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} returned a {type(value).__name__}: it must return a torch.Tensor of the shape of x")
    if not value.is_floating_point():
        raise TypeError(f"{name} returned dtype {value.dtype}: it must return real floating-point numbers")
    if value.shape != x.shape:
        raise ValueError(f"{name} returned shape {tuple(value.shape)}: it must return {tuple(x.shape)}, the shape of x")


class _Times(threading.local):
    """Whether the times of this thread's current work have been checked already."""

    checked = False


_TIMES = _Times()


@contextmanager
def times_checked() -> Iterator[None]:
    """Within this context ``check_times`` does not look at values.

    Whoever enters it has checked all times, or has computed them within the range. Reading the values of a tensor costs
    three operations and a synchronization, and a process checks the times in each of its methods.
    """
    before, _TIMES.checked = _TIMES.checked, True
    try:
        yield
    finally:
        _TIMES.checked = before


def check_times(name: str, t: Tensor, end: float, batch: int | None = None) -> None:
    """Raise unless all times are in [0, end] and, if ``batch`` is given, ``t`` has the shape () or (batch,).

    The range is checked on the CPU only, because the values of an accelerator require a synchronization. It is not checked
    within ``times_checked``.
    """
    if not isinstance(t, Tensor):
        raise TypeError(f"{name}={t!r} is a {type(t).__name__}: give a torch.Tensor of times, e.g. torch.tensor({t!r})")
    if batch is not None and t.ndim > 0 and t.shape != (batch,):
        raise ValueError(f"{name} has shape {tuple(t.shape)}: give shape () or ({batch},), one time per sample")
    if _TIMES.checked or t.device.type != "cpu" or t.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = (float(v) for v in torch.aminmax(t.detach()))
    slack = TIME_SLACK * end
    if not (low >= -slack and high <= end + slack):
        raise ValueError(f"{name} has times from {low:g} to {high:g}: give times in [0, {end:g}]")


def check_finite(name: str, x: Tensor, where: str = "") -> None:
    """Raise ValueError with the indices of the samples of ``x`` (B, *event) that contain a NaN or an infinity."""
    finite = torch.isfinite(x).reshape(x.shape[0], -1).all(dim=1)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten().tolist()
        shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        raise ValueError(f"{name} holds non-finite values in {len(bad)} of {len(finite)} samples{where}: index {shown}")
