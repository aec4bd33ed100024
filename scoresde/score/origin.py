"""Which score a measurement was made with, so that it is not used with another one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from scoresde.sde import SDE

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_digest(score: object) -> str:
    """16 hex digits of the parameters and buffers of a module, the same on every device. Empty for other scores."""
    if not isinstance(score, nn.Module):
        return ""
    found = hashlib.sha256()
    for name, value in sorted(score.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name} {tuple(value.shape)} {value.dtype} {_sums(value)}".encode())
    return found.hexdigest()[:16]


def _sums(value: Tensor) -> list[int]:
    """Sums of the bits of a tensor and of their squares, as whole numbers modulo 2^64, which do not depend on the order."""
    value = torch.view_as_real(value) if value.is_complex() else value
    bits = value.detach().contiguous().view(_WHOLE[value.element_size()]).to(torch.int64)
    return [int(bits.sum()), int((bits * bits).sum())]


def origin_of(sde: SDE, score: object) -> tuple[str, str]:
    """The process in continuous time as text, and the digest of the score's weights."""
    return repr(getattr(sde, "continuous", sde)), weights_digest(score)


def check_origin(name: str, value: object, sde: SDE, score: object) -> None:
    """Raise ValueError if ``value``, the argument ``name``, was measured with another process or other weights.

    It is not checked if ``value`` has no ``origin``, or one of the two scores is not a module.
    """
    process, weights = getattr(value, "origin", ("", ""))
    if not process:
        return
    ours, digest = origin_of(sde, score)
    if process != ours:
        raise ValueError(
            f"{name}={type(value).__name__} was measured with {process}, and the process is {ours}: measure it with this process"
        )
    if weights and digest and weights != digest:
        raise ValueError(
            f"{name}={type(value).__name__} was measured with weights of digest {weights}, and score is a {type(score).__name__} "
            f"of digest {digest}: measure it with these weights, by denoising_errors"
        )
