"""Soft caps and sinks of attention: every form is the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.ops import attention
from jaxmodels.ops.reference import local

BATCH, LENGTH, HEADS, GROUPS, WIDTH = 2, 12, 4, 2, 3
RNG = np.random.default_rng(0)
Q = 2 * RNG.normal(size=(BATCH, LENGTH, HEADS, WIDTH)).astype(np.float32)
K, V = RNG.normal(size=(2, BATCH, LENGTH, GROUPS, WIDTH)).astype(np.float32)
SINKS = np.float32([-2, 0.5, 0, 3])
IDS = np.repeat([[0, 1, 4]], (2, 5, 5), -1).repeat(BATCH, 0)
FORMS = {"quadratic": None, "chunked": 5, "recurrent": None}


def exact(window, softcap):
  """y and gradients of the definition, in float64."""

  def run(q, k, v, sinks):
    rows = [
      local.attention(q[b], k[b], v[b], window, segment_ids=IDS[b],
                      softcap=softcap, sinks=sinks)[0]
      for b in range(BATCH)
    ]  # fmt: skip
    return jnp.stack(rows)

  with jax.enable_x64(True):
    wide = [jnp.asarray(x, jnp.float64) for x in (Q, K, V, SINKS)]
    return slopes_of(run)(*wide)


def slopes_of(run):
  def loss(*arguments):
    y = run(*arguments)
    return jnp.sum(jnp.sin(y)), y

  return jax.grad(loss, (0, 1, 2, 3), has_aux=True)


def assert_close(got, wanted):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize(
  ("window", "softcap"),
  [(None, 1.5), pytest.param(4, 3, marks=pytest.mark.slow)],
)
def test_values_and_gradients_are_the_definition_s(window, softcap):
  wanted = exact(window, softcap)

  def run(method, q, k, v, sinks):
    return attention(
      q, k, v, window, softcap=softcap, sinks=sinks, segment_ids=IDS,
      method=method, chunk_size=FORMS[method],
    )[0]  # fmt: skip

  @jax.jit
  def forms(*arguments):
    return [slopes_of(functools.partial(run, m))(*arguments) for m in FORMS]

  for got in forms(Q, K, V, SINKS):
    assert_close(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
  "window", [None, pytest.param(3, marks=pytest.mark.slow)]
)
def test_sharded_sequences_and_decoding_have_the_options(window):
  run = functools.partial(attention, window=window, softcap=2, sinks=SINKS)
  wanted, _ = jax.jit(run)(Q, K, V)
  along = PartitionSpec(None, "s")
  mesh = jax.make_mesh((4,), ("s",), axis_types=(AxisType.Auto,))
  cut = jax.shard_map(
    lambda q, k, v: run(q, k, v, axis_name="s")[0],
    mesh=mesh, in_specs=along, out_specs=along,
  )  # fmt: skip
  assert_close(jax.jit(cut)(Q, K, V), wanted)
  first, cache = run(*(x[:, :-1] for x in (Q, K, V)))
  last, _ = run(*(x[:, -1:] for x in (Q, K, V)), initial_state=cache)
  assert_close(np.concatenate([first, last], 1), wanted)


def test_a_sink_takes_its_share_of_the_weights():
  """Far below the scores it changes nothing; far above, y is 0."""
  plain, _ = attention(Q, K, V)
  for score, wanted in ((-100, plain), (100, 0 * plain)):
    y, _ = attention(Q, K, V, sinks=jnp.full((HEADS,), score, jnp.float32))
    np.testing.assert_allclose(y, wanted, atol=1e-6)
  equal, _ = attention(0 * Q, K, V, sinks=jnp.zeros((HEADS,)))
  counts = np.arange(1, LENGTH + 1)[None, :, None, None]
  mean = np.repeat(np.cumsum(V, 1), 2, 2) / (counts + 1)
  np.testing.assert_allclose(equal, mean, atol=1e-5)


def test_wrong_options_are_named():
  with pytest.raises(ValueError, match="softcap must be None or above 0"):
    attention(Q, K, V, softcap=0)
  with pytest.raises(ValueError, match=r"sinks must be \[H\]"):
    attention(Q, K, V, sinks=SINKS[:2])
