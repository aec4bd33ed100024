"""Two coupled variables with 6 values each, their exact expectations, and the processes of the tests."""

from __future__ import annotations

import itertools
import math

import torch

from scoresde.jump import (
    Absorbing,
    CorrectedSampler,
    DiscretizedGaussian,
    EnumeratedJoint,
    MaskAndReplace,
    NearestNeighbor,
    RateMatrix,
    Remasking,
    TauLeaping,
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


def leap(process, model, x, t, s):
    """ln p(x_s | x_t) of a step of ``TauLeaping`` for states without an order."""
    rates = process.reverse_rates(x, model(x, t), 0.5 * (s + t)).scatter(-1, x[..., None], 0.0)
    total = (t - s) * rates.sum(-1, keepdim=True)
    jumps = -torch.expm1(-total) * rates / rates.sum(-1, keepdim=True).clamp(min=1e-300)
    return jumps.scatter(-1, x[..., None], (-total).exp()).log()


def remask(sampler, process, model, x, t, s):
    """ln p(x_s | x_t) of a step of ``Remasking``."""
    a_s, a_t, sigma = process.schedule.alpha(s), process.schedule.alpha(t), sampler.sigma(process, s, t)
    share = ((a_s - (1 - sigma) * a_t) / (1 - a_t)).clamp(0.0, 1.0)
    filled = torch.cat((share * model(x, t).exp(), (1 - share).expand(*x.shape, 1)), -1)
    mask = torch.nn.functional.one_hot(torch.tensor(process.mask), process.states)
    kept = (1 - sigma) * torch.nn.functional.one_hot(x, process.states) + sigma * mask
    return torch.where(process.masked(x)[..., None], filled, kept).log()


def corrector(process, model, t, u, count=2):
    """The matrix of a corrector step."""
    forward = kernel(process, lambda x: process.transition(x, t, u), count)
    back = kernel(process, lambda x: process.reverse_transition(x, model(x, u), t, u), count)
    return forward @ back.nan_to_num(0.0)


def law(sampler, process, model, x, t, s):
    """ln p(x_s | x_t) of a step of a sampler."""
    if isinstance(sampler, Remasking):
        return remask(sampler, process, model, x, t, s)
    if isinstance(sampler, TauLeaping) and s > 0:
        return leap(process, model, x, t, s)
    return process.reverse_transition(x, model(x, t), s, t)


def sampler_table(sampler, process, model, count=2, known=None):
    """The exact distribution of the samples of a sampler with steps, (tokens, ..., tokens).

    ``known`` is the value of the first of two variables, or None.
    """
    size, corrections = (sampler.size, sampler.corrections) if isinstance(sampler, CorrectedSampler) else (1.0, 0)
    predictor = sampler.predictor if isinstance(sampler, CorrectedSampler) else sampler
    states, times = process.states, predictor.times(process)
    x, p = pairs(states, count), process.prior_log_probs().exp()[pairs(states, count)].prod(1)
    if known is not None:
        p = (
            process.marginal(torch.tensor([[known]]), times[0]).exp()[0, 0][x[:, 0]]
            * process.prior_log_probs().exp()[x[:, 1]]
        )
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        if k and corrections:
            later = (t + size * (times[k - 1] - t)).clamp(max=process.T)
            step = corrector(process, model, t, later, count)
            if known is not None:  # the first variable stays
                same = torch.nn.functional.one_hot(x[:, 0], states).double()
                step = (same[:, :, None] * step.reshape(-1, states, states).sum(1)[:, None]).reshape(len(x), -1)
            for _ in range(corrections):
                p = p @ step
        free = law(predictor, process, model, x, t, s)
        if known is not None:
            free[:, :1] = process.posterior(x[:, :1], torch.full_like(x[:, :1], known), s, t)
        p = p @ kernel(process, lambda _, free=free: free, count).nan_to_num(0.0)
    return p.reshape([states] * count)[(slice(0, process.tokens),) * count]


def wrong_at_the_start(process, model):
    """A model that gives all tokens the same probability if all are masked, and is ``model`` elsewhere."""

    def changed(x, t):
        log_p, hidden = model(x, t), process.masked(x).all(1)
        return torch.where(hidden[:, None, None], -math.log(process.tokens), log_p)

    return changed


def greedy_table(joint):
    """Both variables are drawn, the more probable token is kept, and the other variable is drawn again given it."""
    p = joint.probabilities
    first, second, table = p.sum(1), p.sum(0), torch.zeros_like(p)
    for a, b in itertools.product(range(len(p)), repeat=2):
        if first[a] >= second[b]:
            table[a] += second[b] * p[a]
        else:
            table[:, b] += first[a] * p[:, b]
    return table


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
