"""The report gives one error line for wrong metrics or pictures."""

import os
import stat

import pytest

from tests.train.refusals import refused
from train import report
from train.command import main_with_errors


def run_of(folder, content):
  folder.mkdir()
  with open(folder / "metrics.jsonl", "wb") as file:
    file.write(content)
  return folder


GOOD = b'{"step": 1, "split": "train", "loss": 1.0}\n'
LINES = [
  (b'{"step": 2, "loss": "abc"}', "line 2: loss is 'abc'"),
  (b'{"step": 2, "loss": [1]}', "line 2: loss is [1]"),
  (b'{"step": 2, "loss": {"a": 1}}', "line 2: loss is {'a': 1}"),
  (b'{"step": 2, "loss": true}', "line 2: loss is True"),
  (b'{"step": 2, "loss": 1e308}', "loss is 1e+308"),
  (b'{"step": 2, "loss": -1e308}', "loss is -1e+308"),
  (b'{"step": 2, "loss": 1' + b"0" * 400 + b"}", "loss is 1000"),
  (b'{"step": 2, "tokens": "x", "loss": 1}', "tokens is 'x'"),
  (b'{"step": true, "loss": 1}', "step is True"),
  (b'{"step": "2", "loss": 1}', "step is '2'"),
  (b'{"step": 2.5, "loss": 1}', "step is 2.5"),
  (b'{"step": null, "loss": 1}', "step is None"),
  (b'{"step": -2, "loss": 1}', "step is -2"),
  (b'{"step": 1' + b"0" * 30 + b', "loss": 1}', "step is 1000"),
  (b'{"step": 2, "split": 3, "loss": 1}', "split is 3"),
  (b'{"step": 2, "split": ["train"], "loss": 1}', "split is ['train']"),
  (b'{"step": 0, "split": "baseline", "gzip": "y"}', "gzip is 'y'"),
  (b'{"step": 0, "split": "baseline", "gzip": {}}', "gzip is {}"),
]


@pytest.mark.parametrize(("line", "part"), LINES)
def test_a_wrong_line_of_metrics_is_named(line, part, tmp_path, capfd):
  good = run_of(tmp_path / "good", GOOD)
  bad = run_of(tmp_path / "bad", GOOD + line + b"\n")
  for runs in ([bad], [good, bad]):
    error = refused(report.main, [*map(str, runs), "--output=x.png"], capfd)
    assert part in error and str(bad / "metrics.jsonl") in error
  assert not os.path.exists("x.png")


@pytest.mark.parametrize(
  "line",
  [
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"step": ' + b"9" * 10_000 + b"}",
    b'{"step": 2, "loss": NaN}',
    b'{"step": 2, "loss": -Infinity}',
    b'{"loss": 2}',
    b"null",
    b"",
    '{"step": 2, "é": null, "split": "é"}'.encode(),
    b'{"step": 9000000000000000000, "loss": 3e38}',
  ],
)
def test_lines_without_metrics_are_left_out(line, tmp_path, capfd):
  run = run_of(tmp_path / "run", GOOD + line + b"\n" + GOOD)
  assert main_with_errors(report.main, [str(run)]) == 0
  assert (run / "report.png").stat().st_size > 1000
  assert not capfd.readouterr().err


@pytest.mark.parametrize(
  ("content", "part"),
  [
    (b"", "is empty"),
    (os.urandom(1000).replace(b"{", b""), "is empty"),
    (b'{"step": 1, "x": 2}\n', "the metrics have none of"),
  ],
)
def test_metrics_with_nothing_to_draw(content, part, tmp_path, capfd):
  run = run_of(tmp_path / "run", content)
  assert part in refused(report.main, [str(run)], capfd)


def test_metrics_that_are_not_a_file_are_an_error(tmp_path, capfd):
  for make in (os.mkdir, os.mkfifo):
    run = tmp_path / make.__name__
    run.mkdir()
    make(run / "metrics.jsonl")
    assert "metrics.jsonl" in refused(report.main, [str(run)], capfd)


@pytest.mark.parametrize(
  ("output", "part"),
  [
    ("x.nosuch", ".png, "),
    ("x", ".png, "),
    ("x.png/", "must be a file"),
    ("tests", "is a directory"),
    ("README.md/x.png", "is not a directory"),
    ("/proc/x.png", "cannot write to --output=/proc/x.png"),
    ("gs://x/y.png", "not a local path"),
    ("x" * 300 + ".png", "File name too long"),
    ("", "--output is empty"),
  ],
)
def test_a_picture_that_cannot_be_written_is_an_error(
  output, part, tmp_path, capfd
):
  run = run_of(tmp_path / "run", GOOD)
  words = [str(run), f"--output={output}"]
  assert part in refused(report.main, words, capfd)
  assert not os.path.exists(output) or os.path.isdir(output)


def test_a_device_is_written_to_and_not_replaced(tmp_path, capfd):
  run = run_of(tmp_path / "run", GOOD)
  (tmp_path / "full.png").symlink_to("/dev/full")
  (tmp_path / "null.png").symlink_to("/dev/null")
  words = [str(run), f"--output={tmp_path / 'full.png'}"]
  assert "No space left on device" in refused(report.main, words, capfd)
  words = [str(run), f"--output={tmp_path / 'null.png'}"]
  assert main_with_errors(report.main, words) == 0
  assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
