"""Tables and picture of docs/sampler_figures.md, from the measurements of ``samplers.py``.

python benchmarks/sampler_tables.py tables runs/samplers.jsonl
python benchmarks/sampler_tables.py picture runs/samplers.jsonl
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from peers import PEERS
from problems import NEW_DISTRIBUTIONS

CALLS = (5, 10, 20)


def read(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of measurements."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def tables(file: Path) -> None:
    """Print tables in Markdown: errors of ``fit`` and of the best peer, stated errors, distances of distributions."""
    rows = read(file)
    problems = list(dict.fromkeys(r["problem"] for r in rows))
    _fit_table(rows, problems)
    _plain_table(rows, problems)
    _stated_error_table(rows, problems)
    _distribution_tables(rows, problems)
    _corrector_tables(rows, problems)


def _of(rows: list[dict[str, Any]], problem: str, calls: int) -> list[dict[str, Any]]:
    return [r for r in rows if r["problem"] == problem and r.get("calls") == calls and "error" in r]


def _group(problem: str) -> str:
    """The group of problems over which means are taken."""
    if "network" in problem:
        return "trained network"
    new = problem.split()[0].removesuffix("~") in NEW_DISTRIBUTIONS
    return f"{'new' if new else 'tuning'} distributions, {_kind(problem)}"


def _mean_lines(ratios: dict[str, list[float]], what: str) -> None:
    for group, values in ratios.items():
        print(
            f"\n{what}, {group}: geometric mean {statistics.geometric_mean(values):.2f}, least {min(values):.2f}, "
            f"{sum(v < 1 for v in values)} of {len(values)} below 1"
        )


def _fit_table(rows: list[dict[str, Any]], problems: list[str]) -> None:
    """Errors of ``fit`` and of the best peer, which is selected in each cell after the measurement."""
    ratios: dict[str, list[float]] = {}
    medians: dict[str, list[float]] = {}
    winners: dict[str, int] = {}
    print("| problem | " + " | ".join(f"{c}" for c in CALLS) + " |\n|---|" + "---|" * len(CALLS))
    for problem in problems:
        cells = []
        for calls in CALLS:
            here = _of(rows, problem, calls)
            if not here:
                cells.append("")
                continue
            peer = min((r for r in here if "peer" in r), key=lambda r: r["error"])
            own = next(r for r in here if r.get("ours") == "fit")
            ratios.setdefault(_group(problem), []).append(peer["error"] / own["error"])
            by_median = min(r["median"] for r in here if "peer" in r)
            medians.setdefault(_group(problem), []).append(by_median / own["median"])
            name = f"{peer['peer']}, {peer['grid']}"
            winners[name] = winners.get(name, 0) + 1
            cells.append(f"{own['error']:.2g} / {peer['error']:.2g} ({ratios[_group(problem)][-1]:.1f})")
        print(f"| {problem} | " + " | ".join(cells) + " |")
    _mean_lines(ratios, "best peer / fit, means")
    _mean_lines(medians, "best peer / fit, medians")
    best = sorted(winners.items(), key=lambda item: -item[1])
    print("\nBest peers: " + "; ".join(f"{name} {count}" for name, count in best))


def _plain_table(rows: list[dict[str, Any]], problems: list[str]) -> None:
    """Errors of the methods without a fit relative to the best peer."""
    kinds = {
        "UniPC, default": lambda r: r.get("ours") == "UniPC" and r["grid"] == "default",
        "UniPC-3, log s (earlier default)": lambda r: r.get("ours") == "UniPC-3" and r["grid"] == "log s",
        "best method, default grid": lambda r: r.get("grid") == "default" and "ours" in r,
        "best method, log s (earlier default)": lambda r: r.get("grid") == "log s" and "ours" in r,
    }
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in kinds}
    for problem in problems:
        for calls in CALLS:
            here = _of(rows, problem, calls)
            if not here:
                continue
            peer = min(r["error"] for r in here if "peer" in r)
            for kind, which in kinds.items():
                group = found[kind].setdefault(_group(problem), [])
                group.append(peer / min(r["error"] for r in here if which(r)))
    groups = list(next(iter(found.values())))
    print(
        "\n| best peer / ours, geometric means | " + " | ".join(groups) + " | all |\n|---|" + "---|" * (len(groups) + 1)
    )
    for kind, by in found.items():
        means = [f"{statistics.geometric_mean(by[g]):.2f}" for g in groups]
        everything = statistics.geometric_mean([v for g in groups for v in by[g]])
        print(f"| {kind} | " + " | ".join(means) + f" | {everything:.2f} |")


def _stated_error_table(rows: list[dict[str, Any]], problems: list[str]) -> None:
    """Stated errors and the errors on the test starts; z is their difference divided by the stated standard error."""
    counts = {"64 starts": [0, 0, 0.0], "2000 starts": [0, 0, 0.0]}
    cells = 0
    columns = (
        "problem",
        "evaluations",
        "mean",
        "64 starts",
        "z",
        "2000 starts",
        "z",
        "median",
        "99 %",
        "worst",
    )
    print("\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for problem in problems:
        for calls in CALLS:
            own = next((r for r in _of(rows, problem, calls) if r.get("ours") == "fit"), None)
            if own is None:
                continue
            cells += 1
            line = [problem, str(calls), f"{own['error']:.2g}"]
            for name, mean, spread in (
                ("64 starts", own["few"], own["few_error"]),
                ("2000 starts", own["stated_error"], own["stated_standard_error"]),
            ):
                z = (own["error"] - mean) / spread
                count = counts[name]
                count[0] += z > 3
                count[1] += z > 10
                count[2] = max(count[2], own["error"] / mean)
                line += [f"{mean:.2g} +- {spread:.1g}", f"{z:.1f}"]
            line += [f"{own[f'stated_{key}']:.2g}" for key in ("median", "high", "worst")]
            print("| " + " | ".join(line) + " |")
    for name, (three, ten, ratio) in counts.items():
        print(
            f"\n{name}: in {three} of {cells} cells the mean is more than 3 stated standard errors above the stated one, in "
            f"{ten} more than 10; largest ratio of the mean to the stated one {ratio:.1f}"
        )


def _corrector_tables(rows: list[dict[str, Any]], problems: list[str]) -> None:
    for problem in problems:
        mine = [r for r in rows if r["problem"] == problem and "pc" in r]
        if not mine:
            continue
        print(f"\n**{problem}**: squared energy distance from the held-out digits (evaluations)\n")
        kinds = ("P", "P2x", "C", "PC")
        print("| | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
        for name in dict.fromkeys(r["pc"] for r in mine if "kind" in r):
            at = {r["kind"]: f"{r['energy']:.4f} ({r['calls']})" for r in mine if r["pc"] == name}
            print(f"| {name} | " + " | ".join(at.get(k, "") for k in kinds) + " |")
        print(f"\nTraining digits: {next(r['energy'] for r in mine if r['pc'] == 'training digits'):.4f}")


def _distribution_tables(rows: list[dict[str, Any]], problems: list[str]) -> None:
    for problem in problems:
        mine = [r for r in rows if r["problem"] == problem and "distribution" in r]
        if not mine:
            continue
        floor = next(r for r in mine if r["distribution"] == "floor")
        print(
            f"\n**{problem}**: squared energy distance, floor {floor['energy']:.1e} +- {floor['energy_sd']:.1e}; in brackets "
            f"sliced Wasserstein, floor {floor['sliced']:.3f} +- {floor['sliced_sd']:.3f}\n"
        )
        budgets = list(dict.fromkeys(r["calls"] for r in mine if r["distribution"] != "floor"))
        print("| sampler | " + " | ".join(f"{c}" for c in budgets) + " |\n|---|" + "---|" * len(budgets))
        for name in dict.fromkeys(r["distribution"] for r in mine if r["distribution"] != "floor"):
            at = {r["calls"]: r for r in mine if r["distribution"] == name}
            cells = [_distribution(at[c], floor) if c in at else "" for c in budgets]
            print(f"| {name} | " + " | ".join(cells) + " |")


def _kind(problem: str) -> str:
    return "trained network" if "network" in problem else "score with 3 % error" if "~" in problem else "exact score"


def _distribution(row: dict[str, Any], floor: dict[str, Any]) -> str:
    """A cell; bold if both distances are within two standard deviations of the floor."""
    within = all(row[k] <= floor[k] + 2.0 * floor[f"{k}_sd"] for k in ("energy", "sliced"))
    text = f"{row['energy']:.1e} ({row['sliced']:.3f})"
    return f"**{text}**" if within else text


def picture(file: Path) -> None:
    """Draw docs/pictures/samplers.png: error against the number of evaluations for four problems."""
    from matplotlib.figure import Figure

    rows = read(file)
    shown = ["gmm16 VP", "gmm2 VP", "ring VP", "rare VP"]
    figure = Figure(figsize=(11, 3.0))
    titles = {
        "gmm16": "10 Gaussians in 16 dimensions",
        "gmm2": "25 Gaussians in 2 dimensions",
        "ring": "a ring in 2 dimensions",
        "rare": "2 dimensions, a mode of 0.2 %",
    }
    for k, problem in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), k + 1)
        mine = [r for r in rows if r["problem"] == problem and "error" in r]
        for peer in PEERS:
            at = [min(r["error"] for r in mine if r.get("peer") == peer.name and r["calls"] == c) for c in CALLS]
            color = "#7a9cc6" if peer.name.startswith("diffusers") else "#c6a27a"
            axes.loglog(CALLS, at, color=color, lw=0.9, alpha=0.8)
        for name, color in (("UniPC", "#8c1c13"), ("fit", "#e4572e")):
            own = {r["calls"]: r["error"] for r in mine if r.get("ours") == name and r.get("grid") != "log s"}
            axes.loglog(list(own), list(own.values()), color=color, lw=2.0, marker="o", ms=3)
        axes.set_title(
            f"{titles[problem.split('~')[0].split()[0]]}\n{_kind(problem)}",
            fontsize=9,
        )
        axes.set_xticks(CALLS, [str(c) for c in CALLS], fontsize=7)
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.set_xlabel("network evaluations", fontsize=8)
        if k == 0:
            axes.set_ylabel("distance from the flow's end point", fontsize=8)
    from matplotlib.lines import Line2D

    keys = [
        ("#e4572e", "scoresde fit"),
        ("#8c1c13", "scoresde UniPC, default grid"),
        ("#7a9cc6", "diffusers, each method on its best grid"),
        ("#c6a27a", "azula, the same"),
    ]
    figure.legend(
        [Line2D([], [], color=c, lw=2) for c, _ in keys],
        [n for _, n in keys],
        loc="lower center",
        ncol=4,
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    where = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "samplers.png"
    figure.savefig(where, dpi=110)
    print(where)


if __name__ == "__main__":
    {"tables": tables, "picture": picture}[sys.argv[1]](Path(sys.argv[2]))
