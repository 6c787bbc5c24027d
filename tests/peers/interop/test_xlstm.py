"""xLSTM 7B against `xLSTMForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import at_least, check_family, their_logits

pytestmark = pytest.mark.slow


def rebuilt(model, tokens, dtype):
  """The cell asks torch for its dtype where a model is made."""
  with at_least(dtype):
    again = type(model)(model.config)
  again.load_state_dict(model.state_dict())
  return their_logits(again, tokens, dtype)


@pytest.mark.parametrize(
  "options",
  [
    {"hidden_size": 64, "num_heads": 2},
    {
      "hidden_size": 96,
      "num_heads": 3,
      "num_hidden_layers": 3,
      "qk_dim_factor": 1.0,
      "v_dim_factor": 2.0,
      "use_bias": True,
      "gate_soft_cap": 4.0,
      "output_logit_soft_cap": 2.0,
      "norm_eps": 1e-4,
      "eps": 1e-2,
      "ffn_proj_factor": 1.3,
      "ffn_round_up_to_multiple_of": 8,
    },
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.xLSTMConfig(
    **{"vocab_size": 50, "num_hidden_layers": 2, **options},
    autocast_kernel_dtype="float32",
  )
  theirs = transformers.xLSTMForCausalLM(config)
  check_family(theirs, tmp_path, logits=rebuilt)
