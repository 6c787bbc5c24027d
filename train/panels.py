"""The panels of a report: which metrics are drawn, and in which unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from train.drawing import plain
from train.summary import BITS, BITS_PER_BYTE, Run


@dataclasses.dataclass(frozen=True)
class Panel:
  """One set of axes: a metric against steps or tokens."""

  title: str
  metric: str
  unit: str
  against: str = "step"
  splits: tuple[str, ...] = ("train", "validation")
  noisy: bool = False


LOSS = (
  (BITS_PER_BYTE, "bits per byte"),
  (BITS, "bits per token"),
  # Classes of sequences, and numbers.
  ("loss", "loss"),
)
# Titles and units of metrics whose names are no titles.
_TITLES = {
  "auroc": ("Area under the ROC curve", ""),
  "si_sdr": ("SI-SDR", "dB"),
  "si_sdr_improvement": ("SI-SDR improvement", "dB"),
}
PANELS = (
  Panel("Accuracy", "accuracy", "share of targets"),
  Panel("Learning rate", "learning_rate", "", splits=("train",)),
  Panel("Gradient norm", "grad_norm", "", splits=("train",), noisy=True),
  Panel(
    "Speed",
    "tokens_per_second",
    "tokens per second",
    splits=("train",),
    noisy=True,
  ),
)
# Metrics to read: those of the panels, and the counts of tokens.
READ = {panel.metric for panel in PANELS} | {name for name, _ in LOSS}
READ |= {"tokens", "tokens_seen"}


def _of_validation(runs: Sequence[Run]) -> list[Panel]:
  """Returns panels for the metrics of validations that no other panel has."""
  names = dict.fromkeys(name for run in runs for name in run.validated())
  panels = []
  for name in names:
    # A return has one for each piece of an episode: return_1, return_2, ...
    whole, _, piece = name.rpartition("_")
    if name not in READ and not (piece.isdecimal() and whole in names):
      words = plain(name.replace("_", " ").capitalize())
      title, unit = _TITLES.get(name, (words, ""))
      panels.append(Panel(title, name, unit))
  return panels


def panels_of(runs: Sequence[Run]) -> list[Panel]:
  """Returns the panels that have numbers; the loss in one unit for all runs."""
  for metric, unit in LOSS:
    loss = [
      Panel("Loss by step", metric, unit),
      Panel("Loss by tokens seen", metric, unit, against="tokens"),
    ]
    if all(_has(run, loss[0]) for run in runs):
      break
  every = [*loss, *_of_validation(runs), *PANELS]
  return [panel for panel in every if any(_has(run, panel) for run in runs)]


def _has(run: Run, panel: Panel) -> bool:
  curves = (run.curve(s, panel.metric, panel.against) for s in panel.splits)
  return any(np.isfinite(x).any() for x, _ in curves)
