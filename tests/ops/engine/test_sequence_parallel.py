"""Sharded sequences: the data exchanged, and gradients with and without types.

That every form gives the same numbers sharded is in `test_matrix`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels import ops
from jaxmodels.testing import relative_error
from tests.ops import draws

ALONG, WHOLE = PartitionSpec(None, "s"), PartitionSpec()
LENGTH = 32
IDS = np.cumsum(np.isin(np.arange(LENGTH), [3, 9, 20]))[None].repeat(2, 0)


def sharded(name, devices=4, **options):
  """The op on a sharded sequence, for tokens, state and ids."""
  mesh = jax.make_mesh((devices,), ("s",), axis_types=(AxisType.Auto,))
  op = functools.partial(
    getattr(ops, name), method="chunked", chunk_size=4, axis_name="s"
  )
  return jax.shard_map(
    lambda tokens, state, ids: op(
      **tokens, initial_state=state, segment_ids=ids
    ),
    mesh=mesh,
    in_specs=(ALONG, WHOLE, ALONG),
    out_specs=(ALONG, WHOLE),
    **options,
  )


def draw(name, length=LENGTH):
  drawn = getattr(draws, name)()(np.random.default_rng(0), length)
  tokens = {k: jnp.asarray(x, jnp.float32) for k, x in drawn.items()}
  return tokens, tokens.pop("initial_state")


@pytest.mark.parametrize("name", ["linear_attention", "delta_rule"])
def test_devices_exchange_their_summaries_once_for_any_length(name):
  found = []
  for length in (LENGTH, 4 * LENGTH):
    program = jax.jit(sharded(name)).lower(*draw(name, length), None)
    text = program.compile().as_text()
    found.append(
      re.findall(
        r"= (\S+?)(?:\{\S*)? "
        r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
        r"(?:-start)?\(",
        text,
      )
    )
  # From each of four devices: for 2 rows and 2 heads, an update [8, 6] and a
  # transition.
  transition = 1 if name == "linear_attention" else 8 * 8
  size = 2 * 2 * (8 * 6 + transition)
  assert found == [[(f"f32[4,1,{size}]", "all-gather")]] * 2


@pytest.mark.parametrize("devices", [2, 8])
def test_sharded_runs_equal_the_whole_on_few_and_many_devices(devices):
  tokens, state = draw("linear_attention")
  y, last = jax.jit(sharded("linear_attention", devices))(tokens, state, IDS)
  wanted, final = jax.jit(ops.linear_attention)(
    **tokens, initial_state=state, segment_ids=IDS
  )
  assert relative_error(y, wanted) < 2e-6
  assert relative_error(last, final) < 2e-6


def test_gradients_are_also_right_without_types():
  """With `check_vma=False`, collectives need other gradients."""
  tokens, state = draw("linear_attention")

  def slopes(function):
    def loss(tokens, state):
      y, last = function(tokens, state, IDS)
      return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(last))

    return jax.jit(jax.grad(loss, (0, 1)))(tokens, state)

  got = slopes(sharded("linear_attention", check_vma=False))
  wanted = slopes(
    lambda tokens, state, ids: ops.linear_attention(
      **tokens, initial_state=state, segment_ids=ids
    )
  )
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert relative_error(a, b) < 2e-6


def test_the_default_state_works_inside_shard_map():
  tokens, state = draw("linear_attention")
  y, last = jax.jit(sharded("linear_attention"))(tokens, None, None)
  wanted, final = jax.jit(ops.linear_attention)(**tokens)
  assert relative_error(y, wanted) < 2e-6
  assert last.shape == state.shape and relative_error(last, final) < 2e-6
