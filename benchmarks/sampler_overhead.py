"""Time that samplers add to the bare network call, per call, on one thread.

    python benchmarks/sampler_overhead.py

A small MLP of 25 k parameters on a batch of 16 x 192 in float32, as a bare score: what a call takes is the network's time.
The bare call and every sampler take turns, 15 rounds of 40 steps; CPU time of this thread, medians, the ratio of each
sampler's time per call to the bare call's in the same round. "no draws" has the keyed noise replaced by one fixed tensor,
to tell the loop from the generator. The coefficients made before the loop, once for a run, are timed apart: a run of 80
steps less one of 40 is 40 steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scoresde import VPSDE
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    DDIM,
    EDM,
    DPMSolverPlusPlus,
    ExponentialMultistep,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    UniPC,
)

STEPS, ROUNDS = 40, 15
SHAPE = (16, 192)


class FixedNoise(NoiseSource):
    """One draw for all."""

    def normal(self, event_shape, *, step, purpose, dtype):  # type: ignore[no-untyped-def]
        if not hasattr(self, "kept"):
            object.__setattr__(self, "kept", super().normal(event_shape, step=0, purpose="fixed", dtype=dtype))
        return self.kept.clone()


SAMPLERS: dict[str, tuple[Callable[[int], Sampler], bool]] = {
    "DPM-Solver++(2M)": (lambda n: DPMSolverPlusPlus(n, denoise=False), False),
    "DPM-Solver++(3M)": (lambda n: ExponentialMultistep(n, 3, opening=1, denoise=False), False),
    "UniPC-3": (lambda n: UniPC(n, denoise=False), False),
    "EDM's Heun (two calls a step)": (lambda n: EDM(n, denoise=False), False),
    "SDE-DPM-Solver++(2M), no draws": (lambda n: DPMSolverPlusPlus(n, eta=1.0, denoise=False), True),
    "SDE-DPM-Solver++(2M)": (lambda n: DPMSolverPlusPlus(n, eta=1.0, denoise=False), False),
    "DDIM, in predictor-corrector": (lambda n: PredictorCorrector(DDIM(), steps=n), False),
    "reverse diffusion, no draws": (lambda n: PredictorCorrector(ReverseDiffusion(), steps=n), True),
    "reverse diffusion": (lambda n: PredictorCorrector(ReverseDiffusion(), steps=n), False),
}


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this thread."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(192, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 192))
    x = torch.randn(SHAPE, generator=generator)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return network(x)  # type: ignore[no-any-return]

    def run(make: Callable[[int], Sampler], steps: int, fixed: bool) -> float:
        noise = (FixedNoise if fixed else NoiseSource).of(0, SHAPE[0])
        sampler = make(steps)
        return cpu(lambda: sampler(VPSDE(), score, SHAPE, start=x, noise=noise, allow_failed=True))

    t = torch.ones(SHAPE[0])
    bare: list[float] = []
    extra: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    ratio: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    before: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    for round_ in range(ROUNDS + 1):
        for name, (make, fixed) in SAMPLERS.items():
            calls = STEPS * (2 if "two calls" in name else 1)
            one = cpu(lambda calls=calls: [score(x, t) for _ in range(calls)]) / calls
            short, long = run(make, STEPS, fixed), run(make, 2 * STEPS, fixed)
            if round_ == 0:  # warm-up
                continue
            each = (long - short) / calls
            bare.append(one)
            extra[name].append(each - one)
            ratio[name].append(each / one)
            before[name].append(2 * short - long)
    print(f"bare call: {statistics.median(bare) * 1e6:.0f} us of CPU time")
    print(f"{'sampler':34s} {'extra us a call':>16s} {'ratio':>6s} {'before, ms':>11s}")
    for name in SAMPLERS:
        print(
            f"{name:34s} {statistics.median(extra[name]) * 1e6:16.0f} {statistics.median(ratio[name]):6.2f} "
            f"{statistics.median(before[name]) * 1e3:11.1f}"
        )


if __name__ == "__main__":
    main()
