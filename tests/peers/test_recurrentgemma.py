"""Equal to the scans and the RG-LRU of recurrentgemma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import mixers, ops
from tests.ops import draws
from tests.peers.compare import INSTALL, check, drawn, jax_peer, load

pytestmark = pytest.mark.slow
# Its own requirements, NumPy below 2.4, cannot be met beside ours.
APART = f"{INSTALL} && pip install --no-deps -c constraints.txt recurrentgemma"


@pytest.mark.parametrize("scan", ["LINEAR_NATIVE", "ASSOCIATIVE_NATIVE"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("complex_", [False, True])
def test_diagonal(scan, reverse, complex_):
  module = load("recurrentgemma.jax.scan", APART)
  common = load("recurrentgemma.common", APART)
  kind = common.ScanType[scan]

  def peer(a, b, initial_state=None):
    return module.linear_scan(
      b, a, initial_state, reverse=reverse, scan_type=kind
    )

  inputs = drawn(draws.diagonal(complex_))
  if complex_:  # It casts such a state to real numbers.
    inputs.pop("initial_state")
  check(ops.diagonal_recurrence, jax_peer(peer), inputs, reverse=reverse)


def test_rg_lru():
  """The gated unit on packed documents, with its own gates around our op.

  It starts afresh where the position is 0, and does not dampen such an input.
  """
  layers = load("recurrentgemma.jax.layers", APART)
  width, length = 8, 75
  position = np.concatenate([np.arange(n) for n in (7, 43, 25)])[None]
  ids = np.cumsum(position == 0, axis=1)
  unit = layers.RGLRU(width=width, num_heads=2)
  rng = np.random.default_rng(0)
  inputs = {"x": rng.standard_normal((1, length, width))}
  with jax.numpy_rank_promotion("allow"):
    inputs["params"] = unit.init(
      jax.random.key(0), jnp.zeros((1, length, width)), jnp.asarray(position)
    )["params"]

  def gate(params, x):
    blocks = jnp.einsum(
      "blhi,hij->blhj", x.reshape(1, length, 2, -1), params["w"]
    )
    return jax.nn.sigmoid(blocks + params["b"][None, None]).reshape(x.shape)

  def op(x, params, method):
    rate = jax.nn.softplus(params["a_param"])[None, None]
    rate = rate * gate(params["a_gate"], x)
    a = jnp.exp(-8.0 * rate)
    dampened = jnp.where((position > 0)[..., None], jnp.sqrt(1 - a**2), 1.0)
    b = dampened * gate(params["input_gate"], x) * x
    return ops.diagonal_recurrence(a, b, segment_ids=ids, method=method)

  def peer(x, params):
    return unit.apply({"params": params}, x, jnp.asarray(position))

  check(op, jax_peer(peer), inputs)


def test_the_recurrent_block():
  """The whole mixer, with the published block's parameters and packed rows."""
  modules = load("recurrentgemma.jax.modules", APART)
  width, inner, length = 8, 16, 75
  position = np.concatenate([np.arange(n) for n in (7, 43, 25)])[None]
  ids = np.cumsum(position == 0, axis=1) - 1
  block = modules.RecurrentBlock(width, num_heads=2, lru_width=inner)
  rng = np.random.default_rng(0)
  inputs = {"x": rng.standard_normal((1, length, width))}
  with (
    jax.numpy_dtype_promotion("standard"),
    jax.numpy_rank_promotion("allow"),
  ):
    params = block.init(
      jax.random.key(0), jnp.zeros((1, length, width)), jnp.asarray(position)
    )["params"]
  inputs["params"] = jax.tree.map(
    lambda p: p + 0.3 * rng.standard_normal(p.shape), params
  )

  def ours(x, params, method):
    unit, conv = params["rg_lru"], params["conv_1d"]
    mapped = {
      "gate": params["linear_y"],
      "input": params["linear_x"],
      "output": params["linear_out"],
      "convolution": {"kernel": conv["w"], "bias": conv["b"]},
      "Lambda": unit["a_param"],
    }
    for name, gate in ("recurrence_gate", "a_gate"), ("input_gate",) * 2:
      mapped[name] = {"kernel": unit[gate]["w"], "bias": unit[gate]["b"]}
    layer = mixers.RGLRU(
      width, heads=2, lru_width=inner, method=method, dtype=x.dtype
    )
    y, state = layer.apply({"params": mapped}, x, segment_ids=ids)
    return y, (state.convolution_state, state.state)

  def peer(x, params):
    y, cache = block.apply({"params": params}, x, jnp.asarray(position))
    return y, (cache.conv1d_state, cache.rg_lru_state)

  check(ours, jax_peer(peer), inputs)
