"""Monotonicity of the noise, shapes and types, and edge times."""

from __future__ import annotations

import math

import torch

from scoresde.sde.checks.dense import DenseProcess, relative
from scoresde.sde.checks.report import CheckRow
from scoresde.sde.scalar import ScalarSDE


def coefficients(process: DenseProcess) -> list[CheckRow]:
    """One failed row for each method of t of a scalar process that does not return a tensor: ``return 5.0``."""
    sde, rows = process.sde, list[CheckRow]()
    if not isinstance(sde, ScalarSDE):
        return rows
    for name in ("alpha", "sigma", "drift_coefficient", "diffusion"):
        value = getattr(sde, name)(torch.tensor([0.3 * sde.T, 0.7 * sde.T], dtype=torch.float64))
        if not isinstance(value, torch.Tensor):
            hint = f"it returns a {type(value).__name__}: give a tensor of the shape of t, value * torch.ones_like(t)"
            rows.append(CheckRow(f"{name} returns a tensor", 1.0, 0.0, hint))
    return rows


def noise_rises(process: DenseProcess) -> list[CheckRow]:
    """Share of times at which ln(noise / signal) does not increase."""
    t = torch.linspace(process.t0, process.times[-1], 200, dtype=torch.float64)
    falls = float((process.sde.log_noise(t).diff() <= 0).double().mean())
    return [
        CheckRow(
            "noise-to-signal ratio increases",
            falls,
            0.0,
            "" if falls == 0 else "alpha / sigma must decrease at all times",
        )
    ]


def shapes(process: DenseProcess) -> list[CheckRow]:
    """Shapes and types of all methods that take a state, in float32 and float64, and the difference of the two."""
    sde, problems, worst = process.sde, list[str](), 0.0
    shapes = [process.event_shape] + ([(), (3,), (2, 3), (1, 2, 3)] if isinstance(sde, ScalarSDE) else [])
    for shape in shapes:
        results = {}
        for dtype in (torch.float64, torch.float32):
            x0 = torch.linspace(-1, 1, 2 * math.prod(shape)).to(dtype).reshape(2, *shape)
            t = torch.tensor([0.3 * sde.T, 0.7 * sde.T], dtype=dtype)
            z = torch.ones(2, *sde.state_shape(shape), dtype=dtype)
            x = sde.perturb(x0, t, z)
            made = {
                "perturb": x,
                "drift": sde.drift(x, t),
                "apply_diffusion": sde.apply_diffusion(z, t),
                "apply_diffusion_matrix": sde.apply_diffusion_matrix(z, t),
                "noise_from_score": sde.noise_from_score(x, t, z),
                "data_from_score": sde.data_from_score(x, t, z),
                "prior_sample": sde.prior_sample((2, *shape), dtype=dtype),
            }
            for name, value in made.items():
                if value.shape != z.shape or value.dtype != dtype:
                    problems.append(f"{name} gives {tuple(value.shape)}, {value.dtype} for {tuple(z.shape)}, {dtype}")
            results[dtype] = made
        for name, exact in results[torch.float64].items():
            worst = max(worst, relative(results[torch.float32][name].double(), exact))
    return [
        CheckRow("shapes and types", float(len(problems)), 0.0, problems[0] if problems else ""),
        CheckRow("float32 against float64", worst, 1e-4),
    ]


def edges(process: DenseProcess) -> list[CheckRow]:
    """Finite values at both ends, and ValueError outside of [0, T]."""
    problems = []
    for t in (1e-5 * process.sde.T, process.sde.T):
        values = (*process.kernel(t), *process.drift(t), process.gg(t))
        if not all(bool(torch.isfinite(value).all()) for value in values):
            problems.append(f"not finite at t={t:g}")
    for t in (-0.1 * process.sde.T, 1.1 * process.sde.T, math.nan):
        try:
            process.sde.kernel(torch.tensor(t, dtype=torch.float64))
            problems.append(f"t={t:g} is accepted, but only [0, {process.sde.T:g}] is allowed: call self.check_time(t)")
        except ValueError:
            pass
    return [CheckRow("edge times", float(len(problems)), 0.0, problems[0] if problems else "")]
