"""From raw samples to feature vectors, with a digest of what does it.

    Coordinates    the numbers themselves: for vectors and small data
    TorchScript    a network from a TorchScript file, such as the Inception network that most published FIDs are of
    Network        any ``nn.Module``

Two figures are of one kind only where ``name`` and ``digest`` are the same. A subclass gives `features` and `digest`; in a
config ``{"name": "my_package.my_module:MyExtractor"}`` names it.
"""

from __future__ import annotations

import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde._validation import check_finite, check_rising


class Extractor(ABC):
    """``extractor(raw)``: features (B, d), floating point, of raw samples (B, *event) as they were decoded: levels or reals."""

    @property
    def name(self) -> str:
        """What it is, with all settings that the features depend on."""
        return type(self).__qualname__

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hex digits that change with what it computes: of weights, of a file."""

    @abstractmethod
    def features(self, raw: Tensor) -> Tensor:
        """(B, d) of (B, *event), on the device of ``raw``; each vector a function of its own sample."""

    def __call__(self, raw: Tensor) -> Tensor:
        """Features, without gradients; half precision becomes float32, which loses nothing and which numpy knows.

        Raises ValueError where they are not (B, d), floating point and finite.
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
    """The event flattened: float32 for bytes and float32, else float64, which loses nothing of whole numbers below 2^53.

    A Fréchet distance of it is that of the data's own mean and covariance, with no judgement of what the eye sees.
    """

    @property
    def digest(self) -> str:
        return hashlib.sha256(b"the event flattened").hexdigest()

    def features(self, raw: Tensor) -> Tensor:
        exact = raw.dtype in (torch.uint8, torch.float32, torch.float16, torch.bfloat16)
        return raw.flatten(1).to(torch.float32 if exact else torch.float64)


class Network(Extractor):
    """Any module: (B, *event), float32, to features (B, d).

    module: with its weights, put into evaluation mode. label: what it is called. The digest is of its class and its state:
    names, shapes, dtypes and numbers. In a config: {"name": "Network", "module": {"name": "my_package.my_module:MyNetwork"},
    "label": "mine"}.
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
        kind = type(self.module)
        found = hashlib.sha256(f"{kind.__module__}:{kind.__qualname__}".encode())
        for name, value in self.module.state_dict().items():
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def features(self, raw: Tensor) -> Tensor:
        try:
            out: Tensor = self.module.to(raw.device)(raw.to(torch.float32))
        except (TypeError, RuntimeError) as problem:
            if isinstance(problem, torch.OutOfMemoryError):
                raise
            raise ValueError(f"{self.name} refuses samples of shape {tuple(raw.shape)}: {problem}") from problem
        return out


class TorchScript(Extractor):
    """A network from a TorchScript file that takes images (B, 3, h, w) of bytes 0 .. 255 and gives features (B, d).

    file: of `torch.jit.save`. options: what it is called with beside the images; {"return_features": True} unless given,
    which the Inception network that EDM and StyleGAN3 use wants for its 2048 features. low, high: numbers that become 0 and
    255; bytes are taken as they are unless given, and a config's data fills them in where it has levels. sha256: refuse a
    file with another.

    Images come as (B, 1, h, w), whose channel is repeated, or (B, 3, h, w). A number r becomes the byte nearest to
    255 (r - low) / (high - low), half to even, kept within 0 .. 255: bytes as they are stay as they are.

    A TorchScript file holds a program in a language of torch's own: `torch.jit.load` compiles it; no Python of the file's is
    run, and its tensors are read by torch, not by Python's reader of objects. Still, the program may call every operator of
    torch, and some read and write files (``aten::from_file``, ``aten::save``): take files from people whom you trust, and pin
    them by ``sha256``.

    The file is read when it is first needed. Raises FileNotFoundError; ValueError for what is no such file or has another
    digest.
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
        """The file's SHA-256. Raises ValueError where another is wanted."""
        return hashlib.sha256(self._content()).hexdigest()

    @cached_property
    def module(self) -> torch.jit.ScriptModule:
        """The network, read when it is first needed. Raises ValueError for what is none."""
        content = io.BytesIO(self._content())
        try:
            out: torch.jit.ScriptModule = torch.jit.load(content, map_location="cpu").eval()
            return out
        except RuntimeError as problem:
            raise ValueError(f"{str(self.file)!r} is no TorchScript file: {str(problem).splitlines()[0]}") from problem

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
        """What is loaded is what was looked at."""
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
