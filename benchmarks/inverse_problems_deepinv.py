"""deepinv's methods on the problems of ``benchmarks/inverse_problems.py``, with the same exact scores.

deepinv needs torchvision, which does not load with the CPU build of torch; tests/interop/torchvision_operators.py declares what
its import expects. An environment that shares the packages of this project, without another torch:

    python -m venv peers
    python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > peers/lib/python3.11/site-packages/shared.pth
    peers/bin/pip install --no-deps deepinv==0.5.0 torchvision==0.29.1 torchmetrics==1.9.0
    peers/bin/pip install --no-deps lightning-utilities natsort hdf5storage h5py
    peers/bin/python benchmarks/inverse_problems_deepinv.py [--file inverse_problems.jsonl]

Ancestral and DDIM solvers of deepinv have a uniform grid of times, as ours. DDRM has no process: its noise levels are geometric,
from 50 to .01.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.inverse_problems import SCALES, STEPS, Results
from benchmarks.posterior_problems import COUNT, Problem, problems
from scoresde.sde import EDMSDE
from tests.interop import torchvision_operators

torchvision_operators.declare()
import deepinv  # noqa: E402
from deepinv import sampling  # noqa: E402

NAMES = {"deepinv PiGDM": "PiGDMDataFidelity", "deepinv moment matching": "MomentMatchingDataFidelity"}


class Denoiser(deepinv.models.Denoiser):  # type: ignore[misc]
    """E[x_0 | x_0 + sigma z] of a prior, for states with the shape of an image.

    Args:
        problem: The problem.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.event, self.evaluations = problem.prior.event_shape, 0
        self.score = problem.prior.score(EDMSDE(sigma_min=1e-4, sigma_max=500.0))

    def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
        self.evaluations += 1
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1).expand(len(x))
        states = x.reshape(len(x), *self.event)
        score = self.score(states, level)
        return x + level.reshape(-1, 1, 1, 1) ** 2 * score.reshape(x.shape)


def physics(problem: Problem) -> Any:
    """The operator by its singular value decomposition, with all right singular vectors, which DDRM needs."""
    event = problem.prior.event_shape
    d, image = int(np.prod(event)), (1, 1, *event) if len(event) == 1 else event
    matrix = problem.operator(torch.eye(d).reshape(d, *event)).flatten(1).mT
    measurement = problem.y.shape[1:]
    u, s, vt = torch.linalg.svd(matrix)
    rank = int((s > 1e-6).sum())
    u, values = u[:, :rank], torch.cat((s[:rank], torch.zeros(d - rank)))
    return deepinv.physics.DecomposablePhysics(
        U=lambda z: (z[:, :rank] @ u.mT).reshape(len(z), *measurement),
        U_adjoint=lambda y: torch.nn.functional.pad(y.flatten(1) @ u, (0, d - rank)),
        V=lambda z: (z @ vt).reshape(len(z), *image),
        V_adjoint=lambda x: x.flatten(1) @ vt.mT,
        mask=values[None],
        img_size=image,
        noise_model=deepinv.physics.GaussianNoise(problem.noise_std),
    )


def run(problem: Problem, process: str, sampler: str, steps: int, method: str, scale: float) -> dict[str, Any]:
    """Samples of all measurements of a problem: their errors, and what they cost."""
    begin, denoiser, model = time.process_time(), Denoiser(problem), physics(problem)
    event, y = problem.prior.event_shape, problem.rows
    shape = (len(y), 1, 1, *event) if len(event) == 1 else (len(y), *event)
    torch.manual_seed(7)
    if method == "deepinv DDRM":
        samples = sampling.DDRM(denoiser, sigmas=np.geomspace(50.0, 0.01, steps))(y, model)
    else:
        sde_class = sampling.VariancePreservingDiffusion if process == "VP" else sampling.VarianceExplodingDiffusion
        levels = {} if process == "VP" else {"sigma_min": 0.01, "sigma_max": 50.0}
        solver_class = sampling.DDPMSolver if sampler == "ancestral" else sampling.DDIMSolver
        solver = solver_class(timesteps=torch.linspace(1.0, 0.0, steps + 1), rng=torch.Generator())
        if method == "deepinv DPS, best step":
            fidelity = sampling.DPSDataFidelity(weight=scale)
        elif method == "deepinv DPS, annealed":
            fidelity = sampling.DPSDataFidelity(guidance="annealed")
        else:
            fidelity = getattr(sampling, NAMES[method])(cg_max_iter=5)
        sde = sde_class(alpha=1.0, **levels)
        sampler_ = sampling.PosteriorDiffusion(fidelity, denoiser, sde, solver, minus_one_one=False)
        samples = sampler_(y, model, x_init=shape, seed=7)
    seconds = time.process_time() - begin
    errors = problem.errors(samples.detach().float().reshape(COUNT, problem.each, *event))
    return errors | {"seconds": seconds, "evaluations": denoiser.evaluations, "scale": scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=Path("inverse_problems.jsonl"))
    parser.add_argument("--problems", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.file)
    print(f"deepinv {deepinv.__version__}")
    methods = ("deepinv DPS, best step", "deepinv DPS, annealed", *NAMES)
    for steps in (50, *(n for n in STEPS if n != 50)):
        for problem in problems():
            if options.problems and problem.name not in options.problems:
                continue
            cases = [(m, p, s) for m in methods for p in ("VP", "VE") for s in ("DDIM", "ancestral")]
            for method, process, sampler in [*cases, ("deepinv DDRM", "VE", "own")]:
                add(results, problem, process, sampler, steps, method)


def add(results: Results, problem: Problem, process: str, sampler: str, steps: int, method: str) -> None:
    """Add a result to the file, unless it has it; of DPS that with the best scale at 50 steps, as for ours."""
    key = {"problem": problem.name, "process": process, "sampler": sampler, "steps": steps, "method": method}
    if results.find(**key) is not None:
        return
    scale = 1.0
    if method == "deepinv DPS, best step":
        found = {}
        for one in SCALES:
            tried = key | {"method": "deepinv DPS", "sampler": "ancestral", "steps": 50, "scale": one}
            row = results.find(**tried)
            if row is None:
                row = tried | run(problem, process, "ancestral", 50, method, one)
                results.add(row)
            found[one] = row["sw"]
        scale = min(found, key=lambda one: found[one])
    results.add(key | run(problem, process, sampler, steps, method, scale))


if __name__ == "__main__":
    main()
