import json
import math
import pathlib
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pytest

from train import __main__ as command
from train import report
from train.metrics import MetricsWriter
from train.report import write_report
from train.result import Result
from train.summary import final_values, markdown


def write_run(folder, steps=200, offset=0.0, **baselines):
  with MetricsWriter(folder, total_steps=steps) as writer:
    if baselines:
      writer.write(0, "baseline", baselines)
    for step in range(10, steps + 1, 10):
      bits = 3 + math.exp(-step / 50) + offset
      values = {
        "loss": bits * math.log(2),
        "tokens": 512,
        "grad_norm": 1 / step,
        "learning_rate": 1e-3 * step,
        "tokens_per_second": 4000,
      }
      writer.write(step, "train", values)
      if step % 50 == 0:
        writer.write(step, "validation", {"bits_per_token": bits + 0.1})
  return folder


class Drawing:
  """The drawn figure, which would be written to the file."""

  def __init__(self, monkeypatch):
    save = report.Figure.savefig

    def keep(figure, *args, **kwargs):
      self.figure = figure
      return save(figure, *args, **kwargs)

    monkeypatch.setattr(report.Figure, "savefig", keep)

  @property
  def panels(self):
    return {axes.get_title(loc="left"): axes for axes in self.figure.axes}

  def curves(self, title):
    return [
      np.array(line.get_xydata())
      for line in self.panels[title].lines
      if len(line.get_xdata()) > 2
    ]


@pytest.fixture
def drawing(monkeypatch):
  return Drawing(monkeypatch)


def test_the_picture_is_not_blank(tmp_path):
  output = tmp_path / "new" / "report.png"
  write_report([write_run(tmp_path / "run")], output)
  picture = matplotlib.image.imread(output)
  assert picture.shape[0] > 500
  assert picture.shape[1] > 900
  assert (picture[..., :3].min(axis=-1) < 0.5).mean() > 0.005


def test_curves_are_what_was_written(tmp_path, drawing):
  write_report([write_run(tmp_path / "run")], tmp_path / "a.png")
  steps = np.arange(10, 201, 10)
  bits = 3 + np.exp(-steps / 50)
  training, validation = drawing.curves("Loss by step")
  np.testing.assert_allclose(training, np.stack([steps, bits], 1))
  every = steps % 50 == 0
  expected = np.stack([steps[every], bits[every] + 0.1], 1)
  np.testing.assert_allclose(validation, expected)
  (rates,) = drawing.curves("Learning rate")
  np.testing.assert_allclose(rates, np.stack([steps, 1e-3 * steps], 1))


def test_tokens_are_counted_from_the_steps_between_lines(tmp_path, drawing):
  write_report([write_run(tmp_path / "run")], tmp_path / "a.png")
  training, validation = drawing.curves("Loss by tokens seen")
  np.testing.assert_allclose(training[:, 0], 512 * np.arange(10, 201, 10))
  np.testing.assert_allclose(validation[:, 0], 512 * np.arange(50, 201, 50))


def test_tokens_seen_are_drawn_unchanged(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=30) as writer:
    for step in (10, 20, 30):
      values = {"loss": 1.0, "tokens": 5, "tokens_seen": step**2}
      writer.write(step, "train", values)
  write_report([tmp_path], tmp_path / "a.png")
  (training,) = drawing.curves("Loss by tokens seen")
  np.testing.assert_allclose(training[:, 0], [100, 400, 900])


def test_a_loss_that_is_not_per_token_keeps_its_unit(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=30) as writer:
    writer.write(0, "model", {"parameters": 5, "state_bytes": 3})
    for step in (10, 20, 30):
      values = {"loss": 2.0 / step, "accuracy": 0.5, "tokens": 5}
      writer.write(step, "train", {**values, "compile_seconds": 1.5})
      writer.write(step, "validation", values)
  write_report([tmp_path], tmp_path / "a.png")
  training, _ = drawing.curves("Loss by step")
  np.testing.assert_allclose(training, [[10, 0.2], [20, 0.1], [30, 2 / 30]])
  assert drawing.panels["Loss by step"].get_ylabel() == "loss"
  (row,) = final_values([tmp_path])
  assert set(row["metrics"]["validation"]) == {"loss", "accuracy"}
  sizes = {name: x["mean"] for name, x in row["metrics"]["model"].items()}
  assert sizes == {"parameters": 5, "state_bytes": 3, "compile_seconds": 1.5}


def test_panels_without_numbers_are_left_out(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=30) as writer:
    for step in (10, 20, 30):
      writer.write(step, "train", {"learning_rate": 1.0, "grad_norm": math.nan})
  write_report([tmp_path], tmp_path / "a.png")
  assert list(drawing.panels) == ["Learning rate"]


