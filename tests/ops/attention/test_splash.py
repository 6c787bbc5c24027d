"""The form of attention for TPUs: when it is taken, and its numbers."""

import contextlib
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks import tpu
from jaxmodels.analysis import chips
from jaxmodels.ops import attention
from jaxmodels.ops.attention import splash
from jaxmodels.ops.attention.splash import attend_splash
from jaxmodels.ops.engine.platform import trace_for
from tests.ops.attention.test_fused import slopes_of

BATCH, LENGTH, HEADS, GROUPS, WIDTH = 2, 150, 4, 2, 16
RNG = np.random.default_rng(0)
Q = RNG.normal(size=(BATCH, LENGTH, HEADS, WIDTH)).astype(np.float32)
K, V = RNG.normal(size=(2, BATCH, LENGTH, GROUPS, WIDTH)).astype(np.float32)
# An id that comes back is a new segment.
IDS = np.repeat(np.array([[0, 1, 0], [4, 4, 5]], np.int32), 50, 1)
OP = "jaxmodels.ops.attention.attention.attend_splash"
interpreted = functools.partial(attend_splash, interpret=True)


@contextlib.contextmanager
def on_a_tpu(dtype=jnp.float32, devices=1):
  """As if a TPU of some devices took this dtype and short sequences."""
  with (
    trace_for("tpu"),
    mock.patch.object(splash, "TILES", (128,)),
    mock.patch.object(splash, "DTYPE", dtype),
    mock.patch.object(jax, "device_count", lambda: devices),
    mock.patch(OP, side_effect=interpreted) as called,
  ):
    yield called


def relative(found, wanted):
  found, wanted = np.float64(found), np.float64(wanted)
  return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize(
  ("window", "ids", "softcap", "reverse"),
  [
    (None, None, None, False),
    pytest.param(7, IDS, 3.0, True, marks=pytest.mark.slow),
    pytest.param(20, None, None, False, marks=pytest.mark.slow),
    pytest.param(None, IDS, None, True, marks=pytest.mark.slow),
  ],
)
def test_the_op_has_the_same_numbers_and_cache(window, ids, softcap, reverse):
  def run(method, q, k, v):
    return attention(
      *(q, k, v, window),
      softcap=softcap,
      segment_ids=ids,
      reverse=reverse,
      method=method,
    )

  wanted = slopes_of(functools.partial(run, "quadratic"))(Q, K, V)
  with on_a_tpu() as called:
    found = slopes_of(functools.partial(run, "auto"))(Q, K, V)
  assert called.call_count == 1
  for a, b in zip(found[1][1], wanted[1][1], strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(
    (*found[0], found[1][0]), (*wanted[0], wanted[1][0]), strict=True
  ):
    assert relative(a, b) < 2e-5


@pytest.mark.parametrize(
  ("dtype", "devices", "options"),
  [
    (jnp.bfloat16, 1, {}),
    (jnp.float32, 8, {}),
    (jnp.float32, 1, {"sinks": np.zeros(HEADS, np.float32)}),
    (jnp.float32, 1, {"method": "chunked"}),
    (jnp.float32, 1, {"initial_state": True}),
  ],
)
def test_other_dtypes_and_options_and_an_unknown_mesh_stay(
  dtype, devices, options
):
  if "initial_state" in options:
    _, cache = jax.eval_shape(attention, Q, K, V)
    cache = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), cache)
    options = {"initial_state": cache}
  with on_a_tpu(dtype, devices) as called:
    jax.eval_shape(lambda *given: attention(*given, **options), Q, K, V)
  assert not called.called


def test_a_short_sequence_stays():
  with on_a_tpu() as called:
    short = (x[:, :127] for x in (Q, K, V))
    jax.eval_shape(lambda *given: attention(*given), *short)
  assert not called.called


@pytest.mark.slow
def test_devices_share_the_rows():
  mesh = jax.make_mesh((2, 4), ("data", "other"), (AxisType.Auto,) * 2)
  rows = NamedSharding(mesh, PartitionSpec("data"))
  given = [jax.device_put(np.tile(x, (3, 1, 1, 1)), rows) for x in (Q, K, V)]

  def run(*given):
    return attention(*given)[0]

  wanted = jax.jit(run)(*given)
  with on_a_tpu(devices=8), jax.set_mesh(mesh):
    compiled = jax.jit(lambda *given: run(*given)).lower(*given).compile()
  found = compiled(*given)
  # Six rows on two devices; "other" does not divide three.
  assert found.sharding.spec == PartitionSpec("data")
  assert "all-gather" not in compiled.as_text()
  assert relative(found, wanted) < 2e-5


@pytest.mark.slow
@pytest.mark.tpu_aot
@pytest.mark.skipif(not chips.is_there(), reason=chips.MISSING)
@pytest.mark.parametrize("window", [None, 256])
def test_the_gradient_on_a_tpu_stores_no_scores(window):
  array = jax.ShapeDtypeStruct(
    (2, 2048, 4, 64), jnp.bfloat16, sharding=tpu.chip()
  )

  def loss(*given):
    return jnp.sum(attention(*given, window)[0] ** 2)

  with trace_for("tpu"), mock.patch.object(jax, "device_count", lambda: 1):
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    compiled = gradient.lower(array, array, array).compile()
  assert "tpu_custom_call" in compiled.as_text()
  memory = compiled.memory_analysis().temp_size_in_bytes
  assert memory < array.size * array.dtype.itemsize
