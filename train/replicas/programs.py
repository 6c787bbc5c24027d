"""The programs of the steps of replicas: in turn, and stacked.

Each replica gets a `Strategy` of its own. In turn they share its programs; the
step of a stack waits until every replica has given its batch, and then computes
all of them.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from train.config import Config
from train.data.dataset import sequence_arrays
from train.devices.strategy import Program, Strategy
from train.errors import UserError, described
from train.setup import Shared, make_learner
from train.state import TrainState
from train.step import Learner, train_step

# The learning rates of replicas; None if all have that of the config.
Rates = Sequence[float] | None


def _learner(config: Config, shared: Shared, rate: Any) -> Learner:
  """The learner of a config, with a learning rate that may be traced."""
  if rate is not None:
    optimizer = dataclasses.replace(config.optimizer, learning_rate=rate)
    config = dataclasses.replace(config, optimizer=optimizer)
  sequence = sequence_arrays(shared.train, shared.first)
  return make_learner(config)._replace(sequence=sequence)


def check_rates(config: Config, shared: Shared, rate: float) -> None:
  """Checks that the step takes a learning rate as an argument.

  Raises:
    UserError: The optimizer of the config refuses a traced number.
  """
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype),
    shared.first,
  )

  def step(state: TrainState, batch: Any, rate: Any) -> Any:
    return train_step(_learner(config, shared, rate), state, batch)

  try:
    jax.eval_shape(step, shared.shapes, batch, rate)
  # The optimizer may be the user's own.
  except Exception as error:
    raise UserError(
      "--replica-rates: config.optimizer cannot take its learning rate as an"
      f" argument of the step: {described(error)}"
    ) from error


class _AtRate:
  """A step with a learning rate as its third argument."""

  def __init__(self, program: Program, rate: float):
    # The rate moves to the device here, not at every step.
    self._program, self._rate = program, jax.device_put(rate)

  def __call__(self, *args: Any) -> Any:
    return self._program(*args, self._rate)

  def lower(self, *args: Any) -> Any:
    return self._program.lower(*args, self._rate)


def in_turn(
  config: Config, shared: Shared, rates: Rates, count: int
) -> list[Strategy]:
  """Returns the strategies of replicas that take turns.

  Args:
    config: The config of one of the replicas.
    shared: What the replicas share.
    rates: The learning rates of the replicas.
    count: The number of replicas.
  """
  if rates is None:
    return [shared.strategy] * count

  def step(state: TrainState, batch: Any, rate: Any) -> Any:
    return train_step(_learner(config, shared, rate), state, batch)

  program = jax.jit(step, donate_argnums=0)
  return [
    dataclasses.replace(shared.strategy, step=_AtRate(program, rate))
    for rate in rates
  ]


class _Round:
  """The metrics of one step of all replicas, copied to the host once."""

  def __init__(self) -> None:
    self.metrics: Mapping[str, Any] | None = None
    self._host: Mapping[str, np.ndarray] | None = None

  def read(self, index: int) -> dict[str, Any]:
    """Returns the metrics of one replica."""
    if self._host is None:
      self._host = jax.device_get(self.metrics)
      self.metrics = None
    assert self._host is not None
    return {name: x[index] for name, x in self._host.items()}


class Stack:
  """The states of replicas along a new first axis, and one step for all.

  Validation and checkpoints take one state out of the stack.

  Args:
    config: The config of one of the replicas.
    shared: What the replicas share.
    rates: The learning rates of the replicas.
    count: The number of replicas.
  """

  def __init__(self, config: Config, shared: Shared, rates: Rates, count: int):
    self._base, self._count = shared.strategy, count
    self._rates: Any = None
    if rates is not None:
      self._rates = jax.device_put(np.asarray(rates, np.float32))
    self._indices = [jax.device_put(np.int32(i)) for i in range(count)]
    self._step = jax.jit(
      functools.partial(_stacked_step, config, shared), donate_argnums=0
    )
    self._join, self._row = jax.jit(_joined), jax.jit(_row)
    self.clear()

  def clear(self) -> None:
    """Forgets all states; the programs stay compiled."""
    self._given: dict[int, TrainState] = {}
    self._states: Any = None
    # The state that was taken out last, until the next step.
    self._taken: tuple[int, TrainState] | None = None
    self._batches: dict[int, Any] = {}
    self._round = _Round()
    self._expected: frozenset[int] = frozenset()
    self.expect(range(self._count))

  def expect(self, indices: Collection[int]) -> None:
    """Says which replicas take part in the next steps; the others wait."""
    found = frozenset(indices)
    if found != self._expected:
      self._expected = found
      mask = np.array([i in found for i in range(self._count)])
      self._active = jax.device_put(mask)

  def strategies(self) -> list[Strategy]:
    """Returns a strategy per replica; its states are the replica's number."""
    return [self._strategy(i) for i in range(self._count)]

  def _strategy(self, index: int) -> Strategy:
    base = self._base

    def prepare(state: TrainState) -> int:
      self._given[index] = base.prepare(state)
      return index

    def step(state: int, batch: Any) -> tuple[int, Any]:
      self._batches[index] = batch
      found = self._round
      if len(self._batches) == len(self._expected):
        self._run()
      return state, found

    return dataclasses.replace(
      base,
      prepare=prepare,
      # Nobody lowers the step of one replica.
      step=cast(Program, step),
      evaluate=cast(
        Program, lambda _, batch: base.evaluate(self._take(index), batch)
      ),
      saved=lambda _: base.saved(self._take(index)),
      fetch=lambda found: found.read(index),
    )

  def _run(self) -> None:
    """Computes the steps of all replicas that have given their batches."""
    spare = next(iter(self._batches.values()))
    batches = tuple(self._batches.get(i, spare) for i in range(self._count))
    self._join_given()
    self._taken = None
    self._states, self._round.metrics = self._step(
      self._states, batches, self._rates, self._active
    )
    self._batches, self._round = {}, _Round()

  def _join_given(self) -> None:
    if self._states is None:
      given = [self._given[i] for i in range(self._count)]
      self._given = {}
      self._states = self._join(*given)

  def _take(self, index: int) -> TrainState:
    """Copies the state of one replica out of the stack."""
    self._join_given()
    if self._taken is None or self._taken[0] != index:
      self._taken = None
      self._taken = index, self._row(self._states, self._indices[index])
    return self._taken[1]

  def wait(self) -> None:
    """Waits for all steps."""
    jax.block_until_ready(self._states)


def _stacked_step(
  config: Config,
  shared: Shared,
  states: TrainState,
  batches: Sequence[Any],
  rates: Any,
  active: jax.Array,
) -> tuple[TrainState, Any]:
  """Maps states [N, ...] and N batches to new states and metrics [N]."""

  def one(state: TrainState, batch: Any, rate: Any, takes: jax.Array) -> Any:
    new, metrics = train_step(_learner(config, shared, rate), state, batch)
    # A replica that is ahead of the others, or has ended, keeps its state.
    kept = jax.tree.map(lambda n, o: jnp.where(takes, n, o), new, state)
    return kept, metrics

  return jax.vmap(one)(states, _joined(*batches), rates, active)


def _joined(*trees: Any) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _row(tree: Any, index: jax.Array) -> Any:
  def take(x: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)

  return jax.tree.map(take, tree)
