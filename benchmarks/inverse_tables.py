"""The tables of docs/inverse_problems.md from the results of ``benchmarks/inverse_problems.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "inverse_problems.md"
PROBLEMS = ("mixture, d = 2", "mixture, d = 16", "mixture, d = 64", "digits, half", "digits, 4 x 4")
STEPS = (20, 50, 200)
METHODS = {
    "exact samples": "exact samples of the posterior",
    "exact posterior": "the score of the posterior itself",
    "TweedieMoments": "`TweedieMoments`",
    "IsotropicMoments": "`IsotropicMoments`",
    "DPS, best step": "`DiffusionPosteriorSampling`, best weight",
    "denoised likelihood": "`TaskGuidance(denoised=True)`",
    "KeepKnown": "`KeepKnown` (replacement)",
    "particles, TweedieMoments": "`ParticleSampler`, `TweedieMoments`",
    "particles, IsotropicMoments": "`ParticleSampler`, `IsotropicMoments`",
    "deepinv moment matching": "deepinv `MomentMatchingDataFidelity`",
    "deepinv PiGDM": "deepinv `PiGDMDataFidelity`",
    "deepinv DPS, best step": "deepinv `DPSDataFidelity`, best weight",
    "deepinv DPS, annealed": "deepinv `DPSDataFidelity`, annealed",
    "deepinv DDRM": "deepinv `DDRM`",
}
Row = dict[str, Any]


def write(rows: list[Row]) -> None:
    """Replace the tables of the page.

    Args:
        rows: The results.
    """
    text = PAGE.read_text()
    for name, table in (("summary", summary(rows)), ("all", everything(rows))):
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->\n"
        head, _, rest = text.partition(begin)
        text = head + begin + "\n" + table + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text)


def find(rows: list[Row], **key: Any) -> Row | None:
    """The result with these values, or None."""
    return next((row for row in rows if all(row.get(name) == value for name, value in key.items())), None)


def number(row: Row | None, name: str) -> str:
    """A value of a result as text: a dash if there is none, "fails" if the samples are not finite."""
    if row is None:
        return "-"
    if row.get("failed", 0.0) > 0:
        return "fails"
    return f"{row[name]:.2f}".lstrip("0")


def summary(rows: list[Row]) -> str:
    """Ancestral sampling of the variance-preserving process with 50 steps: distances, shares and cost."""
    lines = [
        f"| method | {' | '.join(PROBLEMS)} | products per evaluation | seconds |",
        f"|---|{'---:|' * (len(PROBLEMS) + 2)}",
    ]
    for method, label in METHODS.items():
        found = [_summary_row(rows, problem, method) for problem in PROBLEMS]
        known = [row for row in found if row]
        if not known:
            continue
        cells = [f"{number(row, 'sw')} / {number(row, 'groups')}" if row else "-" for row in found]
        cells = ["fails" if "fails" in cell else cell for cell in cells]
        products = [row["products"] / row["evaluations"] for row in known if "products" in row]
        cost = f"{sum(products) / len(products):.1f}" if products else "-"
        complete = len(known) == len(PROBLEMS) and all("seconds" in row for row in known)
        seconds = f"{sum(row['seconds'] for row in known):.1f}" if complete else "-"
        lines.append(f"| {label} | {' | '.join(cells)} | {cost} | {seconds} |")
    return "\n".join(lines) + "\n"


def _summary_row(rows: list[Row], problem: str, method: str) -> Row | None:
    if method == "exact samples":
        return find(rows, problem=problem, method=method)
    key = {"problem": problem, "method": method, "steps": 50}
    return find(rows, process="VP", sampler="ancestral", **key) or find(rows, sampler="own", **key)


def everything(rows: list[Row]) -> str:
    """A table of sliced Wasserstein distances for each problem."""
    parts = []
    samplers = ("UniPC", "DDIM", "ancestral")
    for problem in PROBLEMS:
        heads = [f"{sampler} {steps}" for sampler in samplers for steps in STEPS]
        lines = [
            f"### {problem}",
            "",
            f"| method | process | {' | '.join(heads)} |",
            f"|---|---|{'---:|' * len(heads)}",
        ]
        for method, label in METHODS.items():
            for process in ("VP", "VE"):
                key = {"problem": problem, "method": method, "process": process}
                found = [find(rows, sampler=one, steps=n, **key) for one in samplers for n in STEPS]
                if any(found):
                    lines.append(f"| {label} | {process} | {' | '.join(number(row, 'sw') for row in found)} |")
            own = [find(rows, problem=problem, method=method, sampler="own", steps=n) for n in STEPS]
            if any(own):
                cells = [*["-"] * 6, *(number(row, "sw") for row in own)]
                lines.append(f"| {label} | - | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
