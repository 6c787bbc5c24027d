"""Mamba-2: `Mamba2ForCausalLM` of transformers.

Dao & Gu 2024, arXiv:2405.21060. A layer is one mixer. The rows of `in_proj` are
the gate, the input with B and C, and the step.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import mamba_keys as keys
from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family, mixer_of
from jaxmodels.mixers import Mamba2
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 4096)
  epsilon = config.get("layer_norm_epsilon", 1e-5)
  expand, head_width = config.get("expand", 2), config.get("head_dim", 64)
  config.expect("num_heads", expand * width // head_width)
  config.ignore("chunk_size", "residual_in_fp32", "rescale_prenorm_residual")
  config.ignore("time_step_rank", "time_step_floor")
  config.ignore("time_step_min", "time_step_max")
  bias = config.get("use_bias", False)
  mixer = Mamba2(
    width,
    expand=expand,
    head_width=head_width,
    state_width=config.get("state_size", 128),
    groups=config.get("n_groups", 8),
    kernel_width=config.get("conv_kernel", 4),
    norm_epsilon=epsilon,
    step_limits=keys.limits(config),
    input_bias=bias,
    output_bias=bias,
    convolution_bias=config.get("use_conv_bias", True),
    activation=read_activation(config, "hidden_act", "silu"),
  )
  return LanguageModel(
    vocab_size=config.get("vocab_size", 32768),
    width=width,
    depth=config.get("num_hidden_layers", 64),
    mixers=(mixer,),
    mlp="none",
    tie_embeddings=config.get("tie_word_embeddings", False),
    norm_epsilon=epsilon,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixer = mixer_of(model, 0)
  return {
    "conv_kernel": mixer.kernel_width,
    "expand": mixer.expand,
    "head_dim": mixer.head_width,
    "hidden_act": written_activation(mixer.activation),
    "hidden_size": model.width,
    "layer_norm_epsilon": model.norm_epsilon,
    "n_groups": mixer.groups,
    "num_heads": mixer.inner_width // mixer.head_width,
    "num_hidden_layers": model.depth,
    "state_size": mixer.state_width,
    "tie_word_embeddings": model.tie_embeddings,
    "time_step_limit": keys.write_limits(mixer.step_limits),
    "use_bias": mixer.input_bias,
    "use_conv_bias": mixer.convolution_bias,
    "vocab_size": model.vocab_size,
  }


def rules(
  model: LanguageModel, table: str = "backbone.embeddings.weight"
) -> Iterator[r.Rule]:
  """The rules of the whole model; `table` is the name of the embeddings."""
  return parts.mixer_stack(model, mixer_rules, table)


def mixer_rules(theirs: str, ours: str, mixer: Mamba2) -> Iterator[r.Rule]:
  """The rules of one mixer, which several hybrids have."""
  inner = mixer.inner_width
  shared = 2 * mixer.groups * mixer.state_width
  sizes = (inner, inner + shared, inner // mixer.head_width)
  for their, our, biased in (
    ("weight", "kernel", True),
    ("bias", "bias", mixer.input_bias),
  ):
    if biased:
      names = [f"{ours}/{name}/{our}" for name in ("gate", "input", "step")]
      yield r.split(f"{theirs}.in_proj.{their}", names, sizes)
  bias = mixer.convolution_bias
  yield from r.convolution(f"{theirs}.conv1d", f"{ours}/convolution", bias)
  for name in ("A_log", "D", "dt_bias"):
    yield r.same(f"{theirs}.{name}", f"{ours}/{name}")
  if mixer.gated_norm != "none":
    yield r.same(f"{theirs}.norm.weight", f"{ours}/norm/scale")
  yield from r.dense(f"{theirs}.out_proj", f"{ours}/output", mixer.output_bias)


FAMILY = Family(
  name="mamba2",
  model_types=("mamba2",),
  architecture="Mamba2ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba2,),
)
