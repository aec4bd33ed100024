"""Two coupled variables with 6 values each, their exact expectations, and the processes of the tests."""

from __future__ import annotations

import itertools

import torch

from scoresde.jump import (
    Absorbing,
    DiscretizedGaussian,
    EnumeratedJoint,
    MaskAndReplace,
    NearestNeighbor,
    RateMatrix,
    Uniform,
)

K = 6


def coupled(tokens=K):
    """p(x, y) proportional to exp(-(x - y)^2 / 2) (1 + x)."""
    levels = torch.arange(tokens, dtype=torch.float64)
    table = torch.exp(-0.5 * (levels[:, None] - levels) ** 2) * (1.0 + levels[:, None])
    return EnumeratedJoint(table / table.sum())


def processes(tokens=K):
    rates = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rates -= torch.diag(rates.sum(1))
    return [
        Absorbing(tokens),
        Uniform(tokens),
        MaskAndReplace(tokens, 0.3),
        NearestNeighbor(tokens),
        DiscretizedGaussian(tokens, 1.5),
        RateMatrix(rates),
    ]


def pairs(states, count=2):
    """All states of two variables, or of ``count``, (states^count, count)."""
    return torch.cartesian_prod(*[torch.arange(states)] * count).reshape(-1, count)


def kernel(process, step, count=2):
    """The matrix of a step that draws all variables independently, from log-probabilities (states^count, count, states)."""
    p = step(pairs(process.states, count)).exp()
    table = p[:, 0]
    for i in range(1, count):
        table = (table[:, :, None] * p[:, i, None, :]).reshape(len(p), -1)
    return table


def ancestral_table(process, model, times, count=2):
    """The exact distribution of the samples of ``AncestralSampler`` on a grid, (states, ..., states)."""
    p = process.prior_log_probs().exp()[pairs(process.states, count)].prod(1)
    for t, s in itertools.pairwise(times):
        step = kernel(process, lambda x, s=s, t=t: process.reverse_transition(x, model(x, t), s, t), count)
        p = p @ step.nan_to_num(0.0)
    return p.reshape([process.states] * count)


def total_variation(p, q):
    return 0.5 * float((p - q).abs().sum())


def floor(joint, n):
    """Total variation of n samples that is exceeded with a probability below 1e-6: mean and 5 bounds of the deviation."""
    p = joint.probabilities
    mean = 0.5 * float((2 * p * (1 - p) / torch.pi / n).sqrt().sum())
    return mean + (14.0 / (2 * n)) ** 0.5  # a change of one sample changes it by at most 1/n (McDiarmid)


def frequencies(x, tokens=K):
    counts = torch.bincount(x[:, 0] * tokens + x[:, 1], minlength=tokens**2)
    return counts.double().reshape(tokens, tokens) / len(x)


def expected(process, x0, t, term):
    """E term(x_t) over q(x_t | x_0) for each x_0 (n, 2), by enumeration of x_t; term(x_t, x_0) is (n states^2, 2)."""
    every = pairs(process.states)
    start, x_t = x0.repeat_interleave(len(every), 0), every.repeat(len(x0), 1)
    log_q = process.marginal(start, t).gather(-1, x_t[..., None])[..., 0].sum(1)
    seen, found = log_q.isfinite(), torch.zeros_like(log_q)
    found[seen] = log_q[seen].exp() * term(x_t[seen], start[seen]).sum(1)
    return found.reshape(len(x0), -1).sum(1)
