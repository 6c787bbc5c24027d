"""MiniMax against `MiniMaxForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

LINEAR = "linear_attention"


@pytest.mark.parametrize(
  "options",
  [
    {
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "num_hidden_layers": 3,
      "hidden_size": 24,
      "block_size": 8,
    },
    {
      "num_attention_heads": 2,
      "num_key_value_heads": 2,
      "num_hidden_layers": 4,
      "hidden_size": 16,
      "head_dim": 12,
      "layer_types": [LINEAR, LINEAR, "full_attention", LINEAR],
      "num_experts_per_tok": 1,
      "num_local_experts": 5,
      "rms_norm_eps": 1e-4,
      "sliding_window": 9,
      "tie_word_embeddings": True,
      "linear_attn_alpha_factor": 1.5,
      "linear_attn_beta_factor": 0.7,
      "full_attn_alpha_factor": 0.9,
      "full_attn_beta_factor": 1.2,
      "mlp_alpha_factor": 1.3,
      "mlp_beta_factor": 0.8,
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  options = {"num_local_experts": 3} | options
  config = transformers.MiniMaxConfig(
    vocab_size=50, intermediate_size=9, **options
  )
  # The other implementation has no products in float64.
  config._experts_implementation = "eager"
  check_family(transformers.MiniMaxForCausalLM(config), tmp_path)
