"""Granite 4 against `GraniteMoeHybridForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "options",
  [
    {
      "hidden_size": 24,
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "mamba_n_heads": 6,
      "mamba_n_groups": 2,
      "mamba_d_state": 10,
      "num_local_experts": 0,
      "layer_types": ["mamba", "attention", "mamba"],
      "embedding_multiplier": 12,
      "logits_scaling": 49,
      "residual_multiplier": 0.22,
      "attention_multiplier": 0.0625,
      "tie_word_embeddings": True,
    },
    {
      "hidden_size": 32,
      "num_attention_heads": 2,
      "mamba_n_heads": 3,
      "mamba_expand": 3,
      "mamba_d_conv": 3,
      "mamba_chunk_size": 16,
      "mamba_proj_bias": True,
      "mamba_conv_bias": False,
      "attention_bias": True,
      "position_embedding_type": "rope",
      "num_local_experts": 5,
      "num_experts_per_tok": 2,
      "intermediate_size": 12,
      "rms_norm_eps": 1e-4,
      "hidden_act": "gelu",
      "time_step_limit": (0.6, 0.9),
      "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
      "layer_types": ["full_attention", "linear_attention", "full_attention"],
    },
    {
      "hidden_size": 16,
      "mamba_n_heads": 2,
      "num_local_experts": 3,
      "num_experts_per_tok": 1,
      "intermediate_size": 8,
      "residual_multiplier": 0.5,
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.GraniteMoeHybridConfig(
    vocab_size=50,
    num_hidden_layers=3,
    shared_intermediate_size=20,
    max_position_embeddings=64,
    **options,
  )
  # Its grouped products have no float64.
  config._experts_implementation = "eager"
  check_family(transformers.GraniteMoeHybridForCausalLM(config), tmp_path)
