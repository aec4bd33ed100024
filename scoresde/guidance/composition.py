r"""Scores that are composed of others: concepts joined or excluded, and mixtures.

The sum of scores of noisy densities is the score of their product at each t. It is not the score of the noisy product for t > 0:
noise and product do not commute. So these scores sample from an approximation, which Langevin correctors at each level improve:
``PredictorCorrector(ReverseDiffusion(), Langevin())``, or ``MALA()`` where energies are known (Du et al. 2023, arXiv:2302.11552).
A mixture does commute with the noise, so `MixtureOfExperts` is exact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde._validation import check_number, expand, shown
from scoresde.conditions import DROPPED, ConditionKind, check_condition, rows_of, select
from scoresde.guidance.base import Guidance, Weight, check_dropout, check_processes, difference, repeated, unbound
from scoresde.sde import SDE, Score
from scoresde.sde.base import process_of


@dataclass(frozen=True)
class ComposedConditions(Guidance):
    r"""Conditions joined (AND) and excluded (NOT), by one conditional model (Liu et al. 2022).

    .. math::
        \tilde s(x, t) = s(x, t) + w \sum_i w_i \, [\, s(x, t \mid c_i) - s(x, t) \,]

    A positive weight w_i asks for a condition, a negative one excludes it. All terms are computed by one evaluation of a larger
    batch. At each t the result is the score of a density proportional to p_t(x) prod_i p_t(c_i | x)^(w w_i). It is not a density
    of noisy data: samplers draw from an approximation of p(x) prod_i p(c_i | x)^(w w_i).

    Args:
        score: A conditional ``ScoreModel`` that is trained with condition dropout. Other conditions that are bound to it are
            part of every c_i.
        conditions: The conditions c_i, each a dictionary of values by name. A tensor has one row for each sample, or no
            dimension.
        weights: The weights w_i, 1 by default.
        weight: A factor w of all weights: a number, or a function of t.
        interval: Lowest and highest noise level sigma / alpha with guidance, or None for all.

    References:
        Liu et al. 2022, "Compositional visual generation with composable diffusion models", arXiv:2206.01714.

    Example:
        >>> import torch
        >>> from scoresde import ScoreModel, VPSDE
        >>> from scoresde.conditions import Classes
        >>> from scoresde.networks import MLP
        >>> model = ScoreModel(MLP((2,), conditions={"label": Classes(3)}), VPSDE())
        >>> one_not_two = ComposedConditions(model, ({"label": 1}, {"label": 2}), (1.0, -0.5))
        >>> one_not_two(torch.zeros(4, 2), torch.full((4,), 0.5)).shape
        torch.Size([4, 2])
    """

    score: Callable[..., Tensor]
    conditions: Sequence[Mapping[str, Any]]
    weights: Sequence[float] | None = None
    weight: Weight = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.conditions) == 0:
            raise ValueError("conditions is empty: give at least one, e.g. ({'label': 3},)")
        names = set(self.conditions[0])
        for k, condition in enumerate(self.conditions):
            if not condition or set(condition) != names:
                raise ValueError(
                    f"conditions[{k}] has the names {', '.join(condition) or 'none'}: give the names of the first, "
                    f"{', '.join(names) or 'at least one'}, to all"
                )
        _check_weights(self.weights, len(self.conditions), "conditions")
        if both := names & set(getattr(self.score, "condition", ())):
            raise ValueError(
                f"the condition {min(both)} is given to the score and in conditions: give it in conditions only"
            )

    has_variance = False  # several conditional scores have several variances

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        w = self.weight_at(t)
        free, direction = self._both(x, t)
        return free + expand(w, free) * direction

    def direction(self, x: Tensor, t: Tensor) -> Tensor:
        return self._both(x, t)[1]

    def _both(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The score without conditions, and the weighted sum of the differences."""
        score, bound, ignored = unbound(self.score, x)
        count = len(self.conditions)
        every = (*self.conditions, self.conditions[0])  # the conditions of the last part are dropped
        rows = {name: repeated(value, count + 1) for name, value in bound.items()}
        rows |= {name: torch.cat(_rows(name, [one[name] for one in every], x)) for name in every[0]}
        dropped = torch.cat([*[ignored] * count, torch.ones_like(ignored)])
        found = score(torch.cat([x] * (count + 1)), torch.cat([t] * (count + 1)), **rows, **{DROPPED: dropped})
        *under, free = found.chunk(count + 1)
        weights = self.weights or [1.0] * count
        direction: Tensor = torch.stack([w * difference(s, free) for w, s in zip(weights, under, strict=True)]).sum(0)
        return free, direction

    def check_conditions(self, kinds: Mapping[str, ConditionKind], condition: Any, dropout: float) -> None:
        super().check_conditions(kinds, condition, dropout)
        if condition != "ignore":
            raise ValueError(
                f"ComposedConditions gives the conditions, and so does sampling.condition={shown(condition)}: give "
                "sampling.condition='ignore'"
            )
        check_dropout(self, dropout)

    def select_rows(self, index: Tensor) -> ComposedConditions:
        conditions = [select(condition, index) for condition in self.conditions]
        return self._with(score=rows_of(self.score, index), conditions=conditions)


