"""Recurrent policies on two tasks: `python -m benchmarks.reinforcement`.

Trains each mixer on `configs/reinforcement/memory_chain.py` and
`hidden_goal.py`, with several seeds. Writes
`benchmarks/results/reinforcement.json` and `.png`, and prints the table of
`reinforcement.md` there. Runs that are complete in `--workdir` are not
repeated. `python -m benchmarks.rollouts` measures the speed.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from jaxmodels.layers import GatedMLP
from train.config import command_line
from train.metrics import read_metrics
from train.reinforcement import (
  MemoryChain,
  ReinforcementConfig,
  rollout,
)
from train.reinforcement.run import make_programs, run

OUTPUT = os.path.join("benchmarks", "results", "reinforcement")
CONFIGS = {
  "memory_chain": "configs/reinforcement/memory_chain.py",
  "hidden_goal": "configs/reinforcement/hidden_goal.py",
}
# The last one has no memory: a second channel mixer instead of a mixer.
MIXERS: dict[str, Any] = {
  "s5": "s5",
  "lru": "lru",
  "gla": ("gla", {"heads": 2}),
  "mlstm": ("mlstm", {"heads": 2}),
  "none": GatedMLP(width=32),
}
# Policies also act in memory chains that are up to this many times longer.
LONGER = 4
CLAIMS = {
  "memory_chain": "S5 solves the memory length task of bsuite (Lu et al. 2023,"
  " arXiv:2303.03982)",
  "hidden_goal": "a recurrent policy adapts to a hidden task within an episode"
  " (Duan et al. 2016, arXiv:1611.02779)",
}


def config_of(task: str, mixer: str) -> ReinforcementConfig:
  """The config of a task with another mixer."""
  config = command_line.load(CONFIGS[task], ReinforcementConfig)
  model = config.model.clone(mixers=(MIXERS[mixer],))
  return dataclasses.replace(config, model=model)


def results(
  task: str, mixer: str, seeds: int, workdir: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """What `train` returns, from a file in `workdir` if it is there."""
  path = os.path.join(workdir, f"{task}-{mixer}-{seeds}-seeds.json")
  if not os.path.exists(path):
    found = train(task, mixer, seeds, workdir)
    with open(path, "w") as file:
      json.dump(found, file)
  with open(path) as file:
    records, curve = json.load(file)
  return records, curve


def train(
  task: str, mixer: str, seeds: int, workdir: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Trains all seeds of one mixer on one task.

  Returns:
    The records of the results, and the curve over updates with its updates.
  """
  begun = time.process_time()
  config = config_of(task, mixer)
  programs = make_programs(config)
  folders = [os.path.join(workdir, f"{task}-{mixer}-{i}") for i in range(seeds)]
  is_new = not any(map(os.path.isdir, folders))
  outcomes = []
  for i, folder in enumerate(folders):
    outcome = run(dataclasses.replace(config, seed=i), folder, programs)
    if outcome.signal is not None:
      raise SystemExit(128 + outcome.signal)
    outcomes.append(outcome)
  environment = config.environment.hardest()
  common = {
    "mixer": mixer,
    "task": task,
    "claim": CLAIMS[task],
    "config": CONFIGS[task],
    "command": f"python -m train.reinforcement {CONFIGS[task]}"
    f" {_flags(mixer)}--seed SEED",
    # Of all seeds with compilation; null where some runs were there before.
    "minutes": (time.process_time() - begun) / 60 if is_new else None,
  }
  records = [
    {
      **common,
      "metric": "return" if environment.pieces == 1 else f"return of trial {i}",
      "seeds": [float(outcome.returns[i - 1]) for outcome in outcomes],
      "chance": float(environment.chance()[i - 1]),
      "optimum": float(environment.optimum()[i - 1]),
    }
    for i in range(1, environment.pieces + 1)
  ]
  if isinstance(environment, MemoryChain):
    records[0]["metric"] = f"return at length {environment.longest}"
    most = environment.longest
    for lengths in ((2, most), (most + 1, LONGER * most)):
      found = _at_lengths(config, lengths, outcomes)
      records.append({**records[0], **found})
  lines = [
    [x for x in read_metrics(folder) if x["split"] == "train"]
    for folder in folders
  ]
  curve = {
    "task": task,
    "mixer": mixer,
    "updates": [line["step"] for line in lines[0]],
    "return": [[line["return"] for line in own] for own in lines],
  }
  return records, curve


