"""MiniMax-Text-01: `MiniMaxForCausalLM` of transformers.

MiniMax 2025, arXiv:2501.08313: lightning attention, full attention, and sparse
mixtures of experts. A layer adds what it computes to its normed input, so a
norm follows each write to the stream, and one precedes the first layer. Files
also have the powers of the decays in one block, which the model computes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family, embedding_rules, mixer_of, mlp_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.layers import SparseMoE
from jaxmodels.mixers import LightningAttention, SoftmaxAttention
from jaxmodels.models import LanguageModel

_LINEAR, _ATTENTION = "linear_attention", "full_attention"
_KEYS = {_LINEAR: "linear_attn", _ATTENTION: "full_attn"}
# Tokens per block in the public code. The numbers hardly depend on it.
_BLOCK = 256


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  depth = config.get("num_hidden_layers", 32)
  config.expect("hidden_act", "silu", "swish")
  config.ignore("router_jitter_noise")
  kinds = config.get("layer_types") or [
    _LINEAR if i % 2 else _ATTENTION for i in range(depth)
  ]
  if len(kinds) != depth or set(kinds) - set(_KEYS):
    raise FolderError(
      f"{config.where}: layer_types must be {depth} times {_LINEAR} or "
      f"{_ATTENTION}, got {kinds!r}"
    )
  kinds = parts.shortest(kinds)
  mixers = _mixers(config, width)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32_000),
    width=width,
    depth=depth,
    mixers=tuple(mixers[kind] for kind in kinds),
    mlp=SparseMoE(
      width,
      config.get("intermediate_size", 14_336),
      experts=config.first(("num_local_experts", "num_experts"), 8),
      top_k=config.get("num_experts_per_tok", 2),
      balance_loss=config.get("router_aux_loss_coef", 0.001),
    ),
    tie_embeddings=config.get("tie_word_embeddings", False),
    layout="post_norm",
    input_norm=True,
    norm_epsilon=config.get("rms_norm_eps", 1e-5),
    skip_scale=_factors(config, kinds, "alpha"),
    residual_scale=_factors(config, kinds, "beta"),
  )


def _mixers(config: Config, width: int) -> dict[str, Any]:
  heads = config.get("num_attention_heads", 32)
  head_width = config.get("head_dim") or width // heads
  max_length = config.get("max_position_embeddings", 131_072)
  window, block = config.get("sliding_window"), config.get("block_size", _BLOCK)
  context = {"max_length": max_length} if window is None else {"window": window}
  return {
    _LINEAR: LightningAttention(
      width,
      heads=heads,
      head_width=head_width,
      chunk_size=None if block == _BLOCK else block,
    ),
    _ATTENTION: SoftmaxAttention(
      width,
      heads=heads,
      kv_heads=config.get("num_key_value_heads", 8),
      head_width=head_width,
      **context,
      **read_rotary(config, head_width, max_length, base=1e6),
    ),
  }


def _factors(config: Config, kinds: tuple[str, ...], name: str) -> Any:
  """The factors of the stream, or of the writes, in each layer."""
  own = {
    kind: float(config.get(f"{key}_{name}_factor", 1))
    for kind, key in _KEYS.items()
  }
  mlp = float(config.get(f"mlp_{name}_factor", 1))
  pairs = tuple((own[kind], mlp) for kind in kinds)
  return 1.0 if set(pairs) == {(1.0, 1.0)} else pairs


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mlp = mlp_of(model, 0)
  kinds: list[str] = []
  values: dict[str, Any] = {
    "hidden_size": model.width,
    "intermediate_size": getattr(mlp, "hidden", None),
    "layer_types": kinds,
    "num_experts_per_tok": getattr(mlp, "top_k", None),
    "num_hidden_layers": model.depth,
    "num_local_experts": getattr(mlp, "experts", None),
    "rms_norm_eps": model.norm_epsilon,
    "router_aux_loss_coef": getattr(mlp, "balance_loss", None),
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }
  for block in model.blocks():
    mixer: Any = block.mixer.module
    kind = _LINEAR if isinstance(mixer, LightningAttention) else _ATTENTION
    kinds.append(kind)
    for name in ("alpha", "beta"):
      pair = block.skip_scale if name == "alpha" else block.residual_scale
      values[f"{_KEYS[kind]}_{name}_factor"] = pair[0]
      values[f"mlp_{name}_factor"] = pair[1]
    values["num_attention_heads"] = mixer.heads
    values["head_dim"] = mixer.head_width
    if kind == _LINEAR:
      values["block_size"] = mixer.chunk_size or _BLOCK
      continue
    values["sliding_window"] = mixer.window
    values["num_key_value_heads"] = mixer.kv_heads
    values["rope_parameters"] = write_rotary(mixer)
    if mixer.window is None:
      values["max_position_embeddings"] = mixer.max_length
  return values


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from embedding_rules(model)
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    before = f"backbone/layer_{i - 1}/mlp_norm" if i else "backbone/input_norm"
    yield r.same(f"{theirs}.input_layernorm.weight", f"{before}/scale")
    name = f"{theirs}.post_attention_layernorm.weight"
    yield r.same(name, f"{ours}/mixer_norm/scale")
    block, mixer = f"{theirs}.self_attn", mixer_of(model, i)
    if isinstance(mixer, LightningAttention):
      yield from _lightning(block, f"{ours}/mixer", mixer)
      yield from _powers(block, mixer, i, model)
    else:
      yield from parts.attention(block, f"{ours}/mixer", mixer)
    yield from _experts(f"{theirs}.block_sparse_moe", f"{ours}/mlp", model, i)
  last = f"backbone/layer_{model.depth - 1}/mlp_norm/scale"
  yield r.same("model.norm.weight", last)


def _lightning(
  theirs: str, ours: str, mixer: LightningAttention
) -> Iterator[r.Rule]:
  heads, width = mixer.heads, mixer.head_width or 0
  # The rows of each head are its query, its key and its value.
  rows = np.arange(3 * heads * width).reshape(heads, 3, width)
  paths = [f"{ours}/{name}/kernel" for name in ("query", "key", "value")]
  order = rows.transpose(1, 0, 2).ravel()
  yield r.split(f"{theirs}.qkv_proj.weight", paths, [heads * width] * 3, order)
  yield from r.dense(f"{theirs}.output_gate", f"{ours}/output_gate")
  yield from r.dense(f"{theirs}.out_proj", f"{ours}/output")
  yield r.same(f"{theirs}.norm.weight", f"{ours}/norm/scale")


def _powers(
  theirs: str, mixer: LightningAttention, layer: int, model: LanguageModel
) -> Iterator[r.Rule]:
  """The constants of a file, which are functions of the decays."""
  heads, size = mixer.heads, mixer.chunk_size or _BLOCK
  dtype = np.dtype(model.param_dtype)

  def slopes() -> np.ndarray:
    place = layer / (model.depth - 1 + 1e-5)
    # Rounded to float32 in the places where the public code rounds.
    base = np.float32(2 ** (-8 / heads)).astype(np.float64)
    rates = (base ** np.arange(1, heads + 1)).astype(np.float32)
    return (rates * np.float32(1 - place + 1e-5))[:, None, None]

  def decay(exponents: np.ndarray) -> np.ndarray:
    logs = slopes() * exponents.astype(np.float32)
    return np.exp(-logs.astype(np.float64)).astype(np.float32).astype(dtype)

  places = np.arange(1, size + 1)[:, None]

  def diagonal() -> np.ndarray:
    ahead = places - places.T
    return (decay(np.abs(ahead)) * (ahead >= 0).astype(dtype))[None]

  values = {
    "slope_rate": lambda: slopes().astype(dtype),
    "query_decay": lambda: decay(places),
    "key_decay": lambda: decay(size - places),
    "diagonal_decay": diagonal,
  }
  for name, value in values.items():
    yield r.constant(f"{theirs}.{name}", value)


def _experts(
  theirs: str, ours: str, model: LanguageModel, layer: int
) -> Iterator[r.Rule]:
  count = mlp_of(model, layer).experts
  yield r.kernel(f"{theirs}.gate.weight", f"{ours}/router/kernel")
  for their, our in (("w1", "gate"), ("w3", "value"), ("w2", "output")):
    names = [f"{theirs}.experts.{e}.{their}.weight" for e in range(count)]
    yield r.stacked(names, f"{ours}/{our}")


FAMILY = Family(
  name="minimax",
  model_types=("minimax",),
  architecture="MiniMaxForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(LightningAttention, SoftmaxAttention),
)
