"""Counts the instruction bundles of the kernels in a TPU program.

The compiler's estimate of cycles (`jaxmodels.analysis.cycles`) leaves Pallas
kernels out. A TPU starts one bundle of instructions per cycle, and the compiler
writes the bundles that it scheduled to a folder, if `flags` are in the
environment before libtpu is loaded. Waits for memory are not in them.
"""

import collections
import pathlib
import re
from collections.abc import Sequence

__all__ = ["flags", "kernel_cycles"]

_BUNDLE = re.compile(r"^ *(?:0x[0-9a-f]+|0) ([^{]*)\{")


def flags(folder: str) -> str:
  """The value of LIBTPU_INIT_ARGS that makes libtpu write to a folder."""
  return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"


def kernel_cycles(folder: str, name: str, rounds: Sequence[int]) -> int:
  """Cycles of the kernels of a name, each bundle times its rounds.

  Args:
    folder: that of `flags`, with the files of one program.
    name: the start of the kernels' names.
    rounds: how often the loops run that a bundle is in: of the grid, of the
      loop inside it, and so on.
  """
  total = 0
  for path in pathlib.Path(folder).glob(f"*-{name}*final_bundles.txt"):
    if "schedule" not in path.name:
      total += _cycles(path.read_text(), rounds)
  return total


def _cycles(text: str, rounds: Sequence[int]) -> int:
  """Of one kernel: a bundle in n loops is marked by n angle brackets."""
  found = map(_BUNDLE.match, text.splitlines())
  depths = collections.Counter(m[1].count(">") for m in found if m)
  total, times = depths.pop(0, 0), 1
  for depth, round_ in enumerate(rounds, 1):
    times *= round_
    total += times * depths.pop(depth, 0)
  if depths:
    raise ValueError(f"bundles in {max(depths)} loops, not {len(rounds)}")
  return total
