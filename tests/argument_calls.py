"""Wrong calls of every public class and function: a valid call with one argument at a time replaced.

The outcome of a wrong call is

    clear       TypeError, ValueError or FloatingPointError whose message names the parameter (or the missing file)
    obscure     another exception, a message that does not name the parameter, or a hang
    accepted    no exception

A value that is wrong for most parameters may be right for others: ``ALLOWED`` lists these, each with its reason.
``benchmarks/fuzz_arguments.py`` prints the counts.
"""

from __future__ import annotations

import inspect
import random
import re
import signal
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np
import torch

from tests.argument_recipes import NOT_CALLED, RECORDS, public, recipe


class Stranger:
    """A class that no parameter accepts."""

    def __repr__(self) -> str:
        return "Stranger()"


KINDS: dict[str, Any] = {
    "None": None,
    "word": "nonsense",
    "True": True,
    "one": 1,
    "half": 0.5,
    "list": [],
    "object": Stranger(),
    "class": Stranger,
    "scalar tensor": torch.tensor(1.0),
    "array": np.ones(2),
    "dict": {"a": 1},
    "complex": 1 + 2j,
    "no arguments": lambda: None,
}
VALUES: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-1": -1,
    "0": 0,
    "1e40": 1e40,
    "10**30": 10**30,
    "1e-40": 1e-40,
    "empty word": "",
    "empty tuple": (),
    "negative tuple": (-1, 2),
    "empty tensor": torch.empty(0),
    "strange shape": torch.ones(7, 5, 3),
    "nan tensor": torch.full((4, 2), float("nan")),
    "complex tensor": torch.ones(4, 2, dtype=torch.complex64),
    "whole tensor": torch.ones(4, 2, dtype=torch.int64),
}
WRONG = KINDS | VALUES


@dataclass(frozen=True)
class Allowed:
    """Values that are right for some parameters: patterns for the names of call and parameter, labels of WRONG, a reason."""

    call: str
    parameters: str
    values: str
    reason: str

    def covers(self, call: str, parameter: str, value: str) -> bool:
        """Whether this is one of its values."""
        return (
            any(fnmatchcase(call, pattern) for pattern in self.call.split())
            and any(fnmatchcase(parameter, pattern) for pattern in self.parameters.split())
            and value in [v.strip() for v in self.values.split(",")]
        )


