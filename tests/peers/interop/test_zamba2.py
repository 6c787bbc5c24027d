"""Zamba2 against `Zamba2ForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

OPTIONS = [
  {
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "hybrid"],
    "num_mem_blocks": 2,
    "n_mamba_heads": 4,
    "mamba_ngroups": 2,
    "use_shared_attention_adapter": True,
    "use_mem_rope": True,
  },
  {
    "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
    "n_mamba_heads": 3,
    "mamba_expand": 3,
    "mamba_d_conv": 2,
    "hidden_act": "silu",
    "intermediate_size": 31,
    "time_step_min": 0.3,
    "rms_norm_eps": 1e-3,
    "use_long_context": True,
    "tie_word_embeddings": False,
  },
  {
    "layers_block_type": ["hybrid", "hybrid", "hybrid", "hybrid"],
    "num_mem_blocks": 3,
    "n_mamba_heads": 8,
    "adapter_rank": 1,
    "use_mem_rope": True,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 500, "factor": 2},
    "chunk_size": 16,
    "add_bias_linear": True,
  },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.Zamba2Config(
    **{
      "vocab_size": 47,
      "hidden_size": 24,
      "mamba_d_state": 5,
      "adapter_rank": 4,
      "num_attention_heads": 6,
      "num_hidden_layers": len(options["layers_block_type"]),
      **options,
    }
  )
  check_family(transformers.Zamba2ForCausalLM(config), tmp_path)
