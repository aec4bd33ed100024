"""``BDDM``: a sampler for configs whose grid a network chooses, which is trained for the model."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from scoresde._arguments import check_constructors
from scoresde._files import write_atomic
from scoresde._validation import check_count, check_number
from scoresde.samplers import DDIM, Sampler
from scoresde.samplers.fitted import UnfittedSampler
from scoresde.samplers.fitted.small_network import check_settings
from scoresde.samplers.grid_sampler import GridSampler
from scoresde.schedules.step_grid import NetworkGrid, network_grid
from scoresde.schedules.step_network import fit_step_network
from scoresde.score.denoising import check_scalar
from scoresde.sde import SDE, LinearSDE, ScalarSDE, Score

__all__ = ["BDDM"]

_KEY = "scoresde.network_grid"


class BDDM(UnfittedSampler):
    """A sampler on the grid that a network chooses, for configs (bilateral denoising diffusion models).

    ``scoresde sample`` trains the network once for a checkpoint by :func:`fit_step_network`, on the first events of the training
    set, finds the grid by :func:`network_grid`, and stores the grid with the samples.

    Args:
        network: A network (x, label) whose output has one row for each state. A config fills in ``event_shape``. The fit trains a
            copy.
        steps: Number of steps K, at least 2.
        sampler: The sampler that uses the grid, such as ``DDIM()`` or ``Ancestral()``. Its own ``steps``, ``grid`` and ``t_min``
            are not used.
        updates: Number of updates of the network.
        batch_size: Number of states in an update, and of samples of the reverse chain.
        events: Number of events of the training set.
        learning_rate, t_min, seed: See :func:`fit_step_network`.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Lam et al. 2022, arXiv:2203.13508.

    Example:
        >>> from scoresde import GaussianMixture, VPSDE
        >>> from scoresde.networks import MLP
        >>> mixture = GaussianMixture([[0.0, 0.0]], 1.0)
        >>> sampler = BDDM(MLP((2,), width=8, depth=1), 3, updates=2, events=50)
        >>> fitted = sampler.prepared(VPSDE(), mixture.score(VPSDE()), (2,), data=mixture.sample(50))
        >>> fitted(VPSDE(), mixture.score(VPSDE()), (3, 2)).nfe
        3
    """

    conditions_of = "events"

    def __init__(
        self,
        network: nn.Module,
        steps: int = 10,
        sampler: GridSampler = DDIM(),  # noqa: B008  (frozen)
        *,
        updates: int = 500,
        batch_size: int = 256,
        events: int = 512,
        learning_rate: float = 3e-3,
        t_min: float | None = None,
        seed: int = 0,
    ) -> None:
        check_count("steps", steps, least=2)
        check_settings(updates, batch_size, learning_rate, seed)
        check_count("events", events, least=2)
        if t_min is not None:
            check_number("t_min", t_min, above=0.0)
        self.network, self.steps, self.sampler, self.updates = network, steps, sampler, updates
        self.batch_size, self.events, self.learning_rate = batch_size, events, learning_rate
        self.t_min, self.seed = t_min, seed

    def __repr__(self) -> str:
        return f"BDDM({type(self.network).__name__}, steps={self.steps}, sampler={self.sampler!r})"

    def check_process(self, sde: SDE) -> None:
        check_scalar(sde)  # type: ignore[arg-type]
        self.sampler.check_process(sde)

    def check_noise(self, sde: SDE) -> None:
        self.sampler.check_noise(sde)

    def check_score(self, sde: SDE, score: Score) -> None:
        self.sampler.check_score(sde, score)

    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        data: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Sampler:
        """Train the network and find its grid.

        Args:
            sde: Process of the score.
            score: (x, t) -> score. Conditions have one row for each event.
            event_shape: Shape of an event.
            data: Events, (n, \\*event), at least two.
            dtype: Dtype of the states.
            device: Device of the states.

        Returns:
            ``sampler`` with this grid.

        Raises:
            TypeError: If there are no data, or the process does not have scalar coefficients.
            ValueError: If the data have another shape, or no first step gives a grid of K steps.
        """
        x = self.check_data(data, event_shape).to(device, dtype)
        check_scalar(sde)  # type: ignore[arg-type]
        assert isinstance(sde, ScalarSDE)
        phi = fit_step_network(
            sde, score, x, copy.deepcopy(self.network).to(x), updates=self.updates, batch_size=self.batch_size,
            learning_rate=self.learning_rate, t_min=self.t_min, seed=self.seed,
        )  # fmt: skip
        return self._on(
            network_grid(sde, score, phi, x, self.steps, batch_size=self.batch_size, t_min=self.t_min, seed=self.seed)
        )

    def save(self, fitted: Sampler, path: Path | str) -> None:
        """Write the grid of a fitted sampler to a safetensors file.

        Args:
            fitted: The result of :meth:`prepared`.
            path: The file.
        """
        grid = getattr(fitted, "grid", None)
        if not isinstance(grid, NetworkGrid):
            raise ValueError(f"fitted={fitted!r} is not allowed: give the result of prepared(...)")
        header = asdict(grid)
        times = torch.tensor(header.pop("given"), dtype=torch.float64)
        write_atomic(Path(path), save({"times": times}, {_KEY: json.dumps(header)}))

    def load(self, path: Path | str) -> Sampler:
        """Read a file that :meth:`save` wrote.

        Args:
            path: The file.

        Returns:
            ``sampler`` with the grid of the file. It is refused for another process or other weights.

        Raises:
            ValueError: If the file is damaged, or contains something else.
            FileNotFoundError: If there is no such file.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                header = json.loads((file.metadata() or {})[_KEY])
                header["given"] = file.get_tensor("times").tolist()
            plain: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in header.items()
            }
            return self._on(NetworkGrid(**plain))
        except (SafetensorError, KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"{path} is damaged or not a grid of scoresde: {problem}") from problem

    def _on(self, grid: NetworkGrid) -> Sampler:
        """The sampler on a grid."""
        made = copy.copy(self.sampler)
        made.set_grid(grid.steps, grid, None, denoise=made.denoise)
        return made


check_constructors(globals(), own_repr=(BDDM,))
