"""Layers and options of attention equal other people's, weights mapped."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import rotate
from jaxmodels.mixers import GatedSlotAttention, LightningAttention
from jaxmodels.ops import attention
from tests.peers.compare import load

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
WIDTH, HEADS, LENGTH = 16, 2, 37
X = RNG.normal(size=(2, LENGTH, WIDTH)).astype(np.float32)
MODELS = "transformers.models"


def drawn(layer):
  shapes = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]
  return jax.tree.map(
    lambda p: RNG.normal(size=p.shape).astype(np.float32) / 3, shapes
  )


def assert_close(got, wanted, tolerance=2e-5):
  wanted = wanted.detach().numpy()
  scale = np.abs(wanted).max()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("place", [0, 2, 3])
def test_lightning_is_that_of_minimax(place):
  torch = load("torch")
  model = load(f"{MODELS}.minimax.modeling_minimax")
  config = load(f"{MODELS}.minimax.configuration_minimax").MiniMaxConfig(
    hidden_size=WIDTH,
    num_attention_heads=HEADS,
    num_hidden_layers=4,
    head_dim=WIDTH // HEADS,
    block_size=16,
    layer_types=["linear_attention"] * 4,
  )
  layer = LightningAttention(WIDTH, heads=HEADS)
  params = drawn(layer)
  y, _ = layer.apply({"params": params}, X, layer=place, depth=4)
  peer = model.MiniMaxLightningAttention(config, place)
  kernels = {name: p["kernel"] for name, p in params.items() if name != "norm"}
  # Rows of a head are [q, k, v].
  fused = np.stack(
    [
      kernels[name].reshape(WIDTH, HEADS, -1)
      for name in ("query", "key", "value")
    ],
    2,
  )
  weights = {
    "qkv_proj.weight": fused.reshape(WIDTH, -1).T,
    "output_gate.weight": kernels["output_gate"].T,
    "out_proj.weight": kernels["output"].T,
    "norm.weight": params["norm"]["scale"],
  }
  state = {n: torch.tensor(np.ascontiguousarray(w)) for n, w in weights.items()}
  missing = peer.load_state_dict(state, strict=False)
  assert not missing.unexpected_keys
  wanted = peer(torch.tensor(X), None, None)[0]
  assert_close(y, wanted)


def test_gated_slots_are_those_of_fla():
  torch = load("torch")
  naive = load("fla.ops.gsa.naive").naive_recurrent_gsa
  layer = GatedSlotAttention(WIDTH, heads=HEADS, slots=5)
  params = drawn(layer)
  y, state = layer.apply({"params": params}, X)
  heads = {
    name: torch.tensor(X @ params[name]["kernel"]).reshape(2, LENGTH, HEADS, -1)
    for name in ("query", "key", "value", "forget")
  }
  silu = torch.nn.functional.silu
  q, k, v = (silu(heads[name]) for name in ("query", "key", "value"))
  decay = torch.nn.functional.logsigmoid(heads["forget"]) / 8
  out, (keys, values) = naive(
    q, k, v, 1 - decay.exp(), decay, scale=1.0, output_final_state=True
  )
  out = silu(out.reshape(2, LENGTH, WIDTH))
  out = out * torch.rsqrt((out**2).mean(-1, keepdim=True) + 1e-6)
  out = out * torch.tensor(params["norm"]["scale"])
  assert_close(y, out @ torch.tensor(params["output"]["kernel"]))
  assert_close(np.swapaxes(state.keys, 2, 3), keys)
  assert_close(state.values, values)


@pytest.mark.parametrize("model", ["gpt_oss", "gemma2"])
def test_sinks_and_soft_caps_are_those_of_their_models(model):
  torch = load("torch")
  eager = load(f"{MODELS}.{model}.modeling_{model}").eager_attention_forward
  q = 2 * RNG.normal(size=(2, 9, 4, 8)).astype(np.float32)
  k, v = RNG.normal(size=(2, 2, 9, 2, 8)).astype(np.float32)
  sinks = RNG.normal(size=4).astype(np.float32)
  mask = torch.triu(torch.full((9, 9), -torch.inf), 1)[None, None]
  module = types.SimpleNamespace(
    num_key_value_groups=2, sinks=torch.tensor(sinks), training=False,
    head_dim=8,
  )  # fmt: skip
  arrays = (torch.tensor(x).transpose(1, 2) for x in (q, k, v))
  options = {"sinks": sinks} if model == "gpt_oss" else {"softcap": 3.0}
  given = {} if model == "gpt_oss" else options
  wanted, _ = eager(module, *arrays, mask, scaling=8**-0.5, **given)
  for method in ("quadratic", "chunked"):
    y, _ = attention(q / 8**0.5, k, v, **options, method=method, chunk_size=4)
    assert_close(y, wanted)


def test_rotations_for_longer_sequences_are_those_of_llama_3():
  load("torch")
  make = load("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS["llama3"]
  config = load("transformers").LlamaConfig(
    hidden_size=64,
    num_attention_heads=1,
    max_position_embeddings=131072,
    rope_parameters={
      "rope_type": "llama3",
      "rope_theta": 500_000.0,
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192,
    },
  )
  speeds, _ = make(config, "cpu")
  x = np.zeros((1, 1, 1, 64), np.float32)
  x[..., :32] = 1
  y = rotate(
    jnp.asarray(x), jnp.ones((1, 1), jnp.int32), 500_000.0, factor=8.0,
    original_length=8192, turns=(1.0, 4.0),
  )  # fmt: skip
  angles = np.arctan2(y[0, 0, 0, 32:], y[0, 0, 0, :32])
  np.testing.assert_allclose(angles, speeds.numpy(), rtol=2e-5, atol=1e-8)
