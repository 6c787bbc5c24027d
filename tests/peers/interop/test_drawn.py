"""Each family of transformers with sizes, options and seeds that are drawn."""

import math
import pathlib
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

yes_or_no = st.booleans()
epsilon = st.sampled_from([1e-6, 1e-5, 1e-3])
activation = st.sampled_from(["silu", "gelu", "relu"])


def kinds(draw, depth, *names):
  """A kind for each layer."""
  return draw(st.lists(st.sampled_from(names), min_size=depth, max_size=depth))


def heads(draw, least=1, most=4):
  """Query heads, and key heads that divide them."""
  groups = draw(st.integers(least, most))
  return groups * draw(st.integers(1, 3)), groups


def mamba(draw):
  return "Mamba", {
    "hidden_size": draw(st.integers(9, 40)),
    "state_size": draw(st.integers(2, 9)),
    "expand": draw(st.integers(1, 3)),
    "conv_kernel": draw(st.integers(2, 5)),
    "time_step_rank": draw(st.sampled_from(["auto", 1, 5])),
    "use_bias": draw(yes_or_no),
    "use_conv_bias": draw(yes_or_no),
    "hidden_act": draw(activation),
    "layer_norm_epsilon": draw(epsilon),
  }


def falcon_mamba(draw):
  return "FalconMamba", mamba(draw)[1] | {
    "mixer_rms_eps": draw(epsilon),
  }


def mamba2(draw):
  count, groups = heads(draw)
  expand = draw(st.integers(1, 3))
  # num_heads * head_dim = expand * hidden_size.
  size = expand * draw(st.integers(2, 5))
  return "Mamba2", {
    "hidden_size": count * size // expand,
    "expand": expand,
    "num_heads": count,
    "head_dim": size,
    "n_groups": groups,
    "state_size": draw(st.integers(2, 17)),
    "conv_kernel": draw(st.integers(2, 5)),
    "chunk_size": draw(st.sampled_from([8, 16, 64])),
    "use_bias": draw(yes_or_no),
    "use_conv_bias": draw(yes_or_no),
    "layer_norm_epsilon": draw(epsilon),
    "time_step_limit": draw(st.sampled_from([(0.0, float("inf")), (0.5, 0.9)])),
  }


def bamba(draw):
  queries, keys = heads(draw)
  inner = draw(st.integers(2, 6))
  return "Bamba", {
    "hidden_size": 8 * queries,
    "mamba_expand": inner,
    "mamba_n_heads": 2 * inner,
    "mamba_n_groups": draw(st.sampled_from([1, 2])),
    "mamba_d_state": draw(st.integers(2, 17)),
    "mamba_chunk_size": draw(st.sampled_from([8, 64])),
    "mamba_proj_bias": draw(yes_or_no),
    "mamba_conv_bias": draw(yes_or_no),
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "attention_bias": draw(yes_or_no),
    "intermediate_size": draw(st.integers(9, 40)),
    "attn_layer_indices": draw(st.sampled_from([[0], [1], [0, 2]])),
    "hidden_act": draw(activation),
    "rms_norm_eps": draw(epsilon),
  }


def recurrent_gemma(draw):
  queries, keys = heads(draw)
  return "RecurrentGemma", {
    "hidden_size": 8 * queries,
    "lru_width": draw(st.sampled_from([None, 4 * queries, 12 * queries])),
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "conv1d_width": draw(st.integers(2, 5)),
    "attention_window_size": draw(st.sampled_from([3, 16, 64])),
    "block_types": kinds(draw, 3, "recurrent", "attention"),
    "logits_soft_cap": draw(st.sampled_from([1.0, 30.0])),
    "intermediate_size": 2 * draw(st.integers(5, 20)),
    "rms_norm_eps": draw(epsilon),
  }


