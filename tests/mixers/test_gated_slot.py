"""Gated slot attention: what its slots hold."""

import jax
import numpy as np

from jaxmodels.mixers import GatedSlotAttention
from jaxmodels.testing.examples.mixers.parts import rms, silu

X = np.random.default_rng(0).normal(size=(1, 6, 8)).astype(np.float32)
LAYER = GatedSlotAttention(8, heads=2, slots=3)


def drawn(forget):
  params = jax.jit(LAYER.init)(jax.random.key(0), X)["params"]
  kernel = 0 * params["forget"]["kernel"]
  # x has a channel of ones, so the kernel has a row that acts as a bias.
  kernel = kernel.at[0].set(forget)
  return {**params, "forget": {"kernel": kernel}}, X.copy()


def test_slots_that_forget_hold_the_last_token():
  """Decays of 0: all slots are k_t and v_t, whatever the softmax."""
  params, x = drawn(-1000.0)
  x[..., 0] = 1
  y, state = jax.jit(LAYER.apply)({"params": params}, x)
  v = silu(silu(x.astype(np.float64) @ params["value"]["kernel"]))
  wanted = rms(v, 1) @ params["output"]["kernel"]
  np.testing.assert_allclose(y, wanted, atol=1e-4)
  last = silu(x[0, -1] @ params["key"]["kernel"]).reshape(2, 1, 4)
  np.testing.assert_allclose(
    state.keys[0], np.broadcast_to(last, (2, 3, 4)), atol=1e-5
  )


def test_slots_that_keep_are_not_written():
  """Decays of 1: the state stays, and gradients stay finite."""
  params, x = drawn(1000.0)
  x[..., 0] = 1
  rng = np.random.default_rng(1)
  state = jax.tree.map(
    lambda s: rng.normal(size=s.shape).astype(s.dtype), LAYER.init_state(1)
  )

  def total(params, state):
    y, last = LAYER.apply({"params": params}, x, state)
    return (y**2).sum(), last

  slopes, last = jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, state)
  for got, wanted in zip(last, state, strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-6)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
