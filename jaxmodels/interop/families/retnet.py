"""RetNet: `RetNetForCausalLM` of flash-linear-attention.

Sun et al. 2023, arXiv:2307.08621. The norm of fla is an RMSNorm per head.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import fla, fla_mixers
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import TRANSFORMERS
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family
from jaxmodels.mixers import RetNet, SoftmaxAttention
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width, heads = config.get("hidden_size", 2048), config.get("num_heads", 8)
  # The model of fla makes no convolutions, whatever these keys say.
  config.ignore("use_short_conv", "conv_size")
  # Its activations have the names of transformers, not those of fla.
  mixer = RetNet(
    width,
    key_width=fla_mixers.head_width(config, "expand_k", 1.0, width, heads),
    value_width=fla_mixers.head_width(config, "expand_v", 2.0, width, heads),
    norm="rms",
    **fla_mixers.read_gated(config, heads, TRANSFORMERS),
  )
  return fla.read_stack(config, mixer, ratio=2)


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return fla.write_stack(model, _write_mixer)


def _write_mixer(mixer: RetNet) -> dict[str, Any]:
  return {
    **fla_mixers.write_widths(mixer),
    **fla_mixers.write_gated(mixer, TRANSFORMERS),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return fla.stack_rules(model, _mixer_rules)


def _mixer_rules(theirs: str, ours: str, mixer: RetNet) -> Iterator[r.Rule]:
  names = {"q": "query", "k": "key", "v": "value"}
  yield from fla_mixers.projections(theirs, ours, names, None)
  yield from fla_mixers.gated_rules(theirs, ours, mixer)


FAMILY = Family(
  name="retnet",
  model_types=("retnet",),
  architecture="RetNetForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(RetNet, SoftmaxAttention),
  rename=fla_mixers.other_name,
)
