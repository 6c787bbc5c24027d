"""LFM2 with experts against `Lfm2MoeForCausalLM` of transformers."""

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
      "layer_types": ["conv", "conv", "full_attention", "conv", "conv"],
      "hidden_size": 24,
      "num_dense_layers": 2,
      "num_experts": 6,
      "num_experts_per_tok": 3,
    },
    {
      "num_attention_heads": 3,
      "num_key_value_heads": 1,
      "layer_types": ["full_attention", "conv", "full_attention"],
      "hidden_size": 48,
      "conv_bias": True,
      "conv_L_cache": 4,
      "norm_eps": 1e-4,
      "num_dense_layers": 0,
      "num_experts": 4,
      "num_experts_per_tok": 1,
      "use_expert_bias": False,
      "routed_scaling_factor": 1.7,
      "tie_word_embeddings": False,
      "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    {
      "num_attention_heads": 2,
      "num_key_value_heads": 2,
      "layer_types": ["conv", "full_attention"],
      "hidden_size": 16,
      "num_dense_layers": 1,
      "num_experts": 4,
      "num_experts_per_tok": 2,
      "norm_topk_prob": False,
      "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
      },
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  torch = load("torch")
  config = transformers.Lfm2MoeConfig(
    vocab_size=50,
    intermediate_size=44,
    moe_intermediate_size=20,
    num_hidden_layers=len(options["layer_types"]),
    **options,
  )
  config._experts_implementation = "eager"
  theirs = transformers.Lfm2MoeForCausalLM(config)
  for name, buffer in theirs.named_buffers():
    if "expert_bias" in name:
      buffer.add_(torch.linspace(-0.2, 0.2, len(buffer)))
  check_family(theirs, tmp_path)