def test_every_metric_of_the_validation_has_a_panel(tmp_path, drawing):
  """Here those of a run of reinforcement learning; pieces have no panel."""
  with MetricsWriter(tmp_path, total_steps=30) as writer:
    writer.write(0, "baseline", {"chance": 0.25, "optimum": 2.0})
    for step in (0, 10, 20, 30):
      pieces = {"return": step / 20, "return_1": 1.0, "own_score": 4.0}
      writer.write(step, "validation", {**pieces, "tokens": 3})
      writer.write(step, "train", {"return": step / 25, "loss": 1.0})
  write_report([tmp_path], tmp_path / "a.png")
  assert list(drawing.panels) == ["Loss by step", "Return", "Own score"]
  training, validation = drawing.curves("Return")
  steps = np.array([0, 10, 20, 30])
  np.testing.assert_array_equal(training, np.stack([steps, steps / 25], 1))
  np.testing.assert_array_equal(validation, np.stack([steps, steps / 20], 1))
  labels = [text.get_text() for text in drawing.panels["Return"].texts]
  assert labels == ["chance 0.25", "optimum 2.00"]
  table = markdown(final_values([tmp_path]))
  assert "| return | return_1 | own_score |" in table
  assert "| optimum |  |  | 2 |  |  |" in table


def test_a_metric_may_have_the_name_of_another_and_a_word(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=3) as writer:
    for step in (0, 1, 2, 3):
      values = {"si_sdr": step - 9.0, "si_sdr_improvement": step - 4.0}
      writer.write(step, "validation", {"loss": 9.0 - step, **values})
  write_report([tmp_path], tmp_path / "a.png")
  assert list(drawing.panels)[1:] == ["SI-SDR", "SI-SDR improvement"]
  (curve,) = drawing.curves("SI-SDR improvement")
  np.testing.assert_array_equal(curve, [[x, x - 4.0] for x in range(4)])
  axes = drawing.panels["SI-SDR improvement"]
  assert axes.get_ylabel() == "dB"
  drawing.figure.canvas.draw()
  steps = [text.get_text() for text in axes.get_xticklabels()]
  assert steps[:2] == ["0", "1"]  # No parts of a step.


def test_the_end_of_a_run_lists_the_metrics_of_its_task(capfd):
  counts = {"targets": 40.0, "tokens": 40.0}
  metrics = {"loss": 1.25, "accuracy": 0.5, "dice": 0.75, **counts}
  command._summarize(Result(7, None, metrics, {}, None))
  lines = "".join(capfd.readouterr()).split("\n")
  assert lines[1:] == [
    "validation after 7 steps:",
    "  loss         1.25",
    "  dice         0.75",
    "  accuracy     50.00%",
    "",
  ]


def test_a_single_line_of_metrics_is_a_mark(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=2) as writer:
    writer.write(2, "train", {"learning_rate": 1e-3})
  write_report([tmp_path], tmp_path / "a.png")
  (line,) = drawing.panels["Learning rate"].lines
  assert line.get_marker() == "o"
  np.testing.assert_array_equal(line.get_xydata(), [[2, 1e-3]])


def test_values_that_are_not_finite_are_left_out(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=30) as writer:
    for step, loss in enumerate((3.0, 2.0, math.nan, math.inf, 1.0)):
      writer.write(step, "train", {"bits_per_token": loss})
  write_report([tmp_path], tmp_path / "a.png")
  (training,) = drawing.curves("Loss by step")
  np.testing.assert_allclose(training, [[0, 3], [1, 2], [4, 1]])


def write_many(folder, count):
  """Writes a run of many steps with one outlier that must stay visible."""
  folder.mkdir()
  with open(folder / "metrics.jsonl", "w") as file:
    for step in range(1, count + 1):
      value = 100.0 if step == count // 3 else 1 + 1 / step
      line = {"step": step, "split": "train", "tokens": 2, "accuracy": 0.5}
      line |= {"loss": value, "grad_norm": value, "tokens_per_second": 5.0}
      file.write(json.dumps(line) + "\n")
      line = {"step": step, "split": "validation", "bits_per_token": value}
      file.write(json.dumps(line) + "\n")
  return folder


def test_a_long_run_is_thinned_and_keeps_its_outliers(tmp_path, drawing):
  count = 30_000
  run = write_many(tmp_path / "run", count)
  write_report([run], tmp_path / "a.png")
  for title in ("Loss by step", "Loss by tokens seen", "Gradient norm"):
    curves = drawing.curves(title)
    assert all(len(curve) <= 8001 for curve in curves)
    peak = curves[0][curves[0][:, 1].argmax()]
    x = count // 3 * (2 if title == "Loss by tokens seen" else 1)
    height = 100 if title == "Gradient norm" else 100 / math.log(2)
    np.testing.assert_allclose(peak, [x, height])
    assert curves[0][-1, 0] > 0.999 * x * 3
  light, mean = drawing.curves("Gradient norm")
  # Means of a fortieth of the run, of which one holds the outlier.
  assert 1 < mean[:, 1].max() < 2 < light[:, 1].max()


@pytest.mark.slow
def test_a_report_of_a_million_lines_takes_seconds(tmp_path):
  run = write_many(tmp_path / "run", 500_000)
  begun = time.process_time()
  write_report([run], tmp_path / "a.png")
  assert time.process_time() - begun < 30


