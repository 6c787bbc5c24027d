"""Real series of pip packages: windows to forecast, and spoken vowels."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
from typing import Any

import numpy as np

from train.data.dataset import check_at_least, check_split
from train.data.tasks.images import Images

__all__ = ["Forecasts", "SpokenVowels", "read_series", "windows"]

# Steps per season.
SEASONS = {"co2": 12, "elnino": 12, "macrodata": 4, "sunspots": 11}
# The variates of macrodata whose logarithm is taken: they grow by percentages.
_GROWING = 0, 1, 2, 3, 4, 5, 6, 9


def read_series(name: str) -> np.ndarray:
  """Returns a series [n, C] in float64, the oldest step first.

  - "elnino": sea surface temperatures of a region of the Pacific, degrees
    Celsius, monthly from 1950 to 2010 (732 steps);
  - "co2": CO2 at Mauna Loa, ppm, means of months from 1958 to 2001 (526 steps;
    linear interpolation where no week of a month was measured);
  - "sunspots": the yearly number of sunspots from 1700 to 2008 (309 steps),
    whose season of 11 years is the solar cycle;
  - "macrodata": twelve quarterly variates of the economy of the United States
    from 1959 to 2009 (203 steps). The eight that grow (output, consumption,
    investment, government, income, prices, money, population) are logarithms.

  Args:
    name: One of these names.

  Raises:
    ValueError: There is no series of this name, or statsmodels, which has them,
      is not installed.
  """
  if name not in SEASONS:
    raise ValueError(
      f"series must be one of {', '.join(sorted(SEASONS))}, got {name!r}"
    )
  try:
    from statsmodels import datasets
  except ImportError as error:
    raise ValueError(
      f"the series {name!r} needs statsmodels: python -m pip install"
      " statsmodels"
    ) from error
  table: Any = getattr(datasets, name).load_pandas().data
  if name == "co2":
    return table.resample("MS").mean().interpolate().to_numpy(np.float64)
  if name == "sunspots":
    return table["SUNACTIVITY"].to_numpy(np.float64)[:, None]
  if name == "elnino":  # A row per year, and a column per month.
    return table.iloc[:, 1:].to_numpy(np.float64).reshape(-1, 1)
  found = table.iloc[:, 2:].to_numpy(np.float64)
  found[:, _GROWING] = np.log(found[:, _GROWING])
  return found


def windows(
  series: np.ndarray, look_back: int, horizon: int, held_out: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Cuts a series into pasts and futures.

  The last `held_out` of the steps are those of validation. Each variate is
  standardised by the mean and the deviation of the other steps. A window of the
  training split lies before the cut. A future of the validation split lies
  after it; its past may begin before the cut.

  Args:
    series: [n, C].
    look_back: L, steps of a past.
    horizon: H, steps of a future.
    held_out: A share above 0 and below 1.

  Returns:
    The pasts [m, L, C] and the futures [m, H, C] of "train" and "validation",
    in float64.

  Raises:
    ValueError: An argument is out of range, or a split has no window.
  """
  check_at_least(1, look_back=look_back, horizon=horizon)
  if not 0 < held_out < 1:
    raise ValueError(f"held_out must be above 0 and below 1, got {held_out}")
  cut = round((1 - held_out) * len(series))
  known = series[:cut]
  scaled = (series - known.mean(0)) / known.std(0)
  whole = np.lib.stride_tricks.sliding_window_view(
    scaled, min(look_back + horizon, len(series)), axis=0
  )
  whole = np.moveaxis(whole, -1, 1)
  past, future = whole[:, :look_back], whole[:, look_back:]
  start = np.arange(len(whole)) + look_back
  found = {}
  for split, chosen in {
    "train": start + horizon <= cut,
    "validation": start >= cut,
  }.items():
    if not chosen.any() or future.shape[1] < horizon:
      raise ValueError(
        f"the {split} split of {len(series)} steps has no window of look_back"
        f" {look_back} and horizon {horizon}: make them shorter"
      )
    found[split] = past[chosen], future[chosen]
  return found


