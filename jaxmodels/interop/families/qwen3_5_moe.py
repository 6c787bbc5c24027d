"""Qwen3.5 with experts, text: `Qwen3_5MoeForCausalLM` of transformers."""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import qwen
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.families import qwen3_5
from jaxmodels.interop.family import Family, mlp_of
from jaxmodels.mixers import GatedDeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel

_DEFAULTS = {
  "hidden_size": 2048,
  "num_key_value_heads": 2,
  "vocab_size": 248_320,
}


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  config = qwen3_5.text_part(config, "qwen3_5_moe")
  config.expect("norm_topk_prob", True)
  mlp = qwen.read_experts(
    config, config.get("hidden_size", _DEFAULTS["hidden_size"]), 256, 8
  )
  depth = config.get("num_hidden_layers", 40)
  return qwen.read_stack(config, [mlp] * depth, **_DEFAULTS)


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return qwen.write_stack(model) | qwen.write_experts(mlp_of(model, 0))


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return qwen.stack_rules(model, qwen3_5.linear_rules)


FAMILY = Family(
  name="qwen3_5_moe",
  model_types=("qwen3_5_moe_text", "qwen3_5_moe"),
  architecture="Qwen3_5MoeForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedDeltaNet, SoftmaxAttention),
  rename=qwen3_5.RENAME,
  skip=qwen.SKIP,
)