def test_baselines_are_named_lines(tmp_path, drawing):
  run = write_run(tmp_path / "run", unigram=4.7, gzip=1.97)
  write_report([run, run], tmp_path / "a.png")
  for title in ("Loss by step", "Loss by tokens seen"):
    axes = drawing.panels[title]
    labels = {text.get_text() for text in axes.texts}
    assert labels == {"unigram 4.70", "gzip 1.97"}
    assert len(axes.texts) == 2
    low, high = axes.get_ylim()
    assert low < 1.97 < 4.7 < high
  assert not drawing.panels["Learning rate"].texts


def test_every_loss_curve_starts_inside_its_axes(tmp_path, drawing):
  """The loss of an untrained model is far above all others, but is shown."""
  with MetricsWriter(tmp_path, total_steps=400) as writer:
    writer.write(0, "baseline", {"gzip": 2.2})
    writer.write(0, "validation", {"bits_per_token": 8.0})
    for step in range(1, 401):
      spike = 1e6 if step == 200 else 0.0
      values = {"bits_per_token": 2.1 + spike, "tokens": 1}
      writer.write(step, "train", values)
    writer.write(400, "validation", {"bits_per_token": 2.1})
  write_report([tmp_path], tmp_path / "a.png")
  for title in ("Loss by step", "Loss by tokens seen"):
    low, high = drawing.panels[title].get_ylim()
    assert low < 2.1 < 8.0 < high < 20  # The spike may leave at the top.


def test_a_loss_of_zero_is_drawn(tmp_path, drawing):
  with MetricsWriter(tmp_path, total_steps=3) as writer:
    for step in (1, 2, 3):
      writer.write(step, "train", {"bits_per_token": 3.0 - step})
  write_report([tmp_path], tmp_path / "a.png")
  low, high = drawing.panels["Loss by step"].get_ylim()
  assert low < 0 < 2 < high


def test_names_of_baselines_cover_no_curve(tmp_path, drawing):
  write_report([write_run(tmp_path / "run", gzip=3.2)], tmp_path / "a.png")
  axes = drawing.panels["Loss by step"]
  (name,) = axes.texts
  assert name.get_window_extent().x0 > axes.get_window_extent().x1


def test_runs_have_different_colours_and_names(tmp_path, drawing):
  runs = [
    write_run(tmp_path / name, offset=number)
    for number, name in enumerate(["small", "large", "larger"])
  ]
  write_report(runs, tmp_path / "a.png")
  (legend,) = drawing.figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels == ["small", "large", "larger", "training", "validation"]
  colors = {line.get_color() for line in legend.get_lines()[:3]}
  assert len(colors) == 3
  lines = drawing.panels["Learning rate"].lines
  assert [line.get_color() for line in lines] == [
    line.get_color() for line in legend.get_lines()[:3]
  ]


def test_runs_with_the_same_name_are_labelled_by_path(tmp_path, drawing):
  runs = [write_run(tmp_path / name / "run") for name in "ab"]
  write_report(runs, tmp_path / "a.png")
  (legend,) = drawing.figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels[:2] == [str(run) for run in runs]


@pytest.mark.parametrize("name", ["a$b$", "_x", "$\\frac{$", "日本"])
def test_any_name_of_a_run_is_drawn(tmp_path, drawing, recwarn, name):
  write_report([write_run(tmp_path / name)], tmp_path / "a.png")
  (legend,) = drawing.figure.legends
  label = legend.get_texts()[0].get_text()
  assert label.replace("\\$", "$") == name
  assert not recwarn.list


def run_command(*arguments):
  return subprocess.run(
    [sys.executable, "-W", "error", "-m", "train.report", *map(str, arguments)],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(report.__file__).parents[1],
  )


def test_the_command_draws_beside_a_single_run(tmp_path):
  run = write_run(tmp_path / "run")
  done = run_command(run)
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == f"wrote {run / 'report.png'}\n"
  assert matplotlib.image.imread(run / "report.png").size


def test_the_command_draws_where_it_is_told(tmp_path):
  runs = [write_run(tmp_path / name) for name in "ab"]
  output = tmp_path / "both.svg"
  assert run_command(*runs, f"--output={output}").returncode == 0
  assert output.read_text().startswith("<?xml")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "no run in '{}': it has no readable metrics.jsonl"),
    ("", "nothing to draw for '{}': its metrics.jsonl is empty"),
    ('{"step": 1, "sp', "nothing to draw for '{}': its metrics.jsonl is empty"),
    ('{"step": 1, "x": 2}\n', "nothing to draw for {}: the metrics have none"),
  ],
)
def test_a_run_without_metrics_gives_one_line(
  tmp_path, capsys, content, message
):
  run = tmp_path / "run"
  if content is not None:
    run.mkdir()
    (run / "metrics.jsonl").write_text(content)
  assert report.main([str(run), f"--output={tmp_path / 'a.png'}"]) == 2
  out, err = capsys.readouterr()
  assert out == ""
  assert err.startswith("error: " + message.format(run))
  assert err.count("\n") == 1
  assert not (tmp_path / "a.png").exists()
