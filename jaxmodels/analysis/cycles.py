"""How long a TPU program takes by what its own compiler expects.

Nobody need have a chip: the compiler writes to most of its instructions how
many cycles it expects of them, and schedules by that. It is a model of the
chip, not a clock: waits for copies and for other chips are not in it, nor
kernels and the few instructions that it says nothing of. So it compares two
programs for the same chip, and no more.
"""

import re

from jaxmodels.analysis.hlo import instructions

_EXPECTED = re.compile(r'"estimated_cycles":"(\d+)"')
# What the compiler writes where it cannot tell is beyond any program.
_UNKNOWN = 2**50


def expected_cycles(text: str) -> int:
  """Sums up the cycles that the compiler expects of a program.

  Args:
    text: Of a program compiled for a TPU, optimised HLO with its
      `backend_config`.

  Returns:
    Cycles of one chip, 0 where the text names none.
  """
  total = 0
  for line, times, _ in instructions(text):
    found = _EXPECTED.search(line)
    if found and int(found[1]) < _UNKNOWN:
      total += times * int(found[1])
  return total
