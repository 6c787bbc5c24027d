"""The pictures of the stored sweep: what is drawn, and where it comes from."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import plots
from benchmarks.contest import Result

STORED = pathlib.Path(plots.__file__).with_name("ops.json")


@pytest.fixture
def drawn(monkeypatch, tmp_path):
  """The figure of a call of the command."""
  figures = []
  save = plots.save

  def keep(figure, output):
    figures.append(figure)
    save(figure, output)

  monkeypatch.setattr(plots, "save", keep)

  def draw(*words):
    plots.main([str(STORED), *words])
    (figure,) = figures
    figures.clear()
    return [axes for axes in figure.axes if axes.lines]

  return draw


def curve(axes, label):
  (line,) = (line for line in axes.lines if line.get_label() == label)
  return np.array(line.get_xydata())


def test_a_sweep_is_drawn_as_six_gradients(drawn, tmp_path):
  panels = drawn(f"--output={tmp_path / 'a.png'}")
  titles = [axes.get_title(loc="left") for axes in panels]
  assert titles == [f"{op}, gradient" for op in plots.SIX]
  results = [Result(**r) for r in json.loads(STORED.read_text())["results"]]
  expected = [
    (r.length, 1e6 * r.per_token)
    for r in results
    if (r.op, r.direction, r.name) == ("delta_rule", "gradient", "lax.scan")
    and not r.skipped
  ]
  np.testing.assert_allclose(curve(panels[2], "lax.scan"), expected)
  for axes in panels:
    low, high = axes.get_ylim()
    ends = axes.dataLim.intervaly
    assert low < ends[0] < ends[1] < high
    labels = [t for t in axes.get_yticks() if low <= t <= high]
    assert len(labels) >= 3


def test_other_ops_and_directions_can_be_asked_for(drawn, tmp_path):
  words = "--ops attention --directions forward gradient"
  panels = drawn(f"--output={tmp_path / 'a.png'}", *words.split())
  titles = [axes.get_title(loc="left") for axes in panels]
  assert titles == ["attention, forward", "attention, gradient"]


def test_the_overview_shows_what_grows(drawn, tmp_path):
  time, memory = drawn(f"--overview={tmp_path / 'a.png'}")
  linear, softmax = (
    curve(time, x)[:, 1] for x in ("delta_rule", "softmax attention")
  )
  assert linear.max() < 1.2 * linear.min()
  assert softmax[-1] > 5 * softmax[0]
  lines = [np.array(line.get_xydata()) for line in memory.lines]
  # [4, 64, 64] of float32, and the keys and values of every token.
  np.testing.assert_array_equal(lines[0][:, 1], 4 * 64 * 64 * 4 / 1024)
  lengths, kibibytes = lines[-1].T
  cache = 2 * 4 * 64 * 4 * lengths / 1024
  np.testing.assert_allclose(kibibytes, cache, rtol=0.01)
