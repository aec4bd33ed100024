"""All schedules and fitted samplers at equal numbers of evaluations: bounds, energy distances and Frechet distances.

    python -m benchmarks.schedule_table rows.jsonl
    python -m benchmarks.schedule_table rows.jsonl --picture docs/pictures/schedule_table.png
    python -m benchmarks.schedule_table rows.jsonl --cases --run runs/digits

Each cell is one method with K evaluations of the score. Its row is appended to the file, and a row that is there with the same
settings is not computed again. Without missing rows the command only prints the tables.

- Bound: `variational_bound` of K - 1 steps and the decoder, with the variance that is measured on other data. For a mixture it is
  subtracted from log p of the same events, for a run it is given itself; both in nats for each coordinate.
- Ancestral: K steps with the same variance, without a last mean. The samples have the noise of t_min.
- DDIM: K steps to t_min.

Energy distances are times 1000, unbiased, and can be negative. Fitted samplers have the columns of DDIM. The distances of
other sets of data of the same size show which differences are noise.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.runs import load
from benchmarks.schedules import SDE, energy_distance, mean_distance, mixtures
from scoresde import GaussianMixture
from scoresde.likelihood import variational_bound
from scoresde.metrics import Moments, frechet_distance
from scoresde.networks import MLP
from scoresde.samplers import DDIM, Ancestral, grids
from scoresde.samplers.fitted import fit, fit_ggdm
from scoresde.schedules import analytic_grids, bound_costs, fit_step_network, network_grid, optimal_grids
from scoresde.score import AnalyticVariance, denoising_errors

COUNTS = (5, 10, 20, 50)
INSTANTS, T_MIN, OTHER = 200, 1e-3, "other data"
PLAIN = {"uniform": grids.uniform, "log_noise": grids.log_noise, "karras": grids.karras, "focused": grids.focused}
FOUND = ("Analytic-DPM", "dynamic programming", "BDDM")
FITTED = ("FittedMultistep", "GGDM")
METHODS = (*PLAIN, *FOUND, *FITTED)
PAIRS = (("gap", "ancestral"), ("ddim",), ("ancestral_frechet", "ddim_frechet"))
"""Columns that are printed side by side."""
COLUMNS = {
    "gap": ("gap of the bound", 1.0, ".3f"),
    "ancestral": ("energy distance, Ancestral", 1e3, ".1f"),
    "ddim": ("energy distance, DDIM or fitted", 1e3, ".1f"),
    "ancestral_frechet": ("Frechet distance, Ancestral", 1.0, ".3f"),
    "ddim_frechet": ("Frechet distance, DDIM or fitted", 1.0, ".3f"),
}


@dataclass(frozen=True)
class Case:
    """A model with its data: ``search`` for searches and fits, ``test`` for bounds, ``real`` and ``others`` for distances."""

    name: str
    sde: Any
    score: Callable[..., Tensor]
    search: Tensor
    test: Tensor
    real: Tensor
    others: tuple[Tensor, ...]
    exact: GaussianMixture | None
    samples: int
    updates: int
    batch_size: int
    pilot: int
    measured: int

    @cached_property
    def errors(self) -> Any:
        times = grids.log_noise(self.sde, INSTANTS - 1, T_MIN).flip(0)
        return denoising_errors(self.sde, self.score, self.search[:2000], times, seed=1)

    @cached_property
    def step_network(self) -> Any:
        event = tuple(self.search.shape[1:])
        torch.manual_seed(0)  # initial weights of the network
        return fit_step_network(
            self.sde, self.score, self.search, MLP(event, width=32, depth=1), updates=3 * self.updates, t_min=T_MIN
        )

    @cached_property
    def optimal(self) -> dict[str, Any]:
        return {
            "dynamic programming": optimal_grids(self.errors.times, bound_costs(self.sde, self.errors), max(COUNTS)),
            "Analytic-DPM": analytic_grids(self.sde, self.errors, max(COUNTS)),
        }

    @cached_property
    def within(self) -> float:
        return mean_distance(self.real, self.real)

    @cached_property
    def moments(self) -> Moments:
        return Moments.of(self.real)

    def grid(self, method: str, steps: int) -> Tensor:
        """Descending times, (steps + 1,)."""
        if method in PLAIN:
            return PLAIN[method](self.sde, steps, T_MIN)
        if method == "BDDM":
            chosen = network_grid(
                self.sde, self.score, self.step_network, self.search[: self.measured], steps, t_min=T_MIN
            )
            return torch.tensor(chosen.given, dtype=torch.float64)
        times: Tensor = self.optimal[method].grid(steps)
        return times

    def fitted(self, method: str, k: int) -> Any:
        if method == "GGDM":
            return fit_ggdm(
                self.sde, self.score, self.search, k, updates=self.updates, batch_size=self.batch_size, t_min=T_MIN
            )
        return fit(self.sde, self.score, k, pilot=(self.pilot, *self.search.shape[1:]), held_out=self.measured)

    def distances(self, x: Tensor, name: str) -> dict[str, float]:
        """Energy and Frechet distance to the data."""
        x = x.flatten(1)
        return {
            name: energy_distance(x, self.real, self.within),
            f"{name}_frechet": frechet_distance(Moments.of(x), self.moments),
        }

    def cell(self, method: str, k: int) -> dict[str, Any]:
        """All values of a method with k evaluations."""
        shape = (self.samples, *self.search.shape[1:])
        if method == OTHER:
            found = [self.distances(x, "energy") for x in self.others]
            return {name: [min(one[name] for one in found), max(one[name] for one in found)] for name in found[0]}
        if method in FITTED:
            result = self.fitted(method, k)(self.sde, self.score, shape)
            return {"ddim_nfe": result.nfe, **self.distances(result.samples, "ddim")}
        times, variance = self.grid(method, k - 1), AnalyticVariance.of(self.sde, self.errors)
        bound = variational_bound(self.sde, self.score, self.test, times.flip(0), variance=variance, replicates=1)
        loss = -bound.log_prob.double()
        if self.exact is not None:
            loss = loss + self.exact.log_prob(self.test.double())
        loss = loss / self.test[0].numel()
        steps = self.grid(method, k)
        chain = Ancestral(steps, variance=variance, denoise=False)(self.sde, self.score, shape)
        flow = DDIM(steps)(self.sde, self.score, shape)
        return {
            "gap": float(loss.mean()), "gap_error": float(loss.std() / len(loss) ** 0.5), "bound_nfe": bound.nfe,
            "ancestral_nfe": chain.nfe, "ddim_nfe": flow.nfe,
            **self.distances(chain.samples, "ancestral"), **self.distances(flow.samples, "ddim"),
        }  # fmt: skip


def mixture_case(name: str, data: GaussianMixture, options: argparse.Namespace) -> Case:
    counts = (4000, options.events, *[options.samples] * 11)
    search, test, real, *others = (data.sample(count, seed=seed) for seed, count in enumerate(counts, start=1))
    return Case(
        name, SDE, data.score(SDE), search, test, real, tuple(others), data, options.samples, options.updates,
        options.batch_size, options.pilot, options.measured,
    )  # fmt: skip


def run_case(folder: str, options: argparse.Namespace) -> Case:
    """A trained run without conditions: searches on 512 training events, distances to the training split."""
    made, model, _ = load(folder)
    train, test = (split.encode(slice(None), seed=0) for split in (made.data.train, made.data.test))
    return Case(
        Path(folder).name, made.sde, model, train[:512], test[: options.events], train.flatten(1), (test.flatten(1),), None,
        options.samples, options.updates, options.batch_size, options.pilot, options.measured,
    )  # fmt: skip


SETTINGS = ("samples", "events", "updates", "batch_size", "pilot", "measured")


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a file. A row that a kill cut off is skipped."""
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("case", "method", "evaluations", *SETTINGS))


