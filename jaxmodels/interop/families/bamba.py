"""Bamba: `BambaForCausalLM` of transformers.

A layer is Mamba-2 or softmax attention, which rotates half of the channels, and
a gated MLP. The model was trained by IBM, Princeton, CMU and UIUC; the tensors
of a mixer have the names of `mamba2`.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import mamba_keys as keys
from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config
from jaxmodels.interop.families.mamba2 import mixer_rules
from jaxmodels.interop.family import Family, mixer_of, mlp_of
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import Mamba2, SoftmaxAttention
from jaxmodels.models import LanguageModel

# The class rotates this fraction where `rope_parameters` has none.
FRACTION = 0.5


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  depth = config.get("num_hidden_layers", 32)
  epsilon = config.get("rms_norm_eps", 1e-5)
  config.expect("partial_rotary_factor", FRACTION)
  config.ignore("attn_rotary_emb", "num_logits_to_keep", "z_loss_coefficient")
  config.ignore("layers_block_type", "layer_types", *keys.INITIAL)
  mamba = Mamba2(width, **keys.read_mamba(config, width, epsilon))
  attention = keys.read_attention(
    config, width, max_length=262144, kv_heads=8, fraction=FRACTION
  )
  indices = config.get("attn_layer_indices") or ()
  mlp = GatedMLP(
    width,
    hidden=config.get("intermediate_size", 14336),
    activation=read_activation(config, "hidden_act", "silu"),
    use_bias=config.get("mlp_bias", False),
  )
  return LanguageModel(
    vocab_size=config.get("vocab_size", 128000),
    width=width,
    depth=depth,
    mixers=parts.shortest(
      [attention if i in indices else mamba for i in range(depth)]
    ),
    mlp=mlp,
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=epsilon,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mlp = keys.gated_mlp_of(model)
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  return {
    **keys.write_mixers(mixers, FRACTION),
    "attn_layer_indices": [
      i for i, m in enumerate(mixers) if isinstance(m, SoftmaxAttention)
    ],
    "hidden_act": written_activation(mlp.activation),
    "hidden_size": model.width,
    "intermediate_size": mlp.gated_width(),
    "mlp_bias": mlp.use_bias,
    "num_hidden_layers": model.depth,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model, "model.embed_tokens", "model.final_layernorm")
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer, mlp = mixer_of(model, i), mlp_of(model, i)
    yield r.same(f"{theirs}.input_layernorm.weight", f"{ours}/mixer_norm/scale")
    yield r.same(f"{theirs}.pre_ff_layernorm.weight", f"{ours}/mlp_norm/scale")
    yield from parts.gated_mlp(
      f"{theirs}.feed_forward", f"{ours}/mlp", bias=mlp.use_bias
    )
    if isinstance(mixer, Mamba2):
      yield from mixer_rules(f"{theirs}.mamba", f"{ours}/mixer", mixer)
    else:
      yield from parts.attention(f"{theirs}.self_attn", f"{ours}/mixer", mixer)


FAMILY = Family(
  name="bamba",
  model_types=("bamba",),
  architecture="BambaForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba2, SoftmaxAttention),
)
