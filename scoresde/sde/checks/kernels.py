"""Kernel compared with drift and diffusion, transitions, the posterior, and diagnosis of common mistakes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde.checks.dense import SOLVER, DenseProcess, relative, shift_error
from scoresde.sde.checks.report import TOLERANCE, CheckRow
from scoresde.sde.scalar import ScalarSDE

Mistake = tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""A hint, and the corrections of the drift and of g g^T that undo the mistake."""

_EXPLAINED = 1e-4
"""Largest error that counts as explained by a mistake. A smaller error is not one of these mistakes."""

_SMALL = "the difference is small: is it rounding of a float32 table, or an integral that is computed numerically?"

_NONE: Mistake = ("", lambda f: f, lambda g: g)
_MISTAKES: tuple[Mistake, ...] = (
    ("g^2 is twice what the kernel needs: is a factor 2 in g^2 too many?", lambda f: f, lambda g: 0.5 * g),
    ("g^2 is half of what the kernel needs: is a factor 2 in g^2 missing?", lambda f: f, lambda g: 2.0 * g),
    ("the square root of g fits: is a square root missing in diffusion?", lambda f: f, lambda g: _power(g, 0.5)),
    ("the square of g fits: is there a square root too many in diffusion?", lambda f: f, lambda g: g @ g),
    ("the drift is twice what the kernel needs: is a factor 1/2 missing?", lambda f: 0.5 * f, lambda g: g),
    (
        "the drift is half of what the kernel needs: is it alpha in place of alpha^2?",
        lambda f: 2.0 * f,
        lambda g: g,
    ),
    ("the drift has the wrong sign", lambda f: -f, lambda g: g),
)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    out: Tensor = vectors @ torch.diag(values.clamp(min=0.0) ** exponent) @ vectors.mT
    return out


def kernel(process: DenseProcess) -> list[CheckRow]:
    """A, b and C by integration of the SDE from t_0, compared with the kernel."""
    mean, shift, covariance = _integrated(process, _NONE)
    hint = ""
    if not (mean <= TOLERANCE and covariance <= TOLERANCE):
        small = max(mean, covariance) < _EXPLAINED
        hint = _SMALL if small else _explain(process)
    a, b, _ = process.kernel(1e-5 * process.sde.T)
    start = shift_error(b, 0.0 * b, a)
    lost = (
        "" if shift <= TOLERANCE else "is c(t) in the drift, and its integral int A_(t|r) c(r) dr in the kernel's mean?"
    )
    return [
        CheckRow("kernel mean from the drift", mean, TOLERANCE, hint if mean > TOLERANCE else ""),
        CheckRow("kernel shift from the drift", shift, TOLERANCE, hint or lost if not shift <= TOLERANCE else ""),
        CheckRow("kernel covariance from the SDE", covariance, TOLERANCE, hint if not covariance <= TOLERANCE else ""),
        CheckRow(
            "kernel shift at t = 0", start, 0.1,
            "" if start <= 0.1 else "the mean differs from the data at t = 0: is the kernel's mean m_t + A (x_0 - m_0)?",
        ),
    ]  # fmt: skip


def _integrated(
    process: DenseProcess, mistake: Mistake, root: float = 1.0, mean_power: float = 1.0
) -> tuple[float, float, float]:
    """Largest relative errors of A, b and C, if the mistake is undone.

    ``root`` and ``mean_power`` replace the C and A of the kernel by these powers of them.
    """
    _, on_f, on_g = mistake
    n = process.size

    def stated(t: float) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = process.kernel(t)
        return (_power(a, mean_power) if mean_power != 1.0 else a), b, (_power(c, root) if root != 1.0 else c)

    def slope(t: float, state: Tensor) -> Tensor:
        (f, push), gg = map(on_f, process.drift(t)), on_g(process.gg(t))
        a, b, c = state[:, :n], state[:, n], state[:, n + 1 :]
        return torch.cat((f @ a, (f @ b + push)[:, None], f @ c + c @ f.mT + gg), dim=1)

    def together(t: float) -> Tensor:
        a, b, c = stated(t)
        return torch.cat((a, b[:, None], c), dim=1)

    state, at, worst = together(process.t0), process.t0, [0.0, 0.0, 0.0]
    for t in process.times:
        a, b, c = stated(t)
        # A is scaled by its end value, which may be 1e-5, because the absolute tolerance of the solver is for numbers of order 1
        units = torch.ones(2 * n + 1, dtype=torch.float64)
        units[:n] = a.abs().max().clamp(min=1e-300)
        state, at = SOLVER.solve(slope, state / units, at, t).y * units, t
        errors = relative(state[:, :n], a), shift_error(state[:, n], b, a), relative(state[:, n + 1 :], c)
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    return worst[0], worst[1], worst[2]


