"""How the likelihood of a model of a product process is computed: the bound of ``bounds.py`` with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde._validation import check_count, check_number
from scoresde.noise import NoiseSource
from scoresde.product.bounds import ProductBound, product_bound
from scoresde.product.process import ProductProcess


@dataclass(frozen=True)
class ProductLikelihood:
    """How the lower bound of log p(x) of rows with real and categorical coordinates is computed.

    Args:
        t_min: Time of the decoder, in (0, T).
        draws: Number of times that a replicate evaluates, apart from the decoder.
        replicates: Number of repetitions of the whole estimate. Two or more give a standard error for each event.

    Example:
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> from scoresde.product import LabeledMixture, ProductLikelihood, ProductProcess
        >>> mixture = LabeledMixture([[-1.0], [1.0]], [0.3, 0.3], [[0], [1]])
        >>> process = ProductProcess(VPSDE(), [None, Absorbing(2)])
        >>> ProductLikelihood(draws=8)(process, mixture.model(process), mixture.sample(4)).nfe
        18
    """

    t_min: float = 1e-3
    draws: int = 32
    replicates: int = 2

    def __post_init__(self) -> None:
        check_number("t_min", self.t_min, above=0.0)
        check_count("draws", self.draws)
        check_count("replicates", self.replicates)

    @property
    def summary(self) -> str:
        """The settings in one line."""
        return repr(self)

    def __call__(
        self,
        process: ProductProcess,
        model: Callable[..., Tensor],
        x: Tensor,
        *,
        seed: int = 0,
        noise: NoiseSource | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> ProductBound:
        """Lower bounds of log p(x).

        Args:
            process: The process of the model.
            model: The model, (x, t) -> the packed output.
            x: Data, (B, d).
            seed: Seed of the random draws.
            noise: Replaces ``seed``.
            condition: Conditions of the model by name, with one row for each sample.

        Returns:
            The bounds, as of ``product_bound``.
        """
        return product_bound(
            process, model, x, t_min=self.t_min, draws=self.draws, replicates=self.replicates, seed=seed, noise=noise,
            condition=condition,
        )  # fmt: skip
