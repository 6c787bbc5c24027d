"""What Qwen3-Next and Qwen3.5 share.

Layers of Gated DeltaNet and of softmax attention take turns. The attention has
a gate per channel, whose rows follow those of the query in each head of
`q_proj`. All norms but that of Gated DeltaNet have weights of 1 + w.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import (
  read_activation,
  written_activation,
)
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import mixer_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.layers import GatedMLP, SparseMoE
from jaxmodels.mixers import GatedDeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel

__all__ = [
  "SKIP",
  "activations",
  "convolution",
  "linear_fields",
  "linear_parts",
  "read_dense",
  "read_experts",
  "read_stack",
  "stack_rules",
  "write_dense",
  "write_experts",
  "write_linear",
  "write_stack",
]

# Tensors that predict further tokens, and those that read images.
SKIP = (r"mtp\.", r"model\.visual\.")
# Keys of published files that hold for all of them, and keys for training.
_NEUTRAL = (
  "mamba_ssm_dtype",
  "mtp_num_hidden_layers",
  "mtp_use_dedicated_embeddings",
)
_FRACTION = 0.25
_KINDS = ("linear_attention", "full_attention")


def read_stack(
  config: Config, mlps: Sequence[nn.Module], **defaults: Any
) -> LanguageModel:
  """The model of a config.

  Args:
    config: The config, of which the channel mixers have read their own keys.
    mlps: The channel mixer of each layer.
    **defaults: The values of keys that the config may lack.
  """
  depth, width = len(mlps), config.get("hidden_size", defaults["hidden_size"])
  config.expect("attn_output_gate", True)
  config.ignore(*_NEUTRAL)
  epsilon = config.get("rms_norm_eps", 1e-6)
  linear = GatedDeltaNet(width, **linear_fields(config), norm_epsilon=epsilon)
  softmax = _read_attention(config, width, defaults)
  kinds = layer_kinds(config, depth)
  return LanguageModel(
    vocab_size=config.get("vocab_size", defaults["vocab_size"]),
    width=width,
    depth=depth,
    mixers=parts.shortest(
      [linear if kind == "linear_attention" else softmax for kind in kinds]
    ),
    mlp=parts.shortest(mlps),
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=epsilon,
    norm_offset=1.0,
  )


def read_dense(config: Config, width: int, hidden: int) -> GatedMLP:
  """The channel mixer without experts.

  Args:
    config: The config.
    width: D.
    hidden: The hidden width where the config has none.
  """
  return GatedMLP(
    width,
    hidden=config.get("intermediate_size", hidden),
    activation=read_activation(config, "hidden_act", "silu"),
  )


def write_dense(mlp: Any) -> dict[str, Any]:
  """The keys of `read_dense`; none for another channel mixer."""
  if not isinstance(mlp, GatedMLP):
    return {}
  return {
    "hidden_act": written_activation(mlp.activation),
    "intermediate_size": mlp.hidden,
  }


def read_experts(
  config: Config, width: int, experts: int, top_k: int
) -> SparseMoE:
  """The experts of a layer, of which one is shared by all tokens.

  Args:
    config: The config.
    width: D.
    experts: The number of experts where the config has none.
    top_k: The number of experts per token where the config has none.
  """
  return SparseMoE(
    width,
    config.get("moe_intermediate_size", 512),
    experts=config.get("num_experts", experts),
    top_k=config.get("num_experts_per_tok", top_k),
    balance_loss=config.get("router_aux_loss_coef", 0.001),
    activation=read_activation(config, "hidden_act", "silu"),
    normalize=config.get("norm_topk_prob", True),
    shared_hidden=config.get("shared_expert_intermediate_size", 512),
    shared_gate=True,
  )


def write_experts(mlp: Any) -> dict[str, Any]:
  """The keys of `read_experts`; none for another channel mixer."""
  if not isinstance(mlp, SparseMoE):
    return {}
  return {
    "hidden_act": written_activation(mlp.activation),
    "moe_intermediate_size": mlp.hidden,
    "num_experts": mlp.experts,
    "num_experts_per_tok": mlp.top_k,
    "router_aux_loss_coef": mlp.balance_loss,
    "shared_expert_intermediate_size": mlp.shared_hidden,
  }


def layer_kinds(config: Config, depth: int) -> list[str]:
  """Whether each layer has linear or full attention."""
  every = config.get("full_attention_interval", 4)
  kinds = config.get("layer_types")
  if kinds is None:
    return [_KINDS[(i + 1) % every == 0] for i in range(depth)]
  wrong = sorted(set(kinds) - set(_KINDS))
  if wrong or len(kinds) != depth:
    raise FolderError(
      f"{config.where}: layer_types must name {depth} layers of {_KINDS}, got "
      f"{len(kinds)}, with {wrong}"
    )
  return list(kinds)


def linear_fields(config: Config) -> dict[str, Any]:
  """The sizes of Gated DeltaNet."""
  return {
    "heads": config.get("linear_num_value_heads", 32),
    "key_heads": config.get("linear_num_key_heads", 16),
    "key_width": config.get("linear_key_head_dim", 128),
    "value_width": config.get("linear_value_head_dim", 128),
    "kernel_width": config.get("linear_conv_kernel_dim", 4),
    **activations(config),
  }


def activations(config: Config) -> dict[str, Any]:
  """The activations of a delta rule, which are that of the channel mixers."""
  name = read_activation(config, "hidden_act", "silu")
  return {"qk_activation": name, "value_activation": name}


def _read_attention(
  config: Config, width: int, defaults: dict[str, Any]
) -> SoftmaxAttention:
  head_width = config.get("head_dim", 256)
  length = config.get("max_position_embeddings", 32_768)
  bias = config.get("attention_bias", False)
  key = "num_key_value_heads"
  return SoftmaxAttention(
    width,
    heads=config.get("num_attention_heads", 16),
    kv_heads=config.get(key, defaults[key]),
    head_width=head_width,
    max_length=length,
    qk_norm="head",
    qk_norm_offset=1.0,
    gate="sigmoid",
    qkv_bias=bias,
    output_bias=bias,
    norm_epsilon=config.get("rms_norm_eps", 1e-6),
    **read_rotary(
      config,
      head_width,
      length,
      fraction=_FRACTION,
      ignore=("mrope_section", "mrope_interleaved"),
    ),
  )


def write_stack(model: LanguageModel) -> dict[str, Any]:
  """The keys of a config, without those of the channel mixers."""
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  softmax = [isinstance(mixer, SoftmaxAttention) for mixer in mixers]
  values: dict[str, Any] = {
    "hidden_size": model.width,
    "layer_types": [_KINDS[full] for full in softmax],
    "num_hidden_layers": model.depth,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }
  if not all(softmax):
    values |= write_linear(mixers[softmax.index(False)])
  if any(softmax):
    values |= _write_attention(mixers[softmax.index(True)])
  return values


def write_linear(mixer: GatedDeltaNet) -> dict[str, Any]:
  """The keys of `linear_fields`."""
  return {
    "hidden_act": written_activation(mixer.qk_activation),
    "linear_conv_kernel_dim": mixer.kernel_width,
    "linear_key_head_dim": mixer.key_width or mixer.width // mixer.heads,
    "linear_num_key_heads": mixer.key_heads or mixer.heads,
    "linear_num_value_heads": mixer.heads,
    "linear_value_head_dim": mixer.value_width or mixer.width // mixer.heads,
  }


def _write_attention(mixer: SoftmaxAttention) -> dict[str, Any]:
  return {
    "attention_bias": mixer.qkv_bias,
    "head_dim": mixer.head_width or mixer.width // mixer.heads,
    "max_position_embeddings": mixer.max_length,
    "num_attention_heads": mixer.heads,
    "num_key_value_heads": mixer.kv_heads or mixer.heads,
    "rope_parameters": write_rotary(mixer, _FRACTION),
  }


def stack_rules(
  model: LanguageModel,
  linear_rules: Callable[[str, str, GatedDeltaNet], Iterator[r.Rule]],
) -> Iterator[r.Rule]:
  """The rules of a model.

  Args:
    model: The model.
    linear_rules: `(theirs, ours, mixer) -> rules` of the input projections.
  """
  yield from parts.outside(model)
  for i, block in enumerate(model.blocks()):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer, mlp = (_module(part) for part in (block.mixer, block.mlp))
    yield r.same(f"{theirs}.input_layernorm.weight", f"{ours}/mixer_norm/scale")
    yield r.same(
      f"{theirs}.post_attention_layernorm.weight", f"{ours}/mlp_norm/scale"
    )
    yield from _mlp_rules(f"{theirs}.mlp", f"{ours}/mlp", mlp)
    if isinstance(mixer, SoftmaxAttention):
      yield from _attention_rules(f"{theirs}.self_attn", f"{ours}/mixer", mixer)
    else:
      theirs = f"{theirs}.linear_attn"
      yield from linear_rules(theirs, f"{ours}/mixer", mixer)
      yield from _linear_rules(theirs, f"{ours}/mixer", mixer)


def _module(part: Any) -> Any:
  """The module of a part of a layer, or None."""
  return None if part is None else part.module


def _mlp_rules(theirs: str, ours: str, mlp: Any) -> Iterator[r.Rule]:
  if not isinstance(mlp, SparseMoE):
    yield from parts.gated_mlp(theirs, ours)
    return
  yield from parts.sparse_moe(theirs, ours, mlp)
  yield from parts.gated_mlp(f"{theirs}.shared_expert", f"{ours}/shared")
  yield from r.dense(f"{theirs}.shared_expert_gate", f"{ours}/shared_gate")


def _linear_rules(
  theirs: str, ours: str, mixer: GatedDeltaNet
) -> Iterator[r.Rule]:
  """The rules of Gated DeltaNet, but of its input projections."""
  yield convolution(ours, mixer, (f"{theirs}.conv1d.weight",))
  for name in ("A_log", "dt_bias"):
    yield r.same(f"{theirs}.{name}", f"{ours}/{name}")
  yield r.same(f"{theirs}.norm.weight", f"{ours}/norm/scale")
  yield from r.dense(f"{theirs}.out_proj", f"{ours}/output")


def linear_parts(mixer: GatedDeltaNet) -> tuple[int, int, int]:
  """The channels of queries, keys and values."""
  own = mixer.width // mixer.heads
  keys = (mixer.key_heads or mixer.heads) * (mixer.key_width or own)
  return keys, keys, mixer.heads * (mixer.value_width or own)


def convolution(
  ours: str,
  mixer: GatedDeltaNet,
  names: Sequence[str],
  cuts: Sequence[int] | None = None,
) -> r.Rule:
  """The convolutions of query, key and value, which are one or three of theirs.

  Args:
    ours: The path of the mixer.
    mixer: The mixer.
    names: Their names.
    cuts: Their numbers of channels; None for one tensor.
  """
  sizes = linear_parts(mixer)
  paths = [f"{ours}/{n}_convolution/kernel" for n in ("query", "key", "value")]
  return parts.convolutions(names, cuts or (sum(sizes),), paths, sizes)


def _attention_rules(
  theirs: str, ours: str, mixer: SoftmaxAttention
) -> Iterator[r.Rule]:
  # In each head of q_proj the rows of the gate follow those of the query.
  heads = mixer.heads
  width = mixer.head_width or mixer.width // heads
  rows = np.arange(2 * heads * width).reshape(heads, 2, width)
  order = np.swapaxes(rows, 0, 1).ravel()
  kinds = ("kernel", "bias") if mixer.qkv_bias else ("kernel",)
  for kind in kinds:
    name = "weight" if kind == "kernel" else "bias"
    yield r.split(
      f"{theirs}.q_proj.{name}",
      [f"{ours}/query/{kind}", f"{ours}/output_gate/{kind}"],
      [heads * width] * 2,
      order,
    )
  for rule in parts.attention(theirs, ours, mixer):
    if not rule.ours[0].startswith(f"{ours}/query/"):
      yield rule
