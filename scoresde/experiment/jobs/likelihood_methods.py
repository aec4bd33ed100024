"""What computes the rows of a likelihood: the probability flow, the bound of a chain, or the bound of a jump process.

    FlowMethod     log_likelihood      the log-density of an SDE, by a solver
    ChainMethod    FittedBound         the variational bound of an SDE, by a chain that was fitted to the model
    ReverseMethod  JumpLikelihood      the variational bound of a jump process
                   ProductLikelihood   the variational bound of a product process

A method knows its settings, which identify rows, and everything about its results that others do not have.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from scoresde.data import Dataset, LevelMiddles, Quantized
from scoresde.experiment.config.builder import config_errors
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import family_of, reverse_likelihood
from scoresde.experiment.config.sections import LikelihoodConfig, Solver
from scoresde.experiment.config.targets import as_score
from scoresde.experiment.folder.workdir import Workdir
from scoresde.experiment.jobs.fits import fitted_bound, fitted_grid, flow_start
from scoresde.experiment.results.likelihood_summary import BIAS_EVENTS, LEVEL_BOUND, Number, biases
from scoresde.jump import JumpBound, JumpLikelihood, JumpModel
from scoresde.likelihood import Multistep, log_likelihood
from scoresde.likelihood.flow import default_solver
from scoresde.noise import NoiseSource
from scoresde.product import ProductBound, ProductLikelihood, ProductModel
from scoresde.schedules import FittedBound
from scoresde.score import ConditionalModel, ScoreModel
from scoresde.sde import ScalarSDE


@dataclass(frozen=True)
class Figures:
    """Results of a batch, (B,) each, in nats.

    Attributes:
        log_prob: log p(x), or a lower bound of it.
        standard_error: Standard error given x.
        draws_error: Its part from probes, or from the noise and the times of a bound.
        solver_error: Error estimate of the solver. NaN without one.
        failed: Which have no result.
        nfe: Evaluations of the model for the whole batch.
        products: Jacobian products for the whole batch.
    """

    log_prob: Tensor
    standard_error: Tensor
    draws_error: Tensor
    solver_error: Tensor
    failed: Tensor
    nfe: int
    products: int = 0

    @classmethod
    def of_bound(cls, log_prob: Tensor, standard_error: Tensor, nfe: int) -> Figures:
        """The figures of a bound, which has no solver."""
        failed, unknown = ~torch.isfinite(log_prob), torch.full_like(log_prob, math.nan)
        return cls(log_prob, standard_error, standard_error, unknown, failed, nfe)


class Method(ABC):
    """Base class of what computes rows."""

    suffix: ClassVar[str] = "-bound"
    """What follows the split in the names of the table and the summary."""
    known: ClassVar[str] = "noise and steps"
    """What makes ``draws_error``."""
    dequantizes: ClassVar[bool] = True
    """Whether draws of an event differ in its dequantization."""
    probes: Any = None
    tolerance: float | None = None

    model: ConditionalModel

    @property
    @abstractmethod
    def text(self) -> str:
        """The method in one line."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What rows depend on."""

    @abstractmethod
    def compute(self, x: Tensor, noise: NoiseSource, condition: Mapping[str, Tensor] | None) -> Figures:
        """The results of a batch x (B, *event). Raises SolverError if a solver fails."""

    @abstractmethod
    def bounds(self, data: Dataset) -> list[str]:
        """What makes the result a bound, apart from dequantization."""

    def biases(self, data: Dataset, count: int, device: torch.device) -> dict[str, Number]:
        """The known biases at the first ``count`` events, see `biases`."""
        return {}


