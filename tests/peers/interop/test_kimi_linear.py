"""Kimi Linear against `KimiLinearForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.hybrids import hybrid
from tests.peers.interop.parity import (
  check_family,
)

pytestmark = pytest.mark.slow

SMALL = {
  "vocab_size": 50,
  "pad_token_id": 0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "num_attention_heads": 3,
  "num_key_value_heads": 3,
  "linear_head_dim": 4,
  "linear_num_heads": 3,
  "layer_types": ["linear_attention", "full_attention"],
  "num_local_experts": 4,
  "num_experts_per_tok": 2,
  "moe_intermediate_size": 8,
  "kv_lora_rank": 8,
  "qk_rope_head_dim": 4,
  "qk_nope_head_dim": 6,
  "v_head_dim": 5,
  "max_position_embeddings": 64,
}
CASES = [
  {},
  {
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "linear_attention", "linear_attention"],
    "mlp_layer_types": ["sparse", "dense", "sparse"],
    "linear_head_dim": 6,
    "linear_num_heads": 2,
    "linear_conv_kernel_dim": 3,
    "q_lora_rank": 7,
    "attention_bias": True,
    "qk_rope_head_dim": 3,
    "num_local_experts": 6,
    "n_group": 3,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.5,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
  },
]


def made(options):
  torch = load("torch")
  model = hybrid("KimiLinear", SMALL | options)
  for name, buffer in model.named_buffers():
    if name.endswith("e_score_correction_bias"):
      buffer.copy_(torch.linspace(-0.5, 0.5, buffer.numel()))
  return model


@pytest.mark.parametrize("options", CASES)
def test_logits_and_bytes(options, tmp_path):
  check_family(made(options), tmp_path)
