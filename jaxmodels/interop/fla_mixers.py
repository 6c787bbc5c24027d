"""What mixers of flash-linear-attention (fla) share: keys and rules."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import (
  FLA,
  read_activation,
  written_activation,
)
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.mixers import GLA, RetNet

__all__ = [
  "gated_rules",
  "head_width",
  "kernel_width",
  "norm_scale",
  "other_name",
  "projections",
  "read_gated",
  "write_gated",
  "write_widths",
]


def head_width(
  config: Config, key: str, default: float, width: int, heads: int
) -> int:
  """The width of a head, from the ratio of all heads to the model's width."""
  total = width * config.get(key, default)
  if abs(total - round(total)) > 1e-6 * total or round(total) % heads:
    raise FolderError(
      f"{config.where}: hidden_size times {key} must be a multiple of "
      f"num_heads = {heads}, got {total}"
    )
  return round(total) // heads


def kernel_width(config: Config) -> int | None:
  """The kernel width of the convolutions, or None if there are none."""
  width = config.get("conv_size", 4)
  return width if config.get("use_short_conv", False) else None


def norm_scale(config: Config) -> bool:
  """Whether the norm of the mixer has a learned scale; null is false."""
  return bool(config.get("elementwise_affine", True))


def read_gated(
  config: Config, heads: int, names: Mapping[str, str] = FLA
) -> dict[str, Any]:
  """The fields that `GLA` and `RetNet` share."""
  kv_heads, phi = config.get("num_kv_heads"), config.get("feature_map")
  if phi is not None:
    phi = read_activation(config, "feature_map", phi, names)
  return {
    "heads": heads,
    "kv_heads": None if kv_heads == heads else kv_heads,
    "feature_map": phi,
    "output_gate": config.get("use_output_gate", True),
    "norm_scale": norm_scale(config),
    "norm_epsilon": config.get("norm_eps", 1e-6),
  }


def write_gated(
  mixer: GLA | RetNet, names: Mapping[str, str] = FLA
) -> dict[str, Any]:
  """The keys that GLA and RetNet share."""
  phi = mixer.feature_map
  return {
    "elementwise_affine": mixer.norm_scale,
    "feature_map": None if phi is None else written_activation(phi, names),
    "num_heads": mixer.heads,
    "num_kv_heads": mixer.kv_heads,
    "use_output_gate": mixer.output_gate,
  }


def write_widths(mixer: GLA | RetNet) -> dict[str, Any]:
  """The ratios of all heads to the model's width."""
  widths = {"expand_k": mixer.key_width, "expand_v": mixer.value_width}
  return {
    key: width * mixer.heads / mixer.width
    for key, width in widths.items()
    if width is not None
  }


def projections(
  theirs: str, ours: str, names: Mapping[str, str], kernel_width: int | None
) -> Iterator[r.Rule]:
  """Projections and their convolutions, by their letter and our name."""
  for letter, name in names.items():
    yield from r.dense(f"{theirs}.{letter}_proj", f"{ours}/{name}")
    if kernel_width is not None:
      yield from r.convolution(
        f"{theirs}.{letter}_conv1d", f"{ours}/{name}_convolution"
      )


def gated_rules(
  theirs: str, ours: str, mixer: GLA | RetNet
) -> Iterator[r.Rule]:
  """The norm, the output gate and the output of GLA and RetNet."""
  if mixer.norm_scale:
    norm = "g_norm_swish_gate" if mixer.output_gate else "g_norm"
    yield r.same(f"{theirs}.{norm}.weight", f"{ours}/norm/scale")
  if mixer.output_gate:
    yield from r.dense(f"{theirs}.g_proj", f"{ours}/output_gate")
  yield from r.dense(f"{theirs}.o_proj", f"{ours}/output")


# With `fuse_norm` off, the norm before a gate has the name of one without.
other_name = ((r"\.g_norm\.weight$", ".g_norm_swish_gate.weight"),)
