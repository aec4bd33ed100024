"""How far the means of blocks of samples are from the measurements that they were drawn for.

    python benchmarks/super_resolution_error.py RUN [SAMPLER]

RUN is a work folder of configs/vp/digits_super_resolution.py with samples. Prints the root mean square, the same for the
measurements of other samples, and the width of a gray level, in units of x.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from scoresde.experiment import Experiment, load_config


def main(folder: Path, sampler: str = "unipc") -> None:
    """Print the figures of a work folder."""
    data = Experiment.from_config(load_config(folder / "config.json")).data
    with np.load(folder / "samples" / f"{sampler}.npz") as file:
        raw, y = torch.from_numpy(file["raw"]), torch.from_numpy(file["condition_measurement"])
    x = data.transform.encode(raw, None, dtype=torch.float32)
    found = data.operator.image(data.operator.apply(x))
    own, other = ((found - rows).square().mean().sqrt() for rows in (y, y.roll(1, 0)))
    print(f"own measurement {own:.3f}, another one {other:.3f}, width of a level {data.transform.width:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
