"""What devices tell one another in a compiled program: read from its text.

Every collective counts as often as it runs: what stands in the body of a loop
by the rounds of the loop. A compiler for TPUs cuts one that runs beside
computation into pieces, the first of which starts it, and writes a
reduce-scatter as an all-reduce of which each device keeps its part; these
count as the one that they are.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_ROUNDS = re.compile(r'known_trip_count":?\{"n":"?(\d+)')
_CONSTANT = re.compile(r"%?([\w.-]+) = s\d+\[\]\S* constant\((\d+)\)")
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
    One entry for each place in the program. A loop whose rounds the text does
    not tell counts as one round.
  """
  bodies = _computations(text)
  entry = next(reversed(bodies))
  for name, lines in bodies.items():
    if lines and lines[0].startswith("ENTRY"):
      entry = name
  return list(_walk(bodies, entry, 1))


def _computations(text: str) -> dict[str, list[str]]:
  """The lines of every computation, its head among them, by name."""
  bodies: dict[str, list[str]] = {}
  lines: list[str] = []
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      lines = bodies.setdefault(head[1], [])
    lines.append(line)
  return bodies


def _walk(
  bodies: dict[str, list[str]], name: str, times: int
) -> Iterator[Collective]:
  """The collectives of a computation that runs so often, and of its calls."""
  lines = bodies.get(name, ())
  starts = any(_STARTED in line for line in lines)
  for line in lines:
    found = _INSTRUCTION.search(line)
    if found and (starts or _PIECE not in line):
      yield _collective(found, name, line, times)
    loop = _WHILE.search(line)
    if loop:
      rounds = _rounds(line, bodies.get(loop[1], []))
      yield from _walk(bodies, loop[2], times * rounds)
      continue
    if found:
      continue  # What it applies adds two numbers.
    branches = _BRANCHES.search(line)
    called = _CALLED.findall(line)
    called += re.findall(r"[\w.-]+", branches[1]) if branches else []
    for inner in called:
      yield from _walk(bodies, inner, times)


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


def _rounds(line: str, condition: list[str]) -> int:
  """How often a loop runs: as the text says, or as its counter must reach.

  Loops of `lax.scan` count up from 0 by one, so the bound is the number.
  """
  known = _KNOWN_ROUNDS.search(line)
  if known:
    return int(known[1])
  root = next((x for x in condition if x.lstrip().startswith("ROOT")), "")
  if "direction=LT" not in root:
    return 1
  bounds: dict[str, str] = {}
  for one in condition:
    found = _CONSTANT.search(one)
    if found:
      bounds[found[1]] = found[2]
  operands = re.findall(r"%([\w.-]+)", root.split("compare(")[-1])
  return next((int(bounds[name]) for name in operands if name in bounds), 1)
