"""Older names and missing keys of configs mean what transformers reads."""

import json

import pytest

from jaxmodels.interop.checkpoint import difference
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import family_of
from tests.peers.compare import load

pytestmark = pytest.mark.slow

CASES = [
  ("Qwen3_5Text", "qwen3_5_text", {}),
  (
    "Qwen3_5Text",
    "qwen3_5_text",
    {
      "num_hidden_layers": 7,
      "full_attention_interval": 3,
      "rope_parameters": {"rope_theta": 1e7, "rope_type": "default"},
    },
  ),
  ("Qwen3_5MoeText", "qwen3_5_moe_text", {"num_hidden_layers": 5}),
  (
    "Qwen3Next",
    "qwen3_next",
    {
      "num_hidden_layers": 6,
      "mlp_only_layers": [],
      "partial_rotary_factor": 0.5,
      "rope_scaling": None,
      "rope_theta": 10_000_000,
      "decoder_sparse_step": 2,
    },
  ),
  ("OlmoHybrid", "olmo_hybrid", {"num_hidden_layers": 3}),
  (
    "OlmoHybrid",
    "olmo_hybrid",
    {
      "hidden_size": 64,
      "num_attention_heads": 4,
      "linear_num_value_heads": 8,
      "rope_parameters": {"rope_theta": None},
    },
  ),
  ("KimiLinear", "kimi_linear", {"num_hidden_layers": 7}),
  (
    "KimiLinear",
    "kimi_linear",
    {
      "first_k_dense_replace": 2,
      "linear_attn_config": {
        "full_attn_layers": [2, 4],
        "head_dim": 32,
        "kda_layers": [1, 3, 5],
        "num_heads": 6,
        "short_conv_kernel_size": 3,
      },
      "mla_use_nope": True,
      "moe_layer_freq": 1,
      "moe_router_activation_func": "sigmoid",
      "num_experts": 12,
      "num_hidden_layers": 5,
      "num_experts_per_token": 3,
      "rope_theta": 10_000.0,
      "use_grouped_topk": True,
    },
  ),
]


@pytest.mark.parametrize(("name", "kind", "values"), CASES)
def test_a_config_means_what_transformers_reads(name, kind, values, tmp_path):
  made = getattr(load("transformers"), f"{name}Config")(**values)
  made.save_pretrained(tmp_path)
  written = json.loads((tmp_path / "config.json").read_text())
  models = []
  for config in (Config({"model_type": kind} | values), Config(written)):
    models.append(family_of(config).read(config))
    config.check_all_read()
  assert difference(*models) is None
