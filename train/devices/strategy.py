"""Strategies run the pure step on devices.

A strategy sums `gradients` over its devices, composes `train_step` of that sum
and `apply`, and compiles it and `eval_step`. It moves states and batches to the
devices. "jit" runs on one device or on a mesh (`train.devices.mesh`),
and "pmap" on replicated states. All strategies compute the same numbers.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import chex
import jax
import numpy as np
from jax.sharding import (
  AxisType,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

from jaxmodels.ops.engine import checks
from train.config import schema
from train.devices.frozen import Frozen
from train.devices.mesh import BatchLayout, make_mesh, shardings
from train.devices.summed import OverMesh, over_axis
from train.errors import CheckError, one_line
from train.optimizer import evaluation_params
from train.state import TrainState
from train.step import (
  Batch,
  Learner,
  accumulated,
  eval_step,
  gradients,
  identity,
  train_step,
)


class Program(Protocol):
  """A function under `jit` or `pmap`; the first call compiles it."""

  def __call__(self, *args: Any) -> Any:
    """Runs it."""

  def lower(self, *args: Any) -> Any:
    """Returns the uncompiled program for arguments or their shapes."""


@dataclasses.dataclass(frozen=True)
class Strategy:
  """The functions that the loop calls.

  Attributes:
    devices: Number of devices.
    place: Maps the shapes of a state to the shardings that `prepare` expects,
      so that no array has to fit on one device.
    prepare: Moves a state to the devices.
    rows: Maps the size of a batch to the rows that this process reads.
    batch: Moves these rows, arrays `[rows, L]`, to the devices.
    step: Does one update: maps state and batch to state and metrics. It donates
      the old state.
    evaluate: Maps state and batch to the sums of `eval_step` over the whole
      batch.
    saved: Returns the arrays of a state that a checkpoint stores.
    means: Maps such sums to metrics.
    frozen: The variables of a teacher, which `step` and `evaluate` read.
    fetch: Waits for the metrics of a step, and copies them to the host.
  """

  devices: int
  place: Callable[[Any], Any]
  prepare: Callable[[TrainState], Any]
  rows: Callable[[int], Sequence[int]]
  batch: Callable[[Mapping[str, np.ndarray]], Any]
  step: Program
  evaluate: Program
  saved: Callable[[Any], TrainState]
  means: Callable[[Mapping[str, Any]], dict[str, Any]]
  frozen: Frozen | None = None
  fetch: Callable[[Any], Mapping[str, Any]] = jax.device_get


def _evaluated(state: TrainState) -> Any:
  """The parameters that a state is validated with."""
  return evaluation_params(state.opt_state, state.params)


def _on_one(device: Any, shapes: Any) -> Any:
  """Places a state on one device."""
  place = SingleDeviceSharding(device)
  return jax.tree.map(lambda _: place, shapes)


def _on_mesh(learner: Learner, mesh: jax.sharding.Mesh, variables: Any) -> Any:
  """Places the variables of a teacher on a mesh, like those of a model."""
  layers = None if learner.teacher is None else learner.teacher.layers
  return shardings(mesh, variables, layers or {})


@contextlib.contextmanager
def _named_checks() -> Iterator[None]:
  """Turns the error of a numeric check into a `CheckError` with its name."""
  try:
    yield
  except AssertionError as error:
    name = one_line(checks.message_of(error))
    raise CheckError(f"a check failed: {name}") from error


class _Checked:
  """A function that runs numeric checks and waits for their results."""

  def __init__(self, lift: Callable[..., Any], function: Callable[..., Any]):
    self._lift, self._function = lift, function
    self._checked = chex.chexify(lift(function), async_check=False)

  def __call__(self, *args: Any) -> Any:
    # Tracing reads this switch, and the first call traces.
    with checks.numerics(True), _named_checks():
      return self._checked(*args)

  def lower(self, *args: Any) -> Any:
    """Returns the program without its checks, which only run in calls."""
    # A new function, since JAX would reuse this trace for later calls.
    return self._lift(lambda *given: self._function(*given)).lower(*args)


def _lifted(
  step: Callable[..., Any], evaluate: Callable[..., Any], debug: bool
) -> tuple[Program, Program]:
  """Jits both functions. The step donates the state, except in debug mode."""
  if debug:
    return _Checked(jax.jit, step), _Checked(jax.jit, evaluate)
  return jax.jit(step, donate_argnums=0), jax.jit(evaluate)


def _jit(
  learner: Learner,
  layout: schema.Mesh,
  debug: bool,
  devices: Sequence[Any] | None,
) -> Strategy:
  """Runs on one device or on a mesh of devices."""
  if layout != schema.Mesh():
    return _over_mesh(learner, make_mesh(layout, devices), debug)
  device = (devices or jax.local_devices())[0]
  to_device = functools.partial(jax.device_put, device=device)

  def step(state: TrainState, batch: Batch, frozen: Any) -> Any:
    return train_step(learner, state, batch, frozen)

  def evaluate(state: TrainState, batch: Batch, frozen: Any) -> Any:
    params = _evaluated(state)
    return eval_step(learner, params, state.variables, batch, frozen)

  frozen = Frozen(learner.teacher, functools.partial(_on_one, device))
  run_step, run_evaluate = _lifted(step, evaluate, debug)
  return Strategy(
    devices=1,
    place=functools.partial(_on_one, device),
    prepare=to_device,
    rows=range,
    batch=to_device,
    step=frozen.bind(run_step),
    evaluate=frozen.bind(run_evaluate),
    frozen=frozen,
    saved=identity,
    means=learner.loss.means,
  )


def _over_mesh(
  learner: Learner, mesh: jax.sharding.Mesh, debug: bool
) -> Strategy:
  """Runs on a mesh: see `train.devices.summed`."""
  lifted = OverMesh(learner, mesh)
  summed = accumulated(lifted.gradient, learner.accumulation)
  shared = functools.partial(shardings, mesh, layers=learner.layers)

  def step(state: TrainState, batch: Batch, frozen: Any) -> Any:
    state, metrics = train_step(learner, state, batch, frozen, summed)
    # Keeps the sharding, so that the new state can reuse the old one's memory.
    return jax.lax.with_sharding_constraint(state, shared(state)), metrics

  def evaluate(state: TrainState, batch: Batch, frozen: Any) -> Any:
    params = _evaluated(state)
    return lifted.sums(eval_step, params, state.variables, batch, frozen)

  frozen = Frozen(learner.teacher, functools.partial(_on_mesh, learner, mesh))
  run_step, run_evaluate = _lifted(step, evaluate, debug)
  shares = BatchLayout(mesh, learner.sequence)
  return Strategy(
    devices=mesh.size,
    place=shared,
    prepare=lambda state: jax.device_put(state, shared(state)),
    rows=shares.rows,
    batch=shares.put,
    step=frozen.bind(run_step),
    evaluate=frozen.bind(run_evaluate),
    frozen=frozen,
    saved=identity,
    means=learner.loss.means,
  )


def _pmap(
  learner: Learner,
  layout: schema.Mesh,
  debug: bool,
  devices: Sequence[Any] | None,
) -> Strategy:
  """Runs on local devices with the state replicated and the batch split."""
  count = layout.data
  devices = list(devices or jax.local_devices())[:count]
  lift = functools.partial(jax.pmap, axis_name="batch", devices=devices)
  # Programs under `pmap` expect part i of the first axis on device i.
  parts = NamedSharding(
    jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=devices),
    PartitionSpec("batch"),
  )

  summed = over_axis(gradients(learner), "batch")

  def step(state: TrainState, batch: Batch, frozen: Any) -> Any:
    return train_step(learner, state, batch, frozen, summed, count)

  def evaluate(state: TrainState, batch: Batch, frozen: Any) -> Any:
    params = _evaluated(state)
    sums = eval_step(learner, params, state.variables, batch, frozen)
    return jax.lax.psum(sums, "batch")

  def split(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    shares = jax.tree.map(
      lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]),
      dict(batch),
    )
    return jax.device_put(shares, parts)

  def replicate(state: Any) -> Any:
    copies = jax.tree.map(
      lambda x: np.broadcast_to(x, (count, *np.shape(x))),
      jax.device_get(state),
    )
    return jax.device_put(copies, parts)

  def first(state: Any) -> TrainState:
    # A copy, since the next step donates this memory. Indexing happens on the
    # host, since an index on the device array would be sent to the devices.
    own = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), state))
    return jax.tree.map(lambda x: np.array(x[0]), own)

  frozen = Frozen(
    learner.teacher, functools.partial(_on_one, devices[0]), replicate
  )
  # After the sum, metrics are equal on all devices, so one copy is returned.
  if debug:
    lift_step = functools.partial(lift, out_axes=(0, None))
    run_step = _Checked(lift_step, step)
    run_evaluate = _Checked(functools.partial(lift, out_axes=None), evaluate)
  else:
    run_step = lift(step, out_axes=(0, None), donate_argnums=0)
    run_evaluate = lift(evaluate, out_axes=None)
  return Strategy(
    devices=count,
    place=functools.partial(_on_one, devices[0]),
    prepare=replicate,
    rows=range,
    batch=split,
    step=frozen.bind(run_step),
    evaluate=frozen.bind(run_evaluate),
    frozen=frozen,
    saved=first,
    means=learner.loss.means,
  )


def make_strategy(
  name: str,
  learner: Learner,
  *,
  mesh: schema.Mesh | None = None,
  debug: bool = False,
  devices: Sequence[Any] | None = None,
) -> Strategy:
  """Builds a strategy.

  Args:
    name: "jit" or "pmap".
    learner: Model, optimizer and schedule of the step.
    mesh: Devices along each axis, of `config.layout`; None for one device.
    debug: Whether to run the numeric checks inside the step.
    devices: The strategy uses the first of these; `jax.devices()` if None.

  Raises:
    UserError: The model does not support sharded sequences.
  """
  make = {"jit": _jit, "pmap": _pmap}[name]
  return make(learner, mesh or schema.Mesh(), debug, devices)
