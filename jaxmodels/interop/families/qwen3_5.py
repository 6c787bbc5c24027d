"""Qwen3.5, text: `Qwen3_5ForCausalLM` of transformers.

A file of a model for text and images is read too, without the tensors of the
images.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import qwen
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family, mlp_of
from jaxmodels.mixers import GatedDeltaNet, SoftmaxAttention
from jaxmodels.models import LanguageModel

_DEFAULTS = {
  "hidden_size": 4096,
  "num_key_value_heads": 4,
  "vocab_size": 248_320,
}


_OF_IMAGES = (
  "image_token_id",
  "language_model_only",
  "video_token_id",
  "vision_config",
  "vision_end_token_id",
  "vision_start_token_id",
)
# The names in files of models for text and images.
RENAME = ((r"^model\.language_model\.", "model."),)


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  config = text_part(config, "qwen3_5")
  width = config.get("hidden_size", _DEFAULTS["hidden_size"])
  mlp = qwen.read_dense(config, width, 12_288)
  depth = config.get("num_hidden_layers", 32)
  return qwen.read_stack(config, [mlp] * depth, **_DEFAULTS)


def text_part(config: Config, kind: str) -> Config:
  """The part of a config that holds the language model.

  Args:
    config: The config.
    kind: The `model_type` of models for text and images.
  """
  config.ignore("text_config", *_OF_IMAGES)
  if config.get("model_type") != kind:
    return config
  config.ignore("tie_word_embeddings")
  return config.part("text_config")


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return qwen.write_stack(model) | qwen.write_dense(mlp_of(model, 0))


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  return qwen.stack_rules(model, linear_rules)


def linear_rules(
  theirs: str, ours: str, mixer: GatedDeltaNet
) -> Iterator[r.Rule]:
  """The rules of the input projections of Gated DeltaNet."""
  yield r.split(
    f"{theirs}.in_proj_qkv.weight",
    [f"{ours}/{name}/kernel" for name in ("query", "key", "value")],
    qwen.linear_parts(mixer),
  )
  yield from r.dense(f"{theirs}.in_proj_z", f"{ours}/output_gate")
  yield from r.dense(f"{theirs}.in_proj_b", f"{ours}/beta")
  yield from r.dense(f"{theirs}.in_proj_a", f"{ours}/decay")


FAMILY = Family(
  name="qwen3_5",
  model_types=("qwen3_5_text", "qwen3_5"),
  architecture="Qwen3_5ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(GatedDeltaNet, SoftmaxAttention),
  rename=RENAME,
  skip=qwen.SKIP,
)
