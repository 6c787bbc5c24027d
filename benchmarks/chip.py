"""Tests and times the ops on the accelerator here: `python -m benchmarks.chip`.

First it compares every form of every op with its definition in float64, which
the CPU of the host computes. Then it times every form and chunk size at one
shape. All numbers go to one JSON file. `benchmarks/README.md` explains the
output.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, programs
from benchmarks.cases import CASES, Case, Sizes
from jaxmodels.testing import cases, examples
from jaxmodels.testing.errors import relative_error, tolerance
from jaxmodels.testing.evaluate import Evaluator, Run, round_to
from jaxmodels.testing.examples import OPS, OpExample

# Wide enough for the matrix units, and several chunks with a cut inside one.
_CHUNK, _LENGTH = 64, 200
_TESTED = examples.Sizes(length=_LENGTH, width=64, values=64, small=16)
_CHUNKS = (32, 64, 128, 256)
# The forms that have no chunks.
_WHOLE = ("recurrent", "associative", "quadratic")


def parser() -> argparse.ArgumentParser:
  """The flags."""
  flags = argparse.ArgumentParser(
    prog="python -m benchmarks.chip", description=__doc__.splitlines()[0]
  )
  flags.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
  flags.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS))
  flags.add_argument(
    "--dtypes", nargs="+", default=["float32", "bfloat16"], help="of arguments"
  )
  flags.add_argument(
    "--precisions",
    nargs="+",
    default=["default", "highest"],
    help="of float32 matrix products, as `jax.default_matmul_precision`",
  )
  flags.add_argument("--methods", nargs="+", help="all by default")
  flags.add_argument("--chunks", nargs="+", type=int, default=_CHUNKS)
  flags.add_argument("--batch", type=int, default=2)
  flags.add_argument("--length", type=int, default=4096)
  flags.add_argument("--heads", type=int, default=8)
  flags.add_argument("--width", type=int, default=128)
  flags.add_argument("--repeats", type=int, default=9, help="rounds")
  flags.add_argument(
    "--seconds", type=float, default=2, help="time limit per call"
  )
  flags.add_argument(
    "--memory", type=float, default=16, help="memory limit per program, in GiB"
  )
  flags.add_argument(
    "--minutes",
    type=float,
    default=60,
    help="no further program is compiled after this time",
  )
  flags.add_argument(
    "--processes",
    type=int,
    default=1,
    help="processes that share the ops and the chip; a TPU allows only one",
  )
  flags.add_argument("--json", default="chip.json", help="file of all numbers")
  return flags


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command; returns 1 if a form is wrong at full precision."""
  options = parser().parse_args(arguments)
  options.end = time.time() + 60 * options.minutes
  names = list(options.ops)
  shares = [names[i :: options.processes] for i in range(options.processes)]
  workers = [_start(options, share) for share in shares if share]
  content: dict[str, Any] = {"options": vars(options), **next(workers[0])}
  for worker in workers[1:]:
    next(worker)
  print(f"jax {content['jax']} on {content['device']}", flush=True)
  for part in options.parts:
    print(f"\n{_TITLES[part](options)}", flush=True)
    content[part] = []
    # First all processes compile at the same time, then each has the chip.
    with futures.ThreadPoolExecutor(len(workers)) as pool:
      list(pool.map(next, workers))
    for worker in workers:
      content[part] += next(worker)
      with open(options.json, "w") as file:
        json.dump(content, file, indent=1)
  for worker in workers:
    worker.close()
  return int(any(row.get("wrong") for row in content.get("errors", ())))


def _start(
  options: argparse.Namespace, names: list[str]
) -> Generator[Any, None, None]:
  """Starts `_work` in this process, or in one of its own."""
  if options.processes == 1:
    return _work(options, names)
  # Processes share a GPU's memory only if none takes most of it at the start.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  context = multiprocessing.get_context("spawn")
  here, there = context.Pipe()
  arguments = (options, names, there)
  process = context.Process(target=_serve, args=arguments, daemon=True)
  process.start()
  # With this end closed, a process that fails ends the command.
  there.close()
  return _received(here, process)


def _received(pipe: Any, process: Any) -> Generator[Any, None, None]:
  """Yields what a process sends, and asks for the next when it is needed."""
  try:
    while True:
      yield pipe.recv()
      pipe.send(None)
  finally:
    # The process ends when its pipe is closed.
    pipe.close()
    process.join(timeout=5)


