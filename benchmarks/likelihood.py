"""Errors, stated errors and cost of log-likelihoods whose exact values are known. Prints Markdown tables.

    python benchmarks/likelihood.py suite          true and stated error of every problem
    python benchmarks/likelihood.py evaluations    evaluations that reach 1e-3 bits/dim with the exact trace, against RK45
    python benchmarks/likelihood.py work           work for the same standard error, against the classical method
    python benchmarks/likelihood.py cost           one evaluation with its divergence, in forward passes
    python benchmarks/likelihood.py digits --run runs/digits-vp --config configs/vp/digits.py
                                                   the same on a trained network
    python benchmarks/likelihood.py grids          node densities compared

``--distributions gmm2 digits`` restricts the problems of ``suite``, ``evaluations`` and ``work``.

The classical method is SciPy's RK45 over t at 1e-5 with one Rademacher probe for the whole solve. It needs one pass for the
drift and another one for the divergence. Errors are in bits/dim, root mean square over examples and draws. Times are medians
of interleaved runs on one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from problems import DISTRIBUTIONS, T_MIN, KnownTrace, Problem, suite
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from scoresde.likelihood import FlowGrid, Hadamard, Hutchinson, Multistep, fit_grid, log_likelihood
from scoresde.likelihood.divergence import Divergence
from scoresde.networks import MLP, DDPMpp
from scoresde.solvers import ScipyODE

NODES, PROBES = 32, 4
CLASSICAL, PRODUCT = 2.87, 1.0
"""Forward passes of one evaluation of the classical method, and of one product with the Jacobian in addition to the forward
pass that the products share. Both are the UNet's figures of ``cost``."""
COUNTS = (12, 16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96)
TOLERANCE = 1e-3


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a Markdown table, row by row as they come."""
    names = list(head)
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def summary(ratios: dict[bool, list[float]], digits: int) -> str:
    """Geometric means of the ratios, over all problems and over those with at least 64 dimensions, if there are any.

    Args:
        ratios: The ratios of the problems with at least 64 dimensions (True) and of the others (False).
        digits: Decimals of the printed means.
    """
    every, large = ratios[False] + ratios[True], ratios[True]
    text = f"{statistics.geometric_mean(every):.{digits}f} over {len(every)} problems"
    if large:
        text += f", {statistics.geometric_mean(large):.{digits}f} over the {len(large)} with 64 dimensions and more"
    return f"{text}."


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())


def examples(problem: Problem) -> Tensor:
    """The evaluated examples: 16, or 8 in more than 64 dimensions."""
    return problem.distribution.sample(16 if problem.d <= 64 else 8, seed=1, dtype=torch.float64)


@lru_cache
def truth(problem: Problem) -> Tensor:
    """log p of the examples under the flow, at a tolerance of 1e-8, or 1e-7 in more than 64 dimensions."""
    return problem.exact_log_prob(examples(problem), 1e-8 if problem.d <= 64 else 1e-7)


@lru_cache
def pilot(problem: Problem) -> FlowGrid:
    """The grid fitted on 16 other examples, or 8 in more than 64 dimensions."""
    other = problem.distribution.sample(16 if problem.d <= 64 else 8, seed=5, dtype=torch.float64)
    return fit_grid(problem.sde, problem.score, other)


def run_suite(names: tuple[str, ...]) -> None:
    """True and stated error with one probe at each node, then with the exact trace, where only the solver's error is left."""
    within: list[Tensor] = []

    def rows() -> Iterable[list[str]]:
        for problem in suite(names):
            x, exact, bits = examples(problem), truth(problem), problem.d * math.log(2.0)
            known = KnownTrace(problem)
            solver = Multistep(NODES, pilot(problem))
            noisy = log_likelihood(problem.sde, problem.score, x, solver=solver, divergence=Hadamard(), seed=7)
            clean = log_likelihood(problem.sde, known.score, x, solver=solver, divergence=known)
            found = []
            for result in (noisy, clean):
                error, stated = (result.log_prob - exact) / bits, result.standard_error / bits
                covered = error.abs() <= 2.0 * stated
                within.append(covered)
                found += [f"{rms(error):.1e}", f"{rms(stated):.1e}", f"{float(covered.double().mean()):.0%}"]
            yield [str(problem), str(problem.d), *found]

    table(
        ("problem", "d", "error, 1 probe", "stated", "within 2x", "error, exact trace", "stated", "within 2x"), rows()
    )
    noisy, clean = torch.cat(within[0::2]), torch.cat(within[1::2])
    print(f"\nWithin twice the stated error: {float(noisy.double().mean()):.1%} of {len(noisy)} with one probe, "
          f"{float(clean.double().mean()):.1%} with the exact trace.")  # fmt: skip


