r"""Trains a config with many values: a grid, a list of cells, several seeds.

  python -m train.sweep configs/NAME.py --over.model.width 64 128 \
    --over.optimizer.learning-rate 1e-3 3e-3 --replicas 3

trains every combination of the values after `--over.FIELD`, each with three
seeds. `--cells FILE` has the flags of one cell per line, and `#` starts a
comment. Other flags of the config, such as `--steps 500`, apply to all runs.

Each run is `python -m train` in a folder of its own, such as
`width=64,learning_rate=0.001,seed=0`, and `--processes 4` trains four at a
time. The same command again skips what is done, resumes what was interrupted,
and tries again what failed. `sweep.md` and `sweep.json` have one row per cell:
the metrics of the last validation, mean and range over the seeds. `sweep.png`
shows them.
"""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence

import jax

from train import files, flags
from train.command import main_with_errors
from train.config import command_line
from train.errors import RunError, UserError
from train.files import lock, paths
from train.streams import log
from train.sweep import cells, plot, table
from train.sweep.pool import Pool
from train.sweep.results import OUTPUT, Outcome

_USAGE = (
  "python -m train.sweep configs/NAME.py --over.FIELD VALUE VALUE ..."
  " [--replicas N] [--processes N] [--workdir DIR]"
)


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of a sweep that are not fields of the config.

  Attributes:
    workdir: Directory of the sweep, with one folder per run; None for
      runs/NAME-sweep of configs/NAME.py.
    replicas: Seeds per cell: `config.seed` and those that follow it.
    processes: Runs at the same time. They share the devices; on a GPU each
      may take an equal share of the memory.
    cells: A file with the flags of one cell per line.
  """

  workdir: str | None = None
  replicas: int = 1
  processes: int = 1
  cells: str | None = None


def run(argv: Sequence[str]) -> int:
  """Runs a sweep; returns the exit code.

  Args:
    argv: The arguments, without the program's name.

  Raises:
    UserError: The command was wrong.
    RunError: Runs failed; the others are done.
  """
  # The devices are for the children.
  jax.config.update("jax_platforms", "cpu")
  axes, words = cells.split(argv)
  config, (options,) = command_line.read(words, (Options(),), _USAGE, __doc__)
  _, shared = flags.take(Options(), words)
  flags.in_range("--replicas", options.replicas, 1, cells.MOST_RUNS)
  flags.in_range("--processes", options.processes, 1, 1024)
  listed = [] if options.cells is None else cells.read_file(options.cells)
  if not axes and not listed and options.replicas == 1:
    raise UserError(f"nothing to sweep over: {_USAGE}")
  grid = cells.grid(axes, listed)
  runs = cells.runs(config, grid, options.replicas)
  folder = _make_folder(options.workdir, argv[0])
  write = functools.partial(
    _write, runs, config.best_metric, folder=folder, source=argv[0]
  )
  with lock.held(folder):
    pool = Pool(runs, folder, shared, options.processes, write)
    pool.run()
    text = write(pool.outcomes)
    return _finish(pool, text, folder, config.best_metric, runs)


def _write(
  runs: Sequence[cells.Run],
  metric: str,
  outcomes: Mapping[str, Outcome],
  *,
  folder: str,
  source: str,
) -> str:
  """Writes the table as far as it is known, and returns it as Markdown."""
  found = table.rows(runs, outcomes)
  document = table.document(found, metric, source)
  content = json.dumps(document, indent=2, allow_nan=False) + "\n"
  files.replace(os.path.join(folder, "sweep.json"), content.encode())
  text = table.markdown(found, metric)
  shown = text.encode("utf-8", "replace")
  files.replace(os.path.join(folder, "sweep.md"), shown)
  return text


def _make_folder(workdir: str | None, source: str) -> str:
  """Makes the folder of the sweep."""
  if workdir is None:
    name = os.path.splitext(os.path.basename(source))[0]
    workdir = os.path.join("runs", f"{name}-sweep")
  return paths.make_folder("--workdir", workdir)


def _finish(
  pool: Pool,
  text: str,
  folder: str,
  metric: str,
  runs: Sequence[cells.Run],
) -> int:
  """Prints the table and draws the plot; returns the exit code."""
  code = pool.stopped("runs")
  if code is not None:
    return code
  found = table.rows(runs, pool.outcomes)
  picture = os.path.join(folder, "sweep.png")
  has_plot = plot.write(found, metric, picture)
  log(f"\n{text}")
  names = ["sweep.md", "sweep.json", *["sweep.png"] * has_plot]
  log("wrote " + ", ".join(os.path.join(folder, name) for name in names))
  states = [outcome.state for outcome in pool.outcomes.values()]
  failed = states.count("failed")
  if failed:
    raise RunError(
      f"{failed} of {len(states)} runs failed, as the table says; the output"
      f" of each is in {os.path.join(folder, 'RUN', OUTPUT)}"
    )
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(run, needs_output=False))