def _serve(options: argparse.Namespace, names: list[str], pipe: Any) -> None:
  """Sends what `_work` yields, each after the one before was taken."""
  with contextlib.suppress(EOFError):
    for result in _work(options, names):
      pipe.send(result)
      pipe.recv()


def _work(
  options: argparse.Namespace, names: list[str]
) -> Generator[Any, None, None]:
  """Yields facts of the device; per part, None when ready, and its rows."""
  device = jax.devices()[0]
  yield {
    "device": device.device_kind,
    "platform": device.platform,
    "jax": jax.__version__,
  }
  for part in options.parts:
    rows = _PARTS[part](options, names)
    next(rows)
    yield None
    yield list(rows)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
  """Sets the precision of matrix products; "default" is the platform's own."""
  if name == "default":
    yield
  else:
    with jax.default_matmul_precision(name):
      yield


# Errors.


@dataclasses.dataclass
class _Truth:
  """Results of a definition in float64 for one set of arguments."""

  run: Run
  cotangents: Any
  wanted: dict[str, np.ndarray]


def _errors(options: argparse.Namespace, names: list[str]) -> Iterator[Any]:
  """None when all programs have run, then the rows."""
  rows = []
  for record in (OPS[name] for name in names):
    for dtype, precision in _precisions(options):
      for form in _forms(options, record.methods):
        if time.time() < options.end:
          rows.append(_error(record, form, dtype, precision))
          print(_error_line(rows[-1]), flush=True)
  yield None
  yield from rows


def _forms(options: argparse.Namespace, forms: Sequence[str]) -> list[str]:
  return [f for f in forms if options.methods is None or f in options.methods]


