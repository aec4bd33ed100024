"""The section ``editing`` of a config: which files ``scoresde edit`` reads, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scoresde._validation import check_choice, check_count, check_number, shown
from scoresde.experiment.config.builder import ConfigError, build_section
from scoresde.experiment.config.limits import check_size
from scoresde.experiment.config.weight_names import DEFAULT, weights_name

STARTED = ("edit", "purify", "anomaly_map")
"""Tasks that add the noise of a time t to the inputs, and remove it."""
MEASURED = ("inpaint", "super_resolve", "colorize")
"""Tasks whose inputs are measurements."""
TASKS = (*STARTED, *MEASURED)
GUIDANCE: Mapping[str, Any] = {"name": "TweedieMoments"}
"""The guidance of measurements unless another is named, as in ``scoresde.tasks``."""
MOST = 2**16
"""Largest number of inputs, and of samples of an input: together they fit into the 32 bits of the key of a draw."""


@dataclass(frozen=True)
class EditingConfig:
    """The section ``editing`` of a config.

    Args:
        task: "edit", "purify", "anomaly_map", "inpaint", "super_resolve" or "colorize".
        input: Files, folders or patterns such as ``photos/*.png``.
        mask: For "inpaint": a picture that is white where pixels are known and black where they are missing, or a folder with
            such a picture for each input, with the same name. Empty if the inputs themselves say what is missing.
        output: Folder of the results. Empty for a folder in ``edits/`` of the work folder.
        samples: Number of samples for each input.
        sampler: Name of a sampler of the config. Empty for the only one.
        t: For "edit", "purify" and "anomaly_map": time of the noise that is added to the inputs, above 0 and below T.
        factor: For "super_resolve": the sides of the samples divided by those of the measurement. 0 if the inputs have the size
            of the measurement, which determines it.
        noise_std: For measurements: standard deviation of their noise, in units of the data (levels for pictures).
        guidance: For measurements: the node of a guidance by a measurement, without its score, operator and measurement.
            Empty for `GUIDANCE`.
        condition: Conditions of the samples, as in `SamplingConfig`, with the index of the input in place of the sample's.
        seed: Seed of the samples.
        batch_size: Samples that are drawn at a time. The samples do not depend on it.
        weights: As in `SamplingConfig`.
    """

    task: str = ""
    input: str | Sequence[str] = ()
    mask: str = ""
    output: str = ""
    samples: int = 4
    sampler: str = ""
    t: float | None = None
    factor: int = 0
    noise_std: float = 0.0
    guidance: Mapping[str, Any] = field(default_factory=dict)
    condition: str | Mapping[str, Any] = "ignore"
    seed: int = 0
    batch_size: int = 64
    weights: str | float = DEFAULT

    def __post_init__(self) -> None:
        if self.task:
            check_choice("task", self.task, TASKS)
        check_size("samples", self.samples, most=MOST)
        check_size("batch_size", self.batch_size)
        check_count("seed", self.seed, least=0)
        check_number("noise_std", self.noise_std, least=0.0)
        weights_name(self.weights)
        if self.t is not None:
            check_number("t", self.t, above=0.0)
        if self.factor != 0:
            check_count("factor", self.factor, least=2)
        self._check_unused()

    def _check_unused(self) -> None:
        """Raise ValueError for an argument that the task does not use."""
        used: dict[str, tuple[str, ...]] = {
            "mask": ("inpaint",), "t": STARTED, "factor": ("super_resolve",), "noise_std": MEASURED, "guidance": MEASURED,
        }  # fmt: skip
        for name, tasks in used.items():
            value = getattr(self, name)
            if value and self.task and self.task not in tasks:
                raise ValueError(
                    f"{name}={shown(value)} is not allowed for the task {self.task!r}: it is for {', '.join(tasks)}"
                )

    @property
    def files(self) -> tuple[str, ...]:
        """The files, folders and patterns of ``input``."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


def build_editing(node: Mapping[str, Any]) -> EditingConfig:
    """Build the section. Its guidance is built later, when the measurements are known. Raises ConfigError."""
    given = dict(node)
    guidance = given.pop("guidance", {})
    if not isinstance(guidance, Mapping) or (guidance and "name" not in guidance):
        raise ConfigError(
            f"config.editing.guidance={shown(guidance)} is not allowed: give a node, {{'name': {GUIDANCE['name']!r}, arguments}}"
        )
    return build_section(EditingConfig, given, "editing", guidance=guidance)
