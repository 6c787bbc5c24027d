"""Shared transformer blocks: the equation of Zamba2, in a stack and alone."""

import jax
import numpy as np
import pytest

from jaxmodels.mixers import SoftmaxAttention
from jaxmodels.models import Backbone
from jaxmodels.models.shared_block import SharedBlock
from jaxmodels.testing import check_mixer
from jaxmodels.testing.examples.mixers import mamba2, softmax_attention
from jaxmodels.testing.examples.mixers.parts import dense, rms, silu

WIDTH, RANK, BLOCKS = 8, 3, 2
INNER = {"head_width": 4, "state_width": 3}
ATTENTION = {"heads": 4, "kv_heads": 2, "max_length": 32}
X = np.random.default_rng(0).normal(size=(2, 9, WIDTH)).astype(np.float32)


def hybrid(block):
  return SharedBlock(
    WIDTH,
    inner=("mamba2", INNER),
    block=block,
    attention=ATTENTION,
    hidden=5,
    activation="silu",
    use_bias=True,
    adapter_rank=RANK,
    attention_adapters=True,
  )


def stack():
  """Three hybrids, of which the first and the last share a block."""
  return Backbone(
    WIDTH,
    4,
    (hybrid(0), ("mamba2", INNER), hybrid(1), hybrid(0)),
    mlp="none",
    layout=("no_norm", "pre_norm", "no_norm", "no_norm"),
  )


def written(p, shared, x, e, layer):
  """What a hybrid writes to the stream x [L, D], in float64."""

  def adapter(place, name):
    return place[f"{name}_down"]["kernel"] @ place[f"{name}_up"]["kernel"]

  attention = SoftmaxAttention(2 * WIDTH, scale=(4 / 2) ** -0.5, **ATTENTION)
  kernels = {"output": {"kernel": shared["output"]}}
  for name in ("query", "key", "value"):
    kernel = shared[name] + adapter(p["attention"], name)
    kernels[name] = {"kernel": kernel}
  u = rms(np.concatenate([x, e], -1), shared["input_norm"])
  a = softmax_attention.plain(kernels, u, attention)
  a = rms(a, shared["mlp_norm"])
  added = np.split(a @ adapter(p, "mlp"), 2, -1)
  gate, value = (
    a @ shared[f"mlp_{name}"] + shared[f"mlp_{name}_bias"] + more
    for name, more in zip(("gate", "value"), added, strict=True)
  )
  m = silu(gate) * value @ shared["mlp_output"] + shared["mlp_output_bias"]
  inner = rms(x + dense(p["link"], m), p["inner_norm"]["scale"])
  return mamba2.plain(p["inner_mixer"], inner, layer.inner_module())


def test_a_stack_follows_the_equation():
  model = stack()
  shapes = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: np.float32(0.5 * rng.normal(size=leaf.shape)), shapes
  )
  y, _ = jax.jit(model.apply)({"params": params}, X)
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  layers = [hybrid(0), None, hybrid(1), hybrid(0)]
  for row, got in zip(X.astype(np.float64), y, strict=True):
    x = row
    for i, layer in enumerate(layers):
      own = p[f"layer_{i}"]
      if layer is None:
        normed = rms(x, own["mixer_norm"]["scale"])
        plain = hybrid(0).inner_module()
        x = x + mamba2.plain(own["mixer"], normed, plain)
        continue
      start = f"shared_block_{layer.block}_"
      shared = {k.removeprefix(start): v for k, v in p.items()}
      x = x + written(own["mixer"], shared, x, row, layer)
    wanted = rms(x, p["norm"]["scale"])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)


def test_the_stack_holds_each_block_once():
  shapes = jax.eval_shape(stack().init, jax.random.key(0), X)["params"]
  shared = [name for name in shapes if name.startswith("shared_")]
  assert len(shared) == BLOCKS * 12
  own = shapes["layer_0"]["mixer"]
  assert "shared_block_0_query" not in own
  assert own["attention"]["query_down"]["kernel"].shape == (2 * WIDTH, RANK)


@pytest.mark.slow
def test_alone_it_keeps_the_contract_of_mixers():
  check_mixer(hybrid(0), length=12, verbose=False)


def test_a_bias_of_the_attention_is_refused():
  layer = SharedBlock(WIDTH, attention={"qkv_bias": True})
  with pytest.raises(ValueError, match="SharedBlock: attention must have"):
    layer.init_state(1)
