"""Token shift compared with a loop: values, states and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.token_shift import token_shift

BATCH, LENGTH, WIDTH = 3, 16, 2
# One segment; segments inside and at the edges of four shards; repeated ids.
IDS = np.zeros((BATCH, LENGTH), np.int32)
IDS[1, 3:] = 1
IDS[1, 8:9] = 0
IDS[2] = [-1, 4, 4, 4, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 7]


def draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def by_loop(x, state, ids, reverse):
  """y and the final state, from a float64 loop over tokens."""
  order = range(LENGTH)[::-1] if reverse else range(LENGTH)
  y = np.zeros(x.shape)
  for row in range(BATCH):
    before = state[row]
    id_before = ids[row, -1] if reverse else 0
    for t in order:
      if ids[row, t] == id_before:
        y[row, t] = before
      before, id_before = x[row, t], ids[row, t]
  return y, x[:, 0 if reverse else -1]


def gradients(x, ids, reverse, weights):
  """Gradients of sum(weights * y) by x and the state; y is linear in both."""
  by_x, by_state = np.zeros(x.shape), np.zeros((BATCH, WIDTH))
  for row, t in np.ndindex(BATCH, LENGTH):
    one = np.zeros(x.shape)
    one[row, t] = 1
    y, _ = by_loop(one, np.zeros((BATCH, WIDTH)), ids, reverse)
    by_x[row, t] = (weights * y)[row].sum(0)
  y, _ = by_loop(np.zeros(x.shape), np.ones((BATCH, WIDTH)), ids, reverse)
  by_state[:] = (weights * y).sum(1)
  return by_x, by_state


def results(x, state, ids, weights, **options):
  def loss(x, state):
    y, after = token_shift(x, state, segment_ids=ids, **options)
    total = jnp.sum(weights * y)
    if "axis_name" in options:
      total = jax.lax.psum(total, options["axis_name"])
    return total, (y, after)

  return jax.grad(loss, (0, 1), has_aux=True)(x, state)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("devices", [1, 4, 8])
def test_values_states_and_gradients_equal_those_of_a_loop(reverse, devices):
  x, state = draw(BATCH, LENGTH, WIDTH), draw(BATCH, WIDTH)
  weights = draw(BATCH, LENGTH, WIDTH)[:, ::-1].copy()
  if devices == 1:
    run = jax.jit(lambda *given: results(*given, reverse=reverse))
  else:
    mesh = jax.make_mesh(
      (devices,), ("s",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    along, whole = jax.P(None, "s"), jax.P()
    run = jax.jit(
      jax.shard_map(
        lambda *given: results(*given, reverse=reverse, axis_name="s"),
        mesh=mesh,
        in_specs=(along, whole, along, along),
        out_specs=((along, whole), (along, whole)),
      )
    )
  slopes, (y, after) = run(x, state, IDS, weights)
  wanted_y, wanted_after = by_loop(x, state, IDS, reverse)
  np.testing.assert_array_equal(y, wanted_y.astype(np.float32))
  np.testing.assert_array_equal(after, wanted_after)
  for got, wanted in zip(
    slopes, gradients(x, IDS, reverse, weights), strict=True
  ):
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_one_segment_without_a_state_can_be_cut_anywhere():
  x = draw(1, 4, WIDTH)
  y, after = token_shift(x)
  np.testing.assert_array_equal(y[0, 1:], x[0, :-1])
  np.testing.assert_array_equal(y[0, 0], 0)
  # Cut anywhere and continued, also with an empty piece.
  for cut in range(5):
    first, state = token_shift(x[:, :cut])
    second, last = token_shift(x[:, cut:], state)
    np.testing.assert_array_equal(np.concatenate([first, second], 1), y)
    np.testing.assert_array_equal(last, after)


def test_y_keeps_the_dtype_of_x_and_the_state_is_float32():
  y, state = token_shift(jnp.ones((1, 2, 3), jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  assert state.dtype == jnp.float32


def test_results_stay_sharded_over_explicit_axes():
  mesh = jax.make_mesh((2, 2), ("d", "c"))  # Explicit axes, JAX's default.
  x = draw(2, 4, 2)
  wanted, _ = token_shift(x)
  cut = jax.device_put(x, jax.NamedSharding(mesh, jax.P("d", None, "c")))
  y, state = jax.jit(token_shift)(cut)
  np.testing.assert_array_equal(y, wanted)
  assert jax.typeof(y) == jax.typeof(cut)
  assert jax.typeof(state).sharding.spec == jax.P("d", "c")


def test_the_error_names_a_wrong_argument():
  x = np.zeros((2, 3, 4), np.float32)
  with pytest.raises(ValueError, match=r"token_shift: x must be \[B, L, D\]"):
    token_shift(x[0])
  with pytest.raises(ValueError, match=r"state must be \[B, D\]"):
    token_shift(x, x[:, 0, :2])
  with pytest.raises(ValueError, match="segment_ids must be"):
    token_shift(x, segment_ids=np.zeros((2, 2), np.int32))
