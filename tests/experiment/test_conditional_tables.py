"""A column of a table as the condition of the others, from the config over training to samples and log p(rest | condition)."""

from __future__ import annotations

import csv
import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from scoresde import VPSDE, log_likelihood
from scoresde._files import read_sealed
from scoresde.data import CategoryColumn, RealColumn, Table, WholeColumn
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
from scoresde.experiment.config.builder import ConfigError
from scoresde.likelihood import Exact
from scoresde.solvers import RungeKutta
from tests.experiment.conftest import called
from tests.experiment.test_tables import wines

pytestmark = pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the extra 'tables' (pyarrow)")
CASKS = ("clay, old", "oak", "steel")
SMALL = {
    "training.steps": 40, "training.learning_rate": 3e-3, "training.checkpoint_every": 40, "training.preview_every": 0,
    "network.width": 32, "network.depth": 2, "device": "cpu", "threads": 1, "sampling.count": 12, "sampling.batch_size": 5,
    "samplers": "{'unipc': {'name': 'UniPC', 'steps': 5}}", "likelihood.grid_events": 0,
    "likelihood.limit": 6, "likelihood.solver": "{'name': 'Multistep', 'nodes': 8}",
}  # fmt: skip


def experiment(folder, **overrides):
    config = load_config(folder / "mine.py")
    values = SMALL | {key.replace("__", "."): value for key, value in overrides.items()}
    apply_overrides(config, {key: str(value) for key, value in values.items()})
    return Experiment.from_config(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with wines.csv and the config mine.py of `inspect`."""
    place = tmp_path_factory.mktemp("tables")
    found = inspect(wines(place / "wines.csv"), place / "mine.py", measure=False)
    assert "set in the data section condition = {'cask': 'cask'}, then sample with --condition cask=VALUE" in found.text
    return place


@pytest.fixture(scope="module")
def trained(folder):
    made = experiment(folder, data__condition={"cask": "cask", "strength": "alcohol"})
    workdir = Workdir(folder / "run")
    train(made, workdir)
    return made, workdir


def flags(**values):
    return [f"--config.{key.replace('__', '.')}={value}" for key, value in values.items()]


def rows_of(workdir):
    return list(csv.DictReader((workdir.samples / "unipc.csv").read_text().splitlines()))


class TestSamples:
    def test_the_command_takes_a_name_and_a_number_in_the_units_of_the_table(self, trained):
        made, workdir = trained
        done = called(
            "sample", "--workdir", workdir.path, "--condition", "cask=oak", "--condition", "strength=[12.5, 13.25]"
        )
        assert done.returncode == 0, done.stderr
        rows = rows_of(workdir)
        assert list(rows[0]) == ["cask", "alcohol", "bottles"] and {row["cask"] for row in rows} == {"oak"}
        alcohol = [float(row["alcohol"]) for row in rows]
        assert alcohol == pytest.approx([12.5, 13.25] * 6, rel=1e-6)
        saved = np.load(workdir.samples / "unipc.npz")
        assert set(saved["condition_cask"].tolist()) == {1} and saved["condition_strength"].shape == (12, 1)
        page = report(made, workdir).read_text()
        assert "&quot;cask&quot;: &quot;oak&quot;" in page and "cask: Classes(count=3, names=(" in page

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (
                "cask=oka",
                "condition.cask='oka' is not allowed: give a class, a whole number in 0 .. 2, or one of 'clay, old'",
            ),
            ("strength=strong", "condition.strength='strong' is not allowed: give a real number"),
            ("bottles=3", "condition.bottles is not known: the conditions of the data are cask, strength"),
            ("cask=oak", "condition has no value for strength"),
        ],
    )
    def test_wrong_values_are_refused(self, trained, value, message):
        _, workdir = trained
        more = [] if value in ("cask=oak", "strength=strong") else ["--condition", "strength=13"]
        more += ["--condition", "cask=oak"] if value.startswith("strength") else []
        done = called("sample", "--workdir", workdir.path, "--condition", value, *more)
        assert done.returncode == 2 and message in done.stderr

    def test_samples_need_no_table_and_do_not_depend_on_the_batches(self, trained, folder):
        _, workdir = trained
        spec = {"cask": ["steel", "clay, old"], "strength": 12.0}
        given = {"data__condition": {"cask": "cask", "strength": "alcohol"}, "sampling__condition": spec}
        (folder / "wines.csv").rename(folder / "elsewhere.csv")
        try:
            sample(experiment(folder, **given), workdir)
            one = rows_of(workdir)
            sample(experiment(folder, **given, sampling__batch_size=12), workdir)
            again = rows_of(workdir)
        finally:
            (folder / "elsewhere.csv").rename(folder / "wines.csv")
        assert [row["cask"] for row in one] == ["steel", "clay, old"] * 6 == [row["cask"] for row in again]
        assert json.loads(read_sealed(workdir.samples / "unipc.json")["condition"]) == spec
        bottles = [[float(row["bottles"]) for row in rows] for rows in (one, again)]
        assert bottles[0] == pytest.approx(bottles[1], abs=1.0)


class TestLikelihood:
    def test_the_job_gives_the_density_given_the_conditions(self, trained):
        made, workdir = trained
        summary = likelihood(made, workdir)
        assert summary["condition"] == "data" and summary["event shape"] == [1]
        assert summary["bound by"] == ["uniform dequantization"]

    def test_an_exact_score_gives_the_density_in_the_units_of_the_table(self, folder):
        """price | grade ~ N(10 grade, 2^2): the mean of log p(price | grade) over the rows, in closed form."""
        noise = torch.Generator().manual_seed(0)
        grade = torch.randint(0, 3, (60,), generator=noise)
        price = 10.0 * grade + 2.0 * torch.randn(60, generator=noise, dtype=torch.float64)
        lines = ["grade,price", *(f"{'abc'[g]},{p:.17g}" for g, p in zip(grade.tolist(), price.tolist(), strict=True))]
        (folder / "prices.csv").write_text("\n".join(lines) + "\n")
        columns = (CategoryColumn("grade", ("a", "b", "c"), 1.5, 0.9), RealColumn("price", 9.0, 8.0))
        data = Table(str(folder / "prices.csv"), columns, condition=["grade"])
        sde = VPSDE(0.1, 40.0)  # the prior at T is exact to 1e-4

        def score(x, t, *, grade):
            alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
            mean = (10.0 * grade[:, None].to(x) - 9.0) / 8.0
            return -(x - alpha * mean) / (alpha.square() * (2.0 / 8.0) ** 2 + sigma.square())

        index = torch.arange(len(data.train))
        given, x = data.train.conditions(index), data.train.encode(index, seed=0, dtype=torch.float64)
        found = log_likelihood(
            sde, score, x, condition=given, solver=RungeKutta(rtol=1e-7, atol=1e-7), divergence=Exact(), t_min=1e-5
        )
        nats = found.log_prob + data.transform.log_volume(1)
        raw = x[:, 0] * 8.0 + 9.0
        exact = -0.5 * ((raw - 10.0 * given["grade"]) / 2.0).square() - 0.5 * math.log(2.0 * math.pi * 4.0)
        assert float((nats - exact).abs().max()) < 3e-3
        swapped = log_likelihood(
            sde,
            score,
            x,
            condition={"grade": (given["grade"] + 1) % 3},
            solver=RungeKutta(rtol=1e-7, atol=1e-7),
            divergence=Exact(),
        )
        assert float((swapped.log_prob - found.log_prob).mean()) < -1.0, "another grade is less likely"

    @pytest.mark.long
    def test_a_trained_model_knows_the_conditional_density(self, folder):
        made = experiment(folder, data__condition=["cask"], training__steps=1000, network__width=64)
        workdir = Workdir(folder / "long")
        train(made, workdir)
        summary = likelihood(made, workdir)
        entropy = math.log(0.4 * 50.0) + math.log(2.0 * math.pi * math.e)  # of alcohol and bottles given the cask
        assert abs(summary["nats_of_data"] + entropy) < 0.6
        ignored = likelihood(
            experiment(
                folder,
                data__condition=["cask"],
                training__steps=1000,
                network__width=64,
                likelihood__condition="ignore",
            ),
            workdir,
        )
        assert ignored["nats_of_data"] < summary["nats_of_data"]


def test_a_condition_that_is_no_column_is_refused(folder):
    with pytest.raises(ConfigError, match=r"config\.data: .*condition names 'price', which is not in columns: 'cask'"):
        experiment(folder, data__condition=["price"])
    whole = WholeColumn("bottles", 0, 10)
    with pytest.raises(ValueError, match="condition names 'cask', which is not in columns: 'bottles'"):
        Table("a.csv", (whole,), condition=["cask"])
