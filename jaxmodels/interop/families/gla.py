"""GLA: `GLAForCausalLM` of flash-linear-attention.

Yang et al. 2023, arXiv:2312.06635.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import fla, fla_mixers
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family
from jaxmodels.mixers import GLA, SoftmaxAttention
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width, heads = config.get("hidden_size", 2048), config.get("num_heads", 4)
  # The model of fla has a key gate and no value gate, whatever these keys say.
  config.ignore("use_gk", "use_gv")
  mixer = GLA(
    width,
    key_width=fla_mixers.head_width(config, "expand_k", 0.5, width, heads),
    value_width=fla_mixers.head_width(config, "expand_v", 1.0, width, heads),
    kernel_width=fla_mixers.kernel_width(config),
    lowest_log_decay=config.get("clamp_min"),
    **fla_mixers.read_gated(config, heads),
  )
  return fla.read_stack(config, mixer)


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return fla.write_stack(model, _write_mixer)


def _write_mixer(mixer: GLA) -> dict[str, Any]:
  return {
    "clamp_min": mixer.lowest_log_decay,
    "conv_size": mixer.kernel_width or 4,
    "use_short_conv": mixer.kernel_width is not None,
    **fla_mixers.write_widths(mixer),
    **fla_mixers.write_gated(mixer),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return fla.stack_rules(model, mixer_rules)


def mixer_rules(theirs: str, ours: str, mixer: GLA) -> Iterator[r.Rule]:
  """The rules of one mixer."""
  names = {"q": "query", "k": "key", "v": "value"}
  yield from fla_mixers.projections(theirs, ours, names, mixer.kernel_width)
  yield from r.dense(f"{theirs}.gk_proj.0", f"{ours}/decay_down")
  yield from r.dense(f"{theirs}.gk_proj.1", f"{ours}/decay_up", bias=True)
  yield from fla_mixers.gated_rules(theirs, ours, mixer)


FAMILY = Family(
  name="gla",
  model_types=("gla",),
  architecture="GLAForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GLA, SoftmaxAttention),
  rename=fla_mixers.other_name,
)
