r"""Known tokens: infilling of any positions, by every sampler of jump processes.

Under ``Absorbing`` the known tokens are set at the start and stay. Samplers then draw the others from

.. math::
    p(x_0^{\text{unknown}} \mid x_0^{\text{known}} = y)

with no other error than their own, because a model of p(x_0 | x_t) takes any set of visible tokens.

For other processes the known coordinates follow a path of the forward process that ends at y, drawn backwards in time by
q(x_s | x_t, x_0 = y). This is the replacement method. The others see only the noisy path of the known ones, and not y, so
that their distribution is biased, also in the limit of many steps. At t = 0 the path is y, so that correctors at
each time remove the bias: with many steps of a ``CorrectedSampler`` the distribution tends to the one above.

References:
    Song et al. 2021, arXiv:2011.13456, appendix I.2 (replacement). Lugmayr et al. 2022, RePaint, arXiv:2201.09865 (steps that
    correct it).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.jump.base import JumpProcess
from scoresde.jump.states import draw_states, whole_states
from scoresde.noise import NoiseSource


@dataclass(frozen=True, eq=False)
class KnownTokens:
    r"""Known tokens of the samples, the argument ``known`` of samplers.

    Under ``Absorbing`` the other tokens are drawn from p(unknown | known), with the error of the sampler alone. For other
    processes it is the replacement method, which has a bias also for an exact model. Correctors reduce it.

    Args:
        y: The tokens, ``(B, *event)``, or ``(1, *event)`` for all samples. Values at unknown positions have no effect.
        known: The known positions, bool, of a shape that broadcasts to that of y.

    Raises:
        ValueError: If the mask does not fit. When a sampler is called, if a known token is not in the vocabulary.
        TypeError: If y has no integers, or ``known`` is not bool.

    Example:
        >>> import torch
        >>> from scoresde.jump import Absorbing, FirstHitting, KnownTokens, MarkovChain
        >>> process, chain = Absorbing(2), MarkovChain([[0.9, 0.1], [0.2, 0.8]])
        >>> known = KnownTokens(torch.tensor([[0, 0, 0, 1]]), torch.tensor([True, False, False, True]))
        >>> result = FirstHitting()(process, chain.model(process), (5, 4), known=known)
        >>> result.samples[:, 0].tolist(), result.samples[:, 3].tolist(), result.nfe
        ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1], 2)
    """

    y: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        if self.y.is_floating_point() or self.y.is_complex() or self.y.dtype == torch.bool:
            raise TypeError(f"y has dtype {self.y.dtype}: give a tensor of integers (B, *event)")
        if self.y.ndim < 1 or self.y.numel() == 0:
            raise ValueError(f"y has shape {tuple(self.y.shape)}: give at least one event (B, *event)")
        if self.known.dtype != torch.bool:
            raise TypeError(f"known has dtype {self.known.dtype}: give a bool tensor, True at known positions")
        try:
            fits = torch.broadcast_shapes(self.known.shape, self.y.shape) == self.y.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"known has shape {tuple(self.known.shape)} and y has shape {tuple(self.y.shape)}: give a mask of the shape "
                f"{tuple(self.y.shape[1:])}"
            )

    def start(self, process: JumpProcess, x: Tensor, t: Tensor, noise: NoiseSource) -> Tensor:
        """The states at the start, with the known coordinates drawn from q(x_t | x_0 = y).

        Args:
            process: The process.
            x: States at t, ``(B, *event)``.
            t: Time of the start, ``()``.
            noise: Source of the random numbers.

        Returns:
            The states, ``(B, *event)``.

        Raises:
            ValueError: If y does not fit the states, or a known token is not in the vocabulary.
        """
        if self.y.shape[1:] != x.shape[1:] or len(self.y) not in (1, len(x)):
            raise ValueError(
                f"y has shape {tuple(self.y.shape)} for states of shape {tuple(x.shape)}: give one row for each sample, or "
                "one for all"
            )
        whole_states("y", torch.where(self.known, self.y, 0), process.states, process.tokens)
        y = self._tokens(x)
        return self.keep(y if process.carries_over else process.marginal_sample(y, t, noise), x)

    def step(
        self, process: JumpProcess, x: Tensor, new: Tensor, t: Tensor, s: Tensor, noise: NoiseSource, number: int
    ) -> Tensor:
        """The states after a step, with the known coordinates drawn from q(x_s | x_t, x_0 = y).

        Args:
            process: The process.
            x: States at t, ``(B, *event)``.
            new: States at s, ``(B, *event)``.
            t: Times, ``()`` or ``(B,)``.
            s: Earlier times, ``()`` or ``(B,)``.
            noise: Source of the random numbers.
            number: Number of the step, part of the key.

        Returns:
            The states at s, ``(B, *event)``.
        """
        if process.carries_over:
            return self.keep(x, new)
        log_p = process.posterior(x, self._tokens(x), s, t)
        return self.keep(draw_states(log_p, noise, step=number, purpose="known"), new)

    def keep(self, x: Tensor, new: Tensor) -> Tensor:
        """States with the known coordinates of others.

        Args:
            x: States with the known coordinates, ``(B, *event)``.
            new: States with the other coordinates, ``(B, *event)``.

        Returns:
            The states, ``(B, *event)``.
        """
        return torch.where(self.known.to(x.device), x, new)

    def _tokens(self, x: Tensor) -> Tensor:
        """y for all samples, and the token 0 at unknown positions, (B, *event) int64."""
        return torch.where(self.known, self.y, 0).long().to(x.device).expand(x.shape)


def following(
    known: KnownTokens | None,
    process: JumpProcess,
    x: Tensor,
    new: Tensor,
    t: Tensor,
    s: Tensor,
    noise: NoiseSource,
    number: int,
) -> Tensor:
    """The states after a step: ``known.step``, or the new states if no tokens are known.

    Args:
        known: Known tokens, or None.
        process: The process.
        x: States at t, ``(B, *event)``.
        new: States at s, ``(B, *event)``.
        t: Times, ``()`` or ``(B,)``.
        s: Earlier times, ``()`` or ``(B,)``.
        noise: Source of the random numbers.
        number: Number of the step, part of the key.

    Returns:
        The states at s, ``(B, *event)``.
    """
    return new if known is None else known.step(process, x, new, t, s, noise, number)
