"""Feature extractors: functions from raw samples to feature vectors, with a digest that identifies them.

    Coordinates    the values of the event: for vectors and small data
    TorchScript    a network from a TorchScript file, such as the Inception network of most published FIDs
    Network        any ``nn.Module``

Two results can be compared only if ``name`` and ``digest`` of the extractor are equal. A subclass implements ``features`` and
``digest``. A config refers to it by ``{"name": "my_package.my_module:MyExtractor"}``.
"""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scoresde._validation import check_finite, check_rising


class Extractor(ABC):
    """Base class of feature extractors.

    ``extractor(raw)`` maps samples (B, *event) to floating-point features (B, d).

    Attributes:
        scaling: The values that `evaluate` of an experiment passes to the extractor. "data": decoded samples, levels or real
            numbers. "model": these after the transform of the data, so that all coordinates have a similar scale.
    """

    scaling: ClassVar[str] = "data"

    @property
    def name(self) -> str:
        """A description with all settings that the features depend on."""
        return type(self).__qualname__

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hex digits that identify the function, for example of weights or of a file."""

    @abstractmethod
    def features(self, raw: Tensor) -> Tensor:
        """Compute features.

        Args:
            raw: Samples of shape (B, *event).

        Returns:
            Features of shape (B, d), on the device of ``raw``. Each vector must depend only on its own sample.
        """

    def __call__(self, raw: Tensor) -> Tensor:
        """Compute and check features, without gradients. Half precision becomes float32, which is exact and supported by numpy.

        Raises ValueError unless the features are finite floating-point numbers of shape (B, d).
        """
        with torch.no_grad():
            found = self.features(raw)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(raw) or not found.is_floating_point():
            shape = (
                f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            )
            raise ValueError(f"{self.name} gives {shape} for {len(raw)} samples: features are ({len(raw)}, d), real")
        check_finite(f"features by {self.name}", found)
        return found.float() if found.element_size() < 4 else found


class Coordinates(Extractor):
    """The flattened event, in the model's scaling.

    The features are float32 for bytes and float32, otherwise float64, which is exact for whole numbers below 2^53. The
    Fréchet distance of these features compares the mean and the covariance of the data. It does not measure perceptual quality.
    """

    scaling: ClassVar[str] = "model"

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"the event flattened").hexdigest()

    def features(self, raw: Tensor) -> Tensor:
        exact = raw.dtype in (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
        return raw.flatten(1).to(torch.float32 if exact else torch.float64)


class Network(Extractor):
    """Any module that maps float32 samples (B, *event) to features (B, d).

    The digest covers the class and the state: names, shapes, dtypes and values. In a config write ``{"name": "Network", "module":
    {"name": "my_package.my_module:MyNetwork"}, "label": "mine"}``.

    Args:
        module: The module with its weights. It is set to evaluation mode.
        label: The name of the network in reports.
    """

    def __init__(self, module: nn.Module, label: str) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module={module!r} is a {type(module).__name__}: give an nn.Module")
        self.module, self.label = module.eval(), label

    @property
    def name(self) -> str:
        return f"Network({self.label!r})"

    @property
    def digest(self) -> str:
        return state_digest(self.module)

    def features(self, raw: Tensor) -> Tensor:
        try:
            out: Tensor = self.module.to(raw.device)(raw.to(torch.float32))
        except (TypeError, RuntimeError) as problem:
            if isinstance(problem, torch.OutOfMemoryError):
                raise
            raise ValueError(f"{self.name} refuses samples of shape {tuple(raw.shape)}: {problem}") from problem
        return out


def state_digest(module: nn.Module) -> str:
    """The SHA-256 in hex of the class and the state of a module: names, shapes, dtypes and values."""
    kind = type(module)
    found = hashlib.sha256(f"{kind.__module__}:{kind.__qualname__}".encode())
    for name, value in module.state_dict().items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class TorchScript(Extractor):
    """A network from a TorchScript file that maps images (B, 3, h, w) of bytes 0 .. 255 to features (B, d).

    Samples have the shape (B, 1, h, w), whose channel is repeated, or (B, 3, h, w). A number r becomes the byte nearest to
    255 (r - low) / (high - low), rounded half to even and clipped to 0 .. 255. Bytes stay unchanged.

    A TorchScript file contains a program in a language of torch. ``torch.jit.load`` compiles it. It runs no Python code of
    the file, and torch reads the tensors itself. However, the program can call every operator of torch, and some
    of them read and write files (``aten::from_file``, ``aten::save``). Use only files that you trust, and pin them by ``sha256``.

    The file is read on first use.

    Args:
        file: A file written by ``torch.jit.save``.
        options: Keyword arguments of the network; ``{"return_features": True}`` by default. The Inception network of EDM
            and StyleGAN3 needs this option for its 2048 features.
        low: The number that becomes 0. By default samples must be bytes. In a config the data sets the range if it has levels.
        high: The number that becomes 255.
        sha256: The first hexadecimal digits of the SHA-256 that the file must have; empty for any file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the arguments are not allowed. When the file is read: if it is not TorchScript or has another digest.
    """

    def __init__(
        self,
        file: str,
        options: Mapping[str, Any] | None = None,
        low: float | None = None,
        high: float | None = None,
        sha256: str = "",
    ) -> None:
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"no TorchScript file {str(file)!r}")
        if (low is None) != (high is None):
            raise ValueError(f"low={low!r} with high={high!r}: give both or neither")
        if low is not None and high is not None:
            check_rising("low", low, "high", high)
        if sha256 and re.fullmatch(r"[0-9a-fA-F]{1,64}", sha256) is None:
            raise ValueError(
                f"sha256={sha256!r} is not allowed: give the first of its 64 hexadecimal digits or all, '' for any file"
            )
        self.file, self.low, self.high = path, low, high
        self.options = {"return_features": True} if options is None else dict(options)
        self.sha256 = sha256.lower()

    @property
    def name(self) -> str:
        scale = "" if self.low is None else f", {self.low:g} .. {self.high:g} to bytes"
        options = "".join(f", {key}={value!r}" for key, value in sorted(self.options.items()))
        return f"TorchScript({self.file.name!r}{options}{scale})"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file. Raises ValueError if ``sha256`` is different."""
        return hashlib.sha256(self._content()).hexdigest()

    @cached_property
    def module(self) -> torch.jit.ScriptModule:
        """The network, read on first use. Raises ValueError if the file is not TorchScript."""
        content = io.BytesIO(self._content())
        try:
            out: torch.jit.ScriptModule = torch.jit.load(content, map_location="cpu").eval()
            return out
        except RuntimeError as problem:
            raise ValueError(
                f"{str(self.file)!r} is not a TorchScript file: {str(problem).splitlines()[0]}"
            ) from problem

    def features(self, raw: Tensor) -> Tensor:
        images = self._bytes(raw)
        try:
            out: Tensor = self.module.to(raw.device)(images, **self.options)
            return out
        except RuntimeError as problem:
            raise ValueError(
                f"{self.name} refuses images of shape {tuple(images.shape)} with options {self.options}: {problem}"
            ) from problem

    def _content(self) -> bytes:
        """The bytes of the file, checked against ``sha256``. The checked bytes are those that are loaded."""
        content = self.file.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if not found.startswith(self.sha256):
            raise ValueError(f"{self.file.name} has the SHA-256 {found}, not {self.sha256}: another file")
        return content

    def _bytes(self, raw: Tensor) -> Tensor:
        """(B, 3, h, w) uint8."""
        if raw.ndim != 4 or raw.shape[1] not in (1, 3):
            raise ValueError(f"{self.name} takes images (B, 1 or 3, h, w), and these are {tuple(raw.shape)}")
        if self.low is not None and self.high is not None:
            raw = (255.0 * (raw.to(torch.float64) - self.low) / (self.high - self.low)).round().clamp(0.0, 255.0)
        elif raw.dtype != torch.uint8:
            raise ValueError(
                f"{self.name} takes bytes, and these are {raw.dtype}: say which numbers are 0 and 255, low and high"
            )
        return raw.to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
