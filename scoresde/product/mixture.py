r"""Gaussian mixtures with categories, whose exact model under a product process is known in closed form.

Component k has the weight w_k, a Gaussian N(mu_k, diag(s_k^2)) of the real coordinates, and one category c_kj in each
categorical coordinate j. Given a state, the components have the responsibilities

.. math::
    r_k(x_t) \propto w_k\, N(x_t^{real};\, \alpha \mu_k,\, \alpha^2 s_k^2 + \sigma^2)\, \prod_j q_j(x_t^j \mid c_{kj})

and both parts of the exact model follow from them:

.. math::
    \nabla \log p_t = \sum_k r_k\, \frac{\alpha \mu_k - x_t^{real}}{\alpha^2 s_k^2 + \sigma^2}, \qquad
    p(x_0^j = v \mid x_t) = \sum_{k:\, c_{kj} = v} r_k

Any joint distribution of categories is a mixture: one component for each combination. So samplers and bounds are tested
without training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._validation import Numbers, as_numbers, check_count, expand, shown
from scoresde.jump.states import LOG_ZERO, log_or_zero
from scoresde.noise import NoiseSource
from scoresde.product.process import ProductProcess


class LabeledMixture:
    """A mixture of Gaussians of n real coordinates, whose components have a category in each of m further coordinates.

    Events are packed rows (n + m,): the real coordinates, then the categories.

    Args:
        means: Means, ``(K, n)``.
        stds: Standard deviations > 0: ``(K,)``, or ``(K, n)``.
        categories: Categories, ``(K, m)`` whole numbers >= 0.
        weights: Weights > 0, ``(K,)``. They are normalized. None for equal ones.

    Example:
        >>> import torch
        >>> from scoresde import VPSDE
        >>> from scoresde.jump import Absorbing
        >>> from scoresde.product import LabeledMixture, ProductProcess
        >>> mixture = LabeledMixture([[-1.0], [1.0]], [0.3, 0.3], [[0], [1]])
        >>> model = mixture.model(ProductProcess(VPSDE(), [None, Absorbing(2)]))
        >>> output = model(torch.tensor([[1.0, 2.0]]), torch.tensor([0.5]))  # the category is masked
        >>> output.shape, bool(output[0, 2] > output[0, 1])
        (torch.Size([1, 3]), True)
    """

    def __init__(self, means: Numbers, stds: Numbers, categories: Numbers, weights: Numbers | None = None) -> None:
        self.means = as_numbers("means", means)
        if self.means.ndim != 2 or self.means.numel() == 0:
            raise ValueError(f"means has shape {tuple(self.means.shape)}: give (K, n)")
        count, n = self.means.shape
        stds = as_numbers("stds", stds)
        if stds.shape not in ((count,), (count, n)) or not bool((stds > 0).all()):
            raise ValueError(
                f"stds={shown(stds)} is not allowed, and means has shape ({count}, {n}): give numbers > 0 of the shape "
                f"({count},) or ({count}, {n})"
            )
        self.stds = stds[:, None].expand(count, n) if stds.ndim == 1 else stds
        categories = as_numbers("categories", categories)
        if categories.ndim != 2 or len(categories) != count or categories.shape[1] == 0:
            raise ValueError(f"categories has shape {tuple(categories.shape)}: give ({count}, m) with m >= 1")
        if bool(((categories != categories.round()) | (categories < 0)).any()):
            raise ValueError(f"categories={shown(categories)} is not allowed: give whole numbers >= 0")
        self.categories = categories.long()
        weights = torch.ones(count, dtype=torch.float64) if weights is None else as_numbers("weights", weights)
        if weights.shape != (count,) or not bool((weights > 0).all()):
            raise ValueError(f"weights={shown(weights)} is not allowed: give {count} numbers > 0")
        self.weights = weights / weights.sum()

    def sample(self, n: int, seed: int = 0, dtype: torch.dtype = torch.float32, first: int = 0) -> Tensor:
        """Draw exact samples.

        Args:
            n: Number of samples.
            seed: Sample i depends only on (seed, first + i).
            dtype: dtype of the samples.
            first: Index of the first sample.

        Returns:
            The samples, ``(n, d)``.
        """
        check_count("n", n)
        noise = NoiseSource.of(seed, n, first)
        u = noise.uniform((), step=0, purpose="mixture component", dtype=torch.float64)
        k = torch.searchsorted(self.weights.cumsum(0), u).clamp(max=len(self.weights) - 1)
        z = noise.normal(self.means.shape[1:], step=0, purpose="mixture noise", dtype=torch.float64)
        return torch.cat((self.means[k] + self.stds[k] * z, self.categories[k].to(torch.float64)), 1).to(dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density of the real coordinates times the probability of the categories.

        Args:
            x: Rows, ``(B, d)``.

        Returns:
            log p(x) in nats, ``(B,)`` float64.
        """
        n = self.means.shape[1]
        if x.ndim != 2 or x.shape[1] != n + self.categories.shape[1]:
            raise ValueError(f"x has shape {tuple(x.shape)}: give (B, {n + self.categories.shape[1]})")
        own = (x[:, None, n:] == self.categories.to(x)).all(2)
        joint = self._log_gaussians(x[:, :n].to(torch.float64), self.means, self.stds)
        return torch.logsumexp(torch.where(own, joint, -math.inf), 1)

    def model(self, process: ProductProcess) -> LabeledMixtureModel:
        """The exact model under a process.

        Args:
            process: The process. Its first n coordinates are real, and the others categorical, with enough tokens.

        Returns:
            The function (x, t) -> packed output, as a ``ProductModel``.
        """
        return LabeledMixtureModel(self, process)

    def _log_gaussians(self, x: Tensor, means: Tensor, stds: Tensor) -> Tensor:
        """ln w_k N(x; mean_k, std_k^2), (B, K)."""
        z = (x[:, None] - means) / stds
        each = -0.5 * z.square() - stds.log() - 0.5 * math.log(2.0 * math.pi)
        total: Tensor = self.weights.log() + each.sum(2)
        return total


