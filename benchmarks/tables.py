"""Writes the tables of pages from the records of ops, mixers and families.

`python -m benchmarks.tables` writes the tables between the marks in README.md
and in the page on checkpoints.
"""

import dataclasses
import pathlib
import re
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels import mixers
from jaxmodels.analysis import flops
from jaxmodels.interop import FAMILIES
from jaxmodels.ops.engine.platform import trace_for
from jaxmodels.testing.examples import MIXERS, OPS, MixerExample
from train.results import Table
from train.results import record as results_record
from train.results import table as results_table

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
CHECKPOINTS = README.parent / "jaxmodels" / "interop" / "README.md"
WIDTH, LENGTH = 256, 1024
# The tasks of `configs/results.py` that have a column.
LEARNED = ("parity", "s3", "recall", "text")


def ops_table() -> str:
  """One row per op whose record states an equation."""
  rows = [
    (f"`{record.op.__name__}`", record.equation)
    for record in OPS.values()
    if record.equation
  ]
  return _table(("op", "recurrence"), rows, "ll")


def mixers_table() -> str:
  """One row per mixer: what it computes, and who found it."""
  rows = [
    (f"`{record.mixer}`", record.equation, record.transition, *_source(record))
    for record in _listed()
  ]
  head = ("mixer", "recurrence", "transition", "paper", "year")
  return _table(head, rows, "lllll")


def costs_table() -> str:
  """One row per mixer: its defaults, its cost, and what it has learnt."""
  table = results_table.read(str(ROOT / "configs" / "results.py"))
  records = results_record.read(str(ROOT / "benchmarks" / "results.json"))
  rows = [
    (
      f"`{config_line(record)}`",
      _state(record),
      f"{_flops(record) / 1e6:.2f}",
      *(_learned(record.mixer, task, table, records) for task in LEARNED),
    )
    for record in _listed()
  ]
  head = ("in `mixers=`", "state", "Mflops", *LEARNED)
  return _table(head, rows, "lrrrrrr")


def _learned(
  mixer: str,
  task: str,
  table: Table,
  records: Mapping[tuple[str, str], results_record.Record],
) -> str:
  """The mean of a mixer on a task; of its rows in the table, the best one."""
  column = next((x for x in table.columns if x.name == task), None)
  means = [
    statistics.mean(records[task, row.name]["seeds"])
    for row in table.rows
    if (row.mixers or row.name) == mixer and (task, row.name) in records
  ]
  if column is None or not means:
    return ""
  best = min(means) if column.lower_is_better else max(means)
  return f"{best:.2f}"


def config_line(record: MixerExample) -> str:
  """The mixer as in a list of `mixers`, with its own fields at their defaults.

  Left out are options that are off, and those of which the default depends on
  the width.
  """
  shared = {field.name for field in dataclasses.fields(mixers.Mixer)}
  layer = mixers.MIXERS[record.mixer](width=WIDTH)
  own = {
    field.name: getattr(layer, field.name)
    for field in dataclasses.fields(layer)
    if field.name not in shared
  }
  shown = {
    name: value
    for name, value in own.items()
    if value and isinstance(value, bool | int | float | str)
  }
  options = ", ".join(
    f'"{name}": {_literal(value)}' for name, value in shown.items()
  )
  return f'("{record.mixer}", {{{options}}})' if shown else f'"{record.mixer}"'


def _literal(value: Any) -> str:
  return f'"{value}"' if isinstance(value, str) else repr(value)


def _listed() -> list[MixerExample]:
  """The records that have a row, by the name of the mixer."""
  listed = (record for record in MIXERS.values() if record.listed)
  return sorted(listed, key=lambda record: record.mixer)


def _source(record: MixerExample) -> tuple[str, str]:
  """The authors with a link to the paper, and the year."""
  parts = re.fullmatch(r"(.+) (\d{4}), arXiv:(\S+)", record.paper)
  if parts is None:
    raise ValueError(
      f"{record.name}: paper must be 'AUTHORS YEAR, arXiv:ID', got "
      f"{record.paper!r}"
    )
  authors, year, identifier = parts.groups()
  return f"[{authors}](https://arxiv.org/abs/{identifier})", year


def families_table() -> str:
  """One row per family of published models."""
  rows = [
    (
      f"`{family.name}`",
      ", ".join(f"`{kind}`" for kind in family.model_types) or "none",
      f"`{family.architecture}`",
    )
    for family in FAMILIES.values()
  ]
  return _table(("family", "`model_type`", "class"), rows, "lll")


# The tables of each page, by their marks.
PAGES: dict[pathlib.Path, dict[str, Callable[[], str]]] = {
  README: {"ops": ops_table, "mixers": mixers_table, "costs": costs_table},
  CHECKPOINTS: {"families": families_table},
}


def update(page: pathlib.Path, text: str) -> str:
  """The text of a page with all tables updated."""
  for mark, make in PAGES[page].items():
    between = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.S)
    if not between.search(text):
      raise ValueError(
        f"{page.name} has no marks <!-- {mark} -->, <!-- /{mark}"
      )
    table = make()
    text = between.sub(lambda m, table=table: m[1] + table + m[2], text)
  return text


def _layer(record: MixerExample) -> Any:
  return mixers.MIXERS[record.mixer](width=WIDTH)


def _state(record: MixerExample) -> str:
  """Elements of the state per sequence, or per token for a cache."""
  layer = _layer(record)
  state = jax.eval_shape(lambda: layer.init_state(1))
  count = sum(
    leaf.size * (2 if jnp.iscomplexobj(leaf) else 1)
    for leaf in jax.tree.leaves(state)
  )
  if (
    getattr(layer, "max_length", None)
    and getattr(layer, "window", None) is None
  ):
    return f"{count // layer.max_length:,} per token"
  return f"{count:,}"


def _flops(record: MixerExample) -> float:
  """Forward flops per token and layer, with the chunks of a CPU."""
  layer = _layer(record)
  x = jax.ShapeDtypeStruct((1, LENGTH, WIDTH), jnp.float32)
  with trace_for("cpu"):
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    return (
      flops.count(layer.clone(method="chunked").apply, params, x).total / LENGTH
    )


def _table(
  head: tuple[str, ...], rows: list[tuple[str, ...]], align: str
) -> str:
  marks = {"l": "---", "r": "---:"}
  lines = [head, tuple(marks[a] for a in align), *rows]
  return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
  """Writes the pages."""
  for page in PAGES:
    page.write_text(update(page, page.read_text()))


if __name__ == "__main__":
  main()
