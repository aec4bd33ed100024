"""Base class of models with a network: the conditions of the network, and how they are bound.

``model.given(label=y)`` binds conditions. Samplers and likelihoods that evaluate some samples of a batch select the rows of
bound conditions by ``select_rows``.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn

from scoresde._arguments import check_constructors
from scoresde._validation import shown
from scoresde.conditions import accepts, required_conditions, select

__all__ = ["ConditionalModel"]

Model = TypeVar("Model", bound="ConditionalModel")


class ConditionalModel(nn.Module):
    """Base class of the models that a network and a process define.

    Args:
        network: A module that is called as ``network(input, label, **condition)``. A condition that is a tensor has one row
            for each sample, or no dimension.

    Raises:
        TypeError: If it is not a module with such a call.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network={shown(network)} is not a module: give an instance of a torch.nn.Module")
        self.required = required_conditions(network)
        self.network = network
        self.condition: dict[str, Any] = {}

    def given(self: Model, **condition: Any) -> Model:
        """Binds conditions.

        Args:
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            A model with the same network, whose calls use these conditions. A ``ScoreModel`` is then a score (x, t) for
            samplers and likelihoods.

        Example:
            >>> import torch
            >>> from scoresde import ScoreModel, VPSDE
            >>> from scoresde.conditions import Classes
            >>> from scoresde.networks import MLP
            >>> model = ScoreModel(MLP((2,), conditions={"label": Classes(3)}), VPSDE())
            >>> score = model.given(label=torch.tensor([0, 2, 2, 1]))
            >>> score(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
            torch.Size([4, 2])
        """
        made = copy.copy(self)
        made.condition = {**self.condition, **condition}
        return made

    def takes(self, name: str) -> bool:
        """Whether the network takes a condition that is not bound.

        Args:
            name: Name of the condition.

        Returns:
            True if the network takes it, or any names.
        """
        if name in self.condition:
            return False
        if hasattr(self.network, "conditioning"):  # networks of this library say which conditions they have
            return name in getattr(self.network.conditioning, "kinds", ())
        return accepts(self.network.forward, name)

    def select_rows(self: Model, index: Tensor) -> Model:
        """The model for some of the samples of a batch.

        Args:
            index: Indices of the samples, (n,).

        Returns:
            A model with the same network and the rows ``index`` of the bound conditions.
        """
        if not self.condition:
            return self
        return self.given(**select(self.condition, index))


check_constructors(globals())
