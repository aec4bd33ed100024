"""docs/pictures/two_moons.png: runs the first Python block of README.md as it is printed, and shows data, samples and density.

python benchmarks/readme_picture.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from scoresde import log_likelihood

HERE = Path(__file__).resolve().parents[1]
SIDE, REACH = 48, 2.4


def run_block() -> dict[str, Any]:
    """The variables after the block."""
    block = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.S)[0]
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), names)
    return names


def main() -> None:
    """Run the block and write the picture."""
    names = run_block()
    side = torch.linspace(-REACH, REACH, SIDE)
    plane = torch.cartesian_prod(side, side)
    log_prob = log_likelihood(names["sde"], names["model"], plane).log_prob.reshape(SIDE, SIDE)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    titles = ("data", "samples, 20 steps of UniPC", "density of the model")
    for ax, points in zip(axes, (names["x"], names["samples"]), strict=False):
        ax.scatter(*points.T, s=2, alpha=0.4, linewidths=0)
    extent = (-REACH, REACH, -REACH, REACH)
    axes[2].imshow(log_prob.exp().T, origin="lower", extent=extent, cmap="Blues", interpolation="bicubic")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, aspect="equal", xlim=(-REACH, REACH), ylim=(-REACH, REACH))
    figure.savefig(HERE / "docs" / "pictures" / "two_moons.png", dpi=100)
    result = names["result"]
    print(f"log p of {len(result.log_prob)} data: mean {float(result.log_prob.mean()):.3f} nats")


if __name__ == "__main__":
    main()
