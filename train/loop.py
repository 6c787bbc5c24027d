"""The training loop.

The order within a step must not change:

  1. evaluate the old state, if it is due;
  2. write a checkpoint of it (state, data position, rng, config), if it is due;
  3. take the next batch;
  4. dispatch the step, which returns at once, and send the next batch to the
     device;
  5. fetch the metrics of the previous step while the device runs this one.

So the device never waits for the host. If an evaluation and a checkpoint are
due at the same step, the checkpoint holds the evaluated state, with the
position of the next batch. Before 1 and 2, which wait for the device anyway,
the metrics of the previous step are fetched: the metrics file then holds all
lines up to a checkpoint, and a resumed run writes exactly the lines after it.
"""

import contextlib
import dataclasses
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from train import checkpoint, failures
from train.checkpoint import Checkpoints, Snapshot
from train.clock import Clock
from train.command import warn
from train.config import Config, validate
from train.data import Batches
from train.data.prefetch import Placed, Prefetched
from train.devices import processes
from train.devices.signals import Stop, stop_signals
from train.errors import CheckError, NonFiniteError
from train.evaluate import evaluate
from train.files import lock
from train.metrics import MetricsWriter, NoWriter
from train.optimizer import evaluation_params
from train.parts import (
  Parts,
  first_lines,
  make_parts,
  make_writer,
  model_sizes,
  start_line,
)
from train.profile import Profiler
from train.result import Result
from train.saved_variables import saved_variables
from train.setup import Prepared, make_workdir, prepare, share

_FIRST = ("loss", "bits_per_token", "accuracy")


@dataclasses.dataclass(frozen=True)
class _Pending:
  """A dispatched step whose metrics are not fetched yet.

  Attributes:
    step: Number of updates after this step.
    metrics: The metrics, still on the device.
    batch: The batch of this step.
  """

  step: int
  metrics: Mapping[str, Any]
  batch: Placed


