"""Zamba against `ZambaForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

OPTIONS = [
  {"num_hidden_layers": 8, "n_mamba_heads": 2},
  {
    "num_hidden_layers": 4,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    "n_mamba_heads": 3,
    "num_key_value_heads": 3,
    "mamba_d_conv": 2,
    "mamba_dt_rank": 5,
    "mamba_proj_bias": True,
    "mamba_conv_bias": False,
    "hidden_act": "silu",
    "hidden_mamba_act": "gelu",
    "attention_head_dim": 10,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False,
  },
  {
    "num_hidden_layers": 3,
    "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
  },
  {
    "num_hidden_layers": 5,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "n_mamba_heads": 1,
    "mamba_expand": 3,
  },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.ZambaConfig(
    **{
      "vocab_size": 47,
      "hidden_size": 24,
      "intermediate_size": 20,
      "mamba_d_state": 5,
      "num_attention_heads": 6,
      "num_key_value_heads": 6,
      "max_position_embeddings": 64,
      **options,
    }
  )
  check_family(transformers.ZambaForCausalLM(config), tmp_path)
