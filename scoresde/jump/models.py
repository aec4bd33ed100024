r"""Models of the reverse process of a jump process: a network with an interpretation of its output.

Samplers, bounds and objectives call a model as (x, t) -> logits of p(x_0 | x_t), for each coordinate.
``CategoricalModel`` is a network that gives them, and ``LeaveOneOutModel`` one that gives them without the likelihood of the
coordinate itself. ``RatioModel`` is a network that gives the ratios ln p_t(y) / p_t(x),
the discrete counterpart of the score. Both descriptions are equivalent for 0 < t < T, and each model has both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._validation import shown
from scoresde.conditions import check_condition
from scoresde.jump.base import JumpProcess
from scoresde.jump.states import check_logits
from scoresde.score import ConditionalModel

_INFORMATIVE = 1e-3
"""Smallest alpha at which ratios are converted into p(x_0 | x_t). float32 then keeps about four digits."""


class JumpModel(ConditionalModel, ABC):
    """Base class of models of a jump process.

    Args:
        network: A module (x, t, **condition) with x ``(B, *event)`` int64 and t ``(B,)`` float32.
        process: The process.
    """

    def __init__(self, network: nn.Module, process: JumpProcess) -> None:
        super().__init__(network)
        if not isinstance(process, JumpProcess):
            raise TypeError(f"process={shown(process)} is not a jump process: give e.g. Absorbing(27)")
        self.process = process

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Logits of p(x_0 | x_t).

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            **condition: Conditions of the network by name.

        Returns:
            The logits, ``(B, *event, tokens)``.
        """

    def masked_logits(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Logits of p(x_0 | x_t) that are right where x is masked, for losses of masked coordinates.

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in [0, T], ``()`` or ``(B,)``.
            **condition: Conditions of the network by name.

        Returns:
            The logits, ``(B, *event, tokens)``. Those of other coordinates have no meaning under ``Absorbing``.
        """
        logits: Tensor = self(x, t, **condition)
        return logits

    def ratios(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """ln p_t(y) / p_t(x) for all y that differ from x in one coordinate.

        Args:
            x: States at t, ``(B, *event)``.
            t: Times in (0, T), ``()`` or ``(B,)``.
            **condition: Conditions of the network by name.

        Returns:
            The logarithms, ``(B, *event, states)``. The entry of x is 0.
        """
        return self.process.ratios(x, self(x, t, **condition), t)

    def _output(self, x: Tensor, t: Tensor, condition: dict[str, Any], sizes: tuple[int, ...]) -> Tensor:
        """The output of the network, (B, *event, one of sizes)."""
        condition = {**self.condition, **condition}
        check_condition(len(x), condition, self.required)
        value: Tensor = self.network(x, t.to(torch.float32).expand(len(x)), **condition)
        given = value.shape[-1] if isinstance(value, Tensor) and value.ndim else 0
        check_logits("network", value, x, given if given in sizes else sizes[0])
        return value


class CategoricalModel(JumpModel):
    """A network that gives logits of x_0.

    With a mask, a token that is not masked is x_0 under ``Absorbing``. The model then gives it with probability 1,
    whatever the network says, so that only masked coordinates are predicted, and the others are carried over exactly.

    Args:
        network: A module (x, t, **condition) -> logits ``(B, *event, tokens)``, with x ``(B, *event)`` int64 and t
            ``(B,)`` float32.
        process: The process.

    References:
        Austin et al. 2021, arXiv:2107.03006, section 3.3. Sahoo et al. 2024, arXiv:2406.07524, section 3.2.3.
    """

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        return carry_over(self.process, x, self.masked_logits(x, t, **condition))

    def masked_logits(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        return self._output(x, t, condition, (self.process.tokens,))


class LeaveOneOutModel(JumpModel):
    r"""A network that gives logits of x_0 given the states of the other coordinates.

    The state of a coordinate enters by its likelihood, which is known:

    .. math:: p(x_0^i \mid x_t) \propto q(x_t^i \mid x_0^i)\, p(x_0^i \mid x_t^{-i}).

    Here :math:`x_t^{-i}` are the states of the other coordinates. The network gives logits of the second factor. It does not
    have to learn that x_0 is close to x_t for small t, and a constant network is the exact model of independent, uniform
    data. Under ``Absorbing`` it is the ``CategoricalModel``.

    Args:
        network: A module (x, t, **condition) -> logits ``(B, *event, tokens)``, with x ``(B, *event)`` int64 and t
            ``(B,)`` float32. Its output may depend on all coordinates of x.
        process: The process.

    Example:
        >>> import torch
        >>> from scoresde.jump import Uniform, jump_bound
        >>> from scoresde.networks import TokenTransformer
        >>> process = Uniform(4)
        >>> untrained = TokenTransformer((6,), tokens=4, states=4, width=8, depth=1, heads=1)
        >>> bound = jump_bound(process, LeaveOneOutModel(untrained, process), torch.zeros(500, 6, dtype=torch.long))
        >>> print(f"{bound.mean_bits_per_token[0]:.1f}")
        2.0
    """

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        logits = self._output(x, t, condition, (self.process.tokens,))
        return logits + self.process.likelihood(x, t).to(logits.dtype)


class RatioModel(JumpModel):
    r"""A network that gives the ratios p_t(y) / p_t(x), called concrete scores.

    The ratios range over many decades. The network therefore predicts them relative to those of independent, equally
    probable tokens,

    .. math::
        \ln \frac{p_t(y)}{p_t(x)} = f_\theta(x, t)_y + \ln \frac{\bar p_t(y)}{\bar p_t(x)}, \qquad
        \bar p_t(y) = \frac{1}{K} \sum_{x_0} q(x_t = y \mid x_0)

    so that a network that returns 0 has the bound ln K for each token.
    Under ``Absorbing`` the second term is -ln K (e^B - 1) for a masked x, the scale of SEDD. Ratios determine p(x_0 | x_t)
    only while x_t depends on x_0, so that times with alpha(t) < 0.001 are replaced by the one with alpha(t) = 0.001.

    Args:
        network: A module (x, t, **condition) -> f ``(B, *event, states)``, with x ``(B, *event)`` int64 and t ``(B,)``
            float32. The entry of x has no effect. If the process has a mask, ``tokens`` numbers are enough, because no
            reverse jump goes to the mask.
        process: The process.

    References:
        Lou, Meng, Ermon 2023, arXiv:2310.16834, section 3 and appendix C.2 (scale). Meng et al. 2022, "Concrete score
        matching", arXiv:2211.00802.
    """

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        t = self._informative(t)
        return self.process.logits_from_ratios(x, self.ratios(x, t, **condition), t)

    def ratios(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        process, t = self.process, self._informative(t)
        tokens = () if process.mask is None else (process.tokens,)
        value = self._output(x, t, condition, (process.states, *tokens))
        equal = process.equal_ratios(x, t, torch.promote_types(value.dtype, torch.float32))
        if value.shape[-1] < process.states:
            value = torch.nn.functional.pad(value, (0, 1))
        return (value + equal).scatter(-1, x.long()[..., None], 0.0)

    def _informative(self, t: Tensor) -> Tensor:
        """Times with alpha(t) >= 0.001."""
        last = self.process.schedule.time_of_log_alpha(torch.tensor(math.log(_INFORMATIVE), dtype=torch.float64))
        return torch.minimum(t.to(torch.float64), last.to(t.device))


def carry_over(process: JumpProcess, x: Tensor, logits: Tensor) -> Tensor:
    """Logits of x_0 that give probability 1 to the tokens that are known.

    Args:
        process: The process.
        x: States at t, ``(B, *event)``.
        logits: Logits of the network, ``(B, *event, tokens)``.

    Returns:
        The logits, in which a state that is not masked is x_0 if the process carries tokens over. Otherwise they are
        unchanged.
    """
    if not process.carries_over:
        return logits
    known = ~process.masked(x)[..., None]
    place = torch.where(known, x.long()[..., None], 0)
    own = torch.where(known, 0.0, logits.gather(-1, place))
    return logits.masked_fill(known, -math.inf).scatter_(-1, place, own)  # one copy
