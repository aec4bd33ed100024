"""Processes that other libraries ship, tested by ``check``: the table of docs/other_processes.md.

    python benchmarks/other_processes.py [LIBRARY ...] [--write]

prints the rows of the libraries that are installed (all of them, or those that are named), as Markdown. --write replaces
the table in docs/other_processes.md, and needs all six libraries. It took 2.5 minutes on one core.

deepinv needs torchvision, see tests/interop/torchvision_operators.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from scoresde.interop import DiffusersSDE, from_library
from scoresde.sde import ScalarSDE, check
from tests.interop import torchvision_operators

PAGE = Path(__file__).resolve().parents[1] / "docs" / "other_processes.md"
BEGIN, END = "<!-- begin: benchmarks/other_processes.py -->\n", "<!-- end -->\n"
HEAD = "| library | process | T here | lines that fail, with the size of the deviation |\n|---|---|---|---|\n"
KNOTS = 10
"""Time steps of a scheduler of diffusers that the interpolation uses; the default takes five times as long."""
Row = tuple[str, Callable[[], Any]]


def azula() -> Iterator[Row]:
    from azula import noise

    for name in ("VESchedule", "VPSchedule", "CosineSchedule", "RectifiedSchedule", "DecaySchedule"):
        yield f"{name}()", getattr(noise, name)


def flow_matching() -> Iterator[Row]:
    from flow_matching.path import scheduler

    yield from ((f"{name}()", getattr(scheduler, name)) for name in ("CondOTScheduler", "CosineScheduler"))
    yield from ((f"{name}()", getattr(scheduler, name)) for name in ("LinearVPScheduler", "VPScheduler"))
    yield "PolynomialConvexScheduler(2)", lambda: scheduler.PolynomialConvexScheduler(2)
    yield "PolynomialConvexScheduler(0.5)", lambda: scheduler.PolynomialConvexScheduler(0.5)


def torchcfm() -> Iterator[Row]:
    from torchcfm import conditional_flow_matching as cfm

    for name, sigma in (
        ("ConditionalFlowMatcher", 0.0), ("ConditionalFlowMatcher", 0.1), ("TargetConditionalFlowMatcher", 0.0),
        ("TargetConditionalFlowMatcher", 0.1), ("SchrodingerBridgeConditionalFlowMatcher", 1.0),
        ("VariancePreservingConditionalFlowMatcher", 0.0), ("VariancePreservingConditionalFlowMatcher", 0.1),
    ):  # fmt: skip
        yield f"{name}({sigma})", lambda name=name, sigma=sigma: getattr(cfm, name)(sigma)  # type: ignore[misc]


def deepinv() -> Iterator[Row]:
    torchvision_operators.declare()
    from deepinv import sampling

    for name in ("VariancePreservingDiffusion", "VarianceExplodingDiffusion", "FlowMatching"):
        yield f"{name}()", getattr(sampling, name)
    if not hasattr(sampling, "SongDiffusionSDE"):
        return
    yield (
        "VariancePreservingDiffusion(scaled_linear=True)",
        lambda: sampling.VariancePreservingDiffusion(scaled_linear=True),
    )
    for kind in ("variance_preserving", "variance_exploding"):
        yield (
            f"EDMDiffusionSDE(sigma_t=t, {kind}=True, T=80)",
            lambda kind=kind: sampling.EDMDiffusionSDE(sigma_t=lambda t: t, T=80.0, **{kind: True}),  # type: ignore[misc]
        )

    def beta(t: torch.Tensor) -> torch.Tensor:
        return 0.1 + 19.9 * t

    def integral(t: torch.Tensor) -> torch.Tensor:
        return 0.1 * t + 9.95 * t**2

    def sub_vp(t: torch.Tensor) -> torch.Tensor:
        return beta(t) * -torch.expm1(-2.0 * integral(t))

    def cosine(t: torch.Tensor) -> torch.Tensor:
        return 10.0 - 9.9 * torch.cos(math.pi * t)

    yield (
        "SongDiffusionSDE(beta_t, without B_t; beta linear)",
        lambda: sampling.SongDiffusionSDE(beta_t=beta, variance_preserving=True),
    )
    yield (
        "SongDiffusionSDE(beta_t, without B_t; beta a cosine)",
        lambda: sampling.SongDiffusionSDE(beta_t=cosine, variance_preserving=True),
    )
    yield (
        "SongDiffusionSDE(beta_t, B_t, xi_t of sub-VP)",
        lambda: sampling.SongDiffusionSDE(beta_t=beta, B_t=integral, xi_t=sub_vp),
    )


def sbi() -> Iterator[Row]:
    from sbi.neural_nets.estimators import flowmatching_estimator, score_estimator

    shapes = (torch.nn.Identity(), torch.Size([2]), torch.Size([3]))
    for name in ("VPScoreEstimator", "SubVPScoreEstimator", "VEScoreEstimator"):
        yield name, lambda name=name: getattr(score_estimator, name)(*shapes)  # type: ignore[misc]
    yield "FlowMatchingEstimator", lambda: flowmatching_estimator.FlowMatchingEstimator(*shapes)
    yield (
        "FlowMatchingEstimator(noise_scale=0)",
        lambda: flowmatching_estimator.FlowMatchingEstimator(*shapes, noise_scale=0.0),
    )


def diffusers() -> Iterator[Row]:
    import diffusers as d

    def made(name: str, **settings: Any) -> Row:
        text = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        return f"{name}({text})", lambda: getattr(d, name)(**settings)

    yield made("DDPMScheduler")
    yield made("DDPMScheduler", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    yield made("DDPMScheduler", beta_schedule="squaredcos_cap_v2")
    yield made("DDPMScheduler", beta_schedule="sigmoid")
    yield made("DDIMScheduler")
    yield made("DDIMScheduler", rescale_betas_zero_snr=True)
    for name in (
        "PNDMScheduler", "LCMScheduler", "TCDScheduler", "SASolverScheduler", "UnCLIPScheduler", "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler", "DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
        "CogVideoXDDIMScheduler",
    ):  # fmt: skip
        yield made(name)
    yield made("CogVideoXDDIMScheduler", snr_shift_scale=1.0)


LIBRARIES: dict[str, Callable[[], Iterator[Row]]] = {
    "azula": azula, "deepinv": deepinv, "diffusers": diffusers, "flow_matching": flow_matching, "sbi": sbi,
    "torchcfm": torchcfm,
}  # fmt: skip


def result(process: ScalarSDE) -> str:
    """The lines of the check that fail, or that all pass."""
    report = check(process)
    bad = [row for row in report.rows if not row.passed]
    if not bad:
        return f"none of {len(report.rows)}"
    return "; ".join(f"{row.name} {row.error:.1e}" for row in bad)


def row(library: str, name: str, make: Callable[[], Any]) -> str:
    """One row of the table, in Markdown."""
    title = f"{library} {importlib.metadata.version(library)}"
    try:
        made = make()
        process = DiffusersSDE(made, KNOTS) if library == "diffusers" else from_library(made)
    except (ValueError, TypeError) as problem:
        return f"| {title} | `{name}` | | the adapter raises: {problem} |\n"
    return f"| {title} | `{name}` | {process.T:g} | {result(process)} |\n"


def main() -> None:
    """Print the rows, and write them into the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", choices=[*LIBRARIES, []], help="default: all")
    parser.add_argument("--write", action="store_true", help="replace the table in docs/other_processes.md")
    options = parser.parse_args()
    if options.write and options.library:
        parser.error("--write needs all libraries: name none")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for library in options.library or LIBRARIES:
        for name, make in LIBRARIES[library]():
            rows.append(row(library, name, make))
            print(rows[-1], end="", flush=True)
    if options.write:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        PAGE.write_text(before + BEGIN + HEAD + "".join(rows) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
