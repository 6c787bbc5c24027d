"""Falcon-H1 against `FalconH1ForCausalLM` of transformers."""

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
      "mamba_n_heads": 5,
      "mamba_d_ssm": 30,
      "mamba_d_state": 10,
      "head_dim": 10,
      "embedding_multiplier": 5.656854249492381,
      "lm_head_multiplier": 0.0390625,
      "key_multiplier": 0.39062499999999994,
      "attention_in_multiplier": 0.9,
      "attention_out_multiplier": 0.6,
      "ssm_in_multiplier": 1.25,
      "ssm_out_multiplier": 0.23570226039551587,
      "ssm_multipliers": [0.35355, 0.25, 0.17677669529663687, 0.5, 0.4],
      "mlp_multipliers": [0.8838834764831844, 0.5859375],
    },
    {
      "hidden_size": 32,
      "num_attention_heads": 2,
      "num_key_value_heads": None,
      "mamba_d_ssm": None,
      "mamba_n_heads": 6,
      "mamba_expand": 3,
      "mamba_n_groups": 3,
      "mamba_d_conv": 3,
      "mamba_chunk_size": 16,
      "mamba_rms_norm": True,
      "mamba_proj_bias": True,
      "mamba_conv_bias": False,
      "projectors_bias": True,
      "attention_bias": True,
      "mlp_bias": True,
      "hidden_act": "gelu_pytorch_tanh",
      "tie_word_embeddings": True,
      "rms_norm_eps": 1e-4,
      "time_step_limit": (0.6, 0.9),
      "ssm_multipliers": [0.5, 2.0, 0.7, 1.5, 1.2],
      "mlp_multipliers": [0.5, 0.25],
      "rope_parameters": {"rope_type": "default", "rope_theta": 1e11},
    },
    {
      "hidden_size": 24,
      "num_attention_heads": 2,
      "num_key_value_heads": 1,
      "mamba_d_ssm": 16,
      "mamba_n_heads": 2,
      "mamba_n_groups": 2,
      "mamba_rms_norm": True,
      "mamba_norm_before_gate": False,
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.FalconH1Config(
    vocab_size=50,
    num_hidden_layers=2,
    intermediate_size=20,
    max_position_embeddings=64,
    **options,
  )
  check_family(transformers.FalconH1ForCausalLM(config), tmp_path)
