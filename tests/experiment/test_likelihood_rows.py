"""scoresde likelihood: rows that are saved, resumed, shared by processes and summarized."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

from scoresde._files import read_sealed, write_sealed
from scoresde.experiment import Workdir
from scoresde.experiment.folder.tensor_file import read_tensors, write_tensors
from scoresde.experiment.results.likelihood_rows import COLUMNS, Batch, Row
from scoresde.experiment.results.likelihood_summary import statistics
from scoresde.likelihood import log_likelihood
from tests.experiment.conftest import HereCommand

FEW = {
    "training__steps": 2,
    "model": "{'prediction': 'noise'}",  # the probabilities of 17 levels take longer
    "network": "{'name': 'MLP', 'width': 16, 'depth': 1}",
    "network__channels": None,
    "network__blocks": None,
    "likelihood__solver": "{'name': 'Multistep', 'nodes': 4}",
    "likelihood__grid_events": 0,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained folder, with the likelihood of 5 events in batches of 3."""
    command = HereCommand(tmp_path_factory.mktemp("trained") / "run")
    assert command("train", **FEW).returncode == 0
    done = command("likelihood", **FEW)
    assert done.returncode == 0, done.stderr
    return command


@pytest.fixture
def run_likelihood(trained, tmp_path):
    """``scoresde likelihood`` in a copy of that folder, with a few nodes."""
    shutil.copytree(trained.workdir, tmp_path / "run")
    command = HereCommand(tmp_path / "run")

    def run(*extra, code=0, **overrides):
        done = command("likelihood", "vp", *extra, **{**FEW, **overrides})
        assert done.returncode == code, done.stdout + done.stderr
        return done

    run.folder = command.workdir / "likelihood"
    run.table = lambda split="test": (run.folder / f"{split}.csv").read_text().splitlines()
    run.summary = lambda: json.loads((run.folder / "test.json").read_text())
    run.lines = lambda: sum(f.read_bytes().count(b"\n") for f in run.folder.glob("rows-*/*.jsonl"))
    run.command = command
    return run


def numbers(lines):
    """The columns other than work counts, as floats."""
    return np.array([[float(v) for v in line.split(",")[2:7]] for line in lines[1:]])