def classical_exact(problem: Problem, x: Tensor) -> tuple[int, Tensor]:
    """Evaluations and log p of RK45 in t at 1e-5 with the closed-form trace."""
    sde, shape, d = problem.sde, x.shape, problem.d

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        state, times = torch.from_numpy(y[: -len(x)]).reshape(shape), torch.full((len(x),), t, dtype=torch.float64)
        half = 0.5 * sde.diffusion(times[0]) ** 2
        change = sde.flow_drift(state, times, problem.score(state, times))
        trace = sde.drift_coefficient(times[0]) * d - half * problem.score.divergence(state, times)
        return torch.cat((change.reshape(-1), trace)).numpy()

    start = np.concatenate((x.reshape(-1).numpy(), np.zeros(len(x))))
    solution = solve_ivp(slope, (T_MIN, sde.T), start, "RK45", rtol=1e-5, atol=1e-5)
    y = solution.y[:, -1]
    return solution.nfev, sde.prior_log_prob(torch.from_numpy(y[: -len(x)]).reshape(shape)) + torch.from_numpy(
        y[-len(x) :]
    )


def run_evaluations(names: tuple[str, ...]) -> None:
    """Smallest number of nodes that reaches 1e-3 bits/dim on the adaptive grid, against RK45."""
    ratios: dict[bool, list[float]] = {False: [], True: []}

    def rows() -> Iterable[list[str]]:
        for problem in suite(names):
            x, exact, bits = examples(problem), truth(problem), problem.d * math.log(2.0)
            nfe, classical = classical_exact(problem, x)
            known, needed, error = KnownTrace(problem), None, math.nan
            for nodes in COUNTS:
                solver = Multistep(nodes, pilot(problem))
                found = log_likelihood(problem.sde, known.score, x, solver=solver, divergence=known)
                error = rms((found.log_prob - exact) / bits)
                if error <= TOLERANCE:
                    needed = nodes
                    break
            ratio = nfe / (needed or COUNTS[-1])
            ratios[problem.d >= 64].append(ratio)
            missed = "" if needed else "> "
            old, new = rms((classical - exact) / bits), f"{missed}{needed or COUNTS[-1]}"
            yield [str(problem), f"{nfe} ({old:.0e})", f"{new} ({error:.0e})", f"{ratio:.1f}"]

    table(("problem", "RK45 at 1e-5: evaluations (error)", "Multistep: evaluations (error)", "ratio"), rows())
    print(f"\nGeometric mean of the ratio: {summary(ratios, 2)}")


