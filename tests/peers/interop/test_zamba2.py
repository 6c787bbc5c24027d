"""Zamba2 against `Zamba2ForCausalLM` of transformers."""

import jax
import pytest

from jaxmodels import interop
from tests.peers.compare import load
from tests.peers.interop.parity import (
  FLOAT32,
  check_family,
  error,
  randomize,
  stored,
  their_logits,
  tokens_of,
)

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
    "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
    "num_mem_blocks": 2,
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


def made(**options):
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
  return transformers.Zamba2ForCausalLM(config)


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_and_bytes(options, tmp_path):
  check_family(made(**options), tmp_path)


def test_adapters_that_nothing_uses_are_left_out(tmp_path):
  """Blocks that are not tied have adapters of all layers."""
  load("torch").set_num_threads(1)
  theirs = made(
    layers_block_type=["hybrid", "mamba", "hybrid"], tie_word_embeddings=False
  )
  randomize(theirs)
  theirs.save_pretrained(tmp_path / "theirs")
  model, variables = interop.load(tmp_path / "theirs")
  tokens = tokens_of(model)
  wanted = their_logits(theirs, tokens, "float32")
  got = jax.jit(model.apply)(variables, tokens)[0]
  assert error(got, wanted) < FLOAT32
  interop.save(tmp_path / "ours", model, variables, like=tmp_path / "theirs")
  again = type(theirs).from_pretrained(tmp_path / "ours")
  assert error(their_logits(again, tokens, "float32"), wanted) < 1e-6
  left_out = {
    f"model.layers.{i}.shared_transformer.feed_forward."
    f"gate_up_proj_adapter_list.{use}.{end}.weight"
    for i, use in ((0, 1), (2, 0))
    for end in (0, 1)
  }
  names = [set(stored(tmp_path / side)) for side in ("theirs", "ours")]
  assert names[0] - names[1] == left_out
