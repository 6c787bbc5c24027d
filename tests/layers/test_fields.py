"""A wrong field raises an error of one line with module, field and value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import MLPS, RMSNorm, ShortConvolution, TokenEmbedding
from jaxmodels.mixers import MIXERS
from jaxmodels.models import LanguageModel

X = np.zeros((1, 2, 16), np.float32)
# The integer fields of each mixer, which must be at least 1.
SIZES = {
  "gla": ("heads", "key_width", "value_width", "gate_rank"),
  "kda": ("heads", "key_width", "value_width", "gate_rank", "kernel_width"),
  "mamba": ("expand", "state_width", "step_rank", "kernel_width"),
  "mamba2": (
    "expand",
    "head_width",
    "state_width",
    "groups",
    "kernel_width",
    "heads",
  ),
  "mamba3": ("expand", "head_width", "state_width", "groups", "rank"),
  "mlstm": ("heads", "key_width", "value_width"),
  "mlstm_block": ("heads", "expand", "kernel_width", "block_width"),
  "retnet": ("heads", "key_width", "value_width"),
  "rwkv6": ("head_width", "mix_rank", "decay_rank"),
  "rwkv7": ("head_width", "decay_rank", "rate_rank", "gate_rank"),
  "s5": ("state_width", "blocks"),
  "gated_slot": ("heads", "slots"),
  "linear_attention": ("key_width", "value_width", "features", "horizon"),
  "softmax_attention": ("heads", "kv_heads", "head_width", "max_length"),
  "sliding_attention": ("window",),
}
CASES = [
  *(
    (mixer, {field: value}, f"{field} must be at least 1, got {value}")
    for mixer, fields in SIZES.items()
    for field in (*fields, "chunk_size")
    for value in (0, -8)
  ),
  *((m, {"width": 0}, "width must be at least 1, got 0") for m in SIZES),
  ("gla", {"heads": 2.0}, "GLA: heads must be an integer, got 2.0"),
  ("gla", {"heads": True}, "GLA: heads must be an integer, got True"),
  ("gla", {"width": 9, "heads": 1}, "GLA: width must be even where key_width"),
  ("gla", {"temperature": 0.0}, "temperature must be a number above 0, got 0"),
  ("gla", {"output_scale": -1.0}, "output_scale must be a number of at least"),
  ("gla", {"dtype": jnp.int32}, "GLA: dtype must be a real floating-point"),
  ("s5", {"param_dtype": "flot32"}, "param_dtype must be a real .*'flot32'"),
  ("s5", {"dtype": jnp.complex64}, "S5: dtype must be a real floating-point"),
  ("kda", {"dtype": jnp.float64}, "dtype is float64, .* computes as float32"),
  ("mamba2", {"step_limits": (0.2, 0.1)}, "step_limits must be two increasing"),
  ("mamba2", {"gated_norm": "first"}, "gated_norm must be one of after, bef"),
  ("mamba2", {"activation": "glu"}, "Mamba2: activation must be one of silu"),
  ("mamba2", {"input_factors": (1, 2)}, "Mamba2: input_factors must be five"),
  ("mamba2", {"param_dtype": "float64"}, "param_dtype is float64, which JAX"),
  ("retnet", {"rotary_base": 0.0}, "RetNet: rotary_base must be a number"),
  ("s5", {"step_min": 0.0}, "S5: step_min must be a number above 0, got 0.0"),
  ("s5", {"step_max": 1e-4}, "step_min must be at most step_max = 0.0001"),
  ("gated_deltanet", {"gate_rank": 4}, 'gate_rank is used by decay "key" only'),
  ("delta_net", {"decay_bound": -5.0}, "decay_bound must be a number below 0"),
  ("kda", {"decay_bound": 5.0}, "decay_bound must be a number below 0, .* 5.0"),
  ("kda", {"key_heads": 3}, "key_heads must divide heads = 4, got 3"),
  ("kda", {"qk_norm": "l1"}, "qk_norm must be one of .*, got 'l1'"),
  ("delta_net", {"output_gate_rank": 4}, "need output_gate=True"),
  ("gated_deltanet2", {"write_strength": False}, "write_strength must be True"),
  ("gated_deltanet2", {"strength_bias": 3.0}, "strength_bias must be None"),
  ("sliding_attention", {"max_length": 9}, "max_length is for full attention"),
  ("softmax_attention", {"rotary_base": 0.0}, "rotary_base must be a number"),
  ("softmax_attention", {"width": 12}, "must make K even, got 3"),
]


@pytest.mark.parametrize(("mixer", "fields", "match"), CASES)
def test_the_error_names_a_wrong_field_of_a_mixer(mixer, fields, match):
  layer = MIXERS[mixer](**{"width": 16, **fields})
  x = X[..., : max(0, layer.width)]
  for call in (
    lambda: jax.eval_shape(layer.init, jax.random.key(0), x),
    lambda: layer.init_state(1),
  ):
    with pytest.raises(ValueError, match=match) as raised:
      call()
    assert type(layer).__name__ in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  ("layer", "match"),
  [
    (MLPS["mlp"](16, hidden=0), "MLP: hidden must be at least 1, got 0"),
    (MLPS["gated_mlp"](16, -3), "GatedMLP: hidden must be at least 1, got -3"),
    (ShortConvolution(0), "ShortConvolution: kernel_width must be at least 1"),
    (RMSNorm(groups=0), "RMSNorm: groups must divide the width 16, got 0"),
  ],
)
def test_the_error_names_a_wrong_field_of_a_layer(layer, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(layer.init, jax.random.key(0), X)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
    ({"vocab_size": -5}, "vocab_size must be at least 1, got -5"),
    ({"vocab_size": 2**31}, "vocab_size must be below 2.31, .* got 2147483648"),
    ({"vocab_size": 1e3}, "vocab_size must be an integer, got 1000.0"),
    ({"width": 0}, "width must be at least 1, got 0"),
    ({"width": -8}, "width must be at least 1, got -8"),
    ({"dtype": jnp.float64}, "dtype is float64, which JAX computes as float32"),
    ({"param_dtype": jnp.int8}, "param_dtype must be a real floating-point"),
  ],
)
def test_the_error_names_a_wrong_field_of_a_model(fields, match):
  tokens = np.zeros((1, 2), np.int32)
  given = {"vocab_size": 5, "width": 8} | fields
  model = LanguageModel(depth=1, mixers=("s5",), **given)
  match = f"LanguageModel: {match}"
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(model.init, jax.random.key(0), tokens)
  embedding = TokenEmbedding(**given)
  with pytest.raises(
    ValueError, match=match.replace("LanguageModel", "TokenEmbedding")
  ):
    jax.eval_shape(embedding.init, jax.random.key(0), tokens)


def test_the_error_names_wrong_fields_of_a_stack():
  tokens = np.zeros((1, 2), np.int32)
  given = {"vocab_size": 5, "width": 8, "depth": 1, "mixers": ("gla",)}
  for fields, match in (
    ({"depth": -1}, "Backbone: depth must be at least 1, got -1"),
    ({"depth": 1.5}, "Backbone: depth must be an integer, got 1.5"),
    ({"mixers": "gla"}, "Backbone: mixers must be a tuple of names, got 'gla'"),
  ):
    model = LanguageModel(**{**given, **fields})
    with pytest.raises(ValueError, match=match):
      jax.eval_shape(model.init, jax.random.key(0), tokens)
    with pytest.raises(ValueError, match=match):
      model.init_state(1)
