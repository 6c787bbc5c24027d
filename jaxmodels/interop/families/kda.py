"""Kimi Delta Attention: `KDAForCausalLM` of flash-linear-attention.

Kimi Team 2025, arXiv:2510.26692.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import fla
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import delta_net, gated_deltanet
from jaxmodels.interop.family import Family
from jaxmodels.mixers import KDA, SoftmaxAttention
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  fields = gated_deltanet.read_heads(config, heads=16, head_width=128, expand=1)
  # It only chooses another kernel, for decays with a bound.
  config.ignore("safe_gate")
  mixer = KDA(
    config.get("hidden_size", 2048),
    gate_rank=fields["value_width"],
    decay_bound=config.get("lower_bound"),
    output_gate_rank=fields["value_width"],
    output_gate_bias=True,
    **fields,
  )
  return fla.read_stack(config, mixer)


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return fla.write_stack(model, _write_mixer)


def _write_mixer(mixer: KDA) -> dict[str, Any]:
  return {
    "lower_bound": mixer.decay_bound,
    "safe_gate": mixer.decay_bound is not None,
    **gated_deltanet.write_heads(mixer),
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return fla.stack_rules(model, _mixer_rules)


def _mixer_rules(theirs: str, ours: str, mixer: KDA) -> Iterator[r.Rule]:
  yield from delta_net.mixer_rules(theirs, ours, mixer)
  yield from r.dense(f"{theirs}.f_proj.0", f"{ours}/decay_down")
  yield from r.dense(f"{theirs}.f_proj.1", f"{ours}/decay")
  yield from r.dense(f"{theirs}.g_proj.0", f"{ours}/output_gate_down")
  yield from r.dense(f"{theirs}.g_proj.1", f"{ours}/output_gate", bias=True)
  for name in ("A_log", "dt_bias"):
    yield r.same(f"{theirs}.{name}", f"{ours}/{name}")


FAMILY = Family(
  name="kda",
  model_types=("kda",),
  architecture="KDAForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(KDA, SoftmaxAttention),
)