def _flags(mixer: str) -> str:
  entry = MIXERS[mixer]
  if isinstance(entry, tuple):
    options = [f"--model.mixers.0.{k} {v} " for k, v in entry[1].items()]
    return f"--model.mixers {entry[0]} {''.join(options)}"
  return f"--model.mixers {entry} " if isinstance(entry, str) else ""


def _at_lengths(
  config: ReinforcementConfig, lengths: tuple[int, int], outcomes: Sequence[Any]
) -> dict[str, Any]:
  """The return in memory chains of other lengths than those of `hardest`."""
  environment = MemoryChain(*lengths)

  @jax.jit
  def evaluate(params: Any) -> jax.Array:
    key = jax.random.key(0)
    return rollout.evaluate(
      config.model, environment, params, key, config.eval_episodes
    )

  return {
    "metric": f"return at lengths {lengths[0]} to {lengths[1]}",
    "seeds": [float(evaluate(x.params).sum()) for x in outcomes],
  }


def draw(
  records: Sequence[dict[str, Any]], curves: Sequence[dict[str, Any]]
) -> None:
  """Draws the curves over updates, and over the trials of an episode."""
  figure = Figure(figsize=(9, 3.4), layout="constrained")
  left, right = figure.subplots(1, 2)
  for curve in curves:
    if curve["task"] == "memory_chain":
      _band(left, curve["mixer"], curve["updates"], curve["return"])
  trials = [r for r in records if r["task"] == "hidden_goal"]
  for mixer in MIXERS:
    own = [r["seeds"] for r in trials if r["mixer"] == mixer]
    if own:
      _band(right, mixer, range(1, len(own) + 1), np.transpose(own))
  for axes, task, title, label in (
    (left, "memory_chain", "Memory chain: training", "updates"),
    (right, "hidden_goal", "Hidden goal: within an episode", "trial"),
  ):
    of_mixer = [r for r in records if r["task"] == task]
    of_mixer = [r for r in of_mixer if r["mixer"] == of_mixer[0]["mixer"]]
    for name, style in (("chance", ":"), ("optimum", "--")):
      values = [r[name] for r in of_mixer]
      x = range(1, len(values) + 1)
      if task == "memory_chain":
        x, values = axes.get_xlim(), values[:1] * 2
      axes.plot(x, values, style, color="#777777", label=name)
    axes.set(title=title, xlabel=label, ylabel="mean return")
  right.legend(frameon=False, fontsize=8)
  figure.savefig(f"{OUTPUT}.png", dpi=130)


def _band(axes: Any, name: str, x: Sequence[int], rows: Any) -> None:
  """The mean of some rows over x, and a band from the least to the most."""
  values = np.asarray(rows)
  (line,) = axes.plot(x, values.mean(0), label=name)
  axes.fill_between(
    x, values.min(0), values.max(0), color=line.get_color(), alpha=0.15, lw=0
  )


def table(records: Sequence[dict[str, Any]]) -> str:
  """The records as Markdown: mean and range over the seeds."""
  lines = [
    "| task | mixer | metric | mean (least to most) | chance | optimum |",
    "|---|---|---|---|---|---|",
  ]
  for r in records:
    values = np.asarray(r["seeds"])
    if r["task"] == "hidden_goal" and r["metric"][-1] not in "126":
      continue
    found = f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"
    optimum = r.get("optimum")
    lines.append(
      f"| {r['task']} | {r['mixer']} | {r['metric']} | {found} |"
      f" {r['chance']:.2f} | {'' if optimum is None else f'{optimum:.2f}'} |"
    )
  return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
  """Trains, measures and writes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", default="runs/reinforcement")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--tasks", nargs="*", default=list(CONFIGS))
  parser.add_argument("--mixers", nargs="*", default=list(MIXERS))
  options = parser.parse_args(argv)
  records, curves = [], []
  for task in options.tasks:
    for mixer in options.mixers:
      found, curve = results(task, mixer, options.seeds, options.workdir)
      records += found
      curves.append(curve)
  document = {"records": records, "curves": curves}
  with open(f"{OUTPUT}.json", "w") as file:
    json.dump(document, file, indent=1)
  draw(records, curves)
  print(table(records))


if __name__ == "__main__":
  main()
