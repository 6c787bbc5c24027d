"""Ops without segments, with the sequence cut over a mesh axis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.ops import (
  Cache,
  attention,
  bidirectional,
  causal_convolution,
  long_convolution,
)
from jaxmodels.testing import relative_error

LENGTH = 32
ALONG, WHOLE = PartitionSpec(None, "s"), PartitionSpec()
# Documents that end inside a piece, at its edge, and span many.
IDS = np.array(
  [[0] * 5 + [1] * 6 + [2] * 5 + [3] * 16, [1] * 2 + [2] + [4] * 29]
)
# Ids that come back in the next piece, in the same, and as padding.
BACK = np.array(
  [[0] * 8 + [1] * 3 + [0] * 7 + [1] * 14, [0] * 3 + [2] + [0] * 24 + [-1] * 4]
)
IDS_BY_NAME = {"joined": None, "packed": IDS, "back": BACK}


def draw(*shape):
  rng = np.random.default_rng(sum(shape))
  return rng.normal(size=(2, *shape)).astype(np.float32)


def over(devices, function, whole=()):
  """A function of arrays [2, L, ...], with L cut over devices.

  Args:
    devices: of the mesh axis "s".
    function: (*arrays) -> (y, final state, the same on every device).
    whole: places of arguments that every device has whole.
  """
  mesh = jax.make_mesh((devices,), ("s",), axis_types=(AxisType.Auto,))

  def call(*arguments):
    specs = tuple(WHOLE if i in whole else ALONG for i in range(len(arguments)))
    return jax.shard_map(
      function, mesh=mesh, in_specs=specs, out_specs=(ALONG, WHOLE)
    )(*arguments)

  return call


def outcome(function, count):
  """y, the final state and the gradients of the first `count` arguments."""

  @jax.jit
  def evaluate(*arguments):
    def loss(*given):
      y, state = function(*given, *arguments[count:])
      terms = jax.tree.map(
        lambda x: jnp.sum(jnp.sin(x.astype(y.dtype) + 1)), (y, state)
      )
      return sum(jax.tree.leaves(terms)), (y, state)

    return jax.grad(loss, tuple(range(count)), has_aux=True)(*arguments[:count])

  return evaluate


def assert_sharded_is_whole(devices, op, arguments, count, whole=()):
  """`op(*arguments, axis_name)` gives the same cut over devices."""
  got = outcome(
    over(devices, functools.partial(op, axis_name="s"), whole), count
  )
  wanted = outcome(op, count)
  leaves = zip(
    jax.tree.leaves(got(*arguments)),
    jax.tree.leaves(wanted(*arguments)),
    strict=True,
  )
  for a, b in leaves:
    assert relative_error(a, b) < 2e-6


each_number = pytest.mark.parametrize("devices", [2, 4, 8])
each_way = pytest.mark.parametrize("reverse", [False, True])


@pytest.mark.parametrize(
  ("devices", "ids"),
  [
    pytest.param(
      devices,
      ids,
      id=f"{name}-{devices}",
      marks=pytest.mark.slow if name == "back" and devices != 4 else (),
    )
    for devices in (2, 4, 8)
    for name, ids in IDS_BY_NAME.items()
  ],
)
@each_way
def test_a_sharded_convolution_is_the_whole_one(devices, reverse, ids):
  ids = [] if ids is None else [ids]

  def op(x, kernel, state, ids=None, axis_name=None):
    return causal_convolution(
      x, kernel, state, segment_ids=ids, reverse=reverse, axis_name=axis_name
    )

  arguments = draw(LENGTH, 3), draw(4, 3)[0], draw(3, 3), *ids
  assert_sharded_is_whole(devices, op, arguments, 3, whole=(1, 2))


# All keys and values are gathered without a window, and for one that is
# longer than the pieces, which 9 is on four devices; else a tail is passed on.
@pytest.mark.parametrize(
  ("devices", "window", "reverse", "ids"),
  [
    (4, None, False, IDS),
    (8, None, True, IDS),
    (8, 4, False, IDS),
    (2, 4, True, IDS),
    (4, 9, True, IDS),
    (4, 4, True, BACK),
    (4, None, True, BACK),
    *(
      pytest.param(*case, IDS, marks=pytest.mark.slow)
      for case in [
        (2, None, False),
        (2, None, True),
        (4, None, True),
        (8, None, False),
        (4, 1, False),
        (8, 4, True),
        (2, 9, False),
        (4, 9, False),
      ]
    ),
  ],
)
def test_sharded_attention_is_the_whole_one(devices, window, reverse, ids):
  past = 3 if window is None else window - 1
  live = np.ones((2, past), bool)

  def op(q, k, v, keys, values, ids, axis_name=None):
    return attention(
      q,
      k,
      v,
      window,
      Cache(keys, values, live),
      segment_ids=ids,
      reverse=reverse,
      axis_name=axis_name,
    )

  arguments = (
    draw(LENGTH, 4, 3),
    draw(LENGTH, 2, 3),
    draw(LENGTH, 2, 5),
    draw(past, 2, 3),
    draw(past, 2, 5),
    ids,
  )
  assert_sharded_is_whole(devices, op, arguments, 5, whole=(3, 4))


# Devices pass over different tiles, and still wait for one another.
@pytest.mark.parametrize(
  ("devices", "window", "reverse", "ids"),
  [(4, None, False, IDS), (8, 9, True, IDS), (2, None, True, None)],
  ids=["packed", "window", "joined"],
)
def test_sharded_chunks_of_attention_without_a_past_are_the_whole(
  devices, window, reverse, ids
):
  ids = [] if ids is None else [ids]

  def op(q, k, v, ids=None, axis_name=None):
    method = "quadratic" if axis_name is None else "chunked"
    return attention(
      q,
      k,
      v,
      window,
      segment_ids=ids,
      reverse=reverse,
      method=method,
      chunk_size=3,
      axis_name=axis_name,
    )

  arguments = draw(LENGTH, 4, 3), draw(LENGTH, 2, 3), draw(LENGTH, 2, 5), *ids
  assert_sharded_is_whole(devices, op, arguments, 3)


@pytest.mark.parametrize(
  ("devices", "ids"),
  [
    pytest.param(4, IDS, id="packed-4"),
    pytest.param(4, BACK, id="back-4", marks=pytest.mark.slow),
    *(
      pytest.param(n, ids, id=f"{name}-{n}", marks=pytest.mark.slow)
      for n in (2, 4, 8)
      for name, ids in (("joined", None), ("packed", IDS))
      if (n, name) != (4, "packed")
    ),
  ],
)
def test_sharded_bidirectional_attention_is_the_whole_one(devices, ids):
  ids = [] if ids is None else [ids]

  def op(q, k, v, log_decay, ids=None, axis_name=None):
    y = bidirectional(
      q,
      k,
      v,
      log_decay,
      normalize=True,
      segment_ids=ids,
      chunk_size=4,
      axis_name=axis_name,
    )
    return y, ()

  q, k, v = draw(LENGTH, 2, 3), draw(LENGTH, 2, 3), draw(LENGTH, 2, 5)
  log_decay = -np.abs(draw(LENGTH, 2))
  arguments = np.abs(q), np.abs(k), v, log_decay, *ids
  assert_sharded_is_whole(devices, op, arguments, 4)


@each_number
@each_way
def test_a_sharded_long_convolution_is_the_whole_one(devices, reverse):
  def op(x, kernel, axis_name=None):
    return (
      long_convolution(x, kernel, reverse=reverse, axis_name=axis_name),
      (),
    )

  arguments = draw(LENGTH, 3), draw(11, 3)[0]
  assert_sharded_is_whole(devices, op, arguments, 2, whole=(1,))


def test_pieces_shorter_than_the_tail_are_refused():
  x, kernel = draw(LENGTH, 3), draw(6, 3)[0]
  op = functools.partial(causal_convolution, axis_name="s")
  with pytest.raises(ValueError, match="at least W - 1 = 5 tokens"):
    over(8, op, whole=(1,))(x, kernel)


def test_carries_agree_with_the_types_of_shard_map():
  """`shard_map` refuses carries that vary over the mesh less than inputs."""
  mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
  spec = PartitionSpec("data")
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
  got, wanted = jax.jit(sharded)(x, q, k, v), jax.jit(local)(x, q, k, v)
  for a, b in zip(got, wanted, strict=True):
    assert relative_error(a, b) < 2e-6
