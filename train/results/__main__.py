r"""Trains the cells of a table of mixers and tasks, and writes its page.

  python -m train.results --processes 2
  python -m train.results --tasks parity s3 --mixers gla delta_net
  python -m train.results configs/recall_frontier.py --processes 2

The table is a Python file with `get_table()`, by default `configs/results.py`.
A cell is one mixer on one task: `python -m train CONFIG --model.mixers MIXER`
with several seeds, and perhaps several learning rates, in a folder of its own.
The same command again skips what is done, resumes what was interrupted, and
tries again what failed. A cell is done if `results.json` has it with the same
config and flags, so that a machine without the runs continues the table too.

After each cell it writes `results.json`, `RESULTS.md` and `results.png`.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence

import jax

from train import flags
from train.command import main_with_errors
from train.errors import RunError
from train.files import lock, paths
from train.results import page, picture, record, table
from train.results.cells import Cell, Reader, cells, chosen_cells
from train.streams import log
from train.sweep.pool import Pool
from train.sweep.results import OUTPUT, Outcome

_USAGE = (
  "python -m train.results [TABLE.py] [--tasks NAME ...] [--mixers NAME ...]"
  " [--processes N] [--workdir DIR]"
)


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    tasks: Names of columns to train; none for all.
    mixers: Names of rows to train; none for all.
    processes: Cells at the same time. Each gets an equal share of the cores.
    workdir: The folder of the runs.
    output: The folder of `results.json`, `RESULTS.md` and `results.png`; by
      default that of the table.
    page_only: Whether to write the page and the picture, and train nothing.
  """

  tasks: tuple[str, ...] = ()
  mixers: tuple[str, ...] = ()
  processes: int = 1
  workdir: str = os.path.join("runs", "results")
  output: str = ""
  page_only: bool = False


def run(argv: Sequence[str]) -> int:
  """Trains and writes; returns the exit code.

  Args:
    argv: The arguments, without the program's name.

  Raises:
    UserError: The command was wrong.
    RunError: Cells failed; the others are done.
  """
  # The devices are for the children.
  jax.config.update("jax_platforms", "cpu")
  path = os.path.join("configs", "results.py")
  if argv and not argv[0].startswith("-"):
    path, *argv = argv
  (options,), stray = flags.parse(
    (Options(),), list(argv), usage=_USAGE, about=__doc__
  )
  flags.refuse(stray)
  flags.in_range("--processes", options.processes, 1, 1024)
  wanted = table.read(path)
  output = paths.make_folder("--output", options.output or wanted.output)
  every = cells(wanted)
  found = _current(record.read(os.path.join(output, "results.json")), every)
  if options.page_only:
    _write(wanted, found, output)
    log(f"wrote {os.path.join(output, 'RESULTS.md')}")
    return 0
  chosen = [
    cell
    for cell in chosen_cells(every, options.tasks, options.mixers)
    if cell.key not in found
  ]
  folder = paths.make_folder("--workdir", options.workdir)
  with lock.held(folder):
    noted = functools.partial(_note, wanted, found, chosen, folder, output)
    pool = Pool(
      chosen,
      folder,
      (),
      options.processes,
      noted,
      reader=Reader(),
      share_cores=options.processes > 1,
    )
    noted(pool.outcomes)
    pool.run()
  return _finish(pool, output, folder)


def _current(
  found: Mapping[tuple[str, str], record.Record], every: Sequence[Cell]
) -> dict[tuple[str, str], record.Record]:
  """Leaves out the records of cells that have another config by now."""
  known = {cell.key: cell.fingerprint for cell in every}
  kept = {
    key: one
    for key, one in found.items()
    if known.get(key) == one["fingerprint"]
  }
  if len(kept) < len(found):
    log(
      f"{len(found) - len(kept)} cells of results.json are left out: their"
      " config or flags have changed"
    )
  return kept


def _note(
  wanted: table.Table,
  found: dict[tuple[str, str], record.Record],
  chosen: Sequence[Cell],
  folder: str,
  output: str,
  outcomes: Mapping[str, Outcome],
) -> None:
  """Adds the cells that have ended to the records, and writes the page."""
  for cell in chosen:
    outcome = outcomes[cell.name]
    if outcome.state == "done" and cell.key not in found:
      place = os.path.join(folder, cell.name)
      found[cell.key] = record.make(cell, place, outcome)
  _write(wanted, found, output)


def _write(
  wanted: table.Table,
  found: Mapping[tuple[str, str], record.Record],
  output: str,
) -> None:
  path = os.path.join(output, "results.json")
  record.write(path, found, wanted.claims)
  page.write(os.path.join(output, "RESULTS.md"), wanted, found)
  picture.write(os.path.join(output, "results.png"), wanted, found)


def _finish(pool: Pool, output: str, folder: str) -> int:
  """Says what is done; returns the exit code."""
  code = pool.stopped("cells")
  if code is not None:
    return code
  log(f"wrote {os.path.join(output, 'RESULTS.md')}")
  failed = [name for name, x in pool.outcomes.items() if x.state == "failed"]
  if failed:
    raise RunError(
      f"{len(failed)} of {len(pool.outcomes)} cells failed, {failed[0]} first;"
      f" the output of each is in {os.path.join(folder, 'CELL', OUTPUT)}"
    )
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(run, needs_output=False))
