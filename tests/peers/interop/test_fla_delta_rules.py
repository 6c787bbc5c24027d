"""DeltaNet, Gated DeltaNet and KDA against the models of fla."""

import pytest

from tests.peers.interop.fla_models import check_fla, model_of

pytestmark = pytest.mark.slow

SMALL = {
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 2,
  "vocab_size": 50,
}
CASES = [
  ("DeltaNet", {"num_heads": 3}),
  (
    "DeltaNet",
    {
      "num_heads": 2,
      "expand_k": 0.5,
      "expand_v": 1.5,
      "use_gate": True,
      "allow_neg_eigval": True,
      "conv_size": 3,
      "norm_eps": 1e-5,
      "tie_word_embeddings": True,
      "num_hidden_layers": 3,
      "intermediate_size": None,
    },
  ),
  (
    "DeltaNet",
    {
      "num_heads": 3,
      "use_beta": False,
      "use_short_conv": False,
      "qk_activation": "elu",
      "qk_norm": "sum",
    },
  ),
  ("DeltaNet", {"num_heads": 3, "qk_activation": "relu"}),
  ("DeltaNet", {"num_heads": 1, "qk_activation": "identity"}),
  ("GatedDeltaNet", {"num_heads": 3, "head_dim": 5}),
  (
    "GatedDeltaNet",
    {
      "num_heads": 2,
      "num_v_heads": 6,
      "head_dim": 8,
      "expand_v": 1.5,
      "allow_neg_eigval": True,
      "output_gate_activation": "sigmoid",
    },
  ),
  (
    "GatedDeltaNet",
    {
      "num_heads": 1,
      "num_v_heads": 2,
      "head_dim": 6,
      "use_gate": False,
      "use_short_conv": False,
    },
  ),
  ("KDA", {"num_heads": 3, "head_dim": 8}),
  (
    "KDA",
    {
      "num_heads": 2,
      "num_v_heads": 4,
      "head_dim": 6,
      "expand_v": 1.5,
      "allow_neg_eigval": True,
      "lower_bound": -5.0,
      "safe_gate": True,
      "tie_word_embeddings": True,
    },
  ),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_logits_and_bytes(name, options, tmp_path):
  check_fla(model_of(name, **(SMALL | options)), tmp_path)