class LabeledMixtureModel:
    """The exact model of a ``LabeledMixture``: (x, t) -> the score and the logits, packed.

    Args:
        mixture: The mixture.
        process: The process.
    """

    def __init__(self, mixture: LabeledMixture, process: ProductProcess) -> None:
        n, m = mixture.means.shape[1], mixture.categories.shape[1]
        if [jump is None for jump in process.jumps] != [True] * n + [False] * m:
            raise ValueError(
                f"process={shown(process)} does not fit: give {n} real coordinates, then {m} categorical ones"
            )
        for j in range(m):
            tokens, largest = process.jumps[n + j].tokens, int(mixture.categories[:, j].max())  # type: ignore[union-attr]
            if largest >= tokens:
                raise ValueError(
                    f"categories has the category {largest} in column {j}, and the process has {tokens} tokens there"
                )
        self.mixture, self.process = mixture, process

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """The exact model.

        Args:
            x: States, ``(B, d)``.
            t: Times in [0, T], ``(B,)``.

        Returns:
            The packed output, ``(B, width)`` in the dtype of x.
        """
        mixture, process = self.mixture, self.process
        real, states = process.split(x)
        time = t.to(torch.float64).expand(len(x))
        alpha, sigma = (expand(v(time), x)[..., None] for v in (process.sde.alpha, process.sde.sigma))  # (B, 1, 1)
        means, stds = alpha * mixture.means, (alpha * mixture.stds).square().add(sigma**2).sqrt()
        log_r = mixture._log_gaussians(real.to(torch.float64), means, stds)
        n = mixture.means.shape[1]
        for group, part in zip(process.groups, states, strict=True):
            values = group.jump.likelihood(part, time)  # (B, m, tokens)
            for place, coordinate in enumerate(group.coordinates):
                log_r = log_r + values[:, place, mixture.categories[:, coordinate - n]].clamp(min=LOG_ZERO)
        r = log_r.softmax(1)
        score = (r[..., None] * (means - real.to(torch.float64)[:, None]) / stds.square()).sum(1)
        parts = [score]
        for group in process.groups:
            for coordinate in group.coordinates:
                total = torch.zeros(len(x), group.jump.tokens, dtype=torch.float64)
                parts.append(log_or_zero(total.index_add(1, mixture.categories[:, coordinate - n], r)))
        return torch.cat(parts, 1).to(x.dtype)
