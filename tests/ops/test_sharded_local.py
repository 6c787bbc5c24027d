"""Convolution and attention with the sequence cut over a mesh axis.

`jax.vmap` with an axis name runs the same collectives on one device.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops import Cache, attention, causal_convolution

PIECES, LENGTH = 4, 16
IDS = np.array([[0] * 5 + [1] * 6 + [2] * 5, [1] * 3 + [4] * 13])


def draw(*shape):
  rng = np.random.default_rng(sum(shape))
  return rng.normal(size=(2, *shape)).astype(np.float32)


def cut(x):
  """[2, L, ...] to [4, 2, L / 4, ...]."""
  return jnp.moveaxis(
    x.reshape(2, PIECES, LENGTH // PIECES, *x.shape[2:]), 1, 0
  )


def joined(x):
  return jnp.moveaxis(x, 0, 1).reshape(2, LENGTH, *x.shape[3:])


def assert_same(got, wanted, tolerance=2e-6):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [None, IDS], ids=["joined", "packed"])
def test_a_sharded_convolution_is_the_whole_one(reverse, ids):
  x, kernel, state = draw(LENGTH, 3), draw(5, 3)[0], draw(4, 3)

  def whole(x, kernel, state):
    return causal_convolution(
      x, kernel, state, segment_ids=ids, reverse=reverse
    )

  def pieces(x, kernel, state):
    def one(x, ids):
      return causal_convolution(
        x, kernel, state, segment_ids=ids, reverse=reverse, axis_name="s"
      )

    own = None if ids is None else cut(ids)
    y, last = jax.vmap(one, (0, None if ids is None else 0), axis_name="s")(
      cut(x), own
    )
    # Each device has the state of the whole sequence.
    return joined(y), last

  def loss(run):
    def total(*arguments):
      y, last = run(*arguments)
      return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last[:2]))

    return jax.jit(jax.grad(total, (0, 1, 2)))

  y, last = jax.jit(pieces)(x, kernel, state)
  wanted, final = whole(x, kernel, state)
  assert_same((y, last), (wanted, jnp.stack([final] * PIECES)))

  def whole_of_two(x, kernel, state):
    y, last = whole(x, kernel, state)
    return y, jnp.stack([last, last])

  assert_same(
    loss(pieces)(x, kernel, state), loss(whole_of_two)(x, kernel, state), 1e-5
  )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("window", [None, 1, 4, 9])
def test_sharded_attention_is_the_whole_one(reverse, window):
  q, k, v = draw(LENGTH, 4, 3), draw(LENGTH, 2, 3), draw(LENGTH, 2, 5)
  past = 3 if window is None else window - 1
  keys, values = draw(past, 2, 3), draw(past, 2, 5)

  def run(q, k, v, ids, axis_name=None):
    cache = Cache(keys, values, np.ones((2, past), bool))
    return attention(
      q,
      k,
      v,
      window,
      cache,
      segment_ids=ids,
      reverse=reverse,
      axis_name=axis_name,
    )

  @jax.jit
  def pieces(q, k, v):
    y, last = jax.vmap(
      lambda *piece: run(*piece, axis_name="s"), axis_name="s"
    )(*map(cut, (q, k, v)), cut(IDS))
    return joined(y), jax.tree.map(lambda leaf: leaf[1], last)

  def loss(function):
    return jax.jit(
      jax.grad(lambda *a: jnp.sum(jnp.sin(function(*a)[0])), (0, 1, 2))
    )

  assert_same(pieces(q, k, v), run(q, k, v, IDS))
  assert_same(
    loss(pieces)(q, k, v), loss(lambda *a: run(*a, IDS))(q, k, v), 1e-5
  )


def test_pieces_shorter_than_the_tail_are_refused():
  with pytest.raises(ValueError, match="at least W - 1 = 5 tokens"):
    jax.vmap(
      lambda x: causal_convolution(x, draw(6, 3)[0], axis_name="s"),
      axis_name="s",
    )(cut(draw(LENGTH, 3)))


def test_carries_agree_with_the_types_of_shard_map():
  """`shard_map` refuses carries that vary over the mesh less than inputs."""
  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  x, kernel = draw(LENGTH, 3), draw(4, 3)[0]
  q, k, v = draw(LENGTH, 4, 3), draw(LENGTH, 2, 3), draw(LENGTH, 2, 5)

  def local(x, q, k, v):
    windowed = attention(q, k, v, 3, method="chunked", chunk_size=4)[0]
    full = attention(q, k, v, method="recurrent")[0]
    return (
      causal_convolution(x, kernel, method="recurrent")[0],
      windowed,
      full,
    )

  sharded = jax.shard_map(
    local, mesh=mesh, in_specs=(spec,) * 4, out_specs=(spec,) * 3
  )
  assert_same(jax.jit(sharded)(x, q, k, v), local(x, q, k, v))
