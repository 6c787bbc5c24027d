"""Gated DeltaNet: `GatedDeltaNetForCausalLM` of flash-linear-attention.

Yang et al. 2024, arXiv:2412.06464.
"""

import math
from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import fla
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import delta_net
from jaxmodels.interop.family import Family
from jaxmodels.mixers import DeltaNet, GatedDeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  gate = config.get("use_gate", True)
  config.expect("output_gate_activation", "swish", "silu", "sigmoid")
  activation = config.get("output_gate_activation", "swish")
  mixer = GatedDeltaNet(
    config.get("hidden_size", 2048),
    output_gate=gate,
    output_gate_activation="sigmoid"
    if gate and activation == "sigmoid"
    else None,
    **read_heads(config, heads=6, head_width=256, expand=2.0),
  )
  return fla.read_stack(config, mixer, depth=21)


def read_heads(
  config: Config, heads: int, head_width: int, expand: float
) -> dict[str, Any]:
  """The fields of a delta rule with heads of their own number and widths."""
  heads = config.get("num_heads", heads)
  head_width = config.get("head_dim", head_width)
  value_heads = config.get("num_v_heads")
  value_heads = heads if value_heads is None else value_heads
  return {
    "heads": value_heads,
    "key_heads": heads,
    "key_width": head_width,
    "value_width": round(head_width * config.get("expand_v", expand)),
    "negative_eigenvalues": config.get("allow_neg_eigval", False),
    "kernel_width": delta_net.kernel_width(config),
    "norm_epsilon": config.get("norm_eps", 1e-6),
  }


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return fla.write_stack(model, _write_mixer)


def _write_mixer(mixer: GatedDeltaNet) -> dict[str, Any]:
  return {
    "output_gate_activation": mixer.output_gate_activation or "swish",
    "use_gate": mixer.output_gate,
    **write_heads(mixer),
  }


def write_heads(mixer: DeltaNet) -> dict[str, Any]:
  """The keys of `read_heads`."""
  key_width = mixer.key_width or mixer.width // mixer.heads
  value_width = mixer.value_width or mixer.width // mixer.heads
  expand = value_width / key_width
  if int(key_width * expand) < value_width:  # fla rounds the product down.
    expand = math.nextafter(expand, math.inf)
  return {
    "expand_v": expand,
    "head_dim": key_width,
    "num_heads": mixer.key_heads or mixer.heads,
    "num_v_heads": mixer.heads,
    **delta_net.write_shared(mixer),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return fla.stack_rules(model, mixer_rules)


def mixer_rules(
  theirs: str, ours: str, mixer: GatedDeltaNet
) -> Iterator[r.Rule]:
  """The rules of a gated delta rule with separate projections."""
  yield from delta_net.mixer_rules(theirs, ours, mixer)
  yield from r.dense(f"{theirs}.a_proj", f"{ours}/decay")
  for name in ("A_log", "dt_bias"):
    yield r.same(f"{theirs}.{name}", f"{ours}/{name}")


FAMILY = Family(
  name="gated_deltanet",
  model_types=("gated_deltanet",),
  architecture="GatedDeltaNetForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedDeltaNet, SoftmaxAttention),
)
