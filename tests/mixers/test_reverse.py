"""Every mixer in reverse is itself on the flipped sequence."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.layers.rotary import advance_positions
from jaxmodels.mixers import MIXERS
from jaxmodels.testing import relative_error
from jaxmodels.testing.examples import MIXERS as CASES
from tests.mixers import slow_but
from tests.mixers.test_mixers import build

LENGTH, WIDTH = 16, 16
ALONG, WHOLE = PartitionSpec(None, "s"), PartitionSpec()
# The state enters at the last token: it goes on in the first row, whatever the
# id is there, and also where that id was there before.
IDS = np.zeros((3, LENGTH), np.int32)
IDS[0, 9:] = 4
IDS[1, [2, 3, 7]] = 5
IDS[2, :15] = np.arange(15) // 4 + 1
# One of each kind of state runs by default.
FAST = (
  "gla",
  "kda",
  "mamba2",
  "retnet",
  "s5",
  "sliding_attention",
  "softmax_attention",
)
CAUSAL = [case for case, record in CASES.items() if record.causal]
# Mixers whose spans do not compose.
NOT_SHARDED = ("ttt_linear",)


def flip(x):
  return np.flip(np.asarray(x), 1)


def prepared(case):
  layer = build(case)
  rng = np.random.default_rng(2)
  x = rng.normal(size=(2, 3, LENGTH, WIDTH)).astype(np.float32)
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x[0])
  params = jax.tree.map(
    lambda p: (0.3 * rng.normal(size=p.shape)).astype(p.dtype), shapes
  )
  return layer, params, *x


def assert_equal(got, wanted):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert relative_error(np.asarray(a), np.asarray(b)) < 2e-5


def test_every_name_has_a_case():
  assert {record.mixer for record in CASES.values()} == set(MIXERS)


@pytest.mark.parametrize(
  "case",
  slow_but(CAUSAL, FAST),
)
def test_reverse_is_the_flip_of_the_flipped_input(case):
  layer, params, before, x = prepared(case)
  forward = jax.jit(layer.apply)
  backward = jax.jit(layer.clone(reverse=True).apply)
  # A state that is not zero, from tokens to the right. All calls have the same
  # arguments: one program for each direction.
  zero, one = layer.init_state(3), np.zeros_like(IDS)
  wanted, state = forward(params, flip(before), zero, segment_ids=one)
  y, reached = backward(params, before, zero, segment_ids=one)
  assert_equal((y, reached), (flip(wanted), state))
  ids = flip(IDS) - IDS[:, -1:]
  wanted, last = forward(params, flip(x), state, segment_ids=ids)
  y, leaving = backward(params, x, state, segment_ids=IDS)
  assert_equal((y, leaving), (flip(wanted), last))
  # The direction matters, or the test would show nothing.
  assert relative_error(y, forward(params, x, state, segment_ids=IDS)[0]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  [
    pytest.param(case, marks=() if case in FAST else pytest.mark.exhaustive)
    for case in CAUSAL
    if case not in NOT_SHARDED
  ],
)
def test_reverse_on_a_sharded_sequence(case):
  layer, params, before, x = prepared(case)
  layer = layer.clone(reverse=True)
  whole = jax.jit(layer.apply)
  _, state = whole(params, before)
  wanted = whole(params, x, state, segment_ids=IDS)
  cut = layer.clone(axis_name="s")

  def run(params, x, state, ids):
    return cut.apply(params, x, state, segment_ids=ids)

  mesh = jax.make_mesh((4,), ("s",), axis_types=(AxisType.Auto,))
  run = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(WHOLE, ALONG, WHOLE, ALONG),
    out_specs=(ALONG, WHOLE),
  )
  assert_equal(jax.jit(run)(params, x, state, IDS), wanted)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_reverse_positions_count_from_the_end_of_each_segment(devices):
  entering = np.array([7, 0, 3], np.int32)
  mesh = jax.make_mesh((devices,), ("s",), axis_types=(AxisType.Auto,))
  for ids in (None, IDS):
    run = jax.shard_map(
      lambda entering, ids: advance_positions(
        entering, LENGTH // devices, ids, "s", reverse=True
      ),
      mesh=mesh,
      in_specs=(WHOLE, ALONG),
      out_specs=(ALONG, WHOLE),
    )
    got = jax.jit(run)(entering, ids)
    flipped = None if ids is None else flip(ids) - ids[:, -1:]
    positions, after = advance_positions(entering, LENGTH, flipped)
    np.testing.assert_array_equal(got[0], flip(positions))
    np.testing.assert_array_equal(got[1], after)
