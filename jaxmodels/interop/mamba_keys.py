"""The keys `mamba_*` that Bamba, Granite 4 and Falcon-H1 have for Mamba-2."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from jaxmodels.interop.activations import read_activation
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import mlp_of
from jaxmodels.interop.rotary import read_rotary, write_rotary
from jaxmodels.layers import GatedMLP
from jaxmodels.mixers import Mamba2, SoftmaxAttention
from jaxmodels.models import LanguageModel

__all__ = [
  "INITIAL",
  "gated_mlp_of",
  "layer_kinds",
  "limits",
  "read_attention",
  "read_mamba",
  "solution",
  "write_attention",
  "write_limits",
  "write_mamba",
  "write_mixers",
]

# Keys of initial values, which some published configs have.
INITIAL = (
  "time_step_floor",
  "time_step_max",
  "time_step_min",
  "time_step_rank",
)
_NAMES = {"mamba": "mamba", "linear_attention": "mamba"}
_NAMES |= {"attention": "attention", "full_attention": "attention"}


def read_mamba(
  config: Config, width: int, epsilon: float, inner: int | None = None
) -> dict[str, Any]:
  """The fields of `Mamba2`.

  Args:
    config: The config of the model.
    width: D.
    epsilon: The epsilon of the norms.
    inner: E, if it is not `mamba_expand` times the width.
  """
  heads = config.get("mamba_n_heads", 128)
  expand = config.get("mamba_expand", 2)
  size = config.get("mamba_d_head", "auto")
  total = int(expand * width) if inner is None else inner
  size = total // heads if size in ("auto", None) else size
  if heads * size != total:
    raise FolderError(
      f"{config.where}: mamba_n_heads times mamba_d_head must be {total}, got "
      f"{heads} times {size}"
    )
  bias = config.get("mamba_proj_bias", False)
  config.ignore("mamba_chunk_size")
  return {
    **({"expand": expand} if inner is None else {"heads": heads}),
    "head_width": size,
    "state_width": config.get("mamba_d_state", 256),
    "groups": config.get("mamba_n_groups", 1),
    "kernel_width": config.get("mamba_d_conv", 4),
    "convolution_bias": config.get("mamba_conv_bias", True),
    "input_bias": bias,
    "output_bias": bias,
    "activation": read_activation(config, "hidden_act", "silu"),
    "step_limits": limits(config),
    "norm_epsilon": epsilon,
  }


def write_mamba(mixer: Mamba2) -> dict[str, Any]:
  """The keys of a mixer; `hidden_act` is left to the family."""
  return {
    "mamba_conv_bias": mixer.convolution_bias,
    "mamba_d_conv": mixer.kernel_width,
    "mamba_d_head": mixer.head_width,
    "mamba_d_state": mixer.state_width,
    "mamba_expand": mixer.expand,
    "mamba_n_groups": mixer.groups,
    "mamba_n_heads": mixer.inner_width // mixer.head_width,
    "mamba_proj_bias": mixer.input_bias,
    "time_step_limit": write_limits(mixer.step_limits),
  }


def limits(config: Config, key: str = "time_step_limit") -> tuple[float, float]:
  """The least and the largest step, by default 0 and infinity."""
  low, high = config.get(key) or (0.0, math.inf)
  return float(low), float(high)


def write_limits(values: tuple[float, float]) -> list[Any]:
  """The limits as transformers writes them: JSON has no infinity."""
  return [
    {"__float__": "Infinity"} if math.isinf(x) else float(x) for x in values
  ]


def layer_kinds(
  config: Config, kinds: list[str] | None, depth: int
) -> list[str]:
  """The kind of each layer, mamba or attention, by older or newer names."""
  kinds = ["mamba"] * depth if kinds is None else kinds
  unknown = sorted(set(kinds) - set(_NAMES))
  if unknown or len(kinds) != depth:
    raise FolderError(
      f"{config.where}: layer_types must be {depth} entries of "
      f"{', '.join(_NAMES)}, got {len(kinds)} with {', '.join(set(kinds))}"
    )
  return [_NAMES[kind] for kind in kinds]


def read_attention(
  config: Config,
  width: int,
  *,
  max_length: int,
  kv_heads: int | None,
  rotary: bool = True,
  fraction: float = 1.0,
  scale: float | None = None,
  key_factor: float = 1.0,
) -> SoftmaxAttention:
  """The softmax attention of a config.

  Args:
    config: The config of the model.
    width: D.
    max_length: `max_position_embeddings` where the config has none.
    kv_heads: `num_key_value_heads` where the config has none; None is H.
    rotary: Whether the model has positions.
    fraction: The rotated fraction where `rope_parameters` has none.
    scale: The factor on the scores; None for 1 / sqrt(K).
    key_factor: Another factor on the scores.
  """
  heads = config.get("num_attention_heads", 32)
  groups = config.get("num_key_value_heads", kv_heads)
  size = config.get("head_dim")
  size = width // heads if size is None else size
  length = config.get("max_position_embeddings", max_length)
  bias = config.get("attention_bias", False)
  # A model without attention may have more heads than channels.
  usual = max(size, 1) ** -0.5
  scale = key_factor * (usual if scale is None else scale)
  if rotary:
    turned = read_rotary(config, size, length, fraction=fraction)
  else:
    turned = {"rotary_fraction": 0.0}
    config.ignore("rope_parameters", "rope_scaling", "rope_theta")
  return SoftmaxAttention(
    width,
    heads=heads,
    kv_heads=heads if groups is None else groups,
    head_width=size,
    max_length=length,
    qkv_bias=bias,
    output_bias=bias,
    scale=None if scale == usual else scale,
    **turned,
  )


def write_attention(
  mixer: SoftmaxAttention, fraction: float = 1.0
) -> dict[str, Any]:
  """The keys of softmax attention; `fraction` is that of the class."""
  size = mixer.head_width or mixer.width // mixer.heads
  values: dict[str, Any] = {
    "attention_bias": mixer.qkv_bias,
    "max_position_embeddings": mixer.max_length,
    "num_attention_heads": mixer.heads,
    "num_key_value_heads": mixer.kv_heads or mixer.heads,
  }
  if mixer.rotary_fraction:
    values["rope_parameters"] = write_rotary(mixer, fraction)
  if size != mixer.width // mixer.heads:
    values["head_dim"] = size
  return values


def write_mixers(
  mixers: Sequence[nn.Module], fraction: float = 1.0
) -> dict[str, Any]:
  """The keys of both kinds of mixers, of which a model may lack one."""
  values: dict[str, Any] = {"mamba_n_heads": 1, "num_attention_heads": 1}
  values["num_key_value_heads"] = 1
  for mixer in mixers:
    if isinstance(mixer, Mamba2):
      values |= write_mamba(mixer)
    elif isinstance(mixer, SoftmaxAttention):
      values |= write_attention(mixer, fraction)
  return values


def gated_mlp_of(model: LanguageModel) -> GatedMLP:
  """The channel mixer of a model in which all are gated MLPs.

  Raises:
    FolderError: They are others.
  """
  mlp = mlp_of(model, 0)
  if not isinstance(mlp, GatedMLP):
    raise FolderError(f"its channel mixer is {type(mlp).__name__}")
  return mlp


def solution(
  function: Callable[[float], float], wanted: float, near: float
) -> float:
  """The number near `near` whose function is exactly `wanted`, if there is one.

  A config has a number x where a field has a function of it, such as 1 / x.
  """
  tried = [round(near, 12), near]
  for direction in (-math.inf, math.inf):
    x = near
    for _ in range(4):
      x = math.nextafter(x, direction)
      tried.append(x)
  return next((x for x in tried if function(x) == wanted), near)
