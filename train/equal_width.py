"""Finds the width at which two configs' models have equal parameters.

  python -m train.equal_width configs/A.py --like configs/B.py

prints the width that gives the model of the first config as many parameters as
that of the second. `--FIELD VALUE` overrides a field of the first config, such
as `--model.mixers s5`.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from jaxmodels.models import count_parameters, equal_width
from train.command import main_with_errors
from train.config import command_line
from train.errors import UserError, one_line
from train.streams import emit

_USAGE = "python -m train.equal_width configs/A.py --like configs/B.py"


@dataclasses.dataclass(frozen=True)
class Options:
  """The flags beside those of the config.

  Attributes:
    like: The config whose model has the wanted number of parameters.
  """

  like: str | None = None


def _of_width(model: nn.Module, width: int) -> nn.Module:
  return model.clone(width=width)


def _run(argv: Sequence[str]) -> int:
  config, (options,) = command_line.read(
    argv, (Options(),), _USAGE, __doc__ or ""
  )
  if options.like is None:
    raise UserError(f"--like is missing: {_USAGE}")
  model: Any = config.model
  if not hasattr(model, "width"):
    raise UserError(f"config.model: {type(model).__name__} has no field width")
  try:
    wanted = count_parameters(command_line.load(options.like).model)
    width = equal_width(functools.partial(_of_width, model), wanted)
    found = count_parameters(_of_width(model, width))
  # A user's own model may refuse more than its width.
  except ValueError as error:
    raise UserError(f"config.model: {one_line(error)}") from error
  emit(
    f"--model.width {width} gives {found:,} parameters; {options.like} has"
    f" {wanted:,}"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main_with_errors(_run))
