"""RWKV-7 against the model of fla."""

import pytest

from tests.peers.interop.fla_models import check_fla, model_of

pytestmark = pytest.mark.slow

SMALL = {
  "hidden_size": 32,
  "head_dim": 16,
  "num_hidden_layers": 2,
  "decay_low_rank_dim": 3,
  "a_low_rank_dim": 4,
  "v_low_rank_dim": 5,
  "gate_low_rank_dim": 6,
  "vocab_size": 50,
}
CASES = [
  {},
  {
    "hidden_size": 48,
    "head_dim": None,
    "num_heads": 3,
    "num_hidden_layers": 3,
    "decay_low_rank_dim": None,
    "gate_low_rank_dim": None,
    "intermediate_size": 40,
    "hidden_act": "gelu",
    "norm_eps": 1e-4,
    "norm_first": False,
    "tie_word_embeddings": True,
  },
  {"fuse_norm": False, "norm_bias": False, "hidden_ratio": 2},
]


@pytest.mark.parametrize("options", CASES)
def test_logits_and_bytes(options, tmp_path):
  check_fla(model_of("RWKV7", **{**SMALL, **options}), tmp_path)
