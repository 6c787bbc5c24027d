"""Counts the kernels that a GPU program launches, from its text.

No GPU is needed. Each instruction outside of a fusion is one launch: a fusion,
a sort, a copy, a collective, or a call of a library. These are not launches:
names for memory that exists already, and the end of what a start has begun. A
call of a library, and a sort with the copy before it, count once, but may be
several kernels. A loop counts by its iterations. All branches of a condition
count, and a loop of unknown length counts once, without its test.
"""

import re

from jaxmodels.analysis.hlo import instructions

_OPCODE = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z0-9-]*)\(")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
# What only names memory, orders, or calls instructions that count themselves.
_FREE = {
  "add-dependency",
  "after-all",
  "async-start",
  "bitcast",
  "call",
  "conditional",
  "constant",
  "get-tuple-element",
  "opt-barrier",
  "parameter",
  "tuple",
  "while",
}


def launches(text: str) -> int:
  """Counts the launches of kernels, copies and libraries by one GPU.

  Args:
    text: Optimised HLO of a program compiled for a GPU.
  """
  # Types, which may be tuples, stand before the opcode.
  run = [
    (found[1], one)
    for one in instructions(_COMMENT.sub("", text))
    if (found := _OPCODE.match(one.line))
  ]
  # What a fusion or a sort does for each element is a part of it.
  inside = {
    name
    for opcode, one in run
    if opcode not in ("call", "async-start")
    for name in _CALLED.findall(one.line)
  }
  return sum(
    one.times
    for opcode, one in run
    if one.computation not in inside
    and opcode not in _FREE
    and not opcode.endswith(("-done", "-update"))
  )
