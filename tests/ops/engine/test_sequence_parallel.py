"""What sharding a sequence costs, and under which types it is right.

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
  """The op over a mesh, for tokens, state and ids."""
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
def test_devices_exchange_their_segments_once_whatever_the_length(name):
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
  # Of four devices, each a batch of 2 and 2 heads of [8, 6] and a transition.
  transition = 1 if name == "linear_attention" else 8 * 8
  size = 2 * 2 * (8 * 6 + transition)
  assert found == [[(f"f32[4,1,{size}]", "all-gather")]] * 2


@pytest.mark.parametrize("devices", [2, 8])
def test_on_few_devices_and_many(devices):
  tokens, state = draw("linear_attention")
  y, last = jax.jit(sharded("linear_attention", devices))(tokens, state, IDS)
  wanted, final = ops.linear_attention(
    **tokens, initial_state=state, segment_ids=IDS
  )
  assert relative_error(y, wanted) < 2e-6
  assert relative_error(last, final) < 2e-6


def test_gradients_also_without_types():
  """With `check_vma=False` other gradients of collectives are right."""
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


def test_the_zero_state_needs_no_placing():
  tokens, state = draw("linear_attention")
  y, last = jax.jit(sharded("linear_attention"))(tokens, None, None)
  wanted, final = ops.linear_attention(**tokens)
  assert relative_error(y, wanted) < 2e-6
  assert last.shape == state.shape and relative_error(last, final) < 2e-6
