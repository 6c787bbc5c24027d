"""Mamba: `MambaForCausalLM` of transformers.

Gu & Dao 2023, arXiv:2312.00752. A layer is one mixer. The rows of `in_proj` are
the input and the gate, and those of `x_proj` are the step, B and C.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxmodels.interop import parts
from jaxmodels.interop import rules as r
from jaxmodels.interop.activations import read_activation, written_activation
from jaxmodels.interop.config import Config
from jaxmodels.interop.family import Family, mixer_of
from jaxmodels.mixers import Mamba
from jaxmodels.models import LanguageModel

# How parameters are initialised, which of several equal loops runs, and keys of
# mamba_ssm that converted models keep.
NEUTRAL = (
  "d_inner", "d_model", "fused_add_norm", "n_layer", "pad_vocab_size_multiple",
  "rescale_prenorm_residual", "residual_in_fp32", "rms_norm", "ssm_cfg",
  "time_step_floor",
  "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale",
  "use_associative_scan", "use_mambapy",
)  # fmt: skip


def read(config: Config, **fields: Any) -> LanguageModel:
  """The model of a config; fields of the mixer differ between families."""
  width = config.get("hidden_size", 768)
  config.ignore(*NEUTRAL)
  mixer = Mamba(
    width,
    state_width=config.get("state_size", 16),
    step_rank=read_rank(config, "time_step_rank", width),
    kernel_width=config.get("conv_kernel", 4),
    use_bias=config.get("use_bias", False),
    convolution_bias=config.get("use_conv_bias", True),
    activation=read_activation(config, "hidden_act", "silu"),
    **read_inner(config, width),
    **fields,
  )
  return LanguageModel(
    vocab_size=config.get("vocab_size", 50280),
    width=width,
    depth=config.get("num_hidden_layers", 32),
    mixers=(mixer,),
    mlp="none",
    tie_embeddings=config.get("tie_word_embeddings", True),
    norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
  )


def read_rank(config: Config, key: str, width: int) -> int | None:
  """The rank of the step, None if it is the default of the mixer."""
  rank = config.get(key, "auto")
  return None if rank in ("auto", -(-width // 16)) else rank


def read_inner(config: Config, width: int) -> dict[str, Any]:
  """The fields of the inner width, which `intermediate_size` overrides."""
  expand = config.get("expand", 2)
  inner = config.get("intermediate_size", int(expand * width))
  return {"inner_width": inner} if inner % width else {"expand": inner // width}


def inner_width(mixer: Mamba) -> int:
  """E."""
  return mixer.inner_width or mixer.expand * mixer.width


def step_rank(mixer: Mamba) -> int:
  """The rank of the step."""
  return mixer.step_rank or -(-mixer.width // 16)


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  mixer = mixer_of(model, 0)
  inner = inner_width(mixer)
  return {
    "conv_kernel": mixer.kernel_width,
    "expand": -(-inner // model.width),
    "hidden_act": written_activation(mixer.activation),
    "hidden_size": model.width,
    "intermediate_size": inner,
    "layer_norm_epsilon": model.norm_epsilon,
    "num_hidden_layers": model.depth,
    "state_size": mixer.state_width,
    "tie_word_embeddings": model.tie_embeddings,
    "time_step_rank": step_rank(mixer),
    "use_bias": mixer.use_bias,
    "use_conv_bias": mixer.convolution_bias,
    "vocab_size": model.vocab_size,
  }


def rules(
  model: LanguageModel, table: str = "backbone.embeddings.weight"
) -> Iterator[r.Rule]:
  """The rules of the whole model; `table` is the name of the embeddings."""
  return parts.mixer_stack(model, mixer_rules, table)


def input_rules(
  theirs: str, ours: str, mixer: Mamba, order: np.ndarray | None = None
) -> Iterator[r.Rule]:
  """The rules up to the convolution; `order` is that of `rules.split`."""
  sizes = (inner_width(mixer),) * 2
  for kind, name in (("weight", "kernel"), ("bias", "bias")):
    if kind == "weight" or mixer.use_bias:
      both = (f"{ours}/input/{name}", f"{ours}/gate/{name}")
      yield r.split(f"{theirs}.in_proj.{kind}", both, sizes, order)
  yield from r.convolution(
    f"{theirs}.conv1d", f"{ours}/convolution", mixer.convolution_bias
  )


def mixer_rules(theirs: str, ours: str, mixer: Mamba) -> Iterator[r.Rule]:
  """The rules of one mixer, which several families have."""
  rank, states = step_rank(mixer), mixer.state_width
  yield from input_rules(theirs, ours, mixer)
  names = tuple(f"{ours}/{name}/kernel" for name in ("step_down", "B", "C"))
  yield r.split(f"{theirs}.x_proj.weight", names, (rank, states, states))
  yield r.kernel(f"{theirs}.dt_proj.weight", f"{ours}/step_up/kernel")
  yield r.same(f"{theirs}.dt_proj.bias", f"{ours}/dt_bias")
  for name in ("A_log", "D"):
    yield r.same(f"{theirs}.{name}", f"{ours}/{name}")
  yield from r.dense(f"{theirs}.out_proj", f"{ours}/output", mixer.use_bias)


FAMILY = Family(
  name="mamba",
  model_types=("mamba",),
  architecture="MambaForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba,),
)
