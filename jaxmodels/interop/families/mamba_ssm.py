"""Mamba and Mamba-2 in the layout of their authors' package mamba_ssm.

Gu & Dao 2023, arXiv:2312.00752, and Dao & Gu 2024, arXiv:2405.21060. The config
has no `model_type`, the table of embeddings has another name, and `vocab_size`
is that of the tokenizer: the table has more rows. The published files are
pickles, so they must be converted to safetensors where they are trusted.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.families import mamba, mamba2
from jaxmodels.interop.family import Family, mixer_of
from jaxmodels.interop.mamba_keys import limits, write_limits
from jaxmodels.mixers import Mamba, Mamba2
from jaxmodels.models import LanguageModel

_EPSILON = 1e-5
# How parameters are initialised, and how the published kernels run.
_INITIAL = (
  "A_init_range", "chunk_size", "conv_init", "dt_init", "dt_init_floor",
  "dt_max", "dt_min", "dt_scale", "use_mem_eff_path",
)  # fmt: skip


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("d_model", 2560)
  config.ignore("fused_add_norm", "residual_in_fp32")
  config.expect("rms_norm", True)
  config.expect("d_intermediate", 0)
  config.expect("attn_layer_idx", [])
  config.expect("attn_cfg", {})
  part = config.part("ssm_cfg")
  part.ignore(*_INITIAL)
  kind = part.get("layer", "Mamba1")
  if kind not in ("Mamba1", "Mamba2"):
    raise FolderError(
      f"{part.where}: layer must be Mamba1 or Mamba2, got {kind!r}"
    )
  make = _mamba2 if kind == "Mamba2" else _mamba
  multiple = config.get("pad_vocab_size_multiple", 8)
  return LanguageModel(
    vocab_size=-(-config.get("vocab_size", 50277) // multiple) * multiple,
    width=width,
    depth=config.get("n_layer", 64),
    mixers=(make(part, width),),
    mlp="none",
    tie_embeddings=config.get("tie_embeddings", True),
    norm_epsilon=_EPSILON,
  )


def _mamba(part: Config, width: int) -> Mamba:
  return Mamba(
    width,
    expand=part.get("expand", 2),
    state_width=part.get("d_state", 16),
    step_rank=mamba.read_rank(part, "dt_rank", width),
    kernel_width=part.get("d_conv", 4),
    use_bias=part.get("bias", False),
    convolution_bias=part.get("conv_bias", True),
  )


def _mamba2(part: Config, width: int) -> Mamba2:
  for key, value in (
    ("D_has_hdim", False),
    ("rmsnorm", True),
    ("norm_before_gate", False),
    ("d_ssm", None),
  ):
    part.expect(key, value)
  bias = part.get("bias", False)
  return Mamba2(
    width,
    expand=part.get("expand", 2),
    head_width=part.get("headdim", 64),
    state_width=part.get("d_state", 128),
    groups=part.get("ngroups", 1),
    kernel_width=part.get("d_conv", 4),
    input_bias=bias,
    output_bias=bias,
    convolution_bias=part.get("conv_bias", True),
    step_limits=limits(part, "dt_limit"),
    norm_epsilon=_EPSILON,
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model; its vocabulary counts all rows of the table."""
  mixer = mixer_of(model, 0)
  values = {
    "conv_bias": mixer.convolution_bias,
    "d_conv": mixer.kernel_width,
    "d_state": mixer.state_width,
    "expand": mixer.expand,
  }
  if isinstance(mixer, Mamba2):
    values |= {
      "bias": mixer.input_bias,
      "dt_limit": write_limits(mixer.step_limits),
      "headdim": mixer.head_width,
      "layer": "Mamba2",
      "ngroups": mixer.groups,
    }
  else:
    values |= {
      "bias": mixer.use_bias,
      "dt_rank": mamba.step_rank(mixer),
      "layer": "Mamba1",
    }
  return {
    "d_model": model.width,
    "n_layer": model.depth,
    "pad_vocab_size_multiple": 1,
    "rms_norm": True,
    "ssm_cfg": values,
    "tie_embeddings": model.tie_embeddings,
    "vocab_size": model.vocab_size,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  family = mamba2 if isinstance(mixer_of(model, 0), Mamba2) else mamba
  return family.rules(model, "backbone.embedding.weight")


FAMILY = Family(
  name="mamba_ssm",
  model_types=(),
  architecture="MambaLMHeadModel",
  read=read,
  write=write,
  rules=rules,
  kinds=(Mamba, Mamba2),
  marks=("d_model", "ssm_cfg"),
)
