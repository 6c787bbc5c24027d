"""Qwen3.5 and Qwen3-Next against the models of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

SMALL = {
  "vocab_size": 50,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_attention_heads": 3,
  "num_key_value_heads": 1,
  "head_dim": 8,
  "linear_num_key_heads": 2,
  "linear_num_value_heads": 6,
  "linear_key_head_dim": 6,
  "linear_value_head_dim": 4,
}
FULL, LINEAR = "full_attention", "linear_attention"
DENSE = [
  {"layer_types": [LINEAR, FULL], "num_hidden_layers": 2},
  {
    "layer_types": [FULL, LINEAR, LINEAR],
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 3,
    "linear_conv_kernel_dim": 3,
    "attention_bias": True,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "rope_parameters": {
      "rope_type": "yarn",
      "rope_theta": 500.0,
      "factor": 4.0,
      "original_max_position_embeddings": 16,
      "partial_rotary_factor": 1.0,
      "mrope_section": [3, 3, 2],
    },
  },
]


@pytest.mark.parametrize("options", DENSE)
def test_dense_qwen3_5(options, tmp_path):
  transformers = load("transformers")
  config = transformers.Qwen3_5TextConfig(**(SMALL | options))
  check_family(transformers.Qwen3_5ForCausalLM(config), tmp_path)
