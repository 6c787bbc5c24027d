"""The frontier of recall: the states' bytes, and what is read from runs."""

import json

import pytest

from benchmarks import recall
from train.config import command_line
from train.sweep import cells

FLAGS = (
  "--model.mixers delta_net --model.mixers.0.heads 1"
  " --model.mixers.0.key_width 16 --steps 2"
)


def _cells(tmp_path):
  path = tmp_path / "cells"
  path.write_text(FLAGS)
  return cells.read_file(str(path))


def test_state_counts_the_matrix_and_the_tails_of_the_convolutions(tmp_path):
  config = command_line.load(recall.CONFIG)
  (cell,) = _cells(tmp_path)
  matrix = 16 * 64
  tails = 3 * (16 + 16 + 64)  # Three earlier q, k and v.
  changed = command_line.override(config, cell.words)
  assert recall.state_bytes(changed) == 4 * (matrix + tails)


def test_the_rate_with_the_best_mean_counts(tmp_path):
  points = _cells(tmp_path)
  folder = tmp_path / recall.name_of(points[0])
  for rate, accuracies in {0.005: (0.5, 0.7), 0.015: (0.9, 0.1)}.items():
    for seed, accuracy in enumerate(accuracies):
      _write(folder / f"learning_rate={rate},seed={seed}", 2, accuracy)
  _write(folder / "learning_rate=0.0025,seed=0", 1, 1.0)  # Not complete.
  (folder / "processor_seconds.json").write_text("90.0")
  (found,) = recall.read(points, tmp_path)
  assert (found.rate, found.seeds) == (0.005, (0.5, 0.7))
  assert (found.others, found.minutes) == ({0.015: 0.5}, 1.5)
  row = "| `delta_net` | heads=1, key_width=16 | 5,248 | 0.600 (0.500 to 0.700)"
  assert row in recall.table([found])


@pytest.mark.slow
def test_every_point_has_a_layer_and_a_name_of_its_own():
  config = command_line.load(recall.CONFIG)
  points = cells.read_file(recall.CELLS)
  names = [recall.name_of(point) for point in points]
  assert len(set(names)) == len(names)
  for point in points:
    changed = command_line.override(config, point.words)
    assert 1_024 < recall.state_bytes(changed) < 32_768


def _write(folder, step, accuracy):
  folder.mkdir(parents=True)
  line = {"step": step, "split": "validation", "loss": 1.0}
  text = json.dumps(line | {"accuracy": accuracy}) + "\n"
  (folder / "metrics.jsonl").write_text(text)
