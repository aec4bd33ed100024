r"""Energies: scalar functions E(x, t) with p_t(x) proportional to exp(-E(x, t)), whose negative gradient is the score.

A network that returns the score directly need not be a gradient. The score of an energy always is: its Jacobian -d^2 E / dx^2 is
symmetric, line integrals do not depend on the path, and differences of the energy are log-density ratios, which the Metropolis
step of :class:`~scoresde.samplers.predictor_corrector.MALA` needs. The price is a backward pass for each evaluation of the
score, and a second one in training.

Any network for a ``ScoreModel`` gives an energy. Let x^ = x / sqrt(alpha^2 data_std^2 + sigma^2) be its input and n(x^, t) its
output, of the shape of x. Then

.. math::
    E(x, t) = \tfrac{1}{2} \| \hat x - n(\hat x, t) \|^2

Salimans & Ho (2021) found that energies of such forms are as good as free score networks of the same structure, and Du et al.
(2023, arXiv:2302.11552) use them for composition. ``benchmarks/energy.py`` compares this form with two others. With a network
that returns 0, as at the start of training, it is the energy of Gaussian data N(0, data_std^2 I) at every t. For data at a
single point x_0 the exact output is x^ - (x - alpha x_0) / sigma, which has the size of a noise prediction at every t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde._arguments import check_constructors
from scoresde._validation import shown
from scoresde.conditions import rows_of
from scoresde.score.labels import Label
from scoresde.score.model import ScoreModel
from scoresde.score.predictions import like
from scoresde.sde.base import SDE, check_same_process, process_of
from scoresde.sde.linalg.kernel import GaussianKernel
from scoresde.sde.scores import wide

__all__ = ["EnergyModel", "ProductOfExperts"]


class EnergyModel(ScoreModel):
    """A network as an energy: ``model.energy(x, t)``, and its negative gradient as the score ``model(x, t)``.

    It is a ``ScoreModel`` in all other respects: for samplers, likelihoods, losses, averages of weights and files. The score is
    conservative. It can be evaluated under ``torch.no_grad``, where it costs a forward and a backward pass and leaves no graph.
    Otherwise its graph leads to x and to the parameters, so the network must be twice differentiable.

    Args:
        network: A module that is called as ``network(input, label, **condition)`` and returns a tensor of the shape of x.
        sde: The process that the network is trained under, or a chain of one for discrete-time models.
        label: The input of the time embedding: by default ``LogNoiseLabel()``, or ``LogTimeLabel()`` for a process without a
            closed-form kernel.
        data_std: Standard deviation of the data around 0, which scales the network's input. With None the network receives x
            itself.

    Raises:
        TypeError, ValueError: See ``ScoreModel``.
        RuntimeError: When called in ``torch.inference_mode`` or within a transform of ``torch.func``, where the gradient is not
            available.

    References:
        Salimans & Ho 2021, "Should EBMs model the energy or the score?", ICLR workshop on energy-based models.
        Du et al. 2023, "Reduce, reuse, recycle: compositional generation with energy-based diffusion models and MCMC",
        arXiv:2302.11552.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.networks import MLP
        >>> model = EnergyModel(MLP((2,)), VPSDE())
        >>> x, t = torch.zeros(4, 2), torch.full((4,), 0.5)
        >>> model.energy(x, t).shape, model(x, t).shape
        (torch.Size([4]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        network: nn.Module,
        sde: SDE,
        *,
        label: Label | None = None,
        data_std: float | None = 1.0,
    ) -> None:
        super().__init__(network, sde, "score", label=label, data_std=data_std)

    def energy(self, x: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Computes the energy, which is -log p_t(x) up to a constant for each t and condition.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).
            **condition: Conditions of the network by name. A tensor has one row per sample, or no dimension.

        Returns:
            The energy in nats, (B,), not negative.
        """
        _, kernel, output, x = super()._evaluated(x, t, condition)
        return self._energy(kernel, output, x)

    def _evaluated(
        self, x: Tensor, t: Tensor, condition: dict[str, Any], kernel: GaussianKernel | None = None
    ) -> tuple[SDE, GaussianKernel, Tensor, Tensor]:
        """The arguments of a ``Prediction``, with the score -grad E in place of the network's output."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "the score of an EnergyModel is a gradient: use torch.no_grad() in place of inference_mode()"
            )
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "the score of an EnergyModel cannot be transformed by torch.func, as a divergence with forward=True does: "
                "use forward=False"
            )
        graph = torch.is_grad_enabled()  # fused attention kernels have no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if graph else nullcontext():
            at = x if graph and x.requires_grad else x.detach().requires_grad_(True)
            sde, kernel, output, high = super()._evaluated(at, t, condition, kernel)
            (slope,) = torch.autograd.grad(self._energy(kernel, output, high).sum(), at, create_graph=graph)
        return sde, kernel, -wide(slope), wide(x)

    def _energy(self, kernel: GaussianKernel, output: Tensor, x: Tensor) -> Tensor:
        """Half of the squared distance between the network's input and output, (B,)."""
        scaled = x if self.data_std is None else kernel.standardized(x, self.data_std)
        return 0.5 * (scaled - like(x, output)).square().reshape(len(x), -1).sum(1)


