r"""Models of the reverse process of a jump process: a network with an interpretation of its output.

Samplers, bounds and objectives call a model as (x, t) -> logits of p(x_0 | x_t), for each coordinate.
``CategoricalModel`` is a network that gives them. ``RatioModel`` is a network that gives the ratios ln p_t(y) / p_t(x),
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

    def _output(self, x: Tensor, t: Tensor, condition: dict[str, Any], size: int) -> Tensor:
        """The output of the network, (B, *event, size)."""
        condition = {**self.condition, **condition}
        check_condition(len(x), condition, self.required)
        value: Tensor = self.network(x, t.to(torch.float32).expand(len(x)), **condition)
        check_logits("network", value, x, size)
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
        logits = self._output(x, t, condition, self.process.tokens)
        if not self.process.carries_over:
            return logits
        known = ~self.process.masked(x)[..., None]
        place = torch.where(known, x.long()[..., None], 0)
        own = torch.where(known, 0.0, logits.gather(-1, place))
        return logits.masked_fill(known, -math.inf).scatter_(-1, place, own)  # one copy


class RatioModel(JumpModel):
    """A network that gives the ratios ln p_t(y) / p_t(x), called concrete scores.

    Args:
        network: A module (x, t, **condition) -> logarithms ``(B, *event, states)``, with x ``(B, *event)`` int64 and t
            ``(B,)`` float32. The entry of x is replaced by 0.
        process: The process.

    References:
        Lou, Meng, Ermon 2023, arXiv:2310.16834. Meng et al. 2022, "Concrete score matching", arXiv:2211.00802.
    """

    def forward(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        return self.process.logits_from_ratios(x, self.ratios(x, t, **condition), t)

    def ratios(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        value = self._output(x, t, condition, self.process.states)
        return value.scatter(-1, x.long()[..., None], 0.0)