class Loop:
  """The state of a run and the parts that change it."""

  def __init__(
    self,
    config: Config,
    workdir: str,
    prepared: Prepared,
    parts: Parts,
    writer: MetricsWriter | NoWriter,
    checkpoints: Checkpoints,
    profiler: Profiler,
  ):
    snapshot = prepared.snapshot
    self._config = config
    self._workdir = workdir
    self._document = prepared.document
    self._strategy = strategy = parts.shared.strategy
    self._writer = writer
    self._checkpoints = checkpoints
    self._validation = parts.shared.validation
    self._profiler = profiler
    stream = Batches(
      parts.shared.train,
      config.batch_size,
      seed=config.seed,
      rows=strategy.rows(config.batch_size),
      position=snapshot.position if snapshot else 0,
    )
    self.batches = Prefetched(stream, strategy.batch)
    self._state = strategy.prepare(prepared.state)
    self._step = snapshot.step if snapshot else 0
    self._saved = snapshot.step if snapshot else -1
    done = snapshot is not None and snapshot.evaluated
    self._evaluated = self._step if done else -1
    self._metrics: Mapping[str, float] = snapshot.metrics if snapshot else {}
    self._pending: _Pending | None = None
    self._clock = Clock(parts.clocks)
    self._compiled = False
    self._compile_seconds = parts.compile_seconds
    self._warned = False
    self._share_of_peak = parts.share_of_peak()

  def run(self, stop: Stop) -> None:
    """Runs until the last step, or until asked to stop."""
    while self.ready(stop.poll()):
      self.advance()

  def ready(self, stopping: bool) -> bool:
    """Evaluates and saves the state where that is due.

    Args:
      stopping: Whether the run was asked to stop.

    Returns:
      Whether a step follows.
    """
    last = stopping or self._step == self._config.steps
    coming = None if last else self._step + 1
    self._clock.leave_out(self._profiler.stop_before(coming, self._state))
    evaluates = not stopping and self._evaluation_is_due()
    saves = self._checkpoint_is_due(last)
    if evaluates or saves:
      self._settle()
    if evaluates:
      self._evaluate()
    if saves:
      self._save()
    return not last

  def advance(self) -> None:
    """Takes a batch, dispatches its step, and reports the step before."""
    coming = self._step + 1
    self._clock.leave_out(self._profiler.start_before(coming, self._state))
    with self._profiler.step(coming):
      previous, self._pending = self._pending, self._dispatch()
      if self._step < self._config.steps:
        self.batches.prefetch()
      self._report(previous)

  @property
  def step(self) -> int:
    """Updates dispatched."""
    return self._step

  def _evaluation_is_due(self) -> bool:
    config = self._config
    last = self._step == config.steps
    is_due = last or self._step % config.eval_every == 0
    return is_due and self._evaluated != self._step

  def _checkpoint_is_due(self, last: bool) -> bool:
    every = self._config.checkpoint_every
    is_due = last or (self._step > 0 and self._step % every == 0)
    return is_due and self._saved != self._step

  def result(self, reference: Mapping[str, float], stop: Stop) -> Result:
    """Returns the result of a run whose checkpoints are complete."""
    params: Any = None
    collections: Mapping[str, Any] = {}
    if stop.signal is None and processes.is_first():
      params, collections = self._variables()
    return Result(
      self._step, params, self.metrics, reference, stop.signal, collections
    )

  @property
  def metrics(self) -> Mapping[str, float]:
    """Validation metrics of the state; empty if it was not evaluated."""
    return self._metrics if self._evaluated == self._step else {}

  def _variables(self) -> tuple[Any, Any]:
    """The parameters for evaluation and the other collections, in numpy."""
    if jax.process_count() == 1:
      # On the host, as the commands that load the checkpoint compute them.
      state = jax.device_get(self._strategy.saved(self._state))
      found = evaluation_params(state.opt_state, state.params)
      # A copy, which does not hold the memory of a device.
      return jax.tree.map(np.array, (jax.device_get(found), state.variables))
    # Devices of other processes may hold some of the parameters.
    saved = checkpoint.load(self._workdir, str(self._step), warn)
    collections = saved_variables(self._config, saved.state)
    return collections.pop("params"), collections

  def _dispatch(self) -> _Pending:
    batch = self.batches.take()
    begun = time.perf_counter()
    try:
      self._state, metrics = self._strategy.step(self._state, batch.device)
    except CheckError as error:
      # Debug mode does not donate the state, so it is still the previous one.
      where = self._save_for_reproduction(self._step, batch)
      raise CheckError(f"step {self._step + 1}: {error}; {where}") from error
    if not self._compiled:
      # The first call returns when the step is compiled and dispatched.
      seconds = time.perf_counter() - begun
      self._clock.leave_out(seconds)
      self._clock.compile_seconds = self._compile_seconds or seconds
      self._compiled = True
    self._step += 1
    return _Pending(self._step, metrics, batch)

  def _settle(self) -> None:
    """Waits for the step in flight and reports it."""
    self._report(self._pending)
    self._pending = None

  def _report(self, pending: _Pending | None) -> None:
    if pending is None:
      return
    metrics = self._strategy.fetch(pending.metrics)
    # A jitted function returns them in alphabetical order; put the loss first.
    first = [name for name in _FIRST if name in metrics]
    names = (*first, *(name for name in metrics if name not in first))
    values = {name: float(metrics[name]) for name in names}
    if not values.pop("finite"):
      self._stop_non_finite(pending, values)
    if values["grad_norm"] == 0:
      self._warn_of_no_gradient(pending.step, values)
    self._clock.count(values["tokens"])
    last = pending.step == self._config.steps
    if last or pending.step % self._config.log_every == 0:
      values.update(self._clock.read())
      if self._share_of_peak is not None:
        rate = values["tokens_per_second"]
        values["model_flops_utilization"] = self._share_of_peak * rate
      self._writer.write(pending.step, "train", values)

  def _stop_non_finite(
    self, pending: _Pending, values: Mapping[str, float]
  ) -> None:
    # Neither this step nor the next one, already dispatched, was applied.
    where = self._save_for_reproduction(pending.step - 1, pending.batch)
    found = failures.non_finite(values, self._config.optimizer)
    raise NonFiniteError(f"step {pending.step} is not finite: {found}; {where}")

  def _warn_of_no_gradient(
    self, step: int, values: Mapping[str, float]
  ) -> None:
    """Warns once of a step whose gradient is 0 although its loss is not."""
    # A loss of exactly 0 cannot fall. One warning per run is enough.
    if self._warned or not (values["targets"] and values["loss"]):
      return
    self._warned = True
    self._writer.text(failures.no_gradient(step, values))

  def _save_for_reproduction(self, step: int, batch: Placed) -> str:
    """Saves a state and the batch that failed; returns where they are."""
    if self._saved != step:
      self._write(step, batch.position)
    path = failures.save_batch(self._workdir, step + 1, batch)
    return (
      f"the state before it is checkpoint {step}, its batch is {path}, and the"
      " same command repeats it"
    )

  def _evaluate(self) -> None:
    begun = time.perf_counter()
    metrics = evaluate(
      self._strategy,
      self._state,
      self._validation,
      self._config.batch_size,
      self._config.eval_batches,
    )
    if not math.isfinite(metrics["loss"]):
      if self._saved != self._step:
        self._save()
      raise NonFiniteError(
        f"the validation at step {self._step} is not finite: loss"
        f" {metrics['loss']}; the state is checkpoint {self._step}, and the"
        " same command repeats the validation"
      )
    self._metrics = metrics
    self._writer.write(self._step, "validation", self._metrics)
    self._evaluated = self._step
    self._clock.leave_out(time.perf_counter() - begun)

  def _save(self) -> None:
    begun = time.perf_counter()
    self._write(self._step, self.batches.position)
    self._clock.leave_out(time.perf_counter() - begun)

  def _write(self, step: int, position: int) -> None:
    evaluated = self._evaluated == step
    self._checkpoints.save(
      Snapshot(
        step=step,
        state=self._strategy.saved(self._state),
        position=position,
        config=self._document,
        metrics=self._metrics if evaluated else {},
        evaluated=evaluated,
      )
    )
    self._saved = step


