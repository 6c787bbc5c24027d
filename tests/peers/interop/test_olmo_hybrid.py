"""OLMo-Hybrid against `OlmoHybridForCausalLM` of transformers."""

import pytest

from tests.peers.interop.hybrids import hybrid
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

SMALL = {
  "vocab_size": 50,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "layer_types": ["linear_attention", "full_attention"],
  "pad_token_id": None,
  "eos_token_id": 2,
}
CASES = [
  {},
  {
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "linear_attention", "full_attention"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 3,
    "linear_allow_neg_eigval": False,
    "linear_conv_kernel_dim": 3,
    "attention_bias": True,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": None},
  },
]


@pytest.mark.parametrize("options", CASES)
def test_logits_and_bytes(options, tmp_path):
  check_family(hybrid("OlmoHybrid", SMALL | options), tmp_path)
