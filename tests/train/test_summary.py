"""Groups of runs, their mean and range, and the table of final values."""

import dataclasses
import json

import matplotlib.colors
import numpy as np
import pytest

from tests.train import tiny
from tests.train.test_report import Drawing
from train import report, summary
from train.config import serialize
from train.metrics import MetricsWriter
from train.report import write_report
from train.summary import Run, final_values, group_runs, markdown

STEPS = (10, 20, 30)


def write_run(folder, values, steps=STEPS, source="a.py", **changes):
  """A run of the tiny config whose bits per token are `values`."""
  config = tiny.get_config()
  model = {k: changes.pop(k) for k in ("width", "dropout") if k in changes}
  model = dataclasses.replace(config.model, **model)
  config = dataclasses.replace(config, model=model, **changes)
  with MetricsWriter(folder, total_steps=30) as writer:
    writer.write(0, "baseline", {"gzip": 2.0})
    for step, value in zip(steps, values, strict=True):
      line = {"bits_per_token": value, "tokens": 8, "tokens_per_second": 50.0}
      writer.write(step, "train", line)
      line = {"bits_per_token": value + 1, "accuracy": 0.5, "targets": 3}
      writer.write(step, "validation", line)
  document = {
    **serialize.to_json(config),
    "$data": {"train": "1", "vocab_size": 258},
    "$source": source,
  }
  (folder / "config.json").write_text(json.dumps(document))
  return folder


@pytest.fixture
def sweep(tmp_path):
  """Two widths with three and two seeds, in mixed order."""
  runs = [(8, 0, 3), (16, 0, 2), (8, 1, 4), (16, 1, 2.5), (8, 2, 8)]
  return [
    write_run(
      tmp_path / f"{width}-{seed}",
      [level, level / 2, level / 4],
      seed=seed,
      width=width,
      source=f"{seed}.py",
    )
    for width, seed, level in runs
  ]


def test_runs_that_differ_in_the_seed_are_one_group(sweep):
  groups = group_runs([Run(folder) for folder in sweep])
  assert [group.name for group in groups] == ["width 8", "width 16"]
  assert [[run.path.name for run in group.runs] for group in groups] == [
    ["8-0", "8-1", "8-2"],
    ["16-0", "16-1"],
  ]
  x, (low, mean, high) = groups[0].curve("train", "bits_per_token", "step")
  np.testing.assert_array_equal(x, STEPS)
  shape = np.array([1, 1 / 2, 1 / 4])
  np.testing.assert_allclose(low, 3 * shape)
  np.testing.assert_allclose(mean, 5 * shape)
  np.testing.assert_allclose(high, 8 * shape)


def test_other_data_or_another_field_are_another_group(tmp_path):
  folders = [
    write_run(tmp_path / "a", [1, 1, 1]),
    write_run(tmp_path / "b", [1, 1, 1], seed=1),
    write_run(tmp_path / "c", [1, 1, 1], seed=2),
    write_run(tmp_path / "d", [1, 1, 1], seed=3, width=4),
  ]
  path = folders[2] / "config.json"
  document = json.loads(path.read_text())
  document["$data"]["train"] = "2"
  path.write_text(json.dumps(document))
  groups = group_runs([Run(folder) for folder in folders])
  assert [len(group.runs) for group in groups] == [2, 1, 1]
  # Their settings do not tell the first two apart.
  assert [group.name for group in groups] == ["a", "c", "d"]


def test_a_run_counts_where_it_has_values(tmp_path):
  """One run is shorter, and one has written other steps."""
  folders = [
    write_run(tmp_path / "a", [0, 2, 4]),
    write_run(tmp_path / "b", [10, 20], steps=(10, 20), seed=1),
    write_run(tmp_path / "c", [1, 1], steps=(15, 25), seed=2),
  ]
  (group,) = group_runs([Run(folder) for folder in folders])
  x, (low, mean, high) = group.curve("train", "bits_per_token", "step")
  np.testing.assert_array_equal(x, [10, 15, 20, 25, 30])
  np.testing.assert_allclose(low, [0, 1, 1, 1, 4])
  np.testing.assert_allclose(mean, [5, (1 + 15 + 1) / 3, 23 / 3, 2, 4])
  np.testing.assert_allclose(high, [10, 15, 20, 3, 4])


