"""Mamba and FalconMamba against the classes of transformers."""

import pytest

from tests.peers.compare import load
from tests.peers.interop.parity import check_family

pytestmark = pytest.mark.slow

OPTIONS = [
  {"hidden_size": 24, "state_size": 5, "num_hidden_layers": 3},
  {
    "hidden_size": 20,
    "state_size": 1,
    "num_hidden_layers": 1,
    "expand": 3,
    "conv_kernel": 2,
    "use_bias": True,
    "use_conv_bias": False,
    "time_step_rank": 7,
    "tie_word_embeddings": False,
    "layer_norm_epsilon": 1e-3,
    "hidden_act": "gelu",
  },
  {
    "hidden_size": 17,
    "state_size": 16,
    "num_hidden_layers": 2,
    "expand": 16,
    "intermediate_size": 40,
    "residual_in_fp32": False,
    "hidden_act": "relu",
  },
]


@pytest.mark.parametrize("options", OPTIONS)
def test_mamba(options, tmp_path):
  transformers = load("transformers")
  config = transformers.MambaConfig(vocab_size=53, **options)
  check_family(transformers.MambaForCausalLM(config), tmp_path)


@pytest.mark.parametrize("options", OPTIONS)
def test_falcon_mamba(options, tmp_path):
  transformers = load("transformers")
  epsilon = 1e-6 if len(options) == 3 else 0.01
  config = transformers.FalconMambaConfig(
    vocab_size=53, mixer_rms_eps=epsilon, **options
  )
  check_family(transformers.FalconMambaForCausalLM(config), tmp_path)