TENSORS = "scalar tensor, empty tensor, strange shape, nan tensor, whole tensor"
ALLOWED = (
    Allowed("*", "seed split_seed first epoch", "0", "the first of all seeds, samples and epochs"),
    Allowed("*", "event_shape", "list, empty tuple", "an event may be a single number"),
    Allowed("*", "low high lowest highest shift log_snr_max log_snr_min", "0, -1", "any real number"),
    Allowed("data.*", "shift scale low high", "1e40, 1e-40", "the data's own units: checked together with the data"),
    Allowed("*", "eta dropout classes groups search", "0", "none of it"),
    Allowed("*", "name label plain process hint", "word, empty word", "a free name"),
    Allowed("*", "t_min", "0", "t = 0 itself, where the process is defined there; others refuse it"),
    Allowed("data.*", "folder train test file", "word, empty word", "a path, read at the first access to an event"),
    Allowed("data.* distributions.*", "raw data means stds train test", "scalar tensor, strange shape, whole tensor",
            "any real numbers, of any event shape"),
    Allowed("data.*", "levels", "0", "data of real numbers"),
    Allowed("data.dataset.permutation", "n", "0", "of nothing"),
    Allowed("data.distances.largest_distance", "x", "strange shape", "events of any shape"),
    Allowed("score.denoising.DenoisingErrors", "samples", "0", "exact values"),
    Allowed("losses.importance.ImportanceTimes", "uniform", "0", "nothing is shared equally"),
    Allowed("jump.importance.AdaptiveTimes", "uniform", "0", "nothing is shared equally"),
    Allowed("score.data_variance.GaussianVariance", "std", "0", "data at a point"),
    Allowed("distributions.*", "std stds", "0", "a point mass: a density for t > 0 only, see log_prob"),
    Allowed("ema.gathered", "value", TENSORS, "any tensor"),
    Allowed("ema.EMA", "decay", "0", "the last weights"),
    Allowed("noise_distributions.*", "std k theta", "scalar tensor", "one number for all samples"),
    Allowed("noise_distributions.mixture.NormalMixture", "weights", "array", "numbers of any kind"),
    Allowed("product.mixture.LabeledMixture", "stds weights", "array", "numbers of any kind"),
    Allowed("likelihood.bits.*", "log_prob standard_error", "scalar tensor", "of a mean"),
    Allowed("likelihood.dequantization.importance_weighted_bound", "levels", "whole tensor", "levels are whole numbers"),
    Allowed("likelihood.grid.FlowGrid", "spread", "list, empty tuple", "not known"),
    Allowed("likelihood.grid.*", "center", "list, empty tuple, negative tuple", "any numbers; none for zero"),
    Allowed("metrics.*", "x y samples data train test", "whole tensor", "whole numbers are numbers"),
    Allowed("metrics.extractors.TorchScript", "options", "dict", "any options"),
    Allowed("metrics.extractors.TorchScript data.vocabularies.TokenizerFile", "sha256", "empty word", "any file"),
    Allowed("metrics.texts.markov_bits", "order", "0", "no bytes before each one"),
    Allowed("data.text.TextFile", "cache", "word, empty word", "a folder, or none"),
    Allowed("data.text.TextFile", "test", "list, empty tuple", "the end of the training text"),
    Allowed("networks.*", "attention", "list, empty tuple", "attention at no resolution"),
    Allowed("networks.*", "features", "0", "no learned features"),
    Allowed("loggers.*", "tags", "list, empty tuple", "no tags"),
    Allowed("loggers.*", "project entity space", "word", "a free name"),
    Allowed("data.columns.*", "column", "word", "a free name"),
    Allowed("data.packaged.PhotoPatches", "stride", "0", "the side of a patch"),
    Allowed("guidance.* jump.guidance.*", "weight", "0, -1", "any number"),
    Allowed("guidance.*", "noise_std", "0", "no noise"),
    Allowed("guidance.*", "noise_std", "scalar tensor", "one number for all entries"),
    Allowed("guidance.* jump.guidance.*", "score unconditional", "no arguments", "only whether it can be called is checked"),
    Allowed("guidance.* jump.guidance.*", "target", "scalar tensor, strange shape, whole tensor, 0, -1", "checked at the call"),
    Allowed("guidance.*", "measurement", "strange shape, whole tensor", "compared with the operator, at the call"),
    Allowed("interop.*", "schedule scheduler", "no arguments", "an object of another library"),
    Allowed("likelihood.classification.classify", "classes", "negative tuple", "values of a condition of any kind"),
    Allowed("losses.target.TargetLikelihood", "target", "word", "a free name"),
    Allowed("score.energy.ProductOfExperts", "weights", "negative tuple", "a negative weight divides by a density"),
    Allowed("score.features.*", "t", "0, scalar tensor", "clean data, and one time for all samples"),
    Allowed("networks.*", "input_range kernel", "negative tuple", "(-1, 2) is a range, and a filter with a sum > 0"),
    Allowed("samplers.adaptive.adaptive_sde.AdaptiveSDE", "relative", "0", "the absolute tolerance alone"),
    Allowed("tasks.editing.* tasks.encoding.*", "guide x", "strange shape", "events of any shape; the score says which"),
    Allowed("networks.improved_unet.ImprovedUNet", "decoder_heads head_channels", "0", "of another argument"),
    Allowed("tasks.restoration.*", "noise_std", "0", "no noise"),
    Allowed("tasks.restoration.*", "y", "strange shape", "events of any shape; the score or known says which"),
    Allowed("tasks.restoration.colorize", "weights", "negative tuple", "numbers for two channels; the score has three"),
    Allowed("samplers.*", "fingerprint", "negative tuple", "any numbers"),
    Allowed("schedules.*", "fingerprint", "negative tuple", "any numbers"),
    Allowed("samplers.fitted.sampler.FittedMultistep", "mean", "scalar tensor, strange shape", "of an event of any shape"),
    Allowed("samplers.fitted.pilot.Pilot", "ends", "nan tensor", "a path may fail, and has an infinite distance then"),
    Allowed("samplers.exponential.parameterization.*", "u t", TENSORS, "functions of each element"),
    Allowed("samplers.checks.report.check", "order", "0", "none is claimed"),
    Allowed("samplers.exponential.churn.Churn", "amount low", "0", "none, and from the start"),
    Allowed("samplers.exponential.churn.Churn", "high", "inf", "to the end"),
    Allowed("conditions.Classes data.tokens.Tokens", "names", "list, empty tuple", "no names"),
    Allowed("conditions.*", "condition", "dict", "conditions of any name"),
    Allowed("conditions.rows_of", "index", TENSORS, "a score without conditions has no rows"),
    Allowed("data.degraded.Degraded", "measurement", "word", "a free name"),
    Allowed("samplers.hooks.KeepKnown", "known", "scalar tensor, whole tensor", "one value for all entries; 0 and 1"),
    Allowed("operators.compression.JPEG", "low high", "1e40, 1e-40", "in units of the data"),
    Allowed("operators.*", "known matrix", "array, strange shape, whole tensor", "numbers of any kind; events say which shape"),
    Allowed("operators.pixels.Grayscale", "weights", "negative tuple", "any numbers"),
    Allowed("data.table.* data.torch_data.TorchDataset", "condition columns categories", "list, empty tuple", "none, or all"),
    Allowed("data.torch_data.TorchDataset", "event", "word, empty word", "a key of dictionaries; these items are none"),
    Allowed("score.predictions.like", "x output", "nan tensor, whole tensor", "shapes are compared, values are the network's"),
    Allowed("sde.base.check_same_process conditions.*", "score", "no arguments", "only whether it can be called is checked"),
    Allowed("sde.processes.cosine.CosineVPSDE", "s", "0", "the paper's schedule without its offset"),
    Allowed("sde.linalg.kernel.* sde.linalg.maps.*", "a std m c before after", TENSORS,
            "coefficients that a process computed, of any batch shape: a look at them would stop an accelerator's work"),
    Allowed("sde.processes.matrix.MatrixSDE", "aux_std", "list, empty tuple", "one component has no others"),
    Allowed("sde.processes.matrix.MatrixSDE", "data_component", "0", "the first"),
    Allowed("sde.processes.shifted.Shifted", "mean", "scalar tensor, strange shape", "of an event of any shape"),
    Allowed("jump.*", "auxiliary", "0", "the bound alone"),
    Allowed("jump.*", "x y drawn", "whole tensor", "tokens are whole numbers"),
    Allowed("jump.confidences.*", "log_p", "nan tensor, whole tensor, strange shape", "the sampler checks them"),
    Allowed("jump.unmasking.*", "randomness cap", "0", "none of it"),
    Allowed("score.subspace.SubspaceScore", "complement_std", "scalar tensor, 0", "one number for all directions, and none"),
)  # fmt: skip


