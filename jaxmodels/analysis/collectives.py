"""Finds the collectives of a compiled program in its text.

The TPU compiler splits a collective that overlaps with computation into pieces,
and the first piece starts it; the pieces count as one collective. The compiler
writes a reduce-scatter as an all-reduce after which each device keeps its part;
this counts as a reduce-scatter.

The GPU compiler combines collectives of several arrays into one and writes all
of them as a start and an end. The start returns its operands, then its results.
"""

import math
import re
from typing import NamedTuple

from jaxmodels.analysis.hlo import instructions

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

_INSTRUCTION = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_STARTED = 'custom_call_target="AsyncCollectiveStart"'
_PIECE = "async_collective_fusion_config"


class Collective(NamedTuple):
  """An exchange between the devices of a program.

  Attributes:
    kind: One of `KINDS`.
    size: Bytes of the whole arrays that are gathered, reduced or sent.
    times: Runs per step.
    scope: JAX's name of the operation that caused it.
  """

  kind: str
  size: int
  times: int
  scope: str


def collectives(text: str) -> list[Collective]:
  """Lists the collectives of a program.

  Args:
    text: Optimised HLO of a compiled program.

  Returns:
    One entry per place in the program, with the number of its runs.
  """
  run = list(instructions(text))
  starting = {one.computation for one in run if _STARTED in one.line}
  found = []
  for line, times, computation in run:
    one = _INSTRUCTION.search(line)
    if one and (computation in starting or _PIECE not in line):
      found.append(_collective(one, computation, line, times))
  return found


def _collective(
  found: re.Match[str], computation: str, line: str, times: int
) -> Collective:
  result, kind, started = found.groups()
  # The start of an all-reduce returns its results alone.
  is_pair = started and kind != "all-reduce"
  operands, results = _parts(result)[:2] if is_pair else ("", result)
  size = _sum(results)
  if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
    kind = "reduce-scatter"
  elif kind == "reduce-scatter":
    # The result is one device's part.
    size = _sum(operands) if started else size * _group(line)
  scope = re.search(r'op_name="([^"]*)"', line)
  return Collective(kind, size, times, scope[1] if scope else "")


def _parts(tuple_: str) -> list[str]:
  """The members of a tuple of types, which may be tuples."""
  parts, depth = [""], 0
  for letter in tuple_.strip()[1:-1]:
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and not depth:
      parts.append("")
    else:
      parts[-1] += letter
  return parts


def _sum(types: str) -> int:
  """The bytes of all arrays in a type."""
  return sum(_bytes(*array) for array in _ARRAY.findall(types))


def _bytes(letter: str, bits: str, shape: str) -> int:
  width = 8 if letter == "pred" else int(bits or 0)
  return -(-width * math.prod(int(n) for n in shape.split(",") if n) // 8)


def _group(line: str) -> int:
  """The number of devices in one collective."""
  listed = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  if listed:
    return len(listed[1].split(","))
  tiled = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
  if tiled:
    return int(tiled[1])
  meshed = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
  if meshed is None:
    return 1
  sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
  axes = re.findall(r"'(\w+)'", meshed[2])
  return math.prod(int(sizes.get(axis, 1)) for axis in axes)
