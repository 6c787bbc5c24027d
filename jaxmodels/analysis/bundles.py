"""Counts the instruction bundles of the kernels in a TPU program.

The compiler's estimate of cycles (`jaxmodels.analysis.cycles`) leaves Pallas
kernels out. A TPU starts one bundle of instructions per cycle, and the compiler
writes the bundles that it scheduled to a folder, if `flags` are in the
environment before libtpu is loaded. Waits for memory are not in them. How often
a bundle runs follows from the traced kernel: from its grid and its loops. All
branches of a condition count.
"""

import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax

from jaxmodels.analysis.jaxprs import inner_programs

__all__ = ["Call", "Loop", "calls", "flags", "kernel_cycles"]

_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) ([^{]*)\{")


class Loop(NamedTuple):
  """A loop of a kernel.

  Attributes:
    rounds: How often it runs; for the outermost loop, the steps of the grid.
    inner: The loops in its body, in the order of the program.
  """

  rounds: int
  inner: tuple["Loop", ...] = ()


class Call(NamedTuple):
  """A Pallas kernel in a traced program.

  Attributes:
    name: That of the kernel.
    times: How often the program runs it.
    loop: The grid, with the loops of the kernel's body.
    function: The kernel alone, a function of `shapes`.
    shapes: Of its operands.
  """

  name: str
  times: int
  loop: Loop
  function: Callable[..., Any]
  shapes: list[jax.ShapeDtypeStruct]


def flags(folder: str) -> str:
  """The value of LIBTPU_INIT_ARGS that makes libtpu write to a folder."""
  return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"


def calls(function: Callable[..., Any], *arguments: Any) -> list[Call]:
  """Lists the kernels that a function calls when it runs on a TPU.

  The compiler may drop or merge some of them: compare their number with that of
  the compiled program.

  Args:
    function: A function of pytrees of arrays, traced for a TPU.
    *arguments: Arrays or their shapes; no values are needed.
  """
  return list(_calls(jax.make_jaxpr(function)(*arguments).jaxpr, 1))


def _calls(jaxpr: Any, times: int) -> Iterator[Call]:
  for equation in jaxpr.eqns:
    params = equation.params
    if equation.primitive.name != "pallas_call":
      again = times * _rounds(equation)
      for inner in inner_programs(equation):
        yield from _calls(inner, again)
    elif not params["interpret"]:  # That one is for a CPU.
      steps = math.prod(params["grid_mapping"].grid)
      loop = Loop(steps, tuple(_loops(params["jaxpr"])))
      yield Call(params["name"], times, loop, _alone(equation), _in(equation))


def _alone(equation: Any) -> Callable[..., Any]:
  return lambda *given: equation.primitive.bind(*given, **equation.params)


def _in(equation: Any) -> list[jax.ShapeDtypeStruct]:
  avals = (x.aval for x in equation.invars)
  return [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals]


def _loops(jaxpr: Any) -> Iterator[Loop]:
  """The loops of a kernel's body that the compiler keeps as loops."""
  for equation in jaxpr.eqns:
    inner = tuple(x for part in inner_programs(equation) for x in _loops(part))
    rounds = _rounds(equation)
    if equation.primitive.name == "scan":
      rounds //= equation.params["unroll"]
    # The compiler unrolls a single round.
    yield from (Loop(rounds, inner),) if rounds > 1 else inner


def _rounds(equation: Any) -> int:
  """How often an equation runs the programs in it."""
  name = equation.primitive.name
  return equation.params["length"] if name == "scan" else 1


def kernel_cycles(folder: str, name: str, loop: Loop) -> int:
  """Cycles of the kernels of a name, each bundle times its rounds.

  Args:
    folder: That of `flags`, with the files of one program.
    name: The start of the kernels' names.
    loop: The grid of these kernels.

  Raises:
    ValueError: The kernel has other loops, or the folder has no such kernel.
  """
  paths = pathlib.Path(folder).glob(f"*-{name}*final_bundles.txt")
  found = [x.read_text() for x in paths if "schedule" not in x.name]
  if not found:
    raise ValueError(f"no bundles of a kernel {name} in {folder}")
  return sum(_cycles(text.splitlines(), loop) for text in found)


def _cycles(lines: Iterable[str], loop: Loop) -> int:
  """Of one kernel: a bundle in n loops is marked by n angle brackets.

  "LB" marks the first bundle of a loop's body. The scheduler moves bundles of a
  loop behind bundles that are outside, so a loop goes on until the next one of
  the same depth.
  """
  total, times = 0, [1]
  inside = [iter((loop,) if loop.rounds > 1 else loop.inner)]
  for mark in (found[1] for found in map(_BUNDLE.match, lines) if found):
    depth = mark.count(">")
    if "LB" in mark:
      del times[depth:], inside[depth:]
      entered = next(inside[-1], None) if len(inside) == depth else None
      if entered is None:
        raise ValueError(f"a loop in {depth - 1} loops that was not traced")
      times.append(times[-1] * entered.rounds)
      inside.append(iter(entered.inner))
    elif depth >= len(times):
      raise ValueError(f"a bundle in {depth} loops, of which one has no start")
    total += times[depth]
  if any(next(rest, None) for rest in inside):
    raise ValueError("the bundles have fewer loops than the traced kernel")
  return total
