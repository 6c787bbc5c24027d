"""Prepares a run: opens its data, checks its config, restores its state."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from train import checkpoint, files
from train import teacher as teachers
from train.config import Config, Mesh, check_data, serialize
from train.data import Dataset, Example, digest
from train.data.batches import stack
from train.data.dataset import example, sequence_arrays, sequence_length
from train.data.opening import open_split
from train.devices import memory, processes
from train.devices.mesh import check_pieces
from train.devices.parameter_use import layer_axes
from train.devices.strategy import Strategy, make_strategy
from train.errors import UserError, described, is_disk_full
from train.metrics import FILE_NAME
from train.optimizer import make_optimizer, schedule
from train.start import first_state
from train.state import TrainState, initial_state
from train.step import Learner

# Fields that may change when a run resumes: training does not depend on them.
FREE: tuple[str, ...] = (
  "config.log_every",
  "config.eval_every",
  "config.eval_batches",
  "config.checkpoint_every",
  "config.keep",
  "config.sample",
  "config.trackers",
  "config.debug",
  # A run can resume on other devices.
  "config.strategy",
  "config.mesh",
)
# Entries of a saved document that are not fields of the config: see `prepare`.
_BESIDE = (
  "config.$data",
  "config.$source",
  "config.$best",
  # A teacher may move, but its variables must stay: see `train.teacher`.
  "config.$teacher",
  "config.loss.teacher",
)


class Shared(NamedTuple):
  """What runs share if they differ only in seeds and learning rates.

  Attributes:
    strategy: Runs the steps.
    draw: The program that maps a seed, uint32, to the initial state.
    shapes: The shapes of a state, with the shardings that `strategy.prepare`
      expects.
    train: The training split.
    validation: The validation split.
    first: The first example of the training split.
    digests: The digests of the data, by split.
    teacher: What `train.teacher.reference` returns.
  """

  strategy: Strategy
  draw: Any
  shapes: TrainState
  train: Dataset
  validation: Dataset
  first: Example
  digests: Mapping[str, str]
  teacher: Mapping[str, Any]


class Prepared(NamedTuple):
  """A run that is ready for its first step.

  Attributes:
    state: The state, sharded as `strategy.prepare` expects.
    snapshot: The checkpoint that the state was restored from, without the
      state; None for a new run.
    document: The config as JSON, with the entries "$data" and "$source".
  """

  state: TrainState
  snapshot: checkpoint.Snapshot | None
  document: Any


def make_learner(config: Config) -> Learner:
  """Returns the model, optimizer, schedule and teacher of a config.

  Raises:
    UserError: The loss has a teacher, which cannot be loaded.
  """
  optimizer = make_optimizer(config.optimizer, config.steps)
  rate = schedule(config.optimizer, config.steps)
  return Learner(
    config.model,
    optimizer,
    rate,
    config.accumulation,
    config.loss,
    teacher=teachers.load(config.loss),
  )


def new_state(
  config: Config, learner: Learner, example: Any
) -> tuple[Callable[[Any], TrainState], TrainState]:
  """Returns the function from seed to initial state, and the state's shapes.

  Args:
    config: The run.
    learner: The learner of that config.
    example: See `train.state.initial_state`.

  Raises:
    UserError: The model refuses its configuration.
  """
  draw = initial_state(learner.model, learner.optimizer, example)
  try:
    return draw, jax.eval_shape(draw, np.uint32(config.seed))
  # A user's own model may raise any error.
  except Exception as error:
    raise UserError(f"config.model: {described(error)}") from error


def share(
  config: Config, mesh: Mesh, words: Mapping[str, str], *, copies: int = 1
) -> Shared:
  """Opens the data and makes the programs; changes no files.

  Args:
    config: The run, whose values are valid.
    mesh: Devices along each axis, of `validate`.
    words: More that all processes must have in common, by the name to show in
      an error.
    copies: How many states the devices hold.

  Raises:
    UserError: The config is wrong, or not that of all processes.
  """
  train = open_split(config.data, "train")
  validation = open_split(config.data, "validation")
  first = jax.tree.map(np.asarray, example(train, 0))
  check_data(
    config,
    mesh,
    getattr(train, "vocab_size", None),
    sequence_length(train, first),
  )
  sequence = sequence_arrays(train, first)
  learner = make_learner(config)._replace(sequence=sequence)
  draw, shapes = new_state(config, learner, first)
  if mesh.fsdp > 1:
    learner = learner._replace(layers=layer_axes(draw, np.uint32(0)))
  variables = {"params": shapes.params, **shapes.variables}
  check_pieces(
    mesh, learner.model, variables, first["inputs"], sequence=sequence
  )
  if learner.teacher is not None:
    learner = teachers.checked(learner, mesh, shapes, first)
  frozen = teachers.variables(learner)
  memory.check(config, mesh, shapes, first, copies, frozen)
  digests = {"train": digest(train), "validation": digest(validation)}
  teacher = teachers.reference(learner.teacher)
  _check_same(config, digests, {"the teacher": json.dumps(teacher), **words})
  strategy = make_strategy(
    config.strategy, learner, mesh=mesh, debug=config.debug
  )
  places = strategy.place(shapes)
  shapes = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    shapes,
    places,
  )
  drawn = first_state(config.start, config.model, draw, shapes)
  if jax.process_count() > 1:
    _check_programs(strategy, drawn, shapes, first, config)
  return Shared(
    strategy, drawn, shapes, train, validation, first, digests, teacher
  )


def prepare(
  config: Config,
  shared: Shared,
  workdir: str,
  log: Callable[[str], None],
  *,
  source: str | None = None,
  new_data: bool = False,
) -> Prepared:
  """Builds the state, or restores it from a checkpoint.

  Every check runs before anything in the directory is changed.

  Args:
    config: The run, whose values are valid.
    shared: What `share` returned for this config, or for one with another seed
      or learning rate.
    workdir: The run's directory, which exists.
    log: Takes lines for the user.
    source: The config file that the user named.
    new_data: Whether a run may resume with other data.

  Raises:
    UserError: The config is not that of the run in `workdir`.
  """
  digests, shapes = shared.digests, shared.shapes
  document: dict[str, Any] = serialize.to_json(config)
  vocab_size = getattr(shared.train, "vocab_size", None)
  document |= {
    "$data": {**digests, "vocab_size": vocab_size},
    "$source": source,
    "$best": config.loss.best[config.best_metric],
    **({"$teacher": shared.teacher} if shared.teacher else {}),
  }
  snapshot = checkpoint.latest(workdir, log)
  if snapshot is not None:
    _refuse_changes(snapshot, document, config, workdir)
    _refuse_new_data(snapshot, digests, workdir, log if new_data else None)
    teachers.refuse_another(
      snapshot.config, shared.teacher, config.loss, workdir
    )
  if snapshot is None:
    state = shared.draw(np.uint32(config.seed))
  else:
    snapshot, state = checkpoint.restore_latest(workdir, snapshot, shapes, log)
    # The flag is cleared: the resumed run repeats the step that set it.
    going = jax.device_put(np.zeros((), bool), shapes.stopped.sharding)
    state = state.replace(stopped=going)
  checkpoint.clear(workdir, snapshot, log)
  if processes.is_first():
    content = json.dumps(document, indent=2).encode()
    files.replace(os.path.join(workdir, "config.json"), content)
  return Prepared(state, snapshot, document)


def _check_same(
  config: Config, digests: Mapping[str, str], words: Mapping[str, str]
) -> None:
  """Checks that all processes have the same config and data.

  Raises:
    UserError: They differ; raised in every process.
  """
  splits = {f"the {split} split": text for split, text in digests.items()}
  processes.check_same(
    {
      "the version of JAX": jax.__version__,
      "the config": json.dumps(serialize.to_json(config)),
      **words,
      **splits,
    }
  )


def _check_programs(
  strategy: Strategy,
  drawn: Any,
  state: TrainState,
  first: Example,
  config: Config,
) -> None:
  """Checks that all processes have the same programs, before any program runs.

  Each process compiles its own programs. If the code of one process differed,
  its copy of the state would differ without an error.

  Args:
    strategy: Holds the programs of the step and of the validation.
    drawn: The program that draws the first state.
    state: Shapes and shardings of the state.
    first: An example, which gives the shapes and dtypes of a batch.
    config: The run.

  Raises:
    UserError: The programs differ; raised in every process.
  """
  count = len(strategy.rows(config.batch_size))
  batch = strategy.batch(stack([first] * count))
  programs = {
    "the code of the initial parameters": drawn.lower(np.uint32(config.seed)),
    "the code of the training step": strategy.step.lower(state, batch),
    "the code of the validation": strategy.evaluate.lower(state, batch),
  }
  processes.check_same({name: x.as_text() for name, x in programs.items()})


def make_workdir(workdir: str) -> None:
  """Makes the directory of a run, and refuses links that lead out of it.

  Process 0 makes it; all processes must see it.

  Raises:
    UserError: The directory cannot be made, written or seen.
  """
  processes.on_process_zero(lambda: _make_writable(workdir))
  if not os.path.isdir(workdir):
    raise UserError(
      f"--workdir={workdir} of process 0 does not exist for process"
      f" {jax.process_index()}: give a directory that all processes share"
    )


def _make_writable(workdir: str) -> None:
  try:
    os.makedirs(workdir, exist_ok=True)
  except OSError as error:
    if is_disk_full(error):
      raise
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError):
      reason = "it is a file, not a directory"
    raise UserError(f"cannot write to --workdir={workdir}: {reason}") from error
  if not os.access(workdir, os.W_OK | os.X_OK):
    raise UserError(f"cannot write to --workdir={workdir}: permission denied")
  for name in ("checkpoints", "corrupt", FILE_NAME):
    files.refuse_link(os.path.join(workdir, name))
  # The profiler makes folders in folders, and follows what it finds.
  files.refuse_link(os.path.join(workdir, "profile"), inside=True)


def _refuse_changes(
  snapshot: checkpoint.Snapshot, document: Any, config: Config, workdir: str
) -> None:
  """Raises a UserError if the run was started with another config.

  `steps` may change only where the schedule does not depend on it.
  """
  free = FREE
  depends = getattr(config.optimizer, "depends_on_steps", None)
  if depends is not None and not depends():
    free = (*free, "config.steps")
  changes = [
    f"{key} was {old!r} and is {new!r}"
    for key, (old, new) in serialize.difference(
      _with_new_fields(snapshot.config), document
    ).items()
    if not key.startswith((*free, *_BESIDE))
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


def _with_new_fields(document: Any) -> Any:
  """A saved config with the defaults of fields that came after it.

  Where it names what is gone or not trusted, it stays as it is: it differs
  from the config of the command, whose classes are all there.
  """
  try:
    return serialize.to_json(serialize.from_json(document))
  except UserError:
    return document


def _refuse_new_data(
  snapshot: checkpoint.Snapshot,
  digests: Mapping[str, str],
  workdir: str,
  allow: Callable[[str], None] | None,
) -> None:
  """Raises a UserError if the data are not those that the run began with.

  Args:
    snapshot: Of a run; those of earlier versions do not know their data.
    digests: Of the data now, by split.
    workdir: The run's directory.
    allow: Takes the line instead, where the user wants other data.
  """
  known = snapshot.config.get("$data")
  known = known if isinstance(known, dict) else {}
  changed = [x for x in digests if known.get(x, digests[x]) != digests[x]]
  if not changed:
    return
  which = " and ".join(f"the {split} split" for split in changed)
  verb = "have" if len(changed) > 1 else "has"
  line = f"{which} {verb} changed since the run in {workdir} was at step"
  line = f"{line} {snapshot.step}"
  if allow is None:
    raise UserError(
      f"{line}: put the old data back, give another --workdir, or add"
      " --new-data to resume with the new data"
    )
  allow(f"{line}, and the run resumes with the new data")
