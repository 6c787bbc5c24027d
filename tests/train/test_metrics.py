import importlib.util
import io
import json
import math
import os
import struct
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from train import trackers
from train.metrics import MetricsWriter, read_metrics


def lines_of(workdir):
  text = (workdir / "metrics.jsonl").read_text()
  assert text.endswith("\n")
  return [
    json.loads(line, parse_constant=pytest.fail)
    for line in text.split("\n")[:-1]
  ]


def write_steps(workdir, steps):
  with MetricsWriter(workdir, total_steps=10) as writer:
    for step in steps:
      writer.write(step, "train", {"loss": 1 / step})


def test_a_line_is_in_the_file_at_once(tmp_path):
  workdir = tmp_path / "runs" / "one"
  writer = MetricsWriter(workdir, total_steps=10)
  writer.write(3, "train", {"loss": 0.5, "tokens": 64})
  writer.write(np.int64(4), "validation", {"loss": jnp.float32(0.25)})
  assert lines_of(workdir) == [
    {"step": 3, "split": "train", "loss": 0.5, "tokens": 64},
    {"step": 4, "split": "validation", "loss": 0.25},
  ]
  writer.close()


def test_values_that_are_not_finite_are_written_as_null(tmp_path):
  with MetricsWriter(tmp_path, total_steps=10) as writer:
    writer.write(
      1, "train", {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    )
  assert lines_of(tmp_path) == [
    {"step": 1, "split": "train", "a": None, "b": None, "c": None, "d": 1.0}
  ]
  (line,) = read_metrics(tmp_path)
  assert math.isnan(line["a"])
  assert line["d"] == 1.0


def test_a_second_writer_continues_the_file(tmp_path):
  write_steps(tmp_path, [1, 2])
  write_steps(tmp_path, [3])
  assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("rest", ['{"step": 3, "split": "tr', "\x00\x00", "3"])
def test_half_a_line_is_dropped(tmp_path, rest):
  write_steps(tmp_path, [1, 2])
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write(rest)
  assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
  write_steps(tmp_path, [3])
  assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_a_copy_by_hard_links_is_not_changed(tmp_path):
  write_steps(tmp_path, [1])
  copy = tmp_path / "copy"
  copy.hardlink_to(tmp_path / "metrics.jsonl")
  before = copy.read_bytes()
  write_steps(tmp_path, [2])
  assert copy.read_bytes() == before
  assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


def test_no_file_is_made_before_the_first_write(tmp_path):
  workdir = tmp_path / "run"
  with MetricsWriter(workdir, total_steps=10) as writer:
    writer.text("hello")
  assert not workdir.exists()


@pytest.mark.parametrize("step", [0, 1, 2, 9])
def test_truncating_drops_only_later_steps(tmp_path, step):
  write_steps(tmp_path, [1, 2, 3, 4])
  with MetricsWriter(tmp_path, total_steps=10) as writer:
    writer.truncate(step)
    writer.write(5, "train", {"loss": 7.0})
  expected = [one for one in (1, 2, 3, 4) if one <= step]
  lines = lines_of(tmp_path)
  assert [line["step"] for line in lines] == [*expected, 5]
  assert [line["loss"] for line in lines] == [*(1 / s for s in expected), 7.0]
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncating_replaces_the_file_at_once(tmp_path, monkeypatch):
  write_steps(tmp_path, [1, 2, 3])

  def die(*args):
    raise KeyboardInterrupt

  writer = MetricsWriter(tmp_path, total_steps=10)
  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
      writer.truncate(1)
  assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3]


def test_lines_are_printed_without_a_terminal(tmp_path, capsys):
  with MetricsWriter(tmp_path, total_steps=10) as writer:
    writer.write(2, "train", {"loss": 0.123456})
    writer.text("half way")
  out, err = capsys.readouterr()
  assert out == "step 2/10  train  loss 0.1235\nhalf way\n"
  assert err == ""


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_gets_a_bar_and_whole_lines(tmp_path, monkeypatch, capsys):
  screen = Terminal()
  monkeypatch.setattr(sys, "stderr", screen)
  with MetricsWriter(tmp_path, total_steps=10) as writer:
    writer.write(4, "train", {"loss": 0.5})
    writer.write(5, "train", {"loss": 0.25})
    writer.write(5, "validation", {"loss": 0.75})
    writer.text("half way")
  assert "5/10" in screen.getvalue()
  assert "loss 0.25" in screen.getvalue()
  assert capsys.readouterr().out.splitlines() == [
    "step 5/10  validation  loss 0.75",
    "half way",
  ]


def read_events(workdir):
  """Reads TensorBoard's record files: length, checksum, data, checksum."""
  from tensorboardX.proto.event_pb2 import Event

  for path in sorted(workdir.glob("events.*")):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      event = Event.FromString(data[12 : 12 + length])
      for value in event.summary.value:
        yield event.step, value.tag, value.simple_value
      if event.HasField("session_log"):
        yield event.step, "session", event.session_log.status
      data = data[16 + length :]


needs_tensorboard = pytest.mark.skipif(
  importlib.util.find_spec("tensorboardX") is None,
  reason="TensorBoard's writer is an extra",
)


def with_tensorboard(workdir):
  opened = trackers.openers(("tensorboard",), str(workdir), {})
  return MetricsWriter(workdir, total_steps=10, trackers=opened)


@needs_tensorboard
def test_tensorboard_gets_the_same_numbers(tmp_path):
  with with_tensorboard(tmp_path) as writer:
    writer.truncate(-1)
    writer.write(2, "train", {"loss": 0.5, "grad_norm": 3.0})
    writer.write(4, "validation", {"loss": 0.25})
  session, *events = read_events(tmp_path)
  assert session[:2] == (0, "session")
  assert events == [
    (2, "train/loss", 0.5),
    (2, "train/grad_norm", 3.0),
    (4, "validation/loss", 0.25),
  ]


@needs_tensorboard
def test_truncating_purges_tensorboard_too(tmp_path):
  with with_tensorboard(tmp_path) as writer:
    writer.truncate(6)
    writer.write(7, "train", {"loss": 0.5})
  events = list(read_events(tmp_path))
  assert [event[:2] for event in events] == [(7, "session"), (7, "train/loss")]


def test_metrics_are_written_without_trackers(tmp_path):
  with MetricsWriter(tmp_path, total_steps=10) as writer:
    writer.write(1, "train", {"loss": 0.5})
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
