"""``DDSS``: a sampler for configs that fits all its coefficients to the model and the training data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._validation import check_count, check_number, check_seed
from scoresde.samplers.fitted.ggdm import scalar_process
from scoresde.samplers.fitted.kernel_fit import Features, Kernel, distance_kernel, fit_ggdm
from scoresde.samplers.fitted.sampler import FittedSampler
from scoresde.samplers.fitted.unfitted import UnfittedSampler
from scoresde.sde import SDE, LinearSDE, Score


class DDSS(UnfittedSampler):
    """:func:`fit_ggdm` as a sampler for configs (differentiable diffusion sampler search).

    ``scoresde sample`` fits it once to a checkpoint and the first events of the training set, and stores the fit with the
    samples.

    Args:
        steps: Number of evaluations of the score per sample.
        updates: Number of updates of the fit.
        batch_size: Number of samples and of events in an update, at least 2.
        events: Number of events of the training set, at least ``2 * batch_size``.
        eta, fit_times, learning_rate, kernel, features, t_min, seed: See :func:`fit_ggdm`.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Watson et al. 2022, arXiv:2202.05830.

    Example:
        >>> from scoresde import GaussianMixture, VPSDE
        >>> mixture = GaussianMixture([[0.0, 0.0]], 1.0)
        >>> plan = DDSS(2, updates=1, batch_size=8, events=32)
        >>> sampler = plan.prepared(VPSDE(), mixture.score(VPSDE()), (2,), data=mixture.sample(32))
        >>> sampler(VPSDE(), mixture.score(VPSDE()), (3, 2)).nfe
        2
    """

    def __init__(
        self,
        steps: int = 5,
        updates: int = 400,
        batch_size: int = 256,
        events: int = 10_000,
        *,
        eta: float = 0.0,
        fit_times: bool = False,
        learning_rate: float = 0.02,
        kernel: Kernel = distance_kernel,
        features: Features | None = None,
        t_min: float | None = None,
        seed: int = 0,
    ) -> None:
        check_count("steps", steps)
        check_count("updates", updates)
        check_count("batch_size", batch_size, least=2)
        check_count("events", events, least=2 * batch_size)
        check_number("eta", eta, least=0.0, most=1.0)
        check_number("learning_rate", learning_rate, above=0.0)
        if t_min is not None:
            check_number("t_min", t_min, least=0.0)
        check_seed("seed", seed)
        self.steps, self.updates, self.batch_size, self.events = steps, updates, batch_size, events
        self.eta, self.fit_times, self.learning_rate = eta, fit_times, learning_rate
        self.kernel, self.features, self.t_min, self.seed = kernel, features, t_min, seed

    @property
    def fit_rows(self) -> int:
        """``batch_size``."""
        return self.batch_size

    def check_process(self, sde: SDE) -> None:
        scalar_process(sde, type(self).__name__)

    def prepared(
        self,
        sde: LinearSDE,
        score: Score,
        event_shape: Sequence[int],
        *,
        data: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> FittedSampler:
        """Fit the sampler to the model and to data.

        Args:
            sde: Process of the score.
            score: (x, t) -> score.
            event_shape: Shape of an event.
            data: Events, (n, \\*event).
            dtype: Dtype of the samples of the fit.
            device: Device of the samples of the fit.

        Returns:
            The fitted sampler.

        Raises:
            TypeError: If there are no data.
            ValueError: If the data have another shape.
        """
        data = self.check_data(data, event_shape)
        return fit_ggdm(
            scalar_process(sde, type(self).__name__), score, data, self.steps, kernel=self.kernel, features=self.features,
            eta=self.eta, fit_times=self.fit_times, updates=self.updates, batch_size=self.batch_size,
            learning_rate=self.learning_rate, t_min=self.t_min, seed=self.seed, dtype=dtype, device=device,
        )  # fmt: skip
