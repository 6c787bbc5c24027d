"""Streams that are closed, full or limited in encoding; the end of a run."""

import errno
import io
import os
import shutil
import sys
import tempfile

import pytest

from train import __main__ as train
from train import command, evaluate, generate, streams
from train.command import main_with_errors
from train.metrics import read_metrics

TINY = "tests/train/tiny.py"


class Broken(io.StringIO):
  """A stream that fails after some writes."""

  def __init__(self, number, writes=0):
    super().__init__()
    self._number, self._writes = number, writes

  def write(self, text):
    if self._writes == 0:
      raise OSError(self._number, os.strerror(self._number))
    self._writes -= 1
    return super().write(text)


def narrow(encoding):
  return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def text_of(stream):
  stream.seek(0)
  return stream.read()


@pytest.fixture(autouse=True)
def tracebacks(tmp_path, monkeypatch):
  """Tracebacks of unexpected errors go to the folder of the test."""
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def workdir(finished, tmp_path):
  return shutil.copytree(finished[0], tmp_path / "run")


def end(workdir, *words):
  """Runs the command again: the run is complete, and prints its summary."""
  words = (TINY, f"--workdir={workdir}", *words)
  return main_with_errors(train._run, words, needs_output=False)


def one_warning(capsys):
  line = capsys.readouterr().err
  assert line.startswith("warning: ") and line.count("\n") == 1, line
  return line


# The farewell.


def test_the_report_is_written_before_the_sample(workdir, monkeypatch):
  found = []

  def continuation(*_):
    found.append((workdir / "report.png").stat().st_size)
    yield "x"

  (workdir / "report.png").unlink(missing_ok=True)
  monkeypatch.setattr(train, "continuation", continuation)
  assert end(workdir) == 0
  assert found[0] > 1000


@pytest.mark.parametrize(
  "error", [ValueError("no\nsample"), RuntimeError(), KeyboardInterrupt()]
)
def test_a_sample_that_fails_is_a_warning(workdir, monkeypatch, capsys, error):
  def continuation(*_):
    raise error

  monkeypatch.setattr(train, "continuation", continuation)
  assert end(workdir) == 0
  assert (workdir / "report.png").exists()
  assert "not its sample" in one_warning(capsys)


def test_a_report_that_fails_is_a_warning(workdir, capsys):
  (workdir / "report.png").unlink(missing_ok=True)
  (workdir / "report.png").mkdir()
  assert end(workdir) == 0
  printed = capsys.readouterr()
  assert "sample, after 'abc':" in printed.out
  assert "curves in" not in printed.out
  assert printed.err.startswith("warning: the run is complete, but not its rep")
  assert printed.err.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_run_continues_if_it_cannot_print(
  workdir, monkeypatch, capsys, number
):
  (workdir / "report.png").unlink(missing_ok=True)
  monkeypatch.setattr(sys, "stdout", Broken(number))
  assert end(workdir) == 0
  assert (workdir / "report.png").exists()
  assert os.strerror(number) in one_warning(capsys)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_replaces_characters_that_it_cannot_print(
  workdir, monkeypatch, capsys, encoding
):
  stream = narrow(encoding)
  monkeypatch.setattr(sys, "stdout", stream)
  monkeypatch.setattr(train, "continuation", lambda *_: iter(["a€", "\ufffd"]))
  (workdir / "report.png").unlink(missing_ok=True)
  assert end(workdir) == 0
  assert "a??" in text_of(stream)
  assert (workdir / "report.png").exists()
  assert "2 characters are printed as '?'" in one_warning(capsys)


@pytest.mark.parametrize("name", ["stdout", "stderr", "stdin"])
def test_a_run_finishes_without_standard_streams(workdir, monkeypatch, name):
  monkeypatch.setattr(sys, name, None)
  (workdir / "report.png").unlink(missing_ok=True)
  assert end(workdir) == 0
  assert (workdir / "report.png").exists()


def test_a_wrong_command_gives_its_exit_code_without_stderr(monkeypatch):
  monkeypatch.setattr(sys, "stderr", Broken(errno.EPIPE))
  assert main_with_errors(train._run, [TINY, "--steps=0"]) == 2
  monkeypatch.setattr(sys, "stderr", None)
  assert main_with_errors(train._run, [TINY, "--steps=0"]) == 2


def test_a_run_says_which_devices_are_idle(workdir, capsys):
  import jax

  count = jax.device_count()
  assert count > 1
  assert end(workdir) == 0
  line = f"{count - 1} of {count} devices are idle: --mesh.data=-1"
  assert line in capsys.readouterr().out
  assert end(workdir, "--mesh.data=-1") == 0
  assert "idle" not in capsys.readouterr().out


# Metrics that were damaged or deleted.


@pytest.mark.parametrize(
  ("line", "count"),
  [
    (b'{"step": 3, "split": "train", "loss": "abc"}', 1),
    (b'{"step": "x", "loss": 1}', 1),
    (b'{"step": true, "loss": [1]}', 1),
    (b'{"step": 3, "loss": 1e308}', 1),
    (b"\xff\xfe" + b"[" * 50_000, 0),
    (b'{"step": ' + b"9" * 10_000 + b"}", 0),
  ],
)
def test_a_resumed_run_drops_lines_that_are_not_metrics(
  workdir, capsys, line, count
):
  path = workdir / "metrics.jsonl"
  before = path.read_bytes()
  path.write_bytes(line + b"\n" + before)
  assert end(workdir) == 0
  printed = capsys.readouterr()
  assert ("dropped 1 lines that are not metrics" in printed.out) == bool(count)
  assert not printed.err
  assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", os.urandom(999)])
