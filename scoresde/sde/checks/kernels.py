"""The kernel against drift and diffusion, two times against one, and the slip that would explain a difference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde.checks.report import TOLERANCE, CheckRow
from scoresde.sde.checks.subject import SOLVER, Subject, off, relative
from scoresde.sde.scalar import ScalarSDE

Slip = tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""A hint, and what would undo the slip in the drift and in g g^T."""

_PLAIN: Slip = ("", lambda f: f, lambda g: g)
_SLIPS: tuple[Slip, ...] = (
    ("g^2 is twice what the kernel needs: is a factor 2 in g^2 too many?", lambda f: f, lambda g: 0.5 * g),
    ("g^2 is half of what the kernel needs: is a factor 2 in g^2 missing?", lambda f: f, lambda g: 2.0 * g),
    ("g fits where g^2 is meant: is a square root missing in diffusion?", lambda f: f, lambda g: _power(g, 0.5)),
    ("g^2 fits where g is meant: is there a square root too many in diffusion?", lambda f: f, lambda g: g @ g),
    ("the drift is twice what the kernel needs: is a factor 1/2 missing?", lambda f: 0.5 * f, lambda g: g),
    (
        "the drift is half of what the kernel needs: is alpha there where alpha^2 is meant?",
        lambda f: 2.0 * f,
        lambda g: g,
    ),
    ("the drift has the wrong sign", lambda f: -f, lambda g: g),
)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    out: Tensor = vectors @ torch.diag(values.clamp(min=0.0) ** exponent) @ vectors.mT
    return out


def kernel(s: Subject) -> list[CheckRow]:
    """A, b and C integrated by the SDE from t_0, against what the kernel states."""
    mean, shift, covariance = _integrated(s, _PLAIN)
    hint = ""
    if not (mean <= TOLERANCE and covariance <= TOLERANCE):
        hint = _explain(s)
    a, b, _ = s.kernel(1e-5 * s.sde.T)
    start = off(b, 0.0 * b, a)
    lost = (
        "" if shift <= TOLERANCE else "is c(t) in the drift, and its integral int A_(t|r) c(r) dr in the kernel's mean?"
    )
    return [
        CheckRow("kernel mean from the drift", mean, TOLERANCE, hint if mean > TOLERANCE else ""),
        CheckRow("kernel shift from the drift", shift, TOLERANCE, hint or lost if not shift <= TOLERANCE else ""),
        CheckRow("kernel covariance from the SDE", covariance, TOLERANCE, hint if not covariance <= TOLERANCE else ""),
        CheckRow(
            "kernel shift at t = 0", start, 0.1,
            "" if start <= 0.1 else "data is moved at once: is the kernel's mean m_t + A (x_0 - m_0)?",
        ),
    ]  # fmt: skip


def _integrated(s: Subject, slip: Slip, root: float = 1.0, mean_power: float = 1.0) -> tuple[float, float, float]:
    """Worst relative errors of A, b and C; ``root`` and ``mean_power`` reread the stated C and A as powers of the true ones."""
    _, on_f, on_g = slip
    n = s.size

    def stated(t: float) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = s.kernel(t)
        return (_power(a, mean_power) if mean_power != 1.0 else a), b, (_power(c, root) if root != 1.0 else c)

    def slope(t: float, state: Tensor) -> Tensor:
        (f, push), gg = map(on_f, s.drift(t)), on_g(s.gg(t))
        a, b, c = state[:, :n], state[:, n], state[:, n + 1 :]
        return torch.cat((f @ a, (f @ b + push)[:, None], f @ c + c @ f.mT + gg), dim=1)

    def together(t: float) -> Tensor:
        a, b, c = stated(t)
        return torch.cat((a, b[:, None], c), dim=1)

    state, at, worst = together(s.t0), s.t0, [0.0, 0.0, 0.0]
    for t in s.times:
        a, b, c = stated(t)
        # A in units of its end, which may be 1e-5: the solver's absolute tolerance is for numbers about 1
        units = torch.ones(2 * n + 1, dtype=torch.float64)
        units[:n] = a.abs().max().clamp(min=1e-300)
        state, at = SOLVER.solve(slope, state / units, at, t).y * units, t
        errors = relative(state[:, :n], a), off(state[:, n], b, a), relative(state[:, n + 1 :], c)
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    return worst[0], worst[1], worst[2]


def _explain(s: Subject) -> str:
    """The slip that makes stated and integrated kernel agree, or where to look."""
    readings = [(slip[0], slip, 1.0, 1.0) for slip in _SLIPS]
    readings += [
        ("the kernel's standard deviation fits squared: is sigma^2 returned for sigma?", _PLAIN, 0.5, 1.0),
        ("the kernel's variance fits squared: is a square root too many in sigma?", _PLAIN, 2.0, 1.0),
        ("the kernel's mean fits as a square root: is alpha^2 returned for alpha?", _PLAIN, 1.0, 0.5),
        ("the kernel's mean fits squared: is alpha meant where its square root is returned?", _PLAIN, 1.0, 2.0),
    ]
    for hint, slip, root, power in readings:
        try:
            mean, _, covariance = _integrated(s, slip, root, power)
            if max(mean, covariance) < 1e-4:
                return hint
        except Exception:  # a reading that cannot be integrated explains nothing
            continue
    return "drift, diffusion and kernel disagree: derive F = d ln alpha / dt and g^2 = d sigma^2 / dt - 2 F sigma^2"


def transitions(s: Subject) -> list[CheckRow]:
    """Marginal from s to t by the transition, two transitions in a row, and q(x_s | x_t, x_0)."""
    early, middle, late = s.times[0], s.times[1], s.times[2]
    (a_s, b_s, c_s), (a_t, b_t, c_t) = s.kernel(early), s.kernel(late)
    a, b, c = s.step(early, late)
    shift = off(a @ b_s + b, b_t, a_t)
    marginal = max(relative(a @ a_s, a_t), shift, relative(a @ c_s @ a.mT + c, c_t))
    (a1, b1, c1), (a2, b2, c2) = s.step(early, middle), s.step(middle, late)
    composed = max(relative(a2 @ a1, a), off(a2 @ b1 + b2, b, a), relative(a2 @ c1 @ a2.mT + c2, c))
    hint = "is the variance of the step sigma_t^2 - a^2 sigma_s^2, with a = alpha_t / alpha_s?"
    if not shift <= TOLERANCE:
        hint = "is the shift of the step b_t - A_(t|s) b_s?"
    times = [torch.tensor(v, dtype=torch.float64) for v in (early, late)]
    ends = [s.sde.kernel(time) for time in times]
    found = s.matrix(s.sde.transition(*times).with_posterior_noise(ends[1], ends[0]).covariance(s.unit))
    wanted = c_s - c_s @ a.mT @ torch.linalg.solve(c_t, a @ c_s)
    posterior = relative(found, wanted)
    x_t, x0 = 0.3 * s.unit[:1] + 0.5, 0.7 * s.sde.extract_data(s.unit[:1]) - 0.2
    flat_t, flat_0 = x_t.reshape(-1), s.sde.embed_data(x0).reshape(-1)
    by_bayes = a_s @ flat_0 + b_s + c_s @ a.mT @ torch.linalg.solve(c_t, flat_t - a_t @ flat_0 - b_t)
    posterior = max(posterior, relative(s.sde.posterior_mean(x_t, x0, *times).reshape(-1), by_bayes))
    if isinstance(s.sde, ScalarSDE):
        mean, std = s.sde.posterior(x_t, x0, *times)
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