@dataclass(frozen=True)
class FlowMethod(Method):
    """The likelihood of the probability flow."""

    suffix: ClassVar[str] = ""
    known: ClassVar[str] = "trace"

    model: ScoreModel
    solver: Solver
    config: LikelihoodConfig
    transform: Any

    @property
    def text(self) -> str:
        return str(getattr(self.solver, "summary", None) or repr(self.solver))

    @property
    def probes(self) -> Any:
        return self.config.divergence.products or "exact"

    @property
    def tolerance(self) -> float | None:  # type: ignore[override]
        found: float | None = getattr(self.solver, "tolerance", getattr(self.solver, "rtol", None))
        return found

    @property
    def settings(self) -> dict[str, Any]:
        grid = getattr(self.solver, "grid", None) if isinstance(self.solver, Multistep) else None
        return {
            "solver": self.text, "grid digest": "none" if grid is None else _digest(grid.to_json()),
            "divergence": repr(self.config.divergence),
        }  # fmt: skip

    def compute(self, x: Tensor, noise: NoiseSource, condition: Mapping[str, Tensor] | None) -> Figures:
        x, log_weight = flow_start(self.model.sde, x, self.transform, self.config.t_min, noise)
        found = log_likelihood(
            self.model.sde, self.model, x, solver=self.solver, divergence=self.config.divergence, t_min=self.config.t_min,
            noise=noise, condition=condition,
        )  # fmt: skip
        log_prob = found.log_prob if log_weight is None else found.log_prob + log_weight
        return Figures(
            log_prob, found.standard_error, found.trace_error, found.solver_error,
            found.failed | ~torch.isfinite(found.log_prob), found.nfe, found.vjps,
        )  # fmt: skip

    def bounds(self, data: Dataset) -> list[str]:
        found = [LEVEL_BOUND] if isinstance(self.transform, LevelMiddles) else []
        if self.model.sde.state_shape(data.event_shape) != data.event_shape:
            found.append("sampled auxiliary variables of the state")
        return found

    def biases(self, data: Dataset, count: int, device: torch.device) -> dict[str, Number]:
        config = self.config
        return biases(
            self.model, data, count=min(BIAS_EVENTS, count), t_min=config.t_min, seed=config.seed, device=device,
            batch_size=config.batch_size, conditional=config.condition == "data",
        )  # fmt: skip


@dataclass(frozen=True)
class ChainMethod(Method):
    """The variational bound of a chain that was fitted to the model."""

    model: ScoreModel
    bound: FittedBound
    transform: Any

    @property
    def text(self) -> str:
        return str(getattr(self.bound, "summary", None) or repr(self.bound))

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "solver": self.text, "grid digest": _digest(self.bound.to_json()), "divergence": "none",
            "method": repr(self.bound.method),
        }  # fmt: skip

    def compute(self, x: Tensor, noise: NoiseSource, condition: Mapping[str, Tensor] | None) -> Figures:
        sde, transform = self.model.sde, self.transform
        assert isinstance(sde, ScalarSDE)  # checked with the config
        middles = transform if isinstance(transform, Quantized) and not transform.dequantized else None
        found = self.bound(sde, self.model, x, transform=middles, noise=noise, condition=condition or None)
        return Figures.of_bound(found.log_prob, found.standard_error, found.nfe)

    def bounds(self, data: Dataset) -> list[str]:
        return ["a chain"]


@dataclass(frozen=True)
class ReverseMethod(Method):
    """The variational bound of a jump process or a product process.

    ``reverse`` is the process in words.
    """

    known: ClassVar[str] = "noise and times"

    model: JumpModel | ProductModel
    method: JumpLikelihood | ProductLikelihood
    reverse: str

    @property
    def dequantizes(self) -> bool:  # type: ignore[override]
        return isinstance(self.model, ProductModel)

    @property
    def text(self) -> str:
        return self.method.summary

    @property
    def settings(self) -> dict[str, Any]:
        return {"solver": self.text, "grid digest": "none", "divergence": "none", "method": repr(self.method)}

    def compute(self, x: Tensor, noise: NoiseSource, condition: Mapping[str, Tensor] | None) -> Figures:
        bound: Callable[..., JumpBound | ProductBound] = self.method
        found = bound(self.model.process, self.model, x, noise=noise, condition=condition or None)
        return Figures.of_bound(found.log_prob, found.standard_error, found.nfe)

    def bounds(self, data: Dataset) -> list[str]:
        return [f"the reverse of {self.reverse}"]


def choose_method(
    experiment: Experiment, workdir: Workdir, model: ConditionalModel, data: Dataset, digest: str, device: torch.device
) -> Method:
    """The method of the section ``likelihood``. What it needs is fitted once for a checkpoint.

    Args:
        experiment: The experiment.
        workdir: The work folder.
        model: The trained model.
        data: The events.
        digest: The digest of the checkpoint.
        device: The device.
    """
    config, transform = experiment.likelihood, data.transform
    if isinstance(model, JumpModel | ProductModel):
        process = model.process
        return ReverseMethod(model, reverse_likelihood(process, config.method), family_of(process).text)
    score = as_score(model)
    if config.method is not None:
        return ChainMethod(score, fitted_bound(experiment, workdir, score, digest, device), transform)
    with config_errors("data"):  # data that is not dequantized needs a process with scalar coefficients
        noise = NoiseSource.of(0, 1, device=device)
        flow_start(score.sde, data.encode([0], seed=0).to(device), transform, config.t_min, noise)
    solver = config.solver or default_solver(score.sde, config.tolerance)
    if isinstance(solver, Multistep) and solver.grid is None and config.grid_events:
        solver = replace(solver, grid=fitted_grid(experiment, workdir, score, digest, device))
    return FlowMethod(score, solver, config, transform)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
