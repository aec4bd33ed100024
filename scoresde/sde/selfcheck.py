"""Any linear process held to its own mathematics: `check(process)` is a table of what agrees and what does not, with figures.

Everything is read through the public methods, in float64, on zero and unit vectors: F x + c from `drift`, G from `diffuse`, the
mean A x + b and C = L L^T from `kernel`; c and b are 0 unless the process is shifted. Data is N(m, P_0), whose law at every time
is N(A m + b, A P_0 A^T + C). The checks:

    kernel mean         dA/dt = F A                             integrated from t_0 = T/100
    kernel shift        db/dt = F b + c,  and b near 0 at t = 0
    kernel covariance   dC/dt = F C + C F^T + G G^T
    transition          A_t = A_(t|s) A_s,  b_t = A_(t|s) b_s + b_(t|s),  C_t = A_(t|s) C_s A_(t|s)^T + C_(t|s)
                        and s < u < t composed
    bridge              covariance of x_s given x_t and x_0, by Bayes from kernel and transition
    prior               KL of the law at T from the prior, nats per coordinate, for unit-variance data; 512 draws whitened by it
    conversions         score -> noise -> score, score -> data -> score, and the kernel's own score at A x_0 + L z
    flow and back       Gaussian data carried back from T by the probability flow and by the reverse SDE's moments
    log-likelihood      log p_0 = log p_T + integral of the flow's divergence, for Gaussian data
    noise rises         log_noise increases with t
    shapes and types    float32 and float64 in, the same out; any event rank where the process takes any
    edge times          finite at t_0 and T, refused outside [0, T]

Where a kernel and its SDE disagree, common slips are tried one after the other, and the one that explains the figures is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._validation import expand
from scoresde.sde.base import SDE
from scoresde.sde.kernel import GaussianKernel
from scoresde.sde.linear import LinearSDE
from scoresde.sde.scalar import ScalarSDE
from scoresde.solvers import ScipyODE

TOLERANCE = 1e-6
"""Relative error below which figures agree; the integrations are good to 1e-9."""

PRIOR_LIMIT = 0.05
"""Nats per coordinate above which the prior is not what the kernel tends to."""

_SOLVER = ScipyODE("DOP853", 1e-10, 1e-12)


@dataclass(frozen=True)
class CheckRow:
    """One line: what was checked, its figure, the figure that passes, and a hint where it did not."""

    name: str
    error: float
    limit: float
    hint: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; NaN is not."""
        return self.error <= self.limit


@dataclass(frozen=True)
class CheckReport:
    """All lines of a check. Prints as a table."""

    process: str
    rows: tuple[CheckRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        return all(row.passed for row in self.rows)

    def __str__(self) -> str:
        lines = [self.process, f"{'check':34s} {'figure':>9s} {'limit':>9s}"]
        for row in self.rows:
            verdict = "pass" if row.passed else "FAIL"
            lines.append(
                f"{row.name:34s} {row.error:9.1e} {row.limit:9.1e}  {verdict}" + (f"  {row.hint}" if row.hint else "")
            )
        return "\n".join(lines)


def check(sde: SDE, event_shape: Sequence[int] = (2,)) -> CheckReport:
    """Hold a process to its own mathematics, in seconds on one core.

    sde: a `LinearSDE`; a process without a kernel in closed form raises TypeError, as there is nothing to compare with.
    event_shape: of the events to check on; small, and the process's own where it takes only one.
    """
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"{sde!r} states no kernel: its drift and diffusion have nothing to be compared with")
    subject = Subject(sde, tuple(event_shape))
    rows: list[CheckRow] = []
    for part in (_kernel, _transitions, _prior, _conversions, _gaussian, _noise_rises, _shapes, _edges):
        try:
            rows += part(subject)
        except Exception as problem:  # a check reports; it does not die of what it found
            rows.append(
                CheckRow(part.__name__.strip("_"), math.inf, 0.0, f"raised {type(problem).__name__}: {problem}")
            )
    return CheckReport(f"{sde!r} on events of shape {tuple(event_shape)}", tuple(rows))


