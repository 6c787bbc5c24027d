"""Experts and latent attention are those of public models, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import SparseMoE
from jaxmodels.mixers import LatentAttention
from tests.peers.compare import load
from tests.peers.interop.parity import at_least, error, randomize

pytestmark = pytest.mark.slow
WIDTH, HIDDEN, EXPERTS = 12, 6, 6
X = np.random.default_rng(0).normal(size=(2, 9, WIDTH))
# What remains is rounding.
BOUND = 1e-13


def their_module(family, kind, **options):
  """A module with random weights in float64, and its config."""
  torch = load("torch")
  torch.set_num_threads(1)
  name = f"transformers.models.{family}"
  configs = load(f"{name}.configuration_{family}")
  (make,) = (
    value
    for key, value in vars(configs).items()
    if key.endswith("Config") and value.__module__ == configs.__name__
  )
  config = make(hidden_size=WIDTH, **options)
  config._attn_implementation = "eager"
  module = getattr(load(f"{name}.modeling_{family}"), kind)
  module = module(config, 0) if "Attention" in kind else module(config)
  with torch.no_grad():
    for weight in module.parameters():
      weight.zero_()
    randomize(module, scale=2.0)
    for key, buffer in module.named_buffers():
      if "bias" in key:  # Of the choice of experts.
        buffer.add_(torch.linspace(-0.2, 0.3, len(buffer)))
  return module.double().eval(), config


def weights_of(module):
  return {key: x.numpy().copy() for key, x in module.state_dict().items()}


def dense(w, name):
  """Their linear map `name` as ours."""
  found = {"kernel": w[f"{name}.weight"].T}
  if f"{name}.bias" in w:
    found["bias"] = w[f"{name}.bias"]
  return found


def gated(w, name, names=("gate_proj", "up_proj", "down_proj")):
  return {
    ours: dense(w, f"{name}.{theirs}")
    for ours, theirs in zip(("gate", "value", "output"), names, strict=True)
  }


def experts(w, router="gate", name="experts"):
  """The router and the experts."""
  into = w[f"{name}.gate_up_proj"].swapaxes(1, 2)
  found = {"router": {"kernel": w[f"{router}.weight"].T}}
  found |= zip(("gate", "value"), np.split(into, 2, -1), strict=True)
  return found | {"output": w[f"{name}.down_proj"].swapaxes(1, 2)}


def check(module, params, **options):
  """Asserts that our layer with these parameters equals their module."""
  torch = load("torch")
  with torch.no_grad(), at_least("float64"):
    theirs = module(torch.tensor(X)).numpy()
  with jax.enable_x64(True):
    layer = SparseMoE(
      WIDTH, hidden=HIDDEN, experts=EXPERTS, dtype=jnp.float64,
      param_dtype=jnp.float64, **options,
    )  # fmt: skip
    shapes = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    ours, _ = jax.jit(layer.apply)({"params": params}, X)
  assert error(ours, theirs) < BOUND


@pytest.mark.parametrize("normalize", [True, False])
def test_qwen3_next(normalize):
  module, _ = their_module(
    "qwen3_next", "Qwen3NextSparseMoeBlock", num_experts=EXPERTS,
    num_experts_per_tok=3, moe_intermediate_size=HIDDEN,
    shared_expert_intermediate_size=5, norm_topk_prob=normalize,
  )  # fmt: skip
  w = weights_of(module)
  shared = {
    "shared": gated(w, "shared_expert"),
    "shared_gate": dense(w, "shared_expert_gate"),
  }
  check(
    module, experts(w) | shared, top_k=3, normalize=normalize,
    shared_hidden=5, shared_gate=True,
  )  # fmt: skip


@pytest.mark.parametrize(("groups", "top"), [(1, 1), (3, 2), (2, 1)])
def test_kimi_linear(groups, top):
  module, _ = their_module(
    "kimi_linear", "KimiLinearMoE", num_local_experts=EXPERTS,
    num_experts_per_tok=2, moe_intermediate_size=HIDDEN, n_shared_experts=2,
    n_group=groups, topk_group=top, routed_scaling_factor=2.446,
  )  # fmt: skip
  w = weights_of(module)
  params = experts(w) | {
    "shared": gated(w, "shared_experts"),
    "router_bias": w["gate.e_score_correction_bias"],
  }
  check(
    module, params, router="sigmoid", router_bias=True, routed_scale=2.446,
    groups=groups, top_groups=top, shared_hidden=2 * HIDDEN,
  )  # fmt: skip


@pytest.mark.parametrize("latent", [None, 5])
def test_nemotron_h(latent):
  module, _ = their_module(
    "nemotron_h", "NemotronHMoE", n_routed_experts=EXPERTS,
    num_experts_per_tok=2, moe_intermediate_size=HIDDEN, n_group=3,
    topk_group=2, routed_scaling_factor=1.5, moe_latent_size=latent,
    moe_shared_expert_intermediate_size=7, mlp_bias=True,
  )  # fmt: skip
  w = weights_of(module)
  params = {
    "router": {"kernel": w["gate.weight"].T},
    "router_bias": w["gate.e_score_correction_bias"],
    "input": w["experts.up_proj"].swapaxes(1, 2),
    "output": w["experts.down_proj"].swapaxes(1, 2),
    "shared": {
      "input": dense(w, "shared_experts.up_proj"),
      "output": dense(w, "shared_experts.down_proj"),
    },
  }
  if latent:
    params["latent_input"] = dense(w, "fc1_latent_proj")
    params["latent_output"] = dense(w, "fc2_latent_proj")
  check(
    module, params, router="sigmoid", router_bias=True, routed_scale=1.5,
    groups=3, top_groups=2, gated=False, activation="relu2", latent=latent,
    shared_hidden=7, use_bias=True,
  )  # fmt: skip


def test_granite():
  """A softmax over the chosen logits is the softmax over all, normalized."""
  module, _ = their_module(
    "granitemoehybrid", "GraniteMoeHybridMoE", num_local_experts=EXPERTS,
    num_experts_per_tok=3, intermediate_size=HIDDEN, mamba_n_heads=4,
  )  # fmt: skip
  check(module, experts(weights_of(module), "router"), top_k=3)


def test_jamba():
  module, _ = their_module(
    "jamba", "JambaSparseMoeBlock", num_experts=EXPERTS, num_experts_per_tok=2,
    intermediate_size=HIDDEN,
  )  # fmt: skip
  check(module, experts(weights_of(module), "router"), normalize=False)


def test_minimax():
  module, _ = their_module(
    "minimax", "MiniMaxSparseMoeBlock", num_local_experts=EXPERTS,
    num_experts_per_tok=2, intermediate_size=HIDDEN,
  )  # fmt: skip
  check(module, experts(weights_of(module)))


@pytest.mark.parametrize(("bias", "normalize"), [(True, True), (False, False)])
def test_lfm2_moe(bias, normalize):
  module, _ = their_module(
    "lfm2_moe", "Lfm2MoeSparseMoeBlock", num_experts=EXPERTS,
    num_experts_per_tok=2, moe_intermediate_size=HIDDEN, use_expert_bias=bias,
    norm_topk_prob=normalize, routed_scaling_factor=1.3,
  )  # fmt: skip
  w = weights_of(module)
  params = experts(w)
  if bias:
    params["router_bias"] = w["expert_bias"]
  check(
    module, params, router="sigmoid", router_bias=bias, normalize=normalize,
    normalize_epsilon=1e-6, routed_scale=1.3,
  )  # fmt: skip


def latent_attention(module, config, positions=None):
  """Asserts that latent attention equals theirs, whole and by tokens."""
  torch = load("torch")
  rank, rest = config.kv_lora_rank, config.qk_rope_head_dim
  width, values = config.qk_nope_head_dim, config.v_head_dim
  heads, w = config.num_attention_heads, weights_of(module)
  # Their rotated pairs are channels 2i and 2i + 1, ours i and i + R/2.
  rotary = positions is not None
  order = np.arange(rest)
  if rotary:
    order = order.reshape(-1, 2).T.reshape(-1)
  params = {
    name: dense(w, name)
    for name in ("q_proj", "q_a_proj", "q_b_proj", "kv_b_proj", "o_proj")
    if f"{name}.weight" in w
  }
  for name in ("q_a_layernorm", "kv_a_layernorm"):
    if f"{name}.weight" in w:
      params[name] = {"scale": w[f"{name}.weight"]}
  query = params["q_b_proj" if config.q_lora_rank else "q_proj"]
  kernel = query["kernel"].reshape(-1, heads, width + rest)
  kernel[..., width:] = kernel[..., width:][..., order]
  query["kernel"] = kernel.reshape(-1, heads * (width + rest))
  params["kv_a_proj_with_mqa"] = {
    name: np.concatenate([x[..., :rank], x[..., rank:][..., order]], -1)
    for name, x in dense(w, "kv_a_proj_with_mqa").items()
  }
  mask = np.where(np.tri(X.shape[1], dtype=bool), 0, -np.inf)[None, None]
  given = {} if positions is None else {"position_embeddings": positions}
  with torch.no_grad(), at_least("float64"):
    theirs = module(
      torch.tensor(X), attention_mask=torch.tensor(mask), **given
    )[0].numpy()
  with jax.enable_x64(True):
    layer = LatentAttention(
      WIDTH, heads=heads, rank=rank, query_rank=config.q_lora_rank,
      key_width=width, rotary_width=rest, value_width=values, max_length=9,
      rotary=rotary, bias=config.attention_bias, dtype=jnp.float64,
      param_dtype=jnp.float64,
    )  # fmt: skip
    shapes = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    call, state = jax.jit(layer.apply), layer.init_state(2)
    assert error(call({"params": params}, X)[0], theirs) < BOUND
    for t in range(X.shape[1]):
      y, state = call({"params": params}, X[:, t : t + 1], state)
      assert error(y, theirs[:, t : t + 1]) < 10 * BOUND


@pytest.mark.parametrize("query_rank", [None, 8])
def test_the_latent_attention_of_kimi_linear(query_rank):
  latent_attention(
    *their_module(
      "kimi_linear", "KimiLinearAttention", num_attention_heads=3,
      num_key_value_heads=3,
      kv_lora_rank=10, q_lora_rank=query_rank, qk_nope_head_dim=4,
      qk_rope_head_dim=2, v_head_dim=5, attention_bias=bool(query_rank),
    )
  )  # fmt: skip


@pytest.mark.parametrize("query_rank", [None, 8])
def test_the_latent_attention_of_deepseek_v2(query_rank):
  torch = load("torch")
  module, config = their_module(
    "deepseek_v2", "DeepseekV2Attention", num_attention_heads=2,
    kv_lora_rank=10, q_lora_rank=query_rank, qk_nope_head_dim=6,
    qk_rope_head_dim=4, v_head_dim=3,
  )  # fmt: skip
  angles = np.arange(X.shape[1])[:, None] * 10_000.0 ** -np.array([0, 0.5])
  positions = torch.tensor(np.exp(1j * angles)[None])
  latent_attention(module, config, positions)
