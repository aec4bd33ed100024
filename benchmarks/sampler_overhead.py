"""Time that a sampler adds to each network call, on one thread.

    python benchmarks/sampler_overhead.py

The score is a small MLP with 25 k parameters, on a batch of 16 x 192 in float32. The bare call and all samplers take
turns for 15 rounds of 40 steps. The figures are medians of the CPU time of this thread. The ratio is that of the time
per call of a sampler to the time of a bare call in the same round. For "no draws" a single fixed tensor replaces the
keyed noise, to separate the loop from the generator. The time for the coefficients, which are computed once before the
loop, is reported separately: a run of 80 steps minus a run of 40 steps is the time of 40 steps. The last column is the
total cost of a run of 20 steps without the network.

If diffusers and azula are installed (``pip install -e ".[peers]"``), their loops take turns too, with the same network.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from peers import LOOPS
from torch import Tensor, nn

from scoresde import VPSDE
from scoresde.noise import NoiseSource
from scoresde.samplers import (
    DDIM,
    EDM,
    DPMSolverPlusPlus,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
    UniPC,
)
from scoresde.samplers.exponential import ExponentialMultistep
from scoresde.samplers.fitted import FittedMultistep

STEPS, ROUNDS = 40, 15
SHAPE = (16, 192)


def fitted(steps: int) -> FittedMultistep:
    """A fitted sampler with arbitrary coefficients: they do not affect its time."""
    times, ones = torch.linspace(1.0, 0.01, steps, dtype=torch.float64), torch.ones(steps, dtype=torch.float64)
    return FittedMultistep(times, 1e-3, ones, 0.1 * ones[:, None].expand(steps, 3), torch.zeros(SHAPE[1]), 0.5)


class FixedNoise(NoiseSource):
    """The same tensor for every draw."""

    def normal(self, event_shape, *, step, purpose, dtype):  # type: ignore[no-untyped-def]
        if not hasattr(self, "fixed"):
            object.__setattr__(self, "fixed", super().normal(event_shape, step=0, purpose="fixed", dtype=dtype))
        return self.fixed.clone()


SAMPLERS: dict[str, tuple[Callable[[int], Sampler], bool]] = {
    "DPM-Solver++(2M)": (lambda n: DPMSolverPlusPlus(n, denoise=False), False),
    "DPM-Solver++(3M)": (lambda n: ExponentialMultistep(n, 3, start_order=1, denoise=False), False),
    "UniPC-3": (lambda n: UniPC(n, denoise=False), False),
    "fitted, three slopes": (lambda n: fitted(n), False),
    "EDM's Heun (two calls a step)": (lambda n: EDM(n, denoise=False), False),
    "SDE-DPM-Solver++(2M), no draws": (lambda n: DPMSolverPlusPlus(n, eta=1.0, denoise=False), True),
    "SDE-DPM-Solver++(2M)": (lambda n: DPMSolverPlusPlus(n, eta=1.0, denoise=False), False),
    "DDIM": (lambda n: DDIM(steps=n), False),
    "reverse diffusion, no draws": (lambda n: ReverseDiffusion(steps=n), True),
    "reverse diffusion": (lambda n: ReverseDiffusion(steps=n), False),
    "Euler-Maruyama": (lambda n: EulerMaruyama(steps=n), False),
    "predictor-corrector (two calls a step)": (
        lambda n: PredictorCorrector(ReverseDiffusion(), Langevin(), n),
        False,
    ),
}


def cpu(work: Callable[[], object]) -> float:
    """CPU time of this thread, in seconds."""
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

    def ours(make: Callable[[int], Sampler], fixed: bool, steps: int) -> object:
        noise = (FixedNoise if fixed else NoiseSource).of(0, SHAPE[0])
        return make(steps)(VPSDE(), score, SHAPE, start=x, noise=noise, allow_failed=True)

    rows: dict[str, Callable[[int], object]] = {n: partial(ours, make, fixed) for n, (make, fixed) in SAMPLERS.items()}
    if find_spec("diffusers") and find_spec("azula"):
        rows |= {name: partial(loop, network, x) for name, loop in LOOPS.items()}
    t = torch.ones(SHAPE[0])
    bare: list[float] = []
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rows}
    for round_ in range(ROUNDS + 1):
        for name, run in rows.items():
            calls = STEPS * (2 if "two calls" in name else 1)
            one = cpu(lambda calls=calls: [score(x, t) for _ in range(calls)]) / calls
            short, long = cpu(partial(run, STEPS)), cpu(partial(run, 2 * STEPS))
            if round_ == 0:  # warm-up
                continue
            each = (long - short) / calls
            bare.append(one)
            found[name].append((each - one, each / one, 2 * short - long))
    print(f"bare call: {statistics.median(bare) * 1e6:.0f} us of CPU time")
    print("| sampler | extra us a call | ratio | before, ms | 20 steps, ms |\n|---|---:|---:|---:|---:|")
    for name, values in found.items():
        extra, ratio, before = (statistics.median(column) for column in zip(*values, strict=True))
        whole = before + 20 * (2 if "two calls" in name else 1) * extra
        print(f"| {name} | {extra * 1e6:.0f} | {ratio:.2f} | {before * 1e3:.1f} | {whole * 1e3:.1f} |")


if __name__ == "__main__":
    main()
