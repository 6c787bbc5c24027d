"""Qwen3.5 and Qwen3-Next against the models of transformers."""

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from jaxmodels import interop
from tests.peers.interop.hybrids import hybrid
from tests.peers.interop.parity import (
  FLOAT64,
  check_family,
  check_saved,
  compared,
  randomize,
  their_logits,
  tokens_of,
)

pytestmark = pytest.mark.slow

SMALL = {
  "vocab_size": 50,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_attention_heads": 3,
  "num_key_value_heads": 1,
  "head_dim": 8,
  "linear_num_key_heads": 2,
  "linear_num_value_heads": 6,
  "linear_key_head_dim": 6,
  "linear_value_head_dim": 4,
}
FULL, LINEAR = "full_attention", "linear_attention"
DENSE = [
  {"layer_types": [LINEAR, FULL], "num_hidden_layers": 2},
  {
    "layer_types": [FULL, LINEAR, LINEAR],
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 3,
    "linear_conv_kernel_dim": 3,
    "attention_bias": True,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "rope_parameters": {
      "rope_type": "yarn",
      "rope_theta": 500.0,
      "factor": 4.0,
      "original_max_position_embeddings": 16,
      "partial_rotary_factor": 1.0,
      "mrope_section": [3, 3, 2],
    },
  },
]


@pytest.mark.parametrize("options", DENSE)
def test_dense_qwen3_5(options, tmp_path):
  theirs = hybrid("Qwen3_5", SMALL | options, "Qwen3_5Text")
  check_family(theirs, tmp_path)


EXPERTS = {
  "moe_intermediate_size": 8,
  "shared_expert_intermediate_size": 12,
  "num_experts": 5,
  "num_experts_per_tok": 2,
}
NEXT = [
  {"layer_types": [LINEAR, FULL], "num_hidden_layers": 2},
  {
    # Three value heads for each of two key heads, and dense layers too.
    "layer_types": None,
    "num_hidden_layers": 5,
    "mlp_only_layers": [0],
    "decoder_sparse_step": 2,
    "norm_topk_prob": False,
    "attention_bias": True,
    "linear_value_head_dim": 7,
    "head_dim": 10,
    "tie_word_embeddings": True,
    "rope_parameters": {
      "rope_type": "linear",
      "rope_theta": 500.0,
      "factor": 2.0,
      "partial_rotary_factor": 0.5,
    },
  },
]


@pytest.mark.parametrize("options", NEXT)
def test_qwen3_next(options, tmp_path):
  theirs = hybrid("Qwen3Next", SMALL | EXPERTS | options)
  check_family(theirs, tmp_path)


def test_qwen3_5_with_experts(tmp_path):
  options = SMALL | EXPERTS | {"num_hidden_layers": 2}
  options["layer_types"] = [LINEAR, FULL]
  del options["intermediate_size"]
  theirs = hybrid("Qwen3_5Moe", options, "Qwen3_5MoeText")
  check_family(theirs, tmp_path)


def test_parameters_keep_the_dtypes_of_the_file(tmp_path):
  """Published files are in bfloat16, with a few parameters in float32."""
  options = SMALL | {"layer_types": [LINEAR, FULL], "num_hidden_layers": 2}
  theirs = hybrid("Qwen3_5", options, "Qwen3_5Text")
  randomize(theirs)
  theirs.bfloat16()
  theirs.model.layers[0].linear_attn.A_log.data = theirs.model.layers[
    0
  ].linear_attn.A_log.data.float()
  theirs.save_pretrained(tmp_path / "theirs")
  model, variables = interop.load(tmp_path / "theirs")
  for path, value in traverse_util.flatten_dict(variables).items():
    wide = path[-1] == "A_log"
    assert value.dtype == (jnp.float32 if wide else jnp.bfloat16), path
  check_saved(tmp_path, model, variables)
  tokens = tokens_of(model)
  with jax.enable_x64(True):
    logits = their_logits(theirs, tokens, "float64")
    errors = compared(model, variables, tokens, "float64", logits)
  assert max(errors.values()) < FLOAT64, errors
