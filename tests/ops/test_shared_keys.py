"""Keys and queries that several heads share: as if they were repeated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxmodels import ops
from jaxmodels.analysis.flops import count
from jaxmodels.testing import FORMS, relative_error
from jaxmodels.testing.cases import SHARDED
from tests.ops import draws

SHARED = ("q", "k", "a", "b")
OPS = {
  "linear_attention": (
    ops.linear_attention,
    draws.linear_attention("key", bonus=True),
  ),
  "delta_rule": (ops.delta_rule, draws.delta_rule("head")),
  "dplr_recurrence": (ops.dplr_recurrence, draws.dplr("head")),
  "normalized_linear_attention": (
    ops.normalized_linear_attention,
    draws.normalized(gates=True),
  ),
}
LENGTH = 11


@functools.cache
def drawn(name, length=LENGTH):
  """Arguments of four heads, of which two share each key head of two."""
  given = OPS[name][1](np.random.default_rng(0), length)
  given = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), given)

  def double(name, x):
    heads = 0 if name == "bonus" else x.shape.index(2, 1)
    return x if name in SHARED else jnp.concatenate([x, x[::-1]], heads)

  state = jax.tree.map(functools.partial(double, ""), given["initial_state"])
  given = {n: double(n, x) for n, x in given.items() if n != "initial_state"}
  return given | {"initial_state": state}


def repeated(given):
  return {
    n: jnp.repeat(x, 2, 2) if n in SHARED else x for n, x in given.items()
  }


def results(op, given, **options):
  """y, the state, and gradients of all arguments."""

  def loss(given):
    y, state = op(**given, **options)
    total = sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves((y, state)))
    return total, (y, state)

  return jax.jit(jax.grad(loss, has_aux=True))(given)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize(
  "method",
  [
    pytest.param(form, marks=[] if form[:5] == "chunk" else pytest.mark.slow)
    for form in FORMS
    if form != SHARDED
  ],
)
def test_shared_keys_are_as_repeated_ones(name, method):
  op, given = OPS[name][0], drawn(name)
  ids = jnp.asarray([[0] * 5 + [1] * 6, [0] * 9 + [1] * 2])
  options = {"method": method, "chunk_size": 4, "segment_ids": ids}
  got = results(op, given, **options)
  wanted = results(lambda **given: op(**repeated(given), **options), given)
  for left, right in zip(
    jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True
  ):
    assert relative_error(left, right) < 2e-5


@pytest.mark.parametrize("name", OPS)
def test_no_sequence_of_repeated_keys_is_in_memory(name):
  """A chunked gradient of 8 heads that share one key head."""
  op, length, heads, width = OPS[name][0], 2048, 8, 32
  shapes = {
    n: jax.ShapeDtypeStruct((1, length, 1, width), jnp.float32)
    for n in drawn(name)
    if n in SHARED
  }
  shapes["v"] = jax.ShapeDtypeStruct((1, length, heads, 2), jnp.float32)
  if name == "delta_rule":
    shapes["beta"] = jax.ShapeDtypeStruct((1, length, heads), jnp.float32)
  if name == "dplr_recurrence":
    shapes["log_decay"] = None

  def bytes_of(op):
    def loss(given):
      return jnp.sum(op(**given, method="chunked")[0] ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def copies(given):
    return {
      n: jnp.repeat(x, heads, 2) if n in SHARED else x for n, x in given.items()
    }

  sequence = 4 * length * heads * width
  shared, whole = bytes_of(op), bytes_of(lambda **given: op(**copies(given)))
  assert shared < whole - sequence


@pytest.mark.parametrize("method", ["chunked", "chunk_parallel"])
def test_scores_of_shared_keys_are_computed_once(method):
  """The forward flops of 8 heads are those of 1, and of 8 with values alone."""
  length, heads, width, size = 256, 8, 32, 64

  def flops(h, H):
    q = k = jax.ShapeDtypeStruct((1, length, h, width), jnp.float32)
    v = jax.ShapeDtypeStruct((1, length, H, width), jnp.float32)
    decay = jax.ShapeDtypeStruct((1, length, H), jnp.float32)

    def run(*given):
      return ops.linear_attention(*given, method=method, chunk_size=size)

    return count(run, q, k, v, decay).products

  scores = 2 * size * width * length
  assert flops(heads, heads) - flops(1, heads) == (heads - 1) * scores


def test_the_number_of_shared_heads_divides_that_of_the_others():
  given = drawn("linear_attention")
  given = given | {
    n: jnp.concatenate([given[n]] * 3, 2)[:, :, :3] for n in "qk"
  }
  words = (
    r"linear_attention: k must be \[..., L, h, K\] where h divides H = 4, got "
    r"shape \(2, 11, 3, 8\)"
  )
  with pytest.raises(ValueError, match=words):
    ops.linear_attention(**given)


def test_a_sharded_sequence_of_shared_keys():
  given = drawn("delta_rule", 16)
  sequence, whole = PartitionSpec(None, "sequence"), PartitionSpec()
  specs = {n: whole if n == "initial_state" else sequence for n in given}
  mesh = Mesh(np.array(jax.devices()[:4]), ("sequence",))
  sharded = jax.shard_map(
    lambda given: ops.delta_rule(**given, axis_name="sequence", chunk_size=4),
    mesh=mesh,
    in_specs=(specs,),
    out_specs=(sequence, whole),
  )
  wanted = ops.delta_rule(**given, method="recurrent")
  for left, right in zip(jax.jit(sharded)(given), wanted, strict=True):
    assert relative_error(left, right) < 2e-5