def lfm2(draw):
  queries, keys = heads(draw)
  return "Lfm2", {
    "hidden_size": 8 * queries,
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "layer_types": kinds(draw, 3, "conv", "full_attention"),
    "conv_L_cache": draw(st.integers(2, 5)),
    "conv_bias": draw(yes_or_no),
    "intermediate_size": draw(st.integers(9, 40)),
    "block_auto_adjust_ff_dim": draw(yes_or_no),
    "block_multiple_of": draw(st.sampled_from([1, 8])),
    "norm_eps": draw(epsilon),
  }


def lfm2_moe(draw):
  queries, keys = heads(draw)
  experts = draw(st.integers(2, 6))
  return "Lfm2Moe", {
    "hidden_size": 8 * queries,
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "layer_types": kinds(draw, 4, "conv", "full_attention"),
    "conv_L_cache": draw(st.integers(2, 5)),
    "conv_bias": draw(yes_or_no),
    "intermediate_size": draw(st.integers(9, 40)),
    "moe_intermediate_size": 4 * draw(st.integers(1, 6)),
    "num_dense_layers": draw(st.integers(0, 4)),
    "num_experts": experts,
    "num_experts_per_tok": draw(st.integers(1, experts)),
    "norm_topk_prob": draw(yes_or_no),
    "use_expert_bias": draw(yes_or_no),
    "routed_scaling_factor": draw(st.sampled_from([1.0, 2.5])),
    "norm_eps": draw(epsilon),
  }


def minimax(draw):
  queries, keys = heads(draw)
  factors = {
    f"{part}_{letter}_factor": draw(st.sampled_from([0.7, 1, 1.4]))
    for part in ("linear_attn", "full_attn", "mlp")
    for letter in ("alpha", "beta")
  }
  experts = draw(st.integers(2, 5))
  return "MiniMax", factors | {
    "hidden_size": 8 * queries,
    "head_dim": draw(st.sampled_from([4, 8, 12])),
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "layer_types": kinds(draw, 3, "linear_attention", "full_attention"),
    "num_local_experts": experts,
    "num_experts_per_tok": draw(st.integers(1, experts)),
    "intermediate_size": draw(st.integers(9, 40)),
    "block_size": draw(st.sampled_from([8, 256])),
    "rms_norm_eps": draw(epsilon),
  }


def jamba(draw):
  queries, keys = heads(draw)
  experts = draw(st.integers(1, 4))
  return "Jamba", {
    "hidden_size": 8 * queries,
    "intermediate_size": draw(st.integers(9, 40)),
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "mamba_d_state": draw(st.integers(2, 9)),
    "mamba_d_conv": draw(st.integers(2, 5)),
    "mamba_expand": draw(st.integers(1, 3)),
    "mamba_dt_rank": draw(st.sampled_from(["auto", 1, 5])),
    "mamba_conv_bias": draw(yes_or_no),
    "mamba_proj_bias": draw(yes_or_no),
    "attn_layer_period": draw(st.integers(1, 3)),
    "attn_layer_offset": 0,
    "expert_layer_period": draw(st.integers(1, 3)),
    "expert_layer_offset": 0,
    "num_experts": experts,
    "num_experts_per_tok": draw(st.integers(1, experts)),
    "rms_norm_eps": draw(epsilon),
  }


def nemotron_h(draw):
  queries, keys = heads(draw)
  count, groups = heads(draw)
  parts = draw(st.integers(1, 2))
  return "NemotronH", {
    "hidden_size": 8 * draw(st.integers(1, 4)),
    "layers_block_type": kinds(
      draw, 3, "linear_attention", "moe", "full_attention", "mlp"
    ),
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "head_dim": draw(st.integers(2, 9)),
    "mamba_num_heads": count,
    "mamba_head_dim": draw(st.integers(1, 9)),
    "n_groups": groups,
    "ssm_state_size": draw(st.integers(1, 9)),
    "conv_kernel": draw(st.integers(2, 5)),
    "use_bias": draw(yes_or_no),
    "use_conv_bias": draw(yes_or_no),
    "mlp_bias": draw(yes_or_no),
    "mlp_hidden_act": draw(st.sampled_from(["relu2", "gelu", "silu"])),
    "intermediate_size": draw(st.integers(9, 40)),
    "time_step_min": draw(st.sampled_from([0.001, 0.4])),
    "n_routed_experts": parts * draw(st.integers(2, 3)),
    "num_experts_per_tok": draw(st.integers(1, 2)),
    "n_group": parts,
    "topk_group": draw(st.integers(1, parts)),
    "norm_topk_prob": draw(yes_or_no),
    "moe_intermediate_size": 8 * draw(st.integers(1, 3)),
    "moe_shared_expert_intermediate_size": draw(st.integers(3, 20)),
    "moe_latent_size": draw(st.sampled_from([None, 8, 16])),
    "layer_norm_epsilon": draw(epsilon),
  }


