"""Samplers of other libraries, with the same score, start and nodes as ours.

    pip install -c constraints.txt -e ".[peers]"

With y = x / alpha and s = sigma / alpha, the probability flow of every scalar process is dy/ds = eps(y, s). Each peer
solves this equation on nodes s_0 > ... > s_(n-1). The last node belongs to t_min, where the last step is E[x_0 | x].
The schedulers of diffusers get these nodes and a zero as their ``sigmas``, in the form that ``set_timesteps`` gives
them. The samplers of azula get a schedule through the nodes, and the mean of their denoiser at the last one.
``Flow.calls`` counts the evaluations of the score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.sde import ScalarSDE, Score


class Flow:
    """eps(y, s) of a score under a process, for a number s. It counts its calls."""

    def __init__(self, sde: ScalarSDE, score: Score, dtype: torch.dtype) -> None:
        self.sde, self.score, self.dtype, self.calls = sde, score, dtype, 0

    def __call__(self, y: Tensor, s: float) -> Tensor:
        self.calls += 1
        t = self.sde.time_of_log_noise(torch.tensor(s, dtype=torch.float64).log())
        alpha, sigma = float(self.sde.alpha(t)), float(self.sde.sigma(t))
        x = (y * alpha).to(self.dtype)
        return self.score(x, t.to(self.dtype).expand(len(x))).to(y.dtype) * -sigma


@dataclass(frozen=True)
class Peer:
    """A sampler of another library.

    Attributes:
        name: Its name.
        run: Function (flow, s (n,), y) -> E[x_0].
        nodes: Number of nodes for a number of evaluations.
    """

    name: str
    run: Callable[[Flow, Tensor, Tensor], Tensor]
    nodes: Callable[[int], int] = lambda calls: calls


def _diffusers(
    kind: str, scaled: bool, lands: bool = False, **options: Any
) -> Callable[[Flow, Tensor, Tensor], Tensor]:
    """A scheduler of diffusers.

    Args:
        kind: Name of its class.
        scaled: Whether its state is y / sqrt(1 + s^2) instead of y.
        lands: Whether it cannot step to 0. Then E[x_0 | x] at the last node is computed here.
        options: Arguments of the class.
    """

    def run(flow: Flow, s: Tensor, y: Tensor) -> Tensor:
        import diffusers

        scheduler = getattr(diffusers, kind)(prediction_type="epsilon", **options)
        scheduler.set_timesteps(len(s))
        sigmas = torch.cat((s, torch.zeros(1, dtype=s.dtype))).float()
        if kind.startswith("Heun"):  # every node but the first and the last occurs twice
            sigmas = torch.cat((sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]))
        count = len(sigmas) - 1
        scheduler.sigmas, scheduler.timesteps = sigmas, torch.arange(count, dtype=torch.float32)
        scheduler.set_begin_index(0)
        scheduler.is_scale_input_called = True

        def state(x: Tensor, at: float) -> Tensor:
            return x.to(y) * (1.0 + at**2) ** 0.5 if scaled else x.to(y)

        x = y / (1.0 + float(s[0]) ** 2) ** 0.5 if scaled else y
        for k in range(count - lands):
            at = float(sigmas[k])
            x = scheduler.step(flow(state(x, at), at).float(), scheduler.timesteps[k], x.float(), return_dict=False)[0]
        return (
            x.to(y) if not lands else state(x, float(s[-1])) - float(s[-1]) * flow(state(x, float(s[-1])), float(s[-1]))
        )

    return run


def _azula(kind: str, **options: Any) -> Callable[[Flow, Tensor, Tensor], Tensor]:
    """A sampler of azula by the name of its class. The denoiser at the last node is the last evaluation."""

    def run(flow: Flow, s: Tensor, y: Tensor) -> Tensor:
        from azula import denoise, noise, sample

        class Nodes(noise.Schedule):  # type: ignore[misc]
            """alpha = (1 + s^2)^(-1/2) and sigma = s alpha, with the nodes at equally spaced times."""

            def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
                place = (1.0 - t.double().numpy()) * (len(s) - 1)
                ratio = torch.as_tensor(np.exp(np.interp(place, np.arange(len(s)), s.log().numpy()))).to(t)
                alpha = (1.0 + ratio**2).rsqrt()
                return alpha, ratio * alpha

        class Denoiser(denoise.Denoiser):  # type: ignore[misc]
            """E[x_0 | x]."""

            schedule = Nodes()

            def __init__(self) -> None:
                super().__init__()

            def forward(self, x: Tensor, t: Tensor) -> Any:
                alpha, sigma = (float(v) for v in self.schedule(t))
                ratio = sigma / alpha
                state = x / alpha
                return denoise.DiracPosterior(state - ratio * flow(state, ratio))

        denoiser = Denoiser()
        sampler = getattr(sample, kind)(denoiser, steps=len(s) - 1, silent=True, dtype=torch.float64, **options)
        alpha = (1.0 + float(s[0]) ** 2) ** -0.5
        x = sampler(y * alpha)
        return denoiser(x, torch.tensor(0.0, dtype=torch.float64)).mean  # type: ignore[no-any-return]

    return run


def half(calls: int) -> int:
    """Number of nodes of a method with two evaluations per step and one at the end."""
    return (calls + 1) // 2


PEERS = [
    Peer("diffusers Euler (DDIM)", _diffusers("EulerDiscreteScheduler", False)),
    Peer("diffusers Heun", _diffusers("HeunDiscreteScheduler", False), half),
    Peer("diffusers LMS-4", _diffusers("LMSDiscreteScheduler", False)),
    Peer("diffusers DPM++(2M)", _diffusers("DPMSolverMultistepScheduler", True, solver_order=2)),
    Peer("diffusers DPM++(3M)", _diffusers("DPMSolverMultistepScheduler", True, solver_order=3)),
    Peer("diffusers DPM++(3S)", _diffusers("DPMSolverSinglestepScheduler", True, solver_order=3)),
    Peer("diffusers UniPC-2", _diffusers("UniPCMultistepScheduler", True, solver_order=2)),
    Peer("diffusers UniPC-3", _diffusers("UniPCMultistepScheduler", True, solver_order=3)),
    Peer("diffusers DEIS-3", _diffusers("DEISMultistepScheduler", True, True, solver_order=3)),
    Peer("azula zAB-2", _azula("zABSampler", order=2)),
    Peer("azula zEAB-2", _azula("zEABSampler", order=2)),
    Peer("azula xEAB-2", _azula("xEABSampler", order=2)),
    Peer("azula xEAB-3", _azula("xEABSampler", order=3)),
    Peer("azula REAB-2", _azula("REABSampler", order=2)),
    Peer("azula vAB-2", _azula("vABSampler", order=2)),
    Peer("azula vAB-3", _azula("vABSampler", order=3)),
]

Loop = Callable[[Callable[[Tensor], Tensor], Tensor, int], object]
"""(network, x, steps) -> the loop of a sampler around bare calls of a network, to measure its time."""


def _diffusers_loop(kind: str, **options: Any) -> Loop:
    def run(network: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> object:
        import diffusers

        scheduler = getattr(diffusers, kind)(**options)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler.scale_model_input(x, t)), t, x, return_dict=False)[0]
        return x

    return run


def _azula_loop(kind: str, **options: Any) -> Loop:
    def run(network: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> object:
        from azula import denoise, noise, sample

        class Denoiser(denoise.Denoiser):  # type: ignore[misc]
            """The bare network."""

            schedule = noise.VPSchedule()

            def __init__(self) -> None:
                super().__init__()

            def forward(self, x: Tensor, t: Tensor) -> Any:
                return denoise.DiracPosterior(network(x))

        return getattr(sample, kind)(Denoiser(), steps=steps, silent=True, **options)(x)

    return run


def _torchsde_loop(method: str) -> Loop:
    def run(network: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> object:
        import torchsde

        class Equation(torch.nn.Module):
            noise_type, sde_type = "diagonal", "ito"

            def f(self, t: Tensor, y: Tensor) -> Tensor:
                return network(y)

            def g(self, t: Tensor, y: Tensor) -> Tensor:
                return torch.ones_like(y)

        return torchsde.sdeint(Equation(), x, torch.tensor([0.0, 1.0]), dt=1.0 / steps, method=method)

    return run


LOOPS: dict[str, Loop] = {
    "diffusers Euler": _diffusers_loop("EulerDiscreteScheduler"),
    "diffusers DDIM": _diffusers_loop("DDIMScheduler"),
    "diffusers DPM++(2M)": _diffusers_loop("DPMSolverMultistepScheduler"),
    "diffusers SDE-DPM++(2M)": _diffusers_loop("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    "diffusers UniPC": _diffusers_loop("UniPCMultistepScheduler"),
    "azula DDIM": _azula_loop("DDIMSampler"),
    "azula zAB-2": _azula_loop("zABSampler", order=2),
    "azula xEAB-2": _azula_loop("xEABSampler", order=2),
    "torchsde Euler": _torchsde_loop("euler"),
}
