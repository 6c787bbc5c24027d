"""Rotary positions in the configs of transformers, read and written."""

import math
from typing import Any

from jaxmodels.interop.config import Config, FolderError
from jaxmodels.mixers import SoftmaxAttention

__all__ = ["read_rotary", "write_rotary"]

_KINDS = ("default", "dynamic", "linear", "llama3", "yarn")


def read_rotary(
  config: Config,
  head_width: int,
  max_length: int,
  *,
  base: float = 10_000.0,
  fraction: float = 1.0,
  ignore: tuple[str, ...] = (),
) -> dict[str, Any]:
  """The rotary fields of `SoftmaxAttention`.

  Reads `rope_parameters`, or the older keys `rope_theta`, `rope_scaling` and
  `partial_rotary_factor`. A base that is null stands for no rotation.

  Args:
    config: The config of the model.
    head_width: K.
    max_length: `max_position_embeddings`.
    base: The base where the config has none.
    fraction: The fraction of rotated channels where the config has none.
    ignore: Keys of `rope_parameters` that have no effect on text.

  Raises:
    FolderError: A kind of scaling is not supported.
  """
  old = config.get("rope_scaling") is not None
  config.ignore("rope_parameters")
  part = config.part("rope_scaling" if old else "rope_parameters")
  part.ignore(*ignore)
  theta = part.get("rope_theta", config.get("rope_theta", base))
  fraction = part.get(
    "partial_rotary_factor", config.get("partial_rotary_factor", fraction)
  )
  kind = part.first(("rope_type", "type"), "default")
  if kind not in _KINDS:
    known = ", ".join(_KINDS)
    raise FolderError(f"{part.where}: rope_type is {kind!r}; known: {known}")
  if theta is None:
    return {"rotary_fraction": 0.0}
  fields = _channels(float(theta), fraction, head_width)
  return fields | _scaling(part, kind, max_length)


def _channels(base: float, fraction: float, head_width: int) -> dict[str, Any]:
  """The base, and a fraction that rotates an even number of channels."""
  # Published code rounds down. It rotates an odd number n as n + 1 channels, by
  # the speeds base^(-2i / n).
  count = int(fraction * head_width + 1e-9)
  if count % 2:
    base, count = base ** ((count + 1) / count), count + 1
  if fraction * head_width != count:
    fraction = count / head_width
  return {"rotary_base": base, "rotary_fraction": fraction}


def _scaling(part: Config, kind: str, max_length: int) -> dict[str, Any]:
  """The fields for sequences that are longer than those of the training."""
  if kind == "default":
    return {}
  if kind == "dynamic":
    # It changes the base beyond `max_position_embeddings` only.
    part.ignore("factor", "original_max_position_embeddings")
    return {}
  if kind == "linear":
    return {"rotary_factor": float(part["factor"])}
  length = part.get("original_max_position_embeddings", max_length)
  if kind == "llama3":
    turns = part["low_freq_factor"], part["high_freq_factor"]
    factor, more = part["factor"], {}
  else:
    turns = part.get("beta_slow") or 1, part.get("beta_fast") or 32
    factor = part.get("factor") or max_length / length
    whole = part.get("truncate", True)
    more = {
      "rotary_ramp": "whole_channels" if whole else "channels",
      "rotary_gain": _gain(part, factor),
    }
  return {
    "rotary_factor": float(factor),
    "rotary_length": length,
    "rotary_turns": (float(turns[0]), float(turns[1])),
    **more,
  }


def _gain(part: Config, factor: float) -> float:
  """The factor of YaRN on the rotated channels."""
  given = part.get("attention_factor")
  above, below = part.get("mscale"), part.get("mscale_all_dim")
  if given is not None:
    return float(given)

  def gain(scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

  return gain(above) / gain(below) if above and below else gain(1.0)


def write_rotary(
  mixer: SoftmaxAttention, fraction: float = 1.0
) -> dict[str, Any]:
  """The value of `rope_parameters`; the fraction is that of the class."""
  if mixer.rotary_fraction == 0:
    return {"rope_type": "default", "rope_theta": None}
  values: dict[str, Any] = {"rope_theta": mixer.rotary_base}
  if mixer.rotary_fraction != fraction:
    values["partial_rotary_factor"] = mixer.rotary_fraction
  if mixer.rotary_length is None:
    if mixer.rotary_factor == 1:
      return {"rope_type": "default", **values}
    return {"rope_type": "linear", "factor": mixer.rotary_factor, **values}
  values["factor"] = mixer.rotary_factor
  values["original_max_position_embeddings"] = mixer.rotary_length
  slow, fast = mixer.rotary_turns
  if mixer.rotary_ramp == "turns":
    values |= {"low_freq_factor": slow, "high_freq_factor": fast}
    return {"rope_type": "llama3", **values}
  values |= {"beta_slow": slow, "beta_fast": fast}
  values["truncate"] = mixer.rotary_ramp == "whole_channels"
  values["attention_factor"] = mixer.rotary_gain
  return {"rope_type": "yarn", **values}
