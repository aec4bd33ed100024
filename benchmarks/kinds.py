"""Kinds of runs for benchmarks/faults.py and the tests: what is trained, as options of configs/vp/digits.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn

from scoresde.networks import MLP


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Args:
        name: Its name.
        options: Values of the config, in addition to those of `benchmarks.children.SMALL`.
        modules: Prefixes of the names of the modules that are trained, in a checkpoint.
        samples: Whether it has samples and likelihoods by the samplers and solvers of the faults.
        bad: The class of ``benchmarks.bad_losses`` that has the run's objective with losses that are not finite.
        bad_schedule: The same for the objective of the schedule, if it has one.
        sampler: A sampler with two steps, as a node of a config.
        before: Called in every process before the command. Tests plant errors with it.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    modules: tuple[str, ...] = ("",)
    samples: bool = True
    bad: str = "Bad"
    bad_schedule: str = "BadSchedule"
    sampler: str = "{'name': 'DDIM', 'steps': 2}"
    before: Callable[[], None] | None = None

    def bad_steps(self, *steps: int) -> dict[str, object]:
        """Values of the config with which the losses of these steps are not finite."""
        return {"objective.name": f"benchmarks.bad_losses:{self.bad}", "objective.steps": str(steps)}


class DropoutMLP(nn.Module):
    """An MLP of 16 units with dropout of its input."""

    def __init__(self, event_shape: Sequence[int], outputs: int = 1, dropout: float = 0.1) -> None:
        super().__init__()
        self.event_shape, self.outputs = tuple(event_shape), outputs
        self.dropout, self.inner = nn.Dropout(dropout), MLP(event_shape, 16, 1, outputs=outputs)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return cast(Tensor, self.inner(self.dropout(x), label))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("score"),
        Kind("conditional model", {"data.labels": True, "training.condition_dropout": 0.3}),
        Kind(
            "classifier",
            {
                "data.labels": True, "network.name": "benchmarks.kinds:DropoutMLP", "network.channels": None,
                "network.blocks": None, "model": "{'name': 'Classifier', 'data_std': 0.75}",
                "objective.name": "TargetLikelihood", "objective.target": "label",
            },
            samples=False,
            bad="BadTargets",
        ),
        Kind(
            "process without a kernel",
            {
                "sde": {
                    "name": "NonlinearSDE", "f": {"name": "configs.nonlinear.quartic:drift"}, "steps": 30, "T": 3.0,
                    "g": {"name": "configs.nonlinear.quartic:diffusion"},
                    "prior": {"name": "configs.nonlinear.quartic:Stationary", "shape": (1, 8, 8)},
                },
                "model": "{'prediction': 'score'}", "objective.name": "SlicedScoreMatching",
                "samplers": "{'reverse': {'name': 'ReverseSDESampler', 'steps': 5, 'denoise': False}}",
            },
            samples=False,
            bad="BadSliced",
        ),
        Kind("energy", {"model": "{'name': 'EnergyModel', 'data_std': 0.75}"}),
        Kind(
            "process with parameters",
            {
                "sde": "{'name': 'LearnedSNRSDE', 'log_snr_max': 6.0, 'log_snr_min': -5.0, 'hidden': 8}",
                "objective.name": "DenoisingScoreMatching", "objective.weighting": "likelihood",
                "objectives": "{'schedule': {'name': 'ScheduleVariance'}}",
                "training.optimizers": "{'schedule': {'learning_rate': 0.01, 'every': 2}}",
            },
            modules=("network.", "sde."),
        ),
        Kind(
            "learned variance",
            {
                "sde": "{'name': 'CosineVPSDE'}",
                "model": "{'name': 'LearnedVarianceModel', 'prediction': 'noise', 'data_std': 0.75, 'steps': 4}",
                "objective.name": "HybridLoss", "objective.times": "{'name': 'ImportanceTimes', 'history': 2}",
            },
            bad="BadHybrid",
        ),
        Kind(
            "variational diffusion model",
            {
                "data": "{'name': 'WithoutDequantization', 'data': {'name': 'Digits'}}",
                "sde": "{'name': 'LearnedSNRSDE', 'log_snr_max': 6.0, 'log_snr_min': -5.0, 'hidden': 8, 'train_ends': True}",
                "network.input_features": "{'name': 'FourierFeatures', 'exponents': (3, 4)}",
                "objective.name": "VariationalDiffusionLoss",
                "objectives": "{'schedule': {'name': 'VariationalSchedule'}}",
                "training.optimizers": "{'schedule': {'learning_rate': 0.01, 'every': 2}}",
            },
            modules=("network.", "sde."),
            bad="BadBound",
            bad_schedule="BadEnds",
        ),
        Kind(
            "jump process",
            {
                "data": "{'name': 'AsTokens', 'data': {'name': 'Digits', 'labels': True}}", "sde": "None",
                "process": "{'name': 'Absorbing'}", "model": "{}", "training.condition_dropout": 0.3,
                "network.name": "TokenTransformer", "network.width": 16, "network.depth": 1, "network.heads": 2,
                "network.embedding_size": 16, "network.channels": None, "network.blocks": None,
                "network.dropout": 0.1, "objective.name": "ContinuousBound",
                "samplers": "{'pc': {'name': 'AncestralSampler', 'steps': 5}}",
            },
            bad="BadJumps",
            sampler="{'name': 'AncestralSampler', 'steps': 2}",
        ),
    )
}  # fmt: skip
"""The kinds by name. "score" is the network of an unconditional score."""

NOISES = {
    kind.name: kind
    for kind in (
        Kind(
            "gamma noise",
            {
                "sde": "{'name': 'NonGaussianSDE', 'sde': {'name': 'VPSDE'}, 'noise': {'name': 'GammaNoise', 'theta_0': 0.1}}",
                "model": "{'prediction': 'noise', 'data_std': 0.75}",
                "objective.name": "NoiseRegression", "objective.p": 1, "samplers": "{'a': {'name': 'Ancestral', 'steps': 3}}",
            },
        ),
        Kind(
            "heavy-tailed noise",
            {
                "sde": {
                    "name": "NonGaussianSDE", "sde": {"name": "VESDE", "sigma_min": 0.05, "sigma_max": 50.0},
                    "noise": {"name": "LevelNoise", "noise": {"name": "GeneralizedNormal", "beta": 1.0}},
                },
                "model": "{'prediction': 'noise', 'data_std': 0.75, 'steps': 20}",
                "objective.name": "DenoisingScoreMatching", "objective.weighting": "variance",
                "samplers": "{'a': {'name': 'Ancestral', 'steps': 3}}",
            },
        ),
    )
}  # fmt: skip
"""Kinds whose noise is not Gaussian. They differ from "score" in their draws only."""