def _explain(process: DenseProcess) -> str:
    """The mistake whose correction makes the kernel and the integrated SDE agree, or a general hint."""
    corrections = [(mistake[0], mistake, 1.0, 1.0) for mistake in _MISTAKES]
    corrections += [
        ("the square root of the kernel's standard deviation fits: is sigma^2 returned for sigma?", _NONE, 0.5, 1.0),
        ("the square of the kernel's variance fits: is there a square root too many in sigma?", _NONE, 2.0, 1.0),
        ("the square root of the kernel's mean fits: is alpha^2 returned for alpha?", _NONE, 1.0, 0.5),
        ("the square of the kernel's mean fits: is the square root of alpha returned for alpha?", _NONE, 1.0, 2.0),
    ]
    for hint, mistake, root, power in corrections:
        try:
            mean, _, covariance = _integrated(process, mistake, root, power)
            if max(mean, covariance) < _EXPLAINED:
                return hint
        except Exception:  # a correction that cannot be integrated is not the explanation
            continue
    return "drift, diffusion and kernel disagree: derive F = d ln alpha / dt and g^2 = d sigma^2 / dt - 2 F sigma^2"


def transitions(process: DenseProcess) -> list[CheckRow]:
    """Marginal at t by the transition from s, composition of two transitions, and the posterior q(x_s | x_t, x_0)."""
    early, middle, late = process.times[0], process.times[1], process.times[2]
    (a_s, b_s, c_s), (a_t, b_t, c_t) = process.kernel(early), process.kernel(late)
    a, b, c = process.step(early, late)
    shift = shift_error(a @ b_s + b, b_t, a_t)
    marginal = max(relative(a @ a_s, a_t), shift, relative(a @ c_s @ a.mT + c, c_t))
    (a1, b1, c1), (a2, b2, c2) = process.step(early, middle), process.step(middle, late)
    composed = max(relative(a2 @ a1, a), shift_error(a2 @ b1 + b2, b, a), relative(a2 @ c1 @ a2.mT + c2, c))
    hint = "is the variance of the step sigma_t^2 - a^2 sigma_s^2, with a = alpha_t / alpha_s?"
    if not shift <= TOLERANCE:
        hint = "is the shift of the step b_t - A_(t|s) b_s?"
    times = [torch.tensor(v, dtype=torch.float64) for v in (early, late)]
    ends = [process.sde.kernel(time) for time in times]
    found = process.matrix(
        process.sde.transition(*times).with_posterior_noise(ends[1], ends[0]).covariance(process.unit)
    )
    wanted = c_s - c_s @ a.mT @ torch.linalg.solve(c_t, a @ c_s)
    posterior = relative(found, wanted)
    x_t, x0 = 0.3 * process.unit[:1] + 0.5, 0.7 * process.sde.extract_data(process.unit[:1]) - 0.2
    flat_t, flat_0 = x_t.reshape(-1), process.sde.embed_data(x0).reshape(-1)
    by_bayes = a_s @ flat_0 + b_s + c_s @ a.mT @ torch.linalg.solve(c_t, flat_t - a_t @ flat_0 - b_t)
    posterior = max(posterior, relative(process.sde.posterior_mean(x_t, x0, *times).reshape(-1), by_bayes))
    if isinstance(process.sde, ScalarSDE):
        mean, std = process.sde.posterior(x_t, x0, *times)
        posterior = max(posterior, relative(mean.reshape(-1), by_bayes))
        posterior = max(posterior, relative(std**2 * torch.ones(1), wanted[:1, 0]))
    return [
        CheckRow("transition carries the marginal", marginal, TOLERANCE, "" if marginal <= TOLERANCE else hint),
        CheckRow("transitions compose", composed, TOLERANCE, "" if composed <= TOLERANCE else hint),
        CheckRow(
            "posterior agrees with Bayes", posterior, TOLERANCE,
            "" if posterior <= TOLERANCE else "are the weights of x_t and x_0 exchanged, or a square missing?",
        ),
    ]  # fmt: skip
