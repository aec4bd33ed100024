"""Kinds of runs for benchmarks/faults.py and the tests: what is trained, as options of configs/vp/digits.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Args:
        name: Its name.
        options: Values of the config, in addition to those of `benchmarks.children.SMALL`.
        modules: Prefixes of the names of the modules that are trained, in a checkpoint.
        samples: Whether it has samples and likelihoods.
        bad: The class of ``benchmarks.bad_losses`` that has the run's objective with losses that are not finite.
        before: Called in every process before the command. Tests plant errors with it.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    modules: tuple[str, ...] = ("",)
    samples: bool = True
    bad: str = "Bad"
    before: Callable[[], None] | None = None

    def bad_steps(self, *steps: int) -> dict[str, object]:
        """Values of the config with which the losses of these steps are not finite."""
        return {"objective.name": f"benchmarks.bad_losses:{self.bad}", "objective.steps": str(steps)}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("score"),
        Kind("conditional model", {"data.labels": True, "training.condition_dropout": 0.3}),
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
    )
}  # fmt: skip
"""The kinds by name. "score" is the network of an unconditional score."""