def append(file: Path, row: dict[str, Any]) -> None:
    cut_off = file.exists() and not file.read_bytes().endswith(b"\n") and file.stat().st_size > 0
    with file.open("a") as out:
        out.write(("\n" if cut_off else "") + json.dumps(row) + "\n")


def compute(case: Case, file: Path, options: argparse.Namespace) -> None:
    """Append the rows of a case that are missing."""
    for k in (0, *options.counts):
        for method in (OTHER,) if k == 0 else options.methods:
            row = {"case": case.name, "method": method, "evaluations": k}
            row |= {name: getattr(options, name) for name in SETTINGS}
            if key(row) in {key(one) for one in rows_of(file)}:
                continue
            start = time.process_time()
            try:
                row |= case.cell(method, k)
            except ValueError as error:  # a method without a result for this number of evaluations
                row["error"] = str(error)
            row["seconds"] = round(time.process_time() - start, 2)
            append(file, row)


def tables(rows: list[dict[str, Any]], counts: tuple[int, ...]) -> None:
    """Print one table for each case and quantity."""
    for name in dict.fromkeys(row["case"] for row in rows):
        cells = {(row["method"], row["evaluations"]): row for row in rows if row["case"] == name}
        print(f"\n## {name}: {sum(row['seconds'] for row in cells.values()):.0f} s of CPU time")
        for pair in PAIRS:
            heads = [f"{COLUMNS[column][0]}, {counts[0]} | " + " | ".join(map(str, counts[1:])) for column in pair]
            print(f"\n| method | {' | '.join(heads)} |\n|---|" + "---:|" * len(counts) * len(pair))
            for method in METHODS:
                values = [
                    (cells.get((method, k), {}).get(column), *COLUMNS[column][1:]) for column in pair for k in counts
                ]
                if any(value is not None for value, _, _ in values):
                    texts = ["" if value is None else format(scale * value, form) for value, scale, form in values]
                    print(f"| {method} | {' | '.join(texts)} |")
        for (method, k), row in cells.items():
            if method == OTHER:
                low, high = (1e3 * value for value in row["energy"])
                ends = " to ".join(format(value, ".3f") for value in row["energy_frechet"])
                print(f"\n{OTHER}: energy distance {low:.1f} to {high:.1f}, Frechet distance {ends}")
            if "error" in row:
                print(f"{method}, {k}: {row['error']}")


