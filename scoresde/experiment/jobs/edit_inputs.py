"""The inputs of ``scoresde edit``: events or measurements of files, in the units of the model.

    edit, purify, anomaly_map    whole events
    inpaint                      events with missing values, or whole ones with a mask
    super_resolve                pictures of low resolution. Of whole pictures, the means of blocks of ``factor`` pixels
    colorize                     gray pictures. Of colored ones, the luminance

The shape of an input says which of the two it is. What is computed from whole pictures is compared with them afterwards.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scoresde._validation import suggestion
from scoresde.data import Columns, Quantized, Splits, Tokens
from scoresde.data.images import SUFFIXES as PICTURES
from scoresde.data.input_files import InputEvent, find_inputs, read_inputs
from scoresde.data.pictures import picture_format, read_mask
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.editing import MEASURED, MOST, TASKS, EditingConfig
from scoresde.operators import Grayscale, SuperResolution


@dataclass(frozen=True)
class EditInput:
    """One input.

    Attributes:
        name: The name of its results.
        file: Its file.
        y: The event or the measurement in the units of the model, float32 or tokens. Missing values are 0.
        known: For "inpaint": which values are known, a tensor of bool of the shape of y.
        whole: The whole event in the units of the data, if it is known and is more than the task gets.
    """

    name: str
    file: str
    y: Tensor
    known: Tensor | None = None
    whole: Tensor | None = None

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of name and values."""
        found = hashlib.sha256(f"{self.name} {tuple(self.y.shape)}".encode())
        for part in (self.y, self.known):
            found.update(b"" if part is None else part.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


def read_edit_inputs(config: EditingConfig, data: Splits) -> list[EditInput]:
    """Read the inputs and check them.

    Args:
        config: The section ``editing``.
        data: The data of the model.

    Returns:
        The inputs in order.

    Raises:
        ConfigError: For settings that do not suit the data.
        ValueError: For a file that cannot be read, or does not suit the task.
        FileNotFoundError: For a file that is missing.
    """
    if not config.task:
        raise ConfigError(f"config.editing.task is missing: give one of {', '.join(TASKS)}, e.g. --task inpaint")
    if not config.files:
        raise ConfigError("config.editing.input is empty: give files, folders or patterns, e.g. --input photo.png")
    _check_task(config, data)
    events = read_inputs(find_inputs(config.files), data)
    if len(events) > MOST:
        raise ValueError(f"input has {len(events)} events: give at most {MOST}")
    make = {"inpaint": _to_inpaint, "super_resolve": _to_super_resolve, "colorize": _to_colorize}.get(
        config.task, _event
    )
    return [make(event, config, data) for event in events]


def _check_task(config: EditingConfig, data: Splits) -> None:
    """Raise ConfigError if the task is not for such data, or a setting of the task is missing."""
    shape = data.event_shape
    picture = picture_format(data)
    if config.task == "super_resolve" and len(shape) < (2 if picture is None else 3):
        raise ConfigError(f"config.editing.task='super_resolve' needs events (C, *sides): they are {shape}")
    if config.task == "colorize" and (picture is None or picture.channels != 3):
        raise ConfigError(f"config.editing.task='colorize' needs events of three colors, (3, *sides): they are {shape}")
    if config.task not in MEASURED and config.t is None:
        raise ConfigError(
            f"config.editing.t is missing: the task {config.task!r} needs the time of the noise that it adds, e.g. --t 0.3"
        )
    if isinstance(data.transform, Tokens) and config.task != "inpaint":
        raise ConfigError(
            f"config.editing.task={config.task!r} is not allowed for tokens, which have no Gaussian noise: give 'inpaint'"
        )
    for name in ("noise_std", "guidance"):
        if isinstance(data.transform, Tokens) and getattr(config, name):
            raise ConfigError(
                f"config.editing.{name}={getattr(config, name)!r} is not allowed for tokens, which have no noise: leave it out"
            )
    if config.noise_std and isinstance(data.transform, Columns):
        raise ConfigError(
            f"config.editing.noise_std={config.noise_std!r} is not allowed for a table, whose columns have their own units"
        )


def noise_of_x(config: EditingConfig, data: Splits) -> float:
    """The standard deviation of the measurement's noise in the units of the model."""
    transform = data.transform
    if isinstance(transform, Columns | Tokens):
        return 0.0
    return config.noise_std * (transform.width if isinstance(transform, Quantized) else 1.0 / transform.scale)


def _encoded(raw: Tensor, data: Splits) -> Tensor:
    x: Tensor = data.transform.encode(raw[None], None, dtype=torch.float32)[0]
    return x


def _event(event: InputEvent, config: EditingConfig, data: Splits) -> EditInput:
    """A whole event."""
    _check_shape(event, config, data)
    if event.known is not None:
        raise ValueError(
            f"{event.file} has missing values, and the task {config.task!r} needs whole events: the task 'inpaint' draws them"
        )
    return EditInput(event.name, event.file, _encoded(event.raw, data))


def _to_inpaint(event: InputEvent, config: EditingConfig, data: Splits) -> EditInput:
    _check_shape(event, config, data)
    known, whole = event.known, event.raw if event.known is None else None
    if config.mask:
        mask = _mask(event, config.mask, data)
        known = mask if known is None else known & mask
    if known is None:
        advice = (
            "make missing pixels transparent, or give --mask FILE"
            if picture_format(data) is not None
            else "leave missing cells empty"
            if isinstance(data.transform, Columns)
            else "set missing values to NaN"
        )
        raise ValueError(f"{event.file} has no missing values: {advice}")
    if bool(known.all()) or not bool(known.any()):
        kind = "missing" if bool(known.all()) else "known"
        raise ValueError(f"{event.file} with the mask {config.mask!r} has no {kind} pixels: give a mask with both")
    x = _encoded(event.raw, data)
    return EditInput(event.name, event.file, torch.where(known, x, 0), known, whole)


def _mask(event: InputEvent, place: str, data: Splits) -> Tensor:
    """The mask of a picture, of the shape of its levels."""
    if picture_format(data) is None:
        raise ConfigError(
            f"config.editing.mask={place!r} is for pictures: the events are {data.event_shape}; set missing values to NaN"
        )
    path = Path(place)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        own = [file for file in files if file.stem == Path(event.file).stem]
        if not own:
            near = suggestion(Path(event.file).stem, [file.stem for file in files])
            raise FileNotFoundError(f"mask={place!r} has no picture with the name {Path(event.file).stem!r}{near}")
        path = own[0]
    elif not path.is_file():
        raise FileNotFoundError(f"mask={place!r}: no such file")
    mask = read_mask(path, tuple(data.event_shape[-2:]))
    return mask.expand(event.raw.shape) if event.raw.ndim == 3 else mask[0]


def _to_super_resolve(event: InputEvent, config: EditingConfig, data: Splits) -> EditInput:
    _check_whole(event, config)
    shape, given = tuple(data.event_shape), tuple(event.raw.shape)
    x = _encoded(event.raw, data)
    if given == shape:
        if not config.factor:
            raise ValueError(
                f"{event.file} has {event.size}, as the model's pictures: give --factor N, which lowers its resolution first, "
                "or a smaller picture"
            )
        operator = SuperResolution(config.factor)
        operator.check(shape)
        return EditInput(event.name, event.file, operator.apply(x[None])[0], None, event.raw)
    factor = shape[-1] // given[-1]
    fits = given[0] == shape[0] and len(given) == len(shape) and factor >= 2
    fits = fits and all(small * factor == side for small, side in zip(given[1:], shape[1:], strict=True))
    if not fits or config.factor not in (0, factor):
        n = f"the factor {config.factor}" if config.factor else "a whole factor"
        wanted = _pixels(shape) if len(shape) == 3 else str(shape)
        raise ValueError(
            f"{event.file} has {event.size}: give pictures of {wanted}, or of a size that is smaller by {n}"
        )
    return EditInput(event.name, event.file, x)


def _to_colorize(event: InputEvent, config: EditingConfig, data: Splits) -> EditInput:
    _check_whole(event, config)
    if tuple(event.raw.shape) == (1, *data.event_shape[1:]):
        return EditInput(event.name, event.file, _encoded(event.raw, data))
    _check_shape(event, config, data)
    colored = bool((event.raw != event.raw[:1]).any())
    y = Grayscale().apply(_encoded(event.raw, data)[None])[0]
    return EditInput(event.name, event.file, y, None, event.raw if colored else None)


def _check_whole(event: InputEvent, config: EditingConfig) -> None:
    if event.known is not None:
        raise ValueError(f"{event.file} has missing values, which the task {config.task!r} does not take")


def _check_shape(event: InputEvent, config: EditingConfig, data: Splits) -> None:
    """Raise ValueError unless an event has the shape of the model's events."""
    shape = tuple(data.event_shape)
    if tuple(event.raw.shape) != shape:
        wanted = _pixels(shape) if "pixels" in event.size else f"the shape {shape}"
        raise ValueError(f"{event.file} has {event.size}: the task {config.task!r} of this model needs {wanted}")


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]} x {shape[-2]} pixels"
