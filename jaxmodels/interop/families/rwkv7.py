"""RWKV-7: `RWKV7ForCausalLM` of flash-linear-attention.

Peng et al. 2025, arXiv:2503.14456. fla fails where `attn` puts softmax
attention into a layer, so there are no such models.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import (
  FLA,
  read_activation,
  written_activation,
)
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family, mixer_of, mlp_of
from jaxmodels.layers import RWKVChannelMix
from jaxmodels.mixers import RWKV7
from jaxmodels.mixers.rwkv6 import count_heads
from jaxmodels.models import LanguageModel

# Their letters and our names: shares of the last token, and low-rank maps.
_SHARES = {
  "r": "receptance",
  "w": "decay",
  "k": "key",
  "v": "value",
  "a": "rate",
  "g": "output_gate",
}
_LOW_RANK = {"w": "decay", "a": "rate", "v": "value", "g": "gate"}
# Our field, their key, its default, and the rank by sqrt(D) if it is null.
_RANKS = {
  "decay_rank": ("decay_low_rank_dim", 64, 2.5),
  "rate_rank": ("a_low_rank_dim", 64, 2.5),
  "value_rank": ("v_low_rank_dim", 16, 1.7),
  "gate_rank": ("gate_low_rank_dim", 128, 5.0),
}
# `fuse_norm` off bounds the norm of a key by 1e-12 from below.
_UNFUSED = 1e-24


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2048)
  depth = config.get("num_hidden_layers", 24)
  epsilon = config.get("norm_eps", 1e-5)
  config.expect("attn", None)
  config.ignore("attn_mode", "fuse_cross_entropy", "fuse_linear_cross_entropy")
  config.ignore("use_l2warp", "max_position_embeddings")
  # fla cannot make a model with another value.
  config.expect("value_dim", None, width, [width] * depth)
  head_width = _head_width(config, width)
  mixer = RWKV7(
    width,
    head_width=head_width,
    norm_epsilon=head_width * epsilon,
    key_epsilon=1e-6 if config.get("fuse_norm", True) else _UNFUSED,
    **_ranks(config, width, head_width),
  )
  mlp = RWKVChannelMix(
    width,
    hidden=_hidden(config, width),
    activation=read_activation(config, "hidden_act", "sqrelu", FLA),
  )
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32_000),
    width=width,
    depth=depth,
    mixers=(mixer,),
    mlp=mlp,
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm="layer" if config.get("norm_bias", True) else "layer_unbiased",
    norm_epsilon=epsilon,
    input_norm=config.get("norm_first", True),
  )


def _head_width(config: Config, width: int) -> int:
  head_width, heads = config.get("head_dim", 64), config.get("num_heads")
  if head_width is None and heads:
    head_width = width // heads
  if not head_width or width % head_width:
    raise FolderError(
      f"{config.where}: head_dim, or hidden_size / num_heads, must divide "
      f"hidden_size = {width}, got head_dim={head_width}, num_heads={heads}"
    )
  return head_width


def _ranks(config: Config, width: int, head_width: int) -> dict[str, Any]:
  found = {}
  for field, (key, default, factor) in _RANKS.items():
    rank = config.get(key, default)
    if rank is None:
      wider = 1 if field == "gate_rank" else head_width / 64
      rank = max(32, round(factor * width**0.5 * wider / 32) * 32)
    found[field] = rank
  return found


def _hidden(config: Config, width: int) -> int:
  ratio, hidden = config.get("hidden_ratio", 4), config.get("intermediate_size")
  if hidden is None:
    hidden = -(-int(width * (4 if ratio is None else ratio)) // 32) * 32
  return hidden


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixer, mlp = mixer_of(model, 0), mlp_of(model, 0)
  heads = count_heads(mixer)
  return {
    **{key: getattr(mixer, field) for field, (key, *_) in _RANKS.items()},
    "fuse_norm": mixer.key_epsilon != _UNFUSED,
    "head_dim": model.width // heads,
    "hidden_act": written_activation(mlp.activation, FLA),
    "hidden_size": model.width,
    "intermediate_size": mlp.hidden,
    "norm_bias": model.norm == "layer",
    "norm_eps": model.norm_epsilon,
    "norm_first": model.input_norm,
    "num_heads": heads,
    "num_hidden_layers": model.depth,
    "tie_word_embeddings": model.tie_embeddings,
    "value_dim": [model.width] * model.depth,
    "vocab_size": model.vocab_size,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model, "model.embeddings", "model.norm")
  biased = model.norm == "layer"
  if biased:
    yield r.same("model.norm.bias", "backbone/norm/bias")
  if model.input_norm:
    yield from _norm("model.layers.0.pre_norm", "backbone/input_norm", biased)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    yield from _norm(f"{theirs}.attn_norm", f"{ours}/mixer_norm", biased)
    yield from _norm(f"{theirs}.ffn_norm", f"{ours}/mlp_norm", biased)
    yield r.same(f"{theirs}.ffn.x_k", f"{ours}/mlp/mix_key")
    yield from r.dense(f"{theirs}.ffn.key", f"{ours}/mlp/key")
    yield from r.dense(f"{theirs}.ffn.value", f"{ours}/mlp/output")
    mixer = mixer_of(model, i)
    yield from _mixer_rules(f"{theirs}.attn", f"{ours}/mixer", mixer)
    if i > 0:
      # The first layer mixes no value. Scanned layers have equal parameters,
      # so it has some that have no effect.
      unused = model.scan_layers and i == 1
      yield from _first_value(f"{theirs}.attn", f"{ours}/mixer", unused)


def _norm(theirs: str, ours: str, biased: bool) -> Iterator[r.Rule]:
  yield r.same(f"{theirs}.weight", f"{ours}/scale")
  if biased:
    yield r.same(f"{theirs}.bias", f"{ours}/bias")


def _mixer_rules(theirs: str, ours: str, mixer: RWKV7) -> Iterator[r.Rule]:
  width = mixer.width
  for letter, name in _SHARES.items():
    yield r.same(f"{theirs}.x_{letter}", f"{ours}/mix_{name}", (1, 1, width))
  for letter in "rkv":
    yield from r.dense(f"{theirs}.{letter}_proj", f"{ours}/{_SHARES[letter]}")
  for letter, name in _LOW_RANK.items():
    if letter != "v":
      lora = f"{theirs}.{letter}_lora.lora"
      yield r.kernel(f"{lora}.0.weight", f"{ours}/{name}_down/kernel")
      yield r.kernel(f"{lora}.2.weight", f"{ours}/{name}_up/kernel")
    if letter in "wa":
      yield r.same(f"{lora}.2.bias", f"{ours}/{name}_bias")
  yield r.same(f"{theirs}.k_k", f"{ours}/xi")
  yield r.same(f"{theirs}.k_a", f"{ours}/alpha")
  heads = count_heads(mixer)
  yield r.same(f"{theirs}.r_k", f"{ours}/rho", (heads, width // heads))
  yield from _norm(f"{theirs}.g_norm", f"{ours}/norm", True)
  yield from r.dense(f"{theirs}.o_proj", f"{ours}/output")


def _first_value(theirs: str, ours: str, unused: bool) -> Iterator[r.Rule]:
  """The map that mixes in the first value; unused ones of layer 0 are 0."""
  names = {
    "0.weight": "value_down/kernel",
    "2.weight": "value_up/kernel",
    "2.bias": "value_bias",
  }
  for their, our in names.items():
    their = f"{theirs}.v_lora.lora.{their}"
    if not unused:
      same = r.same if our == "value_bias" else r.kernel
      yield same(their, f"{ours}/{our}")
      continue
    first = f"{ours}/{our}".replace("layer_1/", "layer_0/")
    yield r.Rule(
      (their,),
      (first, f"{ours}/{our}"),
      lambda x: [np.zeros_like(x[0].T), x[0].T],
      lambda x: [x[1].T],
    )


FAMILY = Family(
  name="rwkv7",
  model_types=("rwkv7",),
  architecture="RWKV7ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(RWKV7,),
)
