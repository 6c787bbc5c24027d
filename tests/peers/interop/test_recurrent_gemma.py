"""RecurrentGemma against `RecurrentGemmaForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "options",
  [
    {"num_attention_heads": 3, "num_hidden_layers": 4, "hidden_size": 24},
    {
      "num_attention_heads": 4,
      "num_key_value_heads": 1,
      "num_hidden_layers": 5,
      "hidden_size": 48,
      "lru_width": 32,
      "conv1d_width": 3,
      "attention_bias": True,
      "attention_window_size": 7,
      "block_types": ["attention", "recurrent"],
      "logits_soft_cap": 2.0,
      "rms_norm_eps": 1e-4,
      "tie_word_embeddings": False,
      "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 500.0,
        "partial_rotary_factor": 1.0,
      },
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.RecurrentGemmaConfig(
    vocab_size=50, intermediate_size=44, **options
  )
  check_family(transformers.RecurrentGemmaForCausalLM(config), tmp_path)
