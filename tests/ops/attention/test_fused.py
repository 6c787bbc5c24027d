"""The form of attention for NVIDIA GPUs: when it is taken, and its numbers."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.ops import attention
from jaxmodels.ops.attention import fused
from jaxmodels.ops.attention.fused import attend_fused
from jaxmodels.ops.engine.platform import cudnn_head_width, trace_for

BATCH, LENGTH, HEADS, GROUPS, WIDTH = 2, 40, 4, 2, 8
RNG = np.random.default_rng(0)
Q = RNG.normal(size=(BATCH, LENGTH, HEADS, WIDTH)).astype(np.float32)
K, V = RNG.normal(size=(2, BATCH, LENGTH, GROUPS, WIDTH)).astype(np.float32)
HALF = [x.astype(jnp.bfloat16) for x in (Q, K, V)]
OP = "jaxmodels.ops.attention.attention.attend_fused"


def by_xla(q, k, v, window):
  """What cuDNN computes, by XLA's code, which promotes dtypes."""
  return attend_fused(q, k, v, window, "xla")


def on_a_gpu(limit=256):
  """As if this machine had an NVIDIA GPU."""
  return mock.patch.object(fused, "cudnn_head_width", lambda: limit)


def slopes_of(run):
  def loss(*given):
    y, cache = run(*given)
    return jnp.sum(jnp.sin(y.astype(jnp.float32))), (y, cache)

  return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))


@pytest.mark.parametrize(
  ("window", "reverse"), [(None, False), (7, False), (7, True)]
)
@pytest.mark.parametrize(
  ("dtype", "bound"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)]
)
def test_the_op_has_the_same_numbers_and_cache(window, reverse, dtype, bound):
  """As the other forms; bfloat16 within its rounding, the cache to the bit."""
  given = [x.astype(dtype) for x in (Q, K, V)]

  def run(q, k, v):
    return attention(q, k, v, window, reverse=reverse)

  tiles = slopes_of(run)(*given)
  with (
    mock.patch(OP, side_effect=by_xla) as called,
    mock.patch.object(fused, "HALF", (dtype,)),
    on_a_gpu(),
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    found = slopes_of(lambda *given: run(*given))(*given)
  assert called.call_count == 1
  for a, b in zip(found[1][1], tiles[1][1], strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(
    (*found[0], found[1][0]), (*tiles[0], tiles[1][0]), strict=True
  ):
    assert a.dtype == b.dtype == dtype
    a, b = np.float32(a), np.float32(b)
    np.testing.assert_allclose(a, b, rtol=0, atol=bound * np.abs(b).max())


@pytest.mark.parametrize(
  ("case", "taken"),
  [
    ({}, True),
    ({"window": 7}, True),
    ({"method": "chunked"}, False),
    ({"segment_ids": np.zeros((BATCH, LENGTH), np.int32)}, False),
    ({"softcap": 2.0}, False),
    ({"sinks": np.zeros(HEADS, np.float32)}, False),
    ({"dtype": jnp.float32}, False),
    ({"limit": 4}, False),
    ({"width": 6}, False),
    ({"state": True}, False),
  ],
)
def test_it_is_taken_only_where_it_computes_the_same(case, taken):
  case = dict(case)
  dtype, width = case.pop("dtype", jnp.bfloat16), case.pop("width", WIDTH)
  limit, with_state = case.pop("limit", 256), case.pop("state", False)
  q = jax.ShapeDtypeStruct((BATCH, LENGTH, HEADS, width), dtype)
  k = jax.ShapeDtypeStruct((BATCH, LENGTH, GROUPS, width), dtype)

  def run(q, k, v):
    state = attention(q, k, v, **case)[1] if with_state else None
    return attention(q, k, v, initial_state=state, **case)[0]

  zeros = mock.patch(OP, side_effect=lambda q, k, v, window: jnp.zeros_like(q))
  with zeros as called, on_a_gpu(limit):
    jax.eval_shape(run, q, k, k)
  assert called.call_count == (1 if with_state else taken)


def test_a_program_for_a_gpu_calls_cudnn():
  """Lowered here for CUDA, as if there were a GPU of Hopper with cuDNN 9.10."""
  cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
  half = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in HALF]
  run = slopes_of(lambda q, k, v: attention(q, k, v, 7))
  with (
    on_a_gpu(),
    mock.patch.object(cudnn, "check_cudnn_version", lambda: 91000),
    mock.patch.object(cudnn, "check_compute_capability", lambda _: True),
    mock.patch.object(
      cudnn, "is_cuda_compute_capability_equal", lambda _: False
    ),
  ):
    text = run.trace(*half).lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("__cudnn$fmhaSoftmax(") == 1
  assert text.count("__cudnn$fmhaSoftmaxBackward(") == 1
  assert "sliding_window_length" in text


@pytest.mark.parametrize(
  ("version", "capability", "width"),
  [
    ("cuda 13000", "7.5", 0),
    ("cuda 13000", "8.6", 128),
    ("cuda 13000", "9.0", 256),
    ("cuda 13000", "10.3", 256),
    ("rocm 60300", "gfx942", 0),
  ],
)
def test_the_widest_head_of_a_gpu(version, capability, width):
  gpu = mock.Mock(compute_capability=capability, platform="gpu")
  gpu.client.platform_version = version
  assert cudnn_head_width() == 0  # There is none here.
  with (
    mock.patch.object(jax, "default_backend", lambda: "gpu"),
    mock.patch.object(jax, "local_devices", lambda: [gpu]),
  ):
    assert cudnn_head_width() == width
    with trace_for("cpu"):
      assert cudnn_head_width() == 0
    with jax.default_device(jax.devices("cpu")[0]):
      assert cudnn_head_width() == 0
