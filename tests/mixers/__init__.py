"""Tests of mixers."""

import pytest

# A diagonal decay, groups and a convolution, a complex diagonal without heads.
# The tests that find faults of parts that mixers share, and not of one mixer,
# run by default with these, and with the others where slow tests run.
REPRESENTATIVE = ("gla", "mamba2", "s5")


def slow_but(names, fast=REPRESENTATIVE):
  """Parameters of a test: all names, marked slow unless they are among some."""
  return [
    pytest.param(name, marks=() if name in fast else pytest.mark.slow)
    for name in names
  ]
