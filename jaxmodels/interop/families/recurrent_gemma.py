"""RecurrentGemma: `RecurrentGemmaForCausalLM` of transformers.

Botev et al. 2024, arXiv:2404.07839: the RG-LRU of Griffin, and attention in a
window. The published code rounds the factor sqrt(D) of the embeddings to
bfloat16, and its MLPs have half of the width that the config names.
"""

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family, embedding_rules, mixer_of, mlp_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import RGLRU, SoftmaxAttention
from jaxmodels.models import LanguageModel

_RECURRENT, _ATTENTION = "recurrent", "attention"


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2560)
  heads = config.get("num_attention_heads", 10)
  depth = config.get("num_hidden_layers", 26)
  config.expect("hidden_activation", "gelu_pytorch_tanh")
  config.expect("embeddings_scale_by_sqrt_dim", True)
  # The code computes head_dim; the others are about initial values.
  config.ignore("head_dim", "w_init_variance_scale")
  config.ignore("final_w_init_variance_scale")
  mixers = {
    _RECURRENT: RGLRU(
      width,
      heads=heads,
      lru_width=config.get("lru_width"),
      kernel_width=config.get("conv1d_width", 4),
    ),
    _ATTENTION: SoftmaxAttention(
      width,
      heads=heads,
      kv_heads=config.get("num_key_value_heads"),
      window=config.get("attention_window_size", 2048),
      qkv_bias=config.get("attention_bias", False),
      output_bias=True,
      **read_rotary(config, width // heads, 0, fraction=0.5),
    ),
  }
  pattern = config.get("block_types", [_RECURRENT, _RECURRENT, _ATTENTION])
  if not pattern or set(pattern) - set(mixers):
    raise FolderError(
      f"{config.where}: block_types must have {_RECURRENT} and {_ATTENTION}, "
      f"got {pattern!r}"
    )
  kinds = [pattern[i % len(pattern)] for i in range(depth)]
  return LanguageModel(
    vocab_size=config.get("vocab_size", 256_000),
    width=width,
    depth=depth,
    mixers=tuple(mixers[kind] for kind in parts.shortest(kinds)),
    mlp=GatedMLP(
      width,
      config.get("intermediate_size", 7680) // 2,
      activation="gelu_tanh",
      use_bias=True,
    ),
    tie_embeddings=config.get("tie_word_embeddings", True),
    norm_epsilon=config.get("rms_norm_eps", 1e-6),
    norm_offset=1.0,
    embedding_scale=_embedding_scale(width),
    logits_cap=float(config.get("logits_soft_cap", 30.0)),
  )


def _embedding_scale(width: int) -> float:
  return float(np.asarray(math.sqrt(width), ml_dtypes.bfloat16))


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  layers = range(model.depth)
  mixers = [mixer_of(model, i) for i in layers]
  kinds = [
    _RECURRENT if isinstance(mixer, RGLRU) else _ATTENTION for mixer in mixers
  ]
  hidden = getattr(mlp_of(model, 0), "hidden", None) or 0
  values = {
    "block_types": kinds[: len(model.mixers)],
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": model.width,
    "intermediate_size": 2 * hidden,
    "logits_soft_cap": model.logits_cap,
    "num_attention_heads": mixers[0].heads,
    "num_hidden_layers": model.depth,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }
  for mixer in mixers:
    if isinstance(mixer, RGLRU):
      values |= {
        "conv1d_width": mixer.kernel_width,
        "lru_width": mixer.lru_width,
      }
    else:
      values |= {
        "attention_bias": mixer.qkv_bias,
        "attention_window_size": mixer.window,
        "num_key_value_heads": mixer.kv_heads,
        "rope_parameters": write_rotary(mixer, 0.5),
      }
  return values


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    for their, our in (("temporal", "mixer"), ("channel", "mlp")):
      name = f"{theirs}.{their}_pre_norm.weight"
      yield r.same(name, f"{ours}/{our}_norm/scale")
    block, mixer = f"{theirs}.temporal_block", mixer_of(model, i)
    if isinstance(mixer, RGLRU):
      yield from _recurrent(block, f"{ours}/mixer")
    else:
      yield from parts.attention(block, f"{ours}/mixer", mixer)
    yield from parts.gated_mlp(f"{theirs}.mlp_block", f"{ours}/mlp", bias=True)
  yield r.same("model.final_norm.weight", "backbone/norm/scale")


def _recurrent(theirs: str, ours: str) -> Iterator[r.Rule]:
  for their, our in (("x", "input"), ("y", "gate"), ("out", "output")):
    yield from r.dense(f"{theirs}.linear_{their}", f"{ours}/{our}", bias=True)
  yield from r.convolution(
    f"{theirs}.conv_1d", f"{ours}/convolution", bias=True
  )
  for their, our in (("input", "input"), ("recurrent", "recurrence")):
    gate = f"{theirs}.rg_lru.{their}_gate"
    yield r.same(f"{gate}_weight", f"{ours}/{our}_gate/kernel")
    yield r.same(f"{gate}_bias", f"{ours}/{our}_gate/bias")
  yield r.same(f"{theirs}.rg_lru.recurrent_param", f"{ours}/Lambda")


FAMILY = Family(
  name="recurrent_gemma",
  model_types=("recurrent_gemma",),
  architecture="RecurrentGemmaForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(RGLRU, SoftmaxAttention),
)
