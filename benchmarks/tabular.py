"""Mambular against gradient boosting on scikit-learn's tables.

python -m benchmarks.tabular

trains the models of `configs/tabular` on each table and compares them with
scikit-learn's methods on the same three splits: one seed determines the split,
the initial parameters and the batches. The three seeds of a table are trained
in one program, by a loop of its own; `python -m train configs/tabular/...`
trains one run. The settings are those of `METHODS` and of the configs, the same
for every table. Scores are those of the held-out quarter of the rows: accuracy,
or R^2 for a table of numbers.

It writes `benchmarks/results/tabular.json` and `tabular.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
  GradientBoostingClassifier,
  GradientBoostingRegressor,
  HistGradientBoostingClassifier,
  HistGradientBoostingRegressor,
)
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from jaxmodels.models import TabularModel, count_parameters
from train.config import Config, command_line
from train.data.tasks import Table
from train.data.tasks.tables import TABLES, TableRows, read_table

RESULTS = pathlib.Path("benchmarks/results")
CONFIGS = {
  True: "configs/tabular/classify.py",
  False: "configs/tabular/regress.py",
}
SEEDS = range(3)
BOOSTED = ("gradient boosting", "histogram boosting")
METHODS: dict[str, dict[bool, Callable[..., Any]]] = {
  "gradient boosting": {
    True: GradientBoostingClassifier,
    False: GradientBoostingRegressor,
  },
  "histogram boosting": {
    True: HistGradientBoostingClassifier,
    False: HistGradientBoostingRegressor,
  },
  "linear": {
    True: functools.partial(LogisticRegression, max_iter=5000),
    False: functools.partial(RidgeCV, np.logspace(-3, 3, 13)),
  },
}
MAMBULAR = "Mambular"
# Fields of the model that differ from its config, with --variants.
VARIANTS: dict[str, dict[str, Any]] = {
  "last": {"pooling": "last"},
  "interaction": {"interaction": True},
}


def config_of(name: str, seed: int) -> Config:
  """The config of a table: that of its kind, with its data and outputs."""
  classes = TABLES[name][1]
  config = command_line.load(CONFIGS[classes])
  table = read_table(name)
  known = tuple(len(np.unique(x)) for x in table.categories.T)
  outputs = len(np.unique(table.targets)) if classes else 1
  return dataclasses.replace(
    config,
    model=config.model.clone(outputs=outputs, categories=known),
    data=dataclasses.replace(config.data, name=name, seed=seed),
    seed=seed,
  )


def arrays(data: Table) -> dict[str, Any]:
  """The inputs and the targets of both splits."""
  found = {}
  for split in ("train", "validation"):
    rows = data.open(split)
    examples = [rows[i] for i in range(len(rows))]
    found[split] = jax.tree.map(lambda *x: np.stack(x), *examples)
  return found


def trained(
  config: Config, model: TabularModel, data: list[Any]
) -> list[float]:
  """The scores of a model on the held-out rows, one per seed.

  Args:
    config: Its loss, optimizer, batch size and steps.
    model: The model.
    data: `arrays` of the data, one per seed.
  """
  descent = config.optimizer.transformation(config.steps)
  count = len(data[0]["train"]["targets"])

  def fit(seed: jax.Array, rows: Any) -> jax.Array:
    start, order = jax.random.split(jax.random.key(seed))
    first = jax.tree.map(lambda x: x[:2], rows["train"]["inputs"])
    params = model.init(start, first)

    def loss(params: Any, batch: Any) -> jax.Array:
      outputs, _ = model.apply(params, batch["inputs"])
      batch = {**batch, "weights": jnp.ones(config.batch_size)}
      return config.loss.means(config.loss.sums(outputs, batch))["loss"]

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
      params, moments = carry
      chosen = jax.random.permutation(key, count)[: config.batch_size]
      batch = jax.tree.map(lambda x: x[chosen], rows["train"])
      slopes = jax.grad(loss)(params, batch)
      changes, moments = descent.update(slopes, moments, params)
      return (optax.apply_updates(params, changes), moments), None

    carry = params, descent.init(params)
    keys = jax.random.split(order, config.steps)
    (params, _), _ = jax.lax.scan(step, carry, keys)
    return model.apply(params, rows["validation"]["inputs"])[0]

  stacked = jax.tree.map(lambda *x: np.stack(x), *data)
  outputs = jax.jit(jax.vmap(fit))(np.arange(len(data)), stacked)
  truth = stacked["validation"]["targets"]
  return [score(*pair) for pair in zip(np.asarray(outputs), truth, strict=True)]


def score(outputs: np.ndarray, truth: np.ndarray) -> float:
  """The accuracy of logits, or R^2 of numbers."""
  if truth.dtype.kind == "i":
    return float(np.mean(outputs.argmax(-1) == truth))
  return float(1 - np.mean((outputs - truth) ** 2) / np.var(truth))


def fitted(make: Callable[..., Any], rows: dict[str, TableRows]) -> float:
  """The score of a method of scikit-learn, on the rows as they are measured."""
  train, held_out = rows["train"], rows["validation"]
  numbers, categories = (x.shape[1] for x in train[:2])
  columns = make_column_transformer(
    (StandardScaler(), list(range(numbers))),
    (
      OneHotEncoder(handle_unknown="ignore", sparse_output=False),
      list(range(numbers, numbers + categories)),
    ),
  )
  # A fixed seed: scikit-learn's choices are not what the seeds compare.
  seeded = hasattr(make(), "random_state")
  model = make_pipeline(
    columns, make(**({"random_state": 0} if seeded else {}))
  )
  model.fit(np.concatenate(train[:2], 1), train.targets)
  return float(model.score(np.concatenate(held_out[:2], 1), held_out.targets))


def measure(name: str, variants: bool = False) -> dict[str, Any]:
  """Scores of all methods on a table, one per seed."""
  classes = TABLES[name][1]
  configs = [config_of(name, seed) for seed in SEEDS]
  data = [arrays(config.data) for config in configs]
  scores: dict[str, list[float]] = {}
  seconds: dict[str, float] = {}

  def timed(method: str, run: Callable[[], list[float]]) -> None:
    begun = time.process_time()
    scores[method] = [round(x, 4) for x in run()]
    seconds[method] = round(time.process_time() - begun, 1)

  for method, make in METHODS.items():
    rows = [config.data.rows() for config in configs]
    own = make[classes]
    timed(method, lambda own=own, rows=rows: [fitted(own, r) for r in rows])
  config = configs[0]
  for method, fields in (
    {MAMBULAR: {}} | (VARIANTS if variants else {})
  ).items():
    model = config.model.clone(**fields)
    timed(method, lambda model=model: trained(config, model, data))
  example = jax.tree.map(lambda x: x[:1], data[0]["train"]["inputs"])
  return {
    "metric": "accuracy" if classes else "R^2",
    "rows": {split: len(x["targets"]) for split, x in data[0].items()},
    "columns": len(read_table(name).names),
    "parameters": count_parameters(config.model, example),
    "scores": scores,
    "processor_seconds": seconds,
  }


def page(results: dict[str, Any]) -> str:
  """The results as Markdown."""
  methods = [*METHODS, MAMBULAR]
  lines = [
    "# Tables: Mambular against gradient boosting",
    "",
    "The mean and the range over three splits, on the held-out quarter of the",
    "rows: accuracy, or R^2 for `diabetes`. The best mean of a row is bold.",
    "scikit-learn's methods have their default settings; ridge regression",
    "chooses its strength by leave-one-out. Mambular has the settings of",
    "`configs/tabular` for all tables.",
    "",
    "    python -m benchmarks.tabular",
    "",
    "| table | rows | columns | " + " | ".join(methods) + " |",
    "| --- | ---: | ---: |" + " ---: |" * len(methods),
  ]
  for name, found in results.items():
    rows = sum(found["rows"].values())
    cells = _cells(found["scores"], methods)
    lines.append(f"| `{name}` | {rows:,} | {found['columns']} | {cells} |")
  lines += ["", _verdict(results), ""]
  varied = {n: x for n, x in results.items() if {*VARIANTS} <= {*x["scores"]}}
  if varied:
    methods = [MAMBULAR, *VARIANTS]
    lines += [
      "Variants of the paper: the last column in place of the mean, and a",
      "learned interaction of columns before the first layer.",
      "",
      "| table | " + " | ".join(methods) + " |",
      "| --- |" + " ---: |" * len(methods),
    ]
    lines += [
      f"| `{name}` | {_cells(found['scores'], methods)} |"
      for name, found in varied.items()
    ]
    lines.append("")
  return "\n".join(lines)


def _cells(scores: dict[str, list[float]], methods: list[str]) -> str:
  """Means and ranges of some methods."""
  best = max(np.mean(scores[method]) for method in methods)
  cells = []
  for values in (scores[method] for method in methods):
    mean = f"{np.mean(values):.3f}"
    mean = f"**{mean}**" if np.mean(values) == best else mean
    cells.append(f"{mean} ({min(values):.3f} to {max(values):.3f})")
  return " | ".join(cells)


def _verdict(results: dict[str, Any]) -> str:
  """Who wins, counted."""
  wins = 0
  for found in results.values():
    means = {m: float(np.mean(x)) for m, x in found["scores"].items()}
    wins += means[MAMBULAR] > max(means[m] for m in BOOSTED)
  return (
    f"{MAMBULAR} has a higher mean than both kinds of boosting on {wins} of"
    f" {len(results)} tables."
  )


def main() -> None:
  """Measures all tables, and writes the page and the record."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tables", nargs="+", default=list(TABLES))
  parser.add_argument("--variants", action="store_true")
  path = RESULTS / "tabular.json"
  results = json.loads(path.read_text()) if path.exists() else {}
  given = parser.parse_args()
  for name in given.tables:
    results[name] = measure(name, given.variants)
    print(name, json.dumps(results[name]["scores"]), flush=True)
    results = {name: results[name] for name in TABLES if name in results}
    path.write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "tabular.md").write_text(page(results))


if __name__ == "__main__":
  main()
