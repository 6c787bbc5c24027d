"""Which algorithm has each mixer learned? Regression in context, by position.

  python -m benchmarks.regression --train

trains the runs of `RUNS` in `--folder`, three seeds each, and measures them.
Without `--train`, it measures those that are there. A row of the task gives
pairs of x and y = w^T x + noise, and each position predicts the next y; see
`LinearRegression`. Each prediction of the best checkpoints is compared with
those of the algorithms that papers say the mixers run:

  ridge          the Bayes-optimal ridge regression, the "reference" of the data
  delta rule     one gradient step per pair, with the best constant rate
  gradient step  one step of gradient descent from w = 0 on all pairs, with the
                 best rate of each position
  unit keys      the same, after each pair is divided by the length of its x

With f and a two predictions, the agreement of f with a is 1 - E (f - a)^2 /
E a^2 over all positions of the validation rows; the metric "explained" is the
agreement with ridge. Rates are those with the largest agreement of the
algorithm with ridge on the same rows. `benchmarks/results/regression.json` gets
a record per run, and `regression.png` the errors by position.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import train
from train.data.tasks import LinearRegression
from train.data.tasks.regression import delta_rule, gradient_step

CONFIG = "configs/tasks/regression.py"
LONG = "configs/tasks/regression_long.py"
SEEDS = 3
RESULTS = pathlib.Path("benchmarks/results")
_RATES = np.arange(0.5, 1.01, 0.05)
# The file with the processor minutes of a run's training.
_MINUTES = "minutes.txt"


class Case(NamedTuple):
  """A mixer, and what a paper says about it.

  Attributes:
    mixer: Its name.
    words: The flags that follow those of the config.
    claim: What papers say of it, or "".
    depth: The number of layers.
    config: The config file; that of `LONG` has its own mixer.
  """

  mixer: str
  words: tuple[str, ...] = ()
  claim: str = ""
  depth: int = 1
  config: str = CONFIG

  def command(self, workdir: str, seeds: int = SEEDS) -> list[str]:
    """Returns the arguments of `python` that train the run."""
    entry = [] if self.config == LONG else ["--model.mixers", self.mixer]
    if entry and self.mixer != "mamba2":
      entry += ["--model.mixers.0.heads", "2"]
    size = [] if self.depth == 1 else ["--model.depth", str(self.depth)]
    replicas = ["--replicas", str(seeds), "--workdir", workdir]
    return ["-m", "train", self.config, *entry, *self.words, *size, *replicas]


_RIDGE = "One Mesa layer is ridge regression."
_ONE_STEP = "One linear layer is one step of gradient descent from w = 0."
_DEPTH = "Softmax attention approaches ridge regression with depth."
RUNS = {
  "mesa": Case("mesa", (), _RIDGE),
  "mesa_long": Case("mesa", (), _RIDGE, config=LONG),
  "delta_net": Case("delta_net", (), "DeltaNet is one gradient step per pair."),
  "gated_deltanet": Case("gated_deltanet"),
  "ttt_linear": Case("ttt_linear", (), "TTT descends the error of its values."),
  "linear_attention": Case(
    "linear_attention",
    (
      "--model.mixers.0.feature-map",
      "identity",
      "--model.mixers.0.normalize",
      "False",
    ),
    _ONE_STEP,
  ),
  "linear_attention_elu": Case("linear_attention"),
  "mamba2": Case("mamba2"),
  "softmax_1": Case("softmax_attention", (), _DEPTH),
  "softmax_2": Case("softmax_attention", (), _DEPTH, 2),
  "softmax_4": Case("softmax_attention", (), _DEPTH, 4),
}


def main(argv: list[str] | None = None) -> int:
  """Trains and measures the runs; returns the exit status."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--folder", default="runs/regression")
  parser.add_argument("--train", action="store_true", help="train first")
  parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
  options = parser.parse_args(argv)
  folder = pathlib.Path(options.folder)
  if options.train:
    for name in options.runs:
      train_run(RUNS[name], folder / name)
  names = [name for name in options.runs if list((folder / name).glob("*/"))]
  if not names:
    print(f"no run in {folder}: add --train", file=sys.stderr)
    return 1
  records = {name: measure(RUNS[name], folder / name) for name in names}
  RESULTS.mkdir(exist_ok=True)
  lines = ",\n".join(json.dumps(record) for record in records.values())
  (RESULTS / "regression.json").write_text(f"[\n{lines}\n]\n")
  task = train.load(next((folder / names[0]).glob("seed=*"))).config.data
  draw(records, curves(task), str(RESULTS / "regression.png"))
  print(table(records))
  return 0


def train_run(case: Case, workdir: pathlib.Path) -> None:
  """Trains the seeds of a case, and writes their processor minutes."""
  before = os.times()
  command = [sys.executable, *case.command(str(workdir))]
  subprocess.run(command, check=True)
  after = os.times()
  seconds = after.children_user - before.children_user
  seconds += after.children_system - before.children_system
  (workdir / _MINUTES).write_text(f"{seconds / 60:.2f}\n")


