"""The loop of a run: evaluate, save, update, report, in this order."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from train import checkpoint, files, trackers
from train.checkpoint import Checkpoints, Snapshot
from train.clock import Clock
from train.config import serialize
from train.devices.signals import Stop, stop_signals
from train.errors import NonFiniteError, UserError
from train.files import lock
from train.metrics import MetricsWriter
from train.optimizer import make_optimizer
from train.reinforcement import ppo, rollout
from train.reinforcement.config import ReinforcementConfig, validate
from train.reinforcement.ppo import Learner, State
from train.setup import make_workdir

# Fields that may change when a run resumes: training does not depend on them.
_FREE = (
  "log_every",
  "eval_every",
  "eval_episodes",
  "checkpoint_every",
  "keep",
  "trackers",
)


class Programs(NamedTuple):
  """The compiled functions of a run; runs that differ in seeds share them.

  Attributes:
    draw: From the seed, uint32, to the initial state.
    update: From a state to the next one and its metrics.
    evaluate: From parameters to the mean returns [pieces].
  """

  draw: Callable[[Any], State]
  update: Callable[[State], tuple[State, dict[str, jax.Array]]]
  evaluate: Callable[[Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    step: The updates done.
    params: The parameters of the policy.
    returns: The mean return in each piece of an episode, of the evaluation
      after the last update; empty if a signal ended the run.
    signal: The signal that ended the run, or None.
  """

  step: int
  params: Any
  returns: np.ndarray
  signal: int | None


def make_learner(config: ReinforcementConfig) -> Learner:
  """Returns the learner of a config."""
  algorithm = config.algorithm
  steps = config.updates * algorithm.epochs * algorithm.minibatches
  return Learner(
    config.model,
    config.environment,
    algorithm,
    make_optimizer(config.optimizer, steps),
    config.environments,
    config.rollout_steps,
  )


def make_programs(config: ReinforcementConfig) -> Programs:
  """Returns the compiled functions of a config."""
  learner = make_learner(config)
  return Programs(
    jax.jit(lambda seed: ppo.initial_state(learner, seed)),
    jax.jit(lambda state: ppo.update(learner, state), donate_argnums=0),
    jax.jit(lambda params: _returns(learner, params, config.eval_episodes)),
  )


def _returns(learner: Learner, params: Any, episodes: int) -> jax.Array:
  # All evaluations of all runs have the same episodes.
  key = jax.random.key(0)
  hardest = learner.environment.hardest()
  return rollout.evaluate(learner.model, hardest, params, key, episodes)


