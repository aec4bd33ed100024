"""Text on the command line: bits/byte of the whole text, samples and previews as text that a page cannot be changed by."""

from __future__ import annotations

import html
import json
from types import SimpleNamespace

import pytest

from scoresde.experiment import Experiment, Workdir, load_config, train
from scoresde.experiment.config.loader import apply_overrides
from scoresde.experiment.folder.shown_events import is_text, shown_events, shown_file
from scoresde.experiment.reports.html import LONGEST_TEXT, shown_figure, visible
from scoresde.loggers.tensorboard_files import _Board
from tests.experiment import recording
from tests.experiment.conftest import ROOT, called

TEXT = '<b>if</b> x < y & y > 0: "yes"\n' * 20
SETTINGS = {
    "network.width": 8, "network.depth": 1, "network.heads": 2, "training.steps": 4, "training.batch_size": 4,
    "training.warmup": 0, "training.preview_every": 2, "training.log_every": 2, "training.checkpoint_every": 4,
    "sampling.count": 3, "sampling.batch_size": 2, "samplers.ancestral.steps": 4, "likelihood.batch_size": 8,
    "likelihood.method": "{'name': 'JumpLikelihood', 'draws': 2}", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "code.txt").write_text(TEXT)
    alphabet = "".join(sorted(set(TEXT)))
    vocabulary = {"name": "Characters", "alphabet": alphabet}
    data = {"name": "TextFile", "train": str(folder / "code.txt"), "length": 9, "vocabulary": vocabulary}
    config = load_config(ROOT / "configs" / "jump" / "english.py")
    config.data = data
    apply_overrides(config, {key: str(value) for key, value in SETTINGS.items()})
    (folder / "config.json").write_text(config.to_json())
    recording.CALLS.clear()
    made = Experiment.from_config(config)
    train(made, Workdir(folder / "run"), {"mine": recording.Recorder()})
    for command in ("likelihood", "sample", "report"):
        done = called(command, "--config", folder / "config.json", "--workdir", folder / "run")
        assert done.returncode == 0, done.stderr
    return made, folder / "run"