def _precisions(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
  """Dtypes with precisions; only float32 products have several."""
  for dtype in options.dtypes:
    names = options.precisions if dtype == "float32" else ["default"]
    yield from ((dtype, name) for name in names)


@functools.lru_cache(maxsize=4)
def _truth(name: str, form: str | None, dtype: str) -> _Truth:
  """The definition's results in float64, from the CPU of the host.

  The definitions of ops without a state take one row of a batch, or other
  options. For those the same form in float64 is the truth.
  """
  record = OPS[name]
  if form is None:
    ids = cases.resets(_LENGTH, _CHUNK)["inside a chunk"]
    definition = Evaluator(record.definition, **record.options)
  else:
    ids, definition = None, Evaluator(_called(record), form, **record.options)
  drawn = record.arguments(_LENGTH, sizes=_TESTED)
  run = Run(_LENGTH, "", ids, dtype, round_to(drawn, dtype), 0)
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    return _Truth(run, *run.truth(definition))


def _called(record: OpExample) -> Callable[..., Any]:
  """The op, with a state; without the segment ids if it has none."""

  def call(*, segment_ids: Any, **given: Any) -> Any:
    if record.has_state:
      given["segment_ids"] = segment_ids
    result = record.op(**given)
    has_state = isinstance(result, tuple) and not hasattr(result, "_fields")
    return result if has_state else (result, ())

  return call


def _error(
  record: OpExample, form: str, dtype: str, precision: str
) -> dict[str, Any]:
  """The relative errors of one form, by result."""
  named = (record.name, form, dtype, precision)
  row: dict[str, Any] = dict(
    zip(("op", "form", "dtype", "precision"), named, strict=True)
  )
  options = dict(record.options)
  if record.has_state and form not in _WHOLE:
    options["chunk_size"] = _CHUNK
  evaluate = Evaluator(_called(record), form, **options)
  start = time.monotonic()
  own = None if record.has_state else form
  try:
    truth = _truth(record.name, own, dtype)
    with _precision(precision):
      got = evaluate(truth.run.arguments, truth.run.ids, truth.cotangents)
  # What a form or a compiler refuses is a row that says why.
  except Exception as error:
    return {**row, "refused": str(error).splitlines()[0][:200]}
  errors = {
    name: relative_error(got[name], wanted)
    for name, wanted in truth.wanted.items()
  }
  full = precision == "highest" or dtype != "float32"
  return {
    **row,
    "seconds": time.monotonic() - start,
    "errors": errors,
    "wrong": full and not max(errors.values()) <= tolerance(dtype),
  }


def _error_line(row: dict[str, Any]) -> str:
  name = (
    f"  {row['op']:34} {row['form']:14} {row['dtype']:8} {row['precision']:8}"
  )
  if "refused" in row:
    return f"{name} refused: {row['refused']}"
  errors = row["errors"]
  worst = max(errors, key=lambda result: errors[result])
  word = " WRONG" if row["wrong"] else ""
  value = max(errors[result] for result in errors if result.startswith("y"))
  return f"{name} {value:8.1e} {errors[worst]:8.1e} {worst}{word}"


# Speed.


def _speed(options: argparse.Namespace, names: list[str]) -> Iterator[Any]:
  """None when all programs are compiled, then the rows of one op at a time."""
  sizes = Sizes(options.batch, options.length, options.heads, options.width)
  ready = {}
  for case in (CASES[name] for name in names if name in CASES):
    inputs = {
      dtype: case.inputs(sizes, jnp.dtype(dtype)) for dtype in options.dtypes
    }
    ready[case.name] = [
      _compiled(case, inputs[dtype], direction, dtype, *others)
      for direction, dtype, *others in _contenders(options, case)
      if time.time() < options.end
    ]
  yield None
  for pairs in ready.values():
    calls = {}
    for index, (row, program) in enumerate(pairs):
      if row.get("bytes", 0) > options.memory * 2**30:
        row["refused"] = f"needs {row['bytes'] / 2**30:.1f} GiB"
      elif program is not None:
        calls[index] = program.run
    rows = [row for row, _ in pairs]
    _time(rows, calls, options)
    for row in rows:
      print(_speed_line(row), flush=True)
    yield from rows


def _errors_title(options: argparse.Namespace) -> str:
  del options
  return f"relative errors at {_LENGTH} tokens in chunks of {_CHUNK}: y, worst"


def _speed_title(options: argparse.Namespace) -> str:
  return (
    f"per call, batch {options.batch}, {options.length} tokens,"
    f" {options.heads} heads of {options.width} x {options.width}"
  )


def _contenders(options: argparse.Namespace, case: Case) -> Iterator[tuple]:
  """Direction, dtype, precision, form and chunk size of every program."""
  for dtype, precision in _precisions(options):
    for form in _forms(options, case.methods):
      chunked = form not in (*_WHOLE, "auto")
      for chunk in options.chunks if chunked else [None]:
        for direction in ("forward", "gradient"):
          yield direction, dtype, precision, form, chunk


def _compiled(
  case: Case,
  inputs: Any,
  direction: str,
  dtype: str,
  precision: str,
  form: str,
  chunk: int | None,
) -> tuple[dict[str, Any], programs.Program | None]:
  """A row without times, and its program, if there is one."""
  row: dict[str, Any] = {
    "op": case.name,
    "direction": direction,
    "dtype": dtype,
    "precision": precision,
    "form": form,
    "chunk": chunk,
  }
  more = {} if chunk is None else {"chunk_size": chunk}
  op: Callable[..., Any] = functools.partial(case.op, method=form, **more)
  try:
    with _precision(precision):
      function, arguments = programs.directions(op, inputs)[direction]
      program = programs.build(programs.lower(function, *arguments))
  # What a form or a compiler refuses is a row that says why.
  except Exception as error:
    return {**row, "refused": str(error).splitlines()[0][:200]}, None
  row |= {"compile": program.compile_seconds, "bytes": program.temp_bytes}
  return row, program._replace(text="")


def _time(
  rows: Sequence[dict], calls: dict[int, Any], options: argparse.Namespace
) -> None:
  """Writes the median time of every call into its row."""
  for index in list(calls):
    try:
      jax.block_until_ready(calls[index]())
    # Most often the memory is too small; the other programs still run.
    except Exception as error:
      rows[index]["refused"] = str(error).splitlines()[0][:200]
      del calls[index]
  named = {str(index): call for index, call in calls.items()}
  times, slow = measure.interleave(
    named, options.repeats, 3 * options.seconds, options.seconds
  )
  for index, taken in times.items():
    rows[int(index)]["ms"] = 1e3 * float(np.median(taken))
  for index, one in slow.items():
    rows[int(index)]["ms"] = 1e3 * one


def _speed_line(row: dict[str, Any]) -> str:
  chunk = row["chunk"] or ""
  name = (
    f"  {row['op']:34} {row['direction']:8} {row['dtype']:8}"
    f" {row['precision']:8} {row['form']:14} {chunk:>4}"
  )
  if "ms" not in row:
    return f"{name} refused: {row.get('refused')}"
  return (
    f"{name} {row['ms']:9.2f} ms {row['bytes'] / 2**20:9.0f} MiB"
    f" {row['compile']:6.1f} s"
  )


_PARTS = {"errors": _errors, "speed": _speed}
_TITLES = {"errors": _errors_title, "speed": _speed_title}


if __name__ == "__main__":
  sys.exit(main())