class Subject:
    """The process as matrices on flattened states."""

    def __init__(self, sde: LinearSDE, event_shape: tuple[int, ...]) -> None:
        self.sde, self.event_shape = sde, event_shape
        self.shape = sde.state_shape(event_shape)
        self.size = math.prod(self.shape)
        self.unit = torch.eye(self.size, dtype=torch.float64).reshape(self.size, *self.shape)
        self.zero = torch.zeros(1, *self.shape, dtype=torch.float64)
        self.t0 = 0.01 * sde.T
        self.times = [0.1 * sde.T, 0.4 * sde.T, 0.8 * sde.T, sde.T * (1.0 - 1e-6)]

    def matrix(self, images: Tensor) -> Tensor:
        """The matrix whose columns are the images of the unit vectors."""
        return images.detach().reshape(self.size, self.size).mT

    def time(self, t: float) -> Tensor:
        return torch.full((self.size,), t, dtype=torch.float64)

    def affine(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Matrix (D, D) and shift (D,) of an affine function of states."""
        images = function(torch.cat((self.zero, self.unit))).detach().reshape(self.size + 1, self.size)
        return (images[1:] - images[0]).mT, images[0]

    def f(self, t: float) -> Tensor:
        return self.drift(t)[0]

    def drift(self, t: float) -> tuple[Tensor, Tensor]:
        """F (D, D) and c (D,)."""
        return self.affine(lambda x: self.sde.drift(x, torch.full((len(x),), t, dtype=torch.float64)))

    def gg(self, t: float) -> Tensor:
        return self.matrix(self.sde.diffuse_twice(self.unit, self.time(t)))

    def kernel(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        return self.parts(self.sde.kernel(torch.tensor(t, dtype=torch.float64)))

    def step(self, s: float, t: float) -> tuple[Tensor, Tensor, Tensor]:
        return self.parts(
            self.sde.transition(torch.tensor(s, dtype=torch.float64), torch.tensor(t, dtype=torch.float64))
        )

    def parts(self, kernel: GaussianKernel) -> tuple[Tensor, Tensor, Tensor]:
        """A (D, D), b (D,) and C (D, D) of N(A x + b, C)."""
        return *self.affine(kernel.mean), self.matrix(kernel.covariance(self.unit))

    def lifted(self) -> Tensor:
        """The matrix from data to the state's mean at t = 0, (D, d)."""
        event = math.prod(self.event_shape)
        unit = torch.eye(event, dtype=torch.float64).reshape(event, *self.event_shape)
        return self.sde.augment(unit).reshape(event, self.size).mT

    def law(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of x_t for data N(m, diag(p))."""
        event = math.prod(self.event_shape)
        m = torch.linspace(0.2, 0.6, event, dtype=torch.float64)
        p = torch.linspace(0.3, 0.9, event, dtype=torch.float64)
        forward = self.lifted()
        a, b, c = self.kernel(t)
        return a @ forward @ m + b, a @ forward @ (p[:, None] * forward.mT) @ a.mT + c

    def score(self, x: Tensor, t: float) -> Tensor:
        """The exact score of the Gaussian data at states (B, *state)."""
        mean, covariance = self.law(t)
        flat = x.reshape(len(x), self.size)
        return -torch.linalg.solve(covariance, (flat - mean).mT).mT.reshape(x.shape)


def _relative(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-300))


Slopes = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

_SLIPS: tuple[tuple[str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
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
    return vectors @ torch.diag(values.clamp(min=0.0) ** exponent) @ vectors.mT


def _kernel(s: Subject) -> list[CheckRow]:
    """A, b and C integrated by the SDE from t_0, against what the kernel states."""
    plain = ("", lambda f: f, lambda g: g)
    mean, shift, covariance = _integrated(s, plain)
    hint = ""
    if not (mean <= TOLERANCE and covariance <= TOLERANCE):
        hint = _explain(s)
    a, b, _ = s.kernel(1e-5 * s.sde.T)
    start = _off(b, 0.0 * b, a)
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


def _integrated(s: Subject, slip, root: float = 1.0, mean_power: float = 1.0) -> tuple[float, float, float]:  # type: ignore[no-untyped-def]
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
        state, at = _SOLVER.solve(slope, state, at, t).y, t
        a, b, c = stated(t)
        errors = _relative(state[:, :n], a), _off(state[:, n], b, a), _relative(state[:, n + 1 :], c)
        worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    return worst[0], worst[1], worst[2]


def _off(found: Tensor, wanted: Tensor, a: Tensor) -> float:
    """The error of a shift, relative to the largest entry of the shift and of the matrix beside it."""
    return float((found - wanted).abs().max() / torch.maximum(wanted.abs().max(), a.abs().max()))


def _explain(s: Subject) -> str:
    """The slip that makes stated and integrated kernel agree, or where to look."""
    plain = ("", lambda f: f, lambda g: g)
    readings = [(slip[0], slip, 1.0, 1.0) for slip in _SLIPS]
    readings += [
        ("the kernel's standard deviation fits squared: is sigma^2 returned for sigma?", plain, 0.5, 1.0),
        ("the kernel's variance fits squared: is a square root too many in sigma?", plain, 2.0, 1.0),
        ("the kernel's mean fits as a square root: is alpha^2 returned for alpha?", plain, 1.0, 0.5),
        ("the kernel's mean fits squared: is alpha meant where its square root is returned?", plain, 1.0, 2.0),
    ]
    for hint, slip, root, power in readings:
        try:
            mean, _, covariance = _integrated(s, slip, root, power)
            if max(mean, covariance) < 1e-4:
                return hint
        except Exception:  # a reading that cannot be integrated explains nothing
            continue
    return "drift, diffusion and kernel disagree: derive F = d ln alpha / dt and g^2 = d sigma^2 / dt - 2 F sigma^2"


def _transitions(s: Subject) -> list[CheckRow]:
    """Marginal from s to t by the transition, two transitions in a row, and the bridge."""
    early, middle, late = s.times[0], s.times[1], s.times[2]
    (a_s, b_s, c_s), (a_t, b_t, c_t) = s.kernel(early), s.kernel(late)
    a, b, c = s.step(early, late)
    shift = _off(a @ b_s + b, b_t, a_t)
    marginal = max(_relative(a @ a_s, a_t), shift, _relative(a @ c_s @ a.mT + c, c_t))
    (a1, b1, c1), (a2, b2, c2) = s.step(early, middle), s.step(middle, late)
    composed = max(_relative(a2 @ a1, a), _off(a2 @ b1 + b2, b, a), _relative(a2 @ c1 @ a2.mT + c2, c))
    hint = "is the variance of the step sigma_t^2 - a^2 sigma_s^2, with a = alpha_t / alpha_s?"
    if not shift <= TOLERANCE:
        hint = "is the shift of the step b_t - A_(t|s) b_s?"
    times = [torch.tensor(v, dtype=torch.float64) for v in (early, late)]
    ends = [s.sde.kernel(time) for time in times]
    bridged = s.matrix(s.sde.transition(*times).bridged(ends[1], ends[0]).covariance(s.unit))
    wanted = c_s - c_s @ a.mT @ torch.linalg.solve(c_t, a @ c_s)
    bridge = _relative(bridged, wanted)
    if isinstance(s.sde, ScalarSDE):
        x_t, x0 = 0.3 * s.unit[:1] + 0.5, 0.7 * s.unit[:1] - 0.2
        mean, std = s.sde.bridge(x_t, x0, *times)
        flat_t, flat_0 = x_t.reshape(-1), x0.reshape(-1)
        by_bayes = a_s @ flat_0 + c_s @ a.mT @ torch.linalg.solve(c_t, flat_t - a_t @ flat_0)
        bridge = max(bridge, _relative(mean.reshape(-1), by_bayes), _relative(std**2 * torch.ones(1), wanted[:1, 0]))
    return [
        CheckRow("transition carries the marginal", marginal, TOLERANCE, "" if marginal <= TOLERANCE else hint),
        CheckRow("transitions compose", composed, TOLERANCE, "" if composed <= TOLERANCE else hint),
        CheckRow(
            "bridge agrees with Bayes", bridge, TOLERANCE,
            "" if bridge <= TOLERANCE else "are the weights of x_t and x_0 exchanged, or a square missing?",
        ),
    ]  # fmt: skip


def _prior(s: Subject) -> list[CheckRow]:
    """KL(law at T of centred unit-variance data || prior), nats per coordinate; the prior's density and draws."""
    a, b, c = s.kernel(s.sde.T)
    lifted = s.lifted()
    law = a @ lifted @ lifted.mT @ a.mT + c
    root = s.matrix(s.sde.prior_root()(s.unit))
    prior, mean = root @ root.mT, (s.zero + expand(s.sde.prior_mean(), s.zero)).reshape(s.size)
    ratio, off = torch.linalg.solve(prior, law), b - mean
    apart = float(off @ torch.linalg.solve(prior, off)) / (2 * s.size)
    kl = 0.5 * float(ratio.trace() - s.size - torch.linalg.slogdet(ratio)[1]) / s.size + apart
    at = mean + 0.5 * root.sum(1)
    stated = float(s.sde.prior_log_prob(at.reshape(1, *s.shape))[0])
    drawn = s.sde.prior_sample((512, *s.event_shape), dtype=torch.float64).reshape(512, s.size)
    white = torch.linalg.solve(root, (drawn - mean).mT)
    hint = "is prior_std the kernel's standard deviation at T (not its square), and T late enough?"
    if apart > 0.5 * PRIOR_LIMIT:
        hint = "is the prior's mean the kernel's shift at T, and T late enough?"
    return [
        CheckRow("prior, nats per coordinate", kl, PRIOR_LIMIT, "" if kl <= PRIOR_LIMIT else hint),
        CheckRow("prior's density fits", abs(stated - _normal_log_prob(at, mean, prior)), TOLERANCE),
        CheckRow("prior's draws fit, standard errors", float(white.mean(1).abs().max()) * 512**0.5, 6.0),
    ]


def _conversions(s: Subject) -> list[CheckRow]:
    """Each quantity turned into another and back, and the score of the kernel itself."""
    sde, worst, own = s.sde, 0.0, 0.0
    x0 = torch.linspace(-1.0, 1.0, math.prod(s.event_shape), dtype=torch.float64).reshape(1, *s.event_shape)
    z = torch.cos(torch.arange(s.size, dtype=torch.float64)).reshape(1, *s.shape)
    pairs = [(sde.noise_from_score, sde.score_from_noise), (sde.data_from_score, sde.score_from_data)]
    if isinstance(sde, ScalarSDE):
        pairs.append((sde.velocity_from_score, sde.score_from_velocity))
    for t in s.times[:3]:
        time = torch.tensor([t], dtype=torch.float64)
        x = sde.perturb(x0, time, z)
        c = s.kernel(t)[2]
        offset = (x - sde.kernel(time).mean(sde.augment(x0))).reshape(-1)
        wanted = -torch.linalg.solve(c, offset).reshape(x.shape)
        own = max(own, _relative(sde.score_from_noise(x, time, z), wanted))
        own = max(own, _relative(sde.score_from_data(x, time, sde.augment(x0)), wanted))
        own = max(own, _relative(offset @ torch.linalg.solve(c, offset), (z**2).sum()))
        for there, back in pairs:
            worst = max(worst, _relative(back(x, time, there(x, time, wanted)), wanted))
    return [
        CheckRow("conversions invert each other", worst, TOLERANCE),
        CheckRow(
            "conversions agree with the kernel", own, TOLERANCE,
            "" if own <= TOLERANCE else "is it -noise / sigma and (alpha x_0 - x) / sigma^2?",
        ),
    ]  # fmt: skip


def _gaussian(s: Subject) -> list[CheckRow]:
    """Gaussian data: flow and reverse SDE back from T, and the log-likelihood along the flow."""
    n, end = s.size, s.times[-1]
    mean_T, law_T = s.law(end)
    spread = torch.linalg.cholesky(law_T)
    points = torch.cat((mean_T[None], mean_T + spread.mT)).reshape(n + 1, *s.shape)

    def times(t: float, count: int) -> Tensor:
        return torch.full((count,), t, dtype=torch.float64)

    def flow(t: float, x: Tensor) -> Tensor:
        return s.sde.flow_drift(x, times(t, len(x)), s.score(x, t))

    back = _SOLVER.solve(flow, points, end, s.t0).y.reshape(n + 1, n)
    mean_0, law_0 = s.law(s.t0)
    moved = (back[1:] - back[:1]).mT
    error = max(_relative(back[0], mean_0), _relative(moved @ moved.mT, law_0))

    def reverse(t: float, state: Tensor) -> Tensor:
        m, p = state[:1], state[1:]
        lift = torch.cat((m, m + torch.eye(n, dtype=torch.float64))).reshape(n + 1, *s.shape)
        drift = s.sde.reverse_drift(lift, times(t, n + 1), s.score(lift, t)).reshape(n + 1, n)
        r = (drift[1:] - drift[:1]).mT
        return torch.cat((drift[:1], r @ p + p @ r.mT - s.gg(t)))

    moments = _SOLVER.solve(reverse, torch.cat((mean_T[None], law_T)), end, s.t0).y
    by_sde = max(_relative(moments[0], mean_0), _relative(moments[1:], law_0))

    def with_divergence(t: float, state: Tensor) -> Tensor:
        x = state[:, :n].reshape(1, *s.shape)
        around = torch.cat((x, x + s.unit))
        drift = flow(t, around).reshape(n + 1, n)
        return torch.cat((drift[:1], (drift[1:] - drift[:1]).trace().reshape(1, 1)), dim=1)

    start = (mean_0 + 0.7 * torch.linalg.cholesky(law_0).sum(1)).reshape(1, n)
    state = _SOLVER.solve(with_divergence, torch.cat((start, torch.zeros(1, 1)), dim=1), s.t0, end).y
    found = _normal_log_prob(state[0, :n], mean_T, law_T) + float(state[0, n])
    wanted = _normal_log_prob(start[0], mean_0, law_0)
    return [
        CheckRow("Gaussian data back by the flow", error, 10 * TOLERANCE),
        CheckRow("Gaussian data back by the reverse SDE", by_sde, 10 * TOLERANCE),
        CheckRow("log-likelihood of Gaussian data", abs(found - wanted), 10 * TOLERANCE),
    ]


def _normal_log_prob(x: Tensor, mean: Tensor, covariance: Tensor) -> float:
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (x - mean)[:, None], upper=False)
    log_det = factor.diagonal().log().sum()
    return float(-0.5 * (white**2).sum() - log_det - 0.5 * len(x) * math.log(2.0 * math.pi))


def _noise_rises(s: Subject) -> list[CheckRow]:
    """ln(noise / signal) must rise: the share of times at which it does not."""
    t = torch.linspace(s.t0, s.times[-1], 200, dtype=torch.float64)
    falls = float((s.sde.log_noise(t).diff() <= 0).double().mean())
    return [CheckRow("noise to signal rises", falls, 0.0, "" if falls == 0 else "alpha / sigma must fall at all times")]


def _shapes(s: Subject) -> list[CheckRow]:
    """Shapes and types of all that takes a state, in both types; float32 against float64."""
    problems: list[str] = []
    worst = 0.0
    shapes = [s.event_shape] + ([(), (3,), (2, 3), (1, 2, 3)] if isinstance(s.sde, ScalarSDE) else [])
    for shape in shapes:
        results = {}
        for dtype in (torch.float64, torch.float32):
            x0 = torch.linspace(-1, 1, 2 * math.prod(shape)).to(dtype).reshape(2, *shape)
            t = torch.tensor([0.3 * s.sde.T, 0.7 * s.sde.T], dtype=dtype)
            z = torch.ones(2, *s.sde.state_shape(shape), dtype=dtype)
            x = s.sde.perturb(x0, t, z)
            made = {
                "perturb": x, "drift": s.sde.drift(x, t),
                "diffuse": s.sde.diffuse(z, t), "diffuse_twice": s.sde.diffuse_twice(z, t),
                "noise_from_score": s.sde.noise_from_score(x, t, z), "data_from_score": s.sde.data_from_score(x, t, z),
                "prior_sample": s.sde.prior_sample((2, *shape), dtype=dtype),
            }  # fmt: skip
            for name, value in made.items():
                if value.shape != z.shape or value.dtype != dtype:
                    problems.append(f"{name} gives {tuple(value.shape)}, {value.dtype} for {tuple(z.shape)}, {dtype}")
            results[dtype] = made
        for name, exact in results[torch.float64].items():
            worst = max(worst, _relative(results[torch.float32][name].double(), exact))
    return [
        CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else ""),
        CheckRow("float32 against float64", worst, 1e-4),
    ]


def _edges(s: Subject) -> list[CheckRow]:
    """Finite at both ends, and refused beyond them."""
    problems = []
    for t in (1e-5 * s.sde.T, s.sde.T):
        parts = (*s.kernel(t), *s.drift(t), s.gg(t))
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            problems.append(f"not finite at t={t:g}")
    for t in (-0.1 * s.sde.T, 1.1 * s.sde.T, math.nan):
        try:
            s.sde.kernel(torch.tensor(t, dtype=torch.float64))
            problems.append(f"t={t:g} is taken, and [0, {s.sde.T:g}] is allowed: call self.check_time(t)")
        except ValueError:
            pass
    return [CheckRow("edge times", float(len(problems)), 0.0, problems[0] if problems else "")]
