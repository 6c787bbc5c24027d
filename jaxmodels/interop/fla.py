"""What the models of flash-linear-attention (fla) share.

A layer is `x + attn(attn_norm(x))`, then `x + mlp(mlp_norm(x))` with a gated
MLP. The key `attn` puts softmax attention into some of the layers.
"""

from collections.abc import Callable, Iterator
from typing import Any

from flax import linen as nn

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import mixer_of, mlp_of
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import SoftmaxAttention
from jaxmodels.models import LanguageModel

__all__ = ["read_stack", "stack_rules", "write_stack"]

_NEUTRAL = (
  "attn_mode", "fuse_cross_entropy", "fuse_linear_cross_entropy", "fuse_norm",
  "fuse_swiglu", "use_l2warp",
)  # fmt: skip


def read_stack(
  config: Config,
  mixer: nn.Module,
  depth: int = 24,
  width: int = 2048,
  ratio: int = 4,
) -> LanguageModel:
  """The model of a config.

  Args:
    config: The config, of which the mixer has read its own keys.
    mixer: The mixer of all layers that `attn` does not name.
    depth: The number of layers where the config has none.
    width: The width where the config has none.
    ratio: The `hidden_ratio` where the config has none.
  """
  width = config.get("hidden_size", width)
  config.ignore(*_NEUTRAL)
  config.expect("attnres_block_size", None)
  config.expect("hidden_act", "swish", "silu")
  depth = config.get("num_hidden_layers", depth)
  mixers = [mixer] * depth
  specs = config.get("attn")
  length = config.get("max_position_embeddings", 2048)
  for spec in specs if isinstance(specs, list) else [specs] if specs else []:
    for layer in spec["layers"]:
      mixers[layer] = _attention(spec, width, length)
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32_000),
    width=width,
    depth=depth,
    mixers=parts.shortest(mixers),
    mlp=GatedMLP(width, hidden=_hidden(config, width, ratio)),
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=config.get("norm_eps", 1e-6),
  )


def _hidden(config: Config, width: int, ratio: int) -> int:
  """The hidden width of the MLP: by default a multiple of 256."""
  ratio = config.get("hidden_ratio", ratio)
  hidden = config.get("intermediate_size")
  if hidden is None:
    hidden = int(width * (4 if ratio is None else ratio) * 2 / 3)
    hidden = -(-hidden // 256) * 256
  return hidden


def _attention(spec: dict[str, Any], width: int, length: int) -> nn.Module:
  known = {
    "layers", "num_heads", "num_kv_heads", "qkv_bias", "rope_theta",
    "window_size",
  }  # fmt: skip
  if unknown := sorted(spec.keys() - known):
    raise FolderError(f"config.json: attn has the unknown keys {unknown}")
  window = spec.get("window_size")
  bound = {"max_length": length} if window is None else {"window": window}
  return SoftmaxAttention(
    width,
    heads=spec["num_heads"],
    kv_heads=spec.get("num_kv_heads") or spec["num_heads"],
    qkv_bias=spec.get("qkv_bias", False),
    rotary_base=float(spec.get("rope_theta", 10_000.0)),
    **bound,
  )


def write_stack(
  model: LanguageModel, write: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
  """The config of a model.

  Args:
    model: The model.
    write: Makes the keys of the mixer.
  """
  specs: list[dict[str, Any]] = []
  values: dict[str, Any] = {}
  for layer in range(model.depth):
    mixer = mixer_of(model, layer)
    if not isinstance(mixer, SoftmaxAttention):
      values |= write(mixer)
      continue
    spec = _spec(mixer)
    if mixer.window is None:
      values["max_position_embeddings"] = mixer.max_length
    for other in specs:
      if {**other, "layers": []} == spec:
        other["layers"].append(layer)
        break
    else:
      specs.append({**spec, "layers": [layer]})
  mlp = mlp_of(model, 0)
  return {
    **values,
    "attn": specs or None,
    "hidden_size": model.width,
    "intermediate_size": mlp.hidden,
    "norm_eps": model.norm_epsilon,
    "num_hidden_layers": model.depth,
    "tie_word_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def _spec(mixer: SoftmaxAttention) -> dict[str, Any]:
  return {
    "layers": [],
    "num_heads": mixer.heads,
    "num_kv_heads": mixer.kv_heads,
    "qkv_bias": mixer.qkv_bias,
    "rope_theta": mixer.rotary_base,
    "window_size": mixer.window,
  }


def stack_rules(
  model: LanguageModel,
  mixer_rules: Callable[[str, str, Any], Iterator[r.Rule]],
) -> Iterator[r.Rule]:
  """The rules of a model.

  Args:
    model: The model.
    mixer_rules: `(theirs, ours, mixer) -> rules` of a mixer.
  """
  yield from parts.outside(model, embedding="model.embeddings")
  for i in range(model.depth):
    theirs, ours = f"model.layers.{i}", f"backbone/layer_{i}"
    mixer = mixer_of(model, i)
    yield r.same(f"{theirs}.attn_norm.weight", f"{ours}/mixer_norm/scale")
    yield r.same(f"{theirs}.mlp_norm.weight", f"{ours}/mlp_norm/scale")
    yield from parts.gated_mlp(f"{theirs}.mlp", f"{ours}/mlp")
    softmax = isinstance(mixer, SoftmaxAttention)
    own = parts.attention if softmax else mixer_rules
    yield from own(f"{theirs}.attn", f"{ours}/mixer", mixer)
