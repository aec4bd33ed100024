"""``NoiseEstimation``: a sampler for configs that follows the noise level of each sample."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from scoresde._validation import check_choice, check_count, check_number
from scoresde.samplers import grids
from scoresde.samplers.base import Sampler
from scoresde.samplers.discretization import Grid, Steps, discretization
from scoresde.samplers.fitted.level_adjusted import LevelAdjustedDDIM, check_last_time, level_steps
from scoresde.samplers.fitted.level_network import LevelNetwork, fit_level_network
from scoresde.samplers.fitted.small_network import check_settings
from scoresde.samplers.fitted.unfitted import UnfittedSampler
from scoresde.score.denoising import check_scalar
from scoresde.sde import SDE, LinearSDE, ScalarSDE, Score


class NoiseEstimation(UnfittedSampler):
    """:class:`LevelAdjustedDDIM` with a network that is trained first, for configs.

    ``scoresde sample`` trains the network once on the first events of the training set by :func:`fit_level_network`, and stores
    it with the samples.

    Args:
        network: A network (x, label) whose output has one row for each state. A config fills in ``event_shape``. The fit trains a
            copy.
        steps, grid, denoise: See :class:`LevelAdjustedDDIM`.
        updates: Number of updates of the network.
        batch_size: Number of states in an update.
        events: Number of events of the training set.
        learning_rate, t_min, seed: See :func:`fit_level_network`.

    Raises:
        ValueError: If an argument is out of range.

    References:
        San-Roman et al. 2021, arXiv:2104.02600.

    Example:
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.networks import MLP
        >>> mixture = GaussianMixture([[1.0] * 8], 0.1)
        >>> sampler = NoiseEstimation(MLP((8,), width=8, depth=1), 3, updates=2, events=50)
        >>> fitted = sampler.prepared(VPSDE(), mixture.score(VPSDE()), (8,), data=mixture.sample(50))
        >>> fitted(VPSDE(), mixture.score(VPSDE()), (3, 8)).nfe
        4
    """

    conditions_of = "events"

    def __init__(
        self,
        network: nn.Module,
        steps: Steps = 20,
        grid: Grid = grids.log_noise,
        *,
        updates: int = 500,
        batch_size: int = 256,
        events: int = 10_000,
        learning_rate: float = 3e-3,
        t_min: float | None = None,
        denoise: bool = True,
        seed: int = 0,
    ) -> None:
        check_settings(updates, batch_size, learning_rate, seed)
        check_count("events", events)
        if t_min is not None:
            check_number("t_min", t_min, above=0.0)
        check_choice("denoise", denoise, (True, False))
        self.network, self.steps, self.grid, self.updates = network, level_steps(steps), grid, updates
        self.batch_size, self.events, self.learning_rate = batch_size, events, learning_rate
        self.t_min, self.denoise, self.seed = t_min, denoise, seed
        discretization(self.steps, grid, t_min)

    def __repr__(self) -> str:
        return f"NoiseEstimation({type(self.network).__name__}, steps={self.steps!r})"

    def check_process(self, sde: SDE) -> None:
        check_scalar(sde)  # type: ignore[arg-type]
        check_last_time(self.steps, self.grid, self.t_min, sde)  # type: ignore[arg-type]

    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        data: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> LevelAdjustedDDIM:
        """Train the network.

        Args:
            sde: Process of the score.
            score: Not used.
            event_shape: Shape of an event.
            data: Events, (n, \\*event).
            dtype: Dtype of the states.
            device: Device of the states.

        Returns:
            The sampler that uses the network.

        Raises:
            TypeError: If there are no data, or the process does not have scalar coefficients.
            ValueError: If the data have another shape.
        """
        x = self.check_data(data, event_shape).to(device, dtype)
        check_scalar(sde)  # type: ignore[arg-type]
        assert isinstance(sde, ScalarSDE)
        return self._with(
            fit_level_network(
                sde, x, copy.deepcopy(self.network).to(x), updates=self.updates, batch_size=self.batch_size,
                learning_rate=self.learning_rate, t_min=self.t_min, seed=self.seed,
            )
        )  # fmt: skip

    def save(self, fitted: Sampler, path: Path | str) -> None:
        """Write the network of a fitted sampler to a safetensors file.

        Args:
            fitted: The result of :meth:`prepared`.
            path: The file.
        """
        if not isinstance(fitted, LevelAdjustedDDIM):
            raise ValueError(f"fitted={fitted!r} is not allowed: give the result of prepared(...)")
        fitted.network.save(path)

    def load(self, path: Path | str) -> LevelAdjustedDDIM:
        """Read a file that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            The sampler. It is refused for another process or other events.

        Raises:
            ValueError: If the file is damaged, contains something else, or is of a network of another structure.
            FileNotFoundError: If there is no such file.
        """
        return self._with(LevelNetwork.load(path, copy.deepcopy(self.network)))

    def _with(self, levels: LevelNetwork) -> LevelAdjustedDDIM:
        return LevelAdjustedDDIM(levels, self.steps, self.grid, t_min=self.t_min, denoise=self.denoise)