def hints(thing: Any) -> dict[str, Any]:
    """Annotations of the parameters, resolved."""
    return typing.get_type_hints(thing.__init__ if inspect.isclass(thing) else thing)


def right_kind(annotation: Any, label: str) -> bool:
    """Whether the annotation allows the kind of the value, and any value of this kind is right."""
    kinds = typing.get_args(annotation) or (annotation,)
    if label == "None":
        return type(None) in kinds or annotation in (None, Any, object)
    if label == "True":
        return bool in kinds
    if label in ("one", "half"):
        return float in kinds or (label == "one" and int in kinds)
    return False


def right(call: str, parameter: str, annotation: Any, label: str) -> bool:
    """Whether the value called ``label`` is right."""
    if call in RECORDS and (label in VALUES or label in ("list", "scalar tensor", "dict", "word")):
        return True  # a value that a function found; if of another kind than the parameter's, it may not be obscure
    return right_kind(annotation, label) or any(a.covers(call, parameter, label) for a in ALLOWED)


@dataclass(frozen=True)
class Case:
    """A call with one argument replaced."""

    call: str
    parameter: str
    label: str
    right: bool

    def __str__(self) -> str:
        return f"{self.call}({self.parameter}={self.label})"


@cache
def cases() -> tuple[Case, ...]:
    """Every wrong call, in a fixed order."""
    return tuple(_cases())


