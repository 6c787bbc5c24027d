"""Bamba against `BambaForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "options",
  [
    {
      "hidden_size": 24,
      "attn_layer_indices": [1],
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "mamba_n_heads": 6,
      "mamba_n_groups": 2,
      "mamba_d_state": 10,
    },
    {
      "hidden_size": 32,
      "attn_layer_indices": [0, 2],
      "num_attention_heads": 2,
      "num_key_value_heads": 2,
      "mamba_n_heads": 3,
      "mamba_expand": 3,
      "mamba_d_conv": 3,
      "mamba_chunk_size": 16,
      "mamba_proj_bias": True,
      "mamba_conv_bias": False,
      "attention_bias": True,
      "mlp_bias": True,
      "hidden_act": "gelu",
      "tie_word_embeddings": True,
      "rms_norm_eps": 1e-4,
      "time_step_limit": (0.6, 0.9),
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
    },
    {"hidden_size": 24, "mamba_n_heads": 6, "attn_layer_indices": None},
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.BambaConfig(
    vocab_size=50,
    num_hidden_layers=3,
    intermediate_size=20,
    max_position_embeddings=64,
    **options,
  )
  check_family(transformers.BambaForCausalLM(config), tmp_path)
