"""RWKV-4 against `RwkvForCausalLM` of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
  "options",
  [
    {"num_hidden_layers": 3},
    {
      "hidden_size": 24,
      "attention_hidden_size": 32,
      "intermediate_size": 40,
      "num_hidden_layers": 5,
      "rescale_every": 2,
      "layer_norm_epsilon": 1e-3,
      "tie_word_embeddings": True,
    },
    {"num_hidden_layers": 4, "rescale_every": 0},
    {"num_hidden_layers": 2, "rescale_every": 1},
  ],
)
def test_logits_and_bytes(options, tmp_path):
  transformers = load("transformers")
  config = transformers.RwkvConfig(
    **{"vocab_size": 50, "hidden_size": 32, **options}
  )
  check_family(transformers.RwkvForCausalLM(config), tmp_path)
