"""Windows of series, and the series themselves."""

import importlib.util

import numpy as np
import pytest

from train.data.tasks import Forecasts, SpokenVowels
from train.data.tasks.series import SEASONS, parse_ts, read_series, windows

SERIES = np.random.default_rng(0).normal(size=(40, 2)).cumsum(0)
with_statsmodels = pytest.mark.skipif(
  importlib.util.find_spec("statsmodels") is None, reason="no statsmodels"
)
with_sktime = pytest.mark.skipif(
  importlib.util.find_spec("sktime") is None, reason="no sktime"
)


def test_windows_are_cut_step_by_step():
  found = windows(SERIES, 5, 3, 0.25)
  scaled = (SERIES - SERIES[:30].mean(0)) / SERIES[:30].std(0)
  starts = {"train": range(5, 28), "validation": range(30, 38)}
  for split, places in starts.items():
    pasts, futures = found[split]
    np.testing.assert_array_equal(pasts, [scaled[i - 5 : i] for i in places])
    np.testing.assert_array_equal(futures, [scaled[i : i + 3] for i in places])


def test_no_training_window_sees_a_step_of_validation():
  changed = SERIES.copy()
  changed[30:] = 1e3
  first, second = (windows(x, 5, 3, 0.25)["train"] for x in (SERIES, changed))
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)


def test_series_files_are_read_line_by_line():
  text = "#words\n@data\n1,2,3:4,5,6:a\n\n-1:2.5:b\n"
  series, labels = parse_ts(text)
  assert labels == ["a", "b"]
  np.testing.assert_array_equal(series[0], [[1, 4], [2, 5], [3, 6]])
  np.testing.assert_array_equal(series[1], [[-1, 2.5]])


@with_statsmodels
def test_series_are_those_of_statsmodels():
  sizes = {
    "co2": (526, 1),
    "elnino": (732, 1),
    "macrodata": (203, 12),
    "sunspots": (309, 1),
  }
  assert sizes.keys() == SEASONS.keys()
  for name, shape in sizes.items():
    found = read_series(name)
    assert found.shape == shape
    assert np.isfinite(found).all()
  from statsmodels.datasets import elnino

  months = elnino.load_pandas().data[["JAN", "DEC"]].to_numpy()
  first = read_series("elnino")[[0, 11, 12, 23], 0]
  np.testing.assert_array_equal(first, months[:2].ravel())
  example = Forecasts(look_back=7, horizon=2).open("train")[0]
  assert example["inputs"].shape == (7, 1)
  assert example["targets"].shape == (2, 1)


@with_sktime
def test_utterances_have_their_published_splits():
  train, held_out = (SpokenVowels().open(x) for x in ("train", "validation"))
  assert (len(train), len(held_out)) == (270, 370)
  labels = [int(train[i]["targets"]) for i in range(270)]
  np.testing.assert_array_equal(np.bincount(labels), [30] * 9)
  steps = np.concatenate(
    [train[i]["inputs"][train[i]["mask"] > 0] for i in range(270)]
  )
  np.testing.assert_allclose(steps.mean(0), 0, atol=1e-5)
  np.testing.assert_allclose(steps.std(0), 1, atol=1e-5)
  last = train[0]
  assert not last["inputs"][last["mask"] == 0].any()


def test_mistakes_are_named():
  with pytest.raises(ValueError, match=r"series must be one of co2, .*'co3'"):
    Forecasts(series="co3").open("train")
  with pytest.raises(ValueError, match=r"held_out must be above 0 .*, got 1"):
    windows(SERIES, 5, 3, 1)
  with pytest.raises(ValueError, match="train split of 40 steps has no window"):
    windows(SERIES, 29, 3, 0.25)
  with pytest.raises(ValueError, match="no window of look_back 60"):
    windows(SERIES, 60, 3, 0.25)
  with pytest.raises(ValueError, match="look_back must be at least 1"):
    windows(SERIES, 0, 3, 0.25)