@dataclasses.dataclass(frozen=True)
class Forecasts:
  """Forecast the next steps of a real series from the steps before them.

  An example has "inputs" [L, C] and "targets" [H, C], float32, in deviations of
  the training steps: see `windows`. The series are those of `read_series`, and
  need statsmodels (the extra `series`). The splits depend on no seed.

  Attributes:
    series: "elnino", "co2", "sunspots" or "macrodata".
    look_back: L.
    horizon: H.
    held_out: The share of the steps, the latest, for validation.
  """

  series: str = "elnino"
  look_back: int = 36
  horizon: int = 12
  held_out: float = 0.3

  def open(self, split: str) -> Images:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: A setting is out of range, or statsmodels is not installed.
    """
    check_split(split)
    found = self.windows()[split]
    pasts, futures = (x.astype(np.float32) for x in found)
    return Images(
      [
        {"inputs": past, "targets": future}
        for past, future in zip(pasts, futures, strict=True)
      ]
    )

  def windows(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The pasts and futures of both splits: see the function `windows`."""
    return windows(
      read_series(self.series), self.look_back, self.horizon, self.held_out
    )


def parse_ts(text: str) -> tuple[list[np.ndarray], list[str]]:
  """Reads the format `.ts` of labelled series.

  Args:
    text: Lines that start with "#" or "@" are the header. Each other line is a
      series: its variates, separated by colons, and its label. The values of a
      variate are separated by commas.

  Returns:
    The series [L, C] in float64, and their labels.
  """
  series, labels = [], []
  for line in text.splitlines():
    if line.strip() and line[0] not in "#@":
      *variates, label = line.strip().split(":")
      values = [np.array(v.split(","), np.float64) for v in variates]
      series.append(np.stack(values, -1))
      labels.append(label)
  return series, labels


@dataclasses.dataclass(frozen=True)
class SpokenVowels:
  """Which of nine speakers said two Japanese vowels?

  "Japanese Vowels" of the UCI archive (Kudo, Toyama & Shimbo 1999): 640
  utterances as 7 to 29 vectors of 12 coefficients of linear prediction. The
  splits are the published ones: 270 utterances for training, 30 per speaker,
  and 370 for validation. The coefficients are standardised by those of the
  training split.

  An example has "inputs" [29, 12], with zeros after the end of the utterance,
  "mask" [29], 1 up to its end, and "targets", the speaker, 0 to 8. The package
  sktime has the files: pip install --no-deps sktime. It is not imported.
  """

  def open(self, split: str) -> Images:
    """Opens a split, "train" or "validation".

    Raises:
      ValueError: sktime is not installed.
    """
    check_split(split)
    train, _ = self.read("train")
    known = np.concatenate(train)
    mean, deviation = known.mean(0), known.std(0)
    longest = 29
    examples = []
    for utterance, label in zip(*self.read(split), strict=True):
      count = len(utterance)
      inputs = np.zeros((longest, utterance.shape[1]), np.float32)
      inputs[:count] = (utterance - mean) / deviation
      mask = (np.arange(longest) < count).astype(np.float32)
      target = np.int32(int(label) - 1)
      examples.append({"inputs": inputs, "mask": mask, "targets": target})
    return Images(examples)

  def read(self, split: str) -> tuple[list[np.ndarray], list[str]]:
    """Returns the utterances [L, 12] of a split and their speakers."""
    found = importlib.util.find_spec("sktime")
    if found is None or not found.submodule_search_locations:
      raise ValueError(
        "SpokenVowels reads files of sktime: python -m pip install --no-deps"
        " sktime"
      )
    folder = pathlib.Path(found.submodule_search_locations[0])
    name = {"train": "TRAIN", "validation": "TEST"}[split]
    path = folder / "datasets/data/JapaneseVowels" / f"JapaneseVowels_{name}.ts"
    try:
      text = path.read_text(encoding="utf-8")
    except OSError as error:
      raise ValueError(f"cannot read {path}: {error.strerror}") from error
    return parse_ts(text)
