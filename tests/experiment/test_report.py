"""scoresde report of complete, unfinished and damaged runs; and the page in a real browser."""

from __future__ import annotations

import importlib
import io
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde._files import bytes_digest, write_sealed
from scoresde.data import Affine, Quantized
from scoresde.experiment import Experiment, apply_overrides, load_config
from scoresde.experiment.folder.checkpoint import list_checkpoints
from scoresde.experiment.folder.plots import curve_picture, event_picture
from scoresde.experiment.reports.evaluation import HEAD
from scoresde.experiment.reports.html import figure, page, table
from scoresde.experiment.reports.report import baselines
from scoresde.experiment.reports.training import read_metrics, speed
from tests.experiment.conftest import ROOT, TINY, CopyCommand, ended

FEW = {
    "training__steps": 6,
    **TINY,
}
PICTURE = curve_picture([1, 2, 3], {"a": [1.0, 2.0, 3.0]})
BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps with samples."""
    return ended(tmp_path_factory, "train", "sample", **FEW)[0]


@pytest.fixture
def report(trained, tmp_path):
    """``report()`` returns the page of a copy of that run in ``report.folder``."""
    command = CopyCommand(trained, tmp_path, **FEW)

    def page():
        command("report")
        return (command.workdir / "report.html").read_text()

    page.folder = command.workdir
    return page


def pictures(page):
    return page.count("<img ")


CURVES = 7
"""Loss, its parts over t, gradient, learning rate, images per second, distance of the average, memory."""


def preview(folder, step, kind):
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:09d}-{kind}.png"
    path.write_bytes(PICTURE)
    return path


def test_what_a_page_holds(report):
    page = report()
    assert "step 6 of 6, last checkpoint step-000000006" in page
    for wanted in (
        "id='configuration'",
        "id='timings'",
        "id='settings'",
        "id='environment'",
        "MLP with",
        "learning rate",
        "peak memory, MiB",
        "VPSDE",
    ):
        assert wanted in page
    assert pictures(page) == 1 + 2 + CURVES, "held-out data, two samplers, curves"
    assert "Not computed yet: run scoresde likelihood" in page
    assert not re.search(r"(src|href)='(?!data:)", page) and "<script" not in page


class TestBrokenRuns:
    def test_no_checkpoint(self, report):
        shutil.rmtree(report.folder / "checkpoints")
        assert "no checkpoint yet" in report()

    def test_a_torn_last_checkpoint(self, report):
        *_, last = list_checkpoints(report.folder / "checkpoints")
        last.write_bytes(last.read_bytes()[:200])
        page = report()
        assert f"Damaged and skipped: {last.name}" in page and "last checkpoint step-000000004" in page

    def test_torn_checkpoints_only(self, report):
        for path in list_checkpoints(report.folder / "checkpoints"):
            path.write_bytes(b"torn")
        assert "No checkpoint can be read" in report()

    @pytest.mark.parametrize("content", ["", "step", "step,loss\n", "loss\n1\n", "\0\0\0", "step,loss\nx,y\n", None])
    def test_no_metrics(self, report, content):
        (report.folder / "metrics.csv").unlink()
        if content is not None:
            (report.folder / "metrics.csv").write_text(content)
        assert "No step is logged yet" in report()

    def test_half_written_files(self, report):
        """If a JSON file or a picture is damaged, the rest of the page is complete."""
        for name in ("environment.json", "samples/predictor-corrector.json"):
            path = report.folder / name
            path.write_text(path.read_text()[:40])
        (report.folder / "likelihood").mkdir()
        (report.folder / "likelihood" / "test.json").write_text('{"split": "test", ')
        picture = bytes_digest((report.folder / "samples" / "probability-flow.png").read_bytes())
        facts = {"count": 5, "nfe": "many", "picture digest": picture}
        write_sealed(report.folder / "samples" / "probability-flow.json", facts)
        preview(report.folder / "previews", 2, "raw").write_bytes(b"\x89PNG\r\n\x1a\n torn")
        page = report()
        for wanted in (
            "environment.json is missing or cannot be read",
            "predictor-corrector: 2 batches are drawn, not finished",
            "test.json cannot be shown",
            "step-000000002-raw.png is not a complete picture",
            "probability-flow: 5 samples",
        ):
            assert wanted in page, wanted

    def test_a_run_that_has_just_begun(self, report):
        for name in ("samples", "checkpoints"):
            shutil.rmtree(report.folder / name)
        (report.folder / "metrics.csv").unlink()
        page = report()
        for wanted in (
            "step 0 of 6",
            "No step is logged yet",
            "predictor-corrector: not drawn yet",
            "test data, for comparison",
        ):
            assert wanted in page


class TestTraining:
    def test_metrics_as_they_were_written(self, tmp_path):
        file = tmp_path / "metrics.csv"
        file.write_text("step,loss,seconds\n10,2.5,1.0\n20,nan,2.0\n30,1.5\nx,1,1\n40,1.25,4.0\n50,1.0,5.")
        found = read_metrics(file)
        assert found["step"] == [10, 20, 40] and found["seconds"] == [1.0, 2.0, 4.0]
        assert found["loss"][0] == 2.5 and math.isnan(found["loss"][1]) and found["loss"][2] == 1.25
        # a complete line
        file.write_text(file.read_text() + "5\n")
        assert read_metrics(file)["seconds"][-1] == 5.5

    def test_speed_over_a_restart(self):
        """The clock of a run that was started again is reset to 0."""
        config = load_config(ROOT / "configs" / "vp" / "digits.py")
        apply_overrides(config, {"training.batch_size": "10"})
        found = speed(
            Experiment.from_config(config), {"step": [10.0, 20.0, 30.0, 40.0], "seconds": [2.0, 4.0, 1.0, 2.0]}
        )
        assert found[:2] == [50.0, 50.0] and math.isnan(found[2]) and found[3] == 100.0

    def test_columns_that_are_not_known_and_losses_over_t(self, report):
        file = report.folder / "metrics.csv"
        head, *rows = (",".join(line.split(",")[:5]) for line in file.read_text().splitlines())
        extra = ",".join(f"loss_t{k}" for k in range(4)) + ",temperature,skipped"
        file.write_text("\n".join([f"{head},{extra}", *(f"{row},4,3,nan,1,300,0" for row in rows)]) + "\n")
        page = report()
        assert "loss by t, in 4 intervals" in page and "temperature" in page
        assert pictures(page) == 3 + 6, "a curve that is 0 throughout is left out"

    def test_previews(self, report):
        for step in range(1, 21):
            preview(report.folder / "previews", step, "ema")
        preview(report.folder / "previews", 7, "raw")
        (report.folder / "bad_batches").mkdir()
        (report.folder / "bad_batches" / "step-000000003.safetensors").write_bytes(b"")
        page = report()
        assert (
            "averaged weights" in page
            and "weights without averaging" in page
            and "6 of 20 pictures in previews/" in page
        )
        assert "step 1<" in page and "step 20<" in page and "step 2<" not in page
        assert pictures(page) == 7 + 3 + CURVES and "Batches with a loss or gradient that is not finite: 1" in page


class TestBaselines:
    def of(self, tmp_path, raw):
        np.save(tmp_path / "x.npy", raw)
        config = load_config(ROOT / "configs" / "vp" / "digits.py")
        config.data = {"name": "Arrays", "train": str(tmp_path / "x.npy"), "levels": 17, "test_fraction": 0.5}
        return baselines(Experiment.from_config(config))

    @pytest.mark.parametrize(("events", "fitted"), [(2, 0), (4, 1), (16, 1), (24, 2)])
    def test_few_events_are_said(self, tmp_path, events, fitted):
        raw = np.random.default_rng(0).integers(0, 17, (events, 1, 4, 4)).astype(np.uint8)
        found, said = self.of(tmp_path, raw)
        assert len(found) == 1 + (fitted > 0) and "histogram" in found[-1].name
        assert said.count("few events") == 5 - fitted

    def test_large_ones_are_said(self, tmp_path, monkeypatch):
        raw = np.random.default_rng(0).integers(0, 17, (240, 1, 8, 8)).astype(np.uint8)
        room = importlib.import_module("scoresde.experiment.reports.report")
        monkeypatch.setattr(room, "MIXTURES_UP_TO", 120 * 20 * 64)
        found, said = self.of(tmp_path, raw)
        assert "20 diag" in found[0].name
        assert said.count("large events") == 4 and said.count("few events") == 0
        monkeypatch.setattr(room, "BASELINES_UP_TO", 120 * 64 - 1)
        assert self.of(tmp_path, raw)[0] == [] and "No baselines: 120" in self.of(tmp_path, raw)[1]

    def test_they_reach_the_page(self, report):
        rows = ["index,draw,bits_per_dim,failed", "0,0,2.0,0", "1,0,3.0,0"]
        summary = {
            "split": "test", "bits_per_dim": 2.5, "standard_error": None, "events": 2, "failed": 0, "rows": 2,
            "parts of the error": {"trace": 0.1}, "known biases": {"prior": None},
            **dict.fromkeys(("draws", "solver", "divergence", "t_min", "transform", "data digest"), "x"),
            **dict.fromkeys(("checkpoint", "weights", "seed"), "x"),
        }  # fmt: skip
        (report.folder / "likelihood").mkdir()
        lines = ("\n".join(rows) + "\n").encode()
        (report.folder / "likelihood" / "test.csv").write_bytes(lines)
        summary["table digest"] = bytes_digest(lines)
        write_sealed(report.folder / "likelihood" / "test.json", summary)
        page = report()
        for wanted in ("id='likelihood-test'", "2.500", "unknown", "GaussianMixture", "independent pixel histogram"):
            assert wanted in page, wanted


def test_nothing_is_markup():
    assert "<b>" not in table("x", ("<b>",), [("<b>", "1")]) and "<b>" not in figure(b"", "<b>'")


@pytest.fixture
def visit(tmp_path):
    """``visit(page)``: the page as a browser renders it, and the lines of its console."""
    if BROWSER is None:
        pytest.skip("no Chromium on PATH")

    def call(content):
        (tmp_path / "page.html").write_text(content)
        line = [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom",
            f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "page.html").as_uri(),
        ]  # fmt: skip
        done = subprocess.run(line, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return call


def test_a_table_of_long_names_fits_the_page(visit):
    """On a page of 930 pixels, the long name of a reference takes several lines. Planted: without the rule the table is wider."""
    rows = [
        (
            "baseline: measurements.csv, 14 of 300 rows left out/test instead of samples",
            *["-0.009826"] * (len(HEAD) - 1),
        )
    ]
    content = page("x", [table("t", HEAD, rows, numbers=tuple(range(1, len(HEAD))))])
    look = (
        "<script>onload = () => { document.body.style.width = '930px'; document.body.dataset.fits = "
        "document.querySelector('table').offsetWidth <= 930; }</script></body>"
    )
    assert 'data-fits="true"' in visit(content.replace("</body>", look))[0]
    rule = ".figures td:first-child { overflow-wrap: anywhere; white-space: normal; }"
    assert rule in content
    assert 'data-fits="false"' in visit(content.replace(rule, "").replace("</body>", look))[0]


def test_figures_stay_whole_on_a_narrow_page(visit):
    """On 160 pixels next to a long name, a number has one line. Planted: without the rule it has more."""
    rows = [("this run, likelihood of its probability flow", "3.385", "0.003")]
    content = page("x", [table("t", ("model, 359 test events", "bits/dim", "standard error"), rows, numbers=(1, 2))])
    count = (
        "<script>onload = () => { document.body.style.width = '160px'; const range = document.createRange(); "
        "document.body.dataset.lines = [...document.querySelectorAll('td.n')].map(cell => { "
        "range.selectNodeContents(cell); return range.getClientRects().length; }); }</script></body>"
    )
    assert 'data-lines="1,1"' in visit(content.replace("</body>", count))[0]
    rule = "td.n, th.n { overflow-wrap: normal; white-space: nowrap; }"
    assert rule in content and 'data-lines="1,1"' not in visit(content.replace("</body>", count).replace(rule, ""))[0]


def test_in_a_browser(report, visit):
    """All pictures are decoded, all tables are rendered, and the console is empty."""
    preview(report.folder / "previews", 2, "ema")
    page = report()
    look = (
        "<script>onload = () => { document.body.dataset.whole = [...document.images].filter(i => i.naturalWidth > 1).length; "
        "document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth; }</script></body>"
    )
    seen, console = visit(page.replace("</body>", look))
    assert console == []
    assert f'data-whole="{pictures(page)}"' in seen and 'data-wide="false"' in seen
    for name in ("configuration", "timings", "environment"):
        assert re.search(f'<table id="{name}"[^>]*><tbody><tr>', seen)
    # planted: an invalid picture, and a script that fails
    broken = page.replace("base64,iVBOR", "base64,AAAAA", 1).replace("</body>", look + "<script>nothing()</script>")
    seen, console = visit(broken)
    assert f'data-whole="{pictures(page) - 1}"' in seen and len(console) == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (8, 8)])
def test_images_of_real_numbers_are_images(shape):
    """A ramp from -3 to 5 is shown from black to white. Real numbers (H, W) may be a series and are drawn as lines."""
    ramp = torch.linspace(-3.0, 5.0, math.prod(shape)).reshape(1, *shape).expand(4, *shape)
    shown = np.asarray(Image.open(io.BytesIO(event_picture(ramp, Affine(), columns=2))))
    if len(shape) == 3:
        assert shown.shape[:2] == (2 * (96 + 4) + 4,) * 2 and shown.min() < 5 and shown.max() > 250
    else:
        assert shown.shape[0] > 100


@pytest.mark.parametrize(
    ("shape", "count", "scale", "columns"),
    [((1, 8, 8), 16, 12, 4), ((3, 12, 20), 6, 5, 3), ((1, 28, 28), 64, 4, 8), ((3, 128, 96), 2, 1, 2), ((1, 5, 1), 1, 20, 1)],
)  # fmt: skip
def test_small_images_are_enlarged_without_interpolation(shape, count, scale, columns):
    """Every pixel becomes a square of one color; the longest side has 96 screen pixels or more."""
    raw = torch.arange(count * math.prod(shape)).reshape(count, *shape) * 7 % 256
    shown = np.asarray(Image.open(io.BytesIO(event_picture(raw, Quantized(256)))))
    height, width, rows = shape[1] * scale, shape[2] * scale, math.ceil(count / columns)
    assert shown.shape[:2] == (rows * (height + 4) + 4, columns * (width + 4) + 4) and max(height, width) >= 96
    for k in range(count):
        y, x = 4 + k // columns * (height + 4), 4 + k % columns * (width + 4)
        seen = shown[y : y + height, x : x + width].reshape(shape[1], scale, shape[2], scale, -1)
        wanted = raw[k].movedim(0, -1).numpy()
        assert (seen == wanted[:, None, :, None]).all()
