"""Accuracy of induction heads far beyond the training length, by mixer.

    python -m benchmarks.selection --json benchmarks/results/selection.json

trains `configs/tasks/induction.py` with each mixer and three seeds, measures
each run at several lengths, and prints a table. Runs that are complete in
`--workdir` are not trained again. Gu & Dao 2023, "Mamba", arXiv:2312.00752,
section 4.1.2: trained at 256 tokens, their selective layer is perfect up to a
million, and no other one is beyond twice the training length.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import Any

import jax
import numpy as np

import train

CONFIG = "configs/tasks/induction.py"
CLAIM = "a selective layer keeps its accuracy beyond the training length"
# The flags of each mixer; heads of 16 channels where there are heads.
TWO_HEADS = ("--model.mixers.0.heads", "2")
MIXERS: dict[str, tuple[str, ...]] = {
  "mamba": ("mamba",),
  "mamba2": (
    *("mamba2", "--model.mixers.0.head_width", "16"),
    *("--model.mixers.0.state_width", "32"),
  ),
  "gated_deltanet": ("gated_deltanet", *TWO_HEADS),
  "rwkv7": ("rwkv7", "--model.mixers.0.head_width", "16"),
  "gla": ("gla", *TWO_HEADS),
  "s4d": ("s4d",),
  "based": ("based", *TWO_HEADS),
  "softmax_attention": (
    *("softmax_attention", *TWO_HEADS),
    *("--model.mixers.0.max_length", "4096"),
  ),
  "softmax_attention without positions": (
    *("softmax_attention", *TWO_HEADS),
    *("--model.mixers.0.max_length", "4096"),
    *("--model.mixers.0.rotary_fraction", "0"),
  ),
  "sliding_attention": (
    *("sliding_attention", *TWO_HEADS),
    *("--model.mixers.0.window", "64"),
  ),
}
# Multiples of the training length.
FACTORS = (1, 4, 16, 64)
# Tokens per call of the model.
MOST_TOKENS = 16_384


def command(mixer: str, seeds: int, workdir: str) -> list[str]:
  """Returns the command that trains a mixer."""
  return [
    *("python", "-m", "train", CONFIG, "--model.mixers", *MIXERS[mixer]),
    *("--replicas", str(seeds), "--workdir", workdir),
  ]


def train_seeds(mixer: str, seeds: int, root: str) -> dict[str, Any]:
  """Trains a mixer and returns its variables by seed, and the minutes.

  The minutes are processor time, so other work on the machine adds little.
  """
  workdir = os.path.join(root, mixer.replace(" ", "_"))
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  words = [sys.executable, *command(mixer, seeds, workdir)[1:]]
  subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  runs = [train.load(f"{workdir}/seed={seed}") for seed in range(seeds)]
  return {"runs": runs, "minutes": round(used / 60, 2)}


def accuracies(runs: list[Any], length: int, rows: int) -> list[float]:
  """Returns the accuracy of each run on the same rows of a length."""
  task = dataclasses.replace(
    runs[0].config.data.at_length(length), validation_examples=rows
  )
  found = list(task.generate("validation"))
  inputs = np.stack([row["inputs"] for row in found])
  answers = np.array([row["targets"][-1] for row in found])
  size = max(min(rows, MOST_TOKENS // length), 1)
  model = runs[0].model

  @jax.jit
  def predict(variables: Any, inputs: jax.Array) -> jax.Array:
    logits, _ = model.apply(variables, inputs)
    return logits[:, -1].argmax(-1)

  starts = range(0, rows, size)
  guesses = [
    [predict(run.variables, inputs[start : start + size]) for start in starts]
    for run in runs
  ]
  return [
    round(float(np.mean(np.concatenate(x) == answers)), 4) for x in guesses
  ]


def records(mixer: str, options: argparse.Namespace) -> list[dict[str, Any]]:
  """Trains a mixer, measures it and returns one record per length."""
  trained = train_seeds(mixer, options.seeds, options.workdir)
  data = trained["runs"][0].config.data
  return [
    {
      "mixer": mixer,
      "task": f"induction heads, {factor * data.length} tokens",
      "length": factor * data.length,
      "metric": "accuracy",
      "seeds": accuracies(trained["runs"], factor * data.length, options.rows),
      "chance": round(1 / data.alphabet, 4),
      "claim": CLAIM,
      "config": CONFIG,
      "command": " ".join(command(mixer, options.seeds, "runs/x")),
      "minutes": trained["minutes"],
    }
    for factor in FACTORS
  ]


def table(found: list[dict[str, Any]]) -> str:
  """Returns the mean and the range over seeds, by mixer and length."""
  lengths = sorted({record["length"] for record in found})
  lines = [
    "| mixer | " + " | ".join(map(str, lengths)) + " |",
    "|---|" + "---:|" * len(lengths),
  ]
  for mixer in dict.fromkeys(record["mixer"] for record in found):
    cells = {
      record["length"]: f"{np.mean(record['seeds']):.2f}"
      f" ({min(record['seeds']):.2f} to {max(record['seeds']):.2f})"
      for record in found
      if record["mixer"] == mixer
    }
    row = [cells.get(length, "") for length in lengths]
    lines.append(f"| {mixer} | " + " | ".join(row) + " |")
  return "\n".join(lines)


def main() -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--mixers", nargs="+", choices=MIXERS, default=[*MIXERS])
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--rows", type=int, default=48, help="per length")
  parser.add_argument("--workdir", default="runs/selection")
  parser.add_argument("--json", help="adds the records to this file")
  options = parser.parse_args()
  path = pathlib.Path(options.json) if options.json else None
  found: list[dict[str, Any]] = []
  if path is not None and path.exists():
    found = json.loads(path.read_text())
  for mixer in options.mixers:
    found = [record for record in found if record["mixer"] != mixer]
    found += records(mixer, options)
    print(found[-1]["mixer"], [x["seeds"] for x in found[-len(FACTORS) :]])
    if path is not None:
      path.write_text(json.dumps(found, indent=1) + "\n")
  print(table(found))


if __name__ == "__main__":
  main()
