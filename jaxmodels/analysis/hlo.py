"""Reads a compiled program's text: its instructions and how often each runs.

An instruction in the body of a loop counts once per iteration. All branches of
a condition count.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_ROUNDS = re.compile(r'known_trip_count":?\{"n":"?(\d+)')
_CONSTANT = re.compile(r"%?([\w.-]+) = s\d+\[\]\S* constant\((\d+)\)")


class Instruction(NamedTuple):
  """A line of a program.

  Attributes:
    line: The line of text.
    times: How often the program runs it. A loop counts as one iteration if the
      text does not give its number of iterations.
    computation: Name of the computation that contains the line.
  """

  line: str
  times: int
  computation: str


def instructions(text: str) -> Iterator[Instruction]:
  """Lists the instructions that a program runs, from its entry.

  Args:
    text: Optimised HLO of a compiled program.
  """
  bodies = _computations(text)
  entry = next(reversed(bodies))
  for name, lines in bodies.items():
    if lines and lines[0].startswith("ENTRY"):
      entry = name
  yield from _walk(bodies, entry, 1)


def _computations(text: str) -> dict[str, list[str]]:
  """The lines of every computation by name, including its head."""
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
) -> Iterator[Instruction]:
  """The instructions of a computation that runs `times` times, with calls."""
  for line in bodies.get(name, ()):
    yield Instruction(line, times, name)
    loop = _WHILE.search(line)
    if loop:
      rounds = _rounds(line, bodies.get(loop[1], []))
      yield from _walk(bodies, loop[2], times * rounds)
      continue
    branches = _BRANCHES.search(line)
    called = _CALLED.findall(line)
    called += re.findall(r"[\w.-]+", branches[1]) if branches else []
    for inner in called:
      yield from _walk(bodies, inner, times)


def _rounds(line: str, condition: list[str]) -> int:
  """The iterations of a loop: from the text, or from its counter's bound.

  Loops of `lax.scan` count from 0 in steps of 1, so the bound is the number.
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
