r"""The variance of each coordinate of x_0 given x_t, for a mixture of Gaussians, exactly.

The posterior of x_0 given x_t = alpha x_0 + sigma z is a mixture too, with the responsibilities of x_t as weights. With C_k = V_k
diag(c_k) V_k^T its components have

.. math::
    m_k = \mu_k + V_k \frac{\alpha c_k}{\alpha^2 c_k + \sigma^2} V_k^T (x_t - \alpha \mu_k), \qquad
    P_k = V_k \frac{\sigma^2 c_k}{\alpha^2 c_k + \sigma^2} V_k^T

and the variance is that between the means m_k plus the mean of the diagonals of P_k.
"""

from __future__ import annotations

import torch
from torch import Tensor


def data_variance(
    x: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    *,
    means: Tensor,
    variances: Tensor,
    rotations: Tensor | None,
    weights: Tensor,
) -> Tensor:
    """The variance of x_0 given x_t for the rows of x.

    Args:
        x: States, (n, d) float64.
        alpha: Coefficients of the data, (n, 1).
        sigma: Standard deviations of the noise, (n, 1).
        means: mu_k, (K, d).
        variances: c_k, (K, d), or (K, 1) for isotropic components.
        rotations: V_k, (K, d, d), or None for the identity.
        weights: Weights of the components, (K,).

    Returns:
        The variances, (n, d).
    """
    alpha, sigma = alpha[..., None], sigma[..., None]
    offset = x[:, None] - alpha * means  # (n, K, d)
    if rotations is not None:
        offset = torch.einsum("nki,kij->nkj", offset, rotations)
    total = alpha**2 * variances + sigma**2
    repeats = offset.shape[-1] // total.shape[-1]
    log_joint = weights.log() - 0.5 * ((offset**2 / total).sum(-1) + repeats * total.log().sum(-1))
    share = log_joint.softmax(-1)[..., None]
    moved, spread = alpha * variances / total * offset, sigma**2 * variances / total
    if rotations is not None:
        moved = torch.einsum("nkj,kij->nki", moved, rotations)
        spread = torch.einsum("nkj,kij->nki", spread, rotations**2)
    found = means + moved
    center = (share * found).sum(1, keepdim=True)
    return (share * ((found - center) ** 2 + spread)).sum(1)
