"""Tests of mixers."""

import pytest

# A diagonal decay, groups and a convolution, a complex diagonal without heads.
# The tests that find faults of parts that mixers share, and not of one mixer,
# run by default with these, and with the others where all slow tests run.
REPRESENTATIVE = ("gla", "mamba2", "s5")
# One mixer of each kind of state, whose contract is checked by default. That of
# all others is checked by `make test-matrix`.
EACH_STATE = (
  "bilinear_rnn",
  "delta_net",
  "galerkin",
  "gla",
  "mamba",
  "mamba2",
  "mlstm",
  "rwkv7",
  "s5",
  "sliding_attention",
  "softmax_attention",
)
# A mixer for each op that has methods, and for each kind of its decays. Their
# methods are in `make test-matrix`; the tests of ops compare the forms of ops.
EACH_OP = (
  "bilinear_rnn",
  "delta_product",
  "gated_deltanet",
  "gated_slot",
  "gla",
  "kda",
  "linear_attention",
  "linoss",
  "log_linear",
  "mamba",
  "mamba2",
  "mamba3",
  "mesa",
  "mlstm",
  "rg_lru",
  "rwkv4",
  "rwkv6",
  "rwkv7",
  "s4",
  "s5",
  "softmax_attention",
  "ttt_linear",
)
ALL = (pytest.mark.slow, pytest.mark.exhaustive)


def slow_but(names, fast=REPRESENTATIVE):
  """Parameters of a test: all names; `test-all` has those that are not fast."""
  return [
    pytest.param(name, marks=() if name in fast else ALL) for name in names
  ]


def slow_in_matrix(names, fast=EACH_STATE):
  """Parameters of a test: all names; the matrix has those that are not fast."""
  return [
    pytest.param(name, marks=() if name in fast else pytest.mark.slow)
    for name in names
  ]