@dataclass(frozen=True)
class ProductOfExperts:
    """The product of densities p_1^w_1 p_2^w_2 ... up to a factor: the weighted sum of their energies and of their scores.

    Its density at t is the product of the experts' densities at t. This is not the density of x_t for data from the product of
    the experts' data distributions, except for t -> 0. So a predictor alone is biased. Steps at each time correct it:
    ``PredictorCorrector(ReverseDiffusion(), MALA())`` (Du et al. 2023).

    Args:
        experts: Scores (x, t). Those that have a method ``energy(x, t)`` give the product an energy.
        weights: A weight for each expert, 1 by default. A negative weight divides by its density.

    References:
        Hinton 2002, "Training products of experts by minimizing contrastive divergence".
        Du et al. 2023, arXiv:2302.11552.

    Example:
        >>> import torch
        >>> from scoresde import GaussianMixture, VPSDE
        >>> left, right = (GaussianMixture([[mean]], 0.5).score(VPSDE()) for mean in (-1.0, 1.0))
        >>> x, t = torch.zeros(3, 1), torch.full((3,), 0.5)
        >>> ProductOfExperts((left, right))(x, t).flatten().tolist()
        [0.0, 0.0, 0.0]
    """

    experts: Sequence[Callable[[Tensor, Tensor], Tensor]]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if len(self.experts) == 0:
            raise ValueError("experts is empty: give at least one score")
        if self.weights is not None and len(self.weights) != len(self.experts):
            raise ValueError(
                f"weights has {len(self.weights)} entries for {len(self.experts)} experts: give one for each"
            )
        for expert in self.experts:
            if self.sde is not None:
                check_same_process(self.sde, expert)

    @property
    def sde(self) -> SDE | None:
        """The process of the experts, or None if all are plain functions."""
        return next((sde for sde in map(process_of, self.experts) if sde is not None), None)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self._sum([expert(x, t) for expert in self.experts])

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        """The weighted sum of the energies.

        Args:
            x: The states, (B, *event).
            t: The times, (B,).

        Returns:
            The energy in nats, up to a constant for each t, (B,).
        """
        energies = [getattr(expert, "energy", None) for expert in self.experts]
        for k, energy in enumerate(energies):
            if energy is None:
                raise TypeError(
                    f"experts[{k}]={shown(self.experts[k])} has no energy(x, t): give an EnergyModel or mixture.score(sde)"
                )
        return self._sum([energy(x, t) for energy in energies if energy is not None])

    def select_rows(self, index: Tensor) -> ProductOfExperts:
        """The product for some of the samples of a batch.

        Args:
            index: Indices of the samples, (n,).

        Returns:
            The product of the experts with the conditions of these samples.
        """
        return ProductOfExperts([rows_of(expert, index) for expert in self.experts], self.weights)

    def _sum(self, values: list[Tensor]) -> Tensor:
        weights = self.weights or [1.0] * len(values)
        return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)


def energy_and_gradient(energy: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """An energy and its gradient, without a graph.

    Args:
        energy: A function (x, t) -> (B,) that is differentiable in x by autograd.
        x: The states, (B, *event).
        t: The times, (B,).

    Returns:
        The energy, (B,), and its gradient in x, with the shape of x.

    Raises:
        ValueError: The energy does not have the shape (B,), or has no graph to x.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = energy(x, t)
        if value.shape != x.shape[:1]:
            raise ValueError(f"energy returned shape {tuple(value.shape)} for a batch of {len(x)}: give ({len(x)},)")
        if not value.requires_grad:
            raise ValueError("energy has no graph to x (torch.no_grad, detach, NumPy?), so it has no gradient")
        (slope,) = torch.autograd.grad(value.sum(), x, materialize_grads=True)
    return value.detach(), slope


check_constructors(globals())
