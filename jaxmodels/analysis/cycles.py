"""Sums the cycles that the TPU compiler estimates for a program.

No chip is needed: the compiler annotates most instructions with an estimate of
their cycles, and schedules by it. The estimate is a model of the chip, not a
measurement: it excludes waits for copies and for other chips, kernels, and the
few instructions without an estimate. Use it only to compare two programs for
the same chip.
"""

import re

from jaxmodels.analysis.hlo import instructions

_EXPECTED = re.compile(r'"estimated_cycles":"(\d+)"')
# For an unknown count the compiler writes a number above any real one.
_UNKNOWN = 2**50


def expected_cycles(text: str) -> int:
  """Sums the cycles that the compiler estimates for a program.

  Args:
    text: Optimised HLO of a program compiled for a TPU, with its
      `backend_config`.

  Returns:
    Cycles of one chip; 0 if the text has no estimates.
  """
  total = 0
  for line, times, _ in instructions(text):
    found = _EXPECTED.search(line)
    if found and int(found[1]) < _UNKNOWN:
      total += times * int(found[1])
  return total
