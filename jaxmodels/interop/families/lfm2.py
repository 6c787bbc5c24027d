"""LFM2: `Lfm2ForCausalLM` of transformers.

Liquid AI 2025, arXiv:2511.23404: short convolutions between two gates, and
attention with norms of queries and keys per head. The rows of `in_proj` are the
gate of the input, the gate of the output, and the input.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family, embedding_rules, mixer_of, mlp_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import GatedConvolution, SoftmaxAttention
from jaxmodels.models import LanguageModel

_CONVOLUTION, _ATTENTION = "conv", "full_attention"


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width, depth = config.get("hidden_size", 2560), _depth(config)
  kinds = config.get("layer_types")
  attending = config.get("full_attn_idxs")
  if kinds is None:
    attending = range(depth) if attending is None else attending
    kinds = [
      _ATTENTION if i in attending else _CONVOLUTION for i in range(depth)
    ]
  _check_unused(config, width)
  mlp = GatedMLP(width, _hidden(config))
  return model_of(config, width, kinds, mlp)


def _depth(config: Config) -> int:
  return config.get("num_hidden_layers", 32)


def _check_unused(config: Config, width: int) -> None:
  """Keys of published files that the public code does not read."""
  for key in ("block_dim", "conv_dim", "conv_dim_out"):
    config.expect(key, width)
  config.expect("num_heads", config.get("num_attention_heads", 32))
  config.expect("block_norm_eps", config.get("norm_eps", 1e-5))
  config.expect("block_use_swiglu", True)
  config.expect("use_pos_enc", True)
  config.ignore("block_mlp_init_scale", "block_out_init_scale")
  config.ignore("block_use_xavier_init", "conv_use_xavier_init")


def _hidden(config: Config) -> int:
  """The width of the MLPs."""
  hidden = config.first(("block_ff_dim", "intermediate_size"), 12_288)
  multiple = config.get("block_multiple_of", 256)
  factor = config.get("block_ffn_dim_multiplier", 1.0)
  if not config.get("block_auto_adjust_ff_dim", True):
    return hidden
  hidden = int(2 * hidden / 3)
  if factor is None:
    return hidden
  return -(-int(factor * hidden) // multiple) * multiple


def model_of(
  config: Config, width: int, kinds: list[str], mlp: Any
) -> LanguageModel:
  """A model with these layers, and one channel mixer or several.

  Args:
    config: The config.
    width: Its `hidden_size`.
    kinds: Its `layer_types`.
    mlp: The channel mixers.
  """
  depth = _depth(config)
  heads = config.get("num_attention_heads", 32)
  epsilon = config.get("norm_eps", 1e-5)
  head_width = config.get("head_dim") or width // heads
  max_length = config.get("max_position_embeddings", 128_000)
  mixers = {
    _CONVOLUTION: GatedConvolution(
      width,
      kernel_width=config.get("conv_L_cache", 3),
      use_bias=config.get("conv_bias", False),
    ),
    _ATTENTION: SoftmaxAttention(
      width,
      heads=heads,
      kv_heads=config.get("num_key_value_heads", 8),
      head_width=head_width,
      max_length=max_length,
      qk_norm="head",
      norm_epsilon=epsilon,
      **read_rotary(config, head_width, max_length, base=1e6),
    ),
  }
  unknown = set(kinds) - set(mixers)
  if unknown or len(kinds) != depth:
    raise FolderError(
      f"{config.where}: layer_types must be {depth} times {_CONVOLUTION} or "
      f"{_ATTENTION}, got {kinds!r}"
    )
  return LanguageModel(
    vocab_size=config.get("vocab_size", 65_536),
    width=width,
    depth=depth,
    mixers=tuple(mixers[kind] for kind in parts.shortest(kinds)),
    mlp=mlp,
    tie_embeddings=config.first(("tie_embedding", "tie_word_embeddings"), True),
    norm_epsilon=epsilon,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  hidden = getattr(mlp_of(model, 0), "hidden", None) or 0
  return {
    **stack(model),
    "block_auto_adjust_ff_dim": False,
    # The name of published files, which precedes the other one.
    "block_ff_dim": hidden,
    "intermediate_size": hidden,
  }


def stack(model: LanguageModel) -> dict[str, Any]:
  """The config of a model without that of its channel mixers."""
  mixers = [mixer_of(model, i) for i in range(model.depth)]
  values = {
    "hidden_size": model.width,
    "layer_types": [
      _CONVOLUTION if isinstance(mixer, GatedConvolution) else _ATTENTION
      for mixer in mixers
    ],
    "norm_eps": model.norm_epsilon,
    "num_hidden_layers": model.depth,
    "tie_embedding": model.tie_embeddings,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }
  for mixer in mixers:
    if isinstance(mixer, GatedConvolution):
      values |= {
        "conv_L_cache": mixer.kernel_width,
        "conv_bias": mixer.use_bias,
      }
    else:
      values |= {
        "head_dim": mixer.head_width,
        "max_position_embeddings": mixer.max_length,
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.kv_heads,
        "rope_parameters": write_rotary(mixer),
      }
  return values


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from stack_rules(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}.feed_forward", f"backbone/layer_{i}/mlp"
    yield from parts.gated_mlp(theirs, ours, ("w1", "w3", "w2"))


def stack_rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of a model without those of its channel mixers."""
  yield from embedding_rules(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    for their, our in (("operator", "mixer"), ("ffn", "mlp")):
      yield r.same(f"{theirs}.{their}_norm.weight", f"{ours}/{our}_norm/scale")
    mixer = mixer_of(model, i)
    if isinstance(mixer, GatedConvolution):
      yield from _convolution(f"{theirs}.conv", f"{ours}/mixer", mixer)
    else:
      yield from _attention(f"{theirs}.self_attn", f"{ours}/mixer")
  yield r.same("model.embedding_norm.weight", "backbone/norm/scale")


def _convolution(
  theirs: str, ours: str, mixer: GatedConvolution
) -> Iterator[r.Rule]:
  names, sizes = ("gate", "output_gate", "input"), [mixer.width] * 3
  for their, our in (("weight", "kernel"), ("bias", "bias")):
    if their == "weight" or mixer.use_bias:
      paths = [f"{ours}/{name}/{our}" for name in names]
      yield r.split(f"{theirs}.in_proj.{their}", paths, sizes)
  bias = mixer.use_bias
  yield from r.convolution(f"{theirs}.conv", f"{ours}/convolution", bias)
  yield from r.dense(f"{theirs}.out_proj", f"{ours}/output", bias)


def _attention(theirs: str, ours: str) -> Iterator[r.Rule]:
  for their, our in (
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "output"),
  ):
    yield from r.dense(f"{theirs}.{their}", f"{ours}/{our}")
  yield r.same(f"{theirs}.q_layernorm.weight", f"{ours}/query_norm/scale")
  yield r.same(f"{theirs}.k_layernorm.weight", f"{ours}/key_norm/scale")


FAMILY = Family(
  name="lfm2",
  model_types=("lfm2",),
  architecture="Lfm2ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedConvolution, SoftmaxAttention),
)
