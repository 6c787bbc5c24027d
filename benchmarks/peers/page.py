"""Rows as text, and the page `PEERS.md`."""

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence

import jax

from benchmarks.peers.cases import HARD, HARD_LENGTH
from benchmarks.peers.contest import ALLOWED, OURS, Row

AIM_TIMES, AIM_MEMORY = 3, 1 / 3
# Without them the threads of others' libraries spin, and hold each other up.
SETTINGS = "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY"
PACKAGES = (
  "jax-linear-attention", "deltanet-tpu", "tokamax", "ejkernel", "mamba2-jax",
  "mamba3-jax", "mlstm_kernels", "recurrentgemma", "discretax", "torch",
  "transformers", "fla-core",
)  # fmt: skip


def show(value: float | None, form: str, unit: str = "") -> str:
  """A number, or a dash for none."""
  return "-" if value is None else f"{value:{form}}{unit}"


def mib(row: Row) -> str:
  """The temporary memory in MiB, without the unit."""
  size = row.temporary_bytes
  return show(None if size is None else size / 2**20, ",.1f")


def table(rows: Sequence[Row]) -> str:
  """The rows as text, one line per row."""
  head = (
    f"{'':26}{'error':>7}{'forward':>11}{'ratio':>7}{'cpu':>6}"
    f"{'grad error':>12}{'fwd+bwd':>11}{'ratio':>7}{'cpu':>6}"
    f"{'compile':>9}{'MiB':>9}"
  )
  lines, last = [], None
  for row in rows:
    group = f"{row.case}, batch {row.batch}, length {row.length}"
    if group != last:
      lines += ["", group, head]
      last = group
    lines.append(_line(row))
  return "\n".join(lines)


def _line(row):
  if row.left_out:
    return f"{row.name:26} {row.left_out}"
  ms = [None if t is None else 1e3 * t for t in (row.forward, row.gradient)]
  line = (
    f"{row.name:26}{show(row.output_error, '.0e'):>7}"
    f"{show(ms[0], '.1f', ' ms'):>11}{show(row.forward_ratio, '.2f'):>7}"
    f"{show(row.forward_processor, '.2f'):>6}"
    f"{show(row.gradient_error, '.0e'):>12}"
    f"{show(ms[1], '.1f', ' ms'):>11}{show(row.gradient_ratio, '.2f'):>7}"
    f"{show(row.gradient_processor, '.2f'):>6}"
    f"{show(row.compile, '.1f', ' s'):>9}{mib(row):>9}"
  )
  return f"{line}  {row.no_gradient}" if row.no_gradient else line


