"""The largest distance between two events of a data set: technique 1 of Song & Ermon 2020 for the largest noise level.

References:
    Song, Ermon 2020, "Improved techniques for training score-based generative models", arXiv:2006.09011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_batch, check_count, check_finite, check_number
from scoresde.data.dataset import permutation

_ROWS = 256
"""Events whose distances to all others are in memory at the same time."""


@checked_arguments
def largest_distance(x: Tensor, *, quantile: float = 1.0, most: int = 4096) -> float:
    """The largest Euclidean distance between two events, or a quantile of the distances of all pairs.

    A largest noise level of this size lets a sampler reach all parts of the data from all others. A few outliers can make
    it much larger than necessary; a quantile such as 0.99 ignores them.

    Args:
        x: Events as the model sees them, (B, *event), at least two.
        quantile: Part of the pairs, in (0, 1], whose distance is at most the result.
        most: Largest number of events that are compared. Of more events, a random subset is used that is the same in
            every call.

    Returns:
        The distance. It is a distance that occurs.

    Raises:
        ValueError: There are fewer than two events, or an argument is not allowed.

    References:
        Song, Ermon 2020, arXiv:2006.09011, technique 1.

    Example:
        >>> import torch
        >>> largest_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
        5.0
    """
    check_batch("x", x)
    check_finite("x", x)
    check_number("quantile", quantile, above=0.0, most=1.0)
    check_count("most", most, least=2)
    if len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: give at least two events")
    if len(x) > most:
        x = x[permutation(len(x), 0, 0)[:most].sort().values.to(x.device)]
    x = x.reshape(len(x), -1)
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if quantile == 1.0:
        return max(float(torch.cdist(part, x).max()) for part in x.split(_ROWS))
    pairs = torch.cat([torch.cdist(x[i : i + 1], x[i + 1 :])[0] for i in range(len(x) - 1)])
    place = max(0, min(len(pairs) - 1, -int(-quantile * len(pairs) // 1) - 1))
    return float(pairs.kthvalue(place + 1).values)
