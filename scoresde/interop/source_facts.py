"""Settings that a network of score_sde_pytorch depends on, and the values that they may have.

All of these settings are required; this library has no defaults for them. Settings of training and sampling do not change
the network. If they are missing, those of ``default_cifar10_configs`` of the reference are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from scoresde.interop.errors import ConvertError
from scoresde.interop.source_defaults import DEFAULTS
from scoresde.interop.source_expressions import Unread

REFINENETS = {
    "ncsn": (1, 2, 2, 2),
    "ncsnv2_64": (1, 2, 2, 2),
    "ncsnv2_128": (1, 2, 2, 4, 4),
    "ncsnv2_256": (1, 2, 2, 2, 4, 4),
}
"""Channel multipliers of the stages of NCSN and NCSNv2, by the names of the reference."""
PROGRESSIVE = {"none": "none", "input_skip": "skip", "output_skip": "skip", "residual": "residual"}
_DEFAULT = DEFAULTS["default_cifar10_configs"]


@dataclass(frozen=True)
class Kind:
    """A condition on a value. good: whether a value is allowed. text: a description for messages."""

    good: Callable[[Any], bool]
    text: str


def one_of(*allowed: Any) -> Kind:
    """One of several values, with the same type."""
    listed = ", ".join(map(repr, allowed))
    return Kind(lambda v: any(type(v) is type(a) and v == a for a in allowed), listed)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


FLAG = one_of(True, False)
COUNT = Kind(_is_count, "a whole number >= 1")
NUMBER = Kind(_is_number, "a finite number")
COUNTS = Kind(
    lambda v: isinstance(v, Sequence) and not isinstance(v, str) and all(map(_is_count, v)), "a list of whole numbers"
)
TAPS = Kind(
    lambda v: isinstance(v, Sequence) and not isinstance(v, str) and all(map(_is_number, v)), "a list of numbers"
)
_ALWAYS = {
    "model.name": one_of("ncsnpp", "ddpm", *REFINENETS),
    "model.nonlinearity": one_of("swish", "relu", "elu", "lrelu"),
    "model.nf": COUNT,
    "model.num_scales": COUNT,
    "model.scale_by_sigma": FLAG,
    "data.image_size": COUNT,
    "data.num_channels": COUNT,
    "data.centered": FLAG,
    "training.sde": one_of("vpsde", "subvpsde", "vesde"),
    "training.continuous": FLAG,
}
_UNET = {
    "model.ch_mult": COUNTS,
    "model.num_res_blocks": COUNT,
    "model.attn_resolutions": COUNTS,
    "model.resamp_with_conv": FLAG,
    "model.conditional": FLAG,
}
_NCSNPP = {
    "model.embedding_type": one_of("fourier", "positional"),
    "model.fir": FLAG,
    "model.skip_rescale": FLAG,
    "model.resblock_type": one_of("ddpm", "biggan"),
    "model.progressive": one_of("none", "output_skip", "residual"),
    "model.progressive_input": one_of("none", "input_skip", "residual"),
}
_ONLY = {
    "model.attention_type": one_of("ddpm"),
    "model.conv_size": one_of(3),
    "model.interpolation": one_of("bilinear"),
    "optim.optimizer": one_of("Adam"),
    "optim.weight_decay": one_of(0, 0.0),
    "optim.amsgrad": one_of(False),
    "optim.beta1": one_of(0.9),
    "optim.eps": one_of(1e-8),
}
"""Settings that may be missing and otherwise must have this value."""
_FREE = {
    "model.dropout", "model.ema_rate", "model.init_scale", "model.fourier_scale", "model.embedding_type", "model.sigma_begin",
    "model.normalization", "model.fir_kernel", "model.progressive_combine", "model.sigma_min", "model.sigma_max",
    "model.beta_min", "model.beta_max", *_ALWAYS, *_UNET, *_NCSNPP, *_ONLY,
}  # fmt: skip
"""All settings of the model in the reference."""


class Facts:
    """The settings of a config by dotted key.

    Attributes:
        notes: Settings that were missing in the config, for the summary of a conversion.
    """

    def __init__(self, settings: Mapping[str, Any], name: str) -> None:
        self.settings, self.name, self.notes = settings, name, []  # type: tuple[Mapping[str, Any], str, list[str]]
        self._check()

    def __getitem__(self, key: str) -> Any:
        value = self._find(key)
        if value is None:
            raise KeyError(key)
        return value

    def usual(self, key: str, kind: Kind, default: Any = None) -> Any:
        """A setting that does not change the network. If it is missing, the default of the reference."""
        value = self._find(key)
        if value is None:
            section, _, last = key.partition(".")
            value = _DEFAULT.get(section, {}).get(last, default)
            self.notes.append(f"{key}={value!r}")
        if not kind.good(value):
            raise ConvertError(f"{self.name}: {self._wrong(key, value, kind)}")
        return value

    def _find(self, key: str) -> Any:
        section, _, last = key.partition(".")
        node = self.settings.get(section)
        return node.get(last) if isinstance(node, Mapping) else None

    def _check(self) -> None:
        """Raise ConvertError with the names of all settings that are missing or not allowed."""
        wanted = dict(_ALWAYS)
        name = self._find("model.name")
        if name in ("ddpm", "ncsnpp"):
            wanted |= _UNET | {"model.dropout": NUMBER}
        if name == "ncsnpp":
            wanted |= _NCSNPP
            if self._find("model.fir"):
                wanted["model.fir_kernel"] = TAPS
            if self._find("model.progressive_input") == "input_skip":
                wanted["model.progressive_combine"] = one_of("sum", "cat")
        process = {"vesde": "sigma", "vpsde": "beta", "subvpsde": "beta"}.get(str(self._find("training.sde")))
        wanted |= {f"model.{process}_{end}": NUMBER for end in ("min", "max") if process}
        norm = one_of("InstanceNorm++") if name in REFINENETS else one_of("GroupNorm")
        allowed = {"model.normalization": norm, **_ONLY}
        problems = [self._wrong(k, self._find(k), kind) for k, kind in wanted.items() if not kind.good(self._find(k))]
        problems += [
            self._wrong(key, value, kind) for key, kind in allowed.items()
            if (value := self._find(key)) is not None and not kind.good(value)
        ]  # fmt: skip
        more = [f"model.{k}" for k in self.settings.get("model", {}) if f"model.{k}" not in _FREE]
        problems += [
            f"{key}={self._find(key)!r} is no setting of score_sde_pytorch, and the network may depend on it: if it does not, "
            f"give --source.{key}=unused"
            for key in more
        ]
        if problems:
            raise ConvertError(f"{self.name}: " + "; ".join(problems))

    def _wrong(self, key: str, value: Any, kind: Kind) -> str:
        if value is None:
            return f"{key} is missing: give --source.{key}=VALUE, {kind.text}"
        if isinstance(value, Unread):
            return (
                f"{key} is {value.text!r} ({value.where}), which cannot be read: give --source.{key}=VALUE, {kind.text}"
            )
        return f"{key}={value!r} has no counterpart here: allowed is {kind.text}"