def groups(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
  """Our row of each case and length, and those of its peers."""
  for ours in rows:
    if ours.name == OURS:
      key = ours.case, ours.batch, ours.length
      others = [r for r in rows if (r.case, r.batch, r.length) == key]
      yield ours, [row for row in others if row.name != OURS]


def times_faster(row: Row) -> float:
  """How much longer its gradient takes, by the smaller of both ratios."""
  ratios = row.gradient_ratio, row.gradient_processor
  return min(x for x in ratios if x is not None)


def fastest(peers: Sequence[Row]) -> Row | None:
  """The peer whose gradient is fastest, if one was timed."""
  timed = [row for row in peers if row.gradient_ratio is not None]
  return min(timed, key=times_faster, default=None)


def memory_share(ours: Row, other: Row) -> float | None:
  """Our temporary bytes over the other's, where these are known."""
  if ours.temporary_bytes is None or not other.temporary_bytes:
    return None
  return ours.temporary_bytes / other.temporary_bytes


def verdict(ours: Row, other: Row) -> str:
  """Whether the aim is met: a third of the time and of the memory."""
  share = memory_share(ours, other)
  missed = []
  if times_faster(other) < AIM_TIMES:
    missed.append("time")
  if share is not None and share > AIM_MEMORY + 0.005:  # As it is printed.
    missed.append("memory")
  return "missed: " + ", ".join(missed) if missed else "met"


def room(ours: Row, other: Row) -> float | None:
  """The aimed time over the larger limit of ours, if these were measured."""
  if ours.products is None or ours.arrays is None:
    return None
  return times_faster(other) / AIM_TIMES * min(ours.products, ours.arrays)


def page(rows: Sequence[Row], words: str) -> str:
  """The text of `PEERS.md`; `words` are those of the command line."""
  hard = [row for row in rows if row.case in HARD]
  timed = [row for row in rows if row.case not in HARD]
  lines = [*_head(words), *_aims(timed), "", *_behind(rows), ""]
  lines += [*_rows(timed), "", *_left_out(timed)]
  if hard:
    lines += ["", *_errors(hard)]
  return "\n".join(lines) + "\n"


def _head(words):
  found = []
  for name in PACKAGES:
    try:
      found.append(f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
      found.append(f"{name} not installed")
  settings = "; ".join(
    f"{name}: {os.environ.get(name, 'not set')}" for name in SETTINGS
  )
  return [
    "# Against other implementations",
    "",
    f"Written by `python -m benchmarks.peers {words}`.",
    "",
    f"Python {platform.python_version()}, jax {jax.__version__}, "
    f"{os.cpu_count()} cores, float32; {settings}. " + ", ".join(found) + ".",
    "",
    "All programs of a case get the same inputs and cotangents, and run once "
    "per round in one process, in a random order. A peer is timed if its "
    f"results differ from ours by less than {ALLOWED:g}. Ratios are theirs "
    "over ours, medians of the rounds: above 1 we are faster; behind the comma "
    "is the ratio of processor time, which other work on the machine disturbs "
    "less. MiB is the temporary memory of the compiled gradient. Errors are "
    "relative to the definition in float64, token by token (log-linear "
    "attention in chunks): the largest of outputs and final state, and the "
    "largest of the gradients. Heads are 4 of 64x64, or 2 of 128x128 if a case "
    'is "128 wide"; other sizes are in `benchmarks/peers/draws.py`. PyTorch '
    "runs uncompiled.",
    "",
  ]


def _aims(rows):
  """The table of the aim: our gradient against that of the fastest peer."""
  lines = [
    "## The aim: a gradient in a third of the time and memory",
    "",
    "The aim is met if both ratios, of time and of processor time, are at "
    "least 3, and the memory is a third or less. "
    '"products" is the processor time of our gradient over that of its counted '
    "flops at the best rate of matrix products in the same rounds, and "
    '"arrays" over that of reading its inputs and writing its gradients once. '
    '1 is a perfect program. "room" is the aimed time (a third of the fastest '
    "peer's) over the larger of both limits: below 1, no program with these "
    "flops or arrays could meet the aim on this machine.",
    "",
    "| case, length | fastest peer | times faster, processor "
    "| our memory / its | aim | products | arrays | room |",
    "|---|---|---:|---:|---|---:|---:|---:|",
  ]
  for ours, peers in groups(rows):
    other = fastest(peers)
    if other is None or ours.gradient is None or other.gradient_ratio is None:
      lines.append(f"| {ours.case}, {ours.length} | none timed | | | | | | |")
      continue
    lines.append(
      f"| {ours.case}, {ours.length} | {other.name} "
      f"| {other.gradient_ratio:.2f}, {show(other.gradient_processor, '.2f')} "
      f"| {show(memory_share(ours, other), '.2f')} | {verdict(ours, other)} "
      f"| {show(ours.products, '.1f')} | {show(ours.arrays, '.1f')} "
      f"| {show(room(ours, other), '.1f')} |"
    )
  return lines


def _behind(rows):
  """Where a peer is faster than ours, or its error is half of ours or less."""
  lines = ["## Where ours is behind", ""]
  for ours, peers in groups(rows):
    for row in peers:
      told = []
      for part in ("forward", "gradient"):
        times = getattr(row, f"{part}_ratio")
        processor = getattr(row, f"{part}_processor")
        if times is not None and min(times, processor) < 1:
          told.append(
            f"{part} in {times:.2f} of our time, {processor:.2f} of our "
            "processor time"
          )
      for part in ("output", "gradient"):
        own, other = (getattr(r, f"{part}_error") for r in (ours, row))
        if own is not None and other is not None and other < own / 2:
          told.append(f"{part} error {other:.0e} against {own:.0e}")
      share = memory_share(ours, row)
      if share is not None and share > 1.005 and row.gradient_ratio is not None:
        told.append(f"{1 / share:.2f} of our memory")
      if told:
        lines.append(f"- {ours.case}: {row.name}, {'; '.join(told)}.")
  return lines if len(lines) > 2 else [*lines, "Nowhere."]


def _rows(rows):
  lines = [
    "## All rows",
    "",
    "| | forward ms | ratio, processor | gradient ms | ratio, processor | MiB "
    "| compile s | error | gradient error |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
  ]
  for row in rows:
    if row.left_out:
      continue
    name = f"**{row.case}**, ours" if row.name == OURS else row.name
    cells = [name]
    for part in ("forward", "gradient"):
      seconds, times, processor = (
        getattr(row, part + end) for end in ("", "_ratio", "_processor")
      )
      cells.append(show(seconds and 1e3 * seconds, ".1f"))
      both = f"{show(times, '.2f')}, {show(processor, '.2f')}"
      cells.append("" if row.name == OURS or times is None else both)
    cells += [mib(row), show(row.compile, ".1f")]
    cells += [show(row.output_error, ".0e"), show(row.gradient_error, ".0e")]
    lines.append("| " + " | ".join(cells) + " |")
  return lines


def _left_out(rows):
  lines = ["## Not timed", ""]
  for row in rows:
    reason = row.left_out or row.no_gradient
    if reason:
      part = "" if row.left_out else " (the gradient)"
      lines.append(f"- {row.case}, {row.name}{part}: {reason}")
  return lines if len(lines) > 2 else [*lines, "Nothing."]


def _errors(rows):
  lines = [
    f"## Errors with harder inputs, {HARD_LENGTH} tokens",
    "",
    "| | error | gradient error |",
    "|---|---:|---:|",
  ]
  for row in rows:
    name = f"**{row.case}**, ours" if row.name == OURS else row.name
    errors = (
      show(row.output_error, ".0e"),
      show(row.gradient_error, ".0e"),
      row.left_out or row.no_gradient or "",
    )
    lines.append(f"| {name} | {' | '.join(errors[:2])} {errors[2]}|")
  return lines