@dataclass(frozen=True)
class MixtureOfExperts:
    r"""The score of a mixture of densities, exact at every t.

    .. math::
        s(x, t) = \sum_k r_k(x, t) \, s_k(x, t), \qquad r_k = \frac{\pi_k \, p_{k,t}(x)}{\sum_j \pi_j \, p_{j,t}(x)}

    The responsibilities need normalized densities. A score alone, or an energy up to a constant, does not have one.

    Args:
        experts: Scores (x, t).
        log_probs: For each expert, a function (x, t) -> (B,) that returns log p_t(x) in nats, normalized.
        weights: The shares pi_k > 0, up to a common factor; equal by default.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> sde, parts = VPSDE(), [GaussianMixture([[mean]], 0.3) for mean in (-1.0, 1.0)]
        >>> log_probs = [lambda x, t, p=part: p.log_prob_at(sde, x, t) for part in parts]
        >>> score = MixtureOfExperts([part.score(sde) for part in parts], log_probs)
        >>> x, t = torch.full((3, 1), 0.7), torch.full((3,), 0.5)
        >>> whole = GaussianMixture([[-1.0], [1.0]], 0.3).score(sde)
        >>> torch.allclose(score(x, t), whole(x, t), atol=1e-5)
        True
    """

    experts: Sequence[Score]
    log_probs: Sequence[Callable[[Tensor, Tensor], Tensor]]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if len(self.experts) == 0 or len(self.log_probs) != len(self.experts):
            raise ValueError(
                f"log_probs has {len(self.log_probs)} entries for {len(self.experts)} experts: give at least one expert, and a "
                "density for each"
            )
        _check_weights(self.weights, len(self.experts), "experts", above=0.0)
        check_processes(self.sde, *self.experts)

    @property
    def sde(self) -> SDE | None:
        """The process of the experts, or None if all are plain functions."""
        return next((sde for sde in map(process_of, self.experts) if sde is not None), None)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(
                f"x has dtype {x.dtype}: MixtureOfExperts is for scores, and logits of tokens have another rule"
            )
        prior = torch.tensor(self.weights or [1.0] * len(self.experts), dtype=x.dtype, device=x.device).log()
        shares = (torch.stack([f(x, t) for f in self.log_probs]) + prior[:, None]).softmax(0)
        return torch.stack([expand(r, x) * s(x, t) for r, s in zip(shares, self.experts, strict=True)]).sum(0)

    def select_rows(self, index: Tensor) -> MixtureOfExperts:
        """The score for some of the samples of a batch.

        Args:
            index: Indices of the samples, (n,).

        Returns:
            The mixture of the experts for these samples.
        """
        return dataclasses.replace(self, experts=[rows_of(expert, index) for expert in self.experts])


def _check_weights(weights: Sequence[float] | None, count: int, what: str, above: float | None = None) -> None:
    """Raise ValueError unless there is one finite weight for each of ``count``."""
    if weights is None:
        return
    if len(weights) != count:
        raise ValueError(f"weights has {len(weights)} entries for {count} {what}: give one for each")
    for weight in weights:
        check_number("weights", weight, above=above)


def _rows(name: str, values: Sequence[Any], x: Tensor) -> list[Tensor]:
    """Values of a condition with one row for each sample. A number is for all samples."""
    tensors = [torch.as_tensor(value, device=x.device) for value in values]
    shape = next((tensor.shape[1:] for tensor in tensors if tensor.ndim), ())
    for tensor in tensors:
        check_condition(len(x), {name: tensor}, ())
    return [tensor if tensor.ndim else tensor.expand(len(x), *shape) for tensor in tensors]