def algorithms(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns the predictions [N, L] of each algorithm for N rows."""
  task = LinearRegression(dims=(rows[0]["inputs"].shape[-1] - 1) // 2)
  pairs = [task.pairs(row) for row in rows]
  ridge = np.stack([row["reference"][:, 0] for row in rows]).astype(float)
  sizes = [np.linalg.norm(x, axis=-1, keepdims=True) for x, _ in pairs]
  unit = [
    gradient_step(x / size, y / size[:, 0]) * size[:, 0]
    for (x, y), size in zip(pairs, sizes, strict=True)
  ]
  steps = [gradient_step(x, y) for x, y in pairs]
  deltas = [np.stack([delta_rule(x, y, r) for x, y in pairs]) for r in _RATES]
  return {
    "ridge": ridge,
    "delta rule": max(deltas, key=lambda found: agreement(found, ridge)),
    "gradient step": _at_best_rates(np.stack(steps), ridge),
    "unit keys": _at_best_rates(np.stack(unit), ridge),
  }


@functools.cache
def _measured(
  task: LinearRegression,
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
  """The validation rows of a task, and the algorithms' predictions of them."""
  rows = list(task.generate("validation"))
  return rows, algorithms(rows)


def _at_best_rates(steps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Steps [N, L] times the rate of each position that is nearest `wanted`."""
  power = np.sum(steps**2, 0)
  return steps * np.sum(steps * wanted, 0) / np.where(power > 0, power, 1)


def agreement(found: np.ndarray, wanted: np.ndarray) -> float:
  """1 - E (found - wanted)^2 / E wanted^2."""
  return float(1 - np.sum((found - wanted) ** 2) / np.sum(wanted**2))


def measure(case: Case, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the record of the finished seeds of a case.

  Args:
    case: The case.
    folder: The workdir of its replicas.
  """
  seeds = [train.load(path, "best") for path in sorted(folder.glob("seed=*"))]
  task = seeds[0].config.data
  rows, known = _measured(task)
  found = predictions(seeds, rows)
  longer, of_longer = _measured(task.at_length(2 * task.length))
  minutes = folder / _MINUTES

  def explained(found: list[np.ndarray], wanted: np.ndarray) -> list[float]:
    return [round(agreement(own, wanted), 4) for own in found]

  return {
    "mixer": case.mixer,
    "task": task.name,
    "metric": "explained",
    "seeds": explained(found, known["ridge"]),
    "chance": task.chance(),
    "claim": case.claim,
    "config": case.config,
    "command": " ".join(
      ["python", *case.command(f"runs/{folder.name}", len(seeds))]
    ),
    "minutes": float(minutes.read_text()) if minutes.exists() else None,
    "depth": case.depth,
    "at_twice_the_length": explained(
      predictions(seeds, longer), of_longer["ridge"]
    ),
    "agreement": {
      name: round(float(np.mean(explained(found, own))), 4)
      for name, own in known.items()
    },
    "algorithms": dict(
      zip(known, explained(list(known.values()), known["ridge"]), strict=True)
    ),
    "squared_error_by_position": np.mean(
      [_errors(rows, own) for own in found], 0
    )
    .round(5)
    .tolist(),
  }


def curves(task: LinearRegression) -> dict[str, np.ndarray]:
  """Returns the mean squared error by position of each algorithm, [L]."""
  rows, known = _measured(task)
  return {name: _errors(rows, own) for name, own in known.items()}


def _errors(
  rows: list[dict[str, np.ndarray]], predictions: np.ndarray
) -> np.ndarray:
  targets = np.stack([row["targets"][:, 0] for row in rows]).astype(float)
  return np.mean((predictions - targets) ** 2, 0)


def predictions(
  seeds: Sequence[train.Run], rows: list[dict[str, np.ndarray]]
) -> list[np.ndarray]:
  """Returns the predictions [N, L] of each seed for N rows."""
  inputs = np.stack([row["inputs"] for row in rows])
  apply = jax.jit(seeds[0].model.apply)
  outputs = [np.asarray(apply(own.variables, inputs)[0]) for own in seeds]
  return [y[..., 0].astype(float) for y in outputs]


def table(records: dict[str, dict[str, Any]]) -> str:
  """Returns the records as a table in Markdown."""
  names = list(next(iter(records.values()))["agreement"])[1:]
  titles = ["run", "layers", "explained", "range", "64 pairs", *names]
  titles += ["CPU minutes"]
  lines = [titles, ["---", *["---:"] * (len(titles) - 1)]]
  order = sorted(records, key=lambda name: -np.mean(records[name]["seeds"]))
  for name in order:
    record = records[name]
    seeds, minutes = record["seeds"], record["minutes"]
    lines.append(
      [
        f"`{name}`",
        str(record["depth"]),
        f"{np.mean(seeds):.3f}",
        f"{min(seeds):.3f} to {max(seeds):.3f}",
        f"{np.mean(record['at_twice_the_length']):.3f}",
        *(f"{record['agreement'][a]:.3f}" for a in names),
        "" if minutes is None else f"{minutes:.1f}",
      ]
    )
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(
  records: dict[str, dict[str, Any]],
  known: dict[str, np.ndarray],
  output: str,
) -> None:
  """Draws errors by position: one layer of each mixer, and softmax by depth.

  Args:
    records: What `measure` returned, by the name of the run.
    known: What `curves` returned, drawn black.
    output: The file of the picture.
  """
  figure = Figure(figsize=(11, 4.4), layout="constrained")
  left, right = figure.subplots(1, 2, sharey=True)
  for name, record in records.items():
    curve = record["squared_error_by_position"]
    for axes, is_shown in (
      (left, record["depth"] == 1),
      (right, name.startswith("softmax")),
    ):
      if is_shown:
        axes.plot(curve, label=name, linewidth=1.3)
  styles: tuple[Any, ...] = ("--", ":", "-.", (0, (1, 4)))
  for axes in (left, right):
    for (name, curve), style in zip(known.items(), styles, strict=True):
      axes.plot(curve, label=name, color="black", linestyle=style, linewidth=1)
    axes.set_xlabel("pairs read")
    axes.legend(fontsize=7)
  left.set_yscale("log")
  left.set_ylabel("mean squared error")
  left.set_title("one layer")
  right.set_title("softmax attention by depth")
  figure.savefig(output, dpi=110)


if __name__ == "__main__":
  sys.exit(main())