def zamba2(draw):
  queries, _ = heads(draw)
  count, groups = heads(draw)
  return "Zamba2", {
    "hidden_size": math.lcm(queries, count) * draw(st.integers(1, 2)),
    "layers_block_type": kinds(draw, 3, "linear_attention", "hybrid"),
    # With fewer blocks than hybrids, untied models have adapters without a use.
    "num_mem_blocks": 3,
    "use_shared_attention_adapter": draw(yes_or_no),
    "adapter_rank": draw(st.integers(1, 5)),
    "num_attention_heads": queries,
    "n_mamba_heads": count,
    "mamba_ngroups": groups,
    "mamba_expand": draw(st.integers(1, 3)),
    "mamba_d_state": draw(st.integers(1, 9)),
    "mamba_d_conv": draw(st.integers(2, 5)),
    "add_bias_linear": draw(yes_or_no),
    "use_mem_rope": draw(yes_or_no),
    "hidden_act": draw(activation),
    "intermediate_size": draw(st.sampled_from([None, 13, 20])),
    "time_step_min": draw(st.sampled_from([0.001, 0.4])),
    "rms_norm_eps": draw(epsilon),
  }


def zamba(draw):
  queries, keys = heads(draw)
  return "Zamba", {
    "hidden_size": 6 * queries,
    # The implementation needs two hybrids.
    "layers_block_type": draw(st.permutations(["mamba", "hybrid", "hybrid"])),
    "num_attention_heads": queries,
    "num_key_value_heads": keys,
    "n_mamba_heads": draw(st.integers(1, 3)),
    "mamba_expand": draw(st.integers(1, 3)),
    "mamba_d_state": draw(st.integers(1, 9)),
    "mamba_d_conv": draw(st.integers(2, 5)),
    "mamba_dt_rank": draw(st.sampled_from(["auto", 1, 5])),
    "mamba_conv_bias": draw(yes_or_no),
    "mamba_proj_bias": draw(yes_or_no),
    "hidden_act": draw(activation),
    "hidden_mamba_act": draw(activation),
    "intermediate_size": draw(st.integers(9, 40)),
    "rms_norm_eps": draw(epsilon),
  }


FAMILIES = [
  mamba,
  falcon_mamba,
  mamba2,
  bamba,
  jamba,
  nemotron_h,
  zamba,
  zamba2,
  recurrent_gemma,
  lfm2,
  lfm2_moe,
  minimax,
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
@settings(
  max_examples=3, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(data=st.data())
def test_drawn_models(family, data):
  transformers, torch = load("transformers"), load("torch")
  name, options = family(data.draw)
  depth = len(options.get("layer_types", "123"))
  config = getattr(transformers, f"{name}Config")(
    vocab_size=data.draw(st.integers(20, 60)),
    num_hidden_layers=depth,
    tie_word_embeddings=data.draw(yes_or_no),
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    **options,
  )
  torch.manual_seed(data.draw(st.integers(0, 1000)))
  theirs = getattr(transformers, f"{name}ForCausalLM")(config)
  with tempfile.TemporaryDirectory() as folder:
    check_family(theirs, pathlib.Path(folder))
