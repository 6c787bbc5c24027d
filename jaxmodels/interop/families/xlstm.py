"""xLSTM 7B: `xLSTMForCausalLM` of transformers.

Beck et al. 2025, arXiv:2503.13427. Each layer is an mLSTM and a gated MLP.
"""

import math
from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family, mixer_of, mlp_of
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import MLSTM
from jaxmodels.models import LanguageModel

# Keys that choose a kernel, its chunks or its dtypes, and those that
# transformers does not use: it has a norm at the end and separate tables.
_NEUTRAL = (
  "add_out_norm", "autocast_kernel_dtype", "chunk_size", "chunkwise_kernel",
  "inference_state_dtype", "max_inference_chunksize", "mode",
  "norm_reduction_force_float32", "return_last_states", "sequence_kernel",
  "step_kernel", "tie_word_embeddings",
)  # fmt: skip


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  config.ignore(*_NEUTRAL)
  config.expect("weight_mode", "single")
  width, depth = _sizes(config)
  heads, bias = config.get("num_heads", 8), config.get("use_bias", False)
  epsilon = config.get("norm_eps", 1e-6)
  mixer = MLSTM(
    width,
    heads=heads,
    key_width=_head_width(config, "qk_dim_factor", 0.5, width, heads),
    value_width=_head_width(config, "v_dim_factor", 1.0, width, heads),
    gate_cap=config.get("gate_soft_cap", 15.0),
    use_bias=bias,
    norm_bias=bias,
    norm_epsilon=epsilon,
    epsilon=config.get("eps", 1e-6),
  )
  multiple = config.get("ffn_round_up_to_multiple_of", 64)
  hidden = width * config.get("ffn_proj_factor", 2.667)
  hidden = int((hidden + multiple - 1) // multiple * multiple)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 50_304),
    width=width,
    depth=depth,
    mixers=(mixer,),
    mlp=GatedMLP(width, hidden=hidden, use_bias=bias),
    tie_embeddings=False,
    norm="rms_biased" if bias else "rms",
    norm_epsilon=epsilon,
    final_norm="rms",
    logits_cap=config.get("output_logit_soft_cap", 30.0),
  )


def _sizes(config: Config) -> tuple[int, int]:
  """The width and the depth, each of which has two keys."""
  width = config.get("hidden_size", 4096)
  config.expect("embedding_dim", None, width)
  depth = config.get("num_hidden_layers", 32)
  return width, config.get("num_blocks") or depth


def _head_width(
  config: Config, key: str, default: float, width: int, heads: int
) -> int:
  total = int(width * config.get(key, default))
  if not total or total % heads:
    raise FolderError(
      f"{config.where}: hidden_size times {key} must be a multiple of "
      f"num_heads = {heads}, got {total}"
    )
  return total // heads


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixer, mlp, width = mixer_of(model, 0), mlp_of(model, 0), model.width
  return {
    "embedding_dim": width,
    "eps": mixer.epsilon,
    "ffn_proj_factor": _factor(mlp.hidden, width),
    "ffn_round_up_to_multiple_of": 1,
    "gate_soft_cap": mixer.gate_cap,
    "hidden_size": width,
    "norm_eps": model.norm_epsilon,
    "num_blocks": model.depth,
    "num_heads": mixer.heads,
    "num_hidden_layers": model.depth,
    "output_logit_soft_cap": model.logits_cap,
    "qk_dim_factor": _factor(mixer.key_width * mixer.heads, width),
    "use_bias": mixer.use_bias,
    "v_dim_factor": _factor(mixer.value_width * mixer.heads, width),
    "vocab_size": model.vocab_size,
  }


def _factor(total: int, width: int) -> float:
  """A factor whose product with the width is `total` when rounded down."""
  factor = total / width
  while int(width * factor) < total:
    factor = math.nextafter(factor, math.inf)
  return factor


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from parts.outside(model, "backbone.embeddings", "backbone.out_norm")
  for i in range(model.depth):
    theirs, ours = f"backbone.blocks.{i}", f"backbone/layer_{i}"
    mixer = mixer_of(model, i)
    yield from _norm(f"{theirs}.norm_mlstm", f"{ours}/mixer_norm", mixer)
    yield from _norm(f"{theirs}.norm_ffn", f"{ours}/mlp_norm", mixer)
    yield from _mixer_rules(f"{theirs}.mlstm_layer", f"{ours}/mixer", mixer)
    names = ("proj_up_gate", "proj_up", "proj_down")
    mlp = f"{ours}/mlp"
    yield from parts.gated_mlp(f"{theirs}.ffn", mlp, names, mixer.use_bias)


def _norm(theirs: str, ours: str, mixer: MLSTM) -> Iterator[r.Rule]:
  yield r.same(f"{theirs}.weight", f"{ours}/scale")
  if mixer.use_bias:
    yield r.same(f"{theirs}.bias", f"{ours}/bias")


def _mixer_rules(theirs: str, ours: str, mixer: MLSTM) -> Iterator[r.Rule]:
  names = {
    "q": "query",
    "k": "key",
    "v": "value",
    "ogate_preact": "output_gate",
    "out_proj": "output",
  }
  for their, our in names.items():
    yield from r.dense(f"{theirs}.{their}", f"{ours}/{our}", mixer.use_bias)
  for their, our in (("igate", "input_gate"), ("fgate", "forget_gate")):
    yield from r.dense(f"{theirs}.{their}_preact", f"{ours}/{our}")
    yield r.same(f"{theirs}.{their}_preact.bias", f"{ours}/{our}_bias")
  yield from _norm(f"{theirs}.multihead_norm", f"{ours}/norm", mixer)


FAMILY = Family(
  name="xlstm",
  model_types=("xlstm",),
  architecture="xLSTMForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(MLSTM,),
)
