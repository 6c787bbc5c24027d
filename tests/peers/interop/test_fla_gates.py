"""GLA, RetNet and HGRN2 against the models of fla."""

import pytest

from tests.peers.interop.fla_models import SMALL, check_fla, model_of

pytestmark = pytest.mark.slow

CASES = [
  ("GLA", {"num_heads": 3}),
  (
    "GLA",
    {
      "num_heads": 6,
      "num_kv_heads": 2,
      "expand_k": 1.0,
      "expand_v": 1.5,
      "feature_map": "relu",
      "use_short_conv": True,
      "conv_size": 3,
      "norm_eps": 1e-4,
      "tie_word_embeddings": True,
      "num_hidden_layers": 3,
      "intermediate_size": None,
      "hidden_ratio": 2,
    },
  ),
  (
    "GLA",
    {
      "num_heads": 2,
      "clamp_min": -0.04,
      "use_output_gate": False,
      "elementwise_affine": False,
    },
  ),
  ("GLA", {"num_heads": 1, "fuse_norm": False, "feature_map": "gelu"}),
  ("RetNet", {"num_heads": 3}),
  (
    "RetNet",
    {
      "num_heads": 6,
      "num_kv_heads": 3,
      "expand_k": 0.5,
      "expand_v": 1.0,
      "feature_map": "silu",
      "use_short_conv": True,
      "norm_eps": 1e-4,
      "fuse_norm": False,
      "tie_word_embeddings": True,
      "num_hidden_layers": 3,
      "intermediate_size": None,
    },
  ),
  (
    "RetNet",
    {
      "num_heads": 2,
      "use_output_gate": False,
      "elementwise_affine": False,
    },
  ),
  ("HGRN2", {"expand_ratio": 8, "norm_eps": 1e-4, "num_hidden_layers": 3}),
  (
    "HGRN2",
    {
      "num_heads": 2,
      "expand_ratio": None,
      "use_short_conv": True,
      "conv_size": 3,
      "elementwise_affine": False,
      "tie_word_embeddings": True,
      "num_hidden_layers": 4,
    },
  ),
  ("HGRN2", {"expand_ratio": 11, "use_lower_bound": False}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_logits_and_bytes(name, options, tmp_path):
  check_fla(model_of(name, **{**SMALL, **options}), tmp_path)
