"""Averages of a network's weights over training::

    average <- d average + (1 - d) weight                          at the n-th update, n = 1, 2, ...

    EMA         d = min(decay, (1 + n) / (10 + n))                 exponential, with the warm-up of the reference
    implementation,
                                                                   which removes the initial weights quickly
    PowerEMA    d = (1 - 1 / n)^(gamma + 1)                        the weight of update tau is proportional to tau^gamma

The width of a power-function average (Karras et al. 2024, arXiv:2312.02696, section 3) is proportional to the length of the
run. Its profile is ::

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),  0 <= tau <= t

and its parameter is the relative width, std / t = (gamma + 1)^(1/2) (gamma + 2)^-1 (gamma + 3)^-(1/2). From snapshots of two
such averages any other average can be computed after the run, as the combination of stored profiles that is closest to the
wanted profile in L2. The inner products are, for t_a <= t_b (appendix C)::

    <p_a, p_b> = (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1)  (t_a / t_b)^gamma_b / t_b

Buffers are copied and not averaged, because counters and tables have no meaningful mean.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scoresde._arguments import check_constructors, checked_arguments
from scoresde._validation import check_number

WIDEST = 12.0**-0.5
"""Relative width of the power function with gamma = 0, which is the plain mean."""


class EMA:
    """The exponential moving average of a module's weights.

    Parameters of half precision are averaged in float32, because an update of relative size 1 - decay is smaller than their
    rounding error. The averaged module then computes in float32.

    Args:
        module: The module to average. The average starts as a copy of it.
        decay: A number in [0, 1). 0.9999 is usual for long runs, 0.999 for runs of minutes.

    Raises:
        ValueError: ``decay`` is out of range.
        TypeError: ``module`` is not a ``torch.nn.Module``.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999) -> None:
        check_number("decay", decay, least=0.0)
        if decay >= 1.0:
            raise ValueError(
                f"decay={decay!r} is not allowed: give a number in [0, 1), at 1 the average would never change"
            )
        if not isinstance(module, nn.Module):
            raise TypeError(f"module={module!r} is not a module: give a torch.nn.Module")
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        for parameter in self.module.parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()

    def kept(self, n: int) -> float:
        """The factor d of the average at the n-th update.

        Args:
            n: Number of the update, >= 1.

        Returns:
            The factor d.
        """
        return min(self.decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Updates the average with the weights of ``module``.

        Args:
            module: A module with the same parameter and buffer names and shapes.

        Raises:
            ValueError: The names or shapes differ. Then nothing is changed.
        """
        theirs, ours = dict(module.named_parameters()), dict(self.module.named_parameters())
        their_buffers, our_buffers = dict(module.named_buffers()), dict(self.module.named_buffers())
        _check_alike("parameters", theirs, ours)
        _check_alike("buffers", their_buffers, our_buffers)
        self.updates += 1
        d = self.kept(self.updates)
        names = list(ours)
        news = [theirs[n].detach().to(ours[n].dtype) for n in names]
        torch._foreach_lerp_([ours[n] for n in names], news, 1.0 - d)
        for name, buffer in our_buffers.items():
            buffer.copy_(their_buffers[name])

    @torch.no_grad()
    def distance(self, module: nn.Module) -> float:
        """||weights - average|| / ||weights||, over all parameters.

        Args:
            module: The module with the weights.

        Returns:
            The relative distance.
        """
        ours, theirs = list(self.module.parameters()), list(module.parameters())
        apart = torch.stack(
            [(a - b).square().sum(dtype=torch.float64) for a, b in zip(ours, theirs, strict=True)]
        ).sum()
        size = torch.stack([b.square().sum(dtype=torch.float64) for b in theirs]).sum()
        return float((gathered(apart) / gathered(size)).sqrt())


@checked_arguments
def gathered(value: Tensor) -> Tensor:
    """The complete tensor of a ``DTensor``, whose parts several processes hold.

    Args:
        value: A tensor.

    Returns:
        The complete tensor, or ``value`` itself if it is not distributed.
    """
    return value.full_tensor() if hasattr(value, "full_tensor") else value


class PowerEMA(EMA):
    """A power-function average of a module's weights.

    Args:
        module: The module to average. The average starts as a copy of it.
        std: Width of the average relative to the length of the run, in (0, 0.288]. The paper uses 0.05 and 0.1.

    References:
        Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", arXiv:2312.02696.
    """

    def __init__(self, module: nn.Module, std: float) -> None:
        self.std, self.exponent = std, power_exponent(std)
        super().__init__(module, 0.0)

    def kept(self, n: int) -> float:
        out: float = (1.0 - 1.0 / n) ** (self.exponent + 1.0)
        return out


@checked_arguments
def power_exponent(std: float) -> float:
    """The exponent gamma >= 0 of the power function with a given relative width.

    Args:
        std: Relative width, in (0, 12^(-1/2)].

    Returns:
        gamma.
    """
    check_number("std", std, above=0.0, most=WIDEST)
    roots = np.roots([1.0, 7.0, 16.0 - std**-2, 12.0 - std**-2])
    return max(0.0, float(roots.real.max()))


@checked_arguments
def posthoc_coefficients(stored: Sequence[tuple[float, float]], updates: float, std: float) -> Tensor:
    """Coefficients that combine stored averages into an average of another width.

    Args:
        stored: (updates, std) of each of the K stored averages.
        updates: Number of updates of the wanted average.
        std: Relative width of the wanted average.

    Returns:
        The coefficients, (K,) float64.

    References:
        Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C.
    """
    products, aims, _ = _equations(stored, updates, std)
    out: Tensor = torch.linalg.lstsq(products, aims[:, None], driver="gelsd").solution[:, 0]
    return out


@checked_arguments
def profile_error(stored: Sequence[tuple[float, float]], updates: float, std: float) -> float:
    """Relative L2 error of the combined profile, ||p - sum_k w_k p_k|| / ||p||.

    Args:
        stored: (updates, std) of each of the K stored averages.
        updates: Number of updates of the wanted average.
        std: Relative width of the wanted average.

    Returns:
        The relative error.
    """
    products, aims, size = _equations(stored, updates, std)
    weights = posthoc_coefficients(stored, updates, std)
    square = size - 2.0 * weights @ aims + weights @ products @ weights
    return float((square / size).clamp(min=0.0).sqrt())


def _equations(stored: Sequence[tuple[float, float]], updates: float, std: float) -> tuple[Tensor, Tensor, Tensor]:
    """<p_i, p_j> (K, K), <p_i, p> (K,) and <p, p> of the stored profiles and the wanted one."""
    check_number("updates", updates, above=0.0)
    for number, _ in stored:
        check_number("updates of stored", number, above=0.0)
    if not stored:
        raise ValueError("stored=() is not allowed: give (updates, std) of at least one average")
    t = torch.tensor([a for a, _ in stored], dtype=torch.float64)
    gamma = torch.tensor([power_exponent(s) for _, s in stored], dtype=torch.float64)
    end, wanted = torch.tensor([float(updates)]).double(), torch.tensor([power_exponent(std)]).double()
    size = _products(end, wanted, end, wanted)[0, 0]
    return _products(t, gamma, t, gamma), _products(t, gamma, end, wanted)[:, 0], size


def _products(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """Inner products of power-function profiles, (len(a), len(b))."""
    t_a, gamma_a = t_a[:, None], gamma_a[:, None]
    first, last = torch.minimum(t_a, t_b), torch.maximum(t_a, t_b)
    later = torch.where(t_a < t_b, gamma_b, gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * (first / last) ** later / last


def _check_alike(kind: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in group.items()} for group in (theirs, ours)]
    if shapes[0] != shapes[1]:
        differ = sorted(n for n in {*shapes[0], *shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(f"the module's {kind} differ from the averaged ones in {differ[:8]}: nothing was changed")


check_constructors(globals())
