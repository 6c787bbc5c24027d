"""The first state of a run, perhaps with the variables of a checkpoint."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from jaxmodels import interop
from jaxmodels.models import LoRA
from train.config.start import folder_of
from train.errors import UserError, described
from train.parameters import path_of
from train.state import TrainState, base_variables


def first_state(
  start: str | None,
  model: nn.Module,
  draw: Callable[..., TrainState],
  shapes: TrainState,
) -> Any:
  """Returns the program that maps a seed to the first state of a run.

  Args:
    start: The folder that the run starts from, or None.
    model: The model of the config.
    draw: What `train.state.initial_state` returned.
    shapes: The shapes and shardings of the state.
  """
  if start is not None:
    return Started(start, model, draw, shapes)
  # Drawn sharded, so that no device holds all parameters of a large model.
  places = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(draw, out_shardings=places)


class Started:
  """The program that draws the first state of a run with `config.start`.

  The folder is read at every call, because its variables need as much memory as
  the state; a run that resumes does not call it.

  Args:
    start: The folder.
    model: The model of the config.
    draw: What `train.state.initial_state` returned.
    shapes: The shapes and shardings of the state.
  """

  def __init__(
    self,
    start: str,
    model: nn.Module,
    draw: Callable[..., TrainState],
    shapes: TrainState,
  ):
    self._start = start
    self._wanted = base_variables(model, shapes)
    inner: Any = model.model if isinstance(model, LoRA) else model
    self._scans = getattr(inner, "scan_layers", False)
    places = jax.tree.map(lambda x: x.sharding, shapes)
    # The state takes the memory of what was read.
    self._draw = jax.jit(draw, donate_argnums=1, out_shardings=places)

  def __call__(self, seed: Any) -> TrainState:
    """Returns the state of a seed."""
    return self._draw(seed, self._loaded())

  def lower(self, seed: Any) -> Any:
    """Returns the uncompiled program."""
    return self._draw.lower(seed, self._wanted)

  def _loaded(self) -> Any:
    places = traverse_util.flatten_dict(self._wanted["params"], sep="/")

    def placement(path: str, shape: Any) -> Any:
      del shape
      # Only a folder of another model has other paths: see `check`.
      return places[path].sharding if path in places else None

    try:
      _, variables = interop.load(
        folder_of(self._start), placement=placement, scan_layers=self._scans
      )
    # The folder may hold anything.
    except Exception as error:
      raise UserError(f"config.start: {described(error)}") from error
    check(self._start, variables, self._wanted)
    return jax.tree.map(
      lambda x, like: x.astype(like.dtype), variables, self._wanted
    )


def check(start: str, given: Any, wanted: Any) -> None:
  """Checks that a folder has the variables of a model.

  Args:
    start: The folder.
    given: Its variables.
    wanted: The shapes of those of the model.

  Raises:
    UserError: Names the first that is missing, left over, or of another shape.
  """
  found, known = (
    {
      path_of(keys): tuple(leaf.shape)
      for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    for tree in (given, wanted)
  )
  for path in sorted(found.keys() | known.keys()):
    if path not in found:
      line = f"{start} has no {path}, which config.model needs"
    elif path not in known:
      line = f"{start} has {path}, which config.model does not have"
    elif found[path] != known[path]:
      line = (
        f"{path} of {start} has the shape {found[path]}, but config.model needs"
        f" {known[path]}"
      )
    else:
      continue
    raise UserError(f"config.start: {line}")
