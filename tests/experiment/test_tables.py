"""A table of one's own from `inspect` over training to samples in its format and a likelihood in its units."""

from __future__ import annotations

import csv
import math
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from scoresde._files import read_sealed
from scoresde.data import Columns, Table
from scoresde.experiment import (
    Experiment,
    Workdir,
    apply_overrides,
    inspect,
    likelihood,
    load_config,
    report,
    sample,
    train,
)
from scoresde.noise import NoiseSource

pytestmark = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the extra 'tables' (pyarrow)")
F64 = torch.float64


def wines(path, n=200):
    """Seven columns, of which one is constant, one has many texts, and one is another one in other units. Two missing values."""
    noise = NoiseSource.of(0, n)
    cask = noise.integers(3, (), step=0, purpose="cask")
    alcohol = 12.0 + 0.5 * cask + 0.4 * noise.normal((), step=0, purpose="alcohol", dtype=F64)
    bottles = (500 + 100 * cask + 50 * noise.normal((), step=0, purpose="bottles", dtype=F64)).round().long()
    rows = [["cask", "alcohol", "bottles", "country", "name", "proof", "origin"]]
    for k in range(n):
        text = ("oak", "steel", "clay, old")[int(cask[k])]
        rows.append(
            [text, f"{alcohol[k]:.6f}", str(int(bottles[k])), "IT", f"wine {k}", f"{1.75 * alcohol[k]:.9f}", ""]
        )
    rows[5][1], rows[9][0], rows[9][5] = "NA", "", ""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def test_inspect_describes_columns_and_writes_a_config(tmp_path):
    file = wines(tmp_path / "wines.csv")
    found = inspect(file, tmp_path / "mine.py", measure=False)
    assert found.usable
    for said in (
        "events       198 of shape (3,)", "'country' is constant ('IT')", "'name' has 200 different texts, more than 64",
        "'origin' has no value in 100 % of the rows", "'proof' is equal, up to shift and scale, to 'alcohol'",
        "2 of 200 rows have missing values and are dropped; by column: 'cask' 1, 'alcohol' 1",
        "column cask: texts 'clay, old', 'oak', 'steel', as 0 to 2", "column bottles: continuous, from",
    ):  # fmt: skip
        assert said in found.text, said
    assert "log-likelihoods mean" not in found.text, "dequantized columns may be discrete"
    config = load_config(tmp_path / "mine.py")
    assert config.to_dict() == found.config.to_dict()
    made = Experiment.from_config(config).data
    assert (
        isinstance(made, Table)
        and isinstance(made.transform, Columns)
        and made.transform.names == ["cask", "alcohol", "bottles"]
    )
    x = made.train.encode(slice(None), seed=0, dtype=F64)
    assert float(x.mean(0).abs().max()) < 0.1 and float((x.std(0) - 1.0).abs().max()) < 0.1
    assert re.search(r'\{"name": "WholeColumn", "column": "bottles", "low": \d+, "high": \d+, "shift"', found.source)


def test_outliers_are_named_by_column(tmp_path):
    values = NoiseSource.of(0, 300).normal((2,), step=0, purpose="a", dtype=F64)
    values[17, 1] = 1e6
    np.savetxt(tmp_path / "a.csv", values.numpy(), delimiter=",", header="mass,charge", comments="")
    text = inspect(str(tmp_path / "a.csv"), measure=False).text
    assert "The farthest is 1e+06 of event 17 in column charge" in text and "leave them out" in text


def test_a_table_without_a_usable_column(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n1,x\n1,x\n")
    with pytest.raises(
        ValueError, match=r"a\.csv has no column that can be modeled: 'a' is constant \(1\.0\), 'b' is constant"
    ):
        inspect(str(tmp_path / "a.csv"), measure=False)


def test_an_outlier_is_named_by_its_row_in_the_file(tmp_path):
    """Rows that are left out shift the events, not the rows that the user looks up. One of them is no heavy tail."""
    x = NoiseSource.of(0, 100).normal((5,), step=0, purpose="x", dtype=F64).numpy()
    rows = [[f"{value:.6f}" for value in row] for row in x]
    rows[3][0] = rows[50][4] = ""
    rows[70][1] = "1e6"
    with open(tmp_path / "five.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "c", "d", "e"], *rows])
    found = inspect(str(tmp_path / "five.csv"), measure=False).text
    assert (
        ", event 68 (row 70 of the file). The farthest is 1e+06 of event 68 (row 70 of the file) in column b" in found
    )
    assert "If they are errors, leave them out" in found and "Heavy tails" not in found
    assert '"columns": "5 columns"' in found


def test_from_inspect_to_samples_and_a_likelihood(tmp_path):
    """Samples have the columns, types and units of the table; nats are those of the data; a run needs the table only to train."""
    file = wines(tmp_path / "wines.csv")
    inspect(file, tmp_path / "mine.py", measure=False)
    config = load_config(tmp_path / "mine.py")
    values = {
        "training.steps": 600, "training.learning_rate": 3e-3, "training.checkpoint_every": 600, "network.width": 64,
        "network.depth": 2, "device": "cpu", "threads": 1, "sampling.count": 300, "sampling.batch_size": 150,
        "samplers.predictor-corrector.steps": 50, "likelihood.grid_events": 0,
    }  # fmt: skip
    apply_overrides(config, {key: str(value) for key, value in values.items()})
    made, workdir = Experiment.from_config(config), Workdir(tmp_path / "run")
    train(made, workdir)
    summary = likelihood(made, workdir)
    # three casks with probability 1/3, and two normal columns: the entropy of the data in nats
    entropy = math.log(3.0) + math.log(0.4 * 50.0) + math.log(2.0 * math.pi * math.e)
    assert abs(summary["nats_of_data"] + entropy) < 1.0 and summary["bound by"] == ["uniform dequantization"]
    assert summary["nats_of_data"] > summary["baseline"]["value"]

    again = Experiment.from_config(load_config(workdir.config_file))
    (tmp_path / "wines.csv").rename(tmp_path / "elsewhere.csv")
    sample(again, workdir)
    content = (workdir.samples / "predictor-corrector.csv").read_bytes()
    rows = list(csv.DictReader(content.decode().splitlines()))
    assert len(rows) == 300 and set(rows[0]) == {"cask", "alcohol", "bottles"}
    assert {row["cask"] for row in rows} == {"oak", "steel", "clay, old"}
    alcohol, bottles = (np.array([float(row[name]) for row in rows]) for name in ("alcohol", "bottles"))
    # mean 12.5 and 600, correlation 0.61 by the casks; 600 steps are a short training
    assert abs(alcohol.mean() - 12.5) < 0.2 and abs(bottles.mean() - 600.0) < 30.0
    assert np.corrcoef(alcohol, bottles)[0, 1] > 0.3
    (workdir.samples / "predictor-corrector.csv").unlink()
    sample(again, workdir)
    assert (workdir.samples / "predictor-corrector.csv").read_bytes() == content
    (tmp_path / "elsewhere.csv").rename(tmp_path / "wines.csv")
    page = report(again, workdir).read_text()
    assert "columns of the table" in page and "Columns(1 real, 1 whole, 1 category)" in page
    assert read_sealed(workdir.samples / "predictor-corrector.json")["count"] == 300
