"""LFM2 against `Lfm2ForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "options",
  [
    {
      "num_attention_heads": 4,
      "num_key_value_heads": 2,
      "num_hidden_layers": 5,
      "layer_types": ["conv", "conv", "full_attention", "conv", "conv"],
      "hidden_size": 24,
      "block_multiple_of": 8,
    },
    {
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "num_hidden_layers": 4,
      "full_attn_idxs": [1, 3],
      "hidden_size": 48,
      "conv_bias": True,
      "conv_L_cache": 4,
      "norm_eps": 1e-4,
      "block_auto_adjust_ff_dim": False,
      "tie_word_embeddings": False,
      "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    {
      "num_attention_heads": 2,
      "num_key_value_heads": 2,
      "num_hidden_layers": 2,
      "hidden_size": 16,
      "block_ffn_dim_multiplier": 1.3,
      "block_multiple_of": 4,
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.Lfm2Config(
    vocab_size=50, intermediate_size=44, **options
  )
  check_family(transformers.Lfm2ForCausalLM(config), tmp_path)