def run_work(names: tuple[str, ...]) -> None:
    """error^2 x cost of the classical method divided by that of Multistep, with the UNet's costs (see ``cost``)."""
    ratios: dict[bool, list[float]] = {False: [], True: []}

    def rows() -> Iterable[list[str]]:
        for problem in suite(names):
            x, exact, bits = examples(problem), truth(problem), problem.d * math.log(2.0)

            def evaluate(solver: object, divergence: Divergence, draws: int) -> tuple[float, float, float]:
                found = [
                    log_likelihood(problem.sde, problem.score, x, solver=solver, divergence=divergence, seed=k)  # type: ignore[arg-type]  # noqa: B023
                    for k in range(draws)
                ]
                error = rms(torch.stack([f.log_prob - exact for f in found]) / bits)  # noqa: B023
                return error, statistics.mean(f.nfe for f in found), statistics.mean(f.vjps for f in found)

            draws = 4 if problem.d <= 16 else 1
            old, old_nfe, _ = evaluate(ScipyODE(), Hutchinson(), draws)
            new, new_nfe, products = evaluate(Multistep(NODES, pilot(problem)), Hadamard(PROBES), draws)
            old_cost, new_cost = CLASSICAL * old_nfe, new_nfe + PRODUCT * products
            ratio = (old**2 * old_cost) / (new**2 * new_cost)
            ratios[problem.d >= 64].append(ratio)
            yield [str(problem), f"{old:.1e}", f"{old_nfe:.0f} ({old_cost:.0f})", f"{new:.1e}", f"{new_nfe:.0f} ({new_cost:.0f})",
                   f"{ratio:.0f}"]  # fmt: skip

    work = "evaluations (forwards)"
    table(("problem", "classical: error", work, f"Multistep, {PROBES} probes: error", work, "work ratio"), rows())
    print(f"\nGeometric mean of the work ratio at equal error: {summary(ratios, 0)}")


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median processor seconds of each function; the runs are interleaved."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(repeats + 2):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if k >= 2:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """The two networks and their inputs."""
    torch.manual_seed(0)
    mlp = MLP((3072,), width=1024, depth=3)
    unet = DDPMpp((3, 32, 32), channels=32, blocks=1, multipliers=(1, 2, 2), attention=())
    made = {"MLP": (mlp, torch.randn(32, 3072)), "UNet": (unet, torch.randn(2, 3, 32, 32))}
    for network, _ in made.values():
        network.requires_grad_(False)
    return made


def run_cost(repeats: int = 15) -> None:
    """Seconds of an evaluation divided by those of a forward pass."""

    def rows() -> Iterable[list[str]]:
        for name, (network, x) in networks().items():
            label = torch.zeros(len(x))

            def f(v: Tensor) -> Tensor:
                return network(v, label)  # noqa: B023

            def forward() -> Tensor:
                with torch.no_grad():
                    return f(x)  # noqa: B023

            stream = Hadamard().stream(x, _noise(len(x)))

            def evaluate(count: int) -> object:
                return Hadamard(count)(f, x, stream(0, count))  # noqa: B023

            def classical() -> object:
                forward()
                return Hutchinson()(f, x, stream(0, 1))  # noqa: B023

            found = timed(
                {"forward": forward, "classical": classical, "1": lambda: evaluate(1), "4": lambda: evaluate(4)},
                repeats,
            )
            unit = found.pop("forward")
            size = sum(p.numel() for p in network.parameters())
            yield [
                f"{name}, {size / 1e6:.1f} M parameters",
                f"{1e3 * unit:.0f} ms",
                *(f"{v / unit:.2f}" for v in found.values()),
            ]

    table(("network", "forward pass", "classical", "shared, 1 product", f"shared, {PROBES} products"), rows())


def _noise(count: int):  # type: ignore[no-untyped-def]
    from scoresde.noise import NoiseSource

    return NoiseSource.of(0, count)


def run_grids() -> None:
    """Error with the exact trace for several exponents and floors of the density, geometric mean over eight problems."""
    from scoresde.likelihood import multistep as room

    problems = [Problem(*p) for p in (("gmm16", "VP"), ("gmm16", "sub-VP", 0.03), ("gmm64", "VP"), ("gmm64", "VE", 0.03),
                                      ("digits", "VP"), ("digits", "VE", 0.03), ("gmm2", "sub-VP", 0.03), ("gmm2",
                                      "VE"))]  # fmt: skip
    original = room.grid_from

    def rows() -> Iterable[list[str]]:
        for power in (1 / 4, 1 / 3, 1 / 2, 2 / 3):
            for floor in (0.25, 0.5, 1.0):
                # the density is bend^(1/4): raise bend so that it becomes bend^(power/2)
                room.grid_from = lambda t_min, u, bend, *rest, power=power: original(
                    t_min, u, bend ** (2 * power), *rest
                )
                errors: dict[int, list[float]] = {20: [], 28: [], 40: []}
                for problem in problems:
                    x, known = examples(problem)[:16], KnownTrace(problem)
                    other = problem.distribution.sample(32, seed=5, dtype=torch.float64)
                    grid = fit_grid(problem.sde, problem.score, other, floor=floor)
                    for nodes, kept in errors.items():
                        found = log_likelihood(
                            problem.sde, known.score, x, solver=Multistep(nodes, grid), divergence=known
                        )
                        kept.append(rms((found.log_prob - truth(problem)[:16]) / (problem.d * math.log(2.0))))
                yield [
                    f"{power:.2f}",
                    f"{floor:.2f}",
                    *(f"{statistics.geometric_mean(v):.1e} ({max(v):.0e})" for v in errors.values()),
                ]
        room.grid_from = original

    table(("exponent", "floor", *(f"{n} nodes: mean (worst)" for n in (20, 28, 40))), rows())


def run_digits(run: Path, config: Path) -> None:
    """The same three figures on a trained network: spread of the estimate over probe seeds, evaluations, cost."""
    from scoresde.experiment import Experiment, Workdir, load_config

    experiment, workdir = Experiment.from_config(load_config(config)), Workdir(run)
    model, _ = workdir.model(experiment)
    model.requires_grad_(False)
    sde, data = model.sde, experiment.data
    x = data.test.encode(torch.arange(8), seed=0)
    d = x[0].numel()
    bits = d * math.log(2.0)
    grid = fit_grid(sde, model, data.train.encode(torch.arange(32), seed=0))
    from scoresde.likelihood import Exact

    exact = log_likelihood(sde, model, x, solver=ScipyODE("DOP853", 1e-7, 1e-7), divergence=Exact()).log_prob
    classical = log_likelihood(sde, model, x, solver=ScipyODE(), divergence=Exact())
    print(
        f"RK45 at 1e-5, exact trace: {classical.nfe} evaluations, error {rms((classical.log_prob - exact) / bits):.1e} bits/dim"
    )
    for nodes in COUNTS:
        found = log_likelihood(sde, model, x, solver=Multistep(nodes, grid), divergence=Exact())
        error = rms((found.log_prob - exact) / bits)
        print(
            f"Multistep, exact trace: {nodes} evaluations, error {error:.1e}, stated {rms(found.solver_error / bits):.1e}"
        )
        if error <= TOLERANCE:
            break

    def forward() -> Tensor:
        with torch.no_grad():
            return model(x, torch.full((len(x),), 0.1))

    def evaluate(count: int) -> object:
        stream = Hadamard().stream(x, _noise(len(x)))
        return Hadamard(count)(lambda v: model(v, torch.full((len(v),), 0.1)), x, stream(0, count))

    def two_passes() -> object:
        forward()
        return evaluate(1)

    cost = timed(
        {"forward": forward, "classical": two_passes, "1": lambda: evaluate(1), "4": lambda: evaluate(PROBES)}, 9
    )
    unit = cost["forward"]
    print(f"one evaluation: classical {cost['classical'] / unit:.2f}, 1 product {cost['1'] / unit:.2f}, "
          f"{PROBES} products {cost['4'] / unit:.2f} forward passes")  # fmt: skip
    old = [log_likelihood(sde, model, x, solver=ScipyODE(), divergence=Hutchinson(), seed=k) for k in range(4)]
    old_error, old_cost = (
        rms(torch.stack([f.log_prob - exact for f in old]) / bits),
        old[0].nfe * cost["classical"] / unit,
    )
    print(f"classical: error {old_error:.1e} bits/dim, {old[0].nfe} evaluations, {old_cost:.0f} forward passes")
    for nodes, probes, price in ((NODES, 1, cost["1"]), (NODES, PROBES, cost["4"])):
        solver, divergence = Multistep(nodes, grid), Hadamard(probes)
        new = [log_likelihood(sde, model, x, solver=solver, divergence=divergence, seed=k) for k in range(4)]
        errors = torch.stack([f.log_prob - exact for f in new])
        stated = torch.stack([f.standard_error for f in new])
        error, new_cost = rms(errors / bits), nodes * price / unit
        print(f"Multistep, {probes} probes: error {error:.1e}, stated {rms(stated / bits):.1e}, within twice the stated "
              f"{float((errors.abs() <= 2 * stated).double().mean()):.0%}, {nodes} evaluations, {new_cost:.0f} forward passes, "
              f"work ratio {old_error**2 * old_cost / (error**2 * new_cost):.0f}")  # fmt: skip


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=("suite", "evaluations", "work", "cost", "digits", "grids"))
    parser.add_argument("--run", type=Path, help="digits: the work folder")
    parser.add_argument("--config", type=Path, help="digits: its config")
    parser.add_argument("--distributions", nargs="+", default=list(DISTRIBUTIONS), choices=DISTRIBUTIONS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    distributions = tuple(options.distributions)
    tables: dict[str, Callable[[], None]] = {
        "suite": lambda: run_suite(distributions), "evaluations": lambda: run_evaluations(distributions),
        "work": lambda: run_work(distributions),
        "cost": run_cost, "grids": run_grids, "digits": lambda: run_digits(options.run, options.config),
    }  # fmt: skip
    if "digits" in options.what and not (options.run and options.config):
        parser.error("digits needs --run and --config")
    for what in options.what:
        print(f"\n## {what}\n")
        tables[what]()
    print(f"\n{time.time() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
