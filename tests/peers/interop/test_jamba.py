"""Jamba against `JambaForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

OPTIONS = [
  {
    "num_hidden_layers": 5,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "num_experts": 1,
  },
  {
    "num_hidden_layers": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 0,
    "expert_layer_period": 3,
    "expert_layer_offset": 0,
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "num_key_value_heads": 1,
    "mamba_proj_bias": True,
    "mamba_conv_bias": False,
    "mamba_dt_rank": 5,
    "mamba_d_conv": 2,
    "mamba_expand": 3,
    "tie_word_embeddings": True,
    "hidden_act": "gelu",
    "rms_norm_eps": 1e-3,
  },
  {
    "num_hidden_layers": 3,
    "attn_layer_period": 9,
    "attn_layer_offset": 8,
    "expert_layer_period": 1,
    "expert_layer_offset": 0,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "hidden_size": 15,
  },
  {
    "num_hidden_layers": 2,
    "attn_layer_period": 1,
    "attn_layer_offset": 0,
    "expert_layer_period": 5,
    "expert_layer_offset": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
  },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.JambaConfig(
    **{
      "vocab_size": 47,
      "hidden_size": 24,
      "intermediate_size": 20,
      "mamba_d_state": 5,
      "num_attention_heads": 6,
      "num_key_value_heads": 2,
      "max_position_embeddings": 64,
      **options,
    }
  )
  check_family(transformers.JambaForCausalLM(config), tmp_path)