@contextlib.contextmanager
def opened(
  config: Config,
  workdir: str,
  parts: Parts,
  writer: MetricsWriter | NoWriter,
  profile_steps: range = range(0),
  **options: Any,
) -> Iterator[Loop]:
  """Yields the loop of a run; at the end, its checkpoints are complete.

  Args:
    config: The run, whose values are valid.
    workdir: Its directory, whose lock this process holds.
    parts: The parts that it may share with other runs.
    writer: Writes the metrics in `workdir`.
    profile_steps: See `run`.
    **options: Keyword arguments of `prepare`.

  Raises:
    UserError: The config is not that of the run in `workdir`.
  """
  prepared = prepare(config, parts.shared, workdir, writer.text, **options)
  step = prepared.snapshot.step if prepared.snapshot else 0
  evaluated = prepared.snapshot is not None and prepared.snapshot.evaluated
  # Without a checkpoint, the run restarts: no line is kept, not even step 0.
  writer.truncate(step if prepared.snapshot else -1, evaluated=evaluated)
  writer.text(start_line(config, workdir, step, evaluated))
  reference = parts.baselines()
  if reference and prepared.snapshot is None:
    writer.write(0, "baseline", reference)
  if prepared.snapshot is None:
    writer.write(0, "model", model_sizes(config, parts.shared))
  checkpoints = Checkpoints(
    workdir,
    keep=config.keep,
    best_metric=config.best_metric,
    best=config.loss.best[config.best_metric],
  )
  if profile_steps and profile_steps[-1] <= step:
    writer.text(f"no profile: the run is already at step {step}")
  folder = os.path.join(workdir, "profile")
  try:
    traced = profile_steps if processes.is_first() else range(0)
    with Profiler(traced, folder, writer.text) as profiler:
      loop = Loop(
        config, workdir, prepared, parts, writer, checkpoints, profiler
      )
      del prepared  # Or it would hold the memory of a state.
      with loop.batches:
        yield loop
  finally:
    checkpoints.close()


def run(
  config: Config,
  workdir: str,
  profile_steps: range = range(0),
  *,
  source: str | None = None,
  new_data: bool = False,
) -> Result:
  """Trains from the start, or from the last checkpoint in `workdir`.

  Every process calls this; only process 0 writes and prints.

  Args:
    config: The run.
    workdir: Its directory: `metrics.jsonl`, `checkpoints/`, `config.json`.
    profile_steps: Numbers of the steps whose trace goes to `profile/` there.
    source: The config file that the user named; later commands name it in
      their errors.
    new_data: Whether a run may resume with other data than it started with.

  Returns:
    How the run ended. A signal makes the run save and stop; it is no error.

  Raises:
    UserError: The command was wrong.
    RunError: The run failed; the same command repeats the failing step.
      Complete checkpoints are kept.
    OSError: The disk is full; complete checkpoints are kept.
  """
  mesh = validate(
    config, devices=jax.device_count(), processes=jax.process_count()
  )
  make_workdir(workdir)
  with (
    stop_signals() as stop,
    lock.held(workdir),
    make_writer(config, workdir) as writer,
  ):
    words = {"the flag --new-data": str(new_data)}
    parts = make_parts(config, share(config, mesh, words), writer.text)
    options = {"source": source, "new_data": new_data}
    with opened(
      config, workdir, parts, writer, profile_steps, **options
    ) as loop:
      for line in first_lines(config, mesh, parts.shared):
        writer.text(line)
      loop.run(stop)
    result = loop.result(parts.baselines(), stop)
    if result.signal is not None:
      name = signal.Signals(result.signal).name
      writer.text(
        f"{name}: saved step {result.step}; the same command resumes there"
      )
  return result