class TestRows:
    def test_what_the_files_hold(self, run_likelihood):
        lines = run_likelihood.table()
        assert tuple(lines[0].split(",")) == COLUMNS
        assert [line.split(",")[:2] for line in lines[1:]] == [[str(i), "0"] for i in range(5)]
        summary = run_likelihood.summary()
        for key in ("t_min", "solver", "tolerance", "probes", "draws", "data digest", "transform", "checkpoint digest"):
            assert key in summary
        assert summary["known biases"]["events"] == 5 and summary["known biases"]["prior, at most"] > 0
        values = numbers(lines)[:, 1]
        assert summary["bits_per_dim"] == pytest.approx(values.mean())
        assert summary["standard_error"] == pytest.approx(values.std(ddof=1) / math.sqrt(5))

    def test_nothing_is_computed_twice(self, run_likelihood):
        before, lines = run_likelihood.table(), run_likelihood.lines()
        assert "computing 0 of" in run_likelihood().stdout
        assert run_likelihood.table() == before and run_likelihood.lines() == lines == 2
        run_likelihood("--draws", "2")
        after = run_likelihood.table()
        assert after[:6] == before and [line.split(",")[1] for line in after[6:]] == ["1"] * 5
        assert run_likelihood.lines() == 4
        assert run_likelihood.summary()["parts of the error"]["dequantization"] is not None

    def test_batch_size_changes_rounding_only(self, run_likelihood):
        ours = numbers(run_likelihood.table())
        shutil.rmtree(run_likelihood.folder)
        run_likelihood(likelihood__batch_size=2)
        assert np.abs(numbers(run_likelihood.table()) / ours - 1.0)[:, :2].max() < 1e-6

    # two more processes that import torch; tests/faults has a shared run by default, one of whose processes dies
    @pytest.mark.long
    def test_two_processes_make_the_same_table(self, run_likelihood):
        before = run_likelihood.table()
        shutil.rmtree(run_likelihood.folder)
        run_likelihood("--processes", "2")
        assert run_likelihood.table() == before
        assert len(list(run_likelihood.folder.glob("rows-*/*.jsonl"))) == 2 and run_likelihood.lines() == 2

    def test_the_last_of_a_launchers_processes_makes_the_table(self, run_likelihood, monkeypatch):
        before = run_likelihood.table()
        shutil.rmtree(run_likelihood.folder)
        monkeypatch.setenv("WORLD_SIZE", "2")
        for rank in ("1", "0"):
            monkeypatch.setenv("RANK", rank)
            assert not (run_likelihood.folder / "test.csv").exists()
            done = run_likelihood()
            assert ("rank 1 of 2 is done; 1 batches of other ranks remain" in done.stdout) == (rank == "1")
        assert run_likelihood.table() == before
        monkeypatch.setenv("RANK", "2")
        assert "give 0 <= RANK < WORLD_SIZE" in run_likelihood(code=2).stderr

    def test_a_torn_line_is_a_batch_that_was_not_computed(self, run_likelihood):
        before = run_likelihood.table()
        (shard,) = run_likelihood.folder.glob("rows-*/*.jsonl")
        content = shard.read_bytes()
        for torn in (content[:-1], content[: content.index(b"\n") + 20], content[:5], b""):
            shutil.rmtree(shard.parent)
            shard.parent.mkdir()
            shard.write_bytes(torn)
            (run_likelihood.folder / "test.csv").unlink()
            left = 5 if torn.count(b"\n") == 0 else 2
            assert f"computing {left} of" in run_likelihood().stdout
            assert run_likelihood.table() == before

    def test_a_changed_byte_is_a_torn_line(self, run_likelihood):
        """For every bit: otherwise a number would be another number."""
        store = next(run_likelihood.folder.glob("rows-*"))
        (shard,) = store.glob("*.jsonl")
        line = shard.read_bytes().splitlines(keepends=True)[0]
        assert len(Batch.from_line(line).rows) == 3
        for place in range(len(line) - 1):
            changed = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
            with pytest.raises(ValueError):
                Batch.from_line(changed)

    def test_a_draw_has_probes_that_no_other_seed_has(self, run_likelihood, monkeypatch):
        """Draw 1 of seed 0 and draw 0 of seed 1, for example, must be independent. Draw 0 uses the seed itself."""
        seeds = []

        def watched(sde, score, x, *, noise, **settings):
            seeds.append(noise.seed)
            return log_likelihood(sde, score, x, noise=noise, **settings)

        monkeypatch.setattr("scoresde.experiment.jobs.likelihood_methods.log_likelihood", watched)
        for seed in (11, 12):
            run_likelihood("--draws=2", likelihood__seed=seed, likelihood__limit=1)
        assert seeds[::2] == [11, 12] and len(set(seeds)) == 4

    def test_other_settings_start_again_and_do_not_mix(self, run_likelihood):
        before = run_likelihood.table()
        done = run_likelihood(likelihood__seed=7)
        assert "Changes: seed: 0 -> 7" in done.stdout and "computing 5 of" in done.stdout
        assert np.abs(numbers(run_likelihood.table()) - numbers(before))[:, 0].min() > 0
        assert len(list(run_likelihood.folder.glob("rows-*"))) == 2
        assert "computing 0 of" in run_likelihood().stdout
        assert run_likelihood.table() == before
        change_weights(run_likelihood.folder.parent / "checkpoints")
        done = run_likelihood()
        assert "Changes: checkpoint digest: " in done.stdout and "computing 5 of" in done.stdout

    def test_two_at_a_time_are_refused(self, run_likelihood):
        with Workdir(run_likelihood.folder.parent).lock("likelihood"):
            assert "another process is running this command" in run_likelihood(code=2).stderr
        run_likelihood()

    def test_flags(self, run_likelihood):
        assert "--drawz=2 is not known; did you mean '--draws'" in run_likelihood("--drawz=2", code=2).stderr
        assert "draws='two'" in run_likelihood("--draws=two", code=2).stderr
        assert "did you mean 'test'" in run_likelihood("--split=tset", code=2).stderr
        assert "give it to the solver" in run_likelihood("--tolerance=0.1", code=2).stderr
        assert "set the same value" in run_likelihood("--draws=2", code=2, likelihood__draws=2).stderr
        assert "processes=0" in run_likelihood("--processes=0", code=2).stderr
        done = run_likelihood.command("sample", "vp", "--draws=2")
        assert done.returncode == 2 and "--draws is a flag of likelihood, not of sample" in done.stderr
        run_likelihood("--split=train", likelihood__limit=2)
        assert len(run_likelihood.table("train")) == 3


def change_weights(folder):
    """Other EMA weights in the last checkpoint, as more training would leave them."""
    (path,) = folder.glob("step-*.safetensors")
    tensors, header = read_tensors(path)
    write_tensors(path, {k: 1.01 * v if k.startswith("ema.") else v for k, v in tensors.items()}, header)


