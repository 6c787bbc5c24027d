"""The model of a run that starts from a checkpoint of somebody else."""

import dataclasses
import os
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxmodels import interop
from jaxmodels.models.lora import LoRA
from train.config.schema import Config
from train.data.text import Text
from train.data.tokenizer import FILE_NAME
from train.errors import UserError, described


class Pretrained(nn.Module):
  """Stands for the model of the folder `config.start`.

  Before a run begins, the model that the folder describes takes its place.

  Attributes:
    lora_rank: Rank of the changes of a `jaxmodels.models.LoRA`, whose A and B
      alone train; None trains all parameters.
    lora_alpha: The changes are multiplied by lora_alpha / lora_rank.
    lora_targets: Patterns of the paths of parameters that change.
    frozen_a: Whether A keeps its initial value.
    dtype: The dtype of the computation; None for that of the folder's model.
    param_dtype: The dtype that the parameters are converted to. float32 keeps
      the values of a folder in bfloat16 or float16.
    remat: What the backward pass stores: "none", "dots" or "full".
    scan_layers: Whether the model scans over repeats of its pattern of layers,
      which compiles faster.
  """

  lora_rank: int | None = None
  lora_alpha: float = LoRA.alpha
  lora_targets: tuple[str, ...] = LoRA.targets
  frozen_a: bool = False
  dtype: Any = None
  param_dtype: Any = jnp.float32
  remat: str = "none"
  scan_layers: bool = False


def resolved(config: Config) -> Config:
  """Returns a config with the model and the tokenizer of its start.

  The model of the folder replaces a `Pretrained`. `Text` without a tokenizer
  gets that of the folder, if it has one.

  Raises:
    UserError: The folder is missing, or its model cannot be read.
  """
  wanted = config.model
  if not isinstance(wanted, Pretrained):
    return config
  if config.start is None:
    raise UserError(
      "config.start is None, but config.model is Pretrained: give the folder of"
      " a checkpoint in the Hugging Face layout, --start FOLDER"
    )
  model = _model(config.start, wanted)
  if wanted.lora_rank is not None:
    model = LoRA(
      model,
      rank=wanted.lora_rank,
      alpha=wanted.lora_alpha,
      targets=wanted.lora_targets,
      frozen_a=wanted.frozen_a,
    )
  data = config.data
  beside = os.path.isfile(os.path.join(folder_of(config.start), FILE_NAME))
  if beside and isinstance(data, Text) and not data.tokenizer:
    data = dataclasses.replace(data, tokenizer=config.start)
  return dataclasses.replace(config, model=model, data=data)


def folder_of(start: str) -> str:
  """The folder of `config.start`, with the home directory for `~`."""
  return os.path.expanduser(start)


def _model(start: str, wanted: Pretrained) -> nn.Module:
  names = ("remat", "scan_layers", "param_dtype", "dtype")
  changes = {name: getattr(wanted, name) for name in names}
  if wanted.dtype is None:
    del changes["dtype"]
  try:
    return interop.read_model(folder_of(start)).clone(**changes)
  # The folder may hold anything.
  except Exception as error:
    raise UserError(f"config.start: {described(error)}") from error