def test_the_picture_has_the_mean_and_the_band(sweep, tmp_path, monkeypatch):
  drawing = Drawing(monkeypatch)
  write_report(sweep, tmp_path / "a.png")
  axes = drawing.panels["Loss by step"]
  assert len(axes.collections) == 4  # Two splits of two groups.
  band = axes.collections[0].get_paths()[0].vertices
  assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.75, 8))
  np.testing.assert_allclose(drawing.curves("Loss by step")[0][:, 1][0], 5)
  (legend,) = drawing.figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels[:2] == [
    "width 8 (mean and range of 3 seeds)",
    "width 16 (mean and range of 2 seeds)",
  ]


def test_colours_follow_the_field_with_most_values(tmp_path, monkeypatch):
  drawing = Drawing(monkeypatch)
  folders = [
    write_run(tmp_path / f"{w}-{d}", [3, 2, 1], width=w, dropout=d)
    for d in (0.0, 0.5)
    for w in (32, 8, 16)
  ]
  write_report(folders, tmp_path / "a.png")
  lines = drawing.panels["Speed"].lines
  colors = [matplotlib.colors.to_hex(line.get_color()) for line in lines]
  assert colors[:3] == colors[3:] and len(set(colors)) == 3
  # Ordered by width: from dark to light.
  light = [sum(matplotlib.colors.to_rgb(color)) for color in colors[:3]]
  assert light[1] < light[2] < light[0]
  styles = [line.get_linestyle() for line in lines]
  assert len(set(styles[:3])) == len(set(styles[3:])) == 1
  assert styles[0] != styles[3]
  (legend,) = drawing.figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels[0] == "width 32, dropout 0"


def test_final_values(sweep):
  first, second = rows = final_values(sweep)
  assert first["settings"] == {"model.width": 8}
  assert first["steps"] == [30, 30, 30]
  assert first["baselines"] == {"gzip": 2.0}
  validation = first["metrics"]["validation"]
  assert validation["bits_per_token"] == {
    "mean": pytest.approx(2.25),
    "min": 1.75,
    "max": 3.0,
    "values": [1.75, 2.0, 3.0],
  }
  assert second["metrics"]["train"]["tokens_per_second"]["mean"] == 50
  assert markdown(rows).splitlines() == [
    "| run | seeds | step | bits_per_token | accuracy | tokens_per_second |",
    "| --- | ---: | ---: | ---: | ---: | ---: |",
    "| width 8 | 3 | 30 | 2.25 (1.75 to 3) | 0.5 (0.5 to 0.5) |"
    " 50 (50 to 50) |",
    "| width 16 | 2 | 30 | 1.562 (1.5 to 1.625) | 0.5 (0.5 to 0.5) |"
    " 50 (50 to 50) |",
    "| gzip |  |  | 2 |  |  |",
  ]


def test_the_command_writes_the_table(sweep, tmp_path, capsys):
  words = [str(folder) for folder in sweep]
  words += [f"--output={tmp_path / 'a.png'}", "--table", "-"]
  assert report.main([*words, f"--json={tmp_path / 'a.json'}"]) == 0
  assert json.loads((tmp_path / "a.json").read_text()) == final_values(sweep)
  assert markdown(final_values(sweep)) in capsys.readouterr().out


def test_a_file_that_is_no_config_is_none(tmp_path):
  folder = write_run(tmp_path / "a", [1, 1, 1])
  for text in ("", "[" * 100_000, '{"a":', "\0"):
    (folder / "config.json").write_text(text)
    assert Run(folder).config is None


def test_the_baselines_are_on_the_axes_of_their_unit(tmp_path, monkeypatch):
  """Runs with other tokens than bytes are drawn in bits per byte."""
  drawing = Drawing(monkeypatch)
  for name in ("a", "b"):
    with MetricsWriter(tmp_path / name, total_steps=9) as writer:
      writer.write(0, "baseline", {"gzip": 2.0})
      for step in (1, 2, 3):
        line = {"bits_per_token": 8.0}
        if name == "a":
          line["bits_per_byte"] = 2.5
        writer.write(step, "validation", line)
  write_report([tmp_path / "a"], tmp_path / "a.png")
  axes = drawing.panels["Loss by step"]
  assert axes.get_ylabel() == "bits per byte"
  assert [text.get_text() for text in axes.texts] == ["gzip 2.00"]
  np.testing.assert_array_equal(drawing.curves("Loss by step")[0][:, 1], 2.5)
  # Together with a run that has no such metric, all are per token.
  write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "a.png")
  assert drawing.panels["Loss by step"].get_ylabel() == "bits per token"


def test_short_names_tell_fields_apart():
  short = summary.short_names(["a.b.x", "a.c.x", "a.y"])
  assert short == {"a.b.x": "b.x", "a.c.x": "c.x", "a.y": "y"}
