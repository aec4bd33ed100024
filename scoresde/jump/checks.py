"""Self-check of a jump process: ``check(process)`` compares its methods with each other and with the mathematics.

All public methods are evaluated for all states, in float64, and made into matrices: Q(s, t) from ``transition``, R from
``rates``. The checks::

    alpha               alpha(0) = 1, and alpha does not increase
    rate                beta = -d ln alpha / dt, by finite differences
    probabilities       rows of Q(s, t) are >= 0 and sum to 1, Q(t, t) = I, and q(x_t | x_0) = Q(0, t)
    rows of rates       R >= 0 off the diagonal, and rows sum to 0
    rates               dQ(0, t) / dt = Q(0, t) R(t), by finite differences
    Chapman-Kolmogorov  Q(s, t) = Q(s, u) Q(u, t)
    likelihood          q(x_t | x_0) as a function of x_0 is a column of Q(0, t)
    posterior           q(x_s | x_t, x_0) by Bayes' rule
    reverse transition  p(x_s | x_t) is the mean of q(x_s | x_t, x_0) over p(x_0 | x_t)
    ratios              sum_k q(y | k) p(k | x) / q(x | k), and their inverse
    reverse rates       R(t)[y, x] times the ratios, and the derivative of p(x_s | x_t) with respect to s
    prior               E KL(q(x_T | x_0) || prior) in nats, for equal probabilities of x_0; the probabilities sum to 1
    draws               frequencies of ``marginal_sample``, ``prior_sample``, ``reverse_sample`` and ``reverse_leap``, in
                        standard errors; samples do not depend on the batch
    shapes and types    any event shape, float32 logits
    wrong input         times outside of [0, T] and states that do not exist are refused
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scoresde._arguments import checked_arguments
from scoresde._validation import check_number
from scoresde.jump.base import JumpProcess
from scoresde.noise import NoiseSource
from scoresde.sde.checks import CheckReport, CheckRow

TOLERANCE = 1e-8
"""Largest error that passes, for probabilities in float64."""
DIFFERENCE_TOLERANCE = 1e-5
"""Largest relative error that passes, for finite differences."""
DEVIATIONS = 5.5
"""Largest deviation of a frequency that passes, in standard errors. Its probability is 4e-8 for each state."""
DRAWS = 4000
_STATES = 64


class _Tables:
    """The methods of a process as tables over all states."""

    def __init__(self, process: JumpProcess, prior_limit: float) -> None:
        self.process, self.prior_limit = process, prior_limit
        self.s, self.u, self.t = (self.at(f) for f in (0.2, 0.45, 0.7))
        self.all = torch.arange(process.states)[:, None]
        self.data = torch.arange(process.tokens)[:, None]
        steps = torch.arange(process.states * process.tokens, dtype=torch.float64).reshape(process.states, 1, -1)
        self.logits = torch.sin(3.0 * steps)

    def at(self, fraction: float) -> Tensor:
        """A time, ()."""
        return torch.tensor(fraction * self.process.T, dtype=torch.float64)

    def q(self, s: Tensor, t: Tensor) -> Tensor:
        """Q(s, t), (states, states)."""
        return self.process.transition(self.all, s, t).exp()[:, 0]

    def p(self) -> tuple[Tensor, Tensor]:
        """For each x_t: p(x_0 | x_t) and q(x_t | x_0), (states, tokens), restricted to the x_0 that can lead to x_t."""
        column = self.q(self.at(0.0), self.t)[: self.process.tokens].mT
        p = self.logits[:, 0].softmax(-1) * (column > 0)
        return p / p.sum(-1, keepdim=True), column

    def weights(self) -> Tensor:
        """p(x_0 | x_t) / q(x_t | x_0), (states, tokens)."""
        p, column = self.p()
        return torch.where(column > 0, p / torch.where(column > 0, column, 1.0), 0.0)


def _row(name: str, found: Tensor, wanted: Tensor, limit: float = TOLERANCE, hint: str = "") -> CheckRow:
    """A row with the largest error, relative to the largest expected entry if that is above 1."""
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1.0))
    error = error if math.isfinite(error) else math.inf
    return CheckRow(name, error, limit, hint if error > limit else "")


def _schedule(k: _Tables) -> list[CheckRow]:
    schedule = k.process.schedule
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64) * k.process.T
    log_alpha = schedule.log_alpha(t)
    rises = float((log_alpha.diff() > 1e-12).double().mean())
    inner, h = t[5:-5], 1e-5 * k.process.T
    slope = (schedule.log_alpha(inner - h) - schedule.log_alpha(inner + h)) / (2.0 * h)
    back = schedule.time_of_log_alpha(schedule.log_alpha(inner))
    return [
        _row("alpha(0) = 1", schedule.alpha(t[:1]), torch.ones(1, dtype=torch.float64)),
        CheckRow("alpha does not increase", rises, 0.0, "" if rises == 0 else "alpha is the probability of being kept"),
        _row("rate of the schedule", schedule.rate(inner), slope, DIFFERENCE_TOLERANCE, "beta is not -d ln alpha / dt"),
        _row("time of alpha", back / k.process.T, inner / k.process.T, 1e-6),
    ]


def _probabilities(k: _Tables) -> list[CheckRow]:
    q, start = k.q(k.s, k.t), k.at(0.0)
    ones, eye = torch.ones(len(q), dtype=torch.float64), torch.eye(len(q), dtype=torch.float64)
    marginal = k.process.marginal(k.data, k.t).exp()[:, 0]
    return [
        _row("rows of Q sum to 1", q.sum(1), ones),
        _row("Q(t, t) = I", k.q(k.t, k.t), eye),
        _row("marginal", marginal, k.q(start, k.t)[: k.process.tokens], hint="it is not the transition from 0"),
    ]


def _rates(k: _Tables) -> list[CheckRow]:
    process, start = k.process, k.at(0.0)
    rates = process.rates(k.all, k.t)[:, 0]
    h = min(1e-4 * process.T, 1e-2 / float(rates.abs().max()))
    negative = float((-rates + torch.diag(rates.diagonal())).max().clamp(min=0.0))
    slope = (8 * (k.q(start, k.t + h) - k.q(start, k.t - h)) - k.q(start, k.t + 2 * h) + k.q(start, k.t - 2 * h)) / (
        12 * h
    )
    scaled = float(process.schedule.rate(k.t)) * process.generator_columns(k.all)[:, 0].mT
    return [
        CheckRow("rates >= 0", negative, 0.0, "" if negative == 0 else "off the diagonal rates are >= 0"),
        _row("rows of rates sum to 0", rates.sum(1), torch.zeros(len(rates), dtype=torch.float64)),
        _row("columns of rates", scaled, rates, hint="generator_columns is not the transpose of generator_rows"),
        _row("rates", k.q(start, k.t) @ rates, slope, DIFFERENCE_TOLERANCE, "dQ / dt is not Q R"),
    ]


def _composition(k: _Tables) -> list[CheckRow]:
    return [
        _row("Chapman-Kolmogorov", k.q(k.s, k.u) @ k.q(k.u, k.t), k.q(k.s, k.t), hint="Q(s, u) Q(u, t) is not Q(s, t)")
    ]


def _bayes(k: _Tables) -> list[CheckRow]:
    process, start = k.process, k.at(0.0)
    x_t, x0 = (v.reshape(-1, 1) for v in torch.meshgrid(k.all[:, 0], k.data[:, 0], indexing="ij"))
    joint = k.q(start, k.s)[x0[:, 0]] * k.q(k.s, k.t)[:, x_t[:, 0]].mT
    total = joint.sum(1, keepdim=True)
    seen = total[:, 0] > 0
    found = process.posterior(x_t[seen], x0[seen], k.s, k.t).exp()[:, 0]
    posterior = torch.where(total > 0, joint / torch.where(total > 0, total, 1.0), 0.0)
    p, column = k.p()
    mean = (posterior.reshape(process.states, process.tokens, -1) * p[..., None]).sum(1)
    reverse = process.reverse_transition(k.all, k.logits, k.s, k.t).exp()[:, 0]
    return [
        _row("likelihood", process.likelihood(k.all, k.t).exp()[:, 0], column, hint="it is not a column of Q(0, t)"),
        _row("posterior", found, posterior[seen], hint="it is not q(x_t | x_s) q(x_s | x_0) / q(x_t | x_0)"),
        _row("reverse transition", reverse, mean, hint="it is not the mean of the posterior over p(x_0 | x_t)"),
    ]


def _reverse(k: _Tables) -> list[CheckRow]:
    process = k.process
    ratios = k.weights() @ k.q(k.at(0.0), k.t)[: process.tokens]
    rates = (process.rates(k.all, k.t)[:, 0].mT * ratios).fill_diagonal_(0.0)
    rates = rates - torch.diag(rates.sum(1))
    found = process.reverse_rates(k.all, k.logits, k.t)[:, 0]
    h = min(1e-5 * process.T, 1e-3 / float(found.abs().max()))
    near, nearer = (process.reverse_transition(k.all, k.logits, k.t - n * h, k.t).exp()[:, 0] for n in (2, 1))
    slope = (4 * nearer - near - 3 * torch.eye(process.states, dtype=torch.float64)) / (2 * h)
    log_ratios = process.ratios(k.all, k.logits, k.t)
    early = k.at(0.002)  # later, the inverse of some processes amplifies rounding errors
    logits = k.logits[:1] + process.likelihood(k.all, early)  # Bayes' rule for one distribution of x_0
    back = process.logits_from_ratios(k.all, process.ratios(k.all, logits, early), early)
    return [
        _row("ratios", log_ratios.exp()[:, 0], ratios),
        _row("logits from ratios", back.softmax(-1), logits.softmax(-1), 1e-6, "it is not the inverse of ratios"),
        _row("reverse rates", found, rates, hint="they are not R[y, x] p_t(y) / p_t(x)"),
        _row(
            "derivative of the reverse",
            found,
            slope,
            DIFFERENCE_TOLERANCE,
            "reverse_transition does not have these rates",
        ),
    ]


def _prior(k: _Tables) -> list[CheckRow]:
    total = torch.logsumexp(k.process.prior_log_probs(), 0)
    kl = float(k.process.prior_divergence(k.data).mean())
    hint = "alpha(T) is too large, or the prior is not the distribution of x_T" if not kl <= k.prior_limit else ""
    stated, log_p = k.process.prior_log_prob(k.all), k.process.prior_log_probs()
    return [
        _row("prior sums to 1", total, torch.zeros((), dtype=torch.float64)),
        CheckRow("prior, nats per coordinate", kl if math.isfinite(kl) else math.inf, k.prior_limit, hint),
        _row("prior_log_prob", stated.exp(), log_p.exp()),
    ]


def _draws(k: _Tables) -> list[CheckRow]:
    process, noise = k.process, NoiseSource.of(5, DRAWS)
    x0 = torch.arange(process.tokens).expand(DRAWS, -1)
    x = process.marginal_sample(x0, k.t, noise)
    drawn = _deviation(x, process.marginal(k.data, k.t).exp()[:, 0])
    prior = process.prior_sample((DRAWS, 4), noise=noise)
    start = _deviation(prior.reshape(-1, 1), process.prior_log_probs().exp()[None])
    every, logits = k.all[:, 0].expand(DRAWS, -1), k.logits[:, 0].expand(DRAWS, -1, -1)
    back = process.reverse_sample(every, logits, k.s, k.t, noise, step=1)
    reverse = _deviation(back, process.reverse_transition(k.all, k.logits, k.s, k.t).exp()[:, 0])
    rates = process.reverse_rates(k.all, k.logits, k.t)[:, 0].fill_diagonal_(0.0)
    total = rates.sum(1, keepdim=True)
    length = 1.0 / total.max()
    jumps = rates / torch.where(total > 0, total, 1.0) * -torch.expm1(-length * total)
    leaped = process.reverse_leap(every, logits, k.t, length, noise, step=2)
    leap = _deviation(leaped, jumps + torch.diag((-length * total[:, 0]).exp()))
    part = process.marginal_sample(x0[7:20], k.t, NoiseSource.of(5, 13, first=7))
    moved = float((part != x[7:20]).double().mean())
    some = process.reverse_sample(every[7:20], logits[7:20], k.s, k.t, NoiseSource.of(5, 13, first=7), step=1)
    moved = max(moved, float((some != back[7:20]).double().mean()))
    again = float((process.prior_sample((13, 4), noise=NoiseSource.of(5, 13, first=7)) != prior[7:20]).double().mean())
    hint = "the draws do not have the probabilities of marginal" if drawn > DEVIATIONS else ""
    return [
        CheckRow("draws, standard errors", drawn, DEVIATIONS, hint),
        CheckRow(
            "draws of the prior", start, DEVIATIONS, "" if start <= DEVIATIONS else "not those of prior_log_probs"
        ),
        CheckRow(
            "reverse draws", reverse, DEVIATIONS, "" if reverse <= DEVIATIONS else "not those of reverse_transition"
        ),
        CheckRow("draws of leaps", leap, DEVIATIONS, "" if leap <= DEVIATIONS else "not those of reverse_rates"),
        CheckRow(
            "draws by seed and index",
            max(moved, again),
            0.0,
            "" if moved + again == 0 else "sample i depends on the batch",
        ),
    ]


def _deviation(x: Tensor, p: Tensor) -> float:
    """The largest deviation of the frequencies of the columns of x (n, c) from the rows of p (c, states), in standard errors."""
    counts = torch.nn.functional.one_hot(x, p.shape[1]).double().mean(0)
    error = ((p * (1.0 - p)).clamp(min=0.0) / len(x)).sqrt() + 1.0 / len(x)
    found = float(((counts - p).abs() / error).max())
    return found if math.isfinite(found) else math.inf


_Call = Callable[[JumpProcess, Tensor, Tensor, Tensor, Tensor], Tensor]
_CALLS: dict[str, _Call] = {
    "reverse_transition": lambda process, x, logits, s, t: process.reverse_transition(x, logits, s, t),
    "ratios": lambda process, x, logits, s, t: process.ratios(x, logits, t),
    "reverse_rates": lambda process, x, logits, s, t: process.reverse_rates(x, logits, t),
}


def _shapes(k: _Tables) -> list[CheckRow]:
    process, problems, worst = k.process, list[str](), 0.0
    for shape in ((), (3,), (2, 3)):
        size = math.prod(shape)
        x = (torch.arange(2 * size) % process.states).reshape(2, *shape)
        logits = k.logits[x.reshape(-1), 0].reshape(2, *shape, process.tokens)
        s, t = (k.process.T * torch.tensor(pair, dtype=torch.float64) for pair in ((0.1, 0.3), (0.4, 0.9)))
        for name, call in _CALLS.items():
            exact, single = call(process, x, logits, s, t), call(process, x, logits.float(), s, t)
            one = call(process, x[1:], logits[1:], s[1:], t[1:])
            if exact.shape != (2, *shape, process.states) or single.dtype != torch.float32:
                problems.append(f"{name} gives {tuple(exact.shape)}, {single.dtype} for events of shape {shape}")
                continue
            if name == "reverse_transition":
                worst = max(worst, float((exact.exp() - single.double().exp()).abs().max()))
            if not torch.allclose(exact[1:], one, rtol=1e-9, atol=1e-9):
                problems.append(f"{name} of a sample depends on the batch for events of shape {shape}")
    return [
        CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else ""),
        CheckRow("float32 against float64", worst, 1e-4),
    ]


def _refusals(k: _Tables) -> list[CheckRow]:
    process, problems = k.process, list[str]()
    calls: list[tuple[str, Callable[[], object]]] = []
    for fraction in (-0.1, 1.1, math.nan):
        calls.append((f"t={fraction * process.T:g}", partial(process.marginal, k.data, k.at(fraction))))
    calls.append((f"the state {process.states}", lambda: process.transition(k.all + 1, k.s, k.t)))
    calls.append(("the state -1", lambda: process.transition(k.all - 1, k.s, k.t)))
    if process.states > process.tokens:
        calls.append((f"x0={process.tokens}, which is no token,", lambda: process.marginal(k.all, k.t)))
    for name, call in calls:
        try:
            call()
            problems.append(f"{name} is accepted")
        except ValueError:
            pass
    return [CheckRow("wrong input is refused", float(len(problems)), 0.0, problems[0] if problems else "")]


_PARTS = (_schedule, _probabilities, _rates, _composition, _bayes, _reverse, _prior, _draws, _shapes, _refusals)


@checked_arguments
def check(process: JumpProcess, prior_limit: float = 0.01) -> CheckReport:
    """Check that the methods of a jump process agree with each other. It takes less than a second.

    Args:
        process: The process, with at most 64 states.
        prior_limit: Largest E KL(q(x_T | x_0) || prior) that passes, in nats per coordinate, > 0.

    Returns:
        The report. ``report.passed`` is True if all checks passed; ``print(report)`` shows a table with hints.

    Example:
        >>> from scoresde.jump import Absorbing, check
        >>> check(Absorbing(5)).passed
        True
    """
    check_number("prior_limit", prior_limit, above=0.0)
    if process.states > _STATES:
        raise ValueError(f"process={process!r} has {process.states} states: check it with at most {_STATES}")
    rows: list[CheckRow] = []
    tables = _Tables(process, prior_limit)
    for part in _PARTS:
        try:
            with torch.no_grad():
                rows += part(tables)
        except Exception as problem:  # an error in a check is a result of the check
            rows.append(
                CheckRow(part.__name__.lstrip("_"), math.inf, 0.0, f"raised {type(problem).__name__}: {problem}")
            )
    return CheckReport(repr(process), tuple(rows))
