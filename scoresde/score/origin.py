"""Which score a measurement was made with, so that it is not used with another one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from scoresde.sde import SDE
from scoresde.sde.scores import modules_of

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def weights_digest(score: object) -> str:
    """16 hex digits of the parameters and buffers of a module, the same on every device. Empty for other scores."""
    if not isinstance(score, nn.Module):
        return ""
    found = hashlib.sha256()
    for name, value in sorted(score.state_dict().items()):
        if isinstance(value, Tensor):
            found.update(f"{name.replace('_orig_mod.', '')} {tuple(value.shape)} {value.dtype} {_sums(value)}".encode())
    return found.hexdigest()[:16]


def networks_digest(score: object) -> str:
    """The digest of all networks that a score uses, also by a guidance or a function. Empty if there are none."""
    digests = sorted(weights_digest(network) for network in modules_of(score))
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()[: 16 * bool(digests)]
    )


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

    It is not checked if it has no ``origin``, the two texts of `origin_of`.
    """
    process, weights = getattr(value, "origin", ("", ""))
    ours = repr(getattr(sde, "continuous", sde))
    if process and process != ours:
        raise ValueError(
            f"{name}={type(value).__name__} was measured with {process}, and the process is {ours}: measure it with this process"
        )
    check_weights(name, value, weights, score, "measure it with these weights, by denoising_errors")


def check_weights(name: str, value: object, weights: str, score: object, remedy: str) -> None:
    """Raise ValueError if ``value``, the argument ``name``, was measured with other weights than those of a score.

    A guided score has the weights of the score that is guided. They are not checked if ``weights`` is empty, or if the score has
    no network.

    Args:
        name: Name of the argument.
        value: The argument.
        weights: The digest of the weights that it was measured with.
        score: The score.
        remedy: What to do, for the message.
    """
    if not weights:
        return
    digest = weights_digest(without_guidance(score))
    if digest != weights and (whole := networks_digest(score)) != weights and (digest or whole):
        raise ValueError(
            f"{name}={type(value).__name__} was measured with weights of digest {weights}, and score is a {type(score).__name__} "
            f"of digest {digest or whole}: {remedy}"
        )


def without_guidance(score: object) -> object:
    """The score that a guidance or a conditioned score refers to by its attribute ``score``, or the score itself."""
    while not isinstance(score, nn.Module) and callable(inner := getattr(score, "score", None)):
        score = inner
    return score
