"""docs/pictures/digits.png: held-out digits next to samples of the three processes, from the runs of ``make demo-all``.

make demo-all && .venv/bin/python benchmarks/digits_picture.py [RUNS]
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from scoresde.data import Digits
from scoresde.experiment.folder.plots import event_picture

HERE = Path(__file__).resolve().parents[1]
TITLES = {"vp": "VP", "subvp": "sub-VP", "ve": "VE"}
COUNT = 36


def main(runs: Path) -> None:
    """Compose and write the picture."""
    data = Digits()
    panels = [("held-out digits", event_picture(data.test.raw[:COUNT], data.transform, columns=6))]
    for name, title in TITLES.items():
        run = runs / f"digits-{name}"
        figure = json.loads((run / "likelihood" / "test.json").read_text())
        with np.load(run / "samples" / "predictor-corrector.npz") as file:
            raw = torch.from_numpy(file["raw"][:COUNT])
        caption = f"{title}: {figure['bits_per_dim']:.2f} bits/dim"
        panels.append((caption, event_picture(raw, data.transform, columns=6)))
    picture = Figure(figsize=(11, 3.1))
    for k, (caption, content) in enumerate(panels):
        axes = picture.add_subplot(1, len(panels), k + 1)
        pixels = np.asarray(Image.open(io.BytesIO(content)))
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(caption, fontsize=11)
        axes.axis("off")
    picture.tight_layout()
    (HERE / "docs" / "pictures").mkdir(parents=True, exist_ok=True)
    picture.savefig(HERE / "docs" / "pictures" / "digits.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "runs"))
