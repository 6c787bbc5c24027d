"""What happens before the first step: open, check, restore."""

import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import numpy as np

from train import checkpoint, processes, serialize
from train.capacity import check_fits
from train.config import Config, Mesh, validate
from train.data import Dataset
from train.errors import UserError, is_disk_full, one_line
from train.mesh import check_pieces
from train.optimizer import make_optimizer, schedule
from train.sharding import Strategy, make_strategy
from train.state import TrainState, initial_state
from train.step import Task

# What may change when a run goes on, since no number of its training depends
# on it.
FREE: tuple[str, ...] = (
  "config.log_every",
  "config.eval_every",
  "config.eval_batches",
  "config.checkpoint_every",
  "config.keep",
  "config.sample",
  "config.debug",
  # Where a state lies is no part of it: it goes on on any devices.
  "config.strategy",
  "config.mesh",
)


class Start(NamedTuple):
  """What the loop begins with.

  Attributes:
    strategy: Runs the steps.
    mesh: Devices along each axis.
    state: Where `strategy.prepare` wants it.
    train: What is trained on.
    validation: What is validated on.
    snapshot: The checkpoint that the state is of, itself without it; None for
      a new run.
  """

  strategy: Strategy
  mesh: Mesh
  state: TrainState
  train: Dataset
  validation: Dataset
  snapshot: checkpoint.Snapshot | None


def open_split(data: Any, split: str) -> Dataset:
  """Opens a split of a config's data.

  Raises:
    UserError: It cannot be opened, or is empty.
  """
  try:
    dataset = data.open(split)
  except (OSError, ValueError, KeyError, ImportError) as error:
    raise UserError(f"config.data: {one_line(error)}") from error
  if len(dataset) == 0:
    raise UserError(f"config.data: the {split} split has no examples")
  return dataset


def make_task(config: Config) -> Task:
  """Puts model and optimizer of a config together."""
  rate = schedule(config.optimizer, config.steps)
  optimizer = make_optimizer(config.optimizer, rate)
  return Task(config.model, optimizer, rate, config.accumulation)


def new_state(
  config: Config, task: Task, length: int
) -> tuple[Callable[[], TrainState], TrainState]:
  """Returns what draws the state before the first step, and its shapes.

  Args:
    config: The run.
    task: Made of it.
    length: Tokens a sequence.

  Raises:
    UserError: The model refuses its configuration.
  """
  draw = initial_state(task.model, task.optimizer, config.seed, length)
  try:
    return draw, jax.eval_shape(draw)
  except (TypeError, ValueError, KeyError, flax.errors.FlaxError) as error:
    raise UserError(f"config.model: {one_line(error)}") from error


def begin(config: Config, workdir: str, say: Callable[[str], None]) -> Start:
  """Opens the data, builds the state, and takes up the run if there is one.

  Args:
    config: The run.
    workdir: Its directory, which is there.
    say: Takes lines for the user.

  Raises:
    UserError: The config is wrong, or not that of the run in `workdir`.
  """
  train = open_split(config.data, "train")
  validation = open_split(config.data, "validation")
  length = np.shape(train[0]["inputs"])[0]
  mesh = validate(
    config,
    devices=jax.device_count(),
    processes=jax.process_count(),
    vocab_size=train.vocab_size,
    length=length,
  )
  task = make_task(config)
  draw, shapes = new_state(config, task, length)
  check_fits(shapes)
  check_pieces(mesh, task.model, shapes.params, length)
  document = serialize.to_json(config)
  processes.check_same(
    {
      "the config": json.dumps(document),
      "the train split": _digest(train),
      "the validation split": _digest(validation),
    }
  )
  snapshot = checkpoint.latest(workdir, say)
  strategy = make_strategy(config.strategy, task, mesh=mesh, debug=config.debug)
  places = strategy.place(shapes)
  if snapshot is None:
    # Drawn in pieces, so that no device ever holds the whole of a large one.
    state = jax.jit(draw, out_shardings=places)()
  else:
    _refuse_changes(snapshot, document, config, workdir)
    wanted = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes,
      places,
    )
    state = checkpoint.restore(workdir, snapshot.step, wanted)
    # What stopped it is for the step to find again.
    going = jax.device_put(np.zeros((), bool), places.stopped)
    state = state.replace(stopped=going)
  if processes.is_first():
    with open(os.path.join(workdir, "config.json"), "w") as file:
      json.dump(document, file, indent=2)
  return Start(strategy, mesh, state, train, validation, snapshot)


def _digest(dataset: Dataset) -> str:
  """Tells data sets apart that processes might take for the same."""
  ends = (dataset[0], dataset[len(dataset) - 1])
  rows = [row[name].tolist() for row in ends for name in sorted(row)]
  return json.dumps([len(dataset), dataset.vocab_size, rows])


def make_workdir(workdir: str) -> None:
  """Makes the directory of a run, and sees that it can be written.

  Of several processes, the first does; the others need to reach it too.

  Raises:
    UserError: It cannot.
  """
  processes.on_first(lambda: _make_writable(workdir))
  if not os.path.isdir(workdir):
    raise UserError(
      f"--workdir={workdir} of process 0 is not to be seen here: give a"
      " directory that all processes share"
    )


def _make_writable(workdir: str) -> None:
  probe = os.path.join(workdir, ".writable")
  try:
    os.makedirs(workdir, exist_ok=True)
    with open(probe, "w"):
      pass
    os.remove(probe)
  except OSError as error:
    if is_disk_full(error):
      raise
    reason = error.strerror or str(error)
    raise UserError(f"cannot write to --workdir={workdir}: {reason}") from error


def _refuse_changes(
  snapshot: checkpoint.Snapshot, document: Any, config: Config, workdir: str
) -> None:
  """Raises a UserError if the run was started with another config.

  `steps` may change only where the schedule does not depend on it.
  """
  free = FREE
  if config.optimizer.decay_steps is not None:
    free = (*free, "config.steps")
  changes = [
    f"{key} was {old!r} and is {new!r}"
    for key, (old, new) in serialize.difference(
      snapshot.config, document
    ).items()
    if not key.startswith(free)
  ]
  if changes:
    raise UserError(
      f"{workdir} holds a run with another config: {'; '.join(changes)}."
      " Undo the change, or give another --workdir"
    )
  if config.steps < snapshot.step:
    raise UserError(
      f"config.steps is {config.steps}, but the run in {workdir} is already"
      f" at step {snapshot.step}"
    )
