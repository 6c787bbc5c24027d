"""Equal to the XLA kernels of ejkernel."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from tests.ops import draws
from tests.peers.compare import check, drawn, jax_peer, load

pytestmark = pytest.mark.slow
KERNELS = "ejkernel.kernels._xla"


def test_linear_attention_key_decay():
  """Outputs alone: its gradient raises, asking a traced array for its truth.

  Its values must be as wide as its keys.
  """
  gla = load(f"{KERNELS}.gla").recurrent_gla

  def peer(q, k, v, log_decay, initial_state):
    return gla(
      q, k, v, log_decay, softmax_scale=1.0, initial_state=initial_state
    )

  inputs = drawn(draws.linear_attention("key"))
  pad = [(0, 0)] * 3 + [(0, draws.KEYS - draws.VALUES)]
  for name in ("v", "initial_state"):
    inputs[name] = np.pad(inputs[name], pad, constant_values=0.5)
  with pytest.raises(jax.errors.TracerBoolConversionError):
    check(ops.linear_attention, jax_peer(peer), inputs)
  peer = jax_peer(peer, gradients=False)
  check(ops.linear_attention, peer, inputs, gradients=False)


def gated_delta_rule(q, k, v, beta, log_decay, initial_state=None, **options):
  """Its chunked and its recurrent form are one function. q is scaled."""
  rule = load(f"{KERNELS}.gated_delta_rule").gated_delta_rule
  return rule(
    q * math.sqrt(q.shape[-1]), k, v, beta, log_decay, chunk_size=32,
    initial_state=initial_state, use_qk_l2norm=False, **options,
  )  # fmt: skip


def test_gated_delta_rule():
  inputs = drawn(draws.delta_rule("head"))
  check(ops.delta_rule, jax_peer(gated_delta_rule), inputs)


@pytest.mark.parametrize("length", [96, 75])
def test_packed_gated_delta_rule(length):
  """Documents in a row, from no state.

  Where L is no multiple of its chunk, its padding counts as one more document
  and its final state is not that of the last token: outputs agree, the state
  does not.
  """
  inputs = drawn(draws.delta_rule("head"), length)
  inputs.pop("initial_state")
  ids = np.repeat(np.arange(3, dtype=np.int32), [7, 43, length - 50])
  ids = jnp.asarray(np.broadcast_to(ids, (2, length)))

  def peer(**inputs):
    return gated_delta_rule(**inputs, seg_ids=ids)

  if length % 32 == 0:
    check(ops.delta_rule, jax_peer(peer), inputs, segment_ids=ids)
    return
  with pytest.raises(AssertionError, match=r"'\[0\]\[1\]'"):
    check(ops.delta_rule, jax_peer(peer), inputs, segment_ids=ids)

  def op(**inputs):
    return ops.delta_rule(**inputs, segment_ids=ids)[0]

  check(op, jax_peer(lambda **inputs: peer(**inputs)[0]), inputs)


def test_dplr():
  rwkv7 = load(f"{KERNELS}.rwkv7").rwkv7

  def peer(q, k, v, a, b, log_decay, initial_state):
    return rwkv7(
      q, log_decay, k, v, a, b, softmax_scale=1.0, initial_state=initial_state
    )

  check(ops.dplr_recurrence, jax_peer(peer), drawn(draws.dplr("key")))


def test_selective_scan():
  scan = load(f"{KERNELS}.state_space_v1").state_space_v1

  def peer(x, dt, A, B, C, D, initial_state):
    return scan(x, A, B, C, D, dt, initial_state=initial_state)[:2]

  check(ops.selective_scan, jax_peer(peer), drawn(draws.selective_scan))


def test_state_space_duality():
  """Mamba-2: linear attention with q = C, k = B, v = dt x, log decay dt A."""
  scan = load(f"{KERNELS}.state_space_v2").state_space_v2

  def peer(q, k, v, log_decay, initial_state):
    heads, dt = v.shape[2], -log_decay
    y, state, _ = scan(
      v / dt[..., None], -jnp.ones(heads), k, q, jnp.zeros(heads), dt,
      initial_state=initial_state.mT, n_groups=heads,
    )  # fmt: skip
    return y.reshape(v.shape), state.mT

  inputs = drawn(draws.linear_attention("head"))
  check(ops.linear_attention, jax_peer(peer), inputs)
