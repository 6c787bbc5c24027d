"""Nemotron-H against `NemotronHForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

OPTIONS = [
  {
    "hybrid_override_pattern": "M-M*-",
    "num_key_value_heads": 3,
    "mlp_bias": True,
    "tie_word_embeddings": False,
  },
  {
    "layers_block_type": ["moe", "attention", "mamba", "moe"],
    "n_groups": 3,
    "use_bias": True,
    "use_conv_bias": False,
    "conv_kernel": 2,
    "mamba_hidden_act": "gelu",
    "mlp_hidden_act": "silu",
    "time_step_min": 0.3,
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "layer_norm_epsilon": 1e-3,
    "tie_word_embeddings": True,
  },
  {
    "layers_block_type": ["linear_attention", "moe", "full_attention"],
    "moe_latent_size": 12,
    "mlp_bias": True,
    "norm_topk_prob": False,
    "num_experts_per_tok": 1,
    "head_dim": 5,
    "mamba_head_dim": 16,
    "chunk_size": 16,
  },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.NemotronHConfig(
    **{
      "vocab_size": 47,
      "hidden_size": 24,
      "intermediate_size": 20,
      "ssm_state_size": 4,
      "mamba_num_heads": 6,
      "mamba_head_dim": 4,
      "n_groups": 2,
      "num_attention_heads": 6,
      "num_key_value_heads": 2,
      "head_dim": 8,
      "max_position_embeddings": 64,
      "n_routed_experts": 4,
      "moe_intermediate_size": 16,
      "moe_shared_expert_intermediate_size": 12,
      **options,
    }
  )
  check_family(transformers.NemotronHForCausalLM(config), tmp_path)
