"""Finds the collectives of a compiled program in its text.

The TPU compiler splits a collective that overlaps with computation into pieces,
of which the first starts it; the pieces count as one collective. It writes a
reduce-scatter as an all-reduce of which each device keeps its part; this counts
as a reduce-scatter.
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
  """An exchange in a program.

  Attributes:
    kind: One of `KINDS`.
    size: Bytes of the whole array: of what is gathered, reduced, passed on.
    times: How often a step runs it.
    scope: Where the program asks for it, as JAX names the operation.
  """

  kind: str
  size: int
  times: int
  scope: str


def collectives(text: str) -> list[Collective]:
  """Lists the collectives of a program.

  Args:
    text: Of a compiled program, optimised HLO.

  Returns:
    One entry for each place in the program, as often as it runs.
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
  sizes = [_bytes(*array) for array in _ARRAY.findall(result)]
  # Started ones return what goes in beside what comes out.
  size = max(sizes) if started else sum(sizes)
  if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
    kind = "reduce-scatter"
  elif kind == "reduce-scatter":
    size *= _group(line)  # The result is a device's part.
  scope = re.search(r'op_name="([^"]*)"', line)
  return Collective(kind, size, times, scope[1] if scope else "")


def _bytes(letter: str, bits: str, shape: str) -> int:
  width = 8 if letter == "pred" else int(bits or 0)
  return -(-width * math.prod(int(n) for n in shape.split(",") if n) // 8)


def _group(line: str) -> int:
  """How many devices take part in one collective."""
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
