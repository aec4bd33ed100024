"""Features of the model of a run folder as an extractor for ``scoresde evaluate``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from scoresde._validation import check_number
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.loader import load_config
from scoresde.experiment.config.targets import as_score
from scoresde.experiment.config.weight_names import DEFAULT, weights_name
from scoresde.experiment.folder.workdir import Workdir
from scoresde.metrics import Extractor
from scoresde.score import ScoreFeatures


class RunFeatures(Extractor):
    """Pooled features of the trained model of a run folder, see ``ScoreFeatures``.

    In a config write ``{"name": "scoresde.experiment:RunFeatures", "folder": "runs/other", "t": 0.02}``. The events are encoded
    by the transform of the data of that run. The model is read on first use.

    A model detects its own errors badly. Compare samples of several models with the features of a model that is none of them.

    Args:
        folder: A run folder with a trained model of events of the same shape.
        t: The time.
        modules: Names of modules, as in ``network_features``.
        weights: The weights, as in ``sampling.weights`` of a config.
        seed: Seed of the noise.

    Raises:
        FileNotFoundError: If the folder has no config.
        ValueError: When the model is read: if ``t`` or ``modules`` does not suit it.
    """

    def __init__(
        self,
        folder: str,
        t: float,
        modules: Sequence[str] | None = None,
        weights: str | float = DEFAULT,
        seed: int = 0,
    ) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"folder={folder!r} is not a run folder: it has no config.json")
        check_number("t", t, least=0.0)
        self.folder, self.t, self.seed = folder, t, seed
        self.modules, self.weights = modules, weights_name(weights)

    @cached_property
    def _experiment(self) -> Experiment:
        return Experiment.from_config(load_config(Path(self.folder) / "config.json"))

    @cached_property
    def _extractor(self) -> ScoreFeatures:
        model, _ = Workdir(self.folder).model(self._experiment, self.weights)
        return ScoreFeatures(as_score(model), self.t, self.modules, self.seed)

    @property
    def name(self) -> str:
        return f"{self._extractor.name} of {Path(self.folder).name!r}, weights {self.weights}"

    @property
    def digest(self) -> str:
        transform = repr(self._experiment.data.transform)
        return hashlib.sha256(f"{transform} {self._extractor.digest}".encode()).hexdigest()

    def features(self, raw: Tensor) -> Tensor:
        x = self._experiment.data.transform.encode(raw.cpu(), None, dtype=torch.float32)
        return self._extractor.features(x.to(raw.device))
