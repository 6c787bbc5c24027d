"""Saves a run in the Hugging Face layout.

  python -m train.export RUN --to FOLDER

The folder has `config.json`, the parameters for evaluation in safetensors
files, and the tokenizer, if the run began from such a folder or its data have
one. The changes of a `LoRA` are added to the matrices. Other software, and
`--start` of a new run, can read the folder.

`--trust` works as in `train.generate`.
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels import interop
from jaxmodels.models import LanguageModel, without_lora
from train import flags, published
from train.command import main_with_errors, warn
from train.config import Config, modules, saved
from train.data.tokenizer import FILE_NAME
from train.devices import processes
from train.errors import UserError, described, reason
from train.files import paths
from train.flags.kinds import dtype_name
from train.saved_variables import saved_variables
from train.streams import log

# Files beside a checkpoint that say how text becomes tokens.
_TOKENIZER = (
  FILE_NAME,
  "tokenizer_config.json",
  "special_tokens_map.json",
  "generation_config.json",
)
_DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags of the command.

  Attributes:
    workdir: Directory of the run; it may also be the first word, without
      --workdir.
    to: The folder to write; it is made, or must be empty.
    step: Which checkpoint: latest, best, or the number of a step.
    like: A folder in the Hugging Face layout, whose other keys in config.json
      and whose tokenizer are kept; None for the folder that the run began from.
    dtype: float32, bfloat16 or float16 for all parameters; None for the dtypes
      in the folder that the run began from, or else those of the run.
    family: The family of the model, if it fits several; see
      `jaxmodels.interop.FAMILIES`.
    trust: A module whose code the saved config may use: a dotted name, or the
      path of a Python file such as the config.
  """

  workdir: str | None = None
  to: str | None = None
  step: str = "latest"
  like: str | None = None
  dtype: Any = None
  family: str | None = None
  trust: flags.Repeated = ()


_USAGE = "python -m train.export RUN --to FOLDER"


def export(
  config: Config,
  variables: Any,
  folder: str,
  *,
  like: str | None = None,
  dtype: str | None = None,
  family: str | None = None,
) -> None:
  """Saves a model in the Hugging Face layout.

  Args:
    config: The config of the run.
    variables: The variables of its model, see `saved_variables`.
    folder: Where to write.
    like: As for `Options`; None for none.
    dtype: As for `Options`.
    family: As for `Options`.

  Raises:
    UserError: No published family can express the model, or a folder cannot be
      read or written.
  """
  found, variables = without_lora(config.model, variables)
  if not isinstance(found, LanguageModel):
    raise UserError(
      f"the model is a {type(found).__name__}, but only a LanguageModel can be"
      " saved in this layout"
    )
  model: LanguageModel = found
  try:
    if dtype is not None:
      kinds = jax.tree.map(lambda _: jnp.dtype(dtype), variables)
    elif like is not None and like == config.start:
      _, began = interop.load(like, scan_layers=model.scan_layers)
      kinds = jax.tree.map(lambda x: x.dtype, began)
    else:
      kinds = jax.tree.map(lambda x: x.dtype, variables)
    variables = jax.tree.map(lambda x, kind: x.astype(kind), variables, kinds)
    interop.save(folder, model, variables, like=like, family=family)
    _copy_tokenizer(folder, like, getattr(config.data, "tokenizer", ""))
  except OSError as error:
    raise UserError(
      f"cannot write to --to={folder}: {reason(error)}"
    ) from error
  # What a run or a folder holds is not known.
  except Exception as error:
    raise UserError(described(error)) from error


def _copy_tokenizer(folder: str, like: str | None, own: str) -> None:
  """Copies what turns text into tokens, of the run's data or of a folder."""
  if os.path.isfile(own):
    shutil.copyfile(own, os.path.join(folder, FILE_NAME))
    return
  source = own if os.path.isdir(own) else like
  for name in _TOKENIZER if source else ():
    path = os.path.join(str(source), name)
    if os.path.isfile(path):
      shutil.copyfile(path, os.path.join(folder, name))


def _target(options: Options) -> str:
  """The folder to write, which is empty or not there."""
  if options.to is None:
    raise UserError(f"--to is missing: {_USAGE}")
  folder = paths.local("--to", options.to)
  if os.path.isdir(folder) and os.listdir(folder):
    raise UserError(f"--to={folder} is not empty: give another folder")
  if os.path.exists(folder) and not os.path.isdir(folder):
    raise UserError(f"--to={folder} is a file")
  return folder


def _run(argv: Sequence[str]) -> int:
  if argv and not argv[0].startswith("-"):
    argv = [f"--workdir={argv[0]}", *argv[1:]]
  options = flags.only(Options(), argv, _USAGE, __doc__)
  dtype = dtype_name(options.dtype)
  if options.dtype is not None and dtype not in _DTYPES:
    raise UserError(
      f"--dtype is {dtype}, but must be one of {', '.join(_DTYPES)}"
    )
  folder = _target(options)
  workdir = paths.local("--workdir", options.workdir)
  processes.start_jax()
  snapshot = published.load(workdir, options.step, warn)
  trusted = modules.import_trusted(options.trust)
  config = saved.read_config(snapshot.config, trusted)
  like = options.like
  if like is not None:
    like = paths.local("--like", like)
  elif config.start is not None and os.path.isdir(config.start):
    like = config.start
  export(
    config,
    saved_variables(config, snapshot.state),
    folder,
    like=like,
    dtype=dtype,
    family=options.family,
  )
  log(f"step {snapshot.step} of {workdir} is saved in {folder}")
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run, needs_output=False))