def test_a_resumed_run_says_that_its_metrics_are_lost(workdir, capsys, content):
  path = workdir / "metrics.jsonl"
  path.unlink() if content is None else path.write_bytes(content)
  assert end(workdir) == 0
  printed = capsys.readouterr()
  assert f"{path} has no lines up to step 12" in printed.out
  assert "the run is complete, but not its report" in printed.err
  assert printed.err.count("\n") == 1
  assert read_metrics(workdir) == []


# A command whose result is printed.


def ask(workdir, *words):
  words = (f"--workdir={workdir}", "--length=4", *words)
  return main_with_errors(generate._run, words)


def one_error(capsys):
  line = capsys.readouterr().err
  assert line.startswith("error: ") and line.count("\n") == 1, line
  return line


@pytest.mark.parametrize("writes", [0, 1])
def test_a_reader_that_closes_the_pipe_is_no_error(
  workdir, monkeypatch, capsys, writes
):
  monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE, writes))
  assert ask(workdir, "--prompt=a", "--length=40") == 0
  assert not capsys.readouterr().err


@pytest.mark.parametrize("run", [generate, evaluate])
def test_a_result_that_cannot_be_printed_is_an_error(
  workdir, monkeypatch, capsys, run
):
  words = [f"--workdir={workdir}", *["--prompt=a"] * (run is generate)]
  monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
  assert main_with_errors(run._run, words) == 1
  line = one_error(capsys)
  assert "cannot write to standard output: No space left on device" in line
  monkeypatch.setattr(sys, "stdout", None)
  assert main_with_errors(run._run, words) == 2
  assert "standard output is closed" in one_error(capsys)


def test_text_that_the_encoding_lacks_is_an_error(workdir, monkeypatch, capsys):
  stream = narrow("ascii")
  monkeypatch.setattr(sys, "stdout", stream)
  monkeypatch.setattr(generate, "continuation", lambda *_: iter("é€a"))
  assert ask(workdir, "--prompt=a") == 1
  assert text_of(stream) == "??a\n"
  assert "2 characters are printed as '?'" in one_error(capsys)


def test_closed_standard_input_is_an_error(workdir, monkeypatch, capsys):
  monkeypatch.setattr(sys, "stdin", None)
  assert ask(workdir) == 2
  assert "give --prompt=TEXT" in one_error(capsys)
  stdin = narrow("utf-8")
  stdin.close()
  monkeypatch.setattr(sys, "stdin", stdin)
  assert ask(workdir) == 2
  assert "standard input" in one_error(capsys)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", "é".encode()])
def test_any_bytes_are_a_prompt(workdir, monkeypatch, capsys, content):
  stdin = io.TextIOWrapper(io.BytesIO(content), encoding="ascii")
  monkeypatch.setattr(sys, "stdin", stdin)
  assert ask(workdir) == 0
  assert not capsys.readouterr().err


@pytest.mark.parametrize("word", ["--length=0", "--prompt=", "--prompt=\udcff"])
def test_an_empty_prompt_and_length_zero_are_accepted(workdir, capsys, word):
  assert ask(workdir, "--prompt=a", word) == 0
  assert not capsys.readouterr().err


# Unexpected errors.


def fails(error):
  def run(argv):
    raise error

  return run


@pytest.mark.parametrize(
  ("error", "code", "part"),
  [
    (KeyboardInterrupt(), 130, "interrupted"),
    (OSError(errno.EACCES, "Permission denied", "a/b"), 1, "a/b: Permission"),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
    (OSError(errno.EFBIG, "File too large"), 1, "ulimit -f"),
    (ValueError("[OS error 27: EFBIG File too large]"), 1, "ulimit -f"),
    (MemoryError("Unable to allocate 3 TiB"), 1, "out of memory (Unable"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), 1, "out of memory ("),
    (RuntimeError("Unable to initialize backend 'x': no"), 2, "backend 'x'"),
  ],
)
def test_an_error_of_the_machine_gives_one_line_and_a_code(
  error, code, part, capsys
):
  assert main_with_errors(fails(error), []) == code
  assert part in one_error(capsys)


def test_an_unexpected_error_writes_its_traceback_to_a_file(capsys):
  assert main_with_errors(fails(IndexError("a\nb")), []) == 1
  line = one_error(capsys)
  assert "unexpected IndexError: a b (" in line and "test_streams.py:" in line
  path = line.split("the traceback is in ")[1].strip()
  with open(path) as file:
    assert "Traceback (most recent call last)" in file.read()


def test_a_long_line_is_cut(capsys):
  word = "x" * 100_000
  assert main_with_errors(fails(command.UserError(word)), []) == 2
  assert len(one_error(capsys)) < 2100


def test_a_missing_platform_is_an_error(workdir, monkeypatch, capsys):
  import jax

  def devices():
    raise AssertionError

  monkeypatch.setattr(jax, "devices", devices)
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  for run, words in ((ask, ["--prompt=a"]), (end, [])):
    assert run(workdir, *words) == 2
    line = one_error(capsys)
    assert (
      "JAX finds no devices with JAX_PLATFORMS=cuda: AssertionError" in line
    )


def test_prepare_says_if_standard_output_is_there(monkeypatch):
  assert streams.prepare()
  monkeypatch.setattr(sys, "stdout", None)
  assert not streams.prepare()
  # What libraries print goes nowhere, and fails nowhere.
  print("lost")
