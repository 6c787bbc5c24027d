"""Programs for a TPU that is not there, compiled ahead of time."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import tpu
from jaxmodels import ops
from jaxmodels.analysis import chips
from jaxmodels.ops.engine.platform import trace_for

pytestmark = [
  pytest.mark.tpu_aot,
  pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING),
]
BATCH, HEADS, WIDTH = 2, 4, 64


@pytest.fixture(scope="module")
def chip():
  """One chip of a v5e slice."""
  return tpu.chip()


def temp_bytes(chip, op, length, **options):
  """Temporary memory of the gradient, as compiled."""
  array = jax.ShapeDtypeStruct(
    (BATCH, length, HEADS, WIDTH), jnp.float32, sharding=chip
  )
  gates = jax.ShapeDtypeStruct(array.shape[:3], jnp.float32, sharding=chip)
  arguments = [array] * 3 + [gates] * (2 if op is ops.delta_rule else 1)

  def loss(*arguments):
    y, state = op(*arguments, **options)
    return jnp.sum(y) + jnp.sum(state)

  gradient = jax.grad(loss, argnums=tuple(range(len(arguments))))
  with trace_for("tpu"):
    compiled = jax.jit(gradient).lower(*arguments).compile()
  # A TPU gathers row by row.
  assert " gather(" not in compiled.as_text()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
  ("op", "method"),
  [
    pytest.param(ops.linear_attention, "chunked", marks=pytest.mark.slow),
    (ops.linear_attention, "chunk_parallel"),
    (ops.delta_rule, "chunked"),
    (ops.delta_rule, "pallas"),
    pytest.param(ops.delta_rule, "chunk_parallel", marks=pytest.mark.slow),
  ],
)
def test_chunks_save_the_memory_of_states(chip, op, method):
  length = 2048
  # What token by token keeps for the gradient: one state per token.
  states = 4 * BATCH * length * HEADS * WIDTH**2
  chunked = temp_bytes(chip, op, length, method=method, chunk_size=128)
  assert chunked < states / (2 if method == "chunk_parallel" else 8)