class TestFailures:
    @pytest.fixture
    def lose(self, run_likelihood, monkeypatch):
        """``lose({3})``: the score of event 3 is NaN from now on."""
        shutil.rmtree(run_likelihood.folder)

        def now(events):
            def bent(sde, score, x, *, noise, **settings):
                lost = torch.tensor([int(i) in events for i in noise.indices])[:, None, None, None]
                return log_likelihood(
                    sde, lambda y, t: torch.where(lost, math.nan, score(y, t)), x, noise=noise, **settings
                )

            monkeypatch.setattr("scoresde.experiment.jobs.likelihood_methods.log_likelihood", bent)

        return now

    # in a batch of 3 the solver continues without it; alone, or if the whole batch fails, the solver stops
    @pytest.mark.filterwarnings("ignore:the score is not finite")
    @pytest.mark.parametrize(("lost", "size"), [({3}, 3), pytest.param({3}, 1, marks=pytest.mark.long), ({3, 4}, 3)])
    def test_a_failed_row_is_marked_and_not_in_the_mean(self, run_likelihood, trained, lose, lost, size):
        lose(lost)
        assert f"WARNING: {len(lost)} of 5 rows FAILED" in run_likelihood(likelihood__batch_size=size).stdout
        lines = run_likelihood.table()
        assert {int(line.split(",")[0]) for line in lines[1:] if line.endswith(",1")} == lost
        whole = numbers((trained.workdir / "likelihood" / "test.csv").read_text().splitlines())
        summary = run_likelihood.summary()
        kept = [i for i in range(5) if i not in lost]
        assert summary["failed"] == len(lost)
        assert summary["bits_per_dim"] == pytest.approx(whole[kept, 1].mean(), rel=1e-6)
        assert run_likelihood.command("report", "vp", **FEW).returncode == 0
        assert f"{len(lost)} of 5 rows failed" in (run_likelihood.folder.parent / "report.html").read_text()

    def test_where_all_failed_there_is_no_summary(self, run_likelihood, lose):
        lose(set(range(5)))
        assert "all 5 rows failed" in run_likelihood(code=2).stderr
        assert not (run_likelihood.folder / "test.json").exists()
        assert all(line.endswith(",1") for line in run_likelihood.table()[1:])


PILOT = {"likelihood__grid_events": 2, "likelihood__limit": 2}


class TestGrid:
    """The fitted grid is saved with the checkpoint."""

    def test_one_grid_for_all_and_a_new_one_for_a_bad_file(self, run_likelihood):
        assert "time grid fitted to 2 training events" in run_likelihood(**PILOT).stdout
        (file,) = (run_likelihood.folder.parent / "checkpoints").glob("grid-*.json")
        good, before = file.read_text(), run_likelihood.table()
        assert "time grid fitted" not in run_likelihood(**PILOT).stdout
        stale = read_sealed(file)
        stale["for"]["checkpoint digest"] = "0" * 16
        write_sealed(file, stale)
        other = good.replace('"events": 2', '"events": 3')
        for bad, why in (
            (file.read_text(), "has other settings"),
            (good[:100], "cannot be read"),
            (other, "cannot be read"),
        ):
            file.write_text(bad)
            assert why in run_likelihood(**PILOT).stdout
            assert file.read_text() == good and run_likelihood.table() == before

    def test_the_limit_limits_the_pilot(self, run_likelihood):
        """A larger limit later uses the same grid and the same rows."""
        assert (
            "time grid fitted to 2 training events"
            in run_likelihood(likelihood__grid_events=3, likelihood__limit=2).stdout
        )
        before = run_likelihood.table()
        more = run_likelihood(likelihood__grid_events=3, likelihood__limit=4).stdout
        assert "time grid fitted" not in more and "computing 2 of" in more
        assert run_likelihood.table()[:3] == before
        assert "has other settings" in run_likelihood(likelihood__grid_events=4, likelihood__limit=4).stdout


class TestStatistics:
    def rows(self, n, m, event, draw, probe, seed=0):
        """Values with known standard deviations between events, between draws, and of the probes."""
        g = np.random.default_rng(seed)
        events = g.normal(0, event, (n, 1))
        y = 2.0 + events + g.normal(0, draw, (n, m)) + g.normal(0, probe, (n, m))
        return [
            Row(i, j, -y[i, j], y[i, j], probe, probe, 0.25, 1, 1, 0, 0) for j in range(m) for i in range(n)
        ]  # fmt: skip

    def test_the_parts_are_what_was_put_in(self):
        n, m = 4000, 3
        found = statistics(self.rows(n, m, 0.5, 0.3, 0.2), discrete=True)
        parts = found["parts of the error"]
        assert parts["sampling of events"] == pytest.approx(0.5 / math.sqrt(n), rel=0.05)
        assert parts["dequantization"] == pytest.approx(0.3 / math.sqrt(n * m), rel=0.05)
        assert parts["trace"] == pytest.approx(0.2 / math.sqrt(n * m), rel=1e-12)
        assert parts["solver"] == pytest.approx(0.25)
        whole = sum(parts[k] ** 2 for k in ("sampling of events", "dequantization", "trace"))
        assert whole == pytest.approx(found["standard_error"] ** 2, rel=1e-12)

    def test_the_error_is_the_spread_of_the_mean(self):
        means, errors = [], []
        for seed in range(400):
            found = statistics(self.rows(20, 2, 0.5, 0.3, 0.2, seed), discrete=True)
            means.append(found["bits_per_dim"])
            errors.append(found["standard_error"])
        assert np.std(means) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.1)

    def test_one_draw_does_not_know_the_dequantization(self):
        parts = statistics(self.rows(50, 1, 0.5, 0.3, 0.2), discrete=True)["parts of the error"]
        assert parts["dequantization"] is None and parts["sampling of events"] > 0.4 / math.sqrt(50)

    def test_one_event_has_no_error(self):
        found = statistics(self.rows(1, 2, 0.5, 0.3, 0.2), discrete=True)
        assert found["standard_error"] is None and found["parts of the error"]["sampling of events"] is None
