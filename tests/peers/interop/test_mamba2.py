"""Mamba-2 against `Mamba2ForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "options",
  [
    {"num_heads": 6, "head_dim": 8, "hidden_size": 24, "n_groups": 2},
    {
      "num_heads": 3,
      "head_dim": 32,
      "hidden_size": 48,
      "n_groups": 1,
      "tie_word_embeddings": True,
      "layer_norm_epsilon": 1e-4,
      "conv_kernel": 3,
      "chunk_size": 16,
    },
    {
      "num_heads": 4,
      "head_dim": 10,
      "hidden_size": 20,
      "n_groups": 4,
      "use_bias": True,
      "use_conv_bias": False,
      "hidden_act": "gelu",
      "time_step_limit": (0.6, 0.9),
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.Mamba2Config(
    vocab_size=50, state_size=16, num_hidden_layers=3, expand=2, **options
  )
  check_family(transformers.Mamba2ForCausalLM(config), tmp_path)