def test_the_summary_and_the_log_state_bits_per_byte(run):
    """Over the whole text, with the perplexity: the bits of all windows, of which the last overlaps the one before."""
    made, folder = run
    summary = json.loads((folder / "likelihood" / "test-bound.json").read_text())
    text, size = summary["text"], round(0.1 * len(TEXT))
    assert text["bytes"] == size and size % 9 and len(made.data.test) == -(-size // 9)
    bits = summary["bits_per_dim"] * 9 * len(made.data.test)
    assert text["bits_per_byte"] == pytest.approx(bits / size) and text["bits_per_token"] == pytest.approx(
        bits / 9 / len(made.data.test)
    )
    assert text["perplexity"] == pytest.approx(2.0 ** summary["bits_per_dim"])
    log, page = (folder / "log.txt").read_text(), (folder / "report.html").read_text()
    said = f"bits/byte of {size} bytes of text, perplexity {text['perplexity']:.3f} per token; Markov model of order 5"
    assert f"{text['bits_per_byte']:.4f} +- {text['standard error']:.4f} {said}" in log
    assert "is worse than the Markov model of order 5" in log
    assert f"<td class=n>{text['bits_per_byte']:.4f}</td>" in page and "<td>bzip2, after the training text</td>" in page
    assert f"perplexity {text['perplexity']:.3f} per token" in page


def test_samples_are_a_text_file_and_text_in_the_report(run):
    made, folder = run
    assert is_text(made.data) and not list(folder.glob("samples/*.png")) and not list(folder.glob("previews/*.png"))
    page = (folder / "report.html").read_text()
    for name in ("ancestral", "first_hitting"):
        content = (folder / "samples" / f"{name}.txt").read_text()
        assert content.startswith("----- 0\n") and "\n----- 2\n" in content and html.escape(content) in page
    previews = sorted(folder.glob("previews/*.txt"))
    assert [file.name[5:14] for file in previews[::2]] == ["000000002", "000000004"]
    assert all(html.escape(file.read_text()) in page for file in previews)
    first = made.data.texts(made.data.test.raw[:1])[0]
    assert html.escape(f"----- 0\n{first}\n") in page and "<b>if" not in page.partition("<h2>Settings")[0]


def test_loggers_get_the_text_of_previews(run):
    """TensorBoard shows Markdown, in which a block that is indented stays as it is."""
    _, folder = run
    calls = [call for call in recording.CALLS if call[0] in ("texts", "pictures")]
    assert [call[:2] for call in calls] == [("texts", 2), ("texts", 4)]
    file = folder / "previews" / "step-000000004-ema.txt"
    assert calls[-1][2]["samples/ema"] == file.read_text("utf-8")
    seen = []
    board = SimpleNamespace(add_text=lambda *call: seen.append(call), flush=lambda: seen.append("flushed"))
    _Board(board).texts({"samples/ema": file}, 4)
    (name, text, step), flushed = seen
    assert (name, step, flushed) == ("samples/ema", 4, "flushed") and all(
        line.startswith("    ") for line in text.split("\n")
    )
    assert text.replace("\n    ", "\n")[4:] == "\n".join(file.read_text("utf-8").splitlines())


def test_a_changed_text_is_not_shown(run):
    _, folder = run
    file = folder / "samples" / "ancestral.txt"
    before = file.read_bytes()
    file.write_bytes(before + b"more")
    done = called("report", "--workdir", folder)
    file.write_bytes(before)
    page = (folder / "report.html").read_text()
    assert done.returncode == 0 and "ancestral.txt is not the text of these samples" in page and ">more" not in page


def test_characters_that_change_a_page_or_a_terminal_are_escaped():
    """A tag, an escape sequence, a change of direction, bytes that are not UTF-8."""
    page = shown_figure(".txt", b"<i>\x1b[31m\xe2\x80\xae\xff\ta\n" + b"x" * LONGEST_TEXT, "caption")
    assert "&lt;i&gt;\\x1b[31m\\u202e\ufffd\ta\nxx" in page and "(the first 10,000 of 10,013 characters)" in page
    assert visible("a\r\nb é漢") == "a\\r\nb é漢"


def test_where_an_index_says_that_its_samples_are_shown(tmp_path):
    """Indexes of earlier versions have pictures. A name cannot leave the folder."""
    index = tmp_path / "ancestral@raw.json"
    assert shown_file(index, {}).name == "ancestral@raw.png"
    assert shown_file(index, {"shown in": "../../a.txt"}) == tmp_path / "a.txt"


def test_other_tokens_stay_pictures():
    config = load_config(ROOT / "configs" / "jump" / "digits.py")
    data = Experiment.from_config(config).data
    assert not is_text(data) and shown_events(data, data.test.raw[:2])[0] == ".png"


@pytest.mark.parametrize("name", ["text8", "enwik8"])
def test_the_texts_of_100_million_bytes_need_their_file(name, tmp_path):
    """The configs can be read without it. A file of another size is refused before training."""
    config = load_config(ROOT / "configs" / "jump" / f"{name}.py")
    assert (config.training.steps, config.training.batch_size, config.network.depth) == (1_000_000, 512, 12)
    (tmp_path / name).write_bytes(b"abc")
    config.data.file = str(tmp_path / name)
    apply_overrides(config, {"network.width": "8", "network.depth": "1", "network.heads": "1"})
    made = Experiment.from_config(config)
    assert made.data.event_shape == (256,) and made.data.transform.tokens == {"text8": 27, "enwik8": 256}[name]
    with pytest.raises(ValueError, match="has 3 bytes: text8 and enwik8 have 100000000, after they are unpacked"):
        made.data.train  # noqa: B018