def picture(rows: list[dict[str, Any]], file: str) -> None:
    """One row for each case; bound and energy distances over the number of evaluations.

    Gray is the range of other sets of data. Energy distances below 0.1 are drawn at 0.1.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names, shown = list(dict.fromkeys(row["case"] for row in rows)), ("gap", "ancestral", "ddim")
    figure = Figure(figsize=(12, 3.6 * len(names)), layout="constrained")
    for line, name in zip(figure.subplots(len(names), 3, squeeze=False), names, strict=True):
        for axis, column in zip(line, shown, strict=True):
            title, scale, _ = COLUMNS[column]
            for index, method in enumerate(METHODS):
                points = [
                    (row["evaluations"], scale * row[column] if column == "gap" else max(scale * row[column], 0.1))
                    for row in rows
                    if row["case"] == name and row["method"] == method and column in row
                ]
                if points:
                    style = {"color": colormaps["tab10"](index), "linestyle": "--" if method in FITTED else "-"}
                    axis.loglog(*zip(*sorted(points), strict=True), marker="o", markersize=4, label=method, **style)
            noise = [1e3 * row["energy"][1] for row in rows if row["case"] == name and row["method"] == OTHER]
            if noise and column != "gap":
                axis.axhspan(0.08, max(noise[0], 0.08), color="0.9", zorder=0)
            if min((value for line in axis.lines for value in line.get_ydata()), default=1.0) <= 0.0:
                axis.set_yscale("linear")
                title = "bound, -log p in nats"  # that of a run
            axis.set_xticks(COUNTS, list(map(str, COUNTS)))
            axis.minorticks_off()
            axis.set_title(f"{name}\n{title}", fontsize=9)
            axis.set_xlabel("evaluations")
    handles = {label: h for axis in figure.axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(METHODS), fontsize=8)
    figure.savefig(file, dpi=100)


def main() -> None:
    names = tuple(mixtures())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="file of rows, JSON lines")
    parser.add_argument("--cases", nargs="*", choices=names, default=names)
    parser.add_argument("--run", metavar="DIR", help="also a trained run")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS, help=f"evaluations, at most {max(COUNTS)}")
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--events", type=int, default=4000, help="events of the bound")
    parser.add_argument("--updates", type=int, default=100, help="updates of GGDM; BDDM has three times as many")
    parser.add_argument("--batch-size", type=int, default=256, help="samples in an update of GGDM")
    parser.add_argument("--pilot", type=int, default=128, help="starts of FittedMultistep")
    parser.add_argument("--measured", type=int, default=500, help="events of BDDM, and new starts of FittedMultistep")
    parser.add_argument("--picture", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = [mixture_case(name, data, options) for name, data in mixtures().items() if name in options.cases]
    if options.run:
        cases.append(run_case(options.run, options))
    for case in cases:
        compute(case, options.rows, options)
    rows, chosen = list(rows_of(options.rows)), {case.name for case in cases}
    rows = [row for row in rows if row["case"] in chosen]
    rows = [row for row in rows if all(row[name] == getattr(options, name) for name in SETTINGS)]
    tables(rows, tuple(options.counts))
    if options.picture:
        picture(rows, options.picture)


if __name__ == "__main__":
    main()