def _cases() -> Iterator[Case]:
    for name, thing in public().items():
        if name in NOT_CALLED or inspect.isabstract(thing):
            continue
        known = hints(thing)
        for parameter in inspect.signature(thing).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            for label in WRONG:
                yield Case(name, parameter.name, label, right(name, parameter.name, known.get(parameter.name), label))


@cache
def some(each: int, seed: int = 0) -> list[Case]:
    """``each`` wrong calls for every parameter, drawn with ``seed``."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases():
        if not case.right:
            groups.setdefault((case.call, case.parameter), []).append(case)
    draw = random.Random(seed)
    return [case for group in groups.values() for case in draw.sample(group, min(each, len(group)))]


ALIASES = {
    ("data.dataset.Dataset", "raw"): "data set 'data'",
    ("tasks.restoration.colorize", "weights"): "x has shape",
    ("tasks.restoration.super_resolve", "y"): "x has shape",
}
"""Parameters that a message calls by another name: one that the user gave too, or the samples x, whose shape they decide."""


def named(call: str, parameter: str, message: str) -> bool:
    """Whether the message names the parameter. A name as short as an English word must appear as a name."""
    if ALIASES.get((call, parameter), "\n") in message:
        return True
    tail = r"(=| is a| is on| is not| has | holds |\[| of shape )" if len(parameter) <= 2 else r"\b"
    return re.search(rf"(?<![\w.]){re.escape(parameter)}{tail}", message) is not None


def outcome(case: Case, limit: float = 5.0) -> tuple[str, str]:
    """("clear", "obscure" or "accepted", what was said) of a wrong call."""
    thing = public()[case.call]
    given = {**recipe(case.call, thing), case.parameter: WRONG[case.label]}
    try:
        with _within(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thing(**given)
    except (TypeError, ValueError, FloatingPointError, FileNotFoundError) as problem:
        said = str(problem)
        clear = named(case.call, case.parameter, said) or (
            isinstance(problem, FileNotFoundError) and "nonsense" in said
        )
        return "clear" if clear and len(said) < 500 else "obscure", f"{type(problem).__name__}: {said}"
    except Exception as problem:
        return "obscure", f"{type(problem).__name__}: {problem}"
    return "accepted", ""


class _within:
    """Raises TimeoutError after a number of seconds of processor time, independent of the load of the machine."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        self.before: Any = signal.signal(signal.SIGVTALRM, self._stop)
        signal.setitimer(signal.ITIMER_VIRTUAL, self.seconds)

    def __exit__(self, *problem: object) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, self.before)

    @staticmethod
    def _stop(*_: object) -> None:
        raise TimeoutError("still running")


def count(chosen: list[Case], look: Callable[[Case, str, str], None] | None = None) -> dict[str, int]:
    """The number of calls of each outcome. A right value that is accepted is not counted."""
    found = {"calls": 0, "clear": 0, "obscure": 0, "accepted": 0}
    for case in chosen:
        kind, said = outcome(case)
        if case.right and kind != "obscure":
            continue
        found["calls"] += 1
        found[kind] += 1
        if look is not None:
            look(case, kind, said)
    return found
