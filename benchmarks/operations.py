"""Numbers of tensor operations and synchronizations in samplers, training loss and likelihood, counted on a CPU.

    python benchmarks/operations.py

On a GPU each operation costs a kernel launch of about 5 us, and each ``.item()``, ``float(tensor)`` or ``bool(tensor)``
waits for the device. The operations of a step are the difference between runs with 40 and 20 steps, divided by 20. The
score counts as one operation, which is subtracted. The set-up is the rest of a run: grid, coefficients, checks and
result. The start and the noise of all steps are given here. The last column is the set-up with both drawn, which are
evaluations of the keyed generator with about 150 operations each. The waits of the set-up are mostly for tensors on the
CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from scoresde import VPSDE, ScoreModel, log_likelihood
from scoresde import samplers as S
from scoresde.losses import DenoisingScoreMatching
from scoresde.networks import MLP
from scoresde.noise import NoiseSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.counting import counted

SHAPE = (4, 3, 8, 8)
EVALUATIONS = {"EDM's Heun": 2, "predictor-corrector": 2}
"""Number of evaluations in a step, if it is not one."""

SAMPLERS: dict[str, Callable[[int], S.Sampler]] = {
    "Euler-Maruyama": lambda n: S.EulerMaruyama(steps=n),
    "reverse diffusion": lambda n: S.ReverseDiffusion(steps=n),
    "ancestral": lambda n: S.Ancestral(steps=n),
    "predictor-corrector": lambda n: S.PredictorCorrector(S.ReverseDiffusion(), S.Langevin(), steps=n),
    "Langevin": lambda n: S.PredictorCorrector(None, S.Langevin(), steps=n),
    "DDIM": lambda n: S.DDIM(steps=n),
    "DPM-Solver++(2M)": lambda n: S.DPMSolverPlusPlus(n),
    "SDE-DPM-Solver++(2M)": lambda n: S.DPMSolverPlusPlus(n, eta=1.0),
    "UniPC": lambda n: S.UniPC(n),
    "EDM's Heun": lambda n: S.EDM(n),
}


class Fixed(NoiseSource):
    """The same tensor for every draw."""

    def normal(self, event_shape, *, step, purpose, dtype):  # type: ignore[no-untyped-def]
        return _Z


_Z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A score of one operation."""
    return -x


def of_step(name: str, low: int = 20, high: int = 40, *, drawn: bool = False) -> tuple[float, float, float, float]:
    """Operations and waits of a step without the score, and those of the set-up; ``drawn``: with start and noise."""
    sde, make = VPSDE(), SAMPLERS[name]

    def runs(steps: int) -> tuple[int, int]:
        sampler = make(steps)
        given = {} if drawn else {"start": _Z, "noise": Fixed.of(0, SHAPE[0])}
        counts = counted(lambda: sampler(sde, score, SHAPE, **given))
        return counts.operations, counts.waits

    runs(low)
    (a, waits_a), (b, waits_b) = runs(low), runs(high)
    step, waits = (b - a) / (high - low), (waits_b - waits_a) / (high - low)
    return step - EVALUATIONS.get(name, 1), waits, a - low * step, waits_a - low * waits


def main() -> None:
    """Print the table."""
    print("| | operations a step | waits | set-up | waits | set-up with draws |\n|---|---:|---:|---:|---:|---:|")
    for name in SAMPLERS:
        values = (*of_step(name), of_step(name, drawn=True)[2])
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    model, loss, x = ScoreModel(MLP((192,)), VPSDE()), DenoisingScoreMatching(VPSDE()), torch.randn(16, 192)
    network = counted(lambda: model.network(x, torch.zeros(16))).operations
    found = counted(lambda: loss(model, x))
    print(f"training loss: {found.operations - network} operations without the network, {found.waits} waits")
    found = counted(lambda: log_likelihood(VPSDE(), score, torch.randn(4, 8)))
    print(f"log_likelihood: {found.operations} operations, {found.waits} waits")


if __name__ == "__main__":
    main()
