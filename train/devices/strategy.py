"""Strategies: they run the pure step on devices.

A strategy lifts `train_step` and `eval_step`, and moves states and batches to
where these want them. Every strategy computes the same numbers: "jit" on one
device or over a mesh of them (`train.devices.mesh`), "pmap" on copies of the
state.
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
from train.devices.mesh import (
  AXES,
  BATCH,
  BatchLayout,
  cut_model,
  gather_tables,
  make_mesh,
  shardings,
)
from train.errors import CheckError, one_line
from train.optimizer import evaluation_params
from train.state import TrainState
from train.step import Batch, Learner, eval_step, identity, train_step


class Program(Protocol):
  """A function under `jit` or `pmap`, which compiles when it is called."""

  def __call__(self, *args: Any) -> Any:
    """Runs it."""

  def lower(self, *args: Any) -> Any:
    """Returns the uncompiled program for arguments or their shapes."""


@dataclasses.dataclass(frozen=True)
class Strategy:
  """The functions that the loop calls.

  Attributes:
    devices: Number of devices.
    place: The shapes of a state to where `prepare` wants its arrays, so that
      none of them has to be on one device whole.
    prepare: Moves a state to the devices.
    rows: The size of a batch to the rows of it that this process reads.
    batch: Moves these rows, arrays `[rows, L]`, to the devices.
    step: Does one update: state and batch to state and metrics. The state
      passed in is used up.
    evaluate: State and batch to the sums of `eval_step` over all of it.
    saved: The arrays of a state that a checkpoint holds.
  """

  devices: int
  place: Callable[[Any], Any]
  prepare: Callable[[TrainState], Any]
  rows: Callable[[int], Sequence[int]]
  batch: Callable[[Mapping[str, np.ndarray]], Any]
  step: Program
  evaluate: Program
  saved: Callable[[Any], TrainState]


def _evaluated(state: TrainState) -> Any:
  """The parameters that a state is validated with."""
  return evaluation_params(state.opt_state, state.params)


def _on_one(device: Any, shapes: Any) -> Any:
  """Places a state on one device."""
  place = SingleDeviceSharding(device)
  return jax.tree.map(lambda _: place, shapes)


@contextlib.contextmanager
def _named_checks() -> Iterator[None]:
  """Turns the error of a check into one that says which it is."""
  try:
    yield
  except AssertionError as error:
    name = one_line(checks.message_of(error))
    raise CheckError(f"a check failed: {name}") from error


class _Checked:
  """A function that runs its numeric checks and waits for their result."""

  def __init__(self, lift: Callable[..., Any], function: Callable[..., Any]):
    self._lift, self._function = lift, function
    self._checked = chex.chexify(lift(function), async_check=False)

  def __call__(self, *args: Any) -> Any:
    # The switch is read while tracing, which the first call does.
    with checks.numerics(True), _named_checks():
      return self._checked(*args)

  def lower(self, *args: Any) -> Any:
    """Returns the program without its checks, which need a call."""
    # A new function, since JAX would reuse the trace of this one for calls.
    return self._lift(lambda *given: self._function(*given)).lower(*args)


def _lifted(
  step: Callable[..., Any], evaluate: Callable[..., Any], debug: bool
) -> tuple[Program, Program]:
  """Jits both. The step donates the state, except in debug mode."""
  if debug:
    return _Checked(jax.jit, step), _Checked(jax.jit, evaluate)
  return jax.jit(step, donate_argnums=0), jax.jit(evaluate)


def _jit(
  learner: Learner,
  layout: schema.Mesh,
  debug: bool,
  devices: Sequence[Any] | None,
) -> Strategy:
  """One device, or a mesh of them."""
  if layout != schema.Mesh():
    return _over_mesh(learner, make_mesh(layout, devices), debug)
  device = (devices or jax.local_devices())[0]
  to_device = functools.partial(jax.device_put, device=device)

  def step(state: TrainState, batch: Batch) -> Any:
    return train_step(learner, state, batch)

  def evaluate(state: TrainState, batch: Batch) -> Any:
    return eval_step(learner, _evaluated(state), batch)

  run_step, run_evaluate = _lifted(step, evaluate, debug)
  return Strategy(
    devices=1,
    place=functools.partial(_on_one, device),
    prepare=to_device,
    rows=range,
    batch=to_device,
    step=run_step,
    evaluate=run_evaluate,
    saved=identity,
  )


def _over_mesh(
  learner: Learner, mesh: jax.sharding.Mesh, debug: bool
) -> Strategy:
  """A mesh: XLA shards batch and parameters, `shard_map` the sequences."""
  learner = learner._replace(spread=_spreader(mesh))
  if mesh.shape["sequence"] > 1:
    learner = learner._replace(model=cut_model(learner.model), axes=AXES)

  def place(state: TrainState) -> Any:
    return jax.lax.with_sharding_constraint(state, shardings(mesh, state))

  def step(state: TrainState, batch: Batch) -> Any:
    state, metrics = train_step(learner, state, batch)
    # Keeps the sharding, so that the next state can reuse the memory.
    return place(state), metrics

  def evaluate(state: TrainState, batch: Batch) -> Any:
    return eval_step(learner, _evaluated(state), batch)

  run_step, run_evaluate = _lifted(step, evaluate, debug)
  shares = BatchLayout(mesh)
  return Strategy(
    devices=mesh.size,
    place=functools.partial(shardings, mesh),
    prepare=lambda state: jax.device_put(state, shardings(mesh, state)),
    rows=shares.rows,
    batch=shares.put,
    step=run_step,
    evaluate=run_evaluate,
    saved=identity,
  )


def _spreader(mesh: jax.sharding.Mesh) -> Callable[..., Callable[..., Any]]:
  """Makes the `spread` of a learner for a mesh.

  Whole sequences are left to the compiler: it cuts what it computes as the
  batch is cut, gathers parameters layer by layer, and adds up. Where sequences
  are cut, the model asks for its collectives itself, on its own share of the
  batch; the parameters are gathered before it.
  """
  whole = PartitionSpec()

  def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(params: Any, batch: Batch, *rest: Any) -> Any:
      batch = jax.lax.with_sharding_constraint(
        dict(batch), NamedSharding(mesh, BATCH)
      )
      lifted = function
      if mesh.shape["sequence"] > 1:
        lifted = jax.shard_map(
          function,
          mesh=mesh,
          in_specs=(whole, BATCH, *(whole for _ in rest)),
          out_specs=whole,
        )
      result = lifted(gather_tables(mesh, params), batch, *rest)
      result = gather_tables(mesh, result)
      return jax.lax.with_sharding_constraint(result, shardings(mesh, result))

    return run

  return spread


def _pmap(
  learner: Learner,
  layout: schema.Mesh,
  debug: bool,
  devices: Sequence[Any] | None,
) -> Strategy:
  """Local devices: the state on each, the batch split among them."""
  count = layout.data
  devices = list(devices or jax.local_devices())[:count]
  lift = functools.partial(jax.pmap, axis_name="batch", devices=devices)
  # What the lifted functions expect: device i has part i of the first axis.
  parts = NamedSharding(
    jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=devices),
    PartitionSpec("batch"),
  )

  def step(state: TrainState, batch: Batch) -> Any:
    return train_step(learner, state, batch, "batch")

  def evaluate(state: TrainState, batch: Batch) -> Any:
    return jax.lax.psum(eval_step(learner, _evaluated(state), batch), "batch")

  def split(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    shares = {
      name: x.reshape(count, x.shape[0] // count, *x.shape[1:])
      for name, x in batch.items()
    }
    return jax.device_put(shares, parts)

  def replicate(state: TrainState) -> Any:
    copies = jax.tree.map(
      lambda x: np.broadcast_to(x, (count, *np.shape(x))),
      jax.device_get(state),
    )
    return jax.device_put(copies, parts)

  def first(state: Any) -> TrainState:
    # A copy: the next step is free to write over the memory of this one. And
    # not by an index of devices, which would be sent to them.
    own = jax.device_get(jax.tree.map(lambda x: x.addressable_data(0), state))
    return jax.tree.map(lambda x: np.array(x[0]), own)

  # After the sum, metrics are equal on every device: return one copy.
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
    step=run_step,
    evaluate=run_evaluate,
    saved=first,
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
    debug: Whether to check every value inside the step.
    devices: The first of these are used; `jax.devices()` if None.

  Raises:
    UserError: The model cannot have its sequences cut.
  """
  make = {"jit": _jit, "pmap": _pmap}[name]
  return make(learner, mesh or schema.Mesh(), debug, devices)