class Loop:
  """The state of a run and the parts that change it."""

  def __init__(
    self,
    config: ReinforcementConfig,
    programs: Programs,
    writer: MetricsWriter,
    checkpoints: Checkpoints,
  ):
    self._config = config
    self._programs = programs
    self._writer = writer
    self._checkpoints = checkpoints
    self._clock = Clock()
    self.state: State = programs.draw(np.uint32(config.seed))
    self.step = 0
    self.returns = np.zeros(0)
    self._evaluated = self._saved = -1
    self._is_compiled = False

  def resume(self, workdir: str) -> None:
    """Takes the state of the latest checkpoint, if there is one."""
    log = self._writer.text
    snapshot = checkpoint.latest(workdir, log)
    if snapshot is not None:
      _refuse_changes(snapshot.config, self._config, workdir)
      if self._config.updates < snapshot.step:
        raise UserError(
          f"config.updates is {self._config.updates}, but the run in {workdir}"
          f" is already at update {snapshot.step}"
        )
      shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        self.state,
      )
      snapshot, self.state = checkpoint.restore_latest(
        workdir, snapshot, shapes, log
      )
      self.step = self._saved = snapshot.step
      log(f"resuming at update {self.step} of {self._config.updates}")
    checkpoint.clear(workdir, snapshot, log)
    content = json.dumps(serialize.to_json(self._config), indent=2)
    files.replace(os.path.join(workdir, "config.json"), content.encode())
    self._writer.truncate(self.step, evaluated=False)
    if snapshot is None:
      self._write_baselines()

  def _write_baselines(self) -> None:
    environment = self._config.environment.hardest()
    returns = {
      "chance": float(environment.chance().sum()),
      "optimum": float(environment.optimum().sum()),
    }
    self._writer.write(self.step, "baseline", returns)

  def run(self, stop: Stop) -> None:
    """Runs until the last update, or until asked to stop."""
    config = self._config
    while True:
      stops = stop.poll()
      last = self.step == config.updates
      if not stops and (last or self.step % config.eval_every == 0):
        self._evaluate()
      due = self.step > 0 and self.step % config.checkpoint_every == 0
      if (stops or last or due) and self._saved != self.step:
        self._save()
      if stops or last:
        return
      self._update()

  def _update(self) -> None:
    """Makes one update, and reports it where that is due."""
    begun = time.perf_counter()
    self.state, metrics = self._programs.update(self.state)
    values = {name: float(x) for name, x in metrics.items()}
    self.step += 1
    config = self._config
    if self._is_compiled:
      self._clock.count(config.environments * config.rollout_steps)
    else:
      self._clock.compile_seconds = time.perf_counter() - begun
      self._clock.leave_out(self._clock.compile_seconds)
      self._is_compiled = True
    if not math.isfinite(values["loss"]):
      raise NonFiniteError(
        f"update {self.step} is not finite: loss {values['loss']}; lower"
        " config.optimizer.learning_rate"
      )
    if self.step % config.log_every == 0 or self.step == config.updates:
      # The first values are those that the progress bar shows.
      first = {name: values.pop(name) for name in ("return", "entropy")}
      timing = self._clock.read()
      timing["steps_per_second"] = timing.pop("tokens_per_second")
      self._writer.write(self.step, "train", {**first, **values, **timing})

  def _evaluate(self) -> None:
    begun = time.perf_counter()
    self.returns = np.asarray(self._programs.evaluate(self.state.params))
    self._evaluated = self.step
    self._writer.write(self.step, "validation", self.metrics)
    self._clock.leave_out(time.perf_counter() - begun)

  @property
  def metrics(self) -> Mapping[str, float]:
    """The returns of an episode and of its pieces; empty if not evaluated."""
    if self._evaluated != self.step:
      return {}
    pieces = dict(enumerate(self.returns, 1)) if self.returns.size > 1 else {}
    each = {f"return_{i}": float(x) for i, x in pieces.items()}
    return {"return": float(self.returns.sum()), **each}

  def _save(self) -> None:
    begun = time.perf_counter()
    document = serialize.to_json(self._config)
    self._checkpoints.save(
      Snapshot(self.step, self.state, 0, document, self.metrics, False)
    )
    self._saved = self.step
    self._clock.leave_out(time.perf_counter() - begun)


def _refuse_changes(
  old: Any, config: ReinforcementConfig, workdir: str
) -> None:
  """Raises a UserError if the run was started with another config.

  `updates` may change where the learning rate does not depend on it.
  """
  changed = serialize.difference(old, serialize.to_json(config))
  is_free = not config.optimizer.depends_on_steps()
  names = (*_FREE, "updates") if is_free else _FREE
  free = tuple(f"config.{name}" for name in names)
  changes = [
    f"{key} was {before!r} and is {now!r}"
    for key, (before, now) in changed.items()
    if not key.startswith(free)
  ]
  if changes:
    raise UserError(
      f"{workdir} holds a run with another config: {'; '.join(changes)}."
      " Undo the change, or give another --workdir"
    )


def run(
  config: ReinforcementConfig, workdir: str, programs: Programs | None = None
) -> Outcome:
  """Trains from the start, or from the last checkpoint in `workdir`.

  Args:
    config: The run.
    workdir: Its directory: `metrics.jsonl`, `checkpoints/`, `config.json`.
    programs: Of this config or of one that differs only in its seed; None
      compiles them.

  Returns:
    How the run ended. A signal makes the run save and stop; it is no error.

  Raises:
    UserError: The config is wrong, or not that of the run in `workdir`.
    NonFiniteError: The loss is not finite.
    OSError: The disk is full; complete checkpoints are kept.
  """
  validate(config)
  programs = make_programs(config) if programs is None else programs
  make_workdir(workdir)
  trackers.require(config.trackers)
  document = serialize.to_json(config)
  opened = trackers.openers(config.trackers, workdir, document)
  with (
    stop_signals() as stop,
    lock.held(workdir),
    MetricsWriter(
      workdir, total_steps=config.updates, trackers=opened
    ) as writer,
    contextlib.closing(
      Checkpoints(workdir, keep=config.keep, best_metric="return", best="max")
    ) as checkpoints,
  ):
    loop = Loop(config, programs, writer, checkpoints)
    loop.resume(workdir)
    loop.run(stop)
    if stop.signal is not None:
      name = signal.Signals(stop.signal).name
      line = f"{name}: saved update {loop.step}; the same command resumes there"
      writer.text(line)
  returns = np.zeros(0) if stop.signal is not None else loop.returns
  return Outcome(loop.step, loop.state.params, returns, stop.signal)
