"""Peers of `benchmarks.peers` give our results, in a run of every case.

More of them are installed in the environment of `make peers`.
"""

import warnings

import jax
import pytest

from benchmarks.peers.cases import CASES
from benchmarks.peers.contest import measure

pytestmark = pytest.mark.slow
# Its own fault: it changes in place what its backward pass needs.
NO_GRADIENT = {("RWKV-6", "fla-core")}


@pytest.mark.parametrize("name", CASES)
def test_peers_agree(name):
  with (
    warnings.catch_warnings(),
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    warnings.simplefilter("ignore")  # What peers warn of is not ours to mend.
    ours, *rows = measure(name, CASES[name], 1, 128, rounds=1, limit=600.0)
  assert ours.output_error < 2e-5
  assert ours.gradient_error < 2e-5
  missing = [row for row in rows if "not installed" in (row.left_out or "")]
  for row in rows:
    if row not in missing:
      assert row.left_out is None, row
      if (name, row.name) not in NO_GRADIENT:
        assert row.no_gradient is None, row
  if len(missing) == len(rows):
    pytest.skip(f"{missing[0].left_out}; see `make peers` in CONTRIBUTING")
