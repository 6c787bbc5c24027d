"""Loads the teacher of a distillation, and checks it when a run resumes."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from train import published
from train.config import Mesh, saved, serialize
from train.devices.mesh import check_pieces
from train.devices.parameter_use import layer_axes
from train.errors import UserError, described
from train.losses.distillation import Teacher
from train.parameters import path_of
from train.saved_variables import saved_variables
from train.state import TrainState, initial_state
from train.step import Learner, loss_sums
from train.streams import warn

_KEY = "config.loss.teacher"


def load(loss: Any) -> Teacher | None:
  """Loads the teacher of a loss; None if it has none.

  Args:
    loss: The loss of a config. Its `teacher`, if it has one, is the directory
      of a run or an object with `load()`: see `Distillation`.

  Raises:
    UserError: There is no such run, or the object has no model.
  """
  source = getattr(loss, "teacher", None)
  if source is None:
    return None
  try:
    if isinstance(source, str):
      return _saved(source, loss.teacher_step)
    model, variables = source.load()
    if not isinstance(model, nn.Module):
      raise TypeError(f"load() returned a {type(model).__name__}, not a module")
    return Teacher(model, jax.tree.map(np.asarray, dict(variables)))
  except UserError as error:
    raise UserError(f"{_KEY}: {error}") from error
  # The object is the user's own, and a checkpoint may hold anything.
  except Exception as error:
    raise UserError(f"{_KEY}: {described(error)}") from error


def _saved(workdir: str, step: str) -> Teacher:
  snapshot = published.load(workdir, step, warn)
  config = saved.read_config(snapshot.config)
  variables = saved_variables(config, snapshot.state)
  return Teacher(config.model, variables, snapshot.step)


def variables(learner: Learner) -> Any:
  """The variables of a learner's teacher; an empty tuple without one."""
  return () if learner.teacher is None else learner.teacher.variables


def checked(
  learner: Learner,
  mesh: Mesh,
  state: TrainState,
  example: Any,
  devices: Sequence[Any] | None = None,
) -> Learner:
  """Checks by tracing that the student can learn from its teacher.

  Args:
    learner: Has a teacher.
    mesh: Devices along each axis.
    state: Shapes of the student's state.
    example: The arrays of one example, or their shapes.
    devices: See `train.devices.mesh.make_mesh`.

  Returns:
    The learner, whose teacher knows its scanned layers.

  Raises:
    UserError: The teacher does not take the inputs, or its logits have another
      shape than the student's.
  """
  teacher = learner.teacher
  assert teacher is not None
  check_pieces(
    mesh,
    teacher.model,
    teacher.variables,
    example["inputs"],
    devices,
    learner.sequence,
  )
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), dict(example)
  )

  def sums(params: Any, variables: Any, batch: Any, frozen: Any) -> Any:
    return loss_sums(learner, params, variables, batch, None, frozen)

  try:
    jax.eval_shape(
      sums, state.params, state.variables, shapes, teacher.variables
    )
    layers = None
    if mesh.fsdp > 1:
      none = learner.optimizer
      draw = initial_state(teacher.model, none, example)
      layers = layer_axes(draw, np.uint32(0))
  # The models may be the user's own.
  except Exception as error:
    raise UserError(f"{_KEY}: {described(error)}") from error
  return learner._replace(teacher=teacher._replace(layers=layers))


def reference(teacher: Teacher | None) -> dict[str, Any]:
  """Returns what a checkpoint stores of a teacher: its step, and a hash."""
  if teacher is None:
    return {}
  content = hashlib.sha256()
  try:
    content.update(json.dumps(serialize.to_json(teacher.model)).encode())
  # A module of the user's own may have fields that no config can hold.
  except UserError:
    content.update(type(teacher.model).__name__.encode())
  leaves = jax.tree_util.tree_leaves_with_path(teacher.variables)
  for keys, leaf in leaves:
    array = np.asarray(leaf)
    content.update(f"{path_of(keys)} {array.dtype} {array.shape}".encode())
    content.update(array.tobytes())
  return {"step": teacher.step, "digest": content.hexdigest()}


def refuse_another(
  document: Any, known: Mapping[str, Any], loss: Any, workdir: str
) -> None:
  """Raises a UserError if a run began with another teacher.

  Args:
    document: The config that the run's checkpoint holds.
    known: The `reference` of the teacher now.
    loss: The loss of the config.
    workdir: The run's directory.
  """
  before = document.get("$teacher") or {}
  if before.get("digest") == known.get("digest"):
    return
  if not before or not known:
    now, then = ("a", "no") if known else ("no", "a")
    raise UserError(
      f"{_KEY}: the run in {workdir} began with {then} teacher and the config"
      f" has {now} teacher: undo the change, or give another --workdir"
    )
  line = (
    f"{_KEY}: the teacher {loss.teacher} is not the one that the run in"
    f" {workdir} began with"
  )
  step = before.get("step")
  if step is not None and step != known["step"]:
    raise UserError(
      f"{line}: that was at step {step}, this is at step {known['step']}; set"
      f" config.loss.teacher_step to {str(step)!r}, or give another --workdir"
    )
  raise UserError(f"{line}: put that one back, or give another --workdir")
