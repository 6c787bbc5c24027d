"""The table of a sweep, as Markdown and JSON: one row per cell."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.files.checkpoint_folder import ranked
from train.summary import markdown_row, with_range
from train.sweep.cells import Run, short_keys
from train.sweep.pool import duration
from train.sweep.results import Outcome, mean_and_range


@dataclasses.dataclass(frozen=True)
class Row:
  """One cell with all its seeds.

  Attributes:
    values: The text of each swept value by its key.
    runs: The runs, one per seed.
    outcomes: How each of them has ended.
  """

  values: Mapping[str, str]
  runs: tuple[Run, ...]
  outcomes: tuple[Outcome, ...]

  @property
  def metrics(self) -> dict[str, tuple[float, float, float]]:
    """Mean, lowest and highest value over the seeds that are done."""
    done = [o.metrics for o in self.outcomes if o.state == "done"]
    names = dict.fromkeys(name for metrics in done for name in metrics)
    return {
      name: mean_and_range([m[name] for m in done if name in m])
      for name in names
    }

  @property
  def seconds(self) -> float:
    """How long all its processes ran."""
    return math.fsum(o.seconds for o in self.outcomes)

  @property
  def note(self) -> str:
    """What is missing, and why."""
    failed: dict[str, list[int]] = {}
    for run, outcome in zip(self.runs, self.outcomes, strict=True):
      if outcome.state != "done":
        reason = f"failed: {outcome.reason}" if outcome.reason else "not run"
        failed.setdefault(reason, []).append(run.config.seed)
    if len(self.runs) == 1:
      return "; ".join(failed)
    return "; ".join(
      f"seed {', '.join(map(str, seeds))} {reason}"
      for reason, seeds in failed.items()
    )


def rows(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> list[Row]:
  """Returns one row per cell, in the order of the sweep.

  Args:
    runs: All runs.
    outcomes: How each has ended, by its name.
  """
  cells: dict[int, list[Run]] = {}
  for run in runs:
    cells.setdefault(id(run.cell), []).append(run)
  return [
    Row(
      found[0].cell.values,
      tuple(found),
      tuple(outcomes[run.name] for run in found),
    )
    for found in cells.values()
  ]


def best(found: Sequence[Row], metric: str) -> Row | None:
  """Returns the row with the best mean of a metric; None if none is done.

  Args:
    found: The rows.
    metric: The `best_metric` of the config.
  """
  means = {
    i: {metric: row.metrics[metric][0]}
    for i, row in enumerate(found)
    if metric in row.metrics
  }
  if not means:
    return None
  # The direction belongs to the loss, which all runs share.
  direction = found[0].runs[0].config.loss.best[metric]
  order = ranked(means, metric, direction)
  return found[order[0]] if order else None


def markdown(found: Sequence[Row], metric: str) -> str:
  """Returns the table as Markdown, with the best row in bold.

  Args:
    found: The rows.
    metric: The metric that chooses the best row.
  """
  short = short_keys([row.runs[0].cell for row in found])
  names = list(dict.fromkeys(name for row in found for name in row.metrics))
  is_noted = any(row.note for row in found)
  head = [*short.values(), "seeds", *names, "time", *["note"] * is_noted]
  winner = best(found, metric) if len(found) > 1 else None
  lines = [head, ["---"] * len(head)]
  for row in found:
    done = sum(o.state == "done" for o in row.outcomes)
    count = len(row.outcomes)
    cells = [
      *(row.values.get(key, "") for key in short),
      str(count) if done == count else f"{done} of {count}",
      *(_numbers(row, name) for name in names),
      duration(row.seconds),
    ]
    if row is winner:
      cells = [f"**{cell}**" if cell else "" for cell in cells]
    lines.append([*cells, *[row.note] * is_noted])
  return "".join(map(markdown_row, lines))


def _numbers(row: Row, name: str) -> str:
  if name not in row.metrics:
    return "-"
  done = sum(o.state == "done" for o in row.outcomes)
  return with_range(*row.metrics[name], done)


def document(found: Sequence[Row], metric: str, config: str) -> dict[str, Any]:
  """Returns the table as JSON; numbers that are not finite become null.

  Args:
    found: The rows.
    metric: The metric that chooses the best row.
    config: The config file.
  """
  winner = best(found, metric)
  return {
    "config": config,
    "best_metric": metric,
    "best": None if winner is None else dict(winner.values),
    "rows": [
      {
        "values": dict(row.values),
        "metrics": {
          name: dict(
            zip(("mean", "low", "high"), map(_finite, three), strict=True)
          )
          for name, three in row.metrics.items()
        },
        "seconds": round(row.seconds, 3),
        "runs": [
          {
            "folder": run.name,
            "seed": run.config.seed,
            "state": outcome.state,
            "reason": outcome.reason,
            **dataclasses.asdict(outcome.spent),
            "metrics": {k: _finite(v) for k, v in outcome.metrics.items()},
          }
          for run, outcome in zip(row.runs, row.outcomes, strict=True)
        ],
      }
      for row in found
    ],
  }


def _finite(value: float) -> float | None:
  return value if math.isfinite(value) else None
